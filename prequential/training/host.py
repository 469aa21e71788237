"""What a transformer asks of PyTorch: settings that nothing else may have changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from prequential.config import Config
from prequential.exact import selftest


@contextmanager
def exact(device: str, config: Config) -> Iterator[None]:
    """PyTorch as the arithmetic needs it, whatever a host program has set; restored.

    Raises:
        ConfigError: no such device.
        PlatformError: this platform's arithmetic is not what a transformer's bits rest on.
    """
    with (
        _settings(device),
        torch.inference_mode(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        if config.has_transformer or device != "cpu":
            selftest.require(device)
        if config.has_transformer:
            selftest.require(device, selftest.OF_ATTENTION)
        yield


@contextmanager
def _settings(device: str = "cpu") -> Iterator[None]:
    """Neutralise what can be; the self-test refuses the rest.

    A GPU's tensor cores take float32 rounded to TF32, whose 11 bits hold the integers here.
    """
    threads = torch.get_num_threads()
    precision = _matmul_precision()
    deterministic = torch.get_deterministic_debug_mode()
    flush = float(np.float32(2.0**-126) * np.float32(0.5)) == 0.0
    torch.set_num_threads(1)
    if precision is not None:
        torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    # Every algorithm is deterministic here, including those that PyTorch would refuse. (Its other
    # function for this imports a compiler, which takes a second.)
    torch.set_deterministic_debug_mode(0)
    torch.set_flush_denormal(False)
    try:
        yield
    finally:
        torch.set_flush_denormal(flush)
        torch.set_deterministic_debug_mode(deterministic)
        if precision is not None:
            torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)


def _matmul_precision() -> str | None:
    """PyTorch's setting; None where the host has made it per backend, which cannot be mixed."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None  # harmless: integers up to 127 also fit bfloat16 and TF32


def free_bytes() -> int | None:
    """Free memory of the GPU, if there is one."""
    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None
