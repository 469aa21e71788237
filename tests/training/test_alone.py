"""A memory by itself: the same loop, no networks, no PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import noise, text

from prequential import codec
from prequential.archive import codesize
from prequential.archive.bare import bare
from prequential.cli import main
from prequential.coding.coder import Decoder
from prequential.coding.encoder import Encoder
from prequential.config import Config, load
from prequential.errors import ConfigError
from prequential.training import loop
from prequential.training.alone import Alone

DATA = text(3000, 21) + noise(40) + text(700, 21)


def config(*overrides: str) -> Config:
    return load("fast", overrides=["memory.buckets=65536", *overrides])


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_what_is_decoded_is_what_was_coded(streams: int, chunk: int) -> None:
    """Whatever streams and chunk: also where the last column is not full."""
    found = config(f"streams={streams}", f"chunk={chunk}", "numbers=''").resolve(len(DATA))
    archive = codec.compress(DATA, 1, found)
    assert codec.decompress(archive) == DATA
    assert len(archive) < len(DATA) // 2


def test_no_chunk_changes_a_bit() -> None:
    """Nothing is learned at a chunk's end, so of one stream the payload is the same."""
    payloads = set()
    for chunk in (1, 10, 500):
        found = config(f"chunk={chunk}", "numbers=''").resolve(len(DATA))
        encoder = Encoder()
        data = np.frombuffer(DATA, np.uint8).copy().reshape(-1, 1)
        chunks = (data[i : i + chunk] for i in range(0, len(data), chunk))
        loop.run(((c, len(c)) for c in chunks), encoder, Alone(found, 0))
        payloads.add(encoder.finish())
    assert len(payloads) == 1


def test_a_decoder_follows_column_by_column() -> None:
    """As by `Decoder.code` without `decode_columns`, which others than itself may take away."""
    found = config("streams=3", "chunk=8", "numbers=''").resolve(600)
    chunks = np.frombuffer(DATA[:600], np.uint8).reshape(-1, 8, 3)
    encoder, decoder = Encoder(), Decoder()
    loop.run(((c.copy(), c.size) for c in chunks), encoder, Alone(found, 0))
    decoder.load(encoder.finish())
    learner = Alone(found, 0)
    learner.decode_columns = None
    decoded = np.zeros_like(chunks)
    loop.run(((c, c.size) for c in decoded), decoder, learner)
    assert np.array_equal(decoded, chunks)
    assert decoder.loss_bits == encoder.loss_bits


def test_the_seed_and_the_settings_of_networks_are_nothing_to_it() -> None:
    one = codec.codelength(DATA, 0, config())
    other = codec.codelength(DATA, 9, config("ngrams.contexts=['o1']", "recurrence.layers=2"))
    assert one.loss_integral_bits == other.loss_integral_bits
    assert (one.parameters, one.weights_bytes, one.steps) == (0, 0, 0)


def test_a_memory_alone_needs_a_memory_and_takes_no_steps() -> None:
    with pytest.raises(ConfigError, match="nothing predicts"):
        load("fast", overrides=["memory.kind=none"])
    with pytest.raises(ConfigError, match=r"epochs = 2, but memory\.alone = 1: no steps"):
        load("fast", overrides=["epochs=2"])


def test_weights_that_there_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").write_bytes(DATA[:300])
    assert main(["encode", "a", "-q", "--preset", "tiny", "--save-weights", "w"]) == 0
    for flags in (["--save-weights", "v"], ["--prior", "w"]):
        assert main(["encode", "a", "-qf", "--preset", "fast", *flags]) == 2
        assert "a memory alone has no weights" in capsys.readouterr().err
    assert not Path("v").exists()
    assert main(["where", "a", "--preset", "fast", "--predictors"]) == 2
    assert "no predictors but the memory" in capsys.readouterr().err
    assert main(["where", "a", "--preset", "fast"]) == 0
    assert "networks" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["fast", "default"])
def test_without_a_transformer_nothing_imports_torch(preset: str, tmp_path: Path) -> None:
    """Neither encoding nor decoding, of which each is a command of its own."""
    source, archive, copy = (tmp_path / name for name in ("a", "a.pq", "b"))
    source.write_bytes(DATA[:200])
    program = (
        "import sys; from prequential.cli import main; code = main(sys.argv[1:]);"
        " sys.exit(code or 'torch' in sys.modules)"
    )
    for command in (
        ["encode", source, "-o", archive, "-q", "--preset", preset],
        ["decode", archive, "-o", copy, "-q"],
    ):
        subprocess.run([sys.executable, "-c", program, *command], check=True, env=os.environ)
    assert copy.read_bytes() == DATA[:200]


@pytest.mark.parametrize("parts", [codesize.NONE, codesize.NETWORKS])
def test_no_decoder_without_a_transformer_names_torch(parts: frozenset[str]) -> None:
    files = codesize._files(parts)
    assert "training/alone" in files
    assert ("training/learner" in files) == bool(parts)
    for path, source in files.items():
        lines = bare(source).decode().splitlines()
        assert not [x for x in lines if x.startswith(("import torch", "from torch"))], path
