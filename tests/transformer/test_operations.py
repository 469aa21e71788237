"""How many operations a GPU is asked for, counted without one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prequential.config import load
from prequential.exact import dispatch, tensors
from prequential.exact.scalars import group_of
from prequential.transformer.graphs import stacked
from prequential.transformer.model import Transformer
from prequential.transformer.optimizer import update_of

PRODUCTS = {"aten.mm", "aten.bmm", "aten.matmul"}
# Besides views these launch nothing.
NO_WORK = {"aten.empty", "aten.empty_like", "aten.new_empty", "aten._unsafe_view"}


class Operations(TorchDispatchMode):
    """Counts what PyTorch dispatches; a kernel of `fused` counts as one."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()  # of what a GPU has to do something for
        self.dispatched = 0  # of all, views too
        self.within = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not self.within:
            name = str(func.overloadpacket)
            self.dispatched += 1
            self.counts[name] += not func.is_view and name not in NO_WORK
        return func(*args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        """The stand-in of a kernel."""
        steps = getattr(tensors, name, None) or getattr(tensors, f"_{name}")

        def kernel(*arguments: Any) -> None:
            outer = not self.within
            self.counts[f"kernel {name}"] += outer
            self.dispatched += outer
            self.within = True
            steps.__wrapped__(*arguments)
            self.within = not outer

        return kernel

    def besides(self) -> int:
        return sum(n for name, n in self.counts.items() if name not in PRODUCTS)


def counted(monkeypatch: pytest.MonkeyPatch, layers: int) -> dict[str, Operations]:
    overrides = [f"model.layers={layers}", "streams=8", "chunk=2", "model.window=6"]
    config = load("gpu", overrides=overrides).resolve(100_000)
    B, T = config.streams, config.chunk
    group = group_of(B, config.optimizer.groups)
    model = Transformer(config.model, B, T, 0, "cpu", 256, group)
    stacks = stacked(model.weights)
    rows, dlogits = torch.randn(B * T, config.model.width), torch.randn(B * T, 256)
    constants = torch.tensor([1e-4, 0.9, 0.999, 1, 1, 1e-6])

    def update() -> None:
        for stack in stacks:
            update_of(constants)(stack)
        model.advance(T)

    found = {}
    for name, call in (
        ("forward", lambda: model.forward(rows, 0)),
        ("column", lambda: model.forward(rows[:4], 1, 2)),
        ("backward", lambda: model.backward(dlogits)),
        ("update", update),
    ):
        found[name] = operations = Operations()
        with monkeypatch.context() as patch, operations, torch.no_grad():
            patch.setattr(dispatch, "kernels_of", lambda _, kernels=operations: kernels)
            call()
    return found


@pytest.mark.slow
def test_a_step_of_gpu_dispatches_few_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, less = counted(monkeypatch, 10), counted(monkeypatch, 9)
    parts = [whole[part] for part in ("forward", "backward", "update")]
    step = sum(sum(part.counts.values()) for part in parts)
    per_layer = {part: whole[part].besides() - less[part].besides() for part in whole}
    print(step, sum(part.dispatched for part in parts), per_layer)
    assert step <= 800
    assert sum(part.dispatched for part in parts) <= 2400
    assert max(per_layer.values()) <= 40
    assert per_layer["forward"] == per_layer["column"] <= 10
