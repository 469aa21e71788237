"""Compiled loops are used again only with the very sources they came from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numba
import pytest
from numba.core import caching

import prequential
from prequential.exact import compiled

PACKAGE = Path(prequential.__file__).parent
# Bits of probability 1/4 through a loop of `bits`, which has loops of `coder` compiled into it.
PROGRAM = """
import numpy as np
from prequential.coding.bits import CODED_BITS, code_bit
state, buffer, at = np.array([0, 2**64 - 1], np.uint64), np.zeros(64, np.uint8), 0
for _ in range(40):
    _, at = code_bit(0, state, buffer, at, 1, 1 << (CODED_BITS - 2))
print(at)
"""


def test_every_module_with_loops_is_in_the_digest() -> None:
    with_loops = {
        path.stem
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^@(jit|outer|inline|apart|intrinsic)$", path.read_text(), re.MULTILINE)
    }
    # Those of `team` are compiled into no others, and numba watches their own file. Archives that
    # run do not have it.
    assert "team" in with_loops
    assert with_loops - {"team"} == set(compiled._MODULES.split()) & with_loops


@pytest.mark.slow
def test_a_loop_follows_what_changes_in_another_module(tmp_path: Path) -> None:
    copy = tmp_path / "prequential"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def settled_bytes() -> int:
        command = [sys.executable, "-c", PROGRAM]
        return int(subprocess.check_output(command, cwd=tmp_path, env=environment))

    before = settled_bytes()
    coder = copy / "coding" / "coder.py"
    source = coder.read_text()
    coder.write_text(
        source.replace("_SETTLED = np.uint64(1 << 48)", "_SETTLED = np.uint64(1 << 32)")
    )
    assert settled_bytes() < before
    coder.write_text(source)
    assert settled_bytes() == before


def test_a_loop_is_compiled_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user without a home of a package that root has installed."""
    cache = getattr(caching, "CacheImpl", None) or caching._CacheImpl  # its older name
    monkeypatch.setattr(cache, "_locator_classes", [])
    monkeypatch.setattr(tempfile, "tempdir", os.devnull)
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(_one_more)
    loop = compiled.jit(_one_more)
    assert loop(1) == 2
    assert loop.stats.cache_path is None


def _one_more(x: int) -> int:
    return x + 1
