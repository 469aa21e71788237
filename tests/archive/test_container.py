"""The container: round trips, and no malformed archive is ever accepted."""

import hashlib
import io
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import ROOT

from prequential.archive import container
from prequential.archive.container import ArchiveReader, Header, NamedFile
from prequential.archive.writer import ArchiveWriter
from prequential.config import Config, varint
from prequential.errors import ArchiveError, PrequentialError

Frame = tuple[bytes, bytes]
FRAMES: list[Frame] = [(b"first", b"8 bytes."), (b"", b"12345678"), (b"first", b"8 bytes.")]
HELLO = b"hello, world\n"


def header(original: bytes = b"", *, seed: int = 0, config: Config | None = None) -> Header:
    return Header(len(original), seed, hashlib.sha256(original).digest()[:8], config)


SEVERAL = header(bytes(2**18 + 1), seed=300, config=Config().resolve(2**18 + 1))


def coded(frames: list[Frame], head: Header | None = None) -> bytes:
    out = io.BytesIO()
    writer = ArchiveWriter(out, head or SEVERAL)
    for payload, digest in frames:
        writer.data(payload, digest)
    assert writer.bytes_written == len(out.getvalue())
    return out.getvalue()


def stored(original: bytes, step: int = 7) -> bytes:
    out = io.BytesIO()
    writer = ArchiveWriter(out, header(original))
    for start in range(0, len(original), step):
        writer.data(original[start : start + step])
    return out.getvalue()


def read(archive: bytes, frame_count: int = len(FRAMES)) -> tuple[Header, list[Frame]]:
    reader = ArchiveReader(io.BytesIO(archive), "x.pq")
    frames = [reader.data() for _ in range(frame_count)]
    reader.end()
    assert reader.bytes_read == len(archive)
    return reader.header, frames


def boundaries(archive: bytes, frame_count: int = len(FRAMES)) -> list[int]:
    """Where the header and each data frame end."""
    reader = ArchiveReader(io.BytesIO(archive), "x.pq")
    ends = [reader.header_bytes]
    for _ in range(frame_count):
        reader.data()
        ends.append(reader.bytes_read)
    return ends


def refused(archive: bytes, frame_count: int = len(FRAMES)) -> str:
    """The error's message, checked for the house rules."""
    with pytest.raises(ArchiveError) as caught:
        read(archive, frame_count)
    message = str(caught.value)
    assert message.startswith("x.pq: ")
    assert "\n" not in message
    return message


def test_round_trip_coded() -> None:
    head, frames = read(coded(FRAMES))
    assert head == SEVERAL
    assert head.mode == "coded"
    assert frames == FRAMES


def test_round_trip_stored() -> None:
    head, frames = read(stored(HELLO), 2)
    assert head == header(HELLO)
    assert head.mode == "stored"
    assert b"".join(payload for payload, _ in frames) == HELLO


def test_round_trip_stored_empty() -> None:
    assert read(stored(b""), 0)[0].original_bytes == 0


def test_overhead() -> None:
    original = bytes(2**18)
    archive = coded([(b"payload", b"")], header(original, config=Config().resolve(2**18)))
    assert len(archive) - len(b"payload") <= 32
    assert len(stored(HELLO, 100)) - len(HELLO) <= 30


def test_a_single_frame_has_no_digest() -> None:
    head = header(b"abc", config=Config().resolve(3))
    assert read(coded([(b"payload", b"")], head), 1) == (head, [(b"payload", b"")])
    assert head.digest_bytes == 0
    assert SEVERAL.digest_bytes == 8


@given(
    original_bytes=st.integers(0, 2**63 - 1),
    seed=st.integers(0, 2**64 - 1),
    sha256=st.binary(min_size=8, max_size=8),
    config=st.none() | st.just(Config()),
)
def test_round_trip_of_any_header(
    original_bytes: int, seed: int, sha256: bytes, config: Config | None
) -> None:
    resolved = config and config.resolve(original_bytes)
    head = Header(original_bytes, seed, sha256, resolved)
    out = io.BytesIO()
    writer = ArchiveWriter(out, head)
    reader = ArchiveReader(io.BytesIO(out.getvalue()), "x.pq")
    assert reader.header == head
    assert reader.header_bytes == writer.header_bytes == len(out.getvalue())


@pytest.mark.parametrize(
    "head",
    [
        Header(2**63, 0, bytes(8), None),
        Header(-1, 0, bytes(8), None),
        Header(0, 2**64, bytes(8), None),
        Header(0, -1, bytes(8), None),
        Header(0, 0, bytes(7), None),
    ],
)
def test_writer_refuses_a_header_out_of_range(head: Header) -> None:
    with pytest.raises(ValueError, match=r"is not in|bytes"):
        ArchiveWriter(io.BytesIO(), head)


@pytest.mark.parametrize(
    "call",
    [
        lambda w: w.data(bytes(container.MAX_PAYLOAD_BYTES + 1), bytes(8)),
        lambda w: w.data(b"x"),
        lambda w: w.data(b"x", bytes(9)),
    ],
)
def test_writer_refuses_a_wrong_frame(call: Callable[[ArchiveWriter], None]) -> None:
    writer = ArchiveWriter(io.BytesIO(), SEVERAL)
    with pytest.raises(ValueError, match="bytes"):
        call(writer)


def test_every_truncation_is_refused() -> None:
    for archive, count in [(coded(FRAMES), len(FRAMES)), (stored(HELLO), 2)]:
        for size in range(len(archive)):
            message = refused(archive[:size], count)
            assert "truncated" in message or size == 0


@pytest.mark.slow
def test_every_changed_byte_is_refused() -> None:
    for archive, count in [(coded(FRAMES), len(FRAMES)), (stored(HELLO), 2)]:
        for at in range(len(archive)):
            for flip in (1, 2, 4, 8, 16, 32, 64, 128, 255, archive[at] or 3):
                changed = bytearray(archive)
                changed[at] ^= flip
                refused(bytes(changed), count)


def test_a_changed_byte_is_noticed_in_its_frame() -> None:
    archive = coded(FRAMES)
    ends = boundaries(archive)
    for at in range(ends[0], ends[-1]):
        changed = bytearray(archive)
        changed[at] ^= 0x10
        reader = ArchiveReader(io.BytesIO(bytes(changed)), "x.pq")
        intact = sum(end <= at for end in ends[1:])
        assert [reader.data() for _ in range(intact)] == FRAMES[:intact]
        with pytest.raises(ArchiveError, match=f"data frame {intact + 1}"):
            reader.data()


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("swapped", [1, 0, 2]),
        ("equal in content and swapped", [2, 1, 0]),
        ("repeated", [0, 0, 1, 2]),
        ("first dropped", [1, 2]),
        ("middle dropped", [0, 2]),
        ("last dropped", [0, 1]),
    ],
)
def test_rearranged_frames_are_refused(name: str, order: list[int]) -> None:
    archive = coded(FRAMES)
    ends = boundaries(archive)
    parts = [archive[start:end] for start, end in pairwise(ends)]
    body = b"".join(parts[i] for i in order)
    refused(archive[: ends[0]] + body, max(len(order), len(FRAMES)))


def test_frames_of_another_archive_are_refused() -> None:
    ours, theirs = stored(HELLO), stored(HELLO.upper())
    at = boundaries(ours, 2)[0]
    assert "data frame 1" in refused(ours[:at] + theirs[at:], 2)


def test_bytes_after_the_end_are_refused() -> None:
    archive = coded(FRAMES)
    for tail in (b"\0", b"\n", archive):
        assert f"byte {len(archive)}" in refused(archive + tail)


def test_wrong_number_of_frames_is_refused() -> None:
    archive = coded(FRAMES)
    assert "unexpected bytes after the end" in refused(archive, 2)
    assert "truncated in the payload length of data frame 4" in refused(archive, 4)


def test_stored_lengths_must_add_up() -> None:
    for original_bytes, count in [(len(HELLO) + 1, 2), (len(HELLO) - 1, 2), (0, 1)]:
        out = io.BytesIO()
        writer = ArchiveWriter(out, Header(original_bytes, 0, bytes(8), None))
        writer.data(HELLO[:7])
        writer.data(HELLO[7:])
        refused(out.getvalue(), count)


@pytest.mark.parametrize(
    ("foreign", "told"),
    [
        (b"", "not a preq archive"),
        (b"x", "not a preq archive"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "not a preq archive"),
        (stored(HELLO).replace(b"\r\n", b"\n"), "binary mode"),
        (stored(HELLO).replace(b"\n", b"\r\n"), "binary mode"),
    ],
)
def test_foreign_input_is_told_apart(foreign: bytes, told: str) -> None:
    assert told in refused(foreign)


def with_checksum(fields: bytes) -> bytes:
    return fields + zlib.crc32(fields).to_bytes(4, "little")


def raw_header(
    *,
    version: int = container.CONTAINER_VERSION,
    numerics: int = container.NUMERICS_VERSION,
    mode: int = 0,
    original: bytes = b"\0",
    seed: bytes = b"\0",
    config: bytes = b"\0",
) -> bytes:
    fields = container.MAGIC + bytes([version, numerics, mode]) + original + seed + config
    return with_checksum(fields + bytes(8))


BIG = b"\xff" * 9


@pytest.mark.parametrize(
    ("archive", "told"),
    [
        (raw_header(version=1), "container version 1"),
        (raw_header(numerics=99), "numerics version 99"),
        (raw_header(mode=8), "mode is 8"),
        (raw_header(config=b"\x01x"), "config has 1 bytes"),
        (raw_header(mode=1, config=b"\x01\xff"), "config is invalid"),
        (raw_header(mode=1, config=b"\x06" + bytes(6)), "need not be said"),
        (raw_header(mode=1, config=b"\x07\x01\0\0\0\0\0\x01"), "follows from original_bytes"),
        (raw_header(mode=1, config=b"\x0b\x10\0\0\0\0\0\x04auto"), "choices open"),
        (raw_header(mode=1, config=b"\x0a" + bytes(6) + b"auto"), "choices open"),
        (raw_header(original=varint(2**63)), "original_bytes exceeds"),
        (raw_header(original=BIG + b"\x01"), "original_bytes exceeds"),
        (raw_header(original=b"\x80\0"), "original_bytes is not in its shortest form"),
        (raw_header(original=b"\x80" * 8 + b"\0"), "original_bytes is not in its shortest form"),
        (raw_header(original=b"\x80" * 20 + b"\0"), "original_bytes exceeds"),
        (raw_header(seed=BIG + b"\x02"), "seed exceeds"),
        (raw_header(seed=b"\x81\x80\0"), "seed is not in its shortest form"),
        (raw_header(mode=1, config=varint(2**16)), "config length exceeds"),
        (raw_header(mode=1, config=varint(2**62)), "config length exceeds"),
        (raw_header() + varint(2**26 + 1), "payload length of data frame 1 exceeds"),
        (raw_header() + b"\x01", "payload length 1 of data frame 1 does not fit"),
    ],
)
def test_extreme_fields_are_refused_by_name(archive: bytes, told: str) -> None:
    assert told in refused(archive, 1)


def test_the_largest_header_is_read() -> None:
    """What the writer writes: 64 KiB with its checksum, names of any length, and no byte more."""
    parts = [f"{20 * i}-{20 * i + 10}:u1x1" for i in range(3910)]
    size = 20 * len(parts)
    config = replace(Config(), numbers=",".join(parts)).resolve(size)

    def written(name: int) -> bytes:
        prior, out = NamedFile(bytes(32), name * "p"), io.BytesIO()
        ArchiveWriter(out, Header(size, 0, bytes(8), config, prior))
        return out.getvalue()

    longest = 1 + container.MAX_HEADER_BYTES - len(written(1))
    assert 1 < longest < container.MAX_NAME_BYTES
    largest = written(longest)
    assert len(largest) == container.MAX_HEADER_BYTES
    reader = ArchiveReader(io.BytesIO(largest), "x.pq")
    assert reader.header.config == config
    assert reader.header.prior == NamedFile(bytes(32), longest * "p")
    with pytest.raises(ValueError, match="header would exceed"):
        written(longest + 1)


def test_extreme_seeds_are_accepted() -> None:
    reader = ArchiveReader(io.BytesIO(raw_header(seed=BIG + b"\x01")), "x.pq")
    assert reader.header.seed == 2**64 - 1


class Trickle(io.RawIOBase):
    """A pipe that gives one byte at a time and cannot seek."""

    def __init__(self, content: bytes) -> None:
        self.content = io.BytesIO(content)
        self.largest = 0

    def read(self, size: int = -1) -> bytes:
        self.largest = max(self.largest, size)
        return self.content.read(min(size, 1))


def test_reads_pipes() -> None:
    reader = ArchiveReader(Trickle(coded(FRAMES)), "x.pq")  # type: ignore[arg-type]
    assert [reader.data() for _ in FRAMES] == FRAMES
    reader.end()


def test_asks_for_bounded_pieces() -> None:
    head = coded([])[: boundaries(coded([]), 0)[0]]
    pipe = Trickle(head + varint(container.MAX_PAYLOAD_BYTES) + b"few")
    reader = ArchiveReader(pipe, "x.pq")  # type: ignore[arg-type]
    with pytest.raises(ArchiveError, match="truncated in the payload of data frame 1"):
        reader.data()
    assert pipe.largest <= 2**20


@given(st.binary(max_size=200), st.booleans(), st.integers(0, 3))
def test_arbitrary_bytes_never_break_the_reader(tail: bytes, signed: bool, frames: int) -> None:
    versions = bytes([container.CONTAINER_VERSION, container.NUMERICS_VERSION])
    archive = container.MAGIC + versions + tail if signed else tail
    with pytest.raises(PrequentialError):
        read(with_checksum(archive), frames)


def test_the_dumps_in_the_documentation() -> None:
    """An archive byte for byte, and of another one what is said of each place."""
    text = (ROOT / "docs" / "FORMAT.md").read_text()
    whole, parts = (dump.split("```")[0] for dump in text.split("```hexdump\n")[1:])
    pairs = re.findall(r"^[0-9a-f]{4}: ((?:[0-9a-f]{2} ?)+)", whole, re.MULTILINE)
    assert bytes.fromhex("".join(pairs)) == stored(HELLO, 100)
    archive = (ROOT / "tests" / "golden" / "fast-numbers.pq").read_bytes()
    lines = re.findall(r"^([0-9a-f]{4}): ((?:[0-9a-f]{2} ?)*)", parts, re.MULTILINE)
    assert len(lines) == 15
    for place, hexadecimal in lines:
        there = bytes.fromhex(hexadecimal)
        assert archive[int(place, 16) :].startswith(there)
    assert int(lines[-1][0], 16) + 4 == len(archive)
