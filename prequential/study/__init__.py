"""Measurements for researchers: description lengths, curves, comparisons, benchmarks."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from prequential.study.supervised import labels

__all__ = ["labels"]


def __getattr__(name: str) -> object:
    # PyTorch takes seconds to import: only what needs it imports it.
    if name == "labels":
        from prequential.study.supervised import labels

        return labels
    raise AttributeError(f"module 'prequential.study' has no attribute {name!r}")
