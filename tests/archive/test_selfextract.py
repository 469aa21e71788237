"""A self-extracting file has the manners of `preq decode`, and keeps its decoder.

The decoder here is a stub that copies: what the real one restores is tested with the archives.
"""

from __future__ import annotations

import io
import lzma
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from prequential.archive import codesize, selfextract

DECODER = {
    "__init__.py": b"",
    "errors.py": b"class PrequentialError(Exception): pass\n",
    "prior.py": b"",
    "run.py": b"def Options(**options): return options\nLimits = lambda *a: a\n",
    "decoding.py": b"""
from prequential.errors import PrequentialError
def decode(archive, allocate, options):
    data = archive.read()
    array = allocate(len(data))
    if data == b"broken":
        raise PrequentialError("archive: damaged")
    if data == b"slow":
        import time
        print("begun", flush=True)
        time.sleep(60)
    if data == b"full":
        raise OSError(28, "No space left on device")
    array[:] = list(data)
""",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(monkeypatch: pytest.MonkeyPatch, data: bytes, note: bytes = b"") -> None:
    files = DECODER | {"prior.py": note}
    code = b"".join(f"{name} {len(f)}\n".encode() + f for name, f in files.items())
    monkeypatch.setattr(codesize, "packed", lambda _: lzma.compress(code))
    out = io.BytesIO()
    selfextract.write(data, out)
    Path("a.pyz").write_bytes(out.getvalue())


def run(*options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "a.pyz", *options], capture_output=True)


def kept() -> list[Path]:
    return sorted(Path("cache/prequential").glob("*/prequential/decoding.py"))


def test_the_decoder_is_kept_for_all_files_that_have_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(monkeypatch, b"one")
    first = run("-o", "a")
    assert (first.returncode, Path("a").read_bytes()) == (0, b"one")
    assert first.stderr == b"compiling the decoder, once: a minute or two\n"
    (module,) = kept()
    written = module.stat().st_mtime_ns
    write(monkeypatch, b"two")
    second = run("-o", "b")
    assert (second.returncode, second.stderr, Path("b").read_bytes()) == (0, b"", b"two")
    assert kept() == [module]
    assert module.stat().st_mtime_ns == written
    write(monkeypatch, b"three", b"another = 1\n")
    assert run("-o", "c").returncode == 0
    assert len(kept()) == 2


def test_a_kept_decoder_that_was_changed_is_put_right(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(monkeypatch, b"one")
    run("-o", "a")
    (module,) = kept()
    module.write_text("raise SystemExit(3)\n")
    assert run("-o", "b").returncode == 0
    assert module.read_bytes() == DECODER["decoding.py"]


def test_without_a_cache_folder_it_says_what_that_costs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(monkeypatch, b"one")
    Path("cache").write_text("no folder")
    result = run("-o", "a")
    assert (result.returncode, Path("a").read_bytes()) == (0, b"one")
    assert b"each time, as " in result.stderr
    assert result.stderr.count(b"\n") == 1


def test_a_first_run_that_failed_is_followed_by_another_first_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for data in (b"broken", b"one"):  # the decoder was placed, and perhaps not compiled
        write(monkeypatch, data)
        assert run("-o", "a").stderr.startswith(b"compiling the decoder, once")
    Path("a").unlink()
    assert run("-o", "a").stderr == b""


def test_what_is_in_work_has_nobody_elses_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(monkeypatch, b"one")
    name = "a" * 255  # the longest there is
    assert run("-o", name).returncode == 0
    assert Path(name).read_bytes() == b"one"
    assert sorted(os.listdir()) == ["a.pyz", name, "cache"]


def test_where_there_are_no_hard_links(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        DECODER,
        "run.py",
        DECODER["run.py"]
        + b"""
import os
def link(*names): raise PermissionError(1, "Operation not permitted")
os.link = link
""",
    )
    write(monkeypatch, b"one")
    assert run("-o", "a").returncode == 0
    assert Path("a").read_bytes() == b"one"


@pytest.mark.parametrize("data", [b"one", b""])
def test_to_standard_output(folder: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    write(monkeypatch, data)
    result = run("-o", "-")
    assert (result.returncode, result.stdout) == (0, data)
    assert not Path("-").exists()


def test_an_existing_output_is_left_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(monkeypatch, b"one")
    Path("a").write_text("mine")
    result = run("-o", "a")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == b"error: a: File exists"
    assert Path("a").read_text() == "mine"


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"broken", b"error: archive: damaged"), (b"full", b"error: a: No space left on device")],
)
def test_what_fails_leaves_one_line_and_no_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, message: bytes
) -> None:
    write(monkeypatch, data)
    result = run("-o", "a")
    assert result.returncode == 1
    assert result.stderr.splitlines()[1:] == [message]
    assert not Path("a").exists()


def test_without_standard_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(monkeypatch, b"one")
    command = f'"{sys.executable}" a.pyz -o a 2>&-'
    assert os.system(command) == 0
    assert Path("a").read_bytes() == b"one"


def test_the_modules_carry_no_layout() -> None:
    with zipfile.ZipFile(io.BytesIO(_written())) as pyz:
        main = pyz.read("__main__.py")
    assert len(main) < len(selfextract._MAIN)
    compile(main, "main", "exec")


def _written() -> bytes:
    out = io.BytesIO()
    selfextract.write(b"", out)
    return out.getvalue()


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_ended_by_a_signal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: signal.Signals
) -> None:
    write(monkeypatch, b"slow")
    command = [sys.executable, "a.pyz", "-o", "b"]
    before = set(os.listdir())
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_default_signals
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(kind)
    _, told = process.communicate()
    assert process.returncode == 130
    assert told.endswith(b"interrupted\n")
    assert set(os.listdir()) - before == {"cache"}


def _default_signals() -> None:
    """Whatever started the tests may have had some ignored."""
    for kind in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
