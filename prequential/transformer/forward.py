"""The forward pass of a transformer on the CPU, compiled: `Transformer.forward`, bit for bit.

A chunk is 30 operations of a few microseconds per layer, so calls, passes over memory and
hand-overs between threads would cost as much as the arithmetic. So there are six stages, and
threads share the pieces of a phase (`shares`) in one of two ways. A known chunk's columns are cut
into pieces, whose rows go through a whole layer while they are in the cache. A decoder's column has
too few rows for that: there every stage is cut by heads or by outputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from prequential.coding.coder import TOTAL_BITS
from prequential.exact import kernels, multiply, shares, softmax
from prequential.exact.compiled import apart, inline, jit, outer
from prequential.predictors import ngrams
from prequential.transformer.layout import Heads, Network, blocks_of, heads_of, linear_of, network

COLUMNS = 8  # of a piece of a chunk: so many times the streams in rows
# A layer's stages; behind the last layer's there is one more, the head.
_PROJECT, _ATTEND, _MERGE, _UP, _DOWN = range(5)
_STAGES = 5


class Part(NamedTuple):
    """What a thread does of a stage: rows a..b, whole columns, and one share of the outputs."""

    a: int
    b: int
    streams: int
    share: int  # below shares
    shares: int  # that heads or outputs are cut into


class Scratch(NamedTuple):
    """Between two stages of the same rows. A chunk's threads have one each, a column's share it."""

    mixed: np.ndarray  # (columns * D,), integers: what the heads see, by heads
    mixed_scale: np.ndarray  # (columns * G,)
    products: np.ndarray  # (rows * F,): outputs of an MLP's first layer, unscaled


def scratch(net: Network, columns: int) -> tuple[np.ndarray, ...]:
    """A `Scratch` for so many columns at once, packed."""
    rows, blocks = columns * net.streams, net.blocks
    sizes = rows * net.x.shape[1], columns * len(blocks.slopes), rows * blocks.positive.shape[2]
    return tuple(np.empty(size, np.float32) for size in sizes)


@jit
def phases(layers: Any, pieces: Any) -> Any:
    """Phases of `forward`."""
    return (4 if pieces > 0 else 1) * layers + 1


@outer
def forward(
    counters: Any,
    phase: Any,
    first: Any,
    end: Any,
    pieces: Any,
    packed: Any,
    room: Any,
    tables: Any,
    frequencies: Any,
) -> None:
    """Columns first..end: from the rows that have entered to frequencies (N, V) int32.

    With no number of pieces, the columns are cut; a phase goes up to the next layer's attention,
    which needs the columns before it. Otherwise each phase is cut into so many pieces by heads or
    by outputs, and what comes before and after, `convolve` and `finish`, is the caller's. Any
    number of threads may call it, with as many counters from `phase` on as there are `phases`.
    """
    net, room, tables = network(packed), Scratch(*room), ngrams.state_of(tables)
    streams, stages = net.streams, _STAGES * net.layers + 1
    by_columns = pieces == 0
    if by_columns:
        pieces = (end - first + COLUMNS - 1) // COLUMNS
    start = 0
    while start < stages:
        # Heads belong to one piece while they are made and looked at.
        length = 2 if start % _STAGES == _PROJECT else 1
        if by_columns:
            length = 1 if start == 0 else _STAGES
        until = min(start + length, stages)
        piece = shares.claim(counters, phase)
        while piece < pieces:
            if by_columns:
                column = first + piece * COLUMNS
                part = Part(column * streams, min(column + COLUMNS, end) * streams, streams, 0, 1)
                if start == 0:
                    convolve(net.inputs, net.taps, streams, part.a, part.b, net.x)
            else:
                part = Part(first * streams, end * streams, streams, piece, pieces)
            for number in range(start, until):
                stage(net, number, part, room)
            if by_columns and until == stages:
                finish(linear_of(net.head, 0), part.a, part.b, tables, net.logits, frequencies)
            piece = shares.next_piece(counters, phase)
        shares.wait(counters, phase, pieces)
        phase += 1
        start = until


@inline
def stage(net: Any, number: Any, part: Any, room: Any) -> None:
    """A part of one stage: of a layer or, behind the last, of the head."""
    if number == _STAGES * net.layers:
        _head(net.x, linear_of(net.head, 0), net.logits, part)
    else:
        _layer(net.x, net.blocks, number // _STAGES, number % _STAGES, part, room)


@inline
def _layer(x: Any, packed: Any, layer: Any, kind: Any, part: Any, room: Any) -> None:
    """A part of one stage of a layer."""
    blocks = blocks_of(packed)
    if kind == _PROJECT:
        _project(x, linear_of(blocks.qkv, layer), heads_of(blocks.heads, layer), part)
    elif kind == _ATTEND:
        _attend(heads_of(blocks.heads, layer), blocks.slopes, blocks.temperature, part, room)
    elif kind == _MERGE:
        _merge(x, linear_of(blocks.out, layer), blocks.heads.query.shape[2:], part, room)
    elif kind == _UP:
        _up(x, linear_of(blocks.up, layer), part, room)
    else:
        up, down = linear_of(blocks.up, layer), linear_of(blocks.down, layer)
        _down(x, up, down, blocks.positive[layer], part, room)


@inline
def _share(total: Any, part: Any) -> Any:
    """Which of so many heads or outputs are the part's."""
    return total * part.share // part.shares, total * (part.share + 1) // part.shares


@jit
def _kept(kept: Any, part: Any) -> Any:
    """Where the part's rows are put for the backward pass, or as much that is forgotten.

    What a stage needs as a whole, a norm say, each share computes for itself; the first keeps it.
    """
    rows = kept[part.a : part.b]
    return rows if part.share == 0 else np.empty(rows.shape, np.float32)


@inline
def _columns(part: Any) -> Any:
    return part.a // part.streams, part.b // part.streams


@jit
def _norm(x: Any, linear: Any, part: Any) -> Any:
    """Rows through the norm before a linear layer: int16 integers, and their scales."""
    xq, scale = _kept(linear.xq, part), _kept(linear.x_scale, part)
    kernels.norm_quantise(x[part.a : part.b], xq, scale, _kept(linear.inverse_rms, part))
    return xq.astype(np.int16), scale


@jit
def _project(x: Any, qkv: Any, heads: Any, part: Any) -> None:
    """Norm, projection and quantised heads."""
    xq, x_scale = _norm(x, qkv, part)
    groups, hs = heads.query.shape[1:]
    each = groups // part.streams
    first, end = _share(groups, part)
    y = np.empty((len(xq), len(qkv.weight)), np.float32)
    if end - first == groups:  # all of them, for all rows alike
        multiply.in_int32(xq, qkv.weight, 0, y)
    else:
        for i in range(len(xq)):
            before = i % part.streams * each
            low, high = max(first - before, 0), min(end - before, each)
            for third in range(3):
                m = (third * each + low) * hs
                rows = qkv.weight[m : (third * each + high) * hs]
                multiply.in_int32(xq[i : i + 1], rows, m, y[i : i + 1])
    window = len(heads.key) - len(heads.query)
    a, b = _columns(part)
    own, new = slice(a, b), slice(window + a, window + b)
    kernels.quantise_heads(
        y,
        x_scale,
        qkv.scale,
        first,
        end,
        heads.query[own],
        heads.query_scale[own],
        heads.key[new],
        heads.key_scale[new],
        heads.value[new],
        heads.value_scale[new],
    )


@inline
def _attend(heads: Any, slopes: Any, temperature: Any, part: Any, room: Any) -> None:
    """What the heads see."""
    a, b = _columns(part)
    first, end = _share(heads.query.shape[1], part)
    own, keys = slice(a, b), slice(a, len(heads.key) - len(heads.query) + b)
    mixed, mixed_scale = _mixed(room, b - a, heads.query.shape[1:])
    kernels.attention(
        heads.query[own],
        heads.query_scale[own],
        heads.key[keys],
        heads.key_scale[keys],
        heads.value[keys],
        heads.value_scale[keys],
        slopes,
        temperature,
        first,
        end,
        heads.weights[:, own, keys],
        mixed,
        mixed_scale,
    )


@jit
def _mixed(room: Any, columns: Any, shape: Any) -> Any:
    """mixed (G, columns, hs) and mixed_scale (G, columns), for heads of shape (G, hs)."""
    groups, hs = shape
    scales = room.mixed_scale[: groups * columns].reshape(groups, columns)
    return room.mixed[: scales.size * hs].reshape(groups, columns, hs), scales


@jit
def _merge(x: Any, out: Any, shape: Any, part: Any, room: Any) -> None:
    """x += what the heads, of shape (G, hs), have seen, projected."""
    oq, scale = _kept(out.xq, part), _kept(out.x_scale, part)
    a, b = _columns(part)
    mixed, mixed_scale = _mixed(room, b - a, shape)
    kernels.merge_heads(mixed, mixed_scale, oq, scale)
    _add(x, oq, scale, out, part)


@jit
def _add(x: Any, q: Any, scale: Any, linear: Any, part: Any) -> None:
    """x += the part's outputs of a linear layer for its rows q * scale."""
    first, end = _share(len(linear.weight), part)
    y = np.empty((len(q), end - first), np.float32)
    multiply.in_int32(q.astype(np.int16), linear.weight[first:end], 0, y)
    kernels.add_scaled_outer(y, scale, linear.scale[first:end], first, x[part.a : part.b])


@jit
def _middle(room: Any, rows: Any, width: Any) -> Any:
    return room.products[: rows * width].reshape(rows, width)


@jit
def _up(x: Any, up: Any, part: Any, room: Any) -> None:
    """The first half of an MLP, unscaled."""
    xq, _ = _norm(x, up, part)
    first, end = _share(len(up.weight), part)
    products = _middle(room, len(xq), len(up.weight))
    multiply.in_int32(xq, up.weight[first:end], first, products)


@jit
def _down(x: Any, up: Any, down: Any, positive: Any, part: Any, room: Any) -> None:
    """x += the second half of the MLP."""
    hq, scale = _kept(down.xq, part), _kept(down.x_scale, part)
    active = _kept(positive, part)
    products = _middle(room, len(hq), len(up.weight))
    rows = slice(part.a, part.b)
    kernels.relu_squared(products, up.x_scale[rows], up.scale, active, hq, scale)
    _add(x, hq, scale, down, part)


@jit
def _head(x: Any, head: Any, logits: Any, part: Any) -> None:
    """logits = the norm's rows times the weights, unscaled."""
    xq, _ = _norm(x, head, part)
    first, end = _share(len(head.weight), part)
    multiply.in_int32(xq, head.weight[first:end], first, logits[part.a : part.b])


@inline
def convolve(inputs: Any, taps: Any, streams: Any, a: Any, b: Any, x: Any) -> None:
    """x[a:b] = the rows that entered, convolved with those before."""
    past = len(taps) * streams
    if past > 0:
        kernels.convolve(inputs[a : past + b], taps, streams, x[a:b])


@apart
def finish(head: Any, a: Any, b: Any, tables: Any, logits: Any, frequencies: Any) -> None:
    """frequencies of rows a..b by the head's products, which are in logits, and the n-grams."""
    out = logits[a:b]
    kernels.scale_outer(out, head.x_scale[a:b], head.scale, out)
    ngrams.add_logits(tables, a, out)
    softmax.frequencies(out, TOTAL_BITS, frequencies[a:b])


@outer
def advance(packed: Any, inputs: Any, past: Any, streams: Any, columns: Any) -> None:
    """Slide the windows of heads, packed, and the convolution's rows, past the first columns."""
    kernels.slide(inputs, columns * streams, past)
    heads = Heads(*packed)
    window = heads.key.shape[1] - heads.query.shape[1]
    for layer in range(len(heads.key)):
        for cache in (heads.key[layer], heads.value[layer]):
            kernels.slide(cache.reshape(len(cache), -1), columns, window)
        for scale in (heads.key_scale[layer], heads.value_scale[layer]):
            kernels.slide(scale, columns, window)
