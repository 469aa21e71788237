"""A learner's step on the CPU: forward, backward and update, one compiled call each.

They compute what `Transformer.forward`, `.backward` and `optimizer.update_of` do, bit for bit, and
on the same buffers: integers sum to the same total in any order, and everything else is the same
operation of `kernels`. The forward pass goes on through the n-gram logits to the frequencies.

A chunk is 30 operations of a few microseconds per layer, so calls, passes over memory and
hand-overs between threads would cost as much as the arithmetic. Here rows go through a whole layer
while they are in the cache, and threads share the pieces of a phase (`shares`): rows in the forward
and the backward pass, heads in attention's gradient, rows of the weights in the update. A decoder's
column has too few rows for that: there, pieces are heads and outputs of the layers.

Buffers and weights of all layers lie stacked in one array per kind; the model's own tensors become
views of them. Quantised weights are kept as int8, beside the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from prequential.coding.coder import TOTAL_BITS
from prequential.exact import kernels, multiply, scalars, shares, softmax
from prequential.exact.compiled import apart, jit
from prequential.predictors import ngrams
from prequential.transformer.model import MLP, Attention, Linear, Transformer
from prequential.transformer.optimizer import Weight

COLUMNS = 8  # of a piece of the forward or backward pass, so many times the streams in rows
NUMBERS = 4096  # of a piece of the update, about


class Steps:
    """A transformer's buffers, stacked, and the calls on them."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        attentions = [block for block in model.blocks if isinstance(block, Attention)]
        mlps = [block for block in model.blocks if isinstance(block, MLP)]
        kinds = (
            [block.qkv for block in attentions],
            [block.out for block in attentions],
            [block.up for block in mlps],
            [block.down for block in mlps],
            [model.head],
        )
        linears = tuple(_linear(kind) for kind in kinds)
        self.moments = tuple(_moments(kind) for kind in kinds)
        norms = tuple(
            _stacked(owners, "inverse_rms", 2)
            for owners in (
                [block.norm for block in attentions],
                [block.norm for block in mlps],
                [model.norm],
            )
        )
        heads = (
            *(
                _stacked(attentions, name + scale, rank)
                for name in ("query", "key", "value")
                for scale, rank in (("", 4), ("_scale", 3))
            ),
            _stacked(attentions, "weights", 4),
        )
        positive = _stacked(mlps, "positive", 3)
        slopes, hs, temperature, slope = np.zeros(1, np.float32), 1, np.float32(1), np.float32(1)
        if attentions:
            first = attentions[0]
            slopes, hs = first.slopes.numpy(), first.D // first.H
            temperature, slope = first.temperature, first.slope
        x = model.x.numpy()
        inputs, taps = np.zeros((len(x), 0), np.float32), np.zeros((0, x.shape[1]), np.float32)
        if (convolution := model.convolution) is not None:
            inputs, taps = convolution.x.numpy(), convolution.weight.value.numpy()
        # Rows enter where the convolution reads them, or else the residual stream itself.
        self._input = inputs[len(inputs) - len(x) :] if convolution is not None else x
        self._logits = np.empty((len(x), model.head.weight.value.shape[0]), np.float32)
        self.layers = (linears, norms, heads, slopes, positive)
        self._convolution = (inputs, taps)
        self._taps = () if convolution is None else _parts(convolution.weight)
        self._state = x, self._convolution, self.layers, temperature, self._logits
        self._slope = slope
        each = len(x) // model.B, len(slopes)
        shapes = (*each, hs), each, each, (len(x), 3 * x.shape[1])
        self._heads_gradient = tuple(np.zeros(shape, np.float32) for shape in shapes)
        # Of one column, which threads share.
        self._scratch = (
            np.zeros((len(slopes), 1, hs), np.float32),
            np.zeros((len(slopes), 1), np.float32),
            np.zeros((model.B, positive.shape[2]), np.float32),
        )
        self._phases = 2 * len(attentions) + 3
        self.quantise()

    def quantise(self) -> None:
        """Take over the weights: int8 copies, which from then on follow by `update`.

        The model's own quantised copies do not.
        """
        for linear, moments in zip(self.layers[0], self.moments, strict=True):
            for value, quantised, scale in zip(moments[0], *linear[:2], strict=True):
                kernels.quantise_rows(value, quantised, scale)

    def forward(
        self,
        rows: np.ndarray,
        first: int,
        tables: tuple[Any, ...],
        frequencies: np.ndarray,
    ) -> Callable[[], None]:
        """What finds frequencies (T * B, V) int32 of columns from `first` on, for rows (n, D).

        tables is the state of the n-grams, which have located the columns. Any number of threads
        may call it; when it returns, the frequencies are complete.
        """
        model = self.model
        a, b = first * model.B, first * model.B + len(rows)
        self._input[a:b] = rows
        arguments = (
            shares.phases(self._phases), first, b // model.B, model.B, *self._state, tables,
            frequencies,
        )  # fmt: skip
        return lambda: forward_columns(*arguments)

    def state(self, columns: int) -> tuple[Any, ...]:
        """What `columns.decode` takes of it: counters for so many columns, and buffers."""
        phases = 1 + columns * phases_of_column(len(self.layers[0][0][0]))
        return shares.phases(phases), self._input, self._state, self._scratch

    def backward(self, n: int) -> tuple[Any, ...]:
        """What the function `backward` takes, for n rows.

        The third is dlogits (n, V), to be filled in. Any number of threads may call the function;
        when it returns, the fourth, the gradient (n, D) behind the convolution, is complete.
        """
        dlogits = np.empty((n, self._logits.shape[1]), np.float32)
        dx = np.zeros((n, self.model.x.shape[1]), np.float32)
        return (
            shares.phases(self._phases), self.model.B, dlogits, dx, self.layers,
            self._heads_gradient, self._slope,
        )  # fmt: skip

    def enter_backward(self, dy: np.ndarray, constants: np.ndarray) -> np.ndarray:
        """The gradient (n, D) before the convolution, which takes its step, at dy (n, D) behind."""
        if not self._taps:
            return dy
        dx = np.empty(dy.shape, np.float32)
        inputs, _ = self._convolution
        _enter_backward(dy, inputs, self.model.B, self._taps, constants, dx)
        return dx

    def advance(self, columns: int) -> None:
        """Move the caches past a finished chunk of so many columns."""
        inputs, taps = self._convolution
        past = len(taps) * self.model.B
        _advance(self.layers[2], inputs, past, columns, self.model.B)

    def update(self, tokens: int, constants: np.ndarray) -> Callable[[], None]:
        """What takes a step on all weights but the convolution's, after so many rows.

        Any number of threads may call it; when it returns, the step is done.
        """
        arguments = (
            shares.phases(1), self.layers[0], self.moments, tokens, self.model.B,
            self.model.head.group, constants,
        )  # fmt: skip
        return lambda: _update(*arguments)


def _stacked(owners: Sequence[Any], name: str, rank: int) -> np.ndarray:
    """The owners' tensors of this name in one array of so many axes, of which they become views."""
    parts = [getattr(owner, name) for owner in owners]
    whole = np.empty((len(parts), *(parts[0].shape if parts else (0,) * (rank - 1))), np.float32)
    for i, (owner, part) in enumerate(zip(owners, parts, strict=True)):
        whole[i] = part.numpy()
        setattr(owner, name, torch.from_numpy(whole[i]))
    return whole


def _linear(linears: Sequence[Linear]) -> tuple[np.ndarray, ...]:
    weights = [linear.weight for linear in linears]
    scale = _stacked(weights, "scale", 2)
    xq, x_scale = _stacked(linears, "xq", 3), _stacked(linears, "x_scale", 2)
    dy = np.empty((*x_scale.shape, scale.shape[1]), np.float32)
    return np.empty((*scale.shape, xq.shape[2]), "int8"), scale, xq, x_scale, dy


def _moments(linears: Sequence[Linear]) -> tuple[np.ndarray, ...]:
    weights: list[Weight] = [linear.weight for linear in linears]
    return tuple(_stacked(weights, name, 3) for name in ("value", "mean", "square"))


def _parts(weight: Weight) -> tuple[np.ndarray, ...]:
    names = "value mean square products product_scale quantised scale"
    return tuple(getattr(weight, name).numpy() for name in names.split())


@jit
def _kept(kept: Any, layer: Any, a: Any, b: Any, keep: Any) -> Any:
    """Where rows a..b of a layer are put for the backward pass, or as much that is forgotten."""
    rows = kept[layer, a:b]
    return rows if keep else np.empty(rows.shape, np.float32)


@jit
def _enter(x: Any, a: Any, b: Any, layer: Any, linear: Any, rms: Any, keep: Any) -> Any:
    """Rows a..b through the norm before a linear layer: int16 integers."""
    xq, scale = _kept(linear[2], layer, a, b, keep), _kept(linear[3], layer, a, b, keep)
    kernels.norm_quantise(x[a:b], xq, scale, _kept(rms, layer, a, b, keep))
    return xq.astype(np.int16), scale


@apart
def _enter_qkv(
    x: Any,
    a: Any,
    b: Any,
    layer: Any,
    streams: Any,
    linear: Any,
    rms: Any,
    heads: Any,
    first: Any,
    end: Any,
    keep: Any,
) -> None:
    """Norm, projection and quantised heads first..end of rows a..b."""
    weight, weight_scale = linear[:2]
    query, query_scale, key, key_scale, value, value_scale, _ = heads
    xq, x_scale = _enter(x, a, b, layer, linear, rms, keep)
    groups, hs = query.shape[2:]
    each = groups // streams
    y = np.empty((b - a, weight.shape[1]), np.float32)
    for i in range(b - a):
        before = i % streams * each
        low, high = max(first - before, 0), min(end - before, each)
        for part in range(3):
            m = (part * each + low) * hs
            rows = weight[layer, m : (part * each + high) * hs]
            multiply.in_int32(xq[i : i + 1], rows, m, y[i : i + 1])
    window = key.shape[1] - query.shape[1]
    own = slice(a // streams, b // streams)
    new = slice(window + a // streams, window + b // streams)
    kernels.quantise_heads(
        y,
        x_scale,
        weight_scale[layer],
        first,
        end,
        query[layer, own],
        query_scale[layer, own],
        key[layer, new],
        key_scale[layer, new],
        value[layer, new],
        value_scale[layer, new],
    )


@apart
def _mix(
    a: Any,
    b: Any,
    layer: Any,
    streams: Any,
    heads: Any,
    slopes: Any,
    temperature: Any,
    low: Any,
    high: Any,
    mixed: Any,
    mixed_scale: Any,
) -> None:
    """What heads low..high of whole columns see: mixed (G, columns, hs) * mixed_scale."""
    query, query_scale, key, key_scale, value, value_scale, weights = heads
    window = key.shape[1] - query.shape[1]
    first, end = a // streams, b // streams
    own, keys = slice(first, end), slice(first, window + end)
    kernels.attention(
        query[layer, own],
        query_scale[layer, own],
        key[layer, keys],
        key_scale[layer, keys],
        value[layer, keys],
        value_scale[layer, keys],
        slopes,
        temperature,
        low,
        high,
        weights[layer, :, own, keys],
        mixed,
        mixed_scale,
    )


@jit
def _merge(
    x: Any,
    a: Any,
    b: Any,
    layer: Any,
    linear: Any,
    mixed: Any,
    mixed_scale: Any,
    first: Any,
    end: Any,
    keep: Any,
) -> None:
    """x[a:b, first:end] += what the heads have mixed, projected."""
    oq, scale = _kept(linear[2], layer, a, b, keep), _kept(linear[3], layer, a, b, keep)
    kernels.merge_heads(mixed, mixed_scale, oq, scale)
    _add_products(oq, scale, layer, linear, first, end, x[a:b])


@jit
def _add_products(
    q: Any, scale: Any, layer: Any, linear: Any, first: Any, end: Any, out: Any
) -> None:
    """out[:, first:end] += these outputs of a linear layer for rows q * scale."""
    weight, weight_scale = linear[:2]
    products = np.empty((len(q), end - first), np.float32)
    multiply.in_int32(q.astype(np.int16), weight[layer, first:end], 0, products)
    kernels.add_scaled_outer(products, scale, weight_scale[layer, first:end], first, out)


@jit
def _up(
    x: Any,
    a: Any,
    b: Any,
    layer: Any,
    up: Any,
    rms: Any,
    first: Any,
    end: Any,
    keep: Any,
    products: Any,
) -> None:
    """Outputs first..end of the first half of an MLP, unscaled: products (n, hidden)."""
    xq, _ = _enter(x, a, b, layer, up, rms, keep)
    multiply.in_int32(xq, up[0][layer, first:end], first, products)


@jit
def _down(
    x: Any,
    a: Any,
    b: Any,
    layer: Any,
    up: Any,
    products: Any,
    positive: Any,
    down: Any,
    first: Any,
    end: Any,
    keep: Any,
) -> None:
    """x[a:b, first:end] += the second half of the MLP."""
    hq, scale = _kept(down[2], layer, a, b, keep), _kept(down[3], layer, a, b, keep)
    active = _kept(positive, layer, a, b, keep)
    kernels.relu_squared(products, up[3][layer, a:b], up[1][layer], active, hq, scale)
    _add_products(hq, scale, layer, down, first, end, x[a:b])


@jit
def forward_columns(
    counters: Any,
    first: Any,
    end: Any,
    streams: Any,
    x: Any,
    convolution: Any,
    layers: Any,
    temperature: Any,
    logits: Any,
    tables: Any,
    frequencies: Any,
) -> None:
    """Columns first..end, in pieces of `COLUMNS` columns, a phase up to each layer's attention."""
    linears, norms, heads, slopes, positive = layers
    count = linears[0][0].shape[0]
    groups, hs = heads[0].shape[2:]
    width, hidden = x.shape[1], positive.shape[2]
    pieces = (end - first + COLUMNS - 1) // COLUMNS
    for layer in range(count + 1):
        piece = shares.claim(counters, layer)
        while piece < pieces:
            column = first + piece * COLUMNS
            a, b = column * streams, min(column + COLUMNS, end) * streams
            if layer == 0:
                convolve(convolution, a, b, streams, x)
            else:
                mixed = np.empty((groups, (b - a) // streams, hs), np.float32)
                mixed_scale = np.empty(mixed.shape[:2], np.float32)
                products = np.empty((b - a, hidden), np.float32)
                before = layer - 1
                _mix(
                    a, b, before, streams, heads, slopes, temperature, 0, groups, mixed, mixed_scale
                )
                _merge(x, a, b, before, linears[1], mixed, mixed_scale, 0, width, True)
                _up(x, a, b, before, linears[2], norms[1], 0, hidden, True, products)
                _down(x, a, b, before, linears[2], products, positive, linears[3], 0, width, True)
            if layer < count:
                _enter_qkv(x, a, b, layer, streams, linears[0], norms[0], heads, 0, groups, True)
            else:
                # Layer 0 of one, as a variable: a constant would be compiled anew.
                head = layer - count
                xq, _ = _enter(x, a, b, head, linears[4], norms[2], True)
                multiply.in_int32(xq, linears[4][0][head], 0, logits[a:b])
                finish(a, b, layers, logits, tables, frequencies)
            shares.done(counters, layer)
            piece = shares.claim(counters, layer)
        shares.wait(counters, layer, pieces)


@jit
def convolve(convolution: Any, a: Any, b: Any, streams: Any, x: Any) -> None:
    """x[a:b] = the rows that entered, convolved with those before."""
    inputs, taps = convolution
    past = taps.shape[0] * streams
    if past > 0:
        kernels.convolve(inputs[a : past + b], taps, streams, x[a:b])


@apart
def finish(a: Any, b: Any, layers: Any, logits: Any, tables: Any, frequencies: Any) -> None:
    """frequencies of rows a..b by the head's products, which are in logits, and the n-grams."""
    head, out = layers[0][4], logits[a:b]
    kernels.scale_outer(out, head[3][0, a:b], head[1][0], out)
    ngrams.add_logits(tables, a, out)
    softmax.frequencies(out, TOTAL_BITS, frequencies[a:b])


@apart
def share_column(
    counters: Any,
    pieces: Any,
    column: Any,
    streams: Any,
    x: Any,
    layers: Any,
    temperature: Any,
    logits: Any,
    scratch: Any,
) -> None:
    """One column, behind the convolution, up to the head's products in logits.

    Every phase is cut into `pieces` by heads or by outputs. What a phase needs as a whole, the norm
    say, each piece computes for itself, and the first one keeps. Phase 0 of the counters is the
    caller's, then there are `phases_of_column` for each column.
    """
    linears, norms, heads, slopes, positive = layers
    mixed, mixed_scale, products = scratch
    count, width = linears[0][0].shape[0], x.shape[1]
    totals = heads[0].shape[2], width, products.shape[1], width, logits.shape[1]
    a, b = column * streams, (column + 1) * streams
    stages = phases_of_column(count)
    for stage in range(stages):
        layer, kind = stage // 4, stage % 4
        if layer == count:
            kind = 4
        phase = 1 + column * stages + stage
        piece = shares.claim(counters, phase)
        while piece < pieces:
            first, end = totals[kind] * piece // pieces, totals[kind] * (piece + 1) // pieces
            keep = piece == 0
            if kind == 0:
                _enter_qkv(x, a, b, layer, streams, linears[0], norms[0], heads, first, end, keep)
                _mix(
                    a, b, layer, streams, heads, slopes, temperature, first, end,
                    mixed, mixed_scale,
                )  # fmt: skip
            elif kind == 1:
                _merge(x, a, b, layer, linears[1], mixed, mixed_scale, first, end, keep)
            elif kind == 2:
                _up(x, a, b, layer, linears[2], norms[1], first, end, keep, products)
            elif kind == 3:
                _down(x, a, b, layer, linears[2], products, positive, linears[3], first, end, keep)
            else:
                head = layer - count
                xq, _ = _enter(x, a, b, head, linears[4], norms[2], keep)
                multiply.in_int32(xq, linears[4][0][head, first:end], first, logits[a:b])
            shares.done(counters, phase)
            piece = shares.claim(counters, phase)
        shares.wait(counters, phase, pieces)


@jit
def phases_of_column(layers: Any) -> Any:
    """Phases of `share_column`."""
    return 4 * layers + 1


@jit
def _linear_backward(dy: Any, a: Any, b: Any, layer: Any, linear: Any, dx: Any) -> Any:
    """dx (n, K) integers and their row scales (n,) of rows a..b; keeps dy for the update."""
    weight, weight_scale, _, x_scale, kept = linear
    column = weight_scale[layer]
    rows, width = dy.shape
    scaled = np.empty(width, np.float32)
    by_row, row_scale = np.empty((rows, width), np.float32), np.empty(rows, np.float32)
    for i in range(rows):
        f = x_scale[layer, a + i]
        for j in range(width):
            kept[layer, a + i, j] = dy[i, j] * f
            scaled[j] = dy[i, j] * column[j]
        row_scale[i] = scalars.quantise_row(scaled, by_row[i])
    kernels.matmul(by_row, weight[layer], dx)
    return row_scale


@jit
def _norm_linear_backward(
    dy: Any, a: Any, b: Any, layer: Any, linear: Any, rms: Any, dx: Any
) -> None:
    """dx[a:b] += the gradient through the norm and the linear layer behind it at dy (b - a, M)."""
    xq, x_scale = linear[2], linear[3]
    products = np.empty((b - a, dx.shape[1]), np.float32)
    row_scale = _linear_backward(dy, a, b, layer, linear, products)
    kernels.norm_backward(
        products, row_scale, xq[layer, a:b], x_scale[layer, a:b], rms[layer, a:b], dx[a:b]
    )


@jit
def _mlp_backward(
    dx: Any, a: Any, b: Any, layer: Any, up: Any, rms: Any, positive: Any, down: Any
) -> None:
    products = np.empty((b - a, positive.shape[2]), np.float32)
    scale = _linear_backward(dx[a:b], a, b, layer, down, products)
    kernels.relu_squared_backward(products, scale, positive[layer, a:b], products)
    _norm_linear_backward(products, a, b, layer, up, rms, dx)


@jit
def _attention_backward(
    g: Any, layer: Any, heads: Any, gradient: Any, slope: Any, columns: Any
) -> None:
    """The gradient of one head's queries, keys and values, from that of what it puts out."""
    query, query_scale, key, key_scale, value, value_scale, weights = heads
    doq, do_scale, dots, dy = gradient
    window, streams = key.shape[1] - query.shape[1], len(dy) // len(doq)
    keys = slice(0, window + columns)
    kernels.attention_backward(
        doq,
        do_scale,
        dots,
        query[layer, :columns],
        query_scale[layer, :columns],
        key[layer, keys],
        key_scale[layer, keys],
        value[layer, keys],
        value_scale[layer, keys],
        weights[layer],
        slope,
        g,
        g + 1,
        dy[: columns * streams],
    )


@apart
def backward_rows(
    piece: Any,
    layer: Any,
    streams: Any,
    dlogits: Any,
    dx: Any,
    layers: Any,
    gradient: Any,
) -> None:
    """A piece of columns from the rows into `layer`, or from the logits, to the heads below."""
    linears, norms, _, _, positive = layers
    doq, do_scale, dots, dheads = gradient
    count = linears[0][0].shape[0]
    column = piece * COLUMNS
    end = min(column + COLUMNS, len(dlogits) // streams)
    a, b = column * streams, end * streams
    if layer == count:
        head = layer - count
        _norm_linear_backward(dlogits[a:b], a, b, head, linears[4], norms[2], dx)
    else:
        _norm_linear_backward(dheads[a:b], a, b, layer, linears[0], norms[0], dx)
    if layer > 0:
        _mlp_backward(dx, a, b, layer - 1, linears[2], norms[1], positive, linears[3])
        out = linears[1]
        products = np.empty((b - a, dx.shape[1]), np.float32)
        scale = _linear_backward(dx[a:b], a, b, layer - 1, out, products)
        kernels.split_gradient(
            products,
            scale,
            out[2][layer - 1, a:b],
            out[3][layer - 1, a:b],
            doq[column:end],
            do_scale[column:end],
            dots[column:end],
        )


@apart
def backward(
    counters: Any, streams: Any, dlogits: Any, dx: Any, layers: Any, gradient: Any, slope: Any
) -> None:
    """dx (n, D) += the gradient behind the convolution at dlogits (n, V).

    Phases, in turns: rows, down to a layer's heads, and these heads.
    """
    heads = layers[2]
    count = layers[0][0][0].shape[0]
    columns = len(dlogits) // streams
    pieces = (columns + COLUMNS - 1) // COLUMNS
    groups = heads[0].shape[2]
    phase = 0
    for layer in range(count, -1, -1):
        piece = shares.claim(counters, phase)
        while piece < pieces:
            backward_rows(piece, layer, streams, dlogits, dx, layers, gradient)
            shares.done(counters, phase)
            piece = shares.claim(counters, phase)
        shares.wait(counters, phase, pieces)
        phase += 1
        if layer > 0:
            g = shares.claim(counters, phase)
            while g < groups:
                _attention_backward(g, layer - 1, heads, gradient, slope, columns)
                shares.done(counters, phase)
                g = shares.claim(counters, phase)
            shares.wait(counters, phase, groups)
            phase += 1


@jit
def _enter_backward(dy: Any, inputs: Any, streams: Any, weight: Any, c: Any, dx: Any) -> None:
    taps, mean, square, products, product_scale, quantised, scale = weight
    x = inputs[: len(taps) * streams + len(dy)]
    kernels.convolve_backward(dy, x, taps, streams, dx, products)
    kernels.descend(
        taps, mean, square, products, product_scale, quantised, scale, c,
    )  # fmt: skip


@jit
def _update_rows(
    first: Any,
    end: Any,
    layer: Any,
    linear: Any,
    moments: Any,
    tokens: Any,
    streams: Any,
    group: Any,
    c: Any,
) -> None:
    """One step on rows first..end of a weight."""
    quantised, scale, xq, _, dy = linear
    value, mean, square = moments
    rows = end - first
    products = np.empty((rows, xq.shape[2]), np.float32)
    product_scale = np.empty(rows, np.float32)
    kernels.weight_gradient(
        dy[layer, :tokens, first:end], xq[layer], streams, group, products, product_scale
    )
    kernels.descend(
        value[layer, first:end],
        mean[layer, first:end],
        square[layer, first:end],
        products,
        product_scale,
        quantised[layer, first:end],
        scale[layer, first:end],
        c,
    )


@jit
def _update(
    counters: Any,
    linears: Any,
    moments: Any,
    tokens: Any,
    streams: Any,
    group: Any,
    constants: Any,
) -> None:
    """One step on all weights, in pieces of some rows."""
    piece = shares.claim(counters, 0)
    total = 0
    for kind in range(5):
        # The tuples' parts are of one type each, so the loop's variable may choose them.
        linear, moment = linears[kind], moments[kind]
        layers, outputs, inputs = moment[0].shape
        if layers == 0:
            continue
        rows = max(1, NUMBERS // inputs)
        each = (outputs + rows - 1) // rows
        while piece < total + layers * each:
            layer, part = (piece - total) // each, (piece - total) % each
            first = part * rows
            _update_rows(
                first, min(first + rows, outputs), layer, linear, moment, tokens, streams, group,
                constants,
            )  # fmt: skip
            shares.done(counters, 0)
            piece = shares.claim(counters, 0)
        total += layers * each
    shares.wait(counters, 0, total)


@jit
def _advance(heads: Any, inputs: Any, past: Any, columns: Any, streams: Any) -> None:
    """Slide the windows of keys and values, and the convolution's rows, past the first columns."""
    query, _, key, key_scale, value, value_scale, _ = heads
    window = key.shape[1] - query.shape[1]
    for layer in range(key.shape[0]):
        for cache in (key[layer], value[layer]):
            kernels.slide(cache.reshape(len(cache), -1), columns, window)
        for scale in (key_scale[layer], value_scale[layer]):
            kernels.slide(scale, columns, window)
    kernels.slide(inputs, columns * streams, past)
