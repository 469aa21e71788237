"""Where numbers might be in bytes without a header: what is alike at some small distance.

All is sums of integers over a part of the bytes, so that an input is guessed the same everywhere.
What is guessed is only tried: see `finding`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from prequential.grids import Grid

if TYPE_CHECKING:
    from prequential.training.run import Bytes

BLOCK = 1 << 16
_CHANNELS = 4
# Elements at the best distance differ by less than this share of what those elsewhere do.
_ALIKE, _ROWS_ALIKE = 0.6, 0.8
_ELSEWHERE = 997
_MOST_ROW = 1 << 15
_PROBES = 4096  # places at which a row's length is looked at


class Kind(NamedTuple):
    """What elements might be."""

    size: int  # in bytes
    low_first: bool
    channels: int


_KINDS = [
    Kind(size, low_first, channels)
    for size, low_first in ((1, False), (2, True), (2, False))
    for channels in range(1, _CHANNELS + 1)
]


def guesses(data: Bytes, start: int, end: int) -> list[Grid]:
    """What the bytes from start to end of data (n,) uint8 might be, in order, without overlap."""
    return [_grid(data, first, last, shares) for first, last, shares in _runs(data, start, end)]


def _runs(data: Bytes, start: int, end: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Blocks in a row that might be numbers: where, and the sum of their shares (kinds,)."""
    begun, total = -1, np.zeros(len(_KINDS))
    for first in range(start, end - BLOCK + 1, BLOCK):
        shares = _shares(np.asarray(data[first : first + BLOCK]))
        if shares.min() < _ALIKE:
            begun, total = (first, shares) if begun < 0 else (begun, total + shares)
            # What is left over goes with the last block.
            if first + 2 * BLOCK > end:
                yield begun, end, total
        elif begun >= 0:
            yield begun, first, total
            begun = -1


def _shares(block: np.ndarray) -> np.ndarray:
    """How far elements of each kind are from the next of their channel; 1: as from any."""
    shares = []
    for size, low_first, channels in _KINDS:
        values = _values(block, size, low_first=low_first)
        elsewhere = _apart(values, _ELSEWHERE)
        shares.append(_apart(values, channels) / elsewhere if elsewhere else 1.0)
    return np.array(shares)


def _values(block: np.ndarray, size: int, *, low_first: bool) -> np.ndarray:
    order = "<" if low_first else ">"
    return (block if size == 1 else block.view(f"{order}i{size}")).astype(np.int64)


def _apart(values: np.ndarray, distance: int) -> int:
    """How far values (n,) at this distance are apart, in sum."""
    return int(np.abs(values[1000:] - values[1000 - distance : -distance]).sum())


def _grid(data: Bytes, start: int, end: int, shares: np.ndarray) -> Grid:
    kind = _KINDS[int(shares.argmin())]
    middle = start + (end - start - BLOCK) // 2
    block = np.asarray(data[middle : middle + BLOCK])
    row = _row(block, kind.channels) if kind.size == 1 else 0
    end -= (end - start) % kind.size
    return Grid(start, end, kind.size, kind.channels, row, kind.low_first, kind.size > 1)


def _row(block: np.ndarray, channels: int) -> int:
    """Elements from a row of a picture to the next, the distance at which most is alike; or 0."""
    values = block.astype(np.int32)
    places = _MOST_ROW + np.arange(_PROBES) * ((len(values) - _MOST_ROW) // _PROBES)
    here = values[places]
    least = 8 * channels
    apart = [int(np.abs(here - values[places - d]).sum()) for d in range(least, _MOST_ROW)]
    best = min(range(len(apart)), key=apart.__getitem__)
    return least + best if apart[best] < _ROWS_ALIKE * sorted(apart)[len(apart) // 2] else 0
