"""The ``preq`` command: arguments, messages and exit codes; the work is done in ``codec``."""

import argparse
import dataclasses
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import pairwise
from types import FrameType
from typing import TYPE_CHECKING, BinaryIO

from prequential import __version__, config
from prequential.archive.container import (
    CONTAINER_VERSION,
    MAX_SEED,
    ArchiveReader,
    Limits,
    PriorName,
)
from prequential.archive.files import (
    RUNNABLE_SUFFIX,
    STDIO,
    Output,
    atomic_output,
    check_target,
    default_target,
    display,
    display_target,
    open_binary,
    open_input,
)
from prequential.cli import bench as cli_bench
from prequential.cli import compare as cli_compare
from prequential.cli import mdl as cli_mdl
from prequential.cli import team as cli_team
from prequential.cli import terminal
from prequential.cli.bar import progress_bar
from prequential.cli.warmup import LARGE_BYTES, compile_apart
from prequential.errors import (
    ArchiveError,
    DivergenceError,
    FileError,
    PlatformError,
    PrequentialError,
)
from prequential.progress import ProgressCallback

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prequential.report import Report
    from prequential.training.checkpoint import Checkpoints
    from prequential.training.prior import Prior

CHECKPOINT_SUFFIX = ".checkpoint"
OK, ERROR, INTERRUPTED = 0, 1, 130  # wrong usage is argparse's 2

_EPILOG = """\
FILE and ARCHIVE may be - for standard input; the output is then standard output unless -o is
given. Exit codes: 0 done, 1 error, 2 wrong usage, 130 interrupted; with several files the worst.
Long runs keep a checkpoint beside the output, from which --resume goes on.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (argparse leaves with 2 by SystemExit)."""
    if argv is None:
        terminal.fill_descriptors()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    with terminal.standard_error():
        parser = build_parser()
        args = parser.parse_args(argv)
        _check_usage(parser, args)
        try:
            return max(_guarded(args, name) for name in args.files)
        except KeyboardInterrupt as interrupt:
            terminal.say(str(interrupt) or "interrupted: the file in work was not written")
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
    _add_checkpoints(encode)
    _add_compute(encode)
    _add_memory(encode)
    _add_config(encode)
    encode.add_argument("--verify", action="store_true", help="decode in a second process first")
    encode.add_argument(
        "--epochs", type=_epochs, metavar="E", help="steps per chunk, E - 1 of them on past chunks"
    )
    encode.add_argument(
        "--self-extracting",
        action="store_true",
        help="write FILE.pyz, decoder included: python FILE.pyz -o FILE restores the file",
    )
    _add_prior(encode)
    encode.add_argument("--save-weights", metavar="OUT", help="write the final weights to a file")
    cli_team.add_distributed(encode)

    decode = _command(commands, _decode, "decode", "restore the original of ARCHIVE", "ARCHIVE")
    _add_output(decode)
    _add_checkpoints(decode)
    decode.add_argument(
        "--salvage", action="store_true", help="of a damaged archive, write what comes before"
    )
    _add_compute(decode)
    _add_memory(decode)
    _add_hours(decode)
    _add_prior(decode)

    test = _command(commands, _test, "test", "decode ARCHIVE without writing", "ARCHIVE")
    _add_compute(test)
    _add_memory(test)
    _add_hours(test)
    _add_prior(test)

    _command(commands, _info, "info", "show the header of ARCHIVE", "ARCHIVE")

    mdl = cli_mdl.add_mdl(commands)
    _add_compute(mdl)
    _add_config(mdl)
    cli_mdl.add_curve(commands)
    cli_compare.add_compare(commands)
    cli_bench.add_bench(commands)

    text = "check what this platform's arithmetic must do"
    doctor = commands.add_parser("doctor", help=text, description=text + ".")
    doctor.set_defaults(action=_doctor, output=None, files=[""])
    doctor.add_argument("--json", action="store_true", help="one JSON object on stdout")
    doctor.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
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


def _add_checkpoints(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume", action="store_true", help="go on from the output's checkpoint")
    parser.add_argument(
        "--checkpoint-seconds",
        type=_seconds,
        default=300.0,
        metavar="S",
        help="time between checkpoints (300), more where writing takes long; 0: none",
    )


def _add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-memory",
        type=_size,
        metavar="SIZE",
        help="limit of what the model may allocate, as 512M or 8G (4G)",
    )


def _add_hours(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-hours",
        type=_hours,
        metavar="H",
        help="limit of estimated work that the archive's size does not pay for (10 minutes)",
    )


def _add_compute(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=_threads, metavar="N", help="CPU threads")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-q", "--quiet", action="store_true", help="errors only")
    volume.add_argument("-v", "--verbose", action="store_true", help="a longer result table")


def _add_prior(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prior", metavar="F.safetensors", help="weights to start from, part of the description"
    )


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
    parser.add_argument(
        "--tokenizer",
        dest="overrides",
        action="append",
        type=lambda text: f"tokenizer={text}",
        metavar="T",
        help="bytes, bpe:SIZE, unigram:SIZE, or the path of a sentencepiece .model",
    )


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 0 to 2^64 - 1")
    return int(text)


def _epochs(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of epochs from 1 to 64")
    return int(text)


def _seconds(text: str) -> float:
    return _number(text, "a number of seconds", 1e9)


def _hours(text: str) -> float:
    return _number(text, "a number of hours", 1e9)


def _number(text: str, what: str, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def _size(text: str) -> int:
    """Bytes, with K, M, G or T for powers of 1024.

    >>> _size("1.5K")
    1536
    """
    power = "KMGT".find(text[-1:].upper()) + 1 if text else 0
    return int(_number(text[:-1] if power else text, "a size such as 512M", 2**40) * 1024**power)


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
    if writes and args.resume and to_stdout:
        parser.error("standard output has no checkpoint to --resume from: use -o FILE")
    if writes and args.json and to_stdout:
        parser.error("--json and the output cannot both go to standard output: use -o FILE")


def _guarded(args: argparse.Namespace, name: str) -> int:
    """Run the command on one file; any expected failure becomes one line and exit code 1."""
    try:
        args.action(args, name)
        return OK
    except PrequentialError as error:
        terminal.say(f"error: {error}")
    except BrokenPipeError:
        terminal.say("error: standard output was closed before all was written")
    except OSError as error:
        where = display(os.fsdecode(error.filename)) if error.filename else display(name)
        terminal.say(f"error: {where}: {error.strerror or error}: check the disk and permissions")
    except MemoryError:
        terminal.say(
            f"error: {display(name)}: not enough memory: free some or use a larger machine"
        )
    return ERROR


def _encode(args: argparse.Namespace, source: str) -> None:
    overrides = args.overrides + ([f"epochs={args.epochs}"] if args.epochs else [])
    cfg = config.load(args.preset, args.config, overrides)
    if args.distributed:
        return cli_team.encode(args, source, cfg, _limits(args))
    if args.self_extracting and source != STDIO:
        target = args.output or source + RUNNABLE_SUFFIX
    else:
        target = args.output or default_target(source, decoding=False)
    check_target(target, source, force=args.force, binary=True)
    keeper = _checkpoints(args, "encode", target)
    with ExitStack() as stack:
        original = stack.enter_context(open_input(source))
        output = stack.enter_context(atomic_output(target, force=args.force, mode=original.mode))
        weights = None
        if args.save_weights:
            check_target(args.save_weights, source, force=args.force, binary=True)
            weights = stack.enter_context(atomic_output(args.save_weights, force=args.force)).file
        from prequential import codec

        compile_apart(cfg.resolve(len(original.data)).memory_bytes())
        archive = io.BytesIO() if args.self_extracting else output.file
        with _progress(args, source) as progress, _interruptible(keeper):
            report = codec.encode(
                original.data,
                archive,
                config=cfg,
                seed=args.seed,
                device=args.device,
                threads=args.threads,
                progress=progress,
                prior=_load_prior(args),
                weights=weights,
                limits=_limits(args),
                checkpoints=keeper,
            )
        if isinstance(archive, io.BytesIO):
            report = _write_self_extracting(archive, output, report)
        if args.verify:
            _verify(args, output, report.original_bytes)
    if keeper is not None:
        keeper.remove()
    _show_report(args, source, target, report)


def _checkpoints(args: argparse.Namespace, command: str, target: str) -> "Checkpoints | None":
    """What keeps the run's state beside the output; None where there is no place, or no wish."""
    path = os.path.realpath(target) + CHECKPOINT_SUFFIX
    if target == STDIO or not (args.checkpoint_seconds or args.resume):
        return None
    if os.path.lexists(path):
        if not os.path.isfile(path):
            raise FileError(
                f"{display(path)}: is not a regular file: move it, a checkpoint goes there"
            )
        if not (args.resume or args.force):
            raise FileError(
                f"{display(path)}: an interrupted run left this checkpoint: go on with --resume,"
                " or start at the beginning with -f"
            )
    from prequential.training.checkpoint import Checkpoints

    seconds = args.checkpoint_seconds or float("inf")
    return Checkpoints(path, command, seconds=seconds, resume=args.resume, warn=terminal.say)


@contextmanager
def _interruptible(keeper: "Checkpoints | None") -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) waits for the end of a chunk and a checkpoint."""
    if keeper is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # What the parent has had ignored, as nohup does, stays so; None is a handler not of Python.
    before = {n: handler for n, handler in before.items() if handler not in (None, signal.SIG_IGN)}

    def handle(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.default_int_handler)  # a second one does not wait
        keeper.interrupt()

    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _limits(args: argparse.Namespace) -> Limits:
    limits = Limits()
    hours = getattr(args, "max_hours", None)
    return Limits(
        limits.memory_bytes if args.max_memory is None else args.max_memory,
        limits.seconds if hours is None else 3600 * hours,
    )


def _load_prior(args: argparse.Namespace) -> "Prior | None":
    if args.prior is None:
        return None
    from prequential.training import prior

    return prior.load(args.prior)


def _write_self_extracting(archive: io.BytesIO, output: Output, report: "Report") -> "Report":
    from prequential.archive import selfextract

    return _of_runnable(report, selfextract.write(archive.getvalue(), output.file))


def _of_runnable(report: "Report", size: int) -> "Report":
    """The report of a self-extracting file: all that is not the archive counts as code."""
    code = size - report.archive_bytes
    total = 8 * (size + report.prior_bytes)
    return dataclasses.replace(report, code_bytes=code, description_length_bits=total)


def _verify(args: argparse.Namespace, output: Output, original_bytes: int) -> None:
    from prequential.study import child

    output.file.flush()
    child.verify(
        output.path,
        f"{display_target(output.target)}: not written, --verify could not decode it",
        original_bytes=original_bytes,
        memory_bytes=_limits(args).memory_bytes,
        threads=args.threads,
        device=args.device,
        prior=args.prior,
    )


def _decode(args: argparse.Namespace, source: str) -> None:
    target = args.output or default_target(source, decoding=True)
    check_target(target, source, force=args.force, binary=False)
    keeper = _checkpoints(args, "decode", target)
    fault, decoded = None, list[slice]()
    with (
        _open_archive(source) as archive,
        atomic_output(target, force=args.force, mode=archive.mode) as output,
    ):
        try:
            report = _run_decoder(
                args, source, archive, output.allocate, checkpoints=keeper, decoded=decoded
            )
        except (ArchiveError, DivergenceError) as error:
            if not args.salvage or not decoded:
                raise
            fault = error
            _zero_gaps(output, decoded)
    if fault is not None:
        raise type(fault)(f"{fault}; {_salvaged(target, decoded)}")
    if keeper is not None:
        keeper.remove()
    _show_report(args, source, target, report)


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


def _test(args: argparse.Namespace, source: str) -> None:
    with _open_archive(source) as archive:
        report = _run_decoder(args, source, archive, _allocate, in_memory=True)
    _show_report(args, source, None, report)


@dataclasses.dataclass(frozen=True)
class _Archive:
    """An archive open for reading: `bytes` is its size, None in a stream."""

    file: BinaryIO
    bytes: int | None
    mode: int = 0o666
    runnable_bytes: int | None = None  # size of the self-extracting file that holds it


@contextmanager
def _open_archive(source: str) -> Iterator[_Archive]:
    """Open a `.pq` archive, or the one in a self-extracting file, which is not run."""
    with open_binary(source) as (file, status):
        if status is None:
            yield _Archive(file, None)
            return
        mode = status.st_mode & 0o777
        from prequential.archive import selfextract

        if selfextract.is_runnable(file):
            inner = selfextract.payload(display(source), file)
            yield _Archive(io.BytesIO(inner), len(inner), mode, status.st_size)
        else:
            yield _Archive(file, status.st_size, mode)


def _info(args: argparse.Namespace, source: str) -> None:
    with _open_archive(source) as archive:
        reader = ArchiveReader(archive.file, display(source))
    header = reader.header
    fields: dict[str, object] = {
        "file": source,
        "mode": header.mode,
        "original_bytes": header.original_bytes,
        "archive_bytes": archive.bytes,
        "header_bytes": reader.header_bytes,
        "container_version": CONTAINER_VERSION,
        "numerics_version": header.numerics_version,
        "seed": header.seed,
        "sha256": header.sha256.hex(),
        "prior": None if header.prior is None else _prior_fields(header.prior),
        "tokens": None if header.tokens is None else header.tokens.count,
        "vocabulary_bytes": None if header.tokens is None else len(header.tokens.vocabulary),
        "config": None if header.config is None else dataclasses.asdict(header.config),
    }
    if args.json:
        terminal.out_json(fields)
        return
    fields["file"] = display(source)
    terminal.pairs(list(_flatten(fields)))


def _prior_fields(prior: PriorName) -> dict[str, object]:
    return {"name": prior.name, "sha256": prior.sha256.hex()}


def _doctor(args: argparse.Namespace, _: str) -> None:
    from prequential.cli import doctor
    from prequential.exact import selftest

    platform = doctor.fingerprint()
    results = selftest.run(args.device)
    failed = [fact.name for fact, ok in results if not ok]
    if args.json:
        facts = [
            {"name": fact.name, "claim": fact.claim, "ok": ok, "usual_cause": fact.cause}
            for fact, ok in results
        ]
        terminal.out_json({"ok": not failed, "platform": platform, "facts": facts})
    else:
        terminal.pairs(list(platform.items()))
        terminal.out("")
        terminal.pairs([("ok" if ok else "failed", fact.claim) for fact, ok in results])
    if failed:
        causes = {fact.cause: None for fact, ok in results if not ok}  # in order, each once
        raise PlatformError(f"failed: {', '.join(failed)}; usual causes: {'; '.join(causes)}")


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
    archive: _Archive,
    allocate: "Callable[[int], NDArray[np.uint8]]",
    *,
    checkpoints: "Checkpoints | None" = None,
    decoded: list[slice] | None = None,
    in_memory: bool = False,
) -> "Report":
    from prequential import codec

    if archive.bytes is not None and archive.bytes > 2**18:  # of a file of a megabyte or so
        compile_apart(LARGE_BYTES)
    with _progress(args, source) as progress, _interruptible(checkpoints):
        report = codec.decode(
            archive.file,
            allocate,
            name=display(source),
            device=args.device,
            threads=args.threads,
            progress=progress,
            prior=_load_prior(args),
            limits=_limits(args),
            in_memory=in_memory,
            checkpoints=checkpoints,
            decoded=decoded,
        )
    size = archive.runnable_bytes
    return report if size is None else _of_runnable(report, size)


def _allocate(size: int) -> "NDArray[np.uint8]":
    import numpy as np

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
        terminal.out(report.to_json())
    if args.quiet:
        return
    rows = [("input", display(source))]
    if target is not None:
        rows.append(("output", display_target(target)))
    rows += [
        ("original", f"{report.original_bytes:,} bytes"),
        ("archive", f"{report.archive_bytes:,} bytes"),
        ("rate", f"{report.bits_per_byte:.4f} bits/byte"),
        *_vocabulary_rows(report),
        ("description", _description(report)),
        ("time", f"{report.seconds:.1f} s, {report.bytes_per_second / 1000:.1f} kB/s"),
    ]
    if args.verbose or getattr(args, "save_weights", None):
        rows.append(("final weights", f"{report.weights_bytes:,} bytes, none of them sent"))
    if args.verbose:
        rows += [("sha256", report.sha256), ("weights", report.weights_digest)]
    terminal.pairs(rows, stderr=True)


def _vocabulary_rows(report: "Report") -> list[tuple[str, str]]:
    if not report.vocabulary_bytes:
        return []
    return [
        ("tokens", f"{report.tokens:,}, {report.bits_per_token:.3f} bits each"),
        ("vocabulary", f"{report.vocabulary:,} pieces, {report.vocabulary_bytes:,} bytes of it"),
    ]


def _description(report: "Report") -> str:
    """The terms of the description length, in bytes."""
    prior = f" + prior {report.prior_bytes:,}" if report.prior_bytes else ""
    return (
        f"{report.description_length_bits // 8:,} bytes ="
        f" archive {report.archive_bytes:,} + code {report.code_bytes:,}{prior}"
    )
