"""Where an input is pictures and sound: what is proposed, if coding a sample so is shorter.

Headers propose first, and what looks like numbers where there is none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from prequential.coding import formats
from prequential.coding.coder import ENCODE
from prequential.coding.elements import Arranged
from prequential.coding.encoder import blank
from prequential.coding.vocabulary import SINGLE_BYTES
from prequential.config import BYTES, Config
from prequential.grids import Grid, text_of
from prequential.predictors.memory import Memory
from prequential.training.guessing import guesses

if TYPE_CHECKING:
    from prequential.training.run import Bytes

# A sample is a sixteenth of what is proposed, within these.
_LEAST_SAMPLE, _MOST_SAMPLE = 1 << 13, 1 << 16
_PIECES = 4
_MOST_GRIDS = 1000
_GAIN = 64  # it has to be shorter by 1 part in 64, and by what the header says of it


def find(data: Bytes, config: Config, given: Sequence[Bytes] = ()) -> str:
    """`Config.numbers` of data (n,) uint8: where coding it as numbers pays.

    If anywhere, it is looked for in what is given first as well, from whose beginning it counts.
    The memory alone codes a sample of every proposal both ways; nothing but its size counts.
    """
    if config.memory.kind == "none" or config.lanes or config.tokenizer != BYTES:
        return ""
    kept = _kept(data, config)
    if kept and given:
        parts, found, before = [*(_kept(part, config) for part in given), kept], list[Grid](), 0
        for grids, part in zip(parts, [*given, data], strict=True):
            for grid in grids:
                found.append(grid._replace(start=grid.start + before, end=grid.end + before))
            before += len(part)
        kept = found[-_MOST_GRIDS:]
    return text_of(kept)


def _kept(data: Bytes, config: Config) -> list[Grid]:
    proposed = formats.proposals(data)
    ends = [0, *(grid.end for grid in proposed)]
    starts = [*(grid.start for grid in proposed), len(data)]
    for end, start in zip(ends, starts, strict=True):
        proposed += guesses(data, end, start)
    return [grid for grid in sorted(proposed) if _pays(data, grid, config)][:_MOST_GRIDS]


def _pays(data: Bytes, grid: Grid, config: Config) -> bool:
    length = grid.end - grid.start
    row = grid.size * max(grid.row, grid.channels)
    # Sound has pauses: some of it from several places. What is above a pixel should be there.
    pieces = 1 if grid.row else _PIECES
    taken = min(length, max(_LEAST_SAMPLE, min(length // 16, _MOST_SAMPLE))) // pieces
    starts = ((length * (2 * k + 1) // pieces - taken) // 2 // row * row for k in range(pieces))
    taken -= taken % (grid.size * grid.channels)
    parts = [data[grid.start + a : grid.start + a + taken] for a in starts]
    sample = np.concatenate([np.asarray(part) for part in parts])
    moved = grid._replace(start=0, end=len(sample))
    as_it_is, as_numbers = (_bytes(sample, grids, config) for grids in ([], [moved]))
    told = len(text_of([grid])) + 1
    saved = as_it_is - as_it_is // _GAIN - as_numbers
    return saved * length > told * len(sample)


def _bytes(sample: np.ndarray, grids: list[Grid], config: Config) -> int:
    """How many bytes the memory takes for the sample, beside a learner that knows nothing."""
    config = dataclasses.replace(config, numbers="", streams=1).resolve(len(sample))
    memory = Memory(config.memory, 1, SINGLE_BYTES, grids)
    symbols = Arranged(sample, grids)[0 : len(sample)]
    frequencies = np.ones((1 << 10, 256), np.int32)
    code = blank(size=24 * len(sample) + 8)
    for start in range(0, len(symbols), len(frequencies)):
        part = symbols[start : start + len(frequencies)].copy()
        memory.code(ENCODE, part, frequencies, 0, code)
    return int(code.positions[0])
