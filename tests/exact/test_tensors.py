"""Every exact operation: the compiled loop, the PyTorch form and Python's integers agree."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from samples import Loops

from prequential.config import MAX_TERMS, OPERAND_MAX, OptimizerConfig
from prequential.exact import scalars, softmax, tensors
from prequential.exact.philox import uniform
from prequential.transformer.optimizer import Optimizer, Weight, update_of

LENGTHS = [*range(1, 66), 127, 128, 129, 512, 1024]


def values(*shape: int, seed: int = 0, spread: float = 6.0) -> torch.Tensor:
    """Normal float32 numbers times row-wise powers of two over 2 * spread octaves."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal(shape)
    rows = 2.0 ** generator.uniform(-spread, spread, (*shape[:-1], 1))
    return torch.from_numpy((x * rows).astype(np.float32))


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bit for bit, but for the sign of zero, which no operation can tell apart."""
    return bool(torch.equal(a, b))


def both(operation, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    """Run an operation that writes into outputs of these shapes, compiled and portable."""
    compiled = [torch.full(shape, 7.0) for shape in shapes]
    operation(Loops(), *compiled)
    portable = [torch.full(shape, 7.0) for shape in shapes]
    operation(tensors, *portable)
    for a, b in zip(compiled, portable, strict=True):
        assert same(a, b)
    return compiled


@pytest.mark.parametrize("columns", LENGTHS)
def test_quantised_rows_are_the_nearest_integers(columns: int) -> None:
    x = values(5, columns, seed=columns)
    x[0] = 0
    x[1] *= 2.0**-60  # below the smallest scale
    x[2] *= 2.0**60  # above the largest
    q, scale = both(lambda o, q, s: o.quantise_rows(x, q, s), (5, columns), (5,))
    for i in range(5):
        step = Fraction(scale[i].item())
        assert step.numerator == 1 or step.denominator == 1  # a power of two
        for j in range(columns):
            exact = Fraction(x[i, j].item()) / step
            nearest = max(-OPERAND_MAX, min(OPERAND_MAX, round(exact)))  # ties to even
            assert q[i, j].item() == nearest
        if i > 2:
            assert q[i].abs().max() >= 63  # seven bits are in use


@pytest.mark.parametrize(
    ("streams", "columns"), [(1, 9), (1, 1024), (2, 7), (5, 8), (37, 3), (33, 400)]
)
def test_a_weights_gradient_is_a_sum_over_groups_of_streams(streams: int, columns: int) -> None:
    """Two forms, near the true product; any division of the groups over ranks adds up to it."""
    n, outputs, inputs = streams * columns, 11, 33
    dy = values(n, outputs, seed=1) * 2.0**-12
    dy[:, 0] = 0
    xq = values(n, inputs, seed=2).mul(40).round().clamp(-OPERAND_MAX, OPERAND_MAX)
    group = scalars.group_of(streams)
    found, scale = torch.empty(outputs, inputs), torch.empty(outputs)
    tensors.weight_gradient(dy, xq, streams, group, found, scale)
    again, scale_again = torch.empty_like(found), torch.empty_like(scale)
    total = torch.empty(found.shape, dtype=torch.int32)
    for out in (again, total):
        Loops().weight_gradient(dy, xq, streams, group, out, scale_again)
        assert same(scale, scale_again)
    assert same(found, again)
    assert not group or same(found, total.float())
    gradient = (found * scale[:, None]).double()
    exact = dy.double().T @ xq.double()
    assert ((gradient - exact).norm() / exact.norm()).item() < 0.05
    if not group:
        return
    assert len(set(scale.tolist())) == 1
    middle = streams // group // 2 * group  # a border between two groups
    parts = []
    for own in (slice(0, middle), slice(middle, streams)):
        rows = [x.view(columns, streams, -1)[:, own].flatten(0, 1) for x in (dy, xq)]
        count = own.stop - own.start
        parts.append(torch.empty(outputs, inputs, dtype=torch.int32))
        tensors.weight_gradient(*rows, count, group, parts[-1], scale_again)
        assert same(scale, scale_again)
    assert same(found, (parts[0] + parts[1]).float())


def test_a_gradient_beyond_its_limit_is_held_there() -> None:
    """All groups at the limit are still a sum that int32 holds."""
    streams = scalars.GROUPS
    dy = torch.full((streams, 2), 1000.0)
    dy[:, 1] *= -1
    xq = torch.full((streams, 3), 127.0)
    for operations in (tensors, Loops()):
        found, scale = torch.empty(2, 3), torch.empty(2)
        operations.weight_gradient(dy, xq, streams, 1, found, scale)
        assert found[0].tolist() == [float((1 << 31) - 128)] * 3
        assert found[1].tolist() == [-float((1 << 31) - 128)] * 3
        assert scale.tolist() == [2.0**-26] * 2


@pytest.mark.parametrize("columns", [1, 16, 65, 128, 1024])
def test_norm_forward_and_backward_agree(columns: int) -> None:
    x, dy = values(7, columns, seed=4), values(7, columns, seed=5)
    x[0] = 0
    q, scale, rms = both(lambda o, q, s, r: o.norm_quantise(x, q, s, r), (7, columns), (7,), (7,))
    row = values(7, 1, seed=6)[:, 0]
    both(lambda o, dx: o.norm_backward(dy, row, q, scale, rms, dx), (7, columns))
    # Up to what quantisation loses, the mean square becomes m / (m + epsilon).
    m = (x.double() ** 2).mean(-1)
    y = (q * scale[:, None]).double()
    assert torch.allclose((y * y).mean(-1), m / (m + float(scalars.NORM_EPSILON)), atol=0.02)


def test_elementwise_operations_agree() -> None:
    products, row, column = values(6, 40, seed=6), values(6, 1, seed=7)[:, 0], values(1, 40)[0]
    both(lambda o, out: o.scale_outer(products, row, column, out), (6, 40))
    both(lambda o, out: o.add_scaled_outer(products, row, column, 3, out), (6, 50))
    positive, q, scale = both(
        lambda o, p, q, s: o.relu_squared(products, row, column, p, q, s),
        (6, 40),
        (6, 40),
        (6,),
    )
    expected, expected_scale = torch.empty_like(q), torch.empty_like(scale)
    tensors.quantise_rows(positive * positive, expected, expected_scale)
    assert same(q, expected)
    assert same(scale, expected_scale)
    both(lambda o, out: o.relu_squared_backward(products, row, positive, out), (6, 40))


@pytest.mark.parametrize("first", [0, 3, 12])
def test_attention_forms_agree(first: int) -> None:
    G, Tq, Nk, hs = 6, 4, first + 4, 16
    q = torch.randint(-127, 128, (G, Tq, hs)).float()
    k = torch.randint(-127, 128, (G, hs, Nk)).float()
    scales = [2.0 ** torch.randint(-9, -3, (n, G)).float() for n in (Tq, Nk, Nk, Tq)]
    slopes = 2.0 ** -torch.arange(G).float()
    temperature = np.float32(scalars.LOG2_E / 4)  # of 16 numbers
    weights, folded, _ = both(
        lambda o, w, f, s: o.attention_weights(
            q @ k, *scales[:3], slopes, temperature, first, 5, w, f, s
        ),
        (G, Tq, Nk),
        (G, Tq, Nk),
        (G, Tq),
    )
    assert torch.allclose(weights.sum(-1), torch.ones(G, Tq), atol=1e-5)
    position = torch.arange(Tq)[:, None] + first - torch.arange(Nk)
    hidden = (position < 0) | (position > 5)
    assert not weights[:, hidden].any()
    assert not folded[:, hidden].any()


@pytest.mark.parametrize(("streams", "columns"), [(1, 5), (3, 4), (2, 1)])
def test_heads_are_split_and_merged(streams: int, columns: int) -> None:
    H, hs = 2, 16
    n, D, G = streams * columns, H * hs, streams * H
    heads, scales = (columns, G, hs), (columns, G)
    products, row, column = values(n, 3 * D), values(n, 1)[:, 0], values(1, 3 * D)[0]
    parts = both(
        lambda o, q, qs, k, ks, v, vs: o.quantise_heads(
            products, row, column, 0, G, q, qs, k, ks, v, vs
        ),
        *(heads, scales) * 3,
    )
    y = (products * row[:, None] * column).view(columns, streams, 3, H, hs)
    for i in range(3):
        expected, scale = torch.empty(n * H, hs), torch.empty(n * H)
        tensors.quantise_rows(y[:, :, i].reshape(n * H, hs), expected, scale)
        assert same(parts[2 * i], expected.view(heads))
        assert same(parts[2 * i + 1], scale.view(scales))
    mixed, scale = values(G, columns, hs, seed=3), values(G, columns, seed=4)
    merged, _ = both(lambda o, q, s: o.merge_heads(mixed, scale, q, s), (n, D), (n,))
    o = (mixed * scale[:, :, None]).view(streams, H, columns, hs).permute(2, 0, 1, 3).reshape(n, D)
    tensors.quantise_rows(o, expected := torch.empty(n, D), torch.empty(n))
    assert same(merged, expected)
    both(
        lambda o, doq, s, dots: o.split_gradient(mixed.view(n, D), row, merged, row, doq, s, dots),
        heads,
        scales,
        scales,
    )


@pytest.mark.parametrize("window", [0, 3])
def test_attention_s_gradients_agree(window: int) -> None:
    """The two forms, and both with the formulas in float64."""
    streams, H, T, hs = 3, 2, 4, 16
    G, Nk = streams * H, window + T
    generator = torch.Generator().manual_seed(1)
    q, k, v, do = (
        torch.randint(-127, 128, (n, G, hs), generator=generator).float() for n in (T, Nk, Nk, T)
    )
    q_scale, k_scale, v_scale, do_scale = (
        2.0 ** torch.randint(-9, -3, (n, G), generator=generator).float() for n in (T, Nk, Nk, T)
    )
    dots, weights, slope = values(T, G, seed=2, spread=1), values(G, T, Nk, spread=0), 0.25
    distance = torch.arange(T)[:, None] + window - torch.arange(Nk)
    weights[:, (distance < 0) | (distance > window)] = 0
    (dy,) = both(
        lambda o, dy: o.attention_backward(
            do, do_scale, dots, q, q_scale, k, k_scale, v, v_scale, weights, np.float32(slope), 0,
            G, dy,
        ),
        (T * streams, 3 * H * hs),
    )  # fmt: skip
    (part,) = both(
        lambda o, dy: o.attention_backward(
            do, do_scale, dots, q, q_scale, k, k_scale, v, v_scale, weights, np.float32(slope), 1,
            2, dy,
        ),
        (T * streams, 3 * H * hs),
    )  # fmt: skip
    found, other = (y.view(T, streams, 3, H, hs) for y in (dy, part))
    assert same(found[:, 0, :, 1], other[:, 0, :, 1])
    other[:, 0, :, 1] = 7
    assert (other == 7).all()  # no other head's
    do, q, k, v = (
        x.double() * scale[:, :, None]
        for x, scale in ((do, do_scale), (q, q_scale), (k, k_scale), (v, v_scale))
    )
    w = weights.double()
    dscores = w * (torch.einsum("igj,kgj->gik", do, v) - dots.double().T[:, :, None])
    exact = (
        slope * torch.einsum("gik,kgj->igj", dscores, k),
        slope * torch.einsum("gik,igj->kgj", dscores, q)[window:],
        torch.einsum("gik,igj->kgj", w, do)[window:],
    )
    for mine, expected in zip(found.double().unbind(2), exact, strict=True):
        error = mine.reshape(T, G, hs) - expected
        assert error.norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(("streams", "taps", "columns"), [(1, 3, 5), (3, 2, 4), (4, 3, 1)])
def test_convolution_forms_agree(streams: int, taps: int, columns: int) -> None:
    n, D = streams * columns, 24
    x, w, dy = values((taps + columns) * streams, D), values(taps, D, seed=1), values(n, D, seed=2)
    (y,) = both(lambda o, out: o.convolve(x, w, streams, out), (n, D))
    delayed = torch.nn.functional.conv1d(
        x.view(-1, streams, D).permute(1, 2, 0).double(),
        torch.cat((torch.ones(1, D), w)).flip(0).T[:, None].double(),
        groups=D,
    )
    assert torch.allclose(y.double(), delayed.permute(2, 0, 1).reshape(n, D), rtol=1e-4, atol=1e-3)
    both(
        lambda o, dx, gradient: o.convolve_backward(dy, x, w, streams, dx, gradient),
        (n, D),
        (taps, D),
    )


def compiled_step(w: Weight, c: np.ndarray) -> None:
    gradient = w.products, w.product_scale
    Loops().descend(w.value, w.mean, w.square, *gradient, w.quantised, w.scale, c)


def test_adam_forms_agree_and_follow_the_formula() -> None:
    results = []
    for take in (lambda w, c: update_of(c)(w), compiled_step):
        weight = Weight("w", torch.from_numpy(uniform((12, 33), 1.0, seed=1, index=2)))
        optimizer = Optimizer(OptimizerConfig(warmup=0, rate=0.01, beta2=0.98))
        reference = weight.value.double()
        m = v = torch.zeros_like(reference)
        for step in range(1, 6):
            weight.products = torch.randint(-(2**20), 2**20, (12, 33)).float()
            torch.manual_seed(step)
            weight.products = torch.randint(-(2**20), 2**20, (12, 33)).float()
            weight.product_scale = torch.full((12,), 2.0**-18)
            gradient = weight.products.double() * 2.0**-18
            m, v = 0.9 * m + 0.1 * gradient, 0.98 * v + 0.02 * gradient**2
            denominator = (v / (1 - 0.98**step) + 1e-6).sqrt()
            reference = reference - 0.01 * m / (1 - 0.9**step) / denominator
            take(weight, optimizer.advance(1))
        assert torch.allclose(weight.value.double(), reference, atol=1e-5)
        results.append((weight.value, weight.quantised, weight.scale))
    for a, b in zip(*results, strict=True):
        assert same(a, b)


def test_products_at_the_bound_are_exact() -> None:
    for terms in (1, 2, MAX_TERMS - 1, MAX_TERMS, MAX_TERMS + 1, 3 * MAX_TERMS + 5):
        for sign in (1, -1):
            a = torch.full((3, terms), float(OPERAND_MAX))
            b = torch.full((terms, 2), float(sign * OPERAND_MAX))
            b[0] -= sign  # odd totals
            out = torch.empty(3, 2)
            tensors.matmul(a, b, out)
            exact = sign * (terms * OPERAND_MAX**2 - OPERAND_MAX)
            assert out[1, 1].item() == float(np.float32(exact))


def test_one_term_beyond_the_bound_is_not_exact() -> None:
    """The bound is tight enough to matter: a float32 sum past 2^24 loses odd totals."""
    terms = MAX_TERMS + 1
    exact = terms * OPERAND_MAX**2
    assert exact > 1 << 24
    total = np.float32(0)
    for _ in range(terms):
        total += np.float32(OPERAND_MAX * OPERAND_MAX)
    assert int(total) != exact


def test_reciprocal_root_is_close_everywhere() -> None:
    x = torch.tensor([2.0**e * f for e in range(-60, 61) for f in (1.0, 1.3, 1.9999)])
    y = tensors.rsqrt(x)
    assert (y.double() * x.double().sqrt() - 1).abs().max() < 3e-7


def test_tables_are_the_ones_of_the_format() -> None:
    table = scalars.EXP2_TABLE.astype("<i4").tobytes()
    assert (
        hashlib.sha256(table).hexdigest()
        == "22cf82166e48ce1b638761db987f44e4ee4b1b91d6a7c544b5fbefd8935a228c"
    )


def test_frequencies_are_proper() -> None:
    logits = values(40, 256, seed=11).numpy()
    logits[0] = 0
    logits[1] = -1e30
    logits[2, 3] = 1e30
    logits[3] = np.linspace(-40, 0, 256)
    out = np.empty((40, 256), np.int32)
    softmax.frequencies(logits, 24, out)
    assert out.min() >= 1
    assert (out.sum(1, dtype=np.int64) == 1 << 24).all()
    assert out[2, 3] == (1 << 24) - 255
    p = np.exp(logits[3].astype(np.float64))
    assert np.allclose(out[3] / 2.0**24, p / p.sum(), rtol=1e-3, atol=2e-7)


def test_initial_weights_are_pinned() -> None:
    weights = uniform((2, 3), 1.0, seed=5, index=7)
    assert np.abs(weights).max() < 1
    digest = hashlib.sha256(uniform((64, 64), 0.25, 5, 7).astype("<f4").tobytes())
    assert digest.hexdigest().startswith("35c127440f2fb827ae50305e596ff107")


@pytest.mark.parametrize(("step", "kept"), [(1, 6), (3, 2), (4, 3), (7, 0)])
def test_caches_slide(step: int, kept: int) -> None:
    x = values(7, 3, 4)
    for operations in (tensors, Loops()):
        moved = x.clone()
        operations.slide(moved.view(7, 12), step, kept)
        assert same(moved[:kept], x[step : step + kept])
        assert same(moved[kept:], x[kept:])


def test_the_gradient_is_p_minus_y() -> None:
    frequencies = np.full((3, 256), 1 << 16, np.int32)
    frequencies[1, :2] += (5, -5)
    dlogits = np.full((3, 256), 9, np.float32)
    softmax.gradient(frequencies, np.array([7, 0, 1], np.uint8), 2, 24, dlogits)
    expected = frequencies / 2.0**24
    expected[0, 7] -= 1
    expected[1, 0] -= 1
    expected[2] = 0  # past the end
    assert np.array_equal(dlogits, expected)
