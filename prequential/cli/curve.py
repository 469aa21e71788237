"""``preq curve``: the description length of other people's training runs."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prequential.archive.files import display, printable
from prequential.cli import guard, terminal
from prequential.cli import options as flags
from prequential.errors import ConfigError, FileError

if TYPE_CHECKING:
    from prequential.study.curve import Curve, Source


@dataclass(frozen=True)
class CurveFlags(flags.Flags):
    """The flags of ``preq curve``."""

    log: str
    step_column: str
    loss_column: str
    tokens_per_step: int
    units: str
    epoch_tokens: int | None
    sources: tuple[Source, ...]
    vocabulary: int | None
    level: float | None
    raw_bytes: int | None
    code_bytes: int
    json: bool


def add(commands: flags.Commands) -> None:
    """The parser of ``preq curve``."""
    text = "description length of a training run from its loss curve"
    parser = flags.add_command(commands, "curve", text, _run)
    parser.add_argument(
        "--csv",
        "--log",
        dest="log",
        action=_Once,
        metavar="LOG",
        required=True,
        help="the curve: a CSV file with a line of names, - for standard input,"
        " trainer_state.json, or TensorBoard's event files",
    )
    parser.add_argument("--step-column", default="step", metavar="NAME")
    parser.add_argument("--loss-column", default="loss", metavar="NAME")
    parser.add_argument(
        "--tokens-per-step", type=_some, required=True, metavar="N", help="tokens of one step"
    )
    parser.add_argument(
        "--units", choices=("nats", "bits"), default="nats", help="of the loss, per token"
    )
    parser.add_argument(
        "--epoch-tokens",
        type=flags.count,
        metavar="N",
        help="tokens after which data repeats, uncounted",
    )
    parser.add_argument(
        "--epochs-of",
        action="append",
        default=[],
        type=_source,
        metavar="NAME=SHARE:EPOCHS",
        dest="sources",
        help="a source of a mixture: its share of all tokens, and how often it was gone through;"
        " may be repeated",
    )
    parser.add_argument(
        "--vocabulary",
        type=flags.whole(1, 2**32),
        metavar="N",
        help="tokens there are, for a bound on what comes before the first point",
    )
    parser.add_argument(
        "--level",
        type=flags.bits,
        metavar="LOSS",
        help="the loss beyond which the payload is structure, in the units (the final loss)",
    )
    parser.add_argument("--raw-bytes", type=flags.count, metavar="N", help="size of the data")
    parser.add_argument(
        "--code-bytes", type=flags.count, default=0, metavar="N", help="size of the code"
    )
    flags.add_json(parser)


class _Once(argparse.Action):
    """Takes a value, and no second one in its place."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option: str | None = None) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option}: is given twice: a curve has one log")
        setattr(namespace, self.dest, value)


def _run(args: argparse.Namespace) -> int:
    options = CurveFlags.of(args)
    return guard.once(options.log, lambda: _curve(options))


def _some(text: str) -> int:
    if (number := flags.count(text)) == 0:
        raise argparse.ArgumentTypeError("0 tokens are no step")
    return number


def _source(text: str) -> Source:
    from prequential.study import curve

    try:
        return curve.parse_source(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _curve(options: CurveFlags) -> None:
    from prequential.study import curve

    names = [source.name for source in options.sources]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"--epochs-of {printable(twice[0])}: is given twice: join the two")
    if (shares := sum(source.share for source in options.sources)) > 1 + 1e-9:
        raise ConfigError(f"--epochs-of: the shares add up to {shares:.1%}: give 100 % at most")
    log = curve.read(options.log, options.step_column, options.loss_column)
    try:
        found = curve.describe(
            [step * options.tokens_per_step for step in log.steps],
            log.losses,
            nats=options.units == "nats",
            epoch_tokens=options.epoch_tokens,
            sources=options.sources,
            vocabulary=options.vocabulary,
            level=options.level,
            raw_bytes=options.raw_bytes,
            code_bytes=options.code_bytes,
        )
    except ValueError as error:
        raise FileError(f"{display(options.log)}: {error}") from error
    if options.json:
        return terminal.out(found.to_json())
    if log.blank_rows:
        terminal.note(f"{log.blank_rows:,} rows without a step or a loss were left out")
    if log.replaced_rows:
        terminal.note(f"{log.replaced_rows:,} rows were replaced: the run was resumed before them")
    _show(found)


def _show(c: Curve) -> None:
    rows = [
        ("tokens counted", f"{c.tokens:,.0f}"),
        ("tokens repeated", f"{c.repeated_tokens:,.0f}, not counted"),
        ("mean loss", f"{c.mean_nats_per_token:.4f} nats, {c.mean_bits_per_token:.4f} bits"),
        ("final loss", f"{c.final_bits_per_token:.4f} bits per token"),
        ("payload", f"{c.payload_bits / 8:,.0f} bytes"),
        *_assumed(c),
        ("structure", f"{c.structure_bits / 8:,.0f} bytes of it, {c.noise_bits / 8:,.0f} noise"),
        ("code", f"{c.code_bytes:,} bytes"),
        ("description", f"{c.total_bytes:,.0f} bytes"),
    ]
    if c.factor is not None and c.bits_per_raw_byte is not None:
        rows.append(("original", f"{c.raw_bytes:,} bytes"))
        rows.append(("factor", f"{c.factor:.2f}, {c.bits_per_raw_byte:.4f} bits/byte"))
    terminal.pairs(rows)


def _assumed(c: Curve) -> list[tuple[str, str]]:
    """What of the payload lies before the first point, and was not logged."""
    if not c.assumed_bits:
        return []
    most = c.assumed_bits_at_most
    bound = f"; at most {most / 8:,.0f} of it" if most is not None else ""
    return [("of which assumed", f"{c.assumed_bits / 8:,.0f} bytes, before the first point{bound}")]
