"""``preq``: the parser of all commands, and what holds for each of them."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from prequential._version import __version__
from prequential.archive.files import STDIO, display
from prequential.cli import (
    bench,
    cat,
    checkpoints,
    compare,
    completion,
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
    short,
    terminal,
    test,
    where,
)
from prequential.cli.options import EPILOG, add_config

# What for, the commands, one of them as it is used.
GROUPS = (
    ("archives", (encode, decode, cat, test, info), "preq encode --preset fast report.txt"),
    (
        "what is known on both sides",
        (learn,),
        "preq learn old.txt -o s && preq encode new.txt --given old.txt --state s",
    ),
    (
        "measuring",
        (mdl, where, score, distance, curve, compare),
        "preq mdl data.csv --epochs 1,2,4 --grid model.width=64,128",
    ),
    ("this machine", (doctor, bench, completion), "preq completion bash > preq.bash"),
)
COMMANDS = tuple(command for _, commands, _ in GROUPS for command in commands)
_USAGE = """\
preq COMMAND [FLAGS] FILE...
       preq [-d | -t | -l] [-c] [-f] [-k] [-q] [-v] [--rm] [-o OUT] [FLAGS] [FILE...]"""
_DESCRIPTION = """\
Compress a file by training a model on it as it is coded, and back.

Without a command the flags are those of gzip and zstd, and no file is standard input: encode, with
-d decode, -t test, -l info, and the flags of each. As with zstd, inputs are kept unless --rm is
given, and as with both, an existing output unless -f is, and -d ignores settings such as --preset.
Figures are shown with -v.
"""


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


class _Main(_Parser):
    """The parser of all commands, which argparse would list without their groups."""

    def format_help(self) -> str:
        lines = [self.format_usage(), _DESCRIPTION]
        for title, commands, example in GROUPS:
            lines.append(f"{title}:")
            for name in map(_name, commands):
                lines.append(f"  {name:10}  {(self.commands[name].description or '').rstrip('.')}")
            lines.append(f"  example:    {example}\n")
        lines.append("preq COMMAND --help shows the flags of a command, --version the version.\n")
        return "\n".join([*lines, EPILOG])

    commands: Mapping[str, argparse.ArgumentParser]


def _name(command: ModuleType) -> str:
    return command.__name__.rpartition(".")[2]


def build_parser() -> _Main:
    """Describe the commands and their flags."""
    parser = _Main(prog="preq", usage=_USAGE, description=_DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"preq {__version__}")
    commands = parser.add_subparsers(
        title="commands", required=True, metavar="COMMAND", prog="preq", parser_class=_Parser
    )
    for command in COMMANDS:
        command.add(commands)
    parser.commands = commands.choices
    return parser


def _without_settings(words: list[str]) -> list[str]:
    """Leave out what only encoding heeds: tar gives a program the same flags both ways."""
    if words[0] == "encode":
        return words
    settings = argparse.ArgumentParser(prog="preq", add_help=False, allow_abbrev=False)
    add_config(settings)
    settings.add_argument("--verify", action="store_true")
    settings.add_argument("--epochs")
    end = _flags_end(words)
    return settings.parse_known_args(words[:end])[1] + words[end:]


def _flags_end(words: Sequence[str]) -> int:
    """Where `--` stands, behind which all words are files, or the end."""
    return words.index("--") if "--" in words else len(words)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, checked together; flags may stand between files."""
    parser = build_parser()
    argv = sys.argv[1:] if argv is None else argv
    if is_short := short.is_short(argv, parser.commands):
        args, rest = parser.parse_known_args(_without_settings(short.with_command(argv)))
        args.silent = True
    elif argv[0] in parser.commands or argv[0].startswith("-"):
        args, rest = parser.parse_known_args(argv)
    else:
        parser.error(f"{display(argv[0])}: is neither a command nor a file; see preq --help")
    args.argv = list(argv)
    files = getattr(args, "files", None)
    end = _flags_end(rest)
    unknown = [name for name in rest[:end] if name[:1] == "-" and name != STDIO]
    if unknown or (rest and files is None):
        parser.error(f"unrecognized arguments: {display(' '.join(unknown or rest))}")
    if files is None:
        return args
    files += rest[:end] + rest[end + 1 :]
    levels = [name for name in argv[: _flags_end(argv)] if re.fullmatch(r"-\d+", name)]
    if levels and levels[0] in files:
        parser.error(f"{levels[0]}: there are no levels: --preset says how much work is done")
    if is_short and (late := [n for n in files if n in parser.commands and not os.path.lexists(n)]):
        parser.error(f"{late[0]}: a command comes first, before its flags")
    if not files:
        if sys.stdin is not None and sys.stdin.isatty():
            parser.error("no file is given, and standard input is a terminal; see preq --help")
        files.append(STDIO)
    if files.count(STDIO) > 1:
        parser.error("standard input can be given only once")
    if "output" in args:
        if args.output == "":
            parser.error("-o takes a file's name, not an empty one")
        joins = args.output == STDIO and getattr(args, "joins", False)
        if args.output is not None and len(files) > 1 and not joins:
            parser.error("-o takes a single input file, and so does -c: archives are not joined")
        for name in ("save_weights", "bits"):
            if getattr(args, name, None) is not None and len(files) > 1:
                parser.error(f"--{name.replace('_', '-')} takes a single input file")
        to_stdout = args.output == STDIO or (args.output is None and STDIO in files)
        if getattr(args, "resume", False) and to_stdout:
            parser.error("standard output has no checkpoint to --resume from: use -o FILE")
        if getattr(args, "json", False) and to_stdout and not getattr(args, "dry_run", False):
            parser.error("--json and the output cannot both go to standard output: use -o FILE")
    return args
