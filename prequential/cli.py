"""The ``preq`` command: arguments, messages and exit codes; the work is done in ``codec``."""

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, BinaryIO, TextIO

import numpy as np
from numpy.typing import NDArray

from prequential import __version__, config
from prequential.container import CONTAINER_VERSION, MAX_SEED, ArchiveReader
from prequential.errors import DivergenceError, PrequentialError
from prequential.files import (
    STDIO,
    Output,
    atomic_output,
    check_target,
    default_target,
    display,
    open_binary,
    open_input,
)
from prequential.progress import ProgressCallback, progress_bar

if TYPE_CHECKING:
    from prequential.report import Report

OK, ERROR, INTERRUPTED = 0, 1, 130  # wrong usage is argparse's 2

_EPILOG = """\
FILE and ARCHIVE may be - for standard input; the output is then standard output unless -o is
given. Exit codes: 0 done, 1 error, 2 wrong usage, 130 interrupted; with several files the worst.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (argparse leaves with 2 by SystemExit)."""
    if argv is None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    parser = build_parser()
    args = parser.parse_args(argv)
    _check_usage(parser, args)
    try:
        return max(_guarded(args, name) for name in args.files)
    except KeyboardInterrupt:
        _say("interrupted: the file in work was not written")
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Describe the commands and their flags."""
    parser = argparse.ArgumentParser(
        prog="preq",
        description="Compress a file by training a model on it as it is coded, and back.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"preq {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    encode = _command(commands, _encode, "encode", "compress FILE to FILE.pq", "FILE")
    _add_output(encode)
    _add_compute(encode)
    _add_config(encode)
    encode.add_argument("--verify", action="store_true", help="decode in a second process first")

    decode = _command(commands, _decode, "decode", "restore the original of ARCHIVE", "ARCHIVE")
    _add_output(decode)
    _add_compute(decode)

    test = _command(commands, _test, "test", "decode ARCHIVE without writing", "ARCHIVE")
    _add_compute(test)

    _command(commands, _info, "info", "show the header of ARCHIVE", "ARCHIVE")
    return parser


if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]
_Action = Callable[[argparse.Namespace, str], None]


def _command(
    commands: "_Commands", action: _Action, name: str, text: str, metavar: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text + ".", epilog=_EPILOG)
    parser.set_defaults(action=action, output=None, force=False, quiet=False)
    parser.add_argument("files", nargs="+", metavar=metavar)
    parser.add_argument("--json", action="store_true", help="one JSON object per file on stdout")
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="OUT", help="output file, - for stdout")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing output")


def _add_compute(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=_threads, metavar="N", help="CPU threads")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-q", "--quiet", action="store_true", help="errors only")
    volume.add_argument("-v", "--verbose", action="store_true", help="a longer result table")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="0 to 2^64 - 1")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", choices=config.preset_names(), help="a packaged configuration")
    source.add_argument("--config", metavar="FILE.toml", help="a configuration file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one setting; may be repeated",
    )


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 0 to 2^64 - 1")
    return int(text)


def _threads(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads from 1 to 4096")
    return int(text)


def _check_usage(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.output is not None and len(args.files) > 1:
        parser.error("-o takes a single input file")
    if args.files.count(STDIO) > 1:
        parser.error("standard input can be given only once")
    writes = args.action in (_encode, _decode)
    to_stdout = args.output == STDIO or (args.output is None and STDIO in args.files)
    if writes and args.json and to_stdout:
        parser.error("--json and the output cannot both go to standard output: use -o FILE")


def _guarded(args: argparse.Namespace, name: str) -> int:
    """Run the command on one file; any expected failure becomes one line and exit code 1."""
    try:
        args.action(args, name)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where its failure has a message
        return OK
    except PrequentialError as error:
        _say(f"error: {error}")
    except BrokenPipeError:
        # Python would complain again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _say("error: standard output was closed before all was written")
    except OSError as error:
        where = display(os.fsdecode(error.filename)) if error.filename else display(name)
        _say(f"error: {where}: {error.strerror or error}: check the disk and permissions")
    except MemoryError:
        _say(f"error: {display(name)}: not enough memory: free some or use a larger machine")
    return ERROR


def _say(message: str) -> None:
    print("preq:", *message.splitlines(), file=sys.stderr)  # one line, whatever it quotes


def _encode(args: argparse.Namespace, source: str) -> None:
    cfg = config.load(args.preset, args.config, args.overrides)
    target = args.output or default_target(source, decoding=False)
    check_target(target, source, force=args.force, binary=True)
    with (
        open_input(source) as original,
        atomic_output(target, force=args.force, mode=original.mode) as output,
    ):
        from prequential import codec

        with _progress(args, source) as progress:
            report = codec.encode(
                original.data,
                output.file,
                config=cfg,
                seed=args.seed,
                device=args.device,
                threads=args.threads,
                progress=progress,
            )
        if args.verify:
            _verify(args, output)
    _show_report(args, source, target, report)


def _verify(args: argparse.Namespace, output: Output) -> None:
    """Decode the finished archive in another process with other threads."""
    output.file.flush()
    threads = 2 if args.threads == 1 else 1
    options = ["--threads", str(threads), "--device", args.device, "--quiet", "--no-progress"]
    command = [sys.executable, "-m", "prequential", "test", *options, "--", output.path]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    if result.returncode != OK:
        lines = result.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise DivergenceError(
            f"{display(output.target)}: not written, --verify could not decode it"
            f" (exit code {result.returncode}; {lines[-1].removeprefix('preq: error: ')}):"
            " check this machine's memory, then report it"
        )


def _decode(args: argparse.Namespace, source: str) -> None:
    target = args.output or default_target(source, decoding=True)
    check_target(target, source, force=args.force, binary=False)
    with open_binary(source) as (archive, status):
        mode = 0o666 if status is None else status.st_mode & 0o777
        with atomic_output(target, force=args.force, mode=mode) as output:
            report = _run_decoder(args, source, archive, output.allocate)
    _show_report(args, source, target, report)


def _test(args: argparse.Namespace, source: str) -> None:
    with open_binary(source) as (archive, _):
        report = _run_decoder(args, source, archive, _allocate)
    _show_report(args, source, None, report)


def _info(args: argparse.Namespace, source: str) -> None:
    with open_binary(source) as (archive, status):
        reader = ArchiveReader(archive, display(source))
    header = reader.header
    fields: dict[str, object] = {
        "file": source,
        "mode": header.mode,
        "original_bytes": header.original_bytes,
        "archive_bytes": None if status is None else status.st_size,
        "header_bytes": reader.header_bytes,
        "container_version": CONTAINER_VERSION,
        "numerics_version": header.numerics_version,
        "seed": header.seed,
        "sha256": header.sha256.hex(),
        "config": None if header.config is None else dataclasses.asdict(header.config),
    }
    if args.json:
        print(json.dumps(fields))
        return
    fields["file"] = display(source)
    _table(sys.stdout, list(_flatten(fields)))


def _flatten(tree: dict[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Rows of a table from nested dictionaries, None left out.

    >>> list(_flatten({"a": 1, "b": {"c": ("o1", "o2"), "d": None}}))
    [('a', '1'), ('b.c', 'o1 o2')]
    """
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, tuple):
            yield prefix + key, " ".join(map(str, value))
        elif value is not None:
            yield prefix + key, str(value)


def _run_decoder(
    args: argparse.Namespace,
    source: str,
    archive: BinaryIO,
    allocate: Callable[[int], NDArray[np.uint8]],
) -> "Report":
    from prequential import codec

    with _progress(args, source) as progress:
        return codec.decode(
            archive,
            allocate,
            name=display(source),
            device=args.device,
            threads=args.threads,
            progress=progress,
        )


def _allocate(size: int) -> NDArray[np.uint8]:
    return np.empty(size, np.uint8)


def _progress(
    args: argparse.Namespace, source: str
) -> AbstractContextManager[ProgressCallback | None]:
    wanted = not (args.quiet or args.no_progress)
    return progress_bar(os.path.basename(display(source)), wanted=wanted)


def _show_report(
    args: argparse.Namespace, source: str, target: str | None, report: "Report"
) -> None:
    if args.json:
        print(report.to_json())
    if args.quiet:
        return
    rows = [("input", display(source))]
    if target is not None:
        rows.append(("output", "standard output" if target == STDIO else display(target)))
    rows += [
        ("original", f"{report.original_bytes:,} bytes"),
        ("archive", f"{report.archive_bytes:,} bytes"),
        ("rate", f"{report.bits_per_byte:.4f} bits/byte"),
        ("time", f"{report.seconds:.1f} s, {report.bytes_per_second / 1000:.1f} kB/s"),
    ]
    if args.verbose:
        rows += [("sha256", report.sha256), ("weights", report.weights_digest)]
    _table(sys.stderr, rows)


def _table(stream: TextIO, rows: Sequence[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows:
        table.add_row(key, Text(value))
    Console(file=stream).print(table)
