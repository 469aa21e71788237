"""Standard streams that are closed, full, or cannot show a character."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from samples import text

import prequential
from prequential.cli import main

TINY = ["--preset", "tiny", "--set", "ngrams.rows_log2=10", "--set", "chunk=8"]
DATA = text(900)
CLOSING = "import os, sys; os.close({}); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(DATA)
    (tmp_path / "loss.csv").write_text("step,loss\n1,2.0\n2,1.0\n")
    assert main(["encode", "-q", *TINY, "-o", "good.pq", "a"]) == 0
    return tmp_path


def run(*argv: str, program: tuple[str, ...] = ("-m", "prequential"), **options: Any) -> Any:
    """The program in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(prequential.__file__).parent.parent)}
    environment |= options.pop("env", {})
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, *program, *argv], env=environment, **options)


def closed(descriptor: int, *argv: str, **options: Any) -> Any:
    """The program, started without one of the streams."""
    return run(
        sys.executable,
        "-m",
        "prequential",
        *argv,
        program=("-c", CLOSING.format(descriptor)),
        **options,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["encode", *TINY, "-o", "-", "a"], "good.pq"),
        (["decode", "-o", "-", "good.pq"], "a"),
    ],
    ids=["encode", "decode"],
)
def test_without_standard_error_the_output_is_the_output(
    folder: Path, argv: list[str], expected: str
) -> None:
    done = closed(2, *argv)
    assert done.returncode == 0
    assert done.stdout == (folder / expected).read_bytes()
    failed = closed(2, *argv[:-1], "missing")
    assert (failed.returncode, failed.stdout) == (1, b"")


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_without_standard_input_or_output_files_are_written() -> None:
    for descriptor in (0, 1):
        done = closed(descriptor, "encode", *TINY, "--verify", "-f", "-o", "b.pq", "a")
        assert done.returncode == 0, done.stderr
        assert Path("b.pq").read_bytes() == Path("good.pq").read_bytes()


@pytest.mark.parametrize("descriptors", [(0,), (1,), (2,), (0, 1, 2)])
def test_no_file_takes_the_number_of_a_closed_stream(descriptors: tuple[int, ...]) -> None:
    """What a library writes to descriptor 2 would go into that file; a child's reads likewise."""
    program = f"""
import os, sys
for descriptor in {descriptors}:
    os.close(descriptor)
from prequential.cli import terminal
terminal.fill_descriptors()
file = os.open({__file__!r}, os.O_RDONLY)
sys.exit(10 + (file > 2 and all(os.get_inheritable(d) for d in range(3))))
"""
    assert run(program=("-c", program)).returncode == 11


COMMANDS = [
    ["encode", *TINY, "-f", "-o", "b.pq", "a"],
    ["encode", *TINY, "-f", "-v", "--json", "-o", "b.pq", "a"],
    ["decode", "-f", "-o", "b", "good.pq"],
    ["test", "--json", "good.pq"],
    ["info", "good.pq"],
    ["info", "--json", "good.pq"],
    ["mdl", *TINY, "a"],
    ["mdl", "--code"],
    ["where", *TINY, "a"],
    ["curve", "--csv", "loss.csv", "--tokens-per-step", "10"],
    ["compare", "a", "--presets", "", "--methods", "zlib -9"],
    ["doctor"],
    ["encode", "missing"],
]


@pytest.mark.slow
@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
@pytest.mark.usefixtures("folder")
def test_messages_never_go_to_standard_output(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a host program, too, that has no standard error."""

    def shape() -> list[str]:
        """Lines without their digits and blanks: times differ."""
        return [line.translate(dict.fromkeys(map(ord, "0123456789 "))) for line in output()]

    def output() -> list[str]:
        return capfd.readouterr().out.splitlines()

    code = main(argv)
    expected = shape()
    monkeypatch.setattr("sys.stderr", None)
    assert main(argv) == code
    assert shape() == expected


@pytest.mark.slow
@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
@pytest.mark.usefixtures("folder")
def test_without_standard_output_the_work_is_done(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert main(argv) == int("missing" in argv)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
@pytest.mark.parametrize("unbuffered", ["", "1"])  # buffers are tried again at exit
@pytest.mark.usefixtures("folder")
def test_a_full_disk_behind_a_stream(unbuffered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with open("/dev/full", "w") as full:
        silent = run("encode", *TINY, "-o", "b.pq", "a", stderr=full)
        assert silent.returncode == 0
        done = run("info", "good.pq", stdout=full)
        assert done.returncode == 1
        told = b"preq: error: standard output: cannot be written: No space left on device"
        told += b": make room\n"
        assert done.stderr == told
        decoded = run("decode", "-q", "-o", "-", "good.pq", stdout=full)
        assert decoded.returncode == 1
        assert decoded.stderr == told
    assert Path("b.pq").read_bytes() == Path("good.pq").read_bytes()
