"""Weights as a file: what a run ends with, and what another may start from.

A prior is a part of the description: whoever decodes must have it, so its compressed size counts.
"""

from __future__ import annotations

import hashlib
import lzma
import os
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from prequential.archive.container import MAX_NAME_BYTES, NamedFile
from prequential.config import NgramConfig
from prequential.errors import ConfigError, FileError

# Keeps sums of logits and embeddings finite whatever the file holds.
MAX_MAGNITUDE = 2.0**20


@dataclass(frozen=True)
class Prior:
    """Arrays by name, with the identity and the price of the file that held them."""

    identity: NamedFile
    arrays: dict[str, np.ndarray]
    compressed_bytes: int


def to_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """A safetensors file of the arrays."""
    return bytes(save_tensors(dict(sorted(arrays.items()))))


def compressed_bytes(packed: bytes) -> int:
    """What a file of weights costs in a description: its size under LZMA."""
    return len(lzma.compress(packed, format=lzma.FORMAT_ALONE))


def load(path: str) -> Prior:
    """Read a prior.

    Raises:
        FileError: it cannot be read, or is no safetensors file.
    """
    try:
        with open(path, "rb") as file:
            packed = file.read()
    except OSError as error:
        raise FileError(f"{ascii(path)[1:-1]}: cannot be read: {error.strerror}") from error
    return from_bytes(packed, path)


def from_bytes(packed: bytes, path: str) -> Prior:
    """The prior that the file at a path holds.

    Raises:
        FileError: it is no safetensors file.
    """
    try:
        arrays = load_tensors(packed)
    except (SafetensorError, KeyError, ValueError) as error:
        shown = ascii(path)[1:-1]
        raise FileError(f"{shown}: is no safetensors file: give one of --save-weights") from error
    name = os.path.basename(path).encode("utf-8", "replace")[:MAX_NAME_BYTES]
    identity = NamedFile(hashlib.sha256(packed).digest(), name.decode(errors="ignore"))
    return Prior(identity, arrays, compressed_bytes(packed))


def check(prior: Prior, learned: dict[str, np.ndarray], tables: NgramConfig) -> None:
    """See that a prior fits what a learner of this config has `learned`, and is harmless.

    Raises:
        ConfigError: other names, shapes or types, or numbers out of bounds.
    """
    name = prior.identity.name
    if not learned:
        raise ConfigError(f"--prior {name}: a memory alone has no weights: use another preset")
    if sorted(prior.arrays) != sorted(learned):
        raise ConfigError(f"--prior {name}: holds other tensors than this config's model")
    for key, target in learned.items():
        source = prior.arrays[key]
        if source.shape != target.shape or source.dtype != target.dtype:
            # Their number of rows follows the input's length.
            rows = (len(source) // max(1, len(tables.contexts))).bit_length() - 1
            told = f", as --set ngrams.rows_log2={rows}" if key == "ngrams.tags" else ""
            raise ConfigError(
                f"--prior {name}: {key} is {source.dtype} {source.shape}, this config's is"
                f" {target.dtype} {target.shape}: encode with the config it was trained with{told}"
            )
        if source.dtype.kind == "f" and not (np.abs(source) <= MAX_MAGNITUDE).all():
            raise ConfigError(f"--prior {name}: {key} holds numbers beyond {MAX_MAGNITUDE}")
    used = prior.arrays["ngrams.used"]
    if used.size and used.max() > tables.slots:
        raise ConfigError(f"--prior {name}: ngrams.used exceeds ngrams.slots = {tables.slots}")
