"""Products of integers, compiled: any shape, every kind of operand, in tiles and beside them."""

from __future__ import annotations

import numpy as np
import pytest

from prequential.config import MAX_TERMS, OPERAND_MAX
from prequential.exact import multiply, tile

# Fewer and more rows than pay for a turned weight; whole tiles, and what is left beside them.
SHAPES = [(1, 128, 384), (3, 5, 2), (16, 16, 16), (17, 33, 65), (32, 128, 256), (5, 200, 1027)]


def integers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-OPERAND_MAX, OPERAND_MAX + 1, shape)


@pytest.mark.parametrize(("rows", "terms", "outputs"), SHAPES)
@pytest.mark.parametrize("kind", [np.int8, np.int16])
def test_rows_times_weights(rows: int, terms: int, outputs: int, kind: type) -> None:
    x, weight = integers(1, rows, terms), integers(2, outputs, terms)
    xq, narrow = x.astype(np.int16), weight.astype(kind)
    out = np.full((rows, outputs + 3), 7, np.float32)
    multiply.in_int32(xq, narrow, 3, out)
    assert np.array_equal(out[:, 3:], x @ weight.T)
    assert (out[:, :3] == 7).all()
    turned, again = np.empty((terms, outputs), kind), np.empty((rows, outputs), np.float32)
    multiply.turn(narrow, turned)
    assert np.array_equal(turned, weight.T)
    multiply.by_turned(xq, turned, again)
    assert np.array_equal(again, x @ weight.T)


@pytest.mark.parametrize(("rows", "terms", "outputs"), [*SHAPES, (4, 2 * MAX_TERMS + 7, 40)])
@pytest.mark.parametrize("kind", [np.int8, np.int16, np.float32])
def test_products_in_float32(rows: int, terms: int, outputs: int, kind: type) -> None:
    a, b = integers(3, rows, terms), integers(4, terms, outputs)
    out = np.empty((rows, outputs), np.float32)
    multiply.in_float32(a.astype(np.float32), b.astype(kind), out)
    assert np.array_equal(out, (a @ b).astype(np.float32))
    multiply.in_float32(a.astype(np.float32), b.astype(kind, order="F"), out)  # no whole rows
    assert np.array_equal(out, (a @ b).astype(np.float32))


def test_a_tile_adds_to_what_is_there_and_touches_nothing_else() -> None:
    a, b = integers(5, 8, 9).astype(np.float32), integers(6, 9, 256).astype(np.float32)
    for rows, vectors, add in ((tile.ROWS, 1, _add), (1, tile.ROWS, _add_row)):
        out, expected = np.ones((8, 256), np.float32), np.ones((8, 256), np.float32)
        place = slice(3, 3 + rows), slice(32, 32 + vectors * tile.columns())
        expected[place] += (a @ b)[place]
        add(a, b, out)
        assert np.array_equal(out, expected)


def _compiled(function):  # type: ignore[no-untyped-def]
    from prequential.exact.linking import njit

    return njit(function)


@_compiled
def _add(a, b, out):  # type: ignore[no-untyped-def]
    tile.add(a, b, out, 3, 32)


@_compiled
def _add_row(a, b, out):  # type: ignore[no-untyped-def]
    tile.add_row(a, b, out, 3, 32)
