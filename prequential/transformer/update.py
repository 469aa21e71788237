"""The optimizer's step on the CPU, compiled: `optimizer` on the stacked arrays.

The weights are walked in pieces of some rows (`pieces_of`), by threads that share them or, where
ranks share streams (`training.team`), first for the gradients and then for the step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np

from prequential.exact import kernels, shares
from prequential.exact.compiled import inline, jit, outer
from prequential.transformer.layout import Linear

_NUMBERS = 4096  # of a piece, about


class Piece(NamedTuple):
    """Some rows of a weight."""

    kind: int  # in the order that `kind_of` is given
    layer: int
    first: int
    end: int
    at: int  # numbers in the pieces before


class _Kind(Protocol):
    @property
    def value(self) -> np.ndarray: ...


def pieces_of(kinds: Iterable[_Kind]) -> np.ndarray:
    """Every `Piece` of all weights but the convolution's: (pieces, 5) int64."""
    found, at = [], 0
    for kind, linear in enumerate(kinds):
        layers, outputs, inputs = linear.value.shape
        rows = max(1, _NUMBERS // max(1, inputs))
        for layer in range(layers):
            for first in range(0, outputs, rows):
                end = min(first + rows, outputs)
                found.append(Piece(kind, layer, first, end, at))
                at += (end - first) * inputs
    return np.array(found)


@inline
def piece_of(pieces: Any, i: Any) -> Any:
    """The i-th of them."""
    return Piece(pieces[i, 0], pieces[i, 1], pieces[i, 2], pieces[i, 3], pieces[i, 4])


@inline
def kind_of(packed: Any, number: Any) -> Any:
    """Layers of one kind of all, which are of one type, so that a loop's variable may choose."""
    return Linear(*packed[number])


@inline
def gradient(
    linear: Any, piece: Any, tokens: Any, streams: Any, group: Any, products: Any, scale: Any
) -> None:
    """The gradient of a piece's rows, over so many tokens: `kernels.weight_gradient`."""
    dy = linear.dy[piece.layer, :tokens, piece.first : piece.end]
    kernels.weight_gradient(dy, linear.xq[piece.layer], streams, group, products, scale)


@inline
def descend(linear: Any, piece: Any, products: Any, scale: Any, c: Any) -> None:
    """One step on a piece's rows, at the gradient products * scale[:, None]."""
    layer, rows = piece.layer, slice(piece.first, piece.end)
    kernels.descend(
        linear.value[layer, rows],
        linear.mean[layer, rows],
        linear.square[layer, rows],
        products,
        scale,
        linear.weight[layer, rows],
        linear.scale[layer, rows],
        c,
    )


@jit
def _step(linear: Any, piece: Any, tokens: Any, streams: Any, group: Any, c: Any) -> None:
    rows = piece.end - piece.first
    products = np.empty((rows, linear.xq.shape[2]), np.float32)
    scale = np.empty(rows, np.float32)
    gradient(linear, piece, tokens, streams, group, products, scale)
    descend(linear, piece, products, scale, c)


@outer
def update(
    counters: Any, pieces: Any, packed: Any, tokens: Any, streams: Any, group: Any, c: Any
) -> None:
    """One step on all weights but the convolution's, after so many rows.

    Any number of threads may call it; when it returns, the step is done.
    """
    i = shares.claim(counters, 0)
    while i < len(pieces):
        piece = piece_of(pieces, i)
        _step(kind_of(packed, piece.kind), piece, tokens, streams, group, c)
        i = shares.next_piece(counters, 0)
    shares.wait(counters, 0, len(pieces))
