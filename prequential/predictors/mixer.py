"""Mixing of logits (256 to the nat) by weights that are learned after every bit, and what follows.

Several sets of weights, each with a row chosen by a small context, weigh the same inputs; two more,
chosen likewise, weigh the sets' outputs, and the mean of both is the mixed logit. Weights follow
the gradient or, where there is time, what `curvature` makes of it. Two adaptive maps correct the
mixed probability. At last it is mixed, by Bayes' rule, with even chances, which win where there is
nothing to predict.

Probabilities have 16 bits, corrected ones 22; weights have 20 bits of fraction, those of the final
sets 16. Sources: Mahoney
2005 (the PAQ family); Knoll & de Freitas 2012.
"""

from __future__ import annotations

import string
from typing import Any, NamedTuple

import numpy as np

from prequential.coding.bits import CODED_BITS, squash
from prequential.exact.compiled import inline, jit, optional
from prequential.exact.scalars import LOGIT_MAX
from prequential.predictors.tables import IDENTITY, interpolate

curvature = optional("curvature", __package__)

# Sets of weights, and the rows that the context of each chooses from: see `choose`.
SETS = 7
_SIZES = np.array([256, 256 * 3, 256 * 8, 2048, 16 * 16 * 2, 256 * 8, 4096], np.int64)
_FRACTION, _FINAL_FRACTION = 20, 16
# All weights are alike at first, and sum to 2.5.
_START = 5 << (_FRACTION - 1)
# A row of weights is learned faster at first: after n times by 4 / (1 + n / 1024) times its rate.
_ROW_BOOST = 4 * 1024
_ROW_USES = 1024
# So are the final sets: after n bytes by 3 / (1 + n / 8192) times their rate more.
_FINAL_RATE = 256
_FINAL_BOOST = 3 * 256 * 8192
_FINAL_USES = 8192
# Steps along what the outputs of all sets have in common, and along what tells them apart.
_SLOWER, _FASTER = 4, 6
_FINAL_FIRST, _FINAL_SECOND = 2048, 1024  # rows of the two final sets
_CORRECTION_FIRST, _CORRECTION_SECOND = 1024, 1 << 16  # maps of the two corrections
_FINER = CODED_BITS - 16
_ALL = (1 << CODED_BITS) - 1
_LEAST = 16
_EVEN = 1 << (CODED_BITS - 1)
# The weight of even chances, which never gets out of reach.
_DOUBT_BITS = 24
_DOUBT_LEAST, _DOUBT_MOST = 4, (1 << _DOUBT_BITS) - (1 << 10)


def _sorts() -> Any:
    """Of each byte, one of 8: a, A, 0, space, line feed, other controls, other signs, no ASCII."""
    sorts = np.full(256, 6, np.int64)
    sorts[:32], sorts[128:] = 5, 7
    for sort, known in enumerate((string.ascii_lowercase, string.ascii_uppercase, string.digits)):
        sorts[list(known.encode())] = sort
    sorts[[32, 10]] = 3, 4
    return sorts


_SORTS = _sorts()


class Mixer(NamedTuple):
    """All that is learned of mixing. Kinds: bits of a byte, and where pieces may end."""

    weights: np.ndarray  # (kinds, rows of all sets, inputs) int32: 1 is 2^20
    uses: np.ndarray  # (kinds, rows) int64: how often a row was used
    finals: np.ndarray  # (kinds, 2048 + 1024, SETS) int32: of both final sets, 1 is 2^16
    # Of both corrections, by logit: 22-bit probabilities.
    corrections: np.ndarray  # (kinds, 1024 + 65536, 33) int32
    doubts: np.ndarray  # (B,) int64: a stream's weight of even chances, 1 is 2^24
    rate: int  # of the rows: a weight moves by so many 2^-14 * input in nats * error
    curvature: Any  # `Curvature`, or packed; None where weights follow the gradient itself


class Mixing(NamedTuple):
    """One decision's numbers: room for the loop."""

    inputs: np.ndarray  # (inputs,) int32 logits; the last ones are always 0
    rows: np.ndarray  # (SETS,) int64: which row of weights each set uses
    outputs: np.ndarray  # (SETS,) int64 logits
    chances: np.ndarray  # (SETS,) int64: the same as probabilities


class Situation(NamedTuple):
    """What a decision's rows of weights and corrections are chosen by."""

    kind: int  # 0: a bit of a byte, 1: whether a piece ends
    k: int  # the bit, the most significant is 0
    done: int  # the bits before it behind a leading 1, or how far the piece is
    last: np.ndarray  # (HISTORY_BYTES,) uint8, most recent first
    letters: int  # which of the last four are letters, a bit each
    place: int  # in a record or a line, below 256
    grade: int  # of the match, 0 if there is none


class Mixed(NamedTuple):
    """The logit, and what it comes from."""

    logit: int
    first: int  # logits of the two final sets
    second: int
    first_row: int  # their rows of `finals`
    second_row: int


class Corrected(NamedTuple):
    """The probability of a 1 out of 2^22, and which cells of which maps had their say."""

    p: int
    first_map: int  # rows of `corrections`
    second_map: int
    first_cell: int
    second_cell: int


def make(inputs: int, kinds: int, streams: int, rate: int, every: int = 0) -> Mixer:
    """Weights for so many inputs, which are all trusted alike.

    every: see `Curvature`; 0 for none.
    """
    rows = int(_SIZES.sum())
    finals, corrections = _FINAL_FIRST + _FINAL_SECOND, _CORRECTION_FIRST + _CORRECTION_SECOND
    return Mixer(
        np.full((kinds, rows, _whole(inputs)), _START // inputs, np.int32),
        np.zeros((kinds, rows), np.int64),
        np.full((kinds, finals, SETS), 65536 // SETS, np.int32),
        np.tile(IDENTITY << _FINER, (kinds, corrections, 1)).astype(np.int32),
        np.full(streams, 1 << 12, np.int64),
        rate,
        curvature.make(_whole(inputs), kinds, every) if every else None,
    )


def room(inputs: int) -> Mixing:
    """For the loop, which makes no arrays."""
    return Mixing(np.zeros(_whole(inputs), np.int32), *np.zeros((3, SETS), np.int64))


def _whole(inputs: int) -> int:
    """Inputs, and some that are always 0, so that loops over them are of whole vectors of 16."""
    return -(-inputs // 16) * 16


@jit
def _dot(w: Any, x: Any, fraction: Any) -> Any:
    """A logit: sum_j w[j] * x[j] / 2^fraction, held in range."""
    total = np.int64(0)
    for j in range(len(x)):
        total += np.int64(w[j]) * np.int64(x[j])
    return min(max(total >> fraction, -LOGIT_MAX), LOGIT_MAX)


@inline
def choose(rows: Any, at: Any, trust: Any) -> None:
    """Which row of weights each set uses: by what has been coded, and who knows it."""
    rows[0] = at.done
    rows[1] = np.int64(at.last[0]) * 3 + (0 if at.k == 0 else (1 if at.k < 4 else 2))
    rows[2] = np.int64(at.last[1]) * 8 + at.k
    rows[3] = ((at.letters * 16 + trust.fourth) * 8 + at.k) & 2047
    rows[4] = (min(trust.seen, 15) * 16 + trust.best) * 2 + (1 if at.grade else 0)
    rows[5] = at.place * 8 + at.k
    sorts = (_SORTS[at.last[0]] * 8 + _SORTS[at.last[1]]) * 8 + _SORTS[at.last[2]]
    rows[6] = sorts * 8 + at.k
    offset = np.int64(0)
    for s in range(SETS):
        rows[s] += offset
        offset += _SIZES[s]


@inline
def mix(mixer: Any, mixing: Any, at: Any, trust: Any) -> Any:
    """The mixed logit of the inputs, in a situation where contexts are trusted so."""
    choose(mixing.rows, at, trust)
    weights, finals, outputs = mixer.weights[at.kind], mixer.finals[at.kind], mixing.outputs
    for s in range(SETS):
        outputs[s] = _dot(weights[mixing.rows[s]], mixing.inputs, _FRACTION)
        mixing.chances[s] = squash(outputs[s])
    first_row = (at.grade * 128 + at.letters * 8 + at.k) & (_FINAL_FIRST - 1)
    second_row = _FINAL_FIRST + at.done * 4 + trust.quarter
    first = _dot(finals[first_row], outputs, _FINAL_FRACTION)
    second = _dot(finals[second_row], outputs, _FINAL_FRACTION)
    return Mixed((first + second) >> 1, first, second, first_row, second_row)


@inline
def correct(mixer: Any, at: Any, b: Any, logit: Any) -> Any:
    """What came true where the logit said so, behind such bytes, and stream b's doubts."""
    maps = mixer.corrections[at.kind]
    first_map = at.done | (256 * min(at.grade, 3))
    second_map = _CORRECTION_FIRST + np.int64(at.last[0]) * 256 + at.done
    p1, first_cell = interpolate(maps[first_map], logit)
    p2, second_cell = interpolate(maps[second_map], logit)
    p = ((squash(logit) << _FINER) + p1 + 2 * p2 + 2) >> 2
    p = min(max(p, _LEAST), _ALL - _LEAST)
    p += ((_EVEN - p) * mixer.doubts[b]) >> _DOUBT_BITS
    return Corrected(p, first_map, second_map, first_cell, second_cell)


@inline
def learn_weights(mixer: Any, mixing: Any, kind: Any, mixed: Any, position: Any, bit: Any) -> None:
    """The rows that were used follow the gradient of the codelength; position counts bytes."""
    _learn(mixer.curvature, mixer, mixing, kind, mixed, position, bit)


@inline
def _learn(
    known: Any, mixer: Any, mixing: Any, kind: Any, mixed: Any, position: Any, bit: Any
) -> None:
    """The same; known is the curvature, or None."""
    if known is None:
        _move(mixer, mixing, kind, mixed, position, bit, mixing.inputs)
    else:
        found = curvature.Curvature(*known)
        curvature.turn(found, kind, mixing.inputs)
        curvature.learn(found, kind, mixing.inputs, squash(mixed.logit))
        _move(mixer, mixing, kind, mixed, position, bit, found.turned)


@inline
def _move(
    mixer: Any, mixing: Any, kind: Any, mixed: Any, position: Any, bit: Any, along: Any
) -> None:
    """Move the weights of inputs along these, and those of the sets' outputs.

    Outputs are nearly alike. What they have in common would be learned at once, and what tells them
    apart so late that it hardly counts: steps along the one are shortened, and along the other
    lengthened, as their second moments are.
    """
    weights, uses, finals = mixer.weights[kind], mixer.uses[kind], mixer.finals[kind]
    target, outputs = bit * 65535, mixing.outputs
    rate = _FINAL_RATE + _FINAL_BOOST // (_FINAL_USES + position)
    first_error = (target - squash(mixed.first)) * rate
    second_error = (target - squash(mixed.second)) * rate
    first, second = finals[mixed.first_row], finals[mixed.second_row]
    common = np.int64(0)
    for s in range(SETS):
        common += outputs[s]
    common = common // SETS
    for s in range(SETS):
        row = mixing.rows[s]
        row_rate = mixer.rate * 16 + mixer.rate * 16 * _ROW_BOOST // (_ROW_USES + uses[row])
        uses[row] += 1
        step = np.int32(((target - mixing.chances[s]) * row_rate + 1024) >> 11)
        w = weights[row]
        for j in range(len(along)):
            product = np.int32(along[j] * step)  # of 32 bits: whole vectors of them
            w[j] += np.int32(np.int32(product + 1024) >> 11)
        turned = common // _SLOWER + (outputs[s] - common) * _FASTER
        first[s] += np.int32((turned * first_error + (1 << 24)) >> 25)
        second[s] += np.int32((turned * second_error + (1 << 24)) >> 25)


@inline
def learn_corrections(mixer: Any, kind: Any, b: Any, corrected: Any, bit: Any) -> None:
    """The cells that had their say move towards the bit; doubts follow Bayes' rule."""
    maps, doubts = mixer.corrections[kind], mixer.doubts
    for row, cell in (
        (corrected.first_map, corrected.first_cell),
        (corrected.second_map, corrected.second_cell),
    ):
        maps[row, cell] += (bit * _ALL - maps[row, cell]) >> 6
    doubt = doubts[b] * _EVEN // chance(corrected.p, bit)
    doubts[b] = min(max(doubt, _DOUBT_LEAST), _DOUBT_MOST)


@jit
def chance(p: Any, bit: Any) -> Any:
    """The probability of a bit, out of 2^22, where that of a 1 is p."""
    return p if bit else _ALL + 1 - p
