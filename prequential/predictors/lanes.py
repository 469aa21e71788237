"""A memory whose streams are dealt out to lanes, which code side by side.

Within a chunk all lanes read the same tables, matches and past, as the chunk before left them, and
note what comes (`notes`). What is mixed by, weights and adaptive maps, each lane has for itself and
learns at once, and so has it a part of the payload. So threads may take lanes in any order, and a
decoder has as many at work as an encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from prequential.coding.coder import Code
from prequential.coding.vocabulary import Vocabulary
from prequential.config import Config
from prequential.exact.compiled import pack
from prequential.predictors import notes
from prequential.predictors.memory import Memory, State, code_tokens


class Lanes(Memory):
    """`Memory`, in lanes of a config: bytes only, and no numbers."""

    def __init__(self, config: Config, vocabulary: Vocabulary, threads: int) -> None:
        """Threads do not change a bit."""
        B, T, L = config.streams, config.chunk, config.payload_lanes
        super().__init__(config.memory, B, vocabulary, None, config.mixer.curvature_log2)
        (general,) = self.states
        self.notes = notes.make(L, len(general.found.hashes), B, T)
        self.states = [_of_lane(general, notes.of_lane(self.notes, lane)) for lane in range(L)]
        self.lanes = [(pack(state), None) for state in self.states]
        self._noted = pack(self.notes)
        self._tables, self._matches = pack(general.tables), pack(general.matches)
        self._pool = ThreadPoolExecutor(min(threads, L + 1)) if threads > 1 else None
        self._shares = threads

    def code(
        self, mode: int, symbols: np.ndarray, frequencies: np.ndarray, first: int, code: Code
    ) -> float:
        """Code and note; see `coder.SymbolCoder.code`."""

        def of_lane(lane: int) -> float:
            code.positions[lane], bits = code_tokens(
                mode, symbols, None if self.alone else frequencies, first, self.lanes[lane],
                code.intervals[lane], code.bytes[lane], code.positions[lane],
            )  # fmt: skip
            return float(bits)

        return self.sum_of_lanes(of_lane)

    def sum_of_lanes(self, task: Callable[[int], float]) -> float:
        """The sum of what a task returns for each lane, whole parts of bits, by several threads."""
        return float(sum(self._each(task, range(len(self.lanes)))))

    def learn(self) -> None:
        """The chunk is over: the tables learn it."""

        def take_in(second: bool, share: int) -> None:
            if share < 0:
                notes.take_in_strings(self._matches, self._noted)
            else:
                notes.take_in_bytes(self._tables, self._noted, second, share, self._shares)

        self._each(partial(take_in, False), range(-1, self._shares))
        self._each(partial(take_in, True), range(self._shares))
        self.notes.until[:] = self.states[0].matches.position
        self.notes.counts[:] = 0

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Memory.arrays`: what lanes have for themselves is named by their numbers."""
        named = {"notes.until": self.notes.until}
        every = self.states
        for lane, state in enumerate(every):
            self.states = [state]
            for name, array in super().arrays().items():
                if not any(array is other for other in named.values()):
                    named[name if name not in named else f"{name}.{lane}"] = array
        self.states = every
        return named

    def _each(self, task: Any, numbers: range) -> list[Any]:
        """The results of a task for each number, which threads may share."""
        if self._pool is None:
            return [task(number) for number in numbers]
        return list(self._pool.map(task, numbers))


def _of_lane(general: State, own: notes.Notes) -> State:
    """A lane's state: past, buckets and what repeats are found by are those of all."""

    def copies(part: Any, *shared: str) -> Any:
        if isinstance(part, tuple):
            named = zip(part._fields, part, strict=True)  # type: ignore[attr-defined]
            return type(part)(*(x if name in shared else copies(x) for name, x in named))
        return part.copy() if isinstance(part, np.ndarray) else part

    matches = copies(general.matches, *(set(general.matches._fields) - {"slots", "known", "maps"}))
    return general._replace(
        tables=copies(general.tables, "nodes", "ends", "direct"),
        matches=matches,
        mixer=copies(general.mixer, "doubts"),
        found=copies(general.found),
        mixing=copies(general.mixing),
        below=general.below.copy(),
        certain=copies(general.certain) if general.certain is not None else None,
        notes=own,
    )
