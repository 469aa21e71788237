"""The exact operations: what the transformer computes with, on any device, with the same bits.

Two rules (docs/NUMERICS.md has the argument). Every sum runs over integers that its type holds
exactly, so no order, thread count, vector width or device can change it. Every other operation is
one correctly rounded IEEE-754 operation on float32.

Real numbers enter a sum as integers of magnitude at most 127 times a power of two per row
(`quantise_rows`). Because the scale belongs to the row, a token's result does not depend on what
else is in the batch: a whole chunk and a single column give equal bits.

On the CPU what runs is `steps`, made of the loops of `kernels`; the PyTorch form written here
serves other devices, plain gradient descent, and `portable()`. Some operations take their loop
here, too. The tests hold the two together bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from torch import Tensor

from prequential.config import MAX_TERMS, OPERAND_MAX
from prequential.exact import kernels

# Held constants are float32, so that no operation mixes precisions.
NORM_EPSILON = 1e-5
LOG2_E = 1.4426950408889634  # not math.log2, which is the platform's
# The weights' gradients of so many groups of streams, at most, are added, each of them integers in
# `kernels.unit_of` and within this limit: a gradient of 2 for every token.
GROUPS = 16
GROUP_LIMIT = (1 << 27) - 8

_EXPONENT_LOW, _EXPONENT_HIGH = 127 - 40, 127 + 40
_use_kernels = True


@contextmanager
def portable() -> Iterator[None]:
    """Use the PyTorch form of every operation on the CPU too."""
    global _use_kernels
    before, _use_kernels = _use_kernels, False
    try:
        yield
    finally:
        _use_kernels = before


def compiled(x: Tensor) -> bool:
    """Whether x is served by the compiled loops rather than by PyTorch operations."""
    return _use_kernels and x.device.type == "cpu"


def float32(value: float) -> float:
    """The nearest float32, as a Python float: PyTorch then takes it as it is."""
    return float(np.float32(value))


def _powers(magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """(2^(6 - e), 2^(e - 6)) for magnitudes in [2^e, 2^(e + 1)), -40 <= e <= 40."""
    exponent = (magnitude.view(torch.int32) >> 23).clamp(_EXPONENT_LOW, _EXPONENT_HIGH)
    return ((260 - exponent) << 23).view(torch.float32), ((exponent - 6) << 23).view(torch.float32)


def _round(x: Tensor) -> Tensor:
    return x.clamp(-OPERAND_MAX, OPERAND_MAX).round()


def matmul(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out = a @ b for integers of magnitude <= 127: (N, K) @ (K, M) or batched.

    Up to 1040 terms fit float32 exactly. Longer sums are cut into such blocks, the blocks are
    added in float64 (exact up to 2^53) and the total is rounded once. On CUDA, 8-bit tensor cores
    add in int32 instead where the shapes allow.
    """
    terms = a.shape[-1]
    if _fits_int8_cores(a, b):
        # Rows times columns is the layout that every release takes.
        columns = b.T.to(torch.int8).contiguous().T
        out.copy_(torch._int_mm(a.to(torch.int8).contiguous(), columns))
        return
    if terms <= MAX_TERMS:
        torch.matmul(a, b, out=out)
        return
    total = torch.zeros(out.shape, dtype=torch.float64, device=out.device)
    for start in range(0, terms, MAX_TERMS):
        part = torch.matmul(a[..., start : start + MAX_TERMS], b[..., start : start + MAX_TERMS, :])
        total += part.double()
    out.copy_(total)


def _fits_int8_cores(a: Tensor, b: Tensor) -> bool:
    """Whether `torch._int_mm` takes a and b and its int32 sums hold. On the CPU it is not safe."""
    return (
        a.device.type == "cuda"
        and a.dim() == 2
        and a.shape[0] > 16
        and a.shape[1] % 8 == 0
        and b.shape[1] % 8 == 0
        and a.shape[1] * OPERAND_MAX**2 < 1 << 31
    )


def quantise_rows(x: Tensor, quantised: Tensor, scale: Tensor) -> None:
    """x (N, K) ~ quantised * scale[:, None]: integers up to 127, a power of two per row (N,)."""
    if compiled(x):
        kernels.quantise_rows(x.numpy(), quantised.numpy(), scale.numpy())
        return
    inverse, power = _powers(x.abs().amax(-1))
    quantised.copy_(_round(x * inverse[:, None]))
    scale.copy_(power)


def quantise_columns(x: Tensor, quantised: Tensor, scale: Tensor) -> None:
    """x (..., N, K) ~ quantised * scale[..., None, :]: one power of two per column (..., K)."""
    inverse, power = _powers(x.abs().amax(-2))
    quantised.copy_(_round(x * inverse[..., None, :]))
    scale.copy_(power)


def group_of(streams: int) -> int:
    """Streams whose rows share a scale per output in a weight's gradient; 0: there is one stream.

    So a process that has whole groups needs nothing of others to find its part of the gradient.
    """
    return -(-streams // GROUPS) if streams > 1 else 0


def weight_gradient(
    dy: Tensor, xq: Tensor, streams: int, group: int, products: Tensor, scale: Tensor
) -> None:
    """products (M, K) * scale[:, None] = dy^T @ xq of rows dy (N, M) and integer rows xq (N, K).

    dy gets one scale per column. With a group, each group of so many streams has scales of its own;
    then every group's gradient is rounded to a multiple of one unit, within a limit, so that the
    groups' sum is of integers below 2^31, and no order of adding changes it. Where products is
    int32, it receives them exactly.
    """
    if not group:
        dyq = torch.empty_like(dy)
        quantise_columns(dy, dyq, scale)
        matmul(dyq.T, xq, products)
        return
    columns = len(dy) // streams
    unit = float(kernels.unit_of(columns * group))
    part = torch.empty_like(products, dtype=torch.float32)
    total = torch.zeros(products.shape, dtype=torch.float64, device=dy.device)
    for first in range(0, streams, group):
        rows, inputs = (
            x.view(columns, streams, -1)[:, first : first + group].flatten(0, 1) for x in (dy, xq)
        )
        dyq = torch.empty_like(rows)
        quantise_columns(rows, dyq, scale)
        matmul(dyq.T, inputs, part)
        part *= (scale * (1.0 / unit))[:, None]
        total += part.clamp_(-GROUP_LIMIT, GROUP_LIMIT).round_()
    products.copy_(total)
    scale.fill_(unit)


Rows = tuple[Tensor, Tensor]  # integers and their scales


def quantise_heads(
    products: Tensor, row: Tensor, column: Tensor, query: Rows, key: Rows, value: Rows
) -> None:
    """products (n, 3D) * row[:, None] * column split into parts and heads, each head quantised.

    query, key and value are integers (columns, G, hs) and scales (columns, G), where G = streams *
    heads.
    """
    if compiled(products):
        kernels.quantise_heads(
            products.numpy(),
            row.numpy(),
            column.numpy(),
            0,
            query[0].shape[1],
            *(part.numpy() for part in (*query, *key, *value)),
        )
        return
    y = products * row[:, None] * column
    D, hs = y.shape[1] // 3, query[0].shape[2]
    for part, (target, scale) in enumerate((query, key, value)):
        heads = y[:, part * D : (part + 1) * D].reshape(-1, hs)
        quantise_rows(heads, target.view(-1, hs), scale.view(-1))


def merge_heads(mixed: Tensor, scale: Tensor, quantised: Tensor, row_scale: Tensor) -> None:
    """mixed (G, columns, hs) * scale (G, columns), heads side by side, quantised by rows (n, D)."""
    o = (mixed * scale[:, :, None]).transpose(0, 1)  # (columns, G, hs)
    quantise_rows(o.reshape(quantised.shape), quantised, row_scale)


def rsqrt(x: Tensor) -> Tensor:
    """1 / sqrt(x) for positive float32: a bit-trick seed, then three Newton steps."""
    y = (0x5F375A86 - (x.view(torch.int32) >> 1)).view(torch.float32)
    half = x * 0.5
    for _ in range(3):
        y = y * (1.5 - (half * y) * y)
    return y


def norm_quantise(x: Tensor, quantised: Tensor, scale: Tensor, inverse_rms: Tensor) -> None:
    """RMS norm and quantisation: x / rms(x) ~ quantised * scale[:, None].

    The mean square is that of the integers. scale (N,) = power of two * inverse_rms (N,).
    Source: Zhang & Sennrich 2019, without gains.
    """
    if compiled(x):
        kernels.norm_quantise(
            x.numpy(),
            np.float32(NORM_EPSILON),
            quantised.numpy(),
            scale.numpy(),
            inverse_rms.numpy(),
        )
        return
    quantise_rows(x, quantised, scale)
    terms = torch.full_like(scale, x.shape[1])
    mean = (quantised * quantised).sum(-1) * (scale * scale) / terms
    inverse_rms.copy_(rsqrt(mean + float32(NORM_EPSILON)))
    scale.mul_(inverse_rms)


def norm_backward(
    products: Tensor, row: Tensor, quantised: Tensor, scale: Tensor, inverse_rms: Tensor, dx: Tensor
) -> None:
    """dx (N, K) += the gradient of `norm_quantise` at products (N, K) * row[:, None].

    It passes straight through the rounding.
    """
    if compiled(products):
        kernels.norm_backward(
            products.numpy(),
            row.numpy(),
            quantised.numpy(),
            scale.numpy(),
            inverse_rms.numpy(),
            dx.numpy(),
        )
        return
    dy = products * row[:, None]
    dyq, dy_scale = torch.empty_like(dy), torch.empty_like(scale)
    quantise_rows(dy, dyq, dy_scale)
    terms = torch.full_like(scale, dy.shape[1])
    mean = (quantised * dyq).sum(-1) * dy_scale * scale / terms
    slope = mean * scale
    dx.add_(inverse_rms[:, None] * (dy - quantised * slope[:, None]))


def scale_outer(products: Tensor, row: Tensor, column: Tensor, out: Tensor) -> None:
    """out (N, M) = products * row[:, None] * column[None, :]."""
    out.copy_(products * row[:, None] * column)


def add_scaled_outer(products: Tensor, row: Tensor, column: Tensor, out: Tensor) -> None:
    """out (N, M) += products * row[:, None] * column[None, :]."""
    out.add_(products * row[:, None] * column)


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


def relu_squared_backward(products: Tensor, row: Tensor, positive: Tensor, out: Tensor) -> None:
    """out = products * row[:, None] * 2 * positive."""
    out.copy_((products * row[:, None]) * (positive * 2.0))


def attention_weights(
    scores: Tensor,
    query_scale: Tensor,
    key_scale: Tensor,
    value_scale: Tensor,
    slopes: Tensor,
    head_width: int,
    first: int,
    window: int,
    weights: Tensor,
    folded: Tensor,
    folded_scale: Tensor,
) -> None:
    """Causal softmax over a window with linear biases, folded with the values' scales.

    scores (G, Tq, Nk) are integer products of queries and keys; query_scale (Tq, G), key_scale
    and value_scale (Nk, G); slopes (G,), in bits per position. Query i stands at key position
    first + i and sees the keys at distance 0 .. window. Written are weights (G, Tq, Nk), the
    probabilities, and weights * value_scale quantised per row: folded and folded_scale (G, Tq).
    Source: Vaswani et al. 2017; Press et al. 2022 (ALiBi).
    """
    temperature = np.float32(LOG2_E / math.sqrt(head_width))
    if compiled(scores):
        kernels.attention_weights(
            scores.numpy(),
            query_scale.numpy(),
            key_scale.numpy(),
            value_scale.numpy(),
            slopes.numpy(),
            temperature,
            first,
            window,
            weights.numpy(),
            folded.numpy(),
            folded_scale.numpy(),
        )
        return
    groups, queries, keys = scores.shape
    device = scores.device
    position = torch.arange(first, first + queries, device=device)
    distance = position[:, None] - torch.arange(keys, device=device)  # (Tq, Nk)
    visible = (distance >= 0) & (distance <= window)
    scale = (query_scale * float(temperature)).T[:, :, None] * key_scale.T[:, None, :]
    s = scores * scale - slopes[:, None, None] * distance.float()  # (G, Tq, Nk)
    s = torch.where(visible, s, torch.full_like(s, float32(-3e38)))
    s = s - s.amax(-1, keepdim=True)
    power = _exp2_integers(s) >> (kernels.EXP2_ONE_BITS - 15)
    power = torch.where(visible, power, torch.zeros_like(power))
    weights.copy_(power.float() / power.sum(-1, keepdim=True).float())
    flat = (weights * value_scale.T[:, None, :]).reshape(groups * queries, keys)
    quantise_rows(flat, folded.view(groups * queries, keys), folded_scale.view(-1))


@cache
def _exp2_table(device: torch.device) -> Tensor:
    """Copied to a device once: a copy waits for the host, and cannot be captured in a graph."""
    return torch.from_numpy(kernels.EXP2_TABLE).to(device)


def _exp2_integers(s: Tensor) -> Tensor:
    """floor(2^30 * 2^s) / (integer steps) for s <= 0: the kernel's table and shifts, as int32."""
    bits = kernels.EXP2_FRACTION_BITS
    u = -(s * float(1 << bits)).clamp(min=float(-(31 << bits))).round().to(torch.int32)
    fraction = _exp2_table(s.device)[(u & ((1 << bits) - 1)).long()]
    # The kernel drops 15 bits before the integer shift; floors of floors compose, so order is free.
    return fraction >> (u >> bits)


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


def attention_backward(
    products: Tensor,
    do_scale: Tensor,
    value_scale: Tensor,
    dots: Tensor,
    weights: Tensor,
    key_scale: Tensor,
    query_scale: Tensor,
    for_query: Rows,
    for_key: Rows,
    for_value: Rows,
) -> None:
    """The three operands of attention's gradients, from integer products of do and the values.

    dscores = weights * (products * do_scale * value_scale - dots), all (G, Tq, Nk), and then
    for_query = dscores * key_scale by rows, for_key = dscores * query_scale and for_value =
    weights * do_scale of the chunk's own keys (G, Tq, T), by columns. do_scale, dots, query_scale
    (Tq, G); value_scale, key_scale (Nk, G).
    """
    keys = products.shape[2]
    window = keys - for_key[0].shape[2]
    scale = do_scale.T[:, :, None] * value_scale.T[:, None, :]
    dscores = weights * (products * scale - dots.T[:, :, None])
    by_key = (dscores * key_scale.T[:, None, :]).view(-1, keys)
    quantise_rows(by_key, for_query[0].view(-1, keys), for_query[1].view(-1))
    quantise_columns(dscores[:, :, window:] * query_scale.T[:, :, None], *for_key)
    quantise_columns(weights[:, :, window:] * do_scale.T[:, :, None], *for_value)


def merge_gradient(dq: Rows, dk: Rows, dv: Rows, slope: float, dy: Tensor) -> None:
    """dy (n, 3D) = the heads' gradients (G, columns, hs) times scales (G, columns), side by side.

    Those of queries and keys are multiplied by slope, d(score) / d(query . key), too.
    """
    groups, columns, hs = dq[0].shape
    scaled = [products * scale[:, :, None] for products, scale in (dq, dk, dv)]
    dheads = torch.stack((scaled[0] * slope, scaled[1] * slope, scaled[2]))  # (3, G, columns, hs)
    streams = dy.shape[0] // columns
    dheads = dheads.view(3, streams, groups // streams, columns, hs).permute(3, 1, 0, 2, 4)
    dy.copy_(dheads.reshape(dy.shape))


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
    if compiled(dy):
        kernels.convolve_backward(
            dy.numpy(), x.numpy(), taps.numpy(), streams, dx.numpy(), gradient.numpy()
        )
        return
    n, past = dy.shape[0], x.shape[0] - dy.shape[0]
    dx.copy_(dy)
    xq, x_scale = torch.empty_like(x), x.new_empty(x.shape[0])
    quantise_rows(x, xq, x_scale)
    for k, tap in enumerate(taps, start=1):
        delay = k * streams
        if delay < n:
            dx[: n - delay] += dy[delay:] * tap
        rows = slice(past - delay, past - delay + n)
        dyq, scale = torch.empty_like(dy), dy.new_empty(dy.shape[1])
        quantise_columns(dy * x_scale[rows, None], dyq, scale)
        gradient[k - 1] = column_sums(xq[rows], dyq).float() * scale


def slide(rows: Tensor, step: int, kept: int) -> None:
    """rows[:kept] = rows[step : step + kept], which may overlap."""
    rows[:kept] = rows[step : step + kept].clone()


def column_sums(a: Tensor, b: Tensor) -> Tensor:
    """sum_n a[n, :] * b[n, :] (K,) of integer rows (N, K) in float64, exact below 2^53."""
    return (a * b).sum(0, dtype=torch.float64)
