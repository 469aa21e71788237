"""Where there is no transformer, the logits are a sum: of the n-grams' and the cells'.

And what the forms of a step have in common, with a transformer or without.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from prequential.coding.coder import TOTAL_BITS
from prequential.config import Config
from prequential.exact import shares, softmax
from prequential.exact.compiled import inline, outer, pack
from prequential.predictors import ngrams
from prequential.predictors.ngrams import NgramState
from prequential.training.threads import Threads

if TYPE_CHECKING:
    from prequential.transformer.model import Transformer
    from prequential.transformer.optimizer import Optimizer

Call = Callable[[], object]
Rows = np.ndarray | None  # of a transformer's inputs or their gradients, if there is one

_COLUMNS = 8  # of a chunk, of a thread's piece


class Step(Protocol):
    """Predicts the columns of a chunk of B streams, and learns it."""

    @property
    def model(self) -> Transformer | None:
        """The transformer, if there is one."""
        ...

    @property
    def optimizer(self) -> Optimizer | None:
        """What makes its step, if there is one."""
        ...

    @property
    def at_once(self) -> bool:
        """Whether a chunk's columns are decoded in one call, `decode`."""
        ...

    @property
    def logits(self) -> np.ndarray:
        """(N, V) float32: the sum of all predictors' logits, where the host has it."""
        ...

    def forward(
        self, rows: Rows, first: int, end: int, tables: NgramState, frequencies: np.ndarray
    ) -> Call:
        """What finds frequencies (T * B, V) int32 of columns first..end, for rows (n, D).

        They are complete when it has been called, or `settle`. tables is the state of the n-grams,
        which have located the columns.
        """
        ...

    def settle(self) -> None:
        """Complete what other threads may be at, a step and then a forward pass: this one joins."""
        ...

    def decode(
        self,
        count: int,
        tables: NgramState,
        frequencies: np.ndarray,
        decode: Callable[..., tuple[int, float]],
    ) -> tuple[tuple[int, float], np.ndarray]:
        """Decode so many columns: the result of `decode`, and dlogits (n, V) for `learn`.

        `decode` is `columns.decode`, but for what it is called with here, and fills in dlogits.
        """
        ...

    def learn(self, dlogits: np.ndarray, count: int) -> Rows:
        """One step at dlogits (n, V), of which `count` are of tokens.

        The gradient (n, D) of the rows that entered.
        """
        ...

    def advance(self, columns: int) -> None:
        """Move the caches past a finished chunk of so many columns."""
        ...

    def quantise(self) -> None:
        """Follow weights that were set from outside: the products take quantised ones."""
        ...


def new_step(config: Config, tokens: int, seed: int, device: str, threads: Threads) -> Step:
    """The step of a resolved config; a transformer starts from the seed."""
    if config.model.layers:
        step: Step = import_module(".step", __package__).new(config, tokens, seed, device, threads)
        return step
    return Sums(config, tokens, threads)


class Pending:
    """What threads may be at that share a step, or a forward pass behind it."""

    def __init__(self) -> None:
        self._pending: Call = _nothing

    def settle(self) -> None:
        """See `Step`."""
        self._pending()
        self._pending = _nothing


class Sums(Pending):
    """The `Step` without a transformer: what has been summed needs none."""

    model = None
    optimizer = None
    at_once = True

    def __init__(self, config: Config, tokens: int, threads: Threads) -> None:
        super().__init__()
        self._B, self._threads = config.streams, threads
        self.logits = np.zeros((config.chunk * config.streams, tokens), np.float32)

    def forward(
        self, rows: Rows, first: int, end: int, tables: NgramState, frequencies: np.ndarray
    ) -> Call:
        """See `Step`. Any number of threads may make the call."""
        counters, packed = shares.phases(1), pack(tables)

        def call() -> None:
            _forward(counters, first, end, self._B, packed, self.logits, frequencies)

        self._pending = call
        self._threads.join(call)
        return call

    def decode(
        self,
        count: int,
        tables: NgramState,
        frequencies: np.ndarray,
        decode: Callable[..., tuple[int, float]],
    ) -> tuple[tuple[int, float], np.ndarray]:
        """See `Step`."""
        self.settle()
        dlogits = np.empty((count * self._B, self.logits.shape[1]), np.float32)
        none = shares.phases(1), 0, None, None
        result = decode(*none, pack(tables), frequencies, self.logits, None, dlogits)
        return result, dlogits

    def learn(self, dlogits: np.ndarray, count: int) -> Rows:
        """See `Step`: n-grams and cells learn by themselves."""
        return None

    def advance(self, columns: int) -> None:
        """See `Step`: there are no caches."""

    def quantise(self) -> None:
        """See `Step`: there are no weights."""


@outer
def _forward(
    counters: Any, first: Any, end: Any, streams: Any, tables: Any, logits: Any, frequencies: Any
) -> None:
    """Frequencies (N, V) int32 of columns first..end, whose rows of logits (N, V) are used."""
    tables = ngrams.state_of(tables)
    pieces = (end - first + _COLUMNS - 1) // _COLUMNS
    piece = shares.claim(counters, 0)
    while piece < pieces:
        column = first + piece * _COLUMNS
        a, b = column * streams, min(column + _COLUMNS, end) * streams
        predict(a, b, tables, logits, frequencies)
        piece = shares.next_piece(counters, 0)
    shares.wait(counters, 0, pieces)


@inline
def predict(a: Any, b: Any, tables: Any, logits: Any, frequencies: Any) -> None:
    """Frequencies (N, V) int32 of rows a..b by the sum, for which logits (N, V) has room."""
    out = logits[a:b]
    for i in range(len(out)):
        for s in range(out.shape[1]):
            out[i, s] = 0
    ngrams.add_logits(tables, a, out)
    softmax.frequencies(out, TOTAL_BITS, frequencies[a:b])


def _nothing() -> None:
    pass
