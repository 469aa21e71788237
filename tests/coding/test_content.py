"""Prose and binaries are noticed, and have rates of their own, which the archive says."""

from __future__ import annotations

import io

import numpy as np
import pytest
from samples import text

from prequential import codec
from prequential.archive.container import ArchiveReader
from prequential.coding import content
from prequential.config import USUAL_RATE, Config, load
from prequential.errors import ConfigError

BINARY = bytes(range(256)) * 20
CODE = b"if (x[i] != 0) { y += z[i++] * 0x1f; }  /* ... */\n" * 40


def rate_of(archive: bytes) -> int:
    config = ArchiveReader(io.BytesIO(archive), "a").header.config
    assert config is not None
    return config.memory.mixer_rate


@pytest.mark.parametrize(("data", "expected"), [(text(3000), True), (CODE, False)])
def test_prose_is_letters_and_white_space(data: bytes, expected: bool) -> None:
    assert content.is_prose(content.counted(np.frombuffer(data, np.uint8))) == expected


def test_long_inputs_are_judged_by_spans_of_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "SAMPLE_BYTES", 1 << 18)
    data = np.frombuffer(text(1 << 19) + CODE * 500, np.uint8)
    assert len(content.sample(data)) == 1 << 18
    assert not content.is_prose(content.counted(data))
    assert content.is_prose(content.counted(data[: 1 << 19]))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (text(3000), False),
        (CODE + bytes(9000), False),  # as in a tar
        ("\x1b[1mЖизнь\tASCII\x1b[0m\r\n".encode() * 9, False),
        ("Война и мир\n".encode("utf-16") * 90, False),
        (BINARY, True),
        (text(1000) + BINARY[:2000], True),
        (b"", False),
    ],
)
def test_binaries_have_control_characters(data: bytes, expected: bool) -> None:
    assert content.is_binary(content.counted(np.frombuffer(data, np.uint8))) == expected


@pytest.mark.parametrize(
    ("preset", "prose", "binary"), [("fast", 10, 24), ("default", 10, 24), ("best", 20, 40)]
)
def test_rates(preset: str, prose: int, binary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_LONG_BYTES", 4000)
    config = load(preset)
    for data, rate in (
        (text(4000), prose),
        (text(3999), USUAL_RATE),
        (CODE * 3, USUAL_RATE),
        (BINARY, binary),
        (BINARY[:300], binary),
        (b"", USUAL_RATE),
    ):
        found = content.with_rate(config, np.frombuffer(data, np.uint8))
        assert found.memory.mixer_rate == rate
    asked = load(preset, overrides=["memory.mixer_rate=7"])
    for data in text(4000), BINARY:
        assert content.with_rate(asked, np.frombuffer(data, np.uint8)) == asked


def test_the_archive_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_LONG_BYTES", 4000)
    data = text(5000)
    archive = codec.compress(data, 0, load("fast"))
    assert rate_of(archive) == 10
    assert rate_of(codec.compress(data, 0, load("fast"), given=[text(500, 3)])) == USUAL_RATE
    monkeypatch.setattr(content, "_LONG_BYTES", 1 << 40)
    assert codec.decompress(archive) == data
    assert rate_of(codec.compress(data, 0, load("fast"))) == USUAL_RATE


def test_a_rate_that_is_to_be_found_is_for_the_encoder_alone() -> None:
    config = load("fast")
    assert config.memory.mixer_rate == 0
    assert config.resolve(5000).memory.mixer_rate == USUAL_RATE
    with pytest.raises(ConfigError, match="leaves the encoder's choices open"):
        Config.from_bytes(config.to_bytes())
