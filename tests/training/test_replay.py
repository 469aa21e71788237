"""Replay: further steps on the past, the same in encoder and decoder."""

from __future__ import annotations

import numpy as np
import pytest
from samples import small, text

from prequential import codec
from prequential.training.learner import Learner
from prequential.training.replay import Draw


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [[], ["streams=5"], ["model.window=0", "model.conv=1"], ["memory.kind=mix"]]
)
def test_round_trip(overrides: list[str]) -> None:
    data = text(3001)
    config = small("epochs=3", *overrides)
    once = codec.compress(data, 1, small(*overrides))
    archive = codec.compress(data, 1, config, threads=1)
    assert archive != once
    assert codec.decompress(archive, threads=2) == data


def test_steps_are_counted_and_scored_once() -> None:
    data = text(2000)
    chunks = -(-2000 // (4 * 8))
    one, three = (codec.codelength(data, 0, small(f"epochs={e}", "ngrams.sure=0")) for e in (1, 3))
    assert one.steps == chunks
    assert three.steps == chunks + 2 * (chunks - 1)
    assert abs(three.loss_integral_bits - one.loss_integral_bits) < 0.2 * one.loss_integral_bits


def test_the_draw_is_uniform_and_pinned() -> None:
    draw = Draw(7)
    assert [draw.below(n) for n in (1, 2, 3, 1000, 2**62)] == PINNED
    counts = np.bincount([draw.below(10) for _ in range(10_000)], minlength=10)
    assert counts.min() > 850
    assert counts.max() < 1150


PINNED = [0, 1, 2, 363, 2234604747797889694]


def test_the_live_context_is_put_back() -> None:
    """With a rate of zero a replay changes nothing at all, so the codelength is the same."""
    rates = "rate", "head_rate", "input_rate"
    cells = [f"recurrence.{rate}=0.0" for rate in rates]
    still = ["optimizer.rate=0.0", "model.input_rate=0.0", *cells]
    data = text(1500)
    one, four = (codec.codelength(data, 0, small(f"epochs={e}", *still)) for e in (1, 4))
    assert four.loss_integral_bits == one.loss_integral_bits


def test_only_the_past_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    learner_init = Learner.__init__

    def watched(self: Learner, *args: object) -> None:
        *rest, past, vocabulary = args

        def spy(index: int) -> object:
            asked.append((index, self._past_count))
            return past(index)  # type: ignore[operator]

        learner_init(self, *rest, spy, vocabulary)  # type: ignore[arg-type]

    monkeypatch.setattr(Learner, "__init__", watched)
    codec.codelength(text(2000), 0, small("epochs=2"))
    assert asked
    assert all(0 <= index < count for index, count in asked)
