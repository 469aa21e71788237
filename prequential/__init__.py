"""Online prequential trainer-compressor: code a chunk, then learn it.

>>> import prequential
>>> archive = prequential.compress(b"a" * 1000, config="tiny")
>>> prequential.decompress(archive) == b"a" * 1000
True
"""

from __future__ import annotations

from prequential._version import __version__ as __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from prequential.archive.container import Limits
    from prequential.codec import (
        codelength,
        compress,
        compress_file,
        decompress,
        decompress_file,
    )
    from prequential.config import Config, load
    from prequential.errors import (
        ArchiveError,
        ConfigError,
        DivergenceError,
        FileError,
        PlatformError,
        PrequentialError,
    )
    from prequential.registration import register_archive_formats, register_fsspec
    from prequential.report import Report
    from prequential.stream import PreqFile, open
    from prequential.training.prior import Prior
    from prequential.training.prior import load as load_prior

__all__ = [
    "ArchiveError",
    "Config",
    "ConfigError",
    "DivergenceError",
    "FileError",
    "Limits",
    "PlatformError",
    "PreqFile",
    "PrequentialError",
    "Prior",
    "Report",
    "codelength",
    "compress",
    "compress_file",
    "decompress",
    "decompress_file",
    "load",
    "load_prior",
    "open",
    "register_archive_formats",
    "register_fsspec",
]
# Where a name is, if not in `codec` or `errors`.
_PLACES = {
    "Config": "config",
    "Limits": "archive.container",
    "PreqFile": "stream",
    "Prior": "training.prior",
    "Report": "report",
    "load": "config",
    "open": "stream",
    "register_archive_formats": "registration",
    "register_fsspec": "registration",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    # PyTorch takes seconds to import: only what trains imports it, and only when used.
    from importlib import import_module

    if name == "load_prior":
        return import_module("prequential.training.prior").load
    if name not in __all__:
        raise AttributeError(f"module 'prequential' has no attribute {name!r}")
    place = _PLACES.get(name, "errors" if name.endswith("Error") else "codec")
    return getattr(import_module(f"prequential.{place}"), name)
