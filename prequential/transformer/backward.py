"""The backward pass on the CPU, compiled: `Transformer.backward` up to the weights' gradients.

Phases, in turns: rows, down to a layer's heads, in pieces of `forward.COLUMNS` columns; and these
heads. What the weights' gradients take, `Linear.dy`, is kept for `update`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.exact import kernels, scalars, shares
from prequential.exact.compiled import apart, jit, outer
from prequential.transformer.forward import COLUMNS
from prequential.transformer.layout import heads_of, linear_of, network


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
    groups = len(net.slopes)
    phase = 0
    for layer in range(len(net.qkv.weight), -1, -1):
        piece = shares.claim(counters, phase)
        while piece < pieces:
            rows(net, layer, piece, dlogits, dx)
            piece = shares.next_piece(counters, phase)
        shares.wait(counters, phase, pieces)
        phase += 1
        if layer > 0:
            g = shares.claim(counters, phase)
            while g < groups:
                _head(heads_of(net.heads, layer - 1), net.gradient, net.slope, g, columns)
                g = shares.next_piece(counters, phase)
            shares.wait(counters, phase, groups)
            phase += 1


@apart
def rows(net: Any, layer: Any, piece: Any, dlogits: Any, dx: Any) -> None:
    """A piece of columns from the rows into a layer, or from the logits, to the heads below."""
    column, dheads = piece * COLUMNS, net.gradient.dheads
    end = min(column + COLUMNS, len(dlogits) // net.streams)
    a, b = column * net.streams, end * net.streams
    if layer == len(net.qkv.weight):
        _norm(dlogits[a:b], a, b, linear_of(net.head, 0), dx)
    else:
        _norm(dheads[a:b], a, b, linear_of(net.qkv, layer), dx)
    if layer > 0:
        below = layer - 1
        up, down = linear_of(net.up, below), linear_of(net.down, below)
        _mlp(dx, a, b, up, net.positive[below], down)
        out = linear_of(net.out, below)
        products = np.empty((b - a, dx.shape[1]), np.float32)
        scale = _linear(dx[a:b], a, b, out, products)
        kernels.split_gradient(
            products,
            scale,
            out.xq[a:b],
            out.x_scale[a:b],
            net.gradient.doq[column:end],
            net.gradient.do_scale[column:end],
            net.gradient.dots[column:end],
        )


@jit
def _linear(dy: Any, a: Any, b: Any, linear: Any, dx: Any) -> Any:
    """dx (n, K) integers and their row scales (n,) of rows a..b; keeps dy for the update."""
    count, width = dy.shape
    scaled = np.empty(width, np.float32)
    by_row, row_scale = np.empty(dy.shape, np.float32), np.empty(count, np.float32)
    for i in range(count):
        f = linear.x_scale[a + i]
        for j in range(width):
            linear.dy[a + i, j] = dy[i, j] * f
            scaled[j] = dy[i, j] * linear.scale[j]
        row_scale[i] = scalars.quantise_row(scaled, by_row[i])
    kernels.matmul(by_row, linear.weight, dx)
    return row_scale


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
