"""What each part of a learner would pay by itself: n-gram tables, cells, transformer.

Their logits are added up, and what is coded rests on the sum; here each part's own logits make a
distribution. A part learns what the others do not know, so alone it is worse than it could be.
Measured in floats: nothing that is coded depends on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.errors import ConfigError
from prequential.training.alone import Alone
from prequential.training.learner import Learner


class Apart:
    """Reads a learner's logits, between a prediction and the next step."""

    def __init__(self, learner: Learner | Alone) -> None:
        """A learner of one thread: of several, others might be at the next step already.

        Raises:
            ConfigError: it keeps its logits elsewhere.
        """
        if not isinstance(learner, Learner):
            raise ConfigError("there are no predictors but the memory, whose costs all are")
        if not learner.step.at_once:
            raise ConfigError("predictors are looked at one by one on the CPU only: --device cpu")
        self._learner = learner
        self._logits = learner.step.logits  # (T * B, V): the sum
        self.names = ["n-gram tables"]
        if learner.model:
            self.names.append("transformer")
        if learner.recurrence.config.layers:
            self.names.insert(1, "cells")

    def bits(self, first: int, symbols: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(P, n) float64: what each of the names would pay for symbols (n,) from row `first` on."""
        rows = slice(first, first + len(symbols))
        tables = np.zeros((len(symbols), self._logits.shape[1]), np.float32)
        self._learner.ngrams.add_logits(tables, first // self._learner.B)
        parts = [tables]
        if self._learner.model:
            parts.append(self._logits[rows] - tables)
        cells = self._learner.recurrence.network.logits
        if self._learner.recurrence.config.layers:  # which the tables have added
            parts = [tables - cells[rows], cells[rows], *parts[1:]]
        return np.array([_bits(part.astype(np.float64), symbols) for part in parts])


def _bits(logits: np.ndarray[Any, Any], symbols: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(n,): of symbols (n,) by the softmax of logits (n, V)."""
    shifted = logits - logits.max(1, keepdims=True)
    nats = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(symbols)), symbols]
    return np.asarray(nats / np.log(2))
