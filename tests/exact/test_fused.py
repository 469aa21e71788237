"""The kernels of `fused`, by Triton's interpreter or on a GPU, give the bits of `tensors`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from samples import portable, small, text
from test_kernels import CASES, heads, integers, out, powers, reals

from prequential import codec
from prequential.exact import dispatch, scalars, tensors

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
fused: Any = pytest.importorskip("prequential.exact.fused", reason="needs Triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HELPERS = {"_quantise_groups": "quantise_groups", "_add_groups": "add_groups"}


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def quantise_groups() -> Iterator[tuple[Any, ...]]:
    for streams, columns, first, groups, each in (
        (1, 9, 0, 1, 1),
        (7, 5, 1, 3, 2),
        (4, 40, 0, 1, 4),
    ):
        n, width = streams * columns, 37
        dy = reals(n, width)
        yield dy, streams, first, out(groups, columns * each, width), out(groups, width)


def add_groups() -> Iterator[tuple[Any, ...]]:
    """At the limit, and between two integers: also above 2^22, where a float32 has halves still."""
    values = [0.5, 1.5, -2.5, 4194304.5, -4194305.5, 8388607.5, 2.0**27, -(2.0**30)]
    part = torch.tensor(values).expand(16, 1, -1).contiguous()
    yield part, torch.ones(16, 1), 1.0, out(1, len(values))
    yield part, torch.ones(16, 1), 1.0, torch.zeros(1, len(values), dtype=torch.int32)
    yield reals(3, 5, 37), powers(3, 5), 2.0**18, out(5, 37)


def whole(name: str, arguments: tuple[Any, ...]) -> bool:
    """Whether a model ever calls so: kernels take all heads, and all of a matrix."""
    if name == "quantise_heads":
        first, end, query = arguments[3], arguments[4], arguments[5]
        return first == 0 and end == query.shape[1]
    if name == "add_scaled_outer":
        return arguments[3] == 0 and arguments[4].shape == arguments[0].shape
    if name == "convolve":
        return len(arguments[1]) > 0
    return True


KERNELS = sorted(
    name
    for name, operation in vars(tensors).items()
    if hasattr(operation, "__wrapped__") and not name.endswith("_table")  # which are cached
)


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_writes_what_pytorch_writes(name: str) -> None:
    steps = getattr(tensors, name).__wrapped__
    kernel = getattr(fused, HELPERS.get(name, name))
    assert list(inspect.signature(kernel).parameters) == list(inspect.signature(steps).parameters)
    given = {"_quantise_groups": quantise_groups, "_add_groups": add_groups}
    cases = [c for c in (given.get(name) or CASES[name])() if whole(name, c)]
    if name == "add_scaled_outer":
        cases = [
            (integers(n, k), powers(n), powers(k), 0, reals(n, k)) for n, k in ((3, 64), (9, 5))
        ]
    written = False
    for arguments in cases if DEVICE == "cuda" else cases[:: max(1, len(cases) // 6)]:
        results = []
        for run in (steps, kernel):
            copies = [x.clone().to(DEVICE) if isinstance(x, torch.Tensor) else x for x in arguments]
            run(*copies)
            results.append([x.cpu() if isinstance(x, torch.Tensor) else x for x in copies])
        for before, a, b in zip(arguments, *results, strict=True):
            if isinstance(a, torch.Tensor):
                assert torch.equal(a, b), [getattr(x, "shape", x) for x in arguments]
                written = written or not torch.equal(a, before)
    assert written


def test_attention_of_some_streams_within_larger_buffers() -> None:
    columns, streams, each, hs, window = 5, 6, 3, 20, 7
    groups, keys = streams * each, window + columns
    parts = heads(columns, window, groups, hs)
    slopes = 2.0 ** -torch.arange(groups).float()
    own = slice(6, 12)
    temperature = scalars.NORM_EPSILON.dtype.type(scalars.LOG2_E / 4)
    results = []
    for run in (tensors.attention.__wrapped__, fused.attention):  # type: ignore[attr-defined]
        given = [x.to(DEVICE)[:, own] for x in parts]
        weights = out(groups, columns + 2, keys + 3).to(DEVICE)
        written = [out(6, columns, hs).to(DEVICE), out(6, columns).to(DEVICE)]
        into = weights[own, 1 : 1 + columns, 2 : 2 + keys]
        run(*given, slopes.to(DEVICE)[own], temperature, 0, 6, into, *written)
        results.append([x.cpu() for x in (weights, *written)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_what_does_not_fit_a_tile_is_left_to_pytorch() -> None:
    columns, window = 40, 100
    parts = heads(columns, window, 2, 16)
    slopes, results = torch.ones(2), []
    for run in (tensors.attention.__wrapped__, fused.attention):  # type: ignore[attr-defined]
        written = [out(2, columns, window + columns), out(2, columns, 16), out(2, columns)]
        written = [x.to(DEVICE) for x in written]
        run(*(x.to(DEVICE) for x in parts), slopes.to(DEVICE), 0.25, 0, 2, *written)
        results.append([x.cpu() for x in written])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_products_hold_at_the_bound() -> None:
    assert fused.holds(torch.device(DEVICE))


def test_an_archive_by_kernels_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data, config = text(70, 6), small("streams=2", "model.layers=1", "model.width=16")
    with portable():
        expected = codec.compress(data, 3, config, device=DEVICE)
        monkeypatch.setattr(dispatch, "kernels_of", lambda device: fused)
        assert codec.compress(data, 3, config, device=DEVICE) == expected
