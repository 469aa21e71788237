"""The exact operations: what the transformer computes with, on any device, with the same bits.

Two rules (docs/NUMERICS.md has the argument). Every sum runs over integers that its type holds
exactly, so no order, thread count, vector width or device can change it. Every other operation is
one correctly rounded IEEE-754 operation on float32.

Real numbers enter a sum as integers of magnitude at most 127 times a power of two per row
(`quantise_rows`). Because the scale belongs to the row, a token's result does not depend on what
else is in the batch: a whole chunk and a single column give equal bits.

On the CPU each operation is one compiled loop of `kernels`; elsewhere, and inside `portable()`, it
is the PyTorch form written here. The tests hold the two together bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from prequential import kernels
from prequential.config import MAX_TERMS, OPERAND_MAX

# Held constants are float32, so that no operation mixes precisions.
NORM_EPSILON = 1e-5
WEIGHT_BOUND = 8.0
LOG2_E = 1.4426950408889634  # not math.log2, which is the platform's

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
        and 0 < a.shape[1] * OPERAND_MAX**2 < 1 << 31
    )


def quantise_rows(x: Tensor, quantised: Tensor, scale: Tensor) -> None:
    """x (N, K) ~ quantised * scale[:, None]: integers up to 127, a power of two per row (N,)."""
    if compiled(x):
        kernels.quantise_rows(x.numpy(), quantised.numpy(), scale.numpy())
        return
    inverse, power = _powers(x.abs().amax(-1))
    quantised.copy_(_round(x * inverse[:, None]))
    scale.copy_(power)


def quantise_rows_scaled(x: Tensor, factor: Tensor, quantised: Tensor, scale: Tensor) -> None:
    """`quantise_rows` of x * factor[None, :]."""
    if compiled(x):
        buffer = np.empty(x.shape[1], np.float32)
        kernels.quantise_rows_scaled(
            x.numpy(), factor.numpy(), quantised.numpy(), scale.numpy(), buffer
        )
        return
    quantise_rows(x * factor, quantised, scale)


def quantise_columns_scaled(x: Tensor, factor: Tensor, quantised: Tensor, scale: Tensor) -> None:
    """x * factor[:, None] ~ quantised * scale[None, :]: one power of two per column (K,)."""
    if compiled(x):
        buffer = np.empty(x.shape[1], np.float32)
        kernels.quantise_columns_scaled(
            x.numpy(), factor.numpy(), quantised.numpy(), scale.numpy(), buffer
        )
        return
    scaled = x * factor[:, None]
    inverse, power = _powers(scaled.abs().amax(0))
    quantised.copy_(_round(scaled * inverse))
    scale.copy_(power)


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
    dy: Tensor, quantised: Tensor, scale: Tensor, inverse_rms: Tensor, dx: Tensor
) -> None:
    """dx (N, K) += the gradient of `norm_quantise` at dy (N, K), straight through the rounding."""
    dyq, dy_scale = torch.empty_like(dy), torch.empty_like(scale)
    quantise_rows(dy, dyq, dy_scale)
    if compiled(dy):
        kernels.norm_backward(
            dy.numpy(),
            quantised.numpy(),
            scale.numpy(),
            inverse_rms.numpy(),
            dyq.numpy(),
            dy_scale.numpy(),
            dx.numpy(),
        )
        return
    terms = torch.full_like(scale, dy.shape[1])
    mean = (quantised * dyq).sum(-1) * dy_scale * scale / terms
    slope = mean * scale
    dx.add_(inverse_rms[:, None] * (dy - quantised * slope[:, None]))


def scale_outer(products: Tensor, row: Tensor, column: Tensor, out: Tensor) -> None:
    """out (N, M) = products * row[:, None] * column[None, :]."""
    if compiled(products):
        kernels.scale_outer(products.numpy(), row.numpy(), column.numpy(), out.numpy())
        return
    out.copy_(products * row[:, None] * column)


def add_scaled_outer(products: Tensor, row: Tensor, column: Tensor, out: Tensor) -> None:
    """out (N, M) += products * row[:, None] * column[None, :]."""
    if compiled(products):
        kernels.add_scaled_outer(products.numpy(), row.numpy(), column.numpy(), out.numpy())
        return
    out.add_(products * row[:, None] * column)


def relu_squared(
    products: Tensor, row: Tensor, column: Tensor, positive: Tensor, squared: Tensor
) -> None:
    """positive = max(products * row * column, 0) and its square. Source: So et al. 2021, Primer."""
    if compiled(products):
        kernels.relu_squared(
            products.numpy(), row.numpy(), column.numpy(), positive.numpy(), squared.numpy()
        )
        return
    positive.copy_((products * row[:, None] * column).clamp(min=0.0))
    squared.copy_(positive * positive)


def relu_squared_backward(products: Tensor, row: Tensor, positive: Tensor, out: Tensor) -> None:
    """out = products * row[:, None] * 2 * positive."""
    if compiled(products):
        kernels.relu_squared_backward(products.numpy(), row.numpy(), positive.numpy(), out.numpy())
        return
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


def _exp2_integers(s: Tensor) -> Tensor:
    """floor(2^30 * 2^s) / (integer steps) for s <= 0: the kernel's table and shifts, as int32."""
    bits = kernels.EXP2_FRACTION_BITS
    u = -(s * float(1 << bits)).clamp(min=float(-(31 << bits))).round().to(torch.int32)
    table = torch.from_numpy(kernels.EXP2_TABLE).to(s.device)
    fraction = table[(u & ((1 << bits) - 1)).long()]
    # The kernel drops 15 bits before the integer shift; floors of floors compose, so order is free.
    return fraction >> (u >> bits)


def row_dots(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, out: Tensor) -> None:
    """out (N,) = sum_j a[:, j] * b[:, j] of integer rows (N, K), times both rows' scales."""
    if compiled(a):
        kernels.row_dots(a.numpy(), a_scale.numpy(), b.numpy(), b_scale.numpy(), out.numpy())
        return
    out.copy_((a * b).sum(-1) * (a_scale * b_scale))


def attention_backward(
    products: Tensor,
    do_scale: Tensor,
    value_scale: Tensor,
    dots: Tensor,
    weights: Tensor,
    dscores: Tensor,
) -> None:
    """dscores = weights * (products * do_scale * value_scale - dots).

    products, weights, dscores (G, Tq, Nk); do_scale and dots (Tq, G); value_scale (Nk, G).
    """
    if compiled(products):
        kernels.attention_backward(
            products.numpy(),
            do_scale.numpy(),
            value_scale.numpy(),
            dots.numpy(),
            weights.numpy(),
            dscores.numpy(),
        )
        return
    scale = do_scale.T[:, :, None] * value_scale.T[:, None, :]
    dscores.copy_(weights * (products * scale - dots.T[:, :, None]))


def column_sums(a: Tensor, b: Tensor) -> Tensor:
    """sum_n a[n, :] * b[n, :] (K,) of integer rows (N, K): float64 sums, exact below 2^53."""
    return (a * b).sum(0, dtype=torch.float64).float()
