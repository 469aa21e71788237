"""The command `preq`: `entry` has the parser, then a module for each command."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        from prequential.cli import entry  # within: loading takes time, and Ctrl-C may come
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("preq: interrupted", file=sys.stderr)
        return 130
    return entry.main(argv)
