"""The recurrent network against its definition in `tensors`, and against float64 autograd."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prequential.config import SYMBOLS, RecurrenceConfig
from prequential.exact import scalars, shares, tensors
from prequential.recurrence import loops
from prequential.recurrence.network import Recurrence

B, T, H = 2, 7, 24
WEIGHTS = "hidden", "below", "head"


def made(layers: int = 2, streams: int = B, columns: int = T) -> Recurrence:
    """One with random weights everywhere, so that every path carries gradient."""
    config = RecurrenceConfig(layers=layers, cells=H, rate=0.01, head_rate=0.01)
    recurrence = Recurrence(config, streams, columns, seed=3)
    generator = np.random.default_rng(1)
    for name in WEIGHTS:
        value = getattr(recurrence.network, name).value
        value[...] = generator.standard_normal(value.shape) / math.sqrt(H)
    recurrence.quantise()
    return recurrence


def enter(recurrence: Recurrence, seed: int, columns: int = T) -> np.ndarray:
    """Rows located as the history would; dlogits (n, V)."""
    generator = np.random.default_rng(seed)
    rows = recurrence.embeddings.state.rows[:columns]
    rows[...] = generator.integers(SYMBOLS, size=rows.shape)
    n = columns * recurrence.network.streams
    return 0.1 * generator.standard_normal((n, SYMBOLS)).astype(np.float32)


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    q, scale = torch.empty_like(x), torch.empty(len(x))
    tensors.quantise_rows(x, q, scale)
    return q, scale


class Defined:
    """The same network, operation by operation in PyTorch, from the same weights."""

    def __init__(self, recurrence: Recurrence) -> None:
        net = recurrence.network
        self.layers, self.streams = len(net.outputs), net.streams
        self.weights: dict[str, Any] = {}
        for name in WEIGHTS:
            value, square, *_ = getattr(net, name)
            layers = [torch.from_numpy(x.copy()) for x in value]
            squares = [torch.from_numpy(x.copy()) for x in square]
            self.weights[name] = [
                [w, v, *quantised(w)] for w, v in zip(layers, squares, strict=True)
            ]
        self.h = torch.zeros(self.layers, self.streams, H)
        self.c = torch.zeros(self.layers, self.streams, H)

    def product(self, name: str, layer: int, x: Tensor, into: Tensor) -> tuple[Tensor, Tensor]:
        """into += x W^T; the quantised x and its scale."""
        _, _, w, w_scale = self.weights[name][layer]
        q, scale = quantised(x)
        y = torch.empty(len(x), len(w))
        tensors.matmul(q, w.T, y)
        tensors.add_scaled_outer(y, scale, w_scale, 0, into)
        return q, scale

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (n, V) of inputs (n, L * 6H)."""
        self.kept: dict[tuple[int, int], Any] = {}
        logits = torch.zeros(len(inputs), SYMBOLS)
        for t in range(len(inputs) // self.streams):
            rows = slice(t * self.streams, (t + 1) * self.streams)
            for layer in range(self.layers):
                before, after = inputs[rows].split(3 * H, 1)[2 * layer :][:2]
                seen = torch.zeros(self.streams, 3 * H)
                hidden = self.product("hidden", layer, self.h[layer], seen)
                below = None
                if layer:
                    below = self.product("below", layer - 1, self.h[layer - 1], seen)
                x = (seen + before).view(-1, H)
                gates, scale, rms = torch.empty_like(x), torch.empty(len(x)), torch.empty(len(x))
                tensors.norm_quantise(x, gates, scale, rms)
                active, start = torch.empty_like(seen), self.c[layer].clone()
                squashed, out = torch.empty_like(start), torch.empty_like(start)
                arguments = gates, scale, after, start, active, self.c[layer], squashed, out
                tensors.cell(*arguments)
                self.h[layer] = out
                head = self.product("head", layer, out, logits[rows])
                kept = gates, scale, rms, active, start, squashed
                self.kept[t, layer] = kept, hidden, below, head
        return logits

    def through(self, name: str, layer: int, dy: Tensor) -> Tensor:
        _, _, w, w_scale = self.weights[name][layer]
        q, scale = quantised(dy * w_scale)
        dx = torch.empty(len(dy), H)
        tensors.matmul(q, w, dx)
        return dx * scale[:, None]

    def step(
        self, name: str, layer: int, dy: list[Tensor], entered: list[Any], c: np.ndarray
    ) -> None:
        """One step at dy, column by column, where the quantised rows have entered."""
        w, v, q, w_scale = self.weights[name][layer]
        xq, scale = (torch.cat([x[k] for x in entered]) for k in (0, 1))
        products, product_scale = torch.empty_like(w), torch.empty(len(w))
        dyx = torch.cat(dy) * scale[:, None]
        tensors.weight_gradient(dyx, xq, 1, 0, products, product_scale)
        tensors.descend(w, v, v, products, product_scale, q, w_scale, c)

    def learn(self, dlogits: Tensor, constants: np.ndarray) -> Tensor:
        """One step at dlogits (n, V): the gradient (n, L * 6H) of the inputs."""
        columns = range(len(dlogits) // self.streams)
        dinputs = torch.zeros(len(dlogits), self.layers * 6 * H)
        at = [slice(t * self.streams, (t + 1) * self.streams) for t in columns]
        dh = {
            (t, layer): self.through("head", layer, dlogits[at[t]])
            for t in columns
            for layer in range(self.layers)
        }
        dgates = {}
        for layer in reversed(range(self.layers)):
            dout, dstate = torch.zeros(2, self.streams, H)
            for t in reversed(columns):
                gates, scale, rms, active, start, squashed = self.kept[t, layer][0]
                dout = dout + dh[t, layer]
                dseen, dx = torch.empty(2, self.streams, 3 * H)
                tensors.cell_backward(active, start, squashed, dout, dstate, dseen)
                dx.zero_()
                ones = torch.ones(3 * self.streams)
                tensors.norm_backward(dseen.view(-1, H), ones, gates, scale, rms, dx.view(-1, H))
                dgates[t, layer] = dx
                both = dinputs[at[t], layer * 6 * H : (layer + 1) * 6 * H]
                both.copy_(torch.cat((dx, dseen), 1))
                dout = self.through("hidden", layer, dx)
                if layer:
                    dh[t, layer - 1] = dh[t, layer - 1] + self.through("below", layer - 1, dx)
        for layer in range(self.layers):
            kept = [self.kept[t, layer] for t in columns]
            dy = [dgates[t, layer] for t in columns]
            self.step("hidden", layer, dy, [k[1] for k in kept], constants[0])
            if layer:
                self.step("below", layer - 1, dy, [k[2] for k in kept], constants[1])
            dy = [dlogits[rows] for rows in at]
            self.step("head", layer, dy, [k[3] for k in kept], constants[2])
        return dinputs


@pytest.mark.parametrize(("layers", "streams"), [(1, 1), (2, 3), (3, 2)])
def test_the_loops_give_the_bits_of_the_definition(layers: int, streams: int) -> None:
    recurrence = made(layers, streams)
    defined = Defined(recurrence)
    for seed, columns in enumerate((T, T, 3)):
        n = columns * streams
        dlogits = enter(recurrence, seed, columns)
        recurrence.forward(0, columns)
        net = recurrence.network
        logits = defined.forward(torch.from_numpy(net.inputs[:n].copy()))
        assert np.array_equal(logits.numpy(), net.logits[:n])
        recurrence.learn(dlogits, n)
        constants = recurrence._constants()
        dinputs = defined.learn(torch.from_numpy(dlogits), constants)
        assert np.array_equal(dinputs.numpy(), net.dinputs[:n])
        for name in WEIGHTS:
            for layer, (w, v, *_) in enumerate(defined.weights[name]):
                assert np.array_equal(w.numpy(), getattr(net, name).value[layer]), name
                assert np.array_equal(v.numpy(), getattr(net, name).square[layer]), name
        recurrence.advance(columns)


def rounded(x: Tensor) -> Tensor:
    """Rows quantised, gradient straight through."""
    q, scale = quantised(x.detach().float().contiguous())
    return x + ((q * scale[:, None]).double() - x).detach()


def looked_up(smooth: Tensor, exact: Tensor) -> Tensor:
    """The table's number, with the gradient of the function."""
    return smooth + (exact.double() - smooth).detach()


def reference(recurrence: Recurrence, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """Logits (n, V) in float64, from the state at the beginning."""
    L = len(recurrence.network.outputs)
    h, c = ([torch.zeros(B, H).double() for _ in range(L)] for _ in range(2))
    every = []
    for t in range(T):
        logits: Any = 0
        for layer in range(L):
            before, after = inputs[t * B : (t + 1) * B].split(3 * H, 1)[2 * layer :][:2]
            x = rounded(h[layer]) @ rounded(weights["hidden"][layer]).T + before
            if layer:
                x = x + rounded(h[layer - 1]) @ rounded(weights["below"][layer - 1]).T
            x = rounded(x.reshape(-1, H))
            rms = ((x * x).mean(-1, keepdim=True) + float(scalars.NORM_EPSILON)).sqrt()
            f, g, o = ((x / rms).reshape(B, 3 * H) + after).split(H, 1)
            f = looked_up(f.sigmoid(), tensors._logistic(f.detach().float()))
            g = looked_up(g.tanh(), tensors._tangent(g.detach().float()))
            o = looked_up(o.sigmoid(), tensors._logistic(o.detach().float()))
            c[layer] = f * c[layer] + (1 - f) * g
            squashed = looked_up(c[layer].tanh(), tensors._tangent(c[layer].detach().float()))
            h[layer] = o * squashed
            logits = logits + rounded(h[layer]) @ rounded(weights["head"][layer]).T
        every.append(logits)
    return torch.cat(every)


def test_cells_begin_by_remembering_at_different_rates() -> None:
    recurrence = Recurrence(RecurrenceConfig(cells=64), 1, T, seed=3)
    table = recurrence.embeddings.state.table[:SYMBOLS].reshape(SYMBOLS, 2, 3, 64)
    forget = table[:, 1, 0].mean(axis=0)
    assert np.allclose(forget, np.arange(64) / 16, atol=0.1)
    others = np.delete(table.reshape(SYMBOLS, 6, 64), 3, axis=1)
    assert np.abs(others).max() <= np.float32(0.3)
    enter(recurrence, 1)
    recurrence.embeddings.state.rows[..., 1:] = -1
    states = []
    for state in (0, 1):
        recurrence.network.states[0, 0] = state
        recurrence.forward(0, T)
        states.append(recurrence.network.states[0, T].copy())
    left = states[1] - states[0]  # of the state before the chunk
    assert left[:8].max() < 0.5 < 0.8 < left[-8:].mean()


def test_a_context_may_say_nothing() -> None:
    recurrence = made()
    dlogits = enter(recurrence, 1)
    embeddings = recurrence.embeddings
    rows = embeddings.state.rows[:T]
    rows[..., 1:] = np.random.default_rng(2).integers(SYMBOLS, 2 * SYMBOLS, rows[..., 1:].shape)
    embeddings.state.table[SYMBOLS : 2 * SYMBOLS] = 1
    rows[..., -1] = -1
    said = embeddings.gather(0, T)
    table = embeddings.state.table
    assert np.allclose(said, table[rows[..., :-1]].sum(axis=2).reshape(said.shape), rtol=1e-6)
    before = table.copy()
    recurrence.forward(0, T)
    recurrence.learn(dlogits, T * B)
    changed = np.flatnonzero((table != before).any(axis=1))
    assert set(changed) == set(rows[rows >= 0].tolist())


def test_gradients_agree_with_autograd() -> None:
    recurrence = made()
    dlogits = enter(recurrence, 5)
    net = recurrence.network
    recurrence.forward(0, T)
    leaves = {
        name: torch.from_numpy(getattr(net, name).value.copy()).double().requires_grad_()
        for name in WEIGHTS
    }
    inputs = torch.from_numpy(net.inputs.copy()).double().requires_grad_()
    logits = reference(recurrence, leaves, inputs)
    error = np.abs(logits.detach().numpy() - net.logits).max()
    assert error < 0.03 * np.abs(net.logits).max()
    logits.backward(torch.from_numpy(dlogits).double())
    # A step of plain descent shows the gradient.
    constants = np.full((3, 1), 1e-3, np.float32)
    kept = {name: getattr(net, name).value.copy() for name in WEIGHTS}
    loops.backward(recurrence.packed, dlogits)
    loops.update(shares.phases(1), recurrence._pieces, recurrence.packed, dlogits, constants)
    found = {name: (kept[name] - getattr(net, name).value) / 1e-3 for name in WEIGHTS}
    for name, mine in {**found, "inputs": net.dinputs}.items():
        exact = inputs.grad if name == "inputs" else leaves[name].grad
        assert exact is not None
        error = np.linalg.norm(mine - exact.numpy()) / np.linalg.norm(exact.numpy())
        assert error < 0.08, (name, error)


def test_columns_one_by_one_give_the_bits_of_a_chunk() -> None:
    whole, stepwise = made(), made()
    for seed in range(3):
        dlogits = enter(whole, seed)
        enter(stepwise, seed)
        whole.forward(0, T)
        for t in range(T):
            stepwise.forward(t, t + 1)
        assert np.array_equal(whole.network.logits, stepwise.network.logits)
        for recurrence in (whole, stepwise):
            recurrence.learn(dlogits, len(dlogits))
            recurrence.advance(T)
        for one, other in zip(whole.state(), stepwise.state(), strict=True):
            assert np.array_equal(one, other)


def test_streams_do_not_see_each_other() -> None:
    both, one = made(streams=2), made(streams=1)
    enter(both, 7)
    one.embeddings.state.rows[:, 0] = both.embeddings.state.rows[:, 1]
    for recurrence in (both, one):
        recurrence.forward(0, T)
    assert np.array_equal(both.network.logits[1::2], one.network.logits)


def test_what_it_knows_can_be_put_back() -> None:
    one, other = made(), made()
    for seed in range(2):
        dlogits = enter(one, seed)
        one.forward(0, T)
        one.learn(dlogits, len(dlogits))
        one.advance(T)
    for name, array in other.arrays().items():
        array[...] = one.arrays()[name]
    for view, kept in zip(other.state(), one.state(), strict=True):
        view[...] = kept
    other.quantise()
    for recurrence in (one, other):
        enter(recurrence, 9)
        recurrence.forward(0, T)
    assert np.array_equal(one.network.logits, other.network.logits)


def test_it_learns() -> None:
    recurrence = made(1, 1)
    targets = np.arange(T) * 5 % 11
    losses = []
    for _ in range(40):
        recurrence.embeddings.state.rows[:, 0, 0] = np.roll(targets, 1)
        recurrence.embeddings.state.rows[:, 0, 1:] = -1
        recurrence.forward(0, T)
        logits = torch.from_numpy(recurrence.network.logits)
        losses.append(float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets))))
        dlogits = logits.softmax(-1).numpy()
        dlogits[np.arange(T), targets] -= 1
        recurrence.learn(dlogits, T)
        recurrence.advance(T)
    assert losses[-1] < 0.2 * losses[0]


def test_none_is_nothing() -> None:
    recurrence = Recurrence(RecurrenceConfig(layers=0), B, T, seed=1)
    recurrence.forward(0, T)
    recurrence.learn(np.zeros((T * B, SYMBOLS), np.float32), T * B)
    recurrence.advance(T)
    assert not any(array.size for array in recurrence.arrays().values())
