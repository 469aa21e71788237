"""Least squares of pictures and sound, against their definitions in plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from samples import noise

from prequential.grids import Grid
from prequential.predictors import series, squares


def picture(rows: int, row: int, channels: int) -> np.ndarray:
    """Elements (rows * row,) of slopes with some noise."""
    y, x = np.mgrid[0:rows, 0:row]
    grain = np.frombuffer(noise(rows * row), np.uint8).reshape(rows, row) % 16
    return (40.0 + 2 * y + x // channels + 5 * (x % channels) + grain).reshape(-1)


def expected(values: np.ndarray, grid: Grid, distances: list[list[int]], at: int) -> float:
    """What all that is known says of one element: .85 for each pixel of distance."""
    row, channels = grid.row, grid.channels

    def case(i: int) -> tuple[np.ndarray, float]:
        back = distances[i % row % channels]
        centre = values[i - back[0]] if i >= back[0] else 0.0
        if i >= back[1]:
            centre = (centre + values[i - back[1]]) / 2
        return np.array([values[i - d] - centre if i >= d else 0.0 for d in back]), centre

    n = len(distances[0])
    matrix, right = 8.0 * np.eye(n), np.zeros(n)
    for i in range(at):
        if i % row % channels == at % row % channels:
            f, centre = case(i)
            down, across = at // row - i // row, abs(at % row - i % row) // channels
            weight = 0.85 ** (down + across)
            matrix += weight * np.outer(f, f)
            right += weight * f * (values[i] - centre)
    f, centre = case(at)
    return float(centre + f @ np.linalg.solve(matrix, right))


@pytest.mark.parametrize(("channels", "row"), [(1, 9), (2, 10), (3, 21), (3, 22), (4, 20)])
def test_pictures_as_defined(channels: int, row: int) -> None:
    grid = Grid(0, 8 * row, 1, channels, row, False, False)
    values = picture(8, row, channels)
    s = squares.make([grid], 2)
    distances = [[int(d) for d in s.distances[0, c]] for c in range(channels)]
    assert min(map(min, distances)) > 0
    ring = np.zeros(128)
    for i, value in enumerate(values):
        p, c = i % row, i % row % channels
        if p == 0:
            squares.begin_row(s, 1, 0, row, channels)
        said = squares.predict(s, 1, 0, ring, i, i, p, c)
        if i % 5 == 0 and row % channels == 0:
            assert said == pytest.approx(expected(values, grid, distances, i), abs=1e-6)
        squares.learn(s, 1, 0, p, c, value)
        ring[i % 128] = value
    assert not s.above[0].any()  # of the other stream
    squares.reset(s, 1)
    assert not s.above.any()


def test_an_array_without_pictures_needs_no_room() -> None:
    assert squares.make([Grid(0, 8, 2, 1, 0, True, True)], 3).above.size == 0
    assert series.make(0, 3).equations.size == 0


def test_solving() -> None:
    generator = np.random.Generator(np.random.Philox(5))
    n = 7
    half = generator.normal(size=(n, n))
    matrix, right = half @ half.T, generator.normal(size=n)
    packed = np.concatenate([matrix[np.tril_indices(n)], right])
    w, room = np.zeros(n), np.zeros((n, n))
    assert squares.solve(packed, n, 0.5, room, np.zeros(n), w)
    np.testing.assert_allclose(w, np.linalg.solve(matrix + 0.5 * np.eye(n), right), rtol=1e-9)
    assert not squares.solve(packed * 0.0, n, 0.0, room, np.zeros(n), w)
    packed[3] = np.nan
    assert not squares.solve(packed, n, 0.5, room, np.zeros(n), w)


def test_sound_as_defined() -> None:
    """The shorter predictor by its definition, and the cascade by plain steps."""
    time = np.arange(700)
    grain = np.frombuffer(noise(700), np.uint8) % 32
    values = np.round(900 * np.sin(time / 9) + 300 * np.sin(time / 2.3)) + grain
    s, ring, means = series.make(1, 1), np.zeros(128), np.zeros(2)
    weights, lately = np.zeros(16), 16.0
    matrix, right = 0.001 * np.eye(16), np.zeros(16)
    taps, left = [np.zeros(n) for n in (256, 32, 16)], [np.zeros(n) for n in (256, 32, 16)]
    for i, value in enumerate(values):
        f = np.array([values[i - d] if i >= d else 0.0 for d in range(1, 17)])
        series.predict(s, 0, 0, ring, i, means)
        assert means[0] == pytest.approx(f @ weights, rel=1e-6, abs=1e-6)
        parts = [w @ x for w, x in zip(taps, left, strict=True)]
        assert s.said[0, 2:] == pytest.approx(parts, rel=1e-6, abs=1e-6)
        assert means[1] == pytest.approx(s.said[0, 1:].sum(), rel=1e-9, abs=1e-9)
        lately = 0.9 * lately + 0.1 * abs(value - f @ weights)
        matrix = 0.99 * (matrix - 0.001 * np.eye(16)) + np.outer(f, f) / (lately + 2)
        matrix += 0.001 * np.eye(16)
        right = 0.99 * right + f * value / (lately + 2)
        if i < 64 or i % 4 == 0:
            weights = np.linalg.solve(matrix, right)
        rest = value - s.said[0, 1]
        for m, rate in enumerate((0.005, 0.005, 0.008)):
            after = rest - parts[m]
            size, x = len(taps[m]), left[m]
            taps[m] = taps[m] + rate * after / (1 + 4 * size + x @ x) * x
            left[m] = np.append(x[1:], rest)
            rest = after
        series.learn(s, 0, 0, value)
        ring[i % 128] = value
    assert np.abs(values[500:]).mean() > 400
    assert s.errors[0, 0, 0] < 40
