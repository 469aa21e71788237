"""The ``.pq`` format: a header and data frames (``docs/FORMAT.md``, byte by byte).

The reader trusts nothing: no length is believed before its bytes have arrived, every size has a
cap, and one running checksum covers all that came before, so a frame that is damaged, swapped,
repeated or missing is noticed in that frame. It works on pipes and never seeks.
"""

import zlib
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

from prequential.config import Config
from prequential.errors import ArchiveError, ConfigError

# High bit set and not UTF-8; CR LF and a lone LF show a transfer that rewrote line ends.
MAGIC = b"\xb7pq\r\n\n"
CONTAINER_VERSION = 2
NUMERICS_VERSION = 8

FRAME_BYTES = 2**18  # original bytes per data frame; the codec rounds up to whole chunks
DIGEST_BYTES = 8  # of the weights, after a coded data frame where several may follow
SHA256_BYTES = 32
SHORT_SHA256_BYTES = 8  # of the original's and those of given files, which find accidents
CRC_BYTES = 4

MAX_HEADER_BYTES = 2**16
MAX_PAYLOAD_BYTES = 2**26
MAX_ORIGINAL_BYTES = 2**63 - 1
MAX_SEED = 2**64 - 1
MAX_NAME_BYTES = 255
MAX_GIVEN = 255  # files

_PIECE_BYTES = 2**20  # largest single read
# The header's mode: stored, or coded and what else stands in the header.
STORED, CODED, PRIOR, TOKENS, GIVEN = 0, 1, 2, 4, 8
_COPY_AGAIN = "the archive is damaged, fetch or copy it again"


@dataclass(frozen=True)
class NamedFile:
    """A file that the decoder must be given: a prior, or what is learned first."""

    sha256: bytes  # of a prior; of what is learned first, its first 8 bytes
    name: str  # for people: the hash decides
    size: int = 0  # bytes, of what is learned first


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
    prior: NamedFile | None = None
    tokens: Tokens | None = None
    given: tuple[NamedFile, ...] = ()  # learned first, in this order
    numerics_version: int = NUMERICS_VERSION

    @property
    def mode(self) -> Literal["stored", "coded"]:
        """How the payload is to be read."""
        return "stored" if self.config is None else "coded"

    @property
    def given_bytes(self) -> int:
        """How much is learned before the original."""
        return sum(file.size for file in self.given)

    @property
    def token_count(self) -> int:
        """How many tokens the original is."""
        return self.tokens.count if self.tokens else self.original_bytes

    @property
    def digest_bytes(self) -> int:
        """Of the digest in every data frame: of a single one the original's hash tells as much."""
        several = self.original_bytes > FRAME_BYTES
        return DIGEST_BYTES if self.config is not None and several else 0


@dataclass(frozen=True)
class Limits:
    """What an archive may make its decoder use; see docs/FORMAT.md.

    Work is estimated by `Config.seconds_per_token`. What the archive holds pays for a part of it,
    so that a large one may take days and a hostile small one may not: a frame of nothing but zeros
    takes up to 5 s for each of its bytes (77 s with `gpu`, as two cores would), all else far less.
    """

    memory_bytes: float = 2**32
    seconds: float = 600.0
    seconds_per_archive_byte: float = 15.0
    seconds_per_given_byte: float = 0.01


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
        if mode != STORED and (not mode & CODED or mode > CODED | PRIOR | TOKENS | GIVEN):
            raise self._error(f"header field mode is {mode}", self.bytes_read - 1)
        original_bytes = self._varint("the header field original_bytes", MAX_ORIGINAL_BYTES)
        seed = self._varint("the header field seed", MAX_SEED)
        room = MAX_HEADER_BYTES - self.bytes_read
        length = self._varint("the header field config length", room)
        if length > 0 and mode == STORED:
            raise self._error(f"header field config has {length} bytes", self.bytes_read)
        config_at = self.bytes_read
        config = self._take(length, "the header field config")
        sha256 = self._take(SHORT_SHA256_BYTES, "the header field sha256")
        prior = self._file("prior", SHA256_BYTES) if mode & PRIOR else None
        given = self._given() if mode & GIVEN else ()
        tokens = self._tokens(original_bytes) if mode & TOKENS else None
        if self.bytes_read > MAX_HEADER_BYTES - CRC_BYTES:
            raise self._error(f"the header exceeds {MAX_HEADER_BYTES} bytes", self.bytes_read)
        self._checksum("the header", 0)
        if numerics_version != NUMERICS_VERSION:
            raise self._unsupported("numerics", numerics_version, NUMERICS_VERSION)
        header = Header(original_bytes, seed, sha256, None, prior, tokens, given, numerics_version)
        if mode == STORED:
            return header
        return replace(header, config=self._config(config, config_at, header))

    def _tokens(self, original_bytes: int) -> Tokens:
        count = self._varint("the header field token count", original_bytes)
        if count == 0:
            raise self._error("header field token count is 0", self.bytes_read - 1)
        room = MAX_HEADER_BYTES - self.bytes_read
        length = self._varint("the header field vocabulary length", room)
        return Tokens(count, self._take(length, "the header field vocabulary"))

    def _given(self) -> tuple[NamedFile, ...]:
        count = self._varint("the header field given count", MAX_GIVEN)
        if count == 0:
            raise self._error("header field given count is 0", self.bytes_read - 1)
        files = []
        for _ in range(count):
            file = self._file("given", SHORT_SHA256_BYTES)
            size = self._varint("the header field given size", MAX_ORIGINAL_BYTES)
            files.append(NamedFile(file.sha256, file.name, size))
        return tuple(files)

    def _file(self, what: str, hash_bytes: int) -> NamedFile:
        sha256 = self._take(hash_bytes, f"the header field {what} sha256")
        length = self._varint(f"the header field {what} name length", MAX_NAME_BYTES)
        start = self.bytes_read
        raw = self._take(length, f"the header field {what} name")
        try:
            name = raw.decode()
        except UnicodeDecodeError as error:
            raise self._error(f"header field {what} name is not UTF-8", start) from error
        if not name:
            raise self._error(f"header field {what} name is empty", start)
        return NamedFile(sha256, name)

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

    def _config(self, serial: bytes, offset: int, header: Header) -> Config:
        sizes = header.original_bytes, header.token_count, header.given_bytes
        try:
            config = Config.from_bytes(serial).resolve(*sizes)
            if config.following(*sizes).to_bytes() != serial:
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
