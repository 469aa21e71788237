"""The same transformer in ordinary PyTorch: float32, autograd, library operations, Adam.

It is what the exact arithmetic is compared with (`bench`); no archive depends on it. Weights carry
the names of `model.Transformer`, and with the same weights the logits agree as far as 7 bits go.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from prequential.config import SYMBOLS, ModelConfig, OptimizerConfig


class Plain(torch.nn.Module):
    """Logits of chunks of B streams and T columns, time-major rows as in `model`."""

    def __init__(self, config: ModelConfig, B: int, T: int) -> None:
        super().__init__()
        c, D, H, W = config, config.width, config.heads, config.window
        self.config, self.B, self.T = c, B, T
        shapes = {"head": (SYMBOLS, D)}
        if c.conv > 1:
            shapes["convolution"] = (c.conv - 1, D)
        for i in range(c.layers):
            shapes |= {f"layer{i}.qkv": (3 * D, D), f"layer{i}.out": (D, D)}
            shapes |= {f"layer{i}.up": (c.hidden, D), f"layer{i}.down": (D, c.hidden)}
        self.weights = {
            name: torch.nn.Parameter(torch.randn(shape) / math.sqrt(shape[1]))
            for name, shape in shapes.items()
        }
        self.past = torch.zeros((c.conv - 1) * B, D)
        self.cached = [torch.zeros(2, B, H, W, D // H) for _ in range(c.layers)]
        distance = (torch.arange(T)[:, None] + W - torch.arange(W + T)).float()  # (T, W + T)
        slopes = math.log(2) * torch.tensor([2.0 ** -(1 + 8 * h // H) for h in range(H)])
        visible = (distance >= 0) & (distance <= W)
        self.bias = torch.where(visible, -slopes[:, None, None] * distance, -math.inf)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits (T * B, 256) of a whole chunk's input rows (T * B, D); the caches move on."""
        w, D = self.weights, self.config.width
        x = rows if self.config.conv == 1 else self._convolve(rows)
        for i in range(self.config.layers):
            x = x + F.linear(self._attend(i, F.rms_norm(x, (D,))), w[f"layer{i}.out"])
            up = F.linear(F.rms_norm(x, (D,)), w[f"layer{i}.up"])
            x = x + F.linear(F.relu(up).square(), w[f"layer{i}.down"])
        return F.linear(F.rms_norm(x, (D,)), w["head"])

    def _convolve(self, rows: Tensor) -> Tensor:
        extended = torch.cat([self.past, rows])
        x = rows
        for k, tap in enumerate(self.weights["convolution"], start=1):
            start = len(self.past) - k * self.B
            x = x + extended[start : start + len(rows)] * tap
        self.past = extended[len(rows) :].detach()
        return x

    def _attend(self, i: int, x: Tensor) -> Tensor:
        c, B, T = self.config, self.B, self.T
        heads = F.linear(x, self.weights[f"layer{i}.qkv"]).view(T, B, 3, c.heads, -1)
        q, *kv = heads.permute(2, 1, 3, 0, 4)  # 3 x (B, H, T, hs)
        k, v = extended = torch.cat([self.cached[i], torch.stack(kv)], 3)  # (2, B, H, W + T, hs)
        self.cached[i] = extended[:, :, :, T:].detach()
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + self.bias
        mixed: Tensor = torch.softmax(scores, -1) @ v
        return mixed.permute(2, 0, 1, 3).reshape(T * B, c.width)


class PlainTrainer:
    """`Plain` with its optimizer: one step per chunk, as in `learner`."""

    def __init__(self, model: Plain, config: OptimizerConfig) -> None:
        self.model = model
        self.optimizer = torch.optim.Adam(
            model.weights.values(),
            config.rate,
            (config.beta1, config.beta2),
            config.epsilon,
            fused=True,  # the fastest form on the CPU
        )

    def step(self, rows: Tensor, targets: Tensor) -> Tensor:
        """One step on input rows (n, D) and symbols (n,) int64; the rows' gradient (n, D)."""
        rows = rows.requires_grad_()
        loss = F.cross_entropy(self.model.forward(rows), targets, reduction="sum")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        assert rows.grad is not None
        return rows.grad
