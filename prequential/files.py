"""Input without copies, names of outputs, and output that appears complete or not at all."""

import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from prequential.errors import FileError

SUFFIX = ".pq"
RUNNABLE_SUFFIX = ".pyz"
STDIO = "-"
IN_MEMORY_BYTES = 2**28  # larger files are mapped: see `open_input`


def display(name: str) -> str:
    r"""Show any file name on one line of UTF-8.

    >>> display("a\nb\udcff.txt")
    'a\\nb\\udcff.txt'
    """
    if name == STDIO:
        return "standard input"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def default_target(source: str, *, decoding: bool) -> str:
    """Name the output after the input: ``F`` to ``F.pq`` and back; ``-`` stays ``-``.

    Raises FileError when an archive to decode is called neither ``*.pq`` nor ``*.pyz``.
    """
    if source == STDIO:
        return STDIO
    if not decoding:
        return source + SUFFIX
    name = source.removesuffix(SUFFIX if source.endswith(SUFFIX) else RUNNABLE_SUFFIX)
    if name == source or not os.path.basename(name):
        raise FileError(
            f"{display(source)}: name does not end in {SUFFIX} or {RUNNABLE_SUFFIX}:"
            " name the output with -o"
        )
    return name


def check_target(target: str, source: str, *, force: bool, binary: bool) -> None:
    """Refuse an output that would destroy something, before the long work.

    ``binary`` says that the output must not go to a terminal. Raises FileError.
    """
    if target == STDIO:
        if sys.stdout is None:
            raise FileError("standard output is closed: name a file with -o")
        if binary and sys.stdout.isatty():
            raise FileError(
                "standard output is a terminal, an archive is not written there:"
                " redirect it or name a file with -o"
            )
    elif os.path.isdir(target):
        raise FileError(f"{display(target)}: is a folder: name a file with -o")
    elif _same_file(source, target):
        raise FileError(f"{display(target)}: is the input itself: name another output with -o")
    elif os.path.exists(target) and not os.path.isfile(target):
        raise FileError(f"{display(target)}: is not a regular file: use -o - and redirect it")
    elif os.path.lexists(target) and not force:
        raise _exists(target)


def _same_file(source: str, target: str) -> bool:
    if source == STDIO or not (os.path.exists(source) and os.path.exists(target)):
        return False
    return os.path.samefile(source, target)


@dataclass(frozen=True)
class Input:
    """A whole input: ``data`` is a read-only (n,) uint8 array, ``mode`` the permission bits."""

    data: NDArray[np.uint8]
    mode: int = 0o666


@contextmanager
def open_input(source: str) -> Iterator[Input]:
    """Give the input as one read-only array.

    Streams and files of at most IN_MEMORY_BYTES are read once, at the start, so that nothing that
    happens to them later matters; larger files are mapped. Raises FileError when the input cannot
    be read, is a folder or a device, or changed while it was read or mapped.
    """
    with open_binary(source) as (file, status):
        if status is None:
            yield Input(np.frombuffer(file.read(), np.uint8))
            return
        mode = stat.S_IMODE(status.st_mode) & 0o777
        if status.st_size <= IN_MEMORY_BYTES:
            # One byte more than expected, to notice a file that grows.
            data = np.frombuffer(file.read(status.st_size + 1), np.uint8)
            _check_unchanged(source, file, status, data.size)
            yield Input(data, mode)
        else:
            mapped = np.memmap(file, np.uint8, "r", shape=(status.st_size,))
            yield Input(mapped, mode)
            _check_unchanged(source, file, status, mapped.size)


@contextmanager
def open_binary(source: str) -> Iterator[tuple[BinaryIO, os.stat_result | None]]:
    """Open an input for reading, with its status, None for a stream. Raises FileError."""
    if source == STDIO:
        if sys.stdin is None:
            raise FileError("standard input is closed: name a file")
        yield sys.stdin.buffer, None
        return
    try:
        file = open(source, "rb")  # noqa: SIM115 (only this error is renamed; closed below)
    except OSError as error:
        raise FileError(f"{display(source)}: cannot be read: {error.strerror}") from error
    with file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode):
            yield file, status
        elif stat.S_ISFIFO(status.st_mode):
            yield file, None
        else:
            raise FileError(f"{display(source)}: is neither a file nor a pipe: give one, or use -")


def _check_unchanged(source: str, file: BinaryIO, before: os.stat_result, size: int) -> None:
    after = os.fstat(file.fileno())
    if (after.st_size, after.st_mtime_ns) != (size, before.st_mtime_ns):
        raise FileError(f"{display(source)}: changed while it was read: run again on a copy")


@dataclass(frozen=True)
class Output:
    """An output in the making: the temporary file ``path``, open for writing as ``file``."""

    target: str
    path: str
    file: BinaryIO

    def allocate(self, size: int) -> NDArray[np.uint8]:
        """Give the file ``size`` bytes, as a writable (size,) uint8 array. Raises FileError."""
        if size == 0:
            return np.empty(0, np.uint8)
        free = shutil.disk_usage(os.path.dirname(self.path)).free
        if size > free:
            raise FileError(
                f"{display(self.target)}: needs {size} bytes, {free} are free: make room"
            )
        try:
            # Blocks must be reserved: a mapped file on a disk that fills up kills the process.
            os.posix_fallocate(self.file.fileno(), 0, size)
        except OSError as error:
            raise FileError(
                f"{display(self.target)}: cannot have {size} bytes: {error.strerror}"
            ) from error
        return np.memmap(self.file, np.uint8, "r+", shape=(size,))


@contextmanager
def atomic_output(target: str, *, force: bool, mode: int = 0o666) -> Iterator[Output]:
    """Give a temporary file beside ``target`` that takes its name when the block succeeds.

    On any failure, Ctrl-C included, it is removed and ``target`` is as before. Standard output
    gets the bytes at the end of the block likewise. ``mode`` (permission bits) is subject to the
    umask. Raises FileError when the file cannot be made or ``target`` has appeared meanwhile.
    """
    final = os.path.realpath(target)  # through a link, to the file it names
    folder = tempfile.gettempdir() if target == STDIO else os.path.dirname(final)
    path = os.path.join(folder, f".preq-{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode | 0o600)
    except OSError as error:
        raise FileError(
            f"{display(target)}: cannot be written to {display(folder)}: {error.strerror}"
        ) from error
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield Output(target, path, file)
            file.flush()
            if target == STDIO:
                file.seek(0)
                shutil.copyfileobj(file, sys.stdout.buffer)
                sys.stdout.buffer.flush()
                return
            os.fsync(file.fileno())
        _give_name(path, final, force=force)
    finally:
        if os.path.lexists(path):
            os.unlink(path)


def _give_name(path: str, final: str, *, force: bool) -> None:
    if force:
        os.replace(path, final)
        return
    try:
        os.link(path, final)  # unlike a rename, never replaces
    except FileExistsError as error:
        raise _exists(final) from error
    except OSError:  # a file system without hard links
        if os.path.lexists(final):
            raise _exists(final) from None
        os.rename(path, final)


def _exists(target: str) -> FileError:
    return FileError(f"{display(target)}: exists already: use -f to replace it")
