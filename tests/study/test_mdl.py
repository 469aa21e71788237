"""Sweeps: every figure is the size of an archive, and nothing is run twice."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from samples import ROOT, text

import prequential
from prequential import codec
from prequential.archive import codesize, selfextract
from prequential.cli import main
from prequential.errors import ConfigError
from prequential.report import Report
from prequential.study import mdl, mixture
from prequential.study.curve import Curve
from prequential.training import prior

SIZE = 1500
FLAGS = ["--preset", "tiny", "--set", "ngrams.rows_log2=8", "--set", "model.input_rows_log2=8"]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = str(Path(prequential.__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", root)
    (tmp_path / "a").write_bytes(text(SIZE))
    return tmp_path / "a"


def test_sweep(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = ["--epochs", "1,2", "--grid", "model.width=16,32"]
    outputs = ["--json-file", "o.json", "--csv", "o.csv"]
    assert main(["mdl", "a", *FLAGS, *grid, *outputs, "--keep", "kept"]) == 0
    shown = capsys.readouterr()
    assert "to choose 1 of 4 settings" in shown.out
    assert shown.err.startswith("1/4 model.width=16 epochs=1: ")
    sweep = json.loads(Path("o.json").read_text())
    assert [row["settings"] for row in sweep["rows"]] == [
        {"model.width": w, "epochs": e} for w in ("16", "32") for e in ("1", "2")
    ]
    for row in sweep["rows"]:
        report = row["report"]
        archive = Path("kept", row["archive"])
        total = archive.stat().st_size + report["code_bytes"]
        assert report["description_length_bits"] == 8 * total
        assert codec.decompress(archive.read_bytes()) == text(SIZE)
        assert row["trajectory"][0] == [0, 0.0]
        assert row["trajectory"][-1] == [SIZE, report["loss_integral_bits"]]
        assert math.isclose(row["mean_bits_per_byte"] * SIZE, report["loss_integral_bits"])
    totals = [row["report"]["description_length_bits"] for row in sweep["rows"]]
    assert sweep["total_bits"] == min(totals) + 2
    assert min(totals) <= sweep["mixture_bits"] <= sweep["total_bits"]
    assert sweep["fixed_share_bits"] < sweep["mixture_bits"] + math.log2(math.e)
    assert sweep["fixed_share_rate"] == 1 / 401
    assert "by fixed share, 1/401 after each 4 bytes" in shown.out
    for row in sweep["rows"]:
        assert [x for x, _ in row["trajectory"]] == mixture.edges(SIZE).tolist()
        parts = row["structure_bits"], row["noise_bits"]
        assert math.isclose(sum(parts), row["report"]["loss_integral_bits"])
        assert parts[1] == SIZE * row["final_bits_per_byte"]
    assert sweep["command"] == shlex.join(
        ["preq", "mdl", "a", *FLAGS, *grid, *outputs, "--keep", "kept"]
    )
    assert totals[sweep["best"]] == min(totals)
    payload = sweep["rows"][sweep["best"]]["report"]["loss_integral_bits"]
    assert math.isclose(sweep["difference_bits"]["uniform"], payload - 8 * SIZE)
    table = list(csv.DictReader(io.StringIO(Path("o.csv").read_text())))
    assert [float(line["total_bits"]) for line in table] == totals
    for line in table:
        parts = [int(line[f"{part}_bytes"]) for part in ("payload", "header", "prior", "code")]
        assert 8 * sum(parts) == int(line["total_bits"])


@pytest.mark.slow
def test_an_interrupted_sweep_resumes(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = mdl.measure
    ran: list[str] = []

    def fragile(job: mdl.Job, progress: object = None) -> mdl.Row:
        ran.append(job.label)
        if ran == ["epochs=1", "epochs=2"]:
            raise KeyboardInterrupt
        return measure(job)

    monkeypatch.setattr(mdl, "measure", fragile)
    command = ["mdl", "a", "-q", *FLAGS, "--epochs", "1,2,3"]
    assert main(command) == 130
    assert main(command) == 0
    assert ran == ["epochs=1", "epochs=2", "epochs=2", "epochs=3"]
    assert not list(Path("cache").rglob("*.pq"))  # removed once complete
    source.write_bytes(text(SIZE, 1))
    ran.append("changed")
    assert main([*command, "--keep", "k"]) == 0
    assert main([*command, "--keep", "k"]) == 0
    assert ran[5:] == ["epochs=1", "epochs=2", "epochs=3"]
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_jobs_give_the_same(source: Path) -> None:
    command = ["mdl", "a", "-q", *FLAGS, "--epochs", "1,2"]
    assert main([*command, "--csv", "one.csv"]) == 0
    assert main([*command, "--csv", "two.csv", "--jobs", "2"]) == 0
    texts = (Path(f"{name}.csv").read_text() for name in ("one", "two"))
    one, two = (list(csv.DictReader(io.StringIO(table))) for table in texts)
    assert [row["total_bits"] for row in one] == [row["total_bits"] for row in two]


@pytest.mark.slow
def test_verify(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["mdl", "a", "-q", *FLAGS, "--keep", "k", "--json-file", "o", "-f"]
    assert main([*command, "--verify"]) == 0
    assert json.loads(Path("o").read_text())["rows"][0]["verified"]
    (kept,) = Path("k").glob("*.json")
    kept.write_text(kept.read_text().replace('"verified": true', '"verified": false'))
    (archive,) = Path("k").glob("*.pq")
    archive.write_bytes(archive.read_bytes()[:-1] + b"!")
    assert main([*command, "--verify"]) == 1
    assert "does not decode" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--grid", "model.width"], "expected KEY=V1,V2"),
        (["--grid", "epochs=1,1"], "different values"),
        (["--grid", "epochs=1", "--epochs", "2"], "given twice"),
        (["--grid", "none.such=1"], "unknown key"),
        (["--grid", "epochs=65"], "not within"),
        (["--grid", "preset=none"], "no preset"),
        (["--grid", "seed=x"], "a seed is"),
        (["--plot", "a.gif"], "name the plot"),
        (["--html", "a.pdf"], "name the page .html"),
        (["--csv", "o", "--json-file", "./o"], "two outputs have one name"),
        (["--keep", "a"], "a: is a file: name a folder"),
        (["--given", "-"], "--given: standard input is read once"),
        (["--prior-archive", "p.pq"], "give that by --prior"),
        (["--prior", "p", "--prior-archive", "a"], "p: cannot be read"),
        (["--json-file", "a"], "is the input itself"),
    ],
)
def test_refusals(
    source: Path, flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mdl", "a", *flags]) == (1 if "a" in flags else 2)  # a file, or how it is asked
    assert told in capsys.readouterr().err
    assert not list(Path("cache").rglob("*.pq"))


def test_wrong_usage(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["mdl"], ["mdl", "a", "--code"], ["mdl", "a", "--jobs", "0"], ["mdl", "a", "b"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
    assert main(["mdl", "-"]) == 1


def test_a_mixture_takes_no_choice(source: Path) -> None:
    """Of runs that are alike it costs what one does; of others, at most one bit a doubling more."""

    def sweep(*totals: int) -> mdl.Sweep:
        rows = [
            mdl.Row(
                {"epochs": str(k)},
                {"description_length_bits": total, "seed": 0},
                0,
                0,
                0,
                "",
                False,
                [],
            )
            for k, total in enumerate(totals)
        ]
        return mdl.Sweep("", "", 0, "", rows, {})

    assert sweep(1000).mixture_bits == 1000
    assert sweep(1000, 1000, 1000, 1000).mixture_bits == 1000
    assert sweep(1000, 99_000).mixture_bits == 1001
    assert sweep(1000, 99_000).selection_bits == 1
    assert math.isclose(sweep(1000, 1001).mixture_bits, 1000 + 1 - math.log2(1.5))


def test_streams_are_shown_in_the_order_of_the_file(source: Path) -> None:
    """The middle is noise, wherever the streams begin."""
    data = text(1000) + bytes(np.random.default_rng(0).integers(0, 256, 500, np.uint8)) + text(1000)
    source.write_bytes(data)
    more = ["--set", "streams=4", "--json-file", "o.json"]
    assert main(["mdl", "a", "-q", *FLAGS, *more]) == 0
    (row,) = json.loads(Path("o.json").read_text())["rows"]
    assert row["trajectory"][0] == [0, 0.0]
    assert row["trajectory"][-1] == [len(data), row["report"]["loss_integral_bits"]]
    x, y = np.array(row["trajectory"]).T
    before, noise_, after = np.diff(np.interp([0, 1000, 1500, 2500], x, y)) / [1000, 500, 1000]
    assert noise_ > 1.5 * max(before, after)


@pytest.mark.slow
def test_what_is_kept_is_not_replaced_unasked(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["mdl", "a", "-q", *FLAGS, "--keep", "k"]
    for seed in ("0", "1"):
        assert main([*command, "--seed", seed]) == 0
    assert main([*command, "--set", "streams=2"]) == 0
    archives = {path.name: path.read_bytes() for path in Path("k").glob("*.pq")}
    assert len(archives) == 3
    source.write_bytes(text(SIZE, 1))
    assert main(command) == 1
    assert "is of other data" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in Path("k").glob("*.pq")} == archives
    assert main([*command, "-f"]) == 0
    assert main(command) == 0
    for kept in Path("k").glob("*.json"):
        kept.unlink()
    assert main(command) == 0  # its own archive is made again
    for kept in Path("k").glob("*.json"):
        kept.unlink()
    for kept in Path("k").glob("*seed=0*.pq"):
        kept.write_text("somebody's")
    assert main(command) == 1
    assert {path.read_text() for path in Path("k").glob("*seed=0*.pq")} == {"somebody's"}


def test_structure_ends_at_a_level(source: Path) -> None:
    """Surplus description length: the payload beyond so many bits a byte."""
    assert main(["mdl", "a", "-q", *FLAGS, "--level", "1.5", "--json-file", "o.json"]) == 0
    (row,) = json.loads(Path("o.json").read_text())["rows"]
    assert row["noise_bits"] == 1.5 * SIZE
    assert row["structure_bits"] == row["report"]["loss_integral_bits"] - 1.5 * SIZE


def test_given_what_is_learned_first(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each row is an archive after A, and of no other A."""
    Path("A").write_bytes(text(SIZE, 1))
    command = ["mdl", "a", *FLAGS, "--keep", "k", "--json-file", "o.json", "-f"]
    assert main([*command, "--given", "A", "--epochs", "1,2", "--verify"]) == 0
    assert "all this given A, learned first and not counted" in capsys.readouterr().out
    sweep = json.loads(Path("o.json").read_text())
    assert sweep["given"] == ["A"]
    for row in sweep["rows"]:
        assert row["report"]["given_bytes"] == SIZE
        archive = Path("k", row["archive"])
        assert (
            8 * (archive.stat().st_size + row["report"]["code_bytes"])
            == row["report"]["description_length_bits"]
        )
        assert codec.decompress(archive.read_bytes(), given=[text(SIZE, 1)]) == text(SIZE)
    assert main([*command, "-q"]) == 0  # another run, under another name
    assert len(list(Path("k").glob("*.pq"))) == 3
    kept = {path: path.stat().st_mtime_ns for path in Path("k").glob("*.pq")}
    assert main([*command, "-q", "--given", "A", "--epochs", "1,2"]) == 0
    assert {path: path.stat().st_mtime_ns for path in Path("k").glob("*.pq")} == kept
    Path("A").write_bytes(text(SIZE, 2))
    unforced = ["mdl", "a", "-q", *FLAGS, "--keep", "k", "--given", "A", "--epochs", "1,2"]
    assert main(unforced) == 1
    assert "is of other data" in capsys.readouterr().err


def test_a_prior_costs_what_regenerates_it(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The archive of the run that wrote it, if that is smaller: decoding it gives the prior."""
    Path("b").write_bytes(text(SIZE, 1))
    assert main(["encode", "b", "-q", *FLAGS, "--save-weights", "w"]) == 0
    assert main(["decode", "b.pq", "-q", "-o", "c", "--save-weights", "again"]) == 0
    assert Path("again").read_bytes() == Path("w").read_bytes()
    command = ["mdl", "a", *FLAGS, "--prior", "w", "--json-file", "o.json", "-f"]
    assert main(command) == 0
    packed = prior.compressed_bytes(Path("w").read_bytes())
    assert f"prior w: {packed:,} bytes under LZMA; --prior-archive" in capsys.readouterr().out
    plain = json.loads(Path("o.json").read_text())
    assert plain["rows"][0]["report"]["prior_bytes"] == packed
    assert main([*command, "--prior-archive", "b.pq"]) == 0
    size = Path("b.pq").stat().st_size
    assert f"{size:,} as b.pq, which regenerates it" in capsys.readouterr().out
    found = json.loads(Path("o.json").read_text())
    assert found["prior"] == {
        "prior": "w", "compressed_bytes": packed, "archive": "b.pq", "archive_bytes": size
    }  # fmt: skip
    report, before = (each["rows"][0]["report"] for each in (found, plain))
    assert report["prior_bytes"] == size < packed
    assert before["description_length_bits"] - report["description_length_bits"] == 8 * (
        packed - size
    )
    assert main(["encode", "a", "-q", *FLAGS]) == 0
    assert main([*command, "--prior-archive", "a.pq"]) == 1
    assert "does not end with the weights w" in capsys.readouterr().err
    assert main(["encode", "a", "-q", *FLAGS, "--prior", "w", "-o", "after.pq"]) == 0
    assert main([*command, "--prior-archive", "after.pq"]) == 1
    assert "was itself made with a prior" in capsys.readouterr().err
    numbers = ["--set", "memory.kind=mix", "--set", "numbers=9-509:u1x1/50"]
    assert main(["encode", "b", "-q", *FLAGS, *numbers, "-o", "n.pq", "--save-weights", "v"]) == 0
    mixed = ["--set", "memory.kind=mix", "--prior", "v", "--prior-archive", "n.pq"]
    assert main(["mdl", "a", *FLAGS, *mixed]) == 1
    assert "n.pq: holds pictures or sound" in capsys.readouterr().err


def test_weights_of_an_archive(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source.write_bytes(b"")
    assert main(["encode", "a", "-q"]) == 0
    for more, code, told in (
        (["-o", "c", "--save-weights", "w"], 1, "is stored without a model"),
        (["-o", "c", "--save-weights", "./c"], 2, "have one name"),
        (["-o", "c", "--save-weights", "a.pq"], 1, "is the input itself"),
        (["-o", "c", "--save-weights", "w", "--salvage"], 2, "leave out --salvage"),
    ):
        assert main(["decode", "a.pq", "-q", *more]) == code
        assert told in capsys.readouterr().err
        assert not Path("c").exists()
        assert not Path("w").exists()


@pytest.mark.slow
def test_pages_and_plots(source: Path) -> None:
    pytest.importorskip("matplotlib")
    outputs = ["--plot", "o.svg", "--html", "o.html"]
    assert main(["mdl", "a", "-q", *FLAGS, "--grid", "model.width=16,32", *outputs]) == 0
    assert Path("o.svg").read_text().startswith("<?xml")
    page = Path("o.html").read_text()
    assert page.count("<svg") == page.count("<figure") == 5
    assert re.findall("<script[^>]*>", page) == ['<script type="application/json" id="settings">']
    assert len(set(ids := re.findall(r' id="([^"]+)"', page))) == len(ids)
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)) <= {
        pair for name in ids for pair in ((name, ""), ("", name))
    }
    settings = re.search(r'id="settings">(.*?)</script>', page)
    assert settings is not None
    assert json.loads(settings[1])["command"].startswith("preq mdl a")
    assert "--verify would decode" in page
    assert "bits by all runs with fixed share" in page
    for other in ("<link", "<img", "src=", "@import", "url(http"):
        assert other not in page
    assert main(["mdl", "a", "-q", *FLAGS, "--plot", "o.png"]) == 0
    assert Path("o.png").read_bytes().startswith(b"\x89PNG")


def test_every_figure_is_documented() -> None:
    path = ROOT / "docs" / "REPORT.md"
    documented = set(re.findall(r"\w+", path.read_text()))
    for record in (Report, mdl.Sweep, mdl.Row, Curve):
        fields = {field.name for field in dataclasses.fields(record)}
        assert fields <= documented, fields - documented
    assert {"best", "selection_bits", "total_bits", "difference_bits"} <= documented
    assert set(mdl.COLUMNS) <= documented


def test_without_matplotlib(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["mdl", "a", "--plot", "o.png"]) == 1
    assert "pip install 'prequential[plot]'" in capsys.readouterr().err


def test_stored_files_are_rows_too(source: Path) -> None:
    source.write_bytes(b"")
    assert main(["mdl", "a", "-q", "--json-file", "o.json"]) == 0
    assert json.loads(Path("o.json").read_text())["rows"][0]["report"]["mode"] == "stored"


@pytest.mark.slow
def test_code_is_within_budget(capsys: pytest.CaptureFixture[str]) -> None:
    assert codesize.code_bytes() <= 43_950
    assert codesize.code_bytes(codesize.NONE) <= 28_100
    assert codesize.code_bytes(codesize.TRANSFORMER) <= 54_250
    assert main(["mdl", "--code"]) == 0
    out = capsys.readouterr().out
    assert "training/decoding.py" in out
    assert f"{codesize.code_bytes():,}" in out
    only_encoding = {"codec", "encoder", "writer", "tokenizer", "formats", "finding", "guessing"}
    only_numbers = {"numbers", "squares", "series", "elements"}
    only_given = {"given", "meter", "merges"}
    assert not ({"cli", "mdl", "plots", "page"} | only_encoding | only_numbers | only_given) & {
        Path(name).name for name in codesize.closure()
    }
    numbers, given, tokens = (
        frozenset(names)
        for names in (
            ["predictors/numbers"],
            ["training/given"],
            ["training/given", "coding/merges"],
        )
    )
    for parts, only, most in (
        (numbers, only_numbers, 5_050),
        (given, only_given - {"merges"}, 1_100),
        (tokens, only_given, 1_700),
    ):
        parts |= codesize.NETWORKS
        assert only < {name.split("/")[-1][:-3] for name, _, _ in codesize.listing(parts)}
        assert codesize.code_bytes(parts) <= codesize.code_bytes() + most


@pytest.mark.slow
@pytest.mark.parametrize("numbers", ["", "9-509:u1x1/50"])
def test_self_extracting(source: Path, numbers: str) -> None:
    """The file on the disk is the description: nothing of the package is needed to run it."""
    settings = ["memory.kind=mix", f"numbers={numbers}"]
    if numbers:  # in plain Python, see below: one context instead of all
        settings.append('memory.contexts=["o3"]')
    else:  # of the kind of most presets
        settings += ["model.layers=0", "recurrence.layers=1", "recurrence.cells=16"]
    flags = [*FLAGS, *(word for setting in settings for word in ("--set", setting))]
    assert main(["encode", "a", "-q", *flags, "--self-extracting"]) == 0
    again = io.BytesIO()
    report = codec.encode(
        np.frombuffer(text(SIZE), np.uint8),
        again,
        config=prequential.load("tiny", overrides=[flag for flag in flags if "=" in flag]),
    )
    size = Path("a.pyz").stat().st_size
    assert 0 < size - report.archive_bytes - report.code_bytes < 1700
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if numbers:  # to compile all of a decoder once is enough
        environment["NUMBA_DISABLE_JIT"] = "1"
    command = [sys.executable, "a.pyz", "-o", "b"]
    result = subprocess.run(command, env=environment, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert Path("b").read_bytes() == text(SIZE)


def test_self_extracting_report(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "a", *FLAGS, "--self-extracting", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["description_length_bits"] == 8 * Path("a.pyz").stat().st_size


@pytest.mark.slow
def test_self_extracting_describes_its_flags(source: Path) -> None:
    """Of --given only where it is needed."""
    Path("A").write_bytes(text(50, 1))
    for given, there in (([], False), (["--given", "A"], True)):
        assert main(["encode", "a", "-q", "-f", *FLAGS, "--self-extracting", *given]) == 0
        done = subprocess.run([sys.executable, "a.pyz", "--help"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "CPU threads" in done.stdout
        assert "the weights it was made with" in done.stdout
        assert ("a file it was made after" in done.stdout) is there


def test_self_extracting_is_read_without_running_it(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", "a", "-q", *FLAGS, "--self-extracting", "--verify"]) == 0
    size = Path("a.pyz").stat().st_size
    source.rename("original")
    assert main(["info", "a.pyz", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["original_bytes"] == SIZE
    assert main(["test", "a.pyz", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["description_length_bits"] == 8 * size
    assert report["archive_bytes"] == info["archive_bytes"]
    assert main(["decode", "a.pyz", "-q"]) == 0
    assert source.read_bytes() == text(SIZE)


@pytest.mark.parametrize("what", ["cut", "flipped", "other", "packed"])
def test_bad_self_extracting_files(
    source: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = io.BytesIO()
    selfextract.write(b"not an archive", out)
    good = out.getvalue()
    at = good.index(b"not an archive")
    if what == "cut":
        bad = good[:-1]
    elif what == "flipped":
        bad = good[:at] + b"N" + good[at + 1 :]
    else:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data.pq" if what == "packed" else "else", bytes(10_000))
        bad = packed.getvalue()
    Path("bad.pyz").write_bytes(bad)
    for command in ("info", "test", "decode"):
        assert main([command, "bad.pyz"]) == 1
        assert "bad.pyz: is no self-extracting archive" in capsys.readouterr().err
    Path("bad.pyz").write_bytes(good)
    assert main(["info", "bad.pyz"]) == 1
    assert not Path("bad").exists()


def test_axes() -> None:
    assert mdl.parse_axis("a=1, 2") == ("a", ["1", "2"])
    with pytest.raises(ConfigError):
        mdl.parse_axis("=1")
    assert mdl.grid({}) == [{}]
