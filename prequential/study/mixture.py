"""What all runs of a sweep together cost, weighed by how they have predicted so far.

A mixture takes no choice. That of Bayes (Solomonoff 1964) comes to rest on one run; with fixed
share (Herbster & Warmuth 1998, Tracking the best expert) another run may take over after every
block of the file, so that parts of it have their own best run. Both are measured from what the runs
cost, byte by byte in the order of the file: no archive has these sizes.
"""

from __future__ import annotations

import math

import numpy as np

BLOCKS = 400  # of a file, after each of which another run may take over


def bits(costs: np.ndarray, weights: np.ndarray, share: float = 0.0) -> float:
    """Bits of m blocks by R runs together, at costs (R, m) and weights (R,) before the first.

    After each block the part `share` of all weight is given out anew, as in the beginning.

    >>> costs, weights = np.array([[0.0, 8.0], [8.0, 0.0]]), np.array([0.5, 0.5])
    >>> bits(costs, weights), round(bits(costs, weights, 0.5), 2)
    (8.0, 2.97)
    """
    start = np.log2(weights)
    total, now = 0.0, start
    for block in costs.T:
        joint = now - block
        likely = float(joint.max())
        block_bits = -likely - math.log2(float(np.exp2(joint - likely).sum()))
        total += block_bits
        now = joint + block_bits  # what Bayes' rule makes of the weights
        if share:
            now = np.logaddexp2(now + math.log2(1 - share), start + math.log2(share))
    return total


def edges(size: int) -> np.ndarray:
    """(m + 1,) int64: where the blocks of so many bytes begin, and the end.

    >>> edges(3)
    array([0, 1, 2, 3])
    """
    return np.unique(np.arange(BLOCKS + 1) * size // BLOCKS)
