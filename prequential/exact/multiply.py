"""Compiled products of quantised matrices, whose sums of integers are exact in any order."""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.config import MAX_TERMS
from prequential.exact.compiled import jit


@jit
def in_int32(xq: Any, weight: Any, first: Any, out: Any) -> None:
    """out (n, first + M), from `first` on = rows xq (n, K) int16 @ weight (M, K)^T, int8 or int16.

    The compiler makes of it the processor's multiply-add of pairs of int16.
    """
    for i in range(xq.shape[0]):
        row = xq[i]
        for m in range(weight.shape[0]):
            total = np.int32(0)
            for k in range(len(row)):
                total = np.int32(total + np.int32(np.int32(row[k]) * np.int32(weight[m, k])))
            out[i, first + m] = np.float32(total)


@jit
def _accumulate(a: Any, first: Any, end: Any, b: Any, rows: Any, out: Any) -> None:
    """out (n, K) += integers a[:, first:end] @ b[rows[first:end]]: at most MAX_TERMS in all.

    Four terms at a time, so that an element of out is read once for four products.
    """
    outputs, width = out.shape
    whole = end - (end - first) % 4
    four = np.empty((4, width), np.float32)
    b0, b1, b2, b3 = four[0], four[1], four[2], four[3]
    for m in range(first, whole, 4):
        for u in range(4):
            r = rows[m + u]
            for k in range(width):
                four[u, k] = b[r, k]
        for i in range(outputs):
            x = out[i]
            a0, a1, a2, a3 = a[i, m], a[i, m + 1], a[i, m + 2], a[i, m + 3]
            for k in range(width):
                x[k] += (a0 * b0[k] + a1 * b1[k]) + (a2 * b2[k] + a3 * b3[k])
    for m in range(whole, end):
        for i in range(outputs):
            for k in range(width):
                out[i, k] += a[i, m] * np.float32(b[rows[m], k])


@jit
def in_float32(a: Any, b: Any, rows: Any, out: Any) -> None:
    """out (n, K) float32 = integers a (n, M) @ b[rows] (M, K), rounded once: `tensors.matmul`."""
    terms = a.shape[1]
    more = terms > MAX_TERMS
    total = np.zeros(out.shape if more else (0, 0), np.float64)
    for start in range(0, terms, MAX_TERMS):
        out[:] = np.float32(0)
        _accumulate(a, start, min(start + MAX_TERMS, terms), b, rows, out)
        if more:
            for i in range(len(out)):
                for k in range(out.shape[1]):
                    total[i, k] += out[i, k]
                    out[i, k] = np.float32(total[i, k])
