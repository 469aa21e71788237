"""Tables of the memory: what followed each context, bit by bit, and how far that can be trusted.

A context's hash finds a bucket of 16 words, shared by all contexts: a check, then a node for each
of 15 prefixes of half a byte. Beside the check, the first half's bucket has the byte that followed
last, and how often in a row: a run. Most contexts are deterministic, one byte has followed them
only: they have no buckets but an entry of one word, the byte and how often it came, and buckets
when another byte follows, as if they had had them from the beginning.

A node holds what the next bit was: a probability of 17 bits, a state (few zeros and ones, of which
the latest count most), and a count. Adaptive maps tell what came true where a node said so, where
it was in this state, and where the run was as long. Where pieces of a vocabulary may end is counted
in nodes without checks. Sources: Mahoney 2005 (the PAQ family, its states and runs); Willems et al.
1995 for the counts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from prequential.coding.bits import STRETCH
from prequential.exact.compiled import inline, jit
from prequential.exact.scalars import LOGIT_MAX, SQUASH

# A node: 17 bits of probability, 9 of the state, 6 of the count.
_COUNT_MASK = np.uint32(63)
_STATE_SHIFT, _STATE_MASK = np.uint32(6), np.uint32(511)
_P_SHIFT = np.uint32(15)
_UNSEEN = np.uint32(1 << 31)  # one half, no bit, no count
_HALF_HASH = np.uint64(32)
# A bucket's first word: 17 bits of check, of which one is always set, 8 of the run's byte, 7 of its
# length.
_CHECK_MASK = np.uint32((1 << 17) - 1)
RUN_SHIFT = np.uint32(17)
_LONGEST_RUN = 127
# An entry: 8 bits of the byte, 6 of how often it came, together a run; 18 of check. 0 if there is
# none.
_ENTRY_RUN_MASK, _ENTRY_CHECK_MASK = np.array([0x3FFF, 0xFFFFC000], np.uint32)
_TIMES_MOST = 63
_ENTRIES = 16  # to each pair of buckets
_ANOTHER = 1 << 14  # beside an entry's run: another byte has come
_RUNS = 32  # that maps tell apart
# 65536 / (n + 1.5): the step of a probability that was updated n times.
_RATES = (131072 // (2 * np.arange(64) + 3)).astype(np.uint16)
# Ten buckets of a count: 0, 1, 2, 3, 4, 5.., 8.., 12.., 20.., 40..
_BUCKET_STARTS = np.array([0, 1, 2, 3, 4, 5, 8, 12, 20, 40])
_BUCKETS = (np.searchsorted(_BUCKET_STARTS, np.arange(64), "right") - 1).astype(np.uint8)
_CONFIDENCES = len(_BUCKET_STARTS)
_CELLS = 33  # of an adaptive map, 3 * 256 / 4 logits apart
_CELL = 192
_TOP_SHIFT = np.uint32(20)
# Where a logit is among them, by the index into STRETCH.
_PLACES = (STRETCH + 3072).astype(np.uint16)
_CELL_OF_16, _CELL_32, _HALF_CELL = np.array([_CELL * 16, _CELL, _CELL // 2], np.uint32)
_CONFIDENCES_64, _CELLS_64, _ONE, _TWO, _BUCKET_WORDS = np.array(
    [_CONFIDENCES, _CELLS, 1, 2, 16], np.uint64
)
# Words of the buckets behind all others, which never change: what the same half of a byte, 0 to 63
# times, makes of an empty one.
_MADE = 16 * 16 * 64
_4 = np.uint16(4)
# The logits of an adaptive map's cells as 16-bit probabilities: it starts as it says itself.
IDENTITY = SQUASH[np.clip((np.arange(_CELLS) - 16) * _CELL, -3072, 3071) + 3072]


def _states() -> tuple[Any, Any]:
    """(next, counts) of the states of a node: the state after each bit, its zeros and ones.

    A state is how many zeros and ones came, as far as it matters, and the last two bits. A bit
    makes those of its kind one more, up to 48, 40, 16 or 8 while there are 0, 1, 2 or 3 of the
    other kind, else 6; and of the other kind it leaves few: what is long ago counts less.
    """
    limits, kept = (48, 40, 16, 8), (0, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6)
    known = {(0, 0, 0): 0}
    found, following = [(0, 0, 0)], []
    for zeros, ones, last in found:  # which grows
        for bit in (0, 1):
            same, other = (ones, zeros) if bit else (zeros, ones)
            same = max(same, min(same + 1, limits[other] if other < 4 else 6))
            other = kept[other] if other < 16 else 7
            state = (other, same, last * 2 % 4 + 1) if bit else (same, other, last * 2 % 4)
            if state not in known:
                known[state] = len(found)
                found.append(state)
            following.append(known[state])
    return np.array(following, np.uint16), np.array(found)[:, :2]


_NEXT, _COUNTS = _states()
_STATES = len(_COUNTS)
# -1, all bits, for a state whose bits were all alike, else 0.
_SURE = (_COUNTS[:, 0] * _COUNTS[:, 1] > 0).astype(np.int64) - 1


class Tables(NamedTuple):
    """C hashed contexts and one of order 1. Kinds: bits of a byte, and where pieces may end."""

    nodes: np.ndarray  # (16 * (buckets + 1024),) uint32
    entries: np.ndarray  # (8 * buckets,) uint32: contexts that one byte has followed only
    ends: np.ndarray  # (buckets,) uint32, or none
    direct: np.ndarray  # (65536,) uint32: the nodes of order 1, not hashed
    # By context, confidence and logit of a node: 16-bit probabilities, in one row a kind.
    maps: np.ndarray  # (kinds, (C + 1) * 10 * 33) uint16
    # By context and state of a node: the same.
    states: np.ndarray  # (kinds, (C + 1) * states) uint16
    # By context, bit and length of a run: how often its byte was right, 16 bits.
    runs: np.ndarray  # (C * 8 * 32,) int32
    limit: int  # where counts stop, so that old evidence fades
    buckets: int  # that contexts may have; one more is always empty


class Found(NamedTuple):
    """Where the contexts of one decision are: room for the loop. The last is the one of order 1."""

    hashes: np.ndarray  # (C,) uint64
    # Indices without a sign: numba would let others count from the end.
    nodes: np.ndarray  # (C + 1,) uint64: words of nodes
    cells: np.ndarray  # (C + 1,) uint64: the nearer cell of each one's map
    states: np.ndarray  # (C + 1,) uint64: cells of the maps of states
    buckets: np.ndarray  # (C + 1,) uint64: first words
    starts: np.ndarray  # (C + 1,) uint64: first words of the byte's first buckets
    places: np.ndarray  # (C + 1,) uint64: of the entry, or where it will be; if without a bucket
    confidences: np.ndarray  # (C + 1,) int64: 0 is unseen
    runs: np.ndarray  # (C + 1,) int64: 256 * length + byte; 0 if there is none, -1: not looked for
    run_cells: np.ndarray  # (C + 1,) int64: of the map of runs, or -1
    checks: np.ndarray  # (C + 1,) uint32
    heads: np.ndarray  # (C + 1,) uint32: what stands at the places that are looked at first


class Trust(NamedTuple):
    """What the hashed contexts know at a decision."""

    seen: int  # of them
    best: int  # the highest confidence
    fourth: int  # that of the fourth, or of the last
    quarter: int  # in which of four parts of them `seen` is


def make(contexts: int, buckets: int, kinds: int, limit: int) -> Tables:
    """Empty tables of so many hashed contexts."""
    pairs = (buckets + 1) // 2
    nodes = _aligned(32 * pairs + _MADE)
    _make(nodes[-_MADE:].reshape(64, 16, 16), limit)
    return Tables(
        nodes,
        _aligned(_ENTRIES * pairs),
        np.full((kinds - 1) * pairs, _UNSEEN, np.uint32),
        np.full(1 << 16, _UNSEEN, np.uint32),
        np.tile(IDENTITY, (kinds, (contexts + 1) * _CONFIDENCES)).astype(np.uint16),
        np.tile(_state_starts(), (kinds, contexts + 1)),
        np.tile(65536 * (np.arange(_RUNS) + 1) // (np.arange(_RUNS) + 2), 8 * contexts).astype(
            np.int32
        ),
        limit,
        2 * pairs,
    )


@jit
def _make(made: Any, limit: Any) -> None:
    """The buckets (64, 16, 16) of n times each half of a byte."""
    made[:] = _UNSEEN
    for n in range(1, len(made)):
        for nibble in range(16):
            node = np.int64(1)
            for k in range(3, -1, -1):
                bit = np.int64(nibble >> k & 1)
                made[n, nibble, node] = taught(made[n - 1, nibble, node], bit, limit)
                node = 2 * node + bit


def _aligned(words: int) -> np.ndarray:
    """So many zeros, uint32, of which a pair of buckets is two lines of a cache."""
    room = np.zeros(words + 32, np.uint32)
    first = -(room.ctypes.data // 4) % 32
    return room[first : first + words]


def room(contexts: int) -> Found:
    """For the loop, which makes no arrays."""
    found = Found(
        np.zeros(contexts, np.uint64),
        *np.zeros((6, contexts + 1), np.uint64),
        *np.zeros((3, contexts + 1), np.int64),
        *np.zeros((2, contexts + 1), np.uint32),
    )
    found.runs[:] = -1
    return found


def _state_starts() -> Any:
    """What to expect in each state before anything is known of it: (ones + 0.4) / (bits + 0.8)."""
    zeros, ones = _COUNTS.T
    return (65536 * (5 * ones + 2) // (5 * (zeros + ones) + 4)).astype(np.uint16)


@jit
def remix(h: Any, salt: Any) -> Any:
    """Another hash of a hash and a number."""
    h = (h ^ np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(31)
    return h * np.uint64(0xD6E8FEB86659FD93)


@jit
def _scaled(hashed: Any, count: Any) -> Any:
    """A number below count < 2^32, from the upper half of a hash."""
    return (hashed >> _HALF_HASH) * count >> _HALF_HASH


@jit
def settle(nodes: Any, base: Any, check: Any) -> Any:
    """The first word of a context's bucket of 16, taking over the less used of two places."""
    known = _known(nodes, base, check)
    if known != _empty(nodes):
        return known
    other = base ^ _BUCKET_WORDS
    if nodes[other + _ONE] & _COUNT_MASK < nodes[base + _ONE] & _COUNT_MASK:
        base = other
    nodes[base] = check
    for k in range(1, 16):
        nodes[base + np.uint64(k)] = _UNSEEN
    return base


@jit
def check(h: Any) -> Any:
    """What a context's bucket is known by."""
    return np.uint32(h & np.uint64(0xFFFF)) | np.uint32(0x10000)


@jit
def place(h: Any, buckets: Any) -> Any:
    """The first word of the place that a context's bucket is looked for first, of so many."""
    return _scaled(h, buckets) << np.uint64(4)


@inline
def _empty(nodes: Any) -> Any:
    """The first word of the bucket that is always empty: of those that are made, the first one."""
    return np.uint64(len(nodes) - _MADE)


@inline
def _made(nodes: Any, nibble: Any, times: Any) -> Any:
    """The first word of what half of a byte makes of an empty bucket, so many times."""
    return _empty(nodes) + (np.uint64(times * 16 + nibble) << np.uint64(4))


@jit
def _known(nodes: Any, base: Any, check: Any) -> Any:
    """The first word of a context's bucket, or of the empty one."""
    other = base ^ _BUCKET_WORDS
    if nodes[base] & _CHECK_MASK == check:
        return base
    if nodes[other] & _CHECK_MASK == check:
        return other
    return _empty(nodes)


@jit
def _entry_check(h: Any) -> Any:
    """What a context's entry is known by."""
    return np.uint32(h & np.uint64(_ENTRY_CHECK_MASK))


@jit
def _entry_place(h: Any, buckets: Any) -> Any:
    """Where a context's entry is looked for first."""
    return (_scaled(h, buckets) >> _ONE << np.uint64(4)) | (h & np.uint64(15))


@jit
def _run_of(entry: Any) -> Any:
    """Its byte and how often that came: 256 * times + byte, 0 if there is no entry."""
    return np.int64(entry & _ENTRY_RUN_MASK)


@jit
def _entry_at(entries: Any, place: Any, check: Any) -> Any:
    """(place, run) of a context's entry with this check; or of the one to be given up for it, 0."""
    other = place ^ _ONE
    first, second = entries[place], entries[other]
    run, other_run = _run_of(first), _run_of(second)
    if run > 0 and first & _ENTRY_CHECK_MASK == check:
        return place, run
    if other_run > 0 and second & _ENTRY_CHECK_MASK == check:
        return other, other_run
    if other_run >> 8 < run >> 8:
        place = other
    return place, np.int64(0)


@inline
def _find_first(tables: Any, found: Any) -> None:
    """Find what is known of every context: a bucket, or an entry, or nothing."""
    nodes, entries, buckets = tables.nodes, tables.entries, found.buckets
    count = np.uint64(tables.buckets)
    # All are looked at before any is asked, so that they come from memory side by side.
    for c in range(len(found.hashes)):
        h = found.hashes[c]
        found.checks[c] = check(h)
        base = place(h, count)
        at = _entry_place(h, count)
        buckets[c] = base
        found.places[c] = at
    for c in range(len(found.hashes)):
        found.heads[c] = nodes[buckets[c]] + entries[found.places[c]]
    for c in range(len(found.hashes)):
        base = _known(nodes, buckets[c], found.checks[c])
        buckets[c] = base
        found.starts[c] = base
        if base == _empty(nodes):
            at, run = _entry_at(entries, found.places[c], _entry_check(found.hashes[c]))
            found.places[c] = at
            found.runs[c] = run
            buckets[c] = _made(nodes, run >> 4 & 15, run >> 8)
        else:
            found.runs[c] = np.int64(nodes[base] >> RUN_SHIFT)


@inline
def _find_second(tables: Any, found: Any, half: Any, notes: Any) -> None:
    """Find the buckets of a byte's second half, where there was one for the first, 16 to 31."""
    nodes, buckets, count = tables.nodes, found.buckets, np.uint64(tables.buckets)
    empty = _empty(nodes)
    for c in range(len(found.hashes)):
        h = remix(found.hashes[c], half)
        found.checks[c] = check(h)
        buckets[c] = place(h, count)
    for c in range(len(found.hashes)):
        if found.starts[c] == empty:
            run = found.runs[c]
            fits = (run >> 4 & 15 | 16) == half
            buckets[c] = _made(nodes, run & 15, run >> 8 if fits else 0)
        else:
            found.heads[c] = nodes[buckets[c]]
    for c in range(len(found.hashes)):
        if found.starts[c] != empty:
            if notes is None:
                buckets[c] = settle(nodes, buckets[c], found.checks[c])
            else:
                buckets[c] = _known(nodes, buckets[c], found.checks[c])


@inline
def find_buckets(tables: Any, found: Any, k: Any, done: Any, notes: Any) -> None:
    """Find every context's bucket for bits k to 3 or 7, after the bits `done` of this byte."""
    if found.runs[0] < 0:
        _find_first(tables, found)
    if k >= 4:
        _find_second(tables, found, done >> (k - 4), notes)


@inline
def find_nodes(found: Any, k: Any, done: Any, last: Any) -> None:
    """The nodes of bit k in these buckets, behind the byte `last`."""
    nibble = done if k < 4 else (done & ((1 << (k - 4)) - 1)) | (1 << (k - 4))
    C = len(found.hashes)
    for c in range(C):
        found.nodes[c] = found.buckets[c] + np.uint64(nibble)
    found.nodes[C] = (np.int64(last) << 8) | done


@inline
def find_ends(tables: Any, found: Any, last: Any) -> None:
    """The nodes of whether a piece ends behind the byte `last`."""
    C, count = len(found.hashes), np.uint64(len(tables.ends))
    for c in range(C):
        found.nodes[c] = _scaled(remix(found.hashes[c], 1), count)
    found.nodes[C] = np.int64(last) << 8


@inline
def inputs(tables: Any, kind: Any, found: Any, x: Any) -> None:
    """x[: 3 * C + 3] = what each context's node says, and its state: as the second or, sure, third.

    Sets the confidences, and the cells of the maps that were used.
    """
    nodes = tables.ends if kind else tables.nodes
    maps, states = tables.maps[kind], tables.states[kind]
    C = len(found.hashes)
    for c in range(C + 1):
        v = nodes[found.nodes[c]] if c < C else tables.direct[found.nodes[c]]
        n = v & _COUNT_MASK
        confidence = np.uint64(_BUCKETS[n])
        found.confidences[c] = np.int64(confidence)
        place = np.uint32(_PLACES[v >> _TOP_SHIFT])
        cell = np.uint32(place // _CELL_32)
        share = np.uint32(place - cell * _CELL_32)
        low = (np.uint64(c) * _CONFIDENCES_64 + confidence) * _CELLS_64 + np.uint64(cell)
        found.cells[c] = low + np.uint64(1 if share >= _HALF_CELL else 0)
        state = np.uint64((v >> _STATE_SHIFT) & _STATE_MASK)
        found.states[c] = np.uint64(c * _STATES) + state
        if n == 0 and c < C:
            x[3 * c] = 0
            x[3 * c + 1] = 0
            x[3 * c + 2] = 0
        else:
            p = np.uint32(maps[low]) * np.uint32(_CELL_32 - share)
            p = np.uint32(p + np.uint32(maps[low + _ONE]) * share)
            x[3 * c] = STRETCH[np.uint32(p // _CELL_OF_16)]
            logit = np.int64(STRETCH[states[found.states[c]] >> _4])
            x[3 * c + 1] = logit & ~_SURE[state]
            x[3 * c + 2] = logit & _SURE[state]


@inline
def run_inputs(tables: Any, ends: Any, found: Any, k: Any, done: Any, x: Any) -> None:
    """x[:C] = what the byte says that followed last, where bit k comes after the bits `done`."""
    for c in range(len(found.hashes)):
        run, cell = found.runs[c], -1
        byte = run & 255 | 256
        x[c] = 0
        if run > 0 and not ends and byte >> (8 - k) == done:
            cell = (c * 8 + k) * _RUNS + min(run >> 8, _RUNS - 1)
            p = STRETCH[tables.runs[cell] >> 4]
            x[c] = p if byte >> (7 - k) & 1 else -p
        found.run_cells[c] = cell


@inline
def learn_runs(tables: Any, found: Any, k: Any, bit: Any) -> None:
    """The maps of the runs that had their say move towards whether they were right."""
    for c in range(len(found.hashes)):
        cell = found.run_cells[c]
        if cell >= 0:
            right = found.runs[c] >> (7 - k) & 1 == bit
            tables.runs[cell] += ((65535 if right else 0) - tables.runs[cell]) >> 6


@inline
def push(tables: Any, found: Any, byte: Any, notes: Any) -> None:
    """Note the byte that followed, where contexts were looked for."""
    empty = _empty(tables.nodes)
    for c in range(len(found.hashes)):
        if notes is None and found.runs[c] >= 0:
            if found.starts[c] != empty:
                extend(tables.nodes, found.starts[c], found.runs[c], byte)
            else:
                h = found.hashes[c]
                if _enter(tables, h, found.places[c], found.runs[c], byte) > 0:
                    before = found.runs[c] & 255
                    tell_second(tables, second(h, before), before, found.runs[c] >> 8)
                    tell_second(tables, second(h, byte), byte, np.int64(1))
        found.runs[c] = -1


@jit
def take_in(tables: Any, h: Any, byte: Any) -> Any:
    """A context's first half learns a byte; returns what second ones are told, see `_enter`.

    2^14 alone: that this byte came.
    """
    count = np.uint64(tables.buckets)
    base = _known(tables.nodes, place(h, count), check(h))
    if base != _empty(tables.nodes):
        extend(tables.nodes, base, np.int64(tables.nodes[base] >> RUN_SHIFT), byte)
        _tell(tables, base, byte >> 4, np.int64(1))
        return np.int64(_ANOTHER)
    at, run = _entry_at(tables.entries, _entry_place(h, count), _entry_check(h))
    return _enter(tables, h, at, run, byte)


@jit
def _enter(tables: Any, h: Any, at: Any, run: Any, byte: Any) -> Any:
    """Note the byte that followed a context without a bucket, whose entry is at a place, or run 0.

    If it is another one than before, a bucket takes the entry's place; returns what those of second
    halves are to be told: 2^14 + the run before. Else 0.
    """
    times, before = run >> 8, run & 255
    if times == 0 or before == byte:
        known = np.uint32(min(times + 1, np.int64(_TIMES_MOST)) << 8 | byte)
        tables.entries[at] = _entry_check(h) | known
        return np.int64(0)
    tables.entries[at] = 0
    base = settle(tables.nodes, place(h, np.uint64(tables.buckets)), check(h))
    _tell(tables, base, before >> 4, times)
    _tell(tables, base, byte >> 4, np.int64(1))
    extend(tables.nodes, base, np.int64(0), byte)
    return _ANOTHER | run


@jit
def second(h: Any, byte: Any) -> Any:
    """The hash for the second half of a byte behind a context."""
    return remix(h, 16 | byte >> 4)


@jit
def tell_second(tables: Any, h: Any, byte: Any, times: Any) -> None:
    """The bucket for the second half of a byte, of this hash, learns that it came so often."""
    base = settle(tables.nodes, place(h, np.uint64(tables.buckets)), check(h))
    _tell(tables, base, byte & 15, times)


@jit
def _tell(tables: Any, base: Any, nibble: Any, times: Any) -> None:
    """The nodes of a bucket learn that half of a byte came so often; where they know some, once."""
    nodes, node = tables.nodes, np.int64(1)
    made = _made(nodes, nibble, times)
    for k in range(3, -1, -1):
        bit = nibble >> k & 1
        at = base + np.uint64(node)
        if nodes[at] == _UNSEEN:
            nodes[at] = nodes[made + np.uint64(node)]
        else:
            nodes[at] = taught(nodes[at], bit, tables.limit)
        node = 2 * node + bit


@jit
def extend(nodes: Any, start: Any, run: Any, byte: Any) -> None:
    """Note the byte that followed in the bucket of a first half, behind a run."""
    length = min((run >> 8) + 1, _LONGEST_RUN) if run > 0 and run & 255 == byte else 1
    check = nodes[start] & _CHECK_MASK
    nodes[start] = check | np.uint32((length * 256 + byte) << 17)


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
    return Trust(seen, best, found.confidences[min(3, C - 1)], min(seen * 4 // (C + 1), 3))


@inline
def learn(tables: Any, kind: Any, found: Any, bit: Any, notes: Any) -> None:
    """Nodes and maps move towards the bit; with notes, only maps."""
    maps, states = tables.maps[kind], tables.states[kind]
    C = len(found.hashes)
    target = bit * 65535
    for c in range(C + 1):
        state, cell = found.states[c], found.cells[c]
        said = np.int64(states[state])
        states[state] = np.uint16(said + ((target - said) >> 7))
        said = np.int64(maps[cell])
        maps[cell] = np.uint16(said + ((target - said) >> 7))
        _teach(tables, kind, found.nodes[c], c == C, bit, notes)


@inline
def _teach(tables: Any, kind: Any, node: Any, direct: Any, bit: Any, notes: Any) -> None:
    if notes is None:
        nodes = tables.ends if kind else tables.nodes
        if direct:
            tables.direct[node] = taught(tables.direct[node], bit, tables.limit)
        else:  # what is made stays: a word that is no node is overwritten instead, without a branch
            own = node if kind or node < _empty(tables.nodes) else _empty(tables.nodes)
            nodes[own] = taught(nodes[node], bit, tables.limit)


@jit
def taught(v: Any, bit: Any, limit: Any) -> Any:
    """A node after a bit."""
    n = np.int64(v & _COUNT_MASK)
    state = np.uint32(_NEXT[np.uint64((v >> _STATE_SHIFT) & _STATE_MASK) * _TWO + np.uint64(bit)])
    p = np.int64(v >> _P_SHIFT)
    p += ((bit * 131071 - p) * np.int64(_RATES[n])) >> 16
    return np.uint32(p << 15) | (state << _STATE_SHIFT) | np.uint32(min(n + 1, limit))


@jit
def interpolate(cells: Any, logit: Any) -> Any:
    """(probability, nearer cell) of an adaptive map at a logit."""
    x = min(max(logit, -LOGIT_MAX), LOGIT_MAX) + 3072
    low = x // _CELL
    share = x - low * _CELL
    p = (np.int64(cells[low]) * (_CELL - share) + np.int64(cells[low + 1]) * share) // _CELL
    return p, low + (1 if share * 2 >= _CELL else 0)
