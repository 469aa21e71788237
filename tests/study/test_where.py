"""Where the bits go: sums by kind, the dearest places, and the page that shows each byte."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import noise, small, text

from prequential import codec
from prequential.cli import main
from prequential.coding.itemised import Costs
from prequential.config import preset_names
from prequential.study import costpage
from prequential.study.where import Where

LINES = b"alpha 1\nBETA [2]\n\tgamma = 3.5;\r\nd\n" + "été\n".encode()


def where(data: bytes, bits: np.ndarray | None = None) -> Where:
    array = np.frombuffer(data, np.uint8)
    if bits is None:
        bits = np.arange(len(data)) % 11 / 2
    nothing = np.zeros(len(data), np.int64)
    costs = Costs(np.arange(len(data) + 1), bits, bits + 1, nothing)
    report = codec.codelength(b"", config=small())
    return Where("name <&> \x1b.txt", array, costs, report)


def test_every_byte_is_of_one_kind() -> None:
    found = where(bytes(range(256)), np.ones(256)).kinds()
    assert sum(kind.bytes for kind in found) == 256
    assert all(kind.bits == kind.bytes for kind in found)
    kinds = {kind.name: kind.bytes for kind in found}
    assert kinds["line ends"] == kinds["blanks and tabs"] == 2
    assert kinds["lower-case letters"] == 26
    assert kinds["bytes from 128 on"] == 128


def test_the_dearest_places_are_lines_of_text() -> None:
    bits = np.zeros(len(LINES))
    bits[LINES.index(b"BETA") :][:9] = 5
    bits[0:8] = 2
    found = where(LINES, bits).dearest(2)
    assert [(place.start, place.end, place.bits) for place in found] == [(8, 17, 45), (0, 8, 16)]
    assert where(LINES).text_of(found[0]) == "BETA [2]"


def test_what_is_no_text_is_shown_in_digits() -> None:
    binary = where(noise(200), np.repeat([1.0, 9.0, 2.0, 3.0, 4.0], 40))
    assert not binary.is_text
    assert where(LINES).is_text
    first = binary.dearest()[0]
    assert (first.start, first.end) == (32, 64)
    assert re.fullmatch(r"([0-9a-f]{2} ?){16}", binary.text_of(first))


@pytest.mark.parametrize("data", [b"", b"a", LINES, noise(300)])
def test_the_page_holds_the_file_and_what_it_cost(data: bytes) -> None:
    found = where(data)
    page = costpage.render(found)
    packed = re.search(r'id="packed">([^<]*)<', page)
    assert packed is not None
    raw = np.frombuffer(zlib.decompress(base64.b64decode(packed[1])), np.uint8)
    rows = raw.reshape(4, len(data))
    assert rows[0].tobytes() == data
    assert np.array_equal(rows[1], np.minimum(np.rint(found.bits * 16), 255))
    assert "name &lt;&amp;&gt; \\x1b.txt" in page
    assert not re.search(r'(src|href)="(?!#b\d)', page)  # nothing is loaded
    assert len(set(ids := re.findall(r' id="([^"]+)"', page))) == len(ids)


def test_each_predictor_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A learner of one part pays what that part does; of several, each has its own row."""
    data = text(1500)
    file, page = tmp_path / "a.txt", tmp_path / "a.html"
    file.write_bytes(data)
    command = ["where", str(file), "--preset", "tiny", "--no-progress", "--predictors", "--json"]
    rows = "ngrams.rows_log2=8", "model.input_rows_log2=8", "recurrence.input_rows_log2=8"
    command += [part for row in rows for part in ("--set", row)]
    nothing = ["--set", "ngrams.contexts=[]"]

    def found(*more: str) -> dict[str, Any]:
        assert main([*command, *more]) == 0
        fields: dict[str, Any] = json.loads(capsys.readouterr().out)
        return fields

    of_all = found("--set", "recurrence.layers=1", "--set", "recurrence.cells=16", "--set",
                   "model.layers=1", "--html", str(page))  # fmt: skip
    assert list(of_all["apart_bits"]) == ["n-gram tables", "cells", "transformer"]
    assert min(of_all["apart_bits"].values()) > of_all["learner_bits"]
    for kind in of_all["kinds"]:
        assert set(kind["alone"]) == {"learner", *of_all["apart_bits"]}
    for name, total in of_all["apart_bits"].items():
        assert sum(kind["alone"][name] for kind in of_all["kinds"]) == pytest.approx(total)
        assert f"what the {name} alone would pay" in page.read_text()
    alone = found(*nothing, "--set", "model.layers=1")
    assert alone["apart_bits"]["n-gram tables"] == pytest.approx(8 * len(data))
    assert alone["apart_bits"]["transformer"] == pytest.approx(alone["learner_bits"], rel=1e-3)
    assert list(found(*nothing, "--set", "model.layers=0")["apart_bits"]) == ["n-gram tables"]
    assert main([part for part in command if part not in ("--predictors", "--json")]) == 0
    assert "n-gram tables" not in capsys.readouterr().out


def test_what_was_there_before_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the table, in the page and in JSON: the given and the prior."""
    monkeypatch.chdir(tmp_path)
    Path("a&b").write_bytes(text(700))
    Path("b").write_bytes(text(900, 2))
    flags = ["--preset", "tiny", "--no-progress"]
    assert main(["encode", "a&b", *flags, "-q", "--save-weights", "w.safetensors"]) == 0
    capsys.readouterr()
    command = ["where", "b", *flags, "--given", "a&b", "--prior", "w.safetensors"]
    assert main([*command, "--html", "w.html", "--json-file", "w.json"]) == 0
    fields = json.loads(Path("w.json").read_text())
    names = "a&b", "w.safetensors"
    hashes = [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in names]
    assert fields["given"] == [{"name": "a&b", "sha256": hashes[0][:16], "size": 700}]
    size = Path("w.safetensors").stat().st_size
    assert fields["prior"] == {"name": "w.safetensors", "sha256": hashes[1], "size": size}
    assert fields["command"] == f"preq {shlex.join(command)} --html w.html --json-file w.json"
    told = f"after learning a&b (700 bytes, SHA-256 {hashes[0][:16]}) from the prior w.safetensors"
    assert told in capsys.readouterr().out
    page = Path("w.html").read_text()
    assert f"by what stood before it, {html.escape(told)}" in page
    assert f"<code>{html.escape(fields['command'])}</code>" in page
    assert main(["where", "b", *flags, "--html", "v.html"]) == 0
    assert "all this" not in capsys.readouterr().out
    assert "by what stood before it." in Path("v.html").read_text()


def test_parts_are_in_the_page() -> None:
    plain = where(LINES)
    parts = {"cells": plain.bits + 2}
    found = Where("a", plain.data, plain.costs._replace(apart=parts), plain.report)
    packed = re.search(r'id="packed">([^<]*)<', costpage.render(found))
    assert packed is not None
    rows = np.frombuffer(zlib.decompress(base64.b64decode(packed[1])), np.uint8)
    *_, last = rows.reshape(5, len(LINES))
    assert np.array_equal(last, np.minimum(np.rint(16 * (plain.bits + 2)), 255))


def test_a_file_that_looks_like_the_page_cannot_break_it() -> None:
    data = b"</script><script>alert(1)</script> {{packed}} {{kinds}}\n" * 3
    page = costpage.render(where(data, np.full(len(data), 3.0)))
    assert "<script>alert" not in page
    assert page.count("</script>") == 2
    assert page.count("{{packed}} {{kinds}}") == 3


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "tiny" in preset_names()
    file, page, bits = tmp_path / "a.txt", tmp_path / "a.html", tmp_path / "a.npy"
    data = text(1500)
    file.write_bytes(data)
    options = ["--preset", "tiny", "--set", "streams=1", "--no-progress"]
    outputs = ["--html", str(page), "--bits", str(bits), "--json-file", str(tmp_path / "a.json")]
    assert main(["where", str(file), *options, *outputs]) == 0
    shown = capsys.readouterr().out
    assert "lower-case letters" in shown
    fields = json.loads((tmp_path / "a.json").read_text())
    assert np.load(bits).sum() == fields["loss_integral_bits"]
    assert sum(kind["bits"] for kind in fields["kinds"]) == fields["loss_integral_bits"]
    assert fields["curve"][-1] == [len(data), fields["loss_integral_bits"]]
    assert page.read_text().startswith("<!doctype html>")
    assert main(["where", str(file), *options, *outputs]) == 1
    assert "exists" in capsys.readouterr().err
    assert main(["where", str(file), *options, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again.pop("command") != fields.pop("command")
    assert again == fields
    archive = tmp_path / "a.pq"
    encode = ["encode", str(file), *options, "-q", "-o", str(archive)]
    assert main([*encode, "--bits", str(bits)]) == 1  # there is one
    assert main([*encode, "--bits", str(tmp_path / "b.npy")]) == 0
    assert np.array_equal(np.load(bits), np.load(tmp_path / "b.npy"))


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["where", "a", "--html", "a.pdf"], 2, "name the page .html"),
        (["where", "a", "--html", "b.html", "--bits", "./b.html"], 2, "for two outputs"),
        (["where", "none"], 1, "none"),
        (["where", "a", "--bits", "none/b.npy"], 1, "there is no folder none"),
        (["encode", "a", "--bits", "a.pq"], 2, "the archive and --bits have one name"),
        (["encode", "a", "--bits", "b", "--save-weights", "b"], 2, "have one name"),
        (["encode", "a", "--bits", "b.npy", "--resume"], 2, "leave out --resume"),
        (["encode", "a", "--bits", "b.npy", "--distributed"], 2, "does not go with --bits"),
        (["encode", "a", "b", "--bits", "b.npy"], 2, "--bits takes a single input file"),
    ],
)
def test_what_cannot_be_is_said_before_the_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").write_bytes(b"something")
    try:
        found = main(argv)
    except SystemExit as ended:
        found = int(str(ended.code))
    assert found == code
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
