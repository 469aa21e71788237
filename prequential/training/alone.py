"""A memory as a learner by itself: no networks, and no steps but those it takes after every bit.

Nothing that reaches the bits is a float then, unless numbers are, and nothing is predicted before
the memory itself is asked. So a chunk is one call, for a decoder too, and its code is a fraction of
a whole learner's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from prequential.coding.coder import DECODE, TOTAL_BITS, Code, SymbolCoder
from prequential.coding.vocabulary import SINGLE_BYTES, Vocabulary
from prequential.config import Config
from prequential.predictors.memory import memory_of
from prequential.training.replay import Past


class Alone:
    """The learner, see `loop.Learner`, of a config whose memory is alone."""

    def __init__(
        self,
        config: Config,
        seed: int,
        device: str = "cpu",
        threads: int = 1,
        past: Past | None = None,
        vocabulary: Vocabulary = SINGLE_BYTES,
    ) -> None:
        """config is resolved. Nothing is random, on a device or replayed; threads take lanes."""
        V, n = len(vocabulary.pieces), config.streams * config.chunk
        self.B = config.streams
        self.past = past
        self.memory = memory_of(config, vocabulary, threads)
        self.symbol_coder: SymbolCoder = self.memory
        self.decode_columns: Callable[[np.ndarray, int, Code], float] | None = self._decode
        # What is expected of all tokens alike: memory for one number.
        self.frequencies = np.broadcast_to(np.int32((1 << TOTAL_BITS) // V), (n, V))

    def predict(
        self, chunk: np.ndarray, task: Callable[[np.ndarray], None] | None = None
    ) -> np.ndarray:
        """Even frequencies (T * B, V) int32; the task is called with them."""
        frequencies = self.frequencies[: chunk.size]
        if task is not None:
            task(frequencies)
        return frequencies

    def predict_column(self, column: int) -> np.ndarray:
        """Even frequencies (B, V) int32."""
        return self.frequencies[: self.B]

    def _decode(self, chunk: np.ndarray, count: int, code: Code) -> float:
        symbols = chunk.reshape(-1)[:count]
        return self.symbol_coder.code(DECODE, symbols, self.frequencies[:count], 0, code)

    def observe(self, symbols: np.ndarray) -> None:
        """The memory knows them already."""

    def learn(self, chunk: np.ndarray, count: int) -> None:
        """The chunk is over."""
        self.memory.learn()

    def rest(self, elsewhere: bool) -> None:
        """There is nothing that could."""

    def learned(self) -> dict[str, np.ndarray]:
        """No weights of networks."""
        return {}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Start from no weights."""

    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of the mixer's weights, which depend on everything else."""
        return hashlib.sha256(self.memory.weights()).digest()
