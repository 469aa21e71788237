"""Matches of the memory, against a search through all of the past in plain Python."""

from __future__ import annotations

import math

import numpy as np
from samples import noise, text

from prequential.predictors import matches
from prequential.predictors.matches import Matches

NO = np.zeros(2, np.int32)


def pushed(m: Matches, data: bytes, b: int = 0) -> None:
    for i, byte in enumerate(data):
        last = np.frombuffer(bytes(32) + data[:i], np.uint8)[:-33:-1].copy()
        matches.push(m, b, last, np.uint8(byte), True, None)


def common(data: bytes, i: int, j: int) -> int:
    """Bytes that agree before i and before j."""
    n = 0
    while n < min(i, j) and data[i - 1 - n] == data[j - 1 - n]:
        n += 1
    return n


def test_what_a_match_expects_stands_behind_the_same_bytes() -> None:
    m, data = matches.make(1, 14, 1), text(3000)
    known, begun, repeats, found = set(), 0, 0, 0
    for i in range(len(data)):
        for which, shortest in enumerate((10, 5)):
            length = int(m.pointers.length[which, 0])
            at = int(m.pointers.position[which, 0])
            if length and m.pointers.misses[which, 0] == 0:
                assert common(data, at, i) >= min(length, 400)
                assert length >= shortest
            begun += length == shortest
        if i >= 5 and data[i - 5 : i] in known:
            repeats += 1
            found += m.pointers.length[1, 0] > 0
        known.add(data[i - 5 : i])
        last = np.frombuffer(bytes(32) + data[:i], np.uint8)[:-33:-1].copy()
        matches.push(m, 0, last, np.uint8(data[i]), True, None)
    assert begun > 10
    # The recent match is found when five bytes come again, unless another string has their slot.
    assert found > 0.95 * repeats > 1000


def test_a_match_outlives_two_misses() -> None:
    m, block = matches.make(1, 12, 1), noise(200)
    pushed(m, block + block[:40])
    kept = []
    for i, other in enumerate((0, 1, 0, 1, 0, 1)):
        assert matches.look(m, 0).expected == 256 + block[40 + i]
        matches.push(m, 0, np.zeros(32, np.uint8), np.uint8(block[40 + i] ^ other), True, None)
        kept.append(int(m.pointers.length[0, 0]))
        if not kept[-1]:
            break
    assert kept == [41, 1, 2, 1, 2, 0]
    assert matches.look(m, 0).expected == 0


def test_matches_reach_into_other_streams_and_not_beyond_the_window() -> None:
    m, block = matches.make(2, 8, 1), noise(100)
    pushed(m, block, 0)
    pushed(m, block[:50], 1)
    assert matches.look(m, 1).expected == 256 + block[50]
    assert m.pointers.stream[0, 1] == 0
    m = matches.make(1, 8, 1)
    pushed(m, block + noise(301)[1:] + block[:50])
    assert matches.look(m, 0).length == 0


def test_bits_are_expected_while_they_agree() -> None:
    m, block = matches.make(1, 12, 1), noise(100)
    pushed(m, block + block[:50])
    match = matches.look(m, 0)
    assert match.length == 50
    x = np.zeros(2, np.int32)
    for k in range(8):
        done, bit = (256 | block[50]) >> (8 - k), block[50] >> (7 - k) & 1
        heard = matches.inputs(m, 0, match, k, done, x)
        assert heard == (1 + 21 // 2, bit)
        sign = 1 if bit else -1
        assert abs(sign * x[0] - 256 * math.log(3)) < 2  # 3/4, before it has learned
        assert sign * x[1] == 1024
        assert matches.inputs(m, 0, match, k, done ^ 1, x).grade == 0
        assert tuple(x) == (0, 0)


def test_a_map_learns_how_often_such_matches_are_right() -> None:
    m, block = matches.make(1, 12, 2), noise(100)
    pushed(m, block + block[:50])
    match, p = matches.look(m, 0), 0.75
    for bit in (1, 1, 0, 1) * 20:
        heard = matches.inputs(m, 1, match, 0, 0, np.zeros(2, np.int32))
        matches.learn(m, 1, match, heard, bit)
        p += ((bit == heard.bit) - p) / 64
    assert abs(m.maps[1, 0, match.bucket] / 65536 - p) < 2e-3
    assert (m.maps[1] != 49152).sum() == 1
    assert (m.maps[0] == 49152).all()


def test_what_followed_is_hashed() -> None:
    """The last two bytes behind a pair, the last three behind one byte."""

    def hashes(data: bytes) -> list[int]:
        m, out = matches.make(1, 10, 1), np.zeros(4, np.uint64)
        pushed(m, data)
        last = np.frombuffer(bytes(32) + data, np.uint8)[:-33:-1].copy()
        matches.hash_own(m, 0, last, out)
        return [int(h) for h in out]

    one, other = hashes(b"abXabYab"), hashes(b"zabXqabYwab")
    assert one[0] == other[0]
    assert hashes(b"abXabZab")[0] != one[0]
    assert hashes(b"cbXcbYcbZab")[1] == hashes(b"abXcbYcbZcb")[1]
    assert hashes(b"cbXcbYcbWab")[1] != hashes(b"abXcbYcbZcb")[1]


def test_more_that_followed_is_hashed() -> None:
    """Both matches, the last three bytes behind three and behind a word."""

    def hashes(data: bytes, word: int, words: list[int]) -> list[int]:
        m, out = matches.make(1, 12, 1), np.zeros(4, np.uint64)
        for i, byte in enumerate(data):
            last = np.frombuffer(bytes(32) + data[:i], np.uint8)[:-33:-1].copy()
            matches.note_followers(m, last, np.uint64(words[i]), np.uint8(byte))
            matches.push(m, 0, last, np.uint8(byte), True, None)
        last = np.frombuffer(bytes(32) + data, np.uint8)[:-33:-1].copy()
        matches.hash_more(m, 0, last, np.uint64(word), out)
        return [int(h) for h in out]

    no_words = [0] * 99
    block, other = noise(20), noise(21)[1:]
    # The recent match is found by five bytes, the long one by ten.
    short, long = block + other + block[:6], block + other + block[:12]
    assert hashes(short, 0, no_words)[0] != hashes(block + other, 0, no_words)[0]
    assert hashes(short, 0, no_words)[1] != hashes(long, 0, no_words)[1]
    # Behind three bytes.
    one, same = hashes(b"abcXabcYabcZabc", 0, no_words), hashes(b"qabcXabcYabcZ_abc", 0, no_words)
    assert one[2] == same[2]
    assert hashes(b"abcXabcWabcZabc", 0, no_words)[2] != one[2]
    assert hashes(b"abcWabcXabcYabcZabc", 0, no_words)[2] == one[2]  # a fourth is forgotten
    # Behind a word, by its hash.
    words = [7, 8, 9, 7, 8, 9]
    assert hashes(b"abcdef", 7, words)[3] == hashes(b"axydxy", 7, words)[3]
    assert hashes(b"abcdef", 7, words)[3] != hashes(b"axyexy", 7, words)[3]
    assert hashes(b"abcdef", 7, words)[3] != hashes(b"abcdef", 8, words)[3]
    # Between words, the last byte takes the word's place.
    assert hashes(b"ABABABAB", 0, no_words)[3] == hashes(b"BABABABAB", 0, no_words)[3]
