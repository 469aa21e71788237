"""Pieces of work that threads share: each done once, by whoever comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from prequential import codec, load
from prequential.exact import shares
from prequential.exact.compiled import jit

PHASES, PIECES = 40, 7


@jit
def work(counters, done, seen):
    """Every piece counts itself, and sees that the phase before is complete."""
    for phase in range(PHASES):
        piece = shares.claim(counters, phase)
        while piece < PIECES:
            done[phase, piece] += 1
            if phase > 0:
                seen[phase, piece] = done[phase - 1].sum()
            shares.done(counters, phase)
            piece = shares.claim(counters, phase)
        shares.wait(counters, phase, PIECES)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_piece_is_done_once_and_in_its_phase(threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(200):
            counters = shares.phases(PHASES)
            done = np.zeros((PHASES, PIECES), np.int64)
            seen = np.full((PHASES, PIECES), PIECES)
            late = [pool.submit(work, counters, done, seen) for _ in range(threads - 1)]
            work(counters, done, seen)
            assert (done == 1).all()  # whether or not the others have come yet
            assert (seen == PIECES).all()
            for future in late:
                future.result()
            assert (done == 1).all()


def test_who_comes_late_finds_nothing() -> None:
    counters, done = shares.phases(PHASES), np.zeros((PHASES, PIECES), np.int64)
    for _ in range(2):
        work(counters, done, np.zeros((PHASES, PIECES), np.int64))
    assert (done == 1).all()


def paced(
    monkeypatch: pytest.MonkeyPatch, chunks: int, seconds: Callable[[int, bool], float]
) -> list[bool]:
    """Which of so many chunks are shared, if chunk i takes seconds(i, shared)."""
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    pace, used = shares.Pace(), []
    for i in range(chunks):
        pace.start()
        used.append(pace.together)
        now += seconds(i, pace.together)
        pace.stop()
        now += 1000  # between chunks nothing is counted
    return used


@pytest.mark.parametrize(
    ("alone", "together", "expected"), [(4, 3, True), (10, 9, False), (2, 3, False)]
)
def test_threads_are_used_while_they_pay(
    monkeypatch: pytest.MonkeyPatch, alone: int, together: int, expected: bool
) -> None:
    # Until a second trial.
    used = paced(monkeypatch, 16 + 128, lambda _, shared: together if shared else alone)
    assert used[-1] is expected
    assert used.count(not expected) <= 16 + 24
    assert not expected or used.count(False) == 24


@pytest.mark.parametrize(("alone", "together"), [(3, 10), (3, 2)])
def test_a_trial_ends_when_enough_is_seen(
    monkeypatch: pytest.MonkeyPatch, alone: int, together: int
) -> None:
    chunks = 16 + 1024 + 50
    used = paced(monkeypatch, chunks, lambda _, shared: together if shared else alone)
    # Trials after 128, 256, 512 and 1024 chunks, less what an ended one leaves out.
    assert used[16:].count(alone < together) == 4 * 8


def test_threads_come_back_soon_after_a_slow_start(monkeypatch: pytest.MonkeyPatch) -> None:
    used = paced(monkeypatch, 200, lambda i, shared: (3 if i < 100 else 1) if shared else 2)
    assert not used[100]
    assert used[-1]


def test_a_trial_that_a_disturbance_spoiled_is_soon_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = paced(
        monkeypatch, 2900, lambda i, shared: (3.5 if 1900 < i < 2000 else 3) if shared else 4
    )
    # There were trials after 16, 144, 400, 912 and 1936 chunks, and there is another after 128.
    assert all(used[1000:1936])
    assert not any(used[1936 + 48 : 1936 + 128])
    assert all(used[1936 + 128 + 48 : 1936 + 256])
    assert used[1936 + 256 :].count(False) == 2 * 24


def test_three_threads_write_the_same_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    """More threads than cores, through every change of pace."""
    monkeypatch.setattr(shares.Pace, "_PERIOD", 64)
    data, config = b"pieces of work, pieces of work! " * 200, load("tiny")
    archive = codec.compress(data, 1, config, threads=1)
    assert codec.compress(data, 1, config, threads=3) == archive
    assert codec.decompress(archive, threads=3) == data
