"""Compiled loops for the CPU: the row-wise operations of `tensors`, one pass over memory each.

Every function here computes the same bits as the PyTorch form in `tensors`. That holds because
each loop does integer arithmetic, or single IEEE-754 operations on float32 in a fixed order; numba
is never given `fastmath`, so the compiler may neither reorder a sum nor contract a multiply-add.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.config import OPERAND_MAX, WEIGHT_BOUND
from prequential.exact.compiled import jit

_LIMIT = np.float32(OPERAND_MAX)
_BOUND = np.float32(WEIGHT_BOUND)
# Adding and subtracting 1.5 * 2^23 rounds a float32 below 2^22 to an integer, ties to even.
_MAGIC = np.float32(12582912.0)
_MAGNITUDE = np.int32(0x7FFFFFFF)
_HALF = np.float32(0.5)
_THREE_HALVES = np.float32(1.5)
_RSQRT_SEED = np.int32(0x5F375A86)

# A row's scale follows its largest magnitude, held between 2^-40 and 2^40.
_EXPONENT_LOW = np.int32(127 - 40)
_EXPONENT_HIGH = np.int32(127 + 40)

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


# Numbers are reinterpreted one by one, since the view of an array costs some 30 ns.
@jit
def _bits(x: Any) -> Any:
    return np.float32(x).view(np.int32)


@jit
def _float(bits: Any) -> Any:
    return np.int32(bits).view(np.float32)


@jit
def _magnitude(x: Any) -> Any:
    """The bits of a float32 but for its sign, which are in the order of magnitudes."""
    return _bits(x) & _MAGNITUDE


@jit
def _ordered(x: Any) -> Any:
    """An int32 for a float32, in the order of numbers; of its bits as a float32, the bits of x."""
    bits = _bits(x)
    return np.int32(bits ^ ((bits >> 31) & _MAGNITUDE))


@jit
def _exponent(bits: Any) -> Any:
    """The biased exponent of a float32's magnitude bits, held in range."""
    return min(max(np.int32(bits >> 23), _EXPONENT_LOW), _EXPONENT_HIGH)


@jit
def power_of_two(exponent: Any) -> Any:
    """The float32 with this biased exponent, that is 2^(exponent - 127)."""
    return _float(np.int32(exponent) << 23)


@jit
def _rounded(x: Any) -> Any:
    clipped = min(max(x, -_LIMIT), _LIMIT)
    return (clipped + _MAGIC) - _MAGIC


@jit
def quantise_row(x: Any, quantised: Any) -> Any:
    """One row (K,) of `quantise_rows`; its scale."""
    largest = np.int32(0)
    for j in range(len(x)):
        largest = max(largest, _magnitude(x[j]))
    e = _exponent(largest)
    inverse = power_of_two(260 - e)
    for j in range(len(x)):
        quantised[j] = _rounded(x[j] * inverse)
    return power_of_two(e - 6)


@jit
def quantise_rows(x: Any, quantised: Any, scale: Any) -> None:
    """x (N, K) -> integers of magnitude <= 127 and one power of two per row, x ~ q * scale."""
    for i in range(x.shape[0]):
        scale[i] = quantise_row(x[i], quantised[i])


@jit
def quantise_columns(x: Any, scale: Any) -> None:
    """x (N, K) in place, with one power of two per column."""
    rows, columns = x.shape
    inverse = np.empty(columns, np.float32)
    largest = np.zeros(columns, np.int32)
    for i in range(rows):
        for j in range(columns):
            largest[j] = max(largest[j], _magnitude(x[i, j]))
    for j in range(columns):
        e = _exponent(largest[j])
        scale[j] = power_of_two(e - 6)
        inverse[j] = power_of_two(260 - e)
    for i in range(rows):
        for j in range(columns):
            x[i, j] = _rounded(x[i, j] * inverse[j])


@jit
def unit_of(tokens: Any) -> Any:
    """2^-26 times the power of two that is at least so many tokens."""
    exponent = 127 - 26
    while tokens > 1:
        tokens -= tokens // 2
        exponent += 1
    return power_of_two(exponent)


@jit
def quantise_heads(
    products: Any,
    row: Any,
    column: Any,
    first: Any,
    end: Any,
    query: Any,
    query_scale: Any,
    key: Any,
    key_scale: Any,
    value: Any,
    value_scale: Any,
) -> None:
    """products (n, 3D) * row * column, split into parts and heads, each quantised.

    query, key and value are (columns, G, hs) with scales (columns, G), G = streams * heads; only
    the heads first..end of G are set.
    """
    columns, groups, hs = query.shape
    streams = products.shape[0] // columns
    heads = groups // streams
    y = np.empty((3, heads, hs), np.float32)
    scaled = y.reshape(1, y.size)
    for i in range(products.shape[0]):
        t, before = i // streams, i % streams * heads
        scale_outer(products[i : i + 1], row[i : i + 1], column, scaled)
        for g in range(max(first, before), min(end, before + heads)):
            h = g - before
            query_scale[t, g] = quantise_row(y[0, h], query[t, g])
            key_scale[t, g] = quantise_row(y[1, h], key[t, g])
            value_scale[t, g] = quantise_row(y[2, h], value[t, g])


@jit
def merge_heads(mixed: Any, scale: Any, quantised: Any, row_scale: Any) -> None:
    """mixed (G, columns, hs) * scale (G, columns), heads side by side, quantised by rows (n, D)."""
    columns, hs = mixed.shape[1:]
    rows, width = quantised.shape
    streams, heads = rows // columns, width // hs
    o = np.empty(width, np.float32)
    for i in range(rows):
        t, first = i // streams, i % streams * heads
        for h in range(heads):
            f = scale[first + h, t]
            for j in range(hs):
                o[h * hs + j] = mixed[first + h, t, j] * f
        row_scale[i] = quantise_row(o, quantised[i])


@jit
def _rsqrt(x: Any) -> Any:
    """1 / sqrt(x) of one positive float32: bit-trick seed, three Newton steps."""
    y = _float(_RSQRT_SEED - (_bits(x) >> 1))
    half = x * _HALF
    for _ in range(3):
        y = y * (_THREE_HALVES - (half * y) * y)
    return y


@jit
def norm_quantise(x: Any, epsilon: Any, quantised: Any, scale: Any, inverse_rms: Any) -> None:
    """RMS norm of quantised rows: x (N, K) / rms ~ q * scale, with scale = s * inverse_rms."""
    rows, columns = x.shape
    quantise_rows(x, quantised, scale)
    terms = np.float32(columns)
    for i in range(rows):
        total = np.int32(0)
        for j in range(columns):
            q = np.int32(quantised[i, j])
            total = np.int32(total + q * q)
        s = scale[i]
        mean = np.float32(total) * (s * s) / terms
        inverse_rms[i] = _rsqrt(mean + epsilon)
        scale[i] = s * inverse_rms[i]


@jit
def norm_backward(products: Any, row: Any, xq: Any, scale: Any, inverse_rms: Any, dx: Any) -> None:
    """dx (N, K) += the gradient through `norm_quantise` at dy = products * row[:, None]."""
    rows, columns = products.shape
    terms = np.float32(columns)
    dy, dyq = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for i in range(rows):
        f = row[i]
        for j in range(columns):
            dy[j] = products[i, j] * f
        dy_scale = quantise_row(dy, dyq)
        total = np.int32(0)
        for j in range(columns):
            total = np.int32(total + np.int32(xq[i, j]) * np.int32(dyq[j]))
        s = scale[i]
        mean = np.float32(total) * dy_scale * s / terms
        r = inverse_rms[i]
        slope = mean * s
        for j in range(columns):
            dx[i, j] += r * (dy[j] - xq[i, j] * slope)


@jit
def scale_outer(products: Any, row: Any, column: Any, out: Any) -> None:
    """out (N, M) = products * row[:, None] * column[None, :]."""
    rows, columns = products.shape
    for i in range(rows):
        r = row[i]
        for j in range(columns):
            out[i, j] = products[i, j] * r * column[j]


@jit
def add_scaled_outer(products: Any, row: Any, column: Any, first: Any, out: Any) -> None:
    """out[:, first : first + M] += products (N, M) * row[:, None] * column[None, :]."""
    rows, columns = products.shape
    for i in range(rows):
        r, o = row[i], out[i, first : first + columns]
        for j in range(columns):
            o[j] += products[i, j] * r * column[j]


@jit
def relu_squared(
    products: Any, row: Any, column: Any, positive: Any, quantised: Any, scale: Any
) -> None:
    """positive = max(products * row[:, None] * column, 0); its square, quantised by rows."""
    rows, columns = products.shape
    zero = np.float32(0)
    squared = np.empty(columns, np.float32)
    for i in range(rows):
        r = row[i]
        for j in range(columns):
            u = max(products[i, j] * r * column[j], zero)
            positive[i, j] = u
            squared[j] = u * u
        scale[i] = quantise_row(squared, quantised[i])


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
    of_key, of_value = np.empty(keys, np.float32), np.empty(keys, np.float32)
    unit = np.float32(1 << EXP2_FRACTION_BITS)
    floor = np.float32(-(31 << EXP2_FRACTION_BITS))
    mask = np.int32((1 << EXP2_FRACTION_BITS) - 1)
    shift = np.int32(EXP2_FRACTION_BITS)
    drop = np.int32(EXP2_ONE_BITS - 15)
    weights[:] = folded[:] = np.float32(0)
    for g in range(groups):
        slope = slopes[g]
        for k in range(keys):
            of_key[k] = key_scale[k, g]
            of_value[k] = value_scale[k, g]
        for i in range(queries):
            last = first + i
            visible = slice(max(0, last - window), last + 1)
            row, w, f = scores[g, i, visible], weights[g, i, visible], folded[g, i, visible]
            own_key, own_value = of_key[visible], of_value[visible]
            n = len(row)
            qs = query_scale[i, g] * temperature
            top = -_MAGNITUDE
            for k in range(n):
                s[k] = row[k] * (qs * own_key[k]) - slope * np.float32(n - 1 - k)
                top = max(top, _ordered(s[k]))
            largest = _float(_ordered(_float(top)))
            total = np.int32(0)
            for k in range(n):
                u = np.int32((max((s[k] - largest) * unit, floor) + _MAGIC) - _MAGIC)
                u = np.int32(-u)
                e = np.int32(np.int32(EXP2_TABLE[u & mask] >> drop) >> np.int32(u >> shift))
                power[k] = e
                total = np.int32(total + e)
            denominator = np.float32(total)
            magnitude = np.int32(0)
            for k in range(n):
                p = np.float32(power[k]) / denominator
                w[k] = p
                s[k] = p * own_value[k]
                magnitude = max(magnitude, _magnitude(s[k]))
            e = _exponent(magnitude)
            inverse = power_of_two(260 - e)
            for k in range(n):
                f[k] = _rounded(s[k] * inverse)
            folded_scale[g, i] = power_of_two(e - 6)


@jit
def split_gradient(
    products: Any, row: Any, oq: Any, o_scale: Any, doq: Any, do_scale: Any, dots: Any
) -> None:
    """The gradient products * row[:, None] (n, D) of attention's output oq * o_scale, by heads.

    doq (columns, G, hs) and do_scale (columns, G) are the quantised heads, dots (columns, G) their
    products with the output: sum_k weights * dweights of every query.
    """
    columns, hs = doq.shape[0], doq.shape[2]
    rows, width = products.shape
    streams, heads = rows // columns, width // hs
    do = np.empty(hs, np.float32)
    for i in range(rows):
        t, first = i // streams, i % streams * heads
        for h in range(heads):
            g = first + h
            for j in range(hs):
                do[j] = products[i, h * hs + j] * row[i]
            scale = quantise_row(do, doq[t, g])
            total = np.int32(0)
            for j in range(hs):
                product = np.int32(doq[t, g, j]) * np.int32(oq[i, h * hs + j])
                total = np.int32(total + product)
            do_scale[t, g] = scale
            dots[t, g] = np.float32(total) * (scale * o_scale[i])


@jit
def convolve(x: Any, taps: Any, streams: int, out: Any) -> None:
    """out (n, D) = x_t + sum_k taps[k - 1] * x_{t-k}; x (past + n, D), past = taps * streams."""
    rows, width = out.shape
    past = x.shape[0] - rows
    for i in range(rows):
        for j in range(width):
            out[i, j] = x[past + i, j]
        for k in range(1, taps.shape[0] + 1):
            before = past + i - k * streams
            for j in range(width):
                out[i, j] += x[before, j] * taps[k - 1, j]


@jit
def convolve_backward(dy: Any, x: Any, taps: Any, streams: int, dx: Any, gradient: Any) -> None:
    """dx (n, D) of the rows and gradient (taps, D) of `convolve` at dy (n, D).

    The sums over the rows are of integers, in 64 bits.
    """
    rows, width = dy.shape
    past = x.shape[0] - rows
    xq, scaled = np.empty(x.shape, np.float32), np.empty(dy.shape, np.float32)
    x_scale, scale = np.empty(x.shape[0], np.float32), np.empty(width, np.float32)
    totals = np.empty(width, np.int64)
    quantise_rows(x, xq, x_scale)
    dx[:] = dy
    for k in range(1, taps.shape[0] + 1):
        delay = k * streams
        for i in range(rows - delay):
            for j in range(width):
                dx[i, j] += dy[i + delay, j] * taps[k - 1, j]
        for i in range(rows):
            f = x_scale[past - delay + i]
            for j in range(width):
                scaled[i, j] = dy[i, j] * f
        quantise_columns(scaled, scale)
        totals[:] = 0
        for i in range(rows):
            for j in range(width):
                product = np.int32(xq[past - delay + i, j]) * np.int32(scaled[i, j])
                totals[j] += np.int64(product)
        for j in range(width):
            gradient[k - 1, j] = np.float32(totals[j]) * scale[j]


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
def gradient(frequencies: Any, symbols: Any, count: int, total_bits: int, out: Any) -> None:
    """out (n, V) float32 = frequencies / 2^total_bits, less 1 at each token's symbol.

    Rows from `count` on, past the end of the data, are 0 and teach nothing.
    """
    unit = power_of_two(127 - total_bits)
    for i in range(count):
        for s in range(out.shape[1]):
            out[i, s] = np.float32(frequencies[i, s]) * unit
        out[i, symbols[i]] -= np.float32(1)
    out[count:] = 0


@jit
def slide(rows: Any, step: int, kept: int) -> None:
    """rows[:kept] = rows[step : step + kept], which may overlap."""
    for i in range(kept):
        for j in range(rows.shape[1]):
            rows[i, j] = rows[i + step, j]


@jit
def adam_rows(
    weight: Any,
    mean: Any,
    square: Any,
    products: Any,
    product_scale: Any,
    quantised: Any,
    scale: Any,
    c: Any,
) -> None:
    """One Adam step on weight (M, K), whose gradient is products * product_scale[:, None].

    The new weights are quantised per row in the same pass. c (6,) are `Optimizer.advance`'s.
    """
    rate, beta1, beta2, unbias1, unbias2, epsilon = c[0], c[1], c[2], c[3], c[4], c[5]
    rows, columns = weight.shape
    keep1 = np.float32(1) - beta1
    keep2 = np.float32(1) - beta2
    for i in range(rows):
        factor = product_scale[i]
        for j in range(columns):
            g = products[i, j] * factor
            m = mean[i, j] * beta1 + g * keep1
            v = square[i, j] * beta2 + (g * g) * keep2
            mean[i, j] = m
            square[i, j] = v
            r = _rsqrt(v * unbias2 + epsilon)
            w = weight[i, j] - ((m * unbias1) * r) * rate
            weight[i, j] = min(max(w, -_BOUND), _BOUND)
        scale[i] = quantise_row(weight[i], quantised[i])
