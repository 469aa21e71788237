"""Files that are learned before the original and not coded: whoever decodes must have them, too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prequential.archive.container import MAX_GIVEN, MAX_NAME_BYTES, Header, NamedFile
from prequential.coding.meter import Meter as Meter  # for `run`
from prequential.config import Config, parse_grids
from prequential.errors import ArchiveError, ConfigError
from prequential.predictors import memory
from prequential.training.run import Bytes, Options, sha256_of

if TYPE_CHECKING:
    from prequential.coding.vocabulary import Vocabulary

_NAMES_BYTES = 30_000  # of the header, which settings and vocabulary need as well


@dataclass(frozen=True)
class Given:
    """Bytes (n,) uint8 to learn first, and what the header says of them."""

    file: NamedFile
    data: Bytes


def named(path: str, data: Bytes) -> Given:
    """What is given in the file at a path, whose content is there."""
    name = os.path.basename(path).encode("utf-8", "replace")[:MAX_NAME_BYTES]
    return Given(NamedFile(sha256_of(data), name.decode(errors="ignore") or "-", len(data)), data)


def check_header(given: Sequence[Given]) -> None:
    """See that the header has room for the names.

    Raises:
        ConfigError: there are too many, or they are too long.
    """
    size = sum(len(g.file.name.encode()) + 44 for g in given)
    if len(given) > MAX_GIVEN or size > _NAMES_BYTES:
        raise ConfigError(
            f"{len(given)} given files with {size} bytes of names and hashes: the header has room"
            f" for {MAX_GIVEN} and {_NAMES_BYTES}: join some, as with cat or tar"
        )


def needed(header: Header, options: Options) -> list[Given]:
    """Of the given files those that the archive is made with, in its order.

    Raises:
        ArchiveError: naming those that are missing, and what is there instead.
    """
    there = {(g.file.sha256, g.file.size): g for g in options.given}
    missing = [f for f in header.given if (f.sha256, f.size) not in there]
    if missing:
        others = [g.file for g in options.given if g.file.sha256 not in _hashes(header)]
        wanted = ", ".join(
            f"{_shown(f)} ({f.size} bytes, SHA-256 {f.sha256.hex()})" for f in missing
        )
        told = f"; {', '.join(map(_shown, others))} is another file" if others else ""
        raise ArchiveError(
            f"{options.name}: was made after learning {wanted}: give it with --given{told}"
        )
    return [there[f.sha256, f.size] for f in header.given]


def _hashes(header: Header) -> set[bytes]:
    return {f.sha256 for f in header.given}


def _shown(file: NamedFile) -> str:
    return ascii(file.name)[1:-1]


def prepared(
    header: Header, vocabulary: Vocabulary, options: Options
) -> tuple[list[Bytes], Vocabulary]:
    """The tokens of what an archive is made after, and what all tokens stand for.

    Raises:
        ArchiveError: a file is missing, or learning them would take longer than is allowed.
    """
    given, config, limits = needed(header, options), header.config, options.limits
    assert config is not None
    size = header.given_bytes
    seconds = size * config.seconds_per_token(len(vocabulary.pieces))
    allowed = limits.seconds + limits.seconds_per_given_byte * size
    if seconds > allowed:
        raise ArchiveError(
            f"{options.name}: its model would work for about {seconds / 3600:.1f} hours on what is"
            f" given, of which {size} bytes are allowed {allowed / 3600:.1f}: if you trust it,"
            " raise the limit with --max-hours"
        )
    return arranged(given, config), vocabulary


def arranged(given: Sequence[Given], config: Config) -> list[Bytes]:
    """The bytes of what is given, numbers in the order in which they are coded."""
    grids = parse_grids(config.numbers)
    found, before = list[Bytes](), 0
    for data in (g.data for g in given):
        found.append(memory.numbers.Arranged(data, grids, before) if grids else data)
        before += len(data)
    return found
