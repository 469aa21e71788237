"""Archive to data: everything that decoding takes, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import BinaryIO

import numpy as np

from prequential.archive.container import ArchiveReader, Header
from prequential.coding import pieces
from prequential.coding.coder import Decoder
from prequential.coding.vocabulary import SINGLE_BYTES, Vocabulary
from prequential.config import BYTES
from prequential.errors import ArchiveError, ConfigError, DivergenceError
from prequential.training.prior import Prior
from prequential.training.run import Bytes, Options, Run, check_memory, exact, sha256_of


def decode(
    archive: BinaryIO,
    allocate: Callable[[int], np.ndarray],
    options: Options,
    decoded: list[slice] | None = None,
) -> tuple[ArchiveReader, Run | None]:
    """Fill allocate(original_bytes), a writable uint8 array, with the original.

    Slices of the array that are decoded and checked are listed in `decoded` as the run goes on, for
    a caller that wants what comes before a fault. The reader has counted the archive's parts; there
    is no run if they are stored.

    Raises:
        ArchiveError: not an archive, damaged, of an unsupported version, made with a prior that
            is not the one there is or after files that are not given, or beyond the limits.
        DivergenceError: this machine's arithmetic is not the encoder's.
    """
    started, name = time.monotonic(), options.name
    decoded = [] if decoded is None else decoded
    reader = ArchiveReader(archive, name)
    header = reader.header
    options = replace(options, prior=_needed_prior(name, header, options.prior))
    given: list[Bytes] = []
    if header.given:
        given, vocabulary = import_module(".given", __package__).prepared(header, options)
    else:
        vocabulary = _vocabulary(name, header)
    _check_header(header, vocabulary, options)
    data = _allocated(allocate, header.original_bytes, name)
    run = None
    if header.config is None:
        _copy(reader, data, decoded)
    else:
        with exact(options.device, header.config):
            symbols = np.zeros(header.tokens.count, np.uint16) if header.tokens else data
            decoder = Decoder(header.config.payload_lanes)
            run = Run(
                header, header.config, options, symbols, vocabulary, decoder, started, None, given
            )
            try:
                _run(run, decoder, reader, data, decoded)
            finally:
                if run.learner.memory is not None:
                    decoded[:] = run.learner.memory.restore(data, decoded, header.given_bytes)
    reader.end()
    if sha256_of(data) != header.sha256:
        decoded.clear()
        raise DivergenceError(_diverged(name, "output"))
    return reader, run


def _copy(reader: ArchiveReader, data: np.ndarray, decoded: list[slice]) -> None:
    """The frames of a stored archive."""
    while (start := reader.payload_bytes) < len(data):
        payload, _ = reader.data()
        data[start : start + len(payload)] = np.frombuffer(payload, np.uint8)
        decoded[:] = [slice(0, start + len(payload))]


def _run(
    run: Run, decoder: Decoder, reader: ArchiveReader, data: np.ndarray, decoded: list[slice]
) -> None:
    """The frames of a coded archive, each checked by the digest after it."""
    name = run.options.name
    joined = _Joined(name, run.vocabulary, run.symbols, data)
    frames = run.frames()
    done = run.frames_done
    resumed = done if run.steps_done > run.given_steps else None
    for index in range(run.frame_count):
        payload, expected = reader.data()
        if index < done:
            continue
        _check_work(name, run, index, reader.bytes_read)
        try:
            if index != resumed:  # a checkpoint has the decoder's state within the payload
                decoder.load(payload)
            next(frames)
        except DivergenceError as error:
            raise DivergenceError(_diverged(name, f"data in frame {index + 1}")) from error
        if run.learner.digest()[: len(expected)] != expected:
            raise DivergenceError(_diverged(name, f"model after frame {index + 1}"))
        decoded[:] = joined.add(run.finished()) if run.header.tokens else run.finished()


def _check_header(header: Header, vocabulary: Vocabulary, options: Options) -> None:
    """See that the header's parts fit together, and the limit of memory."""
    name, config, tokens = options.name, header.config, header.tokens
    held = header.original_bytes if options.in_memory else 0
    held += 2 * tokens.count if tokens else 0
    try:
        check_memory(config, held, vocabulary, options.limits, options.device)
    except ConfigError as error:
        raise ArchiveError(f"{name}: {error}") from error


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


def _vocabulary(name: str, header: Header) -> Vocabulary:
    """What the tokens of an archive stand for."""
    if (header.tokens is None) != (header.config is None or header.config.tokenizer == BYTES):
        raise ArchiveError(f"{name}: the header's tokenizer does not fit its vocabulary")
    if header.tokens is None:
        return SINGLE_BYTES
    try:
        vocabulary = pieces.unpack(header.tokens.vocabulary)
        if not vocabulary.pieces:
            raise ValueError("the vocabulary is empty")
        return vocabulary
    except ValueError as error:
        raise ArchiveError(f"{name}: header field vocabulary is invalid ({error})") from error


class _Joined:
    """The bytes of an archive's tokens, put into the output as they are decoded."""

    def __init__(self, name: str, vocabulary: Vocabulary, symbols: Bytes, data: np.ndarray) -> None:
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


def _diverged(name: str, what: str) -> str:
    return (
        f"{name}: the {what} differs from the encoder's although the archive is undamaged, so this"
        " machine computes other bits: run preq doctor, try --device cpu, the torch release that"
        " made the archive, or another machine"
    )


def _check_work(name: str, run: Run, index: int, archive_bytes: int) -> None:
    """See that the archive is large enough for the work up to the end of frame `index`."""
    steps = (index + 1) * run.frame_steps
    done = min(len(run.symbols), steps * run.config.chunk * run.config.streams)
    size, limits = len(run.vocabulary.pieces), run.options.limits
    needed = done * run.config.seconds_per_token(size, run.bytes_per_token)
    allowed = limits.seconds + limits.seconds_per_archive_byte * archive_bytes
    if needed > allowed:
        raise ArchiveError(
            f"{name}: its model would work for about {needed / 3600:.1f} hours until the end of"
            f" data frame {index + 1}, but {archive_bytes} bytes of archive are allowed"
            f" {allowed / 3600:.1f}: if you trust it, raise the limit with --max-hours"
        )
