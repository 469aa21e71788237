"""Dense weights and the exact optimizer step.

A `Weight` keeps its master copy in float32 and a quantised copy that the products use. Its
gradient arrives as integers with one power of two per row, straight from an exact product.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from prequential.config import WEIGHT_BOUND, OptimizerConfig
from prequential.exact import tensors


class Weight:
    """A matrix (M, K) of M outputs and K inputs: value, quantised copy, gradient, moments."""

    def __init__(self, name: str, value: Tensor) -> None:
        self.name = name
        self.value = value.contiguous()  # (M, K)
        rows = value.shape[0]
        self.quantised = torch.empty_like(self.value)  # (M, K)
        self.scale = value.new_empty(rows)  # (M,)
        self.products = torch.zeros_like(self.value)  # (M, K), the gradient's integers
        self.product_scale = value.new_ones(rows)  # (M,)
        self.mean = torch.zeros_like(self.value)
        self.square = torch.zeros_like(self.value)
        self.quantise()

    def quantise(self) -> None:
        """Follow a change of value; an optimizer step does so by itself."""
        tensors.quantise_rows(self.value, self.quantised, self.scale)

    def start(self, value: np.ndarray) -> None:
        """Begin from value (M, K) instead."""
        self.value.copy_(torch.from_numpy(value).clamp(-WEIGHT_BOUND, WEIGHT_BOUND))
        self.quantise()


class Optimizer:
    """One step per chunk: Adam (Kingma & Ba 2015) or plain gradient descent, rate warmed up."""

    def __init__(self, config: OptimizerConfig) -> None:
        self.config = config
        self.steps = 0
        # beta^step by recurrence: a platform's pow is not the same everywhere.
        self._power1 = 1.0
        self._power2 = 1.0

    def advance(self, token_count: int) -> np.ndarray:
        """Start a step, on gradients that are sums over so many tokens: its constants, float32.

        Those of Adam (6,) are rate, betas, 1 / (1 - beta^step), epsilon; of gradient descent (1,)
        the rate.
        """
        c = self.config
        self.steps += 1
        self._power1 *= c.beta1
        self._power2 *= c.beta2
        rate = c.rate * min(1.0, self.steps / max(1, c.warmup))
        if c.name == "sgd":
            # The rate is per mean gradient, as the loss is usually stated.
            return np.array([rate / token_count], np.float32)
        unbias = 1.0 / (1.0 - self._power1), 1.0 / (1.0 - self._power2)
        return np.array([rate, c.beta1, c.beta2, *unbias, c.epsilon], np.float32)


def update_of(constants: np.ndarray | Tensor) -> Callable[[Weight], None]:
    """What updates a weight from its gradient with a step's constants."""
    return lambda w: tensors.descend(
        w.value, w.mean, w.square, w.products, w.product_scale, w.quantised, w.scale, constants
    )
