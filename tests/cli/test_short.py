"""``preq`` without a command, as tar and whoever knows gzip and zstd call it."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from samples import ROOT, text

from prequential.archive import files
from prequential.archive.files import atomic_output, open_input, remove_input
from prequential.cli import main, short
from prequential.errors import FileError
from prequential.study import child

TINY = ["--preset", "tiny", "--set", "ngrams.rows_log2=10", "--set", "chunk=8"]
DATA = text(900)
YEAR_2001 = 10**18  # nanoseconds


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(DATA)
    return tmp_path


@pytest.fixture
def archive(folder: Path) -> bytes:
    assert main([*TINY, "a"]) == 0
    return (folder / "a.pq").read_bytes()


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The archives that were decoded in a second process, which is not started here."""
    found: list[str] = []
    monkeypatch.setattr(child, "verify", lambda path, *_, **__: found.append(path))
    return found


def streams(monkeypatch: pytest.MonkeyPatch, data: bytes) -> io.BytesIO:
    """Data on standard input, and what comes out."""
    out = io.BytesIO()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=bool))
    target = io.TextIOWrapper(out, write_through=True)
    monkeypatch.setattr("sys.stdout", target)
    return out


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    read = capsys.readouterr()
    return read.out + read.err


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        ([], ["encode"]),
        (["a"], ["encode", "a"]),
        (["-dcf", "a"], ["decode", "-c", "-f", "a"]),
        (["-dko", "b", "a"], ["decode", "-k", "-o", "b", "a"]),
        (["-dob", "a"], ["decode", "-ob", "a"]),
        (["--uncompress", "a"], ["decode", "a"]),
        (["-dt", "a"], ["test", "a"]),
        (["-lv"], ["info", "-v"]),
        (["--set", "chunk=8", "a"], ["encode", "--set", "chunk=8", "a"]),
        (["-q", "--", "-d"], ["encode", "-q", "--", "-d"]),
    ],
)
def test_the_command_that_flags_mean(argv: list[str], command: list[str]) -> None:
    assert short.is_short(argv, ["decode"]) == (argv != ["a"])
    assert short.with_command(argv) == command


def test_files_are_coded_silently_and_kept(
    folder: Path, archive: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", "-q", *TINY, "-o", "b.pq", "a"]) == 0
    assert Path("b.pq").read_bytes() == archive
    assert main(["a"]) == 1
    assert "a.pq: exists already: use -f" in shown(capsys)
    assert main(["-f", *TINY, "a"]) == main(["-t", "a.pq"]) == main(["-df", "a.pq"]) == 0
    assert "bits/byte" not in shown(capsys)
    assert sorted(os.listdir()) == ["a", "a.pq", "b.pq"]
    assert main(["-tv", "a.pq"]) == 0
    assert "bits/byte" in shown(capsys)
    assert main(["-l", "a.pq"]) == 0
    assert "coded" in shown(capsys)


def test_streams(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    out = streams(monkeypatch, DATA)
    assert main(TINY) == 0
    assert out.getvalue() == archive
    out = streams(monkeypatch, archive)
    assert main([*TINY, "-d", "--seed", "5"]) == 0
    assert out.getvalue() == DATA
    out = streams(monkeypatch, archive)
    assert main(["cat"]) == main(["-dc", "--rm", "a.pq"]) == main(["cat", "a.pq", "a.pq"]) == 0
    assert out.getvalue() == 4 * DATA
    out = streams(monkeypatch, b"")
    assert main(["-c", *TINY, "--rm", "a"]) == 0
    assert out.getvalue() == archive
    assert sorted(os.listdir()) == ["a", "a.pq"]


def test_cat_of_what_is_damaged(
    archive: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("b.pq").write_bytes(archive[:-9])
    out = streams(monkeypatch, b"")
    assert main(["cat", "b.pq", "a.pq"]) == 1
    assert out.getvalue() == DATA
    assert "b.pq: truncated" in capsys.readouterr().err


def test_terminals(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = SimpleNamespace(isatty=lambda: True, flush=lambda: None)
    monkeypatch.setattr("sys.stdout", terminal)
    for argv in (["a", "-c"], ["-f", "-c", "a"]):
        assert main(argv) == 1
        assert "standard output is a terminal" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", terminal)
    for argv in ([], ["-d"], ["cat"], ["encode"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
        told = capsys.readouterr().err
        assert told.startswith("usage: preq COMMAND [FLAGS] FILE...\n")
        assert "no file is given, and standard input is a terminal" in told


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["enocde", "a"], "enocde: is neither a command nor a file"),
        (["-q", "encode", "a"], "encode: a command comes first"),
        (["-c", "a", "a"], "archives are not joined"),
        (["-d", "--preset", "none", "a"], "argument --preset: invalid choice"),
        (["decode", "--preset", "fast", "a"], "unrecognized arguments: --preset"),
        (["-9", "a"], "-9: there are no levels: --preset says"),
        (["-d", "-1"], "-1: there are no levels"),
        (["encode", "-5", "a", "-c"], "-5: there are no levels"),
    ],
)
def test_wrong_usage(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert told in capsys.readouterr().err
    assert os.listdir() == ["a"]


# What becomes of the input.


@pytest.mark.usefixtures("folder")
def test_rm_removes_what_is_written_and_verified(verified: list[str]) -> None:
    assert main([*TINY, "--rm", "a"]) == 0
    assert len(verified) == 1
    assert os.listdir() == ["a.pq"]
    assert main(["-d", "--rm", "a.pq"]) == 0
    assert os.listdir() == ["a"]
    assert Path("a").read_bytes() == DATA
    assert main([*TINY, "--rm", "-k", "a"]) == 0
    assert sorted(os.listdir()) == ["a", "a.pq"]


@pytest.mark.usefixtures("folder", "verified")
def test_what_cannot_be_removed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unlink = os.unlink

    def refuse(path: str) -> None:
        if path == "a":
            raise PermissionError(13, "Permission denied", path)
        unlink(path)

    monkeypatch.setattr(os, "unlink", refuse)
    assert main([*TINY, "--rm", "a"]) == 1
    told = "a: cannot be removed (Permission denied); what was made of it is complete"
    assert told in capsys.readouterr().err
    assert main(["-d", "a.pq", "-o", "b"]) == 0
    assert Path("b").read_bytes() == DATA


@pytest.mark.usefixtures("folder")
def test_a_file_may_be_named_like_a_level() -> None:
    Path("-9").write_bytes(DATA)
    assert main([*TINY, "-o", "b.pq", "--", "-9"]) == 0
    assert main(["-d", "b.pq"]) == 0
    assert Path("b").read_bytes() == DATA


@pytest.mark.usefixtures("folder")
def test_rm_keeps_what_is_not_safe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FileError("not decoded")

    monkeypatch.setattr(child, "verify", refuse)
    assert main([*TINY, "--rm", "a"]) == 1
    assert os.listdir() == ["a"]
    monkeypatch.setattr(child, "verify", lambda *_, **__: Path("a").write_bytes(b"newer"))
    assert main([*TINY, "--rm", "a"]) == 1
    assert "a: changed after it was read: it is kept" in capsys.readouterr().err
    assert Path("a").read_bytes() == b"newer"
    assert main([*TINY, "--rm", "--given", "a", "-o", "b.pq", "a"]) == 2
    assert "a: --rm: is read as well, and needed later" in capsys.readouterr().err
    Path("a.pq").write_bytes(Path("a.pq").read_bytes()[:-3])
    assert main(["-d", "--rm", "-o", "b", "--salvage", "a.pq"]) == 1
    assert sorted(os.listdir()) in (["a", "a.pq"], ["a", "a.pq", "b"])
    assert main(["--distributed", "--rm", "a"]) == 2
    assert "--distributed does not go with --rm" in capsys.readouterr().err


def test_a_link_is_removed_and_not_what_it_names(folder: Path) -> None:
    (folder / "link").symlink_to("a")
    with open_input("link") as original:
        assert original.status is not None
        remove_input("link", original.status)
    assert os.listdir() == ["a"]


@pytest.mark.usefixtures("folder")
def test_time_and_permissions_are_carried_over() -> None:
    os.utime("a", ns=(YEAR_2001, YEAR_2001 + 123_456_789))
    before = os.umask(0o077)
    try:
        for mode in (0o640, 0o604, 0o400):
            os.chmod("a", mode)
            assert main(["-f", *TINY, "a"]) == main(["-df", "-o", "b", "a.pq"]) == 0
            for name in ("a.pq", "b"):
                assert os.stat(name).st_mode & 0o7777 == mode
                assert os.stat(name).st_mtime_ns == YEAR_2001 + 123_456_789
    finally:
        os.umask(before)


def test_of_another_group_no_more_is_allowed_than_to_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(files.os, "chown", refuse)
    os.chmod("a", 0o664)
    with atomic_output("b", force=False, like=os.stat("a")) as output:
        assert os.stat(output.path).st_mode & 0o777 == 0o600  # nobody else's until complete
    assert os.stat("b").st_mode & 0o777 == 0o644


def test_a_file_system_without_times_and_permissions(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(95, "not supported")

    for name in ("chown", "chmod", "utime"):
        monkeypatch.setattr(files.os, name, refuse)
    with atomic_output("b", force=False, like=os.stat("a")) as output:
        output.file.write(b"whole")
    assert Path("b").read_bytes() == b"whole"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar")
def test_tar(folder: Path) -> None:
    (folder / "bin").mkdir()
    program = folder / "bin" / "preq"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m prequential "$@"\n')
    program.chmod(0o755)
    paths = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": paths}

    def tar(*flags: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["tar", *flags], env=environment, capture_output=True)

    (folder / "d").mkdir()
    (folder / "d" / "b").write_bytes(DATA[:500])
    done = tar("-I", "preq -q --preset tiny", "-cf", "x.tar.pq", "a", "d")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    (folder / "o").mkdir()
    settings = "preq -q --preset tiny --verify --epochs 2"
    done = tar("-I", settings, "-C", "o", "-xf", "x.tar.pq")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert Path("o", "a").read_bytes() == DATA
    assert Path("o", "d", "b").read_bytes() == DATA[:500]
    Path("y").write_bytes(Path("x.tar.pq").read_bytes()[:-4])
    assert tar("-I", "preq -q", "-tf", "y").returncode != 0
