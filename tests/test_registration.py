"""Libraries that have compressors plugged in, the real ones."""

from __future__ import annotations

import os
import shutil
import tarfile
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import ROOT, text

import prequential
from prequential import ArchiveError, load

TINY = load("tiny", overrides=["ngrams.rows_log2=10", "chunk=8"])
DATA = text(900)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "a").write_bytes(DATA)
    return tmp_path


def test_shutil(folder: Path) -> None:
    prequential.register_archive_formats()
    prequential.register_archive_formats(config=TINY)  # the last one counts
    assert shutil.make_archive("x", "pqtar", "d", dry_run=True).endswith("x.tar.pq")
    assert os.listdir() == ["d"]
    made = shutil.make_archive("new/x", "pqtar", "d", "e", owner="root", group="root")
    assert Path(made) == folder / "new" / "x.tar.pq"
    assert Path(made).stat().st_size < 600
    shutil.unpack_archive(made, "o")
    shutil.unpack_archive(made, "p", filter="tar")
    for out in ("o", "p"):
        assert Path(out, "e", "a").read_bytes() == DATA
    Path("y.tar.pq").write_bytes(Path(made).read_bytes()[:-3])
    with pytest.raises(ArchiveError, match="truncated"):
        shutil.unpack_archive("y.tar.pq", "q")
    Path("z.tar.pq").write_bytes(prequential.compress(DATA, config=TINY))
    with pytest.raises(shutil.ReadError, match=r"z\.tar\.pq: does not hold a tar file"):
        shutil.unpack_archive("z.tar.pq", "q")


def test_nothing_is_unpacked_outside_of_the_folder(folder: Path) -> None:
    prequential.register_archive_formats()
    with (
        prequential.open("x.tar.pq", "wb", config=TINY) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        tar.add("d/e/a", "../evil")
    with pytest.raises(tarfile.OutsideDestinationError):
        shutil.unpack_archive("x.tar.pq", "o")
    assert not Path("evil").exists()


def test_fsspec(folder: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    prequential.register_fsspec()
    prequential.register_fsspec()
    for name in ("memory://a.pq", "file://" + str(folder / "a.pq")):
        with fsspec.open(name, "wb", compression="prequential") as file:
            file.write(DATA)
        with fsspec.open(name, "rb", compression="infer") as file:
            assert file.read() == DATA
        with fsspec.open(name, "rt", compression="infer") as file:
            assert file.read() == DATA.decode()
    assert prequential.decompress((folder / "a.pq").read_bytes()) == DATA


def codec() -> Any:
    numcodecs = pytest.importorskip("numcodecs")
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    module, name = found["numcodecs.codecs"]["prequential"].split(":")
    kind = getattr(import_module(module), name)
    numcodecs.register_codec(kind)  # as the entry point does where the package is installed
    return kind


def test_numcodecs() -> None:
    kind = codec()
    import numcodecs

    made = kind("tiny", seed=3)
    assert numcodecs.get_codec(made.get_config()) == made
    assert repr(made) == "Prequential(preset='tiny', seed=3)"
    for values in (np.arange(60.0).reshape(5, 12), np.asfortranarray(np.eye(9)), np.zeros(0)):
        coded = made.encode(values)
        flat = values.ravel(order="A")
        assert np.array_equal(np.frombuffer(made.decode(coded), flat.dtype), flat)
        made.decode(coded, out=(out := np.empty_like(flat)))
        assert np.array_equal(out, flat)
    with pytest.raises(ArchiveError):
        made.decode(coded[:-1])


@pytest.mark.filterwarnings("default")  # others' own
def test_zarr(folder: Path) -> None:
    zarr = pytest.importorskip("zarr")
    values = np.arange(2000, dtype="<i4").reshape(40, 50) // 7
    made = zarr.create_array(
        "x.zarr", data=values, chunks=(20, 50), compressors=codec()("tiny"), zarr_format=2
    )
    assert np.array_equal(made[:], values)
    assert np.array_equal(zarr.open_array("x.zarr", mode="r")[25:30, 3], values[25:30, 3])
    chunk = (folder / "x.zarr" / "1.0").read_bytes()
    assert prequential.decompress(chunk) == values[20:].tobytes()
