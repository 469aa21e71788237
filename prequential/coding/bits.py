"""One bit at a time: logits and probabilities as integers, and the coding of a bit.

Logits have 256 steps to the nat. Probabilities of a 1 have 16 bits, those that are coded 22, since
long repeats are nearly certain.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.coding.coder import DECODE, ENCODE, follow, narrow
from prequential.exact.compiled import jit
from prequential.exact.scalars import LOGIT_MAX, SQUASH

CODED_BITS = 22
_CODED_SHIFT = np.uint64(CODED_BITS)
_NOTHING = np.uint64(0)


def _stretch_table(squash: Any) -> Any:
    """The logit of the probability (i + 1/2) / 4096: the inverse of the table above."""
    centres = np.arange(4096) * 16 + 8
    return (np.searchsorted(squash, centres) - (LOGIT_MAX + 1)).astype(np.int16)


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
