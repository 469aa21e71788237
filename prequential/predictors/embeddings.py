"""Input embeddings: one row for the last token plus rows of hashed contexts, summed.

Sparse, so they live on the host: rows are read and updated in coding order by one loop, which
makes every float operation's place fixed. Updates are Adagrad (Duchi et al. 2011), per element.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from prequential.config import SYMBOLS, ModelConfig
from prequential.exact import adagrad
from prequential.exact.compiled import inline, pack
from prequential.exact.philox import uniform
from prequential.predictors.contexts import Contexts, hash_column, parse

_SEED_INDEX = 1 << 32  # away from the transformer's weights


class EmbeddingState(NamedTuple):
    """What finds the rows of a column, and sums them. B streams, T columns, C contexts."""

    contexts: Contexts
    hashes: np.ndarray  # (B, C) uint64: room for a column's
    shift: np.uint64  # of a hash, to a row of its context's table
    tokens: int  # rows that come before those of the contexts
    table: np.ndarray  # (tokens + C << (64 - shift), D) float32
    # By column: the row of the last token and that of each context, or -1 if it says nothing.
    rows: np.ndarray  # (T, B, 1 + C) int64


class Embeddings:
    """Tables of `width` float32 numbers a row, and the rows that a chunk used."""

    def __init__(
        self,
        config: ModelConfig,
        streams: int,
        columns: int,
        seed: int,
        tokens: int = SYMBOLS,
        index: int = 0,
        bound: float = 1.0,
    ) -> None:
        """Those of tokens are within bound at first, random by the seed and an index."""
        self.rate = np.float32(config.input_rate)
        count = len(config.inputs)
        shape = (tokens + (count << config.input_rows_log2), config.width)
        table = np.zeros(shape, np.float32)
        table[:tokens] = uniform((tokens, config.width), bound, seed, _SEED_INDEX + index)
        self.squares = np.zeros(shape, np.float32)
        self.state = EmbeddingState(
            parse(config.inputs),
            np.zeros((streams, count), np.uint64),
            np.uint64(64 - config.input_rows_log2),
            tokens,
            table,
            np.zeros((columns, streams, 1 + count), np.int64),
        )
        self.packed = pack(self.state)

    def gather(self, first: int, end: int) -> np.ndarray:
        """Summed embeddings (n, D) float32 of columns first..end, time-major."""
        table, located = self.state.table, self.state.rows
        rows = located[first:end].reshape(-1, located.shape[2])
        out = np.empty((len(rows), table.shape[1]), np.float32)
        gather_rows(table, rows, out)
        return out

    def learn(self, gradient: np.ndarray, first: int = 0, end: int | None = None) -> None:
        """One Adagrad update of every row used, from the input gradient (n, D).

        With borders, of these columns only, so that threads may share the work.
        """
        rows = self.state.rows.reshape(-1, self.state.rows.shape[2])[: len(gradient)]
        end = gradient.shape[1] if end is None else end
        adagrad.learn(self.state.table, self.squares, rows, gradient, self.rate, first, end)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything learned, by name."""
        return {"embeddings.table": self.state.table, "embeddings.squares": self.squares}


@inline
def state_of(packed: Any) -> Any:
    """The `EmbeddingState` again, inside a loop."""
    return EmbeddingState(Contexts(*packed[0]), *packed[1:])


@inline
def locate(history: Any, column: Any, state: Any) -> None:
    """Remember the rows of a column, which comes next in the history."""
    hashes, rows, shift = state.hashes, state.rows[column], state.shift
    hash_column(history, state.contexts, hashes)
    for b in range(len(rows)):
        rows[b, 0] = history.tokens[b, 0]
        for c in range(hashes.shape[1]):
            first = state.tokens + (np.int64(c) << np.int64(np.uint64(64) - shift))
            rows[b, c + 1] = first + np.int64(hashes[b, c] >> shift)


@inline
def gather_rows(table: Any, rows: Any, out: Any) -> None:
    """out (n, D) = the sum of each token's rows."""
    for i in range(rows.shape[0]):
        for j in range(table.shape[1]):
            out[i, j] = table[rows[i, 0], j]
        for c in range(1, rows.shape[1]):
            r = rows[i, c]
            if r >= 0:
                for j in range(table.shape[1]):
                    out[i, j] += table[r, j]
