"""What a GPU does again and again, launched as one graph instead of kernel by kernel.

A column of few rows takes the GPU less time than the host takes to launch its kernels. Weights,
caches and activations stay where they are from chunk to chunk, so what is captured once holds for
all chunks. The step on all weights is two kernels, for they lie in two matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from prequential.transformer.optimizer import Weight

Call = Callable[[], Tensor]


def capture(call: Call) -> Call:
    """Capture the kernels of a call that waits for nothing on the host; they do not run yet."""
    graph: Any = torch.cuda.CUDAGraph()
    # Other threads may wait for copies meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = call()

    def launch() -> Tensor:
        graph.replay()
        return result

    return launch


class Graphs:
    """Calls by their keys: run when first asked for, captured the next time, then launched."""

    def __init__(self, capture: Callable[[Call], Call] = capture) -> None:
        self._capture = capture
        self._known: dict[Hashable, Call | None] = {}

    def run(self, key: Hashable, call: Call) -> Tensor:
        """The result of a call that reads and writes the same tensors whenever it has this key.

        It holds until the next call with this key.
        """
        if key not in self._known:
            # What is set up at the first call, compiled kernels for one, cannot be captured.
            self._known[key] = None
            return call()
        launch = self._known[key]
        if launch is None:
            launch = self._known[key] = self._capture(call)
        return launch()


_PARTS = "value", "quantised", "scale", "products", "product_scale", "mean", "square"


def stacked(weights: Sequence[Weight]) -> list[Weight]:
    """The weights, one above the other, in a matrix for each number of inputs.

    They become views of it. A step goes row by row, so one step on it is theirs.
    """
    stacks = []
    for inputs in sorted({weight.value.shape[1] for weight in weights}):
        alike = [weight for weight in weights if weight.value.shape[1] == inputs]
        stack = Weight(f"of {inputs} inputs", torch.cat([weight.value for weight in alike]))
        for name in _PARTS:
            parts = torch.split(getattr(stack, name), [len(weight.value) for weight in alike])
            for weight, part in zip(alike, parts, strict=True):
                part.copy_(getattr(weight, name))
                setattr(weight, name, part)
        stacks.append(stack)
    return stacks
