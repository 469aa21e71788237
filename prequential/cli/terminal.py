"""The standard streams: messages, tables and JSON, whatever the streams can take.

Everything that is shown passes through here: on standard error as far as that goes, for it only
says what has happened; on standard output wholly, or with an error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO, TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO

from prequential.archive.files import printable
from prequential.errors import FileError

if TYPE_CHECKING:
    from rich.table import Table


def fill_descriptors() -> None:
    """Open what the process was started without, so that no file of ours gets such a number.

    What a library writes to descriptor 2 would go into that file.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # rather than fail on a name


@contextmanager
def standard_error() -> Iterator[None]:
    """See that there is one: `print` and rich would take standard output in its place."""
    if sys.stderr is not None:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        yield


def say(message: str) -> None:
    """Show one line on standard error, whatever the message quotes."""
    note(f"preq: {' '.join(message.splitlines())}")


def note(text: str) -> None:
    """Show lines on standard error, as they are."""
    _error("".join(f"{printable(line)}\n" for line in text.splitlines()))


def out(text: str) -> None:
    """Write a line, or several, to standard output; there is none if that is closed.

    Raises:
        FileError: it cannot be written.
        BrokenPipeError: nobody reads it.
    """
    if sys.stdout is None:
        return
    try:
        print(text, flush=True)
    except OSError as error:
        _discard(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise
        raise FileError(
            f"standard output: cannot be written: {error.strerror}: make room"
        ) from error


def drop_unwritten() -> None:
    """Let what standard output has refused be forgotten, after the error was told.

    Python would try it again at exit, and end with 120 whatever the command's exit code is.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):  # closed by the host program
        _discard(sys.stdout)


def out_json(fields: Any) -> None:
    """Write one JSON object on a line of standard output, in ASCII, whatever it holds."""
    out(json.dumps(fields))


def pairs(rows: Sequence[tuple[str, str]], *, stderr: bool = False) -> None:
    """Show names and values, on a terminal with the names in bold type."""
    rows = [(printable(name), printable(value)) for name, value in rows]
    stream = sys.stderr if stderr else sys.stdout
    if stream is not None and stream.isatty():
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(name, Text(value))
        show(table, stderr=stderr)
    else:
        width = max((len(name) for name, _ in rows), default=0)
        text = "\n".join(f"{name:{width}}  {value}".rstrip() for name, value in rows)
        note(text) if stderr else out(text)


def group(fields: dict[str, Any]) -> None:
    """Have sizes in bytes, among these fields themselves, shown by thousands.

    >>> fields = {"a_bytes": 12345, "seed": 12345, "b": {"c_bytes": 12345}}
    >>> group(fields)
    >>> fields
    {'a_bytes': '12,345', 'seed': 12345, 'b': {'c_bytes': 12345}}
    """
    for name, value in fields.items():
        if name.endswith("_bytes") and isinstance(value, int):
            fields[name] = f"{value:,}"


def flatten(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Rows for `pairs` from nested dictionaries, None left out.

    >>> list(flatten({"a": 1, "b": {"c": ("o1", "o2"), "d": None}}))
    [('a', '1'), ('b.c', 'o1 o2')]
    """
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, tuple):
            yield prefix + key, " ".join(map(str, value))
        elif value is not None:
            yield prefix + key, str(value)


def show(table: Table, *, stderr: bool = False) -> None:
    """Show a table, off a terminal as wide as it is."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if stream is None:
        return
    console = Console(file=stream)
    if not console.is_terminal:
        console.width = 10_000
    console.begin_capture()
    console.print(table)
    console.file = StringIO()  # capturing writes nothing, which a full disk refuses, too
    text = "\n".join(line.rstrip() for line in console.end_capture().splitlines())
    _error(text + "\n") if stderr else out(text)


def _error(text: str) -> None:
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):  # a full disk, nobody there, closed by the host program
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Let what waits in a stream go nowhere: Python would complain when it writes it at exit."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
