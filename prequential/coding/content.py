"""Prose and binaries, and what they are better off with: the encoder notices, the archive says."""

from __future__ import annotations

import dataclasses
import string
from typing import Any

import numpy as np

from prequential.config import USUAL_RATE, Config

# Looked at, and learned from, are at most so many bytes, in spans taken evenly from all of them.
SAMPLE_BYTES = 4 << 20
_SPAN_BYTES = 1 << 16
_LETTERS = np.frombuffer(string.ascii_letters.encode() + b" \n\r\t", np.uint8)
_PROSE_SHARE = 0.9
# What texts lack. NUL is none: it pads the texts in a tar.
_CONTROLS = np.frombuffer(bytes(set(range(1, 32)) - set(b"\t\n\f\r\x1b")), np.uint8)
_BINARY_SHARE = 0.05
# From so many bytes on the memory's mixer learns prose more slowly, and what is no text faster, by
# the curvature most of all (docs/log/memory.md).
_LONG_BYTES = 100_000
_SLOWER, _FASTER, _FASTEST = 10, 24, 40


def counted(data: Any) -> np.ndarray:
    """How often (256,) each byte comes in data (size,) uint8, or in a sample of it."""
    return np.bincount(sample(data), minlength=256)


def is_prose(counts: np.ndarray) -> bool:
    """Whether letters of ASCII and white space are 90 % of what `counted` has counted."""
    return bool(counts[_LETTERS].sum() >= _PROSE_SHARE * counts.sum())


def is_binary(counts: np.ndarray) -> bool:
    """Whether control characters are 5 % of it, as in machine code and tables.

    The most frequent one does not count: in UTF-16 half of all bytes may be one.
    """
    controls = counts[_CONTROLS]
    return bool(controls.sum() - controls.max() > _BINARY_SHARE * counts.sum())


def sample(data: Any) -> np.ndarray:
    """All of data (size,) uint8, or spans taken evenly from it."""
    if len(data) <= SAMPLE_BYTES:
        return np.asarray(data[:])
    spans = SAMPLE_BYTES // _SPAN_BYTES
    starts = [(len(data) - _SPAN_BYTES) * i // (spans - 1) for i in range(spans)]
    return np.concatenate([data[a : a + _SPAN_BYTES] for a in starts])


def with_rate(config: Config, data: Any) -> Config:
    """The config with the rate of the memory's mixer for data (size,) uint8, if it is to be found.

    It is lower for prose, which is of one kind from its beginning to its end, and higher for
    binaries, which are of many.
    """
    if config.memory.mixer_rate:
        return config
    rate, curved, counts = USUAL_RATE, config.mixer.curvature_log2 > 0, counted(data)
    if is_binary(counts):
        rate = _FASTEST if curved else _FASTER
    elif not curved and len(data) >= _LONG_BYTES and is_prose(counts):
        rate = _SLOWER
    return dataclasses.replace(config, memory=dataclasses.replace(config.memory, mixer_rate=rate))
