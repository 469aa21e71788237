"""Hashes of the recent past: the contexts under which n-gram tables and counts are looked up.

o3   the last 3 bytes                 s4   bytes 2..4 back, the last one skipped
w1   the letters of the current word so far, and one whole word before it
v2   the current word so far, and the word 2 before it, the one between skipped
i0   the first byte of the line and the current word; i1: and one whole word before it
c0   the byte above, in the line before, and the column; c2: the byte above and the last 2
r0   the byte one record back and the place in the record; r2: that byte and the last 2
d3   the bytes 3 and 6 back
t2   the last 2 tokens
a5   the last 5 letters and digits, whatever stands between them, and the last byte
e1   the current expression, all that stands between spaces, and one whole expression before it
g4   the classes (small, capital, digit, UTF-8, else itself) of the last 4 bytes, and the last byte
h0   the line's first word and the current one; h1: and one whole word before it; so k, n and q:
k0   the last word before a colon or an equals sign, and the current one
n0   the current word and, in octaves, how far back it, or another like it, ended last
q0   the bracket or quote that is open, and the current word
p2   the current word, the gap before it, the word before; or the current gap, the word before it,
     the gap before that; p3: and one word more
f4   the classes of the last 4 runs of bytes of one class, however long, and the last byte
u1   as c1, and whether the byte to the left is the same as above it

All but the tokens are made of bytes, whatever the tokens are; a context stands between two tokens.

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
_BYTE, _LAST_BYTE = np.uint64(8), np.uint64(255)

# Bytes of each stream within reach of lines and records.
_RING = 4096
# A distance is a record's length after this many returns of bytes at it without another's.
_RETURNS = 16
_NEWLINE = 10
_OPEN, _CLOSE = np.frombuffer(b"([{<)]}>", np.uint8).reshape(2, 4)
_QUOTE = 34
# Places in records up to this length are told apart; those of longer ones are columns of lines.
_SHORT_RECORD = 32


class HistoryState(NamedTuple):
    """The recent past of B streams. The first axis of every array is the stream."""

    bytes: np.ndarray  # (B, HISTORY_BYTES) uint8, most recent first
    words: np.ndarray  # (B, HISTORY_WORDS) uint64: hashes, the current word's first
    tokens: np.ndarray  # (B, HISTORY_TOKENS) int64, most recent first
    ring: np.ndarray  # (B, 4096) uint8: byte i of the stream is at i % 4096
    met: np.ndarray  # (B, 256, 2) int64, of each byte: where it last ended, how far behind another
    expressions: np.ndarray  # (B, HISTORY_WORDS) uint64: hashes, the current one's first
    gaps: np.ndarray  # (B, 2) uint64: hashes of the bytes since the last word, and before it
    spots: np.ndarray  # (B, 4096) int64: where words of such hashes ended last, or 0
    brackets: np.ndarray  # (B, 16) uint8: those that are open, the outermost second
    letters: np.ndarray  # (B,) uint64: the last 8 letters and digits, the last one lowest
    classes: np.ndarray  # (B,) uint64: those of the last 8 bytes likewise
    key: np.ndarray  # (B,) uint64: the hash of the last word before a colon or an equals sign
    shapes: np.ndarray  # (B,) uint64: those of the last 8 runs of bytes of one class
    first_word: np.ndarray  # (B,) uint64: the hash of the line's first word, or 0
    depth: np.ndarray  # (B,) int64: how many brackets are open; so are all below
    end: np.ndarray  # bytes so far
    line: np.ndarray  # where this line starts
    line_before: np.ndarray  # where the line before it starts
    first: np.ndarray  # the line's first byte, or 0
    record: np.ndarray  # a record's length, or 0
    candidate: np.ndarray  # the length that might be the next one
    returns: np.ndarray  # how often in a row it was met
    place: np.ndarray  # in a record of at most 32 bytes, else 32 + the column, up to 255


class Contexts(NamedTuple):
    """A list of C contexts: see `parse`."""

    kinds: np.ndarray  # (C,) int64: by a letter's place in `config._CONTEXT_SIZES`
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
            np.zeros((streams, HISTORY_WORDS), np.uint64),
            np.zeros((streams, 2), np.uint64),
            np.zeros((streams, 4096), np.int64),
            np.zeros((streams, 16), np.uint8),
            *(np.zeros(streams, kind) for kind in 5 * [np.uint64] + 9 * [np.int64]),
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
    _bracket(history, b, c)
    kind = _class(c)
    if kind != np.uint8(history.classes[b] & _LAST_BYTE):
        history.shapes[b] = (history.shapes[b] << _BYTE) | np.uint64(kind)
    history.classes[b] = (history.classes[b] << _BYTE) | np.uint64(kind)
    if 65 <= c <= 90:  # letters count as lower case
        c += np.uint8(32)
    letter = 97 <= c <= 122 or c >= 128
    if letter or kind == 48:
        history.letters[b] = (history.letters[b] << _BYTE) | np.uint64(c)
    expressions, gaps = history.expressions[b], history.gaps[b]
    if c == 32 or c == _NEWLINE:
        _shift(expressions)
    else:
        expressions[0] = _mix(expressions[0], c)
    if letter:
        if words[0] == 0:
            gaps[1] = gaps[0]
            gaps[0] = 0
        words[0] = _mix(words[0], c)
    else:
        if words[0] != 0:
            history.spots[b, _slot(words[0])] = history.end[b]
            if history.first_word[b] == 0:
                history.first_word[b] = words[0]
        _shift(words)
        gaps[0] = _mix(gaps[0], c)
    if c == 58 or c == 61:
        history.key[b] = words[1]
    if c == _NEWLINE:
        history.first_word[b] = 0


@jit
def _shift(hashes: Any) -> None:
    """Begin a new word, unless one has just begun."""
    if hashes[0] != 0:
        for k in range(len(hashes) - 1, 0, -1):
            hashes[k] = hashes[k - 1]
        hashes[0] = 0


@jit
def _slot(word: Any) -> Any:
    """Where a word is in a table of 4096."""
    return np.int64(word >> np.uint64(52))


@jit
def _class(c: Any) -> Any:
    """One byte for all that are alike: a, A, 0, UTF-8's first and further bytes; others as such."""
    if 97 <= c <= 122:
        return np.uint8(97)
    if 65 <= c <= 90:
        return np.uint8(65)
    if 48 <= c <= 57:
        return np.uint8(48)
    return c if c < 128 else np.uint8(128 if c < 192 else 192)


@inline
def _bracket(history: Any, b: Any, c: Any) -> None:
    """Which brackets are open, up to 15, and quotes, which end with their line."""
    brackets, depth = history.brackets[b], history.depth[b]
    top = brackets[depth]
    for k in range(4):
        if c == _CLOSE[k] and top == _OPEN[k]:
            history.depth[b] = depth - 1
            return
        if c == _OPEN[k] and depth < 15:
            brackets[depth + 1] = c
            history.depth[b] = depth + 1
            return
    if top == _QUOTE and c in (_QUOTE, _NEWLINE):
        history.depth[b] = depth - 1
    elif c == _QUOTE and depth < 15:
        brackets[depth + 1] = c
        history.depth[b] = depth + 1


@jit
def octave(n: Any, most: Any) -> Any:
    """The bits of n, up to so many."""
    k: Any = 0
    while k < most and n >> k:
        k += 1
    return k


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


@jit
def _lowest(packed: Any, size: Any) -> Any:
    """The lowest bytes of 8."""
    return packed << np.uint64(64 - 8 * size)


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
    beside = ring[(up - 1) & (_RING - 1)]
    back = ring[(end - record) & (_RING - 1)]
    spot = history.spots[b, _slot(words[0])]
    gaps = history.gaps[b]
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
        elif kind == 8:  # t
            for k in range(size):
                h = _mix(h, tokens[k])
        elif kind == 9:  # a
            h = _mix(_mix_word(h, _lowest(history.letters[b], size)), last[0])
        elif kind == 10:  # e
            for k in range(size + 1):
                h = _mix_word(h, history.expressions[b, k])
        elif kind == 11:  # g
            h = _mix(_mix_word(h, _lowest(history.classes[b], size)), last[0])
        elif kind == 18:  # f
            h = _mix(_mix_word(h, _lowest(history.shapes[b], size)), last[0])
        elif kind == 15:  # p
            h = _mix_word(h, words[0] ^ gaps[0])  # one of the two is 0
            before = 0 if words[0] != 0 else 1  # where the gap before the last word is
            for k in range(size):
                h = _mix_word(h, gaps[1] if k == before else words[1 + k // 2])
        elif kind == 17:  # u
            h = _mix(_mix(h, above), np.uint8(1 if beside == last[0] else 0))
            for k in range(size):
                h = _mix(h, last[k])
        else:
            if kind == 12:  # h
                h = _mix_word(h, history.first_word[b])
            elif kind == 13:  # k
                h = _mix_word(h, history.key[b])
            elif kind == 14:  # n
                h = _mix(h, octave(end - spot, 20))
            else:  # q
                h = _mix(h, history.brackets[b, history.depth[b]])
            for k in range(size + 1):
                h = _mix_word(h, words[k])
        if (kind in (1, 3, 4) or 12 <= kind <= 16) and words[0] == 0:
            h = _mix(h, last[0])  # between words, the last byte says where
        out[c] = h


@inline
def hash_column(history: Any, contexts: Any, out: Any) -> None:
    """out (B, C) = `hash_stream` of each stream."""
    for b in range(out.shape[0]):
        hash_stream(history, b, contexts, out[b])
