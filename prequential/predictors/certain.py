"""Bytes that are nearly certain: coded in one decision, without tables or mixer.

What the learner expects most is guessed, or what the long match does where there is no other
learner. How often that was wrong is counted by how sure the learner was and what the long match
said. Where it hardly ever was, the guess takes one decision instead of eight, and nothing but
histories learns from it: the contexts have nothing left to learn there. Where such a guess is wrong
after all, the byte is coded as any other. Source: escapes to a longer code, as in PPM (Cleary &
Witten 1984).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from prequential.coding.bits import CODED_BITS
from prequential.coding.coder import TOTAL_BITS
from prequential.exact.compiled import inline, jit
from prequential.predictors.contexts import octave

_AGREEMENTS = 12  # there is no match, it expects another byte, or the same, in ten steps of length
_LENGTHS = 32  # that `Match.bucket` tells apart
_FRACTION = 32
_WHOLE = 1 << _FRACTION
_TRIED = 256
_MOST_USES = 1 << 14  # what is older is forgotten
_LEAST = 4  # out of 2^22: no guess is surer


class Certain(NamedTuple):
    """How often guesses were wrong, by kind of guess."""

    misses: np.ndarray  # (25 * _AGREEMENTS,) int64: probability, 1 is 2^32
    uses: np.ndarray  # (25 * _AGREEMENTS,) int64: guesses so far
    bits: int  # a guess is nearly certain below 2^-bits; 0: none is


class Guess(NamedTuple):
    """What is expected of the next byte."""

    byte: int
    kind: int  # of guess
    p: int  # out of 2^22, that it comes; 0: not certain enough


def make(bits: int, alone: bool = False) -> Certain:
    """At first the learner is believed, within a factor of two, as if it were tried before.

    Alone there is none, and the match is to show what it knows.
    """
    wrong = np.minimum(1 << np.arange(_FRACTION - TOTAL_BITS, _FRACTION + 1), _WHOLE >> 1)
    misses = np.repeat(wrong, _AGREEMENTS)
    if alone:
        misses[:] = _WHOLE >> 1
    return Certain(misses, np.full(len(misses), 0 if alone else _TRIED, np.int64), bits)


@jit
def _most_frequent(frequencies: Any) -> Any:
    """The first token that no other is more frequent than."""
    most = frequencies[0]
    for s in range(1, len(frequencies)):
        most = max(most, frequencies[s])
    token = np.int64(0)
    while frequencies[token] < most:
        token += 1
    return token


@inline
def guess(certain: Any, frequencies: Any, match: Any) -> Any:
    """The guess by a learner's frequencies (256,), or None, and the long match."""
    if frequencies is None:
        return _answer(certain, match.expected & 255, match.bucket)
    byte = _most_frequent(frequencies)
    rest = (1 << TOTAL_BITS) - np.int64(frequencies[byte])
    agreement: Any = np.int64(0)
    if match.expected > 0:
        length = match.bucket % _LENGTHS
        steps = _AGREEMENTS - 2
        agreement = 2 + length * steps // _LENGTHS if match.expected - 256 == byte else np.int64(1)
    kind = octave(rest, TOTAL_BITS) * _AGREEMENTS + agreement
    return _answer(certain, byte, kind)


@inline
def _answer(certain: Any, byte: Any, kind: Any) -> Any:
    """The guess, and whether such guesses are nearly certain."""
    miss = certain.misses[kind]
    p: Any = np.int64(0)
    if miss < _WHOLE >> certain.bits:
        p = (1 << CODED_BITS) - max(miss >> (_FRACTION - CODED_BITS), _LEAST)
    return Guess(byte, kind, p)


@inline
def learn(certain: Any, guess: Any, byte: Any) -> None:
    """Count whether the guess was wrong."""
    kind = guess.kind
    missed = 0 if byte == guess.byte else _WHOLE
    certain.misses[kind] += (missed - certain.misses[kind]) // (certain.uses[kind] + 2)
    certain.uses[kind] = min(certain.uses[kind] + 1, _MOST_USES)
