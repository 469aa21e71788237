"""Archives of other versions: refused by name, and decoded by a decoder that was kept."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from samples import ROOT, noise, small, text

import prequential
from prequential import ArchiveError
from prequential.archive import container, selfextract
from prequential.archive.container import CONTAINER_VERSION, MAGIC, NUMERICS_VERSION
from prequential.cli import main
from prequential.config import varint

OLD, NEW = f"numerics version {NUMERICS_VERSION}", f"numerics version {NUMERICS_VERSION + 1}"


def summed(fields: bytes) -> bytes:
    return fields + zlib.crc32(fields).to_bytes(4, "little")


def refusal(archive: bytes) -> str:
    with pytest.raises(ArchiveError) as caught:
        prequential.decompress(archive)
    return str(caught.value)


def test_a_later_container_is_refused_whatever_follows() -> None:
    """Nothing behind its version is looked at, so all of that may become something else."""
    for version in (*range(CONTAINER_VERSION), *range(CONTAINER_VERSION + 1, 256)):
        told = f"container version {version}, but this preq reads version {CONTAINER_VERSION}"
        for rest in (b"", bytes(100), noise(100)):
            assert told in refusal(MAGIC + bytes([version]) + rest)


@pytest.mark.parametrize("numerics", [1, NUMERICS_VERSION - 1, NUMERICS_VERSION + 1, 255])
@pytest.mark.parametrize("config", [b"", b"\xff" * 8 + noise(200), b"\x01" * 40_000])
def test_another_numerics_is_refused_whatever_its_settings(numerics: int, config: bytes) -> None:
    """It may have more settings, of other types: the header's other fields stay where they are."""
    fields = MAGIC + bytes([CONTAINER_VERSION, numerics, container.CODED])
    fields += b"".join(map(varint, (1000, 7, len(config)))) + config + bytes(8)
    told = refusal(summed(fields) + noise(50))
    assert f"numerics version {numerics}, but this preq reads" in told
    assert "use the release of preq that wrote it" in told


def test_a_damaged_header_is_damaged_not_of_another_version() -> None:
    archive = bytearray(prequential.compress(b"hello" * 50, config=small()))
    archive[len(MAGIC) + 1] += 1
    assert "the checksum of the header does not match" in refusal(bytes(archive))


def test_the_commands_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = MAGIC + bytes([CONTAINER_VERSION, NUMERICS_VERSION + 1, container.STORED])
    (tmp_path / "a.pq").write_bytes(summed(fields + bytes(3 + 8)))
    for command in ("decode", "test", "info"):
        assert main([command, str(tmp_path / "a.pq")]) == 1
        shown = capsys.readouterr().err
        assert f"a.pq: {NEW}, but this preq reads version {NUMERICS_VERSION}" in shown
    assert os.listdir(tmp_path) == ["a.pq"]


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package of the next numerics version, which starts from other weights."""
    folder = tmp_path_factory.mktemp("later")
    shutil.copytree(Path(prequential.__file__).parent, folder / "prequential")
    for name, old, new in (
        ("archive/container.py", r"(?<=NUMERICS_VERSION = )\d+", str(NUMERICS_VERSION + 1)),
        ("exact/philox.py", r"key=np.array\(\[seed, index\]", "key=np.array([seed, index + 1]"),
    ):
        path = folder / "prequential" / name
        changed, count = re.subn(old, new, path.read_text())
        assert count
        path.write_text(changed)
    return folder


@pytest.mark.slow
def test_a_frozen_decoder_beside_a_changed_package(later: Path, tmp_path: Path) -> None:
    """What FORMAT.md promises: old archives decode when the package computes something else."""
    settings = ["chunk=16", "streams=1", "ngrams.rows_log2=10"]
    config = prequential.load("tiny", overrides=settings)
    original, first = text(70) * 5, text(150, 1)
    old = prequential.compress(original, config=config, given=[first])
    assert old[len(MAGIC) + 2] & container.CODED
    frozen = io.BytesIO()
    selfextract.freeze(frozen)
    files = {"old.pq": old, "first": first, "original": original, "frozen.pyz": frozen.getvalue()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)

    def run(*words: str) -> tuple[int, str]:
        environment = {**os.environ, "PYTHONPATH": str(later), "NUMBA_DISABLE_JIT": "1"}
        environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
        done = subprocess.run(
            [sys.executable, *words, "--given", "first"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stderr

    # The later package reads no old archives, and writes other bits.
    code, told = run("-m", "prequential", "decode", "old.pq", "-o", "out")
    assert code == 1
    assert f"old.pq: {OLD}, but this preq reads version {NUMERICS_VERSION + 1}" in told
    flags = [word for setting in settings for word in ("--set", setting)]
    encode = ["encode", "-q", "--preset", "tiny", *flags, "original", "-o", "new.pq"]
    assert run("-m", "prequential", *encode) == (0, "")
    assert run("-m", "prequential", "test", "-q", "new.pq") == (0, "")
    assert (tmp_path / "new.pq").read_bytes()[-40:-4] != old[-40:-4]
    # The decoder that was kept reads them, in the same environment, and no later ones.
    code, told = run("frozen.pyz", "old.pq", "-o", "out")
    assert code == 0, told
    assert (tmp_path / "out").read_bytes() == original
    code, told = run("frozen.pyz", "new.pq", "-o", "b")
    assert code == 1
    assert f"new.pq: {NEW}, but this preq reads version {NUMERICS_VERSION}" in told
    # It has the limits that a stranger's archive needs.
    code, told = run("frozen.pyz", "old.pq", "-o", "b", "--max-memory", "0.001")
    assert code == 1
    assert "memory" in told
    assert not (tmp_path / "b").exists()


def test_the_version_in_the_documents() -> None:
    document = (ROOT / "docs" / "FORMAT.md").read_text()
    assert f"| {CONTAINER_VERSION} | {NUMERICS_VERSION} | 0.1.0 | 0.1.0 |" in document


def test_the_settings_in_the_documents() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "settings", "--check"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
