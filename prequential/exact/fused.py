"""The operations of `tensors`, one Triton kernel each, for a GPU: the same names, the same bits.

Every kernel does what its PyTorch form does, element by element: single correctly rounded
operations, never contracted (`enable_fp_fusion=False`), divisions and roundings in their IEEE
forms, and sums of integers that float32 holds. The products inside of attention are of integers up
to 127, which the operands of tensor cores hold. Triton comes with the CUDA builds of PyTorch; where
it does not, the PyTorch form runs. The tests run the kernels in Triton's interpreter, too.
"""

# ruff: noqa: D103 - what a function does stands at its namesake
from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from prequential.config import MAX_TERMS, OPERAND_MAX, WEIGHT_BOUND
from prequential.exact import scalars, tensors

# Larger tiles do not fit a multiprocessor's registers.
_MOST_QUERIES, _MOST_KEYS = 32, 128


@triton.jit
def _powers(magnitude):
    """(2^(6 - e), 2^(e - 6)) for magnitudes in [2^e, 2^(e + 1)), -40 <= e <= 40."""
    e = magnitude.to(tl.int32, bitcast=True) >> 23
    e = tl.minimum(tl.maximum(e, 87), 167)
    inverse = ((260 - e) << 23).to(tl.float32, bitcast=True)
    return inverse, ((e - 6) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _nearest(x):
    """x below 2^22 rounded to an integer, ties to even."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def _held(x, limit):
    return tl.minimum(tl.maximum(x, -limit), limit)


@triton.jit
def _quantised(x, inverse):
    return _nearest(_held(x * inverse, 127.0))


@triton.jit
def _rsqrt(x):
    y = (0x5F375A86 - (x.to(tl.int32, bitcast=True) >> 1)).to(tl.float32, bitcast=True)
    half = x * 0.5
    y = y * (1.5 - (half * y) * y)
    y = y * (1.5 - (half * y) * y)
    return y * (1.5 - (half * y) * y)


@triton.jit
def _quantise_rows(x, quantised, scale, width, BLOCK: tl.constexpr):
    i, j = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = j < width
    row = tl.load(x + i * width + j, inside, 0.0)
    inverse, power = _powers(tl.max(tl.abs(row), 0))
    tl.store(quantised + i * width + j, _quantised(row, inverse), inside)
    tl.store(scale + i, power)


@triton.jit
def _quantise_groups(
    dy, dyq, scale, streams, first, each, width,
    n: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    g, j = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    largest = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, n, ROWS):
        r = start + tl.arange(0, ROWS)[:, None]
        i = (r // each) * streams + first + g * each + r % each
        inside = (r < n) & (j < width)
        x = tl.load(dy + i.to(tl.int64) * width + j, inside, 0.0)
        largest = tl.maximum(largest, tl.abs(x))
    inverse, power = _powers(tl.max(largest, 0)[None, :])
    tl.store(scale + g * width + j, power, j < width)
    for start in range(0, n, ROWS):
        r = start + tl.arange(0, ROWS)[:, None]
        i = (r // each) * streams + first + g * each + r % each
        inside = (r < n) & (j < width)
        x = tl.load(dy + i.to(tl.int64) * width + j, inside, 0.0)
        at = (g.to(tl.int64) * n + r) * width + j
        tl.store(dyq + at, _quantised(x, inverse), inside)


@triton.jit
def _add_groups(
    part, scale, per_unit, products, rows, width, limit,
    groups: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i, j = tl.program_id(0), tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.int32)
    own = part + i.to(tl.int64) * width + j
    for g in range(groups):
        x = tl.load(own, j < width, 0.0) * (tl.load(scale + g * rows + i) * per_unit)
        own += rows * width
        x = _held(x, limit)
        # Rounded, ties to even: from 2^23 on there are integers only.
        magnitude = tl.abs(x)
        near = tl.where(magnitude < 8388608.0, (magnitude + 8388608.0) - 8388608.0, magnitude)
        whole = near.to(tl.int32)
        total += tl.where(x < 0, -whole, whole)
    tl.store(products + i.to(tl.int64) * width + j, total.to(products.dtype.element_ty), j < width)


@triton.jit
def _adam(
    value, mean, square, products, product_scale, quantised, scale, c, width, bound,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i, j = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    at, inside = i * width + j, j < width
    rate, beta1, beta2 = tl.load(c), tl.load(c + 1), tl.load(c + 2)
    unbias1, unbias2, epsilon = tl.load(c + 3), tl.load(c + 4), tl.load(c + 5)
    gradient = tl.load(products + at, inside, 0.0) * tl.load(product_scale + i)
    m = tl.load(mean + at, inside, 0.0) * beta1 + gradient * (1.0 - beta1)
    v = tl.load(square + at, inside, 0.0) * beta2 + (gradient * gradient) * (1.0 - beta2)
    tl.store(mean + at, m, inside)
    tl.store(square + at, v, inside)
    inverse_root = _rsqrt(v * unbias2 + epsilon)
    w = tl.load(value + at, inside, 0.0) - ((m * unbias1) * inverse_root) * rate
    w = tl.where(inside, _held(w, bound), 0.0)
    tl.store(value + at, w, inside)
    inverse, power = _powers(tl.max(tl.abs(w), 0))
    tl.store(quantised + at, _quantised(w, inverse), inside)
    tl.store(scale + i, power)


@triton.jit
def _quantise_heads(
    products, row, column, query, query_scale, key, key_scale, value, value_scale,
    heads, hs, HEADS: tl.constexpr, HS: tl.constexpr,
):  # fmt: skip
    i, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    h, j = tl.arange(0, HEADS)[:, None], tl.arange(0, HS)[None, :]
    width = heads * hs
    inside = (h < heads) & (j < hs)
    own = h * hs + j
    x = tl.load(products + i * 3 * width + part * width + own, inside, 0.0) * tl.load(row + i)
    x = x * tl.load(column + part * width + own, inside, 0.0)
    inverse, power = _powers(tl.max(tl.abs(x), 1))
    x = _quantised(x, inverse[:, None])
    at, scale_at = i * width + own, i * heads + tl.arange(0, HEADS)
    of_head = tl.arange(0, HEADS) < heads
    if part == 0:
        tl.store(query + at, x, inside)
        tl.store(query_scale + scale_at, power, of_head)
    elif part == 1:
        tl.store(key + at, x, inside)
        tl.store(key_scale + scale_at, power, of_head)
    else:
        tl.store(value + at, x, inside)
        tl.store(value_scale + scale_at, power, of_head)


@triton.jit
def _merge_heads(
    mixed, scale, quantised, row_scale, columns, streams, heads, hs,
    HEADS: tl.constexpr, HS: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    t, s = i // streams, i % streams
    h, j = tl.arange(0, HEADS)[:, None], tl.arange(0, HS)[None, :]
    inside = (h < heads) & (j < hs)
    at = (s * heads + h) * columns + t
    x = tl.load(mixed + at * hs + j, inside, 0.0) * tl.load(scale + at, h < heads, 0.0)
    inverse, power = _powers(tl.max(tl.max(tl.abs(x), 1), 0))
    tl.store(quantised + i * heads * hs + h * hs + j, _quantised(x, inverse), inside)
    tl.store(row_scale + i, power)


@triton.jit
def _norm_quantise(x, terms, epsilon, quantised, scale, inverse_rms, width, BLOCK: tl.constexpr):
    i, j = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = j < width
    row = tl.load(x + i * width + j, inside, 0.0)
    inverse, power = _powers(tl.max(tl.abs(row), 0))
    q = _quantised(row, inverse)
    mean = tl.div_rn(tl.sum(q * q, 0) * (power * power), terms)
    inverse_root = _rsqrt(mean + epsilon)
    tl.store(quantised + i * width + j, q, inside)
    tl.store(inverse_rms + i, inverse_root)
    tl.store(scale + i, power * inverse_root)


@triton.jit
def _norm_backward(products, terms, row, xq, scale, inverse_rms, dx, width, BLOCK: tl.constexpr):
    i, j = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    at, inside = i * width + j, j < width
    dy = tl.load(products + at, inside, 0.0) * tl.load(row + i)
    inverse, power = _powers(tl.max(tl.abs(dy), 0))
    q, s = tl.load(xq + at, inside, 0.0), tl.load(scale + i)
    total = tl.sum(q * _quantised(dy, inverse), 0)
    slope = tl.div_rn(total * power * s, terms) * s
    change = tl.load(inverse_rms + i) * (dy - q * slope)
    tl.store(dx + at, tl.load(dx + at, inside, 0.0) + change, inside)


@triton.jit
def _scale_outer(products, row, column, out, width, ADD: tl.constexpr, BLOCK: tl.constexpr):
    i, j = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    at, inside = i * width + j, j < width
    x = tl.load(products + at, inside, 0.0) * tl.load(row + i) * tl.load(column + j, inside, 0.0)
    if ADD:
        x = tl.load(out + at, inside, 0.0) + x
    tl.store(out + at, x, inside)


@triton.jit
def _relu_squared(products, row, column, positive, quantised, scale, width, BLOCK: tl.constexpr):
    i, j = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    at, inside = i * width + j, j < width
    x = tl.load(products + at, inside, 0.0) * tl.load(row + i) * tl.load(column + j, inside, 0.0)
    x = tl.maximum(x, 0.0)
    tl.store(positive + at, x, inside)
    squared = x * x
    inverse, power = _powers(tl.max(squared, 0))
    tl.store(quantised + at, _quantised(squared, inverse), inside)
    tl.store(scale + i, power)


@triton.jit
def _relu_squared_backward(products, row, positive, out, width, BLOCK: tl.constexpr):
    i, j = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    at, inside = i * width + j, j < width
    x = tl.load(products + at, inside, 0.0) * tl.load(row + i)
    tl.store(out + at, x * (tl.load(positive + at, inside, 0.0) * 2.0), inside)


@triton.jit
def _convolve(x, taps, out, past, streams, width, TAPS: tl.constexpr, BLOCK: tl.constexpr):
    i, j = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = j < width
    y = tl.load(x + (past + i) * width + j, inside, 0.0)
    for k in tl.static_range(TAPS):
        before = tl.load(x + (past + i - (k + 1) * streams) * width + j, inside, 0.0)
        y = y + before * tl.load(taps + k * width + j, inside, 0.0)
    tl.store(out + i * width + j, y, inside)


@triton.jit
def _slide(rows, distance, width, kept: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]
    i = tl.arange(0, ROWS)[:, None]  # no more than the distance, so none is overwritten unread
    own = rows + i.to(tl.int64) * width + j
    for start in range(0, kept, ROWS):
        inside = (start + i < kept) & (j < width)
        tl.store(own, tl.load(own + distance, inside), inside)
        own += ROWS * width


@triton.jit
def _attend(
    query, query_scale, key, key_scale, value, value_scale, slopes, table, weights, mixed,
    mixed_scale, temperature, first, queries, keys, window, hs, of_query, of_key, of_query_scale,
    of_key_scale, of_head, of_row,
    Q: tl.constexpr, K: tl.constexpr, HS: tl.constexpr,
):  # fmt: skip
    g = tl.program_id(0).to(tl.int64) + first
    i, k, j = tl.arange(0, Q), tl.arange(0, K), tl.arange(0, HS)
    of_i, of_k = i[:, None] < queries, k[:, None] < keys
    inside = j[None, :] < hs
    own = g * hs + j[None, :]
    q = tl.load(query + i[:, None] * of_query + own, of_i & inside, 0.0)
    qs = tl.load(query_scale + i * of_query_scale + g, i < queries, 0.0) * temperature
    x = tl.load(key + k[:, None] * of_key + own, of_k & inside, 0.0)
    ks = tl.load(key_scale + k * of_key_scale + g, k < keys, 0.0)
    scores = tl.dot(q, tl.trans(x), input_precision="tf32")  # (Q, K)
    distance = window + i[:, None] - k[None, :]
    visible = (distance >= 0) & (distance <= window) & (k[None, :] < keys)
    s = scores * (qs[:, None] * ks[None, :]) - tl.load(slopes + g) * distance.to(tl.float32)
    s = tl.where(visible, s, -3e38)
    s = s - tl.max(s, 1)[:, None]
    u = -_nearest(tl.maximum(s, -31.0) * 2048.0).to(tl.int32)
    power = (tl.load(table + (u & 2047)) >> (u >> 11)) >> 15
    power = tl.where(visible, power, 0)
    total = tl.sum(power, 1).to(tl.float32)
    total = tl.where(i < queries, total, 1.0)
    share = tl.div_rn(power.to(tl.float32), tl.broadcast_to(total[:, None], (Q, K)))
    tl.store(
        weights + g * of_head + i[:, None] * of_row + k[None, :],
        share,
        of_i & (k[None, :] < keys),
    )
    vs = tl.load(value_scale + k * of_key_scale + g, k < keys, 0.0)
    folded = share * vs[None, :]
    inverse, scale = _powers(tl.max(tl.abs(folded), 1))
    folded = _quantised(folded, inverse[:, None])
    x = tl.load(value + k[:, None] * of_key + own, of_k & inside, 0.0)
    seen = tl.dot(folded, x, input_precision="tf32")  # (Q, HS)
    tl.store(mixed + (g * queries + i[:, None]) * hs + j[None, :], seen, of_i & inside)
    tl.store(mixed_scale + g * queries + i, scale, i < queries)


@triton.jit
def _split_gradient(
    products, row, oq, o_scale, doq, do_scale, dots, heads, hs,
    HEADS: tl.constexpr, HS: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    h, j = tl.arange(0, HEADS), tl.arange(0, HS)[None, :]
    inside = (h[:, None] < heads) & (j < hs)
    at = i * heads * hs + h[:, None] * hs + j
    do = tl.load(products + at, inside, 0.0) * tl.load(row + i)
    inverse, power = _powers(tl.max(tl.abs(do), 1))
    q = _quantised(do, inverse[:, None])
    total = tl.sum(q * tl.load(oq + at, inside, 0.0), 1)
    tl.store(doq + at, q, inside)
    tl.store(do_scale + i * heads + h, power, h < heads)
    tl.store(dots + i * heads + h, total * (power * tl.load(o_scale + i)), h < heads)


@triton.jit
def _attend_backward(
    doq, do_scale, dots, query, query_scale, key, key_scale, value, value_scale, weights, dy,
    slope, first, queries, keys, window, streams, heads, hs, of_query, of_key, of_query_scale,
    of_key_scale, of_head, of_row,
    Q: tl.constexpr, K: tl.constexpr, HS: tl.constexpr,
):  # fmt: skip
    g = tl.program_id(0).to(tl.int64) + first
    stream, h = g // heads, g % heads
    i, k, j = tl.arange(0, Q), tl.arange(0, K), tl.arange(0, HS)
    of_i, of_k = i[:, None] < queries, k[:, None] < keys
    inside = j[None, :] < hs
    own = g * hs + j[None, :]
    r = i * streams + stream  # rows of the chunk
    at = i * (streams * heads) + g
    do = tl.load(doq + at[:, None] * hs + j[None, :], of_i & inside, 0.0)
    do_power = tl.load(do_scale + at, i < queries, 0.0)
    dot = tl.load(dots + at, i < queries, 0.0)
    # The gradient of the scores.
    share = tl.load(
        weights + g * of_head + i[:, None] * of_row + k[None, :],
        of_i & (k[None, :] < keys),
        0.0,
    )
    x = tl.load(value + k[:, None] * of_key + own, of_k & inside, 0.0)
    vs = tl.load(value_scale + k * of_key_scale + g, k < keys, 0.0)
    dweights = tl.dot(do, tl.trans(x), input_precision="tf32")
    dscores = share * (dweights * (do_power[:, None] * vs[None, :]) - dot[:, None])
    # That of the queries.
    ks = tl.load(key_scale + k * of_key_scale + g, k < keys, 0.0)
    by_key = dscores * ks[None, :]
    inverse, scale = _powers(tl.max(tl.abs(by_key), 1))
    by_key = _quantised(by_key, inverse[:, None])
    x = tl.load(key + k[:, None] * of_key + own, of_k & inside, 0.0)
    dq = tl.dot(by_key, x, input_precision="tf32")
    out = dy + r[:, None] * (3 * heads * hs) + h * hs + j[None, :]
    tl.store(out, (dq * scale[:, None]) * slope, of_i & inside)
    # Those of the chunk's own keys and values.
    t = k - window
    out = dy + (t * streams + stream)[:, None] * (3 * heads * hs) + h * hs + j[None, :]
    new = (t[:, None] >= 0) & of_k & inside
    q = tl.load(query + i[:, None] * of_query + own, of_i & inside, 0.0)
    qs = tl.load(query_scale + i * of_query_scale + g, i < queries, 0.0)
    by_query = dscores * qs[:, None]
    inverse, scale = _powers(tl.max(tl.abs(by_query), 0))
    by_query = _quantised(by_query, inverse[None, :])
    dk = tl.dot(tl.trans(by_query), q, input_precision="tf32")
    tl.store(out + heads * hs, (dk * scale[:, None]) * slope, new)
    by_do = share * do_power[:, None]
    inverse, scale = _powers(tl.max(tl.abs(by_do), 0))
    by_do = _quantised(by_do, inverse[None, :])
    dv = tl.dot(tl.trans(by_do), do, input_precision="tf32")
    tl.store(out + 2 * heads * hs, dv * scale[:, None], new)


def _block(width: int, least: int = 1) -> int:
    return max(least, 1 << (width - 1).bit_length())


def _run(kernel: Any, grid: tuple[int, ...], *arguments: Any, **sizes: Any) -> None:
    kernel[grid](*arguments, **sizes, enable_fp_fusion=False)


def _by_rows(kernel: Any, shape: torch.Size, *arguments: Any, **sizes: Any) -> None:
    """One program for each row of this shape."""
    rows, width = shape
    if rows:
        _run(kernel, (rows,), *arguments, width, **sizes, BLOCK=_block(width))


def quantise_rows(x: Tensor, quantised: Tensor, scale: Tensor) -> None:
    """See `tensors.quantise_rows`, and so on."""
    x = x.contiguous().view(-1, x.shape[-1])
    _by_rows(_quantise_rows, x.shape, x, quantised, scale)


def quantise_groups(dy: Tensor, streams: int, first: int, dyq: Tensor, scale: Tensor) -> None:
    groups, n, width = dyq.shape
    each, block = n // (len(dy) // streams), 32
    grid = groups, triton.cdiv(width, block)
    arguments = dy, dyq, scale, streams, first, each, width
    _run(_quantise_groups, grid, *arguments, n=n, ROWS=64, BLOCK=block)


def add_groups(part: Tensor, scale: Tensor, per_unit: float, products: Tensor) -> None:
    groups, rows, width = part.shape
    arguments = part, scale, per_unit, products, rows, width, float(scalars.GROUP_LIMIT)
    _run(_add_groups, (rows,), *arguments, groups=groups, BLOCK=_block(width))


def descend(
    value: Tensor,
    mean: Tensor,
    square: Tensor,
    products: Tensor,
    product_scale: Tensor,
    quantised: Tensor,
    scale: Tensor,
    c: np.ndarray | Tensor,
) -> None:
    c = torch.as_tensor(c, device=value.device)
    if len(c) != 6:  # of a model there is only Adam
        _steps(tensors.descend)(value, mean, square, products, product_scale, quantised, scale, c)
        return
    rows, width = value.shape
    arguments = value, mean, square, products, product_scale, quantised, scale, c, width
    _run(_adam, (rows,), *arguments, WEIGHT_BOUND, BLOCK=_block(width))


def quantise_heads(
    products: Tensor,
    row: Tensor,
    column: Tensor,
    first: int,
    end: int,
    query: Tensor,
    query_scale: Tensor,
    key: Tensor,
    key_scale: Tensor,
    value: Tensor,
    value_scale: Tensor,
) -> None:
    hs, heads = query.shape[2], products.shape[1] // 3 // query.shape[2]
    assert end - first == query.shape[1]  # all of them
    arguments = (
        products, row, column, query, query_scale, key, key_scale, value, value_scale, heads, hs
    )  # fmt: skip
    sizes = {"HEADS": _block(heads), "HS": _block(hs)}
    _run(_quantise_heads, (len(products), 3), *arguments, **sizes)


def merge_heads(mixed: Tensor, scale: Tensor, quantised: Tensor, row_scale: Tensor) -> None:
    groups, columns, hs = mixed.shape
    streams, heads = len(quantised) // columns, quantised.shape[1] // hs
    assert groups == streams * heads
    arguments = mixed, scale, quantised, row_scale, columns, streams, heads, hs
    sizes = {"HEADS": _block(heads), "HS": _block(hs)}
    _run(_merge_heads, (len(quantised),), *arguments, **sizes)


def norm_quantise(x: Tensor, quantised: Tensor, scale: Tensor, inverse_rms: Tensor) -> None:
    terms, epsilon = float(x.shape[1]), float(scalars.NORM_EPSILON)
    _by_rows(_norm_quantise, x.shape, x, terms, epsilon, quantised, scale, inverse_rms)


def norm_backward(
    products: Tensor, row: Tensor, quantised: Tensor, scale: Tensor, inverse_rms: Tensor, dx: Tensor
) -> None:
    terms = float(dx.shape[1])
    _by_rows(_norm_backward, dx.shape, products, terms, row, quantised, scale, inverse_rms, dx)


def scale_outer(products: Tensor, row: Tensor, column: Tensor, out: Tensor) -> None:
    _by_rows(_scale_outer, out.shape, products, row, column, out, ADD=False)


def add_scaled_outer(
    products: Tensor, row: Tensor, column: Tensor, first: int, out: Tensor
) -> None:
    assert first == 0
    assert out.shape == products.shape
    _by_rows(_scale_outer, out.shape, products, row, column, out, ADD=True)


def relu_squared(
    products: Tensor,
    row: Tensor,
    column: Tensor,
    positive: Tensor,
    quantised: Tensor,
    scale: Tensor,
) -> None:
    _by_rows(_relu_squared, products.shape, products, row, column, positive, quantised, scale)


def relu_squared_backward(products: Tensor, row: Tensor, positive: Tensor, out: Tensor) -> None:
    _by_rows(_relu_squared_backward, out.shape, products, row, positive, out)


def convolve(x: Tensor, taps: Tensor, streams: int, out: Tensor) -> None:
    arguments = x, taps, out, len(x) - len(out), streams
    _by_rows(_convolve, out.shape, *arguments, TAPS=len(taps))


def slide(rows: Tensor, step: int, kept: int) -> None:
    width = rows[0].numel()
    at_once, block = 1 << min(max(1, step).bit_length() - 1, 4), 256
    sizes = {"kept": kept, "ROWS": at_once, "BLOCK": block}
    _run(_slide, (triton.cdiv(width, block),), rows, step * width, width, **sizes)


def attention(
    query: Tensor,
    query_scale: Tensor,
    key: Tensor,
    key_scale: Tensor,
    value: Tensor,
    value_scale: Tensor,
    slopes: Tensor,
    temperature: np.float32,
    first: int,
    end: int,
    weights: Tensor,
    mixed: Tensor,
    mixed_scale: Tensor,
) -> None:
    queries, hs = len(query), query.shape[2]
    operands = query, query_scale, key, key_scale, value, value_scale, slopes
    if queries > _MOST_QUERIES or len(key) > _MOST_KEYS:
        results = weights, mixed, mixed_scale
        _steps(tensors.attention)(*operands, temperature, first, end, *results)
        return
    arguments = (
        *operands, _table(query.device), weights, mixed, mixed_scale, float(temperature), first,
        queries, len(key), len(key) - queries, hs,
        *_strides(query, query_scale, key, key_scale, weights),
    )  # fmt: skip
    _run(_attend, (end - first,), *arguments, **_tiles(queries, len(key), hs))


def split_gradient(
    products: Tensor,
    row: Tensor,
    oq: Tensor,
    o_scale: Tensor,
    doq: Tensor,
    do_scale: Tensor,
    dots: Tensor,
) -> None:
    hs, heads = doq.shape[2], products.shape[1] // doq.shape[2]
    arguments = products, row, oq, o_scale, doq, do_scale, dots, heads, hs
    _run(_split_gradient, (len(products),), *arguments, HEADS=_block(heads), HS=_block(hs))


def attention_backward(
    doq: Tensor,
    do_scale: Tensor,
    dots: Tensor,
    query: Tensor,
    query_scale: Tensor,
    key: Tensor,
    key_scale: Tensor,
    value: Tensor,
    value_scale: Tensor,
    weights: Tensor,
    slope: np.float32,
    first: int,
    end: int,
    dy: Tensor,
) -> None:
    queries, groups, hs = query.shape
    operands = (
        doq, do_scale, dots, query, query_scale, key, key_scale, value, value_scale, weights
    )  # fmt: skip
    if queries > _MOST_QUERIES or len(key) > _MOST_KEYS:
        _steps(tensors.attention_backward)(*operands, slope, first, end, dy)
        return
    streams = len(dy) // queries
    arguments = (
        *operands, dy, float(slope), first, queries, len(key), len(key) - queries, streams,
        groups // streams, hs, *_strides(query, query_scale, key, key_scale, weights),
    )  # fmt: skip
    _run(_attend_backward, (end - first,), *arguments, **_tiles(queries, len(key), hs))


def _steps(operation: Any) -> Any:
    """PyTorch's form of an operation."""
    return operation.__wrapped__


def _strides(
    query: Tensor, query_scale: Tensor, key: Tensor, key_scale: Tensor, weights: Tensor
) -> list[int]:
    rows = [x.stride(0) for x in (query, key, query_scale, key_scale, weights)]
    return [*rows, weights.stride(1)]


def _tiles(queries: int, keys: int, hs: int) -> dict[str, int]:
    # A tensor core takes 16 rows at least.
    return {"Q": _block(queries, 16), "K": _block(keys, 16), "HS": _block(hs, 16)}


@cache
def _table(device: torch.device) -> Tensor:
    return torch.from_numpy(scalars.EXP2_TABLE).to(device)


def holds(device: torch.device) -> bool:
    """Whether a GPU's products of integers are exact at the bound, in each form that a model takes.

    The forms are those of a linear layer forward, to its input, and of its weights' gradient for
    groups, all at sizes that tensor cores take, and attention's in a kernel.
    """
    terms, largest = MAX_TERMS, OPERAND_MAX
    generator = torch.Generator().manual_seed(1)
    a = torch.randint(-largest, largest + 1, (2, 256, terms), generator=generator)
    a[:, ::3] = largest * (2 * torch.randint(2, (2, 86, terms), generator=generator) - 1)
    a[0, 0], a[0, 1] = largest, -largest
    x = a.float().to(device)
    exact = (x.double() @ x.double().transpose(1, 2)).float()
    columns = x.transpose(1, 2).contiguous()
    products = x[0] @ x[0].T, x[0] @ columns[0], x @ columns, columns.transpose(1, 2) @ columns
    if not all(torch.equal(y, exact if y.dim() == 3 else exact[0]) for y in products):
        return False
    heads = [x[0, :8, :128].reshape(8, 2, 64), x[1, :64, :128].reshape(64, 2, 64).contiguous()]
    query, key = heads[0].contiguous(), heads[1]
    ones, slopes = torch.ones_like(key[..., 0]), torch.full_like(x[0, 0, :2], 0.125)
    scales = ones[:8] * 2.0**-12, ones, ones
    results = []
    for attention in (tensors.attention, _steps(tensors.attention)):
        made = [torch.zeros(*shape, device=device) for shape in ((2, 8, 64), (2, 8, 64), (2, 8))]
        attention(
            query, scales[0], key, scales[1], key, scales[2], slopes, np.float32(0.25), 0, 2, *made
        )
        results.append(made)
    return all(torch.equal(y, z) for y, z in zip(*results, strict=True))
