"""Integer entropy coding: a range coder in loops that go both ways, and its decoder.

Frequencies of each symbol sum to 2^TOTAL_BITS. The coder keeps an interval [low, low + range) of
64-bit integers; a symbol takes its share of it. Once range falls below 2^48 a byte is settled, so
at least 24 bits remain above the total's and the rounding costs less than 2^-24 of the codelength.
Source: Martin 1979, range encoding; carries are added into the bytes already written.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from prequential.errors import DivergenceError
from prequential.exact.compiled import jit

TOTAL_BITS = 24
PARTS = float(1 << 24)  # of a bit, in which codelengths are whole numbers
_SHIFT = np.uint64(TOTAL_BITS)
_SETTLED = np.uint64(1 << 48)
_BYTE = np.uint64(8)
_TOP = np.uint64(56)
_FULL = np.uint64(0xFFFFFFFFFFFFFFFF)

ENCODE, DECODE, MEASURE = 0, 1, 2


class Code(NamedTuple):
    """A payload as it is written or read: in L lanes, which threads may go through side by side."""

    intervals: np.ndarray  # (L, 2) uint64: (low, range) of an encoder, (value - low, range) else
    bytes: np.ndarray  # (L, N) uint8
    positions: np.ndarray  # (L,) int64: how many of each lane's bytes are written, or read


class SymbolCoder(Protocol):
    """Codes symbols with a predictor's frequencies: `Direct`, or a memory that mixes them."""

    def code(
        self, mode: int, symbols: np.ndarray, frequencies: np.ndarray, first: int, code: Code
    ) -> float:
        """Encode, decode in place, or measure symbols (n,), in time-major order.

        The first is of the stream `first`; frequencies (n, V) int32. The code is moved on in place.
        Returns the codelength in bits, a sum of the symbols' `rounded` ones.
        """
        ...


class Predictor(Protocol):
    """What a coder needs of a learner: integer frequencies of what comes next."""

    @property
    def symbol_coder(self) -> SymbolCoder:
        """What turns frequencies and symbols into code."""
        ...

    def predict(self, chunk: np.ndarray, task: Callable[[np.ndarray], None]) -> object:
        """Give the task frequencies (T * B, V) int32 of a known chunk (T, B), all columns at once.

        It is called at any time before the chunk is learned, on this or another thread.
        """
        ...

    def predict_column(self, column: int) -> np.ndarray:
        """Frequencies (B, V) int32 of one column, after the columns before it."""
        ...

    @property
    def decode_columns(
        self,
    ) -> Callable[[np.ndarray, int, Code], float] | None:
        """Decodes and observes a chunk in one call; None: columns go one at a time.

        It takes (chunk (T, B), count, code), and returns what `SymbolCoder.code` does.
        """
        ...

    def observe(self, symbols: np.ndarray) -> None:
        """Take in a decoded column (B,) uint8."""
        ...


class Decoder:
    """The inverse of `Encoder`: fills the chunk in, column by column."""

    def __init__(self, lanes: int = 1) -> None:
        self.loss_bits = 0.0
        self._lanes = lanes
        self.load(bytes(lanes - 1))

    def load(self, payload: bytes) -> None:
        """Begin a payload, as `Encoder.finish` returned it.

        Raises:
            DivergenceError: it has no such lanes.
        """
        parts = _split(payload, self._lanes)
        self._ends = np.array([len(part) + 8 for part in parts])
        self._payload = np.zeros((len(parts), self._ends.max()), np.uint8)
        for row, part in zip(self._payload, parts, strict=True):
            row[: len(part)] = np.frombuffer(part, np.uint8)
        heads = [int.from_bytes(row[:8].tobytes(), "big") for row in self._payload]
        self._intervals = np.array([interval(head) for head in heads])
        self._positions = np.full(len(parts), 8)

    def code(self, chunk: np.ndarray, count: int, predictor: Predictor) -> None:
        """Decode the first `count` tokens, in time-major order, of the chunk (T, B), in place.

        Raises:
            DivergenceError: the payload is used up: it was not written with these predictions.
        """
        code = Code(self._intervals, self._payload, self._positions)
        if (at_once := predictor.decode_columns) is not None:
            self._add(at_once(chunk, count, code))
            return
        columns, streams = chunk.shape
        for t in range(columns):
            valid = min(streams, count - t * streams)
            frequencies = predictor.predict_column(t)[:valid]
            symbols = chunk[t, :valid]
            self._add(predictor.symbol_coder.code(DECODE, symbols, frequencies, 0, code))
            predictor.observe(chunk[t])

    def _add(self, bits: float) -> None:
        self.loss_bits += bits
        if (self._positions > self._ends).any():
            raise DivergenceError("the payload ends too early for the decoded symbols")


def interval(low: int = 0) -> np.ndarray:
    """(low, range) of an encoder, or (value - low, range) of a decoder."""
    return np.array([low, _FULL], np.uint64)


def _split(payload: bytes, lanes: int) -> list[bytes]:
    """The lanes of a payload, which begins with the lengths of all but the last."""
    ends, at = [0], 0
    for _ in range(lanes - 1):
        length = shift = 0
        while at < len(payload) and shift < 63:
            length |= (payload[at] & 0x7F) << shift
            shift += 7
            at += 1
            if payload[at - 1] < 0x80:
                break
        ends.append(ends[-1] + length)
    if at + ends[-1] > len(payload):
        raise DivergenceError("the payload is shorter than its lanes")
    return [payload[at + a : at + b] for a, b in pairwise([*ends, len(payload) - at])]


class Direct:
    """Codes each symbol with its frequency, out of 2^TOTAL_BITS."""

    def code(
        self, mode: int, symbols: np.ndarray, frequencies: np.ndarray, first: int, code: Code
    ) -> float:
        """See `SymbolCoder.code`."""
        of_lane = code.intervals[0], code.bytes[0], code.positions[0]
        if mode == ENCODE:
            code.positions[0] = _encode(frequencies, symbols, *of_lane)
        elif mode == DECODE:
            code.positions[0] = decode_symbols(frequencies, symbols, *of_lane)
        return float(codelength(frequencies, symbols))


@jit
def carry(buffer: Any, size: Any) -> None:
    """Add one to the number that the first `size` bytes are."""
    i = size - 1
    while buffer[i] == 255:
        buffer[i] = 0
        i -= 1
    buffer[i] += np.uint8(1)


@jit
def narrow(state: Any, buffer: Any, size: Any, offset: Any, width: Any) -> Any:
    """Encoder: take [offset, offset + width) of the interval, write settled bytes."""
    low = state[0] + offset
    if low < offset:  # wrapped around 2^64
        carry(buffer, size)
    while width < _SETTLED:
        buffer[size] = np.uint8(low >> _TOP)
        size += 1
        low = low << _BYTE
        width = width << _BYTE
    state[0] = low
    state[1] = width
    return size


@jit
def follow(state: Any, payload: Any, position: Any, offset: Any, width: Any) -> Any:
    """Decoder: take [offset, offset + width) of the interval, read as many bytes."""
    code = state[0] - offset
    while width < _SETTLED:
        byte = payload[position] if position < len(payload) else np.uint8(0)
        position += 1
        code = (code << _BYTE) | np.uint64(byte)
        width = width << _BYTE
    state[0] = code
    state[1] = width
    return position


@jit
def rounded(bits: Any) -> Any:
    """A symbol's codelength in whole parts of 2^-24 bits, so that sums do not depend on order."""
    return np.rint(bits * PARTS) / PARTS


@jit
def codelength(frequencies: Any, symbols: Any) -> Any:
    """Bits of symbols (n,) by frequencies (n, V)."""
    bits = 0.0
    for i in range(len(symbols)):
        bits += rounded(TOTAL_BITS - np.log2(np.float64(frequencies[i, symbols[i]])))
    return bits


@jit
def _encode(frequencies: Any, symbols: Any, state: Any, buffer: Any, size: Any) -> Any:
    for i in range(len(symbols)):
        start = np.int64(0)
        for s in range(symbols[i]):
            start += frequencies[i, s]
        unit = state[1] >> _SHIFT
        width = unit * np.uint64(frequencies[i, symbols[i]])
        size = narrow(state, buffer, size, unit * np.uint64(start), width)
    return size


@jit
def decode_symbols(frequencies: Any, symbols: Any, state: Any, payload: Any, position: Any) -> Any:
    """Decode symbols (n,) in place, by frequencies (n, V); the new position."""
    last = frequencies.shape[1] - 1
    for i in range(len(symbols)):
        unit = state[1] >> _SHIFT
        point = np.int64(state[0] // unit)
        start = np.int64(0)
        s = 0
        while s < last and start + frequencies[i, s] <= point:
            start += frequencies[i, s]
            s += 1
        symbols[i] = s
        width = unit * np.uint64(frequencies[i, s])
        position = follow(state, payload, position, unit * np.uint64(start), width)
    return position
