"""Online prequential trainer-compressor: code a chunk, then learn it.

>>> import prequential
>>> archive = prequential.compress(b"a" * 1000, config=prequential.load("tiny"))
>>> prequential.decompress(archive) == b"a" * 1000
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prequential.config import Config, load

if TYPE_CHECKING:
    from prequential.codec import (
        codelength,
        compress,
        compress_file,
        decompress,
        decompress_file,
    )
    from prequential.report import Report

__version__ = "0.1.0.dev0"
_TRAINING = ("codelength", "compress", "compress_file", "decompress", "decompress_file")
__all__ = [
    "Config",
    "Report",
    "codelength",
    "compress",
    "compress_file",
    "decompress",
    "decompress_file",
    "load",
]


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import: only what trains imports it, and only when used.
    if name in _TRAINING:
        from prequential import codec

        return getattr(codec, name)
    if name == "Report":
        from prequential.report import Report

        return Report
    raise AttributeError(f"module 'prequential' has no attribute {name!r}")
