"""Single numbers of the exact arithmetic: its constants, and the compiled operations on one.

`tensors` and `kernels` are made of the same; here each stands once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from prequential.config import OPERAND_MAX
from prequential.exact.compiled import jit, uncounted

# Held constants are float32, so that no operation mixes precisions.
NORM_EPSILON = np.float32(1e-5)
LOG2_E = 1.4426950408889634  # not math.log2, which is the platform's
# A row's scale follows its largest magnitude, held between 2^-40 and 2^40. Biased exponents.
EXPONENT_LOW, EXPONENT_HIGH = np.int32(127 - 40), np.int32(127 + 40)
# Of 1 / sqrt(x), before three Newton steps.
RSQRT_SEED = np.int32(0x5F375A86)
# 2^s for s <= 0 is looked up for the nearest 2048th, as an integer of which 2^30 is one.
EXP2_FRACTION_BITS = 11
EXP2_ONE_BITS = 30
EXP2_UNIT = np.float32(1 << EXP2_FRACTION_BITS)
EXP2_FLOOR = np.float32(-(EXP2_ONE_BITS << EXP2_FRACTION_BITS))  # the result is 1 then
# The logistic function of x / 256, out of 65536, is looked up for x up to 12 nats.
LOGIT_MAX = 3071
# Bits of attention's numerators, of which a row's sum is an int32.
SHARE_BITS = 15
# The weights' gradients of so many groups of streams, at most, are added, each of them integers in
# `unit_of` and within this limit: a gradient of 2 for every token.
GROUPS = 16
GROUP_LIMIT = (1 << 27) - 8

LOGISTIC_UNIT, TANGENT_UNIT = np.float32(256), np.float32(512)
LOGISTIC_PART, TANGENT_PART = np.float32(1 / (1 << 16)), np.float32(1 / (1 << 15))

_LIMIT = np.float32(OPERAND_MAX)
_LOGIT_LIMIT = np.float32(LOGIT_MAX)
# Adding and subtracting 1.5 * 2^23 rounds a float32 below 2^22 to an integer, ties to even.
_MAGIC = np.float32(12582912.0)
_MAGNITUDE = np.int32(0x7FFFFFFF)
_FRACTION = np.int32((1 << EXP2_FRACTION_BITS) - 1)
_SHIFT = np.int32(EXP2_FRACTION_BITS)


def _exp2_table() -> Any:
    """round(2^30 * 2^(-i / 2048)) for i in 0..2047, from integers only.

    >>> _exp2_table()[[0, 1024]]
    array([1073741824,  759250125], dtype=int32)
    """
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


def exponentials(parts: int, count: int, bits: int) -> list[int]:
    """exp(x / parts) for x = 0, 1, ..., so many, in units of 2^-bits."""
    one = 1 << bits
    term, step, k = one, one, 1  # exp(1 / parts) by its series
    while term:
        term //= parts * k
        step += term
        k += 1
    values = [one]
    for _ in range(count - 1):
        values.append(values[-1] * step >> bits)
    return values


def _squash_table() -> Any:
    """65536 / (1 + exp(-x / 256)) for x in -3072..3071, rounded, within 1..65535; from integers."""
    one, values = 1 << 128, exponentials(256, LOGIT_MAX + 2, 128)
    upper = [(65536 * v + (v + one) // 2) // (v + one) for v in values]
    lower = [(65536 * one + (v + one) // 2) // (v + one) for v in values[1:]]
    table = np.array([*lower[::-1], *upper[:-1]], np.int64)
    return np.clip(table, 1, 65535).astype(np.int32)


SQUASH = _squash_table()


def group_of(streams: int, groups: int = GROUPS) -> int:
    """Streams whose rows share a scale per output in a weight's gradient; 0: there is one stream.

    So a process that has whole groups needs nothing of others to find its part of the gradient.

    >>> [group_of(streams) for streams in (1, 2, 16, 17)]
    [0, 1, 1, 2]
    """
    return -(-streams // groups) if streams > 1 else 0


# Numbers are reinterpreted one by one, since the view of an array costs some 30 ns.
@jit
def bits_of(x: Any) -> Any:
    """The bits of a float32, as an int32."""
    return np.float32(x).view(np.int32)


@jit
def float_of(bits: Any) -> Any:
    """The float32 with these bits."""
    return np.int32(bits).view(np.float32)


@jit
def magnitude(x: Any) -> Any:
    """The bits of a float32 but for its sign, which are in the order of magnitudes."""
    return np.int32(bits_of(x) & _MAGNITUDE)


@jit
def ordered(x: Any) -> Any:
    """An int32 for a float32, in the order of numbers; of its bits as a float32, the bits of x."""
    bits = bits_of(x)
    return np.int32(bits ^ ((bits >> 31) & _MAGNITUDE))


@jit
def exponent(bits: Any) -> Any:
    """The biased exponent of a float32's magnitude bits, held in range."""
    return min(max(np.int32(bits >> 23), EXPONENT_LOW), EXPONENT_HIGH)


@jit
def power_of_two(exponent: Any) -> Any:
    """The float32 with this biased exponent, that is 2^(exponent - 127)."""
    return float_of(np.int32(exponent) << 23)


@jit
def rounded(x: Any) -> Any:
    """The nearest integer, ties to even, of magnitude at most 127."""
    clipped = min(max(x, -_LIMIT), _LIMIT)
    return (clipped + _MAGIC) - _MAGIC


@uncounted
def quantise_row(x: Any, quantised: Any) -> Any:
    """One row (K,) of `kernels.quantise_rows`; its scale."""
    largest = np.int32(0)
    for j in range(len(x)):
        own = magnitude(x[j])
        largest = own if own > largest else largest  # of 32 bits, where max makes 64 of them
    e = exponent(largest)
    inverse = power_of_two(260 - e)
    for j in range(len(x)):
        quantised[j] = np.int32(rounded(x[j] * inverse))
    return power_of_two(e - 6)


@jit
def exp2(x: Any) -> Any:
    """2^30 * 2^(x / 2048) of a float32 x <= 0, rounded down: x is rounded to an integer first."""
    u = np.int32(-((max(x, EXP2_FLOOR) + _MAGIC) - _MAGIC))
    return np.int32(EXP2_TABLE[u & _FRACTION] >> np.int32(u >> _SHIFT))


@jit
def _squashed(x: Any) -> Any:
    """65536 / (1 + e^(-x / 256)) of a float32, rounded to an integer first: an int32."""
    held = min(max(x, -_LOGIT_LIMIT), _LOGIT_LIMIT)
    return SQUASH[np.int32((held + _MAGIC) - _MAGIC) + np.int32(LOGIT_MAX + 1)]


@jit
def logistic(x: Any) -> Any:
    """1 / (1 + e^-x) of a float32 in steps of 2^-16, at the nearest 256th."""
    return np.float32(_squashed(x * LOGISTIC_UNIT)) * LOGISTIC_PART


@jit
def tangent(x: Any) -> Any:
    """tanh x = 2 / (1 + e^-2x) - 1 of a float32 in steps of 2^-15, at the nearest 512th."""
    return np.float32(_squashed(x * TANGENT_UNIT)) * TANGENT_PART - np.float32(1)


@jit
def unit_of(tokens: Any) -> Any:
    """2^-26 times the power of two that is at least so many tokens."""
    exponent = 127 - 26
    while tokens > 1:
        tokens -= tokens // 2
        exponent += 1
    return power_of_two(exponent)
