"""``preq``: the parser of all commands, and what holds for each of them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from prequential._version import __version__
from prequential.archive.files import STDIO, display
from prequential.cli import (
    bench,
    checkpoints,
    compare,
    curve,
    decode,
    distance,
    doctor,
    encode,
    guard,
    info,
    learn,
    mdl,
    score,
    terminal,
    test,
    where,
)
from prequential.cli.options import EPILOG

COMMANDS = (
    *(encode, decode, test, info),
    *(learn, score, distance, where, mdl, curve, compare),
    *(bench, doctor),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (argparse leaves with 2 by SystemExit)."""
    if argv is None:
        terminal.fill_descriptors()
        checkpoints.interrupt_on_signals()
    args = argparse.Namespace()
    with terminal.standard_error():
        try:
            args = _parse(argv)
            try:
                os.getcwd()
            except OSError:  # libraries abort there
                terminal.say("error: the working directory is gone: change to one that is there")
                return guard.ERROR
            return args.run(args)  # type: ignore[no-any-return]
        except KeyboardInterrupt as interrupt:
            terminal.say(str(interrupt) or getattr(args, "interrupted", "interrupted"))
            return guard.INTERRUPTED
        finally:
            terminal.drop_unwritten()


class _Parser(argparse.ArgumentParser):
    """Help is written like any output: argparse would not say that it could not be."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is not sys.stdout:  # usage, on standard error
            terminal.note(message)
        elif guard.once("standard output", lambda: terminal.out(message.rstrip("\n"))):
            raise SystemExit(guard.ERROR)


def build_parser() -> argparse.ArgumentParser:
    """Describe the commands and their flags."""
    parser = _Parser(
        prog="preq",
        description="Compress a file by training a model on it as it is coded, and back.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"preq {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, checked together; flags may stand between files."""
    parser = build_parser()
    argv = sys.argv[1:] if argv is None else argv
    args, rest = parser.parse_known_args(argv)
    args.argv = list(argv)
    files = getattr(args, "files", None)
    end = rest.index("--") if "--" in rest else len(rest)
    unknown = [name for name in rest[:end] if name[:1] == "-" and name != STDIO]
    if unknown or (rest and files is None):
        parser.error(f"unrecognized arguments: {display(' '.join(unknown or rest))}")
    if files is None:
        return args
    files += rest[:end] + rest[end + 1 :]
    if files.count(STDIO) > 1:
        parser.error("standard input can be given only once")
    if "output" in args:
        if args.output == "":
            parser.error("-o takes a file's name, not an empty one")
        if args.output is not None and len(files) > 1:
            parser.error("-o takes a single input file")
        for name in ("save_weights", "bits"):
            if getattr(args, name, None) is not None and len(files) > 1:
                parser.error(f"--{name.replace('_', '-')} takes a single input file")
        to_stdout = args.output == STDIO or (args.output is None and STDIO in files)
        if args.resume and to_stdout:
            parser.error("standard output has no checkpoint to --resume from: use -o FILE")
        if args.json and to_stdout and not getattr(args, "dry_run", False):
            parser.error("--json and the output cannot both go to standard output: use -o FILE")
    return args
