"""Second-order steps of the mixer: the inverse of the moments, what it turns, what that is for."""

from __future__ import annotations

import numpy as np
import pytest
from samples import text

from prequential import codec
from prequential.config import load
from prequential.errors import ConfigError
from prequential.predictors import curvature, mixer
from prequential.predictors.mixer import Situation
from prequential.predictors.tables import Trust

N = 16


def some_inputs(count: int, seed: int = 0) -> np.ndarray:
    """(count, N) int32, of which two are almost the same and one is always 0."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-800, 800, (count, N))
    x[:, 1] = x[:, 0] + rng.integers(-30, 30, count)
    x[:, 7] = 0
    return x.astype(np.int32)


def test_moments_are_weighed_by_doubt_and_inverted_with_a_ridge() -> None:
    c = curvature.make(N, 2, 1 << 20)
    x, moments = some_inputs(255), np.zeros((N, N))
    for i, row in enumerate(x):
        p = (i + 1) * 256
        curvature.learn(c, 1, row, p)
        if p * (65536 - p) >> 16 > 64:
            moments += (p * (65536 - p) >> 16) / 65536 * np.outer(row.astype(float), row)
    assert np.allclose(c.moments[1], moments, rtol=1e-4, atol=moments.max() * 1e-5)
    assert np.array_equal(c.inverse[1], np.eye(N))
    curvature.invert(c, 1)
    ridge = 3.0 * np.trace(moments) / N
    expected = np.linalg.inv(moments + ridge * np.eye(N))
    expected *= 0.6 * np.trace(moments) / np.trace(expected @ moments)
    assert np.allclose(c.inverse[1], expected, rtol=1e-3, atol=np.abs(expected).max() * 1e-4)
    assert np.allclose(c.moments[1], 0.98 * moments, rtol=1e-4, atol=moments.max() * 1e-5)
    assert not c.moments[0].any()  # of another kind


def test_moments_of_nothing_leave_the_steps_as_they_are() -> None:
    c = curvature.make(N, 1, 256)
    for p in (0, 65535) * 300:
        curvature.learn(c, 0, some_inputs(1)[0], p)
    assert not c.moments.any()
    assert np.array_equal(c.inverse[0], np.eye(N))


def test_the_inverse_is_made_at_doublings_and_then_regularly() -> None:
    c, made = curvature.make(N, 1, 1024), []
    for i, row in enumerate(some_inputs(4096)):
        before = c.inverse.copy()
        curvature.learn(c, 0, row, 30_000)
        if not np.array_equal(before, c.inverse):
            made.append(i + 1)
    assert made == [256, 512, 1024, 2048, 3072, 4096]


def test_inputs_are_turned_by_the_inverse_and_held_in_range() -> None:
    c = curvature.make(N, 1, 256)
    rng = np.random.default_rng(4)
    c.inverse[0] = rng.normal(size=(N, N)) * 4
    c.inverse[0] += c.inverse[0].T
    for row in some_inputs(50, 5):
        curvature.turn(c, 0, row)
        exact = c.inverse[0].astype(float) @ row
        assert np.abs(c.turned - np.clip(exact, -32000, 32000)).max() <= 1
    assert 1 < np.abs(c.turned).max() <= 32000


def _bits_to_learn(every: int) -> float:
    """Bits spent on what only the difference of two inputs tells."""
    m, room = mixer.make(N, 1, 1, 20, every), mixer.room(N)
    rng, at = np.random.default_rng(6), Situation(0, 0, 1, np.zeros(32, np.uint8), 0, 0, 0)
    spent = 0.0
    for i in range(6000):
        bit = int(rng.integers(2))
        common = int(rng.integers(-600, 600))
        room.inputs[:N] = common
        room.inputs[3] = common + (40 if bit else -40)
        mixed = mixer.mix(m, room, at, Trust(0, 0, 0, 0))
        p = 1 / (1 + np.exp(-mixed.logit / 256))
        spent -= np.log2(p if bit else 1 - p)
        mixer.learn_weights(m, room, 0, mixed, i, bit)
    return spent


def test_a_difference_of_inputs_is_learned_sooner() -> None:
    assert _bits_to_learn(512) < 0.7 * _bits_to_learn(0)


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_it_decodes_and_changes_what_is_coded(tokenizer: str) -> None:
    data = text(1500)
    overrides = ["recurrence.layers=0", "ngrams.rows_log2=10", f"tokenizer={tokenizer}"]
    plain, second = (
        codec.compress(data, 1, load("fast", overrides=[*overrides, f"mixer.curvature_log2={k}"]))
        for k in (0, 9)
    )
    assert codec.decompress(second) == data
    assert plain != second


def test_a_curvature_has_a_size_in_range() -> None:
    with pytest.raises(ConfigError, match="curvature_log2"):
        load("fast", overrides=["mixer.curvature_log2=21"])
