"""The exact operations: what the transformer computes with, on any device, with the same bits.

Two rules (docs/NUMERICS.md has the argument). Every sum runs over integers that its type holds
exactly, so no order, thread count, vector width or device can change it. Every other operation is
one correctly rounded IEEE-754 operation on float32.

Real numbers enter a sum as integers of magnitude at most 127 times a power of two per row
(`quantise_rows`). Because the scale belongs to the row, a token's result does not depend on what
else is in the batch: a whole chunk and a single column give equal bits.

This is the definition, in PyTorch, for any device. On the CPU the loops of `kernels` run, of the
same names and arguments: a learner chooses once. On a GPU most operations are one kernel of `fused`
each. The tests hold them together bit for bit.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from prequential.config import MAX_TERMS, OPERAND_MAX, WEIGHT_BOUND
from prequential.exact import scalars
from prequential.exact.dispatch import in_one_kernel

_HIDDEN = float(np.float32(-3e38))  # the score of a key that is not seen
_LOW, _HIGH = int(scalars.EXPONENT_LOW), int(scalars.EXPONENT_HIGH)


def _powers(magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """(2^(6 - e), 2^(e - 6)) for magnitudes in [2^e, 2^(e + 1)), -40 <= e <= 40."""
    exponent = (magnitude.view(torch.int32) >> 23).clamp(_LOW, _HIGH)
    return ((260 - exponent) << 23).view(torch.float32), ((exponent - 6) << 23).view(torch.float32)


def _round(x: Tensor) -> Tensor:
    return x.clamp(-OPERAND_MAX, OPERAND_MAX).round()


def matmul(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out = a @ b for integers of magnitude <= 127: (N, K) @ (K, M) or batched.

    Up to 1040 terms fit float32 exactly, whatever adds them: a processor's vectors, or the tensor
    cores of a GPU, whose operands (TF32: 11 bits) hold 127. Longer sums are cut into such blocks.
    Two of them add up in one rounding of a float32; more are added in float64 (exact up to 2^53),
    and the total is rounded once.
    """
    starts = range(0, a.shape[-1], MAX_TERMS)
    if len(starts) == 1:
        torch.matmul(a, b, out=out)
        return
    blocks = (
        torch.matmul(a[..., start : start + MAX_TERMS], b[..., start : start + MAX_TERMS, :])
        for start in starts
    )
    if len(starts) == 2:
        out.copy_(next(blocks)).add_(next(blocks))
        return
    total = torch.zeros(out.shape, dtype=torch.float64, device=out.device)
    for block in blocks:
        total += block.double()
    out.copy_(total)


@in_one_kernel
def quantise_rows(x: Tensor, quantised: Tensor, scale: Tensor) -> None:
    """x (..., K) ~ quantised * scale[..., None]: integers up to 127, a power of two per row."""
    inverse, power = _powers(x.abs().amax(-1))
    quantised.copy_(_round(x * inverse[..., None]))
    scale.copy_(power)


def quantise_columns(x: Tensor, quantised: Tensor, scale: Tensor) -> None:
    """x (..., N, K) ~ quantised * scale[..., None, :]: one power of two per column (..., K)."""
    inverse, power = _powers(x.abs().amax(-2))
    quantised.copy_(_round(x * inverse[..., None, :]))
    scale.copy_(power)


def weight_gradient(
    dy: Tensor, xq: Tensor, streams: int, group: int, products: Tensor, scale: Tensor
) -> None:
    """products (M, K) * scale[:, None] = dy^T @ xq of rows dy (N, M) and integer rows xq (N, K).

    dy gets one scale per column. With a group, each group of so many streams has scales of its own;
    then every group's gradient is rounded to a multiple of one unit, within a limit, so that the
    groups' sum is of integers below 2^31, and no order of adding changes it. Where products is
    int32, it receives them exactly.
    """
    columns, each = len(dy) // streams, group or streams
    count, rest = -(-streams // each), streams % each
    part = torch.empty((count, *products.shape), device=dy.device)  # (groups, M, K)
    scales = part.new_empty(count, len(scale))
    # All groups in one product each, but for a last one that is smaller.
    whole = count - (rest > 0)
    for groups, size in ((slice(0, whole), each), (slice(whole, count), rest)):
        n, first = groups.stop - groups.start, groups.start * each
        if n > 0 and size > 0:
            dyq = part.new_empty(n, columns * size, len(scale))
            _quantise_groups(dy, streams, first, dyq, scales[groups])
            own = xq.view(columns, streams, -1)[:, first : first + n * size]
            own = own.reshape(columns, n, size, -1).transpose(0, 1).reshape(n, columns * size, -1)
            matmul(dyq.transpose(1, 2), own, part[groups])
    if group:
        unit = float(scalars.unit_of(columns * group))
        _add_groups(part, scales, 1.0 / unit, products)
        scale.fill_(unit)
    else:
        products.copy_(part[0])
        scale.copy_(scales[0])


@in_one_kernel
def _quantise_groups(dy: Tensor, streams: int, first: int, dyq: Tensor, scale: Tensor) -> None:
    """dy (N, M) of groups of streams from `first` on, each group quantised by columns.

    dyq (groups, n, M) are integers, scale (groups, M); rows of dy are in the order of time.
    """
    groups, n, outputs = dyq.shape
    columns = len(dy) // streams
    each = n // columns
    x = dy.view(columns, streams, outputs)[:, first : first + groups * each]
    x = x.reshape(columns, groups, each, outputs).transpose(0, 1)
    quantise_columns(x.reshape(dyq.shape), dyq, scale)


@in_one_kernel
def _add_groups(part: Tensor, scale: Tensor, per_unit: float, products: Tensor) -> None:
    """products (M, K) = the sum of part (groups, M, K) * scale (groups, M) in units, rounded."""
    part = part * (scale * per_unit)[:, :, None]
    part = part.clamp_(-scalars.GROUP_LIMIT, scalars.GROUP_LIMIT).round_()
    products.copy_(part.sum(0, dtype=torch.float64))


@in_one_kernel
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
    """products (n, 3D) * row[:, None] * column split into parts and heads, each head quantised.

    query, key and value are integers (columns, G, hs) with scales (columns, G), where G = streams *
    heads; those of the heads first..end are set.
    """
    columns, groups, hs = query.shape
    y = products * row[:, None] * column
    # (n, 3D) -> (3, columns, G, hs)
    parts = y.view(columns, -1, 3, y.shape[1] // (3 * hs), hs).permute(2, 0, 1, 3, 4)
    parts = parts.reshape(3, columns, groups, hs)[:, :, first:end]
    targets = (query, query_scale), (key, key_scale), (value, value_scale)
    for part, (target, scale) in zip(parts, targets, strict=True):
        quantise_rows(part, target[:, first:end], scale[:, first:end])


@in_one_kernel
def merge_heads(mixed: Tensor, scale: Tensor, quantised: Tensor, row_scale: Tensor) -> None:
    """mixed (G, columns, hs) * scale (G, columns), heads side by side, quantised by rows (n, D)."""
    o = (mixed * scale[:, :, None]).transpose(0, 1)  # (columns, G, hs)
    quantise_rows(o.reshape(quantised.shape), quantised, row_scale)


def rsqrt(x: Tensor) -> Tensor:
    """1 / sqrt(x) for positive float32: a bit-trick seed, then three Newton steps."""
    y = (int(scalars.RSQRT_SEED) - (x.view(torch.int32) >> 1)).view(torch.float32)
    half = x * 0.5
    for _ in range(3):
        y = y * (1.5 - (half * y) * y)
    return y


@in_one_kernel
def norm_quantise(x: Tensor, quantised: Tensor, scale: Tensor, inverse_rms: Tensor) -> None:
    """RMS norm and quantisation: x / rms(x) ~ quantised * scale[:, None].

    The mean square is that of the integers. scale (N,) = power of two * inverse_rms (N,).
    Source: Zhang & Sennrich 2019, without gains.
    """
    quantise_rows(x, quantised, scale)
    terms = torch.full_like(scale, x.shape[1])
    mean = (quantised * quantised).sum(-1) * (scale * scale) / terms
    inverse_rms.copy_(rsqrt(mean + float(scalars.NORM_EPSILON)))
    scale.mul_(inverse_rms)


@in_one_kernel
def norm_backward(
    products: Tensor, row: Tensor, quantised: Tensor, scale: Tensor, inverse_rms: Tensor, dx: Tensor
) -> None:
    """dx (N, K) += the gradient of `norm_quantise` at products (N, K) * row[:, None].

    It passes straight through the rounding.
    """
    dy = products * row[:, None]
    dyq, dy_scale = torch.empty_like(dy), torch.empty_like(scale)
    quantise_rows(dy, dyq, dy_scale)
    terms = torch.full_like(scale, dy.shape[1])
    mean = (quantised * dyq).sum(-1) * dy_scale * scale / terms
    slope = mean * scale
    dx.add_(inverse_rms[:, None] * (dy - quantised * slope[:, None]))


@in_one_kernel
def scale_outer(products: Tensor, row: Tensor, column: Tensor, out: Tensor) -> None:
    """out (N, M) = products * row[:, None] * column[None, :]."""
    out.copy_(products * row[:, None] * column)


@in_one_kernel
def add_scaled_outer(
    products: Tensor, row: Tensor, column: Tensor, first: int, out: Tensor
) -> None:
    """out[:, first : first + M] += products (N, M) * row[:, None] * column[None, :]."""
    out[:, first : first + len(column)].add_(products * row[:, None] * column)


@in_one_kernel
def relu_squared(
    products: Tensor,
    row: Tensor,
    column: Tensor,
    positive: Tensor,
    quantised: Tensor,
    scale: Tensor,
) -> None:
    """positive = max(products * row * column, 0); its square, quantised by rows.

    Source: So et al. 2021, Primer.
    """
    positive.copy_((products * row[:, None] * column).clamp(min=0.0))
    quantise_rows(positive * positive, quantised, scale)


@in_one_kernel
def relu_squared_backward(products: Tensor, row: Tensor, positive: Tensor, out: Tensor) -> None:
    """out = products * row[:, None] * 2 * positive."""
    out.copy_((products * row[:, None]) * (positive * 2.0))


def attention_weights(
    scores: Tensor,
    query_scale: Tensor,
    key_scale: Tensor,
    value_scale: Tensor,
    slopes: Tensor,
    temperature: np.float32,
    first: int,
    window: int,
    weights: Tensor,
    folded: Tensor,
    folded_scale: Tensor,
) -> None:
    """Causal softmax over a window with linear biases, folded with the values' scales.

    scores (G, Tq, Nk) are integer products of queries and keys; query_scale (Tq, G), key_scale
    and value_scale (Nk, G); slopes (G,), in bits per position; temperature turns scores into bits.
    Query i stands at key position first + i and sees the keys at distance 0 .. window. Written are
    weights (G, Tq, Nk), the probabilities, and weights * value_scale quantised per row: folded and
    folded_scale (G, Tq).
    Source: Vaswani et al. 2017; Press et al. 2022 (ALiBi).
    """
    _, queries, keys = scores.shape
    device = scores.device
    position = torch.arange(first, first + queries, device=device)
    distance = position[:, None] - torch.arange(keys, device=device)  # (Tq, Nk)
    visible = (distance >= 0) & (distance <= window)
    scale = (query_scale * float(temperature)).T[:, :, None] * key_scale.T[:, None, :]
    s = scores * scale - slopes[:, None, None] * distance.float()  # (G, Tq, Nk)
    s = torch.where(visible, s, torch.full_like(s, _HIDDEN))
    s = s - s.amax(-1, keepdim=True)
    power = _exp2(s * float(scalars.EXP2_UNIT)) >> (scalars.EXP2_ONE_BITS - scalars.SHARE_BITS)
    power = torch.where(visible, power, torch.zeros_like(power))
    weights.copy_(power.float() / power.sum(-1, keepdim=True).float())
    quantise_rows(weights * value_scale.T[:, None, :], folded, folded_scale)


@in_one_kernel
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
    """What the heads first..end of G see: mixed (G, Tq, hs) integers, mixed_scale (G, Tq).

    query (Tq, G, hs) with query_scale (Tq, G); key and value (Nk, G, hs) with scales (Nk, G), those
    of Nk - Tq positions before the queries and of their own. Each query sees itself and as many
    before it. weights (G, Tq, Nk) receives the probabilities.
    """
    heads, window = slice(first, end), len(key) - len(query)
    # (G, Tq, hs) @ (G, hs, Nk)
    queries, keys = query[:, heads].transpose(0, 1), key[:, heads].permute(1, 2, 0)
    scores = query.new_empty(end - first, len(query), len(key))
    matmul(queries, keys, scores)
    share, folded = torch.empty_like(scores), torch.empty_like(scores)
    scales = query_scale[:, heads], key_scale[:, heads], value_scale[:, heads]
    attention_weights(
        scores, *scales, slopes[heads], temperature, window, window, share, folded,
        mixed_scale[heads],
    )  # fmt: skip
    weights[heads] = share
    matmul(folded, value[:, heads].transpose(0, 1), mixed[heads])  # (G, Tq, Nk) @ (G, Nk, hs)


@cache
def _exp2_table(device: torch.device) -> Tensor:
    """Copied to a device once: a copy waits for the host, and cannot be captured in a graph."""
    return torch.from_numpy(scalars.EXP2_TABLE).to(device)


def _exp2(x: Tensor) -> Tensor:
    """2^30 * 2^(x / 2048) for x <= 0, rounded down, as int32: `scalars.exp2`."""
    bits = scalars.EXP2_FRACTION_BITS
    u = -x.clamp(min=float(scalars.EXP2_FLOOR)).round().to(torch.int32)
    return _exp2_table(x.device)[(u & ((1 << bits) - 1)).long()] >> (u >> bits)


@in_one_kernel
def split_gradient(
    products: Tensor,
    row: Tensor,
    oq: Tensor,
    o_scale: Tensor,
    doq: Tensor,
    do_scale: Tensor,
    dots: Tensor,
) -> None:
    """The gradient products * row[:, None] (n, D) of attention's output oq * o_scale, by heads.

    doq (columns, G, hs) and do_scale (columns, G) are the quantised heads, dots (columns, G) their
    products with the output, which is sum_k weights * dweights of every query.
    """
    hs = doq.shape[2]
    do = (products * row[:, None]).view(-1, hs)
    quantise_rows(do, doq.view(-1, hs), do_scale.view(-1))
    outputs = o_scale[:, None].expand(-1, products.shape[1] // hs).reshape(dots.shape)
    dots.copy_((doq * oq.view(doq.shape)).sum(-1) * (do_scale * outputs))


@in_one_kernel
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
    """The gradient dy (n, 3D) of queries, keys and values at the heads' outputs, side by side.

    Those of the heads first..end are set. Outputs' gradients doq (T, G, hs), do_scale and dots are
    `split_gradient`'s, weights (G, T, Nk) and the others as in `attention`. Cached keys and values
    are constants, so only the chunk's own are differentiated. slope is d(score) / d(query . key).
    """
    heads, columns = slice(first, end), len(query)
    window, keys = len(key) - columns, len(key)
    doq, query, key, value = (x[:, heads].transpose(0, 1) for x in (doq, query, key, value))
    do_scale, dots, query_scale, key_scale, value_scale = (
        x.T[heads, :, None] for x in (do_scale, dots, query_scale, key_scale, value_scale)
    )
    weights = weights[heads, :columns, :keys]
    new = doq.new_empty
    # dscores = weights * (do . value - dots), (G, T, Nk)
    dscores = new(len(doq), columns, keys)
    matmul(doq, value.transpose(1, 2), dscores)
    dscores = weights * (dscores * (do_scale * value_scale.transpose(1, 2)) - dots)
    for_query, scale = torch.empty_like(dscores), new(dscores.shape[:2])
    quantise_rows(dscores * key_scale.transpose(1, 2), for_query, scale)
    parts = new(3, *doq.shape)  # (3, G, T, hs)
    matmul(for_query, key, parts[0])
    parts[0] *= scale[:, :, None]
    for part, by_key, rows in (
        (parts[1], dscores[:, :, window:] * query_scale, query),
        (parts[2], weights[:, :, window:] * do_scale, doq),
    ):
        quantised, scale = torch.empty_like(by_key), new(by_key.shape[:2])
        quantise_columns(by_key, quantised, scale)
        matmul(quantised.transpose(1, 2), rows, part)
        part *= scale[:, :, None]
    parts[:2] *= float(slope)
    streams, hs = len(dy) // columns, doq.shape[2]
    # (3, G, T, hs) -> (T, G, 3, hs): a stream's heads have their place in each third of dy's row.
    each = dy.shape[1] // (3 * hs)
    target = dy.view(columns, streams, 3, each, hs).permute(2, 1, 3, 0, 4)
    whole = target.clone(memory_format=torch.contiguous_format)
    whole.view(3, -1, columns, hs)[:, heads] = parts
    target.copy_(whole)


@in_one_kernel
def convolve(x: Tensor, taps: Tensor, streams: int, out: Tensor) -> None:
    """out (n, D) = x_t + sum_k taps[k - 1] * x_{t-k}: x (past + n, D), past = taps * streams."""
    n, past = out.shape[0], x.shape[0] - out.shape[0]
    y = x[past:]
    for k, tap in enumerate(taps, start=1):
        y = y + x[past - k * streams :][:n] * tap
    out.copy_(y)


def convolve_backward(
    dy: Tensor, x: Tensor, taps: Tensor, streams: int, dx: Tensor, gradient: Tensor
) -> None:
    """dx (n, D) of the rows and gradient (taps, D) of `convolve` at dy (n, D).

    The gradient sums integers over the rows, in float64 or int64: exact below 2^53.
    """
    n, past = dy.shape[0], x.shape[0] - dy.shape[0]
    dx.copy_(dy)
    xq, x_scale = torch.empty_like(x), x.new_empty(x.shape[0])
    quantise_rows(x, xq, x_scale)
    for k, tap in enumerate(taps, start=1):
        delay = k * streams
        if delay < n:
            dx[: n - delay] += dy[delay:] * tap
        rows = slice(past - delay, past - delay + n)
        dyq, scale = dy.new_empty(1, *dy.shape), dy.new_empty(1, dy.shape[1])
        _quantise_groups(dy * x_scale[rows, None], 1, 0, dyq, scale)
        gradient[k - 1] = _column_sums(xq[rows], dyq[0]).float() * scale[0]


def cell(
    gates: Tensor,
    scale: Tensor,
    inputs: Tensor,
    before: Tensor,
    active: Tensor,
    after: Tensor,
    squashed: Tensor,
    out: Tensor,
) -> None:
    """One step of H cells whose forget and input gates are coupled, for n streams: out (n, H).

    gates (3n, H) * scale (3n,) + inputs (n, 3H) are what the forget gate f, the candidate c and the
    output gate o see of a stream, side by side; active (n, 3H) receives them. The cells' states
    before (n, H) become after = f before + (1 - f) c, and out = o squashed, squashed = tanh after.
    Source: Hochreiter & Schmidhuber 1997; Greff et al. 2017 (coupled gates).
    """
    H = out.shape[1]
    seen = (gates * scale[:, None]).view(inputs.shape) + inputs
    candidate = slice(H, 2 * H)
    active.copy_(_logistic(seen))
    active[:, candidate] = _tangent(seen[:, candidate])
    f, c, o = active[:, :H], active[:, candidate], active[:, 2 * H :]
    after.copy_(f * before + (1.0 - f) * c)
    squashed.copy_(_tangent(after))
    out.copy_(o * squashed)


def cell_backward(
    active: Tensor, before: Tensor, squashed: Tensor, dout: Tensor, dstate: Tensor, dseen: Tensor
) -> None:
    """dseen (n, 3H), the gradient at what the gates of `cell` see, from dout (n, H).

    dstate (n, H), the gradient of the states after, becomes that of the states before.
    """
    H = dout.shape[1]
    f, c, o = active[:, :H], active[:, H : 2 * H], active[:, 2 * H :]
    d = dstate + (dout * o) * (1.0 - squashed * squashed)
    dseen[:, :H] = (d * (before - c)) * (f * (1.0 - f))
    dseen[:, H : 2 * H] = (d * (1.0 - f)) * (1.0 - c * c)
    dseen[:, 2 * H :] = (dout * squashed) * (o * (1.0 - o))
    dstate.copy_(d * f)


def _squashed(x: Tensor) -> Tensor:
    """65536 / (1 + e^(-x / 256)), rounded to an integer first, as float32: see `scalars`."""
    limit = scalars.LOGIT_MAX
    at = x.clamp(-limit, limit).round().to(torch.int32) + (limit + 1)
    return _squash_table(x.device)[at.long()].float()


@cache
def _squash_table(device: torch.device) -> Tensor:
    return torch.from_numpy(scalars.SQUASH).to(device)


def _logistic(x: Tensor) -> Tensor:
    return _squashed(x * float(scalars.LOGISTIC_UNIT)) * float(scalars.LOGISTIC_PART)


def _tangent(x: Tensor) -> Tensor:
    return _squashed(x * float(scalars.TANGENT_UNIT)) * float(scalars.TANGENT_PART) - 1.0


@in_one_kernel
def slide(rows: Tensor, step: int, kept: int) -> None:
    """rows[:kept] = rows[step : step + kept], which may overlap."""
    rows[:kept] = rows[step : step + kept].clone()


def _column_sums(a: Tensor, b: Tensor) -> Tensor:
    """sum_n a[n, :] * b[n, :] (K,) of integer rows (N, K) in float64, exact below 2^53."""
    return (a * b).sum(0, dtype=torch.float64)


@in_one_kernel
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
    """One optimizer step on value (M, K), whose gradient is products * product_scale[:, None].

    mean and square (M, K) are Adam's moments; quantised and scale follow value. c are the constants
    of `Optimizer.advance`: of Adam (6,), or of plain gradient descent (1,); or, of Adam without
    a mean (4,), rate, beta2, 1 / (1 - beta2^step) and epsilon.
    """
    gradient = products * product_scale[:, None]
    rate, *of_adam = torch.as_tensor(c, device=value.device).unbind()
    if len(of_adam) == 3:
        beta2, unbias2, epsilon = of_adam
        square.copy_(square * beta2 + (gradient * gradient) * (1.0 - beta2))
        gradient = gradient * rsqrt(square * unbias2 + epsilon)
    elif of_adam:
        beta1, beta2, unbias1, unbias2, epsilon = of_adam
        mean.copy_(mean * beta1 + gradient * (1.0 - beta1))
        square.copy_(square * beta2 + (gradient * gradient) * (1.0 - beta2))
        gradient = (mean * unbias1) * rsqrt(square * unbias2 + epsilon)
    value.copy_((value - gradient * rate).clamp(-WEIGHT_BOUND, WEIGHT_BOUND))
    quantise_rows(value, quantised, scale)
