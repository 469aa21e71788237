"""A loop is compiled once, and found again: inner ones only linked, those apart called."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from samples import ROOT

import prequential
from prequential.exact.compiled import apart, jit

# A loop in a loop apart in two loops; the second process finds all of them compiled.
LOOPS = """
import sys
import numba.core.event as event
import numpy as np
from prequential.exact.compiled import apart, jit

@jit
def add(x, y):
    return x + y

@apart
def total(x, start):
    for n in x:
        start = add(start, n)
    if start > 1000:
        raise ValueError("too much")
    return start

@jit
def twice(x):
    return total(x, 0) + total(x, np.int64(0))

@jit
def after(x):
    return total(x, 5)

@jit
def beyond(x):
    return after(x) + 1

with event.install_recorder("numba:compile") as compiled:
    for name in sys.argv[1:]:
        print(globals()[name](np.arange(4)))
    try:
        twice(np.array([1001]))
    except ValueError as error:
        print(error)
names = [e.data["dispatcher"].__name__ for _, e in compiled.buffer if e.is_end]
print(*sorted(names))
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")  # type: ignore[attr-defined]
def test_another_process_takes_a_loop_apart_from_the_cache(tmp_path: Path) -> None:
    program = tmp_path / "loops.py"
    program.write_text(LOOPS)
    package = Path(prequential.__file__).parent
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(package.parent),
    }

    def run(*names: str) -> list[str]:
        command = [sys.executable, str(program), *names]
        return subprocess.check_output(command, env=environment, text=True).splitlines()

    assert run("twice") == ["12", "too much", "add total twice"]
    assert run("after", "twice") == ["11", "12", "too much", "after"]
    assert run("after", "twice") == ["11", "12", "too much", ""]
    for kept in (tmp_path / "cache").rglob("loops.total*.nbc"):
        kept.unlink()
    assert run("after", "twice") == ["11", "12", "too much", "add total"]
    # One that links what is in the cache, and then is in the cache itself.
    for compiled in ("beyond", ""):
        assert run("beyond") == ["12", "too much", compiled]


def test_a_loop_that_was_linked_can_be_called() -> None:
    @jit
    def inner(x: Any) -> Any:
        return x + 1

    @jit
    def outer(x: Any) -> Any:
        return inner(x) * 2

    assert outer(3) == 8
    assert inner(3) == 4
    assert outer(3.0) == 8.0
    assert inner(3.0) == 4.0


def test_a_caller_that_drops_its_call_does_not_hide_what_it_called() -> None:
    """It is linked first, and asks for nothing; who asks later is served all the same."""

    @jit
    def called(x: Any) -> Any:
        return x + 1

    @jit
    def drops(flag: Any, x: Any) -> Any:
        if flag is not None:
            return x
        return called(x)

    @jit
    def asks(x: Any) -> Any:
        return called(x) * 2

    @jit
    def both(x: Any) -> Any:
        return drops(x, x) + asks(x)

    assert both(3) == 11


def test_a_loop_that_calls_itself_with_other_types_is_refused() -> None:
    """numba's cache keeps such a call as one that aborts, or crashes, in the next process."""

    @jit
    def halve(x: Any) -> Any:
        if x > 1:
            return halve(x * 0.5)
        return x * 1.0

    with pytest.raises(NotImplementedError, match="calls itself"):
        halve(8)


def test_other_packages_loops_may_call_what_was_linked() -> None:
    @jit
    def inner(n: Any) -> Any:
        return np.full(n, 2.0).sum() + np.zeros((n, 2))[n - 1, 1]

    @apart
    def part(n: Any) -> Any:
        return inner(n)

    @numba.njit
    def foreign(n: Any) -> Any:
        return inner(n) + part(n) + np.full(n, 2.0).sum() + np.zeros((n, 2))[n - 1, 1]

    assert part(3) == 6
    assert foreign(3) == 18


def test_threads_may_all_be_first() -> None:
    @jit
    def inner(x: Any) -> Any:
        return x * x

    @jit
    def outer(x: Any) -> Any:
        return inner(x) + 1

    with ThreadPoolExecutor(6) as pool:
        calls = [
            pool.submit(outer if i % 2 else inner, kind(3)) for i in range(6) for kind in KINDS
        ]
    assert [call.result() for call in calls] == [9 + i % 2 for i in range(6) for _ in KINDS]


KINDS = (int, float, np.float32)


PROGRAM = """
import sys
from numba.core.caching import CacheImpl
if "barred" in sys.argv:
    CacheImpl._locator_classes = []
from loops import total, np
import numba.core.event as event
with event.install_recorder("numba:compile") as compiled:
    assert total(np.arange(4), 0) == 6
print(total.stats.cache_path, sum(e.is_end for _, e in compiled.buffer))
"""


@pytest.mark.slow
def test_a_read_only_installation_is_used_and_a_temporary_folder_is_the_last_resort(
    tmp_path: Path,
) -> None:
    """As for a user without a home."""
    (tmp_path / "loops.py").write_text(LOOPS[: LOOPS.index("with event")])
    temporary, beside = tmp_path / "temporary", tmp_path / "__pycache__"
    temporary.mkdir()
    package = Path(prequential.__file__).parent.parent
    paths = {"TMPDIR": str(temporary), "PYTHONPATH": f"{tmp_path}:{package}"}
    environment = os.environ | paths
    environment.pop("NUMBA_CACHE_DIR", None)

    def run(*options: str) -> list[str]:
        command = [sys.executable, "-c", PROGRAM, *options]
        return subprocess.check_output(command, env=environment, text=True).split()

    assert run() == [str(beside), "2"]
    folder, compiled = run("barred")
    own = temporary / f"prequential-{os.getuid()}"
    assert (Path(folder).parent, compiled) == (own, "0")  # what is beside the file is used
    for kept in beside.glob("loops.*"):
        kept.unlink()
    assert run("barred")[1] == "2"
    assert run("barred")[1] == "0"
    own.chmod(0o777)  # now others could have written there what would be run
    assert run("barred") == ["None", "2"]


@pytest.mark.slow
def test_of_two_processes_one_compiles(tmp_path: Path) -> None:
    (tmp_path / "loops.py").write_text(LOOPS[: LOOPS.index("with event")])
    package = Path(prequential.__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{package}"}
    environment["NUMBA_CACHE_DIR"] = str(tmp_path / "cache")
    command = [sys.executable, "-c", PROGRAM]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    counts = sorted(int(process.communicate()[0].split()[1]) for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert counts == [0, 2]
    assert not list((tmp_path / "cache").rglob("*.lock"))


def test_who_counts_takes_no_structure_apart() -> None:
    """A loop that counts would give up arrays that it never took: it crashes, or not, later."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "prequential").rglob("*.py")]
    loops = {
        function: decorator.id
        for tree in trees
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Name)
    }
    taken_apart = {f.name for f, kind in loops.items() if kind == "inline" and _makes_one(f)}
    expected = "network blocks_of linear_of heads_of history_of state_of kind_of"
    assert set(expected.split()) == taken_apart
    for function, kind in loops.items():
        called = {
            getattr(call.func, "attr", getattr(call.func, "id", ""))
            for call in ast.walk(function)
            if isinstance(call, ast.Call)
        }
        # Only loops that count nothing call `rows` of the backward pass, with their own arrays.
        if called & taken_apart and function.name != "rows":
            assert kind in ("outer", "inline"), function.name


def _makes_one(function: ast.FunctionDef) -> bool:
    """Whether it returns a structure of arrays."""
    returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    made = {"Network", "Blocks", "Linear", "Heads"}
    made |= {"HistoryState", "EmbeddingState", "NgramState", "State"}
    return any(
        isinstance(name, ast.Name) and name.id in made
        for value in returned
        if value is not None
        for name in ast.walk(value)
    )
