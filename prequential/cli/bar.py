"""A progress bar on standard error, when that is a terminal."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prequential.cli import terminal
from prequential.cli.warmup import announced
from prequential.progress import Progress, ProgressCallback

LINE_SECONDS = 60.0  # from line to line, where there is no bar
CURRENT_BYTES = 2**14  # the "current" rate forgets older bytes over about this many


class Rates:
    """Turns reports of progress into one line of figures."""

    def __init__(self) -> None:
        self._last = Progress(0, 0, 0.0, 0.0)
        self._current = math.nan  # bits per byte
        self._begun = 0.0  # seconds, when what is at work now was begun

    def update(self, p: Progress) -> str:
        r"""Describe the run so far.

        >>> Rates().update(Progress(1000, 4000, 2500.0, 2.0))
        '2.50 bits/byte (mean 2.50, 31.2%) 0.5 kB/s 0:00:06 left'
        """
        if p.bytes_done < self._last.bytes_done:  # a given file is learned
            self._begun, self._current = self._last.seconds, math.nan
            self._last = Progress(0, 0, 0.0, 0.0)
        step_bytes = p.bytes_done - self._last.bytes_done
        if step_bytes > 0:
            step = (p.payload_bits - self._last.payload_bits) / step_bytes
            if math.isnan(self._current):
                self._current = step
            self._current += (step - self._current) * min(1.0, step_bytes / CURRENT_BYTES)
            self._last = p
        seconds = p.seconds - self._begun
        if p.bytes_done == 0 or seconds <= 0:
            return "starting"
        mean = p.payload_bits / p.bytes_done
        speed = p.bytes_done / seconds
        return (
            f"{self._current:.2f} bits/byte (mean {mean:.2f}, {mean / 8:.1%})"
            f" {speed / 1000:.1f} kB/s {clock((p.bytes_total - p.bytes_done) / speed)} left"
        )


def clock(seconds: float) -> str:
    """Show a duration.

    >>> clock(3661.4)
    '1:01:01'
    """
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


@contextmanager
def progress_bar(
    label: str, *, wanted: bool, lines: bool = False
) -> Iterator[ProgressCallback | None]:
    """Give a callback that keeps a bar on standard error up to date, or writes a line now and then.

    A bar where standard error is a terminal that can show one; lines on another terminal, or where
    it is none if lines are wanted; else None. If nothing is wanted, standard error does not say
    either when loops have to be compiled first.
    """
    if not wanted or sys.stderr is None:
        yield None
        return
    if sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"):
        with _bar(label) as (show, say), announced(say):
            yield show
    else:
        with announced():
            yield _lines(label) if lines or sys.stderr.isatty() else None


def _lines(label: str) -> ProgressCallback:
    """A callback that writes a line every minute."""
    rates, due = Rates(), time.monotonic() + LINE_SECONDS

    def show(p: Progress) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + LINE_SECONDS
            share = p.bytes_done / max(1, p.bytes_total)
            terminal.say(f"{label}: {share:.1%}, {rates.update(p)}")

    return show


@contextmanager
def _bar(label: str) -> Iterator[tuple[ProgressCallback, Callable[[str], None]]]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    columns = (
        TextColumn(escape(label), table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=8),
        DownloadColumn(),
        TextColumn("{task.fields[rates]}", table_column=Column(no_wrap=True)),
    )
    rates = Rates()
    console = Console(stderr=True)
    with Bar(*columns, console=console, transient=True, expand=True, refresh_per_second=4) as bar:
        task = bar.add_task("", total=None, rates="starting")

        def show(p: Progress) -> None:
            bar.update(task, completed=p.bytes_done, total=p.bytes_total, rates=rates.update(p))

        def say(text: str) -> None:
            bar.update(task, rates=text)

        yield show, say
