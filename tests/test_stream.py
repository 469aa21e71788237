"""`prequential.open` does what `gzip.open` and `lzma.open` do."""

from __future__ import annotations

import array
import io
import lzma
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import text

import prequential
from prequential import ArchiveError, ConfigError, FileError, PreqFile, codec, load

TINY = load("tiny", overrides=["ngrams.rows_log2=10", "chunk=8"])
LINES = [b"first\n", b"second, longer\r\n", b"\n", b"last"]
DATA = b"".join(LINES)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def archive(folder: Path) -> Path:
    (folder / "a.pq").write_bytes(prequential.compress(DATA, config=TINY))
    return folder / "a.pq"


def test_written_and_read(folder: Path) -> None:
    with prequential.open("a.pq", "wb", config=TINY) as file:
        assert isinstance(file, PreqFile)
        assert file.writable()
        assert not file.readable()
        assert not file.seekable()
        assert file.write(b"ab") == 2
        assert file.write(array.array("d", [0.5])) == 8
        assert file.write(memoryview(b"cd")) == 2
        assert file.tell() == 12
        assert not os.path.exists("a.pq")  # it appears when it is complete
    assert file.closed
    expected = b"ab" + array.array("d", [0.5]).tobytes() + b"cd"
    assert Path("a.pq").read_bytes() == prequential.compress(expected, config=TINY)
    with prequential.open(Path("a.pq")) as file:
        assert file.read() == expected
    file.close()  # again
    assert os.listdir() == ["a.pq"]


@pytest.mark.parametrize("kind", [PreqFile, lzma.LZMAFile])
def test_reading_is_as_of_lzma(kind: Any, archive: Path) -> None:
    name = str(archive)
    if kind is lzma.LZMAFile:
        name = "a.xz"
        Path(name).write_bytes(lzma.compress(DATA))
    with kind(name) as file:
        assert (file.readable(), file.writable(), file.seekable()) == (True, False, True)
        assert file.peek(3)[:3] == b"fir"
        assert file.read(4) == b"firs"
        assert file.tell() == 4
        assert file.read1(1) == b"t"
        assert file.readline() == b"\n"
        assert list(file) == LINES[1:]
        assert file.read() == file.read(5) == file.readline() == b""
        assert file.seek(-4, os.SEEK_END) == len(DATA) - 4
        assert file.readinto(into := bytearray(9)) == 4
        assert into[:4] == b"last"
        file.seek(0)
        assert file.readlines() == LINES
        file.seek(0)
        assert io.BufferedReader(file).read() == DATA
    with pytest.raises(ValueError, match=r"closed"):
        file.read()
    with pytest.raises(ValueError, match=r"closed"):
        file.tell()


@pytest.mark.parametrize("kind", [PreqFile, lzma.LZMAFile])
def test_errors_are_of_the_same_kinds(kind: Any, archive: Path) -> None:
    with pytest.raises(FileNotFoundError):
        kind("missing")
    with pytest.raises(FileExistsError):
        kind(str(archive), "xb")
    for name in ("missing/b", str(archive.parent)):
        with pytest.raises(OSError):  # noqa: PT011 (of any kind)
            kind(name, "wb")
    for mode in ("a+", "rw", "U", ""):
        with pytest.raises(ValueError, match=r"[Ii]nvalid mode"):
            kind("b", mode)
    with pytest.raises(TypeError):
        kind(7)
    with pytest.raises(TypeError):
        kind("b", "wb", none_such=1)
    with kind("b", "wb") as file:
        for read in (file.read, file.readline, file.peek, lambda: file.seek(0), file.__next__):
            with pytest.raises(io.UnsupportedOperation):
                read()
        with pytest.raises(TypeError):
            file.write("text")
    with kind("b", "rb") as file, pytest.raises(io.UnsupportedOperation):
        file.write(b"x")


@pytest.mark.parametrize("kind", [ArchiveError, OSError])
@pytest.mark.parametrize("damage", [lambda a: a[:-5], lambda a: b"no" + a, lambda _: b""])
def test_damage(damage: Any, kind: type[Exception], archive: Path) -> None:
    archive.write_bytes(damage(archive.read_bytes()))
    with prequential.open(str(archive)) as file:
        for _ in range(2):
            with pytest.raises(kind):
                file.read(1)
    with prequential.open(str(archive), "rt") as file, pytest.raises(kind):
        file.readline()


def test_wrong_options_are_refused_at_once(archive: Path) -> None:
    with pytest.raises(ConfigError, match="none such"):
        prequential.open("b", "wb", config="none such")
    with pytest.raises(TypeError):
        prequential.open(str(archive), config="tiny")
    with pytest.raises(FileError, match=r"no folder"):
        prequential.open("missing/b", "wb")
    assert os.listdir() == ["a.pq"]


@pytest.mark.parametrize("mode", ["wb", "xb", "wt"])
def test_after_an_exception_nothing_is_written(
    mode: str, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = archive.read_bytes()
    monkeypatch.setattr(codec, "compress_file", lambda *_, **__: pytest.fail("compressed"))
    name = "b.pq" if mode == "xb" else "a.pq"
    with pytest.raises(KeyboardInterrupt), prequential.open(name, mode) as file:
        file.write("x" if mode == "wt" else b"x")
        raise KeyboardInterrupt
    assert file.closed
    assert archive.read_bytes() == before
    assert os.listdir() == ["a.pq"]


def test_nor_if_it_cannot_be_compressed(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = archive.read_bytes()
    file = PreqFile("a.pq", "wb")
    file.write(b"x")

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(codec, "compress_file", fail)
    with pytest.raises(MemoryError):
        file.close()
    assert file.closed
    assert archive.read_bytes() == before
    assert os.listdir() == ["a.pq"]


def test_file_objects_are_left_open() -> None:
    out = io.BytesIO(b"before")
    out.seek(0, 2)
    with prequential.open(out, "wb", config=TINY) as file:
        file.write(DATA)
    assert out.getvalue() == b"before" + prequential.compress(DATA, config=TINY)
    out.seek(6)
    with prequential.open(out) as file:
        assert file.read() == DATA
    assert not out.closed
    with pytest.raises(TypeError):
        prequential.open(object(), "wb")  # type: ignore[arg-type]


@pytest.mark.usefixtures("folder")
def test_text() -> None:
    lines = ["na\u00efve\n", "\u4e2d\n"]
    with prequential.open("a.pq", "wt", encoding="utf-16-le", newline="\r\n", config=TINY) as file:
        file.writelines(lines)
    with prequential.open("a.pq") as file:
        assert file.read().decode("utf-16-le") == "na\u00efve\r\n\u4e2d\r\n"
    with prequential.open("a.pq", "rt", encoding="utf-16-le") as file:
        assert list(file) == lines
    with prequential.open("a.pq", "rt", encoding="ascii", errors="ignore", newline="") as file:
        assert file.read().endswith("\r\0\n\0")
    with pytest.raises(ValueError, match="belong to text"):
        prequential.open("a.pq", encoding="utf-8")
    with pytest.raises(ValueError, match="invalid mode"):
        prequential.open("a.pq", "rbt")


@pytest.mark.parametrize(
    "data",
    [
        bytearray(DATA),
        memoryview(DATA),
        array.array("d", [1.5] * 30),
        np.ones((5, 6), np.float32),
        np.zeros((0, 3)),
    ],
    ids=lambda data: type(data).__name__,
)
def test_any_buffer(data: Any) -> None:
    whole = memoryview(data).tobytes()
    archive = prequential.compress(data, config=TINY, given=[data])
    assert archive == prequential.compress(whole, config=TINY, given=[whole])
    for read in (bytearray, memoryview, lambda a: np.frombuffer(a, np.uint8)):
        assert prequential.decompress(read(archive), given=[data]) == whole
    assert prequential.codelength(data, config=TINY).original_bytes == len(whole)


def test_what_is_no_contiguous_buffer() -> None:
    for function in (prequential.compress, prequential.decompress, prequential.codelength):
        for wrong in ("text", None, 5):
            with pytest.raises(TypeError):
                function(wrong)  # type: ignore[operator]
        with pytest.raises((BufferError, ValueError)):
            function(memoryview(DATA)[::2])  # type: ignore[operator]


def test_a_file_that_is_not_small(folder: Path) -> None:
    data = text(30_000)
    with prequential.open("a.pq", "xb", config=TINY) as file:
        for start in range(0, len(data), 1000):
            file.write(data[start : start + 1000])
    with prequential.open("a.pq", threads=1) as file:
        assert b"".join(iter(lambda: file.read(4096), b"")) == data
