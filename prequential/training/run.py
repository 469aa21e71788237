"""One pass of the loop over a file's tokens, and what encoder, decoder and meter share."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from prequential.archive.container import FRAME_BYTES, ORIGINAL_SHA256_BYTES, Header, Limits
from prequential.coding.coder import Decoder
from prequential.coding.vocabulary import Vocabulary
from prequential.config import Config
from prequential.errors import ConfigError
from prequential.exact import selftest
from prequential.progress import Progress, ProgressCallback
from prequential.training import loop
from prequential.training import prior as priors
from prequential.training.learner import Learner
from prequential.training.prior import Prior

if TYPE_CHECKING:
    from prequential.archive.writer import ArchiveWriter
    from prequential.coding.encoder import Encoder, Meter

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


class Bytes(Protocol):
    """What is encoded: an array (n,) uint8, or its like that reads the parts it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


LIMITS = Limits()


@dataclass(frozen=True)
class Options:
    """How a run is made: nothing here but the prior changes what it computes."""

    name: str = "archive"  # of the archive, in messages
    device: str = "cpu"
    threads: int | None = None
    progress: ProgressCallback | None = None
    prior: Prior | None = None
    limits: Limits = LIMITS
    checkpoints: Checkpoints | None = None
    in_memory: bool = False  # the original counts against the limit of memory
    # Makes a learner that computes the same bits in another way.
    new_learner: Callable[..., Learner] | None = None


@dataclass
class Run:
    """One pass of the loop over the data, in frames of whole chunks."""

    header: Header
    config: Config
    options: Options
    symbols: Bytes  # tokens (n,)
    vocabulary: Vocabulary
    coder: Encoder | Decoder | Meter
    started: float  # by time.monotonic, of the time that an earlier run took as well
    writer: ArchiveWriter | None = None
    steps_done: int = 0  # chunks coded and learned
    frames_done: int = 0  # frames whose payload is complete

    def __post_init__(self) -> None:
        options, count = self.options, len(self.symbols)
        self.bytes_per_token = self.header.original_bytes / max(1, count)
        each = self.config.seconds_per_token(len(self.vocabulary), self.bytes_per_token)
        if self.config.model.layers:
            selftest.require(options.device, selftest.OF_ATTENTION)
        threads = options.threads or (DEFAULT_THREADS if count * each > _LONG_SECONDS else 1)
        self.learner = (options.new_learner or _learner_of(options.device))(
            self.config, self.header.seed, options.device, threads, self._past, self.vocabulary
        )
        if options.prior is not None:
            priors.check(options.prior, self.learner.learned(), self.config.ngrams.slots)
            self.learner.restore(options.prior.arrays)
        B, T = self.config.streams, self.config.chunk
        # Streams of equal length; the first ones take the rest, one token each.
        self.base, self.extra = divmod(len(self.symbols), B)
        self.starts = [b * self.base + min(b, self.extra) for b in range(B)]
        if self.learner.memory is not None:
            self.learner.memory.start_at(self.starts)
        self.columns = self.base + (self.extra > 0)
        self.steps = -(-self.columns // T)
        frame_tokens = max(1, FRAME_BYTES * len(self.symbols) // max(1, self.header.original_bytes))
        self.frame_steps = -(-frame_tokens // (B * T))
        self.frame_count = -(-self.steps // self.frame_steps)
        self._dtype = np.uint8 if self.header.tokens is None else np.uint16
        if options.checkpoints is not None:
            options.checkpoints.begin(self)

    def frames(self) -> Iterator[None]:
        """Run the loop, from where it stands; stops after each frame's last chunk."""
        for frame in range(self.frames_done, self.frame_count):
            end = min(self.steps, (frame + 1) * self.frame_steps)
            loop.run(self._chunks(self.steps_done, end), self.coder, self.learner)
            self.frames_done += 1
            yield

    def finished(self) -> list[slice]:
        """Which of the tokens the chunks done so far hold: a part of every stream."""
        columns = self.steps_done * self.config.chunk
        lengths = [self.base + (b < self.extra) for b in range(len(self.starts))]
        return [slice(s, s + min(n, columns)) for s, n in zip(self.starts, lengths, strict=True)]

    def _chunks(self, first: int, end: int) -> Iterator[tuple[np.ndarray, int]]:
        """(chunk (T, B), count of real tokens); what a decoder fills in goes to symbols."""
        decoding = isinstance(self.coder, Decoder)
        for step in range(first, end):
            chunk, parts, count = self._parts(step)
            if not decoding:
                _copy(parts, chunk)
            yield chunk, count
            if decoding:
                for b, part in enumerate(parts):
                    part[:] = chunk[: len(part), b]
            # The loop asks for the next chunk once this one is learned.
            self.steps_done = step + 1
            self._show(min(len(self.symbols), step * self.config.chunk * len(parts) + count))
            if self.options.checkpoints is not None:
                self.options.checkpoints.chunk_done(self)

    def _past(self, step: int) -> tuple[np.ndarray, int]:
        """A chunk that is known already, to be replayed, and its count of real tokens."""
        chunk, parts, count = self._parts(step)
        _copy(parts, chunk)
        return chunk, count

    def _parts(self, step: int) -> tuple[np.ndarray, list[np.ndarray], int]:
        """An empty chunk (T, B), each stream's share of the tokens (n,), and their sum."""
        B, T = self.config.streams, self.config.chunk
        a = step * T
        full = min(T, self.base - a)  # columns in which every stream has a token
        chunk = np.zeros((min(T, self.columns - a), B), self._dtype)
        own = [len(chunk) if b < self.extra else full for b in range(B)]
        parts = [self.symbols[s + a : s + a + n] for s, n in zip(self.starts, own, strict=True)]
        return chunk, parts, sum(own)

    def _show(self, done: int) -> None:
        if self.options.progress is not None:
            seconds = time.monotonic() - self.started
            size = self.header.original_bytes
            done = done * size // len(self.symbols)
            self.options.progress(Progress(done, size, self.coder.loss_bits, seconds))


def _learner_of(device: str) -> Callable[..., Learner]:
    """A GPU's is faster there. To decode, the other will do."""
    if device == "cuda":
        with suppress(ModuleNotFoundError):
            faster: Callable[..., Learner] = import_module(
                "prequential.training.device"
            ).DeviceLearner
            return faster
    return Learner


def _copy(parts: list[np.ndarray], chunk: np.ndarray) -> None:
    """chunk (T, B) = the streams' parts, side by side."""
    for b, part in enumerate(parts):
        chunk[: len(part), b] = part


@contextmanager
def exact(device: str) -> Iterator[None]:
    """PyTorch and NumPy as the arithmetic needs them, whatever a host program has set; restored.

    Raises:
        ConfigError: no such device.
        PlatformError: this platform's arithmetic is not what the bits rest on.
    """
    with (
        np.errstate(all="ignore"),
        _host_settings(device),
        torch.inference_mode(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        selftest.require(device)
        yield


@contextmanager
def _host_settings(device: str = "cpu") -> Iterator[None]:
    """Neutralise what can be; the self-test refuses the rest.

    A GPU's tensor cores take float32 rounded to TF32, whose 11 bits hold the integers here.
    """
    threads = torch.get_num_threads()
    precision = _matmul_precision()
    deterministic = torch.get_deterministic_debug_mode()
    flush = float(np.float32(2.0**-126) * np.float32(0.5)) == 0.0
    torch.set_num_threads(1)
    if precision is not None:
        torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    # Every algorithm is deterministic here, including those that PyTorch would refuse. (Its other
    # function for this imports a compiler, which takes a second.)
    torch.set_deterministic_debug_mode(0)
    torch.set_flush_denormal(False)
    try:
        yield
    finally:
        torch.set_flush_denormal(flush)
        torch.set_deterministic_debug_mode(deterministic)
        if precision is not None:
            torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)


def _matmul_precision() -> str | None:
    """PyTorch's setting; None where the host has made it per backend, which cannot be mixed."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None  # harmless: integers up to 127 also fit bfloat16 and TF32


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
    if config and device == "cuda" and torch.cuda.is_available():
        there, free = config.device_bytes(tokens), torch.cuda.mem_get_info()[0]
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
    return sha.digest()[:ORIGINAL_SHA256_BYTES]
