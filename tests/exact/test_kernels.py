"""Every operation stands twice, with one name and one list of arguments, and gives the same bits.

The lists below are the operations' own: one that is missing in a form, or here, fails the test.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from samples import Loops

from prequential.exact import kernels, scalars, tensors
from prequential.exact.scalars import group_of

T = torch.Tensor
Cases = Iterator[tuple[Any, ...]]
EDGE = [1, 2, 3, 17, 64]  # rows, columns, outputs


def reals(*shape: int, seed: int = 0) -> T:
    """Float32 numbers whose rows are of very different magnitudes; one row is 0, some numbers."""
    generator = np.random.default_rng([seed, *shape])
    x = generator.standard_normal(shape) * 2.0 ** generator.uniform(-50, 20, (*shape[:-1], 1))
    x[generator.random(shape) < 0.1] = 0
    x[-1:] *= generator.integers(2)
    return torch.from_numpy(x.astype(np.float32))


def integers(*shape: int, seed: int = 0) -> T:
    """Operands, the largest among them."""
    generator = np.random.default_rng([seed, *shape])
    x = generator.integers(-127, 128, shape)
    x[generator.random(shape) < 0.2] = 127
    return torch.from_numpy(x.astype(np.float32))


def powers(*shape: int, seed: int = 0) -> T:
    """Scales of rows."""
    return torch.from_numpy(
        2.0 ** np.random.default_rng([seed, *shape]).integers(-12, 3, shape).astype(np.float32)
    )


def out(*shape: int) -> T:
    """What an operation writes into; a number where it does not stays."""
    return torch.full(shape, 7.0)


def heads(columns: int, window: int, groups: int, hs: int) -> list[T]:
    """Queries, keys and values with their scales."""
    lengths = columns, window + columns, window + columns
    pairs = [
        (integers(n, groups, hs, seed=s), powers(n, groups, seed=s)) for s, n in enumerate(lengths)
    ]
    return [part for pair in pairs for part in pair]


# (columns, streams, heads, head width, window)
ATTENTION = [(1, 1, 1, 1, 0), (5, 1, 2, 8, 0), (4, 3, 2, 5, 3), (1, 2, 1, 16, 7), (9, 1, 3, 20, 33)]


def parts(groups: int) -> list[tuple[int, int]]:
    """Ranges of heads: all, the first, the last, none."""
    return sorted({(0, groups), (0, 1), (groups - 1, groups), (1, 1)})


def matmul() -> Cases:
    for n, k, m in [*product(EDGE, (1, 5, 1040), (1, 9)), (3, 1041, 4), (2, 3 * 1040 + 5, 3)]:
        yield integers(n, k), integers(k, m, seed=1), out(n, m)


def quantise_rows() -> Cases:
    for n, k in product(EDGE, EDGE):
        yield reals(n, k), out(n, k), out(n)


def quantise_columns() -> Cases:
    for n, k in product(EDGE, EDGE):
        yield reals(k, n).T.contiguous(), out(n, k), out(k)


def weight_gradient() -> Cases:
    for streams, columns, outputs in product((1, 2, 5, 17, 33), (1, 6), (1, 7)):
        n = streams * columns
        shapes = reals(n, outputs) * 2.0**-8, integers(n, 9), streams, group_of(streams)
        yield *shapes, out(outputs, 9), out(outputs)
        if streams > 1:
            yield *shapes, torch.zeros(outputs, 9, dtype=torch.int32), out(outputs)
    yield reals(1500, 3), integers(1500, 4), 1, 0, out(3, 4), out(3)  # more than a block


def quantise_heads() -> Cases:
    for columns, streams, each, hs, _ in ATTENTION:
        groups, n, width = streams * each, columns * streams, 3 * each * hs
        for first, end in parts(groups):
            pairs = [out(columns, groups, hs), out(columns, groups)] * 3
            given = reals(n, width), reals(n), reals(width)
            yield *given, first, end, *(pair.clone() for pair in pairs)


def attention_weights() -> Cases:
    temperature = np.float32(scalars.LOG2_E / 4)
    for columns, streams, each, _, window in ATTENTION:
        groups, keys = streams * each, window + columns
        scores = integers(groups, columns, keys) * 100
        scales = powers(columns, groups), powers(keys, groups, seed=1), powers(keys, groups, seed=2)
        results = out(*scores.shape), out(*scores.shape), out(groups, columns)
        for reach in sorted({window, window // 2, 0}):
            slopes = 2.0 ** -torch.arange(groups).float()
            given = scores, *scales, slopes, temperature, window, reach
            yield *given, *(result.clone() for result in results)


def attention() -> Cases:
    temperature = np.float32(scalars.LOG2_E / 4)
    for columns, streams, each, hs, window in ATTENTION:
        groups = streams * each
        slopes = 2.0 ** -torch.arange(groups).float()
        for first, end in parts(groups):
            results = out(groups, columns, window + columns), out(groups, columns, hs)
            given = *heads(columns, window, groups, hs), slopes, temperature, first, end
            yield *given, *results, out(groups, columns)


def merge_heads() -> Cases:
    for columns, streams, each, hs, _ in ATTENTION:
        groups, n = streams * each, columns * streams
        yield integers(groups, columns, hs), powers(groups, columns), out(n, each * hs), out(n)


def rsqrt() -> Cases:
    yield (2.0 ** torch.linspace(-100, 100, 999),)


def norm_quantise() -> Cases:
    for n, k in product(EDGE, [*EDGE, 1024]):
        yield reals(n, k) * 2.0**-6, out(n, k), out(n), out(n)


def norm_backward() -> Cases:
    for n, k in product(EDGE, EDGE):
        yield reals(n, k), powers(n), integers(n, k), powers(n, seed=1), reals(n).abs(), out(n, k)


def scale_outer() -> Cases:
    for n, k in product(EDGE, EDGE):
        yield integers(n, k), powers(n), powers(k), out(n, k)


def add_scaled_outer() -> Cases:
    for n, k, first in product(EDGE, EDGE, (0, 3)):
        yield integers(n, k), powers(n), powers(k), first, reals(n, first + k + 2, seed=1)


def relu_squared() -> Cases:
    for n, k in product(EDGE, EDGE):
        yield integers(n, k), powers(n), powers(k), out(n, k), out(n, k), out(n)


def relu_squared_backward() -> Cases:
    for n, k in product(EDGE, EDGE):
        yield integers(n, k), powers(n), reals(n, k).clamp(min=0), out(n, k)


def split_gradient() -> Cases:
    for columns, streams, each, hs, _ in ATTENTION:
        n, width, shape = columns * streams, each * hs, (columns, streams * each)
        given = integers(n, width) * 9, powers(n), integers(n, width, seed=1), powers(n, seed=1)
        yield *given, out(*shape, hs), out(*shape), out(*shape)


def attention_backward() -> Cases:
    for columns, streams, each, hs, window in ATTENTION:
        groups, keys = streams * each, window + columns
        distance = torch.arange(columns)[:, None] + window - torch.arange(keys)
        weights = integers(groups, columns, keys).abs() / 128
        weights[:, (distance < 0) | (distance > window)] = 0
        gradient = integers(columns, groups, hs), powers(columns, groups), reals(columns, groups)
        for first, end in parts(groups):
            given = *gradient, *heads(columns, window, groups, hs), weights, np.float32(0.25)
            yield *given, first, end, out(columns * streams, 3 * each * hs)


def convolve() -> Cases:
    for streams, taps, columns in product((1, 3), (0, 1, 3), (1, 2, 6)):
        n = streams * columns
        yield reals(taps * streams + n, 24), reals(taps, 24), streams, out(n, 24)


def convolve_backward() -> Cases:
    for streams, taps, columns in product((1, 3), (1, 3), (1, 2, 6)):
        n = streams * columns
        given = reals(n, 24), reals(taps * streams + n, 24, seed=1), reals(taps, 24, seed=2)
        yield *given, streams, out(n, 24), out(taps, 24)


def cell() -> Cases:
    for n, k in product(EDGE, EDGE):
        given = integers(3 * n, k), powers(3 * n), reals(n, 3 * k).clamp(-20, 20)
        yield *given, reals(n, k, seed=1).clamp(-1, 1), out(n, 3 * k), *(out(n, k) for _ in "abc")


def cell_backward() -> Cases:
    for n, k in product(EDGE, EDGE):
        active = integers(n, 3 * k).abs() / 128
        before, squashed = (integers(n, k, seed=seed) / 128 for seed in (1, 2))
        dout, dstate = reals(n, k), reals(n, k, seed=1)
        yield active, before, squashed, dout, dstate, out(n, 3 * k)


def slide() -> Cases:
    for step, kept in ((1, 6), (3, 2), (4, 3), (7, 0), (0, 7)):
        yield reals(7, 12), step, kept


def descend() -> Cases:
    adam = np.array([0.01, 0.9, 0.98, 10, 50, 1e-6], np.float32)
    without_mean = np.array([0.01, 0.98, 50, 1e-12], np.float32)
    for c, n, k in product((adam, adam[:1], without_mean), EDGE, EDGE):
        moments = reals(n, k, seed=1).clamp(-1, 1), reals(n, k, seed=2).clamp(-1, 1).abs()
        gradient = integers(n, k) * 999, torch.full((n,), 2.0**-18)
        yield reals(n, k).clamp(-8, 8), *moments, *gradient, out(n, k), out(n), c


CASES: dict[str, Callable[[], Cases]] = {
    case.__name__: case
    for case in (
        matmul, quantise_rows, quantise_columns, weight_gradient, quantise_heads,
        attention_weights, attention, merge_heads, rsqrt, norm_quantise, norm_backward,
        scale_outer, add_scaled_outer, relu_squared, relu_squared_backward, split_gradient,
        attention_backward, convolve, convolve_backward, cell, cell_backward, slide, descend,
    )
}  # fmt: skip


def operations(module: Any) -> dict[str, list[str]]:
    """Name -> arguments of the public functions that a module defines."""
    return {
        name: list(inspect.signature(function).parameters)
        for name, function in vars(module).items()
        if callable(function)
        and getattr(function, "__module__", "") == module.__name__
        and not name.startswith("_")
    }


def test_each_operation_has_two_forms_and_is_compared() -> None:
    assert operations(tensors) == operations(kernels)
    assert set(CASES) == set(operations(tensors))


def copied(arguments: tuple[Any, ...]) -> list[Any]:
    return [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]


@pytest.mark.parametrize("name", CASES)
def test_both_forms_give_the_same_bits(name: str, counts: Counter[str]) -> None:
    written = name == "rsqrt"
    for arguments in CASES[name]():
        portable, compiled = copied(arguments), copied(arguments)
        result = getattr(tensors, name)(*portable)
        if name == "rsqrt":  # of one number
            (x,) = arguments
            loop = torch.tensor([kernels.rsqrt(np.float32(value)) for value in x.tolist()])
            assert torch.equal(result, loop)
            continue
        getattr(Loops(), name)(*compiled)
        for given, one, other in zip(arguments, portable, compiled, strict=True):
            if isinstance(one, torch.Tensor):
                assert torch.equal(one, other), [getattr(a, "shape", a) for a in arguments]
                written = written or not torch.equal(given, one)
        counts["operations compared in two forms"] += 1
    assert written
