"""What the transformer's compiled step works on: a model's arrays, stacked, in named structures.

Weights, caches and buffers of all layers of a kind lie in one array. There are B streams and T
columns, so N = T * B rows; L layers; G = B * heads, each hs wide; a window of W columns; D numbers
in a row of the residual stream, F in the middle of an MLP, V tokens. Without a type: float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from prequential.exact.compiled import inline


class Linear(NamedTuple):
    """Layers y = x W^T of one kind, K inputs and M outputs each.

    Of one layer (`linear_of`), the arrays have an axis less.
    """

    value: np.ndarray  # (L, M, K): W
    mean: np.ndarray  # (L, M, K), the optimizer's
    square: np.ndarray  # (L, M, K), too
    weight: np.ndarray  # (L, M, K) int8: what the products take, value ~ weight * scale
    scale: np.ndarray  # (L, M)
    xq: np.ndarray  # (L, N, K), integers: the rows that entered
    x_scale: np.ndarray  # (L, N)
    inverse_rms: np.ndarray  # (L, N) of the norm before the layer, where there is one
    dy: np.ndarray  # (L, N, M): the gradient of the outputs times x_scale


class Heads(NamedTuple):
    """Attention's operands: the chunk's, and of keys and values the window's before it."""

    query: np.ndarray  # (L, T, G, hs), integers
    query_scale: np.ndarray  # (L, T, G)
    key: np.ndarray  # (L, W + T, G, hs), integers
    key_scale: np.ndarray  # (L, W + T, G)
    value: np.ndarray  # (L, W + T, G, hs), integers
    value_scale: np.ndarray  # (L, W + T, G)
    weights: np.ndarray  # (L, G, T, W + T)


class HeadsGradient(NamedTuple):
    """Between the two halves of attention's backward pass, of one layer at a time."""

    doq: np.ndarray  # (T, G, hs), integers: the gradient of what the heads put out
    do_scale: np.ndarray  # (T, G)
    dots: np.ndarray  # (T, G): its products with what they put out
    dheads: np.ndarray  # (N, 3D): the gradient of queries, keys and values


class Blocks(NamedTuple):
    """The layers: each of attention and an MLP."""

    qkv: Linear  # D to 3D
    out: Linear  # D to D
    up: Linear  # D to F
    down: Linear  # F to D
    heads: Heads
    gradient: HeadsGradient
    slopes: np.ndarray  # (G,) bits per position
    temperature: np.float32  # makes bits of the product of a query and a key
    slope: np.float32  # d(score) / d(query . key)
    positive: np.ndarray  # (L, N, F): the MLPs' middles before they are squared


class Network(NamedTuple):
    """A transformer, as the loops take it."""

    layers: int
    blocks: Blocks  # as it is packed, within a loop: see `blocks_of`
    head: Linear  # D to V, a single layer
    inputs: np.ndarray  # (past + N, D): rows before the convolution; past = taps * B
    taps: np.ndarray  # (taps, D): the convolution; none, and no inputs, where there is none
    x: np.ndarray  # (N, D), the residual stream
    logits: np.ndarray  # (N, V)
    streams: int  # B


@inline
def network(packed: Any) -> Any:
    """The `Network` again, inside a loop."""
    layers, blocks, head = packed[:3]
    return Network(layers, blocks, Linear(*head), *packed[3:])


@inline
def blocks_of(packed: Any) -> Any:
    """The `Blocks` again, by those parts of a loop that take them."""
    qkv, out, up, down, heads, gradient = packed[:6]
    return Blocks(
        Linear(*qkv), Linear(*out), Linear(*up), Linear(*down), Heads(*heads),
        HeadsGradient(*gradient), *packed[6:],
    )  # fmt: skip


@inline
def linear_of(kind: Any, layer: Any) -> Any:
    """One of a kind's layers."""
    return Linear(
        kind.value[layer],
        kind.mean[layer],
        kind.square[layer],
        kind.weight[layer], kind.scale[layer], kind.xq[layer], kind.x_scale[layer],
        kind.inverse_rms[layer], kind.dy[layer],
    )  # fmt: skip


@inline
def heads_of(heads: Any, layer: Any) -> Any:
    """One layer's heads."""
    return Heads(
        heads.query[layer], heads.query_scale[layer], heads.key[layer], heads.key_scale[layer],
        heads.value[layer], heads.value_scale[layer], heads.weights[layer],
    )  # fmt: skip


def kinds(net: Network) -> tuple[Linear, ...]:
    """All its linear layers."""
    return net.head, *net.blocks[:4]
