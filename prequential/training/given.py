"""Files that are learned before the original and not coded: whoever decodes must have them, too."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple

import numpy as np

from prequential.archive.container import MAX_GIVEN, MAX_NAME_BYTES, Header, NamedFile
from prequential.coding import coder
from prequential.coding.meter import Meter
from prequential.coding.vocabulary import SINGLE_BYTES, Vocabulary
from prequential.config import BYTES, Config, parse_grids
from prequential.errors import ArchiveError, ConfigError
from prequential.predictors import memory
from prequential.training import loop
from prequential.training.run import Bytes, Options, Run, sha256_of

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
    size = sum(len(g.file.name.encode()) + 20 for g in given)
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
            f"{_shown(f)} ({f.size} bytes, SHA-256 {f.sha256.hex()}...)" for f in missing
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


def prepared(header: Header, options: Options) -> tuple[list[Bytes], Vocabulary]:
    """The tokens of what an archive is made after, and what all tokens stand for.

    Raises:
        ArchiveError: a file is missing, or learning them would take longer than is allowed.
    """
    given, config, limits, name = (
        needed(header, options),
        header.config,
        options.limits,
        options.name,
    )
    assert config is not None
    if (header.tokens is None) != (config.tokenizer == BYTES):
        raise ArchiveError(f"{name}: the header's tokenizer does not fit its vocabulary")
    if header.tokens is not None and header.tokens.vocabulary:
        raise ArchiveError(f"{name}: a vocabulary is sent, but it follows from what is given")
    try:
        cutting = cut(given, config)
    except ConfigError as error:
        raise ArchiveError(f"{name}: {error}") from error
    size = header.given_bytes
    seconds = size * config.seconds_per_token(len(cutting.vocabulary))
    allowed = limits.seconds + limits.seconds_per_given_byte * size
    if seconds > allowed:
        raise ArchiveError(
            f"{name}: its model would work for about {seconds / 3600:.1f} hours on what is given,"
            f" of which {size} bytes are allowed {allowed / 3600:.1f}: if you trust it, raise the"
            " limit with --max-hours"
        )
    return cutting.given, cutting.vocabulary


class Cutting(NamedTuple):
    """What is given in tokens (n,), what these stand for, and what cuts other bytes likewise."""

    given: list[Bytes]
    vocabulary: Vocabulary
    segment: Callable[[Bytes], np.ndarray] | None  # None if tokens are bytes


def cut(given: Sequence[Given], config: Config) -> Cutting:
    """What is given in tokens: bytes, those of numbers in the order of coding, or pieces.

    Raises:
        ConfigError: such pieces are not made here.
    """
    parts = [g.data for g in given]
    if config.tokenizer == BYTES:
        grids, before = parse_grids(config.numbers), 0
        for i, part in enumerate(parts):
            if grids:
                parts[i] = memory.numbers.Arranged(part, grids, before)
            before += len(part)
        return Cutting(parts, SINGLE_BYTES, None)
    merges = import_module(".merges", coder.__package__)
    kind, _, size = config.tokenizer.partition(":")
    if kind != "bpe" or not size.isdecimal() or not merges.LEAST <= int(size[:9]) <= merges.MOST:
        raise ConfigError(
            f"tokenizer {config.tokenizer!r} does not go with given files: use bytes, or"
            f" bpe:{merges.LEAST} to bpe:{merges.MOST}, whose pieces follow from them"
        )
    found = merges.Merges(parts, int(size))
    return Cutting([found.segment(part) for part in parts], found.vocabulary, found.segment)


def learn(run: Run) -> None:
    """Learn what is given, as if it were coded, or take it from where it is kept."""
    kept = run.options.kept
    if kept is not None and kept.restore(run):
        run.steps_done = run.given_steps
        return
    meter = Meter(run.config.payload_lanes)
    loop.run(run.chunks(run.given_steps, meter), meter, run.learner)
    if kept is not None:
        kept.keep(run)
