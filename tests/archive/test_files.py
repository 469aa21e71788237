"""Inputs as they come, outputs complete or not at all."""

import errno
import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from prequential import system
from prequential.archive.files import (
    atomic_output,
    check_target,
    default_target,
    display,
    open_binary,
    open_input,
)
from prequential.errors import FileError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"content")
    return path


def leftovers(folder: Path) -> list[Path]:
    return list(folder.glob(".preq-*"))


def check(target: Path | str, source: Path | str, *, force: bool = False) -> None:
    check_target(str(target), str(source), force=force, binary=True)


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 3])
def test_input(source: Path, content: bytes) -> None:
    source.write_bytes(content)
    source.chmod(0o640)
    with open_input(str(source)) as original:
        source.write_bytes(b"")  # what happens to it later does not matter
        assert original.data.dtype == np.uint8
        assert original.data.tobytes() == content
        assert not original.data.flags.writeable
        assert original.status is not None
        assert original.status.st_mode & 0o777 == 0o640


def test_input_from_a_fifo(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(b"piped",))
    writer.start()
    with open_input(str(fifo)) as original:
        assert original.data.tobytes() == b"piped"
    writer.join()


def test_input_from_stdin(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with source.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with open_input("-") as original:
            assert original.data.tobytes() == b"content"


def test_closed_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(FileError, match="closed"), open_binary("-"):
        pass


@pytest.mark.parametrize("name", ["missing", ".", "/dev/null"])
def test_input_that_is_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=r"cannot be read|neither a file"), open_input(name):
        pass


@pytest.mark.parametrize("content", [b"", b"conten", b"CONTENT"])
def test_input_that_changes_while_read(
    source: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shrinks, or is written over, between the first look at it and the last."""
    os.utime(source, (1, 1))
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        if status.st_mtime == 1:
            source.write_bytes(content)
        return status

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(FileError, match="changed while it was read"), open_input(str(source)):
        pass


def test_input_that_grows_while_read(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_fstat = os.fstat

    def before_it_grew(descriptor: int) -> os.stat_result:
        monkeypatch.setattr(os, "fstat", real_fstat)
        status = real_fstat(descriptor)
        with source.open("ab") as file:
            file.write(b", more")
        return status

    monkeypatch.setattr(os, "fstat", before_it_grew)
    with pytest.raises(FileError, match="changed while it was read"), open_input(str(source)):
        pass


def test_default_target() -> None:
    assert default_target("a/b.txt", decoding=False) == "a/b.txt.pq"
    assert default_target("a/b.txt.pq", decoding=True) == "a/b.txt"
    assert default_target("-", decoding=True) == "-"
    for name in ("a.txt", "dir/.pq", ".pq"):
        with pytest.raises(FileError, match="-o"):
            default_target(name, decoding=True)


def test_target_that_exists(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    check(target, source)
    target.touch()
    with pytest.raises(FileError, match="use -f"):
        check(target, source)
    check(target, source, force=True)
    target.unlink()
    target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileError, match="use -f"):
        check(target, source)


def test_target_that_is_the_input(source: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(source)
    hard = tmp_path / "hard"
    hard.hardlink_to(source)
    for target in (source, link, hard, tmp_path / "." / "source"):
        with pytest.raises(FileError, match="input itself"):
            check(target, source, force=True)


@pytest.mark.parametrize("target", ["/", "/dev/null"])
def test_target_that_is_no_file(target: str, source: Path) -> None:
    with pytest.raises(FileError, match=r"folder|not a regular file"):
        check(target, source, force=True)


def test_target_that_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdout", Terminal())
    with pytest.raises(FileError, match="terminal"):
        check_target("-", "-", force=True, binary=True)
    check_target("-", "-", force=False, binary=False)
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(FileError, match="closed"):
        check_target("-", "-", force=False, binary=False)


def test_output(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with atomic_output(str(target), force=False, mode=0o600) as output:
        output.file.write(b"new")
        assert not target.exists()
        assert Path(output.path).parent == tmp_path
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_output_of_a_failure(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with pytest.raises(error), atomic_output(str(target), force=True) as output:
        output.file.write(b"new")
        raise error
    assert target.read_bytes() == b"old"
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("links", [True, False])
def test_output_that_appeared_meanwhile(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", _no_links)
    target = tmp_path / "target"
    with (
        pytest.raises(FileError, match="use -f"),
        atomic_output(str(target), force=False) as output,
    ):
        output.file.write(b"new")
        target.write_bytes(b"theirs")
    assert target.read_bytes() == b"theirs"
    with atomic_output(str(target), force=True) as output:
        output.file.write(b"new")
    assert target.read_bytes() == b"new"
    assert not leftovers(tmp_path)


def test_output_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _no_links)
    with atomic_output(str(tmp_path / "target"), force=False) as output:
        output.file.write(b"new")
    assert (tmp_path / "target").read_bytes() == b"new"
    assert not leftovers(tmp_path)


def _no_links(source: str, target: str) -> None:
    raise PermissionError("no hard links here")


def test_output_through_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    link = tmp_path / "link"
    link.symlink_to(folder / "real")
    with atomic_output(str(link), force=True) as output:
        output.file.write(b"new")
    assert link.is_symlink()
    assert (folder / "real").read_bytes() == b"new"


def test_two_outputs_of_one_name(tmp_path: Path) -> None:
    """The second process is refused at once, and the first one is not disturbed."""
    target = tmp_path / "target"
    with atomic_output(str(target), force=True) as output:
        output.file.write(b"first")
        with (
            pytest.raises(FileError, match="another preq is writing it"),
            atomic_output(str(target), force=True),
        ):
            pass
        with atomic_output(str(tmp_path / "other"), force=True) as other:
            other.file.write(b"other")
    assert target.read_bytes() == b"first"
    with atomic_output(str(target), force=True) as output:
        output.file.write(b"second")
    assert target.read_bytes() == b"second"
    assert not leftovers(tmp_path)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with atomic_output(str(target), force=True) as output:
        stale = Path(output.path)
    target.unlink()
    stale.write_bytes(b"half of something")
    with atomic_output(str(target), force=False) as output:
        output.file.write(b"new")
    assert target.read_bytes() == b"new"
    assert not leftovers(tmp_path)


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    """Temporary names can be guessed, so a link of that name must not be written through."""
    target, victim = tmp_path / "target", tmp_path / "victim"
    victim.write_bytes(b"precious")
    with atomic_output(str(target), force=True) as output:
        planted = Path(output.path)
    target.unlink()
    planted.symlink_to(victim)
    with (
        pytest.raises(FileError, match="cannot be written"),
        atomic_output(str(target), force=True),
    ):
        pass
    assert victim.read_bytes() == b"precious"


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(system.fcntl, "flock", flock)
    with atomic_output(str(tmp_path / "target"), force=False) as output:
        output.file.write(b"new")
        with (
            pytest.raises(FileError, match=r"locks do not work there, and .* is in the way"),
            atomic_output(str(tmp_path / "target"), force=False),
        ):
            pass
    assert (tmp_path / "target").read_bytes() == b"new"
    assert not leftovers(tmp_path)


def test_output_to_a_missing_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(FileError, match="cannot be written"),
        atomic_output(str(tmp_path / "missing" / "target"), force=False),
    ):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_to_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with (
        pytest.raises(FileError, match="Permission denied"),
        atomic_output(str(tmp_path / "target"), force=False),
    ):
        pass


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_mapped_output(tmp_path: Path, size: int) -> None:
    content = np.arange(size).astype(np.uint8)
    with atomic_output(str(tmp_path / "target"), force=False) as output:
        array = output.allocate(size)
        assert array.shape == (size,)
        array[:] = content
    assert (tmp_path / "target").read_bytes() == content.tobytes()


def test_output_that_does_not_fit(tmp_path: Path) -> None:
    with (
        pytest.raises(FileError, match="make room"),
        atomic_output(str(tmp_path / "target"), force=False) as output,
    ):
        output.allocate(2**63 - 1)
    assert not list(tmp_path.iterdir())


def test_output_on_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with (
        pytest.raises(FileError, match="No space left"),
        atomic_output(str(tmp_path / "target"), force=False) as output,
    ):
        output.allocate(10)
    assert not list(tmp_path.iterdir())


def test_output_to_stdout(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with atomic_output("-", force=False) as output:
        output.allocate(4)[:] = np.frombuffer(b"\0\xffab", np.uint8)
        assert capfdbinary.readouterr().out == b""
    assert capfdbinary.readouterr().out == b"\0\xffab"
    assert not os.path.exists(output.path)


def test_display() -> None:
    assert display("plain name é.txt") == "plain name é.txt"
    assert display("a\x1b[31m\n\udcff") == "a\\x1b[31m\\n\\udcff"
    assert display("-") == "standard input"
