"""Controls: what no method may beat, and what it must find."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from samples import ROOT, noise, small, text

from prequential import codec
from prequential.errors import DivergenceError
from prequential.study import baselines
from prequential.training.learner import Learner


def uniform(count: int, seed: int) -> np.ndarray:
    words = np.random.Philox(seed).random_raw(count)
    return (words >> np.uint64(11)).astype(np.float64) / 2.0**53


def entropy(data: np.ndarray) -> float:
    """Bits of data under its own frequencies."""
    counts = np.bincount(data)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / len(data))).sum())


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_costs_at_least_eight_bits(seed: int) -> None:
    data = noise(20_000, seed)
    assert codec.codelength(data, seed, small()).loss_integral_bits >= 8 * len(data)
    assert baselines.adaptive_bits(np.frombuffer(data, np.uint8), 0).sum() >= 8 * len(data)


@pytest.mark.parametrize("probability", [0.5, 0.1, 0.01])
def test_bernoulli_data(probability: float) -> None:
    """The estimator stays within its bound; the model's regret is positive and moderate."""
    n = 20_000
    data = (uniform(n, 3) < probability).astype(np.uint8)
    best = entropy(data)
    bits = float(baselines.adaptive_bits(data, 0).sum())
    assert best < bits <= best + 0.5 * math.log2(n) + 1
    regret = codec.codelength(data.tobytes(), 0, small()).loss_integral_bits - best
    print(f"p = {probability}: regret {regret:.0f} bits of {best:.0f}")
    assert 0 < regret < 0.1 * n


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_a_planted_markov_order_is_found(order: int) -> None:
    """Each symbol is the sum of the last `order` ones, except for noise."""
    random = uniform(20_000, 5)
    symbols = [0] * order
    for u in random:
        if u < 0.8:
            symbols.append((sum(symbols[len(symbols) - order :]) + 1) % 4 if order else 0)
        else:
            symbols.append(int(u * 20) % 4)
    data = np.array(symbols[order:], np.uint8)
    totals = [baselines.adaptive_bits(data, k).sum() for k in baselines.ORDERS]
    assert int(np.argmin(totals)) == order
    assert baselines.best_adaptive(data)[0].startswith(f"adaptive order {order}")


def test_peeking_does_not_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learner that looks at what it predicts has a short code that is no description."""
    honest = codec.compress(text(4000), 0, small())
    predict = Learner.predict

    def peek(
        self: Learner, chunk: np.ndarray, task: Callable[[np.ndarray], None] | None = None
    ) -> np.ndarray:
        frequencies = predict(self, chunk)
        truth = chunk.reshape(-1)
        rows = np.arange(len(frequencies))
        taken = frequencies // 2
        frequencies -= taken
        frequencies[rows, truth] += taken.sum(1, dtype=np.int32)
        if task is not None:
            task(frequencies)
        return frequencies

    monkeypatch.setattr(Learner, "predict", peek)
    cheating = codec.compress(text(4000), 0, small())
    assert len(cheating) < len(honest)
    monkeypatch.undo()
    with pytest.raises(DivergenceError):
        codec.decompress(cheating)


def import_example(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module(name)


def test_additions_are_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss per digit falls below what counts of the last bytes reach."""
    example = import_example(monkeypatch, "additions")
    lines = example.additions(8000, digits=1)
    small_net = ["streams=8", "model.width=32", "model.heads=2", "model.hidden=128"]
    quick = ["optimizer.rate=0.004", "optimizer.warmup=20"]
    config = example.transformer(lines.shape[1], [*small_net, *quick])
    learned, counted = example.measure(lines, config), example.counts(lines)
    for place in example.answer(1).values():
        last = slice(-len(lines) // 10, None)
        assert learned[last, place].mean() < 0.3 * counted[last, place].mean()


def test_a_calculator_is_trusted_as_far_as_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is right the sum costs next to nothing, where it is wrong hardly more than without.

    Nothing changes elsewhere.
    """
    example = import_example(monkeypatch, "calculator")
    lines = example.additions(500, 3)
    answer = slice(8, 12)
    bits = np.full(lines.shape, 3.3)
    right = example.with_calculator(lines, bits)
    assert np.array_equal(np.delete(right, np.r_[answer], 1), np.delete(bits, np.r_[answer], 1))
    assert right[:, answer].sum(0).max() < 0.5 * math.log2(len(lines)) + 1
    wrong = lines.copy()
    wrong[:, answer] = lines[::-1, answer][:, ::-1]
    misled = example.with_calculator(wrong, bits)
    assert 0.9 * bits.sum() < misled.sum() < 1.01 * bits.sum()
    assert 100 < example.code_bytes() < 1000


def test_least_squares_learn_a_linear_model_before_steps_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    example = import_example(monkeypatch, "least_squares")
    data, noise = example.samples(4000)
    assert data.dtype == "<i2"
    least = 0.5 * math.log2(2 * math.pi * math.e * noise**2)
    solved = example.bits(data, example.LeastSquares())[1000:].mean() - least
    normalised = example.Steps(0.3, normalised=True)
    for model in (normalised, example.Steps(0.03, normalised=False), example.Adam(0.003)):
        assert 0 < solved < 0.25 * (example.bits(data, model)[1000:].mean() - least)


def test_counting_by_hand() -> None:
    data = np.frombuffer(b"abab", np.uint8)
    bits = baselines.adaptive_bits(data, 1)
    # Contexts: start, a, b, a; only the last one has been seen, once, before a b.
    assert bits.tolist() == [1.0, 1.0, 1.0, -math.log2(1.5 / 2)]
    curves = baselines.curves(np.frombuffer(text(500), np.uint8), points=5)
    assert [x for x, _ in curves["uniform"]] == [0, 100, 200, 300, 400, 500]
    assert all(line[-1][1] > line[1][1] for line in curves.values())
