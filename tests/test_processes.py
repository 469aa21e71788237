"""Two threads, a forked process, a report that is sent to another one."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest
from samples import text

import prequential
import prequential.stream
from prequential import Report, load

CONFIG = load("tiny", overrides=["ngrams.rows_log2=10", "chunk=8"])
DATA = [text(2000, seed) for seed in range(4)]


def both_ways(data: bytes, threads: int | None = None) -> bytes:
    archive = prequential.compress(data, config=CONFIG, threads=threads)
    assert prequential.decompress(archive, threads=threads) == data
    return archive


def measured(data: bytes) -> Report:
    return prequential.codelength(data, config=CONFIG)


def without_times(report: Report) -> dict[str, Any]:
    return {k: v for k, v in vars(report).items() if "second" not in k}


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_threads(threads: int | None) -> None:
    expected = [both_ways(data) for data in DATA]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda data: both_ways(data, threads), DATA)) == expected


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("default:.*fork:DeprecationWarning")  # of Python 3.12 on
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_process_after_its_parent_has_trained(threads: int) -> None:
    """Its threads are not there: it must not wait for them."""
    expected = both_ways(DATA[0], threads)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(both_ways(DATA[0], threads)))
    child.start()
    child.join(120)
    hangs = child.is_alive()
    child.kill()
    assert not hangs
    assert child.exitcode == 0
    assert queue.get() == expected
    assert both_ways(DATA[0], threads) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("default:.*fork:DeprecationWarning")
def test_a_fork_while_another_thread_compiles() -> None:
    """As a second thread does in a first run, which is over before that; the child compiles too."""
    from numba.core.compiler_lock import global_compiler_lock as lock

    from prequential.exact import linking  # noqa: F401 (what it does to forks)

    compiling = threading.Event()

    def compile_something() -> None:
        with lock:
            compiling.set()
            time.sleep(0.3)

    other = threading.Thread(target=compile_something)
    other.start()
    compiling.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if lock._lock.acquire(timeout=5) else 1)
    _, status = os.waitpid(child, 0)
    other.join()
    assert os.waitstatus_to_exitcode(status) == 0
    with lock:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_reports_come_from_other_processes(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{sys.platform} has no {method}")
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        sent = pool.submit(measured, DATA[0]).result(120)
    assert without_times(sent) == without_times(measured(DATA[0]))


def test_reports_configs_and_errors_are_pickled() -> None:
    report = measured(DATA[0])
    for what in (report, CONFIG, prequential.Limits()):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(what, protocol)) == what
        assert copy.deepcopy(what) == what
    for kind in (prequential.ArchiveError, prequential.stream.BadArchiveError):
        again = pickle.loads(pickle.dumps(kind("a.pq: damaged")))
        assert (type(again), str(again)) == (kind, "a.pq: damaged")
