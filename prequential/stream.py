"""`prequential.open` and its file object, as in `gzip` and `lzma`."""

from __future__ import annotations

import builtins
import errno
import inspect
import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from prequential import codec
from prequential.archive.files import STDIO, atomic_output, check_target
from prequential.config import load
from prequential.errors import ArchiveError, FileError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Name = str | bytes | os.PathLike[str] | os.PathLike[bytes]
_MODES = {"r": "r", "rb": "r", "w": "w", "wb": "w", "x": "x", "xb": "x"}


class BadArchiveError(ArchiveError, OSError):
    """What is read is not an archive or is damaged, as `gzip.BadGzipFile` says it."""


class BadFileError(FileError, OSError):
    """An archive cannot be written."""


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """Raise what callers of a file object expect: they need not know whose it is."""
    try:
        yield
    except ArchiveError as error:
        raise BadArchiveError(str(error)) from error
    except FileError as error:
        raise BadFileError(str(error)) from error


class PreqFile(io.BufferedIOBase):
    """The content of an archive as a binary file.

    All of it is held in memory, since streams are coded side by side: the archive is decoded when
    first read, and coded when closed. A reading file can seek. A named file appears complete or not
    at all: where a `with` block ends in an exception, nothing is written, and a file of that name
    stays as it was. A file object that is given instead of a name is not closed.

    Raises:
        BadArchiveError: when read, if it is no archive or damaged; an ArchiveError and an OSError.
        DivergenceError: when read, if this machine's arithmetic is not the encoder's.
        ConfigError: no such preset, at once; or as `compress`, when closed.
        OSError: the file cannot be opened.
        ValueError: the mode is neither r, w nor x (with or without b).
    """

    def __init__(self, file: Name | BinaryIO, mode: str = "rb", **options: Any) -> None:
        """Open file; options are `compress`'s when it is written, and `decompress`'s when read."""
        if mode not in _MODES:
            raise ValueError(f"invalid mode: {mode!r}")
        reading = _MODES[mode] == "r"
        # What is wrong is told before hours of work: a wrong option, a config that there is not.
        inspect.signature(codec.decompress if reading else codec.compress).bind(b"", **options)
        if not reading and not options.get("config"):
            options["config"] = load()
        elif isinstance(options.get("config"), str):
            options["config"] = load(options["config"])
        self._options = options
        self._reading = reading
        self._content: io.BytesIO | None = None if reading else io.BytesIO()
        self._opened = ExitStack()  # what is closed with this file
        if isinstance(file, str | bytes | os.PathLike):
            self.name = os.fsdecode(file)
            context = _opened(self.name) if reading else _written(self.name, "x" in mode)
            with _as_os_errors():
                self._file = self._opened.enter_context(context)
        elif hasattr(file, "read" if reading else "write"):
            self._file = file
        else:
            raise TypeError("file must be a name, or a file object for that mode")

    def readable(self) -> bool:
        """Whether it was opened for reading."""
        self._check_open()
        return self._reading

    def writable(self) -> bool:
        """Whether it was opened for writing."""
        self._check_open()
        return not self._reading

    def seekable(self) -> bool:
        """Whether it was opened for reading."""
        return self.readable()

    def read(self, size: int | None = -1, /) -> bytes:
        """At most size bytes; all that is left if that is negative or None."""
        return self._decoded().read(size)

    def read1(self, size: int = -1, /) -> bytes:
        """As `read`."""
        return self._decoded().read(size)

    def peek(self, size: int = -1, /) -> bytes:
        """What would be read next, without going on."""
        decoded = self._decoded()
        data = decoded.read(size if size > 0 else io.DEFAULT_BUFFER_SIZE)
        decoded.seek(-len(data), os.SEEK_CUR)
        return data

    def readline(self, size: int | None = -1, /) -> bytes:
        """A line, of at most size bytes if that is not negative."""
        return self._decoded().readline(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place in what is read, which is returned."""
        return self._decoded().seek(offset, whence)

    def tell(self) -> int:
        """The place in the uncompressed bytes."""
        self._check_open()
        return 0 if self._content is None else self._content.tell()

    def write(self, data: ReadableBuffer, /) -> int:
        """Take in any buffer, and return its bytes. Nothing reaches the file before `close`."""
        self._check_open()
        if self._reading or self._content is None:
            raise io.UnsupportedOperation("file not open for writing")
        return self._content.write(data)

    def close(self) -> None:
        """Write the archive, if this is a file for writing; no more than once."""
        if self.closed:
            return
        content, self._content = self._content, None
        try:
            with _as_os_errors(), self._opened:
                if not self._reading and content is not None:
                    content.seek(0)
                    codec.compress_file(content, self._file, **self._options)
        finally:
            super().close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it; after an exception nothing is written."""
        if kind is not None and not self.closed:
            self._content, self._reading = None, True
            self._opened.__exit__(kind, error, trace)
        self.close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _decoded(self) -> io.BytesIO:
        self._check_open()
        if not self._reading:
            raise io.UnsupportedOperation("file not open for reading")
        if self._content is None:
            content = io.BytesIO()
            with _as_os_errors():
                codec.decompress_file(self._file, content, **self._options)
            content.seek(0)
            self._content = content
        return self._content


def open(
    file: Name | BinaryIO,
    mode: str = "rb",
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    **options: Any,
) -> PreqFile | io.TextIOWrapper:
    """Open an archive by its name, or in an open binary file, as `gzip.open` and `lzma.open` do.

    The mode is "rb" (the default), "wb" or "xb" for bytes, "rt", "wt" or "xt" for text, to which
    encoding, errors and newline belong. Options are those of `compress` and `decompress`.

    >>> import tempfile, prequential
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with prequential.open(folder + "/a.pq", "wt", config="tiny") as file:
    ...         print("one", "two", sep=chr(10), file=file)
    ...     with prequential.open(folder + "/a.pq", "rt") as file:
    ...         print([line.rstrip() for line in file])
    ['one', 'two']

    Raises:
        ValueError: the mode is no such mode, or encoding, errors or newline are given for bytes.
        What `PreqFile` raises.
    """
    if "t" not in mode:
        if (encoding, errors, newline) != (None, None, None):
            raise ValueError("encoding, errors and newline belong to text: use mode 'rt' or 'wt'")
        return PreqFile(file, mode, **options)
    if "b" in mode:
        raise ValueError(f"invalid mode: {mode!r}")
    binary = PreqFile(file, mode.replace("t", ""), **options)
    return _Text(binary, io.text_encoding(encoding), errors, newline)


class _Text(io.TextIOWrapper):
    """Text in an archive, of which nothing is written after an exception either."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            cast(PreqFile, self.buffer).__exit__(kind, error, trace)
        self.close()


def _opened(name: str) -> BinaryIO:
    return builtins.open(name, "rb")


@contextmanager
def _written(name: str, exclusive: bool) -> Iterator[BinaryIO]:
    path = os.path.abspath(name)  # "-" is a name here
    if exclusive and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    check_target(path, STDIO, force=not exclusive, binary=False)
    with atomic_output(path, force=not exclusive) as output:
        yield output.file
