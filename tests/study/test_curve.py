"""Description lengths from published loss curves."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

from prequential.cli import main
from prequential.errors import FileError
from prequential.study.curve import Log, Source, describe, parse_source, read


@pytest.mark.parametrize(("loss", "gigabytes"), [(1.5, 379), (1.6, 404), (1.7, 429)])
def test_llama_65b(loss: float, gigabytes: int) -> None:
    """1.4T tokens of 5.6 TB, seen once: 13 to 15 times smaller."""
    found = describe([1.4e12], [loss], raw_bytes=5_600_000_000_000, code_bytes=1_000_000)
    assert round(found.total_bytes / 1e9) == gigabytes
    assert found.factor is not None
    assert 13 <= found.factor <= 15


def test_repeats_are_not_counted() -> None:
    once = describe([0, 100], [3.0, 1.0], nats=False)
    assert (once.payload_bits, once.repeated_tokens) == (200.0, 0.0)
    twice = describe([0, 100, 200], [3.0, 1.0, 0.5], nats=False, epoch_tokens=100)
    assert twice.payload_bits == 200.0
    assert twice.repeated_tokens == 100.0
    half = describe([0, 100], [3.0, 1.0], nats=False, epoch_tokens=50)
    assert (half.payload_bits, half.final_bits_per_token) == (125.0, 2.0)


@pytest.mark.parametrize(
    ("tokens", "losses"),
    [
        ([], []),
        ([1.0], []),
        ([2.0, 1.0], [1.0, 1.0]),
        ([1.0], [float("nan")]),
        ([1.0], [-1.0]),
        ([-1.0], [1.0]),
        ([0.0], [1.0]),
    ],
)
def test_not_a_curve(tokens: list[float], losses: list[float]) -> None:
    with pytest.raises(ValueError, match="loss curve"):
        describe(tokens, losses)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "loss.csv"
    table.write_text("it,nll\n0,1.6\n350000,1.6\n")
    columns = ["--step-column", "it", "--loss-column", "nll", "--tokens-per-step", "4e6"]
    command = ["curve", "--csv", str(table), *columns]
    assert main([*command, "--raw-bytes", "5.6e12", "--json"]) == 0
    assert round(json.loads(capsys.readouterr().out)["total_bytes"] / 1e9) == 404
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "1.6000 nats" in shown
    assert "structure        0 bytes of it" in shown
    assert main([*command, "--level", "0.8"]) == 0
    payload, structure, noise = (
        int(number.replace(",", ""))
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(("payload", "structure"))
        for number in re.findall(r"[\d,]{5,}", line)
    )
    assert (structure, noise) == (pytest.approx(payload / 2), pytest.approx(payload / 2))
    assert main([*command[:-4], "--tokens-per-step", "1"]) == 1
    assert "no column 'loss'; it has it, nll" in capsys.readouterr().err
    table.write_text("it,nll\n0,x\n")
    assert main(command) == 1
    assert "loss.csv, line 2: nll is 'x', not a number from 0 on" in capsys.readouterr().err
    assert main([*command, "--epochs-of", "A=1%:2", "--epochs-of", "A =1%:3"]) == 2
    assert "--epochs-of A: is given twice" in capsys.readouterr().err


LLAMA = [  # Touvron et al. 2023, table 1
    "CommonCrawl=67%:1.10", "C4=15%:1.06", "GitHub=4.5%:0.64", "Wikipedia=4.5%:2.45",
    "Books=4.5%:2.23", "ArXiv=2.5%:1.06", "StackExchange=2%:1.03",
]  # fmt: skip


def test_of_a_mixture_only_what_is_new_counts() -> None:
    """A source of two epochs is new in the first half of the run; one of half an epoch always."""
    twice, half = Source(0.5, 2), Source(0.5, 0.5)
    found = describe([0, 100], [3.0, 1.0], nats=False, sources=[twice, half])
    assert (found.tokens, found.repeated_tokens) == (75.0, 25.0)
    assert found.payload_bits == 0.5 * 200 + 0.5 * 125
    llama = describe([1.4e12], [1.6], sources=[parse_source(text) for text in LLAMA])
    assert round(100 * llama.repeated_tokens / 1.4e12) == 12
    with pytest.raises(ValueError, match="more than all"):
        describe([1.0], [1.0], sources=[twice, half, half])


@pytest.mark.parametrize("text", ["a", "a=1", "a=1:0", "a=0:1", "a=101%:1", "a=2:1", "a=x:y"])
def test_no_source(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["curve", "--csv", "a", "--tokens-per-step", "1", "--epochs-of", text])
    assert "epochs-of" in capsys.readouterr().err


def test_what_a_curve_cannot_be_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("step,loss\n1,2\n")
    Path("a.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "loss": 1}\n')
    command = ["curve", "--tokens-per-step", "1", "--csv"]
    assert main([*command, "a.csv"]) == 0
    for flag in ("--csv", "--log"):
        with pytest.raises(SystemExit) as ended:
            main([*command, "none", flag, "a.csv"])
        assert ended.value.code == 2
        assert f"{flag}: is given twice" in capsys.readouterr().err
    shares = [part for name in "AB" for part in ("--epochs-of", f"{name}=60%:2")]
    assert main([*command, "none", *shares]) == 2
    assert "--epochs-of: the shares add up to 120.0%: give 100" in capsys.readouterr().err
    assert main([*command, "a.jsonl"]) == 1
    assert "a.jsonl: looks like JSON or JSON lines, not like CSV: give" in capsys.readouterr().err


def test_structure_is_epiplexity() -> None:
    """As PyPI's epiplexity 0.6.1 has it of this curve: 2,885.39 and 8,656.17 bits."""
    tokens, losses = [0, 1000, 2000, 3000], [4.0, 3.0, 2.0, 2.0]
    found = describe(tokens, losses)
    assert (round(found.structure_bits, 2), round(found.noise_bits, 2)) == (2885.39, 8656.17)
    package = pytest.importorskip("epiplexity")
    result = package.PrequentialEstimator.estimate(tokens, losses)
    assert (found.structure_bits, found.noise_bits) == pytest.approx(
        (result.model_bits, result.data_bits)
    )


def test_structure_at_a_level() -> None:
    """The surplus beyond any loss; it may be less than nothing."""
    for level, structure in ((0.0, 200.0), (1.5, 50.0), (3.0, -100.0)):
        found = describe([0, 100], [3.0, 1.0], nats=False, level=level)
        assert (found.structure_bits, found.noise_bits) == (structure, 100 * level)
    twice = describe([0, 100, 200], [3.0, 1.0, 0.5], nats=False, epoch_tokens=100)
    assert (twice.structure_bits, twice.noise_bits) == (100.0, 100.0)  # of what is counted


def test_what_was_not_logged_is_said_and_bounded() -> None:
    found = describe([10, 20], [3.0, 1.0], nats=False, vocabulary=256)
    assert (found.payload_bits, found.assumed_bits, found.assumed_bits_at_most) == (
        50.0,
        30.0,
        80.0,
    )
    assert describe([0, 20], [3.0, 1.0]).assumed_bits == 0


def test_logs_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows for other figures have blanks; a run that was resumed takes steps again."""
    rows = "epoch,step,loss,lr\n0,0,9,\n,5,,0.1\n0,10,5,\n0,20,4,\n1,10,3,\n1,20,2,\n1,,1,\n"
    (tmp_path / "a.csv").write_text(rows)
    expected = Log([0, 10, 20], [9, 3, 2], 2, 2)
    assert read(str(tmp_path / "a.csv"), "step", "loss") == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(rows.encode())))
    assert read("-", "step", "loss") == expected
    history = [{"step": 0, "loss": 9}, {"step": 5, "eval_loss": 1}, {"step": 10, "loss": 3.0}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    assert read(str(tmp_path / "trainer_state.json"), "step", "loss") == Log([0, 10], [9, 3], 1, 0)
    for content in ("[]", "{", '{"log_history": 1}', '{"log_history": [1]}', "[" * 100_000):
        (tmp_path / "trainer_state.json").write_text(content)
        with pytest.raises(FileError, match="is not a table of numbers"):
            read(str(tmp_path / "trainer_state.json"), "step", "loss")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("step,loss\n", "no row has a step and a loss: it has names only"),
        ("step,loss\n1,\n,2\n3\n", "no row has a step and a loss: its 3 rows lack one or both"),
        ("step,loss\n0,1\n\n5,nan\n", "a.csv, line 4: loss is 'nan'"),
        ("step,loss\n0,1\n5,-1\n", "a.csv, line 3: loss is '-1'"),
        ('step,loss,note\n0,1,"two\nlines"\nx,1,\n', "a.csv, line 4: step is 'x'"),
        (b"\xff\xfe", "is no text in UTF-8"),
        ("step,loss\n0,1\n\x005,1\n", "a.csv"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(
    content: str | bytes, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FileError) as caught:
        read(str(path), "step", "loss")
    assert told in str(caught.value)


def test_blanks_around_names_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(" step , train loss\n 0, 9\n 10 , 3 \n20,  \n")
    assert read(str(path), "step", " train loss") == Log([0, 10], [9, 3], 1, 0)


def test_folders_without_logs(tmp_path: Path) -> None:
    (tmp_path / "loss.csv").write_text("step,loss\n0,1\n")
    with pytest.raises(FileError, match="is a folder, and none of TensorBoard's event files"):
        read(str(tmp_path), "step", "loss")
    (tmp_path / "trainer_state.json").write_text("")
    with pytest.raises(FileError, match="is empty"):
        read(str(tmp_path / "trainer_state.json"), "step", "loss")
    (tmp_path / "trainer_state.json").write_text('{"log_history": [{"step": [1], "loss": 2}]}')
    with pytest.raises(FileError, match=r"log_history\[0\]: step is \[1\]"):
        read(str(tmp_path / "trainer_state.json"), "step", "loss")


def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path))
    for step, loss in ((0, 4.0), (10, 2.0)):
        value = Summary.Value(tag="train/loss", simple_value=loss)
        writer.add_event(Event(step=step, summary=Summary(value=[value])))
    writer.close()
    (file,) = tmp_path.iterdir()
    for path in (tmp_path, file):
        assert read(str(path), "step", "train/loss") == Log([0, 10], [4, 2], 0, 0)
    with pytest.raises(FileError, match="no column 'loss'; it has step, train/loss"):
        read(str(tmp_path), "step", "loss")


def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "events.out.tfevents.1").touch()
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_accumulator", None)
    with pytest.raises(FileError, match=r"pip install 'prequential\[tensorboard\]'"):
        read(str(tmp_path), "step", "loss")
