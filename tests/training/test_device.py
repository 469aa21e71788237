"""The learner of a GPU, on the CPU: the same archives, whatever is captured and dealt out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from samples import portable, small, text

from prequential import codec
from prequential.exact import tensors
from prequential.training import device, run
from prequential.training.device import DeviceLearner
from prequential.training.learner import Learner
from prequential.training.step import PortableStep
from prequential.transformer.graphs import Call, Graphs, stacked

DATA = text(1001, 6)


def with_graphs(captured: list[int], launched: list[int], places: list[list[int]]) -> Any:
    """A learner whose graphs remember the call: what stays where it is does so for a graph, too."""

    def capture(call: Call) -> Call:
        captured.append(len(captured))
        number = captured[-1]

        def launch() -> torch.Tensor:
            launched.append(number)
            return call()

        return launch

    class Captive(DeviceLearner):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, graphs=Graphs(capture), **named)
            assert isinstance(self.step, PortableStep)

        def learn(self, chunk: np.ndarray, count: int) -> None:
            super().learn(chunk, count)
            of_weights = [t for w in self.model.weights for t in (w.value, w.quantised, w.scale)]
            tensors = [*self.model.caches(), *of_weights, self.model.x]
            places.append([t.data_ptr() for t in tensors])

    return Captive


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("streams=5",),
        ("streams=1", "memory.kind=mix"),
        ("streams=36", "memory.kind=mix", "model.conv=1", "optimizer.groups=4"),
        ("streams=2", "epochs=2", "optimizer.name=sgd"),
        ("streams=36", "memory.kind=mix", "lanes=3", "recurrence.layers=0"),
    ],
)
def test_archives_are_the_same_and_decode(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(*overrides)
    archive = codec.compress(DATA, 3, config)
    captured, launched, places = list[int](), list[int](), list[list[int]]()
    monkeypatch.setattr(run, "new_learner", with_graphs(captured, launched, places))
    monkeypatch.setattr(device, "_LEAST", 3)
    with portable():
        assert codec.compress(DATA, 3, config) == archive
        assert codec.decompress(archive) == DATA
    assert captured
    assert len(launched) > len(captured)
    assert {tuple(p) for p in places}.__len__() == 2  # of the encoder, and of the decoder


@pytest.mark.slow
def test_columns_are_captured_once_and_launched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small("streams=2", "lanes=1", "memory.kind=mix", "recurrence.layers=0")
    config = config.resolve(len(DATA))
    archive = codec.compress(DATA, 3, config)
    captured, launched, places = list[int](), list[int](), list[list[int]]()
    monkeypatch.setattr(run, "new_learner", with_graphs(captured, launched, places))
    with portable():
        assert codec.decompress(archive) == DATA
    # Each stream of each column is a half, and a step two graphs; all run plainly once. The last
    # chunk is shorter, so its step is never captured.
    columns, chunks = -(-len(DATA) // 2), -(-len(DATA) // (2 * config.chunk))
    assert len(captured) == 2 * config.chunk + 2
    assert len(launched) == 2 * (columns - config.chunk) + 2 * (chunks - 2)
    assert launched[: len(captured) - 2] == captured[:-2]
    assert all(place == places[0] for place in places)


def test_a_step_on_stacked_weights_is_that_on_each() -> None:
    config = small("streams=3", "model.width=16", "model.heads=2").resolve(1000)
    with portable():
        learner = Learner(config, 5)
    weights = learner.model.weights
    stacks = stacked(weights)
    assert len(stacks) == len({w.value.shape[1] for w in weights}) < len(weights)
    assert sum(len(stack.value) for stack in stacks) == sum(len(w.value) for w in weights)
    c = np.array([0.01, 0.9, 0.98, 10, 50, 1e-6], np.float32)
    alone = []
    for weight in weights:
        generator = torch.Generator().manual_seed(len(alone))
        weight.products.copy_(torch.randint(-99, 99, weight.value.shape, generator=generator))
        weight.product_scale.fill_(2.0**-20)
        parts = weight.value, weight.mean, weight.square, weight.products, weight.product_scale
        copies = [x.clone() for x in (*parts, weight.quantised, weight.scale)]
        tensors.descend(*copies, c)
        alone.append(copies)
    for s in stacks:
        tensors.descend(
            s.value, s.mean, s.square, s.products, s.product_scale, s.quantised, s.scale, c
        )
    for weight, (value, mean, *_, quantised, scale) in zip(weights, alone, strict=True):
        assert torch.equal(weight.value, value)
        assert torch.equal(weight.mean, mean)
        assert torch.equal(weight.quantised, quantised)
        assert torch.equal(weight.scale, scale)
