"""What goes in comes out, at every size and for every kind of data."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import noise, small, text

import prequential
from prequential import codec
from prequential.archive.container import Header
from prequential.archive.writer import ArchiveWriter
from prequential.errors import ArchiveError, ConfigError
from prequential.progress import Progress
from prequential.training import run

STEP = 4 * 8  # streams * chunk of `small`


@pytest.mark.parametrize(
    "size",
    [0, 1, 2, 3, 4, 5, STEP - 1, STEP, STEP + 1, 2 * STEP, 2 * STEP + 3, 255, 256, 257, 1023],
)
def test_sizes(size: int) -> None:
    for data in (text(size), noise(size), bytes(size)):
        archive = codec.compress(data, 5, small())
        assert codec.decompress(archive) == data
        assert len(archive) <= size * 1.001 + 256


def test_default_preset_keeps_small_files_small() -> None:
    data = text(300)
    archive = prequential.compress(data)
    assert prequential.decompress(archive) == data
    report = prequential.codelength(data)
    assert len(archive) - report.payload_bytes <= 256


def test_all_byte_values_and_binary() -> None:
    every = bytes(range(256))
    numbers = np.arange(600, dtype="<u4").tobytes()
    for data in (every, every[::-1] * 3, numbers, b"\r\n\x00\xff" * 99):
        assert codec.decompress(codec.compress(data, 0, small())) == data


def test_incompressible_data_is_stored() -> None:
    data = noise(20_000)
    archive = codec.compress(data, 0, small())
    assert len(archive) <= len(data) * 1.001 + 256
    assert codec.decompress(archive) == data


@settings(max_examples=25, deadline=None)
@given(
    data=st.binary(max_size=600),
    seed=st.integers(0, 2**64 - 1),
    streams=st.integers(1, 7),
    chunk=st.integers(1, 9),
    window=st.integers(0, 9),
    layers=st.integers(0, 2),
    optimizer=st.sampled_from(["adam", "sgd"]),
)
def test_any_data_and_shape(
    data: bytes, seed: int, streams: int, chunk: int, window: int, layers: int, optimizer: str
) -> None:
    config = small(
        f"streams={streams}",
        f"chunk={chunk}",
        f"model.window={window}",
        f"model.layers={layers}",
        f"optimizer.name={optimizer}",
        "optimizer.rate=0.1" if optimizer == "sgd" else "optimizer.rate=0.01",
    )
    assert codec.decompress(codec.compress(data, seed, config)) == data


def test_several_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FRAME_BYTES", 500)
    data = text(2300)
    archive = codec.compress(data, 0, small())
    assert codec.decompress(archive) == data


def test_payload_is_the_loss_integral() -> None:
    data = text(20_000)
    file = io.BytesIO()
    r = codec.encode(np.frombuffer(data, np.uint8), file, config=small())
    assert r.mode == "coded"
    assert abs(r.payload_bits - r.loss_integral_bits) <= 64 + 1e-4 * r.loss_integral_bits
    assert r.archive_bytes == len(file.getvalue())
    measured = codec.codelength(data, 0, small())
    assert measured.loss_integral_bits == r.loss_integral_bits
    assert measured.weights_digest == r.weights_digest
    assert abs(measured.archive_bytes - r.archive_bytes) <= 8
    assert r.description_length_bits == 8 * (r.archive_bytes + r.code_bytes)
    assert 5_000 < r.code_bytes < 60_000


@pytest.mark.slow
def test_learning_pays() -> None:
    """The point of it all: later bytes are cheaper, and the seed matters."""
    data = text(30_000)
    seen: list[Progress] = []
    archive = codec.compress(data, 0, small(), progress=seen.append)
    bits = [next(p.payload_bits for p in seen if p.bytes_done >= n) for n in (5000, 25_000)]
    assert seen[-1].bytes_done == len(data)
    assert seen[-1].payload_bits - bits[1] < 0.8 * bits[0]
    assert codec.compress(data, 1, small()) != archive


def test_diverging_hyperparameters_stay_exact() -> None:
    """A rate at which training blows up still decodes: numbers saturate, nothing turns to NaN."""
    for name in ("adam", "sgd"):
        config = small(f"optimizer.name={name}", "optimizer.rate=100.0", "optimizer.warmup=0")
        data = text(1500)
        assert codec.decompress(codec.compress(data, 0, config)) == data


def test_refusals() -> None:
    with pytest.raises(ArchiveError):
        codec.decompress(b"")
    with pytest.raises(ArchiveError):
        codec.decompress(b"not an archive at all, just text")
    with pytest.raises(ConfigError, match="GiB"):
        codec.compress(b"abc" * 100, 0, small("ngrams.rows_log2=24", "ngrams.slots=64"))


def test_an_absurd_size_is_one_clear_error() -> None:
    data = noise(300)
    header = Header(2**62, 0, bytes(8), None)
    file = io.BytesIO()
    writer = ArchiveWriter(file, header)
    writer.data(data)
    with pytest.raises(ArchiveError, match="room"):
        codec.decompress(file.getvalue())


def test_file_objects(tmp_path: Path) -> None:
    data = text(2000)
    archive = io.BytesIO()
    report = prequential.compress_file(io.BytesIO(data), archive, 4, small())
    assert archive.getvalue() == prequential.compress(data, 4, small())
    assert report.archive_bytes == len(archive.getvalue())
    archive.seek(0)
    with (tmp_path / "copy").open("wb") as target:
        prequential.decompress_file(archive, target)
    assert (tmp_path / "copy").read_bytes() == data
    damaged = io.BytesIO(archive.getvalue()[:-1])
    target = io.BytesIO()
    with pytest.raises(ArchiveError):
        prequential.decompress_file(damaged, target)
    assert target.getvalue() == b""


@pytest.mark.parametrize("data", [text(1500), noise(1500)], ids=["coded", "stored"])
def test_files_that_have_content(data: bytes, tmp_path: Path) -> None:
    """Appended to, overwritten where they stand, piped: never truncated, whatever the data."""
    config = small()
    archive = prequential.compress(data, 0, config)
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with path.open("ab") as file:
        prequential.compress_file(io.BytesIO(data), file, 0, config)
    assert path.read_bytes() == b"content" + archive
    with path.open("r+b") as file:
        file.seek(3)
        prequential.compress_file(io.BytesIO(data), file, 0, config)
    assert path.read_bytes() == b"con" + archive + (b"content" + archive)[3 + len(archive) :]
    with path.open("ab", buffering=0) as file:
        prequential.decompress_file(io.BytesIO(archive), file)
    assert path.read_bytes().endswith(archive[-4:] + data)


@pytest.mark.slow
@pytest.mark.parametrize("data", [text(1500), noise(100_000)], ids=["coded", "stored"])
def test_pipes(data: bytes) -> None:
    """Unbuffered ones, which take a part of what is written."""
    archive = prequential.compress(data, 0, small())

    def piped(work: Callable[[BinaryIO], object]) -> bytes:
        reader, writer = os.pipe()
        with ThreadPoolExecutor() as pool, open(reader, "rb") as source:
            read = pool.submit(source.read)
            with open(writer, "wb", buffering=0) as target:
                work(target)
            return read.result()

    assert piped(lambda f: prequential.compress_file(io.BytesIO(data), f, 0, small())) == archive
    assert piped(lambda f: prequential.decompress_file(io.BytesIO(archive), f)) == data


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    source = io.BytesIO(b"data")
    with (tmp_path / "file").open("rb") as file, pytest.raises(io.UnsupportedOperation):
        prequential.compress_file(source, file)
    assert source.tell() == 0


def test_configs_of_every_kind() -> None:
    data = text(400)
    archive = prequential.compress(data, config="tiny")
    assert archive == prequential.compress(data, config=prequential.load("tiny"))
    for wrong in ({}, "none such", b"tiny"):
        with pytest.raises(ConfigError):
            prequential.compress(data, config=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="xpu: is none of cpu, cuda"):
        prequential.compress(data, config="tiny", device="xpu")
    assert prequential.load("tiny", overrides={"streams": 2}).streams == 2
    with pytest.raises(ConfigError, match="unknown key"):
        prequential.load("tiny", overrides={"stream": 2})


def test_the_codelength_of_nothing() -> None:
    report = prequential.codelength(b"")
    assert (report.original_bytes, report.mode) == (0, "stored")
    assert report.archive_bytes == len(prequential.compress(b""))


def test_priors_in_python(tmp_path: Path) -> None:
    data, config, weights = text(800), small(), io.BytesIO()
    codec.encode(np.frombuffer(data, np.uint8), io.BytesIO(), config=config, weights=weights)
    (tmp_path / "w.safetensors").write_bytes(weights.getvalue())
    prior = prequential.load_prior(str(tmp_path / "w.safetensors"))
    archive = prequential.compress(data, 0, config, prior=prior)
    assert len(archive) < len(prequential.compress(data, 0, config))
    assert prequential.decompress(archive, prior=prior) == data
    report = prequential.codelength(data, 0, config, prior=prior)
    assert report.prior_bytes == prior.compressed_bytes
    with pytest.raises(prequential.ArchiveError, match=r"give it with prior=$"):
        prequential.decompress(archive)


def test_messages_name_parameters_where_python_calls() -> None:
    """The command line's flags are not what a caller has."""
    archive = prequential.compress(b"abc" * 100, 0, small(), given=[b"cab"])
    with pytest.raises(ArchiveError, match=r"give it with given=; given 1 is another file$"):
        prequential.decompress(archive, given=[b"b"])
    calls: list[Callable[[], object]] = [
        lambda: prequential.decompress(archive),
        lambda: prequential.decompress_file(io.BytesIO(archive), io.BytesIO()),
        lambda: prequential.compress(b"abc", device="tpu"),
        lambda: prequential.compress_file(io.BytesIO(b"abc"), io.BytesIO(), device="tpu"),
        lambda: prequential.codelength(
            b"abc", config=small("memory.buckets=200000000", "memory.kind=mix")
        ),
        lambda: prequential.load(overrides=["x"]),
        lambda: prequential.load(overrides=["chunk=1", "chunk.x=1"]),
    ]
    for call in calls:
        with pytest.raises(prequential.PrequentialError) as caught:
            call()
        assert "--" not in str(caught.value)
