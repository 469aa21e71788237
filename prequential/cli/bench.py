"""``preq bench``: what exactness costs on this machine."""

import argparse
from typing import TYPE_CHECKING

from prequential import config
from prequential.cli import terminal

if TYPE_CHECKING:
    from prequential.study.bench import Result

    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_bench(commands: "_Commands") -> None:
    """The parser of ``preq bench``."""
    text = "compare exact training, encoding and decoding with plain float32 training"
    parser = commands.add_parser("bench", help=text, description=text + ".")
    parser.set_defaults(action=_bench, output=None, files=[""])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", choices=config.preset_names(), help="a packaged configuration")
    source.add_argument("--config", metavar="FILE.toml", help="a configuration file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument(
        "--threads", type=_thread_counts, default=(1, 2), metavar="N,N", help="counts to try; 1,2"
    )
    parser.add_argument("--rounds", type=_positive, default=8, metavar="N", help="8")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def _thread_counts(text: str) -> tuple[int, ...]:
    counts = tuple(_positive(part) for part in text.split(","))
    if len(set(counts)) < len(counts):
        raise argparse.ArgumentTypeError(f"{text!r} names a count twice")
    return counts


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 4096")
    return int(text)


def _bench(args: argparse.Namespace, _: str) -> None:
    cfg = config.load(args.preset, args.config, args.overrides)
    from prequential.study import bench

    result = bench.run(cfg, args.threads, args.rounds)
    if args.json:
        terminal.out(result.to_json())
    else:
        _show(result)


def _show(result: "Result") -> None:
    from rich.table import Table

    speeds = Table("tokens/s", box=None)
    for name in ("threads", "median", "slowest", "fastest"):
        speeds.add_column(name, justify="right")
    for s in result.speeds:
        figures = (f"{value:,.0f}" for value in (s.median, s.low, s.high))
        speeds.add_row(s.work, str(s.threads), *figures)
    terminal.show(speeds)
    ratios = Table("\nratio", box=None)
    ratios.add_column("\nmedian", justify="right")
    for name, ratio in result.ratios.items():
        ratios.add_row(name, f"{ratio:.3f}")
    terminal.show(ratios)
    stages = Table("\nshare of time", box=None)
    for work in result.stages:
        stages.add_column("\n" + work, justify="right")
    names = dict.fromkeys(stage for shares in result.stages.values() for stage in shares)
    for name in names:
        cells = (shares.get(name, 0.0) for shares in result.stages.values())
        stages.add_row(name, *(f"{100 * share:.1f} %" for share in cells))
    terminal.show(stages)
    share = result.step_gflops / result.sgemm_gflops
    terminal.out(
        f"\nexact step: {result.step_gflops:.1f} GFLOP/s in matrix products,"
        f" {100 * share:.0f} % of this machine's sgemm ({result.sgemm_gflops:.1f}, one thread)"
        f"\nchunks of {result.tokens_per_chunk} tokens; {result.rounds} rounds, in turns;"
        f" warm-up and first chunks {result.first_chunk_seconds:.1f} s"
    )
