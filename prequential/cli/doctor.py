"""The platform, as `preq doctor` names it beside the self-test's facts."""

from __future__ import annotations

import os
import platform
import re
from typing import Any

import numba
import numpy as np
import torch


def fingerprint() -> dict[str, str]:
    """What the bits could depend on and must not: machine, releases, threads, libraries."""
    compiler: Any = numba.config
    blas = [
        line.strip(" -") for line in torch.__config__.show().splitlines() if "BLAS_INFO" in line
    ]
    chips = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "numba": numba.__version__ + (" (compiler off)" if compiler.DISABLE_JIT else ""),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()}",
        "blas": re.sub(r".*BLAS_INFO=(\w+).*", r"\1", blas[0]) if blas else "unknown",
        "cuda": ", ".join(chips) or "none",
    }


def _processor() -> str:
    """The first processor's name, where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        named = []
    return named[0] if named else platform.processor() or "unknown"
