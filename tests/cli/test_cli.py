"""The command line: what it writes where, what it refuses, and how it says so.

Most tests run `main` in this process on a stand-in codec that stores; the last ones start the real
program.
"""

import errno
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pytest

import prequential
from prequential.archive.container import ArchiveReader, Header
from prequential.archive.writer import ArchiveWriter
from prequential.cli import main
from prequential.cli.bar import Rates, progress_bar
from prequential.config import Config
from prequential.errors import DivergenceError
from prequential.progress import Progress
from prequential.training.run import Options

CONTENT = b"some content\n" * 10
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class StandIn:
    """A codec that stores, remembers its arguments, and fails when told."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.fail: Callable[[], None] = lambda: None

    def encode(
        self, data: Bytes, archive: BinaryIO, *, options: Options, **given: Any
    ) -> SimpleNamespace:
        self.calls.append({**vars(options), **given})
        original = data.tobytes()
        writer = ArchiveWriter(
            archive, Header(data.size, given["seed"], hashlib.sha256(original).digest()[:8], None)
        )
        if original:
            writer.data(original)
        self.fail()
        return self.report(data.size, writer.bytes_written)

    def decode(
        self, archive: BinaryIO, allocate: Callable[[int], Bytes], options: Options, *_: Any
    ) -> SimpleNamespace:
        self.calls.append(vars(options))
        reader = ArchiveReader(archive, options.name)
        size = reader.header.original_bytes
        out = allocate(size)
        if size:
            out[:] = np.frombuffer(reader.data()[0], np.uint8)
        self.fail()
        reader.end()
        return self.report(size, reader.bytes_read)

    def report(self, original_bytes: int, archive_bytes: int) -> SimpleNamespace:
        return SimpleNamespace(
            original_bytes=original_bytes,
            archive_bytes=archive_bytes,
            bits_per_byte=1.25,
            tokens=130,
            vocabulary=256,
            vocabulary_bytes=0,
            bits_per_token=1.25,
            description_length_bits=8 * (archive_bytes + 1000),
            code_bytes=1000,
            given_bytes=0,
            prior_bytes=0,
            weights_bytes=4000,
            seconds=2.0,
            bytes_per_second=1000.0,
            weights_digest="feed",
            sha256="beef",
            to_json=lambda: json.dumps({"archive_bytes": archive_bytes}),
        )


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(prequential, "codec", stand_in, raising=False)
    return stand_in


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(CONTENT)
    return tmp_path


@pytest.fixture
def archive(folder: Path, codec: StandIn) -> Path:
    assert main(["encode", "-q", "a"]) == 0
    codec.calls.clear()
    return folder / "a.pq"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("preq: ")
    return err


def test_round_trip(folder: Path, codec: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "a"]) == 0
    assert names(folder) == ["a", "a.pq"]
    (folder / "a").unlink()
    assert main(["decode", "a.pq"]) == 0
    assert (folder / "a").read_bytes() == CONTENT
    out, err = capsys.readouterr()
    assert out == ""
    assert "1.2500 bits/byte" in err
    assert "sha256" not in err


def test_encode_hands_on_its_options(folder: Path, codec: StandIn) -> None:
    flags = ["--seed", str(2**64 - 1), "--preset", "tiny", "--set", "chunk=9", "--threads", "3"]
    assert main(["encode", "-q", *flags, "--device", "cuda", "a"]) == 0
    (options,) = codec.calls
    assert options["config"].chunk == 9
    assert options["seed"] == 2**64 - 1
    assert options["threads"] == 3
    assert options["device"] == "cuda"
    assert options["progress"] is None


def test_quiet_and_verbose(
    folder: Path, codec: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", "-q", "a"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["test", "-v", "a.pq"]) == 0
    assert "beef" in capsys.readouterr().err


def test_json_is_one_object_per_file(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--json", "a.pq", "a.pq"]) == 0
    lines = capsys.readouterr().out.splitlines()
    size = archive.stat().st_size
    assert [json.loads(line) for line in lines] == [{"file": "a.pq", "archive_bytes": size}] * 2


def test_info(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "a.pq"]) == 0
    assert "stored" in capsys.readouterr().out
    assert main(["info", "--json", "a.pq"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["original_bytes"] == len(CONTENT)
    assert fields["archive_bytes"] == archive.stat().st_size
    assert fields["sha256"] == hashlib.sha256(CONTENT).hexdigest()[:16]
    assert fields["config"] is None


@pytest.fixture
def coded(folder: Path) -> None:
    with open("c.pq", "wb") as file:
        ArchiveWriter(file, Header(5, 7, bytes(8), Config()))


@pytest.mark.usefixtures("coded")
def test_info_shows_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json", "c.pq"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["seed"] == 7
    assert fields["config"]["model"]["width"] == Config().model.width
    assert main(["info", "c.pq"]) == 0
    assert "model.width" in capsys.readouterr().out


def test_the_worst_file_wins(
    folder: Path, codec: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b").write_bytes(b"")
    assert main(["encode", "-q", "a", "missing", "b"]) == 1
    assert names(folder) == ["a", "a.pq", "b", "b.pq"]
    assert "missing: cannot be read" in one_line(capsys)


@pytest.mark.parametrize(
    "argv",
    [
        ["explode"],
        ["learn"],
        ["encode", "a", "b", "-o", "c"],
        ["encode", "--seed", "-1", "a"],
        ["encode", "--seed", str(2**64), "a"],
        ["encode", "--seed", "1_0", "a"],
        ["encode", "--preset", "none such", "a"],
        ["encode", "--preset", "tiny", "--config", "c.toml", "a"],
        ["encode", "--threads", "0", "a"],
        ["encode", "--device", "tpu", "a"],
        ["encode", "-q", "-v", "a"],
        ["encode", "--json", "-"],
        ["decode", "--json", "-o", "-", "a.pq"],
        ["test", "-o", "x", "a.pq"],
        ["test", "-", "-"],
    ],
)
def test_wrong_usage(argv: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert names(folder) == ["a"]


def test_an_existing_output_is_kept(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", "a.pq"]) == 1
    assert "a: exists already: use -f" in one_line(capsys)
    Path("a").write_bytes(b"old")
    assert main(["decode", "-q", "-f", "a.pq"]) == 0
    assert Path("a").read_bytes() == CONTENT


def test_refusal_comes_before_the_work(archive: Path, codec: StandIn) -> None:
    assert main(["encode", "a"]) == 1
    assert main(["encode", "-f", "-o", "a", "a"]) == 1
    assert main(["encode", "-o", "no/such/folder", "a"]) == 1
    assert main(["encode", "-o", "b", "--set", "no.such=1", "a"]) == 2
    assert main(["decode", "a"]) == 1
    assert not codec.calls


def fill_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def diverge() -> None:
    raise DivergenceError("a.pq: weights differ in data frame 1: try --device cpu")


def interrupt() -> None:
    raise KeyboardInterrupt


def exhaust() -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("fail", "code", "told"),
    [
        (fill_disk, 1, "No space left"),
        (diverge, 1, "weights differ"),
        (interrupt, 130, "interrupted"),
        (exhaust, 1, "not enough memory"),
    ],
)
@pytest.mark.parametrize("command", ["encode", "decode"])
def test_a_failure_leaves_nothing_behind(
    archive: Path,
    codec: StandIn,
    command: str,
    fail: Callable[[], None],
    code: int,
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("out").write_bytes(b"old")
    codec.fail = fail
    source = {"encode": "a", "decode": "a.pq"}[command]
    assert main([command, "-f", "-o", "out", source]) == code
    assert told in one_line(capsys)
    assert Path("out").read_bytes() == b"old"
    assert names(archive.parent) == ["a", "a.pq", "out"]


@pytest.mark.parametrize("command", ["decode", "test", "info"])
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda archive: b"", "not a preq archive"),
        (lambda archive: b"\x7fELF" + bytes(99), "not a preq archive"),
        (lambda archive: archive[:20], "truncated"),
        (lambda archive: archive[:15] + b"!" + archive[16:], "checksum of the header"),
    ],
)
def test_bad_archives(
    archive: Path,
    command: str,
    damage: Callable[[bytes], bytes],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (archive.parent / "bad.pq").write_bytes(damage(archive.read_bytes()))
    assert main([command, "bad.pq"]) == 1
    line = one_line(capsys)
    assert "bad.pq: " in line
    assert told in line
    assert names(archive.parent) == ["a", "a.pq", "bad.pq"]


def test_an_archive_that_claims_too_much(
    folder: Path, codec: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("big.pq", "wb") as file:
        ArchiveWriter(file, Header(2**63 - 1, 0, bytes(8), None))
    assert main(["decode", "big.pq"]) == 1
    assert "make room" in one_line(capsys)
    assert main(["test", "big.pq"]) == 1
    assert "not enough memory" in one_line(capsys)
    assert names(folder) == ["a", "big.pq"]


def test_stdin_to_stdout(
    archive: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with open("a") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(["encode", "-q", "-"]) == 0
    assert capfdbinary.readouterr().out == archive.read_bytes()
    with open("a.pq") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(["decode", "-q", "-"]) == 0
    assert capfdbinary.readouterr().out == CONTENT


def test_private_input_gives_private_output(archive: Path) -> None:
    Path("a").chmod(0o600)
    assert main(["encode", "-q", "-f", "a"]) == 0
    assert archive.stat().st_mode & 0o777 == 0o600


def test_a_strange_name_is_shown_on_one_line(
    folder: Path, codec: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"no\n\x1b[31m\xff")
    assert main(["encode", name]) == 1
    assert r"no\n\x1b[31m\udcff: cannot be read" in one_line(capsys)
    Path(name).write_bytes(CONTENT)
    assert main(["encode", name]) == 0
    assert r"no\n\x1b[31m\udcff" in capsys.readouterr().err
    assert main(["info", "--json", name + ".pq"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == name + ".pq"


def test_verify_refuses_what_does_not_decode(
    folder: Path,
    codec: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = []

    def fake_run(command: list[str], **_: Any) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=1, stderr=b"noise\npreq: error: weights differ\n")

    monkeypatch.setattr(subprocess, "run", fake_run)
    assert main(["encode", "--verify", "--threads", "1", "a"]) == 1
    assert "weights differ" in one_line(capsys)
    assert names(folder) == ["a"]
    (command,) = commands
    assert command[command.index("--threads") + 1] == "2"


def test_progress_figures() -> None:
    rates = Rates()
    assert rates.update(Progress(0, 100, 0.0, 0.0)) == "starting"
    rates.update(Progress(50_000, 100_000, 100_000.0, 10.0))
    shown = rates.update(Progress(75_000, 100_000, 125_000.0, 20.0))
    assert shown == "1.00 bits/byte (mean 1.67, 20.8%) 3.8 kB/s 0:00:07 left"


def test_progress_bar_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with progress_bar("a", wanted=True) as callback:
        assert callback is None
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("[b]", wanted=False) as callback:
        assert callback is None
    with progress_bar("[b]", wanted=True) as callback:
        assert callback is not None
        callback(Progress(50, 100, 100.0, 1.0))
    assert "2.00 bits/byte" in sys.stderr.getvalue()  # type: ignore[attr-defined]


def run(*argv: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Start Python as a user would, in the current folder."""
    root = str(Path(prequential.__file__).parent.parent)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(
        [sys.executable, *argv], env={**os.environ, "PYTHONPATH": root}, **options
    )


@pytest.mark.usefixtures("coded")
@pytest.mark.parametrize(
    "argv", [["--help"], ["--version"], ["encode", "--help"], ["info", "c.pq"]]
)
def test_what_must_be_instant_imports_no_torch(argv: list[str]) -> None:
    probe = (
        "import sys; from prequential.cli import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as leave: code = leave.code\n"
        "assert code == 0, code\n"
        "assert not {'torch', 'numba'} & set(sys.modules)"
    )
    result = run("-c", probe, *argv)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "argv",
    [
        ["info", "--json", "a.pq"],
        ["--help"],
        pytest.param(["decode", "-qo-", "a.pq"], marks=pytest.mark.slow),
    ],
)
def test_broken_pipe(
    archive: Path, argv: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reader, writer = os.pipe()
    os.close(reader)
    result = run("-m", "prequential", *argv, stdout=writer)
    os.close(writer)
    assert result.returncode == 1
    assert result.stderr == b"preq: error: standard output was closed before all was written\n"


@pytest.mark.parametrize("descriptor", [0, 1])
def test_closed_standard_streams(archive: Path, descriptor: int) -> None:
    main_with_closed = (
        f"import os, sys; os.close({descriptor}); os.execv(sys.argv[1], sys.argv[1:])"
    )
    program = [sys.executable, "-m", "prequential"]
    result = run("-c", main_with_closed, *program, "info", "a.pq")
    assert (result.returncode, result.stderr) == (0, b"")
    result = run("-c", main_with_closed, *program, "decode", "-o", "-", "-", input=b"")
    assert result.returncode == 1
    assert result.stderr.startswith(b"preq: error: standard ")
    assert result.stderr.count(b"\n") == 1


@pytest.mark.slow
def test_the_real_program(folder: Path) -> None:
    encoded = run("-m", "prequential", "encode", "--preset", "tiny", "--verify", "--json", "a")
    assert encoded.returncode == 0, encoded.stderr
    assert json.loads(encoded.stdout)["archive_bytes"] == Path("a.pq").stat().st_size
    decoded = run(
        "-m", "prequential", "decode", "--threads", "2", "-", input=Path("a.pq").read_bytes()
    )
    assert decoded.returncode == 0, decoded.stderr
    assert decoded.stdout == CONTENT
    assert names(folder) == ["a", "a.pq"]
