"""The GPU computes the CPU's bits: same archive, same weights, decode in both directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from samples import portable, small, text

from prequential import codec
from prequential.config import MAX_TERMS, OPERAND_MAX, load
from prequential.errors import ConfigError
from prequential.exact import selftest, tensors
from prequential.training import run
from prequential.training.learner import Learner
from prequential.training.step import PortableStep
from prequential.transformer.graphs import Captured, ColumnGraphs

needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device; this PyTorch sees none"
)
DATA = text(2000, 6)


@needs_cuda
def test_selftest_holds_on_the_gpu() -> None:
    assert [fact.name for fact, ok in selftest.run("cuda") if not ok] == []


@needs_cuda
@pytest.mark.parametrize("preset", ["tiny", "literal"])
def test_same_archive_and_weights_and_decode_across_devices(preset: str) -> None:
    overrides = ["ngrams.rows_log2=10", "model.input_rows_log2=10"]
    config = load(preset, overrides=overrides)
    on_cpu = codec.compress(DATA, 3, config)
    on_gpu = codec.compress(DATA, 3, config, device="cuda")
    assert on_gpu == on_cpu
    assert codec.decompress(on_cpu, device="cuda") == DATA
    assert codec.decompress(on_gpu) == DATA
    digests = {
        codec.codelength(DATA, 3, config, device=device).weights_digest
        for device in ("cpu", "cuda")
    }
    assert len(digests) == 1


@needs_cuda
@pytest.mark.parametrize("terms", [8, 64, MAX_TERMS, MAX_TERMS + 8, 3077])
@pytest.mark.parametrize("rows", [5, 17, 64])
def test_products_equal_the_cpu_s(terms: int, rows: int) -> None:
    """On tensor cores where the shape allows (rows > 16, multiples of 8), else in blocks."""
    generator = torch.Generator().manual_seed(terms)
    a = torch.randint(-OPERAND_MAX, OPERAND_MAX + 1, (rows, terms), generator=generator).float()
    b = torch.randint(-OPERAND_MAX, OPERAND_MAX + 1, (terms, 40), generator=generator).float()
    a[0], b[:, 0] = OPERAND_MAX, OPERAND_MAX
    expected, out = torch.empty(rows, 40), torch.empty(rows, 40, device="cuda")
    tensors.matmul(a, b, expected)
    tensors.matmul(a.cuda(), b.cuda(), out)
    assert torch.equal(out.cpu(), expected)
    tensors.matmul(a.T.contiguous().cuda().T, b.T.contiguous().cuda().T, out)
    assert torch.equal(out.cpu(), expected)


def test_columns_are_captured_once_and_launched_again() -> None:
    """With a capture that remembers the call: what stays where it is does so for a graph, too."""
    config = small("streams=2").resolve(len(DATA))
    archive = codec.compress(DATA, 3, config)
    captured: list[int] = []
    launched: list[int] = []
    places: list[list[int]] = []

    def capture(call: Callable[[], torch.Tensor]) -> Captured:
        captured.append(len(captured))
        number, result = captured[-1], call().clone()

        def launch() -> None:
            launched.append(number)
            result.copy_(call())

        return launch, result

    class Captive(Learner):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            assert isinstance(self.step, PortableStep)
            self.step.forward_column = ColumnGraphs(self.model, capture).forward

        def learn(self, chunk: np.ndarray, count: int) -> None:
            super().learn(chunk, count)
            of_weights = [t for w in self.model.weights for t in (w.value, w.quantised, w.scale)]
            tensors = [*self.model.caches(), *of_weights, self.model.x]
            places.append([t.data_ptr() for t in tensors])

    with portable(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Learner", Captive)
        assert codec.decompress(archive) == DATA
    assert len(captured) == config.chunk
    assert len(launched) == -(-len(DATA) // 2)
    assert launched[: config.chunk] == captured
    assert all(place == places[0] for place in places)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="sees no CUDA device; use --device cpu"):
        codec.compress(b"x" * 50, 0, small(), device="cuda")


def test_tensor_cores_take_only_the_shapes_they_accept() -> None:
    def fits(rows: int, terms: int, columns: int, device: str = "meta") -> bool:
        a, b = torch.empty(rows, terms, device=device), torch.empty(terms, columns, device=device)
        return tensors._fits_int8_cores(a, b)

    assert not fits(64, 64, 64, "cpu")  # wrong there on some processors
    assert not fits(64, 64, 64)  # and unknown on other devices
