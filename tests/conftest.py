"""Counts that tests report: how many cases they really tried."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import prequential
from prequential.exact import compiled

SILENT = "that passed silently"
_COUNTS: Counter[str] = Counter()

# How long one example takes is a matter of the machine, and of what else it does.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


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


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process that runs a part of the tests hands its counts over."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["counts"] = dict(_COUNTS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take them."""
    _COUNTS.update(getattr(node, "workeroutput", {}).get("counts", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _COUNTS:
        terminalreporter.section("cases")
        _COUNTS[SILENT] += 0  # shown in any case
        for kind in sorted(_COUNTS):
            terminalreporter.write_line(f"{_COUNTS[kind]:8,} {kind}")
