"""Hashes of the recent past: the contexts under which n-gram tables and counts are looked up.

o3   the last 3 bytes                 s4   bytes 2..4 back, the last one skipped
w1   the letters of the current word so far, and one whole word before it
v2   the current word so far, and the word 2 before it, the one between skipped
i0   the first byte of the line and the current word; i1: and one whole word before it
c0   the byte above, in the line before, and the column; c2: the byte above and the last 2
r0   the byte one record back and the place in the record; r2: that byte and the last 2
d3   the bytes 3 and 6 back
t2   the last 2 tokens

All but the last are made of bytes, whatever the tokens are; a context stands between two tokens.

A record's length is not told, it is noticed: the distance at which bytes keep coming back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.coding.vocabulary import SINGLE_BYTES, Vocabulary
from prequential.config import HISTORY_BYTES, HISTORY_TOKENS, HISTORY_WORDS, parse_context
from prequential.exact.compiled import jit

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

# bytes, words, ring, marks, met and tokens of a `History`.
State = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class History:
    """The last bytes, words and tokens of B streams, and where their lines and records are."""

    def __init__(self, streams: int, vocabulary: Vocabulary = SINGLE_BYTES) -> None:
        self.bytes = np.zeros((streams, HISTORY_BYTES), np.uint8)  # most recent first
        self.words = np.zeros((streams, HISTORY_WORDS), np.uint64)  # hashes, the current word first
        self.ring = np.zeros((streams, _RING), np.uint8)
        self.marks = np.zeros((streams, 8), np.int64)
        self.met = np.zeros((streams, 256, 2), np.int64)  # of each byte: last position, distance
        self.tokens = np.zeros((streams, HISTORY_TOKENS), np.int64)  # most recent first
        self.pieces = vocabulary.offsets, vocabulary.bytes

    def push(self, symbols: np.ndarray) -> None:
        """Append one token to each stream: symbols (B,)."""
        push_column(self.state(), self.pieces, symbols)

    def state(self) -> State:
        """The arrays, as the loops take them."""
        return self.bytes, self.words, self.ring, self.marks, self.met, self.tokens

    def arrays(self) -> dict[str, np.ndarray]:
        """The whole state, by name."""
        names = "bytes words ring marks met tokens"
        return {f"history.{name}": getattr(self, name) for name in names.split()}


class Contexts:
    """A list of contexts and their hashes."""

    def __init__(self, names: tuple[str, ...]) -> None:
        parsed = [parse_context(name) for name in names]
        self.kinds = np.array([kind for kind, _ in parsed], np.int64)
        self.sizes = np.array([size for _, size in parsed], np.int64)


@jit
def push_byte(state: Any, b: Any, c: Any) -> None:
    """Append a byte to stream b."""
    history, words, ring, marks, met, _ = state
    for k in range(history.shape[1] - 1, 0, -1):
        history[b, k] = history[b, k - 1]
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
def push_token(state: Any, b: Any, token: Any) -> None:
    """Append a token to stream b, whose bytes have been pushed."""
    tokens = state[5]
    for k in range(tokens.shape[1] - 1, 0, -1):
        tokens[b, k] = tokens[b, k - 1]
    tokens[b, 0] = token


@jit
def push_column(state: Any, pieces: Any, symbols: Any) -> None:
    """Append one token to each stream: symbols (B,)."""
    offsets, letters = pieces
    for b in range(len(symbols)):
        s = np.int64(symbols[b])
        for at in range(offsets[s], offsets[s + 1]):
            push_byte(state, b, letters[at])
        push_token(state, b, s)


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
def hash_stream(state: Any, b: Any, kinds: Any, sizes: Any, out: Any) -> None:
    """out (C,) uint64 = the hash of each context at the next position of stream b."""
    history, words, ring, marks, _, tokens = state
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
        elif kind == 7:  # d
            h = _mix(_mix(h, history[b, size - 1]), history[b, 2 * size - 1])
        else:  # t
            for k in range(size):
                h = _mix(h, tokens[b, k])
        if (kind == 1 or kind == 3 or kind == 4) and words[b, 0] == 0:
            h = _mix(h, history[b, 0])  # between words, the last byte says where
        out[c] = h


@jit
def place(state: Any, b: Any) -> Any:
    """Where stream b stands, below 256: the place in a short record, else in the line."""
    return state[3][b, _PLACE]


@jit
def hash_column(state: Any, kinds: Any, sizes: Any, out: Any) -> None:
    """out (B, C) = `hash_stream` of each stream."""
    for b in range(out.shape[0]):
        hash_stream(state, b, kinds, sizes, out[b])
