"""Children run the code that their parent runs, and none that lies where data lie."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from samples import text

import prequential
from prequential.cli import main
from prequential.study import child

PACKAGE = Path(prequential.__file__).parent
TINY = ["--preset", "tiny", "--set", "ngrams.rows_log2=10", "--set", "chunk=8"]
TRAPS = ("torch", "random", "numpy", "numba", "prequential", "tempfile", "sitecustomize")


@pytest.fixture
def sprung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which traps in the working directory say that they were run."""
    told = tmp_path / "sprung"
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in TRAPS:
        (folder / f"{name}.py").write_text(f"open({str(told)!r}, 'a').write({name!r})\n")
    (folder / "a").write_bytes(text(600))
    monkeypatch.chdir(folder)
    return told


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["encode", "a", *TINY, "--verify"],
        ["mdl", "a", *TINY, "--verify", "--keep", "k"],
        ["mdl", "a", *TINY, "--epochs", "1,2", "--jobs", "2", "--keep", "k"],
        ["compare", "a", "--presets", "tiny", "--methods", "zlib -9", "--decode"],
    ],
    ids=" ".join,
)
def test_no_command_runs_what_lies_in_the_working_directory(
    command: list[str], sprung: Path
) -> None:
    assert main(command) == 0
    assert not sprung.exists()


@pytest.mark.parametrize("entry", ["", "."])
def test_not_even_where_the_parent_looks_there(
    entry: str, sprung: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an interactive Python does, and one with an empty part in PYTHONPATH."""
    monkeypatch.setattr(sys, "path", [entry, os.getcwd(), *sys.path])
    monkeypatch.setenv("PYTHONPATH", os.pathsep + os.environ.get("PYTHONPATH", ""))
    program = "import random, tempfile, prequential; print(sys.argv[1:], prequential.__file__)"
    command = child.python(program, "x", "y")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"['x', 'y'] {prequential.__file__}\n"
    assert not sprung.exists()


FAMILY = """
import subprocess, prequential
from prequential.study import child
print(prequential.__file__, flush=True)
subprocess.run(child.python("import prequential; print(prequential.__file__)"), check=True)
"""


def parent_and_child(python: str, folder: Path, **environment: str) -> list[str]:
    """Where each of them has the package from."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-c", FAMILY],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_checkout_on_the_path(tmp_path: Path) -> None:
    found = parent_and_child(sys.executable, tmp_path, PYTHONPATH=str(PACKAGE.parent))
    assert found == [str(PACKAGE / "__init__.py")] * 2


def test_a_checkout_that_is_the_working_directory() -> None:
    found = parent_and_child(sys.executable, PACKAGE.parent)
    assert found == [str(PACKAGE / "__init__.py")] * 2


def test_an_installed_package(tmp_path: Path) -> None:
    venv.create(tmp_path / "env")
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    shutil.copytree(PACKAGE, site / "prequential", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "prequential.py").write_text("raise SystemExit('a trap')")
    python = str(tmp_path / "env" / "bin" / "python")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-P", "-c", FAMILY], cwd=tmp_path, env=kept, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(site / "prequential" / "__init__.py")] * 2
