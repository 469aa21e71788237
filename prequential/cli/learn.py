"""``preq learn``: what becomes of the model by learning files, kept for ``--given`` and others."""

from __future__ import annotations

import argparse
import dataclasses
import os
from contextlib import ExitStack, suppress

from prequential.archive.files import atomic_output, check_target, display, display_target
from prequential.cli import guard, terminal
from prequential.cli import options as flags
from prequential.cli.options import Options


def add(commands: flags.Commands) -> None:
    """The parser of ``preq learn``."""
    text = "learn A, and keep the state for --given A --state STATE"
    parser = flags.add_command(commands, "learn", text, _run, "A", flags.NOT_WRITTEN)
    flags.add_json(parser)
    parser.add_argument(
        "-o", "--output", dest="state", metavar="STATE", help="the state's file", required=True
    )
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing output")
    flags.add_compute(parser)
    flags.add_memory(parser)
    flags.add_config(parser)
    flags.add_prior(parser)


def _run(args: argparse.Namespace) -> int:
    options = Options.of(args)
    return guard.once("learn", lambda: _learn(options))


def _learn(options: Options) -> None:
    target = options.state or ""
    mode = 0o666  # it tells what is in them: for nobody else's eyes than they are
    for name in options.files:
        check_target(target, name, force=options.force, binary=True)
        with suppress(OSError):  # which is told when it is read
            mode &= os.stat(name).st_mode
    config = options.model()
    with ExitStack() as stack:
        named = dataclasses.replace(options, given=options.files)
        given = stack.enter_context(named.open_given())
        output = stack.enter_context(atomic_output(target, force=options.force, mode=mode))
        from prequential import codec

        with options.bar(options.files[0]) as progress:
            header, seconds = codec.learn(
                output.file,
                config=config,
                seed=options.seed,
                options=options.run(progress, given),
            )
        size = output.file.seek(0, 2)
    if options.json:
        files = [dataclasses.asdict(f) | {"sha256": f.sha256.hex()} for f in header.given]
        terminal.out_json(
            {
                "output": target,
                "state_bytes": size,
                "given": files,
                "given_bytes": header.given_bytes,
                "seconds": seconds,
            }
        )
    if not options.quiet:
        rows = [("given", f"{display(name)}") for name in options.files]
        rows += [
            ("state", display_target(target)),
            ("size", f"{size:,} bytes"),
            ("time", f"{seconds:.1f} s, {header.given_bytes / max(seconds, 1e-9) / 1000:.1f} kB/s"),
        ]
        terminal.pairs(rows, stderr=True)
