"""A codec of numcodecs, so that Zarr can use it (the extra `io`)."""

from __future__ import annotations

from typing import Any

from numcodecs.abc import Codec
from numcodecs.compat import ensure_contiguous_ndarray, ndarray_copy

from prequential import codec


class Prequential(Codec):  # type: ignore[misc]  # without types where it is not installed
    """Codes a chunk of an array with a preset; each chunk by itself, so let them be large."""

    codec_id = "prequential"

    def __init__(self, preset: str = "default", seed: int = 0) -> None:
        self.preset = preset
        self.seed = seed

    def encode(self, buf: Any) -> bytes:
        """The archive of any buffer."""
        return codec.compress(ensure_contiguous_ndarray(buf), self.seed, self.preset)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """The bytes of an archive, in out if that is given.

        Raises:
            ArchiveError: it is none, or damaged.
        """
        return ndarray_copy(codec.decompress(ensure_contiguous_ndarray(buf)), out)
