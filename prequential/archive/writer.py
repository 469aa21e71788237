"""Writes the `.pq` format that `container` reads."""

import zlib
from typing import BinaryIO

from prequential.archive.container import (
    CODED,
    CONTAINER_VERSION,
    CRC_BYTES,
    FRAME_BYTES,
    GIVEN,
    MAGIC,
    MAX_HEADER_BYTES,
    MAX_NAME_BYTES,
    MAX_ORIGINAL_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_SEED,
    PRIOR,
    SHORT_SHA256_BYTES,
    STORED,
    TOKENS,
    Header,
    NamedFile,
)
from prequential.config import varint


def header_bytes(header: Header) -> bytes:
    """A header without its checksum. Raises ValueError when a field is out of range."""
    if not 0 <= header.original_bytes <= MAX_ORIGINAL_BYTES:
        raise ValueError(f"original_bytes {header.original_bytes} is not in 0..2^63-1")
    if not 0 <= header.seed <= MAX_SEED:
        raise ValueError(f"seed {header.seed} is not in 0..2^64-1")
    if len(header.sha256) != SHORT_SHA256_BYTES:
        raise ValueError(f"sha256 has {len(header.sha256)} bytes, not {SHORT_SHA256_BYTES}")
    if header.config is None and (header.prior or header.given):
        raise ValueError("a stored archive is made with neither prior nor given files")
    config = b""
    if header.config is not None:
        sizes = header.original_bytes, header.token_count, header.given_bytes
        config = header.config.following(*sizes).to_bytes()
    mode, prior, given, tokens = STORED if header.config is None else CODED, b"", b"", b""
    if header.prior is not None:
        mode, prior = mode | PRIOR, _named(header.prior)
    if header.given:
        mode, given = mode | GIVEN, varint(len(header.given))
        given += b"".join(_named(file) + varint(file.size) for file in header.given)
    if header.tokens is not None:
        mode, packed = mode | TOKENS, header.tokens.vocabulary
        tokens = varint(header.tokens.count) + varint(len(packed)) + packed
    fields = [
        MAGIC,
        bytes([CONTAINER_VERSION, header.numerics_version, mode]),
        varint(header.original_bytes),
        varint(header.seed),
        varint(len(config)),
        config,
        header.sha256,
        prior,
        given,
        tokens,
    ]
    serial = b"".join(fields)
    if len(serial) + CRC_BYTES > MAX_HEADER_BYTES:
        raise ValueError(f"the header would exceed {MAX_HEADER_BYTES} bytes")
    return serial


def _named(file: NamedFile) -> bytes:
    name = file.name.encode()
    if not 0 < len(name) <= MAX_NAME_BYTES:
        raise ValueError(f"the name {name!r} has {len(name)} bytes, not 1 to {MAX_NAME_BYTES}")
    return file.sha256 + varint(len(name)) + name


def stored_bytes(original_bytes: int, seed: int) -> int:
    """Size of the archive that holds the original as it is."""
    header = Header(original_bytes, seed, bytes(SHORT_SHA256_BYTES), None)
    size = len(header_bytes(header)) + CRC_BYTES
    full, rest = divmod(original_bytes, FRAME_BYTES)
    return size + full * _frame_bytes(FRAME_BYTES) + (_frame_bytes(rest) if rest else 0)


def _frame_bytes(payload_bytes: int) -> int:
    return len(varint(payload_bytes)) + payload_bytes + CRC_BYTES


class ArchiveWriter:
    """Writes the header at once, then frames.

    ``bytes_written`` counts all bytes so far, ``payload_bytes`` those of the data frames' payloads.
    """

    def __init__(self, f: BinaryIO, header: Header) -> None:
        self._f = f
        self._digest_bytes = header.digest_bytes
        self._crc = 0
        self.bytes_written = 0
        self.payload_bytes = 0
        self._write(header_bytes(header))
        self.header_bytes = self.bytes_written

    def data(self, payload: bytes, digest: bytes = b"") -> None:
        """Append a data frame; ``digest`` is of the weights after it, of `Header.digest_bytes`."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"frame payload of {len(payload)} bytes exceeds {MAX_PAYLOAD_BYTES}")
        if len(digest) != self._digest_bytes:
            raise ValueError(f"digest of {len(digest)} bytes")
        self._write(varint(len(payload)), payload, digest)
        self.payload_bytes += len(payload)

    def content(self) -> bytes:
        """All that is written so far, read back from the file."""
        self._f.seek(0)
        return self._f.read(self.bytes_written)

    def _write(self, *parts: bytes) -> None:
        for part in parts:
            self._f.write(part)
            self._crc = zlib.crc32(part, self._crc)
        self._f.write(self._crc.to_bytes(CRC_BYTES, "little"))
        self.bytes_written += sum(map(len, parts)) + CRC_BYTES
