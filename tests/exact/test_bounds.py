"""Exact reductions: refused where a sum could round, exact at the bound, wrong just beyond it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from samples import Loops

from prequential.config import (
    MAX_TERMS,
    OPERAND_MAX,
    ModelConfig,
    RecurrenceConfig,
    load,
    preset_names,
)
from prequential.errors import ConfigError
from prequential.exact import bounds, multiply, scalars, softmax, tensors
from prequential.exact.bounds import LIMITS, Reduction
from prequential.transformer.model import Transformer


def extremes(rows: int, terms: int, seed: int) -> np.ndarray:
    """Integers (rows, terms): all at the maximum, all at the minimum, then mixed signs."""
    signs = np.random.default_rng(seed).choice([-1, 1], (rows, terms))
    signs[0], signs[1] = 1, -1
    return OPERAND_MAX * signs


def exact_product(a: np.ndarray, b: np.ndarray) -> list[list[int]]:
    """a @ b in Python's integers."""
    return [[sum(map(int.__mul__, x, y)) for y in b.T.tolist()] for x in a.tolist()]


def as_float32(integers: list[list[int]]) -> torch.Tensor:
    return torch.tensor(integers, dtype=torch.float64).float()


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_is_within_its_bounds(preset: str) -> None:
    config = load(preset).resolve(1 << 30)
    bounds.check(config.model, config.streams, config.chunk)
    rows = config.streams * config.chunk
    bounds.refuse(bounds.of_recurrence(config.recurrence, rows))


def test_the_largest_config_is_within_its_bounds() -> None:
    model = ModelConfig(width=1024, heads=1, hidden=1040, window=508)
    bounds.check(model, 4096, MAX_TERMS - 508)
    bounds.refuse(bounds.of_recurrence(RecurrenceConfig(cells=1024), 4096 * MAX_TERMS, 1 << 16))


@pytest.mark.parametrize(
    ("change", "chunk", "numbers"),
    [
        ({"width": 1056}, 16, ("1056", "16129", "17032224", "16777216")),
        ({"window": 1030}, 16, ("1046", "16870934", "16777216")),
        ({"hidden": 140_000}, 16, ("140000", "2147483647")),
    ],
)
def test_a_model_that_could_round_is_refused(
    change: dict[str, int], chunk: int, numbers: tuple[str, ...]
) -> None:
    model = dataclasses.replace(ModelConfig(layers=1), **change)
    with pytest.raises(ConfigError) as refusal:
        Transformer(model, 1, chunk, 0, "cpu")
    for number in numbers:
        assert number in str(refusal.value)


def test_bounds_are_sharp() -> None:
    assert Reduction("", MAX_TERMS, OPERAND_MAX**2, "float32").holds()
    assert not Reduction("", MAX_TERMS + 1, OPERAND_MAX**2, "float32").holds()
    # At the limits themselves the types hold every integer, and one further they do not.
    for dtype, limit in ((np.float32, LIMITS["float32"]), (np.float64, LIMITS["float64"])):
        assert int(dtype(limit) - dtype(1)) == limit - 1
        assert int(dtype(limit) + dtype(1)) == limit


@pytest.mark.parametrize("terms", [1, 2, 63, 1023, MAX_TERMS])
def test_products_of_extremes_are_python_s(terms: int) -> None:
    a, b = extremes(4, terms, 1), extremes(5, terms, 2).T
    exact = exact_product(a, b)
    out = torch.empty(4, 5)
    x, y = torch.tensor(a).float(), torch.tensor(b).float()
    tensors.matmul(x, y, out)
    assert out.tolist() == exact
    tensors.matmul(x.flip(1).contiguous(), y.flip(0), out)  # another order
    assert out.tolist() == exact
    batched = torch.empty(2, 4, 5)
    tensors.matmul(x.expand(2, 4, terms), y.expand(2, terms, 5), batched)
    assert batched.tolist() == [exact, exact]
    column = np.empty((4, 5), np.float32)
    multiply.in_int32(a.astype(np.int16), np.ascontiguousarray(b.T, np.int16), 0, column)
    assert column.tolist() == exact
    a[:, 0] -= np.sign(a[:, 0])  # odd totals, where a rounded sum would show
    tensors.matmul(torch.tensor(a).float(), y, out)
    assert out.tolist() == exact_product(a, b)


@pytest.mark.parametrize("terms", [MAX_TERMS + 1, 4096, 3 * MAX_TERMS + 7])
def test_long_products_are_rounded_once(terms: int) -> None:
    a, b = extremes(4, terms, 3), extremes(5, terms, 4).T
    a[:, 0] -= np.sign(a[:, 0])
    expected = as_float32(exact_product(a, b))
    out = torch.empty(4, 5)
    tensors.matmul(torch.tensor(a).float(), torch.tensor(b).float(), out)
    assert torch.equal(out, expected)
    columns = tensors._column_sums(torch.tensor(a.T).float(), torch.tensor(a.T).float()).float()
    totals = [sum(x * x for x in row) for row in a.tolist()]
    assert torch.equal(columns, as_float32([totals])[0])


def test_row_sums_at_the_bound() -> None:
    a, b = extremes(4, 1024, 5), extremes(4, 1024, 6)
    a[:, 0] -= np.sign(a[:, 0])
    exact = [sum(map(int.__mul__, x, y)) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    x, y, one = torch.tensor(a).float(), torch.tensor(b).float(), torch.ones(4)
    for operations in (tensors, Loops()):
        doq, scale, dots = torch.empty(4, 1, 1024), torch.empty(4, 1), torch.empty(4, 1)
        operations.split_gradient(y, one, x, one, doq, scale, dots)
        assert torch.equal(doq[:, 0], y)
        assert dots[:, 0].tolist() == exact


def test_convolution_sums_beyond_float32_are_exact() -> None:
    n = 1500
    x, dy = extremes(n + 1, 2, 7), extremes(n, 2, 8)
    exact = [
        sum(map(int.__mul__, a, b)) for a, b in zip(x[:n].T.tolist(), dy.T.tolist(), strict=True)
    ]
    for operations in (tensors, Loops()):
        dx, gradient = torch.empty(n, 2), torch.empty(1, 2)
        operations.convolve_backward(
            torch.tensor(dy).float(), torch.tensor(x).float(), torch.ones(1, 2), 1, dx, gradient
        )
        assert torch.equal(gradient, as_float32([exact]))


def test_softmax_sums_at_the_bound() -> None:
    """All keys alike: every numerator is the largest there is."""
    scores = torch.zeros(1, 1, MAX_TERMS)
    one = torch.ones(1, 1)
    keys = torch.ones(MAX_TERMS, 1)
    weights, folded, scale = torch.empty_like(scores), torch.empty_like(scores), torch.empty(1, 1)
    half = np.float32(scalars.LOG2_E / 2)
    for operations in (tensors, Loops()):
        arguments = (scores, one, keys, keys, torch.zeros(1), half, MAX_TERMS - 1, MAX_TERMS)
        operations.attention_weights(*arguments, weights, folded, scale)
        assert weights.unique().tolist() == [float(np.float32(1) / np.float32(MAX_TERMS))]


def test_frequencies_stay_below_the_bound_of_float64() -> None:
    """256 symbols of 2^30 each, and 2^30 times the budget over the sum."""
    assert LIMITS["float64"] >= 256 << scalars.EXP2_ONE_BITS
    out = np.empty((1, 256), np.int32)
    softmax.frequencies(np.zeros((1, 256), np.float32), 24, out)
    assert out.tolist() == [[1 << 16] * 256]


def test_beyond_the_bound_order_decides() -> None:
    """The negative control: the same terms, in two orders, with two results."""
    up, down = OPERAND_MAX**2, -(OPERAND_MAX**2)
    apart = [up] * (MAX_TERMS + 2) + [down] * 9
    together = [up, down] * 9 + [up] * (MAX_TERMS - 7)
    assert sorted(apart) == sorted(together)
    totals = []
    for order in (apart, together):
        total = np.float32(0)
        for term in order:
            total += np.float32(term)
        totals.append(int(total))
    assert totals[1] == sum(together)  # never beyond the bound on the way
    assert totals[0] != sum(apart)


def test_one_wider_operand_breaks_a_block() -> None:
    """128 instead of 127 would need 2^14 * 1040 > 2^24: odd totals are lost."""
    a = torch.full((1, MAX_TERMS), 128.0)
    a[0, 0] = 127
    b = a.T.clone()
    assert int((a @ b).item()) != 128 * 128 * (MAX_TERMS - 1) + 127 * 127
