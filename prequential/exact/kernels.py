"""Compiled loops for the CPU: the operations of `tensors`, one pass over memory each.

Every function here has the name and the arguments of one in `tensors`, whose docstring says more,
and computes the same bits. That holds because each loop does integer arithmetic, or single IEEE-754
operations on float32 in a fixed order; numba is never given `fastmath`, so the compiler may neither
reorder a sum nor contract a multiply-add.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.config import WEIGHT_BOUND
from prequential.exact import multiply, scalars
from prequential.exact.compiled import jit, uncounted
from prequential.exact.scalars import quantise_row

_BOUND = np.float32(WEIGHT_BOUND)
_GROUP_LIMIT = np.float32(scalars.GROUP_LIMIT)
_HALF = np.float32(0.5)
_THREE_HALVES = np.float32(1.5)
_DROPPED = np.int32(scalars.EXP2_ONE_BITS - scalars.SHARE_BITS)


@jit
def matmul(a: Any, b: Any, out: Any) -> None:
    """out (N, M) = a (N, K) @ b (K, M), integers; b may be of a narrow type."""
    multiply.in_float32(a, b, out)


@uncounted
def quantise_rows(x: Any, quantised: Any, scale: Any) -> None:
    """x (N, K) -> integers of magnitude <= 127 and one power of two per row, x ~ q * scale."""
    for i in range(x.shape[0]):
        scale[i] = quantise_row(x[i], quantised[i])


@jit
def quantise_columns(x: Any, quantised: Any, scale: Any) -> None:
    """x (N, K) ~ quantised * scale: one power of two per column (K,)."""
    rows, columns = x.shape
    inverse = np.empty(columns, np.float32)
    largest = np.zeros(columns, np.int32)
    for i in range(rows):
        for j in range(columns):
            largest[j] = max(largest[j], scalars.magnitude(x[i, j]))
    for j in range(columns):
        e = scalars.exponent(largest[j])
        scale[j] = scalars.power_of_two(e - 6)
        inverse[j] = scalars.power_of_two(260 - e)
    for i in range(rows):
        for j in range(columns):
            quantised[i, j] = scalars.rounded(x[i, j] * inverse[j])


@jit
def weight_gradient(dy: Any, xq: Any, streams: Any, group: Any, products: Any, scale: Any) -> None:
    """products (M, K) * scale[:, None] = dy^T @ xq, in groups of streams if group is above 0."""
    tokens, outputs = dy.shape
    columns, each = tokens // streams, max(group, 1)
    unit = scalars.unit_of(columns * each)
    part = np.empty(products.shape, np.float32)
    total = np.zeros(products.shape, np.int32)
    for b in range(0, streams, each):
        count = min(each, streams - b)
        own = np.empty((columns * count, outputs), np.float32)
        rows = np.empty((columns * count, products.shape[1]), np.float32)
        for i in range(len(rows)):
            r = i // count * streams + b + i % count
            for m in range(outputs):
                own[i, m] = dy[r, m]
            for k in range(products.shape[1]):
                rows[i, k] = xq[r, k]
        quantised = np.empty(own.shape, np.float32)
        quantise_columns(own, quantised, scale)
        multiply.in_float32(np.ascontiguousarray(quantised.T), rows, part)
        for i in range(outputs):
            f = scale[i] / unit
            for k in range(products.shape[1]):
                if group > 0:
                    held = min(max(part[i, k] * f, -_GROUP_LIMIT), _GROUP_LIMIT)
                    total[i, k] += np.int32(np.rint(held))
                    products[i, k] = total[i, k]
                else:
                    products[i, k] = part[i, k]
    if group > 0:
        scale[:] = unit


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
    """The heads first..end of products (n, 3D) * row[:, None] * column, each quantised."""
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
def rsqrt(x: Any) -> Any:
    """1 / sqrt(x), of one number."""
    y = scalars.float_of(scalars.RSQRT_SEED - (scalars.bits_of(x) >> 1))
    half = x * _HALF
    for _ in range(3):
        y = y * (_THREE_HALVES - (half * y) * y)
    return y


@uncounted
def norm_quantise(x: Any, quantised: Any, scale: Any, inverse_rms: Any) -> None:
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
        inverse_rms[i] = rsqrt(mean + scalars.NORM_EPSILON)
        scale[i] = s * inverse_rms[i]


@jit
def norm_backward(
    products: Any, row: Any, quantised: Any, scale: Any, inverse_rms: Any, dx: Any
) -> None:
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
            total = np.int32(total + np.int32(quantised[i, j]) * np.int32(dyq[j]))
        s = scale[i]
        mean = np.float32(total) * dy_scale * s / terms
        r = inverse_rms[i]
        slope = mean * s
        for j in range(columns):
            dx[i, j] += r * (dy[j] - quantised[i, j] * slope)


@uncounted
def scale_outer(products: Any, row: Any, column: Any, out: Any) -> None:
    """out (N, M) = products * row[:, None] * column[None, :]."""
    rows, columns = products.shape
    for i in range(rows):
        r = row[i]
        for j in range(columns):
            out[i, j] = products[i, j] * r * column[j]


@uncounted
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


@uncounted
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
    first: Any,
    window: Any,
    weights: Any,
    folded: Any,
    folded_scale: Any,
) -> None:
    """Softmax over the keys at distance 0..window, and its product with the values' scales."""
    groups, queries, keys = scores.shape
    power = np.empty(keys, np.int32)
    s = np.empty(keys, np.float32)
    of_key, of_value = np.empty(keys, np.float32), np.empty(keys, np.float32)
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
            top = np.int32(-0x7FFFFFFF)
            for k in range(n):
                s[k] = row[k] * (qs * own_key[k]) - slope * np.float32(n - 1 - k)
                top = max(top, scalars.ordered(s[k]))
            largest = scalars.float_of(scalars.ordered(scalars.float_of(top)))
            total = np.int32(0)
            for k in range(n):
                e = np.int32(scalars.exp2((s[k] - largest) * scalars.EXP2_UNIT) >> _DROPPED)
                power[k] = e
                total = np.int32(total + e)
            denominator = np.float32(total)
            for k in range(n):
                p = np.float32(power[k]) / denominator
                w[k] = p
                s[k] = p * own_value[k]
            folded_scale[g, i] = quantise_row(s[:n], f)


@jit
def attention(
    query: Any,
    query_scale: Any,
    key: Any,
    key_scale: Any,
    value: Any,
    value_scale: Any,
    slopes: Any,
    temperature: Any,
    first: Any,
    end: Any,
    weights: Any,
    mixed: Any,
    mixed_scale: Any,
) -> None:
    """What the heads first..end see: mixed (G, Tq, hs) * mixed_scale (G, Tq)."""
    queries, keys, hs = len(query), len(key), query.shape[2]
    window = keys - queries
    scores = np.empty((end - first, queries, keys), np.float32)
    row = np.empty(hs, np.int32)
    for i in range(queries):
        for g in range(first, end):
            for j in range(hs):
                row[j] = np.int32(query[i, g, j])
            for k in range(i, window + i + 1):
                total = np.int32(0)
                for j in range(hs):
                    total = np.int32(total + np.int32(row[j] * np.int32(key[k, g, j])))
                scores[g - first, i, k] = np.float32(total)
    share, folded = np.empty(scores.shape, np.float32), np.empty(scores.shape, np.float32)
    attention_weights(
        scores,
        query_scale[:, first:end],
        key_scale[:, first:end],
        value_scale[:, first:end],
        slopes[first:end],
        temperature,
        window,
        window,
        share,
        folded,
        mixed_scale[first:end],
    )
    for g in range(first, end):
        for i in range(queries):
            for k in range(keys):
                weights[g, i, k] = share[g - first, i, k]
            out = mixed[g, i]
            out[:] = np.float32(0)
            for k in range(i, window + i + 1):
                f = folded[g - first, i, k]
                for j in range(hs):
                    out[j] += f * value[k, g, j]


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
def attention_backward(
    doq: Any,
    do_scale: Any,
    dots: Any,
    query: Any,
    query_scale: Any,
    key: Any,
    key_scale: Any,
    value: Any,
    value_scale: Any,
    weights: Any,
    slope: Any,
    first: Any,
    end: Any,
    dy: Any,
) -> None:
    """The gradient dy (n, 3D) of queries, keys and values of the heads first..end."""
    columns, groups, hs = query.shape
    window = len(key) - columns
    streams, width = len(dy) // columns, dy.shape[1] // 3
    each = groups // streams
    visible = window + 1
    of_key, of_value = np.empty(len(key), np.float32), np.empty(len(key), np.float32)
    dscores, scaled = np.empty(visible, np.float32), np.empty(visible, np.float32)
    quantised = np.empty(visible, np.float32)
    for_key = np.empty((2, columns, columns), np.float32)
    for_value = np.empty(for_key.shape, np.float32)
    scales = np.empty((2, columns), np.float32)
    row = np.empty(hs, np.int32)
    out = np.empty(hs, np.float32)
    dk, dv = np.empty((columns, hs), np.float32), np.empty((columns, hs), np.float32)
    for g in range(first, end):
        stream, a = g // each, g % each * hs
        for k in range(len(key)):
            of_key[k] = key_scale[k, g]
            of_value[k] = value_scale[k, g]
        for_key[:] = for_value[:] = dk[:] = dv[:] = np.float32(0)
        for i in range(columns):
            f, d, q = do_scale[i, g], dots[i, g], query_scale[i, g]
            for j in range(hs):
                row[j] = np.int32(doq[i, g, j])
            for v in range(visible):
                total = np.int32(0)
                for j in range(hs):
                    total = np.int32(total + np.int32(row[j] * np.int32(value[i + v, g, j])))
                dscores[v] = np.float32(total)
            for v in range(visible):
                p = weights[g, i, i + v]
                dscores[v] = p * (dscores[v] * (f * of_value[i + v]) - d)
                scaled[v] = dscores[v] * of_key[i + v]
            scale = quantise_row(scaled, quantised)
            out[:] = np.float32(0)
            for v in range(visible):
                r = quantised[v]
                for j in range(hs):
                    out[j] += r * key[i + v, g, j]
            for j in range(hs):
                dy[i * streams + stream, a + j] = out[j] * scale * slope
            for k in range(max(0, i - window), i + 1):
                for_key[0, i, k] = dscores[window + k - i] * q
                for_value[0, i, k] = weights[g, i, window + k] * f
        quantise_columns(for_key[0], for_key[1], scales[0])
        quantise_columns(for_value[0], for_value[1], scales[1])
        for i in range(columns):
            for k in range(max(0, i - window), i + 1):
                r, s = for_key[1, i, k], for_value[1, i, k]
                for j in range(hs):
                    dk[k, j] += r * query[i, g, j]
                    dv[k, j] += s * doq[i, g, j]
        for k in range(columns):
            r, s = scales[0, k], scales[1, k]
            for j in range(hs):
                dy[k * streams + stream, width + a + j] = dk[k, j] * r * slope
                dy[k * streams + stream, 2 * width + a + j] = dv[k, j] * s


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
    xq = np.empty(x.shape, np.float32)
    scaled, dyq = np.empty(dy.shape, np.float32), np.empty(dy.shape, np.float32)
    x_scale, scale = np.empty(x.shape[0], np.float32), np.empty(width, np.float32)
    totals = np.empty(width, np.int64)
    quantise_rows(x, xq, x_scale)
    for i in range(rows):
        for j in range(width):
            dx[i, j] = dy[i, j]
    for k in range(1, taps.shape[0] + 1):
        delay = k * streams
        for i in range(rows - delay):
            for j in range(width):
                dx[i, j] += dy[i + delay, j] * taps[k - 1, j]
        for i in range(rows):
            f = x_scale[past - delay + i]
            for j in range(width):
                scaled[i, j] = dy[i, j] * f
        quantise_columns(scaled, dyq, scale)
        totals[:] = 0
        for i in range(rows):
            for j in range(width):
                product = np.int32(xq[past - delay + i, j]) * np.int32(dyq[i, j])
                totals[j] += np.int64(product)
        for j in range(width):
            gradient[k - 1, j] = np.float32(totals[j]) * scale[j]


@uncounted
def cell(
    gates: Any,
    scale: Any,
    inputs: Any,
    before: Any,
    active: Any,
    after: Any,
    squashed: Any,
    out: Any,
) -> None:
    """One step of H cells for n streams: their states after (n, H), and out (n, H)."""
    streams, H = out.shape
    one = np.float32(1)
    for b in range(streams):
        forget, candidate, output = active[b, :H], active[b, H : 2 * H], active[b, 2 * H :]
        for k, gate in enumerate((forget, candidate, output)):
            q, f, x = gates[3 * b + k], scale[3 * b + k], inputs[b, k * H : (k + 1) * H]
            for j in range(H):
                gate[j] = q[j] * f + x[j]
        for j in range(H):
            f = scalars.logistic(forget[j])
            c = scalars.tangent(candidate[j])
            o = scalars.logistic(output[j])
            state = f * before[b, j] + (one - f) * c
            s = scalars.tangent(state)
            forget[j], candidate[j], output[j] = f, c, o
            after[b, j] = state
            squashed[b, j] = s
            out[b, j] = o * s


@uncounted
def cell_backward(
    active: Any, before: Any, squashed: Any, dout: Any, dstate: Any, dseen: Any
) -> None:
    """dseen (n, 3H) of the gates; dstate (n, H), of the states after, becomes that before."""
    streams, H = dout.shape
    one = np.float32(1)
    for b in range(streams):
        forget, candidate, output = active[b, :H], active[b, H : 2 * H], active[b, 2 * H :]
        dforget, dcandidate, doutput = dseen[b, :H], dseen[b, H : 2 * H], dseen[b, 2 * H :]
        for j in range(H):
            f, c, o, s, g = forget[j], candidate[j], output[j], squashed[b, j], dout[b, j]
            d = dstate[b, j] + (g * o) * (one - s * s)
            dforget[j] = (d * (before[b, j] - c)) * (f * (one - f))
            dcandidate[j] = (d * (one - f)) * (one - c * c)
            doutput[j] = (g * s) * (o * (one - o))
            dstate[b, j] = d * f


@uncounted
def slide(rows: Any, step: int, kept: int) -> None:
    """rows[:kept] = rows[step : step + kept], which may overlap."""
    for i in range(kept):
        for j in range(rows.shape[1]):
            rows[i, j] = rows[i + step, j]


@uncounted
def descend(
    value: Any,
    mean: Any,
    square: Any,
    products: Any,
    product_scale: Any,
    quantised: Any,
    scale: Any,
    c: Any,
) -> None:
    """One optimizer step on value (M, K), which is quantised per row in the same pass."""
    rows, columns = value.shape
    rate = c[0]
    for i in range(rows):
        w, factor = value[i], product_scale[i]
        if len(c) == 4:
            beta2, unbias2, epsilon = c[1], c[2], c[3]
            keep2 = np.float32(1) - beta2
            for j in range(columns):
                g = products[i, j] * factor
                v = square[i, j] * beta2 + (g * g) * keep2
                square[i, j] = v
                w[j] = min(max(w[j] - (g * rsqrt(v * unbias2 + epsilon)) * rate, -_BOUND), _BOUND)
        elif len(c) > 1:
            beta1, beta2, unbias1, unbias2, epsilon = c[1], c[2], c[3], c[4], c[5]
            keep1, keep2 = np.float32(1) - beta1, np.float32(1) - beta2
            for j in range(columns):
                g = products[i, j] * factor
                m = mean[i, j] * beta1 + g * keep1
                v = square[i, j] * beta2 + (g * g) * keep2
                mean[i, j] = m
                square[i, j] = v
                r = rsqrt(v * unbias2 + epsilon)
                w[j] = min(max(w[j] - ((m * unbias1) * r) * rate, -_BOUND), _BOUND)
        else:
            for j in range(columns):
                w[j] = min(max(w[j] - (products[i, j] * factor) * rate, -_BOUND), _BOUND)
        scale[i] = quantise_row(w, quantised[i])
