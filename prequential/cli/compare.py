"""``preq compare``: our presets beside well-known compressors, on the user's own files."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prequential import config
from prequential.archive.files import atomic_output, check_target, display
from prequential.cli import guard, terminal
from prequential.cli import options as flags
from prequential.errors import ConfigError, FileError, PrequentialError

if TYPE_CHECKING:
    from prequential.study.compare import Row

_REFERENCE = "zlib -9"  # of the Weissman score


@dataclass(frozen=True)
class CompareFlags(flags.Flags):
    """The flags of ``preq compare``."""

    files: tuple[str, ...]
    presets: tuple[str, ...]
    methods: tuple[str, ...] | None  # None: all that are installed
    decode: bool
    weissman: bool
    json: bool
    json_file: str | None
    threads: int | None
    force: bool


def add(commands: flags.Commands) -> None:
    """The parser of ``preq compare``."""
    text = "run presets and well-known compressors on FILE and show a table"
    parser = flags.add_command(commands, "compare", text, _run, "FILE")
    parser.add_argument(
        "--presets",
        type=flags.names,
        default=["fast", "default"],
        metavar="A,B",
        help="ours to run; fast,default",
    )
    parser.add_argument(
        "--methods",
        type=flags.names,
        metavar="A,B",
        help="others to run, as xz or 'xz -9e'; all that are installed by default",
    )
    parser.add_argument("--decode", action="store_true", help="decode, check and time that too")
    parser.add_argument("--weissman", action="store_true", help=f"score against {_REFERENCE}")
    flags.add_json_file(parser)
    parser.add_argument("--threads", type=flags.whole(1, 4096), metavar="N", help="of our presets")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing OUT")


def _run(args: argparse.Namespace) -> int:
    options = CompareFlags.of(args)
    return guard.once(options.files[0], lambda: _compare(options))


def _compare(options: CompareFlags) -> None:
    from prequential.study import compare

    methods, missing = _methods(options)
    paths = [Path(name) for name in options.files]
    for path in paths:
        if not path.is_file():
            raise FileError(f"{display(str(path))}: not a file that can be compared")
        if options.json_file:
            check_target(options.json_file, str(path), force=options.force, binary=False)
    rows: list[Row] = []
    failed: list[str] = []
    for path in paths:
        for method in methods:
            terminal.say(f"{path.name}: {method}")
            try:
                rows += compare.run(path, [method], decode=options.decode, threads=options.threads)
            except PrequentialError as error:  # the others' figures stand
                terminal.say(f"left out: {error}")
                failed.append(str(error))
    document = compare.to_json(rows, missing, failed)
    if options.json:
        terminal.out(document)
    else:
        _show(rows, options.weissman)
        if not options.decode:
            terminal.note("decode s: not measured without --decode")
    if options.json_file:
        with atomic_output(options.json_file, force=options.force) as output:
            output.file.write(document.encode() + b"\n")
    if failed:
        raise PrequentialError(f"{len(failed)} runs failed, see above")


def _methods(options: CompareFlags) -> tuple[list[str], list[str]]:
    """What to run, and what is not installed. Raises ConfigError for a name that is neither."""
    from prequential.study import compare

    here, missing = compare.available()
    if unknown := [name for name in options.presets if name not in config.preset_names()]:
        presets = ", ".join(config.preset_names())
        raise ConfigError(f"{', '.join(unknown)}: no such preset; there are {presets}")
    found = [f"preq {name}" for name in options.presets]
    for wanted in here if options.methods is None else options.methods:
        fitting = [name for name in here if name == wanted or name.split()[0] == wanted]
        if not fitting:
            raise ConfigError(f"{wanted}: not installed here; there are {', '.join(here)}")
        found += [name for name in fitting if name not in found]
    if options.weissman and _REFERENCE not in found:
        found.append(_REFERENCE)
    return found, missing


def _show(rows: list[Row], scores: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from prequential.study import compare

    references = {row.file: row for row in rows if row.method == _REFERENCE}
    table = Table("file", "method", box=None)
    numbers = ["bytes", "bits/byte", "encode s", "decode s", "peak MB"]
    for name in numbers + (["Weissman"] if scores else []):
        table.add_column(name, justify="right")
    for row in sorted(rows, key=lambda row: (row.file, row.archive_bytes)):
        cells = [
            f"{row.archive_bytes:,}",
            f"{row.bits_per_byte:.3f}",
            f"{row.encode_seconds:.1f}",
            "-" if row.decode_seconds is None else f"{row.decode_seconds:.1f}",
            f"{row.encode_peak_bytes / 1e6:.0f}",
        ]
        if scores:
            reference = references.get(row.file)
            cells.append(f"{compare.weissman(row, reference):.2f}" if reference else "")
        table.add_row(Text(display(row.file)), row.method, *cells)
    terminal.show(table)
