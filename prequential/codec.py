"""Composition: data to archive, archive to data, data to its codelength.

Everything that the command line and the Python API call. The method itself is `loop.run`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import numpy as np
import torch

from prequential import codesize, loop, selftest
from prequential import prior as priors
from prequential.coder import Decoder, Encoder, Meter
from prequential.config import BYTES, Config, load
from prequential.container import (
    CONTAINER_VERSION,
    DIGEST_BYTES,
    FRAME_BYTES,
    ArchiveReader,
    ArchiveWriter,
    Header,
    Limits,
    Tokens,
    stored_bytes,
)
from prequential.errors import ArchiveError, ConfigError, DivergenceError
from prequential.learner import Learner
from prequential.model import Transformer
from prequential.prior import Prior
from prequential.progress import Progress, ProgressCallback
from prequential.report import Report, config_tree, versions
from prequential.vocabulary import SINGLE_BYTES, Vocabulary, unpack

# The second thread updates the n-gram tables while the first one takes the transformer's step.
DEFAULT_THREADS = 2
_LIMITS = Limits()


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


def compress(
    data: bytes,
    seed: int = 0,
    config: Config | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> bytes:
    """The archive of `data`, with the default preset unless a config is given."""
    archive = io.BytesIO()
    encode(
        np.frombuffer(data, np.uint8),
        archive,
        config=config or load(),
        seed=seed,
        device=device,
        threads=threads,
        progress=progress,
    )
    return archive.getvalue()


def decompress(
    archive: bytes,
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    limits: Limits = _LIMITS,
) -> bytes:
    """The data of an archive.

    Raises:
        ArchiveError: not an archive, damaged, of an unsupported version, or beyond the limits.
        DivergenceError: this machine's arithmetic is not the encoder's.
    """
    data = io.BytesIO()
    decompress_file(
        io.BytesIO(archive), data, device=device, threads=threads, progress=progress, limits=limits
    )
    return data.getvalue()


def compress_file(
    source: BinaryIO,
    archive: BinaryIO,
    seed: int = 0,
    config: Config | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> Report:
    """Read source to its end, once, and write its archive into a seekable file.

    The streams are coded side by side, so all of the source is needed, and held, from the start.
    """
    return encode(
        np.frombuffer(source.read(), np.uint8), archive, config=config or load(), seed=seed,
        device=device, threads=threads, progress=progress,
    )  # fmt: skip


def decompress_file(
    archive: BinaryIO,
    target: BinaryIO,
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    limits: Limits = _LIMITS,
) -> Report:
    """Write the data of an archive, which may be a pipe, once all of it is decoded and checked.

    Raises:
        ArchiveError: not an archive, damaged, of an unsupported version, or beyond the limits.
        DivergenceError: this machine's arithmetic is not the encoder's.
    """
    decoded = np.empty(0, np.uint8)

    def allocate(size: int) -> np.ndarray:
        nonlocal decoded
        decoded = np.empty(size, np.uint8)
        return decoded

    report = decode(
        archive, allocate, name=str(getattr(archive, "name", "archive")), device=device,
        threads=threads, progress=progress, limits=limits, in_memory=True,
    )  # fmt: skip
    target.write(decoded.data)
    return report


def codelength(
    data: bytes,
    seed: int = 0,
    config: Config | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> Report:
    """Measure without coding: archive_bytes and payload_bytes are what the loss integral implies.

    Data that an archive would store is measured as it is, above 8 bits per byte.
    """
    started = time.monotonic()
    array = np.frombuffer(data, np.uint8)
    config, symbols, vocabulary, tokens = _tokenized(array, config or load())
    resolved = _resolved(config, len(array), tokens, vocabulary, _LIMITS)
    header = Header(len(array), seed, _sha256(array), resolved, tokens=tokens)
    archive = ArchiveWriter(io.BytesIO(), header)
    meter = Meter()
    with _exact(device):
        run = Run(
            header, resolved, device, threads, symbols, vocabulary, meter, progress, started
        )  # fmt: skip
        for _ in run.frames():
            archive.data(b"", bytes(DIGEST_BYTES))
        digest = run.learner.digest()
    archive.end(digest)
    payload_bytes = -(-int(meter.loss_bits) // 8)
    written = archive.bytes_written + payload_bytes
    return _report(
        header, archive.header_bytes, payload_bytes, written, meter.loss_bits, digest, run, started
    )


def encode(
    data: Bytes,
    archive: BinaryIO,
    *,
    config: Config,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    prior: Prior | None = None,
    weights: BinaryIO | None = None,
    transformer: Callable[..., Transformer] = Transformer,
    limits: Limits = _LIMITS,
    checkpoints: Checkpoints | None = None,
) -> Report:
    """Write the archive of data (n,) uint8 into a seekable file that is at its beginning.

    With a prior the weights start from it instead of the seed's; the decoder will need it too.
    The final weights go to the file `weights`; they are no part of the archive. Of the limits only
    memory counts here.

    Raises:
        ConfigError: the model would need more than the memory limit, no such device, or the prior
            does not fit the config.
    """
    started = time.monotonic()
    sha256 = _sha256(data)
    if len(data) == 0:
        return _store(data, archive, seed, sha256, started)
    config, symbols, vocabulary, tokens = _tokenized(data, config)
    resolved = _resolved(config, len(data), tokens, vocabulary, limits)
    header = Header(len(data), seed, sha256, resolved, prior.identity if prior else None, tokens)
    writer = ArchiveWriter(archive, header)
    encoder = Encoder()
    with _exact(device):
        run = Run(
            header, resolved, device, threads, symbols, vocabulary, encoder, progress, started,
            prior, transformer, writer, checkpoints,
        )  # fmt: skip
        for _ in run.frames():
            writer.data(encoder.finish(), run.learner.digest()[:DIGEST_BYTES])
        digest = run.learner.digest()
    writer.end(digest)
    if weights is not None:
        weights.write(priors.to_bytes(run.learner.learned()))
    if writer.bytes_written > stored_bytes(len(data), seed):
        archive.seek(0)
        archive.truncate()
        return _store(data, archive, seed, sha256, started)
    return _report(
        header, writer.header_bytes, writer.payload_bytes, writer.bytes_written,
        encoder.loss_bits, digest, run, run.started,
    )  # fmt: skip


def decode(
    archive: BinaryIO,
    allocate: Callable[[int], np.ndarray],
    *,
    name: str = "archive",
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    prior: Prior | None = None,
    limits: Limits = _LIMITS,
    in_memory: bool = False,
    checkpoints: Checkpoints | None = None,
    decoded: list[slice] | None = None,
) -> Report:
    """Fill allocate(original_bytes), a writable uint8 array, with the original.

    Slices of the array that are decoded and checked are listed in `decoded` as the run goes on, for
    a caller that wants what comes before a fault. in_memory says that the array counts against the
    limit of memory.

    Raises:
        ArchiveError: not an archive, damaged, of an unsupported version, made with a prior that
            is not the given one, or beyond the limits.
        DivergenceError: this machine's arithmetic is not the encoder's.
    """
    started = time.monotonic()
    reader = ArchiveReader(archive, name)
    header = reader.header
    prior = _needed_prior(name, header, prior)
    decoder = Decoder()
    decoded = [] if decoded is None else decoded
    run = None
    vocabulary = _vocabulary(name, header)
    held = header.original_bytes if in_memory else 0
    held += 2 * header.tokens.count if header.tokens else 0
    try:
        _check_memory(header.config, held, vocabulary, limits)
    except ConfigError as error:
        raise ArchiveError(f"{name}: {error}") from error
    if header.config is None:
        data = _allocated(allocate, header.original_bytes, name)
        while (start := reader.payload_bytes) < len(data):
            payload, _ = reader.data()
            data[start : start + len(payload)] = np.frombuffer(payload, np.uint8)
            decoded[:] = [slice(0, start + len(payload))]
        digest = reader.end()
    else:
        count = header.tokens.count if header.tokens else header.original_bytes
        if header.config != header.config.resolve(header.original_bytes, count):
            raise ArchiveError(f"{name}: the header's config does not fit its original_bytes")
        data = _allocated(allocate, header.original_bytes, name)
        symbols = np.zeros(count, np.uint16) if header.tokens else data
        joined = _Joined(name, vocabulary, symbols, data)
        with _exact(device):
            run = Run(
                header, header.config, device, threads, symbols, vocabulary, decoder, progress,
                started, prior, checkpoints=checkpoints,
            )  # fmt: skip
            frames = run.frames()
            resumed = run.frames_done if run.steps_done else None
            for index in range(run.frame_count):
                payload, expected = reader.data()
                if index < run.frames_done:
                    continue
                _check_work(name, run, index, reader.bytes_read, limits)
                if index != resumed:
                    decoder.load(payload)
                try:
                    next(frames)
                except DivergenceError as error:
                    raise DivergenceError(_diverged(name, f"data in frame {index + 1}")) from error
                if run.learner.digest()[:DIGEST_BYTES] != expected:
                    raise DivergenceError(_diverged(name, f"model after frame {index + 1}"))
                decoded[:] = joined.add(run.finished()) if header.tokens else run.finished()
            digest = run.learner.digest()
        if reader.end() != digest:
            raise DivergenceError(_diverged(name, "final model"))
    if _sha256(data) != header.sha256:
        decoded.clear()
        raise DivergenceError(_diverged(name, "output"))
    return _report(
        header, reader.header_bytes, reader.payload_bytes, reader.bytes_read,
        decoder.loss_bits if run else 8.0 * reader.payload_bytes, digest, run,
        run.started if run else started,
    )  # fmt: skip


def _needed_prior(name: str, header: Header, prior: Prior | None) -> Prior | None:
    """The given prior, if the archive is made with it; None if it is made without."""
    if header.prior is None:
        return None
    if prior is None or prior.identity.sha256 != header.prior.sha256:
        wanted = ascii(header.prior.name)[1:-1]
        given = f"; {ascii(prior.identity.name)[1:-1]} is another file" if prior else ""
        raise ArchiveError(
            f"{name}: was made with the prior {wanted} (SHA-256 {header.prior.sha256.hex()}):"
            f" give it with --prior{given}"
        )
    return prior


def _tokenized(
    data: Bytes, config: Config
) -> tuple[Config, Bytes, Vocabulary, Tokens | None]:
    """The data's tokens, what they stand for, and what the header says of both."""
    if config.tokenizer == BYTES:
        return config, data, SINGLE_BYTES, None
    from prequential import tokenizer

    vocabulary, symbols = tokenizer.tokenize(data, config.tokenizer)
    named = dataclasses.replace(config, tokenizer=tokenizer.identity(config.tokenizer))
    return named, symbols, vocabulary, Tokens(len(symbols), vocabulary.pack())


def _vocabulary(name: str, header: Header) -> Vocabulary:
    """What the tokens of an archive stand for."""
    if (header.tokens is None) != (header.config is None or header.config.tokenizer == BYTES):
        raise ArchiveError(f"{name}: the header's tokenizer does not fit its vocabulary")
    if header.tokens is None:
        return SINGLE_BYTES
    try:
        return unpack(header.tokens.vocabulary)
    except ValueError as error:
        raise ArchiveError(f"{name}: header field vocabulary is invalid ({error})") from error


class _Joined:
    """The bytes of an archive's tokens, put into the output as they are decoded."""

    def __init__(
        self, name: str, vocabulary: Vocabulary, symbols: np.ndarray, data: np.ndarray
    ) -> None:
        self.name, self.vocabulary, self.symbols, self.data = name, vocabulary, symbols, data
        self.tokens_done = self.bytes_done = 0

    def add(self, finished: list[slice]) -> list[slice]:
        """Join what `Run.finished` has of the beginning; which of the data is known by now."""
        end = 0
        for part in finished:
            if part.start > end:
                break
            end = part.stop
        joined = self.vocabulary.join(self.symbols[self.tokens_done : end])
        start, self.tokens_done = self.bytes_done, end
        self.bytes_done += len(joined)
        if self.bytes_done > len(self.data) or (
            end == len(self.symbols) and self.bytes_done < len(self.data)
        ):
            raise DivergenceError(_diverged(self.name, f"data up to token {end}"))
        self.data[start : self.bytes_done] = joined
        return [slice(0, self.bytes_done)]


def _allocated(allocate: Callable[[int], np.ndarray], size: int, name: str) -> np.ndarray:
    try:
        return allocate(size)
    except (MemoryError, ValueError) as error:
        raise ArchiveError(
            f"{name}: its original_bytes, {size}, are more than this machine has room for"
        ) from error


def _sha256(data: Bytes) -> bytes:
    sha = hashlib.sha256()
    for start in range(0, len(data), FRAME_BYTES):
        sha.update(data[start : start + FRAME_BYTES].data)
    return sha.digest()


def _diverged(name: str, what: str) -> str:
    return (
        f"{name}: the {what} differs from the encoder's although the archive is undamaged, so this"
        " machine computes other bits: run preq doctor, try --device cpu, the torch release that"
        " made the archive, or another machine"
    )


def _check_work(name: str, run: Run, index: int, archive_bytes: int, limits: Limits) -> None:
    """See that the archive is large enough for the work up to the end of frame `index`."""
    steps = min(run.steps, (index + 1) * run.frame_steps)
    done = min(len(run.symbols), steps * run.config.chunk * run.config.streams)
    pieces = len(run.vocabulary.pieces)
    needed = done * run.config.seconds_per_token(pieces, run.bytes_per_token)
    allowed = limits.seconds + limits.seconds_per_archive_byte * archive_bytes
    if needed > allowed:
        raise ArchiveError(
            f"{name}: its model would work for about {needed / 3600:.1f} hours until the end of"
            f" data frame {index + 1}, but {archive_bytes} bytes of archive are allowed"
            f" {allowed / 3600:.1f}: if you trust it, raise the limit with --max-hours"
        )


@dataclass
class Run:
    """One pass of the loop over the data, in frames of whole chunks."""

    header: Header
    config: Config
    device: str
    threads: int | None
    symbols: Bytes  # tokens (n,)
    vocabulary: Vocabulary
    coder: Encoder | Decoder | Meter
    progress: ProgressCallback | None
    started: float  # by time.monotonic, of the time that an earlier run took as well
    prior: Prior | None = None
    transformer: Callable[..., Transformer] = Transformer
    writer: ArchiveWriter | None = None
    checkpoints: Checkpoints | None = None
    steps_done: int = 0  # chunks coded and learned
    frames_done: int = 0  # frames whose payload is complete

    def __post_init__(self) -> None:
        threads = self.threads or DEFAULT_THREADS
        self.learner = Learner(
            self.config, self.header.seed, self.device, threads, self._past, self.transformer,
            self.vocabulary,
        )  # fmt: skip
        if self.prior is not None:
            priors.check(self.prior, self.learner.learned(), self.config.ngrams.slots)
            self.learner.restore(self.prior.arrays)
        B, T = self.config.streams, self.config.chunk
        self.bytes_per_token = self.header.original_bytes / max(1, len(self.symbols))
        # Streams of equal length; the first ones take the rest, one token each.
        self.base, self.extra = divmod(len(self.symbols), B)
        self.starts = [b * self.base + min(b, self.extra) for b in range(B)]
        self.columns = self.base + (self.extra > 0)
        self.steps = -(-self.columns // T)
        frame_tokens = max(1, FRAME_BYTES * len(self.symbols) // max(1, self.header.original_bytes))
        self.frame_steps = -(-frame_tokens // (B * T))
        self.frame_count = -(-self.steps // self.frame_steps)
        self._dtype = np.uint8 if self.header.tokens is None else np.uint16
        if self.checkpoints is not None:
            self.checkpoints.begin(self)

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
            if self.checkpoints is not None:
                self.checkpoints.chunk_done(self)

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
        if self.progress is not None:
            seconds = time.monotonic() - self.started
            size = self.header.original_bytes
            done = done * size // len(self.symbols)
            self.progress(Progress(done, size, self.coder.loss_bits, seconds))


def _copy(parts: list[np.ndarray], chunk: np.ndarray) -> None:
    """chunk (T, B) = the streams' parts, side by side."""
    for b, part in enumerate(parts):
        chunk[: len(part), b] = part


@contextmanager
def _exact(device: str) -> Iterator[None]:
    """PyTorch as the arithmetic needs it, whatever the host program has set; restored after.

    Raises:
        ConfigError: no such device.
        PlatformError: this platform's arithmetic is not what the bits rest on.
    """
    with (
        _host_settings(),
        torch.inference_mode(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        selftest.require(device)
        yield


@contextmanager
def _host_settings() -> Iterator[None]:
    """Neutralise what can be; the self-test refuses the rest."""
    threads = torch.get_num_threads()
    precision = _matmul_precision()
    deterministic = torch.get_deterministic_debug_mode()
    flush = float(np.float32(2.0**-126) * np.float32(0.5)) == 0.0
    torch.set_num_threads(1)
    if precision is not None:
        torch.set_float32_matmul_precision("highest")
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


def _resolved(
    config: Config, size: int, tokens: Tokens | None, vocabulary: Vocabulary, limits: Limits
) -> Config:
    resolved = config.resolve(size, tokens.count if tokens else None)
    _check_memory(resolved, 2 * tokens.count if tokens else 0, vocabulary, limits)
    return resolved


def _check_memory(
    config: Config | None, held_bytes: int, vocabulary: Vocabulary, limits: Limits
) -> None:
    needed = held_bytes + (config.memory_bytes(len(vocabulary.pieces)) if config else 0)
    if needed > limits.memory_bytes:
        raise ConfigError(
            f"the model and what it decodes in memory would need about {needed / 2**30:.1f} GiB,"
            f" more room than the limit of {limits.memory_bytes / 2**30:.1f} GiB: raise it with"
            " --max-memory"
        )


def _store(data: Bytes, archive: BinaryIO, seed: int, sha256: bytes, started: float) -> Report:
    header = Header(len(data), seed, sha256, None)
    writer = ArchiveWriter(archive, header)
    for start in range(0, len(data), FRAME_BYTES):
        writer.data(data[start : start + FRAME_BYTES].tobytes())
    writer.end()
    return _report(
        header, writer.header_bytes, len(data), writer.bytes_written, 8.0 * len(data), b"", None,
        started,
    )  # fmt: skip


def _report(
    header: Header,
    header_bytes: int,
    payload_bytes: int,
    archive_bytes: int,
    loss_bits: float,
    digest: bytes,
    run: Run | None,
    started: float,
) -> Report:
    seconds = time.monotonic() - started
    code = codesize.code_bytes()
    prior = run.prior.compressed_bytes if run and run.prior else 0
    size = header.original_bytes
    return Report(
        original_bytes=size,
        archive_bytes=archive_bytes,
        header_bytes=header_bytes,
        payload_bytes=payload_bytes,
        payload_bits=8 * payload_bytes,
        loss_integral_bits=loss_bits,
        code_bytes=code,
        prior_bytes=prior,
        description_length_bits=8 * (archive_bytes + code + prior),
        bits_per_byte=8 * archive_bytes / size if size else 0.0,
        tokens=len(run.symbols) if run else 0,
        vocabulary=len(run.vocabulary.pieces) if run else 0,
        vocabulary_bytes=len(header.tokens.vocabulary) if header.tokens else 0,
        bits_per_token=8 * archive_bytes / len(run.symbols) if run else 0.0,
        seconds=seconds,
        bytes_per_second=size / seconds if seconds else 0.0,
        seed=header.seed,
        mode=header.mode,
        config=config_tree(header.config),
        sha256=header.sha256.hex(),
        weights_digest=digest.hex(),
        parameters=run.learner.parameter_count() if run else 0,
        weights_bytes=sum(a.nbytes for a in run.learner.learned().values()) if run else 0,
        steps=run.learner.optimizer.steps if run else 0,
        versions=versions(header.numerics_version, CONTAINER_VERSION),
    )
