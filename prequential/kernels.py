"""Compiled loops for the CPU: the row-wise operations of `numerics`, one pass over memory each.

Every function here computes the same bits as the PyTorch form in `numerics`. That holds because
each loop does integer arithmetic, or single IEEE-754 operations on float32 in a fixed order; numba
is never given `fastmath`, so the compiler may neither reorder a sum nor contract a multiply-add.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from prequential.config import OPERAND_MAX

_LIMIT = np.float32(OPERAND_MAX)
# Adding and subtracting 1.5 * 2^23 rounds a float32 below 2^22 to an integer, ties to even.
_MAGIC = np.float32(12582912.0)
_MAGNITUDE = np.int32(0x7FFFFFFF)
_HALF = np.float32(0.5)
_THREE_HALVES = np.float32(1.5)
_RSQRT_SEED = np.int32(0x5F375A86)
_ONE_BITS = np.int32(1)

# A row's scale follows its largest magnitude, held between 2^-40 and 2^40.
_EXPONENT_LOW = 127 - 40
_EXPONENT_HIGH = 127 + 40

# POWERS[e] is the float32 with biased exponent e, that is 2^(e - 127).
POWERS = (np.arange(256, dtype=np.int32) << 23).view(np.float32)

EXP2_FRACTION_BITS = 11
EXP2_ONE_BITS = 30


def _exp2_table() -> Any:
    """round(2^30 * 2^(-i / 2048)) for i in 0..2047, from integers only.

    >>> _exp2_table()[[0, 1024]]
    array([1073741824,  759250125], dtype=int32)
    """
    import math

    guard = 200
    step = 1 << (guard - 1)  # 1/2, then its square root eleven times
    for _ in range(EXP2_FRACTION_BITS):
        step = math.isqrt(step << guard)
    values, value = [], 1 << guard
    for _ in range(1 << EXP2_FRACTION_BITS):
        values.append((value + (1 << (guard - EXP2_ONE_BITS - 1))) >> (guard - EXP2_ONE_BITS))
        value = value * step >> guard
    return np.array(values, dtype=np.int32)


EXP2_TABLE = _exp2_table()

jit: Any = numba.njit(cache=True, nogil=True, error_model="numpy")


@jit
def _exponent(bits: Any) -> Any:
    """The biased exponent of a float32's magnitude bits, held in range."""
    return min(max(bits >> 23, _EXPONENT_LOW), _EXPONENT_HIGH)


@jit
def _rounded(x: Any) -> Any:
    clipped = min(max(x, -_LIMIT), _LIMIT)
    return (clipped + _MAGIC) - _MAGIC


@jit
def quantise_rows(x: Any, quantised: Any, scale: Any) -> None:
    """x (N, K) -> integers of magnitude <= 127 and one power of two per row, x ~ q * scale."""
    rows, columns = x.shape
    bits = x.view(np.int32)
    for i in range(rows):
        largest = np.int32(0)
        for j in range(columns):
            largest = max(largest, bits[i, j] & _MAGNITUDE)
        e = _exponent(largest)
        inverse = POWERS[260 - e]
        for j in range(columns):
            quantised[i, j] = _rounded(x[i, j] * inverse)
        scale[i] = POWERS[e - 6]


@jit
def quantise_rows_scaled(x: Any, factor: Any, quantised: Any, scale: Any, buffer: Any) -> None:
    """As `quantise_rows` of x * factor[None, :]; buffer (K,) is scratch."""
    rows, columns = x.shape
    bits = buffer.view(np.int32)
    for i in range(rows):
        for j in range(columns):
            buffer[j] = x[i, j] * factor[j]
        largest = np.int32(0)
        for j in range(columns):
            largest = max(largest, bits[j] & _MAGNITUDE)
        e = _exponent(largest)
        inverse = POWERS[260 - e]
        for j in range(columns):
            quantised[i, j] = _rounded(buffer[j] * inverse)
        scale[i] = POWERS[e - 6]


@jit
def quantise_columns_scaled(x: Any, factor: Any, quantised: Any, scale: Any, buffer: Any) -> None:
    """As `quantise_rows` of x * factor[:, None], but one scale per column; buffer (K,) scratch."""
    rows, columns = x.shape
    largest = buffer.view(np.int32)
    largest[:] = 0
    for i in range(rows):
        f = factor[i]
        for j in range(columns):
            quantised[i, j] = x[i, j] * f
        magnitudes = quantised[i].view(np.int32)
        for j in range(columns):
            largest[j] = max(largest[j], magnitudes[j] & _MAGNITUDE)
    for j in range(columns):
        e = _exponent(largest[j])
        scale[j] = POWERS[e - 6]
        buffer[j] = POWERS[260 - e]
    for i in range(rows):
        for j in range(columns):
            quantised[i, j] = _rounded(quantised[i, j] * buffer[j])


@jit
def _rsqrt(x: Any, cell: Any) -> Any:
    """1 / sqrt(x) of one positive float32: bit-trick seed, three Newton steps; cell is scratch."""
    cell[0] = x
    bits = cell.view(np.int32)
    bits[0] = _RSQRT_SEED - (bits[0] >> _ONE_BITS)
    y = cell[0]
    half = x * _HALF
    for _ in range(3):
        y = y * (_THREE_HALVES - (half * y) * y)
    return y


@jit
def norm_quantise(x: Any, epsilon: Any, quantised: Any, scale: Any, inverse_rms: Any) -> None:
    """RMS norm of quantised rows: x (N, K) / rms ~ q * scale, with scale = s * inverse_rms."""
    rows, columns = x.shape
    quantise_rows(x, quantised, scale)
    cell = np.empty(1, np.float32)
    terms = np.float32(columns)
    for i in range(rows):
        total = np.int32(0)
        for j in range(columns):
            q = np.int32(quantised[i, j])
            total += np.int32(q * q)
        s = scale[i]
        mean = np.float32(total) * (s * s) / terms
        inverse_rms[i] = _rsqrt(mean + epsilon, cell)
        scale[i] = s * inverse_rms[i]


@jit
def norm_backward(
    dy: Any, xq: Any, scale: Any, inverse_rms: Any, dyq: Any, dy_scale: Any, dx: Any
) -> None:
    """dx (N, K) += the gradient through `norm_quantise`, given dy and its quantised rows."""
    rows, columns = dy.shape
    terms = np.float32(columns)
    for i in range(rows):
        total = np.int32(0)
        for j in range(columns):
            total += np.int32(np.int32(xq[i, j]) * np.int32(dyq[i, j]))
        s = scale[i]
        mean = np.float32(total) * dy_scale[i] * s / terms
        r = inverse_rms[i]
        slope = mean * s
        for j in range(columns):
            dx[i, j] += r * (dy[i, j] - xq[i, j] * slope)


@jit
def scale_outer(products: Any, row: Any, column: Any, out: Any) -> None:
    """out (N, M) = products * row[:, None] * column[None, :]."""
    rows, columns = products.shape
    for i in range(rows):
        r = row[i]
        for j in range(columns):
            out[i, j] = products[i, j] * r * column[j]


@jit
def add_scaled_outer(products: Any, row: Any, column: Any, out: Any) -> None:
    """out (N, M) += products * row[:, None] * column[None, :]."""
    rows, columns = products.shape
    for i in range(rows):
        r = row[i]
        for j in range(columns):
            out[i, j] += products[i, j] * r * column[j]


@jit
def relu_squared(products: Any, row: Any, column: Any, positive: Any, squared: Any) -> None:
    """positive = max(products * row[:, None] * column, 0); squared = positive^2."""
    rows, columns = products.shape
    zero = np.float32(0)
    for i in range(rows):
        r = row[i]
        for j in range(columns):
            u = max(products[i, j] * r * column[j], zero)
            positive[i, j] = u
            squared[i, j] = u * u


@jit
def relu_squared_backward(products: Any, row: Any, positive: Any, out: Any) -> None:
    """out = products * row[:, None] * (2 * positive)."""
    rows, columns = products.shape
    two = np.float32(2)
    for i in range(rows):
        r = row[i]
        for j in range(columns):
            out[i, j] = (products[i, j] * r) * (positive[i, j] * two)


@jit
def attention_weights(
    scores: Any,
    query_scale: Any,
    key_scale: Any,
    value_scale: Any,
    slopes: Any,
    temperature: Any,
    first: int,
    window: int,
    weights: Any,
    folded: Any,
    folded_scale: Any,
) -> None:
    """Softmax over the keys at distance 0..window, and its product with the values' scales.

    scores (G, Tq, Nk) integers; query_scale (Tq, G); key_scale, value_scale (Nk, G); slopes (G,).
    Query i stands at key position first + i. weights (G, Tq, Nk) are the probabilities; folded
    holds weights * value_scale as integers with one power of two per row in folded_scale (G, Tq).
    """
    groups, queries, keys = scores.shape
    power = np.empty(keys, np.int32)
    s = np.empty(keys, np.float32)
    bits = s.view(np.int32)
    unit = np.float32(1 << EXP2_FRACTION_BITS)
    floor = np.float32(-(31 << EXP2_FRACTION_BITS))
    mask = np.int32((1 << EXP2_FRACTION_BITS) - 1)
    shift = np.int32(EXP2_FRACTION_BITS)
    drop = np.int32(EXP2_ONE_BITS - 15)
    zero = np.float32(0)
    for g in range(groups):
        slope = slopes[g]
        for i in range(queries):
            last = first + i
            start = max(0, last - window)
            qs = query_scale[i, g] * temperature
            top = np.float32(-3e38)
            for k in range(start, last + 1):
                s[k] = scores[g, i, k] * (qs * key_scale[k, g]) - slope * np.float32(last - k)
                top = max(top, s[k])
            total = np.int64(0)
            for k in range(start, last + 1):
                u = np.int32((max((s[k] - top) * unit, floor) + _MAGIC) - _MAGIC)
                u = np.int32(-u)
                e = np.int32(np.int32(EXP2_TABLE[u & mask] >> drop) >> np.int32(u >> shift))
                power[k] = e
                total += e
            denominator = np.float32(total)
            largest = np.int32(0)
            for k in range(start, last + 1):
                p = np.float32(power[k]) / denominator
                weights[g, i, k] = p
                s[k] = p * value_scale[k, g]
                largest = max(largest, bits[k] & _MAGNITUDE)
            e = _exponent(largest)
            inverse = POWERS[260 - e]
            for k in range(start):
                weights[g, i, k] = zero
                folded[g, i, k] = zero
            for k in range(start, last + 1):
                folded[g, i, k] = _rounded(s[k] * inverse)
            for k in range(last + 1, keys):
                weights[g, i, k] = zero
                folded[g, i, k] = zero
            folded_scale[g, i] = POWERS[e - 6]


@jit
def to_int16(x: Any, out: Any) -> None:
    """out (N, K) int16 = the integers x (N, K)."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = np.int16(x[i, j])


@jit
def row_dots(a: Any, a_scale: Any, b: Any, b_scale: Any, out: Any) -> None:
    """out[i] = sum_j a[i, j] * b[i, j] of integer rows, times both rows' scales."""
    rows, columns = a.shape
    for i in range(rows):
        total = np.int32(0)
        for j in range(columns):
            total += np.int32(np.int32(a[i, j]) * np.int32(b[i, j]))
        out[i] = np.float32(total) * (a_scale[i] * b_scale[i])


@jit
def attention_backward(
    products: Any, do_scale: Any, value_scale: Any, dots: Any, weights: Any, dscores: Any
) -> None:
    """dscores = weights * (products * do_scale * value_scale - dots).

    products, weights, dscores (G, Tq, Nk); do_scale, dots (Tq, G); value_scale (Nk, G).
    """
    groups, queries, keys = products.shape
    for g in range(groups):
        for i in range(queries):
            d = dots[i, g]
            f = do_scale[i, g]
            for k in range(keys):
                dscores[g, i, k] = weights[g, i, k] * (
                    products[g, i, k] * (f * value_scale[k, g]) - d
                )


@jit
def frequencies(logits: Any, total_bits: int, out: Any) -> None:
    """Logits (N, V) in nats -> integer frequencies (N, V), each >= 1, rows summing to 2^total_bits.

    e_s = 2^((l_s - max l) log2 e) from the table, then 1 + floor(e_s * (2^total_bits - V) / sum e);
    what the floors leave goes to the first of the largest.
    """
    rows, symbols = logits.shape
    unit = np.float32(1.4426950408889634 * (1 << EXP2_FRACTION_BITS))
    floor = np.float32(-(30 << EXP2_FRACTION_BITS))
    mask = np.int32((1 << EXP2_FRACTION_BITS) - 1)
    shift = np.int32(EXP2_FRACTION_BITS)
    budget = (1 << total_bits) - symbols
    power = np.empty(symbols, np.int32)
    for i in range(rows):
        best = 0
        top = logits[i, 0]
        for s in range(1, symbols):
            if logits[i, s] > top:
                top = logits[i, s]
                best = s
        total = np.int64(0)
        for s in range(symbols):
            u = np.int32((max((logits[i, s] - top) * unit, floor) + _MAGIC) - _MAGIC)
            u = np.int32(-u)
            e = np.int32(EXP2_TABLE[u & mask] >> np.int32(u >> shift))
            power[s] = e
            total += e
        ratio = np.float64(budget) / np.float64(total)
        left = np.int64(budget)
        for s in range(symbols):
            f = np.int64(np.float64(power[s]) * ratio)
            out[i, s] = f + 1
            left -= f
        out[i, best] += left


@jit
def adam_rows(
    weight: Any,
    mean: Any,
    square: Any,
    products: Any,
    product_scale: Any,
    quantised: Any,
    scale: Any,
    rate: Any,
    beta1: Any,
    beta2: Any,
    unbias1: Any,
    unbias2: Any,
    epsilon: Any,
    bound: Any,
) -> None:
    """One Adam step on weight (M, K), whose gradient is products * product_scale[:, None].

    The new weights are quantised per row in the same pass. unbias = 1 / (1 - beta^step).
    """
    rows, columns = weight.shape
    keep1 = np.float32(1) - beta1
    keep2 = np.float32(1) - beta2
    y = np.empty(columns, np.float32)
    bits = y.view(np.int32)
    for i in range(rows):
        factor = product_scale[i]
        for j in range(columns):
            g = products[i, j] * factor
            m = mean[i, j] * beta1 + g * keep1
            v = square[i, j] * beta2 + (g * g) * keep2
            mean[i, j] = m
            square[i, j] = v
            y[j] = v * unbias2 + epsilon
        for j in range(columns):
            bits[j] = _RSQRT_SEED - (bits[j] >> _ONE_BITS)
        for j in range(columns):
            half = (square[i, j] * unbias2 + epsilon) * _HALF
            r = y[j]
            r = r * (_THREE_HALVES - (half * r) * r)
            r = r * (_THREE_HALVES - (half * r) * r)
            r = r * (_THREE_HALVES - (half * r) * r)
            w = weight[i, j] - ((mean[i, j] * unbias1) * r) * rate
            weight[i, j] = min(max(w, -bound), bound)
    quantise_rows(weight, quantised, scale)
