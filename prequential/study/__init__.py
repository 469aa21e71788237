"""Measurements for researchers: description lengths, curves, comparisons, benchmarks."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from prequential.study.labelled import decode_labels, encode_labels
    from prequential.study.supervised import labels

__all__ = ["decode_labels", "encode_labels", "labels"]

# PyTorch takes seconds to import: only what needs it imports it.
_MODULES = {"decode_labels": "labelled", "encode_labels": "labelled", "labels": "supervised"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'prequential.study' has no attribute {name!r}")
    return getattr(import_module(f"prequential.study.{_MODULES[name]}"), name)
