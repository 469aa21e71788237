"""Tiles of matrices in the processor's vectors: the innermost loops of `multiply`.

A loop of numba's leaves its sums in memory, to be read and written for every few terms; a tile's
are in registers. It is written as LLVM's vector instructions, which mean the same on every
processor. Factors are integers, and so is every sum of some of their products, below 2^24: a
multiply-add that is rounded once gives the same as one that is rounded twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

ROWS = 4
SIDE = 16  # of a square that is turned
_INT, _INT32, _FLOAT = ir.IntType(64), ir.IntType(32), ir.FloatType()
_FUSED = ("contract",)


def columns() -> int:
    """How many a tile has: as fill the registers, of 512 bits or of 256, beside the factors."""
    features = cpu_target.target_context.codegen().magic_tuple()[2]
    return 32 if "+avx512f" in features.split(",") else 16


def _compiled(typed: Callable[..., Any], plain: Callable[..., Any]) -> Any:
    """A function of instructions; where nothing is compiled, the same in NumPy."""
    return plain if numba.config.DISABLE_JIT else intrinsic(typed)  # type: ignore[attr-defined]


def _width(_: Any) -> Any:
    """width(): `columns`, to a loop."""

    def generate(*_: Any) -> Any:
        return ir.Constant(_INT, columns())

    return types.int64(), generate


def _adding(rows: int, vectors: int) -> Any:
    """The tile of so many rows and as many widths.

    add(a, b, out, i, j): out[i : i + rows, j : j + vectors * width] += the product of these rows of
    a and columns of b. a and out are float32, b is float32 or integers; rows of all lie whole.
    """

    def add(_: Any, a: Any, b: Any, out: Any, i: Any, j: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
            x, y, sums = _arrays(context, builder, (a, b, out), values)
            row, column = values[3:]
            kind = ir.VectorType(context.get_data_type(b.dtype), columns())
            _add(builder, x, y, sums, row, column, rows, vectors, kind)
            return context.get_dummy_value()

        return types.void(a, b, out, types.int64, types.int64), generate

    def plain(a: Any, b: Any, out: Any, i: int, j: int) -> None:
        own, some = slice(i, i + rows), slice(j, j + vectors * SIDE)
        for k in range(len(b)):
            out[own, some] += a[own, k : k + 1] * b[k, some].astype(np.float32)

    return _compiled(add, plain)


def _turning(_: Any, a: Any, turned: Any, i: Any, j: Any) -> Any:
    """turn(a, turned, i, j): see `_turn_plainly`."""

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        own, out = _arrays(context, builder, (a, turned), values)
        kinds = [ir.VectorType(context.get_data_type(x.dtype), SIDE) for x in (a, turned)]
        _turn(builder, own, out, *values[2:], *kinds)
        return context.get_dummy_value()

    return types.void(a, turned, types.int64, types.int64), generate


def _turn_plainly(a: Any, turned: Any, i: int, j: int) -> None:
    """A square of integers, turned; as float32 if that is what `turned` has."""
    turned[j : j + SIDE, i : i + SIDE] = a[i : i + SIDE, j : j + SIDE].T


def _arrays(context: Any, builder: Any, kinds: Any, values: Any) -> list[Any]:
    """The arrays among the arguments, which come first."""
    return [
        context.make_array(kind)(context, builder, value)
        for kind, value in zip(kinds, values, strict=False)
    ]


def _at(builder: Any, array: Any, row: Any, column: Any, kind: Any) -> Any:
    """A pointer to an element of an array, whose rows are whole, or to some from there on."""
    bytes_ = builder.bitcast(array.data, ir.IntType(8).as_pointer())
    start = builder.gep(bytes_, [builder.mul(row, builder.extract_value(array.strides, 0))])
    element = builder.bitcast(start, array.data.type)
    return builder.bitcast(builder.gep(element, [column]), kind.as_pointer())


def _load(builder: Any, place: Any) -> Any:
    """A vector from anywhere."""
    loaded = builder.load(place)
    loaded.align = 1
    return loaded


def _store(builder: Any, vector: Any, place: Any) -> None:
    """A vector to anywhere."""
    builder.store(vector, place).align = 1


def _add(
    builder: Any, a: Any, b: Any, out: Any, i: Any, j: Any, rows: int, vectors: int, kind: Any
) -> None:
    """The instructions of `add`: a loop over all terms. kind: a vector of b's numbers."""
    count = kind.count
    vector, all_ = ir.VectorType(_FLOAT, count), ir.VectorType(_INT32, count)
    zero, one = ir.Constant(_INT, 0), ir.Constant(_INT, 1)
    own = [builder.add(i, ir.Constant(_INT, row)) for row in range(rows)]
    starts = [builder.add(j, ir.Constant(_INT, count * k)) for k in range(vectors)]
    places = [[_at(builder, out, row, start, vector) for start in starts] for row in own]
    factors = [_at(builder, a, row, zero, _FLOAT) for row in own]
    first = [[_load(builder, place) for place in line] for line in places]
    before = builder.block
    head, body, end = (builder.append_basic_block(name) for name in ("head", "body", "end"))
    builder.branch(head)
    builder.position_at_end(head)
    term, sums = builder.phi(_INT), [[builder.phi(vector) for _ in line] for line in places]
    terms = builder.extract_value(b.shape, 0)
    builder.cbranch(builder.icmp_signed("<", term, terms), body, end)
    builder.position_at_end(body)
    others = [_load(builder, _at(builder, b, term, start, kind)) for start in starts]
    if kind != vector:
        others = [builder.sitofp(other, vector) for other in others]
    for line, before_it, factor in zip(sums, first, factors, strict=True):
        number = builder.load(builder.gep(factor, [term]))
        same = builder.insert_element(ir.Constant(vector, None), number, ir.Constant(_INT32, 0))
        same = builder.shuffle_vector(same, same, ir.Constant(all_, [0] * count))
        for total, start, other in zip(line, before_it, others, strict=True):
            product = builder.fmul(same, other, flags=_FUSED)
            total.add_incoming(start, before)
            total.add_incoming(builder.fadd(total, product, flags=_FUSED), body)
    term.add_incoming(zero, before)
    term.add_incoming(builder.add(term, one), body)
    builder.branch(head)
    builder.position_at_end(end)
    for line, targets in zip(sums, places, strict=True):
        for total, place in zip(line, targets, strict=True):
            _store(builder, total, place)


def _turn(builder: Any, a: Any, turned: Any, i: Any, j: Any, source: Any, target: Any) -> None:
    """The instructions of `turn`: four times, the upper and lower halves of rows go together."""
    half, numbers = SIDE // 2, [ir.Constant(_INT, row) for row in range(SIDE)]
    rows = [_load(builder, _at(builder, a, builder.add(i, row), j, source)) for row in numbers]
    together = [
        ir.Constant(
            ir.VectorType(_INT32, SIDE), [k // 2 + k % 2 * SIDE + first for k in range(SIDE)]
        )
        for first in (0, half)
    ]
    for _ in range(4):
        rows = [
            builder.shuffle_vector(rows[k], rows[k + half], mask)
            for k in range(half)
            for mask in together
        ]
    for row, number in zip(rows, numbers, strict=True):
        value = row if source == target else builder.sitofp(row, target)
        _store(builder, value, _at(builder, turned, builder.add(j, number), i, target))


width = _compiled(_width, lambda: SIDE)
add, add_row, add_part = _adding(ROWS, 1), _adding(1, ROWS), _adding(1, 1)
turn = _compiled(_turning, _turn_plainly)
