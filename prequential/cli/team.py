"""``preq encode --distributed``: one archive by several processes, started with torchrun."""

import argparse
import io
import json
from functools import partial

from prequential.archive.container import Limits
from prequential.archive.files import STDIO, atomic_output, check_target, default_target, open_input
from prequential.cli import terminal
from prequential.config import Config
from prequential.errors import ConfigError


def add_distributed(parser: argparse.ArgumentParser) -> None:
    """The flag of ``preq encode``."""
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="share the streams with the other processes of torchrun; see docs/SCALE.md",
    )


def encode(args: argparse.Namespace, source: str, config: Config, limits: Limits) -> None:
    """Encode with the other ranks; the first one alone writes the archive and reports."""
    others = ("verify", "self_extracting", "save_weights", "prior", "resume")
    if given := [name for name in others if getattr(args, name)]:
        raise ConfigError(f"--distributed does not go with --{given[0].replace('_', '-')}")
    if source == STDIO:
        raise ConfigError("--distributed: every process reads the input: give a file")
    from prequential import codec
    from prequential.training import team

    target = args.output or default_target(source, decoding=False)
    with team.joined(args.device) as ranks, open_input(source) as original:
        run = partial(
            codec.encode,
            original.data,
            config=config,
            seed=args.seed,
            device=args.device,
            threads=args.threads or 1,
            limits=limits,
        )
        if ranks.size > 1:
            run = partial(run, new_learner=partial(team.SharedLearner, ranks))
        if ranks.rank > 0:
            run(io.BytesIO())
            return
        check_target(target, source, force=args.force, binary=True)
        with atomic_output(target, force=args.force, mode=original.mode) as output:
            report = run(output.file)
    if args.json:
        terminal.out_json({**json.loads(report.to_json()), "ranks": ranks.size})
    if not args.quiet:
        rate = f"{report.archive_bytes:,} bytes, {report.seconds:.1f} s by {ranks.size} processes"
        terminal.say(f"{target}: {rate}")
