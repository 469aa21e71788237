"""``preq encode``: a file to its archive, or to a program that restores it."""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from prequential.archive.files import (
    RUNNABLE_SUFFIX,
    STDIO,
    Output,
    atomic_output,
    check_target,
    default_target,
    display,
    display_target,
    open_input,
    remove_input,
)
from prequential.cli import archives, checkpoints, guard, summary, team, terminal
from prequential.cli import options as flags
from prequential.cli.options import Options
from prequential.cli.warmup import compile_apart
from prequential.errors import ConfigError

if TYPE_CHECKING:
    from prequential.coding.itemised import Costs
    from prequential.report import Report


def add(commands: flags.Commands) -> None:
    """The parser of ``preq encode``."""
    text = "compress FILE to FILE.pq"
    parser = flags.add_command(commands, "encode", text, _run, "[FILE]", flags.NOT_WRITTEN)
    flags.add_json(parser, "one JSON object per file")
    flags.add_output(parser)
    flags.add_keeping(parser, "once its archive is written and, as with --verify, decoded")
    flags.add_checkpoints(parser)
    flags.add_compute(parser)
    flags.add_memory(parser)
    flags.add_config(parser)
    parser.add_argument("--verify", action="store_true", help="decode in a second process first")
    parser.add_argument(
        "--epochs",
        dest="overrides",
        action="append",
        type=lambda text: f"epochs={flags.whole(1, 64)(text)}",
        metavar="E",
        help="steps per chunk, E - 1 of them on past chunks",
    )
    parser.add_argument(
        "--self-extracting",
        action="store_true",
        help="write FILE.pyz, decoder included: python FILE.pyz -o FILE restores the file",
    )
    flags.add_prior(parser)
    flags.add_given(parser)
    parser.add_argument(
        "--save-weights",
        metavar="OUT",
        help="write the final weights and n-gram tables, without what the memory has counted, for"
        " --prior; see --given for all of it",
    )
    flags.add_bits(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show settings, memory and estimated time, and write nothing",
    )
    team.add_distributed(parser)


def _run(args: argparse.Namespace) -> int:
    options = Options.of(args)
    return guard.each(options.files, partial(_encode, options))


def _encode(options: Options, source: str) -> None:
    if options.dry_run:
        return _plan(options, source)
    if options.distributed:
        return team.encode(options, source)
    config = options.model()
    target = _target(options, source)
    removing = archives.removing(options, source, target)
    keeper = checkpoints.keeper(options, "encode", target)
    with ExitStack() as stack:
        original = stack.enter_context(open_input(source))
        given = stack.enter_context(options.open_given())
        output = stack.enter_context(
            atomic_output(target, force=options.force, like=original.status)
        )
        weights, bits = (
            stack.enter_context(atomic_output(name, force=options.force)).file if name else None
            for name in (options.save_weights, options.bits)
        )
        from prequential import codec

        size = sum(g.file.size for g in given)
        compile_apart(config.resolve(len(original.data), None, size).memory_bytes())
        archive = io.BytesIO() if options.self_extracting else output.file
        with options.bar(source) as progress, checkpoints.interruptible(keeper):
            run = options.run(progress, given, kept=options.kept, checkpoints=keeper)
            report = codec.encode(
                original.data, archive, config=config, seed=options.seed, options=run,
                weights=weights, told=partial(_write_bits, bits) if bits else None,
            )  # fmt: skip
        if isinstance(archive, io.BytesIO):
            report = _write_self_extracting(archive, output, report)
        if options.verify or removing:
            _verify(options, output, report.original_bytes)
    if keeper is not None:
        keeper.remove()
    if removing and original.status is not None:
        remove_input(source, original.status)
    summary.show(options, source, target, report)


def _target(options: Options, source: str) -> str:
    """Where the archive goes; neither it nor the weights may destroy anything."""
    target = options.output or default_target(source, decoding=False)
    if options.output is None and options.self_extracting and source != STDIO:
        target = source + RUNNABLE_SUFFIX
    check = partial(
        check_target, source=source, force=options.force, binary=True, others=options.read_too
    )
    check(target)
    others = {"--save-weights": options.save_weights, "--bits": options.bits}
    taken = {os.path.realpath(target): "the archive"}
    for flag, name in others.items():
        if name:
            check(name)
            other = taken.setdefault(os.path.realpath(name), flag)
            if other != flag:
                raise ConfigError(f"{display(source)}: {other} and {flag} have one name")
    if options.bits and options.resume:
        raise ConfigError(f"{display(source)}: --bits needs the whole run: leave out --resume")
    return target


def _write_bits(file: BinaryIO, costs: Costs) -> None:
    import numpy as np

    np.save(file, costs.per_byte())


def _write_self_extracting(archive: io.BytesIO, output: Output, report: Report) -> Report:
    from prequential.archive import codesize, selfextract
    from prequential.archive.container import ArchiveReader

    header = ArchiveReader(io.BytesIO(archive.getvalue()), "archive").header
    size = selfextract.write(archive.getvalue(), output.file, codesize.parts(header))
    return summary.of_runnable(report, size)


def _verify(options: Options, output: Output, original_bytes: int) -> None:
    from prequential.study import child

    output.file.flush()
    child.verify(
        output.path,
        f"{display_target(output.target)}: not written, --verify could not decode it",
        original_bytes=original_bytes,
        memory_bytes=options.limits().memory_bytes,
        threads=options.threads,
        device=options.device,
        prior=options.prior,
        given=options.given,
    )


def _plan(options: Options, source: str) -> None:
    """Settings, memory and estimated time, of a file that is read and not encoded."""
    with open_input(source) as original, options.open_given() as given:
        from prequential import codec
        from prequential.training import run as runs

        run = runs.Options(device=options.device, given=given, limits=options.limits())
        plan = codec.plan(original.data, options.model(), run)
        size = len(original.data)
    figures: dict[str, object] = {
        "file": source,
        "original_bytes": size,
        "given_bytes": sum(g.file.size for g in given),
        "tokens": plan.tokens,
        "memory_bytes": plan.memory_bytes,
        "seconds_at_most": round(plan.seconds, 1),
        "config": dataclasses.asdict(plan.config),
    }
    if options.json:
        return terminal.out_json(figures)
    figures["file"] = display(source)
    terminal.group(figures)
    figures["seconds_at_most"] = f"{figures['seconds_at_most']} on two cores"
    terminal.pairs(list(terminal.flatten(figures)))
