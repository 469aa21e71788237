"""The two forms of a learner's step leave the same bits behind, whatever shapes they run on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import portable, small

from prequential.config import SYMBOLS
from prequential.predictors.ngrams import Ngrams
from prequential.training.step import CompiledStep, PortableStep
from prequential.training.sums import new_step
from prequential.training.threads import Threads

CHUNKS = 3


def trace(step: CompiledStep | PortableStep, streams: int, columns: int) -> list[np.ndarray]:
    """Frequencies, gradients, weights and caches over some chunks, the last one shorter."""
    none = Ngrams(replace(small().ngrams, contexts=()), streams, columns).state
    generator, seen = np.random.default_rng(0), []
    for count in [columns] * (CHUNKS - 1) + [columns // 2 + 1]:
        n = count * streams
        frequencies = np.zeros((columns * streams, SYMBOLS), np.int32)
        rows = generator.standard_normal((n, step.model.x.shape[1])).astype(np.float32)
        dlogits = generator.standard_normal((n, SYMBOLS)).astype(np.float32)
        step.forward(rows, 0, count, none, frequencies)
        step.settle()
        seen += [frequencies[:n], step.learn(dlogits * np.float32(0.01), n)]
        step.settle()
        step.advance(count)
        weights = [getattr(w, part) for w in step.model.weights for part in ("value", "mean")]
        seen += [view.numpy().copy() for view in (*weights, *step.model.caches())]
    return seen


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("streams=1", "chunk=20"),  # pieces of several columns, the last one shorter
        ("streams=3", "model.layers=2", "model.window=0"),
        ("model.layers=1", "model.conv=1"),
        ("optimizer.name=sgd", "model.width=20", "model.heads=2", "model.hidden=37"),
    ],
)
def test_both_forms_leave_the_same_bits(overrides: tuple[str, ...]) -> None:
    config = small(*overrides).resolve(3000)
    B, T = config.streams, config.chunk
    traces = []
    for form in (CompiledStep, PortableStep):
        with torch.inference_mode():
            if form is PortableStep:
                with portable():
                    step = new_step(config, SYMBOLS, 1, "cpu", Threads(1))
            else:
                step = new_step(config, SYMBOLS, 1, "cpu", Threads(1))
            assert isinstance(step, form)
            generator = torch.Generator().manual_seed(2)
            for weight in step.model.weights:  # which begin at zero, some of them
                weight.start((0.2 * torch.randn(weight.value.shape, generator=generator)).numpy())
            step.quantise()
            traces.append(trace(step, B, T))
    for one, other in zip(*traces, strict=True):
        assert np.array_equal(one, other)
