"""Integer entropy coding: a range coder in loops that go both ways, and its decoder.

Frequencies of each symbol sum to 2^TOTAL_BITS. The coder keeps an interval [low, low + range) of
64-bit integers; a symbol takes its share of it. Once range falls below 2^48 a byte is settled, so
at least 24 bits remain above the total's and the rounding costs less than 2^-24 of the codelength.
Source: Martin 1979, range encoding; carries are added into the bytes already written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

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


class SymbolCoder(Protocol):
    """Codes symbols with a predictor's frequencies: `Direct`, or a memory that mixes them."""

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
        """Encode, decode in place, or measure symbols (n,), in time-major order.

        The first is of the stream `first`; frequencies (n, V) int32. state holds the
        interval (2,) uint64, position counts the bytes of buffer used. Returns the new position
        and the codelength in bits, a sum of the symbols' `rounded` ones.
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
    ) -> Callable[[np.ndarray, int, np.ndarray, np.ndarray, int], tuple[int, float]] | None:
        """Decodes and observes a chunk in one call; None: columns go one at a time.

        It takes (chunk (T, B), count, state, payload, position), and returns what
        `SymbolCoder.code` does.
        """
        ...

    def observe(self, symbols: np.ndarray) -> None:
        """Take in a decoded column (B,) uint8."""
        ...


class Decoder:
    """The inverse of `Encoder`: fills the chunk in, column by column."""

    def __init__(self) -> None:
        self.loss_bits = 0.0
        self.load(b"")

    def load(self, payload: bytes) -> None:
        """Begin a payload, as `Encoder.finish` returned it."""
        self._payload = np.frombuffer(bytearray(payload + bytes(8)), np.uint8)
        code = int.from_bytes(self._payload[:8].tobytes(), "big")
        self._state = interval(code)
        self._position = 8

    def code(self, chunk: np.ndarray, count: int, predictor: Predictor) -> None:
        """Decode the first `count` tokens, in time-major order, of the chunk (T, B), in place.

        Raises:
            DivergenceError: the payload is used up: it was not written with these predictions.
        """
        if (at_once := predictor.decode_columns) is not None:
            self._add(at_once(chunk, count, self._state, self._payload, self._position))
            return
        columns, streams = chunk.shape
        for t in range(columns):
            valid = min(streams, count - t * streams)
            frequencies = predictor.predict_column(t)[:valid]
            code = predictor.symbol_coder.code
            symbols, state = chunk[t, :valid], self._state
            self._add(code(DECODE, symbols, frequencies, 0, state, self._payload, self._position))
            predictor.observe(chunk[t])

    def _add(self, decoded: tuple[int, float]) -> None:
        self._position, bits = decoded
        self.loss_bits += bits
        if self._position > len(self._payload):
            raise DivergenceError("the payload ends too early for the decoded symbols")


def interval(low: int = 0) -> np.ndarray:
    """(low, range) of an encoder, or (value - low, range) of a decoder."""
    return np.array([low, _FULL], np.uint64)


class Direct:
    """Codes each symbol with its frequency, out of 2^TOTAL_BITS."""

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
        """See `SymbolCoder.code`."""
        if mode == ENCODE:
            position = _encode(frequencies, symbols, state, buffer, position)
        elif mode == DECODE:
            position = decode_symbols(frequencies, symbols, state, buffer, position)
        return position, codelength(frequencies, symbols)


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
