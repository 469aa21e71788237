"""``preq mdl`` and ``preq curve``: description lengths, of files and of other people's runs."""

import argparse
import hashlib
import json
import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from prequential.archive.files import STDIO, atomic_output, check_target, display, open_input
from prequential.cli import terminal
from prequential.cli.bar import progress_bar
from prequential.errors import ConfigError, FileError
from prequential.progress import ProgressCallback

if TYPE_CHECKING:
    from prequential.study.curve import Curve
    from prequential.study.mdl import Job, Sweep

    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_mdl(commands: "_Commands") -> argparse.ArgumentParser:
    """The parser of ``preq mdl``, to which compute and config flags are still to be added."""
    text = "measure description lengths of FILE over a grid of settings"
    parser = commands.add_parser("mdl", help=text, description=text + ".")
    parser.set_defaults(action=_mdl, output=None)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("files", nargs="?", action=_OneFile, metavar="FILE")
    what.add_argument("--code", action="store_true", help="list the decoder's code and its size")
    parser.add_argument("--epochs", metavar="E1,E2", help="numbers of epochs to try, as in 1,2,4")
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="KEY=V1,V2",
        help="settings to try, in all combinations; KEY may also be preset or seed",
    )
    parser.add_argument("--prior", metavar="F.safetensors", help="weights to start from")
    parser.add_argument("--json", metavar="OUT", help="write all figures as JSON")
    parser.add_argument("--csv", metavar="OUT", help="write the table as CSV")
    parser.add_argument("--plot", metavar="OUT", help="write the plots, as .svg or .png")
    parser.add_argument("--html", metavar="OUT", help="write one page with table and plots")
    parser.add_argument("-f", "--force", action="store_true", help="replace existing outputs")
    parser.add_argument("--keep", metavar="DIR", help="keep every archive and report there")
    parser.add_argument("--verify", action="store_true", help="decode every archive")
    parser.add_argument("--jobs", type=_positive, default=1, metavar="N", help="runs side by side")
    return parser


class _OneFile(argparse.Action):
    """Stores the file as a list of one, as the other commands have it; [""] without a file."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "default": [""]})

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, values if isinstance(values, list) else [values])


def add_curve(commands: "_Commands") -> None:
    """The parser of ``preq curve``."""
    text = "description length of a training run from its loss curve"
    parser = commands.add_parser("curve", help=text, description=text + ".")
    parser.set_defaults(action=_curve, output=None)
    parser.add_argument("--csv", dest="files", action=_OneFile, metavar="LOSS.csv", required=True)
    parser.add_argument("--step-column", default="step", metavar="NAME")
    parser.add_argument("--loss-column", default="loss", metavar="NAME")
    parser.add_argument(
        "--tokens-per-step", type=_size, required=True, metavar="N", help="tokens of one step"
    )
    parser.add_argument(
        "--units", choices=("nats", "bits"), default="nats", help="of the loss, per token"
    )
    parser.add_argument(
        "--epoch-tokens", type=_size, metavar="N", help="tokens after which data repeats, uncounted"
    )
    parser.add_argument("--raw-bytes", type=_size, metavar="N", help="size of the data")
    parser.add_argument("--code-bytes", type=_size, default=0, metavar="N", help="size of the code")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 4096")
    return int(text)


def _size(text: str) -> int:
    """A whole number, also as in 1.4e12."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (0 <= value < 1e30 and value == int(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text) if text.isdecimal() else int(value)


def _mdl(args: argparse.Namespace, source: str) -> None:
    if args.code:
        _show_code(args)
        return
    if source == STDIO:
        raise FileError("standard input: mdl reads its input several times: give a file")
    for target in (args.json, args.csv, args.plot, args.html):
        if target is not None:
            check_target(target, source, force=args.force, binary=False)
    if args.plot is not None and not args.plot.endswith((".svg", ".png")):
        raise FileError(f"{display(args.plot)}: name the plot .svg or .png")
    if args.plot is not None or args.html is not None:
        from prequential.study import plots

        plots.require()
    from prequential.study import mdl

    folder = mdl.work_folder(source, args.keep)
    rows = mdl.run(
        [_job(args, source, settings, str(folder)) for settings in _settings(args)],
        args.jobs,
        lambda label: _progress(args, label),
        None if args.quiet else terminal.say,
    )
    sweep = _sweep(source, rows)
    _write(args, sweep)
    if args.keep is None:
        mdl.discard(folder)
    if not args.quiet:
        _show(sweep)


def _settings(args: argparse.Namespace) -> list[dict[str, str]]:
    from prequential.study import mdl

    axes: dict[str, list[str]] = {}
    for text in [*args.grid, *([f"epochs={args.epochs}"] if args.epochs else [])]:
        key, values = mdl.parse_axis(text)
        if key in axes:
            raise ConfigError(f"--grid {key}: is given twice")
        axes[key] = values
    return mdl.grid(axes)


def _job(args: argparse.Namespace, source: str, settings: dict[str, str], folder: str) -> "Job":
    from prequential.study import mdl

    return mdl.Job(
        source=source,
        settings=settings,
        preset=args.preset,
        config_path=args.config,
        overrides=tuple(args.overrides),
        seed=args.seed,
        threads=args.threads,
        device=args.device,
        prior=args.prior,
        verify=args.verify,
        folder=folder,
    )


def _progress(
    args: argparse.Namespace, label: str
) -> AbstractContextManager[ProgressCallback | None]:
    return progress_bar(label, wanted=not (args.quiet or args.no_progress))


def _sweep(source: str, rows: list[Any]) -> "Sweep":
    from prequential.study import baselines, mdl

    with open_input(source) as original:
        return mdl.Sweep(
            file=os.path.basename(display(source)),
            original_bytes=original.array.size,
            sha256=hashlib.sha256(original.array.data).hexdigest(),
            rows=rows,
            baselines=baselines.curves(original.array),
        )


def _write(args: argparse.Namespace, sweep: "Sweep") -> None:
    outputs: dict[str, Any] = {}
    if args.json is not None:
        outputs[args.json] = lambda: sweep.to_json() + "\n"
    if args.csv is not None:
        outputs[args.csv] = sweep.to_csv
    if args.plot is not None:
        from prequential.study import plots

        outputs[args.plot] = lambda: plots.figure_bytes(sweep, args.plot[-3:])
    if args.html is not None:
        from prequential.study import page

        outputs[args.html] = lambda: page.render(sweep)
    for target, make in outputs.items():
        content = make()
        with atomic_output(target, force=args.force) as output:
            output.file.write(content if isinstance(content, bytes) else content.encode())


def _show(sweep: "Sweep") -> None:
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
    terminal.show(table, stderr=True)
    best, size = sweep.best, max(1, sweep.original_bytes)
    lines = [
        f"best: {best.label}, {best.total_bits:,} bits"
        f" + {sweep.selection_bits:.2f} to choose 1 of {len(sweep.rows)} runs"
        f" = {sweep.total_bits:,.2f} bits, {sweep.total_bits / size:.4f} bits/byte"
    ]
    for name, points in sweep.baselines.items():
        bits, regret = points[-1][1], sweep.regret_bits[name]
        lines.append(
            f"{name}: {bits:,.0f} bits, {bits / size:.4f} bits/byte; regret {regret:+,.0f} bits"
        )
    terminal.note("\n".join(lines))


def _show_code(args: argparse.Namespace) -> None:
    from prequential.archive import codesize

    rows = codesize.listing()
    fields = {
        "files": [{"file": f, "bytes": raw, "packed_bytes": bare} for f, raw, bare in rows],
        "bytes": sum(raw for _, raw, _ in rows),
        "packed_bytes": sum(bare for *_, bare in rows),
        "code_bytes": codesize.code_bytes(),
    }
    if args.json is not None:
        check_target(args.json, "", force=args.force, binary=False)
        with atomic_output(args.json, force=args.force) as output:
            output.file.write(json.dumps(fields).encode() + b"\n")
    lines = [f"{'file':27}{'bytes':>9}{'bare':>9}"]
    for name, raw, bare in [*rows, ("total", fields["bytes"], fields["packed_bytes"])]:
        lines.append(f"{name:27}{raw:>9,}{bare:>9,}")
    terminal.out("\n".join([*lines, f"{'compressed':36}{fields['code_bytes']:>9,}"]))


def _curve(args: argparse.Namespace, source: str) -> None:
    from prequential.study import curve

    steps, losses = curve.read(source, args.step_column, args.loss_column)
    try:
        found = curve.describe(
            [step * args.tokens_per_step for step in steps],
            losses,
            nats=args.units == "nats",
            epoch_tokens=args.epoch_tokens,
            raw_bytes=args.raw_bytes,
            code_bytes=args.code_bytes,
        )
    except ValueError as error:
        raise FileError(f"{display(source)}: {error}") from error
    if args.json:
        terminal.out(found.to_json())
    else:
        _show_curve(found)


def _show_curve(c: "Curve") -> None:
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
