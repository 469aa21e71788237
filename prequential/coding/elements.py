"""Numbers as they are coded: highest byte first, and without a sign.

Then the bits of an element, in the order in which they are coded, halve an interval each, and
elements that are alike begin alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.grids import Grid

_TOP = np.uint8(128)
_BLOCK = 1 << 20  # elements


def _within(grids: list[Grid], before: int, size: int) -> list[Grid]:
    """Those that lie within a part of the input, from where they are counted then, and change."""
    moved = [grid._replace(start=grid.start - before, end=grid.end - before) for grid in grids]
    return [grid for grid in moved if grid.start >= 0 and grid.end <= size and _changes(grid)]


def _changes(grid: Grid) -> bool:
    return grid.signed or (grid.low_first and grid.size > 1)


def _turned(data: np.ndarray, grid: Grid, *, back: bool) -> np.ndarray:
    """Whole elements (n,) uint8 in the order of coding, or back in that of the file."""
    elements = data.reshape(-1, grid.size).copy()
    if grid.low_first and not back:
        elements = elements[:, ::-1].copy()
    if grid.signed:
        elements[:, 0] ^= _TOP
    return (elements[:, ::-1] if grid.low_first and back else elements).reshape(-1)


class Arranged:
    """Data (n,) uint8, or its like that reads the parts it is asked for, as they are coded.

    So many bytes of the input, in which grids are counted, come before.
    """

    def __init__(self, data: Any, grids: list[Grid], before: int = 0) -> None:
        self._data = data
        self._grids = _within(grids, before, len(data))
        self._ends = np.array([grid.end for grid in self._grids], np.int64)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, part: slice, /) -> np.ndarray:
        start, end, _ = part.indices(len(self._data))
        found: np.ndarray = self._data[start:end]
        first = int(np.searchsorted(self._ends, start, "right"))
        for grid in self._grids[first:]:
            if grid.start >= end:
                break
            if first >= 0:
                found, first = found.copy(), -1
            a, b = max(start, grid.start), min(end, grid.end)
            a_whole = a - (a - grid.start) % grid.size
            b_whole = b + (grid.end - b) % grid.size
            turned = _turned(self._data[a_whole:b_whole], grid, back=False)
            found[a - start : b - start] = turned[a - a_whole : b - a_whole]
        return found


def restore(
    data: np.ndarray, grids: list[Grid], known: list[slice], before: int = 0
) -> list[slice]:
    """Put what is known of data (n,) uint8 back in the order of the file, in place.

    So many bytes of the input, in which grids are counted, come before. Returns what is known then:
    elements that are known in part are not.
    """
    grids, joined = _within(grids, before, len(data)), list[slice]()
    for part in known:
        if joined and joined[-1].stop == part.start:
            joined[-1] = slice(joined[-1].start, part.stop)
        else:
            joined.append(part)
    whole = list[slice]()
    for part in joined:
        start, end = part.start, part.stop
        for grid in grids:
            if grid.start < start < grid.end:
                start += (grid.end - start) % grid.size
            if grid.start < end < grid.end:
                end -= (end - grid.start) % grid.size
            a, b = max(start, grid.start), min(end, grid.end)
            for first in range(a, b, _BLOCK * grid.size):
                block = slice(first, min(b, first + _BLOCK * grid.size))
                data[block] = _turned(data[block], grid, back=True)
        whole.append(slice(start, end))
    return whole
