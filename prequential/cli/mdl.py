"""``preq mdl``: description lengths of a file over a grid of settings."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prequential.archive.files import STDIO, atomic_output, check_target, display, open_input
from prequential.cli import guard, terminal
from prequential.cli import options as flags
from prequential.cli.options import Options
from prequential.errors import ConfigError, FileError

if TYPE_CHECKING:
    from prequential.study.mdl import Job, Sweep


@dataclass(frozen=True)
class MdlFlags(Options):
    """The flags of ``preq mdl``."""

    file: str | None = None
    code: bool = False
    epochs: str | None = None
    grid: tuple[str, ...] = ()
    json_file: str | None = None
    csv: str | None = None
    plot: str | None = None
    html: str | None = None
    keep: str | None = None
    jobs: int = 1
    argv: tuple[str, ...] = ()  # as it was called

    def check_outputs(self, source: str) -> None:
        """Refuse outputs that would destroy something."""
        targets = [t for t in (self.json_file, self.csv, self.plot, self.html) if t is not None]
        for target in targets:
            check_target(target, source, force=self.force, binary=False)
        places = [os.path.realpath(target) for target in targets]
        if len(set(places)) < len(places):
            raise FileError(f"{display(source)}: two outputs have one name: give each its own")


def add(commands: flags.Commands) -> None:
    """The parser of ``preq mdl``."""
    text = "measure description lengths of FILE over a grid of settings"
    parser = flags.add_command(commands, "mdl", text, _run)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("file", nargs="?", metavar="FILE")
    what.add_argument("--code", action="store_true", help="list the decoder's code and its size")
    parser.add_argument("--epochs", metavar="E1,E2", help="numbers of epochs to try, as in 1,2,4")
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="KEY=V1,V2",
        help="settings to try, in all combinations; KEY may also be preset or seed",
    )
    flags.add_prior(parser)
    flags.add_json_file(parser)
    parser.add_argument("--csv", metavar="OUT", help="write the table as CSV")
    parser.add_argument("--plot", metavar="OUT", help="write the plots, as .svg or .png")
    parser.add_argument("--html", metavar="OUT", help="write one page with table and plots")
    parser.add_argument("-f", "--force", action="store_true", help="replace existing outputs")
    parser.add_argument("--keep", metavar="DIR", help="keep every archive and report there")
    parser.add_argument("--verify", action="store_true", help="decode every archive")
    parser.add_argument(
        "--jobs", type=flags.whole(1, 4096), default=1, metavar="N", help="runs side by side"
    )
    flags.add_compute(parser)
    flags.add_memory(parser)
    flags.add_config(parser)


def _run(args: argparse.Namespace) -> int:
    options = MdlFlags.of(args)
    if options.file is None:
        return guard.once("--code", lambda: _show_code(options))
    return guard.each([options.file], lambda source: _mdl(options, source))


def _mdl(options: MdlFlags, source: str) -> None:
    if source == STDIO:
        raise FileError("standard input: mdl reads its input several times: give a file")
    options.check_outputs(source)
    if options.plot is not None and not options.plot.endswith((".svg", ".png")):
        raise FileError(f"{display(options.plot)}: name the plot .svg or .png")
    if options.html is not None and not options.html.endswith((".html", ".htm")):
        raise FileError(f"{display(options.html)}: name the page .html")
    if options.plot is not None or options.html is not None:
        from prequential.study import plots

        plots.require()
    from prequential.study import mdl

    folder = mdl.work_folder(source, options.keep)
    rows = mdl.run(
        [_job(options, source, settings, str(folder)) for settings in _settings(options)],
        options.jobs,
        options.bar,
        None if options.quiet else terminal.note,
    )
    sweep = _sweep(options, source, rows)
    _write(options, sweep)
    if options.keep is None:
        mdl.discard(folder)
    if not options.quiet:
        _show(sweep, stderr=options.json)  # standard output is the JSON's then


def _settings(options: MdlFlags) -> list[dict[str, str]]:
    from prequential.study import mdl

    axes: dict[str, list[str]] = {}
    for text in [*options.grid, *([f"epochs={options.epochs}"] if options.epochs else [])]:
        key, values = mdl.parse_axis(text)
        if key in axes:
            raise ConfigError(f"--grid {key}: is given twice")
        axes[key] = values
    return mdl.grid(axes)


def _job(options: MdlFlags, source: str, settings: dict[str, str], folder: str) -> Job:
    from prequential.study import mdl

    return mdl.Job(
        source=source,
        settings=settings,
        preset=options.preset,
        config_path=options.config,
        overrides=options.overrides,
        seed=options.seed,
        threads=options.threads,
        device=options.device,
        prior=options.prior,
        verify=options.verify,
        memory_bytes=options.limits().memory_bytes,
        folder=folder,
        force=options.force or options.keep is None,
    )


def _sweep(options: MdlFlags, source: str, rows: list[Any]) -> Sweep:
    from prequential.study import baselines, mdl

    with open_input(source) as original:
        return mdl.Sweep(
            command=shlex.join(["preq", *options.argv]),
            file=os.path.basename(source),
            original_bytes=original.array.size,
            sha256=hashlib.sha256(original.array.data).hexdigest(),
            rows=rows,
            baselines=baselines.curves(original.array),
        )


def _write(options: MdlFlags, sweep: Sweep) -> None:
    if options.json:
        terminal.out(sweep.to_json())
    outputs: dict[str, Callable[[], str | bytes]] = {}
    if options.json_file is not None:
        outputs[options.json_file] = lambda: sweep.to_json() + "\n"
    if options.csv is not None:
        outputs[options.csv] = sweep.to_csv
    if options.plot is not None:
        from prequential.study import plots

        suffix = options.plot[-3:]
        outputs[options.plot] = lambda: plots.figure_bytes(sweep, suffix)
    if options.html is not None:
        from prequential.study import page

        outputs[options.html] = lambda: page.render(sweep)
    for target, make in outputs.items():
        content = make()
        with atomic_output(target, force=options.force) as output:
            output.file.write(content if isinstance(content, bytes) else content.encode())


def _show(sweep: Sweep, *, stderr: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from prequential.study.mdl import HEADINGS, cells, formatted

    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for name in HEADINGS:
        table.add_column(name, justify="right")
    table.add_column("decoded", justify="right")
    for row in sweep.rows:
        style = "bold green" if row is sweep.best else None
        verified = "yes" if row.verified else "-"
        table.add_row(Text(row.label), *formatted(cells(row)), verified, style=style)
    terminal.show(table, stderr=stderr)
    best, size = sweep.best, max(1, sweep.original_bytes)
    lines = [
        f"best: {best.label}, {best.total_bits:,} bits"
        f" + {sweep.selection_bits:.2f} to choose 1 of {len(sweep.rows)} runs"
        f" = {sweep.total_bits:,.2f} bits, {sweep.total_bits / size:.4f} bits/byte"
    ]
    if len(sweep.rows) > 1:
        lines.append(f"all runs mixed: {sweep.mixture_bits:,.2f} bits")
    for name, points in sweep.baselines.items():
        bits, more = points[-1][1], sweep.difference_bits[name]
        lines.append(
            f"{name}: {bits:,.0f} bits, {bits / size:.4f} bits/byte; payload {more:+,.0f} bits"
        )
    text = "\n".join(lines)
    terminal.note(text) if stderr else terminal.out(text)


def _show_code(options: MdlFlags) -> None:
    from prequential.archive import codesize

    options.check_outputs("")
    rows = codesize.listing()
    fields = {
        "files": [{"file": f, "bytes": raw, "packed_bytes": bare} for f, raw, bare in rows],
        "bytes": sum(raw for _, raw, _ in rows),
        "packed_bytes": sum(bare for *_, bare in rows),
        "code_bytes": codesize.code_bytes(),
    }
    if options.json_file is not None:
        with atomic_output(options.json_file, force=options.force) as output:
            output.file.write(json.dumps(fields).encode() + b"\n")
    if options.json:
        return terminal.out_json(fields)
    lines = [f"{'file':27}{'bytes':>9}{'bare':>9}"]
    for name, raw, bare in [*rows, ("total", fields["bytes"], fields["packed_bytes"])]:
        lines.append(f"{name:27}{raw:>9,}{bare:>9,}")
    terminal.out("\n".join([*lines, f"{'compressed':36}{fields['code_bytes']:>9,}"]))
