"""Forward, backward and the step of the recurrent network, compiled.

Columns follow one another, so the products of a column are of one row a stream: integers of int16.
What does not wait for another column, the gradients at the head and between layers and those of the
weights, is of all rows of a chunk at once. Truncated backpropagation: what was before the chunk is
a constant. Source: Hochreiter & Schmidhuber 1997; Ba et al. 2016 (norms within the recurrence).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.exact import kernels, multiply, shares
from prequential.exact.compiled import inline, jit, outer
from prequential.exact.dense import piece_of, through
from prequential.recurrence.structure import dense_of, network


@outer
def forward(packed: Any, first: Any, end: Any) -> None:
    """Columns first..end: from inputs to logits, which follow from all columns before."""
    net = network(packed)
    layers, streams = len(net.outputs), net.streams
    for t in range(first, end):
        for layer in range(layers):
            _column(net, layer, t * streams)
    for layer in range(layers):
        a, b = first * streams, end * streams
        head, rows = dense_of(net.head, layer), net.outputs[layer, a + streams : b + streams]
        _add_head(rows, net.output_scale[layer, a + streams :], head, net.logits[a:b], layer == 0)


@inline
def _column(net: Any, layer: Any, a: Any) -> None:
    """One layer's outputs for the rows of a column, from a on."""
    streams, H = net.streams, net.outputs.shape[2]
    b, width = a + streams, 3 * H
    of_token, seen, products = layer * 2 * width, net.room[0], net.room[1]
    hidden = dense_of(net.hidden, layer)
    multiply.by_turned(net.outputs[layer, a:b], hidden.turned, products)
    kernels.scale_outer(products, net.output_scale[layer, a:b], hidden.scale, seen)
    if layer > 0:
        below, rows = dense_of(net.below, layer - 1), net.outputs[layer - 1, b : b + streams]
        multiply.by_turned(rows, below.turned, products)
        scale = net.output_scale[layer - 1, b : b + streams]
        kernels.add_scaled_outer(products, scale, below.scale, 0, seen)
    for i in range(streams):
        for j in range(width):
            seen[i, j] += net.inputs[a + i, of_token + j]
    gates, gate_scale = net.gates[layer, 3 * a : 3 * b], net.gate_scale[layer, 3 * a : 3 * b]
    inverse_rms = net.inverse_rms[layer, 3 * a : 3 * b]
    kernels.norm_quantise(seen.reshape(3 * streams, H), gates, gate_scale, inverse_rms)
    out = net.room[2].reshape(3 * streams, H)[:streams]
    for i in range(streams):
        for j in range(width):
            seen[i, j] = net.inputs[a + i, of_token + width + j]
    kernels.cell(
        gates,
        gate_scale,
        seen,
        net.states[layer, a:b],
        net.active[layer, a:b],
        net.states[layer, b : b + streams],
        net.squashed[layer, a:b],
        out,
    )
    rows = net.outputs[layer, b : b + streams]
    kernels.quantise_rows(out, rows, net.output_scale[layer, b : b + streams])


@jit
def _add_head(rows: Any, scale: Any, head: Any, logits: Any, first: Any) -> None:
    """logits (n, V) = those of the first layer's rows (n, H) * scale (n,), or += another's."""
    products = np.empty(logits.shape, np.float32)
    multiply.by_turned(rows, head.turned, products)
    if first:
        kernels.scale_outer(products, scale, head.scale, logits)
    else:
        kernels.add_scaled_outer(products, scale, head.scale, 0, logits)


@outer
def backward(packed: Any, dlogits: Any) -> None:
    """The gradients `dinputs` and `dgates`, at dlogits (n, V)."""
    net = network(packed)
    n, layers, width = len(dlogits), len(net.outputs), net.active.shape[2]
    for layer in range(layers):
        head = dense_of(net.head, layer)
        _through(dlogits, head.scale, head.weight, net.doutputs[layer, :n])
    for back in range(layers):
        layer = layers - 1 - back
        hidden = dense_of(net.hidden, layer)
        _through_time(
            hidden.scale,
            hidden.weight,
            net.streams,
            net.active[layer],
            net.states[layer],
            net.squashed[layer],
            net.gates[layer],
            net.gate_scale[layer],
            net.inverse_rms[layer],
            net.doutputs[layer, :n],
            net.dgates[layer, :n],
            net.dinputs[:n, 2 * layer * width : 2 * (layer + 1) * width],
        )
        if layer > 0:
            below = dense_of(net.below, layer - 1)
            _add_through(net.dgates[layer, :n], below.scale, below.weight, net.doutputs[layer - 1])


@jit
def _through(dy: Any, scale: Any, weight: Any, dx: Any) -> None:
    """dx (n, H) = the gradient of the rows of a product with weight (M, H), at dy (n, M)."""
    row_scale = through(dy, scale, weight, dx)
    for i in range(len(dy)):
        for j in range(dx.shape[1]):
            dx[i, j] *= row_scale[i]


@jit
def _add_through(dy: Any, scale: Any, weight: Any, dx: Any) -> None:
    """dx (n, H) += the same."""
    more = np.empty((len(dy), dx.shape[1]), np.float32)
    _through(dy, scale, weight, more)
    for i in range(len(dy)):
        for j in range(dx.shape[1]):
            dx[i, j] += more[i, j]


@jit
def _through_time(
    scale: Any,
    weight: Any,
    streams: Any,
    active: Any,
    states: Any,
    squashed: Any,
    gates: Any,
    gate_scale: Any,
    inverse_rms: Any,
    doutputs: Any,
    dgates: Any,
    dinputs: Any,
) -> None:
    """One layer, column by column from the last one on: see `Network`."""
    n, H = doutputs.shape
    dout, dstate = np.zeros((streams, H), np.float32), np.zeros((streams, H), np.float32)
    seen, ones = np.empty((streams, 3 * H), np.float32), np.ones(3 * streams, np.float32)
    for a in range(n - streams, -1, -streams):
        b = a + streams
        for i in range(streams):
            for j in range(H):
                dout[i, j] += doutputs[a + i, j]
        kernels.cell_backward(active[a:b], states[a:b], squashed[a:b], dout, dstate, seen)
        for i in range(streams):
            for j in range(3 * H):
                dgates[a + i, j] = 0
        kernels.norm_backward(
            seen.reshape(3 * streams, H),
            ones,
            gates[3 * a : 3 * b],
            gate_scale[3 * a : 3 * b],
            inverse_rms[3 * a : 3 * b],
            dgates[a:b].reshape(3 * streams, H),
        )
        for i in range(streams):
            for j in range(3 * H):
                dinputs[a + i, j] = dgates[a + i, j]
                dinputs[a + i, 3 * H + j] = seen[i, j]
        if a > 0:
            _through(dgates[a:b], scale, weight, dout)


@outer
def update(counters: Any, pieces: Any, packed: Any, dlogits: Any, constants: Any) -> None:
    """One step on all weights behind `backward`; constants are `descend`'s, a row for each kind.

    Any number of threads may call it; when it returns, the step is done.
    """
    net = network(packed)
    n, streams = len(dlogits), net.streams
    i = shares.claim(counters, 0)
    while i < len(pieces):
        piece = piece_of(pieces, i)
        kind, layer, c = piece.kind, piece.layer, constants[piece.kind]
        if kind == 0:
            rows, scale = net.outputs[layer, :n], net.output_scale[layer, :n]
            _step(dense_of(net.hidden, layer), piece, net.dgates[layer, :n], rows, scale, c)
        else:
            rows = net.outputs[layer, streams : streams + n]
            scale = net.output_scale[layer, streams : streams + n]
            if kind == 1:
                dy = net.dgates[layer + 1, :n]
                _step(dense_of(net.below, layer), piece, dy, rows, scale, c)
            else:
                _step(dense_of(net.head, layer), piece, dlogits, rows, scale, c)
        i = shares.next_piece(counters, 0)
    shares.wait(counters, 0, len(pieces))


@jit
def _step(dense: Any, piece: Any, dy: Any, rows: Any, scale: Any, c: Any) -> None:
    """A step on a piece of a layer, at dy (n, M), where rows (n, H) * scale (n,) have entered."""
    n, first, end = len(dy), piece.first, piece.end
    own = np.empty((n, end - first), np.float32)
    for i in range(n):
        for m in range(end - first):
            own[i, m] = dy[i, first + m] * scale[i]
    quantised, product_scale = np.empty(own.shape, np.float32), np.empty(end - first, np.float32)
    kernels.quantise_columns(own, quantised, product_scale)
    products = np.empty((end - first, rows.shape[1]), np.float32)
    kernels.matmul(np.ascontiguousarray(quantised.T), rows, products)
    square = dense.square[first:end]
    kernels.descend(
        dense.value[first:end],
        square,  # there is no mean
        square,
        products,
        product_scale,
        dense.weight[first:end],
        dense.scale[first:end],
        c,
    )
    multiply.turn(dense.weight[first:end], dense.turned[:, first:end])


@outer
def advance(packed: Any, columns: Any) -> None:
    """What a chunk's first columns leave to the next one."""
    net = network(packed)
    streams = net.streams
    for layer in range(len(net.outputs)):
        kernels.slide(net.outputs[layer], columns * streams, streams)
        kernels.slide(net.states[layer], columns * streams, streams)
        for i in range(streams):
            net.output_scale[layer, i] = net.output_scale[layer, columns * streams + i]
