"""The codelength of labels given inputs: what no model may beat, and what a hand computes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from samples import small

from prequential.errors import ConfigError
from prequential.study import labels
from prequential.study.supervised import frequency_bits, own


class Counting:
    """Expects each label as often as it was there, and one time more, whatever the input."""

    def __init__(self, seed: int = 0) -> None:
        self.classes_ = np.arange(2)
        self._counts = np.zeros(2)

    def fit(self, inputs: Any, known: np.ndarray) -> None:
        self._counts = np.bincount(known, minlength=2).astype(float)

    def partial_fit(self, inputs: Any, known: np.ndarray, classes: Any) -> None:
        self._counts += np.bincount(known, minlength=2)

    def predict_proba(self, inputs: Any) -> np.ndarray:
        return np.tile((self._counts + 1) / (self._counts + 1).sum(), (len(inputs), 1))


def linear(seed: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))


def blobs(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, 8) float32 around a centre for each of four labels."""
    generator = np.random.default_rng(seed)
    known = generator.integers(0, 4, count)
    centres = 3 * generator.normal(size=(4, 8))
    return (centres[known] + generator.normal(size=(count, 8))).astype(np.float32), known


def test_blocks_by_hand() -> None:
    """Blier & Ollivier's sum: the first block uniformly, each other by a model of those before."""
    known = np.array([0, 1, 1, 1, 0, 1])
    inputs = np.zeros((6, 1))
    found = labels(Counting, inputs, known, ends=[2, 4, 6], shuffle=False)

    def doubted(p: float, seen: int) -> float:
        return -math.log2((1 - 1 / (seen + 1)) * p + 1 / (seen + 1) / 2)

    second = [doubted(2 / 4, 2)] * 2
    third = [doubted(2 / 6, 4), doubted(4 / 6, 4)]
    assert found.bits[0].tolist() == pytest.approx([1, 1, *second, *third])
    assert found.uniform_bits == 6
    assert found.curve[-1] == pytest.approx(found.total_bits[0])
    assert "measured, not a file that decodes" in str(found)


def test_online_by_hand() -> None:
    known = np.array([0, 1, 1])
    found = labels(Counting, np.zeros((3, 1)), known, schedule="online", batch=1, shuffle=False)
    second = -math.log2(1 / 2 * 1 / 3 + 1 / 2 / 2)
    third = -math.log2(2 / 3 * 2 / 4 + 1 / 3 / 2)
    assert found.bits[0].tolist() == pytest.approx([1, second, third])


@pytest.mark.parametrize("schedule", ["block", "online"])
@pytest.mark.parametrize("calibrate", [False, True])
def test_random_labels_cost_at_least_what_is_in_them(schedule: Any, calibrate: bool) -> None:
    inputs, _ = blobs(300)
    known = np.random.default_rng(1).integers(0, 4, 300)
    found = labels(
        linear, inputs, known, schedule=schedule, epochs=5, calibrate=calibrate, seeds=(0, 1)
    )
    assert found.total_bits.min() >= 0.97 * 300 * 2  # the luck of 300 draws
    assert found.bits.shape == (2, 300)


def test_inputs_that_tell_make_labels_cheap() -> None:
    inputs, known = blobs(400)
    block = labels(linear, inputs, known, rate=0.01, epochs=20)
    online = labels(linear, inputs, known, schedule="online", rate=0.01)
    replayed = labels(linear, inputs, known, schedule="online", rate=0.01, replay=8)
    least = frequency_bits(known).sum()
    assert block.total_bits[0] < 0.5 * least
    assert replayed.total_bits[0] < online.total_bits[0] < least
    again = labels(linear, torch.from_numpy(inputs), known, rate=0.01, epochs=20)
    assert again.bits.tolist() == block.bits.tolist()


def test_calibration_helps_a_model_that_is_too_sure() -> None:
    class Sure(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(30.0))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.scale * inputs

    inputs, known = np.zeros((400, 2), np.float32), np.zeros(400, np.int64)
    known[::2] = 1
    right = np.random.default_rng(0).random(400) < 0.8
    inputs[np.arange(400), np.where(right, known, 1 - known)] = 1
    plain, calibrated = (
        labels(lambda seed: Sure(), inputs, known, epochs=1, rate=1e-6, calibrate=calibrate)
        for calibrate in (False, True)
    )
    assert calibrated.total_bits[0] < 0.5 * plain.total_bits[0]


def test_frequencies_by_hand() -> None:
    expected = [1, -math.log2(1.5 / 2), -math.log2(0.5 / 3)]
    assert frequency_bits([0, 0, 1]).tolist() == pytest.approx(expected)


def test_by_our_own_loop() -> None:
    """Only labels are counted; that they follow from the inputs is learned from both."""
    generator = np.random.default_rng(0)
    known = generator.integers(0, 2, 300)
    inputs = [b"red " if label else b"blue" for label in known]
    told = [b"+\n" if label else b"-\n" for label in known]
    config = small("streams=1", "memory.kind=mix")
    bits = own(inputs, told, config)
    assert len(bits) == 300
    assert bits[200:].mean() < 0.2
    lost = own(inputs, [told[k] for k in generator.permutation(300)], config)
    assert lost[200:].mean() > 0.9


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"schedule": "all"}, "block or online"),
        ({"batch": 0}, "give at least one"),
        ({"seeds": ()}, "give at least one"),
        ({"replay": -1}, "0 or more"),
        ({"replay": 1}, "goes with schedule='online'"),
        ({"inputs": np.full((6, 1), np.nan)}, "not finite"),
        (
            {"make_model": lambda _: torch.nn.Linear(1, 1), "inputs": np.zeros((6, 1))},
            "have an output for each",
        ),
        ({"ends": [2, 2]}, "ends: are to rise"),
        ({"ends": [1, 2]}, "ends: are to rise"),
        ({"labels": np.array([0.5] * 6)}, "labels are float64"),
        ({"labels": np.array([-1] * 6)}, "from 0 on"),
        ({"labels": np.array([0, 1])}, "one from 0 on for each input"),
        ({"make_model": lambda seed: None}, "make_model gave NoneType"),
    ],
)
def test_refusals(how: dict[str, Any], told: str) -> None:
    given = {"make_model": Counting, "inputs": np.zeros((6, 1)), "labels": np.array([0, 1] * 3)}
    with pytest.raises(ConfigError, match=told):
        labels(**(given | how))
