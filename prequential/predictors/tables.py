"""Tables of the memory: what followed each context, bit by bit, and how far that can be trusted.

A context's hash finds a bucket of 16 words, shared by all contexts: a check, then a node for each
of 15 prefixes of half a byte. A node holds what the next bit was: a probability of 18 bits, the
last 6 of these bits behind a leading 1, and a count. Adaptive maps tell what came true where a node
said so, and where the last bits were these. Where pieces of a vocabulary may end is counted in
nodes without checks. Sources: Mahoney 2005 (the PAQ family); Willems et al. 1995 for the counts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from prequential.coding.bits import LOGIT_MAX, SQUASH, STRETCH
from prequential.exact.compiled import inline, jit

# A node: 18 bits of probability, 7 of history, 7 of count.
_COUNT_MASK = np.uint32(127)
_HISTORY_SHIFT = np.uint32(7)
_P_SHIFT = np.uint32(14)
_UNSEEN = np.uint32((1 << 31) | (1 << 7))  # one half, no history, no count
_HALF_HASH = np.uint64(32)
# 65536 / (n + 1.5): the step of a probability that was updated n times.
_RATES = (131072 // (2 * np.arange(128) + 3)).astype(np.int64)
# Eleven buckets of a count: 0, 1, 2, 3, 4, 5.., 8.., 12.., 20.., 40.., 128..
_BUCKET_STARTS = np.array([0, 1, 2, 3, 4, 5, 8, 12, 20, 40, 128])
_BUCKETS = (np.searchsorted(_BUCKET_STARTS, np.arange(128), "right") - 1).astype(np.int64)
_STAGES = np.minimum(np.searchsorted([7, 20], np.arange(128), "right"), 2).astype(np.int64)
_CONFIDENCES = len(_BUCKET_STARTS)
_CELLS = 33  # of an adaptive map, 3 * 256 / 4 logits apart
_CELL = 192
_TOP_SHIFT = np.uint32(20)
# Of a logit's place among the cells, by the index into STRETCH: the lower cell, and how far on.
_PLACES = np.clip(STRETCH, -LOGIT_MAX, LOGIT_MAX).astype(np.int64) + 3072
_LOW_CELL, _SHARE = _PLACES // _CELL, _PLACES % _CELL
_CELL_OF_16 = np.uint32(_CELL * 16)
# The logits of an adaptive map's cells as 16-bit probabilities: it starts as it says itself.
IDENTITY = SQUASH[np.clip((np.arange(_CELLS) - 16) * _CELL, -3072, 3071) + 3072]


class Tables(NamedTuple):
    """C hashed contexts and one of order 1. Kinds: bits of a byte, and where pieces may end."""

    nodes: np.ndarray  # (16 * buckets,) uint32
    ends: np.ndarray  # (buckets,) uint32, or none
    direct: np.ndarray  # (65536,) uint32: the nodes of order 1, not hashed
    # By context, confidence and logit of a node: 16-bit probabilities, in one row a kind.
    maps: np.ndarray  # (kinds, (C + 1) * 11 * 33) int32
    # By context, history, stage of the count, and quarter of a node's probability: the same.
    indirect: np.ndarray  # (kinds, (C + 1) * 128 * 3 * 4) int32
    limit: int  # where counts stop, so that old evidence fades


class Found(NamedTuple):
    """Where the contexts of one decision are: room for the loop. The last is the one of order 1."""

    hashes: np.ndarray  # (C,) uint64
    # Indices without a sign: numba would let others count from the end.
    nodes: np.ndarray  # (C + 1,) uint64: words of nodes
    cells: np.ndarray  # (C + 1,) uint64: the nearer cell of each one's map
    buckets: np.ndarray  # (C + 1,) int64: first words
    confidences: np.ndarray  # (C + 1,) int64: 0 is unseen


class Trust(NamedTuple):
    """What the hashed contexts know at a decision."""

    seen: int  # of them
    best: int  # the highest confidence
    sixth: int  # that of the sixth, or of the last
    quarter: int  # in which of four parts of them `seen` is


def make(contexts: int, buckets: int, kinds: int, limit: int) -> Tables:
    """Empty tables of so many hashed contexts."""
    pairs = (buckets + 1) // 2
    return Tables(
        np.zeros(32 * pairs, np.uint32),
        np.full((kinds - 1) * pairs, _UNSEEN, np.uint32),
        np.full(1 << 16, _UNSEEN, np.uint32),
        np.tile(IDENTITY, (kinds, (contexts + 1) * _CONFIDENCES)),
        np.tile(_indirect_start().reshape(-1), (kinds, contexts + 1)),
        limit,
    )


def room(contexts: int) -> Found:
    """For the loop, which makes no arrays."""
    return Found(
        np.zeros(contexts, np.uint64),
        *np.zeros((2, contexts + 1), np.uint64),
        *np.zeros((2, contexts + 1), np.int64),
    )


def _indirect_start() -> Any:
    """Probabilities for a history of up to 6 bits: (ones + 0.4) / (bits + 0.8) in 16 bits."""
    table = np.zeros((128, 3, 4), np.int32)
    for h in range(1, 128):
        length = h.bit_length() - 1
        ones = (h - (1 << length)).bit_count()
        table[h] = 65536 * (5 * ones + 2) // (5 * length + 4)
    return table


@jit
def remix(h: Any, salt: Any) -> Any:
    """Another hash of a hash and a number."""
    h = (h ^ np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(31)
    return h * np.uint64(0xD6E8FEB86659FD93)


@jit
def _scaled(hashed: Any, count: Any) -> Any:
    """A number below count < 2^32, from the upper half of a hash."""
    return np.int64((hashed >> _HALF_HASH) * np.uint64(count) >> _HALF_HASH)


@jit
def _bucket(nodes: Any, hashed: Any) -> Any:
    """The first word of a context's bucket of 16, taking over the less used of two places."""
    check = np.uint32((hashed & np.uint64(0xFFFF)) | np.uint64(0x10000))
    base = _scaled(hashed, len(nodes) >> 4) << 4
    other = base ^ 16
    if nodes[base] == check:
        return base
    if nodes[other] == check:
        return other
    if nodes[other + 1] & _COUNT_MASK < nodes[base + 1] & _COUNT_MASK:
        base = other
    nodes[base] = check
    for k in range(1, 16):
        nodes[base + k] = _UNSEEN
    return base


@inline
def find_buckets(tables: Any, found: Any, k: Any, done: Any) -> None:
    """Find every context's bucket for bits k to 3 or 7, after the bits `done` of this byte."""
    for c in range(len(found.hashes)):
        h = found.hashes[c]
        if k >= 4:
            h = remix(h, done >> (k - 4))  # the first nibble
        found.buckets[c] = _bucket(tables.nodes, h)


@inline
def find_nodes(found: Any, k: Any, done: Any, last: Any) -> None:
    """The nodes of bit k in these buckets, behind the byte `last`."""
    nibble = done if k < 4 else (done & ((1 << (k - 4)) - 1)) | (1 << (k - 4))
    C = len(found.hashes)
    for c in range(C):
        found.nodes[c] = found.buckets[c] + nibble
    found.nodes[C] = (np.int64(last) << 8) | done


@inline
def find_ends(tables: Any, found: Any, last: Any) -> None:
    """The nodes of whether a piece ends behind the byte `last`."""
    C = len(found.hashes)
    for c in range(C):
        found.nodes[c] = _scaled(remix(found.hashes[c], 1), len(tables.ends))
    found.nodes[C] = np.int64(last) << 8


@jit
def _cell_of(c: Any, v: Any) -> Any:
    """Where the indirect map of a context has what followed histories like that of node v."""
    stage = _STAGES[np.int64(v & _COUNT_MASK)]
    history = np.int64(v >> _HISTORY_SHIFT) & 127
    return ((c * 128 + history) * 3 + stage) * 4 + np.int64(v >> np.uint32(30))


@inline
def inputs(tables: Any, kind: Any, found: Any, x: Any) -> None:
    """x[: 2 * C + 2] = what each context's node says, and what followed histories like its own.

    Sets the confidences, and the cells of the maps that were used.
    """
    nodes = tables.ends if kind else tables.nodes
    maps, indirect = tables.maps[kind], tables.indirect[kind]
    C = len(found.hashes)
    for c in range(C + 1):
        v = nodes[found.nodes[c]] if c < C else tables.direct[found.nodes[c]]
        n = np.int64(v & _COUNT_MASK)
        confidence = _BUCKETS[n]
        found.confidences[c] = confidence
        top = np.int64(v >> _TOP_SHIFT)
        low = (c * _CONFIDENCES + confidence) * _CELLS + _LOW_CELL[top]
        share = _SHARE[top]
        found.cells[c] = low + (1 if share * 2 >= _CELL else 0)
        if n == 0 and c < C:
            x[2 * c] = 0
            x[2 * c + 1] = 0
        else:
            p = maps[low] * (_CELL - share) + maps[low + 1] * share
            x[2 * c] = STRETCH[np.uint32(p) // _CELL_OF_16]
            x[2 * c + 1] = STRETCH[indirect[_cell_of(c, v)] >> 4]


@inline
def trust(found: Any) -> Any:
    """What the contexts of a decision know, whose inputs are made."""
    C: Any = len(found.hashes)
    seen: Any = np.int64(0)
    best: Any = np.int64(0)
    for c in range(C):
        if found.confidences[c] > 0:
            seen += 1
        best = max(best, found.confidences[c])
    return Trust(seen, best, found.confidences[min(5, C - 1)], min(seen * 4 // (C + 1), 3))


@inline
def learn(tables: Any, kind: Any, found: Any, bit: Any) -> None:
    """Nodes and maps move towards the bit."""
    nodes = tables.ends if kind else tables.nodes
    maps, indirect = tables.maps[kind], tables.indirect[kind]
    C = len(found.hashes)
    target = bit * 65535
    for c in range(C + 1):
        v = nodes[found.nodes[c]] if c < C else tables.direct[found.nodes[c]]
        n = np.int64(v & _COUNT_MASK)
        cell = _cell_of(c, v)
        indirect[cell] += (target - indirect[cell]) >> 7
        history = (np.int64(v >> _HISTORY_SHIFT) & 127) * 2 + bit
        if history > 127:
            history = (history & 63) | 64
        p = np.int64(v >> _P_SHIFT)
        p += ((bit * 262143 - p) * _RATES[n]) >> 16
        v = np.uint32((p << 14) | (history << 7) | min(n + 1, tables.limit))
        if c < C:
            nodes[found.nodes[c]] = v
        else:
            tables.direct[found.nodes[c]] = v
        maps[found.cells[c]] += (target - maps[found.cells[c]]) >> 7


@jit
def interpolate(cells: Any, logit: Any) -> Any:
    """(probability, nearer cell) of an adaptive map at a logit."""
    x = min(max(logit, -LOGIT_MAX), LOGIT_MAX) + 3072
    low = x // _CELL
    share = x - low * _CELL
    p = (np.int64(cells[low]) * (_CELL - share) + np.int64(cells[low + 1]) * share) // _CELL
    return p, low + (1 if share * 2 >= _CELL else 0)
