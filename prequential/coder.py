"""Integer entropy coding: a range coder, its inverse, and a meter, all with one verb, `code`.

Frequencies of each symbol sum to 2^TOTAL_BITS. The coder keeps an interval [low, low + range) of
64-bit integers; a symbol takes its share of it. Once range falls below 2^48 a byte is settled, so
at least 24 bits remain above the total's and the rounding costs less than 2^-24 of the codelength.
Source: Martin 1979, range encoding; carries are added into the bytes already written.
"""

from __future__ import annotations

from typing import Any, Protocol

import numba
import numpy as np

from prequential.errors import DivergenceError

TOTAL_BITS = 24
_SHIFT = np.uint64(TOTAL_BITS)
_SETTLED = np.uint64(1 << 48)
_BYTE = np.uint64(8)
_TOP = np.uint64(56)
_ZERO = np.uint64(0)
_FULL = np.uint64(0xFFFFFFFFFFFFFFFF)

jit: Any = numba.njit(cache=True, nogil=True, error_model="numpy")


class Predictor(Protocol):
    """What a coder needs of a learner: integer frequencies of what comes next."""

    def predict(self, chunk: np.ndarray) -> np.ndarray:
        """Frequencies (T * B, 256) int32 of a known chunk (T, B), all columns at once."""
        ...

    def predict_column(self, column: int) -> np.ndarray:
        """Frequencies (B, 256) int32 of one column, after the columns before it."""
        ...

    def observe(self, symbols: np.ndarray) -> None:
        """Take in a decoded column (B,) uint8."""
        ...


class Meter:
    """Adds up the codelength of the symbols and writes nothing."""

    def __init__(self) -> None:
        self.loss_bits = 0.0  # sum of -log2(frequency / total)

    def code(self, chunk: np.ndarray, count: int, predictor: Predictor) -> None:
        """Measure the first `count` tokens, in time-major order, of the chunk (T, B)."""
        frequencies = predictor.predict(chunk)[:count]
        self.loss_bits += _codelength(frequencies, chunk.reshape(-1)[:count])


class Encoder:
    """Codes chunks into bytes; `finish` closes a payload, after which the next one begins."""

    def __init__(self) -> None:
        self.loss_bits = 0.0
        self._buffer = np.zeros(1 << 16, np.uint8)
        self._reset()

    def _reset(self) -> None:
        self._state = np.array([_ZERO, _FULL], np.uint64)  # low, range
        self._size = 0

    def code(self, chunk: np.ndarray, count: int, predictor: Predictor) -> None:
        """Code the first `count` tokens, in time-major order, of the chunk (T, B)."""
        frequencies = predictor.predict(chunk)[:count]
        symbols = chunk.reshape(-1)[:count]
        # A symbol settles at most 4 bytes.
        needed = self._size + 4 * count + 8
        if needed > len(self._buffer):
            grown = np.zeros(2 * needed, np.uint8)
            grown[: self._size] = self._buffer[: self._size]
            self._buffer = grown
        self._size = _encode(frequencies, symbols, self._state, self._buffer, self._size)
        self.loss_bits += _codelength(frequencies, symbols)

    def finish(self) -> bytes:
        """The payload so far, closed with as few bytes as name a number in the interval."""
        low, width = int(self._state[0]), int(self._state[1])
        for count in range(1, 9):
            unit = 1 << (64 - 8 * count)
            value = -(-low // unit) * unit
            if value < low + width:
                break
        if value >> 64:
            _carry(self._buffer, self._size)
        tail = (value & ((1 << 64) - 1)).to_bytes(8, "big")[:count]
        payload = self._buffer[: self._size].tobytes() + tail
        self._reset()
        return payload


class Decoder:
    """The inverse of `Encoder`: fills the chunk in, column by column."""

    def __init__(self) -> None:
        self.loss_bits = 0.0
        self.load(b"")

    def load(self, payload: bytes) -> None:
        """Begin a payload, as `Encoder.finish` returned it."""
        self._payload = np.frombuffer(payload + bytes(8), np.uint8)
        code = int.from_bytes(self._payload[:8].tobytes(), "big")
        self._state = np.array([code, _FULL], np.uint64)  # value - low, range
        self._position = 8

    def code(self, chunk: np.ndarray, count: int, predictor: Predictor) -> None:
        """Decode the first `count` tokens, in time-major order, of the chunk (T, B), in place.

        Raises:
            DivergenceError: the payload is used up: it was not written with these predictions.
        """
        columns, streams = chunk.shape
        for t in range(columns):
            valid = min(streams, count - t * streams)
            frequencies = predictor.predict_column(t)[:valid]
            self._position = _decode(
                frequencies, chunk[t, :valid], self._state, self._payload, self._position
            )
            if self._position > len(self._payload):
                raise DivergenceError("the payload ends too early for the decoded symbols")
            self.loss_bits += _codelength(frequencies, chunk[t, :valid])
            predictor.observe(chunk[t])


@jit
def _codelength(frequencies: Any, symbols: Any) -> Any:
    bits = 0.0
    for i in range(len(symbols)):
        bits += TOTAL_BITS - np.log2(np.float64(frequencies[i, symbols[i]]))
    return bits


@jit
def _carry(buffer: Any, size: Any) -> None:
    i = size - 1
    while buffer[i] == 255:
        buffer[i] = 0
        i -= 1
    buffer[i] += np.uint8(1)


@jit
def _encode(frequencies: Any, symbols: Any, state: Any, buffer: Any, size: Any) -> Any:
    low, width = state[0], state[1]
    for i in range(len(symbols)):
        start = np.int64(0)
        for s in range(symbols[i]):
            start += frequencies[i, s]
        unit = width >> _SHIFT
        offset = unit * np.uint64(start)
        width = unit * np.uint64(frequencies[i, symbols[i]])
        low += offset
        if low < offset:  # wrapped around 2^64
            _carry(buffer, size)
        while width < _SETTLED:
            buffer[size] = np.uint8(low >> _TOP)
            size += 1
            low = low << _BYTE
            width = width << _BYTE
    state[0] = low
    state[1] = width
    return size


@jit
def _decode(frequencies: Any, symbols: Any, state: Any, payload: Any, position: Any) -> Any:
    code, width = state[0], state[1]
    last = frequencies.shape[1] - 1
    for i in range(len(symbols)):
        unit = width >> _SHIFT
        point = np.int64(code // unit)
        start = np.int64(0)
        s = 0
        while s < last and start + frequencies[i, s] <= point:
            start += frequencies[i, s]
            s += 1
        symbols[i] = s
        code -= unit * np.uint64(start)
        width = unit * np.uint64(frequencies[i, s])
        while width < _SETTLED:
            byte = payload[position] if position < len(payload) else np.uint8(0)
            position += 1
            code = (code << _BYTE) | np.uint64(byte)
            width = width << _BYTE
    state[0] = code
    state[1] = width
    return position
