"""A learner that has learned the given, kept for other files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save
from samples import noise, text

from prequential.cli import main
from prequential.training import given, loop

FLAGS = ["--preset", "tiny", "--set", "ngrams.rows_log2=10", "--set", "model.input_rows_log2=8"]
MIX = ["--set", "memory.kind=mix", "--set", "memory.buckets=65536"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("a").write_bytes(text(700, 1))
    Path("a2").write_bytes(noise(100))
    for n in range(3):
        Path(f"b{n}").write_bytes(text(400 + 50 * n, n + 2))
    return tmp_path


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A name for every time that the given is learned."""
    times: list[str] = []

    class Counted:
        @staticmethod
        def run(*arguments: Any) -> None:
            times.append("learned")
            loop.run(*arguments)

    monkeypatch.setattr(given, "loop", Counted)
    return times


GIVEN = ["--given", "a", "--given", "a2"]


@pytest.mark.parametrize("kind", [[], [*MIX, "--set", "epochs=2"], ["--tokenizer", "bpe:280"]])
def test_a_state_gives_the_same_archives(
    folder: Path, kind: list[str], learned: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Learned each time, once for all files, or from a file; there and back."""
    files = ["b0", "b1", "b2"]
    for name in files:
        assert main(["encode", name, "-q", *FLAGS, *kind, *GIVEN, "-o", f"{name}.1"]) == 0
    assert len(learned) == 3
    assert main(["encode", *files, "-q", *FLAGS, *kind, *GIVEN]) == 0
    assert len(learned) == 4
    learn = ["learn", "a", "a2", "-o", "s", "--json", "-q", *FLAGS, *kind]
    assert main(learn) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["given_bytes"] == 800
    assert told["state_bytes"] == Path("s").stat().st_size
    learned.clear()
    state = ["--state", "s", *GIVEN]
    for name in files:
        assert main(["encode", name, "-q", *FLAGS, *kind, *state, "-o", f"{name}.2"]) == 0
        assert Path(f"{name}.1").read_bytes() == Path(f"{name}.2").read_bytes()
        assert Path(f"{name}.1").read_bytes() == Path(f"{name}.pq").read_bytes()
    assert main(["decode", *(f"{name}.pq" for name in files), "-q", "-f", *state]) == 0
    assert [Path(name).read_bytes() for name in files] == [
        text(400 + 50 * n, n + 2) for n in range(3)
    ]
    assert learned == []


def test_another_state_is_not_taken(
    folder: Path, learned: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["learn", "a", "-q", "-o", "s", *FLAGS]) == 0
    learned.clear()
    for flags, told in (
        (["--given", "a2"], "its given is"),
        (["--given", "a", "--seed", "5"], "its seed is 0, this run's is 5"),
        (["--given", "a", "--set", "chunk=8"], "its config has chunk = "),
    ):
        command = ["encode", "b0", "-f", *FLAGS, "--state", "s", *flags]
        assert main(command) == 0
        assert f"s: is not of this run, so the given is learned anew: {told}" in (
            capsys.readouterr().err
        )
        assert main([*command, "-q"]) == 0
        assert capsys.readouterr().err == ""
    assert len(learned) == 6


def test_a_damaged_state_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["learn", "a", "-q", "-o", "s", *FLAGS]) == 0
    content = bytearray(Path("s").read_bytes())
    content[-9] ^= 1
    deep = save({}, {"manifest": "[" * 100_000})
    for bad in (bytes(content), bytes(content[:-9]), b"nonsense", b"", deep):
        Path("s").write_bytes(bad)
        assert main(["encode", "b0", "-q", *FLAGS, "--given", "a", "--state", "s"]) == 1
        assert "s: the state is damaged" in capsys.readouterr().err
        assert not Path("b0.pq").exists()
    Path("s").unlink()
    assert main(["encode", "b0", "-q", *FLAGS, "--given", "a", "--state", "s"]) == 1
    assert capsys.readouterr().err.endswith("s: cannot be read: No such file or directory\n")


def test_learn_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["learn", "a", "-o", "s", *FLAGS]) == 0
    assert "state  s" in capsys.readouterr().err
    assert Path("s").stat().st_mode & 0o777 == Path("a").stat().st_mode & 0o777
    Path("a").chmod(0o640)  # what it tells of is not for all
    assert main(["learn", "a", "b0", "-o", "s", "-q", "-f", *FLAGS]) == 0
    assert Path("s").stat().st_mode & 0o777 == 0o640
    for command, told in (
        (["learn", "a", "-o", "s"], "s: exists already"),
        (["learn", "a", "-o", "a", "-f"], "a: is the input itself"),
        (["learn", "no", "-o", "t"], "no: cannot be read"),
    ):
        assert main([*command, *FLAGS]) == 1
        assert told in capsys.readouterr().err
    assert main(["encode", "b0", "--state", "s", *FLAGS]) == 2
    assert "--state saves learning what is given" in capsys.readouterr().err
