"""``preq distance``: how far files are from one another."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prequential.archive.files import atomic_output, check_target, display, open_input
from prequential.cli import guard, terminal
from prequential.cli import options as flags
from prequential.cli.options import Options
from prequential.cli.score import PROCESSES, add_compute, told
from prequential.errors import ConfigError, FileError

if TYPE_CHECKING:
    from prequential.study.distance import Distances

_KINDS, _METHODS, _PICTURES = ("ncd", "mean", "conditional"), ("preq", "gzip"), (".svg", ".png")


@dataclass(frozen=True)
class DistanceFlags(Options):
    """The flags of ``preq distance``."""

    method: str = "preq"
    kind: str = "ncd"
    csv: bool = False
    plot: str | None = None


def add(commands: flags.Commands) -> None:
    """The parser of ``preq distance``."""
    text = "show how far files are from one another, by what each takes given each other"
    parser = flags.add_command(commands, "distance", text, _run, "FILE")
    parser.add_argument("--method", choices=_METHODS, default="preq", help="whose lengths; preq")
    parser.add_argument(
        "--kind",
        choices=_KINDS,
        default="ncd",
        help="normalized by the longer way (ncd) or by both (mean), or bits of row given column",
    )
    shown = parser.add_mutually_exclusive_group()
    flags.add_json(shown, "all of them as one JSON object")
    shown.add_argument("--csv", action="store_true", help="the matrix as CSV on standard output")
    parser.add_argument("--plot", metavar="OUT", help="a heat map: OUT.svg or OUT.png")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing OUT")
    add_compute(parser)
    flags.add_memory(parser)
    flags.add_config(parser)


def _run(args: argparse.Namespace) -> int:
    options = DistanceFlags.of(args)
    return guard.once(options.files[0], lambda: _distance(options))


def _distance(options: DistanceFlags) -> None:
    if len(options.files) < 2:
        raise ConfigError("distance takes two files or more")
    suffix = os.path.splitext(options.plot or "plot.svg")[1]
    if suffix not in _PICTURES:
        raise ConfigError(f"--plot {display(options.plot or '')}: name a .svg or a .png file")
    config = options.model()
    names, files = [], []
    for name in options.files:
        if options.plot is not None:
            check_target(
                options.plot, name, force=options.force, binary=True, others=options.read_too
            )
        with open_input(name) as source:
            names.append(name)
            files.append(source.array.tobytes())
        if not files[-1]:
            raise FileError(f"{display(name)}: is empty, and at no distance from anything")
    from prequential.study import distance, plots
    from prequential.training import run as runs

    if options.plot is not None:
        plots.require()
    if options.method == "gzip":
        found = distance.by_gzip(names, files)
    else:
        with told("measured", options.quiet) as progress:
            found = distance.by_codelength(
                names,
                files,
                config,
                seed=options.seed,
                processes=options.threads or PROCESSES,
                options=runs.Options(limits=options.limits()),
                progress=progress,
            )
    if options.plot is not None:
        with ExitStack() as stack:
            output = stack.enter_context(atomic_output(options.plot, force=options.force))
            output.file.write(distance.heat_map(found, options.kind, suffix[1:]))
    if options.json:
        terminal.out(found.to_json())
    elif options.csv:
        terminal.out(found.to_csv(options.kind).rstrip("\n"))
    else:
        terminal.out(_table(found, options.kind))


def _table(found: Distances, kind: str) -> str:
    """Columns are numbered as the rows are."""
    form = "{:>13,.1f}" if kind == "conditional" else "{:>8.4f}"
    width = len(form.format(0.0))
    numbers = "".join(f"{n:>{width}}" for n in range(1, len(found.names) + 1))
    lines = [f"{'':>4} {numbers}"]
    for n, (name, row) in enumerate(zip(found.names, found.matrix(kind), strict=True), 1):
        lines.append(f"{n:>4} {''.join(map(form.format, row))}  {display(name)}")
    return "\n".join(lines)
