"""``preq where``: what each byte of a file costs, as a table, a page, or an array."""

from __future__ import annotations

import argparse
import io
import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prequential.archive.files import (
    STDIO,
    atomic_output,
    check_target,
    display_target,
    open_input,
    printable,
)
from prequential.cli import guard, terminal
from prequential.cli import options as flags
from prequential.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from prequential.study.where import Where


@dataclass(frozen=True)
class WhereFlags(flags.Options):
    """The flags of ``preq where``."""

    file: str = ""
    html: str | None = None
    predictors: bool = False
    json_file: str | None = None
    argv: tuple[str, ...] = ()  # as it was called


def add(commands: flags.Commands) -> None:
    """The parser of ``preq where``."""
    parser = flags.add_command(commands, "where", "show what each byte of FILE costs", _run)
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--html", metavar="OUT.html", help="write the file in colours, as a page")
    parser.add_argument(
        "--predictors",
        action="store_true",
        help="show what n-gram tables, cells and transformer would each pay alone; one thread",
    )
    flags.add_bits(parser)
    flags.add_json_file(parser)
    parser.add_argument("-f", "--force", action="store_true", help="replace existing outputs")
    flags.add_compute(parser)
    flags.add_memory(parser)
    flags.add_config(parser)
    flags.add_prior(parser)
    flags.add_given(parser)


def _run(args: argparse.Namespace) -> int:
    options = WhereFlags.of(args)
    return guard.once(options.file, lambda: _where(options))


def _where(options: WhereFlags) -> None:
    targets = [name for name in (options.html, options.bits, options.json_file) if name is not None]
    for target in targets:
        check_target(
            target, options.file, force=options.force, binary=False, others=options.read_too
        )
    if len({os.path.realpath(target) for target in targets}) < len(targets):
        raise ConfigError(f"{display_target(targets[0])}: is named for two outputs: name another")
    if options.html is not None and not options.html.endswith((".html", ".htm")):
        raise ConfigError(f"{display_target(options.html)}: name the page .html")
    where = _measured(options)
    if options.html is not None:
        from prequential.study import costpage

        _write(options.html, options, costpage.render(where).encode())
    if options.bits is not None:
        _write(options.bits, options, _array_file(where.bits))
    if options.json_file is not None:
        _write(options.json_file, options, where.to_json().encode() + b"\n")
    if options.json:
        terminal.out(where.to_json())
    elif not options.quiet:
        _show(where)


def _measured(options: WhereFlags) -> Where:
    with (
        open_input(options.file) as original,
        options.open_given() as given,
        options.bar(options.file) as progress,
    ):
        from prequential import codec
        from prequential.coding.itemised import Costs
        from prequential.study.where import Known, Where

        told: list[Costs] = []
        data = original.data[0 : len(original.data)]
        run = options.run(progress, given, kept=options.kept)
        report = codec.measure(
            data,
            config=options.model(),
            seed=options.seed,
            options=run,
            told=told.append,
            apart=options.predictors,
        )
        prior = None
        if options.prior is not None and run.prior is not None:
            sha256 = run.prior.identity.sha256.hex()
            prior = Known(os.path.basename(options.prior), sha256, os.path.getsize(options.prior))
        return Where(
            "standard input" if options.file == STDIO else os.path.basename(options.file),
            data,
            told[0],
            report,
            tuple(
                Known(os.path.basename(name), g.file.sha256.hex(), g.file.size)
                for name, g in zip(options.given, given, strict=True)
            ),
            prior,
            shlex.join(["preq", *options.argv]),
        )


def _array_file(bits: np.ndarray) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.save(file, bits)
    return file.getvalue()


def _write(target: str, options: WhereFlags, content: bytes) -> None:
    with atomic_output(target, force=options.force) as output:
        output.file.write(content)


def _show(where: Where) -> None:
    from rich.table import Table
    from rich.text import Text

    bits, size = where.report.loss_integral_bits, max(1, len(where.data))
    told = f"{printable(where.file)}: {bits:,.0f} bits, {bits / size:.4f} bits/byte"
    if where.has_networks:
        told += f"; by the networks alone {where.costs.learner_bits.sum() / size:.4f}"
    terminal.out(told)
    if where.after:
        terminal.out(f"all this {where.after}")
    kinds = Table(box=None, pad_edge=False)
    kinds.add_column("kind")
    apart = [*where.costs.apart, "learner"] if where.costs.apart else []  # these together
    shown = [name.replace("learner", "together") for name in apart]
    for name in ("bytes", "bits", "bits/byte", "share", *shown):
        kinds.add_column(name, justify="right")
    for kind in where.kinds():
        share = f"{kind.bits / max(bits, 1):.1%}"
        each = f"{kind.bits / kind.bytes:.3f}"
        others = [f"{kind.alone[name] / kind.bytes:.3f}" for name in apart]
        kinds.add_row(kind.name, f"{kind.bytes:,}", f"{kind.bits:,.0f}", each, share, *others)
    if apart:
        others = [f"{where.alone[name].sum() / size:.3f}" for name in apart]
        total = (f"{len(where.data):,}", f"{bits:,.0f}", f"{bits / size:.3f}", "100.0%")
        kinds.add_row("all", *total, *others)
    terminal.show(kinds)
    places = Table(box=None, pad_edge=False)
    places.add_column("from byte", justify="right")
    places.add_column("bits/byte", justify="right")
    places.add_column("the dearest places", overflow="fold")
    for place in where.dearest(10):
        each = f"{place.bits / (place.end - place.start):.2f}"
        places.add_row(f"{place.start:,}", each, Text(printable(where.text_of(place))))
    terminal.out("")
    terminal.show(places)
