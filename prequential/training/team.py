"""Streams shared over processes: one archive, whatever their number, on one machine or on many.

Every rank reads the whole input and keeps all that is sparse (tables, memory, coder) in step with
the others; what is dense and costly, the transformer, runs on the rank's own streams. One message
travels per chunk, the sum over the ranks of one array of integers: the weights' gradients, and the
frequencies and input gradients of the ranks' rows, which are zero on all ranks but one. Groups of
streams have scales of their own (`tensors.weight_gradient`), so a rank needs nothing of the others
before the sum, and no order of adding, and no number of ranks, changes a bit. A single process
decodes the archive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from prequential.coding.coder import TOTAL_BITS
from prequential.coding.vocabulary import SINGLE_BYTES, Vocabulary
from prequential.config import Config, ModelConfig
from prequential.errors import ConfigError
from prequential.exact import kernels, scalars, softmax
from prequential.exact.compiled import jit
from prequential.exact.scalars import GROUPS, group_of
from prequential.predictors.ngrams import Located
from prequential.training.learner import Learner
from prequential.training.replay import Past
from prequential.transformer import steps
from prequential.transformer.model import Convolution, Transformer, keep
from prequential.transformer.optimizer import update_of


class Team:
    """The ranks that encode together, as torchrun has started them."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def total(self, x: Tensor) -> None:
        """x (n,) int32 = the sum over the ranks."""
        dist.all_reduce(x)


@contextmanager
def joined(device: str) -> Iterator[Team]:
    """Join the ranks that torchrun started: gloo on the CPU, NCCL on GPUs.

    Raises:
        ConfigError: not started by torchrun, or the ranks do not find each other.
    """
    try:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--distributed: the processes did not find each other ({str(error).splitlines()[0]}):"
            " start them with torchrun -m prequential"
        ) from error
    try:
        yield Team()
    finally:
        dist.destroy_process_group()


class SharedLearner(Learner):
    """A `Learner` of B > 1 streams, whose transformer computes this rank's share of them.

    What is predicted for the others is known once all have learned, so coding waits until then.
    """

    def __init__(
        self,
        team: Team,
        config: Config,
        seed: int,
        device: str = "cpu",
        threads: int = 1,
        past: Past | None = None,
        vocabulary: Vocabulary = SINGLE_BYTES,
    ) -> None:
        """As `Learner`, but for the threads: a rank has one."""
        self.team = team
        self.own = share(team, config.streams)
        assert config.streams > 1  # one has no groups, and nothing to share
        self._waiting: list[Callable[[], object]] = []
        super().__init__(config, seed, device, 1, past, vocabulary, self._transformer)
        self._products = [weight for weight in self.model.weights if weight is not self._taps]
        self._parameters = sum(weight.value.numel() for weight in self._products)
        if self._taps is not None:  # cheap, so all ranks compute the convolution of all streams
            self.model.convolution = Convolution(self._taps, config.streams, config.chunk)

    def _transformer(
        self, config: ModelConfig, B: int, T: int, seed: int, device: str, tokens: int
    ) -> Transformer:
        streams = self.own.stop - self.own.start
        model = Transformer(config, streams, T, seed, device, tokens, group_of(B))
        self._taps = None if model.convolution is None else model.convolution.weight
        model.convolution = None
        return model

    def _forward(self, first: int, end: int) -> tuple[Callable[[], None], np.ndarray]:
        rows = torch.from_numpy(self.embeddings.gather(first, end)).to(self.device)
        own = self._owned(self.model.enter(rows, first)).flatten(0, 1)
        frequencies = self.frequencies[first * self.B : end * self.B]
        logits = np.zeros((len(frequencies), self.frequencies.shape[1]), np.float32)
        if self.steps is not None:
            state = self.ngrams.state
            parts = (self._owned(x).reshape(-1, *x.shape[1:]) for x in state.located)
            located = Located(*parts)
            every = np.empty((len(located.last), logits.shape[1]), np.int32)
            self.steps.forward(own.numpy(), first, state._replace(located=located), every)()
            found = every[first * self.model.B : end * self.model.B]
            self.ngrams.add_logits(logits, first)  # for what it finds of the other streams
        else:
            owned = self._owned(logits)
            owned[:] = self.model.forward_blocks(own, first).cpu().numpy().reshape(owned.shape)
            self.ngrams.add_logits(logits, first)
            found = np.empty((len(own), logits.shape[1]), np.int32)
            softmax.frequencies(np.ascontiguousarray(owned).reshape(found.shape), TOTAL_BITS, found)
        frequencies[:] = 0
        owned = self._owned(frequencies)
        owned[:] = found.reshape(owned.shape)
        return lambda: None, frequencies

    def _beside(self, task: Callable[[], object]) -> None:
        self._waiting.append(task)

    def _learn(self, chunk: np.ndarray, count: int, *, tables: bool = False) -> None:
        constants = self.optimizer.advance(count)
        n, targets = chunk.size, chunk.reshape(-1)
        frequencies = self.frequencies[:n]
        dlogits = np.empty((n, self.frequencies.shape[1]), np.float32)
        softmax.gradient(frequencies, targets, count, TOTAL_BITS, dlogits)
        width = self.model.x.shape[1]
        sizes = [frequencies.size, n * width, self._parameters]
        message = torch.zeros(sum(sizes), dtype=torch.int32, device=self.device)
        predicted, inputs, gradients = torch.split(message, sizes)
        predicted.copy_(torch.from_numpy(frequencies).flatten())
        dx = inputs.view(torch.float32).view(n, width)
        own = self._owned(dlogits).reshape(-1, dlogits.shape[1])
        self._owned(dx).copy_(self._backward_blocks(own, gradients).view(len(chunk), -1, width))
        self.team.total(message)
        frequencies[:] = predicted.view(frequencies.shape).cpu().numpy()
        for task in self._waiting:
            task()
        self._waiting.clear()
        if tables:
            softmax.gradient(frequencies, targets, count, TOTAL_BITS, dlogits)
            self.ngrams.learn(dlogits[:count], targets[:count])
        self._update_blocks(gradients, len(chunk), constants)
        dx = self.model.leave(dx, update_of(constants))
        self.embeddings.learn(dx.cpu().numpy()[:count])
        self.model.advance(len(chunk))

    def _backward_blocks(self, dlogits: np.ndarray, gradients: Tensor) -> Tensor:
        """The own rows' gradient (n, D) behind the convolution, at dlogits (n, V).

        The weights' gradients (P,) int32 are filled in.
        """
        if self.steps is not None:
            arguments = self.steps.backward(len(dlogits))
            arguments[2][:] = dlogits
            steps.backward(*arguments)
            layout = len(dlogits), self.model.B, self.model.head.group
            _gradients(self.steps.layers[0], *layout, gradients.numpy())
            return torch.from_numpy(arguments[3])
        for weight, products in zip(self._products, self._split(gradients), strict=True):
            weight.products = products
        return self.model.backward_blocks(torch.from_numpy(dlogits).to(self.device), keep)

    def _update_blocks(self, gradients: Tensor, columns: int, constants: np.ndarray) -> None:
        """One step on all weights but the convolution's, at their gradients (P,) int32."""
        if self.steps is not None:
            unit = scalars.unit_of(columns * self.model.head.group)
            _update(self.steps.layers[0], self.steps.moments, unit, gradients.numpy(), constants)
            return
        step = update_of(constants)
        for weight, total in zip(self._products, self._split(gradients), strict=True):
            weight.products = total.float()
            step(weight)

    def _split(self, gradients: Tensor) -> list[Tensor]:
        """Views of each weight's part, in the weight's shape."""
        values = [weight.value for weight in self._products]
        parts = torch.split(gradients, [value.numel() for value in values])
        return [part.view(value.shape) for part, value in zip(parts, values, strict=True)]

    def _owned(self, rows: Any) -> Any:
        """A view (columns, own streams, ...) of rows (columns * streams, ...)."""
        return rows.reshape(-1, self.B, *rows.shape[1:])[:, self.own]


def share(team: Team, streams: int) -> slice:
    """The rank's streams: whole groups, of which the first ranks take the rest of a division.

    Raises:
        ConfigError: more ranks than groups.
    """
    group = max(1, group_of(streams))
    groups = -(-streams // group)
    if team.size > groups:
        raise ConfigError(
            f"--distributed: {team.size} ranks for {groups} groups of streams, some would have"
            " none: use fewer ranks, or --set streams=N, which makes up to"
            f" {GROUPS} groups"
        )
    each, rest = divmod(groups, team.size)
    first = team.rank * each + min(team.rank, rest)
    end = first + each + (team.rank < rest)
    return slice(first * group, min(streams, end * group))


@jit
def _gradients(linears: Any, tokens: Any, streams: Any, group: Any, gradients: Any) -> None:
    """gradients (P,) int32, which are zero, get the weights' gradients over so many rows."""
    at = 0
    for kind in range(5):
        _, scale, xq, _, dy = linears[kind]
        layers, outputs = scale.shape
        inputs = xq.shape[2]
        rows = max(1, steps.NUMBERS // inputs)
        for layer in range(layers):
            for first in range(0, outputs, rows):
                end = min(first + rows, outputs)
                size = (end - first) * inputs
                total = gradients[at : at + size].reshape(end - first, inputs)
                product_scale = np.empty(end - first, np.float32)
                kernels.weight_gradient(
                    dy[layer, :tokens, first:end], xq[layer], streams, group, total, product_scale
                )
                at += size


@jit
def _update(linears: Any, moments: Any, unit: Any, gradients: Any, c: Any) -> None:
    """One step at gradients (P,) int32, in the order of `_gradients`, times unit."""
    at = 0
    for kind in range(5):
        quantised, scale = linears[kind][:2]
        value, mean, square = moments[kind]
        layers, outputs, inputs = value.shape
        product_scale = np.full(outputs, unit, np.float32)
        for layer in range(layers):
            size = outputs * inputs
            products = gradients[at : at + size].reshape(outputs, inputs).astype(np.float32)
            kernels.descend(
                value[layer], mean[layer], square[layer], products, product_scale,
                quantised[layer], scale[layer], c,
            )  # fmt: skip
            at += size
