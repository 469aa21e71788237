"""What not every operating system has, with what does instead."""

from __future__ import annotations

import os
from threading import Lock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

USER = os.getuid() if hasattr(os, "getuid") else 0  # 0 is what Windows says of every file
_POSITION = Lock()


def try_lock(descriptor: int) -> bool:
    """Lock an open file; False where there are no locks. Raises BlockingIOError when taken."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return False
    return True


def read_at(descriptor: int, size: int, start: int) -> bytes:
    """At most size bytes from start on; the file's position stays. Raises OSError."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, start)
    with _POSITION:
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            os.lseek(descriptor, start, os.SEEK_SET)
            return os.read(descriptor, size)
        finally:
            os.lseek(descriptor, before, os.SEEK_SET)


def reserve(descriptor: int, size: int) -> None:
    """Give an empty file size zeros that have their place on the disk. Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    zeros = bytes(2**20)  # macOS and Windows: what is written has its place
    while size > 0:
        size -= os.write(descriptor, zeros[:size])
    os.lseek(descriptor, 0, os.SEEK_SET)
