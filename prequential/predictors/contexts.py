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

from typing import Any, NamedTuple

import numpy as np

from prequential.coding.vocabulary import SINGLE_BYTES, Vocabulary
from prequential.config import HISTORY_BYTES, HISTORY_TOKENS, HISTORY_WORDS, parse_context
from prequential.exact.compiled import apart, inline, jit, pack

_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)
_START = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)
_SHIFT = np.uint64(32)

# Bytes of each stream within reach of lines and records.
_RING = 4096
# A distance is a record's length after this many returns of bytes at it without another's.
_RETURNS = 16
_NEWLINE = 10
# Places in records up to this length are told apart; those of longer ones are columns of lines.
_SHORT_RECORD = 32


class HistoryState(NamedTuple):
    """The recent past of B streams. The first axis of every array is the stream."""

    bytes: np.ndarray  # (B, HISTORY_BYTES) uint8, most recent first
    words: np.ndarray  # (B, HISTORY_WORDS) uint64: hashes, the current word's first
    tokens: np.ndarray  # (B, HISTORY_TOKENS) int64, most recent first
    ring: np.ndarray  # (B, 4096) uint8: byte i of the stream is at i % 4096
    met: np.ndarray  # (B, 256, 2) int64, of each byte: where it last ended, how far behind another
    end: np.ndarray  # (B,) int64: bytes so far; so are all below
    line: np.ndarray  # where this line starts
    line_before: np.ndarray  # where the line before it starts
    first: np.ndarray  # the line's first byte, or 0
    record: np.ndarray  # a record's length, or 0
    candidate: np.ndarray  # the length that might be the next one
    returns: np.ndarray  # how often in a row it was met
    place: np.ndarray  # in a record of at most 32 bytes, else 32 + the column, up to 255


class Contexts(NamedTuple):
    """A list of C contexts: see `parse`."""

    kinds: np.ndarray  # (C,) int64: a kind's number is its letter's place in the list above
    sizes: np.ndarray  # (C,) int64


class History:
    """The last bytes, words and tokens of B streams, and where their lines and records are."""

    def __init__(self, streams: int, vocabulary: Vocabulary = SINGLE_BYTES) -> None:
        self.state = HistoryState(
            np.zeros((streams, HISTORY_BYTES), np.uint8),
            np.zeros((streams, HISTORY_WORDS), np.uint64),
            np.zeros((streams, HISTORY_TOKENS), np.int64),
            np.zeros((streams, _RING), np.uint8),
            np.zeros((streams, 256, 2), np.int64),
            *np.zeros((8, streams), np.int64),
        )
        self.packed = pack(self.state)
        self.spelling = vocabulary.spelling

    def push(self, symbols: np.ndarray) -> None:
        """Append one token to each stream: symbols (B,)."""
        push_column(self.state, self.spelling, symbols)

    def arrays(self) -> dict[str, np.ndarray]:
        """The whole state, by name."""
        return {f"history.{name}": array for name, array in self.state._asdict().items()}


def parse(names: tuple[str, ...]) -> Contexts:
    """The contexts of these names.

    >>> parse(("o2", "w1")).sizes
    array([2, 1])

    Raises:
        ConfigError: see `config.parse_context`.
    """
    parsed = np.array([parse_context(name) for name in names], np.int64).reshape(-1, 2)
    return Contexts(parsed[:, 0].copy(), parsed[:, 1].copy())


@inline
def history_of(packed: Any) -> Any:
    """The `HistoryState` again, inside a loop."""
    return HistoryState(*packed)


@inline
def push_byte(history: Any, b: Any, c: Any) -> None:
    """Append a byte to stream b."""
    last, words = history.bytes[b], history.words[b]
    for k in range(len(last) - 1, 0, -1):
        last[k] = last[k - 1]
    last[0] = c
    history.ring[b, history.end[b] & (_RING - 1)] = c
    _mark(history, b, c)
    if 65 <= c <= 90:  # letters count as lower case
        c += np.uint8(32)
    if 97 <= c <= 122 or c >= 128:
        words[0] = _mix(words[0], c)
    elif words[0] != 0:
        for k in range(len(words) - 1, 0, -1):
            words[k] = words[k - 1]
        words[0] = 0


@inline
def push_token(history: Any, b: Any, token: Any) -> None:
    """Append a token to stream b, whose bytes have been pushed."""
    tokens = history.tokens[b]
    for k in range(len(tokens) - 1, 0, -1):
        tokens[k] = tokens[k - 1]
    tokens[0] = token


@apart
def push_column(history: Any, spelling: Any, symbols: Any) -> None:
    """Append one token to each stream: symbols (B,)."""
    offsets = spelling.offsets
    for b in range(len(symbols)):
        s = np.int64(symbols[b])
        for at in range(offsets[s], offsets[s + 1]):
            push_byte(history, b, spelling.bytes[at])
        push_token(history, b, s)


@inline
def _mark(history: Any, b: Any, c: Any) -> None:
    """Where lines and records are, after the byte c."""
    end, met = history.end[b] + 1, history.met[b, c]
    # Mahoney's rule for records: the same byte at the same distance, time and again.
    distance = end - met[0]
    if distance > 1 and distance == met[1]:
        if distance != history.candidate[b]:
            history.candidate[b] = distance
            history.returns[b] = 0
        else:
            history.returns[b] += 1
            if history.returns[b] > _RETURNS and distance < _RING:
                history.record[b] = distance
    met[0] = end
    met[1] = distance
    history.end[b] = end
    if c == _NEWLINE:
        history.line_before[b] = history.line[b]
        history.line[b] = end
        history.first[b] = 0
    elif end - history.line[b] == 1:
        history.first[b] = c
    record = history.record[b]
    if 1 < record <= _SHORT_RECORD:
        history.place[b] = end % record
    else:
        history.place[b] = _SHORT_RECORD + min(end - history.line[b], 255 - _SHORT_RECORD)


@jit
def _mix(h: Any, c: Any) -> Any:
    h = (h ^ (np.uint64(c) + _ONE)) * _MULTIPLIER
    return h ^ (h >> _SHIFT)


@jit
def _mix_word(h: Any, word: Any) -> Any:
    h = (h ^ word) * _MULTIPLIER
    return h ^ (h >> _SHIFT)


@inline
def hash_stream(history: Any, b: Any, contexts: Any, out: Any) -> None:
    """out (C,) uint64 = the hash of each context at the next position of stream b."""
    last, words, tokens, ring = (
        history.bytes[b],
        history.words[b],
        history.tokens[b],
        history.ring[b],
    )
    end, line, record = history.end[b], history.line[b], history.record[b]
    column = end - line
    up = history.line_before[b] + column
    above = np.uint8(0)
    if up < line and end - up < _RING:
        above = ring[up & (_RING - 1)]
    back = ring[(end - record) & (_RING - 1)]
    for c in range(len(contexts.kinds)):
        kind, size = contexts.kinds[c], contexts.sizes[c]
        h = _START * np.uint64(c + 1)
        if kind == 0:  # o
            for k in range(size):
                h = _mix(h, last[k])
        elif kind == 1:  # w
            for k in range(size + 1):
                h = _mix_word(h, words[k])
        elif kind == 2:  # s
            for k in range(1, size):
                h = _mix(h, last[k])
        elif kind == 3:  # v
            h = _mix_word(_mix_word(h, words[0]), words[size])
        elif kind == 4:  # i
            h = _mix(h, history.first[b])
            for k in range(size + 1):
                h = _mix_word(h, words[k])
        elif kind == 5:  # c
            h = _mix(h, above)
            for k in range(size):
                h = _mix(h, last[k])
            if size == 0:
                h = _mix(h, min(column, 255))
        elif kind == 6:  # r
            h = _mix(h, back)
            for k in range(size):
                h = _mix(h, last[k])
            if size == 0:
                h = _mix(_mix(h, record), end % max(record, 1))
        elif kind == 7:  # d
            h = _mix(_mix(h, last[size - 1]), last[2 * size - 1])
        else:  # t
            for k in range(size):
                h = _mix(h, tokens[k])
        if (kind == 1 or kind == 3 or kind == 4) and words[0] == 0:
            h = _mix(h, last[0])  # between words, the last byte says where
        out[c] = h


@inline
def hash_column(history: Any, contexts: Any, out: Any) -> None:
    """out (B, C) = `hash_stream` of each stream."""
    for b in range(out.shape[0]):
        hash_stream(history, b, contexts, out[b])
