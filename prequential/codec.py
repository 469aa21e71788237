"""Composition: data to archive, archive to data, data to its codelength.

Everything that the command line and the Python API call. The method itself is `loop.run`.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch

from prequential import codesize, loop, selftest
from prequential import prior as priors
from prequential.coder import Decoder, Encoder, Meter
from prequential.config import Config, load
from prequential.container import (
    CONTAINER_VERSION,
    DIGEST_BYTES,
    FRAME_BYTES,
    ArchiveReader,
    ArchiveWriter,
    Header,
    stored_bytes,
)
from prequential.errors import ArchiveError, ConfigError, DivergenceError
from prequential.learner import Learner
from prequential.model import Transformer
from prequential.prior import Prior
from prequential.progress import Progress, ProgressCallback
from prequential.report import Report, config_tree, versions

MEMORY_LIMIT_BYTES = 1 << 33
# The second thread updates the n-gram tables while the first one takes the transformer's step.
DEFAULT_THREADS = 2


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
) -> bytes:
    """The data of an archive.

    Raises:
        ArchiveError: not an archive, damaged, or of an unsupported version.
        DivergenceError: this machine's arithmetic is not the encoder's.
    """
    data = io.BytesIO()
    decompress_file(io.BytesIO(archive), data, device=device, threads=threads, progress=progress)
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
) -> Report:
    """Write the data of an archive, which may be a pipe, once all of it is decoded and checked.

    Raises:
        ArchiveError: not an archive, damaged, or of an unsupported version.
        DivergenceError: this machine's arithmetic is not the encoder's.
    """
    decoded = np.empty(0, np.uint8)

    def allocate(size: int) -> np.ndarray:
        nonlocal decoded
        decoded = np.empty(size, np.uint8)
        return decoded

    report = decode(
        archive, allocate, name=str(getattr(archive, "name", "archive")), device=device,
        threads=threads, progress=progress,
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
    resolved = _resolved(config or load(), len(array))
    header = Header(len(array), seed, _sha256(array), resolved)
    archive = ArchiveWriter(io.BytesIO(), header)
    meter = Meter()
    with _exact(device):
        run = _Run(resolved, seed, device, threads, array, meter, progress, started)
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
    data: np.ndarray,
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
) -> Report:
    """Write the archive of data (n,) uint8 into a seekable file that is at its beginning.

    With a prior the weights start from it instead of the seed's; the decoder will need it too.
    The final weights go to the file `weights`; they are no part of the archive.

    Raises:
        ConfigError: the model would need more than the memory limit, no such device, or the prior
            does not fit the config.
    """
    started = time.monotonic()
    sha256 = _sha256(data)
    if len(data) == 0:
        return _store(data, archive, seed, sha256, started)
    resolved = _resolved(config, len(data))
    header = Header(len(data), seed, sha256, resolved, prior.identity if prior else None)
    writer = ArchiveWriter(archive, header)
    encoder = Encoder()
    payload_bytes = 0
    with _exact(device):
        run = _Run(
            resolved, seed, device, threads, data, encoder, progress, started, prior, transformer
        )
        for _ in run.frames():
            payload = encoder.finish()
            payload_bytes += len(payload)
            writer.data(payload, run.learner.digest()[:DIGEST_BYTES])
        digest = run.learner.digest()
    writer.end(digest)
    if weights is not None:
        weights.write(priors.to_bytes(run.learner.learned()))
    if writer.bytes_written > stored_bytes(len(data), seed):
        archive.seek(0)
        archive.truncate()
        return _store(data, archive, seed, sha256, started)
    return _report(
        header, writer.header_bytes, payload_bytes, writer.bytes_written, encoder.loss_bits,
        digest, run, started,
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
) -> Report:
    """Fill allocate(original_bytes), a writable uint8 array, with the original.

    Raises:
        ArchiveError: not an archive, damaged, of an unsupported version, or made with a prior that
            is not the given one.
        DivergenceError: this machine's arithmetic is not the encoder's.
    """
    started = time.monotonic()
    reader = ArchiveReader(archive, name)
    header = reader.header
    prior = _needed_prior(name, header, prior)
    decoder = Decoder()
    run = None
    payload_bytes = 0
    if header.config is None:
        data = _allocated(allocate, header.original_bytes, name)
        for start in range(0, len(data), FRAME_BYTES):
            payload, _ = reader.data()
            data[start : start + FRAME_BYTES] = np.frombuffer(payload, np.uint8)
            payload_bytes += len(payload)
        digest = reader.end()
    else:
        try:
            _check_memory(header.config)
        except ConfigError as error:
            raise ArchiveError(f"{name}: {error}") from error
        if header.config != header.config.resolve(header.original_bytes):
            raise ArchiveError(f"{name}: the header's config does not fit its original_bytes")
        data = _allocated(allocate, header.original_bytes, name)
        with _exact(device):
            run = _Run(
                header.config, header.seed, device, threads, data, decoder, progress, started,
                prior,
            )  # fmt: skip
            frames = run.frames()
            for index in range(run.frame_count):
                payload, expected = reader.data()
                payload_bytes += len(payload)
                decoder.load(payload)
                next(frames)
                if run.learner.digest()[:DIGEST_BYTES] != expected:
                    raise DivergenceError(_diverged(name, f"weights after frame {index}"))
            digest = run.learner.digest()
        if reader.end() != digest:
            raise DivergenceError(_diverged(name, "final weights"))
    if _sha256(data) != header.sha256:
        raise DivergenceError(_diverged(name, "output"))
    return _report(
        header, reader.header_bytes, payload_bytes, reader.bytes_read,
        decoder.loss_bits if run else 8.0 * payload_bytes, digest, run, started,
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


def _allocated(allocate: Callable[[int], np.ndarray], size: int, name: str) -> np.ndarray:
    try:
        return allocate(size)
    except (MemoryError, ValueError) as error:
        raise ArchiveError(
            f"{name}: its original_bytes, {size}, are more than this machine has room for"
        ) from error


def _sha256(data: np.ndarray) -> bytes:
    return hashlib.sha256(data.data).digest()


def _diverged(name: str, what: str) -> str:
    return (
        f"{name}: the {what} differs from the encoder's although the archive is undamaged;"
        " this machine computes other bits: try --device cpu and another torch release"
    )


@dataclass
class _Run:
    """One pass of the loop over the data, in frames of whole chunks."""

    config: Config
    seed: int
    device: str
    threads: int | None
    data: np.ndarray
    coder: Encoder | Decoder | Meter
    progress: ProgressCallback | None
    started: float
    prior: Prior | None = None
    transformer: Callable[..., Transformer] = Transformer

    def __post_init__(self) -> None:
        threads = self.threads or DEFAULT_THREADS
        self.learner = Learner(
            self.config, self.seed, self.device, threads, self._past, self.transformer
        )
        if self.prior is not None:
            priors.check(self.prior, self.learner.learned(), self.config.ngrams.slots)
            self.learner.restore(self.prior.arrays)
        B, T = self.config.streams, self.config.chunk
        # Streams of equal length; the first ones take the rest, one byte each.
        self.base, self.extra = divmod(len(self.data), B)
        self.starts = [b * self.base + min(b, self.extra) for b in range(B)]
        self.columns = self.base + (self.extra > 0)
        self.steps = -(-self.columns // T)
        self.frame_steps = -(-FRAME_BYTES // (B * T))
        self.frame_count = -(-self.steps // self.frame_steps)

    def frames(self) -> Iterator[None]:
        """Run the loop; stops after each frame's last chunk."""
        for frame in range(self.frame_count):
            first = frame * self.frame_steps
            chunks = self._chunks(first, min(self.steps, first + self.frame_steps))
            loop.run(chunks, self.coder, self.learner)
            yield

    def _chunks(self, first: int, end: int) -> Iterator[tuple[np.ndarray, int]]:
        """(chunk (T, B) uint8, count of real tokens); what a decoder fills in goes to data."""
        decoding = isinstance(self.coder, Decoder)
        for step in range(first, end):
            chunk, parts, count = self._parts(step)
            if not decoding:
                _copy(parts, chunk)
            yield chunk, count
            if decoding:
                for b, part in enumerate(parts):
                    part[:] = chunk[: len(part), b]
            self._show(min(len(self.data), step * self.config.chunk * len(parts) + count))

    def _past(self, step: int) -> tuple[np.ndarray, int]:
        """A chunk that is known already, to be replayed, and its count of real tokens."""
        chunk, parts, count = self._parts(step)
        _copy(parts, chunk)
        return chunk, count

    def _parts(self, step: int) -> tuple[np.ndarray, list[np.ndarray], int]:
        """An empty chunk (T, B), each stream's share of the data (n,), and the tokens in all."""
        B, T = self.config.streams, self.config.chunk
        a = step * T
        full = min(T, self.base - a)  # columns in which every stream has a byte
        chunk = np.zeros((min(T, self.columns - a), B), np.uint8)
        own = [len(chunk) if b < self.extra else full for b in range(B)]
        parts = [self.data[s + a : s + a + n] for s, n in zip(self.starts, own, strict=True)]
        return chunk, parts, sum(own)

    def _show(self, done: int) -> None:
        if self.progress is not None:
            seconds = time.monotonic() - self.started
            self.progress(Progress(done, len(self.data), self.coder.loss_bits, seconds))


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


def _resolved(config: Config, size: int) -> Config:
    resolved = config.resolve(size)
    _check_memory(resolved)
    return resolved


def _check_memory(config: Config) -> None:
    needed = config.memory_bytes()
    if needed > MEMORY_LIMIT_BYTES:
        raise ConfigError(
            f"the model would need about {needed / 2**30:.1f} GiB,"
            f" more than the limit of {MEMORY_LIMIT_BYTES / 2**30:.0f} GiB"
        )


def _store(data: np.ndarray, archive: BinaryIO, seed: int, sha256: bytes, started: float) -> Report:
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
    run: _Run | None,
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
