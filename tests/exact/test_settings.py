"""Hostile settings: each gives the same archive, or a refusal; never another archive.

Settings of the environment take a process each. Those a host program can make are tried one after
the other in a single process, then all at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# What the environment may hold when the process starts.
ENVIRONMENTS = [
    {"DNNL_DEFAULT_FPMATH_MODE": "BF16"},
    {"MKL_CBWR": "COMPATIBLE"},
    {"MKL_CBWR": "AVX2", "MKL_VML_MODE": "EP,FTZDAZON", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    {"ATEN_CPU_CAPABILITY": "default"},
    {"ATEN_CPU_CAPABILITY": "avx2"},
    {"ATEN_CPU_CAPABILITY": "avx512"},
    {"DNNL_MAX_CPU_ISA": "SSE41", "OMP_NUM_THREADS": "1"},
    {"DNNL_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
    {"OMP_NUM_THREADS": "7", "OMP_DYNAMIC": "true"},
    # Of a GPU's libraries; on a machine without one they only must not hurt.
    {
        "NVIDIA_TF32_OVERRIDE": "1",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
        "CUBLAS_EMULATE_DOUBLE_PRECISION": "1",
    },
]

COMMON = """
import hashlib, json, sys, warnings
from samples import small, text

def archive(size=500):
    from prequential import codec
    from prequential.errors import PlatformError
    try:
        packed = codec.compress(text(size), 3, small())
        return hashlib.sha256(packed).hexdigest()
    except PlatformError as error:
        return f"refused: {error}"
"""

# What a host program may have set before it calls; each undoes itself.
HOST = """
import contextlib, ctypes
import numpy as np
import torch

@contextlib.contextmanager
def setting(change, value, default):
    change(value)
    try:
        yield
    finally:
        change(default)

def tf32(value):
    torch.backends.cuda.matmul.allow_tf32 = value
    torch.backends.cudnn.allow_tf32 = value

def reduced(value):
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = value
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = value

def precisions(value):
    if hasattr(torch.backends.mkldnn, "matmul"):
        torch.backends.mkldnn.matmul.fp32_precision = value

def device(value):
    torch.set_default_device(value)

HOSTS = {
    "nothing": lambda: contextlib.nullcontext(),
    "matmul precision": lambda: setting(torch.set_float32_matmul_precision, "medium", "highest"),
    "oneDNN precision": lambda: setting(precisions, "bf16", "none"),
    "TF32": lambda: setting(tf32, True, False),
    "reduced reductions": lambda: setting(reduced, True, False),
    "flush to zero": lambda: setting(torch.set_flush_denormal, True, False),
    "default dtype": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": lambda: torch.inference_mode(),
    "gradients": lambda: torch.enable_grad(),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "default device": lambda: setting(device, "meta", None),
    "NumPy's errors": lambda: np.errstate(under="ignore", over="raise", invalid="raise"),
    "NumPy's every error": lambda: np.errstate(all="raise"),
    "threads": lambda: setting(torch.set_num_threads, 7, 2),
    "random seeds": lambda: setting(torch.manual_seed, 1, 0),
}
"""

TRY_HOSTS = """
warnings.simplefilter("ignore")
found = {}
for name, enter in HOSTS.items():
    with enter():
        found[name] = archive()
with contextlib.ExitStack() as everything:
    for enter in HOSTS.values():
        everything.enter_context(enter())
    found["all at once"] = archive()
print(json.dumps(found))
"""

RESTORED = """
def state():
    return [
        torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(), torch.is_inference_mode_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(), torch.is_autocast_enabled("cpu"),
        float(np.float32(2.0**-126) * np.float32(0.5)) == 0.0, np.geterr(),
    ]

torch.set_num_threads(2)
torch.set_float32_matmul_precision("high")
torch.use_deterministic_algorithms(True, warn_only=True)
torch.set_flush_denormal(True)
np.seterr(over="raise", divide="print")
before = state()
archive()
print(json.dumps([str(before), str(state())]))
"""

# What cannot be put right from here: the direction of rounding, and flush-to-zero where PyTorch
# cannot clear it.
REFUSED = """
found = {}
libm = ctypes.CDLL(None)
directions = {"up": 0x800, "down": 0x400, "to zero": 0xC00}
for name, direction in directions.items():
    if libm.fesetround(direction) == 0:
        found[name] = archive()
        libm.fesetround(0)
torch.set_flush_denormal(True)
torch.set_flush_denormal = lambda wanted: False
found["flush to zero"] = archive()
print(json.dumps(found))
"""


def run(program: str, **environment: str) -> object:
    """The JSON that a new process prints."""
    result = subprocess.run(
        [sys.executable, "-c", COMMON + program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def expected() -> object:
    return run("print(json.dumps(archive()))")


def acceptable(found: object, expected: object) -> bool:
    return found == expected or str(found).startswith("refused: this platform would compute other")


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment", ENVIRONMENTS, ids=lambda e: "+".join(map("=".join, e.items()))
)
def test_environment(environment: dict[str, str], expected: object) -> None:
    assert acceptable(run("print(json.dumps(archive()))", **environment), expected)


@pytest.mark.slow
def test_host_program(expected: object) -> None:
    found = run(HOST + TRY_HOSTS)
    assert isinstance(found, dict)
    assert {name: result for name, result in found.items() if result != expected} == {}


@pytest.mark.slow
def test_host_settings_are_restored() -> None:
    before, after = run(HOST + RESTORED)
    assert after == before


@pytest.mark.slow
@pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="the directions' numbers are those of x86-64"
)
def test_what_cannot_be_neutralised_is_refused() -> None:
    found = run(HOST + REFUSED)
    assert isinstance(found, dict)
    assert len(found) == 4
    for result in found.values():
        assert "usual cause is a host program that set flush-to-zero" in result


@pytest.mark.slow
def test_loops_as_plain_python() -> None:
    """Without numba's compiler the loops are NumPy scalars' arithmetic, with the same bits."""
    program = """
warnings.filterwarnings("ignore", "overflow encountered in scalar", RuntimeWarning)
print(json.dumps(archive(40)))
"""
    assert run(program, NUMBA_DISABLE_JIT="1") == run("print(json.dumps(archive(40)))")
