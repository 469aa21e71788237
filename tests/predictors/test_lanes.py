"""A memory in lanes: the same bits, whoever takes which."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from samples import small, text

from prequential import codec
from prequential.coding.coder import DECODE, ENCODE, Code, Decoder
from prequential.coding.encoder import Encoder
from prequential.coding.vocabulary import SINGLE_BYTES
from prequential.config import Config, load
from prequential.errors import ArchiveError, ConfigError, DivergenceError
from prequential.predictors.lanes import Lanes

LINES = b"".join(b"%d;%d;the same line again;\n" % (i % 7, i * i % 97) for i in range(150))


def config_of(lanes: int, *overrides: str) -> Config:
    kinds = "memory.kind=mix", "recurrence.layers=0", "model.layers=0", "chunk=5"
    return small(*kinds, f"lanes={lanes}", *overrides)


def lengths(data: bytes, config: Config, threads: int) -> tuple[bytes, str]:
    archive = codec.compress(data, 3, config, threads=threads)
    assert codec.decompress(archive, threads=threads) == data
    return archive, codec.codelength(data, 3, config, threads=threads).weights_digest


@pytest.mark.parametrize(
    ("data", "streams", "lanes"),
    [
        (text(3001, 8), 12, 3),
        (text(2000, 8) * 2, 7, 7),  # a stream each, most of it repeats of another's
        (LINES, 9, 2),
        (text(700, 1), 5, 64),  # more lanes than streams
        (b"ab", 12, 4),
        (bytes(5000), 8, 4),
    ],
)
def test_archives_are_the_same_for_any_number_of_threads(
    data: bytes, streams: int, lanes: int
) -> None:
    config = config_of(lanes, f"streams={streams}")
    alone = lengths(data, config, 1)
    assert lengths(data, config, 3) == lengths(data, config, 9) == alone


def test_a_window_that_is_shorter_than_the_input() -> None:
    """Pasts are overwritten while others read them."""
    config = config_of(4, "streams=8", "memory.window_log2=6")
    data = (text(300, 4) + LINES) * 3
    assert lengths(data, config, 1) == lengths(data, config, 5)


def test_what_the_chunk_before_has_taught_is_known_to_every_lane() -> None:
    """Tables are shared: what one lane has met makes another's like of it cheap."""
    a, b, c, d = (text(1000, seed) for seed in (8, 9, 10, 11))
    again, other = (
        len(codec.compress(a + b + c + last, 0, config_of(2, "streams=2"))) for last in (a, d)
    )
    assert again < 0.9 * other


def test_a_lane_costs_little() -> None:
    data = text(8000, 8)
    one, *others = (len(codec.compress(data, 0, config_of(n, "streams=16"))) for n in (0, 1, 4))
    assert all(0.95 * one < other < 1.25 * one for other in others)


def memory(threads: int) -> Lanes:
    return Lanes(config_of(3, "streams=6").resolve(6000), SINGLE_BYTES, threads)


def test_chunks_leave_all_that_is_learned_alike() -> None:
    """Encoder and decoder, with one thread and with several, column by column or chunk by chunk."""
    generator = np.random.default_rng(2)
    chunks = [generator.integers(97, 105, 30).astype(np.uint8) for _ in range(40)]
    frequencies = np.full((30, 256), 1 << 16, np.int32)
    encoding, decoding = memory(4), memory(1)
    encoder, decoder, bits = Encoder(3), Decoder(3), 0.0
    code = Code(encoder._intervals, encoder._buffer, encoder._sizes)
    for chunk in chunks:
        bits += encoding.code(ENCODE, chunk.copy(), frequencies, 0, code)
        encoding.learn()
    decoder.load(encoder.finish())
    code = Code(decoder._intervals, decoder._payload, decoder._positions)
    for chunk in chunks:
        found = np.zeros(30, np.uint8)
        for t in range(0, 30, 6):
            column = slice(t, t + 6)
            bits -= decoding.code(DECODE, found[column], frequencies[column], 0, code)
        assert (found == chunk).all()
        decoding.learn()
    assert bits == 0
    ours, theirs = encoding.arrays(), decoding.arrays()
    assert ours.keys() == theirs.keys()
    room = {name for name in ours if name.split(".")[2:3] in (["slots"], ["known"])}
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours.keys() - room)


def test_every_array_of_every_lane_is_kept_once() -> None:
    arrays = memory(1).arrays()
    assert len({array.ctypes.data for array in arrays.values() if array.size}) == len(
        [array for array in arrays.values() if array.size]
    )
    assert {f"memory.mixer.weights{lane}" for lane in ("", ".1", ".2")} <= arrays.keys()
    assert "memory.tables.nodes.1" not in arrays


@pytest.mark.parametrize("cut", [0, 1, 5, 40])
def test_a_damaged_payload_is_refused(cut: int) -> None:
    decoder = Decoder(3)
    decoder.load(Encoder(3).finish())
    with pytest.raises(DivergenceError, match="shorter than its lanes"):
        decoder.load(b"\xff\xff\x03" + bytes(cut))


def test_archives_of_which_bits_are_flipped_are_refused() -> None:
    archive = bytearray(codec.compress(LINES, 0, config_of(3, "streams=6")))
    generator = np.random.default_rng(0)
    for at in generator.integers(len(archive) // 2, len(archive) - 20, 6):
        damaged = archive.copy()
        damaged[at] ^= 16
        with pytest.raises(ArchiveError):
            codec.decompress(damaged)
    assert zlib.crc32(codec.decompress(archive)) == zlib.crc32(LINES)


def test_what_lanes_cannot_do_is_refused() -> None:
    for overrides in (["tokenizer=bpe:64"], ["numbers=0-60:u1x3/20"]):
        with pytest.raises(ConfigError, match="lanes are for"):
            load("fast", overrides=["lanes=2", *overrides])
