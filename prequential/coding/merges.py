"""Pieces that follow from what is given, so that encoder and decoder find the same, and send none.

Of all pairs of neighbours the most frequent one becomes a token, of equals the first, again and
again (Gage 1994, a new algorithm for data compression); the merges, in this order, then cut any
bytes. Nothing but integers is counted. A space only begins a piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prequential.coding.vocabulary import MAX_PIECE_BYTES, Vocabulary
from prequential.exact.compiled import jit

LEAST, MOST = 257, 2048  # pieces
_SAMPLE_BYTES, _SPANS = 1 << 20, 16
_MIN_USES = 2
_SPACE = b" "


class Merges:
    """At most `size` pieces, every byte among them, for what is given: parts (n,) uint8."""

    def __init__(self, parts: Sequence[Any], size: int) -> None:
        tokens = _sample(parts)
        count = len(tokens)
        pieces = [bytes([b]) for b in range(256)]
        numbers = {piece: number for number, piece in enumerate(pieces)}
        lengths, spaced = np.ones(size, np.int64), np.zeros(size, np.uint8)
        spaced[_SPACE[0]] = 1
        counts = np.zeros((size, size), np.int32)
        self.rules: list[tuple[int, int, int]] = []  # the pair, what it becomes
        while len(pieces) < size:
            _count(tokens, count, lengths, spaced, counts)
            first, second = divmod(int(counts.argmax()), size)
            if counts[first, second] < _MIN_USES:
                break
            piece = pieces[first] + pieces[second]
            merged = numbers.setdefault(piece, len(pieces))
            if merged == len(pieces):
                pieces.append(piece)
                lengths[merged], spaced[merged] = len(piece), piece[:1] == _SPACE
            self.rules.append((first, second, merged))
            count = _merge(tokens, count, first, second, merged)
        self.vocabulary = Vocabulary(tuple(sorted(pieces)))
        self._ranks = np.zeros(size, np.uint16)
        for rank, piece in enumerate(self.vocabulary.pieces):
            self._ranks[numbers[piece]] = rank

    def segment(self, data: Any) -> np.ndarray:
        """Tokens (n,) uint16 of data (size,) uint8 or its like."""
        tokens = data[:].astype(np.uint16)
        count = len(tokens)
        for rule in self.rules:
            count = _merge(tokens, count, *rule)
        ranks: np.ndarray = self._ranks[tokens[:count]]
        return ranks


def _sample(parts: Sequence[Any]) -> np.ndarray:
    """All bytes of the parts (n,) uint16, or spans taken evenly from each."""
    every = sum(len(part) for part in parts)
    found = [np.zeros(0, np.uint8)]
    for part in parts:
        share = len(part) * min(_SAMPLE_BYTES, every) // max(1, every)
        spans = _SPANS if share < len(part) else 1
        for k in range(spans):
            start = (len(part) - share // spans) * k // max(1, spans - 1)
            found.append(part[start : start + share // spans])
    return np.concatenate(found).astype(np.uint16)


@jit
def _count(tokens: Any, count: Any, lengths: Any, spaced: Any, counts: Any) -> None:
    """counts (V, V) = how often tokens follow one another, where they may be merged."""
    counts[:] = 0
    for i in range(count - 1):
        a, b = tokens[i], tokens[i + 1]
        if lengths[a] + lengths[b] <= MAX_PIECE_BYTES and not spaced[b]:
            counts[a, b] += 1


@jit
def _merge(tokens: Any, count: Any, first: Any, second: Any, merged: Any) -> Any:
    """Join a pair wherever it stands, from the left; how many tokens are left."""
    i = kept = 0
    while i < count:
        if tokens[i] == first and i + 1 < count and tokens[i + 1] == second:
            tokens[kept] = merged
            i += 2
        else:
            tokens[kept] = tokens[i]
            i += 1
        kept += 1
    return kept
