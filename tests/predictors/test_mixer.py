"""Mixing, correcting and what is learned of both, against the same in plain Python's integers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from prequential.exact.scalars import SQUASH
from prequential.predictors import mixer
from prequential.predictors.mixer import Mixer, Mixing, Situation
from prequential.predictors.tables import Trust

INPUTS, RATE = 21, 40
LAST = np.arange(70, 102).astype(np.uint8)  # last[0] = 70, last[1] = 71


def squash(x: int) -> int:
    return int(SQUASH[max(-3072, min(3071, x)) + 3072])


def dot(w: np.ndarray, x: list[int], fraction: int) -> int:
    total = sum(int(a) * int(b) for a, b in zip(w, x, strict=True)) >> fraction
    return max(-3071, min(3071, total))


def made(seed: int = 0) -> tuple[Mixer, Mixing]:
    """With weights and inputs at random."""
    rng = np.random.default_rng(seed)
    m, room = mixer.make(INPUTS, 2, 3, RATE), mixer.room(INPUTS)
    room.inputs[:INPUTS] = rng.integers(-3071, 3072, INPUTS)
    m.weights[:] += rng.integers(-80_000, 80_000, m.weights.shape, np.int32)
    m.finals[:] += rng.integers(-5000, 5000, m.finals.shape, np.int32)
    return m, room


def situations() -> Iterator[tuple[Situation, Trust]]:
    rng = np.random.default_rng(1)
    for _ in range(30):
        kind, k = (int(i) for i in rng.integers(0, (2, 8)))
        done, letters, place, grade = (int(i) for i in rng.integers(0, (256, 16, 256, 16)))
        trust = Trust(*(int(i) for i in rng.integers(0, (18, 11, 11, 4))))
        yield Situation(kind, k * (1 - kind), done, LAST, letters, place, grade), trust


def test_a_logit_is_mixed_by_the_rows_of_its_situation() -> None:
    m, room = made()
    x = room.inputs.tolist()
    for at, trust in situations():
        third = 0 if at.k == 0 else 1 if at.k < 4 else 2
        rows = [
            at.done,
            256 + 70 * 3 + third,
            1024 + 71 * 8 + at.k,
            3072 + at.letters * 128 + trust.fourth * 8 + at.k,
            5120 + (min(trust.seen, 15) * 16 + trust.best) * 2 + (at.grade > 0),
            5632 + at.place * 8 + at.k,
            7680 + (1 * 64 + 1 * 8 + 1) * 8 + at.k,  # three capitals
        ]
        if at.letters * 128 + trust.fourth * 8 + at.k > 2047:
            continue
        mixed = mixer.mix(m, room, at, trust)
        assert room.rows.tolist() == rows
        outputs = [dot(m.weights[at.kind, row], x, 20) for row in rows]
        assert room.outputs.tolist() == outputs
        assert room.chances.tolist() == [squash(o) for o in outputs]
        first = dot(m.finals[at.kind, at.grade * 128 + at.letters * 8 + at.k], outputs, 16)
        second = dot(m.finals[at.kind, 2048 + at.done * 4 + trust.quarter], outputs, 16)
        assert (mixed.first, mixed.second, mixed.logit) == (first, second, (first + second) >> 1)


@pytest.mark.parametrize("bit", [0, 1])
def test_weights_follow_the_gradient(bit: int) -> None:
    for used, position in ((0, 0), (5000, 10**6)):
        m, room = made(2)
        m.uses[:] = used
        (at, trust), *_ = situations()
        mixed = mixer.mix(m, room, at, trust)
        weights, finals = m.weights.copy(), m.finals.copy()
        mixer.learn_weights(m, room, at.kind, mixed, position, bit)
        rate = (16 * RATE + 16 * RATE * 4 * 1024 // (1024 + used)) / 2**18
        for s, row in enumerate(room.rows):
            error = (bit * 65535 - room.chances[s]) / 65536
            step = rate * error * room.inputs / 256
            moved = (m.weights[at.kind, row] - weights[at.kind, row]) / 2**20
            # Steps are rounded, and so is the error times the rate, of which 16ths count.
            assert np.abs(moved - step).max() <= 3 / 2**20
            assert m.uses[at.kind, row] == used + 1
        final_rate = 256 * (1 + 3 / (1 + position / 8192))
        for logit, row in (
            (mixed.first, mixed.first_row),
            (mixed.second, mixed.second_row),
        ):
            error = (bit * 65535 - squash(logit)) * final_rate
            moved = m.finals[at.kind, row] - finals[at.kind, row]
            common = room.outputs.sum() // len(room.outputs)
            along = common // 4 + 6 * (room.outputs - common)
            assert np.abs(moved - along * error / 2**25).max() <= 3
        # No other row is touched.
        weights[at.kind, room.rows] = m.weights[at.kind, room.rows]
        finals[at.kind, [mixed.first_row, mixed.second_row]] = m.finals[
            at.kind, [mixed.first_row, mixed.second_row]
        ]
        assert np.array_equal(weights, m.weights)
        assert np.array_equal(finals, m.finals)


def test_an_input_that_knows_is_soon_believed() -> None:
    m, room = mixer.make(INPUTS, 1, 1, RATE), mixer.room(INPUTS)
    rng = np.random.default_rng(3)
    at = Situation(0, 0, 1, LAST, 0, 0, 0)
    for i in range(300):
        bit = int(rng.integers(2))
        room.inputs[:INPUTS] = rng.integers(-500, 500, INPUTS)
        room.inputs[7] = 500 if bit else -500
        mixed = mixer.mix(m, room, at, Trust(0, 0, 0, 0))
        if i > 200:
            assert (mixed.logit > 200) == bit
        mixer.learn_weights(m, room, 0, mixed, i, bit)


def test_a_correction_starts_as_the_logit_and_learns_what_came_true() -> None:
    m, _ = made()
    (at, _), *_ = situations()
    m.doubts[:] = 4  # next to none
    for logit in range(-3000, 3001, 50):
        p = mixer.correct(m, at, 0, logit).p / 2**22
        assert p == pytest.approx(1 / (1 + math.exp(-logit / 256)), abs=0.01)
    fresh = m.corrections.copy()
    found = mixer.correct(m, at, 0, 700)
    cells = [(found.first_map, found.first_cell), (found.second_map, found.second_cell)]
    chances = [float(m.corrections[at.kind, row, cell]) for row, cell in cells]
    for bit in (0, 1, 0, 0):
        mixer.learn_corrections(m, at.kind, 0, found, bit)
        chances = [p + (bit * (2**22 - 1) - p) / 64 for p in chances]
    for (row, cell), p in zip(cells, chances, strict=True):
        assert m.corrections[at.kind, row, cell] == pytest.approx(p, abs=5)
    assert (m.corrections != fresh).sum() == 2
    assert found.first_cell == found.second_cell == round((700 + 3072) / 192)
    assert mixer.correct(m, at, 0, 700).p < found.p


def test_doubts_follow_bayes() -> None:
    m, _ = made()
    (at, _), *_ = situations()
    doubt = 2.0**-12
    for bit in (0, 0, 1, 0, 0, 0):
        m.doubts[1] = 0
        sure = mixer.correct(m, at, 1, 2000)
        m.doubts[1] = round(doubt * 2**24)
        held = mixer.correct(m, at, 1, 2000)
        expected = (1 - doubt) * sure.p / 2**22 + doubt / 2
        assert held.p / 2**22 == pytest.approx(expected, abs=1e-5)
        mixer.learn_corrections(m, at.kind, 1, held, bit)
        chance = held.p / 2**22 if bit else 1 - held.p / 2**22
        doubt = min(max(doubt * 0.5 / chance, 4 / 2**24), 1 - 2**-14)
        assert m.doubts[1] / 2**24 == pytest.approx(doubt, rel=1e-3)
        assert mixer.chance(held.p, bit) == (held.p if bit else 2**22 - held.p)
        assert sure.first_cell == held.first_cell
    assert doubt > 0.99  # it said 1, and was wrong again and again
    assert list(m.doubts[[0, 2]]) == [1 << 12] * 2
