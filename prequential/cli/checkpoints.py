"""What keeps a run's state beside its output, and how Ctrl-C and the like reach it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from prequential.archive.files import STDIO, printable, sibling
from prequential.cli import terminal
from prequential.cli.options import Options
from prequential.errors import FileError
from prequential.study.child import INTERRUPTS, handled

if TYPE_CHECKING:
    from prequential.training.checkpoint import Checkpoints

SUFFIX = ".checkpoint"


def interrupt_on_signals() -> None:
    """Let all of them clean up as Ctrl-C does, but for those that the parent has had ignored."""
    for number in INTERRUPTS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does
            signal.signal(number, signal.default_int_handler)


def keeper(options: Options, command: str, target: str) -> Checkpoints | None:
    """What keeps the run's state beside the output; None where there is no place, or no wish."""
    if target == STDIO or not (options.checkpoint_seconds or options.resume):
        return None
    path = sibling(os.path.realpath(target), SUFFIX)
    if os.path.lexists(path):
        if not os.path.isfile(path):
            raise FileError(
                f"{printable(path)}: is not a regular file: move it, a checkpoint goes there"
            )
        if not (options.resume or options.force):
            raise FileError(
                f"{printable(path)}: an interrupted run left this checkpoint: go on with --resume,"
                " or start at the beginning with -f"
            )
    from prequential.training.checkpoint import Checkpoints

    seconds = options.checkpoint_seconds or float("inf")
    return Checkpoints(path, command, seconds=seconds, resume=options.resume, warn=terminal.say)


@contextmanager
def interruptible(keeper: Checkpoints | None) -> Iterator[None]:
    """The first signal waits for the end of a chunk and a checkpoint."""
    if keeper is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in INTERRUPTS}
    # What the parent has had ignored stays so; None is a handler not of Python.
    before = {n: handler for n, handler in before.items() if handler not in (None, signal.SIG_IGN)}

    def handle(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.default_int_handler)  # a second one does not wait
        keeper.interrupt()

    with handled(before, handle):
        yield
