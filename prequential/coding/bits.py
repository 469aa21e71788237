"""One bit at a time: logits and probabilities as integers, and the coding of a bit.

Logits have 256 steps to the nat. Probabilities of a 1 have 16 bits, those that are coded 22, since
long repeats are nearly certain. Tables are made from integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.coding.coder import DECODE, ENCODE, follow, narrow
from prequential.exact.compiled import jit

LOGIT_MAX = 3071  # 12 nats
CODED_BITS = 22
_CODED_SHIFT = np.uint64(CODED_BITS)
_NOTHING = np.uint64(0)


def _squash_table() -> Any:
    """65536 / (1 + exp(-x / 256)) for x in -3072..3071, rounded, within 1..65535; from integers."""
    one = 1 << 128
    term, exp_step, k = one, one, 1  # exp(1 / 256) by its series
    while term:
        term //= 256 * k
        exp_step += term
        k += 1
    values, power = [], one  # exp(x / 256) for x = 0, 1, ...
    for _ in range(LOGIT_MAX + 2):
        values.append(power)
        power = power * exp_step >> 128
    upper = [(65536 * v + (v + one) // 2) // (v + one) for v in values]
    lower = [(65536 * one + (v + one) // 2) // (v + one) for v in values[1:]]
    table = np.array([*lower[::-1], *upper[:-1]], np.int64)
    return np.clip(table, 1, 65535).astype(np.int32)


def _stretch_table(squash: Any) -> Any:
    """The logit of the probability (i + 1/2) / 4096: the inverse of the table above."""
    centres = np.arange(4096) * 16 + 8
    return (np.searchsorted(squash, centres) - (LOGIT_MAX + 1)).astype(np.int16)


SQUASH = _squash_table()
STRETCH = _stretch_table(SQUASH)


@jit
def stretch(p: Any) -> Any:
    """The logit, 256 to the nat, of a 16-bit probability."""
    return np.int64(STRETCH[p >> 4])


@jit
def squash(x: Any) -> Any:
    """The 16-bit probability of a logit, 256 to the nat."""
    return np.int64(SQUASH[min(max(x, -3072), 3071) + 3072])


@jit
def code_bit(mode: Any, state: Any, buffer: Any, place: Any, known: Any, p: Any) -> Any:
    """(bit, place) of a bit that is 1 with probability p / 2^CODED_BITS.

    A 1 takes the lower part of the interval, in proportion to its probability.
    """
    bound = (state[1] >> _CODED_SHIFT) * np.uint64(p)
    bit = known
    if mode == DECODE:
        bit = np.int64(1 if state[0] < bound else 0)
    offset = _NOTHING if bit else bound
    width = bound if bit else state[1] - bound
    if mode == ENCODE:
        place = narrow(state, buffer, place, offset, width)
    elif mode == DECODE:
        place = follow(state, buffer, place, offset, width)
    return bit, place
