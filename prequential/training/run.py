"""One pass of the loop over a file's tokens, and what encoder, decoder and meter share."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from prequential.archive.container import FRAME_BYTES, SHORT_SHA256_BYTES, Header, Limits
from prequential.coding.coder import Decoder
from prequential.coding.vocabulary import Vocabulary
from prequential.config import Config, parse_grids
from prequential.errors import ConfigError
from prequential.exact import compiled
from prequential.exact.compiled import optional
from prequential.progress import Progress, ProgressCallback
from prequential.training import loop
from prequential.training import prior as priors
from prequential.training.alone import Alone
from prequential.training.prior import Prior

if TYPE_CHECKING:
    from prequential.archive.writer import ArchiveWriter
    from prequential.coding.encoder import Encoder
    from prequential.coding.meter import Meter
    from prequential.training.given import Given
    from prequential.training.learner import Learner

# The second thread updates the n-gram tables while the first one takes the transformer's step.
DEFAULT_THREADS = 2
# In less (as `Config.seconds_per_token` has it) a second thread saves less than its loops take to
# compile, the first time.
_LONG_SECONDS = 10


class Checkpoints(Protocol):
    """What keeps a run's state on disk: `checkpoint.Checkpoints`."""

    def begin(self, run: Run) -> None:
        """Before the first chunk: put a kept state back, if there is one."""
        ...

    def chunk_done(self, run: Run) -> None:
        """After every chunk: keep the state when it is time to."""
        ...


class Kept(Protocol):
    """What keeps a learner that has learned the given for the next run: see `learned`."""

    def restore(self, run: Run) -> bool:
        """Put it into a run that has not, if it is there."""
        ...

    def keep(self, run: Run) -> None:
        """Take it from a run that has just learned the given."""
        ...


class Bytes(Protocol):
    """What is encoded: an array (n,) uint8, or its like that reads the parts it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


LIMITS = Limits()


@dataclass(frozen=True)
class Options:
    """How a run is made: nothing here but prior and given files changes what it computes."""

    name: str = "archive"  # of the archive, in messages
    device: str = "cpu"
    threads: int | None = None
    progress: ProgressCallback | None = None
    prior: Prior | None = None
    given: tuple[Given, ...] = ()  # learned first, in this order
    limits: Limits = LIMITS
    checkpoints: Checkpoints | None = None
    kept: Kept | None = None
    in_memory: bool = False  # the original counts against the limit of memory
    # Makes a learner that computes the same bits in another way.
    new_learner: Callable[..., Learner | Alone] | None = None


class Cut:
    """Tokens (n,) as B streams of equal length; the first ones take the rest, one token each.

    So many tokens of other cuts come before.
    """

    def __init__(self, symbols: Bytes, before: int, streams: int, chunk: int) -> None:
        self.symbols, self.before, self.chunk = symbols, before, chunk
        base, extra = divmod(len(symbols), streams)
        borders = [b * base + min(b, extra) for b in range(streams + 1)]
        self.streams = list(pairwise(borders))
        self.steps = -(-borders[1] // chunk)

    def taken(self, first: int, end: int) -> list[slice]:
        """Which of the tokens the chunks first..end hold, of every stream; most of the first."""
        a, b = first * self.chunk, end * self.chunk
        return [slice(start + a, min(start + b, stop)) for start, stop in self.streams]


@dataclass
class Run:
    """One pass of the loop over the data, in frames of whole chunks, after what is given."""

    header: Header
    config: Config
    options: Options
    symbols: Bytes  # tokens (n,)
    vocabulary: Vocabulary
    coder: Encoder | Decoder | Meter
    started: float  # by time.monotonic, of the time that an earlier run took as well
    writer: ArchiveWriter | None = None
    given: Sequence[Bytes] = ()  # tokens (n,) of each given file
    steps_done: int = 0  # chunks coded, or given, and learned
    frames_done: int = 0  # frames whose payload is complete

    def __post_init__(self) -> None:
        options, count = self.options, len(self.symbols)
        self.bytes_per_token = self.header.original_bytes / max(1, count)
        B, T = self.config.streams, self.config.chunk
        self.cuts, every = list[Cut](), 0  # tokens
        for symbols in (*self.given, self.symbols):
            self.cuts.append(Cut(symbols, every, B, T))
            every += len(symbols)
        each = self.config.seconds_per_token(len(self.vocabulary), self.bytes_per_token)
        threads = options.threads or (1 if every * each <= _LONG_SECONDS else self._threads())
        self.learner: Learner | Alone = (options.new_learner or new_learner)(
            self.config, self.header.seed, options.device, threads, self._past, self.vocabulary
        )
        if options.prior is not None:
            priors.check(options.prior, self.learner.learned(), self.config.ngrams)
            self.learner.restore(options.prior.arrays)
        self.steps = sum(cut.steps for cut in self.cuts)
        self.given_steps = self.steps - self.cuts[-1].steps
        frame_tokens = max(1, FRAME_BYTES * count // max(1, self.header.original_bytes))
        self.frame_steps = -(-frame_tokens // (B * T))
        self.frame_count = -(-self.cuts[-1].steps // self.frame_steps)
        self._grids = parse_grids(self.config.numbers)
        self._dtype = np.uint8 if self.header.tokens is None else np.uint16
        if options.checkpoints is not None:
            options.checkpoints.begin(self)

    def _threads(self) -> int:
        """One for each lane, where there are such."""
        return max(DEFAULT_THREADS, min(self.config.payload_lanes, os.cpu_count() or 1))

    def frames(self) -> Iterator[None]:
        """Run the loop, from where it stands; stops after each frame's last chunk."""
        if self.steps_done < self.given_steps:
            import_module(".given", __package__).learn(self)
        for frame in range(self.frames_done, self.frame_count):
            end = min(self.steps, self.given_steps + (frame + 1) * self.frame_steps)
            loop.run(self.chunks(end, self.coder), self.coder, self.learner)
            self.frames_done += 1
            yield

    def finished(self) -> list[slice]:
        """Which of the tokens the chunks coded so far hold: a part of every stream."""
        return self.cuts[-1].taken(0, max(0, self.steps_done - self.given_steps))

    def chunks(
        self, end: int, coder: Encoder | Decoder | Meter
    ) -> Iterator[tuple[np.ndarray, int]]:
        """(chunk (T, B), count of real tokens) from where the run stands to chunk `end`.

        What a decoder fills in goes to symbols.
        """
        decoding = isinstance(coder, Decoder)
        for step in range(self.steps_done, end):
            cut, within = self._cut(step)
            if within == 0 and self.learner.memory is not None:
                self.learner.memory.start_at([cut.before + start for start, _ in cut.streams])
            self.learner.rest(self._of_numbers(cut, within))
            parts, chunk, count = self._chunk(cut, within)
            if not decoding:
                _copy(parts, chunk)
            yield chunk, count
            if decoding:
                for b, part in enumerate(parts):
                    part[:] = chunk[: len(part), b]
            # The loop asks for the next chunk once this one is learned.
            self.steps_done = step + 1
            self._show(cut, within * self.config.chunk * len(parts) + count, coder.loss_bits)
            if self.options.checkpoints is not None:
                self.options.checkpoints.chunk_done(self)

    def _of_numbers(self, cut: Cut, step: int) -> bool:
        """Whether all streams of a chunk are within pictures or sound."""
        parts = cut.taken(step, step + 1)
        return all(
            any(
                g.start <= cut.before + p.start and cut.before + p.stop <= g.end
                for g in self._grids
            )
            for p in parts
        )

    def _cut(self, step: int) -> tuple[Cut, int]:
        """The tokens of a chunk, and its number among theirs."""
        for cut in self.cuts:
            if step < cut.steps:
                break
            step -= cut.steps
        return cut, step

    def _past(self, step: int) -> tuple[np.ndarray, int]:
        """A chunk that is known already, to be replayed, and its count of real tokens."""
        parts, chunk, count = self._chunk(*self._cut(step))
        _copy(parts, chunk)
        return chunk, count

    def _chunk(self, cut: Cut, step: int) -> tuple[list[np.ndarray], np.ndarray, int]:
        """Each stream's share of the tokens (n,), an empty chunk (T, B), and their sum."""
        parts = [cut.symbols[part] for part in cut.taken(step, step + 1)]
        return parts, np.zeros((len(parts[0]), len(parts)), self._dtype), sum(map(len, parts))

    def _show(self, cut: Cut, done: int, bits: float) -> None:
        if self.options.progress is not None:
            seconds = time.monotonic() - self.started
            size = round(len(cut.symbols) * self.bytes_per_token)
            done = done * size // len(cut.symbols)
            self.options.progress(Progress(done, size, bits, seconds))


def new_learner(config: Config, seed: int, device: str, *more: Any) -> Learner | Alone:
    """The learner of a resolved config; more is as `Learner` takes it.

    A GPU's is faster there. To decode, the other will do.
    """
    if config.memory.alone:
        return Alone(config, seed, device, *more)
    kind: Callable[..., Learner] | None = None
    if device == "cuda" and config.has_transformer:
        with suppress(ModuleNotFoundError):
            kind = import_module(".device", __package__).DeviceLearner
    kind = kind or import_module(".learner", __package__).Learner
    return kind(config, seed, device, *more)


def _copy(parts: list[np.ndarray], chunk: np.ndarray) -> None:
    """chunk (T, B) = the streams' parts, side by side."""
    for b, part in enumerate(parts):
        chunk[: len(part), b] = part


@contextmanager
def exact(device: str, config: Config) -> Iterator[None]:
    """The host as the arithmetic of a config needs it, whatever a program has set; restored.

    Raises:
        ConfigError: no such device.
        PlatformError: this platform's arithmetic is not what the bits rest on.
    """
    with np.errstate(all="ignore"), ExitStack() as stack:
        needed, host = config.has_transformer or device != "cpu", None
        if needed:
            host = import_module(".host", __package__)
        elif "torch" in sys.modules:  # a host program may have set by it how the processor rounds
            host = optional("host", __package__)
        if host is not None:
            stack.enter_context(host.exact(device, config))
        if config.floats and not config.has_transformer:
            import_module(".hosttest", compiled.__package__).require()
        yield


def check_memory(
    config: Config | None, held_bytes: int, vocabulary: Vocabulary, limits: Limits, device: str
) -> None:
    """See that a model, and what is held beside it, keeps within the limit of memory.

    What lies on a GPU keeps within what is free there.

    Raises:
        ConfigError: naming both.
    """
    tokens = len(vocabulary.pieces)
    needed = held_bytes + (config.memory_bytes(tokens) if config else 0)
    free = import_module(".host", __package__).free_bytes() if device == "cuda" else None
    if config and free is not None:
        there = config.device_bytes(tokens)
        needed -= there
        if there > free:
            raise ConfigError(
                f"the model would need about {there / 2**30:.1f} GiB on the GPU, of which"
                f" {free / 2**30:.1f} GiB are free: use --device cpu or a smaller model"
            )
    if needed > limits.memory_bytes:
        raise ConfigError(
            f"the model and what it decodes in memory would need about {_size(needed)}, more room"
            f" than the limit of {_size(limits.memory_bytes)}: raise it with --max-memory"
        )


def _size(count: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def sha256_of(data: Bytes) -> bytes:
    """The beginning of the data's SHA-256 that a header has; read part by part."""
    sha = hashlib.sha256()
    for start in range(0, len(data), FRAME_BYTES):
        sha.update(data[start : start + FRAME_BYTES].data)
    return sha.digest()[:SHORT_SHA256_BYTES]
