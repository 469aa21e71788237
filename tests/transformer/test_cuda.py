"""The GPU computes the CPU's bits: same archive, same weights, decode in both directions."""

from __future__ import annotations

import pytest
import torch
from samples import small, text

from prequential import codec
from prequential.config import MAX_TERMS, OPERAND_MAX, load
from prequential.errors import ConfigError
from prequential.exact import selftest, tensors

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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="sees no CUDA device; use device cpu"):
        codec.compress(b"x" * 50, 0, small(), device="cuda")
