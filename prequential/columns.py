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
from torch import Tensor

from prequential import kernels
from prequential.kernels import jit
from prequential.model import Attention, Linear, Transformer
from prequential.numerics import LOG2_E, NORM_EPSILON

_EPSILON = np.float32(NORM_EPSILON)


_Call = tuple[Any, tuple[Any, ...]]  # a compiled loop and its arguments


class Columns:
    """A transformer's buffers, cut into columns, and its weights as int16 for the current chunk."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        linears: list[Linear] = [model.head]
        for block in model.blocks:
            linears += block.linears()
        self._small = {id(x): np.empty(x.weight.value.shape, np.int16) for x in linears}
        self._linears = linears
        self._logits = np.empty((model.B, model.head.weight.value.shape[0]), np.float32)
        # The buffers live as long as the model, so each column's calls are put together only once.
        self._calls: dict[int, list[_Call]] = {}

    def refresh(self) -> None:
        """Take over the weights of the last optimizer step; before a chunk's first column."""
        for linear in self._linears:
            kernels.to_int16(linear.weight.quantised.numpy(), self._small[id(linear)])

    def forward(self, rows: np.ndarray, column: int) -> np.ndarray:
        """Logits (B, V) of one column from its input rows (B, D), valid until the next call."""
        model, B = self.model, self.model.B
        a = column * B
        into = (
            model.x if model.convolution is None else model.convolution.x[model.convolution.past :]
        )
        into.numpy()[a : a + B] = rows
        if column not in self._calls:
            self._calls[column] = self._column(column, a, a + B)
        for function, arguments in self._calls[column]:
            function(*arguments)
        return self._logits

    def _column(self, column: int, a: int, b: int) -> list[_Call]:
        model = self.model
        x = model.x.numpy()[a:b]
        calls: list[_Call] = []
        if model.convolution is not None:
            inputs = model.convolution.x.numpy()[a : model.convolution.past + b]
            taps = model.convolution.weight.value.numpy()
            calls.append((kernels.convolve, (inputs, taps, model.B, x)))
        for block in model.blocks:
            if isinstance(block, Attention):
                calls.append((_attention_column, (x, *self._attention(block, column, a, b))))
            else:
                up = self._norm(block.up, block.norm.inverse_rms, a, b)
                down = self._linear(block.down, a, b)
                calls.append((_mlp_column, (x, *up, block.positive.numpy()[a:b], *down)))
        head = self._norm(model.head, model.norm.inverse_rms, a, b)
        return [*calls, (_head_column, (x, *head, self._logits))]

    def _attention(self, block: Attention, column: int, a: int, b: int) -> tuple[Any, ...]:
        W = block.window
        keys = slice(column, W + column + 1)
        return (
            *self._norm(block.qkv, block.norm.inverse_rms, a, b),
            *self._linear(block.out, a, b),
            block.query.numpy()[column],
            block.query_scale.numpy()[column : column + 1],
            block.key.numpy()[keys],
            block.key_scale.numpy()[keys],
            block.value.numpy()[keys],
            block.value_scale.numpy()[keys],
            block.slopes.numpy(),
            np.float32(LOG2_E / math.sqrt(block.D // block.H)),
            block.weights.numpy()[:, column, keys],
        )

    def _linear(self, linear: Linear, a: int, b: int) -> tuple[np.ndarray, ...]:
        scale = linear.weight.scale.numpy()
        return self._small[id(linear)], scale, linear.xq.numpy()[a:b], linear.x_scale.numpy()[a:b]

    def _norm(self, linear: Linear, rms: Tensor, a: int, b: int) -> tuple[np.ndarray, ...]:
        return (*self._linear(linear, a, b), rms.numpy()[a:b])


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
