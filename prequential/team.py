"""Streams shared over processes: one archive, whatever their number, on one machine or on many.

Every rank reads the whole input and keeps all that is sparse (tables, memory, coder) in step with
the others; what is dense and costly, the transformer, runs on the rank's own streams. Three things
travel per chunk: the logits of the ranks' rows, the gradients of their input rows, and the weights'
gradients. These are sums of integers, scaled alike on all ranks, so the total is exact and no
order of adding, and no number of ranks, changes a bit. A single process decodes the archive.
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
from prequential.model import Transformer, Update, store
from prequential.optimizer import Weight


class Team:
    """The ranks that encode together, as torchrun has started them."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def shares(self, count: int) -> list[int]:
        """How many of `count` streams each rank has; the first ones take the rest."""
        each, rest = divmod(count, self.size)
        return [each + (rank < rest) for rank in range(self.size)]

    def maximum(self, x: Tensor) -> None:
        """x = the largest of all ranks', element by element."""
        dist.all_reduce(x, dist.ReduceOp.MAX)

    def total(self, x: Tensor) -> None:
        """x = the sum over the ranks; exact, for integers that x's type can hold."""
        dist.all_reduce(x)

    def join(self, rows: Tensor, shares: list[int]) -> Tensor:
        """Each rank's rows (columns, own streams, K), side by side: (columns, all streams, K)."""
        columns, own, width = rows.shape
        padded = rows.new_zeros(columns, max(shares), width)
        padded[:, :own] = rows
        parts = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(parts, padded)
        return torch.cat([part[:, :n] for part, n in zip(parts, shares, strict=True)], 1)


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

    def forward(self, rows: Tensor, first: int) -> Tensor:
        """As `Transformer.forward`, for the rows of all streams."""
        return self._joined(super().forward(self._owned(rows), first))

    def backward(self, dlogits: Tensor, update: Update = store) -> Tensor:
        """As `Transformer.backward`, for the rows of all streams."""
        kept: list[tuple[Weight, Callable[[], None]]] = []
        for weight in self.weights:
            weight.products = weight.products.double()  # no sum is rounded before it is complete
        with numerics.agreed() as magnitudes:
            dx = super().backward(self._owned(dlogits), lambda *weight: kept.append(weight))
            self._agree(magnitudes)
        for _, gradient in kept:
            gradient()
        # All but the convolution's are plain integers; its columns' powers of two are common, too.
        whole = [w for w, _ in kept if w.name != "convolution"]
        integers = torch.cat([w.products.view(-1).to(torch.int32) for w in whole])
        self.team.total(integers)
        for weight, _ in kept:
            if weight.name == "convolution":
                self.team.total(weight.products)
                weight.products = weight.products.float()
            else:
                count = weight.value.numel()
                weight.products = integers[:count].view(weight.value.shape).float()
                integers = integers[count:]
            update(weight, lambda: None)
        return self._joined(dx)

    def _agree(self, magnitudes: numerics.Magnitudes) -> None:
        """One message for all layers' largest magnitudes; then quantise with those of all ranks."""
        largest = torch.cat([magnitude for magnitude, _ in magnitudes])
        self.team.maximum(largest)
        for magnitude, quantise in magnitudes:
            magnitude.copy_(largest[: len(magnitude)])
            largest = largest[len(magnitude) :]
            quantise()

    def _owned(self, rows: Tensor) -> Tensor:
        """The rows (columns * own streams, K) of (columns * streams, K) that are this rank's."""
        own = rows.view(-1, self.streams, rows.shape[1])[:, self.own]
        return own.reshape(-1, rows.shape[1])

    def _joined(self, rows: Tensor) -> Tensor:
        """The inverse: all ranks' rows."""
        own = rows.view(-1, self.shares[self.team.rank], rows.shape[1])
        return self.team.join(own, self.shares).reshape(-1, rows.shape[1])
