"""The matrix of the public host covers what the package says it runs with."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from samples import ROOT

yaml = pytest.importorskip("yaml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def jobs() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    return found


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")[:2]))


def test_the_matrix(jobs: dict[str, Any]) -> None:
    rows = jobs["test"]["strategy"]["matrix"]["include"]
    (torch,) = (d for d in PROJECT["dependencies"] if d.startswith("torch"))
    low, beyond = map(version, re.findall(r"[\d.]+", torch))
    torches = sorted(version(row["torch"]) for row in rows)
    assert torches[0] == low
    assert torches[-1] == (beyond[0], beyond[1] - 1)
    pythons = sorted(version(row["python"]) for row in rows)
    assert pythons[0] == version(PROJECT["requires-python"].removeprefix(">="))
    assert {row["os"].split("-")[0] for row in rows} == {"ubuntu", "macos", "windows"}


def test_what_it_runs_is_there(jobs: dict[str, Any]) -> None:
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    for line in lines:
        for name in re.findall(r"(?:scripts|tests)/[\w./]+", line):
            assert (ROOT / name).exists(), name
        for extras in re.findall(r"\.\[([\w,]+)\]", line):
            assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
