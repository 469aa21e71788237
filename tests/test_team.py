"""Streams shared over processes: any number of ranks writes the archive of one process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import small, text

from prequential import codec
from prequential.cli import main
from prequential.config import load
from prequential.errors import ConfigError
from prequential.team import SharedTransformer, Team, joined

ROOT = Path(__file__).parent.parent
DATA = text(2500, 8)
SETTINGS = ["streams=5", "memory.kind=mix", "ngrams.rows_log2=10", "model.input_rows_log2=10"]


def torchrun(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *run, "-m", "prequential", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


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


class Alone(Team):
    """A team of one that sends nothing; `wide` pretends that other ranks hold larger numbers."""

    def __init__(self, wide: float = 0.0) -> None:
        self.rank, self.size, self.wide = 0, 1, wide

    def maximum(self, x: torch.Tensor) -> torch.Tensor:
        return super().maximum(x).clamp(min=self.wide)

    def total(self, x: torch.Tensor) -> None:
        assert x.dtype == torch.int32

    def gather(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x]


def test_long_sums_are_added_before_they_are_rounded() -> None:
    """48 * 32 rows are more than float32 sums hold; the sums travel as integers."""
    config, data = small("streams=48", "chunk=32"), text(48 * 32 * 2)
    archives = []
    for transformer in ({}, {"transformer": partial(SharedTransformer, Alone())}):
        out = io.BytesIO()
        codec.encode(np.frombuffer(data, np.uint8), out, config=config, **transformer)
        archives.append(out.getvalue())
    assert archives[0] == archives[1]


def test_scales_that_were_not_agreed_on_would_be_seen() -> None:
    """The control: other scales, another archive."""
    archives = []
    for wide in (0.0, 1.0):
        out = io.BytesIO()
        shared = partial(SharedTransformer, Alone(wide))
        codec.encode(np.frombuffer(DATA, np.uint8), out, config=small(), transformer=shared)
        archives.append(out.getvalue())
    assert archives[0] != archives[1]


def test_refusals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crowd(Alone):
        def __init__(self) -> None:
            super().__init__()
            self.size = 9

    with pytest.raises(ConfigError, match="9 ranks for 4 streams"):
        SharedTransformer(Crowd(), small().model, 4, 8, 0, "cpu")
    with pytest.raises(ConfigError, match="overflow"):
        SharedTransformer(Alone(), small().model, 4096, 1024, 0, "cpu")
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="start them with torchrun"), joined("cpu"):
        pass
    file = tmp_path / "f"
    file.write_bytes(b"x")
    assert main(["encode", str(file), "--distributed", "--verify"]) == 1
    assert "--distributed does not go with --verify" in capsys.readouterr().err
