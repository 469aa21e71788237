"""The start-up self-test: its answers from first principles, its speed, what it refuses."""

from __future__ import annotations

import json
import re
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from samples import small, text

from prequential import codec
from prequential.cli import entry as cli
from prequential.errors import PlatformError
from prequential.exact import hosttest, scalars, selftest, tensors
from prequential.training.host import _settings

A, B = selftest.operands(4001, 1), selftest.operands(4001, 2)


def nearest(exact: Fraction) -> np.float32:
    """The float32 nearest to a fraction, ties to even, by integers alone; no subnormals."""
    magnitude, exponent = abs(exact), 0
    while magnitude >= 1 << 24:
        magnitude /= 2
        exponent += 1
    while magnitude < 1 << 23:
        magnitude *= 2
        exponent -= 1
    return np.float32((1 if exact > 0 else -1) * round(magnitude) * 2.0**exponent)


def of_fractions(operation) -> np.ndarray:
    pairs = zip(A.tolist(), B.tolist(), strict=True)
    return np.array([nearest(operation(Fraction(a), Fraction(b))) for a, b in pairs], np.float32)


def product_then_difference(a: Fraction, b: Fraction) -> Fraction:
    return Fraction(float(nearest(a * b))) - b


@pytest.mark.parametrize(
    ("answer", "operation"),
    [
        ("sum", Fraction.__add__),
        ("product", Fraction.__mul__),
        ("quotient", Fraction.__truediv__),
        ("product, then difference", product_then_difference),
    ],
)
def test_answers_are_those_of_fractions(answer: str, operation) -> None:
    assert selftest.sha256(of_fractions(operation)) == selftest.ANSWERS[answer]


def test_a_fused_multiply_add_would_be_noticed() -> None:
    fused = of_fractions(lambda a, b: a * b - b)
    assert selftest.sha256(fused) != selftest.ANSWERS["product, then difference"]


@pytest.mark.slow
def test_reciprocal_root_from_fractions() -> None:
    def root(x: np.float32) -> np.float32:
        seed = np.array([0x5F375A86 - (int(x.view(np.int32)) >> 1)], np.int32)
        y, half = seed.view(np.float32)[0], Fraction(float(x)) / 2
        for _ in range(3):
            t = nearest(Fraction(float(nearest(half * Fraction(float(y))))) * Fraction(float(y)))
            d = nearest(Fraction(3, 2) - Fraction(float(t)))
            y = nearest(Fraction(float(y)) * Fraction(float(d)))
        return y

    x = np.abs(selftest.operands(4001, 3))
    roots = np.array([root(value) for value in x], np.float32)
    assert selftest.sha256(roots) == selftest.ANSWERS["reciprocal root"]


def test_every_fact_holds_here_and_quickly() -> None:
    with _settings():
        selftest.run()  # loads the compiled loops
        started = time.perf_counter()
        results = selftest.run()
        seconds = time.perf_counter() - started
    assert [fact.name for fact, ok in results if not ok] == []
    assert seconds < 0.2


@pytest.mark.parametrize("layers", [0, 1])
def test_nothing_is_encoded_or_decoded_where_a_fact_fails(monkeypatch, layers) -> None:
    """With a transformer, and without: then it is NumPy's and the loops' facts that count."""
    config = small(f"model.layers={layers}")
    archive = codec.compress(text(500), 1, config)
    monkeypatch.setitem(selftest.ANSWERS, "quotient", "0" * 32)
    message = "does not hold that float32 division is correctly rounded; the usual cause is"
    with pytest.raises(PlatformError, match=message):
        codec.compress(text(500), 1, config)
    with pytest.raises(PlatformError, match=message):
        codec.decompress(archive)
    with pytest.raises(PlatformError, match=message):
        codec.codelength(text(500), 1, config)


def broken_matmul(a, b):
    return torch.matmul(a, b) + (a.shape[-1] > 60)


@pytest.mark.parametrize(
    ("target", "name", "value", "fact"),
    [
        (torch.Tensor, "__matmul__", broken_matmul, "float32 products"),
        (scalars, "EXP2_TABLE", scalars.EXP2_TABLE + 1, "tables"),
        (torch.Tensor, "round", lambda x: (x + 0.5).floor(), "rounding"),
        (torch.Tensor, "__truediv__", lambda x, y: x * (1.0 / y), "division"),
        (tensors, "rsqrt", lambda x: x.rsqrt(), "root"),
        (tensors, "_HIDDEN", 100.0, "attention"),
    ],
)
def test_a_broken_platform_is_noticed(monkeypatch, target, name, value, fact) -> None:
    monkeypatch.setattr(target, name, value)
    assert fact in [f.name for f, ok in selftest.run() if not ok]


@pytest.mark.parametrize("fact", hosttest.HOST, ids=lambda fact: fact.name)
def test_a_host_without_pytorch_is_tested_too(monkeypatch, fact) -> None:
    """By each fact that a broken test stands for, one that raises included."""
    hosttest.require()
    broken = [fact._replace(holds=lambda: False), fact._replace(holds=lambda: 1 // 0)]
    for other in broken:
        with pytest.raises(PlatformError, match=re.escape(fact.claim)):
            hosttest.require([other])
    monkeypatch.setattr(hosttest, "ANSWERS", dict.fromkeys(hosttest.ANSWERS, "0" * 32))
    pinned = fact.name not in ("rounding", "subnormals", "products")
    assert hosttest.held(fact.holds) != pinned


def test_doctor(capsys) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    shown_of_it = {"machine", "torch", "numpy", "numba", "threads", "blas", "products"}
    assert shown_of_it <= set(found["platform"])
    assert [fact["ok"] for fact in found["facts"]] == [True] * (len(selftest.FACTS) + 1)
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for fact in selftest.FACTS:
        assert fact.claim in shown


def test_doctor_of_a_failing_platform(monkeypatch, capsys) -> None:
    monkeypatch.setitem(selftest.ANSWERS, "quotient", "0" * 32)
    assert cli.main(["doctor"]) == 1
    printed = capsys.readouterr()
    assert "failed  float32 division is correctly rounded" in printed.out
    assert printed.err.startswith("preq: error: failed: division; usual causes: a PyTorch build")
    assert cli.main(["doctor", "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["ok"]
