"""``preq completion``: what makes a shell complete commands, flags and the names of files."""

from __future__ import annotations

import argparse

from prequential.cli import guard, terminal
from prequential.cli import options as flags
from prequential.errors import ConfigError

_SHELLS = ("bash", "zsh", "tcsh")
_FILES = ("FILE", "ARCHIVE", "A", "OUT", "STATE", "LOG", "TRACE", "F.safetensors")


def add(commands: flags.Commands) -> None:
    """The parser of ``preq completion``."""
    text = "print what makes a shell complete preq's commands and flags"
    parser = flags.add_command(commands, "completion", text, _run)
    parser.add_argument("shell", choices=_SHELLS)


def _run(args: argparse.Namespace) -> int:
    return guard.once("completion", lambda: _completion(args.shell))


def _completion(shell: str) -> None:
    try:
        import shtab
    except ImportError as error:
        told = "needs shtab, which is not installed: pip install 'prequential[completion]'"
        raise ConfigError(f"completion: {told}") from error
    from prequential.cli.entry import build_parser  # which lists this command, too

    parser = build_parser()
    for command in parser.commands.values():
        for action in command._actions:
            if _names_file(action):
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # what shtab looks for
    terminal.out(shtab.complete(parser, shell).rstrip("\n"))


def _names_file(action: argparse.Action) -> bool:
    """Whether an argument is a file's name, as its help says."""
    shown = action.metavar if isinstance(action.metavar, str) else ""
    return shown in _FILES or shown.startswith(("FILE.", "OUT."))
