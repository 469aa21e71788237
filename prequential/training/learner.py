"""Predict and learn: the transformer, its input embeddings and the n-gram logits as one predictor.

What is sparse (embeddings, n-grams) lives on the host, the dense transformer on the device. The
probabilities that the gradient sees are the very frequencies that are coded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from prequential.coding.coder import TOTAL_BITS, Direct, SymbolCoder
from prequential.coding.vocabulary import SINGLE_BYTES, Vocabulary
from prequential.config import HISTORY_BYTES, Config
from prequential.exact import shares, softmax
from prequential.predictors.contexts import History
from prequential.predictors.embeddings import Embeddings
from prequential.predictors.memory import Memory
from prequential.predictors.ngrams import Ngrams
from prequential.training import columns
from prequential.training.replay import Draw, Past
from prequential.transformer import steps
from prequential.transformer.graphs import ColumnGraphs
from prequential.transformer.model import Transformer
from prequential.transformer.optimizer import Optimizer, update_of
from prequential.transformer.steps import Steps


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
        transformer: Callable[..., Transformer] = Transformer,
    ) -> None:
        """config is resolved: see `Config.resolve`. Threads and device do not change a bit.

        transformer makes the model: another one may compute the same bits elsewhere.
        past gives the chunks learned so far, by number; with epochs above 1 they are replayed.
        """
        B, T = config.streams, config.chunk
        self.B, self.device = B, torch.device(device)
        V = len(vocabulary.pieces)
        self.history = History(B, vocabulary)
        self.embeddings = Embeddings(config.model, B, T, seed, V)
        self.model = transformer(config.model, B, T, seed, device, V)
        # On the CPU: its compiled form.
        compiled = shares.COMPILED and self.device.type == "cpu"
        self.steps = Steps(self.model) if compiled else None
        self._forward_column = self.model.forward
        if self.device.type == "cuda":
            self._forward_column = ColumnGraphs(self.model).forward
        self.ngrams = Ngrams(config.ngrams, B, T, V)
        self.memory = Memory(config.memory, B, vocabulary) if config.memory.kind != "none" else None
        self.symbol_coder: SymbolCoder = self.memory or Direct()
        self.decode_columns = self._decode_columns if self.steps else None
        self.optimizer = Optimizer(config.optimizer)
        self.frequencies = np.zeros((T * B, V), np.int32)
        self._others = threads - 1
        self._pace = shares.Pace()
        self._pending: Callable[[], None] = _nothing  # what `settle` completes
        # The backward pass of a chunk that was decoded, with its gradient.
        self._backward: tuple[Any, ...] | None = None
        # By default a thread's products would be split over threads of their own, busily waiting.
        self._pool = (
            ThreadPoolExecutor(threads - 1, initializer=torch.set_num_threads, initargs=(1,))
            if threads > 1
            else None
        )
        self._tasks: list[tuple[Future[object], Callable[[], object]]] = []
        self._past = past
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
        self._pace.start()
        columns.take_in(self.history.state, self.history.spelling, chunk, *self._sparse())
        forward, frequencies = self._forward(0, len(chunk))
        if task is None:
            self.settle()
        else:
            self._beside(lambda: (forward(), task(frequencies)))
        return frequencies

    def predict_column(self, column: int) -> np.ndarray:
        """Frequencies (B, V) int32 of the next column, given the columns observed before."""
        self._pace.start()
        columns.locate(self.history.state, column, *self._sparse())
        _, frequencies = self._forward(column, column + 1)
        self.settle()
        return frequencies

    def _sparse(self) -> tuple[Any, Any]:
        return self.embeddings.state, self.ngrams.state

    def _decode_columns(
        self, chunk: np.ndarray, count: int, state: np.ndarray, payload: np.ndarray, position: int
    ) -> tuple[int, float]:
        assert self.steps is not None
        self._pace.start()
        transformer, backward = self.steps.state(len(chunk)), self.steps.backward(chunk.size)
        pieces, update = 1, self._pending
        if self._pool is not None and self._pace.together:
            pieces = 2
            T, B = chunk.shape
            self._pool.submit(
                lambda: (update(), columns.assist(T, B, pieces, transformer, backward))
            )
        try:
            self.settle()
            decoded: tuple[int, float] = columns.decode(
                chunk, count, self.frequencies, backward[2], self.history.state,
                self.history.spelling, self.embeddings.state, pieces, transformer,
                self.ngrams.state, self.memory and self.memory.state, state, payload, position,
            )  # fmt: skip
        finally:
            # Whatever has happened, an assistant is not to wait for more columns.
            shares.release(transformer[0], 0)
        self._backward = backward
        return decoded

    def observe(self, symbols: np.ndarray) -> None:
        """Take in a decoded column (B,)."""
        self.history.push(symbols)

    def learn(self, chunk: np.ndarray, count: int) -> None:
        """One step on the first `count` tokens of the chunk (T, B), whose frequencies are known.

        Then one on a past chunk for every further epoch.
        """
        self._learn(chunk, count, tables=True)
        if self._past is not None and self._past_count:
            for _ in range(self._replays):
                self._replay(self.draw.below(self._past_count), self._past)
        self._past_count += 1
        self._pace.stop()

    def _beside(self, task: Callable[[], object]) -> None:
        """Run a task now or on another thread; it is done when the next `learn` returns."""
        if self._pool is None or not self._pace.together:
            task()
        else:
            self._tasks.append((self._pool.submit(task), task))

    def _join(self, call: Callable[[], object]) -> None:
        """Let other threads take part in a compiled call whose work can be shared."""
        if self._pool is not None and self._pace.together:
            for _ in range(self._others):
                self._pool.submit(call)

    def settle(self) -> None:
        """Complete what other threads may be at, a step and then a forward pass: this one joins."""
        self._pending()
        self._pending = _nothing

    def learned(self) -> dict[str, np.ndarray]:
        """Everything learned so far, by name, but for the optimizers' state and the memory."""
        self.settle()
        arrays = self._tables()
        for weight in self.model.weights:
            arrays[f"model.{weight.name}"] = weight.value.cpu().numpy()
        return arrays

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Start from what another learner of this config has `learned`."""
        self.settle()
        for name, table in self._tables().items():
            table[...] = arrays[name]
        for weight in self.model.weights:
            weight.start(torch.from_numpy(arrays[f"model.{weight.name}"]))
        self.quantise()

    def quantise(self) -> None:
        """Follow weights that were set from outside: the products take quantised ones."""
        for weight in self.model.weights:
            weight.quantise()
        if self.steps is not None:
            self.steps.quantise()

    def _tables(self) -> dict[str, np.ndarray]:
        tables = {**self.embeddings.arrays(), **self.ngrams.arrays()}
        return {name: table for name, table in tables.items() if not name.endswith("squares")}

    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of the dense weights and gates, which depend on everything else."""
        self.settle()
        sha = hashlib.sha256()
        for weight in self.model.weights:
            sha.update(weight.value.cpu().numpy().astype("<f4").tobytes())
        tables = self.ngrams.state.tables
        for gates in (tables.gates, tables.biases):
            sha.update(gates.astype("<f4").tobytes())
        if self.memory is not None:
            weights = self.memory.state.mixer.weights[..., : self.memory.inputs]
            sha.update(weights.astype("<i4").tobytes())
        return sha.digest()

    def _replay(self, index: int, past: Past) -> None:
        """One more step of the transformer and the embeddings, on a past chunk.

        Its context is computed anew with the present weights, from zeros as at the beginning, and
        the live one put back. The n-gram tables and gates have counted the chunk once; counting it
        twice makes them too sure.
        """
        live = [
            *(torch.from_numpy(array) for array in self.history.arrays().values()),
            *self.model.caches(),
        ]
        kept = [view.clone() for view in live]
        for view in live:
            view.zero_()
        for earlier in range(max(0, index - self._reach), index):
            chunk, _ = past(earlier)
            self.predict(chunk)
            self.model.advance(len(chunk))
        chunk, count = past(index)
        self.predict(chunk)
        self._learn(chunk, count)
        for view, saved in zip(live, kept, strict=True):
            view.copy_(saved)

    def _forward(self, first: int, end: int) -> tuple[Callable[[], None], np.ndarray]:
        """Frequencies (n, V) int32 of the columns first..end of a chunk, which are located.

        They are complete when what comes with them has been called, or `settle`.
        """
        rows = self.embeddings.gather(first, end)
        a = first * self.B
        frequencies = self.frequencies[a : a + len(rows)]
        if self.steps is not None:
            update = self._pending
            pass_on = self.steps.forward(rows, first, self.ngrams.state, self.frequencies)

            def forward() -> None:
                update()
                pass_on()

            self._pending = forward
            self._join(forward)
            return forward, frequencies
        on_device = torch.from_numpy(rows).to(self.device)
        model_forward = self._forward_column if end == first + 1 else self.model.forward
        logits = model_forward(on_device, first).cpu().numpy()
        self.ngrams.add_logits(logits, first)
        softmax.frequencies(logits, TOTAL_BITS, frequencies)
        return _nothing, frequencies

    def _learn(self, chunk: np.ndarray, count: int, *, tables: bool = False) -> None:
        """One step of the transformer and the embeddings, or of all but the memory."""
        constants = self.optimizer.advance(count)
        targets = chunk.reshape(-1)
        arguments, self._backward = self._backward or (), None
        known = bool(arguments)  # the gradient, by decoding
        if self.steps is not None:
            arguments = arguments or self.steps.backward(chunk.size)
            dlogits = arguments[2]
            update = self.steps.update(chunk.size, constants)
            self.settle()
        else:
            dlogits = np.empty((chunk.size, self.frequencies.shape[1]), np.float32)
        if not known:
            softmax.gradient(self.frequencies, targets, count, TOTAL_BITS, dlogits)
        if tables:

            def learn_tables() -> None:
                self.ngrams.learn(dlogits[:count], targets[:count])

            # They learn independently of the transformer, whose backward pass an assistant is at.
            if known:
                learn_tables()
            else:
                self._beside(learn_tables)
        if self.steps is not None:
            self._join(lambda: (steps.backward(*arguments), update()))
            steps.backward(*arguments)
            rows = self.steps.enter_backward(arguments[3], constants)
            self.embeddings.learn(rows[:count])
            self.steps.advance(len(chunk))
            self._pending = update
            if self._pool is None or not self._pace.together:
                self.settle()
        else:
            on_device = torch.from_numpy(dlogits).to(self.device)
            rows = self.model.backward(on_device, update_of(constants)).cpu().numpy()
            self.embeddings.learn(rows[:count])
            self.model.advance(len(chunk))
        # What no thread has begun yet is done here: on a busy machine none may have had its turn.
        for future, task in reversed(self._tasks):
            if future.cancel():
                task()
            else:
                future.result()
        self._tasks.clear()


def _nothing() -> None:
    pass
