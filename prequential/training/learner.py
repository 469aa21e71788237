"""Predict and learn: both networks, their input embeddings and the n-gram logits as one predictor.

The recurrence and what is sparse (embeddings, n-grams) live on the host, the transformer on the
device. Their logits are added up, so that each learns what the others do not know. The
probabilities that the gradient sees are the very frequencies that are coded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

import numpy as np

from prequential.coding.coder import TOTAL_BITS, Code, Direct, SymbolCoder
from prequential.coding.vocabulary import SINGLE_BYTES, Vocabulary
from prequential.config import HISTORY_BYTES, Config
from prequential.exact import softmax
from prequential.predictors.contexts import History
from prequential.predictors.embeddings import Embeddings
from prequential.predictors.memory import memory_of
from prequential.predictors.ngrams import Ngrams
from prequential.recurrence.resting import Resting
from prequential.training import columns
from prequential.training.replay import Draw, Past
from prequential.training.sums import Step, new_step
from prequential.training.threads import Threads


class Learner:
    """The state that encoder and decoder build in step, from the seed and the bytes paid for."""

    def __init__(
        self,
        config: Config,
        seed: int,
        device: str = "cpu",
        threads: int = 1,
        past: Past | None = None,
        vocabulary: Vocabulary = SINGLE_BYTES,
        new_step: Callable[..., Step] = new_step,
    ) -> None:
        """config is resolved: see `Config.resolve`. Threads and device do not change a bit.

        new_step makes the step: another one may compute the same bits elsewhere.
        past gives the chunks learned so far, by number; with epochs above 1 they are replayed.
        """
        B, T, V = config.streams, config.chunk, len(vocabulary.pieces)
        self.B = B
        self.history = History(B, vocabulary)
        # What enters the transformer, if there is one.
        entered = config.has_transformer
        self.embeddings = Embeddings(config.model, B, T, seed, V) if entered else None
        self.threads = Threads(threads)
        self.step = new_step(config, V, seed, device, self.threads)
        self.model = self.step.model
        self._weights = self.model.weights if self.model else []
        self._caches = self.model.caches() if self.model else []
        self.cells = Resting(config, seed, V)
        self.recurrence = self.cells.network
        self.ngrams = Ngrams(config.ngrams, B, T, V, self.cells.entered.logits)
        literal = config.memory.kind == "none"
        self.memory = None if literal else memory_of(config, vocabulary, threads)
        self.symbol_coder: SymbolCoder = self.memory or Direct()
        at_once = self.step.at_once and not config.lanes
        self.decode_columns = self._decode_columns if at_once else None
        self.steps = 0  # taken
        self.frequencies = np.zeros((T * B, V), np.int32)
        self._dlogits: np.ndarray | None = None  # of a chunk that was decoded
        self.past = past
        self._past_count = 0
        self.draw = Draw(seed)
        self._replays = config.epochs - 1
        # Chunks before a replayed one that its attention, convolution and contexts reach into.
        self._reach = -(-max(config.model.window, HISTORY_BYTES) // T)

    def predict(
        self, chunk: np.ndarray, task: Callable[[np.ndarray], None] | None = None
    ) -> np.ndarray:
        """Frequencies (T * B, V) int32 of a known chunk (T, B), in one forward pass.

        With a task they may not be complete yet: it is called with them once they are, on this or
        another thread, before the next `learn` returns.
        """
        self.threads.start()
        columns.take_in(
            self.history.packed, self.history.spelling, chunk, self._packed_inputs,
            *self.cells.packed, self.ngrams.packed,
        )  # fmt: skip
        forward, frequencies = self._forward(0, len(chunk))
        if task is None:
            self.step.settle()
        else:
            self.threads.beside(lambda: (forward(), task(frequencies)))
        return frequencies

    def predict_column(self, column: int) -> np.ndarray:
        """Frequencies (B, V) int32 of the next column, given the columns observed before."""
        self.threads.start()
        columns.locate(
            self.history.state, column, self.embeddings and self.embeddings.state,
            self.recurrence.embeddings.state, self.cells.entered, self.ngrams.state,
        )  # fmt: skip
        _, frequencies = self._forward(column, column + 1)
        self.step.settle()
        return frequencies

    def _forward(self, first: int, end: int) -> tuple[Callable[[], object], np.ndarray]:
        """Frequencies (n, V) int32 of the columns first..end of a chunk, which are located.

        They are complete when what comes with them has been called, or the step is settled.
        """
        self.cells.predict(first, end)
        rows = self.embeddings.gather(first, end) if self.embeddings else None
        forward = self.step.forward(rows, first, end, self.ngrams.state, self.frequencies)
        return forward, self.frequencies[first * self.B : end * self.B]

    def _decode_columns(self, chunk: np.ndarray, count: int, code: Code) -> float:
        self.threads.start()
        decode = partial(
            columns.decode, chunk, count, self.history.packed, self.history.spelling,
            self._packed_inputs, *self.cells.packed, self.recurrence.packed,
            self.memory and self.memory.packed, code.intervals[0], code.bytes[0], code.positions[0],
        )  # fmt: skip
        (code.positions[0], bits), self._dlogits = self.step.decode(
            len(chunk), self.ngrams.state, self.frequencies, decode
        )
        return bits

    @property
    def _packed_inputs(self) -> tuple[object, ...] | None:
        return self.embeddings.packed if self.embeddings else None

    def observe(self, symbols: np.ndarray) -> None:
        """Take in a decoded column (B,)."""
        self.history.push(symbols)

    def learn(self, chunk: np.ndarray, count: int) -> None:
        """One step on the first `count` tokens of the chunk (T, B), whose frequencies are known.

        Then one on a past chunk for every further epoch, if the cells have learned from this one.
        """
        learned = self._learn(chunk, count, tables=True)
        if learned and self.past is not None and self._past_count:
            for _ in range(self._replays):
                self._replay(self.draw.below(self._past_count), self.past)
        self._past_count += 1
        self.threads.stop()

    def rest(self, elsewhere: bool) -> None:
        """Whether the cells rest in the next chunk, as others know better."""
        self.cells.rest(elsewhere)

    def learned(self) -> dict[str, np.ndarray]:
        """Everything learned so far, by name, but for the optimizers' state and the memory."""
        self.step.settle()
        arrays = self._tables()
        for weight in self._weights:
            arrays[f"model.{weight.name}"] = weight.value.cpu().numpy()
        return arrays

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Start from what another learner of this config has `learned`."""
        self.step.settle()
        for name, table in self._tables().items():
            table[...] = arrays[name]
        for weight in self._weights:
            weight.start(arrays[f"model.{weight.name}"])
        self.step.quantise()
        self.recurrence.quantise()

    def _tables(self) -> dict[str, np.ndarray]:
        tables = self.ngrams.arrays() | self.recurrence.arrays()
        if self.embeddings:
            tables |= self.embeddings.arrays()
        return {name: table for name, table in tables.items() if not name.endswith("squares")}

    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of the dense weights and gates, which depend on everything else."""
        self.step.settle()
        sha = hashlib.sha256()
        for weight in self._weights:
            sha.update(weight.value.cpu().numpy().astype("<f4").tobytes())
        tables = self.ngrams.state.tables
        for gates in (tables.gates, tables.biases):
            sha.update(gates.astype("<f4").tobytes())
        for dense in self.recurrence.network[:3]:
            sha.update(dense.value.astype("<f4").tobytes())
        if self.memory is not None:
            sha.update(self.memory.weights())
        return sha.digest()

    def _replay(self, index: int, past: Past) -> None:
        """One more step of both networks and the embeddings, on a past chunk.

        Its context is computed anew with the present weights, from zeros as at the beginning, and
        the live one put back. The n-gram tables and gates have counted the chunk once; counting it
        twice makes them too sure.
        """
        host = [*self.history.arrays().values(), *self.recurrence.state()]
        host.append(self.cells.entered.missed)
        kept = [array.copy() for array in host], [cache.clone() for cache in self._caches]
        for array in host:
            array[...] = 0
        for cache in self._caches:
            cache.zero_()
        for earlier in range(max(0, index - self._reach), index):
            chunk, _ = past(earlier)
            self.predict(chunk)
            self.step.advance(len(chunk))
            self.cells.advance()
        chunk, count = past(index)
        self.predict(chunk)
        self._learn(chunk, count)
        for array, there in zip(host, kept[0], strict=True):
            array[...] = there
        for cache, saved in zip(self._caches, kept[1], strict=True):
            cache.copy_(saved)

    def _learn(self, chunk: np.ndarray, count: int, *, tables: bool = False) -> bool:
        """One step of both networks and the embeddings, or of all there is.

        Whether the cells, which may wait for more of what is new, have taken theirs.
        """
        targets = chunk.reshape(-1)
        self.steps += 1
        self.step.settle()
        dlogits, self._dlogits = self._dlogits, None
        decoded = dlogits is not None
        if dlogits is None:
            dlogits = np.empty((chunk.size, self.frequencies.shape[1]), np.float32)
            softmax.gradient(self.frequencies, targets, count, TOTAL_BITS, dlogits)
        if tables:
            # They learn independently of the networks. Where the chunk was decoded, another
            # thread is at the transformer's backward pass already.
            learn = partial(self._learn_tables, dlogits, targets, count)
            if decoded and self.model:
                learn()
            else:
                self.threads.beside(learn)
        rows = self.step.learn(dlogits, count)
        if self.embeddings and rows is not None:
            self.embeddings.learn(rows[:count])
        learned = self._learn_cells(dlogits, targets, count, at_once=not tables)
        self.step.advance(len(chunk))
        self.threads.finish()
        if tables and self.memory is not None:
            self.memory.learn()
        return learned

    def _learn_cells(
        self, dlogits: np.ndarray, targets: np.ndarray, count: int, *, at_once: bool
    ) -> bool:
        return self.cells.learn(dlogits, count, self.threads.join, at_once=at_once)

    def _learn_tables(self, dlogits: np.ndarray, targets: np.ndarray, count: int) -> None:
        self.ngrams.learn(dlogits[:count], targets[:count])
