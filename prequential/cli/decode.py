"""``preq decode``: an archive to its original."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise

from prequential.archive.files import (
    Output,
    atomic_output,
    check_target,
    default_target,
    display_target,
    remove_input,
)
from prequential.cli import archives, checkpoints, guard, summary
from prequential.cli import options as flags
from prequential.cli.options import Options
from prequential.errors import ArchiveError, ConfigError, DivergenceError


def add(commands: flags.Commands) -> None:
    """The parser of ``preq decode``."""
    text = "restore the original of ARCHIVE"
    parser = flags.add_command(commands, "decode", text, run, "[ARCHIVE]", flags.NOT_WRITTEN)
    parser.set_defaults(joins=True)
    flags.add_json(parser, "one JSON object per file")
    flags.add_output(parser)
    flags.add_keeping(parser, "once its original is written and has the digest that was stored")
    flags.add_checkpoints(parser)
    parser.add_argument(
        "--salvage", action="store_true", help="of a damaged archive, write what comes before"
    )
    parser.add_argument(
        "--save-weights",
        metavar="OUT",
        help="write the final weights, as encode --save-weights did: the archive regenerates them",
    )
    flags.add_decoding(parser)


def run(args: argparse.Namespace) -> int:
    """Decode all files of the arguments."""
    options = Options.of(args)
    return guard.each(options.files, partial(_decode, options))


def _decode(options: Options, source: str) -> None:
    target = options.output or default_target(source, decoding=True)
    check_target(target, source, force=options.force, binary=False, others=options.read_too)
    if options.save_weights is not None:
        _check_weights(options, source, target)
    removing = archives.removing(options, source, target)
    keeper = checkpoints.keeper(options, "decode", target)
    fault, decoded = None, list[slice]()
    with ExitStack() as stack:
        archive = stack.enter_context(archives.open_archive(source))
        output = stack.enter_context(
            atomic_output(target, force=options.force, like=archive.status)
        )
        weights = None
        if options.save_weights is not None:
            weights = stack.enter_context(atomic_output(options.save_weights, force=options.force))
        try:
            report = archives.decode(
                options, source, archive, output.allocate, keeper=keeper, decoded=decoded,
                weights=weights.file if weights else None,
            )  # fmt: skip
        except (ArchiveError, DivergenceError) as error:
            if not options.salvage:
                raise
            if not decoded:
                raise type(error)(f"{error}; nothing comes before it, none was salvaged") from error
            fault = error
            _zero_gaps(output, decoded)
    if fault is not None:
        raise type(fault)(f"{fault}; {_salvaged(target, decoded)}")
    if keeper is not None:
        keeper.remove()
    if removing and archive.status is not None:
        remove_input(source, archive.status)
    summary.show(options, source, target, report)


def _check_weights(options: Options, source: str, target: str) -> None:
    """See that the weights' file destroys nothing. Raises FileError, ConfigError."""
    name = options.save_weights or ""
    check_target(name, source, force=options.force, binary=True, others=options.read_too)
    if os.path.realpath(name) == os.path.realpath(target):
        raise ConfigError(f"{display_target(name)}: the output and --save-weights have one name")
    if options.salvage:
        raise ConfigError("--save-weights needs a whole archive: leave out --salvage")


def _zero_gaps(output: Output, decoded: Sequence[slice]) -> None:
    """Keep what is decoded, where it was; what is not becomes zeros, or is cut off at the end."""
    import numpy as np

    size = decoded[-1].stop
    output.file.truncate(size)
    array = np.memmap(output.file, np.uint8, "r+", shape=(size,))
    for part, following in pairwise(decoded):
        array[part.stop : following.start] = 0


def _salvaged(target: str, decoded: Sequence[slice]) -> str:
    """What of the original is in a salvaged output."""
    size = sum(part.stop - part.start for part in decoded)
    parts = ", ".join(f"{part.start}..{part.stop - 1}" for part in decoded[:8])
    more = f" and {len(decoded) - 8} parts more" if len(decoded) > 8 else ""
    gaps = ", zeros between them" if len(decoded) > 1 else ""
    name = display_target(target)
    return f"salvaged to {name}: {size} bytes, the original's bytes {parts}{more}{gaps}"
