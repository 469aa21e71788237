"""The hand-written backward pass against float64 autograd of the same quantised function.

In the reference every rounding to integers is the same as in `tensors`, with the gradient passed
straight through it. What remains is that the backward pass itself rounds its operands to 7 bits.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from samples import Loops
from torch import Tensor

from prequential.config import ModelConfig
from prequential.exact import scalars, tensors
from prequential.transformer import model as model_module
from prequential.transformer.model import MLP, Attention, Transformer

B, T = 3, 6
CONFIG = ModelConfig(width=32, layers=2, heads=2, hidden=48, window=5, conv=3)


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Integers and scales of the rows of x, as `tensors.quantise_rows` gives them."""
    flat = x.detach().float().reshape(-1, x.shape[-1]).contiguous()
    q, scale = torch.empty_like(flat), torch.empty(len(flat))
    tensors.quantise_rows(flat, q, scale)
    return q.double().view(x.shape), scale.double().view(*x.shape[:-1], 1)


def rounded(x: Tensor) -> Tensor:
    """Rows quantised, gradient straight through."""
    q, scale = quantised(x)
    return x + (q * scale - x).detach()


def normed(x: Tensor) -> Tensor:
    y = rounded(x)
    return y / ((y * y).mean(-1, keepdim=True) + float(scalars.NORM_EPSILON)).sqrt()


def reference(model: Transformer, rows: Tensor, weights: dict[str, Tensor], past: dict) -> Tensor:
    """Logits (T, B, 256) in float64; past holds the caches from before the chunk."""
    linear = {name: rounded(w) for name, w in weights.items()}
    D, H, W = CONFIG.width, CONFIG.heads, CONFIG.window
    inputs = torch.cat((past["inputs"], rows.view(T, B, D)))
    x = rows.view(T, B, D)
    for k in range(1, CONFIG.conv):
        start = CONFIG.conv - 1 - k
        x = x + inputs[start : start + T] * weights["convolution"][k - 1]
    slopes = model.blocks[0].slopes[:H].double()
    for i in range(CONFIG.layers):
        heads = (normed(x) @ linear[f"layer{i}.qkv"].T).view(T, B, 3, H, D // H)
        q, k, v = (rounded(heads[:, :, j]) for j in range(3))
        k, v = torch.cat((past[f"key{i}"], k)), torch.cat((past[f"value{i}"], v))
        distance = torch.arange(T)[:, None] + W - torch.arange(W + T)
        scores = torch.einsum("tbhd,sbhd->bhts", q, k) / math.sqrt(D // H)
        scores = scores - math.log(2) * slopes[:, None, None] * distance
        scores = scores.masked_fill((distance < 0) | (distance > W), -math.inf)
        unit = quantised(v)[1]  # (W + T, B, H, 1), folded into the weights before they round
        folded = rounded(scores.softmax(-1) * unit.permute(1, 2, 3, 0))
        mixed = torch.einsum("bhts,sbhd->tbhd", folded, v / unit)
        x = x + rounded(mixed.reshape(T, B, D)) @ linear[f"layer{i}.out"].T
        up = (normed(x) @ linear[f"layer{i}.up"].T).clamp(min=0)
        x = x + rounded(up * up) @ linear[f"layer{i}.down"].T
    return normed(x) @ linear["head"].T


def trained_looking(model: Transformer) -> None:
    """Random weights everywhere, so that every path carries gradient, and random caches."""
    generator = torch.Generator().manual_seed(1)
    for w in model.weights:
        fan_in = 4 if w.name == "convolution" else w.value.shape[1]
        w.value.copy_(torch.randn(w.value.shape, generator=generator) / math.sqrt(fan_in))
        tensors.quantise_rows(w.value, w.quantised, w.scale)
    rows = torch.randn(T * B, CONFIG.width, generator=generator)
    model.forward(rows, 0)
    model.advance(T)


def finer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round operands to 17 bits instead of 7, so that the backward formulas show undisturbed."""

    def powers(magnitude: Tensor) -> tuple[Tensor, Tensor]:
        exponent = (magnitude.view(torch.int32) >> 23).clamp(127 - 40, 127 + 40)
        inverse, power = (270 - exponent) << 23, (exponent - 16) << 23
        return inverse.view(torch.float32), power.view(torch.float32)

    monkeypatch.setattr(tensors, "_powers", powers)
    monkeypatch.setattr(tensors, "_round", lambda x: x.round())


@pytest.mark.parametrize(
    ("mode", "tolerance"), [("kernels", 0.08), ("portable", 0.08), ("finer", 0.02)]
)
def test_gradients_agree_with_autograd(
    mode: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Transformer(CONFIG, B, T, seed=3, device="cpu")
    trained_looking(model)
    D, W = CONFIG.width, CONFIG.window
    past = {"inputs": model.convolution.x[: (CONFIG.conv - 1) * B].double().view(-1, B, D)}
    attentions = [block for block in model.blocks if isinstance(block, Attention)]
    assert sum(isinstance(block, MLP) for block in model.blocks) == len(attentions)
    for i, block in enumerate(attentions):
        for name, ints, scale in (
            (f"key{i}", block.key, block.key_scale),
            (f"value{i}", block.value, block.value_scale),
        ):
            cached = (ints[:W] * scale[:W, :, None]).double()
            past[name] = cached.view(W, B, CONFIG.heads, D // CONFIG.heads)
    rows = torch.randn(T * B, D, generator=torch.Generator().manual_seed(5))
    targets = torch.arange(T * B) * 37 % 256

    leaves = {w.name: w.value.double().requires_grad_() for w in model.weights}
    inputs = rows.double().requires_grad_()
    logits = reference(model, inputs, leaves, past).reshape(T * B, 256)

    with monkeypatch.context() as patch:
        if mode == "kernels":
            patch.setattr(model_module, "tensors", Loops())
        result = model.forward(rows, 0)
        d = result.double().softmax(-1)
        d[torch.arange(T * B), targets] -= 1
        if mode == "finer":
            finer(monkeypatch)
        dx = model.backward(d.float())
    logits.backward(d)
    assert torch.allclose(result.double(), logits.detach(), atol=0.03 * logits.abs().max().item())
    gradients = {w.name: w.products * w.product_scale[:, None] for w in model.weights}
    for name, mine in [*gradients.items(), ("inputs", dx)]:
        exact = inputs.grad if name == "inputs" else leaves[name].grad
        error = (mine.double() - exact).norm() / exact.norm()
        assert error < tolerance, (name, error)


def test_a_wrong_gradient_would_be_seen() -> None:
    """The control: the same comparison notices one lost term of the attention's backward pass."""
    model = Transformer(CONFIG, B, T, seed=3, device="cpu")
    trained_looking(model)
    rows = torch.randn(T * B, CONFIG.width, generator=torch.Generator().manual_seed(5))
    d = torch.randn(T * B, 256, generator=torch.Generator().manual_seed(6))
    model.forward(rows, 0)
    model.backward(d)
    whole = {w.name: (w.products * w.product_scale[:, None]).clone() for w in model.weights}
    block = model.blocks[0]
    block.value_scale.zero_()  # the gradient through the scores vanishes
    model.backward(d)
    lossy = {w.name: w.products * w.product_scale[:, None] for w in model.weights}
    name = "layer0.qkv"
    assert (whole[name] - lossy[name]).norm() > 0.04 * whole[name].norm()


def test_rows_without_loss_teach_nothing() -> None:
    model = Transformer(CONFIG, B, T, seed=3, device="cpu")
    trained_looking(model)
    model.forward(torch.randn(T * B, CONFIG.width), 0)
    dx = model.backward(torch.zeros(T * B, 256))
    assert not dx.any()
    assert all(not w.products.any() for w in model.weights)
    assert np.isfinite(dx.numpy()).all()
