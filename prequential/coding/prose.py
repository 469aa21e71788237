"""Prose, and what it is better off with: noticed by the encoder, said in the archive."""

from __future__ import annotations

import dataclasses
import string
from typing import Any

import numpy as np

from prequential.config import USUAL_RATE, Config

# Looked at, and learned from, are at most so many bytes, in spans taken evenly from all of them.
SAMPLE_BYTES = 4 << 20
_SPAN_BYTES = 1 << 16
_SHARE = 0.9
_LETTERS = np.frombuffer(string.ascii_letters.encode() + b" \n\r\t", np.uint8)
# From so many bytes on the memory's mixer learns more slowly (docs/log/memory.md).
_LONG_BYTES = 100_000
_SLOWER = 10


def is_prose(data: Any) -> bool:
    """Whether letters of ASCII and white space are 90 % of data (size,) uint8."""
    counts = np.bincount(sample(data), minlength=256)
    return bool(counts[_LETTERS].sum() >= _SHARE * counts.sum())


def sample(data: Any) -> np.ndarray:
    """All of data (size,) uint8, or spans taken evenly from it."""
    if len(data) <= SAMPLE_BYTES:
        return np.asarray(data[:])
    spans = SAMPLE_BYTES // _SPAN_BYTES
    starts = [(len(data) - _SPAN_BYTES) * i // (spans - 1) for i in range(spans)]
    return np.concatenate([data[a : a + _SPAN_BYTES] for a in starts])


def with_rate(config: Config, data: Any) -> Config:
    """The config with the rate of the memory's mixer for data (size,) uint8, if it is to be found.

    It is lower for prose, which is of one kind from its beginning to its end.
    """
    if config.memory.mixer_rate:
        return config
    rate = _SLOWER if len(data) >= _LONG_BYTES and is_prose(data) else USUAL_RATE
    return dataclasses.replace(config, memory=dataclasses.replace(config.memory, mixer_rate=rate))
