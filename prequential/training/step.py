"""A learner's step, forward and backward, behind one interface: on any device, or compiled.

`PortableStep` runs the transformer as it is written, in PyTorch. `CompiledStep` does the same on
the CPU with the loops of `transformer.forward`, `.backward` and `.update`, bit for bit and on the
same buffers: integers sum to the same total in any order, and everything else is the same operation
in `kernels` as in `tensors`. `team.SharedStep` divides either of them over processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from prequential.coding.coder import TOTAL_BITS
from prequential.config import Config
from prequential.exact import kernels, shares, softmax
from prequential.exact.compiled import pack
from prequential.exact.scalars import group_of
from prequential.predictors import ngrams
from prequential.predictors.ngrams import NgramState
from prequential.training import columns
from prequential.training.threads import Threads
from prequential.transformer import backward, forward, layout, update
from prequential.transformer.model import Transformer
from prequential.transformer.optimizer import update_of

Call = Callable[[], object]


class Step(Protocol):
    """Predicts the columns of a chunk of B streams, and learns it."""

    model: Transformer

    def forward(
        self, rows: np.ndarray, first: int, tables: NgramState, frequencies: np.ndarray
    ) -> Call:
        """What finds frequencies (T * B, V) int32 of columns from `first` on, for rows (n, D).

        They are complete when it has been called, or `settle`. tables is the state of the n-grams,
        which have located the columns.
        """
        ...

    def settle(self) -> None:
        """Complete what other threads may be at, a step and then a forward pass: this one joins."""
        ...

    def learn(self, dlogits: np.ndarray, constants: np.ndarray) -> np.ndarray:
        """One step at dlogits (n, V): the gradient (n, D) of the rows that entered."""
        ...

    def advance(self, columns: int) -> None:
        """Move the caches past a finished chunk of so many columns."""
        ...

    def quantise(self) -> None:
        """Follow weights that were set from outside: the products take quantised ones."""
        ...


def new_step(config: Config, tokens: int, seed: int, device: str, threads: Threads) -> Step:
    """A transformer from the seed and the step on it; the only place where its form is chosen."""
    B, T = config.streams, config.chunk
    group = group_of(B, config.optimizer.groups)
    return step_of(Transformer(config.model, B, T, seed, device, tokens, group), threads)


def step_of(model: Transformer, threads: Threads) -> CompiledStep | PortableStep:
    """The compiled form on the CPU, unless nothing is compiled."""
    compiled = shares.COMPILED and model.x.device.type == "cpu"
    return CompiledStep(model, threads) if compiled else PortableStep(model)


class PortableStep:
    """The transformer in PyTorch, on any device."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.device = model.x.device

    def forward(
        self, rows: np.ndarray, first: int, tables: NgramState, frequencies: np.ndarray
    ) -> Call:
        """See `Step`: they are complete at once."""
        on_device, a = torch.from_numpy(rows).to(self.device), first * self.model.B
        logits = self.model.forward(on_device, first).cpu().numpy()
        ngrams.add_logits(tables, a, logits)
        softmax.frequencies(logits, TOTAL_BITS, frequencies[a : a + len(rows)])
        return self.settle

    def settle(self) -> None:
        """See `Step`: nothing waits."""

    def learn(self, dlogits: np.ndarray, constants: np.ndarray) -> np.ndarray:
        """See `Step`."""
        on_device = torch.from_numpy(dlogits).to(self.device)
        return self.model.backward(on_device, update_of(constants)).cpu().numpy()

    def advance(self, columns: int) -> None:
        """See `Step`."""
        self.model.advance(columns)

    def quantise(self) -> None:
        """See `Step`."""
        for weight in self.model.weights:
            weight.quantise()


class CompiledStep:
    """Loops on the model's buffers, stacked; threads share their work."""

    def __init__(self, model: Transformer, threads: Threads) -> None:
        self.model, self._threads = model, threads
        self.network = net = layout.stack(model)
        self._kinds = layout.kinds(net)
        self.pieces = update.pieces_of(self._kinds)
        self.packed, self.kinds = pack(net), pack(self._kinds)
        self._heads = None if net.blocks is None else pack(net.blocks.heads)
        self._taps = layout.taps(model)
        self._room = forward.scratch(net, 1)  # of one column, which threads share
        # Rows enter where the convolution reads them, or else the residual stream itself.
        self._entrance = net.inputs[len(net.inputs) - len(net.x) :] if len(net.inputs) else net.x
        self._pending: Call = _nothing  # what `settle` completes
        self._known: tuple[Any, ...] = ()  # the backward pass of a chunk that was decoded
        self.quantise()

    def quantise(self) -> None:
        """See `Step`. From then on the int8 copies follow by `learn`; the model's own do not."""
        for linear in self._kinds:
            for layer in zip(linear.value, linear.weight, linear.scale, strict=True):
                kernels.quantise_rows(*layer)

    def forward(
        self, rows: np.ndarray, first: int, tables: NgramState, frequencies: np.ndarray
    ) -> Call:
        """See `Step`. Any number of threads may make the call."""
        B = self.model.B
        a, b = first * B, first * B + len(rows)
        self._entrance[a:b] = rows
        before, end, packed = self._pending, b // B, pack(tables)
        counters = shares.phases(forward.phases(self.network.layers, 0))

        def call() -> None:
            before()
            room = forward.scratch(self.network, forward.COLUMNS)
            forward.forward(counters, 0, first, end, 0, self.packed, room, packed, frequencies)

        self._pending = call
        self._threads.join(call)
        return call

    def settle(self) -> None:
        """See `Step`."""
        self._pending()
        self._pending = _nothing

    def decode(
        self,
        count: int,
        tables: NgramState,
        frequencies: np.ndarray,
        decode: Callable[..., tuple[int, float]],
    ) -> tuple[tuple[int, float], np.ndarray]:
        """Decode so many columns: the result of `decode`, and dlogits (n, V) for `learn`.

        `decode` is `columns.decode`, but for what it is called with here, and fills in dlogits.
        Another thread takes its part, and begins the backward pass, where there are layers: without
        them it would only wait.
        """
        assisted = self._threads.together and self.network.layers > 0
        pieces = 2 if assisted else 1
        dlogits = np.empty((count * self.model.B, len(self.network.logits[0])), np.float32)
        self._known = known = self.backward_of(dlogits)
        counters = shares.phases(1 + count * forward.phases(self.network.layers, pieces))
        shared = counters, pieces, self.packed, self._room, pack(tables), frequencies
        before = self._pending

        def assist() -> None:
            before()
            columns.assist(count, *shared, known)
            backward.backward(*known)

        if assisted:
            self._threads.join(assist, 1)
        try:
            self.settle()
            return decode(*shared, self._entrance, dlogits), dlogits
        finally:
            # Whatever has happened, an assistant is not to wait for more columns.
            shares.release(counters, 0)

    def backward_of(self, dlogits: np.ndarray) -> tuple[Any, ...]:
        """What `backward.backward` takes: the last, dx (n, D), will be its result."""
        dx = np.zeros((len(dlogits), len(self.network.x[0])), np.float32)
        return shares.phases(backward.phases(self.network.layers)), self.packed, dlogits, dx

    def learn(self, dlogits: np.ndarray, constants: np.ndarray) -> np.ndarray:
        """See `Step`. The step on the weights may wait, for threads to share it."""
        known, self._known = self._known, ()
        known = known or self.backward_of(dlogits)
        arguments = (
            shares.phases(1), self.pieces, self.kinds, len(dlogits), self.model.B,
            self.model.head.group, constants,
        )  # fmt: skip

        def step() -> None:
            update.update(*arguments)

        self._threads.join(lambda: (backward.backward(*known), update.update(*arguments)))
        backward.backward(*known)
        self._pending = step
        if not self._threads.together:
            self.settle()
        *_, dx = known
        return self._leave(dx, constants)

    def _leave(self, dy: np.ndarray, constants: np.ndarray) -> np.ndarray:
        """The gradient (n, D) before the convolution, which takes its step, at dy (n, D) behind."""
        if self.model.convolution is None:
            return dy
        dx, net, taps = np.empty_like(dy), self.network, self._taps
        x = net.inputs[: len(net.taps) * net.streams + len(dy)]
        kernels.convolve_backward(dy, x, net.taps, net.streams, dx, taps[3])
        kernels.descend(*taps, constants)
        return dx

    def advance(self, columns: int) -> None:
        """See `Step`."""
        net = self.network
        past = len(net.taps) * net.streams
        forward.advance(self._heads, net.inputs, past, net.streams, columns)


def _nothing() -> None:
    pass
