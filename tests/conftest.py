"""Counts that tests report: how many cases they really tried."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import prequential
from prequential.exact import compiled

SILENT = "that passed silently"
_COUNTS: Counter[str] = Counter()


@pytest.fixture
def counts() -> Counter[str]:
    """Cases by kind; shown in the summary."""
    return _COUNTS


def pytest_configure(config: pytest.Config) -> None:
    """Drop what was compiled from other sources: it is never used again."""
    if not hasattr(config, "workerinput"):
        for part in Path(prequential.__file__).parent.rglob("__pycache__/*.nb[ic]"):
            if compiled.SOURCES not in part.name:
                part.unlink()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _COUNTS:
        terminalreporter.section("cases")
        _COUNTS[SILENT] += 0  # shown in any case
        for kind in sorted(_COUNTS):
            terminalreporter.write_line(f"{_COUNTS[kind]:8,} {kind}")
