"""What the compiled steps on both networks' dense layers have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np

from prequential.exact import kernels, scalars
from prequential.exact.compiled import inline, jit

_NUMBERS = 8192  # of a piece, about


class Piece(NamedTuple):
    """Some rows of a weight: what a thread updates at a time."""

    kind: int  # in the order that `pieces_of` is given
    layer: int
    first: int
    end: int
    at: int  # numbers in the pieces before


class _Kind(Protocol):
    @property
    def value(self) -> np.ndarray: ...


def pieces_of(kinds: Iterable[_Kind]) -> np.ndarray:
    """Every `Piece` of these weights (L, M, K): (pieces, 5) int64."""
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


@jit
def through(dy: Any, scale: Any, weight: Any, dx: Any) -> Any:
    """dx (n, K) integers and their row scales (n,): dy (n, M) behind weight (M, K) * scale (M,)."""
    scaled = np.empty(dy.shape[1], np.float32)
    by_row, row_scale = np.empty(dy.shape, np.float32), np.empty(len(dy), np.float32)
    for i in range(len(dy)):
        for j in range(len(scaled)):
            scaled[j] = dy[i, j] * scale[j]
        row_scale[i] = scalars.quantise_row(scaled, by_row[i])
    kernels.matmul(by_row, weight, dx)
    return row_scale
