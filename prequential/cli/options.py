"""What the flags say: parts of a parser that several commands share, and what they come to."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from prequential.archive.container import MAX_SEED, Limits
from prequential.archive.files import STDIO, display, open_input
from prequential.cli import terminal
from prequential.cli.bar import progress_bar
from prequential.config import Config, load, preset_names
from prequential.errors import ConfigError
from prequential.progress import ProgressCallback

if TYPE_CHECKING:
    from prequential.training import run as runs
    from prequential.training.given import Given
    from prequential.training.prior import Prior
    from prequential.training.run import Kept

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EPILOG = """\
FILE and ARCHIVE may be - for standard input; the output is then standard output unless -o is
given. Outputs have the time and permissions of their inputs. Exit codes: 0 done, 1 error, 2 wrong
usage, 130 interrupted; with several files the worst. Long runs keep a checkpoint beside the output,
from which --resume goes on.
"""


NOT_WRITTEN = "interrupted: the file in work was not written"


@dataclass(frozen=True)
class Flags:
    """The flags of a command: made from what was parsed, and handed on as they are."""

    @classmethod
    def of(cls, args: argparse.Namespace) -> Self:
        """What was parsed, lists as tuples."""
        names = {field.name for field in dataclasses.fields(cls)}
        given: dict[str, Any] = {key: value for key, value in vars(args).items() if key in names}
        for key, value in given.items():
            given[key] = tuple(value) if isinstance(value, list) else value
        return cls(**given)


@dataclass(frozen=True)
class Options(Flags):
    """The flags of the commands that run a model, each of which has some of them."""

    files: tuple[str, ...] = ()
    json: bool = False
    output: str | None = None
    force: bool = False
    remove: bool = False
    resume: bool = False
    checkpoint_seconds: float = 300.0
    salvage: bool = False
    verify: bool = False
    self_extracting: bool = False
    save_weights: str | None = None
    bits: str | None = None
    distributed: bool = False
    dry_run: bool = False
    threads: int | None = None
    device: str = "cpu"
    progress: bool | None = None  # None: on a terminal only
    quiet: bool = False
    silent: bool = False  # figures with -v only, as of gzip
    verbose: bool = False
    max_memory: int | None = None  # bytes
    max_hours: float | None = None
    prior: str | None = None
    given: tuple[str, ...] = ()  # names of files
    state: str | None = None  # likewise, of `preq learn`
    seed: int = 0
    preset: str | None = None
    config: str | None = None  # a file's name
    overrides: tuple[str, ...] = ()

    @property
    def read_too(self) -> tuple[str, ...]:
        """Files that are read beside the input, and that no output may replace."""
        named = (self.state, self.prior, self.config)
        return (*self.given, *(name for name in named if name is not None))

    def model(self) -> Config:
        """The configuration. Raises ConfigError."""
        return load(self.preset, self.config, self.overrides)

    def limits(self) -> Limits:
        """What an archive may make its decoder use."""
        usual = Limits()
        return Limits(
            usual.memory_bytes if self.max_memory is None else self.max_memory,
            usual.seconds if self.max_hours is None else 3600 * self.max_hours,
        )

    def load_prior(self) -> Prior | None:
        """The weights to start from, if any. Raises FileError."""
        if self.prior is None:
            return None
        from prequential.training import prior

        return prior.load(self.prior)

    @contextmanager
    def open_given(self) -> Iterator[tuple[Given, ...]]:
        """What is to be learned first, if anything. Raises FileError, ConfigError."""
        found: list[Given] = []
        with ExitStack() as stack:
            for name in self.given:
                if name == STDIO:
                    raise ConfigError("--given: standard input is not kept: give a file")
                data = stack.enter_context(open_input(name)).data
                from prequential.training.given import named

                found.append(named(name, data))
            yield tuple(found)

    @cached_property
    def kept(self) -> Kept | None:
        """What becomes of the given once it is learned, for further files. Raises ConfigError."""
        if not self.given:
            if self.state is not None:
                raise ConfigError(
                    "--state saves learning what is given: give that, too, by --given"
                )
            return None
        from prequential.training import learned

        further = learned.InMemory() if len(self.files) > 1 else None
        if self.state is None:
            return further
        return learned.InFile(self.state, (lambda _: None) if self.quiet else terminal.say, further)

    def run(
        self, progress: ProgressCallback | None, given: tuple[Given, ...], **more: Any
    ) -> runs.Options:
        """How a run is made by these flags; more are other fields of it. Raises FileError."""
        from prequential.training import run as runs

        return runs.Options(
            device=self.device,
            threads=self.threads,
            progress=progress,
            prior=self.load_prior(),
            given=given,
            limits=self.limits(),
            **more,
        )

    def bar(self, source: str) -> AbstractContextManager[ProgressCallback | None]:
        """Progress on a file, as far as it is wanted."""
        wanted = not self.quiet and self.progress is not False
        label = os.path.basename(display(source))
        return progress_bar(label, wanted=wanted, lines=bool(self.progress))


def add_command(
    commands: Commands,
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
    files: str | None = None,
    interrupted: str = "interrupted",
) -> argparse.ArgumentParser:
    """The parser of a command, with its list of files if it takes one.

    Of files in brackets there may be none: standard input. interrupted is what to say after Ctrl-C,
    where a run does not know better.
    """
    parser = commands.add_parser(
        name, help=text, description=text + ".", epilog=EPILOG if files else None
    )
    parser.set_defaults(run=run, interrupted=interrupted)
    if files:
        count = "*" if files.startswith("[") else "+"
        parser.add_argument("files", nargs=count, metavar=files.strip("[]"))
    return parser


def add_json(parser: argparse._ActionsContainer, what: str = "one JSON object") -> None:
    """``--json``, in every command."""
    parser.add_argument("--json", action="store_true", help=f"{what} on standard output")


def add_json_file(parser: argparse.ArgumentParser) -> None:
    """``--json`` and ``--json-file``, of commands with other files to write."""
    add_json(parser, "all figures as JSON")
    parser.add_argument("--json-file", metavar="OUT", help="write all figures as JSON")


def add_output(parser: argparse.ArgumentParser) -> None:
    """``-o`` and ``-f``."""
    parser.add_argument("-o", "--output", metavar="OUT", help="output file, - for stdout")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing output")


def add_keeping(parser: argparse.ArgumentParser, when: str) -> None:
    """``-c``, ``-k`` and ``--rm``, as gzip and zstd have them; like zstd, the input is kept."""
    parser.add_argument(
        "-c",
        "--stdout",
        "--to-stdout",
        action="store_const",
        const=STDIO,
        dest="output",
        help="write to standard output, as -o -",
    )
    parser.add_argument(
        "-k",
        "--keep",
        action="store_false",
        default=False,  # not argparse's, which would remove what nobody said to remove
        dest="remove",
        help="keep the input: the default",
    )
    parser.add_argument(
        "--rm",
        action="store_true",
        dest="remove",
        help=f"remove the input, {when}; not with -c",
    )


def add_checkpoints(parser: argparse.ArgumentParser) -> None:
    """``--resume`` and ``--checkpoint-seconds``."""
    parser.add_argument("--resume", action="store_true", help="go on from the output's checkpoint")
    parser.add_argument(
        "--checkpoint-seconds",
        type=_seconds,
        default=Options.checkpoint_seconds,
        metavar="S",
        help="time between checkpoints (300), more where writing them would take over 2%% of the"
        " run; 0: none",
    )


def add_memory(parser: argparse.ArgumentParser) -> None:
    """``--max-memory``."""
    parser.add_argument(
        "--max-memory",
        type=memory,
        metavar="SIZE",
        help="limit of what the model may allocate, as 512M or 8G, powers of 1024 (4G)",
    )


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """What any decoder takes: how to compute, the limits, the prior, what is given."""
    add_compute(parser)
    add_memory(parser)
    parser.add_argument(
        "--max-hours",
        type=_hours,
        metavar="H",
        help="limit of estimated work that the archive's size does not pay for (10 minutes)",
    )
    add_prior(parser)
    add_given(parser)


def add_bits(parser: argparse.ArgumentParser) -> None:
    """``--bits``."""
    parser.add_argument(
        "--bits", metavar="OUT.npy", help="write what each byte costs, in bits, as a NumPy array"
    )


def add_compute(parser: argparse.ArgumentParser) -> None:
    """Threads, device, and how much to say."""
    parser.add_argument("--threads", type=whole(1, 4096), metavar="N", help="CPU threads")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--progress",
        action="store_true",
        default=None,
        help="where there is no terminal, a line every minute",
    )
    shown.add_argument(
        "--no-progress", action="store_false", dest="progress", help="no progress bar"
    )
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-q", "--quiet", action="store_true", help="errors only")
    volume.add_argument("-v", "--verbose", action="store_true", help="a longer result table")


def add_prior(parser: argparse.ArgumentParser) -> None:
    """``--prior``."""
    parser.add_argument(
        "--prior", metavar="F.safetensors", help="weights to start from, part of the description"
    )


def add_given(parser: argparse.ArgumentParser) -> None:
    """``--given``."""
    parser.add_argument(
        "--given",
        action="append",
        default=[],
        metavar="A",
        help="a file to learn first, which costs nothing in the archive and which decoding takes"
        " again; may be repeated, in order",
    )
    parser.add_argument(
        "--state", metavar="S", help="a file of preq learn, which saves learning the given again"
    )


def add_preset(parser: argparse.ArgumentParser) -> None:
    """``--preset``, ``--config`` and ``--set``."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", choices=preset_names(), help="a packaged configuration")
    source.add_argument("--config", metavar="FILE.toml", help="a configuration file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one setting; may be repeated",
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Seed and configuration."""
    parser.add_argument(
        "--seed", type=whole(0, MAX_SEED), default=0, metavar="N", help="0 to 2^64 - 1"
    )
    add_preset(parser)
    parser.add_argument(
        "--tokenizer",
        dest="overrides",
        action="append",
        type=lambda text: f"tokenizer={text}",
        metavar="T",
        help="bytes, bpe:SIZE, unigram:SIZE, or the path of a sentencepiece .model",
    )


def whole(low: int, high: int) -> Callable[[str], int]:
    """Parses a whole number in plain digits, both ends included."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low} to {high}")
        return int(text)

    return parse


def memory(text: str) -> int:
    """Bytes, with K, M, G or T for powers of 1024, as in 512M, 512MB or 512MiB.

    >>> memory("1.5K"), memory("2kB"), memory("1 MiB")
    (1536, 2048, 1048576)
    """
    match = re.fullmatch(r"(.*?) ?(?:([KMGT])(?:i?B)?|B)?", text, re.IGNORECASE | re.DOTALL)
    number, unit = match.groups() if match else (text, None)
    power = "KMGT".index(unit.upper()) + 1 if unit else 0
    return int(_number(number, "a size such as 512M", 2**40) * 1024**power)


def count(text: str) -> int:
    """A whole number of any size, also as in 1.4e12."""
    value = _number(text, "a whole number", 1e30)
    if value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text) if text.isdecimal() else int(value)


def bits(text: str) -> float:
    """A number of bits or nats."""
    return _number(text, "a number of bits", 1e9)


def names(text: str) -> list[str]:
    """Names with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


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
