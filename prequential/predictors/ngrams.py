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

from typing import Any, NamedTuple

import numpy as np

from prequential.config import SYMBOLS, NgramConfig
from prequential.exact.compiled import inline, outer, pack
from prequential.predictors.contexts import Contexts, hash_column, parse

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


class NgramTables(NamedTuple):
    """What is learned: C contexts with R rows of K slots each, one context after the other."""

    tags: np.ndarray  # (C * R,) uint16: which context a row is of, by its hash
    counts: np.ndarray  # (C * R,) uint16: how often it was used, 0 if it is free
    used: np.ndarray  # (C * R,) uint8: slots that hold a symbol
    symbols: np.ndarray  # (C * R, K) uint8, or uint16 where there are more than 256
    logits: np.ndarray  # (C * R, K) float32
    gates: np.ndarray  # (C, CONFIDENCES) float32
    biases: np.ndarray  # (256, C) float32, by the last byte
    rows_log2: int  # of R


class Squares(NamedTuple):
    """Adagrad's sums of squared gradients, each of the shape of what they belong to."""

    logits: np.ndarray
    gates: np.ndarray
    biases: np.ndarray


class Located(NamedTuple):
    """What the predictions of a chunk's tokens rest on; n tokens, time-major."""

    hashes: np.ndarray  # (n, C) uint64
    last: np.ndarray  # (n,) uint8: the byte before
    rows: np.ndarray  # (n, C) int64: the row found, or -1
    buckets: np.ndarray  # (n, C) int64: its confidence


class NgramState(NamedTuple):
    """What locates a column, finds its rows and adds their share."""

    contexts: Contexts
    located: Located
    tables: NgramTables
    others: np.ndarray  # (n, V) float32: another predictor's logits, to be added; or (0, V)
    sure: int  # so often; 0: no token is ever sure


class Ngrams:
    """The tables, the gates, and which rows a chunk's tokens used."""

    def __init__(
        self,
        config: NgramConfig,
        streams: int,
        columns: int,
        tokens: int = SYMBOLS,
        others: np.ndarray | None = None,
    ) -> None:
        C, K = len(config.contexts), config.slots
        self.rate = np.float32(config.rate)
        self.gate_rate = np.float32(config.gate_rate)
        self.streams = streams
        rows, n = C << config.rows_log2, streams * columns
        self.state = NgramState(
            parse(config.contexts),
            Located(
                np.zeros((n, C), np.uint64),
                np.zeros(n, np.uint8),
                np.zeros((n, C), np.int64),
                np.zeros((n, C), np.int64),
            ),
            NgramTables(
                np.zeros(rows, np.uint16),
                np.zeros(rows, np.uint16),
                np.zeros(rows, np.uint8),
                np.zeros((rows, K), np.uint8 if tokens <= SYMBOLS else np.uint16),
                np.zeros((rows, K), np.float32),
                np.ones((C, CONFIDENCES), np.float32),
                np.zeros((256, C), np.float32),
                config.rows_log2,
            ),
            np.zeros((0, tokens), np.float32) if others is None else others,
            config.sure,
        )
        self.packed = pack(self.state)
        self.squares = Squares(
            np.zeros((rows, K), np.float32),
            np.full((C, CONFIDENCES), _GATE_EPSILON, np.float32),
            np.full((256, C), _GATE_EPSILON, np.float32),
        )
        self._squares = pack(self.squares)

    def add_logits(self, logits: np.ndarray, first: int) -> None:
        """logits (n, V) += the tables' share, for the columns that start at `first`."""
        add_logits(self.state, first * self.streams, logits)

    def learn(self, dlogits: np.ndarray, targets: np.ndarray) -> None:
        """Follow dlogits (n, V) float32 = p - y of the chunk's first n tokens, targets (n,)."""
        _learn(self.packed, self._squares, dlogits, targets, self.rate, self.gate_rate)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything learned, by name."""
        arrays = self.state.tables._asdict()
        del arrays["rows_log2"]
        arrays |= {f"{name}_squares": array for name, array in self.squares._asdict().items()}
        return {f"ngrams.{name}": array for name, array in arrays.items()}


@inline
def state_of(packed: Any) -> Any:
    """The `NgramState` again, inside a loop."""
    contexts, located, tables, others, sure = packed
    return NgramState(Contexts(*contexts), Located(*located), NgramTables(*tables), others, sure)


@inline
def locate(history: Any, first: Any, state: Any) -> Any:
    """Remember the contexts of tokens that come next in the history, and find their rows.

    There is one of each stream; their places in the chunk begin at `first`. Returns whether all are
    sure: some context of each has had one symbol only, often.
    """
    located, tables = state.located, state.tables
    unsure = len(history.bytes)
    end = first + len(history.bytes)
    hash_column(history, state.contexts, located.hashes[first:end])
    for i in range(first, end):
        located.last[i] = history.bytes[i - first, 0]
        sure = False
        for c in range(located.hashes.shape[1]):
            r = _find(tables, located.hashes[i, c], np.int64(c))
            located.rows[i, c] = r
            if r >= 0 and tables.used[r] == 1 and tables.counts[r] >= state.sure > 0:
                sure = True
        unsure -= sure
    return unsure == 0


@inline
def _find(tables: Any, hashed: Any, context: Any) -> Any:
    """The row of a hash among its two places, or -1."""
    tag = np.uint16(hashed & np.uint64(0xFFFF))
    row = _first_place(tables, hashed, context)
    for r in (row, row ^ 1):
        if tables.counts[r] > 0 and tables.tags[r] == tag:
            return r
    return np.int64(-1)


@inline
def _first_place(tables: Any, hashed: Any, context: Any) -> Any:
    rows_log2 = tables.rows_log2
    return (context << rows_log2) + np.int64(hashed >> np.uint64(64 - rows_log2))


@inline
def add_logits(state: Any, first: Any, logits: Any) -> None:
    """logits (n, V) += the tables' share and the others', for n tokens from `first` on."""
    located, tables = state.located, state.tables
    for k in range(len(logits)):
        i = first + k
        if len(state.others) > 0:
            for s in range(logits.shape[1]):
                logits[k, s] += state.others[i, s]
        for c in range(located.hashes.shape[1]):
            r = located.rows[i, c]
            if r < 0:
                continue
            held = np.int64(tables.used[r])
            distinct = 0 if held <= 1 else (1 if held == 2 else (2 if held <= 4 else 3))
            bucket = _BUCKETS[min(np.int64(tables.counts[r]), 255)] * 4 + distinct
            located.buckets[i, c] = bucket
            gate = tables.gates[c, bucket] + tables.biases[located.last[i], c]
            for q in range(held):
                logits[k, tables.symbols[r, q]] += gate * tables.logits[r, q]


@outer
def _learn(
    packed: Any, squares: Any, dlogits: Any, targets: Any, rate: Any, gate_rate: Any
) -> None:
    state, sums = state_of(packed), Squares(*squares)
    _learn_gates(state.tables, sums, state.located, dlogits, gate_rate)
    _learn_rows(state.tables, sums.logits, state.located.hashes, targets, dlogits, rate)


@inline
def _learn_gates(tables: Any, squares: Any, located: Any, dlogits: Any, rate: Any) -> None:
    for i in range(len(dlogits)):
        last = located.last[i]
        for c in range(located.rows.shape[1]):
            r = located.rows[i, c]
            if r < 0:
                continue
            d = np.float32(0)
            for q in range(np.int64(tables.used[r])):
                d += dlogits[i, tables.symbols[r, q]] * tables.logits[r, q]
            k = located.buckets[i, c]
            squares.gates[c, k] += d * d
            tables.gates[c, k] -= rate * d / np.sqrt(squares.gates[c, k])
            squares.biases[last, c] += d * d
            tables.biases[last, c] -= rate * d / np.sqrt(squares.biases[last, c])


@inline
def _learn_rows(
    tables: Any, squares: Any, hashes: Any, targets: Any, dlogits: Any, rate: Any
) -> None:
    counts, used, symbols, values = tables.counts, tables.used, tables.symbols, tables.logits
    slots = symbols.shape[1]
    for i in range(len(targets)):
        target = targets[i]
        for c in range(hashes.shape[1]):
            r = _find(tables, hashes[i, c], np.int64(c))
            if r < 0:  # take the less used of the two places
                r = _first_place(tables, hashes[i, c], np.int64(c))
                if counts[r ^ 1] < counts[r]:
                    r ^= 1
                tables.tags[r] = np.uint16(hashes[i, c] & np.uint64(0xFFFF))
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
