"""What encoder and decoder learn first, and do not code."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import noise, small, text

import prequential
from prequential import codec
from prequential.archive import codesize
from prequential.archive.container import MAX_GIVEN, ArchiveReader, Header, NamedFile, Tokens
from prequential.archive.writer import ArchiveWriter, header_bytes
from prequential.cli import main
from prequential.cli.bar import Rates
from prequential.coding.merges import Merges
from prequential.config import Config, load
from prequential.errors import ArchiveError, ConfigError, FileError
from prequential.progress import Progress
from prequential.training import given, run
from prequential.training.run import Limits, Options

DATA = text(1501)
MIX = ("memory.kind=mix", "streams=1", "memory.buckets=65536")


def config(*overrides: str) -> Config:
    return small("model.input_rows_log2=8", *overrides)


def compress(data: bytes, first: list[bytes], *overrides: str) -> bytes:
    return prequential.compress(data, config=config(*overrides), given=first)


def sound(count: int, seed: int) -> bytes:
    """A WAV file of two tones and some noise, so many samples of 16 bits."""
    t = np.arange(count) * (8 + seed)
    wave = 3000 * np.sin(t / 99) + 2000 * np.sin(t / 237)
    samples = (wave + np.frombuffer(noise(count, seed), np.int8)).astype("<i2").tobytes()
    form = struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    head = b"WAVEfmt " + form + b"data" + struct.pack("<I", len(samples))
    return b"RIFF" + struct.pack("<I", len(head) + len(samples)) + head + samples


FIRST = {
    "one": [text(900, 1)],
    "two, and part of a chunk": [text(501, 2), noise(77)],
    "twice": [noise(100), noise(100)],
    "next to nothing": [b"", b"ab", b""],
    "longer": [text(1700, 3)],
}


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
@pytest.mark.parametrize(
    "overrides",
    [(), MIX, ("epochs=3", *MIX, "streams=3"), ("tokenizer=bpe:280", *MIX)],
    ids=["literal", "memory", "streams and replay", "tokens"],
)
def test_there_and_back(first: list[bytes], overrides: tuple[str, ...]) -> None:
    """Whatever is learned first, by any number of threads, and given in any order."""
    archive = compress(DATA, first, *overrides)
    for threads in (1, 2):
        options: dict[str, Any] = {"given": [b"of no use", *first[::-1]], "threads": threads}
        assert prequential.decompress(archive, **options) == DATA
    header = ArchiveReader(io.BytesIO(archive), "a").header
    assert [file.size for file in header.given] == [len(part) for part in first]
    measured = codec.codelength(DATA, config=config(*overrides), given=first)
    assert abs(measured.archive_bytes - len(archive)) <= 8
    assert measured.given_bytes == sum(map(len, first))


def test_learning_is_the_loop_itself() -> None:
    """What comes after the given costs what it costs at the end of the two joined, to the bit."""
    first, settings = text(8 * 125, 5), config(*MIX, "memory.window_log2=12")

    def bits(data: bytes, *learned: bytes) -> float:
        return codec.codelength(data, config=settings, given=learned).loss_integral_bits

    assert bits(first + DATA) == pytest.approx(bits(first) + bits(DATA, first), abs=1e-6)
    assert bits(DATA, first) == pytest.approx(bits(DATA, first[:504], first[504:]), abs=1e-6)


def test_what_is_known_costs_next_to_nothing() -> None:
    """A copy costs a byte or two, an edited one little more; what is not alike gains nothing."""
    data = noise(3000)
    edited = data[:1000] + b"edited" + data[1050:]
    settings = load("fast", overrides=["numbers="])
    sizes = {
        name: codec.codelength(data, config=settings, given=first).payload_bytes
        for name, first in {
            "none": [],
            "same": [data],
            "edited": [edited],
            "other": [noise(9, 1)],
        }.items()
    }
    assert sizes["same"] < 30 < 50 <= sizes["edited"] < 120 < 3000 <= sizes["none"]
    assert sizes["other"] >= 3000


def test_stored_where_coding_does_not_pay() -> None:
    archive = compress(noise(500, 7), [noise(500, 8)])
    header = ArchiveReader(io.BytesIO(archive), "a").header
    assert (header.mode, header.given) == ("stored", ())
    assert prequential.decompress(archive) == noise(500, 7)
    assert prequential.decompress(compress(b"", [DATA])) == b""


@pytest.mark.parametrize("streams", [1, 3])
def test_sound_after_sound(streams: int) -> None:
    """Elements of both are found, and put in order; of a text none are looked for."""
    data, other = sound(1500, 1), sound(1499, 2)
    overrides = *MIX, f"streams={streams}", "numbers=auto"
    for first, expected in (
        ([text(101), other], "145-3143:<i2x1,3187-6187:<i2x1"),
        ([text(101)], "145-3145:<i2x1"),
    ):
        archive = compress(data, first, *overrides)
        header = ArchiveReader(io.BytesIO(archive), "a").header
        assert header.config is not None
        assert header.config.numbers == expected
        assert prequential.decompress(archive, given=first) == data
    text_after = ArchiveReader(io.BytesIO(compress(DATA, [other], *overrides)), "a").header
    assert text_after.config is not None
    assert text_after.config.numbers == ""


def test_sizes_are_those_of_both() -> None:
    """They follow from the given alone, as long as the input is no longer."""
    settings = load("default")
    resolved = {settings.resolve(size, None, 100_000) for size in (1, 5000, 100_000)}
    assert len(resolved) == 1
    assert settings.resolve(200_000).memory == resolved.pop().memory
    assert settings.resolve(300_000, None, 100_000) == settings.resolve(400_000)
    assert settings.resolve(1, None, 10**9).streams == 1


# What is missing or wrong, and limits.


def test_what_is_missing_is_named() -> None:
    archive = compress(DATA, [text(200, 1), text(300, 2)])
    first_, second = (hashlib.sha256(text(*how)).hexdigest()[:16] for how in ((200, 1), (300, 2)))
    for first, told in (
        ([], f"given 1 (200 bytes, SHA-256 {first_}...), given 2"),
        (
            [text(200, 1)],
            f"archive: was made after learning given 2 (300 bytes, SHA-256 {second}...)",
        ),
        ([text(200, 1), text(299, 2)], "give it with given=; given 2 is another file"),
    ):
        with pytest.raises(ArchiveError) as caught:
            prequential.decompress(archive, given=first)
        assert told in str(caught.value)


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (b"all at once", "given is a list"),
        ([b""] * (MAX_GIVEN + 1), "256 given files"),
        ([str(Path("no") / "file")], "cannot be read"),
    ],
)
def test_what_cannot_be_given(first: Any, told: str) -> None:
    with pytest.raises((ConfigError, FileError), match=told):
        prequential.compress(DATA, config=config(), given=first)


@pytest.mark.parametrize("kind", ["unigram:300", "bpe:2049"])
def test_pieces_that_do_not_follow(kind: str) -> None:
    with pytest.raises(ConfigError, match="does not go with given files"):
        compress(DATA, [DATA], f"tokenizer={kind}")


def test_files_and_long_names(tmp_path: Path) -> None:
    paths = [tmp_path / f"{'n' * 200}{i}" for i in range(160)]
    for path in paths:
        path.write_bytes(text(9))
    with pytest.raises(ConfigError, match="160 given files with"):
        prequential.compress(DATA, config=config(), given=paths)
    archive = prequential.compress(DATA, config=config(), given=paths[:2])
    assert prequential.decompress(archive, given=[str(paths[0])]) == DATA  # of the same bytes
    header = ArchiveReader(io.BytesIO(archive), "a").header
    assert header.given[1].name == paths[1].name


def archive_of(header: Header) -> bytes:
    out = io.BytesIO()
    ArchiveWriter(out, header)
    return out.getvalue()


FILE = NamedFile(hashlib.sha256(DATA).digest()[:8], "data", len(DATA))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"given": (NamedFile(FILE.sha256, "data", 2**60),)}, "give it with given="),
        ({"tokens": Tokens(5, b"\0\1abc")}, "does not fit its vocabulary"),
        ({"config": {"tokenizer": "bpe:300"}}, "does not fit its vocabulary"),
        (
            {"config": {"tokenizer": "bpe:300"}, "tokens": Tokens(5, b"\0\1abc")},
            "it follows from what is given",
        ),
        ({"config": {"tokenizer": "bpe:99999"}, "tokens": Tokens(5, b"")}, "does not go with"),
        ({"config": {"tokenizer": "x"}, "tokens": Tokens(5, b"")}, "does not go with"),
        ({"config": {"streams": 2}, "original_bytes": 1}, "a size is said that follows"),
        ({"config": {"model.layers": 64, "epochs": 64, "chunk": 1}}, "hours on what is given"),
    ],
)
def test_hostile_headers(changes: dict[str, Any], told: str) -> None:
    overrides = {"streams": 1, **changes.get("config", {})}
    fields = {"original_bytes": 100, "given": (FILE,), **changes}
    settings = load("tiny", overrides=overrides).resolve(
        100, fields["tokens"].count if "tokens" in fields else None, len(DATA)
    )
    header = Header(seed=0, sha256=bytes(8), **{**fields, "config": settings})
    with pytest.raises(ArchiveError, match=told):
        prequential.decompress(archive_of(header), given=[DATA])


def test_headers_are_read_as_written() -> None:
    files = tuple(NamedFile(bytes([i] * 8), "n" * (i + 1), 1 << i) for i in range(63))
    prior = NamedFile(bytes(32), "weights")
    for header in (
        Header(9, 0, bytes(8), Config().resolve(9), prior, None, files),
        Header(9, 0, bytes(8), Config().resolve(9), None, Tokens(3, b"abc"), files[:1]),
    ):
        assert ArchiveReader(io.BytesIO(archive_of(header)), "a").header == header
    with pytest.raises(ValueError, match="stored"):
        header_bytes(Header(9, 0, bytes(8), None, None, None, files))
    long = tuple(NamedFile(bytes(8), "n" * 255, 0) for _ in range(250))
    with pytest.raises(ValueError, match="would exceed"):
        header_bytes(Header(9, 0, bytes(8), Config().resolve(9), None, None, long))


def test_no_more_than_a_header_is_read() -> None:
    """Names beyond it are refused, whatever their checksum says."""
    base = header_bytes(Header(9, 0, bytes(8), Config().resolve(9), None, None, (FILE,)))
    one = bytes(8) + b"\xff\x01" + b"n" * 255 + b"\0"
    found = base.index(b"\x01" + FILE.sha256)
    for count, told in ((0, "given count is 0"), (250, "exceeds 65536 bytes")):
        many = base[:found] + given_count(count) + one * count + bytes(1000)
        with pytest.raises(ArchiveError, match=told):
            ArchiveReader(io.BytesIO(many), "a")


def given_count(count: int) -> bytes:
    return bytes([count]) if count < 128 else bytes([count & 127 | 128, count >> 7])


def test_merges() -> None:
    """Pieces are those that pairs in what is given make, and cut anything."""
    merges = Merges([np.frombuffer(b"abcabcabc abc", np.uint8)], 259)
    assert set(merges.vocabulary.pieces) - {bytes([b]) for b in range(256)} == {
        b"ab", b"abc", b"abcabc",
    }  # fmt: skip
    for data in (b"", b"abcabcab", noise(99), DATA):
        tokens = merges.segment(np.frombuffer(data, np.uint8))
        assert merges.vocabulary.join(tokens).tobytes() == data
    words = Merges([np.frombuffer(text(3000), np.uint8)], 400)
    assert all(b" " not in piece[1:] for piece in words.vocabulary.pieces)


def test_a_long_given_is_sampled() -> None:
    data = np.frombuffer(text(1 << 21) + b"qz" * 60_000, np.uint8)
    merges = Merges([data[: 1 << 20], data[1 << 20 :]], 258)
    assert len(merges.vocabulary) == 258


# The command line.


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("a").write_bytes(text(700, 1))
    Path("b").write_bytes(DATA)
    return tmp_path


FLAGS = ["--preset", "tiny", "--set", "ngrams.rows_log2=10", "--set", "model.input_rows_log2=8"]


def test_the_command_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "b", *FLAGS, "--given", "a", "--given", "b"]) == 0
    told = capsys.readouterr().err
    assert "given        2,201 bytes, learned first and not counted" in told
    assert ", given what was learned first\n" in told
    Path("b").rename("c")
    assert main(["decode", "b.pq", "-q", "--given", "a"]) == 1
    assert f"b.pq: was made after learning b (1501 bytes, SHA-256 {sha('c')}...)" in (
        capsys.readouterr().err
    )
    assert not Path("b").exists()
    with_both = ["--given", "a", "--given", "c"]
    assert main(["test", "b.pq", "--json", *with_both]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["given_bytes"] == 2201
    assert report["description_length_bits"] == 8 * (report["archive_bytes"] + report["code_bytes"])
    assert main(["decode", "b.pq", "-q", *with_both]) == 0
    assert Path("b").read_bytes() == DATA
    assert main(["info", "b.pq", "--json"]) == 0
    named = json.loads(capsys.readouterr().out)["given"]
    assert named == [
        {"name": "a", "size": 700, "sha256": sha("a")},
        {"name": "b", "size": 1501, "sha256": sha("c")},
    ]
    assert main(["info", "b.pq"]) == 0
    assert f"given.2.sha256                     {sha('c')}" in capsys.readouterr().out
    assert main(["encode", "--dry-run", "b", *FLAGS, "--given", "a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["given_bytes"] == 700


def sha(name: str) -> str:
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()[:16]


def test_a_large_file_is_read_part_by_part(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", "b", "-q", *FLAGS, "--given", "a", "-o", "whole"]) == 0
    monkeypatch.setattr("prequential.archive.files.IN_MEMORY_BYTES", 100)
    assert main(["encode", "b", "-q", *FLAGS, "--given", "a", "-o", "parts"]) == 0
    assert Path("parts").read_bytes() == Path("whole").read_bytes()

    def change(*_: Any) -> None:
        Path("a").write_bytes(text(700, 2))

    monkeypatch.setattr("prequential.training.given.learn", change)
    assert main(["encode", "b", "-q", *FLAGS, "--given", "a", "-o", "changed"]) == 1
    assert "a: changed while it was read" in capsys.readouterr().err
    assert not Path("changed").exists()


def test_after_a_prior(files: Path) -> None:
    """The weights start from it, then the given is learned."""
    assert main(["encode", "a", "-q", *FLAGS, "--save-weights", "w"]) == 0
    both = ["--prior", "w", "--given", "a"]
    assert main(["encode", "b", "-q", *FLAGS, *both]) == 0
    assert main(["encode", "b", "-q", *FLAGS, "--given", "a", "-o", "without"]) == 0
    assert Path("b.pq").read_bytes()[-20:] != Path("without").read_bytes()[-20:]
    assert main(["decode", "b.pq", "-q", "-o", "c", *both]) == 0
    assert Path("c").read_bytes() == DATA
    assert main(["decode", "b.pq", "-q", "-o", "d", "--given", "a"]) == 1


def test_progress_begins_again_with_the_original() -> None:
    seen: list[tuple[int, int]] = []
    prequential.compress(
        DATA, config=config(), given=[text(400)], progress=lambda p: seen.append(p[:2])
    )
    assert (400, 400) in seen
    assert seen[-1] == (len(DATA), len(DATA))
    rates = Rates()
    rates.update(Progress(400, 400, 3200.0, 100.0))
    assert rates.update(Progress(10, 1000, 40.0, 101.0)) == (
        "4.00 bits/byte (mean 4.00, 50.0%) 0.0 kB/s 0:01:39 left"
    )


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (["--given", "-"], 2, "--given: standard input is not kept"),
        (["--given", "no"], 1, "no: cannot be read"),
        (["--given", "."], 1, ".: cannot be read"),
        (["--given", "a", "--state", "a", "--distributed"], 2, "does not go with --state"),
    ],
)
def test_flags_that_are_refused(
    files: Path, flags: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", "b", *FLAGS, *flags]) == code
    assert told in capsys.readouterr().err
    assert sorted(p.name for p in files.iterdir()) == ["a", "b"]


def test_salvage(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes before the fault is the beginning of the original, not of what is given."""
    monkeypatch.setattr(run, "FRAME_BYTES", 500)
    assert main(["encode", "b", "-q", *FLAGS, "--set", "streams=1", "--given", "a"]) == 0
    archive = bytearray(Path("b.pq").read_bytes())
    archive[-60] ^= 1
    Path("c.pq").write_bytes(archive)
    assert main(["decode", "c.pq", "-q", "--salvage", "--given", "a"]) == 1
    salvaged = Path("c").read_bytes()
    assert 500 < len(salvaged) < len(DATA)
    assert DATA.startswith(salvaged)


@pytest.mark.slow
def test_verify_pipes_and_runnable_archives(files: Path) -> None:
    preq = [sys.executable, "-m", "prequential"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    memory = ["--set", "memory.kind=mix", "--set", 'memory.contexts=["o3"]']
    flags = ["-q", *FLAGS, "--given", "a", *memory]
    encode = [*preq, "encode", "-", "-o", "c.pq", "--verify", *flags]
    subprocess.run(encode, input=DATA, env=environment, check=True)
    assert prequential.decompress(Path("c.pq").read_bytes(), given=["a"]) == DATA
    subprocess.run([*preq, "encode", "b", "--self-extracting", *flags], env=environment, check=True)
    del environment["PYTHONPATH"]
    environment["NUMBA_DISABLE_JIT"] = "1"  # all of a decoder would be compiled anew
    lacking = subprocess.run(
        [sys.executable, "b.pyz", "-o", "x"], env=environment, capture_output=True
    )
    assert lacking.returncode == 1
    assert b"was made after learning a (700 bytes" in lacking.stderr
    command = [sys.executable, "b.pyz", "-o", "x", "--given", "a"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert Path("x").read_bytes() == DATA


def test_code_is_counted_where_it_is_needed() -> None:
    header = Header(9, 0, bytes(8), Config().resolve(9))
    assert codesize.parts(header) == codesize.NETWORKS
    needed = codesize.parts(Header(9, 0, bytes(8), Config().resolve(9), given=(FILE,)))
    assert {name.split("/")[-1] for name in codesize._files(needed)} - {
        name.split("/")[-1] for name in codesize._files(codesize.NETWORKS)
    } == {"given", "meter"}


def test_work_on_what_is_given_is_limited() -> None:
    archive = compress(DATA, [text(400)])
    with pytest.raises(ArchiveError, match="raise the limit with limits="):
        prequential.decompress(archive, given=[text(400)], limits=Limits(2**32, 0.0, 15.0, 1e-9))


def test_what_is_needed_is_found_by_its_hash() -> None:
    first = [given.named("x", np.frombuffer(text(9, i), np.uint8)) for i in range(3)]
    header = Header(1, 0, bytes(8), None, given=tuple(first[i].file for i in (2, 0, 2)))
    found = given.needed(header, Options(given=tuple(first)))
    assert found == [first[2], first[0], first[2]]


@pytest.mark.parametrize(
    "argv",
    [
        ["encode", "b", "--given", "a", "-o", "a"],
        ["encode", "b", "--given", "a", "--bits", "a"],
        ["encode", "b", "--given", "a", "--save-weights", "./a"],
        ["encode", "b", "--given", "a", "--state", "s", "-o", "s"],
        ["decode", "b", "--given", "a", "-o", "a"],
        ["where", "b", "--given", "a", "--bits", "a"],
    ],
)
def test_what_is_given_is_never_replaced(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("a", "b", "s")
    for name in names:
        Path(name).write_bytes(name.encode())
    assert main([*argv, "-f"]) == 1
    assert "is read as well, and needed later" in capsys.readouterr().err
    assert {name: Path(name).read_bytes() for name in names} == {n: n.encode() for n in names}
