"""The other side of `coder.Decoder`, with the same verb, `code`."""

from __future__ import annotations

import numpy as np

from prequential.coding.coder import ENCODE, Predictor, carry, interval


class Encoder:
    """Codes chunks into bytes; `finish` closes a payload, after which the next one begins."""

    def __init__(self) -> None:
        self.loss_bits = 0.0
        self._buffer = np.zeros(1 << 16, np.uint8)
        self._reset()

    def _reset(self) -> None:
        self._state = interval()
        self._size = 0

    def code(self, chunk: np.ndarray, count: int, predictor: Predictor) -> None:
        """Code the first `count` tokens, in time-major order, of the chunk (T, B)."""
        symbols = chunk.reshape(-1)[:count]
        # A symbol settles at most 4 bytes. With a memory a byte is eight decisions of at
        # most 18 bits, and a piece has up to 16 bytes of nine.
        needed = self._size + (24 if chunk.itemsize == 1 else 16 * 24) * count + 8
        if needed > len(self._buffer):
            grown = np.zeros(2 * needed, np.uint8)
            grown[: self._size] = self._buffer[: self._size]
            self._buffer = grown

        def encode(frequencies: np.ndarray) -> None:
            self._size, bits = predictor.symbol_coder.code(
                ENCODE, symbols, frequencies[:count], 0, self._state, self._buffer, self._size
            )
            self.loss_bits += bits

        predictor.predict(chunk, encode)

    def finish(self) -> bytes:
        """The payload so far, closed with as few bytes as name a number in the interval."""
        low, width = int(self._state[0]), int(self._state[1])
        for count in range(1, 9):
            unit = 1 << (64 - 8 * count)
            value = -(-low // unit) * unit
            if value < low + width:
                break
        if value >> 64:
            carry(self._buffer, self._size)
        tail = (value & ((1 << 64) - 1)).to_bytes(8, "big")[:count]
        payload = self._buffer[: self._size].tobytes() + tail
        self._reset()
        return payload
