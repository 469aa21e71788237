"""The other side of `coder.Decoder`, with the same verb, `code`."""

from __future__ import annotations

import numpy as np

from prequential.coding.coder import ENCODE, Code, Predictor, carry, interval
from prequential.config import varint


def blank(lanes: int = 1, size: int = 0) -> Code:
    """The code of an encoder that has written nothing, with room for so many bytes a lane."""
    intervals, buffer = np.array([interval()] * lanes), np.zeros((lanes, size), np.uint8)
    return Code(intervals, buffer, np.zeros(lanes, np.int64))


class Encoder:
    """Codes chunks into bytes; `finish` closes a payload, after which the next one begins."""

    def __init__(self, lanes: int = 1) -> None:
        self.loss_bits = 0.0
        self._intervals, self._buffer, self._sizes = blank(lanes, 1 << 16)

    def code(self, chunk: np.ndarray, count: int, predictor: Predictor) -> None:
        """Code the first `count` tokens, in time-major order, of the chunk (T, B)."""
        symbols = chunk.reshape(-1)[:count]
        # A symbol settles at most 4 bytes. With a memory a byte is eight decisions of at
        # most 18 bits, and a piece has up to 16 bytes of nine.
        needed = int(self._sizes.max()) + (24 if chunk.itemsize == 1 else 16 * 24) * count + 8
        if needed > self._buffer.shape[1]:
            grown = np.zeros((len(self._buffer), 2 * needed), np.uint8)
            grown[:, : self._buffer.shape[1]] = self._buffer
            self._buffer = grown
        code = Code(self._intervals, self._buffer, self._sizes)

        def encode(frequencies: np.ndarray) -> None:
            self.loss_bits += predictor.symbol_coder.code(
                ENCODE, symbols, frequencies[:count], 0, code
            )

        predictor.predict(chunk, encode)

    def finish(self) -> bytes:
        """The payload so far, each lane closed with as few bytes as name a number in it."""
        lanes = [self._closed(lane) for lane in range(len(self._buffer))]
        self._intervals, _, self._sizes = blank(len(lanes))
        return b"".join([*(varint(len(lane)) for lane in lanes[:-1]), *lanes])

    def _closed(self, lane: int) -> bytes:
        low, width = (int(x) for x in self._intervals[lane])
        buffer, size = self._buffer[lane], self._sizes[lane]
        for count in range(1, 9):
            unit = 1 << (64 - 8 * count)
            value = -(-low // unit) * unit
            if value < low + width:
                break
        if value >> 64:
            carry(buffer, size)
        tail = (value & ((1 << 64) - 1)).to_bytes(8, "big")[:count]
        return bytes(buffer[:size]) + tail
