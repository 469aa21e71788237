"""Mixtures of runs: what they cost by hand, and that they take no choice."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from prequential.study import mixture

GENERATOR = np.random.default_rng(0)


def test_fixed_share_is_the_sum_over_all_ways_to_switch() -> None:
    """-log2 of the sum over all paths of runs, each with its probability (Herbster & Warmuth)."""
    costs, weights, share = GENERATOR.uniform(0, 5, (3, 5)), np.array([0.5, 0.3, 0.2]), 0.25
    total = 0.0
    for path in itertools.product(range(3), repeat=5):
        chance = weights[path[0]]
        for a, b in itertools.pairwise(path):
            chance *= (1 - share) * (a == b) + share * weights[b]
        total += chance * 2 ** -sum(costs[run, k] for k, run in enumerate(path))
    assert math.isclose(mixture.bits(costs, weights, share), -math.log2(total))


def test_without_a_share_it_is_bayes() -> None:
    """Also of a run that begins very badly, and of the whole file as one block."""
    costs = GENERATOR.uniform(0, 50, (4, 100))
    costs[2, 0], costs[2, 1:] = 3000, 0
    weights = np.full(4, 0.25)
    sums = costs.sum(1, keepdims=True)
    exact = sums.min() + 2 - math.log2(float(np.exp2(sums.min() - sums).sum()))
    assert math.isclose(mixture.bits(costs, weights), exact)
    assert math.isclose(mixture.bits(sums, weights), exact)


def test_a_file_of_two_halves_is_shared() -> None:
    """Each run is good at one half: no choice is, nor is Bayes' mixture."""
    costs = np.full((2, 400), 10.0)
    costs[0, :200] = costs[1, 200:] = 1.0
    weights = np.full(2, 0.5)
    assert mixture.bits(costs, weights) == pytest.approx(2200)
    # A bit to begin, one to name the other, log2 401 for the place, 1.44 for all the others.
    most = 400 + 2 + math.log2(401) + 1.45
    assert 400 < mixture.bits(costs, weights, 1 / 401) < most


def test_a_share_of_one_in_all_blocks_costs_at_most_log2_e() -> None:
    costs, weights = GENERATOR.uniform(0, 50, (4, 400)), np.full(4, 0.25)
    shared = mixture.bits(costs, weights, 1 / 401)
    assert shared < mixture.bits(costs, weights) + math.log2(math.e)


def test_blocks() -> None:
    assert mixture.edges(0).tolist() == [0]
    assert mixture.edges(2).tolist() == [0, 1, 2]
    assert len(mixture.edges(12_345)) == mixture.BLOCKS + 1
    assert mixture.edges(12_345)[-1] == 12_345
