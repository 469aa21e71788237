"""A large run finds its loops compiled, by a process that runs what the run will need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba
import pytest

from prequential.cli import warmup
from prequential.cli.bar import progress_bar
from prequential.exact import linking
from prequential.exact.compiled import jit


def test_only_a_large_run_with_an_empty_cache_compiles_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def run(command: list[str], **_: object) -> None:
        assert command[1] == "-I"  # nothing of the working directory is run: see `study.child`
        started.append(command[-1].splitlines())
        (tmp_path / warmup._compiled().replace("*", "1")).touch()

    monkeypatch.setattr(warmup.subprocess, "run", run)
    monkeypatch.setattr(warmup, "_cache", lambda: tmp_path)
    warmup.compile_apart(warmup.LARGE_BYTES - 1)
    assert not started
    for _ in range(2):
        warmup.compile_apart(warmup.LARGE_BYTES)
    assert [lines[1:] for lines in started] == [warmup._PROGRAM.splitlines()]


@pytest.mark.slow
def test_the_program_leaves_the_file_that_is_looked_for() -> None:
    exec(warmup._PROGRAM, {})
    assert any(warmup._cache().glob(warmup._compiled()))


@pytest.mark.parametrize("wanted", [True, False])
def test_a_run_says_once_that_it_compiles(wanted: bool, capsys: pytest.CaptureFixture[str]) -> None:
    loops = [numba.njit(lambda x, n=n: x + n) for n in range(3)]
    with progress_bar("a", wanted=wanted):
        for loop in loops[:2]:
            loop(1)
    assert capsys.readouterr().err == wanted * (warmup._NOTICE + "\n")
    loops[2](1)
    with progress_bar("a", wanted=wanted):
        loops[0](1)  # compiled already
    assert capsys.readouterr().err == ""


def test_without_a_place_for_its_cache_a_run_says_that_it_compiles_each_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warmup, "_cache", lambda: None)
    monkeypatch.setattr(warmup.subprocess, "run", lambda *_, **__: pytest.fail("to no avail"))
    warmup.compile_apart(warmup.LARGE_BYTES)
    with progress_bar("a", wanted=True):
        numba.njit(lambda x: x)(1)
    assert "set NUMBA_CACHE_DIR" in capsys.readouterr().err


def test_how_far_compiling_is() -> None:
    @jit
    def inner(x: Any) -> Any:
        return x + 1

    @jit
    def outer(x: Any) -> Any:
        return inner(x) * 2

    shown: list[str] = []
    with warmup.announced(shown.append):
        outer(1)
        outer(1.0)
    assert shown[:2] == [f"compiling: {n} loops of at most {linking.Loop.made}" for n in (1, 2)]
    assert shown[2:] == [shown[1]] * 2
