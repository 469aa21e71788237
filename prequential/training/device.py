"""A learner whose transformer is on a GPU, which host and device share the work of.

The dense part of a chunk is two graphs there (`graphs`): the forward pass, and the step. What is
sparse stays on the host, where rows are dealt out to threads; the memory goes on beside everything
else. A decoder with lanes takes the streams of a column in two halves: while lanes decode one, the
GPU predicts the other. None of this changes an operand, so the bits are `Learner`'s, which decodes
without this module, too.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prequential.coding.coder import TOTAL_BITS, Code
from prequential.coding.vocabulary import SINGLE_BYTES, Vocabulary
from prequential.config import Config
from prequential.exact import softmax
from prequential.exact.compiled import pack
from prequential.predictors import ngrams
from prequential.predictors.contexts import HistoryState
from prequential.predictors.embeddings import gather_rows
from prequential.predictors.lanes import Lanes
from prequential.training import turns
from prequential.training.learner import Learner
from prequential.training.replay import Past
from prequential.training.threads import Task, Threads
from prequential.transformer.graphs import Graphs, stacked
from prequential.transformer.optimizer import update_of

_LEAST = 64  # rows of a thread's share, or columns: whole lines of the cache
_MOST_THREADS = 8


class Pair(NamedTuple):
    """An array here, where copies need not wait for the host, and its like on the device."""

    here: Tensor
    there: Tensor

    def send(self, part: slice = slice(None)) -> Tensor:
        """Begin to copy a part to the device, where it is returned."""
        there = self.there[part]
        there.copy_(self.here[part], non_blocking=True)
        return there


class _Turn(NamedTuple):
    """A lane's streams of half a column, and what they are predicted from."""

    first: int
    end: int
    history: tuple[Any, ...]  # packed
    inputs: tuple[Any, ...]  # packed


class _Coding(Threads):
    """What codes goes on beside all else, on a thread of its own."""

    def __init__(self, timed: Callable[[str], AbstractContextManager[None]]) -> None:
        super().__init__(1)
        self._timed = timed
        self._thread = ThreadPoolExecutor(1)
        self._coded: list[Future[None]] = []

    def beside(self, task: Task) -> None:
        def code() -> None:
            with self._timed("coder and memory"):
                task()

        self._coded.append(self._thread.submit(code))

    def finish(self) -> None:
        for future in self._coded:
            future.result()
        self._coded.clear()


def _is_used_up(code: Code) -> bool:
    return bool(code.positions.max() > code.bytes.shape[1])


def _nothing(*_: object) -> None:
    pass


class DeviceLearner(Learner):
    """As `Learner`; `seconds` says where the time goes, by what was waited for or worked at."""

    def __init__(
        self,
        config: Config,
        seed: int,
        device: str = "cuda",
        threads: int = 1,
        past: Past | None = None,
        vocabulary: Vocabulary = SINGLE_BYTES,
        graphs: Graphs | None = None,
    ) -> None:
        """As `Learner`, but for the threads, of which there are as many as there is work for."""
        self._parts = max(1, min(_MOST_THREADS, os.cpu_count() or 1))
        super().__init__(config, seed, device, self._parts, past, vocabulary)
        self.seconds: dict[str, float] = defaultdict(float)
        self.threads = _Coding(self._timed)
        self._on_gpu = device == "cuda"
        assert self.model is not None  # as `new_learner` sees to
        assert self.embeddings is not None
        self._model, self._inputs_of = self.model, self.embeddings
        self._stacks = stacked(self._model.weights)
        (rows, width), tokens = self._model.x.shape, self.frequencies.shape[1]
        self._inputs, self._input_gradient = self._pair(rows, width), self._pair(rows, width)
        self._logits, self._gradient = self._pair(rows, tokens), self._pair(rows, tokens)
        assert self.step.optimizer
        self._optimizer = self.step.optimizer
        self._constants = self._pair(6 if self._optimizer.config.name == "adam" else 1)
        self._graphs = graphs or Graphs()
        self._helpers = ThreadPoolExecutor(self._parts)
        cuda: Any = torch.cuda
        self._copies = cuda.Stream() if self._on_gpu else None
        self.decode_columns = None
        if isinstance(self.memory, Lanes) and not config.recurrence.layers:
            self._halves = self._turns_of(self.memory.notes.block, config.payload_lanes)
            self.decode_columns = self._decode_halves

    def _turns_of(self, block: int, lanes: int) -> list[list[_Turn]]:
        """What is each lane's of a column's halves, which have a block of streams for each."""
        state = self._inputs_of.state
        turns = []
        for first in range(0, self.B, block):
            own = slice(first, min(first + block, self.B))
            inputs = state._replace(hashes=state.hashes[own], rows=state.rows[:, own])
            history = HistoryState(*(array[own] for array in self.history.state))
            turns.append(_Turn(own.start, own.stop, pack(history), pack(inputs)))
        return [turns[:lanes], turns[lanes:]] if len(turns) > lanes else [turns]

    def _pair(self, *shape: int) -> Pair:
        here = torch.zeros(shape, pin_memory=self._on_gpu)
        return Pair(here, torch.zeros(shape, device=self._model.x.device))

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - started

    def _deal(self, call: Callable[[int, int], object], a: int, b: int) -> None:
        """call(i, j) for all of a..b in parts, by several threads."""
        parts = max(1, min(self._parts, (b - a) // _LEAST))
        borders = [a + (b - a) * k // parts for k in range(parts + 1)]
        futures = [self._helpers.submit(call, i, j) for i, j in pairwise(borders[1:])]
        call(borders[0], borders[1])
        for future in futures:
            future.result()

    def _receive(self, source: Tensor, target: Tensor, stream: Any = None) -> Callable[[], object]:
        """Begin to copy to the host; what waits for it."""
        if not self._on_gpu:
            target.copy_(source)
            return lambda: None
        cuda: Any = torch.cuda
        ready = cuda.Event()
        if stream is not None:
            stream.wait_stream(cuda.current_stream())
            with cuda.stream(stream):
                target.copy_(source, non_blocking=True)
                ready.record()
        else:
            target.copy_(source, non_blocking=True)
            ready.record()
        return lambda: ready.synchronize()

    def _forward(self, first: int, end: int) -> tuple[Callable[[], None], np.ndarray]:
        a, b = first * self.B, end * self.B
        self.cells.predict(first, end)
        self._predict_rows(a, b)
        return lambda: None, self.frequencies[a:b]

    def _predict_rows(self, a: int, b: int) -> None:
        """Frequencies of the chunk's located rows a..b, whole columns."""
        state = self._inputs_of.state
        rows = state.rows.reshape(-1, state.rows.shape[2])
        inputs, logits = self._inputs.here.numpy(), self._logits.here.numpy()
        with self._timed("tables: look up"):
            self._deal(lambda i, j: gather_rows(state.table, rows[i:j], inputs[i:j]), a, b)
        with self._timed("GPU: forward, and its copies"):
            self._launch(a, b)()

        def finish(i: int, j: int) -> None:
            ngrams.add_logits(self.ngrams.state, i, logits[i:j])
            softmax.frequencies(logits[i:j], TOTAL_BITS, self.frequencies[i:j])

        with self._timed("tables: look up"):
            self._deal(finish, a, b)

    def _launch(self, a: int, b: int) -> Callable[[], object]:
        """Begin to compute logits of the chunk's rows a..b, which entered; what waits for them."""
        on_device = self._inputs.send(slice(a, b))
        column, stream = divmod(a, self.B)
        result = self._graphs.run((a, b), lambda: self._model.forward(on_device, column, stream))
        return self._receive(result, self._logits.here[a:b])

    def _decode_halves(self, chunk: np.ndarray, count: int, code: Code) -> float:
        T, B = chunk.shape
        ready: list[Callable[[], object]] = [_nothing] * len(self._halves)
        bits = 0.0
        for column in range(-1, T):
            for k, half in enumerate(self._halves):
                with self._timed("decoder: wait for logits"):
                    ready[k]()
                with self._timed("coder, memory and tables"):
                    bits += self._take_turns(half, chunk, column, count, code)
                if column + 1 < T:
                    a = (column + 1) * B
                    with self._timed("decoder: launch"):
                        ready[k] = self._launch(a + half[0].first, a + half[-1].end)
            if _is_used_up(code):
                break
        for wait in ready:
            wait()
        return bits

    def _take_turns(
        self, half: list[_Turn], chunk: np.ndarray, column: int, count: int, code: Code
    ) -> float:
        """The bits of half a column, which lanes decode side by side: see `turns.take`."""
        assert isinstance(self.memory, Lanes)
        lanes, tables = self.memory.lanes, self.ngrams.packed
        logits, entrance = self._logits.here.numpy(), self._inputs.here.numpy()

        def of_lane(lane: int) -> float:
            if lane >= len(half):
                return 0.0
            own = half[lane]
            code.positions[lane], bits = turns.take(
                chunk, column, own.first, own.end, count, own.history, self.history.spelling,
                own.inputs, tables, logits, self.frequencies, entrance, lanes[lane],
                code.intervals[lane], code.bytes[lane], code.positions[lane],
            )  # fmt: skip
            return float(bits)

        return self.memory.sum_of_lanes(of_lane)

    def _learn(self, chunk: np.ndarray, count: int, *, tables: bool = False) -> bool:
        n, targets = chunk.size, chunk.reshape(-1)
        self.steps += 1
        if tables and self.memory is not None:
            self.threads.beside(self.memory.learn)  # behind the coder
        self._constants.here.copy_(torch.from_numpy(self._optimizer.advance(count)))
        dlogits = self._gradient.here.numpy()

        def gradient(i: int, j: int) -> None:
            known = min(max(count - i, 0), j - i)
            of_rows = self.frequencies[i:j], targets[i:j]
            softmax.gradient(*of_rows, known, TOTAL_BITS, dlogits[i:j])

        with self._timed("tables: learn"):
            self._deal(gradient, 0, n)
        with self._timed("GPU: step, and its copies"):
            constants, on_device = self._constants.send(), self._gradient.send(slice(0, n))
            dx = self._graphs.run(("backward", n), lambda: self._model.backward(on_device))
            wait = self._receive(dx, self._input_gradient.here[:n], self._copies)
            # Nobody waits for the rest: the next forward pass comes behind it.
            self._graphs.run(("update", n), lambda: self._update(constants, len(chunk)))
        learned = self._helpers.submit(
            self._learn_tables if tables else _nothing, dlogits, targets, count
        )
        with self._timed("GPU: step, and its copies"):
            wait()
        with self._timed("tables: learn"):
            rows = self._input_gradient.here.numpy()[:count]
            width = rows.shape[1]
            learn = self._inputs_of.learn
            self._deal(lambda i, j: learn(rows, i, j), 0, width)
            stepped = self.cells.learn(dlogits[:n], count, at_once=not tables)
        with self._timed("encoder: wait for coder and tables"):
            learned.result()
            self.threads.finish()
        return stepped

    def _update(self, constants: Tensor, finished: int) -> Tensor:
        for stack in self._stacks:
            update_of(constants)(stack)
        self._model.advance(finished)
        return constants
