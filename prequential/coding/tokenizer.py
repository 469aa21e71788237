"""Bytes to tokens, for the encoder: sentencepiece learns the pieces and segments, losslessly.

sentencepiece works on characters, normalises them, and knows symbols of its own. So it is never
shown the data but a text in which each byte is one character that it leaves alone: visible ASCII is
itself, a space is sentencepiece's own mark for one, so that words begin with it, and every other
byte is a Latin letter from U+0100 on. A model from a file is translated into that alphabet too.
Each of the 256 bytes is a piece, hence whatever the data is, its tokens join to it again.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prequential.coding import content
from prequential.coding.vocabulary import (
    MAX_PIECE_BYTES,
    MAX_PIECES,
    SINGLE_BYTES,
    Vocabulary,
    concatenate,
)
from prequential.config import BYTES
from prequential.errors import ConfigError, FileError

# Prose of this length is better off in tokens (docs/log/tokens.md).
PROSE_BYTES = (10_000_000, 1 << 28)
PROSE_TOKENIZER = "bpe:1024"
MIN_SIZE = 257
DEFAULT_SIZE = 4096
# sentencepiece's time and memory grow with the text it is given at once.
_SENTENCE_BYTES = 4096
_BLOCK_BYTES = 1 << 14
_CHECKED = 1 << 20  # tokens at once
# A piece that is used less often costs more in the header than it saves.
MIN_USES = 2

_SPACE = "\u2581"  # sentencepiece's mark
_ALPHABET = {b: chr(b) if 33 <= b <= 126 else chr(0x100 + b) for b in range(256)} | {32: _SPACE}
_BYTE_OF = {character: bytes([b]) for b, character in _ALPHABET.items()}
_UNKNOWN = "\u4e2d"  # any character outside the alphabet
_NORMAL, _UNKNOWN_TYPE, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)
_KINDS = {1: "unigram", 2: "bpe"}


class Spec(NamedTuple):
    """What `parse` read: kind "bytes", "bpe", "unigram" or "model"."""

    kind: str
    size: int = 256  # pieces at most, the single bytes included
    path: str = ""  # of a .model


class Pieces(NamedTuple):
    """What segments: scores and types (as sentencepiece numbers them) of pieces of bytes."""

    kind: str  # "bpe": a higher score merges first; "unigram": log-probabilities
    scores: dict[bytes, float]
    types: dict[bytes, int]  # where it is not a normal piece


def parse(spec: str) -> Spec:
    """The tokenizer that is meant by "bytes", "bpe:4096", "unigram:512", "bpe" or a .model's path.

    >>> parse("bpe:512")
    Spec(kind='bpe', size=512, path='')

    Raises:
        ConfigError: it is none of these, or the size is out of range.
    """
    if spec == BYTES:
        return Spec(BYTES)
    if spec.endswith(".model"):
        return Spec("model", MAX_PIECES, spec)
    kind, colon, size = spec.partition(":")
    if kind not in _KINDS.values() or (colon and not (size.isascii() and size.isdigit())):
        raise ConfigError(
            f"tokenizer {spec!r} is not known: give bytes, bpe:SIZE, unigram:SIZE, or the path of "
            "a sentencepiece model that ends in .model"
        )
    pieces = int(size[:9]) if colon else DEFAULT_SIZE
    if not MIN_SIZE <= pieces <= MAX_PIECES:
        raise ConfigError(
            f"tokenizer {spec!r}: the size must lie within {MIN_SIZE} and {MAX_PIECES}"
        )
    return Spec(kind, pieces)


def choose(data: Any) -> str:
    """The tokenizer of the setting "auto" for data (size,) uint8: bytes, but not for long prose.

    Shorter texts are smaller in bytes, and what is longer than this is read part by part, while its
    tokens would have to be held.
    """
    long = PROSE_BYTES[0] <= len(data) <= PROSE_BYTES[1]
    return PROSE_TOKENIZER if long and content.is_prose(content.counted(data)) else BYTES


def identity(spec: Spec) -> str:
    """The tokenizer's name in the archive: of a model that was given, with its file's SHA-256.

    Raises:
        FileError: the file cannot be read.
    """
    if spec.kind == "model":
        return f"{Path(spec.path).name} {hashlib.sha256(_read(spec.path)).hexdigest()}"
    return spec.kind if spec.kind == BYTES else f"{spec.kind}:{spec.size}"


def tokenize(data: Any, spec: Spec) -> tuple[Vocabulary, np.ndarray]:
    """(vocabulary, tokens (n,) uint16) with `vocabulary.join(tokens)` equal to the data.

    data is bytes, an array (size,) uint8, or its like that reads the slices it is asked for. Only
    pieces that are used are in the vocabulary. The same data and spec give the same tokens.

    Raises:
        ConfigError: sentencepiece is missing, or the file is no model of a kind that is supported.
        FileError: the file cannot be read.
    """
    if isinstance(data, bytes | bytearray):
        data = np.frombuffer(data, np.uint8)
    if spec.kind == BYTES:
        return SINGLE_BYTES, data.astype(np.uint16)
    if not len(data):
        return Vocabulary(()), np.zeros(0, np.uint16)
    pieces = load(spec.path) if spec.kind == "model" else train(data, spec.kind, spec.size)
    return segment(data, pieces)


def train(data: np.ndarray, kind: str, size: int) -> Pieces:
    """At most `size` pieces for data (size,) uint8, the bytes that occur in it included."""
    sample = content.sample(data)
    most = content.SAMPLE_BYTES
    parts = (data[a : a + most] for a in range(0, len(data), most))
    missing = len({b for part in parts for b in np.unique(part)}) - len(np.unique(sample))
    model = io.BytesIO()
    trainer = _sentencepiece().SentencePieceTrainer
    try:
        trainer.train(
            sentence_iterator=(_text(s) for s in _cut(sample, _SENTENCE_BYTES)),
            model_writer=model,
            model_type=kind,
            vocab_size=size - missing + 1,  # and the unknown
            hard_vocab_limit=False,  # small inputs have fewer
            character_coverage=1.0,
            max_sentence_length=1 << 20,
            max_sentencepiece_length=MAX_PIECE_BYTES,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_by_unicode_script=False,
            split_by_number=False,
            unk_piece=_UNKNOWN,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError:
        return Pieces(kind, {}, {})  # too little, or too much alike, to learn anything from
    found = list(_read_pieces(model.getvalue())[1])
    scores = {
        b"".join(_BYTE_OF[c] for c in text): score
        for text, score, type_ in found
        if type_ == _NORMAL
    }
    return Pieces(kind, scores, {})


def load(path: str) -> Pieces:
    """The pieces of a sentencepiece model, as bytes: its normaliser is left out."""
    content = _read(path)
    try:
        _sentencepiece().SentencePieceProcessor(model_proto=content)
        kind, found = _read_pieces(content)
        if not found:
            raise ValueError("it has no pieces")
    except (RuntimeError, ValueError, IndexError, struct.error) as error:
        raise ConfigError(f"{path} is not a sentencepiece model: {error}") from error
    if kind not in _KINDS.values():
        raise ConfigError(f"{path} is a model of words or characters: give one of bpe or unigram")
    scores: dict[bytes, float] = {}
    types: dict[bytes, int] = {}
    for text, score, type_ in found:
        piece = text.replace(_SPACE, " ").encode()
        if type_ in (_NORMAL, _USER) and 0 < len(piece) <= MAX_PIECE_BYTES:
            scores[piece] = max(score, scores.get(piece, score))
            if type_ == _USER:
                types[piece] = _USER
    if kind == "bpe":
        # Merging starts from bytes here, there from characters: those come together first.
        first = max(scores.values(), default=0.0) + 1.0
        for piece in list(scores):
            if len(piece) > 1 and len(piece.decode()) == 1:
                scores[piece] = first
                for end in range(2, len(piece)):
                    scores[piece[:end]] = first
                    types[piece[:end]] = _UNUSED
    return Pieces(kind, scores, types)


def segment(data: np.ndarray, pieces: Pieces) -> tuple[Vocabulary, np.ndarray]:
    """(vocabulary of what is used, tokens) of data (size,) uint8."""
    segmenter = _Segmenter(pieces)
    blocks = []
    uses = np.zeros(len(segmenter.pieces), np.int64)
    for block in _cut(data, _BLOCK_BYTES):
        blocks.append(segmenter.ids(block))
        uses += np.bincount(blocks[-1], minlength=len(uses))
    ids = np.concatenate(blocks)
    long = np.array([len(piece) > 1 for piece in segmenter.pieces])
    rare = long & (uses > 0) & (uses < MIN_USES)
    # More than fit: the least used give way, of equals the later ones.
    kept = np.flatnonzero(long & (uses > 0) & ~rare)
    if len(kept) > MAX_PIECES - 256:
        kept = kept[np.argsort(-uses[kept], kind="stable")]
        rare[kept[MAX_PIECES - 256 :]] = True
    if rare.any():
        unused = {segmenter.pieces[i]: _UNUSED for i in np.flatnonzero(long & (rare | (uses == 0)))}
        fewer = _Segmenter(pieces._replace(types=pieces.types | unused))
        parts = [
            fewer.ids(segmenter.pieces[i]) if rare[i] else np.array([i], np.uint32)
            for i in range(len(rare))
        ]
        ids = concatenate(ids, _offsets(parts), np.concatenate(parts))
        uses = np.bincount(ids, minlength=len(rare))
    used = sorted(np.flatnonzero(uses), key=lambda i: segmenter.pieces[i])
    rank = np.zeros(len(uses), np.uint16)
    rank[used] = np.arange(len(used))
    vocabulary = Vocabulary(tuple(segmenter.pieces[i] for i in used))
    tokens = rank[ids]
    _check(vocabulary, tokens, data)
    return vocabulary, tokens


def _check(vocabulary: Vocabulary, tokens: np.ndarray, data: Any) -> None:
    start = 0
    for i in range(0, len(tokens), _CHECKED):
        joined = vocabulary.join(tokens[i : i + _CHECKED])
        if not np.array_equal(joined, data[start : start + len(joined)]):
            raise AssertionError("the tokens do not join to the data")
        start += len(joined)
    if start != len(data):
        raise AssertionError("the tokens join to less than the data")


class _Segmenter:
    """sentencepiece with these pieces and every single byte, in the alphabet of bytes."""

    def __init__(self, pieces: Pieces) -> None:
        worst = min(pieces.scores.values(), default=0.0) - 10.0
        singles = {bytes([b]): worst for b in range(256)}
        scores = singles | pieces.scores
        self.pieces = list(scores)
        types = [pieces.types.get(piece, _NORMAL) for piece in self.pieces]
        model = _model(
            pieces.kind,
            [
                (_text(piece), score, type_)
                for (piece, score), type_ in zip(scores.items(), types, strict=True)
            ],
        )
        self._processor = _sentencepiece().SentencePieceProcessor(model_proto=model)

    def ids(self, block: bytes) -> np.ndarray:
        """Indices into `pieces` (n,) uint32."""
        found = np.array(self._processor.encode(_text(block)), np.int64) - 1  # without the unknown
        return found.astype(np.uint32)


def _offsets(parts: Iterable[Any]) -> np.ndarray:
    return np.cumsum([0, *(len(part) for part in parts)])


def _text(data: bytes) -> str:
    r"""The data in sentencepiece's alphabet, a character for each byte.

    >>> _text(b"a b\n")
    'a▁bĊ'
    """
    return data.decode("latin-1").translate(_ALPHABET)


def _cut(data: np.ndarray, size: int) -> Iterator[bytes]:
    """Blocks of at most `size` bytes, where possible beginning with a space."""
    start = 0
    while start < len(data):
        block = data[start : start + size].tobytes()
        end = block.rfind(b" ", 1) if start + size < len(data) else -1
        block = block[:end] if end > 0 else block
        yield block
        start += len(block)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileError(f"cannot read the tokenizer {path}: {error.strerror}") from error


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise ConfigError(
            "this tokenizer needs the package sentencepiece: install it, or use tokenizer = bytes"
        ) from error
    return sentencepiece


# A model is a protocol buffer. Of its fields, only these matter: pieces (1), each with a text (1),
# a score (2) and a type (3); the trainer's options (2), of which the kind (3); the normaliser's
# (3), of which the name (1), the dummy prefix (3) and the removal of spaces (4).


def _model(kind: str, pieces: Iterable[tuple[str, float, int]]) -> bytes:
    number = {name: n for n, name in _KINDS.items()}[kind]
    unknown = (_UNKNOWN, 0.0, _UNKNOWN_TYPE)
    return b"".join(
        _field(1, _field(1, text.encode()) + struct.pack("<BfBB", 0x15, score, 0x18, type_))
        for text, score, type_ in (unknown, *pieces)
    ) + (_field(2, bytes([0x18, number])) + _field(3, _field(1, b"identity") + b"\x18\0\x20\0"))


def _field(number: int, content: bytes) -> bytes:
    size, coded = len(content), b""
    while size > 127:
        coded += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + coded + bytes([size]) + content


def _read_pieces(model: bytes) -> tuple[str, list[tuple[str, float, int]]]:
    """(kind, (text, score, type) of each piece)."""
    kind, pieces = 1, []
    for number, value in _fields(model):
        if number == 1:
            piece = dict(_fields(value))
            score = struct.unpack("<f", piece.get(2, bytes(4)))[0]
            pieces.append((piece.get(1, b"").decode(), score, piece.get(3, _NORMAL)))
        elif number == 2:
            kind = dict(_fields(value)).get(3, 1)
    return _KINDS.get(kind, ""), pieces


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field: an integer, or bytes."""
    at = 0

    def integer() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value |= (message[at] & 127) << shift
            shift += 7
            at += 1
            if message[at - 1] < 128:
                return value

    while at < len(message):
        tag = integer()
        kind = tag & 7
        if kind == 0:
            yield tag >> 3, integer()
            continue
        if kind not in (1, 2, 5):
            raise ValueError("a field of an unknown kind")
        size = integer() if kind == 2 else {1: 8, 5: 4}[kind]
        if at + size > len(message):
            raise ValueError("it is cut off")
        yield tag >> 3, message[at : at + size]
        at += size
