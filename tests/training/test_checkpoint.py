"""Checkpoints: the output of a resumed run is that of one that was never interrupted."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from samples import ROOT, noise, small, text

from prequential import codec
from prequential.cli import main
from prequential.config import _CONTEXT_SIZES, Config
from prequential.errors import FileError
from prequential.training import checkpoint, prior, run
from prequential.training.checkpoint import Checkpoints
from prequential.training.given import named
from prequential.training.run import Options, Run

SMALL = ["model.input_rows_log2=8"]
DATA = text(1501)
# Each kind of context that a memory knows, as what it remembers must be kept too.
EVERY_CONTEXT = f"memory.contexts={[f'{kind}{low}' for kind, (low, _) in _CONTEXT_SIZES.items()]}"


class Stop(Exception):
    """What ends a run in these tests."""


class Keeper(Checkpoints):
    """Writes a checkpoint after every chunk, and stops the run after some."""

    def __init__(self, path: Path, command: str, *, stop: int = 0, resume: bool = False) -> None:
        self.warnings: list[str] = []
        self.stop = stop
        super().__init__(
            str(path), command, seconds=0, share=1e9, resume=resume, warn=self.warnings.append
        )

    def chunk_done(self, run: Run) -> None:
        if self.stop == run.steps_done:
            super().chunk_done(run)
            raise Stop


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(run, "FRAME_BYTES", 500)


def encode(config: Config, keeper: Keeper | None = None, **options: Any) -> bytes:
    archive = io.BytesIO()
    data = np.frombuffer(options.pop("data", DATA), np.uint8)
    run = {key: options.pop(key) for key in ("seed", "weights") if key in options}
    how = Options(checkpoints=keeper, **options)
    codec.encode(data, archive, config=config, options=how, **run)
    return archive.getvalue()


def decode(archive: bytes, keeper: Keeper | None = None, **options: Any) -> bytes:
    out = np.zeros(0, np.uint8)

    def allocate(size: int) -> np.ndarray:
        nonlocal out
        out = np.zeros(size, np.uint8)
        return out

    codec.decode(io.BytesIO(archive), allocate, Options(checkpoints=keeper, **options))
    return out.tobytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.checkpoint"


def kept(path: Path, config: Config, *, stop: int = 3, **options: Any) -> Path:
    with pytest.raises(Stop):
        encode(config, Keeper(path, "encode", stop=stop), **options)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["memory.kind=mix", "streams=1", EVERY_CONTEXT],
        ["memory.kind=mix", "streams=2", "numbers=100-991:u1x3/31,1001-1401:<i2x1"],
        ["epochs=3", "memory.kind=mix", "model.layers=2", "streams=3"],
        ["optimizer.name=sgd", "model.conv=1", "model.window=0"],
    ],
)
def test_resumed_at_any_chunk(overrides: list[str], path: Path, counts: Counter[str]) -> None:
    config = small(*SMALL, *overrides).resolve(len(DATA))
    archive = encode(config)
    columns = -(-len(DATA) // config.streams)
    steps = -(-columns // config.chunk)
    frame_steps = -(-500 // (config.streams * config.chunk))
    for stop in sorted({1, frame_steps, frame_steps + 1, steps}):
        for way, given, wanted in ((encode, config, archive), (decode, archive, DATA)):
            command = way.__name__
            with pytest.raises(Stop):
                way(given, Keeper(path, command, stop=stop))  # type: ignore[operator]
            keeper = Keeper(path, command, resume=True)
            assert way(given, keeper) == wanted, (command, stop)  # type: ignore[operator]
            assert not keeper.warnings
            counts["resumed runs, chunk by chunk"] += 1
            keeper.remove()
            assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    "overrides", [[], ["memory.kind=mix", "numbers=500-1001:u1x1,1501-1701:u1x1"]]
)
def test_resumed_while_what_is_given_is_learned(overrides: list[str], path: Path) -> None:
    """And after it, before a frame is complete."""
    config = small(*SMALL, "streams=2", "memory.buckets=65536", *overrides)
    first = tuple(named(n, np.frombuffer(text(500, 4 + len(n)), np.uint8)) for n in ("a", "bb"))
    archive = encode(config, given=first)
    steps = 2 * -(-250 // config.chunk)
    for stop in (1, steps // 2, steps // 2 + 1, steps, steps + 1, steps + 40):
        for way, what, wanted in ((encode, config, archive), (decode, archive, DATA)):
            with pytest.raises(Stop):
                way(what, Keeper(path, way.__name__, stop=stop), given=first)  # type: ignore[operator]
            keeper = Keeper(path, way.__name__, resume=True)
            assert way(what, keeper, given=first) == wanted, stop  # type: ignore[operator]
            keeper.remove()
    with pytest.raises(Stop):
        encode(config, Keeper(path, "encode", stop=3), given=first)
    with pytest.raises(FileError, match="another run: its given is"):
        encode(config, Keeper(path, "encode", resume=True), given=first[::-1])


def test_resumed_twice(path: Path) -> None:
    config = small(*SMALL)
    kept(path, config)
    with pytest.raises(Stop):
        encode(config, Keeper(path, "encode", stop=9, resume=True))
    assert encode(config, Keeper(path, "encode", resume=True)) == encode(config)


def test_resumed_with_other_threads(path: Path) -> None:
    """They are the new run's, not the interrupted one's."""
    config, threads = small(*SMALL), list[int]()

    class Watching(Keeper):
        def chunk_done(self, run: Run) -> None:
            threads.append(1 + run.learner.threads._others)
            super().chunk_done(run)

    archive = encode(config)
    for before, after in ((1, 2), (2, 1), (3, 2)):
        kept(path, config, threads=before)
        threads.clear()
        assert encode(config, Watching(path, "encode", resume=True), threads=after) == archive
        assert set(threads) == {after}


def test_the_report_is_that_of_the_whole_run(path: Path) -> None:
    config = small(*SMALL)
    kept(path, config)
    data = np.frombuffer(DATA, np.uint8)
    whole = codec.encode(data, io.BytesIO(), config=config)
    keeper = Keeper(path, "encode", resume=True)
    resumed = codec.encode(data, io.BytesIO(), config=config, options=Options(checkpoints=keeper))
    measured = {"seconds": 0.0, "bytes_per_second": 0.0}
    assert replace(resumed, **measured) == replace(whole, **measured)  # type: ignore[arg-type]


def test_with_a_prior(path: Path, tmp_path: Path) -> None:
    config, weights = small(*SMALL), io.BytesIO()
    encode(config, weights=weights)
    for name, content in (("a", weights.getvalue()), ("b", None)):
        if content is None:
            encode(config, weights=(other := io.BytesIO()), seed=5)
            content = other.getvalue()
        (tmp_path / name).write_bytes(content)
    given = prior.load(str(tmp_path / "a"))
    kept(path, config, prior=given)
    resumed = Keeper(path, "encode", resume=True)
    assert encode(config, resumed, prior=given) == encode(config, prior=given)
    for other_prior in (None, prior.load(str(tmp_path / "b"))):
        with pytest.raises(FileError, match="its prior is"):
            encode(config, resumed, prior=other_prior)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": text(1501, 1)}, "its input is"),
        ({"data": text(1500)}, "its input is"),
        ({"seed": 1}, "its seed is 0, this run's is 1"),
        ({"config": small(*SMALL, "chunk=9")}, "its config has chunk = 8, not 9"),
        ({"config": small(*SMALL, "epochs=2")}, "its config has epochs = 1, not 2"),
    ],
)
def test_another_run_is_refused_by_name(change: dict[str, Any], told: str, path: Path) -> None:
    config = small(*SMALL)
    kept(path, config)
    before = path.read_bytes()
    with pytest.raises(FileError, match=told):
        encode(change.pop("config", config), Keeper(path, "encode", resume=True), **change)
    assert path.read_bytes() == before


def test_another_version_or_command_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(*SMALL)
    kept(path, config)
    with pytest.raises(FileError, match="its command is 'encode', this run's is 'decode'"):
        decode(encode(config), Keeper(path, "decode", resume=True))
    monkeypatch.setattr(checkpoint, "__version__", "9.9")
    with pytest.raises(FileError, match=r"its version is '0\.1.*this run's is '9\.9"):
        encode(config, Keeper(path, "encode", resume=True))


@pytest.mark.slow
def test_damage_is_noticed(path: Path, counts: Counter[str]) -> None:
    """A changed bit in a checkpoint would otherwise give an archive that nothing decodes."""
    config = small(*SMALL, "ngrams.rows_log2=4", "model.layers=0")
    whole = bytearray(kept(path, config).read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(8), *range(8, header, 97), *range(header, len(whole), len(whole) // 60)]
    for at in (*places, len(whole) - 1):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        with pytest.raises(FileError, match=r"is damaged|another run"):
            encode(config, Keeper(path, "encode", resume=True))
        counts["changes of a checkpoint"] += 1
    for size in [*range(0, len(whole), len(whole) // 40), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(FileError, match="is damaged"):
            encode(config, Keeper(path, "encode", resume=True))
        counts["changes of a checkpoint"] += 1


def test_the_file_is_safetensors(path: Path) -> None:
    kept(path, small(*SMALL))
    with safe_open(str(path), "np") as file:
        manifest = json.loads(file.metadata()["manifest"])
        assert file.get_tensor("model.head.mean").shape == (256, 32)
        assert file.get_tensor("output.0000").tobytes()[1:3] == b"pq"
    assert manifest["steps_done"] == 3
    assert manifest["seed"] == 0
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_costs_only_the_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(*SMALL)

    tries = []

    def full(*_: object) -> None:
        tries.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    keeper = Checkpoints(
        str(path), "encode", seconds=0, share=1e9, resume=False, warn=(told := []).append
    )
    assert encode(config, keeper) == encode(config)  # type: ignore[arg-type]
    assert len(tries) > 3
    assert len(told) == 1  # the same words need no repeating
    assert "No space left" in told[0]
    assert not list(path.parent.iterdir())


def test_the_cost_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that only checkpoints move by themselves, their share stays below 2 %."""
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    written = []

    def write(*_: object) -> None:
        written.append(now[0])
        now[0] += 9.0

    monkeypatch.setattr(checkpoint, "write", write)
    keeper = Checkpoints(str(path), "encode", seconds=300, resume=False, warn=print)

    class Slow:
        def begin(self, run: Run) -> None:
            keeper.begin(run)

        def chunk_done(self, run: Run) -> None:
            now[0] += 50.0
            keeper.chunk_done(run)

    codec.encode(
        np.frombuffer(DATA, np.uint8),
        io.BytesIO(),
        config=small(*SMALL),
        options=Options(checkpoints=Slow()),
    )
    assert written[0] == 300
    assert len(written) >= 4
    assert 9.0 * len(written) <= 0.025 * now[0]
    assert all(b - a >= 450 for a, b in pairwise(written))


def test_ignored_signals_stay_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup, or in the background of a shell without job control."""
    (tmp_path / "a").write_bytes(DATA)
    seen = []
    monkeypatch.setattr(
        Checkpoints, "chunk_done", lambda *_: seen.append(signal.getsignal(signal.SIGTERM))
    )
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert main(["encode", "-q", *TINY, str(tmp_path / "a")]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert set(seen) == {signal.SIG_IGN}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(DATA)
    return tmp_path


TINY = ["--preset", "tiny", "--set", "model.input_rows_log2=8", "--set", "ngrams.rows_log2=10"]


def interrupted(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> str:
    """Run a command that gets a Ctrl-C at its third chunk."""
    real = Checkpoints.chunk_done

    def chunk_done(self: Checkpoints, run: Run) -> None:
        if run.steps_done == 3:
            os.kill(os.getpid(), signal.SIGINT)
        real(self, run)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "chunk_done", chunk_done)
        assert main(argv) == 130
    signal.signal(signal.SIGINT, before)
    return capsys.readouterr().err


def test_the_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["encode", "-q", *TINY, "a"]
    err = interrupted(monkeypatch, argv, capsys)
    assert "interrupted at" in err
    assert "a.pq.checkpoint: go on with the same command and --resume" in err
    assert sorted(os.listdir()) == ["a", "a.pq.checkpoint"]
    assert main(argv) == 1
    assert "go on with --resume, or start at the beginning with -f" in capsys.readouterr().err
    assert main([*argv, "--resume", "--seed", "1"]) == 1
    assert "its seed is 0, this run's is 1" in capsys.readouterr().err
    assert main([*argv, "--resume"]) == 0
    assert sorted(os.listdir()) == ["a", "a.pq"]
    resumed = Path("a.pq").read_bytes()
    interrupted(monkeypatch, [*argv, "-f"], capsys)
    assert main([*argv, "-f"]) == 0
    assert Path("a.pq").read_bytes() == resumed
    assert sorted(os.listdir()) == ["a", "a.pq"]
    back = ["decode", "-q", "-o", "b", "a.pq"]
    assert "b.checkpoint: go on" in interrupted(monkeypatch, back, capsys)
    assert main([*back, "--resume"]) == 0
    assert Path("b").read_bytes() == DATA
    assert main([*back, "-f", "--resume"]) == 0
    assert "no checkpoint yet, starting at the beginning" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["a", "a.pq", "b"]


def test_no_checkpoint_where_none_is_wanted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv in (["encode", "--resume", "-"], ["decode", "--resume", "-o", "-", "a"]):
        with pytest.raises(SystemExit):
            main(argv)
        assert "no checkpoint to --resume from" in capsys.readouterr().err
    os.mkdir("a.pq.checkpoint")
    assert main(["encode", "-q", *TINY, "a"]) == 1
    assert "is not a regular file" in capsys.readouterr().err
    assert main(["encode", "-q", *TINY, "--checkpoint-seconds", "0", "a"]) == 0


def test_a_self_extracting_archive(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["encode", "-q", *TINY, "--self-extracting", "a"]
    assert main([*argv, "-o", "whole.pyz"]) == 0
    interrupted(monkeypatch, argv, capsys)
    assert main([*argv, "--resume"]) == 0
    assert Path("a.pyz").read_bytes() == Path("whole.pyz").read_bytes()
    # As docs/FORMAT.md says, what it holds can be decoded without running it.
    Path("inner.pq").write_bytes(zipfile.ZipFile("a.pyz").read("data.pq"))
    assert main(["decode", "-q", "inner.pq"]) == 0
    assert Path("inner").read_bytes() == DATA


def test_an_incompressible_file_is_stored_after_all(path: Path) -> None:
    config = small(*SMALL)
    data = noise(1501)
    with pytest.raises(Stop):
        encode(config, Keeper(path, "encode", stop=9), data=data)
    resumed = encode(config, Keeper(path, "encode", resume=True), data=data)
    assert resumed == encode(config, data=data)
    assert decode(resumed) == data


KILLS = 7  # of each of eight runs


@pytest.mark.slow
def test_killed_at_any_moment(counts: Counter[str]) -> None:
    """SIGKILL at random moments, and within the writing of a checkpoint: see killed.py."""
    here = Path(__file__).parent
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # the disk plays no part
    with tempfile.TemporaryDirectory(dir=fast) as folder:
        result = subprocess.run(
            [sys.executable, str(here / "killed.py"), folder, str(KILLS)],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert result.returncode == 0, result.stderr
    found = Counter(json.loads(result.stdout))
    counts.update(found)
    assert found["kills at random moments"] >= 50
    assert found["kills while a checkpoint was written"] == 12
    assert found["that passed silently"] == 0
