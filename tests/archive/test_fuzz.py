"""Round trips over generated data, configurations and chunkings."""

from __future__ import annotations

import io
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import noise, small, text

from prequential import codec
from prequential.archive.container import ArchiveReader
from prequential.config import Config
from prequential.errors import ConfigError, PrequentialError

NAMES = [
    "o0", "o1", "o2", "o5", "o32", "w0", "w1", "w3", "s2", "s9", "a8", "e0", "e3", "f1", "f8",
    "g1", "g8", "h0", "k3", "n0", "p1", "p3", "q0", "u0", "u32",
]  # fmt: skip
CONTEXTS = st.lists(st.sampled_from(NAMES), max_size=4)
QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Data of several kinds, joined: any bytes, text, noise, runs, records, repeats."""
    parts = []
    for _ in range(draw(st.integers(0, 3))):
        size, seed = draw(st.integers(0, 300)), draw(st.integers(0, 9))
        kind = draw(st.integers(0, 5))
        if kind == 0:
            part = draw(st.binary(max_size=64))
        elif kind == 1:
            part = text(size, seed)
        elif kind == 2:
            part = noise(size, seed)
        elif kind == 3:
            part = bytes([draw(st.integers(0, 255))]) * size
        elif kind == 4:
            part = np.arange(size // 4, dtype="<u4").tobytes()
        else:
            part = b"".join(parts)
        parts.append(part)
    return b"".join(parts)


def quoted(names: list[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Small configurations with every part switched on and off."""
    heads = draw(st.sampled_from([1, 2, 4]))
    overrides = [
        f"streams={draw(st.integers(0, 9))}",
        f"stream_bytes={draw(st.sampled_from([1, 50, 1000]))}",
        f"chunk={draw(st.integers(1, 40))}",
        f"epochs={draw(st.sampled_from([1, 1, 2, 3]))}",
        f"model.heads={heads}",
        f"model.width={heads * draw(st.sampled_from([16, 20]))}",
        f"model.hidden={draw(st.integers(16, 70))}",
        f"model.layers={draw(st.integers(0, 2))}",
        f"model.window={draw(st.integers(0, 20))}",
        f"model.conv={draw(st.integers(1, 5))}",
        f"model.inputs={quoted(draw(CONTEXTS))}",
        f"model.input_rows_log2={draw(st.integers(8, 10))}",
        f"model.input_rate={draw(st.sampled_from([0.0, 0.02, 10.0]))}",
        f"ngrams.contexts={quoted(draw(CONTEXTS))}",
        f"ngrams.slots={draw(st.integers(1, 20))}",
        f"ngrams.rows_log2={draw(st.integers(1, 10))}",
        f"ngrams.rate={draw(st.sampled_from([0.0, 0.7, 10.0]))}",
        f"optimizer.name={draw(st.sampled_from(['adam', 'sgd']))}",
        f"optimizer.rate={draw(st.sampled_from([0.0, 0.001, 1.0]))}",
        f"optimizer.warmup={draw(st.sampled_from([0, 7]))}",
    ]
    if draw(st.booleans()):
        names = draw(CONTEXTS)
        overrides += [
            "memory.kind=mix",
            f"memory.contexts={quoted(names)}",
            f"memory.buckets={draw(st.integers(2, 3000))}",
            f"memory.window_log2={draw(st.integers(1, 10))}",
            f"memory.count_limit={draw(st.sampled_from([1, 30, 63]))}",
            f"memory.mixer_rate={draw(st.sampled_from([1, 20, 256]))}",
        ]
    return small(*overrides)


class Pieces(io.RawIOBase):
    """A pipe that gives what it has in pieces of the given sizes, over and over."""

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        self.content, self.sizes = io.BytesIO(content), sizes

    def read(self, size: int = -1) -> bytes:
        self.sizes.append(self.sizes.pop(0))
        return self.content.read(min(size, self.sizes[-1]) if size >= 0 else size)


@pytest.mark.slow
@QUICK
@given(data=contents(), cfg=configs(), seed=st.integers(0, 2**64 - 1), frame=st.integers(1, 600))
def test_round_trip(data: bytes, cfg: Config, seed: int, frame: int, counts: Counter[str]) -> None:
    """Any data under any configuration, in frames of any size."""
    real = codec.FRAME_BYTES
    codec.FRAME_BYTES = frame
    try:
        archive = codec.compress(data, seed, cfg, threads=1)
        assert codec.decompress(archive, threads=2) == data
    finally:
        codec.FRAME_BYTES = real
    counts["generated round trips"] += 1


@pytest.mark.slow
@QUICK
@given(
    data=contents(), sizes=st.lists(st.integers(1, 99), min_size=1, max_size=5), cut=st.floats(0, 1)
)
def test_archives_from_pipes(
    data: bytes, sizes: list[int], cut: float, counts: Counter[str]
) -> None:
    """However the bytes arrive; and if they stop arriving, that is an error."""
    archive = codec.compress(data, 0, small())
    out = io.BytesIO()
    codec.decompress_file(Pieces(archive, sizes), out)  # type: ignore[arg-type]
    assert out.getvalue() == data
    short = archive[: min(len(archive) - 1, int(cut * len(archive)))]
    try:
        codec.decompress_file(Pieces(short, sizes), io.BytesIO())  # type: ignore[arg-type]
    except PrequentialError:
        counts["generated pipes"] += 1
    else:
        counts["that passed silently"] += 1
        raise AssertionError("passed silently")


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(cfg=configs(), at=st.floats(0, 1), piece=st.binary(max_size=4), gone=st.integers(0, 4))
def test_a_config_has_one_spelling(
    cfg: Config, at: float, piece: bytes, gone: int, counts: Counter[str]
) -> None:
    """Any edit of a packed config is refused, or is the packed form of another one."""
    packed = cfg.to_bytes()
    assert Config.from_bytes(packed) == cfg
    place = int(at * len(packed))
    edited = packed[:place] + piece + packed[place + gone :]
    with suppress(ConfigError):
        assert Config.from_bytes(edited).to_bytes() == edited
    counts["edited configs"] += 1


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=300))
def test_any_bytes_are_no_archive(data: bytes, counts: Counter[str]) -> None:
    try:
        ArchiveReader(io.BytesIO(data), "x")
    except PrequentialError:
        counts["arbitrary bytes"] += 1
