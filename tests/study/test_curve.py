"""Description lengths from published loss curves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prequential.cli import main
from prequential.study.curve import describe


@pytest.mark.parametrize(("loss", "gigabytes"), [(1.5, 379), (1.6, 404), (1.7, 429)])
def test_llama_65b(loss: float, gigabytes: int) -> None:
    """1.4T tokens of 5.6 TB, seen once: 13 to 15 times smaller."""
    found = describe([1.4e12], [loss], raw_bytes=5_600_000_000_000, code_bytes=1_000_000)
    assert round(found.total_bytes / 1e9) == gigabytes
    assert found.factor is not None
    assert 13 <= found.factor <= 15


def test_repeats_are_not_counted() -> None:
    once = describe([0, 100], [3.0, 1.0], nats=False)
    assert (once.payload_bits, once.repeated_tokens) == (200.0, 0.0)
    twice = describe([0, 100, 200], [3.0, 1.0, 0.5], nats=False, epoch_tokens=100)
    assert twice.payload_bits == 200.0
    assert twice.repeated_tokens == 100.0
    half = describe([0, 100], [3.0, 1.0], nats=False, epoch_tokens=50)
    assert (half.payload_bits, half.final_bits_per_token) == (125.0, 2.0)


@pytest.mark.parametrize(
    ("tokens", "losses"),
    [([], []), ([1.0], []), ([2.0, 1.0], [1.0, 1.0]), ([1.0], [float("nan")]), ([-1.0], [1.0])],
)
def test_not_a_curve(tokens: list[float], losses: list[float]) -> None:
    with pytest.raises(ValueError, match="loss curve"):
        describe(tokens, losses)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "loss.csv"
    table.write_text("it,nll\n0,1.6\n350000,1.6\n")
    columns = ["--step-column", "it", "--loss-column", "nll", "--tokens-per-step", "4e6"]
    command = ["curve", "--csv", str(table), *columns]
    assert main([*command, "--raw-bytes", "5.6e12", "--json"]) == 0
    assert round(json.loads(capsys.readouterr().out)["total_bytes"] / 1e9) == 404
    assert main(command) == 0
    assert "1.6000 nats" in capsys.readouterr().out
    assert main([*command[:-4], "--tokens-per-step", "1"]) == 1
    assert "no column 'loss'; it has it, nll" in capsys.readouterr().err
    table.write_text("it,nll\n0,x\n")
    assert main(command) == 1
    assert "not a table of numbers" in capsys.readouterr().err
