"""A prior is given to the decoder, so it is a part of the description."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from samples import small, text

from prequential import codec
from prequential.archive.container import ArchiveReader
from prequential.cli import main
from prequential.errors import ArchiveError, ConfigError, FileError
from prequential.report import Report
from prequential.training import prior
from prequential.training.run import Options

CONFIG = small("model.input_rows_log2=8")


def encode(data: bytes, given: prior.Prior | None = None) -> tuple[bytes, bytes, Report]:
    archive, weights = io.BytesIO(), io.BytesIO()
    array = np.frombuffer(data, np.uint8)
    report = codec.encode(
        array, archive, config=CONFIG, options=Options(prior=given), weights=weights
    )
    return archive.getvalue(), weights.getvalue(), report


def decode(archive: bytes, given: prior.Prior | None) -> bytes:
    out = bytearray()

    def allocate(size: int) -> np.ndarray:
        out.extend(bytes(size))
        return np.frombuffer(out, np.uint8)

    codec.decode(io.BytesIO(archive), allocate, Options(prior=given))
    return bytes(out)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prior") / "trained.safetensors"
    path.write_bytes(encode(text(6000))[1])
    return path


def test_a_contaminated_prior_does_not_pay(trained: Path) -> None:
    """Trained on the very file: the payload falls, the total must not."""
    data = text(6000)
    _, _, plain = encode(data)
    archive, _, report = encode(data, prior.load(str(trained)))
    assert report.payload_bytes < plain.payload_bytes
    assert report.description_length_bits > plain.description_length_bits
    assert report.prior_bytes == prior.compressed_bytes(trained.read_bytes())
    total = len(archive) + report.code_bytes + report.prior_bytes
    assert report.description_length_bits == 8 * total
    assert plain.weights_bytes <= trained.stat().st_size


def test_decoding_asks_for_it(trained: Path) -> None:
    data = text(2000, 9)
    given = prior.load(str(trained))
    archive, weights, _ = encode(data, given)
    assert decode(archive, given) == data
    assert ArchiveReader(io.BytesIO(archive), "x").header.prior == given.identity
    with pytest.raises(ArchiveError, match=r"trained\.safetensors .*give it with --prior$"):
        decode(archive, None)
    trained.with_name("other").write_bytes(weights)
    with pytest.raises(ArchiveError, match="other is another file"):
        decode(archive, prior.load(str(trained.with_name("other"))))


def test_info_names_it(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = prior.load(str(trained))
    (tmp_path / "a.pq").write_bytes(encode(text(500), given)[0])
    assert main(["info", str(tmp_path / "a.pq"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["prior"]
    assert found == {"name": given.identity.name, "sha256": given.identity.sha256.hex()}


def test_it_must_fit(trained: Path, tmp_path: Path) -> None:
    given = prior.load(str(trained))
    array = np.frombuffer(text(500), np.uint8)
    with pytest.raises(ConfigError, match="this config's is"):
        codec.encode(array, io.BytesIO(), config=small(), options=Options(prior=given))

    def changed(**arrays: np.ndarray) -> prior.Prior:
        path = str(tmp_path / "changed")
        save_file({**given.arrays, **arrays}, path)
        return prior.load(path)

    tables = {f"ngrams.{name}": given.arrays[f"ngrams.{name}"][: 6 << 8] for name in ("tags",)}
    with pytest.raises(ConfigError, match=r"as --set ngrams.rows_log2=8$"):
        encode(text(500), changed(**tables))
    head = given.arrays["model.head"]
    bad = [
        changed(extra=head),
        changed(**{"model.head": np.full_like(head, np.nan)}),
        changed(**{"ngrams.used": given.arrays["ngrams.used"] + np.uint8(200)}),
    ]
    for one, told in zip(bad, ("other tensors", "beyond", "exceeds"), strict=True):
        with pytest.raises(ConfigError, match=told):
            encode(text(500), one)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        prior.load(str(tmp_path / "none"))
    (tmp_path / "bad").write_bytes(b"not weights")
    with pytest.raises(FileError, match="no safetensors file"):
        prior.load(str(tmp_path / "bad"))
