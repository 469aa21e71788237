"""What the loops of the recurrent network work on: its arrays, in named structures.

There are L layers of H cells each; B streams and T columns, so N = T * B rows; V tokens. Where
something lasts from chunk to chunk, B rows of the column before come first. Without a type:
float32.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from prequential.config import RecurrenceConfig
from prequential.exact.compiled import inline
from prequential.exact.philox import uniform

_SEED_INDEX = 1 << 33  # away from the transformer's weights, and from embeddings


class Dense(NamedTuple):
    """Layers y = x W^T of one kind, H inputs and M outputs each."""

    value: np.ndarray  # (L, M, H): W
    square: np.ndarray  # (L, M, H), the optimizer's
    weight: np.ndarray  # (L, M, H) int8: what the products take, value ~ weight * scale
    turned: np.ndarray  # (L, H, M) int8: the same for products with what goes in
    scale: np.ndarray  # (L, M)


class Network(NamedTuple):
    """All of it, as the loops take it."""

    hidden: Dense  # H to 3H: from a layer's outputs in the column before to its gates
    below: Dense  # H to 3H, of all layers but the first: from the outputs of the layer below
    head: Dense  # H to V: from a layer's outputs to the logits
    outputs: np.ndarray  # (L, B + N, H) int16: what layers put out, quantised
    output_scale: np.ndarray  # (L, B + N)
    states: np.ndarray  # (L, B + N, H), of the cells
    inputs: np.ndarray  # (N, L * 6H): what gates see of the token, before the norm and behind it
    gates: np.ndarray  # (L, 3N, H), integers: what comes out of the norm
    gate_scale: np.ndarray  # (L, 3N)
    inverse_rms: np.ndarray  # (L, 3N) of that norm
    active: np.ndarray  # (L, N, 3H): the gates
    squashed: np.ndarray  # (L, N, H): tanh of the states
    dinputs: np.ndarray  # (N, L * 6H): the gradient of inputs
    dgates: np.ndarray  # (L, N, 3H): the gradient of what goes into the norm
    doutputs: np.ndarray  # (L, N, H): the gradient of what a layer puts out, from those above
    room: np.ndarray  # (3, B, 3H), of one column and layer
    logits: np.ndarray  # (N, V)
    streams: int  # B


# What a step takes of the columns that were predicted.
KEPT = (
    "outputs", "output_scale", "states", "gates", "gate_scale", "inverse_rms", "active",
    "squashed",
)  # fmt: skip


@inline
def network(packed: Any) -> Any:
    """The `Network` again, inside a loop."""
    hidden, below, head = packed[:3]
    return Network(Dense(*hidden), Dense(*below), Dense(*head), *packed[3:])


@inline
def dense_of(kind: Any, layer: Any) -> Any:
    """One of a kind's layers, whose arrays have an axis less."""
    return Dense(
        kind.value[layer],
        kind.square[layer],
        kind.weight[layer],
        kind.turned[layer],
        kind.scale[layer],
    )


def make(config: RecurrenceConfig, streams: int, columns: int, seed: int, tokens: int) -> Network:
    """A network that has seen nothing: what connects layers is 0, what leads out is random."""
    L, H, V, B, N = config.layers, config.cells, tokens, streams, streams * columns

    def dense(layers: int, outputs: int) -> Dense:
        shape = layers, outputs, H
        weights = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        quantised = np.zeros(shape, np.int8), np.zeros((layers, H, outputs), np.int8)
        return Dense(*weights, *quantised, np.zeros(shape[:2], np.float32))

    def rows(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    head = dense(L, V)
    bound = 1.0 / math.sqrt(max(1, L) * H)
    for layer in range(L):
        head.value[layer] = uniform((V, H), bound, seed, _SEED_INDEX + layer)
    return Network(
        dense(L, 3 * H),
        dense(max(0, L - 1), 3 * H),
        head,
        np.zeros((L, B + N, H), np.int16),
        rows(L, B + N),
        rows(L, B + N, H),
        rows(N, L * 6 * H),
        rows(L, 3 * N, H),
        rows(L, 3 * N),
        rows(L, 3 * N),
        rows(L, N, 3 * H),
        rows(L, N, H),
        rows(N, L * 6 * H),
        rows(L, N, 3 * H),
        rows(L, N, H),
        rows(3, B, 3 * H),
        rows(N if L else 0, V),
        B,
    )
