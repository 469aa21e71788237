"""Streams shared over processes: one archive, whatever their number, on one machine or on many.

Every rank reads the whole input and keeps all that is sparse (tables, memory, coder) in step with
the others; what is dense and costly, the transformer, runs on the rank's own streams. Three things
travel per chunk: the logits of the ranks' rows; the gradients of their input rows, with the largest
magnitudes that scales follow; and the weights' gradients. These are sums of integers, scaled alike
on all ranks, so the total is exact and no order of adding, and no number of ranks, changes a bit.
A single process decodes the archive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from prequential import numerics
from prequential.config import OPERAND_MAX, SYMBOLS, ModelConfig
from prequential.errors import ConfigError
from prequential.model import Convolution, Transformer, Update, store
from prequential.optimizer import Weight


class Team:
    """The ranks that encode together, as torchrun has started them."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def shares(self, count: int) -> list[int]:
        """How many of `count` streams each rank has; the first ones take the rest."""
        each, rest = divmod(count, self.size)
        return [each + (rank < rest) for rank in range(self.size)]

    def total(self, x: Tensor) -> None:
        """x = the sum over the ranks; exact, for integers that x's type can hold."""
        dist.all_reduce(x)

    def gather(self, x: Tensor) -> list[Tensor]:
        """What the ranks have as x, of one shape, in their order."""
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x)
        return parts

    def maximum(self, x: Tensor) -> Tensor:
        """The largest (n,) of what the ranks have, x (ranks, n)."""
        return x.amax(0)


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


class SharedTransformer(Transformer):
    """A `Transformer` of B streams, of which this rank computes its share."""

    def __init__(
        self,
        team: Team,
        config: ModelConfig,
        B: int,
        T: int,
        seed: int,
        device: str,
        tokens: int = SYMBOLS,
    ) -> None:
        if team.size > B:
            raise ConfigError(
                f"--distributed: {team.size} ranks for {B} streams, some would have none:"
                " use fewer ranks or --set streams=N"
            )
        if B * T * OPERAND_MAX * OPERAND_MAX >= 1 << 31:
            raise ConfigError(f"--distributed: {B} streams of {T} overflow 32-bit gradient sums")
        self.team, self.streams, self.shares = team, B, team.shares(B)
        start = sum(self.shares[: team.rank])
        self.own = slice(start, start + self.shares[team.rank])
        super().__init__(config, self.shares[team.rank], T, seed, device, tokens)
        if self.convolution is not None:  # cheap, so all ranks compute it for all streams
            self.convolution = Convolution(self.convolution.weight, B, T)

    def forward(self, rows: Tensor, first: int) -> Tensor:
        """As `Transformer.forward`, for the rows of all streams."""
        logits = self.forward_blocks(self._owned(self.enter(rows, first)), first)
        joined, _ = self._joined(logits, logits.new_empty(0))
        return joined

    def backward(self, dlogits: Tensor, update: Update = store) -> Tensor:
        """As `Transformer.backward`, for the rows of all streams."""
        kept: list[tuple[Weight, Callable[[], None]]] = []
        with numerics.agreed() as magnitudes:
            own = self.backward_blocks(self._owned(dlogits), lambda *weight: kept.append(weight))
        dx, largest = self._joined(own, torch.cat([magnitude for magnitude, _ in magnitudes]))
        for magnitude, quantise in magnitudes:
            magnitude.copy_(largest[: len(magnitude)])
            largest = largest[len(magnitude) :]
            quantise()
        for weight, gradient in kept:
            weight.products = weight.products.double()  # not rounded before the sum is complete
            gradient()
        integers = torch.cat([w.products.view(-1).to(torch.int32) for w, _ in kept])
        self.team.total(integers)
        for weight, _ in kept:
            count = weight.value.numel()
            weight.products = integers[:count].view(weight.value.shape).float()
            integers = integers[count:]
            update(weight, lambda: None)
        return self.leave(dx, update)

    def _owned(self, rows: Tensor) -> Tensor:
        """The rows (columns * own streams, K) of (columns * streams, K) that are this rank's."""
        own = rows.view(-1, self.streams, rows.shape[1])[:, self.own]
        return own.reshape(-1, rows.shape[1])

    def _joined(self, rows: Tensor, magnitudes: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse, all ranks' rows, and their largest magnitudes (n,): one message."""
        own, width = self.shares[self.team.rank], rows.shape[1]
        columns = rows.shape[0] // own
        padded = rows.new_zeros(columns, max(self.shares), width)
        padded[:, :own] = rows.view(columns, own, width)
        parts = self.team.gather(torch.cat([padded.view(-1), magnitudes]))
        all_rows = [
            part[: padded.numel()].view(padded.shape)[:, :share]
            for part, share in zip(parts, self.shares, strict=True)
        ]
        largest = torch.stack([part[padded.numel() :] for part in parts])
        return torch.cat(all_rows, 1).reshape(-1, width), self.team.maximum(largest)
