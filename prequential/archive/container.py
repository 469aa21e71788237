"""The ``.pq`` format: a header and data frames (``docs/FORMAT.md``, byte by byte).

The reader trusts nothing: no length is believed before its bytes have arrived, every size has a
cap, and one running checksum covers all that came before, so a frame that is damaged, swapped,
repeated or missing is noticed in that frame. It works on pipes and never seeks.
"""

import zlib
from dataclasses import dataclass
from typing import BinaryIO, Literal

from prequential.config import Config, varint
from prequential.errors import ArchiveError, ConfigError

# High bit set and not UTF-8; CR LF and a lone LF show a transfer that rewrote line ends.
MAGIC = b"\xb7pq\r\n\n"
CONTAINER_VERSION = 2
NUMERICS_VERSION = 4

FRAME_BYTES = 2**18  # original bytes per data frame; the codec rounds up to whole chunks
DIGEST_BYTES = 8  # of the weights, after a coded data frame where several may follow
SHA256_BYTES = 32
ORIGINAL_SHA256_BYTES = 8  # of the original's, which finds accidents
CRC_BYTES = 4

MAX_HEADER_BYTES = 2**16
MAX_PAYLOAD_BYTES = 2**26
MAX_ORIGINAL_BYTES = 2**63 - 1
MAX_SEED = 2**64 - 1
MAX_NAME_BYTES = 255

_PIECE_BYTES = 2**20  # largest single read
# The header's mode: stored, or coded and what else stands in the header.
_STORED, _CODED, _PRIOR, _TOKENS = 0, 1, 2, 4
_COPY_AGAIN = "the archive is damaged, fetch or copy it again"


@dataclass(frozen=True)
class PriorName:
    """The file that the weights start from, which the decoder must be given."""

    sha256: bytes  # of the file
    name: str  # for people: the hash decides


@dataclass(frozen=True)
class Tokens:
    """The vocabulary, if tokens are not bytes, and how many of its tokens the original is."""

    count: int
    vocabulary: bytes  # packed, see `vocabulary`


@dataclass(frozen=True)
class Header:
    """All a decoder needs beside the payload.

    ``config`` is None for a stored archive, whose payload is the original itself.
    """

    original_bytes: int
    seed: int
    sha256: bytes  # of the original: its first 8 bytes
    config: Config | None
    prior: PriorName | None = None
    tokens: Tokens | None = None
    numerics_version: int = NUMERICS_VERSION

    @property
    def mode(self) -> Literal["stored", "coded"]:
        """How the payload is to be read."""
        return "stored" if self.config is None else "coded"

    @property
    def digest_bytes(self) -> int:
        """Of the digest in every data frame: of a single one the original's hash tells as much."""
        several = self.original_bytes > FRAME_BYTES
        return DIGEST_BYTES if self.config is not None and several else 0

    def to_bytes(self) -> bytes:
        """Serialise without the checksum. Raises ValueError when a field is out of range."""
        if not 0 <= self.original_bytes <= MAX_ORIGINAL_BYTES:
            raise ValueError(f"original_bytes {self.original_bytes} is not in 0..2^63-1")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed {self.seed} is not in 0..2^64-1")
        if len(self.sha256) != ORIGINAL_SHA256_BYTES:
            raise ValueError(f"sha256 has {len(self.sha256)} bytes, not {ORIGINAL_SHA256_BYTES}")
        config = b""
        if self.config is not None:
            count = self.tokens.count if self.tokens else self.original_bytes
            config = self.config.following(self.original_bytes, count).to_bytes()
        mode, prior, tokens = _STORED if self.config is None else _CODED, b"", b""
        if self.prior is not None:
            name = self.prior.name.encode()
            if not (mode == _CODED and 0 < len(name) <= MAX_NAME_BYTES):
                raise ValueError(f"prior of a stored archive, or its name {name!r} is too long")
            mode, prior = mode | _PRIOR, self.prior.sha256 + varint(len(name)) + name
        if self.tokens is not None:
            mode, packed = mode | _TOKENS, self.tokens.vocabulary
            tokens = varint(self.tokens.count) + varint(len(packed)) + packed
        fields = [
            MAGIC,
            bytes([CONTAINER_VERSION, self.numerics_version, mode]),
            varint(self.original_bytes),
            varint(self.seed),
            varint(len(config)),
            config,
            self.sha256,
            prior,
            tokens,
        ]
        serial = b"".join(fields)
        if len(serial) + CRC_BYTES > MAX_HEADER_BYTES:
            raise ValueError(f"the header would exceed {MAX_HEADER_BYTES} bytes")
        return serial


@dataclass(frozen=True)
class Limits:
    """What an archive may make its decoder use; see docs/FORMAT.md.

    Work is estimated by `Config.seconds_per_token`. What the archive holds pays for a part of it,
    so that a large one may take days and a hostile small one may not: a frame of nothing but zeros
    takes up to 14 s for each of its bytes, everything else far less.
    """

    memory_bytes: float = 2**32
    seconds: float = 600.0
    seconds_per_archive_byte: float = 15.0


class ArchiveReader:
    """Reads the header at once, then frames as they are asked for.

    ``bytes_read`` counts all bytes so far, ``payload_bytes`` those of the data frames' payloads;
    ``name`` stands in the messages. Every method raises
    ArchiveError on malformed input, naming file, field or frame, and byte offset.
    """

    def __init__(self, f: BinaryIO, name: str) -> None:
        self._f = f
        self._name = name
        self._crc = 0
        self._frames = 0
        self.bytes_read = 0
        self.payload_bytes = 0
        self.header = self._header()
        self.header_bytes = self.bytes_read

    def data(self) -> tuple[bytes, bytes]:
        """Read a data frame: its payload and the digest of the weights after it, if it has one."""
        self._frames += 1
        frame = f"data frame {self._frames}"
        start = self.bytes_read
        length = self._varint(f"the payload length of {frame}", MAX_PAYLOAD_BYTES)
        coded = self.header.config is not None
        room = self.header.original_bytes - self.payload_bytes
        if not coded and not 0 < length <= room:
            raise self._error(f"payload length {length} of {frame} does not fit", start)
        payload = self._take(length, f"the payload of {frame}")
        digest = self._take(self.header.digest_bytes, f"the digest of {frame}")
        self._checksum(frame, start)
        self.payload_bytes += length
        return payload, digest

    def end(self) -> None:
        """See that nothing is missing, and that nothing follows."""
        if self.header.config is None and self.payload_bytes != self.header.original_bytes:
            raise self._error("truncated: data frames are missing", self.bytes_read)
        if self._f.read(1):
            raise ArchiveError(
                f"{self._name}: unexpected bytes after the end of the archive"
                f" at byte {self.bytes_read}: cut the file there, or fetch or copy it again"
            )

    def _header(self) -> Header:
        self._magic()
        version = self._take(1, "the header field container version")[0]
        if version != CONTAINER_VERSION:
            raise self._unsupported("container", version, CONTAINER_VERSION)
        numerics_version = self._take(1, "the header field numerics version")[0]
        mode = self._take(1, "the header field mode")[0]
        if mode != _STORED and (not mode & _CODED or mode > _CODED | _PRIOR | _TOKENS):
            raise self._error(f"header field mode is {mode}", self.bytes_read - 1)
        original_bytes = self._varint("the header field original_bytes", MAX_ORIGINAL_BYTES)
        seed = self._varint("the header field seed", MAX_SEED)
        room = MAX_HEADER_BYTES - self.bytes_read - 3 - ORIGINAL_SHA256_BYTES - CRC_BYTES
        if mode & _PRIOR:
            room -= SHA256_BYTES + 2 + MAX_NAME_BYTES
        length = self._varint("the header field config length", room)
        if length > 0 and mode == _STORED:
            raise self._error(f"header field config has {length} bytes", self.bytes_read)
        config_at = self.bytes_read
        config = self._take(length, "the header field config")
        sha256 = self._take(ORIGINAL_SHA256_BYTES, "the header field sha256")
        prior = self._prior() if mode & _PRIOR else None
        tokens = self._tokens(original_bytes) if mode & _TOKENS else None
        self._checksum("the header", 0)
        if numerics_version != NUMERICS_VERSION:
            raise self._unsupported("numerics", numerics_version, NUMERICS_VERSION)
        known = None
        if mode != _STORED:
            count = tokens.count if tokens else original_bytes
            known = self._config(config, config_at, original_bytes, count)
        return Header(original_bytes, seed, sha256, known, prior, tokens, numerics_version)

    def _tokens(self, original_bytes: int) -> Tokens:
        count = self._varint("the header field token count", original_bytes)
        if count == 0:
            raise self._error("header field token count is 0", self.bytes_read - 1)
        room = MAX_HEADER_BYTES - self.bytes_read - 3 - CRC_BYTES
        length = self._varint("the header field vocabulary length", room)
        return Tokens(count, self._take(length, "the header field vocabulary"))

    def _prior(self) -> PriorName:
        sha256 = self._take(SHA256_BYTES, "the header field prior sha256")
        length = self._varint("the header field prior name length", MAX_NAME_BYTES)
        start = self.bytes_read
        raw = self._take(length, "the header field prior name")
        try:
            name = raw.decode()
        except UnicodeDecodeError as error:
            raise self._error("header field prior name is not UTF-8", start) from error
        if not name:
            raise self._error("header field prior name is empty", start)
        return PriorName(sha256, name)

    def _magic(self) -> None:
        found = self._read(len(MAGIC))
        if found == MAGIC:
            self.bytes_read = len(MAGIC)
            self._crc = zlib.crc32(MAGIC)
        elif found and MAGIC.startswith(found):
            raise self._error("truncated in the signature", len(found))
        elif found[:3] == MAGIC[:3]:
            raise ArchiveError(
                f"{self._name}: damaged in the signature at byte 3, probably by a text-mode"
                " transfer: copy it again in binary mode"
            )
        else:
            raise ArchiveError(
                f"{self._name}: not a preq archive (no .pq signature at byte 0):"
                " give a file that preq encode wrote"
            )

    def _config(self, serial: bytes, offset: int, original_bytes: int, count: int) -> Config:
        try:
            config = Config.from_bytes(serial).resolve(original_bytes, count)
            if config.following(original_bytes, count).to_bytes() != serial:
                raise ConfigError("a size is said that follows from original_bytes")
            return config
        except ConfigError as error:
            shown = str(error)[:300]  # it may quote 64 KiB
            raise self._error(f"header field config is invalid ({shown})", offset) from error

    def _varint(self, field: str, limit: int) -> int:
        start = self.bytes_read
        value = shift = 0
        while True:
            byte = self._take(1, field)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if value > limit or (byte >= 0x80 and shift >= limit.bit_length()):
                raise self._error(f"{field} exceeds its limit {limit}", start)
            if byte < 0x80:
                break
        if byte == 0 and shift > 7:
            raise self._error(f"{field} is not in its shortest form", start)
        return value

    def _take(self, count: int, field: str) -> bytes:
        taken = self._read(count)
        if len(taken) < count:
            raise self._error(f"truncated in {field}", self.bytes_read + len(taken))
        self.bytes_read += count
        self._crc = zlib.crc32(taken, self._crc)
        return taken

    def _read(self, count: int) -> bytes:
        """Up to count bytes, fewer only at the end; holds no more than what has arrived."""
        taken = bytearray()
        while len(taken) < count:
            piece = self._f.read(min(count - len(taken), _PIECE_BYTES))
            if not piece:
                break
            taken += piece
        return bytes(taken)

    def _checksum(self, part: str, start: int) -> None:
        crc = self._crc
        found = int.from_bytes(self._take(CRC_BYTES, f"the checksum of {part}"), "little")
        self._crc = crc  # checksums are not part of what is summed
        if found != crc:
            raise self._error(f"the checksum of {part} does not match", start)

    def _error(self, problem: str, offset: int) -> ArchiveError:
        return ArchiveError(f"{self._name}: {problem} (byte {offset}): {_COPY_AGAIN}")

    def _unsupported(self, kind: str, found: int, supported: int) -> ArchiveError:
        return ArchiveError(
            f"{self._name}: {kind} version {found}, but this preq reads version {supported}:"
            f" use the release of preq that wrote it"
        )
