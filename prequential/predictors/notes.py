"""What came in a chunk, noted by lanes that only read the tables, and taken in when it is over.

Each lane notes its bytes and the contexts before them. Afterwards the tables learn from all notes,
lane by lane, each in order of coding. A pair of buckets is only ever changed by what is noted of
it, so threads may share the pairs out among themselves: whoever has a pair goes through all notes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from prequential.exact.compiled import inline, outer
from prequential.predictors import matches, tables


class Notes(NamedTuple):
    """Notes of L lanes, of at most N bytes each, with C contexts; of one lane without the axis."""

    counts: np.ndarray  # (L, 1) int64: bytes so far
    hashes: np.ndarray  # (L, N, C) uint64
    bytes: np.ndarray  # (L, N) uint8
    last: np.ndarray  # (L, N, 3) uint8: the bytes before it, most recent first
    words: np.ndarray  # (L, N) uint64: the hash of the word before it
    strings: np.ndarray  # (L, N) int64: where the strings end that it is the last of
    slots: np.ndarray  # (L, N, 4) int64: of these strings, by length, or -1
    sure: np.ndarray  # (L, N) bool: it was nearly certain, and the tables were not asked
    told: np.ndarray  # (L, N, C) uint16: what second halves learn, as `tables.take_in` says
    until: np.ndarray  # (L, B) int64: how much of each stream every lane may read
    margin: int  # bytes of a past that may be overwritten before the chunk after this one is over
    block: int  # neighbouring streams that a lane has
    lanes: int
    lane: int  # whose notes these are


def make(lanes: int, contexts: int, streams: int, chunk: int) -> Notes:
    """Nothing is noted yet."""
    # Blocks of streams go to the lanes in turn, twice: half of the streams are of every lane.
    block = -(-streams // (2 * lanes))
    rows = lanes, 2 * block * chunk
    return Notes(
        np.zeros((lanes, 1), np.int64),
        np.zeros((*rows, contexts), np.uint64),
        np.zeros(rows, np.uint8),
        np.zeros((*rows, 3), np.uint8),
        np.zeros(rows, np.uint64),
        np.zeros(rows, np.int64),
        np.zeros((*rows, 4), np.int64),
        np.zeros(rows, np.bool_),
        np.zeros((*rows, contexts), np.uint16),
        np.zeros((lanes, streams), np.int64),
        2 * chunk,
        block,
        lanes,
        0,
    )


def of_lane(notes: Notes, lane: int) -> Notes:
    """One lane's part."""
    arrays = (array[lane] for array in notes[:-4])
    return Notes(*arrays, notes.margin, notes.block, notes.lanes, lane)  # type: ignore[call-arg]


@inline
def is_own(notes: Any, b: Any) -> Any:
    """Whether stream b is one of the lane's."""
    return b // notes.block % notes.lanes == notes.lane


@inline
def note(notes: Any, hashes: Any, last: Any, word: Any, byte: Any, string: Any, sure: Any) -> None:
    """Note a byte, whose strings are to be noted in the next row of `slots` beforehand."""
    i = notes.counts[0]
    notes.counts[0] = i + 1
    for c in range(len(hashes)):
        notes.hashes[i, c] = hashes[c]
    notes.bytes[i] = byte
    for k in range(3):
        notes.last[i, k] = last[k]
    notes.words[i] = word
    notes.strings[i] = string
    notes.sure[i] = sure


@outer
def take_in_bytes(packed: Any, noted: Any, second: Any, share: Any, shares: Any) -> None:
    """The tables learn the noted bytes, as far as their share of the pairs of buckets goes.

    First halves of all bytes, then second ones: those know no other pair's than what was told them.
    """
    known, notes = tables.Tables(*packed), Notes(*noted)
    for lane in range(len(notes.counts)):
        for i in range(notes.counts[lane, 0]):
            if not notes.sure[lane, i]:
                hashes, told = notes.hashes[lane, i], notes.told[lane, i]
                byte = np.int64(notes.bytes[lane, i])
                if second:
                    _take_in_second(known, hashes, told, byte, share, shares)
                else:
                    _take_in_first(known, hashes, told, byte, share, shares)
                    _take_in_direct(known, np.int64(notes.last[lane, i, 0]), byte, share, shares)


@inline
def _is_of(share: Any, shares: Any, known: Any, h: Any) -> Any:
    """Whether the pair of buckets for this hash is one of a share's."""
    base = tables.place(h, np.uint64(known.buckets))
    return np.int64(base >> np.uint64(5)) % shares == share


@inline
def _take_in_first(known: Any, hashes: Any, told: Any, byte: Any, share: Any, shares: Any) -> None:
    """Nodes of first halves and entries learn a byte behind contexts with such hashes (C,)."""
    for c in range(len(hashes)):
        if _is_of(share, shares, known, hashes[c]):
            told[c] = tables.take_in(known, hashes[c], byte)


@inline
def _take_in_second(known: Any, hashes: Any, told: Any, byte: Any, share: Any, shares: Any) -> None:
    """Nodes of second halves learn it, and what entries knew before."""
    for c in range(len(hashes)):
        if told[c] > 0:
            before, times = np.int64(told[c]) & 255, np.int64(told[c]) >> 8 & 63
            h = tables.second(hashes[c], before)
            if times > 0 and _is_of(share, shares, known, h):
                tables.tell_second(known, h, before, times)
            h = tables.second(hashes[c], byte)
            if _is_of(share, shares, known, h):
                tables.tell_second(known, h, byte, np.int64(1))


@inline
def _take_in_direct(known: Any, last: Any, byte: Any, share: Any, shares: Any) -> None:
    """The nodes of order 1 learn a byte behind the byte `last`, if that is one of a share's."""
    if last % shares == share:
        done, direct = np.int64(1), known.direct
        for k in range(7, -1, -1):
            bit, at = byte >> k & 1, last << 8 | done
            direct[at] = tables.taught(direct[at], bit, known.limit)
            done = 2 * done + bit


@outer
def take_in_strings(packed: Any, noted: Any) -> None:
    """What followed what, and where strings ended."""
    known, notes = matches.of(packed), Notes(*noted)
    for lane in range(len(notes.counts)):
        for i in range(notes.counts[lane, 0]):
            byte, last = notes.bytes[lane, i], notes.last[lane, i]
            matches.note_followers(known, last, notes.words[lane, i], byte)
            matches.note_strings(known, last, byte, notes.slots[lane, i], notes.strings[lane, i])
