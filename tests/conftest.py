"""Counts that tests report: how many cases they really tried."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import prequential

SILENT = "that passed silently"
_COUNTS: Counter[str] = Counter()


@pytest.fixture
def counts() -> Counter[str]:
    """Cases by kind; shown in the summary."""
    return _COUNTS


def pytest_configure(config: pytest.Config) -> None:
    """Drop compiled loops that are older than a source: numba looks at their own file only."""
    package = Path(prequential.__file__).parent
    newest = max(source.stat().st_mtime for source in package.glob("*.py"))
    if not hasattr(config, "workerinput"):
        for index in package.glob("__pycache__/*.nbi"):
            if index.stat().st_mtime < newest:
                index.unlink()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _COUNTS:
        terminalreporter.section("cases")
        _COUNTS[SILENT] += 0  # shown in any case
        for kind in sorted(_COUNTS):
            terminalreporter.write_line(f"{_COUNTS[kind]:8,} {kind}")
