"""What has become of a learner by learning the given, kept for the next run after the same.

In memory, for the files of one command; or in a file, a safetensors file like a checkpoint, of
`preq learn`. Either is of one configuration, seed and list of given files, and is taken for no
other: the hashes are those of the files that were given this time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from safetensors import safe_open

from prequential import __version__
from prequential.archive.container import CONTAINER_VERSION
from prequential.archive.files import display
from prequential.training import checkpoint
from prequential.training.run import Run

REMEDY = "make it anew with preq learn"


def identity(run: Run) -> dict[str, Any]:
    """What must agree between the run that learned and the one that goes on."""
    header = run.header
    return {
        "layout": checkpoint.LAYOUT,
        "command": "learn",
        "version": f"{__version__}/{CONTAINER_VERSION}/{header.numerics_version}",
        "given": " ".join(file.sha256.hex() for file in header.given),
        "seed": header.seed,
        "prior": header.prior.sha256.hex() if header.prior else "none",
        "config": run.config.to_bytes().hex(),
    }


class InMemory:
    """Copies of the arrays; those of the last run that learned anew."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._numbers: dict[str, Any] = {}
        self._identity: dict[str, Any] | None = None

    def restore(self, run: Run) -> bool:
        """See `run.Kept`."""
        if self._identity != identity(run):
            return False
        checkpoint.put_back(run, self._arrays, self._numbers)
        return True

    def keep(self, run: Run) -> None:
        """See `run.Kept`."""
        self._identity, self._arrays = None, {}  # room for the new ones
        arrays, self._numbers = checkpoint.learned(run)
        self._arrays = {name: array.copy() for name, array in arrays.items()}
        self._identity = identity(run)


class InFile:
    """The file that `save` wrote. What does not fit is learned anew, and `warn` told why.

    Others may keep that: `further`.
    """

    def __init__(
        self, path: str, warn: Callable[[str], None], further: InMemory | None = None
    ) -> None:
        self._path, self._warn, self._further = path, warn, further

    def restore(self, run: Run) -> bool:
        """See `run.Kept`. Raises FileError: the file cannot be read, or is damaged."""
        if self._further is not None and self._further.restore(run):
            return True
        with checkpoint.reading(self._path, "state", REMEDY), safe_open(self._path, "np") as file:
            manifest = checkpoint.manifest_of(file)
            if differs := checkpoint.difference(manifest, identity(run)):
                self._warn(
                    f"{display(self._path)}: is not of this run, so the given is learned anew:"
                    f" its {differs}"
                )
                return False
            checkpoint.put_back(run, file, manifest)
        return True

    def keep(self, run: Run) -> None:
        """See `run.Kept`."""
        if self._further is not None:
            self._further.keep(run)


def save(file: BinaryIO, run: Run) -> None:
    """Write what a run has learned of the given, and nothing else yet, to an empty file."""
    arrays, numbers = checkpoint.learned(run)
    checkpoint.write(file, arrays, {**identity(run), **numbers})
