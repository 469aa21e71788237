"""Processes of our own: a new interpreter that finds the modules which this one finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import prequential
from prequential.errors import DivergenceError

# Ctrl-C, a request to end, and the loss of the terminal.
INTERRUPTS = [
    signal.SIGINT,
    signal.SIGTERM,
    *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []),
]
_SAFE_PATH = "PYTHONSAFEPATH"
_HOME = os.path.realpath(os.path.dirname(os.path.dirname(prequential.__file__)))


def python(program: str, *arguments: str) -> list[str]:
    """The command that runs a program in a new interpreter.

    It looks for modules where this process does, whatever brought that about, but not in the
    working directory: a file there is data, even if it is called torch.py. Only where the package
    itself comes from that directory is it looked at.
    """
    prepared = f"import sys; sys.path[:] = {_path()!r}\n{program}"
    return [sys.executable, "-I", "-c", prepared, *arguments]


def preq(*arguments: str) -> list[str]:
    """The command that runs ``preq`` in a new process."""
    return python("from prequential.cli import main; sys.exit(main())", *arguments)


@contextmanager
def safe_path() -> Iterator[None]:
    """Keep the working directory out of the path of children that multiprocessing starts."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        del os.environ[_SAFE_PATH]
        if before is not None:
            os.environ[_SAFE_PATH] = before


@contextmanager
def handled(
    before: Mapping[signal.Signals, Any], handler: Callable[[int, FrameType | None], Any]
) -> Iterator[None]:
    """Have signals handled so, and afterwards as before."""
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let Ctrl-C and the like wait for the end: raised in a fork's hooks, they would be lost.

    A mask of signals would not do: other threads have their own.
    """
    handlers = {number: signal.getsignal(number) for number in INTERRUPTS}
    before = {number: handler for number, handler in handlers.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread() or not before:
        yield
        return
    come: list[int] = []
    with handled(before, lambda number, _: come.append(number)):
        yield
    for late in come:
        before[signal.Signals(late)](late, None)


def verify(
    archive: str,
    failure: str,
    *,
    original_bytes: int,
    memory_bytes: float,
    threads: int | None,
    device: str,
    prior: str | None,
    given: Sequence[str] = (),
) -> None:
    """Decode an archive of our own in another process, with another number of threads.

    memory_bytes is the limit that its encoder had, to which comes the original, held meanwhile; of
    time it may take as much as it needs.

    Raises:
        DivergenceError: it does not decode; the message begins with `failure`.
    """
    options = ["--quiet", "--threads", "2" if threads == 1 else "1", "--device", device]
    options += ["--max-hours", "1e9", "--max-memory", f"{memory_bytes + original_bytes:.0f}"]
    if prior is not None:
        options += ["--prior", prior]
    for name in given:
        options += ["--given", name]
    command = preq("test", *options, "--", archive)
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    if result.returncode != 0:
        lines = result.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise DivergenceError(
            f"{failure} (exit code {result.returncode}; {lines[-1].removeprefix('preq: error: ')}):"
            " check this machine's memory, then report it"
        )


def _path() -> list[str]:
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # the folder is deleted
        here = ""
    entries = [entry or here for entry in sys.path]
    return [
        entry
        for entry in entries
        if os.path.isabs(entry) and (os.path.realpath(entry) != here or here == _HOME)
    ]
