"""A vocabulary: pieces of bytes, in sorted order, and the coded form in which it travels."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

MAX_PIECES = 16_384
MAX_PIECE_BYTES = 16

jit: Any = numba.njit(cache=True, nogil=True, error_model="numpy")


class Vocabulary:
    def __init__(self, pieces: tuple[bytes, ...]) -> None:
        if len(pieces) > MAX_PIECES:
            raise ValueError("")
        for i, piece in enumerate(pieces):
            if not 0 < len(piece) <= MAX_PIECE_BYTES:
                raise ValueError("")
            if i and pieces[i - 1] >= piece:
                raise ValueError("")
        self.pieces = pieces
        self.bytes = np.frombuffer(b"".join(pieces), np.uint8)
        self.lengths = np.array([len(piece) for piece in pieces], np.int64)
        self.offsets = np.append(0, np.cumsum(self.lengths))

    def join(self, tokens: np.ndarray) -> np.ndarray:
        return concatenate(tokens, self.offsets, self.bytes)


@jit
def concatenate(tokens: Any, offsets: Any, values: Any) -> Any:
    """The values of each token, one after the other: token t has values[offsets[t]:offsets[t + 1]].
    """
    size = 0
    for t in tokens:
        size += offsets[t + 1] - offsets[t]
    joined = np.empty(size, values.dtype)
    at = 0
    for t in tokens:
        for i in range(offsets[t], offsets[t + 1]):
            joined[at] = values[i]
            at += 1
    return joined


def pack(v: Vocabulary) -> bytes:
    import lzma
    return lzma.compress(b"".join(bytes([len(p)]) + p for p in v.pieces))


def unpack(packed: bytes) -> Vocabulary:
    import lzma
    raw = lzma.decompress(packed)
    pieces = []
    while raw:
        n = raw[0]
        pieces.append(raw[1 : 1 + n])
        raw = raw[1 + n :]
    return Vocabulary(tuple(pieces))


SINGLE_BYTES = Vocabulary(tuple(bytes([b]) for b in range(256)))
