"""Where an input is numbers: pictures and sound, as a text that `Config.numbers` holds."""

from __future__ import annotations

import re
from typing import NamedTuple

from prequential.errors import ConfigError

_GRID = re.compile(
    r"(0|[1-9]\d{0,17})-([1-9]\d{0,17}):(u1|i1|[<>][ui][234])x([1-4])(?:/([1-9]\d{0,4}))?"
)


class Grid(NamedTuple):
    """A part of the input that is numbers at equal distances: a picture, or sound."""

    start: int  # its first byte in the input
    end: int  # behind its last one
    size: int  # bytes of an element
    channels: int  # elements of a pixel or a frame
    row: int  # elements of a row of a picture, with all that pads it; 0: sound
    low_first: bool  # the lowest byte of an element comes first
    signed: bool

    def memory_bytes(self, streams: int) -> int:
        """What the least squares of a picture take, see `squares`; little for sound."""
        neighbours = 10 if self.channels == 1 else 1 + 5 * self.channels
        return 16 * streams * self.row * (neighbours * (neighbours + 3) // 2 + 4)


def parse(text: str) -> list[Grid]:
    """Where numbers are, in order, of "START-END:TYPExCHANNELS/ROW", with commas between.

    TYPE is as NumPy has it; sound has no ROW, the elements of a picture's row.

    >>> parse("15-1179663:u1x3/2304")[0].channels, parse("44-50:<i2x1")[0].size
    (3, 2)

    Raises:
        ConfigError: this is something else, or they overlap.
    """
    grids, end = list[Grid](), 0
    for part in text.split(","):
        match = _GRID.fullmatch(part)
        if match is None:
            raise ConfigError(f"numbers = {part!r}: expected such as 54-786486:u1x3/768")
        kind, channels, row = match[3], int(match[4]), int(match[5] or 0)
        grid = Grid(
            int(match[1]), int(match[2]), int(kind[-1]), channels, row, kind[0] == "<", "i" in kind
        )
        if (
            not end <= grid.start < grid.end
            or (grid.end - grid.start) % grid.size
            or (row and row <= 2 * channels)
        ):
            raise ConfigError(f"numbers = {part!r}: overlaps, is out of order or no whole elements")
        end = grid.end
        grids.append(grid)
    return grids


def text_of(grids: list[Grid]) -> str:
    """The inverse of `parse`.

    >>> text_of([Grid(44, 50, 2, 1, 0, True, True)])
    '44-50:<i2x1'
    """
    parts = []
    for start, end, size, channels, row, low_first, signed in grids:
        order = "" if size == 1 else "<" if low_first else ">"
        kind = f"{order}{'i' if signed else 'u'}{size}x{channels}"
        parts.append(f"{start}-{end}:{kind}" + (f"/{row}" if row else ""))
    return ",".join(parts)
