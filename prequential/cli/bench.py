"""``preq bench``: what exactness costs on this machine."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prequential import config
from prequential.cli import guard, terminal
from prequential.cli import options as flags

if TYPE_CHECKING:
    from prequential.study.bench import Result


@dataclass(frozen=True)
class BenchFlags(flags.Flags):
    """The flags of ``preq bench``."""

    preset: str | None
    config: str | None
    overrides: tuple[str, ...]
    threads: tuple[int, ...]
    rounds: int
    quiet: bool
    json: bool


_BUSY = 0.5  # processes that were at work in the last minute: more belie the figures


def add(commands: flags.Commands) -> None:
    """The parser of ``preq bench``."""
    text = "compare exact training, encoding and decoding with plain float32 training"
    parser = flags.add_command(commands, "bench", text, _run)
    flags.add_preset(parser)
    parser.add_argument(
        "--threads", type=_thread_counts, default=(1, 2), metavar="N,N", help="counts to try; 1,2"
    )
    parser.add_argument("--rounds", type=flags.whole(1, 4096), default=8, metavar="N", help="8")
    parser.add_argument("-q", "--quiet", action="store_true", help="results and errors only")
    flags.add_json(parser)


def _thread_counts(text: str) -> tuple[int, ...]:
    counts = tuple(flags.whole(1, 4096)(part) for part in text.split(","))
    if len(set(counts)) < len(counts):
        raise argparse.ArgumentTypeError(f"{text!r} names a count twice")
    return counts


def _run(args: argparse.Namespace) -> int:
    return guard.once("bench", lambda: _bench(BenchFlags.of(args)))


def _bench(options: BenchFlags) -> None:
    # There is a transformer in it, whose step can be compared.
    preset = options.preset or (None if options.config else "literal")
    cfg = config.load(preset, options.config, options.overrides)
    from prequential.study import bench

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > _BUSY:
        terminal.say(
            f"warning: this machine is busy (load {load:.1f}), which belies the figures: run again"
            " when it is idle"
        )
    told = (lambda _: None) if options.quiet else terminal.say
    result = bench.run(cfg, options.threads, options.rounds, told)
    if options.json:
        terminal.out(result.to_json())
    else:
        _show(result)


def _show(result: Result) -> None:
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
    if result.step_gflops:  # there is a transformer
        share = result.step_gflops / result.sgemm_gflops
        terminal.out(
            f"\nexact step: {result.step_gflops:.1f} GFLOP/s in matrix products,"
            f" {100 * share:.0f} % of this machine's sgemm ({result.sgemm_gflops:.1f}, one thread)"
        )
    terminal.out(
        f"chunks of {result.tokens_per_chunk} tokens; {result.rounds} rounds, in turns;"
        f" warm-up and first chunks {result.first_chunk_seconds:.1f} s"
    )
