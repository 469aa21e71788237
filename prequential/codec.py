"""Composition: data to archive, archive to data, data to its codelength.

Everything that the command line and the Python API call. The method itself is `loop.run`, a pass of
it over a file `run.Run`, and the way back `decoding`.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple, overload

import numpy as np

from prequential.archive import codesize
from prequential.archive.container import (
    CONTAINER_VERSION,
    FRAME_BYTES,
    SHORT_SHA256_BYTES,
    Header,
    Limits,
    Tokens,
)
from prequential.archive.writer import ArchiveWriter, stored_bytes
from prequential.coding import pieces
from prequential.coding.elements import Arranged
from prequential.coding.encoder import Encoder
from prequential.coding.itemised import Costs, Itemised, coding_order, places
from prequential.coding.meter import Meter
from prequential.coding.vocabulary import SINGLE_BYTES, Vocabulary
from prequential.config import AUTO, BYTES, Config, load, parse_grids
from prequential.errors import ArchiveError, ConfigError, FileError, PrequentialError
from prequential.progress import ProgressCallback
from prequential.report import Report, config_tree, versions
from prequential.training import checkpoint, decoding, finding, given, learned
from prequential.training import prior as priors
from prequential.training.given import Given
from prequential.training.prior import Prior
from prequential.training.run import LIMITS, Bytes, Options, Run, check_memory, exact, sha256_of

if TYPE_CHECKING:
    from typing_extensions import Buffer  # of `collections.abc` from Python 3.12 on

    from prequential.training.learner import Learner

_DEFAULT = Options()
# What is learned first: bytes, or the path of a file with them.
Learned = Sequence["Buffer | str | os.PathLike[str]"]
Told = Callable[[Costs], object] | None  # what hears of each token's cost, if anything


@contextmanager
def _in_python() -> Iterator[None]:
    """Let messages name parameters: what they say is written for the command line.

    `--given` becomes `given=`, and `--device cpu` `device cpu`.
    """
    try:
        yield
    except PrequentialError as error:
        told = re.sub(r"(?<![\w-])--max-(memory|hours)", "--limits", str(error))
        told = re.sub(r"(?<![\w-])--([a-z]+)(?! ?[\w.])", r"\1=", told)
        error.args = (re.sub(r"(?<![\w-])--([a-z]+)", r"\1", told),)
        raise


@_in_python()
def compress(
    data: Buffer,
    seed: int = 0,
    config: Config | str | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    prior: Prior | None = None,
    given: Learned = (),
) -> bytes:
    """The archive of `data`, any contiguous buffer.

    config is a `Config`, a preset's name, or None for the default preset. With a prior (see
    `load_prior`) the weights start from it, and the decoder needs it too. What is given, as bytes
    or as the path of a file, is learned first, in this order; the decoder needs that as well.

    Raises:
        ConfigError: no such preset or device, or the prior does not fit the config.
        FileError: what is given cannot be read.
    """
    archive = io.BytesIO()
    options = _options(device, threads, progress, prior, given)
    array = _array(data)
    encode(array, archive, config=_config(config), seed=seed, options=options)
    return archive.getvalue()


@_in_python()
def decompress(
    archive: Buffer,
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    prior: Prior | None = None,
    given: Learned = (),
    limits: Limits = LIMITS,
) -> bytes:
    """The data of an archive; what it was made after is among the given.

    Raises:
        ArchiveError: not an archive, damaged, of an unsupported version, or beyond the limits.
        DivergenceError: this machine's arithmetic is not the encoder's.
    """
    data = io.BytesIO()
    decompress_file(
        io.BytesIO(memoryview(archive)), data, device=device, threads=threads, progress=progress,
        prior=prior, given=given, limits=limits,
    )  # fmt: skip
    return data.getvalue()


@_in_python()
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
    given: Learned = (),
) -> Report:
    """Read source to its end, once, and write its archive where `archive` stands.

    It may be a pipe, or have content, which stays: nothing is written before the archive is
    complete, as with `decompress_file`. The streams are coded side by side, so all of the source is
    needed, and held, from the start. Otherwise as `compress`.
    """
    archive.write(b"")  # what cannot be written to fails before the work
    config = _config(config)
    complete = io.BytesIO()
    options = _options(device, threads, progress, prior, given)
    array = np.frombuffer(source.read(), np.uint8)
    report = encode(array, complete, config=config, seed=seed, options=options)
    _write(archive, complete.getbuffer())
    return report


@_in_python()
def decompress_file(
    archive: BinaryIO,
    target: BinaryIO,
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    prior: Prior | None = None,
    given: Learned = (),
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
    options = _options(device, threads, progress, prior, given)
    options = dataclasses.replace(options, name=name, limits=limits, in_memory=True)
    report = decode(archive, allocate, options)
    _write(target, decoded.data)
    return report


def _options(
    device: str,
    threads: int | None,
    progress: ProgressCallback | None,
    prior: Prior | None,
    first: Learned,
) -> Options:
    if isinstance(first, bytes | str):
        raise ConfigError("given is a list of bytes and paths: put what is given into one")
    found = tuple(_given(what, number) for number, what in enumerate(first, 1))
    return Options(device=device, threads=threads, progress=progress, prior=prior, given=found)


def _given(what: Buffer | str | os.PathLike[str], number: int) -> Given:
    if not isinstance(what, str | os.PathLike):
        return given.named(f"given {number}", _array(what))
    path = os.fspath(what)
    try:
        return given.named(path, np.fromfile(path, np.uint8))
    except OSError as error:
        raise FileError(f"{ascii(path)[1:-1]}: cannot be read: {error.strerror}") from error


def _array(data: Buffer) -> Bytes:
    """Its bytes (n,) uint8, not copied."""
    return np.frombuffer(memoryview(data), np.uint8)


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


@overload
def codelength(
    data: Buffer,
    seed: int = ...,
    config: Config | str | None = ...,
    *,
    device: str = ...,
    threads: int | None = ...,
    progress: ProgressCallback | None = ...,
    prior: Prior | None = ...,
    given: Learned = ...,
    per_token: Literal[False] = ...,
) -> Report: ...
@overload
def codelength(
    data: Buffer,
    seed: int = ...,
    config: Config | str | None = ...,
    *,
    device: str = ...,
    threads: int | None = ...,
    progress: ProgressCallback | None = ...,
    prior: Prior | None = ...,
    given: Learned = ...,
    per_token: Literal[True],
) -> tuple[Report, Costs]: ...
@_in_python()
def codelength(
    data: Buffer,
    seed: int = 0,
    config: Config | str | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    prior: Prior | None = None,
    given: Learned = (),
    per_token: bool = False,
) -> Report | tuple[Report, Costs]:
    """Measure without coding: archive_bytes and payload_bytes are what the loss integral implies.

    Data that an archive would store is measured as it is, above 8 bits per byte, unless there is
    none. With per_token also what each token costs, where it stands, which takes about twice as
    long. Otherwise as `compress`.
    """
    found: list[Costs] = []
    report = measure(
        _array(data),
        config=_config(config),
        seed=seed,
        options=_options(device, threads, progress, prior, given),
        told=found.append if per_token else None,
    )
    return (report, found[0]) if per_token else report


def measure(
    data: Bytes,
    *,
    config: Config,
    seed: int = 0,
    options: Options = _DEFAULT,
    told: Told = None,
    apart: bool = False,
) -> Report:
    """`codelength` of data (n,) uint8; what each token costs is told, if that is wanted.

    With `apart` also what parts of the learner would pay by themselves, by a single thread.
    """
    started = time.monotonic()
    if apart:
        options = dataclasses.replace(options, threads=1)
    if len(data) == 0:
        return _store(data, io.BytesIO(), seed, sha256_of(data), started, told)
    header, config, symbols, vocabulary, first = described(data, config, seed, options)
    archive = ArchiveWriter(io.BytesIO(), header)
    meter = Meter(config.payload_lanes)
    with exact(options.device, config):
        run = Run(header, config, options, symbols, vocabulary, meter, started, None, first)
        tell = _itemise(run, told, apart)
        for _ in run.frames():
            archive.data(b"", bytes(header.digest_bytes))
        digest = run.learner.digest()
    tell()
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
    told: Told = None,
) -> Report:
    """Write the archive of data (n,) uint8 into an empty, seekable file.

    With a prior the weights start from it instead of the seed's; the decoder will need it too, and
    what is given and learned first. The final weights go to the file `weights`; they are no part of
    the archive. What each token costs is told, if that is wanted. Of the limits only memory counts
    here.

    Raises:
        ConfigError: the model would need more than the memory limit, no such device, or the prior
            does not fit the config.
    """
    started = time.monotonic()
    if weights is not None and config.memory.alone:
        raise ConfigError("--save-weights: a memory alone has no weights: use another preset")
    if len(data) == 0:
        return _store(data, archive, seed, sha256_of(data), started, told)
    header, config, symbols, vocabulary, first = described(data, config, seed, options)
    writer = ArchiveWriter(archive, header)
    encoder = Encoder(config.payload_lanes)
    with exact(options.device, config):
        run = Run(header, config, options, symbols, vocabulary, encoder, started, writer, first)
        tell = _itemise(run, told)
        for _ in run.frames():
            writer.data(encoder.finish(), run.learner.digest()[: header.digest_bytes])
        digest = run.learner.digest()
    if weights is not None:
        weights.write(priors.to_bytes(run.learner.learned()))
    if writer.bytes_written > stored_bytes(len(data), seed):
        archive.seek(0)
        archive.truncate()
        return _store(data, archive, seed, header.sha256, started, told)
    tell()
    return report_of(
        header, writer.header_bytes, writer.payload_bytes, writer.bytes_written,
        encoder.loss_bits, digest, run, run.started,
    )  # fmt: skip


def decode(
    archive: BinaryIO,
    allocate: Callable[[int], np.ndarray],
    options: Options = _DEFAULT,
    decoded: list[slice] | None = None,
    weights: BinaryIO | None = None,
) -> Report:
    """Fill allocate(original_bytes) with the original: `decoding.decode`, and its report.

    The final weights, which are the encoder's, go to the file `weights`.

    Raises:
        ArchiveError: as `decoding.decode`, or weights are asked of an archive that has no model.
    """
    started = time.monotonic()
    reader, run = decoding.decode(archive, allocate, options, decoded)
    if weights is not None:
        if run is None:
            raise ArchiveError(f"{options.name}: is stored without a model: it has no weights")
        weights.write(priors.to_bytes(run.learner.learned()))
    loss_bits, digest = 8.0 * reader.payload_bytes, b""
    if run is not None:
        loss_bits, digest, started = run.coder.loss_bits, run.learner.digest(), run.started
    return report_of(
        reader.header, reader.header_bytes, reader.payload_bytes, reader.bytes_read, loss_bits,
        digest, run, started,
    )  # fmt: skip


def learn(
    state: BinaryIO, *, config: Config, seed: int = 0, options: Options = _DEFAULT
) -> tuple[Header, float]:
    """Learn the given of the options, and write what has become of the model to an empty file.

    It is that of inputs no longer than the given, in one stream unless the config has more, with
    no numbers unless it names some. Returns the header of such an archive and the seconds it took.

    Raises:
        ConfigError: as `encode`.
    """
    started = time.monotonic()
    given.check_header(options.given)
    config = dataclasses.replace(
        config,
        numbers=config.numbers if config.numbers != AUTO else "",
        tokenizer=config.tokenizer if config.tokenizer != AUTO else BYTES,
    )
    cutting = given.cut(options.given, config)
    tokens = None if cutting.segment is None else Tokens(1, b"")
    size = _size(options.given)
    config = config.resolve(min(size, config.stream_bytes), None, size)
    check_memory(config, 0, cutting.vocabulary, options.limits, options.device)
    prior = options.prior.identity if options.prior else None
    files = tuple(g.file for g in options.given)
    header = Header(size, seed, bytes(SHORT_SHA256_BYTES), config, prior, tokens, files)
    nothing = np.zeros(0, np.uint8 if tokens is None else np.uint16)
    meter = Meter(config.payload_lanes)
    with exact(options.device, config):
        run = Run(
            header, config, options, nothing, cutting.vocabulary, meter, started, None,
            cutting.given,
        )  # fmt: skip
        given.learn(run)
        learned.save(state, run)
    return header, time.monotonic() - started


class Plan(NamedTuple):
    """What encoding would take."""

    config: Config  # every size filled in
    tokens: int
    memory_bytes: int
    seconds: float  # at most, on two cores


def plan(data: Bytes, config: Config, options: Options = _DEFAULT) -> Plan:
    """What encoding data (n,) uint8 would take, without doing it.

    Raises:
        ConfigError: the model would need more than the memory limit.
    """
    config, symbols, vocabulary, tokens, _ = _tokenized(data, config, options.given)
    config = _resolved(config, len(data), tokens, vocabulary, options)
    size = len(vocabulary.pieces)
    seconds = config.seconds_per_token(size, len(data) / max(1, len(symbols)))
    seconds *= len(symbols) + _size(options.given)
    return Plan(config, len(symbols), config.memory_bytes(size), seconds)


class Described(NamedTuple):
    """What a run is made of."""

    header: Header
    config: Config
    symbols: Bytes  # tokens (n,) of the data
    vocabulary: Vocabulary
    given: list[Bytes]  # tokens (n,) of what is learned first


def described(data: Bytes, config: Config, seed: int, options: Options) -> Described:
    """The header of the data's archive, its config, all tokens and what they stand for."""
    given.check_header(options.given)
    config, symbols, vocabulary, tokens, first = _tokenized(data, config, options.given)
    config = _resolved(config, len(data), tokens, vocabulary, options)
    if config.numbers:
        symbols = Arranged(data, parse_grids(config.numbers), _size(options.given))
    prior = options.prior.identity if options.prior else None
    files = tuple(g.file for g in options.given)
    header = Header(len(data), seed, sha256_of(data), config, prior, tokens, files)
    return Described(header, config, symbols, vocabulary, first)


def _size(first: Sequence[Given]) -> int:
    """Bytes that are given."""
    return sum(g.file.size for g in first)


def _tokenized(
    data: Bytes, config: Config, first: Sequence[Given]
) -> tuple[Config, Bytes, Vocabulary, Tokens | None, list[Bytes]]:
    """The config with what the data decide, their tokens, what they stand for, what is sent.

    And the tokens of what is given.
    """
    from prequential.coding import content, tokenizer

    if not first:  # what is given has been learned, perhaps long ago, at the usual rate
        config = content.with_rate(config, data)
    chosen = config.tokenizer
    if chosen == AUTO:
        chosen = BYTES if first else tokenizer.choose(data)
    if parse_grids(config.numbers):
        chosen = BYTES  # their own distances
    if chosen == BYTES or len(data) == 0:
        config = dataclasses.replace(config, tokenizer=BYTES)
        config = _with_numbers(config, data, first)
        return config, data, SINGLE_BYTES, None, given.cut(first, config).given
    spec = tokenizer.parse(chosen)
    if first:  # the pieces follow from it, and none is sent
        config = dataclasses.replace(config, tokenizer=f"{spec.kind}:{spec.size}", numbers="")
        cutting = given.cut(first, config)
        assert cutting.segment is not None
        symbols = cutting.segment(data)
        return config, symbols, cutting.vocabulary, Tokens(len(symbols), b""), cutting.given
    vocabulary, symbols = tokenizer.tokenize(data, spec)
    named = dataclasses.replace(config, tokenizer=tokenizer.identity(spec))
    named = _with_numbers(named, data, first)
    return named, symbols, vocabulary, Tokens(len(symbols), pieces.pack(vocabulary)), []


def _with_numbers(config: Config, data: Bytes, first: Sequence[Given]) -> Config:
    """Where pictures and sound are, if that was left to be found."""
    if config.numbers != AUTO:
        return config
    parts = [g.data for g in first]
    return dataclasses.replace(config, numbers=finding.find(data, config, parts))


def _resolved(
    config: Config,
    size: int,
    tokens: Tokens | None,
    vocabulary: Vocabulary,
    options: Options,
) -> Config:
    resolved = config.resolve(size, tokens.count if tokens else None, _size(options.given))
    held = 2 * tokens.count if tokens else 0
    if not config.memory.buckets:  # nobody has asked for so many
        room = int(options.limits.memory_bytes) - held
        resolved = resolved.fitting(room, len(vocabulary.pieces))
    check_memory(resolved, held, vocabulary, options.limits, options.device)
    return resolved


def _parameters(learner: Learner) -> int:
    """Dense weights of both networks."""
    cells = sum(kind.value.size for kind in learner.recurrence.network[:3])
    weights = learner.model.weights if learner.model else []
    return cells + sum(weight.value.numel() for weight in weights)


def _itemise(run: Run, told: Told, apart: bool = False) -> Callable[[], object]:
    """Have the run's learner note what each symbol costs, once it has learned what is given.

    What comes back tells the costs, in the order of the input, when the run is over.
    """
    if told is None:
        return lambda: None
    if run.steps_done < run.given_steps:
        given.learn(run)
    memory, count = run.learner.memory, len(run.symbols)
    lengths = memory.states[0].matches.pointers.length if memory is not None else None
    parts = import_module(".apart", decoding.__package__).Apart(run.learner) if apart else None
    items = Itemised(run.learner.symbol_coder, lengths, count, parts)
    run.learner.symbol_coder = items
    order, offsets = coding_order(count, run.config.streams), np.arange(count + 1)
    if run.config.numbers:
        grids = parse_grids(run.config.numbers)
        order = places(count, grids, run.header.given_bytes)[order]
    if run.header.tokens is not None:
        pieces_bytes = np.array(run.vocabulary.lengths)[run.symbols[0:count]]
        offsets = np.concatenate([[0], pieces_bytes.cumsum()])
    return lambda: told(items.costs(order, offsets))


def _store(
    data: Bytes, archive: BinaryIO, seed: int, sha256: bytes, started: float, told: Told
) -> Report:
    header = Header(len(data), seed, sha256, None)
    writer = ArchiveWriter(archive, header)
    for start in range(0, len(data), FRAME_BYTES):
        writer.data(data[start : start + FRAME_BYTES].tobytes())
    if told is not None:  # eight bits a byte
        bits = np.full(len(data), 8.0)
        told(Costs(np.arange(len(data) + 1), bits, bits, np.zeros(len(data), np.int64)))
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
    code = codesize.code_bytes(codesize.parts(header))
    prior = run.options.prior.compressed_bytes if run and run.options.prior else 0
    size = header.original_bytes
    networks = checkpoint.networks_of(run.learner) if run else None
    return Report(
        original_bytes=size,
        archive_bytes=archive_bytes,
        header_bytes=header_bytes,
        payload_bytes=payload_bytes,
        payload_bits=8 * payload_bytes,
        loss_integral_bits=loss_bits,
        code_bytes=code,
        prior_bytes=prior,
        given_bytes=header.given_bytes,
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
        parameters=_parameters(networks) if networks else 0,
        weights_bytes=sum(a.nbytes for a in run.learner.learned().values()) if run else 0,
        steps=networks.steps if networks else 0,
        versions=versions(header.numerics_version, CONTAINER_VERSION),
    )
