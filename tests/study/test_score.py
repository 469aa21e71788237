"""Lengths alone and given others, and distances made of them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import noise, small, text

from prequential import codec
from prequential.archive.container import ArchiveReader
from prequential.cli import main
from prequential.config import load
from prequential.errors import ConfigError, FileError, PrequentialError
from prequential.study import child, distance, score
from prequential.training import given
from prequential.training.run import Limits, Options

CONFIG = small("model.input_rows_log2=8", "streams=1")
MIX = small("model.input_rows_log2=8", "streams=1", "memory.kind=mix", "memory.buckets=65536")
FLAGS = ["--preset", "tiny", "--set", "ngrams.rows_log2=10", "--set", "model.input_rows_log2=8"]


def first(data: bytes) -> tuple[given.Given]:
    return (given.named("first", np.frombuffer(data, np.uint8)),)


def things(*data: bytes) -> list[score.Thing]:
    return [score.Thing("f", n, content) for n, content in enumerate(data, 1)]


@pytest.mark.parametrize("settings", [CONFIG, MIX, small("epochs=2", "streams=2")])
def test_lengths_are_those_of_archives(settings: Any) -> None:
    """To the bit, whatever was scored before, by however many processes."""
    known, data = (
        text(900, 1),
        [text(700, 2), text(601), b"", text(700, 2), noise(100) + text(1500)],
    )
    (a, *_), (b, *_) = (
        [score.score(things(*data), settings, first(known), processes=n)] for n in (1, 3)
    )
    assert a == b
    for one, content in zip(a, data, strict=True):
        for length, learned in ((one.alone, []), (one.given[0], [known])):
            archive = codec.compress(content, config=settings, given=learned)
            payload, reader = 0, ArchiveReader(io.BytesIO(archive), "a")
            if reader.header.mode == "coded":
                payload = 8 * (reader.data() and reader.payload_bytes)
                report = codec.codelength(content, config=settings, given=learned)
                assert length.bits == report.loss_integral_bits
            assert length.payload_bits == payload
    assert a[0] == a[3]._replace(thing=a[0].thing)


def test_duplicates_come_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines of the given that are planted among others."""
    known = [text(60, seed) + b"%d" % seed for seed in range(40)]
    others = [noise(60, seed).hex().encode()[:60] for seed in range(6)]
    (tmp_path / "known").write_bytes(b"\n".join(known))
    lines = [others[0], known[3], *others[1:4], known[17], b"", *others[4:], known[38]]
    (tmp_path / "lines").write_bytes(b"\n".join(lines))
    command = ["score", str(tmp_path / "lines"), "--per", "line", "--sort", "--csv", "-q"]
    flags = ["--preset", "fast", "--set", "memory.buckets=65536", "--set", "numbers="]
    assert main([*command, "--given", str(tmp_path / "known"), *flags]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 9
    assert {row["number"] for row in rows[-3:]} == {"2", "6", "10"}
    given = next(key for key in rows[0] if "given" in key)
    shares = [float(row[given]) / float(row["bits"]) for row in rows]
    assert max(shares[-3:]) < 0.5 < 0.7 < min(shares[:-3])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 1), ("b", 2)):
        Path(name).write_bytes(text(300, seed) + b"\n" + text(50, seed + 9) + b"\n")
    records: list[Any] = [{"id": 1, "text": "the and of"}, {"id": 2, "text": ["x", "\u00e9"]}]
    Path("list").write_text(json.dumps(records))
    Path("lines").write_text("\n".join(map(json.dumps, records)) + "\n")
    Path("bad").write_text('{"id": 1}\n{')
    Path("empty").write_bytes(b"")
    return tmp_path


def test_files_lines_and_records(folder: Path) -> None:
    def found(name: str, per: str, field: str | None = None) -> list[bytes]:
        return [t.data for t in score.things(name, Path(name).read_bytes(), per, field)]

    assert found("a", "file") == [Path("a").read_bytes()]
    assert found("a", "line") == [text(300, 1), text(50, 10)]
    for name in ("list", "lines"):
        assert found(name, "record", "text") == [b"the and of", '["x","\u00e9"]'.encode()]
    assert found("list", "record")[0] == b'{"id":1,"text":"the and of"}'
    assert found("lines", "record")[0] == b'{"id": 1, "text": "the and of"}'
    assert found("empty", "record") == []
    assert score.things("a", b"x\n\ny", "line")[1].name == "a:3"
    assert [t.data for t in score.things("a", b"x\r\n \t\ny", "line")] == [b"x\r", b"y"]
    with pytest.raises(FileError, match="bad:2: is no JSON"):
        found("bad", "record")
    with pytest.raises(FileError, match="deep:1: is no JSON"):
        score.things("deep", b"[" * 100_000, "record")
    with pytest.raises(FileError, match="lines:1: has no field 'title'"):
        found("lines", "record", "title")


def test_score_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "a", "b", *FLAGS, "--given", "a", "--given", "b", "--json", "-q"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == ["a", "b"]
    assert [g["file"] for g in rows[0]["given"]] == ["a", "b"]
    for row, own in zip(rows, (0, 1), strict=True):
        known, other = row["given"][own], row["given"][1 - own]
        assert known["bits"] < other["bits"] < row["bits"]
        assert known["saved_bits"] == row["bits"] - known["bits"]
    assert main(["score", "a", "empty", *FLAGS, "-q"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["bytes", "bits", "bits/byte", "what"]
    assert lines[0].split()[1] == f"{rows[0]['bits']:,.1f}"
    assert lines[1].split() == ["0", "0.0", "0.0000", "empty"]
    assert main(["learn", "a", "-o", "s", "-q", *FLAGS, "--set", "streams=1"]) == 0
    flags = [*FLAGS, "--set", "streams=1", "--given", "a", "-q", "--json"]
    shown = []
    for state in ([], ["--state", "s"]):
        assert main(["score", "b", *flags, *state]) == 0
        shown.append(capsys.readouterr())
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        (["score", "a", "--field", "text"], 2, "--field is of records: add --per record"),
        (["score", "no"], 1, "no: cannot be read"),
        (["score", "a", "--state", "s"], 2, "--state saves learning what is given"),
        (["score", "a", "--tokenizer", "bpe:300"], 2, "use --tokenizer bytes"),
        (["score", "bad", "--per", "record"], 1, "bad:2: is no JSON"),
        (["distance", "a"], 2, "distance takes two files or more"),
        (["distance", "a", "b", "--plot", "x.pdf"], 2, "name a .svg or a .png file"),
        (["distance", "a", "b", "--plot", "a.svg"], 1, "a.svg: exists already"),
        (["distance", "a", "empty"], 1, "empty: is empty, and at no distance"),
    ],
)
def test_what_is_refused(
    folder: Path, command: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.svg").write_bytes(b"mine")
    assert main([*command, *FLAGS]) == code
    assert told in capsys.readouterr().err
    assert Path("a.svg").read_bytes() == b"mine"


def test_distances_by_gzip_are_the_published_ones(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cilibrasi & Vitanyi 2005, equation (6), written out."""
    files = {name: Path(name).read_bytes() for name in ("a", "b", "list")}

    def size(data: bytes) -> int:
        return len(gzip.compress(data))

    expected = [
        [(size(x + y) - min(size(x), size(y))) / max(size(x), size(y)) for y in files.values()]
        for x in files.values()
    ]
    assert main(["distance", *files, "--method", "gzip", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ncd"] == expected
    assert found["alone"] == [8 * size(x) for x in files.values()]
    assert main(["distance", *files, "--method", "gzip", "--csv"]) == 0
    head, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head == ["", *files]
    assert [[float(value) for value in row[1:]] for row in rows] == expected


def test_distances(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c").write_bytes(Path("a").read_bytes()[:-20])
    assert main(["distance", "a", "b", "c", *FLAGS, "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    L, alone = found["conditional"], found["alone"]
    assert found["ncd"][0][1] == found["ncd"][1][0] == max(L[0][1], L[1][0]) / max(alone[:2])
    assert found["mean"][0][1] == (L[0][1] + L[1][0]) / sum(alone[:2])
    assert found["ncd"][0][2] < found["ncd"][0][1]
    for kind, digits in (("ncd", 4), ("conditional", 1)):
        assert main(["distance", "a", "b", "c", *FLAGS, "--kind", kind, "-q"]) == 0
        rows = capsys.readouterr().out.splitlines()[1:]
        assert rows[1].split()[-1] == "b"
        assert float(rows[1].split()[1].replace(",", "")) == round(found[kind][1][0], digits)


def test_machines_get_real_names(folder: Path) -> None:
    """Quoted by JSON and CSV only, in UTF-8; people get them on one line."""
    names = ["sp ace\r,nl\n", os.fsdecode(b"u\xff")]
    for name in names:
        Path(name).write_bytes(text(50))

    def out(*flags: str) -> str:
        command = child.preq(*flags)
        return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode()

    score = ["score", *names, *FLAGS, "-q", "--given", names[0], "--given", names[0]]
    found = [json.loads(line) for line in out(*score, "--json").splitlines()]
    assert [row["file"] for row in found] == names
    assert {given["file"] for row in found for given in row["given"]} == {names[0]}
    head, *rows = csv.reader(io.StringIO(out(*score, "--csv"), newline=""))
    assert [row[0] for row in rows] == [names[0], "u\\udcff"]
    assert len(set(head)) == len(head)
    assert f"bits given {names[0]} (2)" in head
    assert out(*score).splitlines()[1].endswith("  sp ace\\r,nl\\n")
    distance = ["distance", *names, "--method", "gzip"]
    assert json.loads(out(*distance, "--json"))["names"] == names
    assert next(csv.reader(io.StringIO(out(*distance, "--csv"), newline="")))[1] == names[0]
    assert out(*distance).splitlines()[2].endswith("  u\\udcff")


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_heat_map(folder: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(["distance", "a", "b", "--method", "gzip", "--plot", f"x.{suffix}"]) == 0
    assert Path(f"x.{suffix}").read_bytes()[:4] in (b"<?xm", b"\x89PNG")


def test_without_matplotlib(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["distance", "a", "b", "--method", "gzip", "--plot", "x.svg"]) == 1
    assert "pip install 'prequential[plot]'" in capsys.readouterr().err


def test_forks_return_in_order_and_change_nothing_here() -> None:
    state = [0]

    def task(n: int) -> Any:
        def work() -> bytes:
            state[0] += n
            return b"%d" % state[0]

        return work

    assert list(score.forked(map(task, range(5)), 2)) == [b"0", b"1", b"2", b"3", b"4"]
    assert state == [0]


def test_forks_that_fail() -> None:
    def fails() -> bytes:
        raise ValueError("no good")

    def dies() -> bytes:
        os._exit(3)

    for task, told in ((fails, "ValueError: no good"), (dies, "was killed")):
        with pytest.raises(PrequentialError, match=told):
            list(score.forked([lambda: b"", task, lambda: b""], 2))
    with suppress(ChildProcessError):  # there is no child at all
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)  # or none that has ended


_IN_HOOK: list[int] = []  # signals that come while a fork's hooks run
os.register_at_fork(after_in_parent=lambda: [signal.raise_signal(_IN_HOOK.pop()) for _ in _IN_HOOK])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_interruption_is_lost(number: signal.Signals) -> None:
    """Neither in the hooks of a fork, where Python drops what is raised, nor in a fork."""
    before = signal.signal(number, signal.default_int_handler)
    start = time.monotonic()
    try:
        _IN_HOOK.append(number)
        with pytest.raises(KeyboardInterrupt):
            list(score.forked([lambda: time.sleep(60) or b""] * 2, 2))
        with pytest.raises(KeyboardInterrupt):
            list(score.forked([lambda: os.kill(os.getpid(), number) or b""], 2))
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert time.monotonic() - start < 30
    with suppress(ChildProcessError):
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)


def test_limits_hold() -> None:
    limits = Options(limits=Limits(1e6))
    with pytest.raises(ConfigError, match="--max-memory"):
        list(score.lengths([b"abc"], load("fast"), options=limits))
    assert distance.by_gzip(["x", "y"], [b"a", b"b"]).ncd[0][1] >= 0
