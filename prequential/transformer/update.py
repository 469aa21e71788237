"""The optimizer's step on the CPU, compiled: `optimizer` on the stacked arrays.

The weights are walked in pieces of some rows (`dense.pieces_of`), by threads that share them or,
where ranks share streams (`training.team`), first for the gradients and then for the step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.exact import kernels, shares
from prequential.exact.compiled import inline, jit, outer
from prequential.exact.dense import piece_of
from prequential.transformer.layout import Linear


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
