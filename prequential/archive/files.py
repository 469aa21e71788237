"""Input without copies, names of outputs, and output that appears complete or not at all.

NumPy is imported where it is needed: it takes longer than everything else that `preq info` does.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from prequential import system
from prequential.errors import FileError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIX = ".pq"
RUNNABLE_SUFFIX = ".pyz"
STDIO = "-"
IN_MEMORY_BYTES = 2**24  # of larger files only parts are held: see `open_input`
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_AS_IT_IS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def printable(text: str) -> str:
    r"""Any text on one line of UTF-8, with control characters and the like escaped.

    >>> printable("a\nb\udcff.txt")
    'a\\nb\\udcff.txt'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def display(name: str) -> str:
    """Show the name of any input."""
    return "standard input" if name == STDIO else printable(name) or "''"


def display_target(name: str) -> str:
    """Show the name of any output."""
    return "standard output" if name == STDIO else printable(name) or "''"


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


def check_target(
    target: str, source: str, *, force: bool, binary: bool, others: Iterable[str] = ()
) -> None:
    """Refuse an output that would destroy something, before the long work.

    ``binary`` says that the output must not go to a terminal; ``others`` are read beside the
    source, and needed later, too. Raises FileError.
    """
    if target == STDIO:
        if sys.stdout is None:
            raise FileError("standard output is closed: name a file with -o")
        if binary and sys.stdout.isatty():
            raise FileError(
                "standard output is a terminal, an archive is not written there:"
                " redirect it or name a file with -o"
            )
        return
    shown = display_target(target)
    try:
        os.stat(target)
    except FileNotFoundError:
        pass
    except OSError as error:  # too long a name, for one
        told = f"{shown}: cannot be written: {error.strerror}: name another output"
        raise FileError(told) from error
    if os.path.isdir(target):
        raise FileError(f"{shown}: is a folder: name a file in it")
    folder = os.path.dirname(target)
    if not os.path.basename(target) or not os.path.isdir(folder or os.curdir):
        raise FileError(f"{shown}: cannot be written: there is no folder {display(folder)}")
    if same_file(source, target):
        raise FileError(f"{shown}: is the input itself: name another output")
    for other in others:
        if same_file(other, target):
            raise FileError(f"{shown}: is read as well, and needed later: name another output")
    if os.path.exists(target) and not os.path.isfile(target):
        raise FileError(f"{shown}: is not a regular file: use -o - and redirect it")
    if os.path.lexists(target) and not force:
        raise _exists(target)


def same_file(source: str, target: str) -> bool:
    """Whether both are there and one file."""
    if source == STDIO or not (os.path.exists(source) and os.path.exists(target)):
        return False
    return os.path.samefile(source, target)


class FileBytes:
    """A large file's bytes, read part by part, as often as asked.

    A mapped file would be simpler, but one that shrinks kills the process that has it mapped.
    """

    def __init__(self, source: str, file: BinaryIO, status: os.stat_result) -> None:
        self._source, self._file, self._status = source, file, status
        self.size = status.st_size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        """The bytes of a part, a new (n,) uint8 array. Raises FileError if they have changed."""
        import numpy as np

        start, end, _ = part.indices(self.size)
        try:
            self.check_unchanged()
            data = bytearray()
            while len(data) < end - start:
                left = end - start - len(data)
                piece = system.read_at(self._file.fileno(), left, start + len(data))
                if not piece:
                    raise _changed(self._source)
                data += piece
        except OSError as error:
            raise _unreadable(self._source, error) from error
        return np.frombuffer(data, np.uint8)

    def check_unchanged(self) -> None:
        """Raise FileError if the file is not what it was when it was opened."""
        now = os.fstat(self._file.fileno())
        if _age(now) != _age(self._status):
            raise _changed(self._source)


@dataclass(frozen=True)
class Input:
    """A whole input: ``data`` is a read-only (n,) uint8 array or its like."""

    data: NDArray[np.uint8] | FileBytes
    status: os.stat_result | None = None  # as it was when read; None of a stream

    @property
    def array(self) -> NDArray[np.uint8]:
        """All of it in memory."""
        return self.data[:]


@contextmanager
def open_input(source: str) -> Iterator[Input]:
    """Give the input.

    Streams and files of at most IN_MEMORY_BYTES are read once, at the start, so that nothing that
    happens to them later matters; of larger ones no more is held than is asked for. Raises
    FileError when the input cannot be read, is a folder or a device, or changed meanwhile.
    """
    import numpy as np

    with open_binary(source) as (file, status):
        if status is not None and status.st_size > IN_MEMORY_BYTES:
            large = FileBytes(source, file, status)
            yield Input(large, status)
            large.check_unchanged()
            return
        try:
            # To its end, whatever its size is said to be: in /proc that is 0.
            data = np.frombuffer(file.read(), np.uint8)
            after = None if status is None else os.fstat(file.fileno())
        except OSError as error:
            raise _unreadable(source, error) from error
    if status is None or after is None:
        yield Input(data)
        return
    if _age(after) != _age(status):
        raise _changed(source)
    yield Input(data, status)


def remove_input(source: str, status: os.stat_result) -> None:
    """Remove a file that is still what it was when it was read. Raises FileError, OSError."""
    now = os.stat(source)
    if not (os.path.samestat(now, status) and _age(now) == _age(status)):
        raise FileError(f"{display(source)}: changed after it was read: it is kept")
    try:
        os.unlink(source)
    except OSError as error:
        raise FileError(
            f"{display(source)}: cannot be removed ({error.strerror});"
            " what was made of it is complete"
        ) from error


def _age(status: os.stat_result) -> tuple[int, int]:
    """What changes with a file's content."""
    return status.st_size, status.st_mtime_ns


def _unreadable(source: str, error: OSError) -> FileError:
    return FileError(f"{display(source)}: cannot be read: {error.strerror}")


def _changed(source: str) -> FileError:
    return FileError(f"{display(source)}: changed while it was read: run again on a copy")


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
        raise _unreadable(source, error) from error
    with file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode):
            yield file, status
        elif stat.S_ISFIFO(status.st_mode):
            yield file, None
        else:
            raise FileError(f"{display(source)}: is neither a file nor a pipe: give one, or use -")


@dataclass(frozen=True)
class Output:
    """An output in the making: the temporary file ``path``, open for writing as ``file``."""

    target: str
    path: str
    file: BinaryIO

    def allocate(self, size: int) -> NDArray[np.uint8]:
        """Give the file ``size`` bytes, as a writable (size,) uint8 array. Raises FileError."""
        import numpy as np

        if size == 0:
            return np.empty(0, np.uint8)
        free = shutil.disk_usage(os.path.dirname(self.path)).free
        if size > free:
            raise FileError(
                f"{display_target(self.target)}: needs {size} bytes, {free} are free: make room"
            )
        try:
            # Blocks must be reserved: a mapped file on a disk that fills up kills the process.
            system.reserve(self.file.fileno(), size)
        except OSError as error:
            raise FileError(
                f"{display_target(self.target)}: cannot have {size} bytes: {error.strerror}"
            ) from error
        return np.memmap(self.file, np.uint8, "r+", shape=(size,))


@contextmanager
def atomic_output(
    target: str, *, force: bool, mode: int = 0o666, like: os.stat_result | None = None
) -> Iterator[Output]:
    """Give a temporary file beside ``target`` that takes its name when the block succeeds.

    On any failure, Ctrl-C included, it is removed and ``target`` is as before. Standard output
    gets the bytes at the end of the block likewise. ``mode`` (permission bits) is subject to the
    umask; a file ``like`` another has that one's time, permissions and owner instead, as far as
    they can be given. What a killed process left is removed by the next one with the same target.
    Raises FileError when the file cannot be made, another process is writing ``target``, or it has
    appeared meanwhile.
    """
    final = os.path.realpath(target)  # through a link, to the file it names
    if target == STDIO:
        path = os.path.join(tempfile.gettempdir(), f".preq-{secrets.token_hex(8)}.tmp")
    else:
        path = _temporary(final)
    try:
        descriptor = _open_locked(path, mode if like is None else 0o600)
    except BlockingIOError as error:
        raise FileError(
            f"{display_target(target)}: another preq is writing it: wait, or name another output"
            " with -o"
        ) from error
    except OSError as error:
        raise FileError(
            f"{display_target(target)}: cannot be written to {display(os.path.dirname(path))}:"
            f" {error.strerror}"
        ) from error
    with os.fdopen(descriptor, "w+b") as file:
        try:
            try:
                yield Output(target, path, file)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                raise FileError(
                    f"{display_target(target)}: cannot be written: {error.strerror}: make room"
                ) from error
            _settle(file, target)
            if target != STDIO:
                if like is not None:
                    _carry_over(like, file.fileno() if os.utime in os.supports_fd else path)
                _give_name(path, final, force=force)
        finally:
            # While the lock is held: afterwards the name may be another process's.
            if os.path.lexists(path):
                os.unlink(path)
            _drop(file)


def sibling(final: str, suffix: str) -> str:
    """The name of a file that goes with `final`; short where a name may not be so long."""
    folder, name = os.path.split(final)
    try:
        most = os.pathconf(folder or os.curdir, "PC_NAME_MAX")
    except (OSError, ValueError, AttributeError):  # Windows does not say
        most = 255
    if len(os.fsencode(name + suffix)) <= most:
        return final + suffix
    return os.path.join(folder, f".preq-{_token(name)}{suffix}")


def remove_leftover(target: str) -> None:
    """Remove what a killed process left of writing ``target``, which nobody else may be doing."""
    with suppress(FileNotFoundError):
        os.unlink(_temporary(os.path.realpath(target)))


def _temporary(final: str) -> str:
    """The name under which a file is written; short, however long its own is."""
    folder, name = os.path.split(final)
    return os.path.join(folder, f".preq-{_token(name)}.tmp")


def _token(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def _settle(file: BinaryIO, target: str) -> None:
    """Bring the bytes to the disk, or to standard output."""
    try:
        file.flush()
        if target == STDIO:
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            os.fsync(file.fileno())
    except BrokenPipeError:
        raise  # nobody reads any more
    except OSError as error:
        raise FileError(
            f"{display_target(target)}: cannot be written: {error.strerror}: make room"
        ) from error


def _carry_over(status: os.stat_result, file: int | str) -> None:
    """Give a complete file another's owner, permissions and time, as gzip and xz do.

    None of it is worth failing for: what a file system refuses is left out.
    """
    mode = stat.S_IMODE(status.st_mode) & 0o777
    if hasattr(os, "chown"):
        with suppress(OSError):  # only root may
            os.chown(file, status.st_uid, -1)
        try:
            os.chown(file, -1, status.st_gid)
        except OSError:  # another group may do what all may, no more
            mode &= ~0o070 | (mode & 0o007) << 3
    with suppress(OSError):
        os.chmod(file, mode)
    with suppress(OSError):
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def _drop(file: BinaryIO) -> None:
    """Close a file whose last bytes may not fit on the disk; they are not wanted any more."""
    with suppress(OSError):
        file.close()


def _open_locked(path: str, mode: int) -> int:
    """A new file, locked for as long as it is open; one without an owner is replaced.

    Raises BlockingIOError when another process has it.
    """
    stale = None
    try:
        for _ in range(3):
            try:
                descriptor = os.open(path, _NEW, mode | 0o600)
            except FileExistsError:
                # Made by a process that was killed, unless the lock is taken.
                if stale is not None:
                    os.close(stale)
                stale = os.open(path, _AS_IT_IS)
                if not system.try_lock(stale):  # nobody can tell whether it is in use
                    told = f"locks do not work there, and {display(path)} is in the way: remove it"
                    told += " unless another preq is writing it"
                    raise OSError(errno.EEXIST, told) from None
                if _is_open_as(stale, path):
                    os.unlink(path)
                continue
            try:
                system.try_lock(descriptor)
                if _is_open_as(descriptor, path):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        raise BlockingIOError(errno.EAGAIN, "in use")
    finally:
        if stale is not None:
            os.close(stale)


def _is_open_as(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _give_name(path: str, final: str, *, force: bool) -> None:
    if force:
        os.replace(path, final)
    else:
        try:
            os.link(path, final)  # unlike a rename, never replaces
        except FileExistsError as error:
            raise _exists(final) from error
        except OSError:  # a file system without hard links
            if os.path.lexists(final):
                raise _exists(final) from None
            os.rename(path, final)
    with suppress(OSError):  # not every file system can sync a folder
        folder = os.open(os.path.dirname(final), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _exists(target: str) -> FileError:
    return FileError(f"{display_target(target)}: exists already: use -f to replace it")
