"""The past-only memory: exact tables, equal bits for whole chunks and columns, and its reach."""

from __future__ import annotations

import hashlib
import io
import lzma
import math

import numpy as np
import pytest
from samples import noise, small, text

from prequential import codec
from prequential.coding import bits
from prequential.coding.coder import ENCODE
from prequential.coding.encoder import blank
from prequential.coding.vocabulary import SINGLE_BYTES, Vocabulary
from prequential.config import Config, load
from prequential.exact import scalars
from prequential.predictors import memory
from prequential.predictors.memory import Memory
from prequential.predictors.sample import SAMPLE


def mixing(*overrides: str) -> Config:
    return small("memory.kind=mix", "model.layers=0", *overrides)


def archive_of(data: bytes, config: Config) -> bytes:
    archive = codec.compress(data, 1, config)
    assert codec.decompress(archive) == data
    return archive


def test_tables_are_the_ones_of_the_format() -> None:
    x = np.arange(-3072, 3072)
    exact = 65536 / (1 + np.exp(-x / 256))
    assert np.abs(scalars.SQUASH - np.clip(exact, 1, 65535)).max() <= 0.5 + 1e-6
    assert (np.diff(bits.STRETCH) >= 0).all()
    p = (np.arange(4096) + 0.5) / 4096
    # Where the inverse is steep, rounding to 16 bits shows.
    assert np.abs(bits.STRETCH - 256 * np.log(p / (1 - p))).max() < 17
    tables = scalars.SQUASH.astype("<i4").tobytes() + bits.STRETCH.astype("<i4").tobytes()
    assert hashlib.sha256(tables).hexdigest()[:32] == "df5b7a373f96a5a91abbd7dfc8016562"


def test_tokens_are_remembered() -> None:
    """For contexts of tokens, which the memory's list may name."""
    made = Memory(mixing().resolve(4).memory, 2, SINGLE_BYTES)
    symbols, frequencies = np.array([3, 5, 4, 6]), np.ones((4, 256), np.int32)
    made.code(ENCODE, symbols, frequencies, 0, blank(size=200))
    assert made.history.state.tokens[:, :2].tolist() == [[4, 3], [6, 5]]


def test_the_sample_teaches_tables_and_mixer_alone() -> None:
    """What comes first is coded shorter, and the past that matches reach is empty all the same."""
    codelengths = []
    for sample in (SAMPLE, b""):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(memory, "SAMPLE", sample)
            made = Memory(mixing().resolve(4).memory, 1, SINGLE_BYTES)
        state = made.states[0]
        assert state.matches.position.tolist() == [0]
        assert not state.matches.past.any()
        assert not any(array.any() for array in made.history.arrays().values())
        assert state.mixer.doubts.tolist() == [1 << 12]
        assert bool(state.mixer.uses.any()) == bool(sample)
        symbols = np.frombuffer(b"for other versions of this file", np.uint8).copy()
        frequencies = np.ones((len(symbols), 256), np.int32)
        codelengths.append(made.code(ENCODE, symbols, frequencies, 0, blank(size=200)))
    assert codelengths[0] < 0.7 * codelengths[1]


def test_pieces_are_no_sample() -> None:
    pieces = Vocabulary((b"a", b"ab", b"b"))
    made = Memory(mixing().resolve(4).memory, 1, pieces)
    assert not made.states[0].mixer.uses.any()


@pytest.mark.slow
@pytest.mark.parametrize("streams", [1, 3])
def test_round_trips_and_codelength(streams: int) -> None:
    for data in (text(4000), noise(600) * 3, bytes(3000), np.arange(900, dtype="<u4").tobytes()):
        config = mixing(f"streams={streams}")
        file = io.BytesIO()
        report = codec.encode(np.frombuffer(data, np.uint8), file, config=config)
        assert codec.decompress(file.getvalue()) == data
        measured = codec.codelength(data, 0, config)
        assert measured.loss_integral_bits == report.loss_integral_bits
        slack = 64 + 1e-4 * report.loss_integral_bits
        assert abs(report.payload_bits - report.loss_integral_bits) <= slack


@pytest.mark.slow
def test_long_repeats_cost_little_across_streams() -> None:
    """Noise seen once is found again, in another stream too."""
    block = noise(6000)
    once = len(archive_of(block, mixing("streams=1")))
    twice = len(archive_of(block + block[:5999], mixing("streams=1")))
    assert twice < once + 900
    # Two streams of equal text run side by side: the second follows the first one column late.
    for streams in (1, 2):
        archive_of(block * 4, mixing(f"streams={streams}"))


@pytest.mark.slow
def test_a_small_window_wraps_around() -> None:
    data = text(3000, 1) + noise(1500) * 2 + text(3000, 1)
    for streams in (1, 4):
        archive_of(data, mixing("memory.window_log2=8", f"streams={streams}"))


@pytest.mark.slow
def test_tiny_tables_only_cost_ratio() -> None:
    data = text(20_000)
    roomy = len(archive_of(data, mixing()))
    cramped = len(archive_of(data, mixing("memory.buckets=200", "ngrams.rows_log2=8")))
    assert cramped < 1.5 * roomy


@pytest.mark.slow
def test_memory_helps_and_beats_counting_alone() -> None:
    """Markov text: within a tenth of the entropy of its words once they are known."""
    data = text(60_000)
    with_memory = codec.codelength(data, 0, mixing("streams=1")).loss_integral_bits
    without = codec.codelength(data, 0, small("streams=1", "model.layers=0")).loss_integral_bits
    assert with_memory < without
    words = len(data.split())
    assert with_memory < 1.1 * words * math.log2(len(set(data.split()))) + 20_000


@pytest.mark.slow
def test_extreme_confidence_is_bounded() -> None:
    """A long run, then a surprise, then the run again: no bit costs more than 18 bits."""
    data = bytes(30_000) + b"\xff" + bytes(1000)
    report = codec.codelength(data, 0, mixing("streams=1"))
    assert report.loss_integral_bits < 31_000 * 8 * math.log2(1 / (1 - 64 / 2**22)) + 600


@pytest.mark.slow
@pytest.mark.parametrize("unit", [b"\0", b"\xff", b"ab", b"the same line again and again\n"])
def test_nothing_but_repeats_is_shorter_than_with_lzma(unit: bytes) -> None:
    data = (unit * 100_000)[:100_000]
    compressed = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    assert len(archive_of(data, load("fast"))) < len(compressed)


@pytest.mark.slow
def test_noise_costs_next_to_nothing_more_than_itself() -> None:
    """After a while the memory knows that it knows nothing: 1/2,000 of each further byte."""
    config = mixing("streams=1")
    begun, longer = (
        codec.codelength(noise(n), 0, config).loss_integral_bits for n in (30000, 90000)
    )
    assert longer - begun < 60_000 * 8 * 1.0005


@pytest.mark.slow
def test_what_followed_before_is_a_context() -> None:
    """Pairs that alternate in what follows: one of the last two, never the same one twice."""
    alternating = b"".join(b"%c=%d;" % (65 + i * 7 % 13, i // 13 % 2) for i in range(6000))
    bits = codec.codelength(alternating, 0, mixing("streams=1", "memory.contexts=['o1']"))
    assert bits.loss_integral_bits < 6000
