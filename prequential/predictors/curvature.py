"""How what is mixed goes together, so that weights learn in all directions alike.

Inputs of a mixer are strongly correlated: most contexts say the same, and what tells them apart is
small. By the gradient alone weights learn the sum of all soon and the differences late. Here the
step on each row of weights is turned by the inverse of the inputs' second moments, which all rows
share:

    turned = s (F + r I)^-1 x,    F = the sum of p (1 - p) x x^T over the bits so far

The scale s makes a step change the mixed logit as much as one along x would, taken over F. The
inverse is made anew from time to time. Sources: Amari 1998, natural gradient works efficiently in
learning (F is the Fisher information of a logistic mixture); Hazan et al. 2007, online Newton step.

Moments are float32 and the inversion float64: single operations in the order written here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from prequential.exact.compiled import apart, inline

_RIDGE = 3.0  # r, in means of F's diagonal
_GAIN = 0.6  # a factor of s
_KEEP = np.float32(0.98)  # of the moments, an inversion
_FIRST = 256  # bits before the first inversion; then whenever they have doubled, up to `every`
_LEAST = 64  # what is nearly certain says nothing: p (1 - p) of 2^-10 and less
_UNIT = np.float32(1 / 65536)
_TURNED_MAX = np.float32(32000)  # so that products with a row's step have 32 bits


class Curvature(NamedTuple):
    """The moments of n numbers x. Kinds: bits of a byte, and where pieces may end."""

    moments: np.ndarray  # (kinds, n, n) float32: F
    inverse: np.ndarray  # (kinds, n, n) float32: s (F + r I)^-1, symmetric
    bits: np.ndarray  # (kinds,) int64: so far
    # Room.
    sums: np.ndarray  # (n,) float32
    system: np.ndarray  # (n, n) float64
    turned: np.ndarray  # (n,) int32: along which the weights move
    every: int  # bits between inversions


def make(n: int, kinds: int, every: int) -> Curvature:
    """At first a step is along x itself."""
    return Curvature(
        np.zeros((kinds, n, n), np.float32),
        np.tile((np.arange(n * n) % (n + 1) == 0).astype(np.float32).reshape(n, n), (kinds, 1, 1)),
        np.zeros(kinds, np.int64),
        np.zeros(n, np.float32),
        np.zeros((n, n)),
        np.zeros(n, np.int32),
        every,
    )


@inline
def turn(curvature: Any, kind: Any, x: Any) -> None:
    """turned = the inverse times the logits x (n,), held in range."""
    inverse, sums, turned = curvature.inverse[kind], curvature.sums, curvature.turned
    n = len(x)
    for i in range(n):
        sums[i] = 0
    for j in range(n):
        if x[j] != 0:
            v, row = np.float32(x[j]), inverse[j]
            for i in range(n):
                sums[i] += row[i] * v
    for i in range(n):
        turned[i] = np.int32(min(max(sums[i], -_TURNED_MAX), _TURNED_MAX))


@inline
def learn(curvature: Any, kind: Any, x: Any, p: Any) -> None:
    """Take in the logits x (n,) of a bit that was a 1 with the 16-bit probability p."""
    moments, n = curvature.moments[kind], len(x)
    weight = p * (65536 - p) >> 16
    if weight > _LEAST:
        w = np.float32(weight) * _UNIT
        for j in range(n):
            if x[j] != 0:
                v, row = np.float32(x[j]) * w, moments[j]
                for i in range(n):
                    row[i] += v * np.float32(x[i])
    bits = curvature.bits[kind] + 1
    curvature.bits[kind] = bits
    if bits % curvature.every == 0 or (_FIRST <= bits < curvature.every and bits & (bits - 1) == 0):
        invert(curvature, kind)


@apart
def invert(curvature: Any, kind: Any) -> None:
    """The inverse of the moments, which fade."""
    moments, system, inverse = curvature.moments[kind], curvature.system, curvature.inverse[kind]
    n = len(moments)
    trace = 0.0
    for i in range(n):
        trace += np.float64(moments[i, i])
    if not trace > 0:
        return
    ridge = _RIDGE * trace / np.float64(n)
    for i in range(n):
        for j in range(n):
            system[i, j] = np.float64(moments[i, j])
            moments[i, j] *= _KEEP
        system[i, i] += ridge
    # Gauss-Jordan in place: no pivot is below the ridge.
    for k in range(n):
        pivot = system[k]
        reciprocal = 1.0 / pivot[k]
        pivot[k] = 1.0
        for j in range(n):
            pivot[j] *= reciprocal
        for i in range(n):
            if i != k:
                row = system[i]
                factor = row[k]
                row[k] = 0.0
                for j in range(n):
                    row[j] -= factor * pivot[j]
    known = 0.0  # the trace of the inverse times F
    for i in range(n):
        known += 1.0 - ridge * system[i, i]
    scale = _GAIN * trace / known
    for i in range(n):
        for j in range(n):
            inverse[i, j] = np.float32(scale * system[i, j])
