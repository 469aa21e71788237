"""Streams shared over processes: any number of ranks writes the archive of one process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import ROOT, portable, small, text

from prequential import codec
from prequential.cli import main
from prequential.config import load
from prequential.errors import ConfigError
from prequential.exact.scalars import group_of
from prequential.training.run import Options
from prequential.training.team import SharedLearner, Team, joined, share

DATA = text(2500, 8)
SETTINGS = ["streams=5", "memory.kind=mix", "ngrams.rows_log2=10", "model.input_rows_log2=10"]


def torchrun(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *run, "-m", "prequential", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks_writes_one_archive(ranks: int, tmp_path: Path) -> None:
    """Five streams, so that shares differ; a single process decodes."""
    expected = codec.compress(DATA, 1, load("tiny", overrides=SETTINGS))
    source = tmp_path / "f"
    source.write_bytes(DATA)
    options = [part for setting in SETTINGS for part in ("--set", setting)]
    command = ["encode", str(source), "--preset", "tiny", "--seed", "1", *options]
    done = torchrun(ranks, *command, "--distributed", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ranks"] == ranks
    archive = (tmp_path / "f.pq").read_bytes()
    assert archive == expected
    assert codec.decompress(archive) == DATA


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 3])
def test_after_what_is_given(ranks: int, tmp_path: Path) -> None:
    """Every rank learns it; one of few bytes fills no stream of a chunk."""
    source, long, short = (tmp_path / name for name in "fAb")
    source.write_bytes(DATA)
    long.write_bytes(text(1100, 9))
    short.write_bytes(b"xyz")
    options = [part for setting in SETTINGS for part in ("--set", setting)]
    options += [part for path in (long, short) for part in ("--given", str(path))]
    done = torchrun(ranks, "encode", str(source), "--preset", "tiny", *options, "--distributed")
    assert done.returncode == 0, done.stderr
    archive = (tmp_path / "f.pq").read_bytes()
    assert archive == codec.compress(
        DATA, config=load("tiny", overrides=SETTINGS), given=[long, short]
    )
    assert codec.decompress(archive, given=[short, long]) == DATA


class Counted(Team):
    """A team of one that only notes what is sent."""

    def __init__(self, size: int = 1) -> None:
        self.rank, self.size = 0, size
        self.sent: list[int] = []

    def total(self, x: torch.Tensor) -> None:
        assert x.dtype == torch.int32
        self.sent.append(x.numel())


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("streams=5",),
        ("streams=17", "chunk=600", "epochs=2"),
        ("streams=5", "model.conv=1", "optimizer.name=sgd"),
    ],
)
@pytest.mark.parametrize("form", [nullcontext, portable])
def test_one_sum_of_integers_is_all_that_travels(
    overrides: tuple[str, ...], form: Callable[[], AbstractContextManager[None]]
) -> None:
    """A message per step; the archive is the same, where a group has two streams as well.

    So it is when a rank runs PyTorch's form of the step, as on a GPU.
    """
    config, data = small(*overrides), text(17 * 600 * 2)
    expected, out, team = codec.compress(data, config=config), io.BytesIO(), Counted()
    source, shared = np.frombuffer(data, np.uint8), partial(SharedLearner, team)
    with form():
        report = codec.encode(source, out, config=config, options=Options(new_learner=shared))
    assert out.getvalue() == expected
    assert len(team.sent) == report.steps
    rows = config.streams * config.chunk
    convolution = (config.model.conv - 1) * config.model.width
    r = config.recurrence  # every rank has all of it
    cells = r.cells * ((2 * r.layers - 1) * 3 * r.cells + r.layers * 256)
    weights = report.parameters - convolution - cells
    assert max(team.sent) == weights + rows * (256 + config.model.width)


@pytest.mark.slow
def test_a_sum_that_is_not_exact_would_be_seen() -> None:
    """The control: one unit more in one weight's gradient, another archive."""

    class Wrong(Counted):
        def total(self, x: torch.Tensor) -> None:
            x[-1] += 1 << 12

    archives = []
    for team in (Counted(), Wrong()):
        out, shared = io.BytesIO(), partial(SharedLearner, team)
        codec.encode(
            np.frombuffer(DATA, np.uint8), out, config=small(), options=Options(new_learner=shared)
        )
        archives.append(out.getvalue())
    assert archives[0] != archives[1]


def test_shares_are_whole_groups() -> None:
    """Every stream has one rank, whatever the division."""
    for streams, size in ((2, 2), (5, 3), (16, 16), (37, 4), (40, 14), (4096, 16)):
        streams_of = []
        for rank in range(size):
            team = Counted(size)
            team.rank = rank
            part = share(team, streams)
            assert part.start % group_of(streams) == 0
            assert part.stop > part.start
            streams_of += list(range(streams))[part]
        assert streams_of == list(range(streams))


def test_refusals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="9 ranks for 4 groups of streams"):
        share(Counted(9), 4)
    with pytest.raises(ConfigError, match="16 ranks for 14 groups"):
        share(Counted(16), 40)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="start them with torchrun"), joined("cpu"):
        pass
    file = tmp_path / "f"
    file.write_bytes(b"x")
    assert main(["encode", str(file), "--distributed", "--verify"]) == 2
    assert "--distributed does not go with --verify" in capsys.readouterr().err
    state = ["--given", str(file), "--state", "s"]
    assert main(["encode", str(file), "--distributed", *state]) == 2
    assert "--distributed does not go with --state" in capsys.readouterr().err
    assert main(["encode", str(file), "--distributed", "--given", "-"]) == 2
