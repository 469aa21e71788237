"""``preq curve``: the description length of other people's training runs."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prequential.archive.files import display
from prequential.cli import guard, terminal
from prequential.cli import options as flags
from prequential.errors import FileError

if TYPE_CHECKING:
    from prequential.study.curve import Curve


@dataclass(frozen=True)
class CurveFlags(flags.Flags):
    """The flags of ``preq curve``."""

    csv: str
    step_column: str
    loss_column: str
    tokens_per_step: int
    units: str
    epoch_tokens: int | None
    raw_bytes: int | None
    code_bytes: int
    json: bool


def add(commands: flags.Commands) -> None:
    """The parser of ``preq curve``."""
    text = "description length of a training run from its loss curve"
    parser = flags.add_command(commands, "curve", text, _run)
    parser.add_argument("--csv", metavar="LOSS.csv", required=True, help="the curve, with a header")
    parser.add_argument("--step-column", default="step", metavar="NAME")
    parser.add_argument("--loss-column", default="loss", metavar="NAME")
    parser.add_argument(
        "--tokens-per-step", type=flags.count, required=True, metavar="N", help="tokens of one step"
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
    parser.add_argument("--raw-bytes", type=flags.count, metavar="N", help="size of the data")
    parser.add_argument(
        "--code-bytes", type=flags.count, default=0, metavar="N", help="size of the code"
    )
    flags.add_json(parser)


def _run(args: argparse.Namespace) -> int:
    options = CurveFlags.of(args)
    return guard.once(options.csv, lambda: _curve(options))


def _curve(options: CurveFlags) -> None:
    from prequential.study import curve

    steps, losses = curve.read(options.csv, options.step_column, options.loss_column)
    try:
        found = curve.describe(
            [step * options.tokens_per_step for step in steps],
            losses,
            nats=options.units == "nats",
            epoch_tokens=options.epoch_tokens,
            raw_bytes=options.raw_bytes,
            code_bytes=options.code_bytes,
        )
    except ValueError as error:
        raise FileError(f"{display(options.csv)}: {error}") from error
    if options.json:
        terminal.out(found.to_json())
    else:
        _show(found)


def _show(c: Curve) -> None:
    rows = [
        ("tokens counted", f"{c.tokens:,.0f}"),
        ("tokens repeated", f"{c.repeated_tokens:,.0f}, not counted"),
        ("mean loss", f"{c.mean_nats_per_token:.4f} nats, {c.mean_bits_per_token:.4f} bits"),
        ("final loss", f"{c.final_bits_per_token:.4f} bits per token"),
        ("payload", f"{c.payload_bits / 8:,.0f} bytes"),
        ("code", f"{c.code_bytes:,} bytes"),
        ("description", f"{c.total_bytes:,.0f} bytes"),
    ]
    if c.factor is not None and c.bits_per_raw_byte is not None:
        rows.append(("original", f"{c.raw_bytes:,} bytes"))
        rows.append(("factor", f"{c.factor:.2f}, {c.bits_per_raw_byte:.4f} bits/byte"))
    terminal.pairs(rows)
