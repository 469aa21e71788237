"""Repeats: two match models, a long and a recent one, and what followed a byte or two last time.

A match points at the past of any stream, behind a string that just came again, and expects what
stands there. It stays on the trail for a few misses: records and edits differ in places.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from prequential.coding.bits import stretch
from prequential.exact.compiled import inline, jit
from prequential.predictors.tables import remix

# Repeats that the first match is looked for by (three lengths), and the second. The longest are
# noted one time in 16, so that their table reaches further back.
_LENGTHS = np.array([32, 24, 10, 5])
_RARELY = np.uint64(60)
# A match that is found is followed back no further than this.
_LONGEST = 400
_HALF = 32768


class Pointers(NamedTuple):
    """The two matches of B streams, the long one first."""

    stream: np.ndarray  # (2, B) int64: where it points
    position: np.ndarray  # (2, B) int64: the byte it expects next
    length: np.ndarray  # (2, B) int64: bytes that agreed; 0: there is no match
    misses: np.ndarray  # (2, B) int64: eighths, which agreement makes forget


class Matches(NamedTuple):
    """What repeats are found by. B streams, of whose past W bytes are kept, a power of two."""

    past: np.ndarray  # (B, W) uint8: byte i at i % W
    starts: np.ndarray  # (B, W) uint8: whether a token started there; (B, 0) if every byte does
    position: np.ndarray  # (B,) int64: bytes so far
    where: np.ndarray  # (4, slots) int64: where strings of each length last ended, or -1
    pointers: Pointers
    # The last four bytes that followed each pair of bytes, and each byte in the last row.
    followers: np.ndarray  # (257, 256) uint32
    # The same of three bytes and of a word, by hashes.
    later: np.ndarray  # (2, slots) uint32
    # Of the strings that end here, by length: their slots, or -1, and what stands there.
    slots: np.ndarray  # (4,) int64
    known: np.ndarray  # (4,) int64
    # How often a match of this length and these misses was right, in 16 bits; long ones apart.
    maps: np.ndarray  # (kinds, 2, 64) int32


class Match(NamedTuple):
    """What a stream's long match says of the next byte."""

    length: int  # bytes that agreed, or 0
    expected: int  # 256 + the byte, or 0
    ends: int  # whether a piece ends before it
    long: int  # whether it is of the longest
    bucket: int  # of its length and misses, below 64


class Expectation(NamedTuple):
    """What it says of one decision."""

    grade: int  # 0 if nothing, else 1 + its length in 15 steps
    bit: int


def make(streams: int, window_log2: int, kinds: int) -> Matches:
    """An empty past of 2^window_log2 bytes a stream."""
    return Matches(
        np.zeros((streams, 1 << window_log2), np.uint8),
        np.zeros((streams, (kinds - 1) << window_log2), np.uint8),
        np.zeros(streams, np.int64),
        np.full((len(_LENGTHS), 1 << min(20, window_log2 + 1)), -1, np.int64),
        Pointers(*np.zeros((4, 2, streams), np.int64)),
        np.zeros((257, 256), np.uint32),
        np.zeros((2, 1 << min(20, window_log2 + 1)), np.uint32),
        np.zeros(len(_LENGTHS), np.int64),
        np.zeros(len(_LENGTHS), np.int64),
        np.full((kinds, 2, 64), 49152, np.int32),
    )


@inline
def of(packed: Any) -> Any:
    """The `Matches` again, inside a loop."""
    past, starts, position, where, pointers, followers, later, slots, known, maps = packed
    pointers = Pointers(*pointers)
    return Matches(past, starts, position, where, pointers, followers, later, slots, known, maps)


@inline
def _look_up(matches: Any, b: Any, end: Any) -> None:
    """What is known of the strings that end here; all are looked up before any is followed."""
    past, where = matches.past[b], matches.where
    mask, h, k = len(past) - 1, np.uint64(0), len(_LENGTHS) - 1
    for length in range(1, _LENGTHS[0] + 1):
        h = (h ^ np.uint64(past[(end - length) & mask])) * np.uint64(0xD6E8FEB86659FD93)
        h ^= h >> np.uint64(29)
        if length == _LENGTHS[k]:
            slot: Any = np.int64(h & np.uint64(where.shape[1] - 1))
            if k == 0 and h >> _RARELY:
                slot = np.int64(-1)
            matches.slots[k] = slot
            matches.known[k] = where[k, slot]
            k -= 1


@inline
def _expected(past: Any, pointers: Any, m: Any, b: Any) -> Any:
    """256 + the byte that a match expects, or 0."""
    if pointers.length[m, b] == 0:
        return np.int64(0)
    at = pointers.position[m, b] & (past.shape[1] - 1)
    return np.int64(past[pointers.stream[m, b], at]) | 256


@jit
def _length_bucket(length: Any) -> Any:
    """Below 32."""
    if length < 16:
        return length
    if length < 32:
        return 16 + (length - 16) // 4
    return min(20 + (length - 32) // 16, 31)


@inline
def hash_own(matches: Any, b: Any, last: Any, out: Any) -> None:
    """out (4,): what two bytes and three followed last time, what two matches expect."""
    c1, followers, pointers = np.int64(last[0]), matches.followers, matches.pointers
    out[0] = remix((np.uint64(followers[last[1], c1] & 0xFFFF) << np.uint64(8)) | np.uint64(c1), 3)
    out[1] = remix((np.uint64(followers[256, c1] & 0xFFFFFF) << np.uint64(8)) | np.uint64(c1), 4)
    for m in range(2):
        length, misses = pointers.length[m, b], pointers.misses[m, b]
        grade = _length_bucket(length) * 4 + min(misses // 8, 3)
        expected = _expected(matches.past, pointers, m, b)
        out[2 + m] = remix(np.uint64(expected * 128 + grade), 5 + m)


@jit
def _slots(last: Any, word: Any, count: Any) -> Any:
    """Where in `later` the followers of the last three bytes and of the word so far are.

    Between words, it is the last byte instead.
    """
    c1, mask = np.uint64(last[0]), np.uint64(count - 1)
    three = c1 | np.uint64(last[1]) << np.uint64(8) | np.uint64(last[2]) << np.uint64(16)
    return (
        np.int64(remix(three, 7) & mask),
        np.int64(remix(word if word != 0 else c1, 8) & mask),
    )


@inline
def hash_more(matches: Any, b: Any, last: Any, word: Any, out: Any) -> None:
    """out (4,): what the recent match expects behind the last byte, and beside the long match.

    And what followed three bytes the last three times, and this word.
    """
    later, pointers = matches.later, matches.pointers
    long = np.uint64(_expected(matches.past, pointers, 0, b))
    recent = np.uint64(_expected(matches.past, pointers, 1, b))
    three, words = _slots(last, word, later.shape[1])
    out[0] = remix(recent << np.uint64(8) | np.uint64(last[0]), 9)
    out[1] = remix(recent << np.uint64(9) | long, 10)
    out[2] = remix(np.uint64(later[0, three] & 0xFFFFFF), 11)
    out[3] = remix(np.uint64(later[1, words] & 0xFFFFFF), 12)


@inline
def note_followers(matches: Any, last: Any, word: Any, byte: Any) -> None:
    """Note that a byte followed these bytes and this word."""
    later = matches.later
    three, words = _slots(last, word, later.shape[1])
    later[0, three] = (later[0, three] << np.uint32(8)) | np.uint32(byte)
    later[1, words] = (later[1, words] << np.uint32(8)) | np.uint32(byte)


@inline
def look(matches: Any, b: Any) -> Any:
    """The long match of stream b."""
    pointers, past, starts = matches.pointers, matches.past, matches.starts
    length = pointers.length[0, b]
    ends: Any = np.int64(0)
    if length > 0 and starts.shape[1] > 0:
        at = pointers.position[0, b] & (starts.shape[1] - 1)
        ends = np.int64(starts[pointers.stream[0, b], at])
    late = min(pointers.misses[0, b], 31) // 16
    return Match(
        length,
        _expected(past, pointers, 0, b),
        ends,
        0 if length < _LONGEST else 1,
        _length_bucket(length) + 32 * late,
    )


@inline
def inputs(matches: Any, kind: Any, match: Any, k: Any, done: Any, x: Any) -> Any:
    """x (2,) = what the match says of bit k, after the bits `done`, or of where a piece ends."""
    x[0] = 0
    x[1] = 0
    grade: Any = np.int64(0)
    bit = 1 - match.ends if kind else (match.expected >> (7 - k)) & 1
    if match.length > 0 and (kind or (match.expected >> (8 - k)) == done):
        grade = 1 + min(_length_bucket(match.length), 29) // 2
        p = np.int64(matches.maps[kind, match.long, match.bucket])
        sign = 1 if bit else -1
        x[0] = sign * stretch(p)
        x[1] = sign * ((p - _HALF) >> 4)
    return Expectation(grade, bit)


@inline
def learn(matches: Any, kind: Any, match: Any, expectation: Any, bit: Any) -> None:
    """The map of such matches moves towards whether this one was right."""
    if expectation.grade:
        hits = matches.maps[kind, match.long]
        hit = 65535 if bit == expectation.bit else 0
        hits[match.bucket] += (hit - hits[match.bucket]) >> 6


@inline
def push(matches: Any, b: Any, last: Any, byte: Any, starts: Any, notes: Any) -> None:
    """Append a byte to stream b, behind the bytes `last`, and move its matches on.

    starts tells whether it is the first of a token. With notes, nothing changes but stream b, and
    what strings end here goes to the next row of their slots.
    """
    past, position = matches.past, matches.position
    end = position[b]
    if matches.starts.shape[1] > 0:
        matches.starts[b, end & (past.shape[1] - 1)] = 1 if starts else 0
    past[b, end & (past.shape[1] - 1)] = byte
    position[b] = end + 1
    for m in range(2):
        _move_on(past, matches.pointers, m, b, byte)
        _stay_behind(matches, m, b, notes)
    _look_up(matches, b, end + 1)
    for k in range(len(_LENGTHS)):
        if end + 1 < _LENGTHS[k]:
            matches.slots[k] = -1
    _note(matches, last, byte, (end + 1) * len(position) + b, notes)
    for k in range(len(_LENGTHS)):
        if matches.slots[k] >= 0:
            _follow(matches, k, b, end + 1, notes)


@inline
def _stay_behind(matches: Any, m: Any, b: Any, notes: Any) -> None:
    """Give a match up that leaves what every lane may read."""
    if notes is not None:
        stream, at = matches.pointers.stream[m, b], matches.pointers.position[m, b]
        until = notes.until[stream]
        if at >= until or at < until + notes.margin - matches.past.shape[1]:
            matches.pointers.length[m, b] = 0


@inline
def _note(matches: Any, last: Any, byte: Any, string: Any, notes: Any) -> None:
    """Note what followed, and the strings that end here, at once or for later."""
    if notes is None:
        note_strings(matches, last, byte, matches.slots, string)
    else:
        for k in range(len(_LENGTHS)):
            notes.slots[notes.counts[0], k] = matches.slots[k]


@inline
def note_strings(matches: Any, last: Any, byte: Any, slots: Any, string: Any) -> None:
    """Note that a byte followed these, and where strings ended, whose slots are known."""
    followers, where = matches.followers, matches.where
    for row in (np.int64(last[1]), 256):
        followers[row, last[0]] = (followers[row, last[0]] << np.uint32(8)) | byte
    for k in range(len(_LENGTHS)):
        if slots[k] >= 0:
            where[k, slots[k]] = string


@inline
def _move_on(past: Any, pointers: Any, m: Any, b: Any, byte: Any) -> None:
    length, misses = pointers.length[m, b], pointers.misses[m, b]
    if length == 0:
        return
    if past[pointers.stream[m, b], pointers.position[m, b] & (past.shape[1] - 1)] == byte:
        length += 1
        misses = max(0, misses - (1 if length % 16 == 0 else 0))
    else:
        misses += 8
        length = 1 if misses <= 16 else 0
    pointers.position[m, b] += 1
    pointers.length[m, b] = length
    pointers.misses[m, b] = misses


@inline
def _until(matches: Any, stream: Any, notes: Any) -> Any:
    """How much of a stream may be read."""
    if notes is None:
        return matches.position[stream]
    return notes.until[stream]


@inline
def _overwritten(notes: Any) -> Any:
    """Bytes of a past that may be overwritten meanwhile."""
    if notes is None:
        return 0
    return notes.margin


@inline
def _follow(matches: Any, k: Any, b: Any, end: Any, notes: Any) -> None:
    """Follow where a string of the k-th length ended before that ends here."""
    past, pointers = matches.past, matches.pointers
    length, mask = _LENGTHS[k], past.shape[1] - 1
    known = matches.known[k]
    m = k // 3
    kept = pointers.length[m, b]
    if known < 0 or kept >= (16 if k < 2 else 1):
        return
    stream, at = known % past.shape[0], known // past.shape[0]
    if stream == b and at == end:
        return
    # What lies further back than the window has been overwritten.
    until = _until(matches, stream, notes)
    oldest = max(until + _overwritten(notes) - past.shape[1], 0)
    found = 0
    while (
        found < _LONGEST
        and at - found - 1 >= oldest
        and end - found - 1 >= 0
        and past[stream, (at - found - 1) & mask] == past[b, (end - found - 1) & mask]
    ):
        found += 1
    if found >= length and at < until:
        pointers.stream[m, b] = stream
        pointers.position[m, b] = at
        pointers.length[m, b] = found
        pointers.misses[m, b] = 0
