"""Random numbers from the raw words of NumPy's Philox, which no release changes.

Source: Salmon et al. 2011, a counter-based generator.
"""

from __future__ import annotations

import numpy as np


def uniform(shape: tuple[int, int], bound: float, seed: int, index: int) -> np.ndarray:
    """Float32 in [-bound, bound] from the raw words of NumPy's Philox, keyed by (seed, index).

    >>> uniform((1, 2), 1.0, seed=0, index=0).shape
    (1, 2)
    """
    generator = np.random.Philox(key=np.array([seed, index], dtype=np.uint64))
    words = generator.random_raw(shape[0] * shape[1])
    # 24 bits of each word as an odd multiple of 2^-24 in (-1, 1), exact in float32.
    integers = (words >> np.uint64(40)).astype(np.int64) * 2 + 1 - (1 << 24)
    unit = integers.astype(np.float64) / float(1 << 24)
    return (unit * bound).astype(np.float32).reshape(shape)
