"""Writes the `.pq` format that `container` reads."""

import zlib
from typing import BinaryIO

from prequential.archive.container import (
    CRC_BYTES,
    FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    ORIGINAL_SHA256_BYTES,
    Header,
)
from prequential.config import varint


def stored_bytes(original_bytes: int, seed: int) -> int:
    """Size of the archive that holds the original as it is."""
    header = Header(original_bytes, seed, bytes(ORIGINAL_SHA256_BYTES), None)
    size = len(header.to_bytes()) + CRC_BYTES
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
        self._write(header.to_bytes())
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
