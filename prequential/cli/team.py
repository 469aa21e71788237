"""``preq encode --distributed``: one archive by several processes, started with torchrun."""

from __future__ import annotations

import argparse
import io
import json
from functools import partial

from prequential.archive.files import STDIO, atomic_output, check_target, default_target, open_input
from prequential.cli import terminal
from prequential.cli.options import Options
from prequential.errors import ConfigError


def add_distributed(parser: argparse.ArgumentParser) -> None:
    """The flag of ``preq encode``."""
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="share the streams with the other processes of torchrun; see docs/SCALE.md",
    )


def encode(options: Options, source: str) -> None:
    """Encode with the other ranks; the first one alone writes the archive and reports."""
    others = ("verify", "self_extracting", "save_weights", "bits", "prior", "state", "resume")
    if refused := [name for name in others if getattr(options, name)]:
        raise ConfigError(f"--distributed does not go with --{refused[0].replace('_', '-')}")
    if options.remove:
        raise ConfigError("--distributed does not go with --rm")
    if source == STDIO:
        raise ConfigError("--distributed: every process reads the input: give a file")
    config = options.model()
    if not config.has_transformer:
        raise ConfigError(
            "--distributed: what processes share is a transformer, which this preset has not:"
            " use --preset literal or gpu, or --set model.layers=N"
        )
    from prequential import codec
    from prequential.training import run as runs
    from prequential.training import team

    target = options.output or default_target(source, decoding=False)
    with (
        team.joined(options.device) as ranks,
        open_input(source) as original,
        options.open_given() as given,
    ):
        shared = partial(team.SharedLearner, ranks) if ranks.size > 1 else None
        run = partial(
            codec.encode,
            original.data,
            config=config,
            seed=options.seed,
            options=runs.Options(
                device=options.device,
                threads=options.threads or 1,
                given=given,
                limits=options.limits(),
                new_learner=shared,
            ),
        )
        if ranks.rank > 0:
            run(io.BytesIO())
            return
        check_target(target, source, force=options.force, binary=True, others=options.read_too)
        with atomic_output(target, force=options.force, like=original.status) as output:
            report = run(output.file)
    if options.json:
        named = {"file": source, "output": target, "ranks": ranks.size}
        terminal.out_json(named | json.loads(report.to_json()))
    if not options.quiet:
        rate = f"{report.archive_bytes:,} bytes, {report.seconds:.1f} s by {ranks.size} processes"
        terminal.say(f"{target}: {rate}")
