"""``preq score``: bits of files, lines or records, alone and given others."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prequential.archive.files import open_input
from prequential.cli import guard, terminal
from prequential.cli import options as flags
from prequential.cli.options import Options
from prequential.cli.warmup import announced
from prequential.errors import ConfigError

if TYPE_CHECKING:
    from prequential.study.score import Score

PROCESSES = 2
SECONDS = 10.0  # from one line on progress to the next


@dataclass(frozen=True)
class ScoreFlags(Options):
    """The flags of ``preq score``."""

    per: str = "file"
    field: str | None = None
    sort: bool = False
    csv: bool = False


def add(commands: flags.Commands) -> None:
    """The parser of ``preq score``."""
    text = "show the bits that FILE, or each of its lines or records, takes alone and given A"
    parser = flags.add_command(commands, "score", text, _run, "FILE")
    parser.add_argument(
        "--given",
        action="append",
        default=[],
        metavar="A",
        help="a file that is learned first; of several each makes a column",
    )
    parser.add_argument("--state", metavar="S", help="a file of preq learn, of one of the given")
    parser.add_argument(
        "--per",
        choices=("file", "line", "record"),
        default="file",
        help="what is scored: files, their lines, or JSON records, one a line or in a list",
    )
    parser.add_argument("--field", metavar="NAME", help="of each record only this; --per record")
    parser.add_argument(
        "--sort",
        action="store_true",
        help="most bits a byte first, given the first A, or alone; else in the order given",
    )
    shown = parser.add_mutually_exclusive_group()
    flags.add_json(shown, "one JSON object for each")
    shown.add_argument("--csv", action="store_true", help="lines of CSV on standard output")
    add_compute(parser)
    flags.add_memory(parser)
    flags.add_config(parser)


def add_compute(parser: argparse.ArgumentParser) -> None:
    """How many processes, and how much to say."""
    parser.add_argument(
        "--threads",
        type=flags.whole(1, 4096),
        metavar="N",
        help=f"processes at once; {PROCESSES}",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="results and errors only")


@contextmanager
def told(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Have a line on standard error now and then, of how much is done."""
    due = time.monotonic() + SECONDS

    def progress(done: int, of: int) -> None:
        nonlocal due
        if not quiet and time.monotonic() >= due:
            due = time.monotonic() + SECONDS
            terminal.say(f"{what}: {done:,} of {of:,}")

    with nullcontext() if quiet else announced():
        yield progress


def _run(args: argparse.Namespace) -> int:
    options = ScoreFlags.of(args)
    return guard.once(options.files[0], lambda: _score(options))


def _score(options: ScoreFlags) -> None:
    if options.field is not None and options.per != "record":
        raise ConfigError("--field is of records: add --per record")
    config = options.model()
    with ExitStack() as stack:
        contents = []
        for name in options.files:
            contents.append((name, stack.enter_context(open_input(name)).array.tobytes()))
        first = stack.enter_context(options.open_given())
        from prequential.study import score
        from prequential.training import run as runs

        found = [
            thing
            for name, content in contents
            for thing in score.things(name, content, options.per, options.field)
        ]
        # Nothing is kept but in forks; a state's file is read once for each A.
        kept = dataclasses.replace(options, files=()).kept
        with told("scored", options.quiet) as progress:
            scores = score.score(
                found,
                config,
                first,
                seed=options.seed,
                processes=options.threads or PROCESSES,
                options=runs.Options(limits=options.limits(), kept=kept),
                progress=progress,
            )
    if options.sort:
        scores.sort(key=lambda s: -s.surprise)
    names = list(options.given)
    if options.json:
        for one in scores:
            terminal.out_json(_fields(one, names))
    elif options.csv:
        terminal.out("\n".join(_csv(scores, names)))
    else:
        terminal.out("\n".join(_table(scores, names)))


def _fields(one: Score, names: list[str]) -> dict[str, Any]:
    size, alone = len(one.thing.data), one.alone
    return {
        "file": one.thing.file,
        "number": one.thing.number,
        "bytes": size,
        "bits": alone.bits,
        "payload_bits": alone.payload_bits,
        "bits_per_byte": alone.bits / size if size else 0.0,
        "given": [
            {
                "file": name,
                "bits": length.bits,
                "payload_bits": length.payload_bits,
                "bits_per_byte": length.bits / size if size else 0.0,
                "saved_bits": alone.bits - length.bits,
            }
            for name, length in zip(names, one.given, strict=True)
        ],
    }


def _csv(scores: list[Score], names: list[str]) -> Iterator[str]:
    from prequential.study.score import csv_line

    what = ("bits", "payload_bits", "bits_per_byte", "saved_bits")
    columns = ["file", "number", "bytes", *what[:3]]
    columns += [f"{kind} given {name}" for name in _numbered(names) for kind in what]
    for row in [columns, *(_flat(_fields(one, names)) for one in scores)]:
        yield csv_line(row)


def _numbered(names: list[str]) -> list[str]:
    """Names that are there several times, each with its number.

    >>> _numbered(["a", "b", "a"])
    ['a (1)', 'b', 'a (2)']
    """
    return [
        name if names.count(name) == 1 else f"{name} ({names[: k + 1].count(name)})"
        for k, name in enumerate(names)
    ]


def _flat(fields: dict[str, Any]) -> list[Any]:
    given = [value for each in fields.pop("given") for value in list(each.values())[1:]]
    return [*fields.values(), *given]


def _table(scores: list[Score], names: list[str]) -> Iterator[str]:
    yield (
        f"{'bytes':>11} {'bits':>13} {'bits/byte':>9}"
        + "".join(f" {'given bits':>13} {'bits/byte':>9} {'saved':>13}" for _ in names)
        + "  what"
    )
    for one in scores:
        size = max(1, len(one.thing.data))
        line = f"{len(one.thing.data):>11,} {one.alone.bits:>13,.1f} {one.alone.bits / size:>9.4f}"
        for length in one.given:
            saved = one.alone.bits - length.bits
            line += f" {length.bits:>13,.1f} {length.bits / size:>9.4f} {saved:>13,.1f}"
        yield f"{line}  {one.thing.name}"
