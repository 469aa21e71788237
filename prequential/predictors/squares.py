"""Least squares for pictures: an element from its neighbours, as they went together around here.

Each channel has normal equations of its own, in which what is known counts .85 for every pixel that
it is away, in both directions: those of the rows above are summed from the right to the left when a
row begins, those to the left as it goes on. They are solved for every element.

All is float64: single additions, subtractions, products and divisions in the order written here.
Source: the weighted least squares of lossless image coders, such as Wu, Barthel & Zhang 1998.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from prequential.exact.compiled import apart, inline
from prequential.grids import Grid

_DECAY = 0.85
_RIDGE = 8.0
# Added at every decay, so that nothing becomes so small that processors take long for it.
TINY = 1e-20
_LEAST_PIVOT = 1e-9
# Neighbours by (pixels to the right, rows up): a channel's own, all of a picture in grey, and those
# of each other channel beside the pixel itself, or its neighbour's neighbour where that is to come.
_OWN = [(-1, 0), (0, 1), (-1, 1), (1, 1), (-2, 0), (0, 2)]
_GREY = [*_OWN, (1, 2), (-2, 1), (2, 1), (-1, 2)]
_OTHER = [(-1, 0), (0, 1), (-1, 1), (1, 1)]


class Squares(NamedTuple):
    """Of B streams, for rows of up to R elements of up to S channels and n neighbours.

    Normal equations are T = n (n + 1) / 2 + n numbers: a triangle row by row, and the right side.
    """

    above: np.ndarray  # (B, R, T) float64: the rows above, by element
    right: np.ndarray  # (B, R + S, T) float64: their sums over this element and those to the right
    left: np.ndarray  # (B, S, T) float64: sums over what is to the left, by channel
    features: np.ndarray  # (B, n) float64: of the element to come
    centre: np.ndarray  # (B,) float64: what features and value are relative to
    distances: np.ndarray  # (N, S, n) int64: of the neighbours, in elements, of every grid
    counts: np.ndarray  # (N,) int64: of neighbours
    # Room.
    equations: np.ndarray  # (T,) float64
    solution: np.ndarray  # (n,) float64
    system: np.ndarray  # (n, n) float64
    column: np.ndarray  # (n,) float64


def _distances(channels: int, row: int) -> list[list[int]]:
    """How many elements back the neighbours of each channel's element are."""

    def back(neighbours: list[tuple[int, int]], channels_back: int) -> list[int]:
        return [up * row - right * channels + channels_back for right, up in neighbours]

    found = [back(_GREY if channels == 1 else _OWN, 0) for _ in range(channels)]
    for c in range(channels):
        for d in range(1, channels):
            other = (c - d) % channels
            here = (0, 0) if other < c else (-2, 0)
            found[c] += back([here, *_OTHER], c - other)
    return found


def size(numbers: int) -> int:
    """How many numbers the normal equations of so many unknowns are."""
    return numbers * (numbers + 1) // 2 + numbers


def make(grids: list[Grid], streams: int) -> Squares:
    """Room for the pictures among these grids."""
    pictures = [grid for grid in grids if grid.row]
    row = max((grid.row for grid in pictures), default=0)
    channels = max((grid.channels for grid in pictures), default=0)
    known = [_distances(grid.channels, grid.row) if grid.row else [] for grid in grids]
    counts = np.array([len(lists[0]) if lists else 0 for lists in known], np.int64)
    n = int(counts.max())
    distances = np.zeros((len(grids), channels, n), np.int64)
    for k, lists in enumerate(known):
        for c, one in enumerate(lists):
            distances[k, c, : len(one)] = one
    T = size(n)
    return Squares(
        np.zeros((streams, row, T)),
        np.zeros((streams, row + channels, T)),
        np.zeros((streams, channels, T)),
        np.zeros((streams, n)),
        np.zeros(streams),
        distances,
        counts,
        np.zeros(T),
        np.zeros(n),
        np.zeros((n, n)),
        np.zeros(n),
    )


@inline
def reset(squares: Any, b: Any) -> None:
    """A picture begins in stream b."""
    for array in (squares.above, squares.right, squares.left):
        array[b] = 0.0


@inline
def begin_row(squares: Any, b: Any, k: Any, row: Any, channels: Any) -> None:
    """Sum what the rows above say, from the right to the left."""
    above, right, left = squares.above[b], squares.right[b], squares.left[b]
    T = _size(squares.counts[k])
    for p in range(row, row + channels):
        right[p] = 0.0
    for p in range(row - 1, -1, -1):
        sums, further, own = right[p], right[p + channels], above[p]
        for t in range(T):
            sums[t] = _DECAY * own[t] + _DECAY * further[t]
    for c in range(channels):
        left[c] = 0.0


@inline
def _size(n: Any) -> Any:
    return n * (n + 1) // 2 + n


@inline
def predict(squares: Any, b: Any, k: Any, values: Any, i: Any, seen: Any, p: Any, c: Any) -> Any:
    """What to expect of element i of grid k, the p-th of its row, of channel c.

    values are a ring of the elements, the last `seen` of which are known.
    """
    n, mask = squares.counts[k], len(values) - 1
    distances, f = squares.distances[k, c], squares.features[b]
    west, north = distances[0], distances[1]
    centre = values[(i - west) & mask]
    if seen >= north:
        centre = 0.5 * (centre + values[(i - north) & mask])
    squares.centre[b] = centre
    for a in range(n):
        f[a] = values[(i - distances[a]) & mask] - centre if seen >= distances[a] else 0.0
    left, right, equations = squares.left[b, c], squares.right[b, p], squares.equations
    for t in range(_size(n)):
        equations[t] = left[t] + right[t]
    w = squares.solution
    said: Any = centre
    if solve(equations, n, _RIDGE, squares.system, squares.column, w):
        for a in range(n):
            said += w[a] * f[a]
    return said


@inline
def learn(squares: Any, b: Any, k: Any, p: Any, c: Any, value: Any) -> None:
    """Take in the value of the element that was predicted last."""
    n, f, products = squares.counts[k], squares.features[b], squares.equations
    y: Any = value - squares.centre[b]
    t = 0
    for a in range(n):
        for o in range(a + 1):
            products[t + o] = f[a] * f[o]
        t += a + 1
    for a in range(n):
        products[t + a] = f[a] * y
    above, left = squares.above[b, p], squares.left[b, c]
    for t in range(_size(n)):
        v = _DECAY * above[t] + products[t] + TINY
        above[t] = v
        left[t] = _DECAY * (left[t] + v)


@apart
def solve(equations: Any, n: Any, ridge: Any, system: Any, column: Any, w: Any) -> Any:
    """w (n,) of the normal equations by A = L D L', if their matrix allows it; system is room."""
    t = 0
    for i in range(n):
        for j in range(i + 1):
            system[i, j] = equations[t + j]
        t += i + 1
        system[i, i] += ridge
    for i in range(n):
        w[i] = equations[t + i]
    for k in range(n):
        pivot = system[k, k]
        if not pivot > _LEAST_PIVOT:
            return False
        inverse = 1.0 / pivot
        right = w[k]
        for i in range(k + 1, n):
            column[i] = system[i, k]
        # What is to the right of column k, row by row, in vectors without another order.
        for i in range(k + 1, n):
            factor = column[i] * inverse
            row = system[i]
            for j in range(k + 1, i + 1):
                row[j] -= factor * column[j]
            row[k] = factor
            w[i] -= factor * right
    for k in range(n):
        w[k] /= system[k, k]
    for i in range(n - 1, 0, -1):
        known, row = w[i], system[i]
        for j in range(i):
            w[j] -= row[j] * known
    return True
