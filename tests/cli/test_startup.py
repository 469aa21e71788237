"""What stands before the first byte, and what a large input may cost: seconds and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from samples import GOLDEN, ROOT

TINY = GOLDEN / "tiny-text.pq"
# Processor seconds: those of the clock depend on what else runs. The peak is not getrusage's, which
# is at least the parent's.
MEASURED = """
import json, resource, sys
{code}
used = resource.getrusage(resource.RUSAGE_SELF)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([used.ru_utime + used.ru_stime, int(peak.split()[1]), sorted(sys.modules)]))
"""


def measure(code: str, *arguments: str) -> tuple[float, int, set[str]]:
    """(processor seconds, peak kilobytes, modules) of a fresh interpreter that runs the code."""
    command = [sys.executable, "-c", MEASURED.format(code=code), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds, kilobytes, modules = json.loads(done.stdout.splitlines()[-1])
    return seconds, kilobytes, set(modules)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["info", str(TINY)]])
def test_what_computes_nothing_starts_at_once(arguments: list[str]) -> None:
    code = f"""
from prequential.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
"""
    seconds, _, modules = min(measure(code) for _ in range(5))  # others may be at work
    assert seconds < 0.3
    assert not modules & {"torch", "numba", "numpy"}


@pytest.mark.slow
def test_no_compiler_is_imported_to_encode() -> None:
    """PyTorch's would take longer than everything else before the first byte."""
    code = "from prequential import codec, load\ncodec.compress(b'word ' * 99, 0, load('tiny'))"
    _, _, modules = measure(code)
    assert "torch" in modules
    assert not modules & {"torch._dynamo", "torch._inductor", "sympy"}


@pytest.mark.slow
def test_the_first_chunks_of_a_file_larger_than_memory(tmp_path: Path) -> None:
    """Eight sparse gigabytes: the model and the window are held, not the file."""
    file = tmp_path / "sparse"
    with open(file, "wb") as sparse:
        sparse.write(b"to be or not to be " * 1000)
        sparse.truncate(8 << 30)
    code = """
import numpy as np
from prequential import load
from prequential.training import loop
from prequential.coding.encoder import Encoder
from prequential.archive.container import Header
from prequential.archive.files import FileBytes, open_input
from prequential.training.run import Options, Run
from prequential.coding.vocabulary import SINGLE_BYTES

config = load("tiny", overrides=["memory.kind=mix"])
with open_input(sys.argv[1]) as original:
    data = original.data
    assert data.size == 8 << 30 and isinstance(data, FileBytes)
    header = Header(data.size, 0, bytes(8), config.resolve(data.size))
    coder = Encoder()
    run = Run(header, header.config, Options(threads=1), data, SINGLE_BYTES, coder, 0.0)
    loop.run(run.chunks(8, run.coder), run.coder, run.learner)
    assert run.coder.loss_bits > 0
"""
    _, kilobytes, _ = measure(code, str(file))
    assert kilobytes < 3_000_000  # 2^25 buckets, PyTorch, numba


def test_the_memory_of_a_run_is_bounded_whatever_the_length() -> None:
    from prequential.config import load, preset_names

    for name in preset_names():
        large, huge = (load(name).resolve(n).memory_bytes() for n in (1 << 36, 1 << 40))
        assert large == huge
