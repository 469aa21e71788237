"""Input embeddings: one row for the last token plus rows of hashed contexts, summed.

Sparse, so they live on the host: rows are read and updated in coding order by one loop, which
makes every float operation's place fixed. Updates are Adagrad (Duchi et al. 2011), per element.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.config import SYMBOLS, ModelConfig
from prequential.exact import adagrad
from prequential.exact.compiled import jit
from prequential.exact.philox import uniform
from prequential.predictors.contexts import Contexts, hash_column

_SEED_INDEX = 1 << 32  # away from the transformer's weights


class Embeddings:
    """Tables of `width` float32 numbers a row, and the rows that a chunk used."""

    def __init__(
        self,
        config: ModelConfig,
        streams: int,
        columns: int,
        seed: int,
        tokens: int = SYMBOLS,
    ) -> None:
        self.contexts = Contexts(config.inputs)
        self.rate = np.float32(config.input_rate)
        self.shift = np.uint64(64 - config.input_rows_log2)
        count = len(config.inputs)
        self.tokens = tokens
        shape = (tokens + (count << config.input_rows_log2), config.width)
        self.table = np.zeros(shape, np.float32)
        self.table[:tokens] = uniform((tokens, config.width), 1.0, seed, _SEED_INDEX).numpy()
        self.squares = np.zeros(shape, np.float32)
        self.hashes = np.zeros((streams, count), np.uint64)
        self.rows = np.zeros((columns, streams, 1 + count), np.int64)

    def gather(self, first: int, end: int) -> np.ndarray:
        """Summed embeddings (n, D) float32 of columns first..end, time-major."""
        rows = self.rows[first:end].reshape(-1, self.rows.shape[2])
        out = np.empty((len(rows), self.table.shape[1]), np.float32)
        gather_rows(self.table, rows, out)
        return out

    def state(self) -> tuple[Any, ...]:
        """What a compiled loop over columns takes."""
        kinds, sizes = self.contexts.kinds, self.contexts.sizes
        return kinds, sizes, self.hashes, self.shift, self.tokens, self.table, self.rows

    def learn(self, gradient: np.ndarray) -> None:
        """One Adagrad update of every row used, from the input gradient (n, D)."""
        rows = self.rows.reshape(-1, self.rows.shape[2])[: len(gradient)]
        adagrad.learn(self.table, self.squares, rows, gradient, self.rate)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything learned, by name."""
        return {"embeddings.table": self.table, "embeddings.squares": self.squares}


@jit
def locate(history: Any, column: Any, state: Any) -> None:
    """Remember the rows of a column, which comes next in the history."""
    kinds, sizes, hashes, shift, tokens, _, rows = state
    hash_column(history, kinds, sizes, hashes)
    for b in range(rows.shape[1]):
        rows[column, b, 0] = history[5][b, 0]
        for c in range(hashes.shape[1]):
            row = np.int64(hashes[b, c] >> shift)
            rows[column, b, c + 1] = tokens + (np.int64(c) << np.int64(np.uint64(64) - shift)) + row


@jit
def gather_rows(table: Any, rows: Any, out: Any) -> None:
    """out (n, D) = the sum of each token's rows."""
    for i in range(rows.shape[0]):
        for j in range(table.shape[1]):
            out[i, j] = table[rows[i, 0], j]
        for c in range(1, rows.shape[1]):
            r = rows[i, c]
            for j in range(table.shape[1]):
                out[i, j] += table[r, j]
