"""Bytes that are nearly certain: coded in one decision, and told by both sides alike."""

from __future__ import annotations

import numpy as np
import pytest
from samples import noise, text

from prequential import codec, load
from prequential.coding.coder import TOTAL_BITS
from prequential.predictors import certain
from prequential.predictors.matches import Match

LINE = b"2026-10-16 status installed libfoo:amd64 2.36-9\n"
NO_MATCH = Match(0, 0, 0, 0, 0)


def frequencies(byte: int, rest: int) -> np.ndarray:
    """Of 256 tokens, of which the others have so much."""
    found = np.zeros(256, np.int32)
    found[byte], found[(byte + 1) % 256] = (1 << TOTAL_BITS) - rest, rest
    return found


def test_a_guess_is_certain_once_it_was_right_often_enough() -> None:
    state, expected = certain.make(8), frequencies(65, 1 << 17)
    guesses = []
    for _ in range(2000):
        guess = certain.guess(state, expected, NO_MATCH)
        guesses.append(guess.p)
        certain.learn(state, guess, 65)
    assert guess.byte == 65
    assert guesses[100] == 0
    assert guesses[-1] >= (1 << 22) - (1 << 14)
    for _ in range(20):
        certain.learn(state, guess, 66)
    assert certain.guess(state, expected, NO_MATCH).p == 0


def test_a_learner_that_is_sure_is_believed_at_once() -> None:
    state = certain.make(13)
    assert certain.guess(state, frequencies(65, 255), NO_MATCH).p == (1 << 22) - (1 << 6)
    assert certain.guess(state, frequencies(65, 1 << 12), NO_MATCH).p == 0


def test_kinds_of_guesses_are_told_apart() -> None:
    state = certain.make(8)
    kinds = {
        certain.guess(state, frequencies(65, rest), match).kind
        for rest in (1, 1000, 100_000)
        for match in (NO_MATCH, Match(5, 256 + 65, 0, 0, 5), Match(300, 256 + 65, 0, 0, 31))
    }
    assert len(kinds) == 9
    other = certain.guess(state, frequencies(65, 1), Match(5, 256 + 66, 0, 0, 5))
    assert other.kind not in kinds
    assert other.kind < len(state.misses)


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("network", ["recurrence.layers=0", "recurrence.cells=16"])
def test_encoder_and_decoder_agree(streams: int, network: str) -> None:
    """Also where what was certain does not come."""
    data = LINE * 120 + text(300) + LINE * 30 + noise(40) + LINE * 30
    sizes = []
    for bits in (0, 5):
        overrides = [f"memory.certain={bits}", f"streams={streams}", network]
        config = load("default", overrides=overrides)
        archive = codec.compress(data, 2, config, threads=1)
        assert codec.decompress(archive, threads=2) == data
        sizes.append(len(archive))
    assert sizes[0] != sizes[1]
