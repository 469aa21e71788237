"""The backward pass on the CPU, compiled: `Transformer.backward` up to the weights' gradients.

Phases, in turns: rows, down to a layer's heads, in pieces of `forward.COLUMNS` columns; and these
heads. What the weights' gradients take, `Linear.dy`, is kept for `update`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.exact import kernels, shares
from prequential.exact.compiled import apart, inline, jit, outer
from prequential.exact.dense import through
from prequential.transformer.forward import COLUMNS
from prequential.transformer.layout import blocks_of, heads_of, linear_of, network


def phases(layers: int) -> int:
    """Phases of `backward`."""
    return 2 * layers + 1


@outer
def backward(counters: Any, packed: Any, dlogits: Any, dx: Any) -> None:
    """dx (n, D) += the gradient behind the convolution at dlogits (n, V).

    Any number of threads may call it; when it returns, dx is complete.
    """
    net = network(packed)
    columns = len(dlogits) // net.streams
    pieces = (columns + COLUMNS - 1) // COLUMNS
    phase = 0
    for layer in range(net.layers, -1, -1):
        piece = shares.claim(counters, phase)
        while piece < pieces:
            rows(net, layer, piece, dlogits, dx)
            piece = shares.next_piece(counters, phase)
        shares.wait(counters, phase, pieces)
        phase += 1
        if layer > 0:
            _heads(counters, phase, net.blocks, layer - 1, columns)
            phase += 1


@apart
def rows(net: Any, layer: Any, piece: Any, dlogits: Any, dx: Any) -> None:
    """A piece of columns from the rows into a layer, or from the logits, to the heads below."""
    column = piece * COLUMNS
    end = min(column + COLUMNS, len(dlogits) // net.streams)
    a, b = column * net.streams, end * net.streams
    if layer == net.layers:
        _norm(dlogits[a:b], a, b, linear_of(net.head, 0), dx)
    else:
        _from_heads(net.blocks, layer, a, b, dx)
    if layer > 0:
        _to_heads(net.blocks, layer - 1, column, end, a, b, dx)


@inline
def _from_heads(packed: Any, layer: Any, a: Any, b: Any, dx: Any) -> None:
    """dx[a:b] += the gradient through a layer's heads."""
    blocks = blocks_of(packed)
    _norm(blocks.gradient.dheads[a:b], a, b, linear_of(blocks.qkv, layer), dx)


@inline
def _to_heads(packed: Any, layer: Any, column: Any, end: Any, a: Any, b: Any, dx: Any) -> None:
    """dx[a:b] += the gradient through a layer's MLP; then that of what its heads put out."""
    blocks = blocks_of(packed)
    up, down = linear_of(blocks.up, layer), linear_of(blocks.down, layer)
    _mlp(dx, a, b, up, blocks.positive[layer], down)
    _split(dx, a, b, linear_of(blocks.out, layer), blocks.gradient, column, end)


@jit
def _split(dx: Any, a: Any, b: Any, out: Any, gradient: Any, column: Any, end: Any) -> None:
    products = np.empty((b - a, dx.shape[1]), np.float32)
    scale = _linear(dx[a:b], a, b, out, products)
    kernels.split_gradient(
        products,
        scale,
        out.xq[a:b],
        out.x_scale[a:b],
        gradient.doq[column:end],
        gradient.do_scale[column:end],
        gradient.dots[column:end],
    )


@jit
def _linear(dy: Any, a: Any, b: Any, linear: Any, dx: Any) -> Any:
    """dx (n, K) integers and their row scales (n,) of rows a..b; keeps dy for the update."""
    for i in range(len(dy)):
        f = linear.x_scale[a + i]
        for j in range(dy.shape[1]):
            linear.dy[a + i, j] = dy[i, j] * f
    return through(dy, linear.scale, linear.weight, dx)


@jit
def _norm(dy: Any, a: Any, b: Any, linear: Any, dx: Any) -> None:
    """dx[a:b] += the gradient through the norm and the linear layer behind it at dy (b - a, M)."""
    products = np.empty((b - a, dx.shape[1]), np.float32)
    row_scale = _linear(dy, a, b, linear, products)
    xq, x_scale, rms = linear.xq[a:b], linear.x_scale[a:b], linear.inverse_rms[a:b]
    kernels.norm_backward(products, row_scale, xq, x_scale, rms, dx[a:b])


@jit
def _mlp(dx: Any, a: Any, b: Any, up: Any, positive: Any, down: Any) -> None:
    products = np.empty((b - a, positive.shape[1]), np.float32)
    scale = _linear(dx[a:b], a, b, down, products)
    kernels.relu_squared_backward(products, scale, positive[a:b], products)
    _norm(products, a, b, up, dx)


@inline
def _heads(counters: Any, phase: Any, packed: Any, layer: Any, columns: Any) -> None:
    """A layer's heads, shared by threads."""
    blocks = blocks_of(packed)
    groups = len(blocks.slopes)
    g = shares.claim(counters, phase)
    while g < groups:
        _head(heads_of(blocks.heads, layer), blocks.gradient, blocks.slope, g, columns)
        g = shares.next_piece(counters, phase)
    shares.wait(counters, phase, groups)


@jit
def _head(heads: Any, gradient: Any, slope: Any, g: Any, columns: Any) -> None:
    """The gradient of one head's queries, keys and values, from that of what it puts out."""
    window = len(heads.key) - len(heads.query)
    keys = slice(0, window + columns)
    n = len(gradient.dheads) // len(gradient.doq) * columns
    kernels.attention_backward(
        gradient.doq,
        gradient.do_scale,
        gradient.dots,
        heads.query[:columns],
        heads.query_scale[:columns],
        heads.key[keys],
        heads.key_scale[keys],
        heads.value[keys],
        heads.value_scale[keys],
        heads.weights,
        slope,
        g,
        g + 1,
        gradient.dheads[:n],
    )
