"""The command `preq`: `entry` has the parser, then a module for each command."""

from prequential.cli.entry import main

__all__ = ["main"]
