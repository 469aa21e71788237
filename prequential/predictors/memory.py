"""The past-only memory: counts of what followed each context, mixed anew after every bit.

A token is coded byte by byte, along the pieces of the vocabulary that begin with what is coded of
it: first whether it goes on, where a piece ends that others begin with, then the next byte's eight
bits, most significant first. What leaves no choice is not coded. In each decision a context holds
a probability and a count, found by hashing the context with the bits so far; two match models
follow a long and a recent repeat, and what they expect is a context too; the learner's distribution
over tokens joins as one more expert. Their logits
(in units of 1/256 nat) are weighed by several sets of weights, each chosen by a small context, the
sets' outputs by two more, and the result is corrected by two adaptive maps. At last it is mixed, by
Bayes' rule, with even chances, which win where there is nothing to predict. Everything learns from
the bit just coded, in coding order, and is shared by all streams, but for that last weight.

Only integers reach the bits: probabilities have 16 bits, the last ones 22, tables of logits and
their inverse are made from integers, sums are 64-bit. Sources: Mahoney 2005, adaptive weighing of
context models (the PAQ family); Knoll & de Freitas 2012; Willems et al. 1995 for the counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.coding.bits import (
    CODED_BITS,
    LOGIT_MAX,
    SQUASH,
    STRETCH,
    code_bit,
    squash,
    stretch,
)
from prequential.coding.vocabulary import Vocabulary
from prequential.config import OWN_CONTEXTS, MemoryConfig
from prequential.exact.compiled import jit, outer
from prequential.predictors.contexts import History, hash_stream, parse, push_byte, push_token

_HALF = 32768
_FINER = CODED_BITS - 16  # of what is coded, and of the maps that correct it
_ALL = (1 << CODED_BITS) - 1
_LEAST = 16
_EVEN = 1 << (CODED_BITS - 1)
# The weight of even chances, which never gets out of reach.
_DOUBT_BITS = 24
_DOUBT_LEAST, _DOUBT_MOST = 4, (1 << _DOUBT_BITS) - (1 << 10)
# Repeats that the first match is looked for by, and the second. The longest are noted one time in
# 16, so that their table reaches further back.
_LENGTHS = np.array([32, 24, 10, 5])
_RARELY = np.uint64(60)
_HALF_HASH = np.uint64(32)
# A node of a table: 18 bits of probability, 7 of history, 7 of count.
_COUNT_MASK = np.uint32(127)
_HISTORY_SHIFT = np.uint32(7)
_P_SHIFT = np.uint32(14)
_UNSEEN = np.uint32((1 << 31) | (1 << 7))  # one half, no history, no count


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


def _indirect_start() -> Any:
    """Probabilities for a history of up to 6 bits: (ones + 0.4) / (bits + 0.8) in 16 bits."""
    table = np.zeros((128, 3, 4), np.int32)
    for h in range(1, 128):
        length = h.bit_length() - 1
        ones = (h - (1 << length)).bit_count()
        table[h] = 65536 * (5 * ones + 2) // (5 * length + 4)
    return table


# Sets of weights, and the rows that the context of each chooses from: see `_choose_sets`.
SETS = 7
_MATCHES = 16
_SIZES = np.array([256, 256 * 3, _MATCHES * 8, 256 * 8, 2048, 16 * 16 * 2, 256 * 8], np.int64)
# A row of weights is learned faster at first: after n times by 16 / (1 + n / 1024) more.
_ROW_BOOST = 16 << 20
_ROW_USES = 1024
# So are the final sets: after n bytes by 3 / (1 + n / 8192) times their rate more.
_FINAL_RATE = 256
_FINAL_BOOST = 3 * 256 * 8192
_FINAL_USES = 8192


class Memory:
    """The tables, and the bytes so far of all streams."""

    def __init__(self, config: MemoryConfig, streams: int, vocabulary: Vocabulary) -> None:
        self.config = config
        self.contexts = parse(config.contexts)
        self.history = History(streams, vocabulary)
        count = len(config.contexts) + OWN_CONTEXTS
        # Bits of a byte, and where pieces may end: the latter have tables of their own.
        kinds = 1 if max(vocabulary.lengths) == 1 else 2
        # Buckets of 16 words, shared by all contexts: a check, then a node for each of 15 bit
        # prefixes of a nibble. A node holds an 18-bit probability, a 7-bit history and a 7-bit
        # count.
        pairs = (config.buckets + 1) // 2
        self.nodes = np.zeros(32 * pairs, np.uint32)
        self.ends = np.full((kinds - 1) * pairs, _UNSEEN, np.uint32)
        self.direct = np.full(1 << 16, _UNSEEN, np.uint32)  # order 1, not hashed
        middle = SQUASH[np.clip((np.arange(_CELLS) - 16) * _CELL, -3072, 3071) + 3072]
        self.maps = np.tile(middle, (kinds, count + 1, _CONFIDENCES, 1)).astype(np.int32)
        self.indirect = np.tile(_indirect_start(), (kinds, count + 1, 1, 1, 1))
        # Two inputs a context, two of order 1, two of the match, two of the expert, a constant.
        self.inputs = 2 * count + 7
        rows = int(_SIZES.sum())
        # More that are always 0, so that the loops over them are of whole vectors of 16.
        padded = -(-self.inputs // 16) * 16
        self.weights = np.full((kinds, rows, padded), 65536 // 16, np.int32)
        self.uses = np.zeros((kinds, rows), np.int64)
        self.final = np.full((kinds, 2048 + 1024, SETS), 65536 // SETS, np.int32)
        self.corrections = np.tile(middle << _FINER, (kinds, 1024 + 65536, 1)).astype(np.int32)
        # The match models: the past of every stream, where repeats of four lengths last ended.
        self.past = np.zeros((streams, 1 << config.window_log2), np.uint8)
        self.starts = np.zeros((streams, (kinds - 1) << config.window_log2), np.uint8)  # of tokens
        self.position = np.zeros(streams, np.int64)
        self.where = np.full((len(_LENGTHS), 1 << min(20, config.window_log2 + 1)), -1, np.int64)
        self.pointers = np.zeros((2, streams, 4), np.int64)  # stream, position, length, misses
        # The last four bytes that followed each pair of bytes, and each byte in the last row.
        self.followers = np.zeros((257, 256), np.uint32)
        self.doubts = np.full(streams, 1 << 12, np.int64)
        self.match_maps = np.full((kinds, 2, 64), 49152, np.int32)
        # Room for the loop, which counts no references and so makes no arrays.
        self.scratch = (
            np.zeros(len(vocabulary.pieces) + 1, np.int64),
            np.zeros(padded, np.int32),
            *np.zeros((3, count + 1), np.uint64),
            *np.zeros((2, count + 1), np.int64),
            *np.zeros((3, SETS), np.int64),
        )

    def code(
        self,
        mode: int,
        symbols: np.ndarray,
        frequencies: np.ndarray,
        first: int,
        state: np.ndarray,
        buffer: np.ndarray,
        position: int,
    ) -> tuple[int, float]:
        """Code and learn; see `coder.SymbolCoder.code`. frequencies are the expert's."""
        result: tuple[int, float] = code_tokens(
            mode, symbols, frequencies, *self.state(), state, buffer, position
        )
        return result

    def state(self) -> tuple[Any, ...]:
        """What the compiled loop takes between what is coded and the coder's own."""
        c = self.config
        return (
            self.history.state,
            self.history.spelling,
            self.contexts,
            self.nodes,
            self.ends,
            self.direct,
            self.maps,
            self.indirect,
            self.weights,
            self.uses,
            self.final,
            self.corrections,
            self.past,
            self.starts,
            self.position,
            self.where,
            self.pointers,
            self.followers,
            self.match_maps,
            self.doubts,
            self.scratch,
            c.count_limit,
            c.mixer_rate,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything learned, by name."""
        names = (
            "nodes ends direct maps indirect weights uses final corrections"
            " past starts position where pointers followers match_maps doubts"
        )
        arrays = {name: getattr(self, name) for name in names.split()} | self.history.arrays()
        return {f"memory.{name}": array for name, array in arrays.items()}


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


@jit
def _interpolate(cells: Any, logit: Any) -> Any:
    """(probability, nearer cell) of an adaptive map at a logit."""
    x = min(max(logit, -LOGIT_MAX), LOGIT_MAX) + 3072
    low = x // _CELL
    share = x - low * _CELL
    p = (np.int64(cells[low]) * (_CELL - share) + np.int64(cells[low + 1]) * share) // _CELL
    return p, low + (1 if share * 2 >= _CELL else 0)


@jit
def _hash_past(past: Any, b: Any, end: Any, length: Any) -> Any:
    mask = past.shape[1] - 1
    h = np.uint64(length)
    for k in range(1, length + 1):
        h = (h ^ np.uint64(past[b, (end - k) & mask])) * np.uint64(0xD6E8FEB86659FD93)
        h ^= h >> np.uint64(29)
    return h


@jit
def _follow(past: Any, position: Any, where: Any, pointers: Any, b: Any, symbol: Any) -> None:
    """Append a symbol to stream b and move its matches on."""
    mask = past.shape[1] - 1
    end = position[b]
    past[b, end & mask] = symbol
    end += 1
    position[b] = end
    for m in range(2):
        pointer = pointers[m, b]
        if pointer[2] > 0:
            hit = past[pointer[0], pointer[1] & mask] == symbol
            pointer[1] += 1
            if hit:
                pointer[2] += 1
                pointer[3] = max(0, pointer[3] - (1 if pointer[2] % 16 == 0 else 0))
            else:
                # Stay on the trail for a few misses: records and edits differ in places.
                pointer[2] = 1
                pointer[3] += 8
                if pointer[3] > 16:
                    pointer[2] = 0
    for k in range(len(_LENGTHS)):
        length = _LENGTHS[k]
        if end < length:
            continue
        hashed = _hash_past(past, b, end, length)
        if k == 0 and hashed >> _RARELY:
            continue
        slot = np.int64(hashed % np.uint64(where.shape[1]))
        known = where[k, slot]
        where[k, slot] = end * past.shape[0] + b
        pointer = pointers[k // 3, b]
        if known >= 0 and (pointer[2] == 0 or (pointer[2] < 16 and k < 2)):
            stream, at = known % past.shape[0], known // past.shape[0]
            if stream == b and at == end:
                continue
            # What lies further back than the window has been overwritten.
            oldest = max(position[stream] - past.shape[1], 0)
            found = 0
            while (
                found < 400
                and at - found - 1 >= oldest
                and end - found - 1 >= 0
                and past[stream, (at - found - 1) & mask] == past[b, (end - found - 1) & mask]
            ):
                found += 1
            if found >= length and at < position[stream]:
                pointer[0] = stream
                pointer[1] = at
                pointer[2] = found
                pointer[3] = 0


@jit
def _expected(past: Any, pointer: Any) -> Any:
    """256 + the byte that a match expects, or 0."""
    if pointer[2] == 0:
        return np.int64(0)
    return np.int64(past[pointer[0], pointer[1] & (past.shape[1] - 1)]) | 256


@jit
def _hash_own(past: Any, pointers: Any, followers: Any, b: Any, last: Any, out: Any) -> None:
    """out (OWN_CONTEXTS,): what two bytes and three followed last time, what two matches expect."""
    c1 = np.int64(last[0])
    out[0] = _remix((np.uint64(followers[last[1], c1] & 0xFFFF) << np.uint64(8)) | np.uint64(c1), 3)
    out[1] = _remix((np.uint64(followers[256, c1] & 0xFFFFFF) << np.uint64(8)) | np.uint64(c1), 4)
    for m in range(2):
        pointer = pointers[m, b]
        grade = _match_bucket(pointer[2]) * 4 + min(pointer[3] // 8, 3)
        out[2 + m] = _remix(np.uint64(_expected(past, pointer) * 128 + grade), 5 + m)


@jit
def _match_bucket(length: Any) -> Any:
    if length < 16:
        return length
    if length < 32:
        return 16 + (length - 16) // 4
    return min(20 + (length - 32) // 16, 31)


@jit
def _cell_of(c: Any, v: Any) -> Any:
    """Where the indirect map of a context has what followed histories like that of node v."""
    stage = _STAGES[np.int64(v & _COUNT_MASK)]
    history = np.int64(v >> _HISTORY_SHIFT) & 127
    return ((c * 128 + history) * 3 + stage) * 4 + np.int64(v >> np.uint32(30))


@jit
def _context_inputs(
    nodes: Any, direct: Any, maps: Any, indirect: Any, node: Any, near: Any, stage: Any, x: Any
) -> None:
    """What each context's node says, and what followed histories like its own: two inputs each.

    node holds the words; near and stage are set to the cells of `maps` that were used.
    """
    C = len(node) - 1
    for c in range(C + 1):
        v = nodes[node[c]] if c < C else direct[node[c]]
        n = np.int64(v & _COUNT_MASK)
        stage[c] = _BUCKETS[n]
        top = np.int64(v >> _TOP_SHIFT)
        low = (c * _CONFIDENCES + stage[c]) * _CELLS + _LOW_CELL[top]
        share = _SHARE[top]
        near[c] = low + (1 if share * 2 >= _CELL else 0)
        if n == 0 and c < C:
            x[2 * c] = 0
            x[2 * c + 1] = 0
        else:
            p = maps[low] * (_CELL - share) + maps[low + 1] * share
            x[2 * c] = STRETCH[np.uint32(p) // _CELL_OF_16]
            x[2 * c + 1] = STRETCH[indirect[_cell_of(c, v)] >> 4]


@jit
def _learn_contexts(
    nodes: Any,
    direct: Any,
    maps: Any,
    indirect: Any,
    node: Any,
    near: Any,
    bit: Any,
    limit: Any,
) -> None:
    C = len(node) - 1
    target = bit * 65535
    for c in range(C + 1):
        v = nodes[node[c]] if c < C else direct[node[c]]
        n = np.int64(v & _COUNT_MASK)
        cell = _cell_of(c, v)
        indirect[cell] += (target - indirect[cell]) >> 7
        history = (np.int64(v >> _HISTORY_SHIFT) & 127) * 2 + bit
        if history > 127:
            history = (history & 63) | 64
        p = np.int64(v >> _P_SHIFT)
        p += ((bit * 262143 - p) * _RATES[n]) >> 16
        v = np.uint32((p << 14) | (history << 7) | min(n + 1, limit))
        if c < C:
            nodes[node[c]] = v
        else:
            direct[node[c]] = v
        maps[near[c]] += (target - maps[near[c]]) >> 7


@jit
def _is_letter(c: Any) -> Any:
    return np.int64(1 if 65 <= c <= 90 or 97 <= c <= 122 or c >= 128 else 0)


@jit
def _choose_sets(
    rows: Any, k: Any, c0: Any, last: Any, place: Any, grade: Any, letters: Any, trust: Any
) -> Any:
    """Which row of weights each set uses at bit k: by what has been coded, and who knows it."""
    seen, top, fifth = trust
    rows[0] = c0
    rows[1] = np.int64(last[0]) * 3 + (0 if k == 0 else (1 if k < 4 else 2))
    rows[2] = min(grade, _MATCHES - 1) * 8 + k
    rows[3] = np.int64(last[1]) * 8 + k
    rows[4] = ((letters * 16 + fifth) * 8 + k) & 2047
    rows[5] = (min(seen, 15) * 16 + top) * 2 + (1 if grade else 0)
    rows[6] = place * 8 + k
    offset = np.int64(0)
    for s in range(SETS):
        rows[s] += offset
        offset += _SIZES[s]


@jit
def _trust(stage: Any) -> Any:
    """Of the hashed contexts: how many know anything, the best-known's grade, the sixth's."""
    seen = top = np.int64(0)
    for c in range(len(stage) - 1):
        if stage[c] > 0:
            seen += 1
        top = max(top, stage[c])
    return seen, top, stage[min(5, len(stage) - 2)]


@jit
def _dot(w: Any, x: Any) -> Any:
    """A logit: sum_j w[j] * x[j] / 65536, held in range."""
    total = np.int64(0)
    for j in range(len(x)):
        total += np.int64(w[j]) * np.int64(x[j])
    return min(max(total >> 16, -LOGIT_MAX), LOGIT_MAX)


@jit
def _cut(pieces: Any, low: Any, high: Any, depth: Any, byte: Any) -> Any:
    """The first token of low..high whose byte at `depth` is at least `byte`, else high."""
    offsets, letters = pieces.offsets, pieces.bytes
    if len(offsets) - 1 == len(letters) == 256:  # every byte is a token
        return (low + high) >> 1
    while low < high:
        middle = (low + high) >> 1
        if letters[offsets[middle] + depth] < byte:
            low = middle + 1
        else:
            high = middle
    return low


@jit
def _octave(n: Any) -> Any:
    """The bits of n, up to 15."""
    k: Any = 0
    while k < 15 and n >> k:
        k += 1
    return k


@jit
def _remix(h: Any, salt: Any) -> Any:
    h = (h ^ np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(31)
    return h * np.uint64(0xD6E8FEB86659FD93)


@outer
def code_tokens(
    mode: Any,
    symbols: Any,
    frequencies: Any,
    so_far: Any,
    pieces: Any,
    contexts: Any,
    nodes: Any,
    ends: Any,
    direct: Any,
    maps: Any,
    indirect: Any,
    weights: Any,
    uses: Any,
    final: Any,
    corrections: Any,
    past: Any,
    starts: Any,
    position: Any,
    where: Any,
    pointers: Any,
    followers: Any,
    match_maps: Any,
    doubts: Any,
    scratch: Any,
    limit: Any,
    mixer_rate: Any,
    state: Any,
    buffer: Any,
    at: Any,
) -> Any:
    """(at, bits): see `coder.SymbolCoder.code`."""
    offsets = pieces.offsets
    V = len(offsets) - 1
    own = len(contexts.kinds)  # contexts, and then the memory's
    C = own + OWN_CONTEXTS
    streams = len(position)
    bits = 0.0
    # below: the frequencies of all tokens before each.
    below, x, hashes, node, near, bases, stage, rows, outs, ps = scratch
    window = past.shape[1] - 1
    flat_maps, flat_indirect = maps.reshape(len(maps), -1), indirect.reshape(len(maps), -1)
    for i in range(len(symbols)):
        b = i % streams
        last = so_far.bytes[b]
        total = np.int64(0)
        for s in range(V):
            below[s] = total
            total += frequencies[i, s]
        below[V] = total
        known = np.int64(symbols[i])
        low, high, depth = np.int64(0), np.int64(V), np.int64(0)  # tokens that are still possible
        while True:
            inside = depth > 0 and offsets[low + 1] - offsets[low] == depth
            if inside and high - low == 1:
                break
            hash_stream(so_far, b, contexts, hashes)
            _hash_own(past, pointers, followers, b, last, hashes[own:])
            if depth == 0 and len(weights) > 1:  # no longer piece fits here: other bytes follow
                for c in range(C):
                    hashes[c] = _remix(hashes[c], 2)
            c1, c2 = np.int64(last[0]), np.int64(last[1])
            column = so_far.place[b]
            pointer = pointers[0, b]
            length = pointer[2]
            expected, ending = _expected(past, pointer), np.int64(0)
            if length > 0 and inside:
                ending = np.int64(starts[pointer[0], pointer[1] & window])
            misses = min(pointer[3], 31) // 16
            letters = np.int64(0)
            for k in range(4):
                letters = letters * 2 + _is_letter(np.int64(last[k]))
            rate = _FINAL_RATE + _FINAL_BOOST // (_FINAL_USES + position[b])
            c0 = np.int64(1)
            nibble_at = -1
            for k in range(-1 if inside else 0, 8):
                kind = 1 if k < 0 else 0
                done: Any = c0  # of this byte
                if kind:
                    cut = low + 1
                    done = np.int64(min(depth, np.int64(15))) * 16 + _octave(high - low)
                else:
                    cut = _cut(pieces, low, high, depth, ((2 * c0 + 1) << (7 - k)) & 255)
                if cut in (low, high):
                    bit = np.int64(1 if cut == low else 0)
                    low, high = (cut, high) if bit else (low, cut)
                    c0 = 2 * c0 + bit
                    continue
                q = max(k, 0)
                if kind:
                    for c in range(C):
                        node[c] = _scaled(_remix(hashes[c], 1), len(ends))
                    node[C] = c1 << 8
                    _context_inputs(
                        ends, direct, flat_maps[1], flat_indirect[1], node, near, stage, x
                    )
                else:
                    if nibble_at != k // 4:
                        nibble_at = k // 4
                        for c in range(C):
                            h = hashes[c]
                            if k >= 4:
                                h = _remix(h, c0 >> (k - 4))  # the first nibble
                            bases[c] = _bucket(nodes, h)
                    nibble = c0 if k < 4 else (c0 & ((1 << (k - 4)) - 1)) | (1 << (k - 4))
                    for c in range(C):
                        node[c] = bases[c] + nibble
                    node[C] = (c1 << 8) | c0
                    _context_inputs(
                        nodes, direct, flat_maps[0], flat_indirect[0], node, near, stage, x
                    )
                e = 2 * C + 2
                matched = length > 0 and (kind or (expected >> (8 - k)) == c0)
                bucket = _match_bucket(length) + 32 * misses
                predicted = 1 - ending if kind else (expected >> (7 - k)) & 1
                match_map = match_maps[kind, 0 if length < 400 else 1]
                x[e] = 0
                x[e + 1] = 0
                if matched:
                    p = np.int64(match_map[bucket])
                    sign = 1 if predicted else -1
                    x[e] = sign * stretch(p)
                    x[e + 1] = sign * ((p - _HALF) >> 4)
                p = ((below[high] - below[cut]) << 16) // (below[high] - below[low])
                x[e + 2] = stretch(min(max(p, 1), 65535))
                x[e + 3] = (p - _HALF) >> 5
                x[e + 4] = 256
                # Mix.
                grade = 1 + min(_match_bucket(length), 29) // 2 if matched else 0
                trust = _trust(stage)
                _choose_sets(rows, q, done, last, column, grade, letters, trust)
                of_kind = weights[kind]
                for s in range(SETS):
                    outs[s] = _dot(of_kind[rows[s]], x)
                    ps[s] = squash(outs[s])
                f1 = final[kind, (grade * 128 + letters * 8 + q) & 2047]
                f2 = final[kind, 2048 + done * 4 + min(trust[0] * 4 // (C + 1), 3)]
                mixed1 = _dot(f1, outs)
                mixed2 = _dot(f2, outs)
                mixed = (mixed1 + mixed2) >> 1
                p = squash(mixed)
                # Correct.
                first = corrections[kind, done | (256 * min(grade, 3))]
                h = ((c1 * 256 + c2) * 40503 + done * 30011) & 0xFFFF
                second = corrections[kind, 1024 + h]
                p1, near1 = _interpolate(first, mixed)
                p2, near2 = _interpolate(second, mixed)
                p_final = ((p << _FINER) + p1 + 2 * p2 + 2) >> 2
                p_final = min(max(p_final, _LEAST), _ALL - _LEAST)
                doubt = doubts[b]
                p_final += ((_EVEN - p_final) * doubt) >> _DOUBT_BITS
                bit = np.int64(1 if known >= cut else 0)
                bit, at = code_bit(mode, state, buffer, at, bit, p_final)
                bits += CODED_BITS - np.log2(np.float64(p_final if bit else _ALL + 1 - p_final))
                # Learn.
                chance = p_final if bit else _ALL + 1 - p_final
                doubts[b] = min(max(doubt * _EVEN // chance, _DOUBT_LEAST), _DOUBT_MOST)
                target = bit * 65535
                error1 = (target - squash(mixed1)) * rate
                error2 = (target - squash(mixed2)) * rate
                for s in range(SETS):
                    row = rows[s]
                    boost = _ROW_BOOST // (_ROW_USES + uses[kind, row])
                    uses[kind, row] += 1
                    step = np.int32(((target - ps[s]) * (mixer_rate * 1024 + boost)) >> 14)
                    w = of_kind[row]
                    for j in range(len(x)):
                        w[j] += np.int32((x[j] * step + 8192) >> 14)
                    f1[s] += np.int32((outs[s] * error1 + (1 << 24)) >> 25)
                    f2[s] += np.int32((outs[s] * error2 + (1 << 23)) >> 24)
                counted = ends if kind else nodes
                _learn_contexts(
                    counted, direct, flat_maps[kind], flat_indirect[kind], node, near, bit, limit
                )
                first[near1] += (bit * _ALL - first[near1]) >> 6
                second[near2] += (bit * _ALL - second[near2]) >> 6
                if matched:
                    hit = 65535 if bit == predicted else 0
                    match_map[bucket] += (hit - match_map[bucket]) >> 6
                low, high = (cut, high) if bit else (low, cut)
                if kind:
                    if not bit:
                        break
                else:
                    c0 = 2 * c0 + bit
            if high - low == 1 and offsets[high] - offsets[low] == depth:
                break
            byte = np.uint8(c0 & 255)
            if starts.shape[1] > 0:
                starts[b, position[b] & window] = 1 if depth == 0 else 0
            followers[c2, c1] = (followers[c2, c1] << np.uint32(8)) | byte
            followers[256, c1] = (followers[256, c1] << np.uint32(8)) | byte
            _follow(past, position, where, pointers, b, byte)
            push_byte(so_far, b, byte)
            depth += 1
        symbols[i] = low
        push_token(so_far, b, low)
    return at, bits
