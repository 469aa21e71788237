"""`scripts/gpu-check` runs to its end without a GPU, at a reduced size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_gpu_check_runs_to_its_end(tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "scripts" / "gpu-check"), "--device", "cpu", "--small"]
    done = subprocess.run(
        [*command, "--seconds", "1500", "--json", str(target)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(target.read_text())
    parts = "environment facts step plain compile_loops throughput compile_more archives tests"
    assert list(found) == parts.split()
    assert found["environment"]["torch"] == torch.__version__
    assert found["step"]["ms: exact step"] > 0
    assert found["step"]["operations dispatched: backward"] > 100
    assert found["plain"].keys() == {"ms: plain TF32 step", "ms: plain bfloat16 step"}
    for way in ("encode", "decode"):
        spent = found["throughput"][f"{way}: us/byte"]
        assert 0 < spent["coder and memory"] < spent["all"]
        assert found["throughput"][f"{way}: kB/s"] > 0
    # The digests of the page of what was run.
    page = (ROOT / "docs" / "NUMERICS.md").read_text()
    digests = [value for key, value in found["archives"].items() if key.endswith(("ve", "ts"))]
    assert len(digests) == 4
    assert all(f"`{digest}`" in page for digest in digests)
    assert "1 passed" in found["tests"]["tests"]
    assert "encode: kB/s" in done.stdout
