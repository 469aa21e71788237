"""Pictures and sound in archives: round trips in every form, what they gain and do not cost."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from samples import noise, portable, small, text

from prequential import codec
from prequential.archive.container import ArchiveReader
from prequential.config import Config, load
from prequential.errors import ConfigError
from prequential.grids import Grid, parse
from prequential.predictors import numbers
from prequential.training.learner import Learner
from prequential.training.run import Options


def mixing(*overrides: str) -> Config:
    return small("streams=1", "memory.kind=mix", "model.layers=0", *overrides)


def picture(width: int, height: int, channels: int, kind: str = "u1", grain: int = 8) -> bytes:
    """Slopes and a few edges, with grain."""
    y, x, c = np.mgrid[0:height, 0:width, 0:channels]
    dust = np.frombuffer(noise(x.size, 3), np.uint8).reshape(x.shape) % grain
    shades = 60 + x + 2 * y + 9 * c + 40 * ((x // 11 + y // 7) % 2) + dust
    return shades.astype(kind).tobytes()


def sound(frames: int, channels: int, size: int, *, low_first: bool = True) -> bytes:
    time, c = np.mgrid[0:frames, 0:channels]
    unit = 1 << (8 * size - 8)
    hiss = np.frombuffer(noise(time.size, 4), np.uint8).reshape(time.shape) / 256 - 0.5
    wave = unit * (50 * np.sin(time / 9 + c) + 30 * np.sin(time / 2.3) + hiss)
    whole = np.round(wave).astype("<i4" if low_first else ">i4").view(np.uint8).reshape(-1, 4)
    kept = whole[:, :size] if low_first else whole[:, 4 - size :]
    return kept.tobytes()


PNM = b"P6 24 40 255\n" + picture(24, 40, 3)
CASES = {
    "rgb": (b"x" * 5 + picture(20, 16, 3) + b"end", "5-965:u1x3/60"),
    "grey": (picture(31, 20, 1), "0-620:u1x1/31"),
    "padded": (bytes(picture(21, 16, 3))[:960], "0-960:u1x3/64"),
    "rgba": (picture(12, 16, 4), "0-768:u1x4/48"),
    "two": (picture(20, 16, 2), "0-640:u1x2/40"),
    "grey16": (picture(20, 16, 1, ">u2", 200), "0-640:>u2x1/20"),
    "rgb16": (picture(12, 16, 3, "<u2", 200), "0-1152:<u2x3/36"),
    "sound8": (sound(700, 1, 1), "0-700:i1x1"),
    "mono": (b"head" + sound(500, 1, 2), "4-1004:<i2x1"),
    "stereo": (sound(250, 2, 2, low_first=False), "0-1000:>i2x2"),
    "deep": (sound(200, 2, 3), "0-1200:<i3x2"),
    "silence": (bytes(900), "0-900:<i2x1"),
    "clipped": (b"\xff\x7f" * 200 + b"\x00\x80" * 200, "0-800:<i2x1"),
    "several": (
        text(50) + picture(20, 16, 3) + text(70) + sound(200, 1, 2) + picture(9, 30, 1),
        "50-1010:u1x3/60,1080-1480:<i2x1,1480-1750:u1x1/9",
    ),
    "noise, twice": (noise(600) * 3, "0-1800:<u4x3"),
}


def test_the_logistic_function_is_the_one_of_the_format() -> None:
    z = np.arange(-4096, 4097) / 128
    np.testing.assert_allclose(numbers.LOGISTIC, 1 / (1 + np.exp(-z)), rtol=1e-14)
    assert (np.diff(numbers.LOGISTIC) >= 0).all()
    digest = hashlib.sha256(numbers.LOGISTIC.astype("<f8").tobytes()).hexdigest()[:32]
    assert digest == "e6dafb134f3a8023a5cb6a7eb90e3395"


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("streams", [1, 3])
def test_round_trips(name: str, streams: int) -> None:
    """By whole chunks and by columns; streams may begin within an element, or a row."""
    data, grids = CASES[name]
    config = mixing(f"numbers={grids}", f"streams={streams}", "chunk=5")
    archive = codec.compress(data, 1, config)
    assert codec.decompress(archive, threads=2) == data
    assert ArchiveReader(io.BytesIO(archive), "").header.config is not None
    measured = codec.codelength(data, 1, config)
    assert abs(8 * measured.payload_bytes - measured.loss_integral_bits) <= 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rgb", "mono"])
def test_no_form_changes_a_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, grids = CASES[name]
    config = mixing(f"numbers={grids}", "streams=2", "epochs=2")
    archive = codec.compress(data, 1, config, threads=1)
    assert codec.compress(data, 1, config, threads=2) == archive
    with portable():
        assert codec.compress(data, 1, config) == archive
        assert codec.decompress(archive) == data  # one column at a time
    init = Learner.__init__

    def one_by_one(self: Learner, *args: object, **named: object) -> None:
        init(self, *args, **named)  # type: ignore[arg-type]
        self.decode_columns = None

    monkeypatch.setattr(Learner, "__init__", one_by_one)
    assert codec.decompress(archive) == data


@pytest.mark.slow
def test_they_are_found_and_gain() -> None:
    config = mixing("chunk=64")
    for data in (PNM, PNM + text(2000) + PNM[::-1] + PNM):
        plain = len(codec.compress(data, 1, config))
        archive = codec.compress(data, 1, mixing("chunk=64", "numbers=auto"))
        assert len(archive) < 0.96 * plain
        assert codec.decompress(archive) == data
        header = ArchiveReader(io.BytesIO(archive), "").header
        assert header.config is not None
        assert parse(header.config.numbers)[0] == Grid(13, 2893, 1, 3, 72, False, False)


@pytest.mark.slow
def test_a_wrong_header_costs_nothing() -> None:
    """What it says is tried, and found to be no picture."""
    for data in (b"P6 24 40 255\n" + text(2880), b"P5 99 9 255\n" + noise(891), text(500)):
        plain = codec.compress(data, 1, mixing("chunk=64"))
        assert codec.compress(data, 1, mixing("chunk=64", "numbers=auto")) == plain


@pytest.mark.slow
def test_without_a_memory_there_are_none() -> None:
    for overrides in (["memory.kind=none"], ["tokenizer=bpe:300"]):
        config = load("tiny", overrides=["numbers=auto", *overrides])
        assert codec.codelength(PNM, 1, config).config["numbers"] == ""  # type: ignore[index]


def test_numbers_beyond_the_input_are_refused() -> None:
    with pytest.raises(ConfigError, match="beyond"):
        codec.compress(PNM, 1, mixing("numbers=13-9999:u1x3/72"))


@pytest.mark.slow
def test_a_part_that_is_salvaged_is_in_the_order_of_the_file(tmp_path: Path) -> None:
    """An archive that is damaged behind its first frame."""
    data = sound(140_000, 1, 2)
    archive = bytearray(codec.compress(data, 1, mixing("chunk=512", "numbers=0-280000:<i2x1")))
    archive[-40] ^= 1
    decoded = list[slice]()
    out = np.zeros(len(data), np.uint8)
    with pytest.raises(Exception, match="checksum"):
        codec.decode(io.BytesIO(bytes(archive)), lambda _: out, Options(), decoded)
    (part,) = decoded
    assert 1 << 18 <= part.stop < len(data)
    assert part.stop % 2 == 0
    assert out[part].tobytes() == data[part]
