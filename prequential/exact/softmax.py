"""Logits to the integer frequencies that are coded, and the gradient of what coding by them costs.

Compiled loops, on the host for every device: what is coded is made at one place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.exact import scalars
from prequential.exact.compiled import jit

_UNIT = np.float32(scalars.LOG2_E * (1 << scalars.EXP2_FRACTION_BITS))  # steps of exp2 to the nat


@jit
def frequencies(logits: Any, total_bits: int, out: Any) -> None:
    """Logits (N, V) in nats -> integer frequencies (N, V), each >= 1, rows summing to 2^total_bits.

    e_s = 2^((l_s - max l) log2 e) from the table, then 1 + floor(e_s * (2^total_bits - V) / sum e);
    what the floors leave goes to the first of the largest.
    """
    rows, symbols = logits.shape
    budget = (1 << total_bits) - symbols
    power = np.empty(symbols, np.int32)
    for i in range(rows):
        best = 0
        top = logits[i, 0]
        for s in range(1, symbols):
            if logits[i, s] > top:
                top = logits[i, s]
                best = s
        total = np.int64(0)
        for s in range(symbols):
            e = scalars.exp2((logits[i, s] - top) * _UNIT)
            power[s] = e
            total += e
        ratio = np.float64(budget) / np.float64(total)
        left = np.int64(budget)
        for s in range(symbols):
            f = np.int64(np.float64(power[s]) * ratio)
            out[i, s] = f + 1
            left -= f
        out[i, best] += left


@jit
def gradient(frequencies: Any, symbols: Any, count: int, total_bits: int, out: Any) -> None:
    """out (n, V) float32 = frequencies / 2^total_bits, less 1 at each token's symbol.

    Rows from `count` on, past the end of the data, are 0 and teach nothing.
    """
    unit = scalars.power_of_two(127 - total_bits)
    for i in range(count):
        for s in range(out.shape[1]):
            out[i, s] = np.float32(frequencies[i, s]) * unit
        out[i, symbols[i]] -= np.float32(1)
    out[count:] = 0
