"""Disks that fill up, outputs that cannot be, inputs that misbehave: through the real program."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samples import text

import prequential
from prequential import codec
from prequential.cli import archives, main
from prequential.training import checkpoint
from prequential.training.run import Run

TINY = ["--preset", "tiny", "--set", "model.input_rows_log2=8", "--set", "ngrams.rows_log2=10"]
DATA = text(1501)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(DATA)
    assert main(["encode", "-q", *TINY, "-o", "good.pq", "a"]) == 0
    return tmp_path


@pytest.fixture
def says(capfd: pytest.CaptureFixture[str], counts: Counter[str]) -> Callable[[], str]:
    """The one line on standard error."""

    def read() -> str:
        counts["failures of disk and terminal"] += 1
        err = capfd.readouterr().err
        assert err.count("\n") == 1, err
        assert err.startswith("preq: ")
        assert "Traceback" not in err
        return err

    return read


def names() -> list[str]:
    return sorted(os.listdir("."))


def run(*argv: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """The program in a process of its own."""
    root = str(Path(prequential.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-m", "prequential", *argv],
        env={**os.environ, "PYTHONPATH": root},
        stderr=subprocess.PIPE,
        **options,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("argv", "room"),
    [
        (["encode", "-q", *TINY, "a"], 100),
        (["encode", "-q", *TINY, "--self-extracting", "a"], 5000),
        (["decode", "-q", "-o", "b", "good.pq"], 1000),
    ],
)
def test_no_room_for_the_output(argv: list[str], room: int, says: Callable[[], str]) -> None:
    """RLIMIT_FSIZE stands for a disk that fills up: the write fails."""
    before = names()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        code = main(argv)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 1
    assert "File too large" in says()
    assert names() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.usefixtures("folder")
def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: Callable[[], str]
) -> None:
    """A disk of 128 KiB, the smallest kind: the archive fits, its checkpoints do not."""
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(tmp_path / "disk")]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        assert main(["encode", "-q", *TINY, "-o", "disk/whole.pq", "a"]) == 0
        monkeypatch.setattr(checkpoint.Checkpoints.__init__, "__kwdefaults__", {"share": 1e9})
        argv = ["encode", "-q", *TINY, "--checkpoint-seconds", "0.2", "-o", "disk/b.pq", "a"]
        slow(monkeypatch, 0.1)
        assert main(argv) == 0
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        assert Path("disk/b.pq").read_bytes() == Path("disk/whole.pq").read_bytes()
        assert sorted(os.listdir("disk")) == ["b.pq", "whole.pq"]
        Path("disk/fill").write_bytes(bytes(os.statvfs("disk").f_bavail * 4096))
        sys.stderr.flush()
    finally:
        full = main(["decode", "-q", "-o", "disk/copy", "good.pq"])
        left = sorted(os.listdir("disk"))
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)
    assert full == 1
    assert left == ["b.pq", "fill", "whole.pq"]


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let every chunk take that long."""
    real = checkpoint.Checkpoints.chunk_done

    def chunk_done(self: checkpoint.Checkpoints, at: Run) -> None:
        time.sleep(seconds)
        real(self, at)

    monkeypatch.setattr(checkpoint.Checkpoints, "chunk_done", chunk_done)


@pytest.mark.usefixtures("folder")
def test_a_read_only_folder(tmp_path: Path, says: Callable[[], str]) -> None:
    """Root may write anywhere but in /proc and on what is mounted read-only."""
    target = "/proc/b.pq"
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        target = "locked/b.pq"
    assert main(["encode", "-q", *TINY, "-o", target, "a"]) == 1
    assert f"{target}: cannot be written to " in says()


@pytest.mark.usefixtures("folder")
def test_output_on_another_file_system() -> None:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no second file system")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        assert main(["encode", "-q", *TINY, "-o", f"{other}/a.pq", "a"]) == 0
        assert Path(other, "a.pq").read_bytes() == Path("good.pq").read_bytes()
        os.symlink(f"{other}/through", "link")
        assert main(["decode", "-q", "-f", "-o", "link", "good.pq"]) == 0
        assert Path(other, "through").read_bytes() == DATA
        assert Path("link").is_symlink()
        assert sorted(os.listdir(other)) == ["a.pq", "through"]


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_a_broken_pipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = run("decode", "-q", "-o", "-", "good.pq", stdout=writer)
    os.close(writer)
    assert result.returncode == 1
    assert result.stderr == b"preq: error: standard output was closed before all was written\n"
    assert names() == ["a", "good.pq"]


@pytest.mark.usefixtures("folder")
def test_inputs_of_every_kind(tmp_path: Path, says: Callable[[], str]) -> None:
    os.mkdir("folder")
    assert main(["encode", "-q", "folder"]) == 1
    assert "folder: cannot be read: Is a directory" in says()
    assert main(["encode", "-q", "missing"]) == 1
    assert "missing: cannot be read: No such file" in says()
    assert main(["encode", "-q", "-o", "b.pq", "/dev/zero"]) == 1
    assert "/dev/zero: is neither a file nor a pipe" in says()
    os.symlink("a", "link")
    assert main(["encode", "-q", *TINY, "link"]) == 0
    assert Path("link.pq").read_bytes() == Path("good.pq").read_bytes()
    os.symlink("nowhere", "dangling")
    assert main(["encode", "-q", "dangling"]) == 1
    assert "dangling: cannot be read: No such file" in says()
    os.symlink("loop", "loop")
    assert main(["encode", "-q", "loop"]) == 1
    assert "loop: cannot be read: Too many levels" in says()
    os.mkfifo("pipe")
    feeder = threading.Thread(target=Path("pipe").write_bytes, args=(DATA,))
    feeder.start()
    assert main(["encode", "-q", *TINY, "pipe"]) == 0
    feeder.join()
    assert Path("pipe.pq").read_bytes() == Path("good.pq").read_bytes()
    feeder = threading.Thread(target=Path("pipe").write_bytes, args=(Path("good.pq").read_bytes(),))
    feeder.start()
    assert main(["decode", "-q", "-o", "b", "pipe"]) == 0
    feeder.join()
    assert Path("b").read_bytes() == DATA


@pytest.mark.usefixtures("folder")
def test_an_unreadable_input(says: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc/self/mem opens, and fails when it is read, as a disk with bad sectors does."""
    assert main(["encode", "-q", "-o", "b.pq", "/proc/self/mem"]) == 1
    assert "/proc/self/mem: cannot be read: Input/output error" in says()
    assert main(["decode", "-q", "-o", "b", "/proc/self/mem"]) == 1
    assert "/proc/self/mem: " in says()
    if os.geteuid() != 0:
        Path("a").chmod(0)
        assert main(["encode", "-q", "a"]) == 1
        assert "a: cannot be read: Permission denied" in says()
    assert names() == ["a", "good.pq"]


@pytest.mark.usefixtures("folder")
def test_an_input_that_changes_during_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was read at the start, so the archive is of what it was then."""
    real = codec.encode

    def encode(*args: Any, **options: Any) -> Any:
        Path("a").write_bytes(b"short")
        return real(*args, **options)

    monkeypatch.setattr(codec, "encode", encode)
    assert main(["encode", "-q", *TINY, "a"]) == 0
    assert Path("a.pq").read_bytes() == Path("good.pq").read_bytes()


@pytest.mark.usefixtures("folder")
def test_an_archive_that_shrinks_during_the_run(
    monkeypatch: pytest.MonkeyPatch, says: Callable[[], str]
) -> None:
    real = archives.decode

    def decode(*args: Any, **options: Any) -> Any:
        os.truncate("good.pq", 200)
        return real(*args, **options)

    monkeypatch.setattr(archives, "decode", decode)
    assert main(["decode", "-q", "-o", "b", "good.pq"]) == 1
    assert "truncated" in says()
    assert names() == ["a", "good.pq"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("force", [[], ["-f"]])
def test_two_processes_with_one_output(force: list[str], says: Callable[[], str]) -> None:
    """The second one is told at once; what the first one writes is whole."""
    began, done = threading.Event(), threading.Event()
    codes: list[int] = []
    real = codec.encode

    def encode(*args: Any, **options: Any) -> Any:
        began.set()
        assert done.wait(60)
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "encode", encode)
        argv = ["encode", "-q", *TINY, *force, "a"]
        first = threading.Thread(target=lambda: codes.append(main(argv)))
        first.start()
        assert began.wait(60)
        second = run(*argv, stdout=subprocess.PIPE)
        done.set()
        first.join()
    assert second.returncode == 1
    assert second.stderr.startswith(b"preq: error: a.pq: another preq is writing it")
    assert codes == [0]
    assert names() == ["a", "a.pq", "good.pq"]


@pytest.mark.usefixtures("folder")
def test_names_that_are_not_utf8(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    source = os.fsdecode(b"caf\xe9 \xff.bin")
    Path(source).write_bytes(DATA)
    assert main(["encode", *TINY, source]) == 0
    assert rb"caf\udce9 \udcff.bin.pq" in capfdbinary.readouterr().err
    assert os.path.exists(b"caf\xe9 \xff.bin.pq")
    os.unlink(source)
    assert main(["decode", "-q", source + ".pq"]) == 0
    assert Path(source).read_bytes() == DATA


@pytest.mark.usefixtures("folder")
def test_the_longest_names() -> None:
    """A checkpoint whose name would be too long costs the checkpoint, not the run."""
    long = "n" * 252
    Path(long).write_bytes(DATA)
    assert main(["encode", "-q", *TINY, long]) == 0
    assert main(["decode", "-q", "-f", "--checkpoint-seconds", "1e-9", long + ".pq"]) == 0
    assert Path(long).read_bytes() == DATA
    assert main(["encode", "-q", *TINY, "-o", "n" * 256, "a"]) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_verify_uses_a_second_process(
    monkeypatch: pytest.MonkeyPatch, says: Callable[[], str]
) -> None:
    """An archive that its writer believes in, and another process does not decode."""
    real = codec.Encoder.finish

    def finish(self: codec.Encoder) -> bytes:
        payload = bytearray(real(self))
        payload[len(payload) // 2] ^= 1
        return bytes(payload)

    monkeypatch.setattr(codec.Encoder, "finish", finish)
    monkeypatch.setenv("PYTHONPATH", str(Path(prequential.__file__).parent.parent))
    assert main(["encode", "-q", *TINY, "--verify", "a"]) == 1
    told = says()
    assert "a.pq: not written, --verify could not decode it" in told
    assert "differs from the encoder's" in told
    assert names() == ["a", "good.pq"]
