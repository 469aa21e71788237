"""What a system lacks: each counterpart alone, then a whole round trip without all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from samples import ROOT, text

from prequential import system
from prequential.archive.files import FileBytes


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pread", "posix_fallocate"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(system, "fcntl", None)


@pytest.mark.usefixtures("lacking")
def test_counterparts(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("w+b") as file:
        system.reserve(file.fileno(), 2**20 + 3)
        assert file.write(b"from the start") == 14
        file.flush()
        assert system.read_at(file.fileno(), 3, 9) == b"sta"
        assert file.tell() == 14
        assert system.read_at(file.fileno(), 9, 2**20) == bytes(3)
        assert not system.try_lock(file.fileno())
    assert path.stat().st_size == 2**20 + 3
    with path.open("rb") as file:
        whole = FileBytes("a", file, path.stat())
        assert whole[5:14].tobytes() == b"the start"


WITHOUT = """
import os, signal, sys
import numba, torch, numpy, tempfile, multiprocessing, subprocess, sentencepiece  # find out
for name in ("fcntl", "resource", "pwd", "grp"):
    sys.modules[name] = None
for name in (
    "chown", "fork", "getloadavg", "getuid", "geteuid", "pathconf", "posix_fallocate", "pread",
    "register_at_fork", "sync", "wait4", "O_NOFOLLOW", "O_NONBLOCK",
):
    delattr(os, name)
del signal.SIGHUP
os.supports_fd.clear()
from prequential.cli import main
from prequential import system
assert system.fcntl is None
for line in sys.argv[1:]:
    if (code := main(line.split())) != 0:
        sys.exit(f"{line}: {code}")
"""


@pytest.mark.slow
def test_the_command_without_what_only_posix_has(tmp_path: Path) -> None:
    data = text(900)
    (tmp_path / "a").write_bytes(data)
    os.utime(tmp_path / "a", ns=(10**18, 10**18))
    lines = [
        "encode -q --preset tiny --verify a",
        "test -q a.pq",
        "info a.pq",
        "decode -q -o b a.pq",
        "-q --preset tiny --rm -f a",
        "-q -d a.pq",
        "encode -q --preset tiny --self-extracting a",
        "decode -q -o c a.pyz",
        "compare a --presets tiny --methods xz,zlib",
        "doctor",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *lines], cwd=tmp_path, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    for name in ("a", "b", "c"):
        assert (tmp_path / name).read_bytes() == data
        assert (tmp_path / name).stat().st_mtime_ns == 10**18
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.pq", "a.pyz", "b", "c"]
