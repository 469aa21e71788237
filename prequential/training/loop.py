"""The statement of the method: code a chunk with the current predictions, then learn it.

Encoder, decoder and meter run this same loop and differ only in the coder. For the decoder the
chunk is empty until the coder has filled it in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from prequential.coding.coder import Predictor


class Learner(Predictor, Protocol):
    """Predicts a chunk, then learns it."""

    def learn(self, chunk: np.ndarray, count: int) -> None:
        """Take one optimizer step on the first `count` tokens of the chunk (T, B)."""
        ...


class Coder(Protocol):
    """Codes a chunk with a predictor's frequencies."""

    def code(self, chunk: np.ndarray, count: int, predictor: Predictor) -> None:
        """Encode, decode in place, or measure the first `count` tokens of the chunk (T, B)."""
        ...


def run(chunks: Iterable[tuple[np.ndarray, int]], coder: Coder, learner: Learner) -> None:
    """Predict, code, then learn, chunk by chunk."""
    for chunk, count in chunks:
        coder.code(chunk, count, learner)
        learner.learn(chunk, count)
