"""The pieces that tokens stand for."""

from __future__ import annotations

import numpy as np


class Vocabulary:
    """Pieces in the order of their bytes; a token is the index of one."""

    def __init__(self, pieces: tuple[bytes, ...]) -> None:
        self.pieces = pieces
        self.lengths = np.array([len(p) for p in pieces], np.int64)
        self.offsets = np.concatenate(([0], np.cumsum(self.lengths)))
        self.bytes = np.frombuffer(b"".join(pieces), np.uint8)

    def join(self, tokens: np.ndarray) -> np.ndarray:
        """The bytes of tokens (n,)."""
        return np.frombuffer(b"".join(self.pieces[t] for t in tokens.tolist()), np.uint8)


BYTES = Vocabulary(tuple(bytes([b]) for b in range(256)))
