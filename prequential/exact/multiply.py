"""Compiled products of quantised matrices, whose sums of integers are exact in any order."""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.config import MAX_TERMS
from prequential.exact import tile
from prequential.exact.compiled import jit, uncounted

# So many rows and more pay for a weight that is turned, or whose integers become float32, first.
_MANY = 16


@jit
def in_int32(xq: Any, weight: Any, first: Any, out: Any) -> None:
    """out (n, first + M), from `first` on = rows xq (n, K) int16 @ weight (M, K)^T, int8 or int16.

    K is at most MAX_TERMS.
    """
    own = out[:, first : first + len(weight)]
    if len(xq) < _MANY:
        for i in range(len(xq)):
            _dots(xq[i], weight, own[i])
    else:
        turned = np.empty((weight.shape[1], weight.shape[0]), np.float32)
        turn(weight, turned)
        by_turned(xq, turned, own)


@uncounted
def _dots(row: Any, weight: Any, out: Any) -> None:
    """out (M,) = weight (M, K) @ row (K,), by the processor's multiply-add where it has one."""
    for m in range(len(weight)):
        total = np.int32(0)
        for k in range(len(row)):
            total = np.int32(total + np.int32(np.int32(row[k]) * np.int32(weight[m, k])))
        out[m] = np.float32(total)


@uncounted
def turn(a: Any, turned: Any) -> None:
    """turned (K, M) = a (M, K)^T, integers; also as float32."""
    outputs, inputs = a.shape
    rows, columns = outputs - outputs % tile.SIDE, inputs - inputs % tile.SIDE
    for m in range(0, rows, tile.SIDE):
        for k in range(0, columns, tile.SIDE):
            tile.turn(a, turned, m, k)
    for m in range(outputs):
        for k in range(columns if m < rows else 0, inputs):
            turned[k, m] = a[m, k]


@jit
def by_turned(xq: Any, turned: Any, out: Any) -> None:
    """out (n, M) float32 = rows xq (n, K) int16 @ turned (K, M), of at most MAX_TERMS terms."""
    out[:] = np.float32(0)
    _add_products(xq.astype(np.float32), turned, out)


@jit
def in_float32(a: Any, b: Any, out: Any) -> None:
    """out (n, K) float32 = integers a (n, M) @ b (M, K), rounded once: `tensors.matmul`.

    Rows of a and out lie whole, those of b need not.
    """
    if b.strides[1] == b.itemsize:
        _in_whole_rows(a, b, out)
    else:
        _in_whole_rows(a, np.ascontiguousarray(b), out)


@jit
def _in_whole_rows(a: Any, b: Any, out: Any) -> None:
    """`in_float32`, where rows of b lie whole as well."""
    terms = a.shape[1]
    out[:] = np.float32(0)
    if terms <= MAX_TERMS:
        _add_part(a, b, out)
        return
    part, total = np.empty(out.shape, np.float32), np.zeros(out.shape, np.float64)
    for start in range(0, terms, MAX_TERMS):
        end = min(start + MAX_TERMS, terms)
        part[:] = np.float32(0)
        _add_part(a[:, start:end], b[start:end], part)
        for i in range(len(out)):
            for k in range(out.shape[1]):
                total[i, k] += part[i, k]
                out[i, k] = np.float32(total[i, k])


@jit
def _add_part(a: Any, b: Any, out: Any) -> None:
    """The products of at most MAX_TERMS terms, added."""
    if len(a) >= _MANY and b.itemsize < 4:  # narrower than float32
        _add_products(a, b.astype(np.float32), out)
    else:
        _add_products(a, b, out)


@uncounted
def _add_products(a: Any, b: Any, out: Any) -> None:
    """out (n, M) += a (n, K) float32 @ b (K, M): integers, of at most MAX_TERMS terms."""
    n, width, outputs = len(out), tile.width(), out.shape[1]
    wide = width * tile.ROWS
    rows, columns = n - n % tile.ROWS, outputs - outputs % width
    for j in range(0, columns, width):
        for i in range(0, rows, tile.ROWS):
            tile.add(a, b, out, i, j)
    for i in range(rows, n):
        for j in range(0, columns - columns % wide, wide):
            tile.add_row(a, b, out, i, j)
        for j in range(columns - columns % wide, columns, width):
            tile.add_part(a, b, out, i, j)
    for i in range(n if columns < outputs else 0):
        for k in range(len(b)):
            for j in range(columns, outputs):
                out[i, j] += a[i, k] * np.float32(b[k, j])
