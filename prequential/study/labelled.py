"""Labels as a file that decodes, given their inputs: by this package's own loop.

Inputs and labels stand in turns, as one sequence of bytes. The loop predicts and learns all of
them, in this order, but only the labels' bytes are coded: whoever decodes has the inputs, and fills
in the labels one by one. All of it is exact, so the archive is the same on every machine.

The archive is a mark, the beginning of a hash of the inputs, and a `.pq` archive (docs/FORMAT.md)
whose payload has the labels only; `preq decode` refuses it by its mark.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from prequential import codec
from prequential.archive.container import ArchiveReader, Limits
from prequential.coding.coder import MEASURE, Code, SymbolCoder
from prequential.coding.itemised import coding_order
from prequential.config import AUTO, BYTES, Config, load
from prequential.errors import ArchiveError, ConfigError
from prequential.training.run import Options, new_learner

MARK = b"PQL1"  # no version byte of a .pq archive
_HASH_BYTES = 8


class _Beside:
    """Codes the labels' bytes like another coder; the inputs' are known, and only learned."""

    def __init__(self, inner: SymbolCoder, known: np.ndarray, values: np.ndarray) -> None:
        """known (n,) bool and values (n,) uint8 are of all symbols, in the order of coding."""
        self._inner, self._known, self._values = inner, known, values
        self._done = 0

    def code(
        self, mode: int, symbols: np.ndarray, frequencies: np.ndarray, first: int, code: Code
    ) -> float:
        """See `coder.SymbolCoder.code`; runs of one kind at a time."""
        known = self._known[self._done : self._done + len(symbols)]
        edges = [0, *(np.flatnonzero(np.diff(known)) + 1), len(symbols)]
        total = 0.0
        for a, b in pairwise(edges):
            part = symbols[a:b], frequencies[a:b], first + a
            if known[a]:
                symbols[a:b] = self._values[self._done + a : self._done + b]
                self._inner.code(MEASURE, *part, code)
            else:
                total += self._inner.code(mode, *part, code)
        self._done += len(symbols)
        return total


def encode_labels(
    inputs: Sequence[bytes],
    labels: Sequence[bytes],
    config: Config | str | None = None,
    seed: int = 0,
) -> bytes:
    """An archive of the labels, which `decode_labels` makes of it and of the inputs.

    What is coded has exactly the bits of `supervised.own`; the payload agrees with them as any
    payload does, to within 64 bits a frame. Where inputs and labels as they are would be smaller
    (of a few examples), these are stored.

    Raises:
        ConfigError: not a label for each input, labels of different lengths, what is no bytes, or
            a config that does not take bytes as they come.
    """
    data, known = in_turns(inputs, labels)
    archive = io.BytesIO()
    options = Options(new_learner=_learner(data, known))
    codec.encode(data, archive, config=as_bytes(config), seed=seed, options=options)
    return MARK + _identity(inputs) + archive.getvalue()


def decode_labels(archive: bytes, inputs: Sequence[bytes]) -> list[bytes]:
    """The labels of an archive of `encode_labels`, given the inputs, in the same order.

    Raises:
        ArchiveError: not such an archive, damaged, or of other inputs.
        ConfigError: an input is no bytes.
        DivergenceError: this machine's arithmetic is not the encoder's.
    """
    _check_bytes(inputs=inputs)
    start = len(MARK) + _HASH_BYTES
    if archive[: len(MARK)] != MARK:
        raise ArchiveError("labels: is no archive of encode_labels")
    if archive[len(MARK) : start] != _identity(inputs):
        raise ArchiveError("labels: was made given other inputs: give those, in the same order")
    inner = archive[start:]
    size = ArchiveReader(io.BytesIO(inner), "labels").header.original_bytes
    length, rest = divmod(size - sum(map(len, inputs)), max(1, len(inputs)))
    if length < 1 or rest:
        raise ArchiveError("labels: its size does not fit the inputs: it is damaged")
    data, known = in_turns(inputs, [bytes(length)] * len(inputs))

    def allocate(size: int) -> np.ndarray:
        return data

    # The work is on the inputs, which are the caller's own.
    limits = Limits(seconds=float("inf"))
    options = Options(name="labels", limits=limits, new_learner=_learner(data.copy(), known))
    codec.decode(io.BytesIO(inner), allocate, options)
    found = data[~known].tobytes()
    return [found[k : k + length] for k in range(0, len(found), length)]


def in_turns(
    inputs: Sequence[bytes], labels: Sequence[bytes]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """All bytes (n,) uint8, and which of them are the inputs' (n,) bool.

    Raises:
        ConfigError: not a label for each input, of different lengths, or what is no bytes.
    """
    _check_bytes(inputs=inputs, labels=labels)
    if len(inputs) != len(labels) or not labels:
        raise ConfigError(f"{len(inputs)} inputs, {len(labels)} labels: give one for each")
    if len(lengths := set(map(len, labels))) > 1 or not lengths - {0}:
        raise ConfigError("labels: are to be of one length, a byte or more: fill up shorter ones")
    parts = [part for pair in zip(inputs, labels, strict=True) for part in pair]
    known = np.repeat(np.arange(len(parts)) % 2 == 0, [len(part) for part in parts])
    return np.frombuffer(bytearray(b"".join(parts)), np.uint8), known


def _check_bytes(**given: Sequence[bytes]) -> None:
    for name, parts in given.items():
        for k, part in enumerate(parts):
            if not isinstance(part, (bytes, bytearray, memoryview)):
                told = f"{name}[{k}] is {type(part).__name__}, not bytes: encode it"
                raise ConfigError(told)


def as_bytes(config: Config | str | None) -> Config:
    """The config, where what is left open does not depend on the labels.

    Raises:
        ConfigError: it asks for pieces or numbers: neither fits inputs and labels in turns.
    """
    found = config if isinstance(config, Config) else load(config)
    if found.tokenizer not in (AUTO, BYTES) or found.numbers not in (AUTO, ""):
        raise ConfigError("labels: are coded byte by byte: leave tokenizer and numbers as they are")
    return replace(found, tokenizer=BYTES, numbers="")


def _identity(inputs: Sequence[bytes]) -> bytes:
    """The beginning of a hash of all inputs and their lengths."""
    sha = hashlib.sha256()
    for one in inputs:
        sha.update(len(one).to_bytes(8, "little") + one)
    return sha.digest()[:_HASH_BYTES]


def _learner(data: np.ndarray[Any, Any], known: np.ndarray[Any, Any]) -> Callable[..., Any]:
    """What makes a learner that codes beside what is known of data (n,) uint8."""

    def make(config: Config, seed: int, *more: Any) -> Any:
        learner = new_learner(config, seed, *more)
        order = coding_order(len(data), config.streams)
        learner.symbol_coder = _Beside(learner.symbol_coder, known[order], data[order])
        learner.decode_columns = None  # its loop knows no other coder
        return learner

    return make
