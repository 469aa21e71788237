"""Hashes of the recent past: the contexts under which n-gram tables and counts are looked up.

o3   the last 3 bytes                 s4   bytes 2..4 back, the last one skipped
w1   the letters of the current word so far, and one whole word before it
v2   the current word so far, and the word 2 before it, the one between skipped
i0   the first byte of the line and the current word; i1: and one whole word before it
c0   the byte above, in the line before, and the column; c2: the byte above and the last 2
r0   the byte one record back and the place in the record; r2: that byte and the last 2
d3   the bytes 3 and 6 back

A record's length is not told, it is noticed: the distance at which bytes keep coming back.
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

# Bytes of each stream within reach of lines and records.
_RING = 4096
# A distance is a record's length after this many returns of bytes at it without another's.
_RETURNS = 16
_NEWLINE = 10
# What is marked in each stream: the bytes so far, where this line and the one before it start, the
# line's first byte, a record's length, the length that might be the next one and how often in a row
# it was met, and the place: in a record of at most 32 bytes, else 32 + the column, up to 255.
_END, _LINE, _LINE_BEFORE, _FIRST, _RECORD, _CANDIDATE, _MET, _PLACE = range(8)
_SHORT_RECORD = 32

jit: Any = numba.njit(cache=True, nogil=True, error_model="numpy")


class History:
    """The last bytes and words of B streams, and where their lines and records are."""

    def __init__(self, streams: int) -> None:
        self.bytes = np.zeros((streams, HISTORY_BYTES), np.uint8)  # most recent first
        self.words = np.zeros((streams, HISTORY_WORDS), np.uint64)  # hashes, the current word first
        self.ring = np.zeros((streams, _RING), np.uint8)
        self.marks = np.zeros((streams, 8), np.int64)
        self.met = np.zeros((streams, 256, 2), np.int64)  # of each byte: last position, distance

    def push(self, symbols: np.ndarray) -> None:
        """Append one symbol to each stream: symbols (B,) uint8."""
        _push(self.bytes, self.words, self.ring, self.marks, self.met, symbols)

    def push_chunk(self, chunk: np.ndarray) -> None:
        """Append the columns of chunk (T, B) uint8."""
        nothing = np.zeros((0, 5), np.uint8)
        _push_chunk(*self.arrays().values(), chunk, nothing)

    def recent(self, chunk: np.ndarray, out: np.ndarray) -> None:
        """out (T * B, 5) uint8 = the last four bytes, the latest first, and the place, before each.

        The history stays before the chunk (T, B).
        """
        past = (array.copy() for array in self.arrays().values())
        _push_chunk(*past, chunk, out)

    def arrays(self) -> dict[str, np.ndarray]:
        """The whole state, by name."""
        names = "bytes words ring marks met"
        return {f"history.{name}": getattr(self, name) for name in names.split()}

    @property
    def places(self) -> np.ndarray:
        """(B,) int64 below 256: the place in a short record, else in the line."""
        places: np.ndarray = self.marks[:, _PLACE]
        return places

    def last(self, chunk: np.ndarray) -> np.ndarray:
        """The byte (T * B,) before each of chunk (T, B), which comes next."""
        return np.concatenate((self.bytes[:, 0], chunk[:-1].reshape(-1)))


class Contexts:
    """A list of contexts and their hashes."""

    def __init__(self, names: tuple[str, ...]) -> None:
        parsed = [parse_context(name) for name in names]
        self.kinds = np.array([kind for kind, _ in parsed], np.int64)
        self.sizes = np.array([size for _, size in parsed], np.int64)

    def hash(self, history: History, out: np.ndarray) -> None:
        """out (B, C) uint64 = the hash of each context at each stream's next position."""
        h = history
        _hash(h.bytes, h.words, h.ring, h.marks, self.kinds, self.sizes, out)

    def hash_chunk(self, history: History, chunk: np.ndarray, out: np.ndarray) -> None:
        """out (T * B, C) = `hash` before every column of chunk (T, B); the history stays."""
        past = (array.copy() for array in history.arrays().values())
        _hash_chunk(*past, chunk, self.kinds, self.sizes, out)


@jit
def _push(history: Any, words: Any, ring: Any, marks: Any, met: Any, symbols: Any) -> None:
    for b in range(len(symbols)):
        for k in range(history.shape[1] - 1, 0, -1):
            history[b, k] = history[b, k - 1]
        c = symbols[b]
        history[b, 0] = c
        ring[b, marks[b, _END] & (_RING - 1)] = c
        _mark(marks[b], met[b, c], c)
        if 65 <= c <= 90:  # letters count as lower case
            c += np.uint8(32)
        if 97 <= c <= 122 or c >= 128:
            words[b, 0] = _mix(words[b, 0], c)
        elif words[b, 0] != 0:
            for k in range(words.shape[1] - 1, 0, -1):
                words[b, k] = words[b, k - 1]
            words[b, 0] = 0


@jit
def _mark(mark: Any, met: Any, c: Any) -> None:
    mark[_END] += 1
    end = mark[_END]
    # Mahoney's rule for records: the same byte at the same distance, time and again.
    distance = end - met[0]
    if distance > 1 and distance == met[1]:
        if distance != mark[_CANDIDATE]:
            mark[_CANDIDATE] = distance
            mark[_MET] = 0
        else:
            mark[_MET] += 1
            if mark[_MET] > _RETURNS and distance < _RING:
                mark[_RECORD] = distance
    met[0] = end
    met[1] = distance
    if c == _NEWLINE:
        mark[_LINE_BEFORE] = mark[_LINE]
        mark[_LINE] = end
        mark[_FIRST] = 0
    elif end - mark[_LINE] == 1:
        mark[_FIRST] = c
    if 1 < mark[_RECORD] <= _SHORT_RECORD:
        mark[_PLACE] = end % mark[_RECORD]
    else:
        mark[_PLACE] = _SHORT_RECORD + min(end - mark[_LINE], 255 - _SHORT_RECORD)


@jit
def _mix(h: Any, c: Any) -> Any:
    h = (h ^ (np.uint64(c) + _ONE)) * _MULTIPLIER
    return h ^ (h >> _SHIFT)


@jit
def _mix_word(h: Any, word: Any) -> Any:
    h = (h ^ word) * _MULTIPLIER
    return h ^ (h >> _SHIFT)


@jit
def _hash(
    history: Any, words: Any, ring: Any, marks: Any, kinds: Any, sizes: Any, out: Any
) -> None:
    for b in range(history.shape[0]):
        end = marks[b, _END]
        column = end - marks[b, _LINE]
        up = marks[b, _LINE_BEFORE] + column
        above = np.uint8(0)
        if up < marks[b, _LINE] and end - up < _RING:
            above = ring[b, up & (_RING - 1)]
        record = marks[b, _RECORD]
        back = ring[b, (end - record) & (_RING - 1)]
        for c in range(len(kinds)):
            kind, size = kinds[c], sizes[c]
            h = _START * np.uint64(c + 1)
            if kind == 0:  # o
                for k in range(size):
                    h = _mix(h, history[b, k])
            elif kind == 1:  # w
                for k in range(size + 1):
                    h = _mix_word(h, words[b, k])
            elif kind == 2:  # s
                for k in range(1, size):
                    h = _mix(h, history[b, k])
            elif kind == 3:  # v
                h = _mix_word(_mix_word(h, words[b, 0]), words[b, size])
            elif kind == 4:  # i
                h = _mix(h, marks[b, _FIRST])
                for k in range(size + 1):
                    h = _mix_word(h, words[b, k])
            elif kind == 5:  # c
                h = _mix(h, above)
                for k in range(size):
                    h = _mix(h, history[b, k])
                if size == 0:
                    h = _mix(h, min(column, 255))
            elif kind == 6:  # r
                h = _mix(h, back)
                for k in range(size):
                    h = _mix(h, history[b, k])
                if size == 0:
                    h = _mix(_mix(h, record), end % max(record, 1))
            else:  # d
                h = _mix(_mix(h, history[b, size - 1]), history[b, 2 * size - 1])
            if (kind == 1 or kind == 3 or kind == 4) and words[b, 0] == 0:
                h = _mix(h, history[b, 0])  # between words, the last byte says where
            out[b, c] = h


@jit
def _hash_chunk(
    history: Any,
    words: Any,
    ring: Any,
    marks: Any,
    met: Any,
    chunk: Any,
    kinds: Any,
    sizes: Any,
    out: Any,
) -> None:
    streams = chunk.shape[1]
    for t in range(chunk.shape[0]):
        _hash(history, words, ring, marks, kinds, sizes, out[t * streams : (t + 1) * streams])
        _push(history, words, ring, marks, met, chunk[t])


@jit
def _push_chunk(
    history: Any, words: Any, ring: Any, marks: Any, met: Any, chunk: Any, recent: Any
) -> None:
    streams = chunk.shape[1]
    for t in range(chunk.shape[0]):
        for b in range(streams if len(recent) else 0):
            row = recent[t * streams + b]
            row[:4] = history[b, :4]
            row[4] = marks[b, _PLACE]
        _push(history, words, ring, marks, met, chunk[t])
