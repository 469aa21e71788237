"""Hashes of the recent past: the contexts under which n-gram tables and embeddings are looked up.

o3   the last 3 bytes                 s4   bytes 2..4 back, the last one skipped
w1   the letters of the current word so far, and one whole word before it
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from prequential.config import HISTORY_BYTES, HISTORY_WORDS, parse_context

_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)
_START = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)
_SHIFT = np.uint64(32)

jit: Any = numba.njit(cache=True, nogil=True, error_model="numpy")


class History:
    """The last bytes and words of B streams."""

    def __init__(self, streams: int) -> None:
        self.bytes = np.zeros((streams, HISTORY_BYTES), np.uint8)  # most recent first
        self.words = np.zeros((streams, HISTORY_WORDS), np.uint64)  # hashes, the current word first

    def push(self, symbols: np.ndarray) -> None:
        """Append one symbol to each stream: symbols (B,) uint8."""
        _push(self.bytes, self.words, symbols)


class Contexts:
    """A list of contexts and their hashes."""

    def __init__(self, names: tuple[str, ...]) -> None:
        parsed = [parse_context(name) for name in names]
        self.kinds = np.array([kind for kind, _ in parsed], np.int64)
        self.sizes = np.array([size for _, size in parsed], np.int64)

    def hash(self, history: History, out: np.ndarray) -> None:
        """out (B, C) uint64 = the hash of each context at each stream's next position."""
        _hash(history.bytes, history.words, self.kinds, self.sizes, out)


@jit
def _push(history: Any, words: Any, symbols: Any) -> None:
    for b in range(len(symbols)):
        for k in range(history.shape[1] - 1, 0, -1):
            history[b, k] = history[b, k - 1]
        c = symbols[b]
        history[b, 0] = c
        if 65 <= c <= 90:  # letters count as lower case
            c += np.uint8(32)
        if 97 <= c <= 122 or c >= 128:
            words[b, 0] = _mix(words[b, 0], c)
        elif words[b, 0] != 0:
            for k in range(words.shape[1] - 1, 0, -1):
                words[b, k] = words[b, k - 1]
            words[b, 0] = 0


@jit
def _mix(h: Any, c: Any) -> Any:
    h = (h ^ (np.uint64(c) + _ONE)) * _MULTIPLIER
    return h ^ (h >> _SHIFT)


@jit
def _hash(history: Any, words: Any, kinds: Any, sizes: Any, out: Any) -> None:
    for b in range(history.shape[0]):
        for c in range(len(kinds)):
            kind, size = kinds[c], sizes[c]
            h = _START * np.uint64(c + 1)
            if kind == 0:
                for k in range(size):
                    h = _mix(h, history[b, k])
            elif kind == 1:
                for k in range(size + 1):
                    h = (h ^ words[b, k]) * _MULTIPLIER
                    h ^= h >> _SHIFT
                if words[b, 0] == 0:  # between words, the last byte says where
                    h = _mix(h, history[b, 0])
            else:
                for k in range(1, size):
                    h = _mix(h, history[b, k])
            out[b, c] = h
