"""Seeds are averaged, settings compared seed by seed, and sizes tell where they cross."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from pathlib import Path

import pytest
from samples import text

from prequential.cli import main
from prequential.study import mdl, replicates

FLAGS = ["--preset", "tiny", "--set", "ngrams.rows_log2=8", "--set", "model.input_rows_log2=8"]


def sweep(size: int, **totals: list[int]) -> mdl.Sweep:
    rows = [
        mdl.Row(
            {"model.width": setting, "seed": str(seed)},
            {"description_length_bits": total, "seed": seed, "original_bytes": size},
            *(0, 0, 0, "", False, []),
        )
        for setting, own in totals.items()
        for seed, total in enumerate(own)
    ]
    return mdl.Sweep("", "", size, "", rows, {})


def test_a_seed_is_averaged_not_chosen() -> None:
    found = sweep(10, a=[100, 300], b=[190, 192])
    assert found.best.settings["model.width"] == "b"
    assert (found.best_bits, found.selection_bits, found.total_bits) == (191, 1, 192)
    assert found.mixture_bits <= found.total_bits
    a, b = replicates.lines([found])
    assert (a.label, a.seeds, a.total_bits.value) == ("model.width=a", 2, 200)
    assert a.total_bits.within == pytest.approx(12.706 * 100)
    assert b.behind_bits == replicates.Mean(0, 0)


def test_differences_are_taken_seed_by_seed() -> None:
    """Two settings of which one is always 3 bits behind, whatever seeds do to both."""
    (_, second) = replicates.lines([sweep(10, a=[100, 300, 200], b=[103, 303, 203])])
    assert second.behind_bits == replicates.Mean(3, 0)
    assert second.total_bits.within is not None
    assert second.total_bits.within > 100
    assert str(second.behind_bits) == "3 ± 0"


def test_where_settings_cross() -> None:
    sweeps = [
        sweep(10, a=[100], b=[110], c=[120], d=[130]),
        sweep(20, a=[200], b=[190], c=[210], d=[190]),
        sweep(40, a=[400], b=[390], c=[380], d=[410]),
    ]
    found = {crossing.then[-1]: crossing for crossing in replicates.crossings(sweeps)}
    assert {key: (one.original_bytes, one.ahead_bits.value) for key, one in found.items()} == {
        "b": (20, 10),
        "c": (40, 20),
    }
    assert found["b"].ahead_bits.within is None


def test_an_interval_holds_the_mean_nineteen_times_in_twenty() -> None:
    import numpy as np

    generator, held = np.random.default_rng(0), 0
    for values in generator.normal(7, 3, (2000, 5)):
        middle = replicates.mean(values.tolist())
        assert middle.within is not None
        held += abs(middle.value - 7) <= middle.within
    assert math.isclose(held / 2000, 0.95, abs_tol=0.015)


def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("a").write_bytes(text(1500))
    grid = ["--grid", "model.width=16,32", "--seeds", "2", "--seed", "5", "--sizes", "1k,500"]
    assert main(["mdl", "a", *FLAGS, *grid, "--json-file", "o.json", "--csv", "o.csv"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("to choose 1 of 2 settings") == 2
    assert "± is half of a 95 % interval" in shown
    sizes = json.loads(Path("o.json").read_text())["sizes"]
    assert [one["original_bytes"] for one in sizes] == [500, 1000]
    for one in sizes:
        assert [row["settings"]["seed"] for row in one["rows"]] == ["5", "6", "5", "6"]
        assert {row["report"]["original_bytes"] for row in one["rows"]} == {one["original_bytes"]}
    table = list(csv.DictReader(io.StringIO(Path("o.csv").read_text())))
    assert [line["original_bytes"] for line in table] == ["500"] * 4 + ["1000"] * 4


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--sizes", "2k"], "has 1,500 bytes, fewer than --sizes 2,000"),
        (["--sizes", "0"], "expected sizes such as"),
        (["--sizes", "1.5k"], "expected sizes such as"),
        (["--seeds", "0"], "is not a number from 1"),
        (["--seeds", "2", "--grid", "seed=1,2"], "the grid has seeds already"),
    ],
)
def test_refusals(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("a").write_bytes(text(1500))
    try:
        code = main(["mdl", "a", *flags])
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == 2
    assert told in capsys.readouterr().err


def test_a_name_that_is_no_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = os.fsdecode(b"u\xff")
    Path(name).write_bytes(text(100))
    assert main(["mdl", name, *FLAGS, "-q", "--html", "o.html", "--json-file", "o.json"]) == 0
    assert json.loads(Path("o.json").read_text())["file"] == name
    assert "Description length of u\\udcff</h1>" in Path("o.html").read_text("utf-8")


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_figures_of_the_page_are_of_the_best_setting(
    seeds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several seeds all are means, whichever of them is the shortest."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("a").write_bytes(text(800))
    command = ["mdl", "a", *FLAGS, "-q", "--grid", "model.width=16,32", "--seeds", str(seeds)]
    assert main([*command, "--json-file", "o.json", "--html", "o.html"]) == 0
    found, page = json.loads(Path("o.json").read_text()), Path("o.html").read_text()
    width = found["rows"][found["best"]]["settings"]["model.width"]
    rows = [row for row in found["rows"] if row["settings"]["model.width"] == width]
    reports = [row["report"] for row in rows]
    total = sum(report["description_length_bits"] for report in reports) / seeds + 1  # the choice
    payload = sum(report["loss_integral_bits"] for report in reports) / seeds
    cards = re.findall("class=card><b>([^<]*)</b>", page)
    assert cards[:2] == [f"{total:,.0f}", f"{total / 800:.4f}"]
    assert cards[2:4] == [f"{payload / 800:.4f}", f"{6400 / total:.3f}"]
    assert page.count("<tr class=best>") == seeds
    assert (f"Best run: model.width={width} seed=0." in page) == (seeds == 1)
    assert (f"Best setting: model.width={width}; its figures are means" in page) == (seeds == 2)
    assert found["difference_bits"]["uniform"] == payload - 6400
