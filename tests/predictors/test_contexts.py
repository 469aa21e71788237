"""What a context sees, and that lines and records are noticed from the bytes alone."""

from __future__ import annotations

import numpy as np
import pytest
from samples import noise

from prequential.predictors.contexts import History, hash_column, parse


def after(data: bytes, *names: str, streams: int = 1) -> list[int]:
    """The hashes of some contexts after data, the same in every stream."""
    history = History(streams)
    for byte in data:
        history.push(np.full(streams, byte, np.uint8))
    hashes = np.zeros((streams, len(names)), np.uint64)
    hash_column(history.state, parse(names), hashes)
    assert (hashes == hashes[0]).all()
    return [int(h) for h in hashes[0]]


@pytest.mark.parametrize(
    ("name", "one", "other", "same"),
    [
        ("o2", b"xab", b"yab", True),
        ("o2", b"ab", b"cb", False),
        ("w0", b"one two", b"six two", True),
        ("w0", b"Two", b"tWo", True),
        ("w1", b"one two", b"six two", False),
        ("v2", b"a one two", b"a six two", True),
        ("v2", b"a one two", b"b one two", False),
        ("s3", b"xaby", b"zabq", True),
        ("s3", b"xaby", b"zcbq", False),
        ("d2", b"..aXbY", b"--aPbQ", True),
        ("d2", b"..aXbY", b"--cXbY", False),
        ("a2", b"1a-b", b"2A+b", True),
        ("a2", b"a-b", b"c-b", False),
        ("a2", b"a-b-", b"a-b+", False),
        ("e0", b"x+1 y=z", b"a y=z", True),
        ("e0", b"x y=z", b"x y+z", False),
        ("e1", b"x+1 y=z", b"x-1 y=z", False),
        ("g3", b"one Two 3", b"six Ten 3", True),
        ("g3", b"one Two 3", b"six Ten 4", False),
        ("g3", b"o T3", b"o t3", False),
        ("h0", b"\nif (one", b"\nif [one", True),
        ("h0", b"\nif (one", b"\ndo (one", False),
        ("k0", b"size: one, two", b"size=six, two", True),
        ("k0", b"size: two", b"name: two", False),
        ("n0", b"one ....one", b"one ...,one", True),
        ("n0", b"one ....one", b"one one", False),
        ("p1", b"six, one", b"ten, one", True),
        ("p1", b"six, one", b"six; one", False),
        ("p2", b"six, one", b"ten, one", False),
        ("p1", b"a, one, ", b"b; one, ", True),
        ("p2", b"a, one, ", b"b; one, ", False),
        ("p3", b"a, one, ", b"b, one, ", False),
        ("q0", b"(a [b] one", b"(c one", True),
        ("q0", b"(a [b one", b"(c one", False),
        ("q0", b'"a" one', b"b one", True),
        ("q0", b'"a one', b"a one", False),
        ("f3", b"one, Two", b"s, Fourt", False),
        ("f3", b"one, Two", b"s, Fouro", True),
        ("f3", b"one, Two", b"one; Two", True),
        ("f4", b"one, Two", b"one; Two", False),
        ("u0", b"abcd\nab", b"xbcd\nxb", True),
        ("u0", b"abcd\nab", b"xqcd\nab", False),
        ("i0", b"#one\n*six two", b"#one\n*ten two", True),
        ("i0", b"#one\n*six two", b"#one\n-six two", False),
        ("c0", b"abcd\nxy", b"pqcr\nzw", True),
        ("c0", b"abcd\nxy", b"pqdr\nzw", False),
        ("c0", b"abcd\nx", b"aaaa\nx", False),
        ("c1", b"abcd\nxy", b"pqcr\nzy", True),
        ("c1", b"abcd\nxy", b"pqcr\nzw", False),
    ],
)
def test_a_context_sees_what_its_name_says(name: str, one: bytes, other: bytes, same: bool) -> None:
    assert (after(one, name) == after(other, name)) is same
    assert after(one, name) == after(one, name, streams=3)


@pytest.mark.parametrize("length", [2, 3, 7, 24, 60])
def test_a_record_is_noticed(length: int) -> None:
    """Records whose first half is always the same, the rest random."""
    rows = np.frombuffer(noise(60 * length), np.uint8).reshape(60, length) % 200
    rows = rows.copy()
    rows[:, : (length + 1) // 2] = np.arange((length + 1) // 2) % 50 + 200
    history = History(1)
    for byte in rows.reshape(-1):
        history.push(np.array([byte], np.uint8))
    assert history.state.end == rows.size
    assert history.state.record == length
    assert history.state.place == (0 if length <= 32 else min(32 + rows.size, 255))


def test_what_is_out_of_reach_is_not_seen() -> None:
    """A line longer than the ring: nothing stands above."""
    far = b"a" * 5000 + b"\n"
    assert after(far + b"xy", "c1") == after(b"b" * 5000 + b"\n" + b"xy", "c1")
