"""One archive, one set of weights: whatever the batch shape, threads, SIMD level or load."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import GOLDEN, golden_given, golden_prior, noise, portable, small, text

from prequential import codec
from prequential.config import Config, load, preset_names
from prequential.training.learner import Learner

DATA = text(3000)


def columns_of(learner: Learner, chunk: np.ndarray) -> np.ndarray:
    """Frequencies of a chunk, asked for as the decoder does."""
    parts = []
    for t, symbols in enumerate(chunk):
        parts.append(learner.predict_column(t).copy())
        learner.observe(symbols)
    return np.concatenate(parts)


def chunks(config: Config, count: int, seed: int = 0) -> np.ndarray:
    shape = (count, config.chunk, config.streams)
    data = text(int(np.prod(shape)), seed)
    return np.frombuffer(data, np.uint8).reshape(shape)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["best", "default", "fast", "literal", "tiny"])
@pytest.mark.parametrize("overrides", [(), ("model.window=0",), ("model.conv=1", "chunk=3")])
def test_whole_chunk_equals_column_by_column(preset: str, overrides: tuple[str, ...]) -> None:
    """Every integer frequency, and every weight after the step."""
    config = load(preset, overrides=["ngrams.rows_log2=10", "model.input_rows_log2=10", *overrides])
    config = config.resolve(3000)
    whole, stepwise = Learner(config, 1), Learner(config, 1)
    for chunk in chunks(config, 12):
        a, b = whole.predict(chunk), columns_of(stepwise, chunk)
        assert np.array_equal(a, b)
        whole.learn(chunk, chunk.size)
        stepwise.learn(chunk, chunk.size)
        assert whole.digest() == stepwise.digest()


@pytest.mark.slow
def test_the_future_changes_no_earlier_frequency() -> None:
    config = small().resolve(3000)
    a, b = Learner(config, 1), Learner(config, 1)
    for chunk in chunks(config, 5):
        a.predict(chunk)
        b.predict(chunk)
        a.learn(chunk, chunk.size)
        b.learn(chunk, chunk.size)
    chunk = chunks(config, 1, seed=9)[0]
    changed = chunk.copy()
    changed[5:] ^= 0x55
    B = config.streams
    x, y = a.predict(chunk), b.predict(changed)
    assert np.array_equal(x[: 6 * B], y[: 6 * B])  # column 5 is predicted from columns before it
    assert not np.array_equal(x[6 * B :], y[6 * B :])


def test_threads_change_nothing() -> None:
    archives = {codec.compress(DATA, 3, small(), threads=n) for n in (1, 2)}
    assert len(archives) == 1


def test_the_portable_operations_give_the_same_archive() -> None:
    archive = codec.compress(DATA, 3, small())
    with portable():
        assert codec.compress(DATA, 3, small()) == archive


PROGRAM = """
import json, sys, hashlib
from samples import small, text
from prequential import codec
sha = hashlib.sha256()
for kind in ("none", "mix"):
    config = small("memory.kind=" + kind)
    archive = codec.compress(text(3000), 3, config, threads=int(sys.argv[1]))
    assert codec.decompress(archive) == text(3000)
    sha.update(archive)
print(json.dumps(sha.hexdigest()))
"""


def in_process(threads: int = 1, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(threads)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return str(json.loads(result.stdout))


@pytest.mark.slow
def test_settings_of_the_machine_change_nothing() -> None:
    plain, mixed = small(), small("memory.kind=mix")
    archives = codec.compress(DATA, 3, plain) + codec.compress(DATA, 3, mixed)
    expected = hashlib.sha256(archives).hexdigest()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert in_process(2) == expected
    finally:
        busy.kill()
        busy.wait()
    for name, value in (
        ("ATEN_CPU_CAPABILITY", "default"),
        ("ATEN_CPU_CAPABILITY", "avx2"),
        ("MKL_CBWR", "COMPATIBLE"),
        ("OMP_NUM_THREADS", "7"),
    ):
        assert in_process(**{name: value}) == expected, (name, value)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.pq")), ids=lambda p: p.stem)
def test_golden_archives(path: Path) -> None:
    """Made once by `scripts/make-golden`: they decode, and encoding makes the same bytes."""
    expected = json.loads((GOLDEN / "golden.json").read_text())[path.stem]
    original = golden_input(path.stem)
    archive = path.read_bytes()
    assert hashlib.sha256(archive).hexdigest() == expected["archive_sha256"]
    given, prior = golden_given(path.stem), golden_prior(path.stem)
    assert codec.decompress(archive, given=given, prior=prior) == original
    if path.stem.endswith("-tokens"):
        return  # which pieces sentencepiece finds is its own affair, and may change
    config = golden_config(path.stem)
    after = {"given": given, "prior": prior}
    assert codec.compress(original, expected["seed"], config, **after) == archive
    report = codec.codelength(original, expected["seed"], config, **after)
    if config is not None:
        assert report.weights_digest == expected["weights_digest"]


def golden_input(name: str) -> bytes:
    """The inputs of the golden archives, from generators that do not change."""
    return {
        "tiny-text": text(6000, 1),
        "tiny-bytes": bytes(range(256)) * 12 + noise(500),
        "literal-text": text(2500, 2),
        "default-text": text(3500, 3),
        "default-tokens": text(3500, 6) + noise(100),
        "literal-tokens": text(2500, 7) + noise(100),
        "best-text": text(1500, 5),
        "fast-bytes": noise(300) * 4 + bytes(range(256)) * 6,
        "fast-numbers": b"head" + walks(40 * 96, 3, 1) + walks(1800, 2, 2) + b"tail",
        "stored-noise": noise(700, 4),
        "default-given": text(1000, 8) + noise(50),
        "literal-pieces": text(1000, 10),
        "tiny-prior": text(900, 14),
        "fast-lanes": text(4000, 15) + noise(60),
        "gpu-lanes": text(2000, 16),
        "best-replay": text(1300, 18),
        "tiny-replay": text(800, 19),
    }[name]


def golden_config(name: str) -> Config | None:
    """How they are coded; None: stored."""
    preset, kind = name.split("-")
    # A picture of 40 rows of 32 pixels in three colours, and sound of two channels.
    numbers = "4-3844:u1x3/96,3844-7444:<i2x2"
    overrides = {"numbers": [f'numbers="{numbers}"']}
    overrides["tokens"] = overrides["pieces"] = ["tokenizer=bpe:300"]
    overrides["lanes"] = ["streams=5", "lanes=2", "chunk=16"]
    overrides["replay"] = ["epochs=2"]
    overrides["prior"] = ["ngrams.rows_log2=10"]  # as `golden_prior` has them
    if preset == "gpu":  # small enough for a test
        overrides["lanes"] += [
            "model.layers=1",
            "model.width=32",
            "model.heads=2",
            "model.hidden=48",
        ]
    return None if preset == "stored" else load(preset, overrides=overrides.get(kind, []))


def walks(count: int, channels: int, size: int) -> bytes:
    """Elements, lowest byte first, of channels that go up and down by a few."""
    steps = np.frombuffer(noise(count * 2, channels), "<u2").reshape(-1, channels) % 15
    values = (steps.astype(np.int64) - 7).cumsum(0).cumsum(0) if size > 1 else steps.cumsum(0)
    return values.reshape(-1).astype(f"<i{size}").tobytes()


def test_there_are_golden_archives() -> None:
    names = {path.stem for path in GOLDEN.glob("*.pq")}
    assert names == set(json.loads((GOLDEN / "golden.json").read_text()))
    assert {name.split("-")[0] for name in names} == {*preset_names(), "stored"}
