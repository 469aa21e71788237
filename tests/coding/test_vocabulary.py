"""Vocabularies join tokens, and their coded form is small, exact and trusts nothing."""

from __future__ import annotations

import lzma
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import noise, text

from prequential.coding.pieces import pack, unpack
from prequential.coding.vocabulary import MAX_PIECE_BYTES, MAX_PIECES, Vocabulary, concatenate

SINGLES = tuple(bytes([b]) for b in range(256))


def words(count: int) -> tuple[bytes, ...]:
    """Pieces like those of text: prefixes and words, with and without a space."""
    letters = text(40 * count).split()
    joined = [b" " + a + b[:k] for k, (a, b) in enumerate(pairwise(letters))]
    return tuple(sorted({w[:MAX_PIECE_BYTES] for w in (*joined, *SINGLES)}))[:count]


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"a",),
        (b"\0",),
        (b"\0", b"\0\0", b"\0\0\0"),
        SINGLES,
        words(700),
        tuple(bytes([0]) * k for k in range(1, MAX_PIECE_BYTES + 1)),
        tuple(bytes([255]) * k for k in range(1, MAX_PIECE_BYTES + 1)),
        tuple(sorted({noise(16, seed) for seed in range(300)})),
    ],
    ids=["none", "one", "nul", "nuls", "singles", "words", "zeros", "ones", "noise"],
)
def test_packed_pieces_come_back(pieces: tuple[bytes, ...]) -> None:
    assert unpack(pack(Vocabulary(pieces))).pieces == pieces


@settings(max_examples=100, deadline=None)
@given(st.sets(st.binary(min_size=1, max_size=MAX_PIECE_BYTES), max_size=40))
def test_any_pieces_come_back(pieces: set[bytes]) -> None:
    vocabulary = Vocabulary(tuple(sorted(pieces)))
    assert unpack(pack(vocabulary)).pieces == vocabulary.pieces


def test_the_packed_form_is_small() -> None:
    pieces = words(2000)
    packed = pack(Vocabulary(pieces))
    plain = lzma.compress(b"\n".join(pieces), lzma.FORMAT_ALONE, preset=9 | lzma.PRESET_EXTREME)
    assert len(packed) < 0.6 * len(plain)
    assert len(pack(Vocabulary(SINGLES))) < 192


def test_the_most_pieces_are_packed_quickly() -> None:
    data = noise(4 * MAX_PIECES)
    pieces = tuple(sorted({data[i : i + 4] for i in range(0, len(data), 4)}))
    assert len(pieces) == MAX_PIECES
    vocabulary = Vocabulary(pieces)
    start = time.process_time()
    assert unpack(pack(vocabulary)).pieces == pieces
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "pieces",
    [
        (b"",),
        (b"a", b"a"),
        (b"b", b"a"),
        (b"ab", b"a"),
        (b"a" * (MAX_PIECE_BYTES + 1),),
        tuple(i.to_bytes(2, "big") for i in range(MAX_PIECES + 1)),
    ],
    ids=["empty", "repeated", "unsorted", "prefix later", "long", "many"],
)
def test_other_pieces_are_refused(pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="piece"):
        Vocabulary(pieces)


def unpacks_or_refuses(packed: bytes) -> bool:
    """Whether the bytes are a vocabulary; then they are its only form."""
    try:
        vocabulary = unpack(packed)
    except ValueError:
        return False
    assert pack(vocabulary) == packed
    return True


def test_cut_or_longer_forms_are_refused_or_other_vocabularies() -> None:
    """A code without waste has a meaning for most bytes; but never twice the same."""
    packed = pack(Vocabulary(words(300)))
    forms = [packed[:n] for n in range(len(packed))]
    forms += [packed + tail for tail in (b"\0", b"\1", bytes(100), b"\xff" * 5)]
    pieces = unpack(packed).pieces
    assert not any(unpacks_or_refuses(form) and unpack(form).pieces == pieces for form in forms)
    for form in (b"", packed[:1], packed[:2], packed + b"\0", packed + bytes(100)):
        assert not unpacks_or_refuses(form)


def test_damage_is_refused_or_is_another_vocabulary() -> None:
    packed = pack(Vocabulary(words(300)))
    for place in range(len(packed)):
        damaged = bytearray(packed)
        damaged[place] ^= 1 << place % 8
        unpacks_or_refuses(bytes(damaged))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, MAX_PIECES), st.binary(max_size=300))
def test_hostile_bytes_do_no_harm(count: int, payload: bytes) -> None:
    unpacks_or_refuses(count.to_bytes(2, "big") + payload)


@pytest.mark.parametrize("payload", [b"", b"\xff" * 100_000, noise(1_000_000)])
@pytest.mark.parametrize("count", [MAX_PIECES, MAX_PIECES + 1, 65535])
def test_the_worst_is_refused_in_bounded_time(count: int, payload: bytes) -> None:
    start = time.process_time()
    assert not unpacks_or_refuses(count.to_bytes(2, "big") + payload)
    assert time.process_time() - start < 10


def test_tokens_join() -> None:
    vocabulary = Vocabulary((b"\0", b"a", b"ab", b"b"))
    tokens = np.array([2, 0, 1, 3, 2], np.uint16)
    assert vocabulary.join(tokens).tobytes() == b"ab\0abab"
    assert vocabulary.join(tokens[:0]).tobytes() == b""
    assert vocabulary.join(tokens).dtype == np.uint8
    assert vocabulary.spelling.offsets.tolist() == [0, 1, 2, 4, 5]
    assert vocabulary.lengths.tolist() == [1, 1, 2, 1]
    assert vocabulary.spelling.bytes.tobytes() == b"\0aabb"


def test_ten_megabytes_join_in_well_under_a_second() -> None:
    vocabulary = Vocabulary(words(1000))
    tokens = np.frombuffer(noise(5_000_000), np.uint16) % np.uint16(len(vocabulary))
    vocabulary.join(tokens[:1])  # compiled
    start = time.process_time()
    joined = vocabulary.join(tokens)
    assert time.process_time() - start < 1
    assert len(joined) == vocabulary.lengths[tokens].sum()


def test_other_values_concatenate() -> None:
    values = np.array([5, 7, 7], np.uint16)
    joined = concatenate(np.array([1, 0, 1]), np.array([0, 1, 3]), values)
    assert joined.tolist() == [7, 7, 5, 7, 7]
    assert joined.dtype == np.uint16
