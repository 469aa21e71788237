"""`preq compare`: real figures from real processes."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
from samples import text

from prequential.cli import main
from prequential.study import compare


@pytest.mark.slow
def test_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes(text(5000))
    out = tmp_path / "figures.json"
    command = ["compare", str(file), "--presets", "tiny", "--methods", "zlib -9,xz -9e"]
    assert main([*command, "--decode", "--weissman", "--json-file", str(out)]) == 0
    shown = capsys.readouterr().out
    rows = {row["method"]: row for row in json.loads(out.read_text())["rows"]}
    assert set(rows) == {"preq tiny", "zlib -9", "xz -9e"}
    assert rows["zlib -9"]["archive_bytes"] == len(zlib.compress(text(5000), 9))
    for name, row in rows.items():
        assert name in shown
        assert f"{row['archive_bytes']:,}" in shown
        assert row["decode_seconds"] > 0
        assert row["encode_peak_bytes"] > 1_000_000


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path), "--methods", "zlib -9"]) == 1
    assert "not a file" in capsys.readouterr().err
    file = tmp_path / "f"
    file.write_bytes(b"x")
    assert main(["compare", str(file), "--methods", "rar"]) == 2
    assert "rar" in capsys.readouterr().err


@pytest.mark.slow
def test_one_that_fails_leaves_the_others_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(compare.PROGRAMS, "broken", ("false", "false {i} {o}", ""))
    file, out = tmp_path / "words.txt", tmp_path / "figures.json"
    file.write_bytes(text(500))
    methods = ["--presets", "tiny", "--methods", "broken,zlib -9"]
    assert main(["compare", str(file), *methods, "--weissman", "--json-file", str(out)]) == 1
    shown = capsys.readouterr()
    assert "left out: broken failed" in shown.err
    assert "zlib -9" in shown.out
    document = json.loads(out.read_text())
    assert [row["method"] for row in document["rows"]] == ["preq tiny", "zlib -9"]
    assert len(document["failed"]) == 1


def test_weissman_of_the_reference_is_one() -> None:
    row = compare.Row("f", "m", 1000, 500, 4.0, 0.5, None, 1)
    assert compare.weissman(row, row) == 1.0
    better = compare.Row("f", "n", 1000, 250, 2.0, 0.5, None, 1)
    assert compare.weissman(better, row) == 2.0
