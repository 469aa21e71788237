"""``preq test``: whether an archive decodes, without writing anything."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from prequential.cli import archives, guard, summary
from prequential.cli import options as flags
from prequential.cli.options import Options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def add(commands: flags.Commands) -> None:
    """The parser of ``preq test``."""
    text = "decode ARCHIVE without writing"
    parser = flags.add_command(commands, "test", text, _run, "[ARCHIVE]")
    flags.add_json(parser, "one JSON object per file")
    flags.add_decoding(parser)


def _run(args: argparse.Namespace) -> int:
    options = Options.of(args)
    return guard.each(options.files, partial(_test, options))


def _test(options: Options, source: str) -> None:
    with archives.open_archive(source) as archive:
        report = archives.decode(options, source, archive, _allocate, in_memory=True)
    summary.show(options, source, None, report)


def _allocate(size: int) -> NDArray[np.uint8]:
    import numpy as np

    return np.empty(size, np.uint8)
