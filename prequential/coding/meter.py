"""A coder that only adds up: what learns the given, and measures."""

from __future__ import annotations

import numpy as np

from prequential.coding.coder import MEASURE, Code, Predictor, interval


class Meter:
    """Adds up the codelength of the symbols and writes nothing."""

    def __init__(self, lanes: int = 1) -> None:
        self.loss_bits = 0.0  # sum of -log2(frequency / total)
        nowhere = np.zeros((lanes, 0), np.uint8)
        self._code = Code(np.array([interval()] * lanes), nowhere, np.zeros(lanes, np.int64))

    def code(self, chunk: np.ndarray, count: int, predictor: Predictor) -> None:
        """Measure the first `count` tokens, in time-major order, of the chunk (T, B)."""
        symbols = chunk.reshape(-1)[:count]

        def measure(frequencies: np.ndarray) -> None:
            self.loss_bits += predictor.symbol_coder.code(
                MEASURE, symbols, frequencies[:count], 0, self._code
            )

        predictor.predict(chunk, measure)
