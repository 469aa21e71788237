"""Where the recurrent network works, and where it rests: it sees what is not known for sure.

A column is known for sure where, of every stream, some context has been followed by one token
only, many times (`ngrams`): cells would cost more than all else there, and have nothing to learn.
Nor have they within pictures and sound.
Logs, tables and markup are mostly such columns, prose hardly has one. What enters the network is
the columns between them, one after the other; a context of its own tells it what it has missed, or
else it would lose its place in a record. It learns when enough tokens have entered, which may be
after several chunks. All is known before the column is coded, so encoder and decoder agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from prequential.config import SYMBOLS, Config
from prequential.exact.compiled import inline, outer, pack
from prequential.predictors import embeddings
from prequential.recurrence import loops, structure
from prequential.recurrence.network import Call, Recurrence


class Entered(NamedTuple):
    """Which columns have entered the network since it last learned. B streams, V tokens."""

    columns: np.ndarray  # (T,) int64: the number of each in its chunk; (0,) if there is no network
    counts: np.ndarray  # (2,) int64: of columns that are located, and that are predicted
    elsewhere: np.ndarray  # (1,) int64: 1 where others know better, and no column enters
    missed: np.ndarray  # (1,) int64: 1 if the column before has not entered
    speak: int  # how many contexts, the last ones, speak only then
    logits: np.ndarray  # (N, V) float32: what it says of a chunk's tokens; 0 where it rests


class Resting:
    """A network of a learner's streams, and what enters it."""

    def __init__(self, config: Config, seed: int, tokens: int = SYMBOLS) -> None:
        """config is resolved."""
        B, T, c = config.streams, config.chunk, config.recurrence
        self.streams, self._least = B, -(-c.least // B)
        most = T + self._least - 1  # columns
        self.network = Recurrence(c, B, most, seed, tokens)
        there = min(1, c.layers)
        rows = there * T * B
        self.entered = Entered(
            np.zeros(there * most, np.int64),
            np.zeros(2, np.int64),
            np.zeros(1, np.int64),
            np.zeros(1, np.int64),
            len(c.missed),
            np.zeros((rows, tokens), np.float32),
        )
        self.packed = self.network.embeddings.packed, pack(self.entered)
        self._dlogits = np.zeros((there * most * B, tokens), np.float32)
        self._known = np.zeros(1, np.int64)  # columns whose gradient there is

    def rest(self, elsewhere: bool) -> None:
        """Whether the network rests in the next chunk, whatever is in it."""
        self.entered.elsewhere[0] = elsewhere

    def predict(self, first: int, end: int) -> None:
        """Logits of the columns first..end of a chunk, which are located."""
        if self.network.packed is not None:
            predict(self.network.packed, *self.packed, first, end)

    def learn(
        self,
        dlogits: np.ndarray,
        count: int,
        join: Callable[[Call], None] = lambda _: None,
        *,
        at_once: bool = False,
    ) -> bool:
        """Keep a chunk's gradient, dlogits (n, V), of which the first `count` rows are of tokens.

        Take a step if enough have come together, or at once, and say whether there was one. With
        no network there always is.
        """
        if self.network.packed is None:
            return True
        B, done, known = self.streams, int(self.entered.counts[0]), int(self._known[0])
        columns = self.entered.columns[known:done]
        chunk = dlogits.reshape(-1, B, dlogits.shape[1])
        self._dlogits[known * B : done * B].reshape(-1, *chunk.shape[1:])[:] = chunk[columns]
        self._known[0] = done
        missing = len(dlogits) - count  # of the last column, at the end of a file
        if done == 0 or (done < self._least and not missing and not at_once):
            return False
        if self.entered.columns[done - 1] < len(chunk) - 1:
            missing = 0
        self.network.learn(self._dlogits[: done * B], done * B - missing, join)
        self.advance()
        return True

    def advance(self) -> None:
        """Move the network's state past all columns that have entered, learned or not."""
        self.network.advance(int(self.entered.counts[0]))
        self.entered.counts[:] = 0
        self._known[:] = 0

    def waiting(self) -> dict[str, np.ndarray]:
        """Views of what has entered and is not learned yet, by name, and of the state before."""
        net, e = self.network.network, self.entered
        arrays = [getattr(net, name) for name in structure.KEPT]
        arrays += [self.network.embeddings.state.rows, e.columns, e.counts, e.missed]
        arrays += [self._dlogits, self._known]
        return {f"waiting.{i}": array for i, array in enumerate(arrays)}


@inline
def entered_of(packed: Any) -> Any:
    """The `Entered` again, inside a loop."""
    return Entered(*packed)


@inline
def locate(history: Any, column: Any, sure: Any, cells: Any, entered: Any) -> None:
    """Remember the rows of a column of a chunk, which enters the network unless it is sure."""
    if sure or entered.elsewhere[0] or len(entered.columns) == 0:
        entered.missed[0] = 1
        return
    at = entered.counts[0]
    embeddings.locate(history, at, cells)
    if not entered.missed[0]:
        count = cells.hashes.shape[1]
        for c in range(count - entered.speak, count):
            for b in range(len(history.bytes)):
                cells.rows[at, b, c + 1] = -1
    entered.missed[0] = 0
    entered.columns[at] = column
    entered.counts[0] = at + 1


@outer
def predict(packed: Any, cells: Any, entered: Any, first: Any, end: Any) -> None:
    """Logits of the columns first..end of a chunk, of which some have entered."""
    net, cells, entered = structure.network(packed), embeddings.state_of(cells), Entered(*entered)
    B, known, done = net.streams, entered.counts[1], entered.counts[0]
    for t in range(known, done):
        embeddings.gather_rows(cells.table, cells.rows[t], net.inputs[t * B : (t + 1) * B])
    if done > known:
        loops.forward(packed, known, done)
    for i in range(first * B, end * B):
        for s in range(entered.logits.shape[1]):
            entered.logits[i, s] = 0
    for t in range(known, done):
        for b in range(B):
            i = entered.columns[t] * B + b
            for s in range(entered.logits.shape[1]):
                entered.logits[i, s] = net.logits[t * B + b, s]
    entered.counts[1] = done
