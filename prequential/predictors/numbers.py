"""Pictures and sound in the memory: what least squares expect, as chances of the next bit.

An element is expected at a place, by one predictor for pictures (`squares`) or two for sound
(`series`), and spread around it by two logistic distributions of different width, whose scale
follows how far the neighbours, or the last samples, were off. As an element's bits halve an
interval each, highest byte first, the chance of a bit is a quotient of two differences of the
distribution function, which is a table made from integers.

Beside these inputs the memory has contexts of what lies around an element, instead of those for
text. It has the structure here where numbers are, and another elsewhere: see `memory`. A part of
numbers begins with nothing known.

All floats are float64, in single operations; logits and hashes are integers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from prequential.coding import elements
from prequential.coding.bits import STRETCH
from prequential.config import OWN_CONTEXTS
from prequential.exact.compiled import inline, jit
from prequential.exact.scalars import exponentials
from prequential.grids import Grid
from prequential.predictors import mixer, series, squares, tables
from prequential.predictors.series import Series
from prequential.predictors.squares import TINY, Squares
from prequential.predictors.tables import remix

restore, Arranged = elements.restore, elements.Arranged  # for decoders

CONTEXTS = 5
PREDICTORS = 2
# Scales of both distributions around what a predictor says.
_WIDTHS = np.array([0.6, 1.5])
INPUTS = PREDICTORS * 2
RATE = 32  # of the mixer
# The logistic function at -32..32, in 128 steps of each.
_STEPS = 128
_CELLS = 64 * _STEPS
# Scales are learned by level: a quarter of an octave of what is expected to be off.
_LEVELS = 160
_LEAST_SCALE = 0.06
_SPREAD = 0.7
_OFF = 8.0  # how far anything is off before it is known
_PICTURE, _SOUND = 96.0, 6144.0 / 256.0  # no more is ever counted, of elements of 8 bits
_FADE = 0.85  # of how far samples were off
_COUNTS = 1000.0
_NEAR = 1e-9
_UNSIGNED = (1 << 40) - 1


def _logistic() -> Any:
    """1 / (1 + exp(-z)) at z = -32, -32 + 1 / 128, ..., 32: quotients of integers."""
    one, values = 1 << 160, exponentials(_STEPS, _CELLS // 2 + 1, 160)
    lower = [one / (one + v) for v in values[:0:-1]]  # rounded once
    return np.array([*lower, *(v / (one + v) for v in values)], np.float64)


LOGISTIC = _logistic()


def _offs() -> Any:
    """What is off at each level, as `_level` has it."""
    levels = np.arange(_LEVELS)
    return np.array([((4 + int(q) % 4) << (int(q) // 4)) - 3.5 for q in levels]) / 64.0


class Numbers(NamedTuple):
    """The parts of an input that are numbers, and what is known in B streams."""

    grids: np.ndarray  # (N, 5) int64: start, end, size, channels, row
    starts: np.ndarray  # (B,) int64: where each stream starts in the input
    following: np.ndarray  # (B,) int64: the first grid that is not behind
    entered: np.ndarray  # (B,) int64: 1 if it has just begun, 2 if it has a byte
    seen: np.ndarray  # (B,) int64: its elements so far
    value: np.ndarray  # (B,) int64: the bytes so far of the element
    values: np.ndarray  # (B, W) float64: element i of a grid is at i % W
    off: np.ndarray  # (B, W) float64: how far it was off
    lately: np.ndarray  # (B, 4, 2) float64: how far sound was, by channel and predictor
    means: np.ndarray  # (B, 2) float64: what each predictor expects
    slopes: np.ndarray  # (B, 4) float64: steps of the logistic function for 1, by distribution
    levels: np.ndarray  # (B, 2) int64
    # By predictor and level: how far elements were off in sum, and how many were.
    sums: np.ndarray  # (B, 2, levels) float64
    counts: np.ndarray  # (B, 2, levels) float64
    squares: Squares
    series: Series
    # Room: the distribution function where the interval of the bits so far begins, ends, halves.
    low: np.ndarray  # (4,) float64
    high: np.ndarray  # (4,) float64
    middle: np.ndarray  # (4,) float64


def make(grids: list[Grid], streams: int) -> Numbers:
    """Nothing is known yet. Streams start at 0 until somebody says where."""
    rows = np.array([(g.start, g.end, g.size, g.channels, g.row) for g in grids], np.int64)
    reach = max(64, *(2 * grid.row + 4 * grid.channels for grid in grids))
    sounds = [grid.channels for grid in grids if not grid.row]
    ring = (streams, 1 << reach.bit_length())
    sums = np.tile(_offs(), (streams, PREDICTORS, 1))
    return Numbers(
        rows,
        np.zeros(streams, np.int64),
        np.zeros(streams, np.int64),
        np.zeros(streams, np.int64),
        np.zeros(streams, np.int64),
        np.zeros(streams, np.int64),
        np.zeros(ring),
        np.zeros(ring),
        np.zeros((streams, 4, 2)),
        np.zeros((streams, PREDICTORS)),
        np.zeros((streams, INPUTS)),
        np.zeros((streams, PREDICTORS), np.int64),
        sums,
        np.ones(sums.shape),
        squares.make(grids, streams),
        series.make(max(sounds, default=0), streams),
        np.zeros(INPUTS),
        np.zeros(INPUTS),
        np.zeros(INPUTS),
    )


def structure(general: Any, grids: list[Grid], streams: int) -> Any:
    """The memory's `State` for these grids: history, matches and buckets are those of the other."""
    count = CONTEXTS + OWN_CONTEXTS
    width = 4 * count + 8 + INPUTS
    own = tables.make(count, 2, 1, general.tables.limit)
    return general._replace(
        contexts=None,
        tables=own._replace(
            nodes=general.tables.nodes,
            entries=general.tables.entries,
            buckets=general.tables.buckets,
        ),
        mixer=mixer.make(width, 1, streams, RATE),
        found=tables.room(count),
        mixing=mixer.room(width),
        numbers=make(grids, streams),
    )


@inline
def _numbers_of(packed: Any) -> Any:
    """The `Numbers` again, inside a loop."""
    (
        grids, starts, following, entered, seen, value, values, off, lately, means, slopes, levels,
        sums, counts, squares_, series_, low, high, middle,
    ) = packed  # fmt: skip
    return Numbers(
        grids, starts, following, entered, seen, value, values, off, lately, means, slopes, levels,
        sums, counts, Squares(*squares_), Series(*series_), low, high, middle,
    )  # fmt: skip


@inline
def inside(packed: Any, b: Any, position: Any) -> Any:
    """Whether the next byte of stream b, after so many, is of numbers; once for every byte."""
    numbers = _numbers_of(packed)
    grids, at = numbers.grids, numbers.starts[b] + position
    k = numbers.following[b]
    while k < len(grids) and at >= grids[k, 1]:
        k += 1
        numbers.entered[b] = 0
    numbers.following[b] = k
    if k == len(grids) or at < grids[k, 0]:
        return False
    if not numbers.entered[b]:
        if (at - grids[k, 0]) % grids[k, 2] > 0:  # where a stream starts
            return False
        numbers.entered[b] = 1
        _reset(numbers, b)
    return True


@inline
def _reset(numbers: Any, b: Any) -> None:
    """A part of numbers begins in stream b."""
    numbers.seen[b] = 0
    numbers.values[b] = 0.0
    numbers.off[b] = _OFF
    numbers.lately[b] = _OFF
    numbers.means[b] = 0.0
    for q in range(_LEVELS):
        for m in range(PREDICTORS):
            numbers.sums[b, m, q] = _OFFS[q]
            numbers.counts[b, m, q] = 1.0
    squares.reset(numbers.squares, b)
    series.reset(numbers.series, b)


_OFFS = _offs()


@jit
def _level(off: Any) -> Any:
    """In quarters of octaves, upwards from 1 / 16."""
    t = np.int64(off * 64.0) + 4
    octaves = 0
    while t >= 8:
        t >>= 1
        octaves += 1
    return min(octaves * 4 + (t - 4), _LEVELS - 1)


@jit
def _held(x: Any, least: Any, most: Any) -> Any:
    """x within these limits, the lower one where it is no number."""
    if not x > least:
        return least
    return most if x > most else x


@inline
def begin(packed: Any, b: Any, position: Any, last: Any, hashes: Any) -> Any:
    """Expect the next byte of stream b, which is inside of numbers, and find its contexts.

    Learns the byte before it, `last`. Returns (what its lowest bit counts, and what the memory's
    mixer is told: a number below 16, a number below 256).
    """
    numbers = _numbers_of(packed)
    if numbers.entered[b] > 1:
        _push(numbers, b, position - 1, np.int64(last))
    numbers.entered[b] = 2
    grid = numbers.grids[numbers.following[b]]
    size, channels, row = grid[2], grid[3], grid[4]
    at = numbers.starts[b] + position - grid[0]
    i, place = at // size, at % size
    if place == 0:
        numbers.value[b] = 0
        if row > 0:
            _expect_in_picture(numbers, b, i, size, channels, row)
        else:
            _expect_in_sound(numbers, b, i, size, channels)
    unit = np.int64(1) << (8 * (size - 1 - place))
    edge = numbers.value[b] * 256 * unit
    for e in range(INPUTS):
        numbers.low[e] = 0.0
        numbers.high[e] = 1.0
        if place > 0:
            numbers.low[e] = _below(numbers, b, e, edge)
            numbers.high[e] = _below(numbers, b, e, edge + 256 * unit)
    c = (i % row if row > 0 else i) % channels
    _hash_contexts(numbers, b, i, place, c, hashes)
    expected = np.int64(numbers.means[b, 0]) >> (8 * size - 4)
    return unit, min(numbers.levels[b, 0] >> 2, 15), ((c * 4 + place) * 16 + expected) & 255


@inline
def _expect_in_picture(numbers: Any, b: Any, i: Any, size: Any, channels: Any, row: Any) -> None:
    p, off, seen = i % row, numbers.off[b], numbers.seen[b]
    c, mask, k = p % channels, len(off) - 1, numbers.following[b]
    if p == 0 or seen == 0:
        squares.begin_row(numbers.squares, b, k, row, channels)
    said = squares.predict(numbers.squares, b, k, numbers.values[b], i, seen, p, c)
    numbers.means[b, 0] = _held(said, 0.0, np.float64((np.int64(1) << (8 * size)) - 1))
    a = 2.0 * (off[(i - channels) & mask] + off[(i - row) & mask])
    a += off[(i - row - channels) & mask] + off[(i - row + channels) & mask]
    a += off[(i - 2 * channels) & mask] + off[(i - 2 * row) & mask]
    a = (a + 2.0 * off[(i - 1) & mask]) / 10.0 if c > 0 else a / 8.0
    _scale(numbers, b, 0, a)


@inline
def _expect_in_sound(numbers: Any, b: Any, i: Any, size: Any, channels: Any) -> None:
    c, half = i % channels, np.float64(np.int64(1) << (8 * size - 1))
    means = numbers.means[b]
    series.predict(numbers.series, b, c, numbers.values[b], i, means)
    for m in range(PREDICTORS):
        means[m] = _held(means[m] + half, 0.0, 2.0 * half - 1.0)
        _scale(numbers, b, m, numbers.lately[b, c, m])


@inline
def _scale(numbers: Any, b: Any, m: Any, off: Any) -> None:
    level = _level(off)
    mean = numbers.sums[b, m, level] / numbers.counts[b, m, level]
    numbers.levels[b, m] = level
    scale = max(_SPREAD * mean, _LEAST_SCALE)
    for e in range(2):
        numbers.slopes[b, 2 * m + e] = _STEPS / (scale * _WIDTHS[e])


@inline
def _below(numbers: Any, b: Any, e: Any, edge: Any) -> Any:
    """What the e-th distribution has below `edge`."""
    t = (np.float64(edge) - 0.5 - numbers.means[b, e >> 1]) * numbers.slopes[b, e] + _CELLS // 2
    if not t > 0.0:
        return 0.0
    if t >= _CELLS:
        return 1.0
    k = np.int64(t)
    return LOGISTIC[k] + (LOGISTIC[k + 1] - LOGISTIC[k]) * (t - k)


@inline
def inputs(packed: Any, b: Any, unit: Any, k: Any, done: Any, x: Any) -> None:
    """x (4,) = what each distribution says of bit k, after the bits `done` behind a leading 1."""
    numbers = _numbers_of(packed)
    grid = numbers.grids[numbers.following[b]]
    start = numbers.value[b] * 256 + ((done << (8 - k)) & 255)
    edge = (start + (np.int64(128) >> k)) * unit
    for e in range(INPUTS):
        x[e] = 0
        if e < 2 or grid[4] == 0:
            if k > 0 and done & 1:  # the last bit has halved the interval
                numbers.low[e] = numbers.middle[e]
            elif k > 0:
                numbers.high[e] = numbers.middle[e]
            middle = _below(numbers, b, e, edge)
            numbers.middle[e] = middle
            low, high = numbers.low[e], numbers.high[e]
            p = (high - middle + _NEAR) / (high - low + 2.0 * _NEAR)
            x[e] = STRETCH[min(max(np.int64(p * 4096.0), 0), 4095)]


@inline
def _push(numbers: Any, b: Any, position: Any, byte: Any) -> None:
    """Take in the byte behind so many; where it is an element's last, learn the element."""
    grid = numbers.grids[numbers.following[b]]
    size, channels, row = grid[2], grid[3], grid[4]
    at = numbers.starts[b] + position - grid[0]
    i = at // size
    numbers.value[b] = numbers.value[b] * 256 + byte
    if at % size < size - 1:
        return
    value = np.float64(numbers.value[b])
    slot = i & (numbers.values.shape[1] - 1)
    most = (_PICTURE if row > 0 else _SOUND) * np.float64(np.int64(1) << (8 * (size - 1)))
    for m in range(1 if row > 0 else PREDICTORS):
        off = min(abs(value - numbers.means[b, m]), most)
        level = numbers.levels[b, m]
        numbers.sums[b, m, level] += off
        numbers.counts[b, m, level] += 1.0
        if numbers.counts[b, m, level] > _COUNTS:
            numbers.sums[b, m, level] *= 0.5
            numbers.counts[b, m, level] *= 0.5
        if m == 0:
            numbers.off[b, slot] = off
        if row == 0:
            c = i % channels
            lately = _FADE * numbers.lately[b, c, m] + (1.0 - _FADE) * off + TINY
            numbers.lately[b, c, m] = lately
    if row > 0:
        p = i % row
        squares.learn(numbers.squares, b, numbers.following[b], p, p % channels, value)
    else:
        value -= np.float64(np.int64(1) << (8 * size - 1))
        series.learn(numbers.series, b, i % channels, value)
    numbers.values[b, slot] = value
    numbers.seen[b] += 1


@inline
def _hash_contexts(numbers: Any, b: Any, i: Any, place: Any, c: Any, out: Any) -> None:
    """out (5,) = hashes of what lies around element i, of channel c, whose byte `place` is next."""
    grid = numbers.grids[numbers.following[b]]
    size, channels, row = grid[2], grid[3], grid[4]
    # As many bits of what is around as are known of the element with this byte.
    cut = 8 * (size - 1 - place)
    base = numbers.value[b] * 16 + place * 4 + c
    first, second = _near(numbers, b, i - 1, cut), _near(numbers, b, i - 2, cut)
    west = _near(numbers, b, i - channels, cut)
    west_first = _near(numbers, b, i - channels - 1, cut)
    expected = np.int64(numbers.means[b, 0] + 0.5) >> cut
    if row > 0:
        north = _near(numbers, b, i - row, cut)
        north_first = _near(numbers, b, i - row - 1, cut)
        most = (np.int64(256) << (8 * place)) - 1
        out[0] = _hash(0, base, first, second, 0)
        out[1] = _hash(1, base, expected, first, 0)
        out[2] = _hash(2, base, first, second, west)
        out[3] = _hash(3, base, expected, 0, 0)
        across = min(max(west + first - west_first, 0), most)
        down = min(max(north + first - north_first, 0), most)
        out[4] = _hash(4, base, across, down, 0)
    else:
        out[0] = _hash(5, base, 0, 0, 0)
        out[1] = _hash(6, base, expected, 0, 0)
        out[2] = _hash(7, base, first, 0, 0)
        out[3] = _hash(8, base, west, 0, 0)
        out[4] = _hash(9, base, first, second, 0)


@inline
def _near(numbers: Any, b: Any, i: Any, cut: Any) -> Any:
    return np.int64(numbers.values[b, i & (numbers.values.shape[1] - 1)]) >> cut


@jit
def _hash(context: Any, base: Any, first: Any, second: Any, third: Any) -> Any:
    h = remix(np.uint64(base), 100 + context)
    for number in (first, second, third):
        h = remix(h, number & _UNSIGNED)
    return h
