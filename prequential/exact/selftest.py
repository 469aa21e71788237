"""What this machine must do for the bits to be everyone's: known answers, in a few milliseconds.

`tensors` rests on facts about the processor, PyTorch, NumPy and numba that settings or faults can
take away. `require` checks them before anything is encoded or decoded. Answers are pinned as
SHA-256 of result bytes; the tests derive them anew from Python's fractions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prequential.config import MAX_TERMS, OPERAND_MAX
from prequential.errors import ConfigError, PlatformError
from prequential.exact import adagrad, dispatch, kernels, scalars, softmax, tensors

_HOST = "a host program that set flush-to-zero or another rounding direction"
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
            raise PlatformError(
                f"this platform would compute other bits on {device}: it does not hold that"
                f" {fact.claim}; the usual cause is {fact.cause}; `preq doctor` shows all facts"
            )


def operands(count: int, seed: int, octaves: int = 24) -> np.ndarray:
    """Float32 numbers (count,) of both signs, 2^-octaves <= |x| < 2^octaves, from integers.

    >>> operands(2, 1, 2)
    array([ 1.7696189, -1.4848078], dtype=float32)
    """
    words = np.random.Philox(key=np.array([seed, 0], np.uint64)).random_raw(count)
    mantissa_sign = (words & np.uint64(0x807FFFFF)).astype(np.uint32)
    exponent = (words >> np.uint64(40)) % np.uint64(2 * octaves) + np.uint64(127 - octaves)
    return (mantissa_sign | (exponent.astype(np.uint32) << np.uint32(23))).view(np.float32)


def _holds(fact: Fact, device: torch.device) -> bool:
    try:
        return bool(fact.holds(device))
    except Exception:
        return False


def sha256(*arrays: np.ndarray) -> str:
    """The first 32 hex digits over little-endian bytes."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return sha.hexdigest()[:32]


def _on(device: torch.device, *arrays: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(array).to(device) for array in arrays]


def _elementwise(device: torch.device) -> bool:
    a, b = operands(4001, 1), operands(4001, 2)
    x, y = _on(device, a, b)
    for torch_result, numpy_result, answer in (
        (x + y, a + b, ANSWERS["sum"]),
        (x * y, a * b, ANSWERS["product"]),
        (x * y - y, a * b - b, ANSWERS["product, then difference"]),
    ):
        if not sha256(torch_result.cpu().numpy()) == sha256(numpy_result) == answer:
            return False
    return True


def _division(device: torch.device) -> bool:
    a, b = operands(4001, 1), operands(4001, 2)
    x, y = _on(device, a, b)
    return sha256((x / y).cpu().numpy()) == sha256(a / b) == ANSWERS["quotient"]


def _reciprocal_root(device: torch.device) -> bool:
    (x,) = _on(device, np.abs(operands(4001, 3)))
    return sha256(tensors.rsqrt(x).cpu().numpy()) == ANSWERS["reciprocal root"]


def _rounding(device: torch.device) -> bool:
    halves = np.arange(-129, 130, dtype=np.float32) * np.float32(0.5)
    even = np.array([_nearest_even(n) for n in range(-129, 130)], np.float32)
    (x,) = _on(device, halves)
    magic = np.float32(12582912.0)
    compiled, scale = np.empty((1, 2), np.float32), np.empty(1, np.float32)
    kernels.quantise_rows(np.array([[2.5, 127.0]], np.float32), compiled, scale)
    return (
        np.array_equal(x.round().cpu().numpy(), even)
        and np.array_equal((halves + magic) - magic, even)
        and compiled[0].tolist() == [2.0, 127.0]
    )


def _nearest_even(halves: int) -> int:
    """Round halves / 2, ties to even, in integers."""
    low = halves // 2
    return low + (halves % 2 and low % 2)


def _subnormals(device: torch.device) -> bool:
    tiny = np.array([2.0**-126, 3 * 2.0**-149], np.float32)
    (x,) = _on(device, tiny)
    half = np.float32(0.5)
    expected = [0x00400000, 2]  # 2^-127 exactly, 1.5 * 2^-149 to even
    return (
        (x * 0.5).cpu().numpy().view(np.int32).tolist() == expected
        and (tiny * half).view(np.int32).tolist() == expected
        and float(tiny[1] * np.float32(2.0**100)) == 3 * 2.0**-49
    )


def _tables(device: torch.device) -> bool:
    (table,) = _on(device, scalars.EXP2_TABLE)
    powers = np.array([scalars.power_of_two(e) for e in range(1, 255)], np.float32)
    return (
        sha256(table.cpu().numpy()) == ANSWERS["exp2 table"]
        and sha256(powers) == ANSWERS["powers of two"]
    )


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
    return _both(_norms, device) == ANSWERS["loops"]


def _attention(device: torch.device) -> bool:
    return _both(_attention_weights, device) == ANSWERS["attention"]


def _both(sample: Callable[..., Sequence[Any]], device: torch.device) -> str | None:
    """The digest of a sample, made by the compiled loops and in PyTorch, if it is the same."""
    loops = sample(kernels, lambda x: x)
    portable = sample(tensors, lambda x: torch.from_numpy(x).to(device))
    # Adding zero makes a negative zero positive, which no operation tells apart.
    digest = sha256(*(out + np.float32(0) for out in loops))
    same = digest == sha256(*((out + np.float32(0)).cpu().numpy() for out in portable))
    return digest if same else None


def _normed(operations: Any, made: Callable[[np.ndarray], Any]) -> list[Any]:
    """A norm over few numbers: integers (5, 37), scales (5,), reciprocal roots (5,)."""
    small = operands(5 * 37, 4, 4) * np.float32(2.0**-8)  # so that epsilon matters
    out = [made(np.zeros(shape, np.float32)) for shape in ((5, 37), 5, 5)]
    operations.norm_quantise(made(small.reshape(5, 37)), *out)
    return out


def _norms(operations: Any, made: Callable[[np.ndarray], Any]) -> list[Any]:
    """A norm and its gradient."""
    normed = _normed(operations, made)
    dy, unit = made(operands(5 * 37, 5).reshape(5, 37)), made(np.ones(5, np.float32))
    dx = made(np.zeros((5, 37), np.float32))
    operations.norm_backward(dy, unit, *normed, dx)
    return [*normed, dx]


def _attention_weights(operations: Any, made: Callable[[np.ndarray], Any]) -> list[Any]:
    """Attention over scores (1, 5, 35)."""

    def new(*shape: int, value: float = 0) -> Any:
        return made(np.full(shape, value, np.float32))

    scores = _normed(operations, made)[0][:, :35].reshape(1, 5, 35)
    out = [new(1, 5, 35), new(1, 5, 35), new(1, 5)]
    operations.attention_weights(
        scores, new(5, 1, value=0.25), new(35, 1, value=0.25), new(35, 1, value=0.25),
        new(1, value=0.125), np.float32(scalars.LOG2_E / 2), 30, 24, *out,
    )  # fmt: skip
    return out


def _sequential_loops(_: torch.device) -> bool:
    """Loops of single float operations, and the integer frequencies, on the host."""
    table, squares = operands(64, 6).reshape(8, 8), np.abs(operands(64, 7)).reshape(8, 8)
    rows = np.array([[0, 3], [1, 3], [0, 7]])
    gradient = operands(24, 8, 6).reshape(3, 8)
    adagrad.learn(table, squares, rows, gradient, np.float32(0.02), 0, 8)
    logits = operands(1024, 9, 4).reshape(4, 256)
    frequencies = np.empty((4, 256), np.int32)
    softmax.frequencies(logits, 24, frequencies)
    return sha256(table, squares, frequencies) == ANSWERS["sequential loops"]


FACTS = (
    Fact("rounding", "rounding goes to the nearest, ties to even", _HOST, _rounding),
    Fact("subnormals", "subnormal numbers are kept, not flushed to zero", _HOST, _subnormals),
    Fact("elementwise", "float32 sums and products are rounded once each", _TORCH, _elementwise),
    Fact("division", "float32 division is correctly rounded", _TORCH, _division),
    Fact("tables", "the tables of exp2 and powers of two are the format's", _NUMBA, _tables),
    Fact("root", "the Newton reciprocal root is the format's", _TORCH, _reciprocal_root),
    Fact("float32 products", "float32 products of integers are exact", _BLAS, _float32_products),
    Fact("tensor cores", "a GPU's kernels add products exactly", _BLAS, _tensor_cores),
    Fact("float64 sums", "float64 sums of integers are exact to 2^53", _BLAS, _float64_products),
    Fact("loops", "compiled loops and PyTorch give the same bits", _NUMBA, _loops),
    Fact("order", "compiled loops keep the order of operations", _NUMBA, _sequential_loops),
)
OF_ATTENTION = (  # whose loops need not be compiled where there is no layer
    Fact("attention", "compiled attention and PyTorch's give the same bits", _NUMBA, _attention),
)

ANSWERS = {
    "sum": "84ff13e4a6992bb06986f51d3f43adb5",
    "product": "a93744f220bd583890844a61ac772bf1",
    "product, then difference": "b6a1c7746fdeffa15a94e3ce8dd5a4a2",
    "quotient": "e4a48a57deff6970168dfa5ce4201e63",
    "reciprocal root": "9c325bdd17b3aa8972257a3d438325fe",
    "exp2 table": "22cf82166e48ce1b638761db987f44e4",
    "powers of two": "95bc05072274eb9ac3856a98d6b43258",
    "loops": "954cfbc4bee89c50d0065db89e816032",
    "attention": "52483bb972f9b8c88aebd6905550425d",
    "sequential loops": "916c00749cb80247282ce2ea4ed7ec29",
}
