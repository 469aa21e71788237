"""The transformer: causal, from scratch, in exact arithmetic, forward and backward by hand.

Tokens are laid out time-major: row t * B + b is stream b at column t of the chunk. A column is then
a contiguous slice of rows, so one `forward` serves the encoder (all columns at once) and the
decoder (one at a time), and both leave the same activations behind for `backward`.

    input rows (n, D)                        summed embeddings, from `embeddings`
    x = input + causal convolution
    for each layer:                          pre-norm, no gains
        x = x + attention(norm(x))           chunk and a cached window, linear biases
        x = x + W2 relu(W1 norm(x))^2
    logits (n, V) = W norm(x)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from prequential.config import SYMBOLS, ModelConfig
from prequential.exact import bounds, tensors
from prequential.exact.philox import uniform
from prequential.exact.scalars import LOG2_E, group_of
from prequential.transformer.optimizer import Weight

# Takes a weight that has its gradient, and which the rest of the backward pass does not need.
Update = Callable[[Weight], object]


def keep(_: Weight) -> None:
    """The plainest `Update`: the step is taken by whoever called."""


class Linear:
    """y = x W^T on quantised rows, remembering x for the backward pass."""

    def __init__(self, weight: Weight, rows: int, streams: int, group: int) -> None:
        outputs, inputs = weight.value.shape
        new = weight.value.new_zeros
        self.weight = weight
        self.streams, self.group = streams, group
        self.xq = new(rows, inputs)  # (N, K) integers
        self.x_scale = new(rows)  # (N,)
        self.products = new(rows, outputs)  # (N, M)
        self.by_row = new(rows, outputs)
        self.dy_scale = new(rows)
        self.dx_products = new(rows, inputs)

    def forward(self, a: int, b: int) -> Tensor:
        """Integer products (b - a, M) of rows a..b, to be scaled by x_scale and weight.scale."""
        products = self.products[a:b]
        tensors.matmul(self.xq[a:b], self.weight.quantised.T, products)
        return products

    def backward(self, dy: Tensor, update: Update) -> tuple[Tensor, Tensor]:
        """dx as integers (n, K) and row scales (n,); the weight goes to `update`."""
        n, w = dy.shape[0], self.weight
        by_row, dy_scale = self.by_row[:n], self.dy_scale[:n]
        dx, xq, x_scale = self.dx_products[:n], self.xq[:n], self.x_scale[:n]
        # What belongs to the other operand of a product is folded in.
        tensors.quantise_rows(dy * w.scale, by_row, dy_scale)
        tensors.matmul(by_row, w.quantised, dx)
        tensors.weight_gradient(
            dy * x_scale[:, None], xq, self.streams, self.group, w.products, w.product_scale
        )
        update(w)
        return dx, dy_scale


class _Norm:
    """RMS norm in front of a linear layer, writing the layer's quantised input."""

    def __init__(self, linear: Linear) -> None:
        self.linear = linear
        self.inverse_rms = torch.zeros_like(linear.x_scale)  # (N,)

    def forward(self, x: Tensor, a: int, b: int) -> None:
        tensors.norm_quantise(
            x[a:b], self.linear.xq[a:b], self.linear.x_scale[a:b], self.inverse_rms[a:b]
        )

    def backward(self, dy: Tensor, dx: Tensor, update: Update) -> None:
        """dx (n, D) += the gradient through the norm and the linear layer at dy (n, M)."""
        n = dy.shape[0]
        products, scale = self.linear.backward(dy, update)
        tensors.norm_backward(
            products, scale, self.linear.xq[:n], self.linear.x_scale[:n], self.inverse_rms[:n], dx
        )


class Attention:
    """Multi-head attention over the chunk and `window` cached positions before it."""

    def __init__(
        self, config: ModelConfig, qkv: Weight, out: Weight, B: int, T: int, group: int
    ) -> None:
        D, H, W = config.width, config.heads, config.window
        new = qkv.value.new_zeros
        self.B, self.T, self.D, self.H, self.window = B, T, D, H, W
        self.qkv = Linear(qkv, T * B, B, group)
        self.norm = _Norm(self.qkv)
        self.out = Linear(out, T * B, B, group)
        # Quantised heads of the cached window, then of the chunk. Only the chunk has queries.
        self.query = new(T, B * H, D // H)
        self.query_scale = new(T, B * H)
        self.key = new(W + T, B * H, D // H)
        self.key_scale = new(W + T, B * H)
        self.value = new(W + T, B * H, D // H)
        self.value_scale = new(W + T, B * H)
        self.weights = new(B * H, T, W + T)
        # 2^-1, 2^-2, ... bits per position, repeated over the streams: exact powers of two.
        slopes = [math.ldexp(1.0, -(1 + 8 * h // H)) for h in range(H)]
        self.slopes = qkv.value.new_tensor(slopes).repeat(B)  # (G,), G = B * H
        # What makes bits of a product of query and key, and its gradient of that of a logit.
        root = math.sqrt(D // H)
        self.temperature, self.slope = np.float32(LOG2_E / root), np.float32(1.0 / root)

    def forward(self, x: Tensor, a: int, b: int) -> None:
        """x[a:b] += attention, for the rows of whole columns, or of some streams of one column."""
        B, D, H, W = self.B, self.D, self.H, self.window
        first, end = a // B, -(-b // B)  # columns
        own, new = slice(first, end), slice(W + first, W + end)
        groups = min(b - a, B) * H
        heads = slice(a % B * H, a % B * H + groups)
        self.norm.forward(x, a, b)
        products, x_scale = self.qkv.forward(a, b), self.qkv.x_scale[a:b]
        query, query_scale = self.query[own, heads], self.query_scale[own, heads]
        tensors.quantise_heads(
            products, x_scale, self.qkv.weight.scale, 0, groups, query, query_scale,
            *self._seen(new, heads),
        )  # fmt: skip
        # Each query sees itself and `window` keys before it; later keys are not even read.
        keys = slice(first, W + end)
        mixed, mixed_scale = (
            x.new_empty(groups, end - first, D // H),
            x.new_empty(groups, end - first),
        )
        tensors.attention(
            query, query_scale, *self._seen(keys, heads), self.slopes[heads], self.temperature,
            0, groups, self.weights[heads, own, keys], mixed, mixed_scale,
        )  # fmt: skip
        tensors.merge_heads(mixed, mixed_scale, self.out.xq[a:b], self.out.x_scale[a:b])
        tensors.add_scaled_outer(
            self.out.forward(a, b), self.out.x_scale[a:b], self.out.weight.scale, 0, x[a:b]
        )

    def backward(self, dx: Tensor, update: Update) -> None:
        """dx (n, D) holds the gradient after the block; add the gradient through it."""
        G, hs = self.query.shape[1:]
        n, columns = dx.shape[0], dx.shape[0] // self.B
        new = dx.new_empty
        products, scale = self.out.backward(dx, update)
        doq, do_scale, dots = new(columns, G, hs), new(columns, G), new(columns, G)
        tensors.split_gradient(
            products, scale, self.out.xq[:n], self.out.x_scale[:n], doq, do_scale, dots
        )
        dy = new(n, 3 * self.D)
        tensors.attention_backward(
            doq, do_scale, dots, self.query[:columns], self.query_scale[:columns],
            *self._seen(slice(0, self.window + columns)), self.weights, self.slope, 0, G, dy,
        )  # fmt: skip
        self.norm.backward(dy, dx, update)

    def _seen(self, keys: slice, heads: slice = slice(None)) -> list[Tensor]:
        every = self.key, self.key_scale, self.value, self.value_scale
        return [x[keys, heads] for x in every]

    def advance(self, columns: int) -> None:
        """Slide the window past the chunk's first `columns` columns."""
        for cache in (self.key, self.key_scale, self.value, self.value_scale):
            tensors.slide(cache, columns, self.window)


class MLP:
    """x + W2 relu(W1 norm(x))^2."""

    def __init__(self, up: Weight, down: Weight, B: int, T: int, group: int) -> None:
        self.up = Linear(up, T * B, B, group)
        self.norm = _Norm(self.up)
        self.down = Linear(down, T * B, B, group)
        self.positive = torch.zeros_like(self.up.products)  # (N, hidden)

    def forward(self, x: Tensor, a: int, b: int) -> None:
        """x[a:b] += mlp."""
        self.norm.forward(x, a, b)
        tensors.relu_squared(
            self.up.forward(a, b),
            self.up.x_scale[a:b],
            self.up.weight.scale,
            self.positive[a:b],
            self.down.xq[a:b],
            self.down.x_scale[a:b],
        )
        tensors.add_scaled_outer(
            self.down.forward(a, b), self.down.x_scale[a:b], self.down.weight.scale, 0, x[a:b]
        )

    def backward(self, dx: Tensor, update: Update) -> None:
        """dx (n, D) holds the gradient after the block; add the gradient through it."""
        products, scale = self.down.backward(dx, update)
        dy = torch.empty_like(products)
        tensors.relu_squared_backward(products, scale, self.positive[: dx.shape[0]], dy)
        self.norm.backward(dy, dx, update)


class Convolution:
    """x_t + sum_k w_k * x_{t-k}, per channel, k = 1 .. taps - 1, across chunk borders."""

    def __init__(self, weight: Weight, B: int, T: int) -> None:
        self.weight = weight  # (taps - 1, D)
        self.B = B
        self.past = weight.value.shape[0] * B  # rows kept from before the chunk
        self.x = weight.value.new_zeros(self.past + T * B, weight.value.shape[1])

    def forward(self, rows: Tensor, a: int) -> Tensor:
        """The convolution (n, D) of input rows (n, D), which are the chunk's from a on."""
        b, out = a + rows.shape[0], torch.empty_like(rows)
        self.x[self.past + a : self.past + b] = rows
        tensors.convolve(self.x[a : self.past + b], self.weight.value, self.B, out)
        return out

    def backward(self, dy: Tensor, update: Update) -> Tensor:
        """The gradient (n, D) of the chunk's input rows; the weight goes to `update`."""
        dx, w = torch.empty_like(dy), self.weight
        x = self.x[: self.past + dy.shape[0]]
        tensors.convolve_backward(dy, x, w.value, self.B, dx, w.products)
        update(w)
        return dx

    def advance(self, columns: int) -> None:
        """Keep the last rows of the chunk's first `columns` columns."""
        tensors.slide(self.x, columns * self.B, self.past)


class Transformer:
    """Logits for each row of a chunk of B streams and up to T columns, and their gradients."""

    def __init__(
        self,
        config: ModelConfig,
        B: int,
        T: int,
        seed: int,
        device: str,
        tokens: int = SYMBOLS,
        group: int | None = None,
    ) -> None:
        """group streams have scales of their own in the weights' gradients; by itself of B."""
        group = group_of(B) if group is None else group
        bounds.check(config, B, T, tokens, group)
        D, F = config.width, config.hidden
        self.B, self.weights = B, list[Weight]()

        def weight(name: str, outputs: int, inputs: int, gain: float) -> Weight:
            bound = gain * math.sqrt(3.0 / inputs)  # variance gain^2 / inputs
            value = uniform((outputs, inputs), bound, seed, len(self.weights))
            self.weights.append(Weight(name, torch.from_numpy(value).to(device)))
            return self.weights[-1]

        # What writes into the residual stream starts at zero: the net starts as the identity.
        self.convolution = (
            Convolution(weight("convolution", config.conv - 1, D, 0.0), B, T)
            if config.conv > 1
            else None
        )
        self.blocks: list[Attention | MLP] = []
        for i in range(config.layers):
            qkv = weight(f"layer{i}.qkv", 3 * D, D, 1.0)
            out = weight(f"layer{i}.out", D, D, 0.0)
            self.blocks.append(Attention(config, qkv, out, B, T, group))
            up = weight(f"layer{i}.up", F, D, 1.0)
            self.blocks.append(MLP(up, weight(f"layer{i}.down", D, F, 0.0), B, T, group))
        self.head = Linear(weight("head", tokens, D, 0.0), T * B, B, group)
        self.norm = _Norm(self.head)
        self.x = self.head.weight.value.new_zeros(T * B, D)  # the residual stream

    def forward(self, rows: Tensor, first: int, stream: int = 0) -> Tensor:
        """Logits (n, V) in nats of the columns from `first` on; rows (n, D) is the input.

        Or of some streams of one column, from `stream` on.
        """
        return self.forward_blocks(self.enter(rows, first, stream), first, stream)

    def enter(self, rows: Tensor, first: int, stream: int = 0) -> Tensor:
        """The rows (n, D) as they enter the blocks."""
        if self.convolution is None:
            return rows
        return self.convolution.forward(rows, first * self.B + stream)

    def forward_blocks(self, rows: Tensor, first: int, stream: int = 0) -> Tensor:
        """Logits (n, V) of rows (n, D) behind the convolution."""
        a = first * self.B + stream
        b = a + rows.shape[0]
        self.x[a:b] = rows
        for block in self.blocks:
            block.forward(self.x, a, b)
        self.norm.forward(self.x, a, b)
        products = self.head.forward(a, b)
        logits = torch.empty_like(products)
        tensors.scale_outer(products, self.head.x_scale[a:b], self.head.weight.scale, logits)
        return logits

    def backward(self, dlogits: Tensor, update: Update = keep) -> Tensor:
        """The gradient (n, D) of the input rows at dlogits (n, V); each weight goes to `update`.

        n is all rows of the chunk that `forward` has seen since the last `advance`.
        """
        return self.leave(self.backward_blocks(dlogits, update), update)

    def backward_blocks(self, dlogits: Tensor, update: Update) -> Tensor:
        """The gradient (n, D) behind the convolution."""
        dx = self.x.new_zeros(dlogits.shape[0], self.x.shape[1])
        self.norm.backward(dlogits, dx, update)
        for block in reversed(self.blocks):
            block.backward(dx, update)
        return dx

    def leave(self, dx: Tensor, update: Update) -> Tensor:
        """The gradient (n, D) of the input rows at dx (n, D) behind the convolution."""
        return dx if self.convolution is None else self.convolution.backward(dx, update)

    def caches(self) -> list[Tensor]:
        """Views of what a chunk needs of the chunks before it; zeros at the beginning."""
        views = [] if self.convolution is None else [self.convolution.x[: self.convolution.past]]
        for block in self.blocks:
            if isinstance(block, Attention):
                cached = (block.key, block.key_scale, block.value, block.value_scale)
                views += [cache[: block.window] for cache in cached]
        return views

    def advance(self, columns: int) -> None:
        """Move the caches past a finished chunk of `columns` columns."""
        for block in self.blocks:
            if isinstance(block, Attention):
                block.advance(columns)
        if self.convolution is not None:
            self.convolution.advance(columns)
