"""What simple coders need for the same bytes, cumulatively: yardsticks along the file."""

from __future__ import annotations

import gzip
import lzma
import math
import zlib
from collections.abc import Callable

import numpy as np

ORDERS = (0, 1, 2, 3)
ALPHABET_BITS = 256  # which byte values occur, one bit each
_XZ_WINDOW_BYTES = 1 << 23  # a higher preset only enlarges the window beyond this


def occurrences(ids: np.ndarray) -> np.ndarray:
    """How often each element (n,) occurred before it, (n,) int64.

    >>> occurrences(np.array([7, 5, 7, 7]))
    array([0, 0, 1, 2])
    """
    order = np.argsort(ids, kind="stable")
    same = ids[order]
    first = np.ones(len(ids), bool)
    first[1:] = same[1:] != same[:-1]
    places = np.arange(len(ids))
    out = np.empty(len(ids), np.int64)
    out[order] = places - np.maximum.accumulate(np.where(first, places, 0))
    return out


def adaptive_bits(data: np.ndarray, order: int, alpha: float = 0.5) -> np.ndarray:
    """Bits (n,) of each byte under adaptive counts of what followed the last `order` bytes.

    p(s | context) = (count(context, s) + alpha) / (count(context) + alpha * A), A the number of
    distinct bytes in data (n,) uint8. alpha 1/2 is the estimator of Krichevsky & Trofimov 1981,
    within (A - 1) / 2 * log2(n) + log2(A) bits of the best constant distribution of each context.

    >>> adaptive_bits(np.array([1, 1, 0], np.uint8), 0).round(2)
    array([1.  , 0.42, 2.58])
    """
    symbols = max(1, len(np.unique(data)))
    wide = data.astype(np.int64)
    context = np.zeros(len(data), np.int64)
    for k in range(1, order + 1):
        context[k:] |= wide[:-k] << (8 * (k - 1))
    seen = occurrences(context << 8 | wide)
    total = occurrences(context)
    return np.asarray(np.log2(total + alpha * symbols) - np.log2(seen + alpha))


def best_adaptive(data: np.ndarray) -> tuple[str, np.ndarray]:
    """(name, bits (n,)) of the best adaptive counts: orders 0..3, alpha 1/2 or 1/A.

    What it costs to say which of the eight, and which bytes occur, stands in the first byte's bits.
    """
    symbols = max(1, len(np.unique(data)))
    found: dict[str, np.ndarray] = {}
    for order in ORDERS:
        for label, alpha in (("1/2", 0.5), (f"1/{symbols}", 1.0 / symbols)):
            found[f"adaptive order {order} (alpha {label})"] = adaptive_bits(data, order, alpha)
    name = min(found, key=lambda key: float(found[key].sum()))
    bits = found[name]
    if len(bits):
        bits[0] += ALPHABET_BITS + math.log2(len(found))
    return name, bits


def gzip_bytes(data: bytes) -> int:
    """Bytes of `gzip -9`."""
    return len(gzip.compress(data, 9, mtime=0))


def xz_bytes(data: bytes) -> int:
    """Bytes of `xz -9`."""
    return len(lzma.compress(data, preset=6 if len(data) <= _XZ_WINDOW_BYTES else 9))


def prefix_bits(data: np.ndarray, ends: np.ndarray, size: Callable[[bytes], int]) -> list[float]:
    """8 * size(data[:end]) for every end: how a coder of whole files goes along the file."""
    return [8.0 * size(data[:end].tobytes()) for end in ends]


def curves(data: np.ndarray, points: int = 32) -> dict[str, list[tuple[int, float]]]:
    """Name -> (bytes, cumulative bits) at about `points` places along data (n,) uint8."""
    ends = np.unique(np.linspace(0, len(data), points + 1).round().astype(np.int64))[1:]
    name, bits = best_adaptive(data)
    cumulative = np.cumsum(bits)
    lines = {
        "uniform": [8.0 * int(end) for end in ends],
        name: [float(cumulative[end - 1]) for end in ends],
        f"gzip -9 (zlib {zlib.ZLIB_RUNTIME_VERSION})": prefix_bits(data, ends, gzip_bytes),
        "xz -9": prefix_bits(data, ends, xz_bytes),
    }
    return {
        key: [(0, 0.0), *((int(end), value) for end, value in zip(ends, line, strict=True))]
        for key, line in lines.items()
    }
