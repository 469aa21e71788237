"""Composition: data to archive, archive to data, data to its codelength.

Everything that the command line and the Python API call. The method itself is `loop.run`, a pass of
it over a file `run.Run`, and the way back `decoding`.
"""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np

from prequential.archive import codesize
from prequential.archive.container import (
    CONTAINER_VERSION,
    FRAME_BYTES,
    Header,
    Limits,
    Tokens,
)
from prequential.archive.writer import ArchiveWriter, stored_bytes
from prequential.coding import pieces
from prequential.coding.elements import Arranged
from prequential.coding.encoder import Encoder, Meter
from prequential.coding.vocabulary import SINGLE_BYTES, Vocabulary
from prequential.config import AUTO, BYTES, Config, load, parse_grids
from prequential.errors import ConfigError
from prequential.progress import ProgressCallback
from prequential.report import Report, config_tree, versions
from prequential.training import decoding, finding
from prequential.training import prior as priors
from prequential.training.prior import Prior
from prequential.training.run import LIMITS, Bytes, Options, Run, check_memory, exact, sha256_of

_DEFAULT = Options()


def compress(
    data: bytes,
    seed: int = 0,
    config: Config | str | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    prior: Prior | None = None,
) -> bytes:
    """The archive of `data`.

    config is a `Config`, a preset's name, or None for the default preset. With a prior (see
    `load_prior`) the weights start from it, and the decoder needs it too.

    Raises:
        ConfigError: no such preset or device, or the prior does not fit the config.
    """
    archive = io.BytesIO()
    options = Options(device=device, threads=threads, progress=progress, prior=prior)
    array = np.frombuffer(data, np.uint8)
    encode(array, archive, config=_config(config), seed=seed, options=options)
    return archive.getvalue()


def decompress(
    archive: bytes,
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    prior: Prior | None = None,
    limits: Limits = LIMITS,
) -> bytes:
    """The data of an archive.

    Raises:
        ArchiveError: not an archive, damaged, of an unsupported version, or beyond the limits.
        DivergenceError: this machine's arithmetic is not the encoder's.
    """
    data = io.BytesIO()
    decompress_file(
        io.BytesIO(archive), data, device=device, threads=threads, progress=progress, prior=prior,
        limits=limits,
    )  # fmt: skip
    return data.getvalue()


def compress_file(
    source: BinaryIO,
    archive: BinaryIO,
    seed: int = 0,
    config: Config | str | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    prior: Prior | None = None,
) -> Report:
    """Read source to its end, once, and write its archive where `archive` stands.

    It may be a pipe, or have content, which stays: nothing is written before the archive is
    complete, as with `decompress_file`. The streams are coded side by side, so all of the source is
    needed, and held, from the start. Otherwise as `compress`.
    """
    archive.write(b"")  # what cannot be written to fails before the work
    config = _config(config)
    complete = io.BytesIO()
    options = Options(device=device, threads=threads, progress=progress, prior=prior)
    array = np.frombuffer(source.read(), np.uint8)
    report = encode(array, complete, config=config, seed=seed, options=options)
    _write(archive, complete.getbuffer())
    return report


def decompress_file(
    archive: BinaryIO,
    target: BinaryIO,
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    prior: Prior | None = None,
    limits: Limits = LIMITS,
) -> Report:
    """Write the data of an archive, which may be a pipe, once all of it is decoded and checked.

    Raises:
        ArchiveError: not an archive, damaged, of an unsupported version, or beyond the limits.
        DivergenceError: this machine's arithmetic is not the encoder's.
    """
    target.write(b"")  # what cannot be written to fails before the work
    decoded = np.empty(0, np.uint8)

    def allocate(size: int) -> np.ndarray:
        nonlocal decoded
        decoded = np.empty(size, np.uint8)
        return decoded

    name = str(getattr(archive, "name", "archive"))
    options = Options(name, device, threads, progress, prior, limits, in_memory=True)
    report = decode(archive, allocate, options)
    _write(target, decoded.data)
    return report


def _config(config: Config | str | None) -> Config:
    if config is None or isinstance(config, str):
        return load(config)
    if not isinstance(config, Config):
        raise ConfigError(f"config is {config!r}: give a Config, as of load(), or a preset's name")
    return config


def _write(file: BinaryIO, content: memoryview) -> None:
    """Write all of it, also where a call may take a part only, as an unbuffered pipe's does."""
    while len(content):
        content = content[file.write(content) :]


def codelength(
    data: bytes,
    seed: int = 0,
    config: Config | str | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    prior: Prior | None = None,
) -> Report:
    """Measure without coding: archive_bytes and payload_bytes are what the loss integral implies.

    Data that an archive would store is measured as it is, above 8 bits per byte, unless there is
    none. Otherwise as `compress`.
    """
    started = time.monotonic()
    array = np.frombuffer(data, np.uint8)
    config = _config(config)
    if len(array) == 0:
        return _store(array, io.BytesIO(), seed, sha256_of(array), started)
    options = Options(device=device, threads=threads, progress=progress, prior=prior)
    header, config, symbols, vocabulary = _described(array, config, seed, options)
    archive = ArchiveWriter(io.BytesIO(), header)
    meter = Meter()
    with exact(device):
        run = Run(header, config, options, symbols, vocabulary, meter, started)
        for _ in run.frames():
            archive.data(b"", bytes(header.digest_bytes))
        digest = run.learner.digest()
    payload_bytes = -(-int(meter.loss_bits) // 8)
    written = archive.bytes_written + payload_bytes
    return report_of(
        header, archive.header_bytes, payload_bytes, written, meter.loss_bits, digest, run, started
    )


def encode(
    data: Bytes,
    archive: BinaryIO,
    *,
    config: Config,
    seed: int = 0,
    options: Options = _DEFAULT,
    weights: BinaryIO | None = None,
) -> Report:
    """Write the archive of data (n,) uint8 into an empty, seekable file.

    With a prior the weights start from it instead of the seed's; the decoder will need it too.
    The final weights go to the file `weights`; they are no part of the archive. Of the limits only
    memory counts here.

    Raises:
        ConfigError: the model would need more than the memory limit, no such device, or the prior
            does not fit the config.
    """
    started = time.monotonic()
    if len(data) == 0:
        return _store(data, archive, seed, sha256_of(data), started)
    header, config, symbols, vocabulary = _described(data, config, seed, options)
    writer = ArchiveWriter(archive, header)
    encoder = Encoder()
    with exact(options.device):
        run = Run(header, config, options, symbols, vocabulary, encoder, started, writer)
        for _ in run.frames():
            writer.data(encoder.finish(), run.learner.digest()[: header.digest_bytes])
        digest = run.learner.digest()
    if weights is not None:
        weights.write(priors.to_bytes(run.learner.learned()))
    if writer.bytes_written > stored_bytes(len(data), seed):
        archive.seek(0)
        archive.truncate()
        return _store(data, archive, seed, header.sha256, started)
    return report_of(
        header, writer.header_bytes, writer.payload_bytes, writer.bytes_written,
        encoder.loss_bits, digest, run, run.started,
    )  # fmt: skip


def decode(
    archive: BinaryIO,
    allocate: Callable[[int], np.ndarray],
    options: Options = _DEFAULT,
    decoded: list[slice] | None = None,
) -> Report:
    """Fill allocate(original_bytes) with the original: `decoding.decode`, and its report."""
    started = time.monotonic()
    reader, run = decoding.decode(archive, allocate, options, decoded)
    loss_bits, digest = 8.0 * reader.payload_bytes, b""
    if run is not None:
        loss_bits, digest, started = run.coder.loss_bits, run.learner.digest(), run.started
    return report_of(
        reader.header, reader.header_bytes, reader.payload_bytes, reader.bytes_read, loss_bits,
        digest, run, started,
    )  # fmt: skip


class Plan(NamedTuple):
    """What encoding would take."""

    config: Config  # every size filled in
    tokens: int
    memory_bytes: int
    seconds: float  # at most, on two cores


def plan(data: Bytes, config: Config, limits: Limits = LIMITS, device: str = "cpu") -> Plan:
    """What encoding data (n,) uint8 would take, without doing it.

    Raises:
        ConfigError: the model would need more than the memory limit.
    """
    config, symbols, vocabulary, tokens = _tokenized(data, config)
    config = _resolved(config, len(data), tokens, vocabulary, limits, device)
    size = len(vocabulary.pieces)
    seconds = config.seconds_per_token(size, len(data) / max(1, len(symbols)))
    return Plan(config, len(symbols), config.memory_bytes(size), len(symbols) * seconds)


def _described(
    data: Bytes, config: Config, seed: int, options: Options
) -> tuple[Header, Config, Bytes, Vocabulary]:
    """The header of the data's archive, its config, the data's tokens and what they stand for."""
    config, symbols, vocabulary, tokens = _tokenized(data, config)
    config = _resolved(config, len(data), tokens, vocabulary, options.limits, options.device)
    if config.numbers:
        symbols = Arranged(data, parse_grids(config.numbers))
    prior = options.prior.identity if options.prior else None
    header = Header(len(data), seed, sha256_of(data), config, prior, tokens)
    return header, config, symbols, vocabulary


def _tokenized(data: Bytes, config: Config) -> tuple[Config, Bytes, Vocabulary, Tokens | None]:
    """The config with what the data decide, their tokens, what they stand for, what is sent."""
    from prequential.coding import tokenizer

    chosen = tokenizer.choose(data) if config.tokenizer == AUTO else config.tokenizer
    if parse_grids(config.numbers):
        chosen = BYTES  # their own distances
    if chosen == BYTES or len(data) == 0:
        config = dataclasses.replace(config, tokenizer=BYTES)
        return _with_numbers(config, data), data, SINGLE_BYTES, None
    spec = tokenizer.parse(chosen)
    vocabulary, symbols = tokenizer.tokenize(data, spec)
    named = dataclasses.replace(config, tokenizer=tokenizer.identity(spec))
    named = _with_numbers(named, data)
    return named, symbols, vocabulary, Tokens(len(symbols), pieces.pack(vocabulary))


def _with_numbers(config: Config, data: Bytes) -> Config:
    """Where pictures and sound are, if that was left to be found."""
    if config.numbers != AUTO:
        return config
    return dataclasses.replace(config, numbers=finding.find(data, config))


def _resolved(
    config: Config,
    size: int,
    tokens: Tokens | None,
    vocabulary: Vocabulary,
    limits: Limits,
    device: str,
) -> Config:
    resolved = config.resolve(size, tokens.count if tokens else None)
    check_memory(resolved, 2 * tokens.count if tokens else 0, vocabulary, limits, device)
    return resolved


def _store(data: Bytes, archive: BinaryIO, seed: int, sha256: bytes, started: float) -> Report:
    header = Header(len(data), seed, sha256, None)
    writer = ArchiveWriter(archive, header)
    for start in range(0, len(data), FRAME_BYTES):
        writer.data(data[start : start + FRAME_BYTES].tobytes())
    return report_of(
        header, writer.header_bytes, len(data), writer.bytes_written, 8.0 * len(data), b"", None,
        started,
    )  # fmt: skip


def report_of(
    header: Header,
    header_bytes: int,
    payload_bytes: int,
    archive_bytes: int,
    loss_bits: float,
    digest: bytes,
    run: Run | None,
    started: float,
) -> Report:
    """What a run comes to; run is None for a stored archive."""
    seconds = time.monotonic() - started
    code = codesize.code_bytes(header.config is not None and header.config.numbers != "")
    prior = run.options.prior.compressed_bytes if run and run.options.prior else 0
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
        parameters=sum(w.value.numel() for w in run.learner.model.weights) if run else 0,
        weights_bytes=sum(a.nbytes for a in run.learner.learned().values()) if run else 0,
        steps=run.learner.optimizer.steps if run else 0,
        versions=versions(header.numerics_version, CONTAINER_VERSION),
    )
