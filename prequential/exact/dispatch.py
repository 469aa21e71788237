"""Operations that are one kernel each on a GPU.

Decoding needs none of the kernels: what PyTorch does step by step has the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from typing import Any

from torch import Tensor


@cache
def kernels_of(device: str) -> Any:
    """The module whose functions take an operation's place, by its name, on a kind of device."""
    try:
        return import_module("prequential.exact.fused") if device == "cuda" else None
    except ModuleNotFoundError:
        return None


def in_one_kernel(steps: Callable[..., None]) -> Callable[..., None]:
    """An operation that is one kernel where there is one."""

    @wraps(steps)
    def operation(first: Tensor, *others: Any) -> None:
        kernels = kernels_of(first.device.type)
        run = steps if kernels is None else getattr(kernels, steps.__name__.strip("_"))
        run(first, *others)

    return operation
