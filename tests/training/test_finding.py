"""Where numbers are guessed to be in bytes without headers, and that what does not pay is left."""

from __future__ import annotations

import numpy as np
import pytest
from samples import noise, small

from prequential import codec
from prequential.config import Config
from prequential.grids import Grid, parse
from prequential.training import finding
from prequential.training.guessing import BLOCK, guesses


def picture(width: int, height: int, channels: int) -> bytes:
    y, x, c = np.mgrid[0:height, 0:width, 0:channels]
    dust = np.frombuffer(noise(x.size, 3), np.uint8).reshape(x.shape) % 8
    shades = 99 + 60 * np.sin(x / 31 + y / 17) + 9 * c + 30 * ((x // 41 + y // 37) % 2) + dust
    return shades.astype(np.uint8).tobytes()


def sound(frames: int) -> bytes:
    time = np.arange(frames)
    hiss = np.frombuffer(noise(frames, 4), np.uint8) - 128.0
    return (
        np.round(9000 * np.sin(time / 19) + 4000 * np.sin(time / 7) + hiss).astype("<i2").tobytes()
    )


def of(data: bytes) -> list[Grid]:
    return guesses(np.frombuffer(data, np.uint8), 0, len(data))


def config() -> Config:
    return small("memory.kind=mix", "numbers=auto")


@pytest.mark.slow
def test_pictures_by_their_rows() -> None:
    for channels in (1, 3, 4):
        data = picture(301, 600 // channels, channels)
        (grid,) = of(data)
        assert grid == Grid(0, len(data), 1, channels, 301 * channels, False, False)


def test_sound_by_its_order() -> None:
    assert of(sound(40_000)) == [Grid(0, 80_000, 2, 1, 0, True, True)]
    swapped = np.frombuffer(sound(40_000), "<i2").byteswap().tobytes()
    assert of(swapped) == [Grid(0, 80_000, 2, 1, 0, False, True)]


def test_nothing_in_text_noise_and_little() -> None:
    for data in (b"to be or not to be, " * 9999, noise(200_000), bytes(200_000), sound(9000)):
        assert of(data) == []


def test_between_other_things() -> None:
    data = noise(2 * BLOCK) + sound(BLOCK) + noise(3 * BLOCK)
    assert of(data) == [Grid(2 * BLOCK, 4 * BLOCK, 2, 1, 0, True, True)]


@pytest.mark.slow
def test_what_is_guessed_is_tried() -> None:
    heard = np.frombuffer(sound(40_000), np.uint8)
    assert finding.find(heard, config()) == "0-80000:<i2x1"
    # A pause in the middle, which is nothing to anybody, does not hide the rest.
    paused = bytearray(sound(40_000))
    paused[20_000:60_000] = bytes(40_000)
    header = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0@\x1f\0\0\x80\x3e\0\0\2\0\x10\0data"
    file = header + len(paused).to_bytes(4, "little") + paused
    assert finding.find(np.frombuffer(file, np.uint8), config()) == "44-80044:<i2x1"
    # One byte of two is the same, and the other has no order that least squares would find.
    mixed = np.stack([np.full(40_000, 7, np.uint8), np.frombuffer(noise(40_000), np.uint8)], 1)
    assert of(mixed.tobytes())
    assert finding.find(mixed.reshape(-1), config()) == ""


@pytest.mark.slow
def test_headers_come_first() -> None:
    shown = b"P6 301 200 255\n" + picture(301, 200, 3)
    data = shown + sound(50_000)
    grids = f"15-{len(shown)}:u1x3/903,{len(shown)}-{len(data)}:<i2x1"
    assert finding.find(np.frombuffer(data, np.uint8), config()) == grids


@pytest.mark.slow
def test_a_plan_says_what_is_found() -> None:
    header = b"P6 60 60 255\n"
    data = np.frombuffer(header + picture(60, 60, 3), np.uint8)
    (grid,) = parse(codec.plan(data, config()).config.numbers)
    assert grid == Grid(len(header), len(data), 1, 3, 180, False, False)
