"""What a prior costs: its bytes, or those of what regenerates it if they are fewer.

The weights of `--save-weights` follow from the run that wrote them, and so from that run's archive,
which has config, seed and data: whoever decodes it has the weights, too. So it stands for them.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any, NamedTuple

import numpy as np

from prequential.archive import codesize
from prequential.archive.container import ArchiveReader
from prequential.archive.files import display, open_binary
from prequential.errors import ArchiveError
from prequential.training import decoding
from prequential.training import prior as priors
from prequential.training.run import Options


class Price(NamedTuple):
    """Both ways to send a prior."""

    prior: str  # its file's name
    compressed_bytes: int  # under LZMA
    archive: str | None = None  # of the run that wrote it
    archive_bytes: int | None = None

    @property
    def bytes(self) -> int:
        """The smaller one, which counts."""
        sizes = (self.compressed_bytes, self.archive_bytes)
        return min(size for size in sizes if size is not None)

    def __str__(self) -> str:
        told = f"prior {display(self.prior)}: {self.compressed_bytes:,} bytes under LZMA"
        if self.archive is None or self.archive_bytes is None:
            return f"{told}; --prior-archive would count what regenerates it, if that is less"
        made = f"{self.archive_bytes:,} as {display(self.archive)}, which regenerates it (decoded)"
        return f"{told}, {made}; the smaller is counted"


def price(path: str, archive: str | None, options: Options) -> Price:
    """What the prior at `path` costs, also as the archive of the run that it comes from.

    Raises:
        FileError: either cannot be read.
        ArchiveError: the archive does not regenerate the prior, or not alone.
    """
    prior = priors.load(path)
    if archive is None:
        return Price(path, prior.compressed_bytes)
    shown = display(archive)
    with open_binary(archive) as (file, _):
        packed = file.read()
    header = ArchiveReader(io.BytesIO(packed), shown).header
    if header.prior is not None or header.given:
        raise ArchiveError(
            f"{shown}: was itself made with a prior or given files, which its decoder would need"
            " as well: name an archive made without"
        )
    if not codesize.parts(header) <= codesize.TRANSFORMER:  # so the code that is counted has it
        raise ArchiveError(
            f"{shown}: holds pictures or sound, which take more code to decode: make it with"
            " --set numbers= (none)"
        )

    def allocate(size: int) -> np.ndarray[Any, Any]:
        return np.empty(size, np.uint8)

    _, run = decoding.decode(io.BytesIO(packed), allocate, options)
    weights = priors.to_bytes(run.learner.learned()) if run is not None else b""
    if hashlib.sha256(weights).digest() != prior.identity.sha256:
        raise ArchiveError(
            f"{shown}: decoding it does not end with the weights {display(path)}: name the archive"
            " that preq encode --save-weights wrote with them"
        )
    return Price(path, prior.compressed_bytes, archive, len(packed))
