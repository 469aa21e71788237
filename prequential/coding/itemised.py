"""What each token of an input costs: a symbol coder that notes it, whatever the coder does."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from prequential.coding.coder import PARTS, TOTAL_BITS, Code, SymbolCoder
from prequential.grids import Grid


class Costs(NamedTuple):
    """What each token costs, in the order of the input. n tokens of N bytes.

    Bits are whole parts of 2^-24, so that sums are exact in any order (below 2^29 bits).
    """

    offsets: np.ndarray  # (n + 1,) int64: where each token begins in the input, and its end
    bits: np.ndarray  # (n,) float64: as it was coded; their sum is the loss integral
    learner_bits: np.ndarray  # (n,) float64: by the networks and n-gram tables, without the memory
    repeat_bytes: np.ndarray  # (n,) int64: how many bytes before it stood there once; 0: no match
    # What parts of the learner would pay by themselves, by name, if that was asked for.
    apart: Mapping[str, np.ndarray] = MappingProxyType({})

    def per_byte(self) -> np.ndarray:
        """(N,) float64: a token's bits shared out over its bytes; what is left over on the first.

        >>> one, zero = np.array([3.0]), np.array([0])
        >>> Costs(np.array([0, 2]), one, one, zero).per_byte()
        array([1.5, 1.5])
        """
        lengths = np.diff(self.offsets)
        whole = np.rint(self.bits * PARTS).astype(np.int64)
        share, rest = np.divmod(whole, np.maximum(lengths, 1))
        parts = np.repeat(share, lengths)
        parts[self.offsets[:-1][lengths > 0]] += rest[lengths > 0]
        return parts / PARTS


class Parts(Protocol):
    """What tells what the parts of a learner would pay: `training.apart.Apart`."""

    names: list[str]

    def bits(self, first: int, symbols: np.ndarray) -> np.ndarray:
        """(P, n) float64: what each part would pay for symbols (n,) of rows from `first` on."""
        ...


class Itemised:
    """Codes like another coder, symbol by symbol, and notes the bits of each in coding order."""

    def __init__(
        self,
        inner: SymbolCoder,
        lengths: np.ndarray | None,
        count: int,
        parts: Parts | None = None,
    ) -> None:
        """lengths (2, B) are of the repeats that each stream is in, as the inner coder keeps them.

        count is of all symbols to come. Parts are asked before anything is learned.
        """
        self._inner, self._lengths, self._parts = inner, lengths, parts
        self._apart = np.zeros((len(parts.names) if parts is not None else 0, count))
        self._bits = np.zeros(count)
        self._learner_bits = np.zeros(count)
        self._repeats = np.zeros(count, np.int64)
        self._done = 0

    def code(
        self, mode: int, symbols: np.ndarray, frequencies: np.ndarray, first: int, code: Code
    ) -> float:
        """See `coder.SymbolCoder.code`."""
        total = 0.0
        for i in range(len(symbols)):
            if self._lengths is not None:
                stream = (first + i) % self._lengths.shape[1]
                self._repeats[self._done + i] = self._lengths[:, stream].max()
            one = slice(i, i + 1)
            bits = self._inner.code(mode, symbols[one], frequencies[one], first + i, code)
            self._bits[self._done + i] = bits
            total += bits
        end = self._done + len(symbols)
        taken = frequencies[np.arange(len(symbols)), symbols]
        self._learner_bits[self._done : end] = TOTAL_BITS - np.log2(taken)
        if self._parts is not None:
            self._apart[:, self._done : end] = self._parts.bits(first, symbols)
        self._done = end
        return total

    def costs(self, order: np.ndarray, offsets: np.ndarray) -> Costs:
        """All costs in the order of the input: order (n,) has the token that each symbol was."""
        noted = self._bits, self._learner_bits, self._repeats, *self._apart
        sorted_ = [np.empty_like(column) for column in noted]
        for column, noted_column in zip(sorted_, noted, strict=True):
            column[order] = noted_column
        bits, learner_bits, repeats, *apart = sorted_
        names = self._parts.names if self._parts is not None else []
        return Costs(offsets, bits, learner_bits, repeats, dict(zip(names, apart, strict=True)))


def coding_order(count: int, streams: int) -> np.ndarray:
    """(n,) int64: which token comes when, with streams of equal length side by side.

    >>> coding_order(7, 3)
    array([0, 3, 5, 1, 4, 6, 2])
    """
    base, extra = divmod(count, streams)
    starts = np.array([b * base + min(b, extra) for b in range(streams)], np.int64)
    columns = starts + np.arange(base)[:, np.newaxis]  # (base, B)
    return np.concatenate([columns.reshape(-1), starts[:extra] + base])


def places(count: int, grids: list[Grid], before: int = 0) -> np.ndarray:
    """(n,) int64: where in the input each byte stands that is coded, see `elements`.

    Grids are counted from so many bytes before it on.

    >>> places(5, [Grid(1, 5, 2, 1, 0, True, False)])
    array([0, 2, 1, 4, 3])
    """
    found = np.arange(count)
    for grid in grids:
        start, end = grid.start - before, grid.end - before
        if grid.low_first and start >= 0:
            part = found[start:end].reshape(-1, grid.size)
            found[start:end] = part[:, ::-1].reshape(-1).copy()
    return found
