"""Nodes, buckets and adaptive maps of the memory, each against the same in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prequential.predictors import tables

HASHES = np.array([0x123456789ABC0001, 0xFEDCBA9876540002, 0x5555], np.uint64)
LIMIT = 20


def made(buckets: int = 64, kinds: int = 2) -> tuple[tables.Tables, tables.Found]:
    found = tables.room(len(HASHES))
    found.hashes[:] = HASHES
    return tables.make(len(HASHES), buckets, kinds, LIMIT), found


def logit(p: float) -> float:
    """256 to the nat."""
    return 256 * math.log(p / (1 - p))


def test_a_bucket_is_found_again_and_the_less_used_of_two_is_taken_over() -> None:
    nodes = np.zeros(32, np.uint32)  # two places, for all hashes
    first = tables._bucket(nodes, np.uint64(1))
    nodes[first + 1] += 5  # the count of the node that every byte passes
    nodes[first + 9] += 1
    second = tables._bucket(nodes, np.uint64(2))
    assert {first, second} == {0, 16}
    nodes[second + 9] += 3
    assert tables._bucket(nodes, np.uint64(1)) == first
    assert nodes[first + 9] + 2 == nodes[second + 9]
    assert tables._bucket(nodes, np.uint64(3)) == second  # the second is forgotten
    assert (nodes[second + 1 : second + 16] == nodes[first + 2]).all()


def test_the_bits_of_a_byte_are_fifteen_nodes_twice() -> None:
    t, found = made()
    seen = set()
    for byte in range(256):
        for k in range(8):
            done = (256 | byte) >> (8 - k)
            if k in (0, 4):
                tables.find_buckets(t, found, k, done)
            tables.find_nodes(found, k, done, 77)
            assert found.nodes[-1] == 77 * 256 + done
            seen.add((k, done, found.nodes[0]))
    assert len(seen) == 255  # each prefix of bits has one, always the same
    assert len({(done, node) for k, done, node in seen if k < 4}) == 15


@pytest.mark.parametrize("ends", [0, 1])
def test_nodes_and_maps_learn_what_the_bits_were(ends: int) -> None:
    t, found = made()
    if ends:
        tables.find_ends(t, found, 65)
    else:
        tables.find_buckets(t, found, 0, 1)
        tables.find_nodes(found, 0, 1, 65)
    x = np.zeros(8, np.int32)
    tables.inputs(t, ends, found, x)
    assert not x[:6].any()  # nothing is known, but order 1 has a word
    assert list(found.confidences) == [0, 0, 0, 0]
    assert tables.trust(found) == (0, 0, 0, 0)
    p, count, history = 0.5, 0, ""
    for bit in (1, 1, 0, 1, 1, 1, 1, 1, 0, 1) * 4:
        tables.learn(t, ends, found, bit)
        p += (bit - p) / (count + 1.5)
        count, history = min(count + 1, LIMIT), (history + str(bit))[-6:]
        nodes = t.ends if ends else t.nodes
        words = [*(int(nodes[i]) for i in found.nodes[:-1]), int(t.direct[found.nodes[-1]])]
        for word in words:
            assert word & 127 == count
            assert bin(word >> 7 & 127) == "0b1" + history
            assert (word >> 14) / 2**18 == pytest.approx(p, abs=2e-4)
        tables.inputs(t, ends, found, x)
        # Maps have hardly moved yet: what a node says is taken as it is.
        assert np.abs(x[::2] - logit(p)).max() < 40
        ones = history.count("1")
        assert np.abs(x[1::2] - logit((ones + 0.4) / (len(history) + 0.8))).max() < 30
    assert tables.trust(found) == (3, 8, 8, 3)


def test_only_what_was_used_is_learned() -> None:
    t, found = made()
    tables.find_buckets(t, found, 0, 1)
    tables.find_nodes(found, 0, 1, 0)
    tables.inputs(t, 0, found, np.zeros(8, np.int32))
    before = [array.copy() for array in t[:5]]
    tables.learn(t, 0, found, 1)
    changed = [
        (np.flatnonzero(old != new), old, new) for old, new in zip(before, t[:5], strict=True)
    ]
    assert [len(where) for where, _, _ in changed] == [3, 0, 1, 4, 4]
    for where, old, new in changed[3:]:
        start = old.reshape(-1)[where]
        assert (new.reshape(-1)[where] - start == (65535 - start) >> 7).all()


def test_an_adaptive_map_says_what_lies_between_its_cells() -> None:
    for x in range(-3071, 3072, 7):
        p, near = tables.interpolate(tables.IDENTITY, x)
        assert near == math.floor((x + 3072) / 192 + 0.5)
        low = (x + 3072) // 192
        a, b = (int(tables.IDENTITY[c]) for c in (low, low + 1))
        assert p == pytest.approx(a + (b - a) * ((x + 3072) / 192 - low), abs=1)
        assert p == pytest.approx(65536 / (1 + math.exp(-x / 256)), abs=600)
    assert tables.interpolate(tables.IDENTITY, 9999) == tables.interpolate(tables.IDENTITY, 3071)
