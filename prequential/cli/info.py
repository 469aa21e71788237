"""``preq info``: what an archive's header says, which costs nothing to ask."""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from typing import Any

from prequential.archive.container import CONTAINER_VERSION, ArchiveReader, Header
from prequential.archive.files import display
from prequential.cli import archives, guard, terminal
from prequential.cli import options as flags
from prequential.cli.bar import clock
from prequential.cli.options import Options
from prequential.config import SYMBOLS

_LINE = "{:>7} {:>15} {:>15} {:>9} {:>9} {:>8}  {}"


def add(commands: flags.Commands) -> None:
    """The parser of ``preq info``."""
    text = "show the header of ARCHIVE"
    parser = flags.add_command(commands, "info", text, _run, "ARCHIVE")
    flags.add_json(parser, "one JSON object per file")


def _run(args: argparse.Namespace) -> int:
    options = Options.of(args)
    if len(options.files) == 1 or options.json:
        return guard.each(options.files, partial(_info, options))
    headings = _LINE.format("mode", "original", "archive", "bits/byte", "time", "MiB", "file")
    code = guard.once("info", lambda: terminal.out(headings))
    return max(code, guard.each(options.files, _line))


def _info(options: Options, source: str) -> None:
    fields = _fields(source)
    if options.json:
        return terminal.out_json(fields)
    fields["file"] = display(source)
    fields["given"] = {str(number): file for number, file in enumerate(fields["given"], 1)}
    if fields["bits_per_byte"] is not None:
        fields["bits_per_byte"] = f"{fields['bits_per_byte']:.4f}"
    terminal.group(fields)
    fields["decode_seconds_at_most"] = f"{fields['decode_seconds_at_most']} on two cores"
    terminal.pairs(list(terminal.flatten(fields)))


def _line(source: str) -> None:
    f = _fields(source)
    archive, rate = f["archive_bytes"], f["bits_per_byte"]
    cells = [
        f["mode"],
        f"{f['original_bytes']:,}",
        "-" if archive is None else f"{archive:,}",
        "-" if rate is None else f"{rate:.4f}",
        clock(f["decode_seconds_at_most"]),
        f"{f['decode_memory_bytes'] / 2**20:,.0f}",
    ]
    terminal.out(_LINE.format(*cells, display(source)))


def _fields(source: str) -> dict[str, Any]:
    with archives.open_archive(source) as archive:
        reader = ArchiveReader(archive.file, display(source))
    header = reader.header
    size = header.original_bytes
    rate = 8 * archive.bytes / size if archive.bytes and size else None
    memory_bytes, seconds = _cost(header)
    prior = header.prior
    return {
        "file": source,
        "mode": header.mode,
        "original_bytes": header.original_bytes,
        "archive_bytes": archive.bytes,
        "bits_per_byte": rate,
        "header_bytes": reader.header_bytes,
        "decode_memory_bytes": memory_bytes,
        "decode_seconds_at_most": seconds,
        "container_version": CONTAINER_VERSION,
        "numerics_version": header.numerics_version,
        "seed": header.seed,
        "sha256": header.sha256.hex(),
        "prior": None if prior is None else {"name": prior.name, "sha256": prior.sha256.hex()},
        "given": [dataclasses.asdict(f) | {"sha256": f.sha256.hex()} for f in header.given],
        "tokens": None if header.tokens is None else header.tokens.count,
        "vocabulary_bytes": None if header.tokens is None else len(header.tokens.vocabulary),
        "config": None if header.config is None else dataclasses.asdict(header.config),
    }


# Loading libraries and trying the arithmetic; compiling, the first time, comes on top.
_START_SECONDS = 10.0


def _cost(header: Header) -> tuple[int, float]:
    """Bytes that a decoder's model takes, and the seconds, at most, on two idle cores."""
    if header.config is None:
        return 0, 0.0
    tokens, size, given = header.original_bytes, SYMBOLS, header.given_bytes
    if header.tokens is not None:
        tokens = header.tokens.count
        # Its number of pieces; where they follow from what is given, the most there can be.
        size = int.from_bytes(header.tokens.vocabulary[:2], "big") if not header.given else 2048
    config = header.config
    seconds = config.seconds_per_token(size, header.original_bytes / max(1, tokens))
    return config.memory_bytes(size), round(_START_SECONDS + (tokens + given) * seconds, 1)
