"""Streams shared over processes: one archive, whatever their number, on one machine or on many.

Every rank reads the whole input and keeps all that is sparse (tables, memory, coder) in step with
the others; what is dense and costly, the transformer, runs on the rank's own streams. One message
travels per chunk, the sum over the ranks of one array of integers: the weights' gradients, and the
frequencies and input gradients of the ranks' rows, which are zero on all ranks but one. Groups of
streams have scales of their own (`numerics.weight_gradient`), so a rank needs nothing of the others
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

from prequential import kernels, numerics
from prequential.coder import TOTAL_BITS
from prequential.config import Config, ModelConfig
from prequential.errors import ConfigError
from prequential.learner import Learner
from prequential.model import Convolution, Transformer, keep
from prequential.optimizer import update_of
from prequential.replay import Past
from prequential.vocabulary import SINGLE_BYTES, Vocabulary


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
    """A `Learner` of B streams, whose transformer computes this rank's share of them.

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
        self._waiting: list[Callable[[], object]] = []
        super().__init__(config, seed, device, 1, past, vocabulary, self._transformer)

    def _transformer(
        self, config: ModelConfig, B: int, T: int, seed: int, device: str, tokens: int
    ) -> Transformer:
        streams = self.own.stop - self.own.start
        model = Transformer(config, streams, T, seed, device, tokens, numerics.group_of(B))
        if model.convolution is not None:  # cheap, so all ranks compute it for all streams
            model.convolution = Convolution(model.convolution.weight, B, T)
        return model

    def _forward(self, first: int, end: int) -> tuple[Callable[[], None], np.ndarray]:
        rows = torch.from_numpy(self.embeddings.gather(first, end)).to(self.device)
        own = self._owned(self.model.enter(rows, first)).flatten(0, 1)
        frequencies = self.frequencies[first * self.B : end * self.B]
        logits = np.zeros(frequencies.shape, np.float32)
        owned = self._owned(logits)
        owned[:] = self.model.forward_blocks(own, first).cpu().numpy().reshape(owned.shape)
        self.ngrams.add_logits(logits, first)
        found = np.empty(own.shape[:1] + logits.shape[1:], np.int32)
        kernels.frequencies(np.ascontiguousarray(owned).reshape(found.shape), TOTAL_BITS, found)
        frequencies[:] = 0
        self._owned(frequencies)[:] = found.reshape(owned.shape)
        return lambda: None, frequencies

    def _beside(self, task: Callable[[], object]) -> None:
        self._waiting.append(task)

    def _learn(self, chunk: np.ndarray, count: int, *, tables: bool = False) -> None:
        constants = self.optimizer.advance(count)
        n, targets = chunk.size, chunk.reshape(-1)
        frequencies = self.frequencies[:n]
        dlogits = np.empty(frequencies.shape, np.float32)
        kernels.gradient(frequencies, targets, count, TOTAL_BITS, dlogits)
        weights = [w for w in self.model.weights if w.name != "convolution"]
        for weight in weights:
            weight.products = torch.empty_like(weight.value, dtype=torch.int32)
        own = self._owned(torch.from_numpy(dlogits).to(self.device)).flatten(0, 1)
        dx_own = self.model.backward_blocks(own, keep)
        dx = dx_own.new_zeros(n, dx_own.shape[1])
        self._owned(dx).copy_(dx_own.view(len(chunk), -1, dx_own.shape[1]))
        parts = [
            torch.from_numpy(frequencies).to(self.device),
            dx.view(torch.int32),
            *(weight.products for weight in weights),
        ]
        message = torch.cat([part.flatten() for part in parts])
        self.team.total(message)
        sums = torch.split(message, [part.numel() for part in parts])
        frequencies[:] = sums[0].view(frequencies.shape).cpu().numpy()
        for task in self._waiting:
            task()
        self._waiting.clear()
        if tables:
            kernels.gradient(frequencies, targets, count, TOTAL_BITS, dlogits)
            self.ngrams.learn(dlogits[:count], targets[:count])
        step = update_of(constants)
        for weight, total in zip(weights, sums[2:], strict=True):
            weight.products = total.view(weight.value.shape).float()
            step(weight)
        dx = self.model.leave(sums[1].view(torch.float32).view(dx.shape), step)
        self.embeddings.learn(dx.cpu().numpy()[:count])
        self.model.advance(len(chunk))

    def _owned(self, rows: Any) -> Any:
        """A view (columns, own streams, K) of rows (columns * streams, K)."""
        return rows.reshape(-1, self.B, rows.shape[1])[:, self.own]


def share(team: Team, streams: int) -> slice:
    """The rank's streams: whole groups, of which the first ranks take the rest of a division.

    Raises:
        ConfigError: more ranks than groups.
    """
    group = max(1, numerics.group_of(streams))
    groups = -(-streams // group)
    if team.size > groups:
        raise ConfigError(
            f"--distributed: {team.size} ranks for {groups} groups of streams, some would have"
            " none: use fewer ranks, or --set streams=N, which makes up to"
            f" {numerics.GROUPS} groups"
        )
    each, rest = divmod(groups, team.size)
    first = team.rank * each + min(team.rank, rest)
    end = first + each + (team.rank < rest)
    return slice(first * group, min(streams, end * group))
