"""``preq cat``: what archives hold, one after the other, on standard output."""

from __future__ import annotations

from prequential.archive.files import STDIO
from prequential.cli import decode
from prequential.cli import options as flags


def add(commands: flags.Commands) -> None:
    """The parser of ``preq cat``."""
    text = "write the original of ARCHIVE to standard output"
    parser = flags.add_command(commands, "cat", text, decode.run, "[ARCHIVE]")
    parser.set_defaults(output=STDIO, joins=True, silent=True)
    flags.add_decoding(parser)
