"""What the transformer's compiled step works on: a model's arrays, stacked, in named structures.

Weights, caches and buffers of all layers of a kind lie in one array. There are B streams and T
columns, so N = T * B rows; L layers; G = B * heads, each hs wide; a window of W columns; D numbers
in a row of the residual stream, F in the middle of an MLP, V tokens. Without a type: float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from prequential.exact.compiled import inline
from prequential.transformer.model import MLP, Attention, Transformer


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
    blocks: Blocks | None  # as it is packed, within a loop; None of no layers, see `blocks_of`
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
    """The `Blocks` again. What takes them asks first, as its argument, whether there are any.

    Where there are none, it is then compiled without all that blocks need.
    """
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


def stack(model: Transformer) -> Network:
    """Room for a model's step.

    What lasts from chunk to chunk is shared: the model's weights and caches become views.
    """
    x, convolution = model.x.numpy(), model.convolution
    head = _linears([model.head], len(x))
    blocks = _blocks(model) if model.blocks else None
    return Network(
        len(blocks.qkv.weight) if blocks else 0,
        blocks,
        head,
        convolution.x.numpy() if convolution else _zeros((0, x.shape[1])),
        convolution.weight.value.numpy() if convolution else _zeros((0, x.shape[1])),
        x,
        _zeros((len(x), head.dy.shape[2])),
        model.B,
    )


def _blocks(model: Transformer) -> Blocks:
    attentions = [block for block in model.blocks if isinstance(block, Attention)]
    mlps = [block for block in model.blocks if isinstance(block, MLP)]
    N, D = model.x.shape
    qkv = _linears([block.qkv for block in attentions], N)
    out = _linears([block.out for block in attentions], N)
    up = _linears([block.up for block in mlps], N)
    down = _linears([block.down for block in mlps], N)
    key, key_scale, value, value_scale = (_stacked(attentions, n) for n in Heads._fields[2:6])
    L, keys, G, hs = key.shape
    T = N // model.B
    heads = Heads(
        _zeros((L, T, G, hs)),
        _zeros((L, T, G)),
        key,
        key_scale,
        value,
        value_scale,
        _zeros((L, G, T, keys)),
    )
    first = attentions[0]
    return Blocks(
        qkv,
        out,
        up,
        down,
        heads,
        HeadsGradient(*map(_zeros, ((T, G, hs), (T, G), (T, G), (N, 3 * D)))),
        first.slopes.numpy(),
        first.temperature,
        first.slope,
        _zeros(up.dy.shape),
    )


def _linears(linears: Sequence[Any], N: int) -> Linear:
    """Layers of one kind, of N rows each."""
    weights = [linear.weight for linear in linears]
    value, mean, square = (_stacked(weights, name) for name in Linear._fields[:3])
    L, M, K = value.shape
    quantised, scale = np.zeros(value.shape, np.int8), _zeros((L, M))
    rows = _zeros((L, N, K)), _zeros((L, N)), _zeros((L, N)), _zeros((L, N, M))
    return Linear(value, mean, square, quantised, scale, *rows)


def kinds(net: Network) -> tuple[Linear, ...]:
    """All its linear layers."""
    return (net.head, *(net.blocks[:4] if net.blocks else ()))


def taps(model: Transformer) -> tuple[np.ndarray, ...]:
    """Of the convolution, if there is one: what `kernels.descend` takes, constants apart."""
    if model.convolution is None:
        return ()
    w = model.convolution.weight
    parts = w.value, w.mean, w.square, w.products, w.product_scale, w.quantised, w.scale
    return tuple(part.numpy() for part in parts)


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, np.float32)


def _stacked(owners: Sequence[Any], name: str) -> np.ndarray:
    """The owners' tensors of this name in one array, of which they become views."""
    parts = [getattr(owner, name) for owner in owners]
    whole = _zeros((len(parts), *parts[0].shape))
    for i, (owner, part) in enumerate(zip(owners, parts, strict=True)):
        whole[i] = part.numpy()
        setattr(owner, name, torch.from_numpy(whole[i]))
    return whole
