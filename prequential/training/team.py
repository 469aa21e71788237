"""Streams shared over processes: one archive, whatever their number, on one machine or on many.

Every rank reads the whole input and keeps tables, recurrence, memory and coder in step with the
others; the transformer, which is dense and costly, runs on the rank's own streams. One message
travels per chunk, the sum over the ranks of one array of integers: the weights' gradients, and the
frequencies and input gradients of the ranks' rows, which are zero on all ranks but one. Groups of
streams have scales of their own (`tensors.weight_gradient`), so a rank needs nothing of the others
before the sum, and no order of adding, and no number of ranks, changes a bit. A single process
decodes the archive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from prequential.coding.coder import TOTAL_BITS
from prequential.coding.vocabulary import SINGLE_BYTES, Vocabulary
from prequential.config import Config
from prequential.errors import ConfigError
from prequential.exact import softmax
from prequential.exact.compiled import jit, outer
from prequential.exact.dense import piece_of
from prequential.exact.scalars import GROUPS, group_of, unit_of
from prequential.predictors import ngrams
from prequential.predictors.ngrams import Located, NgramState
from prequential.training.learner import Learner
from prequential.training.replay import Past
from prequential.training.step import CompiledStep, step_of
from prequential.training.sums import Rows
from prequential.training.threads import Task, Threads
from prequential.transformer import backward, update
from prequential.transformer.model import Convolution, Transformer, keep
from prequential.transformer.optimizer import Optimizer, update_of


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
        super().__init__(config, seed, device, 1, past, vocabulary, partial(SharedStep, team))
        self.threads = _Later()

    def _learn_cells(
        self, dlogits: np.ndarray, targets: np.ndarray, count: int, *, at_once: bool
    ) -> bool:
        # The step has completed the frequencies; the tables learn from these gradients, too.
        softmax.gradient(self.frequencies, targets, count, TOTAL_BITS, dlogits)
        return super()._learn_cells(dlogits, targets, count, at_once=at_once)


class _Later(Threads):
    """What others would do beside is done at last."""

    def __init__(self) -> None:
        super().__init__(1)
        self._later: list[Task] = []

    def beside(self, task: Task) -> None:
        self._later.append(task)

    def finish(self) -> None:
        for task in self._later:
            task()
        self._later.clear()


class SharedStep:
    """A `Step` on a rank's streams; `learn` completes the frequencies of the others', too."""

    at_once = False

    def __init__(
        self, team: Team, config: Config, tokens: int, seed: int, device: str, threads: Threads
    ) -> None:
        B, T = config.streams, config.chunk
        groups = config.optimizer.groups
        self.team, self.streams, self.own = team, B, share(team, B, groups)
        assert B > 1  # one has no groups, and nothing to share
        own = self.own.stop - self.own.start
        model = Transformer(config.model, own, T, seed, device, tokens, group_of(B, groups))
        # The convolution is cheap, so all ranks compute that of all streams, and before the rest.
        blocks, convolution = copy(model), model.convolution
        blocks.convolution = None
        self.optimizer = Optimizer(config.optimizer)
        self.inner, self.model = step_of(blocks, self.optimizer, threads), model
        if convolution is not None:
            model.convolution = Convolution(convolution.weight, B, T)
        self._products = [
            w for w in model.weights if not convolution or w is not convolution.weight
        ]
        self._parameters = sum(weight.value.numel() for weight in self._products)
        self._frequencies = np.zeros((0, tokens), np.int32)
        self.logits = self.inner.logits

    def settle(self) -> None:
        """See `Step`: nothing waits."""

    def quantise(self) -> None:
        """See `Step`."""
        self.inner.quantise()

    def advance(self, columns: int) -> None:
        """See `Step`."""
        self.model.advance(columns)

    def forward(
        self, rows: Rows, first: int, end: int, tables: NgramState, frequencies: np.ndarray
    ) -> Callable[[], object]:
        """See `Step`; but those of other ranks' streams are 0."""
        assert rows is not None
        a, b = first * self.streams, end * self.streams
        entered = self.model.enter(torch.from_numpy(rows).to(self.model.x.device), first)
        own = self._owned(entered).flatten(0, 1).cpu().numpy()
        located = Located(*(self._owned(x).reshape(-1, *x.shape[1:]) for x in tables.located))
        every = np.empty((len(located.last), frequencies.shape[1]), np.int32)
        others = self._owned(tables.others).reshape(-1, tables.others.shape[1])
        tables_of_own = tables._replace(located=located, others=others)
        self.inner.forward(own, first, end, tables_of_own, every)()
        # For what the tables find of the other streams.
        ngrams.add_logits(tables, a, np.zeros((len(rows), every.shape[1]), np.float32))
        self._frequencies = frequencies[a:b]
        self._frequencies[:] = 0
        owned, a = self._owned(self._frequencies), first * self.model.B
        owned[:] = every[a : a + len(own)].reshape(owned.shape)
        return self.settle

    def decode(self, *_: Any) -> tuple[tuple[int, float], np.ndarray]:
        """See `Step`: a single process decodes."""
        raise NotImplementedError

    def learn(self, dlogits: np.ndarray, count: int) -> Rows:
        """See `Step`: one message travels."""
        constants = self.optimizer.advance(count)
        frequencies, n, width = self._frequencies, len(dlogits), self.model.x.shape[1]
        columns, device = n // self.streams, self.model.x.device
        sizes = [frequencies.size, n * width, self._parameters]
        message = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
        predicted, inputs, gradients = torch.split(message, sizes)
        predicted.copy_(torch.from_numpy(frequencies).flatten())
        dx = inputs.view(torch.float32).view(n, width)
        own = self._owned(dlogits).reshape(-1, dlogits.shape[1])
        self._owned(dx).copy_(self._backward_blocks(own, gradients).view(columns, -1, width))
        self.team.total(message)
        frequencies[:] = predicted.view(frequencies.shape).cpu().numpy()
        self._update_blocks(gradients, columns, constants)
        return self.model.leave(dx, update_of(constants)).cpu().numpy()

    def _backward_blocks(self, dlogits: np.ndarray, gradients: Tensor) -> Tensor:
        """The own rows' gradient (n, D) behind the convolution, at dlogits (n, V).

        The weights' gradients (P,) int32 are filled in.
        """
        inner, B, group = self.inner, self.model.B, self.model.head.group
        if isinstance(inner, CompiledStep):
            known = inner.backward_of(dlogits)
            backward.backward(*known)
            total = gradients.numpy()
            _gradients(inner.pieces, inner.kinds, len(dlogits), B, group, total)
            *_, dx = known
            return torch.from_numpy(dx)
        for weight, products in zip(self._products, self._split(gradients), strict=True):
            weight.products = products
        return self.model.backward_blocks(torch.from_numpy(dlogits).to(inner.device), keep)

    def _update_blocks(self, gradients: Tensor, columns: int, constants: np.ndarray) -> None:
        """One step on all weights but the convolution's, at their gradients (P,) int32."""
        inner = self.inner
        if isinstance(inner, CompiledStep):
            unit, total = unit_of(columns * self.model.head.group), gradients.numpy()
            _descend(inner.pieces, inner.kinds, unit, total, constants)
            return
        step = update_of(constants)
        for weight, part in zip(self._products, self._split(gradients), strict=True):
            weight.products = part.float()
            step(weight)

    def _split(self, gradients: Tensor) -> list[Tensor]:
        """Views of each weight's part, in the weight's shape."""
        values = [weight.value for weight in self._products]
        parts = torch.split(gradients, [value.numel() for value in values])
        return [part.view(value.shape) for part, value in zip(parts, values, strict=True)]

    def _owned(self, rows: Any) -> Any:
        """A view (columns, own streams, ...) of rows (columns * streams, ...)."""
        return rows.reshape(-1, self.streams, *rows.shape[1:])[:, self.own]


def share(team: Team, streams: int, groups: int = GROUPS) -> slice:
    """The rank's streams: whole groups, of which the first ranks take the rest of a division.

    Raises:
        ConfigError: more ranks than groups.
    """
    group = max(1, group_of(streams, groups))
    most, groups = groups, -(-streams // group)
    if team.size > groups:
        raise ConfigError(
            f"--distributed: {team.size} ranks for {groups} groups of streams, some would have"
            " none: use fewer ranks, or --set streams=N, which makes up to"
            f" {most} groups"
        )
    each, rest = divmod(groups, team.size)
    first = team.rank * each + min(team.rank, rest)
    end = first + each + (team.rank < rest)
    return slice(first * group, min(streams, end * group))


@outer
def _gradients(
    pieces: Any, packed: Any, tokens: Any, streams: Any, group: Any, gradients: Any
) -> None:
    """gradients (P,) int32 = the weights' gradients over so many rows, piece by piece."""
    for i in range(len(pieces)):
        piece = piece_of(pieces, i)
        _gradient(update.kind_of(packed, piece.kind), piece, tokens, streams, group, gradients)


@jit
def _gradient(
    linear: Any, piece: Any, tokens: Any, streams: Any, group: Any, gradients: Any
) -> None:
    products = _part(gradients, piece, linear)
    scale = np.empty(len(products), np.float32)
    update.gradient(linear, piece, tokens, streams, group, products, scale)


@outer
def _descend(pieces: Any, packed: Any, unit: Any, gradients: Any, c: Any) -> None:
    """One step at gradients (P,) int32 times unit."""
    for i in range(len(pieces)):
        piece = piece_of(pieces, i)
        _step(update.kind_of(packed, piece.kind), piece, unit, gradients, c)


@jit
def _step(linear: Any, piece: Any, unit: Any, gradients: Any, c: Any) -> None:
    products = _part(gradients, piece, linear).astype(np.float32)
    scale = np.full(len(products), unit, np.float32)
    update.descend(linear, piece, products, scale, c)


@jit
def _part(gradients: Any, piece: Any, linear: Any) -> Any:
    """A piece's gradient (rows, K)."""
    rows, width = piece.end - piece.first, linear.weight.shape[2]
    return gradients[piece.at : piece.at + rows * width].reshape(rows, width)
