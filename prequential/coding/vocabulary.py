"""A vocabulary: the pieces of bytes that tokens stand for, in sorted order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from prequential.exact.compiled import jit

MAX_PIECES = 16_384
MAX_PIECE_BYTES = 16


class Spelling(NamedTuple):
    """The bytes of every token, one after the other: token t at offsets[t] : offsets[t + 1]."""

    offsets: np.ndarray  # (V + 1,) int64
    bytes: np.ndarray  # (offsets[V],) uint8


class Vocabulary:
    """Pieces in unsigned lexicographic order; a token is an index into them.

    lengths (V,) int64 counts their bytes.

    Raises:
        ValueError: too many pieces, or one is empty, too long, repeated or out of order.
    """

    def __init__(self, pieces: tuple[bytes, ...]) -> None:
        if len(pieces) > MAX_PIECES:
            raise ValueError(f"a vocabulary of {len(pieces)} pieces: at most {MAX_PIECES} are held")
        for before, piece in zip((b"", *pieces), pieces, strict=False):
            if piece <= before:
                raise ValueError(f"piece {piece!r} is empty, repeated or out of order")
            if len(piece) > MAX_PIECE_BYTES:
                raise ValueError(f"piece {piece!r} is longer than {MAX_PIECE_BYTES} bytes")
        self.pieces = pieces
        self.lengths = np.array([len(piece) for piece in pieces], np.int64)
        offsets = np.append(np.int64(0), np.cumsum(self.lengths))
        self.spelling = Spelling(offsets, np.frombuffer(b"".join(pieces), np.uint8))

    def __len__(self) -> int:
        return len(self.pieces)

    def join(self, tokens: np.ndarray) -> np.ndarray:
        """The bytes (size,) uint8 of tokens (n,), each of them below the number of pieces."""
        joined: np.ndarray = concatenate(tokens, *self.spelling)
        return joined


@jit
def concatenate(tokens: Any, offsets: Any, values: Any) -> Any:
    """The values of each token in turn: token t has values[offsets[t] : offsets[t + 1]]."""
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


SINGLE_BYTES = Vocabulary(tuple(bytes([b]) for b in range(256)))
