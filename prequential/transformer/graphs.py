"""A decoder's column on a GPU: one graph launched, instead of hundreds of kernels one by one.

A column of few rows takes the GPU less time than the host takes to launch its kernels. Weights,
caches and activations stay where they are from chunk to chunk, so what is captured once for the
n-th column of a chunk holds for all chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prequential.transformer.model import Transformer

# What runs a captured call again, and where its result then is.
Captured = tuple[Callable[[], Any], Tensor]


def capture(call: Callable[[], Tensor]) -> Captured:
    """Capture the kernels of a call that waits for nothing on the host."""
    # What is set up at the first call cannot be captured, so there is one before, on a stream of
    # its own as capturing wants it.
    cuda: Any = torch.cuda
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        call()
    cuda.current_stream().wait_stream(side)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        result = call()
    return graph.replay, result


class ColumnGraphs:
    """`Transformer.forward` of single columns, captured when first called for each."""

    def __init__(
        self, model: Transformer, capture: Callable[[Callable[[], Tensor]], Captured] = capture
    ) -> None:
        self.model, self.capture = model, capture
        self._captured: dict[int, tuple[Tensor, Captured]] = {}

    def forward(self, rows: Tensor, first: int) -> Tensor:
        """Logits (B, V) of rows (B, D) of column `first`, until the next call for this column."""
        if first not in self._captured:
            given = rows.clone()
            self._captured[first] = given, self.capture(lambda: self.model.forward(given, first))
        given, (replay, logits) = self._captured[first]
        given.copy_(rows)
        replay()
        return logits
