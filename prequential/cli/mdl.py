"""``preq mdl``: description lengths of a file over a grid of settings."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prequential.archive.files import (
    STDIO,
    atomic_output,
    check_target,
    display,
    open_input,
    printable,
)
from prequential.cli import guard, terminal
from prequential.cli import options as flags
from prequential.cli.options import Options
from prequential.errors import ConfigError, FileError

if TYPE_CHECKING:
    from prequential.study.mdl import Job, Row, Sweep
    from prequential.study.priors import Price


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
    level: float | None = None
    prior_archive: str | None = None
    jobs: int = 1
    seeds: int | None = None
    sizes: tuple[int, ...] = ()
    argv: tuple[str, ...] = ()  # as it was called

    @property
    def read_too(self) -> tuple[str, ...]:
        """See `Options`: the prior's archive, too."""
        return (*super().read_too, *([self.prior_archive] if self.prior_archive else []))

    def check_outputs(self, source: str) -> None:
        """Refuse outputs that would destroy something."""
        targets = [t for t in (self.json_file, self.csv, self.plot, self.html) if t is not None]
        for target in targets:
            check_target(target, source, force=self.force, binary=False, others=self.read_too)
        places = [os.path.realpath(target) for target in targets]
        if len(set(places)) < len(places):
            raise ConfigError(f"{display(source)}: two outputs have one name: give each its own")


def add(commands: flags.Commands) -> None:
    """The parser of ``preq mdl``."""
    text = "measure description lengths of FILE over a grid of settings"
    interrupted = (
        "interrupted: finished runs are kept, and the same command goes on with the others"
    )
    parser = flags.add_command(commands, "mdl", text, _run, interrupted=interrupted)
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
    parser.add_argument(
        "--seeds",
        type=flags.whole(1, 1000),
        metavar="N",
        help="run every setting with N seeds, from --seed on, and compare means",
    )
    parser.add_argument(
        "--sizes",
        type=_sizes,
        default=[],
        metavar="N1,N2",
        help="run every setting on the first so many bytes, as in 5k,20k,80k",
    )
    flags.add_prior(parser)
    parser.add_argument(
        "--prior-archive",
        metavar="A.pq",
        help="the archive that encode --save-weights wrote with the prior: decoded, and counted"
        " in the prior's place if it is smaller",
    )
    parser.add_argument(
        "--given",
        action="append",
        default=[],
        metavar="A",
        help="a file to learn first, which is not counted; may be repeated, in order",
    )
    parser.add_argument(
        "--level",
        type=flags.bits,
        metavar="BITS",
        help="bits a byte that are noise, beyond which the payload is structure (the final loss)",
    )
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
    if STDIO in options.given:
        raise ConfigError(
            "--given: standard input is read once, and every run learns it: give a file"
        )
    options.check_outputs(source)
    if options.plot is not None and not options.plot.endswith((".svg", ".png")):
        raise ConfigError(f"{display(options.plot)}: name the plot .svg or .png")
    if options.html is not None and not options.html.endswith((".html", ".htm")):
        raise ConfigError(f"{display(options.html)}: name the page .html")
    if options.plot is not None or options.html is not None:
        from prequential.study import plots

        plots.require()
    from prequential.study import mdl

    price = _price(options)
    sizes = _checked_sizes(options, source)
    settings = _settings(options)
    folder = mdl.work_folder(source, options.keep)
    jobs = [_job(options, source, one, str(folder), size) for size in sizes for one in settings]
    rows = mdl.run(jobs, options.jobs, options.bar, None if options.quiet else terminal.note)
    rows = [dataclasses.replace(row, level=options.level) for row in rows]
    if price is not None:
        rows = [mdl.priced(row, price) for row in rows]
    sweeps = [
        _sweep(options, source, rows[k * len(settings) : (k + 1) * len(settings)], size, price)
        for k, size in enumerate(sizes)
    ]
    _write(options, sweeps)
    if options.keep is None:
        mdl.discard(folder)
    if not options.quiet:
        show = terminal.note if options.json else terminal.out
        for sweep in sweeps:
            if len(sweeps) > 1:
                show(f"the first {sweep.original_bytes:,} bytes")
            _show(sweep, stderr=options.json)  # standard output is the JSON's then
        _compare(sweeps, stderr=options.json)


def _price(options: MdlFlags) -> Price | None:
    """What the prior costs, if there is one. Raises FileError, ArchiveError."""
    if options.prior is None:
        if options.prior_archive is not None:
            raise ConfigError("--prior-archive is what a prior comes from: give that by --prior")
        return None
    from prequential.study import priors

    archive = options.prior_archive
    with nullcontext() if archive is None else options.bar(archive) as progress:
        alone = dataclasses.replace(options, prior=None)  # which its archive was made without
        return priors.price(
            options.prior, archive, alone.run(progress, (), name=display(archive or ""))
        )


def _sizes(text: str) -> list[int]:
    """Sizes in bytes, in order, with k and M for thousands and millions."""
    found = set()
    for name in flags.names(text):
        match = re.fullmatch(r"([1-9]\d{0,11})([kM]?)", name)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r}: expected sizes such as 5k,20k,80k")
        found.add(int(match[1]) * {"": 1, "k": 1000, "M": 1_000_000}[match[2]])
    return sorted(found)


def _checked_sizes(options: MdlFlags, source: str) -> list[int | None]:
    """The sizes to measure; None: the whole file."""
    with open_input(source) as original:
        size = len(original.data)
    if options.sizes and options.sizes[-1] > size:
        raise ConfigError(
            f"{display(source)}: has {size:,} bytes, fewer than --sizes {options.sizes[-1]:,}"
        )
    return list(options.sizes) or [None]


def _settings(options: MdlFlags) -> list[dict[str, str]]:
    from prequential.study import mdl

    axes: dict[str, list[str]] = {}
    for text in [*options.grid, *([f"epochs={options.epochs}"] if options.epochs else [])]:
        key, values = mdl.parse_axis(text)
        if key in axes:
            raise ConfigError(f"--grid {key}: is given twice")
        axes[key] = values
    if options.seeds is not None:
        if "seed" in axes:
            raise ConfigError("--seeds: the grid has seeds already: leave out one of the two")
        axes["seed"] = [str(options.seed + k) for k in range(options.seeds)]
    return mdl.grid(axes)


def _job(
    options: MdlFlags, source: str, settings: dict[str, str], folder: str, size: int | None
) -> Job:
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
        given=options.given,
        verify=options.verify,
        memory_bytes=options.limits().memory_bytes,
        folder=folder,
        force=options.force or options.keep is None,
        size=size,
    )


def _sweep(
    options: MdlFlags, source: str, rows: list[Row], size: int | None, price: Price | None
) -> Sweep:
    from prequential.study import baselines, mdl

    with open_input(source) as original:
        data = original.array[:size]
        return mdl.Sweep(
            command=shlex.join(["preq", *options.argv]),
            file=os.path.basename(source),
            original_bytes=data.size,
            sha256=hashlib.sha256(data.data).hexdigest(),
            rows=rows,
            baselines=baselines.curves(data),
            given=[os.path.basename(name) for name in options.given],
            prior=price,
        )


def _write(options: MdlFlags, sweeps: list[Sweep]) -> None:
    """JSON has every size, as does CSV; plots and page are of the largest."""
    largest = sweeps[-1]
    if options.json:
        terminal.out(_json(sweeps))
    outputs: dict[str, Callable[[], str | bytes]] = {}
    if options.json_file is not None:
        outputs[options.json_file] = lambda: _json(sweeps) + "\n"
    if options.csv is not None:
        outputs[options.csv] = lambda: _csv(sweeps)
    if options.plot is not None:
        from prequential.study import plots

        suffix = options.plot[-3:]
        outputs[options.plot] = lambda: plots.figure_bytes(largest, suffix)
    if options.html is not None:
        from prequential.study import page

        outputs[options.html] = lambda: page.render(largest)
    for target, make in outputs.items():
        content = make()
        with atomic_output(target, force=options.force) as output:
            if isinstance(content, str):
                content = content.encode(errors="backslashreplace")  # a name may be no UTF-8
            output.file.write(content)


def _json(sweeps: list[Sweep]) -> str:
    """A sweep as it is, or all sizes with where settings cross."""
    if len(sweeps) == 1:
        return sweeps[0].to_json()
    from prequential.study import mdl, replicates

    fields = {
        "schema": mdl.SCHEMA,
        "sizes": [json.loads(sweep.to_json()) for sweep in sweeps],
        "crossings": [crossing._asdict() for crossing in replicates.crossings(sweeps)],
    }
    return json.dumps(fields)


def _csv(sweeps: list[Sweep]) -> str:
    """A line per run, with the size where there are several."""
    if len(sweeps) == 1:
        return sweeps[0].to_csv()
    lines: list[str] = []
    for sweep in sweeps:
        head, *rows = sweep.to_csv().splitlines()
        lines = lines or [f"original_bytes,{head}"]
        lines += [f"{sweep.original_bytes},{row}" for row in rows]
    return "\n".join(lines) + "\n"


def _compare(sweeps: list[Sweep], *, stderr: bool) -> None:
    """Means over seeds, and where settings cross, if there is either."""
    from prequential.study import replicates

    lines = replicates.lines(sweeps)
    if len(sweeps) == 1 and all(line.seeds == 1 for line in lines):
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("bytes", justify="right")
    table.add_column("setting", overflow="fold")
    for name in ("seeds", "mean total bits", "behind the best"):
        table.add_column(name, justify="right")
    for line in lines:
        cells = (str(line.seeds), str(line.total_bits), str(line.behind_bits))
        table.add_row(f"{line.original_bytes:,}", Text(line.label), *cells)
    terminal.show(table, stderr=stderr)
    told = [
        f"{found.then} is shorter than {found.first} from {found.original_bytes:,} bytes on,"
        f" there by {found.ahead_bits} bits"
        for found in (replicates.crossings(sweeps) if len(sweeps) > 1 else [])
    ]
    if any(line.seeds > 1 for line in lines):
        told.append("± is half of a 95 % interval over the seeds; behind, seed by seed")
    if told:
        terminal.note("\n".join(told)) if stderr else terminal.out("\n".join(told))


def _show(sweep: Sweep, *, stderr: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from prequential.study.mdl import HEADINGS, cells, formatted
    from prequential.study.mixture import BLOCKS
    from prequential.study.replicates import groups, label_of

    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for name in HEADINGS:
        table.add_column(name, justify="right")
    table.add_column("decoded", justify="right")
    for row in sweep.rows:
        style = "bold green" if row in sweep.best_rows else None
        verified = "yes" if row.verified else "-"
        table.add_row(Text(row.label), *formatted(cells(row)), verified, style=style)
    terminal.show(table, stderr=stderr)
    best, size = sweep.best, max(1, sweep.original_bytes)
    lines = [
        f"best: {label_of(best.settings)}, {sweep.best_bits:,.0f} bits"
        f" + {sweep.selection_bits:.2f} to choose 1 of {len(groups(sweep.rows))} settings"
        f" = {sweep.total_bits:,.2f} bits, {sweep.total_bits / size:.4f} bits/byte"
    ]
    if len(sweep.rows) > 1:
        each, blocks = sweep.original_bytes / BLOCKS, round(1 / sweep.fixed_share_rate)
        lines += [
            f"all runs mixed: {sweep.mixture_bits:,.2f} bits, measured, not an archive",
            f"all runs by fixed share, 1/{blocks} after each {each:,.0f} bytes:"
            f" {sweep.fixed_share_bits:,.2f} bits, measured, not an archive",
        ]
    if sweep.given:
        names = ", ".join(map(printable, sweep.given))
        lines.append(f"all this given {names}, learned first and not counted; without it:")
    if sweep.prior is not None:
        lines.insert(1, str(sweep.prior))
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
