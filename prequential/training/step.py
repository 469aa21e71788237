"""A learner's step, forward and backward, behind one interface: on any device, or compiled.

`PortableStep` runs the transformer as it is written, in PyTorch. `CompiledStep` does the same on
the CPU with the loops of `transformer.forward`, `.backward` and `.update`, bit for bit and on the
same buffers: integers sum to the same total in any order, and everything else is the same operation
in `kernels` as in `tensors`. `team.SharedStep` divides either of them over processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from prequential.coding.coder import TOTAL_BITS
from prequential.config import Config
from prequential.exact import kernels, shares, softmax
from prequential.exact.compiled import pack
from prequential.exact.dense import pieces_of
from prequential.exact.scalars import group_of
from prequential.predictors import ngrams
from prequential.predictors.ngrams import NgramState
from prequential.training import assist as assistance
from prequential.training.sums import Call, Pending, Rows, Step
from prequential.training.threads import Threads
from prequential.transformer import backward, forward, layout, stacking, update
from prequential.transformer.model import Transformer
from prequential.transformer.optimizer import Optimizer, update_of


def new(config: Config, tokens: int, seed: int, device: str, threads: Threads) -> Step:
    """A transformer from the seed and the step on it."""
    B, T = config.streams, config.chunk
    group = group_of(B, config.optimizer.groups)
    model = Transformer(config.model, B, T, seed, device, tokens, group)
    return step_of(model, Optimizer(config.optimizer), threads)


def step_of(
    model: Transformer, optimizer: Optimizer, threads: Threads
) -> CompiledStep | PortableStep:
    """The compiled form on the CPU, unless nothing is compiled; the only place that chooses."""
    if shares.COMPILED and model.x.device.type == "cpu":
        return CompiledStep(model, optimizer, threads)
    return PortableStep(model, optimizer)


class PortableStep:
    """The transformer in PyTorch, on any device."""

    at_once = False

    def __init__(self, model: Transformer, optimizer: Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        rows, tokens = len(model.x), len(model.head.weight.value)
        self.logits = np.zeros((rows, tokens), np.float32)
        self.device = model.x.device

    def forward(
        self, rows: Rows, first: int, end: int, tables: NgramState, frequencies: np.ndarray
    ) -> Call:
        """See `Step`: they are complete at once."""
        assert rows is not None
        on_device, a = torch.from_numpy(rows).to(self.device), first * self.model.B
        logits = self.logits[a : a + len(rows)]
        logits[:] = self.model.forward(on_device, first).cpu().numpy()
        ngrams.add_logits(tables, a, logits)
        softmax.frequencies(logits, TOTAL_BITS, frequencies[a : a + len(rows)])
        return self.settle

    def settle(self) -> None:
        """See `Step`: nothing waits."""

    def decode(self, *_: Any) -> tuple[tuple[int, float], np.ndarray]:
        """See `Step`: not here."""
        raise NotImplementedError

    def learn(self, dlogits: np.ndarray, count: int) -> Rows:
        """See `Step`."""
        constants = self.optimizer.advance(count)
        on_device = torch.from_numpy(dlogits).to(self.device)
        return self.model.backward(on_device, update_of(constants)).cpu().numpy()

    def advance(self, columns: int) -> None:
        """See `Step`."""
        self.model.advance(columns)

    def quantise(self) -> None:
        """See `Step`."""
        for weight in self.model.weights:
            weight.quantise()


class CompiledStep(Pending):
    """Loops on the model's buffers, stacked; threads share their work."""

    at_once = True

    def __init__(self, model: Transformer, optimizer: Optimizer, threads: Threads) -> None:
        super().__init__()
        self.model, self.optimizer, self._threads = model, optimizer, threads
        self.network = net = stacking.stack(model)
        self.logits = net.logits
        self._kinds = layout.kinds(net)
        self.pieces = pieces_of(self._kinds)
        self.packed, self.kinds = pack(net), pack(self._kinds)
        self._heads = pack(net.blocks.heads)
        self._taps = stacking.taps(model)
        self._room = forward.scratch(net, 1)  # of one column, which threads share
        # Rows enter where the convolution reads them, or else the residual stream itself.
        self._entrance = net.inputs[len(net.inputs) - len(net.x) :] if len(net.inputs) else net.x
        self._known: tuple[Any, ...] = ()  # the backward pass of a chunk that was decoded
        self.quantise()

    def quantise(self) -> None:
        """See `Step`. From then on the int8 copies follow by `learn`; the model's own do not."""
        for linear in self._kinds:
            for layer in zip(linear.value, linear.weight, linear.scale, strict=True):
                kernels.quantise_rows(*layer)

    def forward(
        self, rows: Rows, first: int, end: int, tables: NgramState, frequencies: np.ndarray
    ) -> Call:
        """See `Step`. Any number of threads may make the call."""
        B = self.model.B
        self._entrance[first * B : end * B] = rows
        before, packed = self._pending, pack(tables)
        counters = shares.phases(forward.phases(self.network.layers, 0))

        def call() -> None:
            before()
            room = forward.scratch(self.network, forward.COLUMNS)
            forward.forward(counters, 0, first, end, 0, self.packed, room, packed, frequencies)

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
        """See `Step`. Another thread takes its part, and begins the backward pass."""
        assisted = self._threads.together
        pieces = 2 if assisted else 1
        dlogits = np.empty((count * self.model.B, len(self.network.logits[0])), np.float32)
        self._known = known = self.backward_of(dlogits)
        counters = shares.phases(1 + count * forward.phases(self.network.layers, pieces))
        shared = counters, pieces, self.packed, self._room, pack(tables), frequencies
        before = self._pending

        def assist() -> None:
            before()
            assistance.assist(count, *shared, known)
            backward.backward(*known)

        if assisted:
            self._threads.join(assist, 1)
        try:
            self.settle()
            return decode(*shared, self.logits, self._entrance, dlogits), dlogits
        finally:
            # Whatever has happened, an assistant is not to wait for more columns.
            shares.release(counters, 0)

    def backward_of(self, dlogits: np.ndarray) -> tuple[Any, ...]:
        """What `backward.backward` takes: the last, dx (n, D), will be its result."""
        dx = np.zeros((len(dlogits), len(self.network.x[0])), np.float32)
        return shares.phases(backward.phases(self.network.layers)), self.packed, dlogits, dx

    def learn(self, dlogits: np.ndarray, count: int) -> Rows:
        """See `Step`. The step on the weights may wait, for threads to share it."""
        constants = self.optimizer.advance(count)
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
