"""The range coder against its own inverse and against exact fractions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prequential.coding.coder import TOTAL_BITS, Decoder, Direct
from prequential.coding.encoder import Encoder
from prequential.coding.meter import Meter
from prequential.errors import DivergenceError

TOTAL = 1 << TOTAL_BITS


class Fixed:
    """A predictor whose frequencies are given in advance."""

    def __init__(self, frequencies: np.ndarray, streams: int) -> None:
        self.frequencies = frequencies
        self.streams = streams
        self.symbol_coder = Direct()

    def predict(self, chunk: np.ndarray, task: Callable[[np.ndarray], None]) -> None:
        task(self.frequencies)

    def predict_column(self, column: int) -> np.ndarray:
        return self.frequencies[column * self.streams : (column + 1) * self.streams]

    decode_columns = None

    def observe(self, symbols: np.ndarray) -> None:
        pass


def frequencies_for(weights: np.ndarray) -> np.ndarray:
    """Rows of positive integers that sum to the coder's total."""
    scaled = np.maximum(1, (weights / weights.sum(1, keepdims=True) * (TOTAL - 256)).astype(int))
    scaled[:, 0] += TOTAL - scaled.sum(1)
    assert scaled.min() >= 1
    return scaled.astype(np.int32)


def round_trip(frequencies: np.ndarray, symbols: np.ndarray, count: int) -> tuple[bytes, float]:
    predictor = Fixed(frequencies, symbols.shape[1])
    encoder, decoder, meter = Encoder(), Decoder(), Meter()
    encoder.code(symbols, count, predictor)
    payload = encoder.finish()
    decoded = np.zeros_like(symbols)
    decoder.load(payload)
    decoder.code(decoded, count, predictor)
    meter.code(symbols, count, predictor)
    assert (decoded.reshape(-1)[:count] == symbols.reshape(-1)[:count]).all()
    assert encoder.loss_bits == meter.loss_bits
    assert math.isclose(decoder.loss_bits, meter.loss_bits)
    return payload, meter.loss_bits


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32), columns=st.integers(1, 40), streams=st.integers(1, 5),
    sharpness=st.floats(0, 30),
)  # fmt: skip
def test_round_trip_at_the_ideal_length(
    seed: int, columns: int, streams: int, sharpness: float
) -> None:
    generator = np.random.default_rng(seed)
    n = columns * streams
    frequencies = frequencies_for(np.exp(generator.random((n, 256)) * sharpness))
    symbols = generator.integers(0, 256, (columns, streams)).astype(np.uint8)
    payload, loss_bits = round_trip(frequencies, symbols, n - int(generator.integers(0, streams)))
    assert loss_bits - 16 <= 8 * len(payload) <= loss_bits + 17


def test_extreme_frequencies() -> None:
    """All but certain symbols, and the same when the impossible happens every time."""
    sure = np.ones((500, 256), np.int32)
    sure[:, 255] = TOTAL - 255
    payload, loss_bits = round_trip(sure, np.full((500, 1), 255, np.uint8), 500)
    assert len(payload) <= 1
    assert loss_bits < 0.1
    payload, loss_bits = round_trip(sure, np.zeros((500, 1), np.uint8), 500)
    assert loss_bits == 24 * 500
    assert 8 * len(payload) <= loss_bits + 17


def test_carries_run_through_many_bytes() -> None:
    """Symbols at the very top of the interval give long runs of 0xff before a carry."""
    top = np.ones((3000, 256), np.int32)
    top[:, 0] = TOTAL - 255
    generator = np.random.default_rng(3)
    for rare in (0.001, 0.5):
        symbols = np.where(generator.random((3000, 1)) < rare, 0, 255).astype(np.uint8)
        round_trip(top, symbols, 3000)


def test_payloads_are_independent() -> None:
    frequencies = frequencies_for(np.ones((8, 256)))
    symbols = np.arange(8, dtype=np.uint8)[:, None]
    encoder = Encoder()
    payloads = []
    for _ in range(2):
        encoder.code(symbols, 8, Fixed(frequencies, 1))
        payloads.append(encoder.finish())
    assert payloads[0] == payloads[1]


def test_a_payload_that_is_too_short_is_noticed() -> None:
    frequencies = frequencies_for(np.ones((100, 256)))
    decoder = Decoder()
    decoder.load(b"\x80")
    with pytest.raises(DivergenceError):
        decoder.code(np.zeros((100, 1), np.uint8), 100, Fixed(frequencies, 1))
