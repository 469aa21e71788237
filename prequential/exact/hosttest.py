"""What the host must do for the bits to be everyone's, without PyTorch: known answers.

`kernels` and other loops rest on facts about the processor, NumPy and numba that settings or faults
can take away. `require` checks them before floats are relied on; with a transformer, `selftest`
does, which asks more. Answers are pinned as SHA-256 of result bytes; the tests derive them anew
from Python's fractions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from prequential.config import MAX_TERMS, OPERAND_MAX
from prequential.errors import PlatformError
from prequential.exact import adagrad, kernels, multiply, scalars, softmax

_HOST = "a host program that set flush-to-zero or another rounding direction"
_NUMPY = "a NumPy build compiled with fast-math or for another processor"
_NUMBA = "a damaged numba cache (delete __pycache__) or an unsupported numba or LLVM release"


class HostFact(NamedTuple):
    """One property of the platform: what holds, what usually breaks it, and the test."""

    name: str
    claim: str
    cause: str
    holds: Callable[[], bool]


def require(facts: Iterable[HostFact] | None = None) -> None:
    """Refuse to go on where one of `HOST` does not hold.

    Raises:
        PlatformError: naming the first such fact and what usually causes it.
    """
    for fact in HOST if facts is None else facts:
        if not held(fact.holds):
            raise refusal(fact.claim, fact.cause, "cpu")


def held(test: Callable[[], bool]) -> bool:
    """The result of a test; one that cannot run has failed."""
    try:
        return bool(test())
    except Exception:
        return False


def refusal(claim: str, cause: str, device: str) -> PlatformError:
    """What is said where a fact does not hold."""
    return PlatformError(
        f"this platform would compute other bits on {device}: it does not hold that"
        f" {claim}; the usual cause is {cause}; `preq doctor` shows all facts"
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


def sha256(*arrays: np.ndarray) -> str:
    """The first 32 hex digits over little-endian bytes."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return sha.hexdigest()[:32]


def elementwise() -> bool:
    """Sums and products in NumPy."""
    a, b = operands(4001, 1), operands(4001, 2)
    return (
        sha256(a + b) == ANSWERS["sum"]
        and sha256(a * b) == ANSWERS["product"]
        and sha256(a * b - b) == ANSWERS["product, then difference"]
    )


def division() -> bool:
    """Quotients in NumPy."""
    return sha256(operands(4001, 1) / operands(4001, 2)) == ANSWERS["quotient"]


def rounding() -> bool:
    """Halves, to even: as the loops round, and by adding 1.5 * 2^23."""
    even, halves = rounded_halves()
    magic = np.float32(12582912.0)
    compiled, scale = np.empty((1, 2), np.float32), np.empty(1, np.float32)
    kernels.quantise_rows(np.array([[2.5, 127.0]], np.float32), compiled, scale)
    return np.array_equal((halves + magic) - magic, even) and compiled[0].tolist() == [2.0, 127.0]


def rounded_halves() -> tuple[np.ndarray, np.ndarray]:
    """Integers and the halves (259,) that round to them, ties to even; by integers."""
    halves = range(-129, 130)
    even = [n // 2 + (n % 2 and n // 2 % 2) for n in halves]
    return np.array(even, np.float32), np.array(halves, np.float32) * np.float32(0.5)


def subnormals() -> bool:
    """Halves of the smallest numbers, in NumPy."""
    tiny = np.array([2.0**-126, 3 * 2.0**-149], np.float32)
    halved = (tiny * np.float32(0.5)).view(np.int32).tolist()
    return halved == HALVED and float(tiny[1] * np.float32(2.0**100)) == 3 * 2.0**-49


def tables() -> bool:
    """Those that loops look up."""
    powers = np.array([scalars.power_of_two(e) for e in range(1, 255)], np.float32)
    return (
        sha256(scalars.EXP2_TABLE) == ANSWERS["exp2 table"]
        and sha256(powers) == ANSWERS["powers of two"]
    )


def loops() -> bool:
    """A norm and its gradient, compiled."""
    return digest(norms(kernels, lambda x: x)) == ANSWERS["loops"]


def digest(arrays: Iterable[np.ndarray]) -> str:
    """Adding zero makes a negative zero positive, which no operation tells apart."""
    return sha256(*(array + np.float32(0) for array in arrays))


def normed(operations: Any, made: Callable[[np.ndarray], Any]) -> list[Any]:
    """A norm over few numbers: integers (5, 37), scales (5,), reciprocal roots (5,)."""
    small = operands(5 * 37, 4, 4) * np.float32(2.0**-8)  # so that epsilon matters
    out = [made(np.zeros(shape, np.float32)) for shape in ((5, 37), 5, 5)]
    operations.norm_quantise(made(small.reshape(5, 37)), *out)
    return out


def norms(operations: Any, made: Callable[[np.ndarray], Any]) -> list[Any]:
    """A norm and its gradient, by `kernels` or another form of the same operations."""
    found = normed(operations, made)
    dy, unit = made(operands(5 * 37, 5).reshape(5, 37)), made(np.ones(5, np.float32))
    dx = made(np.zeros((5, 37), np.float32))
    operations.norm_backward(dy, unit, *found, dx)
    return [*found, dx]


def products() -> bool:
    """Compiled products of integers up to 127, of as many terms as there may be: odd sums."""
    rows = np.full((5, MAX_TERMS), OPERAND_MAX, np.int16)
    rows[:, 0] = np.arange(5)
    weight, total = np.full((161, MAX_TERMS), OPERAND_MAX, np.int8), OPERAND_MAX**2
    forward, turned = np.empty((5, 161), np.float32), np.empty((5, 161), np.float32)
    multiply.in_int32(rows, weight, 0, forward)
    multiply.in_float32(rows.astype(np.float32), np.ascontiguousarray(weight.T), turned)
    expected = (MAX_TERMS - 1) * total + OPERAND_MAX * np.arange(5)[:, None]
    return bool((forward == expected).all() and (turned == expected).all())


def sequential_loops() -> bool:
    """Loops of single float operations, and the integer frequencies."""
    table, squares = operands(64, 6).reshape(8, 8), np.abs(operands(64, 7)).reshape(8, 8)
    rows = np.array([[0, 3], [1, 3], [0, 7]])
    gradient = operands(24, 8, 6).reshape(3, 8)
    adagrad.learn(table, squares, rows, gradient, np.float32(0.02), 0, 8)
    logits = operands(1024, 9, 4).reshape(4, 256)
    frequencies = np.empty((4, 256), np.int32)
    softmax.frequencies(logits, 24, frequencies)
    return sha256(table, squares, frequencies) == ANSWERS["sequential loops"]


HALVED = [0x00400000, 2]  # 2^-127 exactly, 1.5 * 2^-149 to even

ROUNDING = HostFact("rounding", "rounding goes to the nearest, ties to even", _HOST, rounding)
SUBNORMALS = HostFact(
    "subnormals", "subnormal numbers are kept, not flushed to zero", _HOST, subnormals
)
TABLES = HostFact("tables", "the tables of exp2 and powers of two are the format's", _NUMBA, tables)
ORDER = HostFact("order", "compiled loops keep the order of operations", _NUMBA, sequential_loops)
HOST = (
    ROUNDING,
    SUBNORMALS,
    HostFact("elementwise", "float32 sums and products are rounded once each", _NUMPY, elementwise),
    HostFact("division", "float32 division is correctly rounded", _NUMPY, division),
    TABLES,
    HostFact("products", "compiled products of integers are exact", _NUMBA, products),
    HostFact("loops", "compiled loops give the format's bits", _NUMBA, loops),
    ORDER,
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
