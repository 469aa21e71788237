"""Labels as a file: it decodes given the inputs, and costs what is measured."""

from __future__ import annotations

import io

import numpy as np
import pytest
from samples import noise, small

from prequential import codec
from prequential.archive.container import ArchiveReader
from prequential.config import Config
from prequential.errors import ArchiveError, ConfigError, PrequentialError
from prequential.report import Report
from prequential.study import decode_labels, encode_labels
from prequential.study.labelled import MARK
from prequential.study.supervised import own

GENERATOR = np.random.default_rng(0)
KNOWN = GENERATOR.integers(0, 3, 200)
INPUTS = [(b"red ", b"green", b"blue")[k] + noise(3, i) for i, k in enumerate(KNOWN)]
LABELS = [(b"r\n", b"g\n", b"b\n")[k] for k in KNOWN]
CONFIG = small("streams=1", "memory.kind=mix")


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        small("streams=1", "memory.kind=none"),
        small("streams=3", "memory.kind=mix"),
        small("streams=2", "memory.kind=mix", "epochs=2", "model.layers=1"),
    ],
)
def test_an_archive_of_labels_costs_what_is_measured_and_decodes(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, reports = codec.encode, list[Report]()
    monkeypatch.setattr(codec, "encode", lambda *a, **k: reports.append(encode(*a, **k)))
    archive = encode_labels(INPUTS, LABELS, config, seed=3)
    assert decode_labels(archive, INPUTS) == LABELS
    bits = own(INPUTS, LABELS, config, seed=3).sum()
    assert reports[0].loss_integral_bits == bits
    reader = ArchiveReader(io.BytesIO(archive[len(MARK) + 8 :]), "labels")
    payload, _ = reader.data()
    assert abs(8 * len(payload) - bits) <= 64  # of a frame
    assert len(archive) < 0.5 * len(codec.compress(b"".join(INPUTS + LABELS), 3, config))


def test_it_is_for_these_inputs_alone() -> None:
    archive = encode_labels(INPUTS, LABELS, CONFIG)
    joined = [INPUTS[0] + INPUTS[1][:1], INPUTS[1][1:], *INPUTS[2:]]
    for others in (INPUTS[::-1], INPUTS[:-1], joined, []):
        with pytest.raises(ArchiveError, match="given other inputs"):
            decode_labels(archive, others)
    with pytest.raises(ArchiveError, match="is no archive of encode_labels"):
        decode_labels(codec.compress(b"abc"), INPUTS)
    with pytest.raises(ArchiveError):
        codec.decompress(archive)


def test_damage_is_found() -> None:
    archive = encode_labels(INPUTS[:50], LABELS[:50], CONFIG)
    for place in range(len(MARK) + 8, len(archive), 7):
        damaged = bytearray(archive)
        damaged[place] ^= 1
        with pytest.raises(PrequentialError):
            decode_labels(bytes(damaged), INPUTS[:50])
    for end in (3, 12, 40, len(archive) - 1):
        with pytest.raises(ArchiveError):
            decode_labels(archive[:end], INPUTS[:50])


def test_labels_of_hardly_any_inputs() -> None:
    for inputs in ([b""], [b"", b"a"], [b"x", b""]):
        labels = [b"%d" % k for k in range(len(inputs))]
        assert decode_labels(encode_labels(inputs, labels, CONFIG), inputs) == labels


@pytest.mark.parametrize(
    ("inputs", "labels", "config", "told"),
    [
        ([b"a"], [], CONFIG, "1 inputs, 0 labels: give one for each"),
        ([], [], CONFIG, "give one for each"),
        ([b"a", b"b"], [b"1", b"22"], CONFIG, "of one length"),
        ([b"a"], [b""], CONFIG, "a byte or more"),
        ([b"a"], [b"1"], small("tokenizer=bpe:300", 'ngrams.contexts=["t1"]'), "byte by byte"),
        ([b"a"], [b"1"], small("memory.kind=mix", 'numbers="0-2:u1x1"'), "byte by byte"),
        ([b"a"], [b"1"], "none", "no preset"),
    ],
)
def test_refusals(
    inputs: list[bytes], labels: list[bytes], config: Config | str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        encode_labels(inputs, labels, config)


def test_text_is_no_bytes() -> None:
    """A sentence like any other refusal's, for labels and for inputs, both ways."""
    with pytest.raises(ConfigError, match=r"^labels\[0\] is str, not bytes: encode it"):
        encode_labels([b"a", b"b"], ["1", "2"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"^inputs\[1\] is int, not bytes"):
        encode_labels([b"a", 5], [b"1", b"2"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"^inputs\[0\] is str, not bytes"):
        decode_labels(MARK + bytes(20), ["a"])  # type: ignore[list-item]
