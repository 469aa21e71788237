"""Least squares for sound: a sample from those before it, and a cascade that corrects it.

Two predictors weigh the last 16 and 32 elements, of all channels in their order, by normal
equations in which what is long ago counts less, and less where much was wrong. What the longer one
leaves goes through three filters, each of which learns by normalised steps (NLMS) from what the
one before it leaves.

All is float64: single additions, subtractions, products and divisions in the order written here.
Source: the cascades of lossless coders of sound, such as Ghido's OptimFROG and Lopez' Sac.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from prequential.exact.compiled import apart, inline
from prequential.predictors.squares import TINY, size, solve

_LONG = 32
# Of both predictors: elements, how much of what they know stays, and how often they are solved
# after the first 64 times.
_LENGTHS = np.array([16, _LONG])
_DECAYS = np.array([0.99, 0.998])
_EVERY = np.array([4, 8])
_EAGER = 64
_RIDGE = 0.001
# Of the filters: how many of the last errors they weigh, and how fast.
_TAPS = np.array([256, 32, 16])
_RATES = np.array([0.005, 0.005, 0.008])
_MOST_TAPS = 256


class Series(NamedTuple):
    """Of B streams of up to S channels."""

    equations: np.ndarray  # (B, S, 2, T) float64: the normal equations, as in `squares`
    weights: np.ndarray  # (B, S, 2, 32) float64
    errors: np.ndarray  # (B, S, 2) float64: how much was wrong lately
    times: np.ndarray  # (B, S) int64: elements of each channel so far
    features: np.ndarray  # (B, 32) float64: the elements before the one to come, the last first
    # The filters' weights, the earliest error's first, and what they weigh: errors, twice, so that
    # the last ones always lie in a row.
    taps: np.ndarray  # (B, S, 3, 256) float64
    left: np.ndarray  # (B, S, 3, 512) float64
    energies: np.ndarray  # (B, S, 3) float64: of what each weighs, the sum of squares
    said: np.ndarray  # (B, 2 + 3) float64: by both predictors, and by the filters
    # Room.
    solution: np.ndarray  # (32,) float64
    system: np.ndarray  # (32, 32) float64
    column: np.ndarray  # (32,) float64


def make(channels: int, streams: int) -> Series:
    """Room for sound of up to so many channels; 0: there is none."""
    B, S = streams, channels
    return Series(
        np.zeros((B, S, 2, size(_LONG))),
        np.zeros((B, S, 2, _LONG)),
        np.full((B, S, 2), 16.0),
        np.zeros((B, S), np.int64),
        np.zeros((B, _LONG)),
        np.zeros((B, S, 3, _MOST_TAPS)),
        np.zeros((B, S, 3, 2 * _MOST_TAPS)),
        np.zeros((B, S, 3)),
        np.zeros((B, 5)),
        np.zeros(_LONG),
        np.zeros((_LONG, _LONG)),
        np.zeros(_LONG),
    )


@inline
def reset(series: Any, b: Any) -> None:
    """Sound begins in stream b."""
    series.equations[b] = 0.0
    series.weights[b] = 0.0
    series.errors[b] = 16.0
    series.times[b] = 0
    series.taps[b] = 0.0
    series.left[b] = 0.0
    series.energies[b] = 0.0


@apart
def _dot(w: Any, x: Any) -> Any:
    """The sum of w[a] * x[a], in eight sums side by side, which are added in pairs."""
    s0, s1, s2, s3, s4, s5, s6, s7 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for a in range(0, len(w), 8):
        s0 += w[a] * x[a]
        s1 += w[a + 1] * x[a + 1]
        s2 += w[a + 2] * x[a + 2]
        s3 += w[a + 3] * x[a + 3]
        s4 += w[a + 4] * x[a + 4]
        s5 += w[a + 5] * x[a + 5]
        s6 += w[a + 6] * x[a + 6]
        s7 += w[a + 7] * x[a + 7]
    return ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))


@inline
def predict(series: Any, b: Any, c: Any, values: Any, i: Any, means: Any) -> None:
    """means (2,) = what to expect of element i, of channel c: by the shorter predictor, by all.

    values are a ring of the elements, zeros where there were none.
    """
    f, said, mask = series.features[b], series.said[b], len(values) - 1
    for a in range(_LONG):
        f[a] = values[(i - 1 - a) & mask]
    for m in range(2):
        n = _LENGTHS[m]
        said[m] = _dot(series.weights[b, c, m, :n], f[:n])
    means[0] = said[0]
    means[1] = said[1]
    end = series.times[b, c] % _MOST_TAPS + _MOST_TAPS
    for m in range(3):
        n = _TAPS[m]
        said[2 + m] = _dot(series.taps[b, c, m, :n], series.left[b, c, m, end - n : end])
        means[1] += said[2 + m]


@inline
def learn(series: Any, b: Any, c: Any, value: Any) -> None:
    """Take in the value of the element that was predicted last."""
    f, said, w = series.features[b], series.said[b], series.solution
    time = series.times[b, c]
    series.times[b, c] = time + 1
    for m in range(2):
        n, equations = _LENGTHS[m], series.equations[b, c, m]
        error = 0.9 * series.errors[b, c, m] + 0.1 * abs(value - said[m]) + TINY
        series.errors[b, c, m] = error
        _count(equations, _DECAYS[m], 1.0 / (error + 2.0), f[:n], value)
        if (time < _EAGER or time % _EVERY[m] == 0) and solve(
            equations, n, _RIDGE, series.system, series.column, w
        ):
            for a in range(n):
                series.weights[b, c, m, a] = w[a]
    at = time % _MOST_TAPS
    end: Any = at + _MOST_TAPS
    rest: Any = value - said[1]
    for m in range(3):
        n, left = _TAPS[m], series.left[b, c, m]
        after = rest - said[2 + m]
        energy = series.energies[b, c, m]
        if at == 0 or not energy > 0.0:  # what was rounded does not add up
            energy = _dot(left[end - n : end], left[end - n : end])
        step = _RATES[m] * after / (1.0 + 4.0 * n + energy)
        _follow(series.taps[b, c, m, :n], step, left[end - n : end])
        oldest = left[end - n]
        series.energies[b, c, m] = energy + rest * rest - oldest * oldest
        left[at] = rest
        left[end] = rest
        rest = after


@apart
def _count(equations: Any, decay: Any, weight: Any, f: Any, y: Any) -> None:
    """Normal equations after one more case of the features f and the value y."""
    t = 0
    for a in range(len(f)):
        g = weight * f[a]
        for o in range(a + 1):
            equations[t + o] = decay * equations[t + o] + g * f[o] + TINY
        t += a + 1
    for a in range(len(f)):
        equations[t + a] = decay * equations[t + a] + weight * f[a] * y + TINY


@apart
def _follow(w: Any, step: Any, x: Any) -> None:
    for a in range(len(w)):
        w[a] += step * x[a]
