"""A progress bar on standard error, when that is a terminal."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from prequential.cli.warmup import announced
from prequential.progress import Progress, ProgressCallback

CURRENT_BYTES = 2**14  # the "current" rate forgets older bytes over about this many


class Rates:
    """Turns reports of progress into one line of figures."""

    def __init__(self) -> None:
        self._last = Progress(0, 0, 0.0, 0.0)
        self._current = math.nan  # bits per byte

    def update(self, p: Progress) -> str:
        r"""Describe the run so far.

        >>> Rates().update(Progress(1000, 4000, 2500.0, 2.0))
        '2.50 bits/byte (mean 2.50, 31.2%) 0.5 kB/s 0:00:06 left'
        """
        step_bytes = p.bytes_done - self._last.bytes_done
        if step_bytes > 0:
            step = (p.payload_bits - self._last.payload_bits) / step_bytes
            if math.isnan(self._current):
                self._current = step
            self._current += (step - self._current) * min(1.0, step_bytes / CURRENT_BYTES)
            self._last = p
        if p.bytes_done == 0 or p.seconds <= 0:
            return "starting"
        mean = p.payload_bits / p.bytes_done
        speed = p.bytes_done / p.seconds
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
def progress_bar(label: str, *, wanted: bool) -> Iterator[ProgressCallback | None]:
    """Give a callback that keeps a bar on standard error up to date.

    None when it is not wanted or standard error is not a terminal. If it is wanted, standard error
    also says when loops have to be compiled first.
    """
    if not wanted or sys.stderr is None:
        yield None
        return
    with announced():
        if sys.stderr.isatty():
            with _bar(label) as show:
                yield show
        else:
            yield None


@contextmanager
def _bar(label: str) -> Iterator[ProgressCallback]:
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

        yield show
