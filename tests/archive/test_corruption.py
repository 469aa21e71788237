"""Damaged and hostile archives: always a clear error, in bounded time and memory, and no output."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import random
import re
import resource
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from samples import noise, small, text

from prequential import codec, config
from prequential.archive import container
from prequential.archive.container import ArchiveReader, Header, Limits
from prequential.archive.writer import ArchiveWriter
from prequential.cli import main
from prequential.config import Config, load
from prequential.errors import ArchiveError, DivergenceError, PrequentialError
from prequential.training import decoding, run
from prequential.training.learner import Learner
from prequential.training.run import Options

UNTOUCHED = 0xAA


@pytest.fixture(scope="module", autouse=True)
def several_frames() -> Iterator[None]:
    """Frames are short here, and so is what has several of them, which end with digests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(container, "FRAME_BYTES", 500)
        yield


@dataclasses.dataclass(frozen=True)
class Sample:
    """An archive and what is known of it; ends are those of the header and of each data frame."""

    data: bytes
    archive: bytes
    ends: list[int]

    @property
    def frames(self) -> int:
        return len(self.ends) - 1


def sample(data: bytes, cfg: Config, frame_bytes: int) -> Sample:
    with pytest.MonkeyPatch.context() as patch:
        for module in (run, codec):
            patch.setattr(module, "FRAME_BYTES", frame_bytes)
        archive = codec.compress(data, 0, cfg)
    reader = ArchiveReader(io.BytesIO(archive), "a.pq")
    ends = [reader.header_bytes]
    while True:
        try:
            reader.data()
        except ArchiveError:
            return Sample(data, archive, ends)
        ends.append(reader.bytes_read)


@pytest.fixture(scope="module")
def large() -> Sample:
    """An archive of about 50 kB: six bits of noise in every byte."""
    data = (np.frombuffer(noise(64_000), np.uint8) & 63).tobytes()
    made = sample(data, small("streams=8", "chunk=32", "memory.kind=mix"), 8192)
    assert 48_000 < len(made.archive) < 54_000
    assert made.frames >= 6
    return made


@pytest.fixture(scope="module")
def tiny() -> Sample:
    made = sample(text(2300), small("memory.kind=mix", "ngrams.rows_log2=4"), 500)
    assert made.frames == 5
    return made


def scan(archive: bytes, frames: int) -> None:
    """Read the container as the decoder does, without the model."""
    reader = ArchiveReader(io.BytesIO(archive), "a.pq")
    for _ in range(frames):
        reader.data()
    reader.end()


def check_message(error: BaseException) -> None:
    message = str(error)
    assert message.startswith("a.pq: ")
    assert "\n" not in message
    assert len(message) < 600
    assert re.search(r"byte \d|version|signature|header|GiB|hours|damaged", message), message


def refused(archive: bytes, frames: int, counts: Counter[str], kind: str) -> str:
    counts[kind] += 1
    try:
        scan(archive, frames)
    except ArchiveError as error:
        check_message(error)
        return str(error)
    counts["that passed silently"] += 1
    raise AssertionError("passed silently")


def decoded(
    archive: bytes, frame_bytes: int = 500, done: list[slice] | None = None, **options: object
) -> tuple[np.ndarray, str]:
    """What a decoder leaves in its output, and the error's message; done: what it vouches for."""
    out = np.zeros(0, np.uint8)

    def allocate(size: int) -> np.ndarray:
        nonlocal out
        out = np.full(size, UNTOUCHED, np.uint8)
        return out

    with pytest.MonkeyPatch.context() as patch, pytest.raises(PrequentialError) as caught:
        patch.setattr(run, "FRAME_BYTES", frame_bytes)
        codec.decode(io.BytesIO(archive), allocate, Options(name="a.pq", **options), done)  # type: ignore[arg-type]
    check_message(caught.value)
    return out, str(caught.value)


def changed(archive: bytes, at: int, flip: int) -> bytes:
    return archive[:at] + bytes([archive[at] ^ flip]) + archive[at + 1 :]


@pytest.mark.slow
def test_every_position(
    large: Sample, counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte of a 50 kB archive is changed, what steers the reader to many values."""
    for name in ("from_bytes", "following"):  # the header's config is the same nearly always
        monkeypatch.setattr(Config, name, functools.cache(getattr(Config, name)))
    rng = random.Random(0)
    steering = {*range(large.ends[0]), *range(large.ends[-1], len(large.archive))}
    for start, end in pairwise(large.ends):
        steering |= {*range(start, start + 4), *range(end - 12, end)}
    for at in range(len(large.archive)):
        flips = (1, 128, rng.randrange(1, 256)) if at in steering else (rng.randrange(1, 256),)
        if at in steering and (at < 60 or at % 3 == 0):
            flips = tuple(range(1, 256, 6))
        for flip in flips:
            refused(
                changed(large.archive, at, flip),
                large.frames,
                counts,
                "changed bytes of an archive",
            )


@pytest.mark.slow
def test_every_truncation(large: Sample, counts: Counter[str]) -> None:
    size = len(large.archive)
    near = {e + d for e in (*large.ends, size) for d in range(-20, 20)}
    lengths = {*range(0, large.ends[0]), *range(0, size, 61), *near} & set(range(size))
    for length in sorted(lengths):
        told = refused(large.archive[:length], large.frames, counts, "truncated archives")
        assert "truncated" in told or length == 0


@pytest.mark.slow
def test_rearranged_frames(large: Sample, counts: Counter[str]) -> None:
    whole, n = large.archive, large.frames
    parts = [whole[a:b] for a, b in pairwise(large.ends)]
    head, tail = whole[: large.ends[0]], whole[large.ends[-1] :]
    orders = [
        [j if k == i else i if k == j else k for k in range(n)] for i in range(n) for j in range(i)
    ]
    orders += [[*range(i), i, *range(i, n)] for i in range(n)]
    orders += [[k for k in range(n) if k != i] for i in range(n)]
    orders += [[], [0], list(range(n))[::-1], [*range(n), *range(n)]]
    for order in orders:
        mixed = head + b"".join(parts[i] for i in order) + tail
        for expected in {n, max(n, len(order))}:  # the header tells that there are n
            refused(mixed, expected, counts, "rearranged frames")


def test_what_follows_the_end(large: Sample, tiny: Sample, counts: Counter[str]) -> None:
    for tail in (b"\0", b"\n", bytes(100), large.archive, tiny.archive, large.archive[-45:]):
        told = refused(large.archive + tail, large.frames, counts, "bytes after the end")
        assert f"at byte {len(large.archive)}" in told
    assert "frame 6 of" not in refused(
        large.archive[: large.ends[0]] + tiny.archive, large.frames, counts, "bytes after the end"
    )


@pytest.mark.slow
def test_noticed_before_it_reaches_the_output(tiny: Sample, counts: Counter[str]) -> None:
    """Through the whole decoder: nothing of the damaged frame, or after it, is decoded."""
    rng = random.Random(1)
    for frame in range(tiny.frames):
        for _ in range(2):
            at = rng.randrange(tiny.ends[frame], tiny.ends[frame + 1])
            done: list[slice] = []
            out, told = decoded(changed(tiny.archive, at, 1 << rng.randrange(8)), done=done)
            assert f"frame {frame + 1}" in told
            written = np.zeros(len(tiny.data), bool)
            for part in done:
                assert out[part].tobytes() == tiny.data[part]
                written[part] = True
            assert (out[~written] == UNTOUCHED).all()
            assert written.sum() == min(len(tiny.data), 512 * frame)
            counts["damaged archives through the decoder"] += 1


@pytest.mark.slow
def test_a_diverging_decoder_is_noticed_in_its_frame(
    tiny: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bit of one weight, in the third frame: noticed at that frame's end, with advice."""
    real, calls = Learner.learn, [0]

    def learn(self: Learner, chunk: np.ndarray, count: int) -> None:
        real(self, chunk, count)
        calls[0] += 1
        if calls[0] == 2 * 16 + 5:
            self.model.weights[-1].value.view(-1)[0] += 2.0**-20

    monkeypatch.setattr(Learner, "learn", learn)
    done: list[slice] = []
    _, told = decoded(tiny.archive, done=done)
    assert "frame 3" in told
    assert all(hint in told for hint in ("preq doctor", "--device cpu", "torch release"))
    assert sum(part.stop - part.start for part in done) == 1024


# Hostile headers, all with right checksums.


def header(cfg: Config | None, original: int, seed: int = 0) -> bytes:
    out = io.BytesIO()
    head = Header(original, seed, bytes(8), cfg)
    ArchiveWriter(out, head).data(bytes(300), bytes(head.digest_bytes))
    return out.getvalue()


def raw(packed: bytes, original: bytes = b"\x80\x10") -> bytes:
    fields = container.MAGIC + bytes([container.CONTAINER_VERSION, container.NUMERICS_VERSION, 1])
    fields += original + b"\0" + config.varint(len(packed)) + packed + bytes(8)
    return fields + container.zlib.crc32(fields).to_bytes(4, "little")


def extremes() -> list[tuple[str, bytes]]:
    """Every number of a config far out, and configs that are not one."""
    cases = []
    base = load("tiny").resolve(2048)
    leaves = config.leaves(base)
    for i, (name, value) in enumerate(leaves):
        values: list[object] = []
        if isinstance(value, int):
            values = [0, 1, 2**20, 2**31, 2**62]
        elif isinstance(value, float):
            values = [0.0, -1.0, 1e308, float("inf"), float("nan"), -0.0]
        elif isinstance(value, tuple):
            values = [(), ("o1",) * 64, ("o1",) * 65, ("x",), ("o99",), ("",), ("o1" * 400,)]
        else:
            values = ["", "unknown", "\0", "x" * 5000]
        for bound in _bounds(name):
            values += [bound, bound * 2]
        for new in values:
            packed = b"".join(config._pack(new if k == i else v) for k, (_, v) in enumerate(leaves))
            cases += [(f"{name} = {new!r:.40}", raw(packed, o)) for o in (b"\x80\x10", HUGE)]
    whole = base.to_bytes()
    cases += [(f"config cut to {n} bytes", raw(whole[:n])) for n in range(1, len(whole), 9)]
    cases += [("config too long", raw(whole + b"\0")), ("64 KiB", raw(whole + bytes(65_000)))]
    cases += [
        ("JSON", raw(b'{"a":' * 9000)),
        ("not UTF-8", raw(whole.replace(b"adam", b"\xff" * 4))),
    ]
    cases += [("endless varints", raw(b"\x80" * 60_000)), ("big counts", raw(b"\x7f" * 60_000))]
    return cases


HUGE = config.varint(2**63 - 1)


def _bounds(name: str) -> list[object]:
    tree: object = Config()
    *sections, last = name.split(".")
    for section in sections:
        tree = getattr(tree, section)
    (found,) = [f for f in dataclasses.fields(tree) if f.name == last]  # type: ignore[arg-type]
    bounds = found.metadata.get("range")
    if bounds is None:
        return []
    kind = type(getattr(tree, last))
    return [kind(bounds.low), kind(bounds.high)]


@pytest.mark.slow
def test_extreme_headers(counts: Counter[str]) -> None:
    """All fail, quickly, whether or not the model they ask for is still allowed."""
    began = time.monotonic()
    limits = Limits(memory_bytes=2**28, seconds=5.0)
    for what, archive in extremes():
        counts["hostile headers"] += 1
        with pytest.raises(PrequentialError) as caught:
            codec.decompress(archive, limits=limits)
        assert len(str(caught.value)) < 600, what
        assert "\n" not in str(caught.value)
    for original, seed in ((0, 0), (1, 2**64 - 1), (2**63 - 1, 0), (2**40, 1)):
        for cfg in (None, load("tiny").resolve(original)):
            counts["hostile headers"] += 1
            with pytest.raises(PrequentialError):
                codec.decompress(header(cfg, original, seed), limits=limits)
    assert time.monotonic() - began < 120


@pytest.mark.slow
def test_extreme_headers_and_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`info` reads 64 KiB at most, and holds little more."""
    path = tmp_path / "a.pq"
    main(["info", str(path)])
    for what, archive in extremes()[::19]:
        path.write_bytes(archive)
        tracemalloc.start()
        main(["info", str(path)])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20e6, what
    err = capsys.readouterr().err
    assert all(len(line) < 700 for line in err.splitlines())


def test_memory_is_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    big = load("tiny", overrides=["model.input_rows_log2=22", "model.width=256"]).resolve(2048)
    assert big.memory_bytes() > 2**32
    path = tmp_path / "a.pq"
    path.write_bytes(header(big, 2048))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for command in ("test", "decode"):
        assert main([command, "-q", str(path)]) == 1
        assert "more room than the limit of 4.0 GiB: raise it with --max-memory" in (
            capsys.readouterr().err
        )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    path.write_bytes(header(None, 2**33))
    assert main(["test", "-q", str(path)]) == 1
    assert "--max-memory" in capsys.readouterr().err
    assert main(["test", "-q", "--max-memory", "9G", str(path)]) == 1
    assert "truncated" in capsys.readouterr().err
    small_one = header(load("tiny").resolve(2048), 2048)
    path.write_bytes(small_one)
    assert main(["test", "-q", "--max-memory", "1M", str(path)]) == 1
    assert "limit of 1.0 MiB" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["a.pq"]


def test_work_is_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A kilobyte cannot ask for days of training; a flag says that it may."""
    heavy = load("tiny", overrides=["model.layers=64", "epochs=64", "chunk=1"]).resolve(2**18)
    path = tmp_path / "a.pq"
    path.write_bytes(header(heavy, 2**18))
    assert len(path.read_bytes()) < 1000
    began = time.monotonic()
    for command in ("test", "decode"):
        assert main([command, "-q", str(path)]) == 1
        err = capsys.readouterr().err
        assert re.search(r"work for about \d\d.*hours .*data frame 1.*--max-hours", err), err
    assert time.monotonic() - began < 30
    assert not (tmp_path / "a").exists()


def test_what_presets_write_is_within_the_limits() -> None:
    """Even nothing but zeros, of which a frame takes 14 bytes."""
    limits = Limits()
    for name in config.preset_names():
        for size in (10**5, 10**7, 10**9):
            cfg = load(name).resolve(size)
            there = cfg.device_bytes() if name == "gpu" else 0  # not on the host
            cfg = cfg.fitting(int(limits.memory_bytes) + there)
            assert cfg.memory_bytes() - there <= limits.memory_bytes
            frame_work = run.FRAME_BYTES * cfg.seconds_per_token()
            earned = 14 * limits.seconds_per_archive_byte
            frames = size / run.FRAME_BYTES
            if name != "gpu":  # the estimate is of two cores, which it is not meant for
                assert frames * frame_work < limits.seconds + frames * earned, name
            text_work = size * cfg.seconds_per_token()
            assert text_work < limits.seconds_per_archive_byte * size / 20, name


# Salvage.


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "FRAME_BYTES", 500)
    return tmp_path


Damage = Callable[[Sample], bytes]


@pytest.mark.slow
@pytest.mark.parametrize("streams", [1, 4])
def test_salvage(folder: Path, streams: int, capsys: pytest.CaptureFixture[str]) -> None:
    made = sample(text(2300), small(f"streams={streams}"), 500)
    step = -(-500 // (8 * streams)) * 8  # bytes of each stream in a frame
    base, extra = divmod(2300, streams)
    starts = [b * base + min(b, extra) for b in range(streams)]
    for frame in (1, 3, 5):
        Path("a.pq").write_bytes(made.archive[: made.ends[frame - 1] + 9])
        assert main(["decode", "-q", "a.pq"]) == 1
        assert sorted(os.listdir()) == ["a.pq"]
        capsys.readouterr()
        assert main(["decode", "-q", "--salvage", "-o", "b", "a.pq"]) == 1
        err = capsys.readouterr().err
        assert f"data frame {frame}" in err
        if frame == 1:
            assert not Path("b").exists()
            continue
        length = (frame - 1) * step
        wanted = bytearray(starts[-1] + length)
        for start in starts:
            wanted[start : start + length] = made.data[start : start + length]
        assert Path("b").read_bytes() == wanted
        assert (
            f"salvaged to b: {streams * length} bytes, the original's bytes 0..{length - 1}" in err
        )
        assert ("zeros between" in err) == (streams > 1)
        Path("b").unlink()
    whole = made.archive + b"?"  # only what follows is wrong
    Path("a.pq").write_bytes(whole)
    assert main(["decode", "-q", "--salvage", "-o", "b", "a.pq"]) == 1
    assert Path("b").read_bytes() == made.data


def test_salvage_of_a_stored_archive(folder: Path) -> None:
    made = sample(noise(1700), small(), 500)
    Path("a.pq").write_bytes(changed(made.archive, made.ends[2] + 50, 4))
    assert main(["decode", "-q", "--salvage", "a.pq"]) == 1
    assert Path("a").read_bytes() == made.data[:1000]


def test_salvage_after_a_divergence_leaves_out_that_frame(
    folder: Path, tiny: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Learner.digest, [0]

    def digest(self: Learner) -> bytes:
        calls[0] += 1
        return bytes(32) if calls[0] == 3 else real(self)

    monkeypatch.setattr(Learner, "digest", digest)
    Path("a.pq").write_bytes(tiny.archive)
    assert main(["decode", "-q", "--salvage", "a.pq"]) == 1
    out = np.frombuffer(Path("a").read_bytes(), np.uint8)
    assert (out != 0).sum() == 1024


def test_salvage_of_a_sound_archive(folder: Path, tiny: Sample) -> None:
    Path("a.pq").write_bytes(tiny.archive)
    assert main(["decode", "-q", "--salvage", "a.pq"]) == 0
    assert Path("a").read_bytes() == tiny.data


def test_divergence_at_the_end_is_an_error(tiny: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FRAME_BYTES", 500)
    monkeypatch.setattr(decoding, "sha256_of", lambda _: bytes(32))
    with pytest.raises(DivergenceError, match="output differs"):
        codec.decompress(tiny.archive)
