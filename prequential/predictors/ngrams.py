"""Hashed n-gram logits: what each context has seen, as log-odds learned by the same steps.

Every context owns a table of hashed rows; a row holds up to `slots` (symbol, logit) pairs. The
logits of a token are the transformer's plus, for every context whose row is known,

    (gate[context, confidence] + bias[last byte, context]) * row

where confidence is a bucket of how often the row was used and how many symbols it holds. After the
chunk, rows and gates follow the gradient p - y of the codelength with Adagrad, token by token in
coding order, all gradients taken at the chunk's start. A symbol gets its slot when it first occurs.

The loops below use single IEEE-754 operations in a fixed order, so they are exact in the sense of
`tensors` without integer sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.config import SYMBOLS, NgramConfig
from prequential.exact.compiled import jit
from prequential.predictors.contexts import Contexts, hash_column

CONFIDENCES = 64
_EPSILON = np.float32(0.03)
_GATE_EPSILON = np.float32(1e-3)
_COUNT_MAX = 65535


def _count_buckets() -> Any:
    """Half octaves of a count below 256: 0, 1, then two buckets per doubling, up to 15.

    >>> _count_buckets()[[0, 1, 2, 3, 4, 6, 8, 255]]
    array([ 0,  1,  3,  4,  5,  6,  7, 15])
    """
    octave = [n.bit_length() - 1 for n in range(1, 256)]
    upper = [n > 1 and n >> (k - 1) & 1 for n, k in enumerate(octave, start=1)]
    buckets = [0] + [1 + 2 * k + u for k, u in zip(octave, upper, strict=True)]
    return np.minimum(np.array(buckets), 15)


_BUCKETS = _count_buckets()


class Ngrams:
    """The tables, the gates, and which rows a chunk's tokens used."""

    def __init__(
        self, config: NgramConfig, streams: int, columns: int, tokens: int = SYMBOLS
    ) -> None:
        count, K = len(config.contexts), config.slots
        self.contexts = Contexts(config.contexts)
        self.rows_log2 = config.rows_log2
        self.rate = np.float32(config.rate)
        self.gate_rate = np.float32(config.gate_rate)
        rows = count << config.rows_log2
        self.tags = np.zeros(rows, np.uint16)
        self.counts = np.zeros(rows, np.uint16)
        self.used = np.zeros(rows, np.uint8)
        self.symbols = np.zeros((rows, K), np.uint8 if tokens <= SYMBOLS else np.uint16)
        self.logits = np.zeros((rows, K), np.float32)
        self.squares = np.zeros((rows, K), np.float32)
        self.gates = np.ones((count, CONFIDENCES), np.float32)
        self.gate_squares = np.full((count, CONFIDENCES), _GATE_EPSILON, np.float32)
        self.biases = np.zeros((256, count), np.float32)
        self.bias_squares = np.full((256, count), _GATE_EPSILON, np.float32)
        # Of each token of the chunk, time-major: hashes, last byte, rows found (-1: none), buckets.
        self.streams = streams
        self.hashes = np.zeros((streams * columns, count), np.uint64)
        self.last = np.zeros(streams * columns, np.uint8)
        self.rows = np.zeros((streams * columns, count), np.int64)
        self.buckets = np.zeros((streams * columns, count), np.int64)

    def add_logits(self, logits: np.ndarray, first: int) -> None:
        """logits (n, V) += the tables' share, for the columns that start at `first`."""
        a = first * self.streams
        b = a + len(logits)
        find_and_add(
            *self._learned(),
            self.hashes[a:b],
            self.last[a:b],
            self.rows[a:b],
            self.buckets[a:b],
            logits,
        )

    def _learned(self) -> tuple[Any, ...]:
        tables = self.tags, self.counts, self.used, self.symbols, self.logits
        return *tables, self.gates, self.biases, self.rows_log2

    def state(self) -> tuple[Any, ...]:
        """What a compiled loop over columns takes."""
        found = self.hashes, self.last, self.rows, self.buckets
        return self.contexts.kinds, self.contexts.sizes, *found, self._learned()

    def learn(self, dlogits: np.ndarray, targets: np.ndarray) -> None:
        """Follow dlogits (n, V) float32 = p - y of the chunk's first n tokens, targets (n,)."""
        n = len(targets)
        _learn_gates(
            self.used,
            self.symbols,
            self.logits,
            self.gates,
            self.gate_squares,
            self.biases,
            self.bias_squares,
            self.last,
            self.rows[:n],
            self.buckets,
            dlogits,
            self.gate_rate,
        )
        _learn_rows(
            self.tags,
            self.counts,
            self.used,
            self.symbols,
            self.logits,
            self.squares,
            self.rows_log2,
            self.hashes[:n],
            targets,
            dlogits,
            self.rate,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything learned, by name."""
        names = "tags counts used symbols logits squares gates gate_squares biases bias_squares"
        return {f"ngrams.{name}": getattr(self, name) for name in names.split()}


@jit
def locate(history: Any, column: Any, state: Any) -> None:
    """Remember the contexts of a column, which comes next in the history."""
    kinds, sizes, hashes, last = state[:4]
    streams = len(history[0])
    a, b = column * streams, (column + 1) * streams
    hash_column(history, kinds, sizes, hashes[a:b])
    last[a:b] = history[0][:, 0]


@jit
def _find(tags: Any, counts: Any, hashed: Any, context: Any, rows_log2: Any) -> Any:
    """The row of a hash among its two places, or -1."""
    tag = np.uint16(hashed & np.uint64(0xFFFF))
    row = (context << rows_log2) + np.int64(hashed >> np.uint64(64 - rows_log2))
    for r in (row, row ^ 1):
        if counts[r] > 0 and tags[r] == tag:
            return r
    return np.int64(-1)


@jit
def find_and_add(
    tags: Any,
    counts: Any,
    used: Any,
    symbols: Any,
    values: Any,
    gates: Any,
    biases: Any,
    rows_log2: Any,
    hashes: Any,
    last: Any,
    rows: Any,
    buckets: Any,
    logits: Any,
) -> None:
    """logits (n, V) += the tables' share; sets rows and buckets (n, C)."""
    for i in range(hashes.shape[0]):
        for c in range(hashes.shape[1]):
            r = _find(tags, counts, hashes[i, c], np.int64(c), rows_log2)
            rows[i, c] = r
            if r < 0:
                continue
            held = np.int64(used[r])
            distinct = 0 if held <= 1 else (1 if held == 2 else (2 if held <= 4 else 3))
            bucket = _BUCKETS[min(np.int64(counts[r]), 255)] * 4 + distinct
            buckets[i, c] = bucket
            gate = gates[c, bucket] + biases[last[i], c]
            for q in range(held):
                logits[i, symbols[r, q]] += gate * values[r, q]


@jit
def _learn_gates(
    used: Any,
    symbols: Any,
    values: Any,
    gates: Any,
    gate_squares: Any,
    biases: Any,
    bias_squares: Any,
    last: Any,
    rows: Any,
    buckets: Any,
    dlogits: Any,
    rate: Any,
) -> None:
    for i in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            r = rows[i, c]
            if r < 0:
                continue
            d = np.float32(0)
            for q in range(np.int64(used[r])):
                d += dlogits[i, symbols[r, q]] * values[r, q]
            k = buckets[i, c]
            gate_squares[c, k] += d * d
            gates[c, k] -= rate * d / np.sqrt(gate_squares[c, k])
            b = last[i]
            bias_squares[b, c] += d * d
            biases[b, c] -= rate * d / np.sqrt(bias_squares[b, c])


@jit
def _learn_rows(
    tags: Any,
    counts: Any,
    used: Any,
    symbols: Any,
    values: Any,
    squares: Any,
    rows_log2: Any,
    hashes: Any,
    targets: Any,
    dlogits: Any,
    rate: Any,
) -> None:
    slots = symbols.shape[1]
    for i in range(hashes.shape[0]):
        target = targets[i]
        for c in range(hashes.shape[1]):
            r = _find(tags, counts, hashes[i, c], np.int64(c), rows_log2)
            if r < 0:  # take the less used of the two places
                r = (np.int64(c) << rows_log2) + np.int64(hashes[i, c] >> np.uint64(64 - rows_log2))
                if counts[r ^ 1] < counts[r]:
                    r ^= 1
                tags[r] = np.uint16(hashes[i, c] & np.uint64(0xFFFF))
                counts[r] = 0
                used[r] = 0
            counts[r] = min(np.int64(counts[r]) + 1, np.int64(_COUNT_MAX))
            held: Any = np.int64(used[r])
            found = False
            lowest: Any = np.int64(0)
            for q in range(held):
                found = found or symbols[r, q] == target
                if values[r, q] < values[r, lowest]:
                    lowest = q
            if not found:
                if held < slots:
                    lowest = held
                    held = np.int64(held + 1)
                    used[r] = held
                symbols[r, lowest] = target
                values[r, lowest] = 0
                squares[r, lowest] = 0
            for q in range(held):
                g = dlogits[i, symbols[r, q]]
                squares[r, q] += g * g
                values[r, q] -= rate * g / np.sqrt(squares[r, q] + _EPSILON)
