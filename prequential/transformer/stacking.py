"""A model's arrays, stacked as the compiled step takes them: see `layout`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from prequential.transformer.layout import Blocks, Heads, HeadsGradient, Linear, Network
from prequential.transformer.model import MLP, Attention, Transformer


def stack(model: Transformer) -> Network:
    """Room for a model's step.

    What lasts from chunk to chunk is shared: the model's weights and caches become views.
    """
    x, convolution = model.x.numpy(), model.convolution
    head, blocks = _linears([model.head], len(x)), _blocks(model)
    return Network(
        len(blocks.qkv.weight),
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
