"""The decoder's forward pass: one column of B tokens through the transformer, fused for the CPU.

A column is too little work for a dozen calls per layer. Here a block is one compiled loop made of
the same `kernels`, with the products in 16-bit integers. Integers sum to the same total in any
order, so the activations it leaves in the model's buffers, and the logits, are those of
`Transformer.forward` bit for bit; `backward` then finds the chunk as if the encoder had run it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prequential import kernels
from prequential.kernels import jit
from prequential.model import Attention, Linear, Transformer
from prequential.numerics import LOG2_E, NORM_EPSILON

_EPSILON = np.float32(NORM_EPSILON)


class Columns:
    """Views of a transformer's buffers, and its weights as int16 for the current chunk."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        linears: list[Linear] = [model.head]
        for block in model.blocks:
            linears += block.linears()
        self._small = {id(x): np.empty(x.weight.value.shape, np.int16) for x in linears}
        self._linears = linears
        self._views: dict[int, np.ndarray] = {}

    def refresh(self) -> None:
        """Take over the weights of the last optimizer step; before a chunk's first column."""
        for linear in self._linears:
            kernels.to_int16(linear.weight.quantised.numpy(), self._small[id(linear)])

    def forward(self, rows: Tensor, column: int) -> Tensor:
        """Logits (B, 256) of one column from its input rows (B, D)."""
        model, B = self.model, self.model.B
        a, b = column * B, (column + 1) * B
        if model.convolution is None:
            model.x[a:b] = rows
        else:
            model.convolution.forward(rows, a, b, model.x)
        x = self._view(model.x)[a:b]
        for block in model.blocks:
            if isinstance(block, Attention):
                self._attention(block, x, a, b)
            else:
                _mlp_column(
                    x,
                    *self._norm_views(block.up, block.norm.inverse_rms, a, b),
                    self._view(block.positive)[a:b],
                    *self._linear_views(block.down, a, b),
                )
        logits = np.empty((B, model.head.weight.value.shape[0]), np.float32)
        _head_column(x, *self._norm_views(model.head, model.norm.inverse_rms, a, b), logits)
        return torch.from_numpy(logits)

    def _attention(self, block: Attention, x: np.ndarray, a: int, b: int) -> None:
        column = a // self.model.B
        W = block.window
        keys = slice(column, W + column + 1)
        _attention_column(
            x,
            *self._norm_views(block.qkv, block.norm.inverse_rms, a, b),
            *self._linear_views(block.out, a, b),
            self._view(block.query)[column],
            self._view(block.query_scale)[column : column + 1],
            self._view(block.key)[keys],
            self._view(block.key_scale)[keys],
            self._view(block.value)[keys],
            self._view(block.value_scale)[keys],
            self._view(block.slopes),
            np.float32(LOG2_E / math.sqrt(block.D // block.H)),
            self._view(block.weights)[:, column, keys],
        )

    def _view(self, tensor: Tensor) -> np.ndarray:
        """The NumPy view of a buffer that lives as long as the model."""
        if id(tensor) not in self._views:
            self._views[id(tensor)] = tensor.numpy()
        return self._views[id(tensor)]

    def _linear_views(self, linear: Linear, a: int, b: int) -> tuple[np.ndarray, ...]:
        view = self._view
        scale = view(linear.weight.scale)
        return self._small[id(linear)], scale, view(linear.xq)[a:b], view(linear.x_scale)[a:b]

    def _norm_views(self, linear: Linear, rms: Tensor, a: int, b: int) -> tuple[np.ndarray, ...]:
        return (*self._linear_views(linear, a, b), self._view(rms)[a:b])


@jit
def _products(xq: Any, weight: Any, out: Any) -> None:
    """out (n, M) = integer rows xq (n, K) times weight (M, K) int16, transposed."""
    terms = weight.shape[1]
    row = np.empty(terms, np.int16)
    for i in range(xq.shape[0]):
        for k in range(terms):
            row[k] = np.int16(xq[i, k])
        for m in range(weight.shape[0]):
            total = np.int32(0)
            for k in range(terms):
                total = np.int32(total + np.int32(np.int32(row[k]) * np.int32(weight[m, k])))
            out[i, m] = np.float32(total)


@jit
def _head_column(
    x: Any, weight: Any, weight_scale: Any, xq: Any, x_scale: Any, inverse_rms: Any, logits: Any
) -> None:
    kernels.norm_quantise(x, _EPSILON, xq, x_scale, inverse_rms)
    _products(xq, weight, logits)
    kernels.scale_outer(logits, x_scale, weight_scale, logits)


@jit
def _mlp_column(
    x: Any,
    up: Any,
    up_scale: Any,
    xq: Any,
    x_scale: Any,
    inverse_rms: Any,
    positive: Any,
    down: Any,
    down_scale: Any,
    hq: Any,
    h_scale: Any,
) -> None:
    """x (B, D) += MLP, leaving what `MLP.backward` needs."""
    kernels.norm_quantise(x, _EPSILON, xq, x_scale, inverse_rms)
    products = np.empty((x.shape[0], up.shape[0]), np.float32)
    _products(xq, up, products)
    kernels.relu_squared(products, x_scale, up_scale, positive, hq, h_scale)
    out = np.empty(x.shape, np.float32)
    _products(hq, down, out)
    kernels.add_scaled_outer(out, h_scale, down_scale, x)


@jit
def _attention_column(
    x: Any,
    qkv: Any,
    qkv_scale: Any,
    xq: Any,
    x_scale: Any,
    inverse_rms: Any,
    out_weight: Any,
    out_weight_scale: Any,
    oq: Any,
    o_scale: Any,
    query: Any,
    query_scale: Any,
    key: Any,
    key_scale: Any,
    value: Any,
    value_scale: Any,
    slopes: Any,
    temperature: Any,
    weights: Any,
) -> None:
    """x (B, D) += attention, leaving what `Attention.backward` needs.

    query (G, hs) is written, as are the last of the keys and values (Nk, G, hs).
    """
    B, D = x.shape
    G, hs = query.shape
    keys = key.shape[0]
    kernels.norm_quantise(x, _EPSILON, xq, x_scale, inverse_rms)
    y = np.empty((B, 3 * D), np.float32)
    _products(xq, qkv, y)
    kernels.quantise_heads(
        y,
        x_scale,
        qkv_scale,
        query.reshape(1, G, hs),
        query_scale,
        key[keys - 1 :],
        key_scale[keys - 1 :],
        value[keys - 1 :],
        value_scale[keys - 1 :],
    )
    scores = np.empty((G, 1, keys), np.float32)
    for k in range(keys):
        for g in range(G):
            total = np.int32(0)
            for j in range(hs):
                total = np.int32(total + np.int32(np.int32(query[g, j]) * np.int32(key[k, g, j])))
            scores[g, 0, k] = np.float32(total)
    share = np.empty((G, 1, keys), np.float32)
    folded = np.empty((G, 1, keys), np.float32)
    folded_scale = np.empty((G, 1), np.float32)
    kernels.attention_weights(
        scores,
        query_scale,
        key_scale,
        value_scale,
        slopes,
        temperature,
        keys - 1,
        keys - 1,
        share,
        folded,
        folded_scale,
    )
    weights[:] = share[:, 0]
    mixed = np.zeros((G, 1, hs), np.float32)
    for k in range(keys):
        for g in range(G):
            f = folded[g, 0, k]
            for j in range(hs):
                mixed[g, 0, j] += f * value[k, g, j]
    kernels.merge_heads(mixed, folded_scale, oq, o_scale)
    o = np.empty((B, D), np.float32)
    _products(oq, out_weight, o)
    kernels.add_scaled_outer(o, o_scale, out_weight_scale, x)
