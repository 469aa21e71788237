"""`preq bench`: what it compares is the same net, and its figures hang together."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from prequential.cli import main
from prequential.config import load
from prequential.study import bench
from prequential.study.plain import Plain
from prequential.transformer.model import Transformer


def test_the_plain_transformer_is_the_same_net() -> None:
    """With the same weights, over several chunks: logits agree to what 7-bit operands allow."""
    config = load("tiny", overrides=["model.layers=2"]).resolve(4000)
    B, T = config.streams, config.chunk
    exact, plain = Transformer(config.model, B, T, 1, "cpu"), Plain(config.model, B, T)
    generator = torch.Generator().manual_seed(0)
    for weight in exact.weights:
        weight.start((0.3 * torch.randn(weight.value.shape, generator=generator)).numpy())
        plain.weights[weight.name].data.copy_(weight.value)
    assert set(plain.weights) == {weight.name for weight in exact.weights}
    with torch.no_grad():
        for _ in range(3):
            rows = torch.randn(T * B, config.model.width, generator=generator)
            a, b = exact.forward(rows, 0), plain(rows)
            exact.advance(T)
            assert (a - b).norm() < 0.06 * b.norm()
        # Without the cached chunks the agreement goes: the window is compared, too.
        alone = Plain(config.model, B, T)
        alone.weights = plain.weights
        assert (a - alone(rows)).norm() > 0.12 * b.norm()


def test_flops_of_a_step_are_those_of_its_products(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load("tiny").resolve(4000)
    B, T = config.streams, config.chunk
    net = Transformer(config.model, B, T, 1, "cpu")
    counted = 0
    for name in ("matmul", "bmm"):
        real = getattr(torch, name)

        def counting(a: torch.Tensor, b: torch.Tensor, *rest: object, real=real, **named: object):
            nonlocal counted
            counted += 2 * a.numel() * b.shape[-1]
            return real(a, b, *rest, **named)

        monkeypatch.setattr(torch, name, counting)
    net.forward(torch.ones(T * B, config.model.width), 0)
    net.backward(torch.ones(T * B, 256))
    assert counted == bench.step_flops(config.model, B, T)


@pytest.mark.slow
def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--preset", "tiny", "--rounds", "2", "--threads", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    works = {speed["work"]: speed for speed in result["speeds"]}
    assert set(works) == {
        "plain step", "exact step", "plain learner", "exact learner", "encode", "decode",
    }  # fmt: skip
    assert all(0 < w["low"] <= w["median"] <= w["high"] for w in works.values())
    assert 0 < result["step_gflops"] < result["sgemm_gflops"]
    assert set(result["ratios"]) == {
        f"{name}, 1 threads"
        for name in ("determinism tax", "tax of the whole learner", "decode / encode")
    }
    for shares in result["stages"].values():
        assert np.isclose(sum(shares.values()), 1)
        assert shares["matrix products"] > 0
        assert shares["optimizer"] > 0


@pytest.mark.slow
def test_two_threads_and_two_encoders_apart() -> None:
    result = bench.run(load("tiny"), (1, 2), rounds=1)
    works = {(s.work, s.threads): s.median for s in result.speeds}
    assert works["encode apart", 2] > 0
    assert ("encode apart", 1) not in works
    assert np.isclose(
        result.ratios["encode, 2 apart over 1"], works["encode apart", 2] / works["encode", 1]
    )
    shared = works["encode", 2] / works["encode", 1]
    assert np.isclose(result.ratios["encode, 2 threads over 1"], shared)


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for threads in ("0", "1,1", "two"):
        with pytest.raises(SystemExit, match="2"):
            main(["bench", "--threads", threads])
    assert main(["bench", "--preset", "tiny", "--set", "model.width=7"]) == 2
