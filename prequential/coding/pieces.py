"""The coded form in which a vocabulary travels.

A piece is sent as the number of bytes it shares with the one before, then byte by byte, each
followed by whether the piece ends there. Every binary decision is predicted from the bytes before
it in the piece: one count per context and decision, and a mixer that weighs their logits by how
often each was seen. All in integers, with the tables of the memory; see there for the sources.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.coding.bits import CODED_BITS, STRETCH, code_bit
from prequential.coding.coder import DECODE, ENCODE, interval, narrow
from prequential.coding.vocabulary import MAX_PIECE_BYTES, MAX_PIECES, Vocabulary
from prequential.exact.compiled import jit
from prequential.exact.scalars import SQUASH

# Contexts: none, the last 1..4 bytes, what the piece before allows, and that with the last byte.
_ORDERS = 4
_CONTEXTS = _ORDERS + 3
_NODES_LOG2 = 21
_STEPS = 7  # counts from here on share a weight
_LIMIT = 255
_UNSEEN = 1 << 31  # 22 bits of probability, 10 of count
_WEIGHT = 65536 * 3 // 10
_RATE = 2
# Which decision a context belongs to.
_SHARED, _BYTE, _END = 1, 2, 3


def pack(vocabulary: Vocabulary) -> bytes:
    """The number of pieces in two bytes, then the pieces as `unpack` reads them."""
    rows = np.zeros((len(vocabulary), MAX_PIECE_BYTES), np.uint8)
    for row, piece in zip(rows, vocabulary.pieces, strict=True):
        row[: len(piece)] = np.frombuffer(piece, np.uint8)
    # At most 18 bits for each decision: 9 a byte, and one for each byte no longer shared.
    buffer = np.zeros(len(vocabulary.spelling.bytes) * 24 + len(vocabulary) * 4 + 16, np.uint8)
    size = _code(ENCODE, rows, vocabulary.lengths.copy(), interval(), buffer, 0)
    return len(vocabulary).to_bytes(2, "big") + buffer[:size].tobytes().rstrip(b"\0")


def unpack(packed: bytes) -> Vocabulary:
    """The inverse of `pack`, of which every vocabulary has one form only.

    Damage may still spell another vocabulary: noticing that is left to the archive's checksum.

    Raises:
        ValueError: the bytes are not what `pack` returns for any vocabulary.
    """
    count = int.from_bytes(packed[:2], "big")
    if len(packed) < 2 or count > MAX_PIECES:
        raise ValueError(f"a vocabulary begins with its size, at most {MAX_PIECES}")
    rows = np.zeros((count, MAX_PIECE_BYTES), np.uint8)
    lengths = np.zeros(count, np.int64)
    payload = np.frombuffer(bytearray(packed[2:] + bytes(8)), np.uint8)
    state = interval(int.from_bytes(payload[:8].tobytes(), "big"))
    _code(DECODE, rows, lengths, state, payload, 8)
    pieces = (row[:n].tobytes() for row, n in zip(rows, lengths, strict=True))
    vocabulary = Vocabulary(tuple(pieces))
    if pack(vocabulary) != packed:
        raise ValueError("the vocabulary is damaged, or bytes follow it")
    return vocabulary


@jit
def _code(mode: Any, rows: Any, lengths: Any, state: Any, buffer: Any, place: Any) -> Any:
    """Code rows (V, MAX_PIECE_BYTES) uint8 and lengths (V,), or fill them in; the new place."""
    nodes = np.full(1 << _NODES_LOG2, _UNSEEN, np.uint32)
    weights = np.full((24, _CONTEXTS, _STEPS + 1), _WEIGHT, np.int64)
    where, x = np.zeros(_CONTEXTS, np.int64), np.zeros(_CONTEXTS, np.int64)
    hashes = np.zeros(_CONTEXTS, np.uint64)
    model = (nodes, weights, hashes, where, x)
    length: Any = np.int64(0)  # of the piece before
    for v in range(len(rows)):
        piece, last = rows[v], rows[v - 1]
        common = 0
        while common < min(length, lengths[v]) and piece[common] == last[common]:
            common += 1
        d: Any = length
        while d > 0:
            after = np.int64(last[d]) if d < length else 0
            _contexts(hashes, last, d, _SHARED, (length - d) * 256 + after)
            known = 1 if d == common else 0
            bit, place = _code_one(mode, state, buffer, place, known, model, 1, min(length - d, 3))
            if bit:
                break
            d -= 1
        piece[:d] = last[:d]
        shared, size, end = d, lengths[v], 0
        while d < MAX_PIECE_BYTES and not end:
            # Where the pieces part, the byte is above the other's.
            parts = d == shared and d < length
            _contexts(hashes, piece, d, _BYTE, np.int64(last[d]) if parts else 256)
            symbol: Any = np.int64(piece[d])
            node: Any = np.int64(1)
            for k in range(8):
                known, row = (symbol >> (7 - k)) & 1, 8 + k + 8 * parts
                bit, place = _code_one(mode, state, buffer, place, known, model, node, row)
                node = 2 * node + bit
            piece[d] = node & 255
            d += 1
            if d < MAX_PIECE_BYTES:
                _contexts(hashes, piece, d, _END, d - shared)
                known, row = 1 if d == size else 0, 4 + min(d - shared, 3)
                end, place = _code_one(mode, state, buffer, place, known, model, 1, row)
        lengths[v] = length = d
    if mode == ENCODE:
        # A number of the interval that ends in zeros.
        rest = -state[0] & np.uint64((1 << 48) - 1)
        place = narrow(state, buffer, place, rest, np.uint64(1))
    return place


@jit
def _mix(h: Any, value: Any) -> Any:
    h = (h ^ np.uint64(value)) * np.uint64(0xD6E8FEB86659FD93)
    return h ^ (h >> np.uint64(29))


@jit
def _contexts(hashes: Any, piece: Any, d: Any, kind: Any, beside: Any) -> None:
    """Hashes of what a decision after d bytes of a piece may depend on."""
    h = _mix(np.uint64(0), kind)
    hashes[0] = h
    hashes[_ORDERS + 1] = _mix(h, 512 + beside)
    hashes[_ORDERS + 2] = _mix(hashes[_ORDERS + 1], piece[d - 1] if d else 256)
    for k in range(1, _ORDERS + 1):
        h = _mix(h, piece[d - k] if k <= d else 256)
        hashes[k] = h


@jit
def _code_one(
    mode: Any, state: Any, buffer: Any, place: Any, known: Any, model: Any, node: Any, row: Any
) -> Any:
    """(bit, place) of one decision, which the counts and the weights then learn."""
    nodes, weights, hashes, where, x = model
    w = weights[row]
    total: Any = np.int64(0)
    for c in range(_CONTEXTS):
        h = _mix(hashes[c], node) * np.uint64(0x9E3779B97F4A7C15)
        where[c] = np.int64(h >> np.uint64(64 - _NODES_LOG2))
        v = np.int64(nodes[where[c]])
        x[c] = STRETCH[v >> 20]
        total += w[c, min(v & 1023, _STEPS)] * x[c]
    p = np.int64(SQUASH[min(max(total >> 16, -3071), 3071) + 3072])
    bit, place = code_bit(mode, state, buffer, place, known, p << (CODED_BITS - 16))
    error = (bit * 65535 - p) * _RATE
    for c in range(_CONTEXTS):
        v = np.int64(nodes[where[c]])
        n, q = v & 1023, v >> 10
        w[c, min(n, _STEPS)] += (x[c] * error + 8192) >> 14
        q += (bit * 4194303 - q) * 2 // (2 * n + 3)
        nodes[where[c]] = np.uint32(q << 10 | min(n + 1, _LIMIT))
    return bit, place
