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
    place, one, two, three = np.uint64(0), *np.arange(0x10001, 0x10004, dtype=np.uint32)
    first = int(tables.settle(nodes, place, one))
    nodes[first + 1] += 5  # the count of the node that every byte passes
    nodes[first + 9] += 1
    second = int(tables.settle(nodes, place, two))
    assert {first, second} == {0, 16}
    nodes[second + 9] += 3
    assert tables.settle(nodes, place, one) == first
    assert nodes[first + 9] + 2 == nodes[second + 9]
    assert tables.settle(nodes, place, three) == second  # the second is forgotten
    assert (nodes[second + 1 : second + 16] == nodes[first + 2]).all()


def test_buckets_are_pairs_of_lines_of_a_cache() -> None:
    for buckets in (1, 64, 1001):
        t = tables.make(3, buckets, 1, LIMIT)
        assert t.nodes.ctypes.data % 128 == t.entries.ctypes.data % 128 == 0
        pairs = -(-buckets // 2)
        assert len(t.entries) == 16 * pairs
        assert len(t.nodes) == 32 * pairs + tables._MADE


def test_a_state_forgets_the_other_kind() -> None:
    """Against its rule, bit by bit; all states are met."""
    rng, met = np.random.default_rng(4), set()
    for bias in (0.01, 0.1, 0.5, 0.7, 0.95, 0.999) * 30:
        zeros = ones = state = 0
        for bit in (rng.random(150) < bias).astype(int).tolist():
            same, other = (ones, zeros) if bit else (zeros, ones)
            same += same < (48, 40, 16, 8)[other] if other < 4 else same < 6
            if other > 2:
                steps = [(3, 2), (5, 3), (7, 4), (10, 5), (15, 6), (99, 7)]
                other = next(few for most, few in steps if other <= most)
            zeros, ones = (other, same) if bit else (same, other)
            state = int(tables._NEXT[2 * state + bit])
            assert tables._COUNTS[state].tolist() == [zeros, ones]
            assert tables._SURE[state] == (0 if zeros and ones else -1)
            met.add(state)
    assert len(tables._COUNTS) < 512
    assert len(met) > 0.8 * len(tables._COUNTS)


def code(t: tables.Tables, found: tables.Found, byte: int) -> list[list[int]]:
    """Let the nodes learn a byte; what they were before each bit, by context."""
    words, x = [], np.zeros(12, np.int32)
    for k in range(8):
        done = (256 | byte) >> (8 - k)
        if k in (0, 4):
            tables.find_buckets(t, found, k, done, None)
        tables.find_nodes(found, k, done, 65)
        tables.inputs(t, 0, found, x)
        words.append([int(t.nodes[i]) for i in found.nodes[:-1]])
        tables.learn(t, 0, found, byte >> (7 - k) & 1, None)
    tables.push(t, found, byte, None)
    return words


def test_the_bits_of_a_byte_are_fifteen_nodes_twice() -> None:
    t, found = made()
    for byte in b"ab":  # one alone would leave an entry
        code(t, found, byte)
    seen = set()
    for byte in range(256):
        for k in range(8):
            done = (256 | byte) >> (8 - k)
            if k in (0, 4):
                tables.find_buckets(t, found, k, done, None)
            tables.find_nodes(found, k, done, 77)
            assert found.nodes[-1] == 77 * 256 + done
            seen.add((k, done, found.nodes[0]))
        found.runs[:] = -1
    assert len(seen) == 255  # each prefix of bits has one, always the same
    assert len({(done, node) for k, done, node in seen if k < 4}) == 15
    assert len({node for k, done, node in seen if k < 4}) == 15


def test_a_context_without_a_bucket_is_as_if_it_had_one() -> None:
    """Against nodes that every context has from the beginning, in a table that nothing leaves."""
    rng = np.random.default_rng(5)
    t, found = made(1 << 20)
    nodes: dict[tuple[int, int], int] = {}
    promoted = 0
    for _ in range(1500):
        context = int(rng.integers(40))
        byte = int(rng.choice([97, 98, 113, 48], p=[0.9, 0.06, 0.03, 0.01]))
        found.hashes[:] = HASHES ^ np.uint64(context * 0x9E3779B97F4A7C15 & (1 << 64) - 1)
        words = code(t, found, byte)
        for k in range(8):
            key = context, (256 | byte) >> (8 - k)
            expected = nodes.get(key, int(tables._UNSEEN))
            assert words[k] == [expected] * len(HASHES)
            bit = byte >> (7 - k) & 1
            nodes[key] = int(tables.taught(np.uint32(expected), np.int64(bit), t.limit))
        promoted += found.starts[0] < len(t.nodes) - tables._MADE
    assert 400 < promoted < 1490
    made_before = tables.make(1, 2, 1, LIMIT).nodes[-tables._MADE :]
    made_now = t.nodes[-tables._MADE :]
    assert np.array_equal(made_now[1:], made_before[1:])  # of which the first is no node


def test_an_entry_gives_way_to_another_context_only_if_it_came_less() -> None:
    t, _ = made(2)  # one pair of buckets, with sixteen entries
    hashes = [np.uint64(i << 40 | i << 14 | 6) for i in range(1, 4)]
    one, two, three = hashes
    for h, byte in ((one, 97), (one, 97), (two, 98), (three, 99)):
        assert tables.take_in(t, h, byte) == 0
    known = {int(t.entries[i]) & 0x3FFF for i in (6, 7)}
    assert known == {2 << 8 | 97, 1 << 8 | 99}
    assert np.count_nonzero(t.entries) == 2
    for _ in range(100):
        assert tables.take_in(t, one, 97) == 0
    assert 63 << 8 | 97 in {int(t.entries[i]) & 0x3FFF for i in (6, 7)}
    assert tables.take_in(t, one, 98) == 1 << 14 | 63 << 8 | 97  # it has a bucket now
    assert np.count_nonzero(t.entries) == 1
    assert tables.take_in(t, one, 98) == 1 << 14


@pytest.mark.parametrize("ends", [0, 1])
def test_nodes_and_maps_learn_what_the_bits_were(ends: int) -> None:
    t, found = made()
    x = np.zeros(12, np.int32)
    if ends:
        tables.find_ends(t, found, 65)
    else:
        for byte in (0x51, 0x61):  # buckets, of which some nodes know nothing
            code(t, found, byte)
        tables.find_buckets(t, found, 0, 1, None)
        tables.find_nodes(found, 0, 9, 65)
    tables.inputs(t, ends, found, x)
    assert not x[:9].any()  # nothing is known, but order 1 has a word
    assert list(found.confidences) == [0, 0, 0, 0]
    assert tables.trust(found) == (0, 0, 0, 0)
    p, count, state = 0.5, 0, 0
    for bit in (1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1) * 4:
        tables.learn(t, ends, found, bit, None)
        p += (bit - p) / (count + 1.5)
        count, state = min(count + 1, LIMIT), int(tables._NEXT[2 * state + bit])
        nodes = t.ends if ends else t.nodes
        words = [*(int(nodes[i]) for i in found.nodes[:-1]), int(t.direct[found.nodes[-1]])]
        for word in words:
            assert word & 63 == count
            assert word >> 6 & 511 == state
            assert (word >> 15) / 2**17 == pytest.approx(p, abs=4e-4)
        tables.inputs(t, ends, found, x)
        # Maps have hardly moved yet: what a node says is taken as it is.
        assert np.abs(x[::3] - logit(p)).max() < 40
        zeros, ones = tables._COUNTS[state]
        expected = logit((ones + 0.4) / (zeros + ones + 0.8))
        said, other = (x[1::3], x[2::3]) if zeros else (x[2::3], x[1::3])
        assert np.abs(said - expected).max() < 40
        assert not other.any()
    assert tables.trust(found) == (3, 8, 8, 3)


def test_runs_are_of_the_byte_that_followed_last() -> None:
    t, found = made()
    x, said = np.zeros(3, np.int32), []
    for byte in b"aaaabbaaaaaaaaaaaaaaaaaa":
        known = set()
        for k in range(8):
            done = (256 | byte) >> (8 - k)
            if k in (0, 4):
                tables.find_buckets(t, found, k, done, None)
            tables.run_inputs(t, 0, found, k, done, x)
            assert (x == x[0]).all()
            known.add(abs(int(x[0])))
            tables.learn_runs(t, found, k, byte >> (7 - k) & 1)
        tables.push(t, found, byte, None)
        said.append(known)
        own = t.nodes[: -tables._MADE]
        words = own.reshape(-1, 16)[:, 0] >> 17
        last = set((words & 255).tolist()) | set((t.entries & 255).tolist())
        assert sorted(last) == [0, byte]  # of second halves there is none
    assert said[0] == {0}
    assert 0 not in said[3]
    assert {0} < said[4]  # until the bits differ
    assert max(said[-1]) > max(said[1])
    # What was said of the first bit after one byte: three were right, two were not.
    p = 2 / 3
    for right in (1, 1, 1):
        p += (right - p) / 64
    assert t.runs[1] / 65536 == pytest.approx(p, abs=1e-3)


def test_only_what_was_used_is_learned() -> None:
    t, found = made()
    for byte in b"ab":
        code(t, found, byte)
    tables.find_buckets(t, found, 0, 1, None)
    tables.find_nodes(found, 0, 1, 0)
    tables.inputs(t, 0, found, np.zeros(12, np.int32))
    before = [array.copy() for array in t[:6]]
    tables.learn(t, 0, found, 1, None)
    changed = [
        (np.flatnonzero(old != new), old, new) for old, new in zip(before, t[:6], strict=True)
    ]
    assert [len(where) for where, _, _ in changed] == [3, 0, 0, 1, 4, 4]
    for where, old, new in changed[4:]:
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
