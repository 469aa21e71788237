"""What this machine must do for the bits to be everyone's: known answers, in a few milliseconds.

`tensors` rests on facts about the processor and PyTorch, beside those of `hosttest`, that settings
or faults can take away. `require` checks all of them before a transformer encodes or decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prequential.config import MAX_TERMS, OPERAND_MAX
from prequential.errors import ConfigError
from prequential.exact import dispatch, hosttest, kernels, scalars, tensors
from prequential.exact.hosttest import ANSWERS, operands, sha256

_TORCH = "a PyTorch build compiled with fast-math or for another processor"
_BLAS = "a BLAS or precision setting that rounds operands, or a faulty matrix library"
_NUMBA = "a damaged numba cache (delete __pycache__) or an unsupported numba or LLVM release"


class Fact(NamedTuple):
    """One property of the platform: what holds, what usually breaks it, and the test."""

    name: str
    claim: str
    cause: str
    holds: Callable[[torch.device], bool]


class Result(NamedTuple):
    """A fact and whether it holds here."""

    fact: Fact
    ok: bool


def run(device: str = "cpu", facts: Sequence[Fact] | None = None) -> list[Result]:
    """Test facts, or all, on a device; a test that cannot run has failed.

    Raises:
        ConfigError: no such device.
    """
    kind = str(device).partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"--device {device}: is none of cpu, cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this PyTorch sees no CUDA device; use --device cpu")
    facts = (*FACTS, *OF_ATTENTION) if facts is None else facts
    return [Result(fact, _holds(fact, torch.device(device))) for fact in facts]


def require(device: str = "cpu", facts: Sequence[Fact] | None = None) -> None:
    """Refuse to go on where one of `FACTS`, or of others, does not hold.

    Raises:
        ConfigError: no such device.
        PlatformError: naming the first such fact and what usually causes it.
    """
    for fact, ok in run(device, FACTS if facts is None else facts):
        if not ok:
            raise hosttest.refusal(fact.claim, fact.cause, device)


def _holds(fact: Fact, device: torch.device) -> bool:
    return hosttest.held(lambda: fact.holds(device))


def _on(device: torch.device, *arrays: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(array).to(device) for array in arrays]


def _elementwise(device: torch.device) -> bool:
    a, b = operands(4001, 1), operands(4001, 2)
    x, y = _on(device, a, b)
    results = {"sum": x + y, "product": x * y, "product, then difference": x * y - y}
    same = [sha256(found.cpu().numpy()) == ANSWERS[name] for name, found in results.items()]
    return all(same) and hosttest.elementwise()


def _division(device: torch.device) -> bool:
    a, b = operands(4001, 1), operands(4001, 2)
    x, y = _on(device, a, b)
    return sha256((x / y).cpu().numpy()) == ANSWERS["quotient"] and hosttest.division()


def _reciprocal_root(device: torch.device) -> bool:
    (x,) = _on(device, np.abs(operands(4001, 3)))
    return sha256(tensors.rsqrt(x).cpu().numpy()) == ANSWERS["reciprocal root"]


def _rounding(device: torch.device) -> bool:
    even, halves = hosttest.rounded_halves()
    (x,) = _on(device, halves)
    return np.array_equal(x.round().cpu().numpy(), even) and hosttest.rounding()


def _subnormals(device: torch.device) -> bool:
    (x,) = _on(device, np.array([2.0**-126, 3 * 2.0**-149], np.float32))
    halved = (x * 0.5).cpu().numpy().view(np.int32).tolist()
    return bool(halved == hosttest.HALVED) and hosttest.subnormals()


def _tables(device: torch.device) -> bool:
    (table,) = _on(device, scalars.EXP2_TABLE)
    return sha256(table.cpu().numpy()) == ANSWERS["exp2 table"] and hosttest.tables()


def _float32_products(device: torch.device) -> bool:
    return _product_at_bound(device, torch.float32) and all(
        _product(device, length) for length in range(1, 66)
    )


def _tensor_cores(device: torch.device) -> bool:
    fused = dispatch.kernels_of(device.type)
    return fused is None or fused.holds(device)


def _product_at_bound(device: torch.device, dtype: torch.dtype) -> bool:
    """MAX_TERMS terms of the largest magnitude, but for one that makes the total odd."""
    a = torch.full((33, MAX_TERMS), float(OPERAND_MAX), dtype=dtype, device=device)
    b = torch.full((MAX_TERMS, 17), float(-OPERAND_MAX), dtype=dtype, device=device)
    a[:, 7] = OPERAND_MAX - 1
    b[11, :] = 1 - OPERAND_MAX
    exact = -(MAX_TERMS * OPERAND_MAX**2 - 2 * OPERAND_MAX)
    return bool((a @ b == exact).all())


def _product(device: torch.device, length: int) -> bool:
    """A product of `length` terms with odd strides, against NumPy's integers."""
    integers = np.arange(-200, 200).repeat(3)[: 5 * (2 * length + 1)]
    a = (integers * 37 % 255 - 127).reshape(5, -1)[:, : 2 * length : 2]  # (5, K), stride 2
    b = a[::-1, ::-1].T  # (K, 5), columns
    x = torch.from_numpy(np.ascontiguousarray(a.repeat(2, 1), np.float32)).to(device)[:, ::2]
    y = torch.from_numpy(np.ascontiguousarray(b.T, np.float32)).to(device).T
    batched = x.expand(3, 5, length) @ y
    exact = a @ b
    return np.array_equal((x @ y).cpu().numpy(), exact) and np.array_equal(
        batched.cpu().numpy(), np.stack([exact] * 3)
    )


def _float64_products(device: torch.device) -> bool:
    """Products, conversions and sums in float64 up to 2^53 - 1."""
    top = (1 << 53) - 1
    parts = [top // 3, top // 3 + 2, top - 2 * (top // 3) - 2]
    x = torch.tensor(parts, dtype=torch.float64, device=device)
    longer = torch.empty(2, 2, dtype=torch.float32, device=device)
    terms = 2 * MAX_TERMS + 3
    row = torch.full((2, terms), float(OPERAND_MAX), dtype=torch.float32, device=device)
    tensors.matmul(row, row.T, longer)
    return (
        _product_at_bound(device, torch.float64)
        and int(x.sum().item()) == top
        and int((x[0] + x[1] + x[2]).item()) == top
        and longer[1, 0].item() == float(np.float32(terms * OPERAND_MAX**2))
    )


def _loops(device: torch.device) -> bool:
    return _both(hosttest.norms, device) == ANSWERS["loops"]


def _attention(device: torch.device) -> bool:
    return _both(_attention_weights, device) == ANSWERS["attention"]


def _both(sample: Callable[..., Sequence[Any]], device: torch.device) -> str | None:
    """The digest of a sample, made by the compiled loops and in PyTorch, if it is the same."""
    digest = hosttest.digest(sample(kernels, lambda x: x))
    portable = sample(tensors, lambda x: torch.from_numpy(x).to(device))
    same = digest == hosttest.digest(out.cpu().numpy() for out in portable)
    return digest if same else None


def _attention_weights(operations: Any, made: Callable[[np.ndarray], Any]) -> list[Any]:
    """Attention over scores (1, 5, 35)."""

    def new(*shape: int, value: float = 0) -> Any:
        return made(np.full(shape, value, np.float32))

    scores = hosttest.normed(operations, made)[0][:, :35].reshape(1, 5, 35)
    out = [new(1, 5, 35), new(1, 5, 35), new(1, 5)]
    operations.attention_weights(
        scores, new(5, 1, value=0.25), new(35, 1, value=0.25), new(35, 1, value=0.25),
        new(1, value=0.125), np.float32(scalars.LOG2_E / 2), 30, 24, *out,
    )  # fmt: skip
    return out


FACTS = (
    Fact(*hosttest.ROUNDING[:3], _rounding),
    Fact(*hosttest.SUBNORMALS[:3], _subnormals),
    Fact("elementwise", "float32 sums and products are rounded once each", _TORCH, _elementwise),
    Fact("division", "float32 division is correctly rounded", _TORCH, _division),
    Fact(*hosttest.TABLES[:3], _tables),
    Fact("root", "the Newton reciprocal root is the format's", _TORCH, _reciprocal_root),
    Fact("float32 products", "float32 products of integers are exact", _BLAS, _float32_products),
    Fact("tensor cores", "a GPU's kernels add products exactly", _BLAS, _tensor_cores),
    Fact("float64 sums", "float64 sums of integers are exact to 2^53", _BLAS, _float64_products),
    Fact("loops", "compiled loops and PyTorch give the same bits", _NUMBA, _loops),
    Fact(*hosttest.ORDER[:3], lambda _: hosttest.sequential_loops()),
)
OF_ATTENTION = (  # whose loops need not be compiled where there is no layer
    Fact("attention", "compiled attention and PyTorch's give the same bits", _NUMBA, _attention),
)
