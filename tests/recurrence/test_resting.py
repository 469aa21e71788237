"""Where the recurrent network works, and that everyone agrees on it."""

from __future__ import annotations

import numpy as np
import pytest
from samples import noise, small, text

from prequential import codec
from prequential.config import SYMBOLS, load
from prequential.recurrence.resting import Resting
from prequential.training.learner import Learner

B, T = 2, 8
SIMILAR = b"".join(b"%06d status installed libfoo:amd64 1.2-3\n" % (i * i) for i in range(60))


def made(least: int = 4, layers: int = 1) -> Resting:
    config = small(f"streams={B}", f"recurrence.least={least}", f"recurrence.layers={layers}")
    return Resting(config, 3)


def enter(resting: Resting, columns: list[int]) -> None:
    """As if all other columns of a chunk were known for sure."""
    at = int(resting.entered.counts[0])
    resting.network.embeddings.state.rows[at : at + len(columns)] = np.array(columns)[:, None, None]
    resting.entered.columns[at : at + len(columns)] = columns
    resting.entered.counts[0] += len(columns)


def test_it_says_nothing_where_it_rests() -> None:
    resting = made()
    enter(resting, [1, 6])
    resting.predict(0, T)
    logits = resting.entered.logits.reshape(T, B, SYMBOLS)
    assert [bool(column.any()) for column in logits] == [t in (1, 6) for t in range(T)]
    assert np.array_equal(logits[6], resting.network.network.logits.reshape(-1, B, SYMBOLS)[1])


def test_it_is_told_what_it_has_missed() -> None:
    config = small("streams=1", "memory.kind=mix", "ngrams.sure=3", 'recurrence.missed=["o4"]')
    learner = Learner(config.resolve(len(SIMILAR)), 0)
    said = set()
    for start in range(0, 1600, 8):
        chunk = np.frombuffer(SIMILAR[start : start + 8], np.uint8)[:, None]
        waiting = int(learner.cells.entered.counts[0])
        learner.predict(chunk)
        entered = learner.cells.entered.columns[waiting : learner.cells.entered.counts[0]]
        rows = learner.recurrence.embeddings.state.rows[waiting:, 0, -1]
        for k, column in enumerate(entered):
            after_another = k > 0 and entered[k - 1] == column - 1
            assert k == 0 or (rows[k] == -1) == after_another
            said.add(bool(rows[k] >= 0))
        learner.learn(chunk, 8)
    assert said == {False, True}


def test_it_learns_when_enough_has_entered() -> None:
    resting = made(least=2 * B)
    gradient = np.full((T * B, SYMBOLS), 0.01, np.float32)
    stepped = []
    for columns in ([], [3], [0], [], [1, 2, 5]):
        enter(resting, columns)
        resting.predict(0, T)
        stepped.append(resting.learn(gradient, T * B))
    assert stepped == [False, False, True, False, True]
    assert resting.network.steps == 2


def test_at_once_and_at_a_files_end_it_waits_for_nothing() -> None:
    for count, at_once in ((T * B, True), (T * B - 1, False)):
        resting = made(least=100)
        enter(resting, [0, T - 1])
        resting.predict(0, T)
        gradient = np.full((T * B, SYMBOLS), 0.01, np.float32)
        gradient[count:] = 0
        assert resting.learn(gradient, count, at_once=at_once)
        assert not resting.entered.counts.any()


def test_with_no_network_there_is_nothing_to_wait_for() -> None:
    resting = made(layers=0)
    resting.predict(0, T)
    assert resting.learn(np.zeros((T * B, SYMBOLS), np.float32), T * B)


def entered(data: bytes, *overrides: str) -> int:
    """Columns of the data that enter the network."""
    config = small("streams=1", "memory.kind=mix", *overrides).resolve(len(data))
    learner, count = Learner(config, 0), 0
    for start in range(0, len(data) // 8 * 8, 8):
        chunk = np.frombuffer(data[start : start + 8], np.uint8)[:, None]
        waiting = int(learner.cells.entered.counts[0])
        learner.predict(chunk)
        count += int(learner.cells.entered.counts[0]) - waiting
        learner.learn(chunk, 8)
    return count


def test_it_rests_where_the_same_comes_again() -> None:
    size = len(SIMILAR) // 8 * 8
    assert entered(SIMILAR, "ngrams.sure=0") == size
    assert entered(SIMILAR, "ngrams.sure=3") < size // 2
    assert entered(noise(size), "ngrams.sure=3") > 0.99 * size


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("overrides", [[], ["epochs=2"], ["recurrence.least=50"]])
def test_encoder_and_decoder_agree(streams: int, overrides: list[str]) -> None:
    config = small(f"streams={streams}", "memory.kind=mix", "ngrams.sure=3", *overrides)
    data = SIMILAR + text(300) + SIMILAR[::-1]
    given = [SIMILAR[7:1000], noise(100)]
    archive = codec.compress(data, 1, config, threads=1, given=given)
    assert codec.compress(data, 1, config, threads=2, given=given) == archive
    for threads in (1, 2):
        assert codec.decompress(archive, threads=threads, given=given) == data


def test_presets_rest_beside_a_memory_only() -> None:
    for preset in ("default", "best"):
        assert load(preset).ngrams.sure > 0
    assert load("literal").ngrams.sure == 0
