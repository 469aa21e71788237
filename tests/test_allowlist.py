"""Only operations known to be exact: PyTorch's as they run, NumPy's and Python's as they are read.

The first half records every PyTorch operation of encodes and decodes and holds it against a table.
The second half reads the source of every module whose results reach the bits.
"""

from __future__ import annotations

import ast
import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import portable, text
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import prequential
from prequential import codec
from prequential.archive import codesize
from prequential.config import Config, load, preset_names
from prequential.exact import selftest
from prequential.exact.bounds import LIMITS

PACKAGE = Path(prequential.__file__).parent
DTYPES = {torch.bool, torch.uint8, torch.int32, torch.int64, torch.float32, torch.float64}

MOVED = "values are made, moved or viewed, not computed"
ONE = "one correctly rounded IEEE-754 operation, or one on integers"
CHOICE = "picks or compares values; order cannot matter without NaN"
BITS = "an operation on the bits of an integer"
SUM = "a sum of integers within its type's bound, checked below"
CAST = "exact, or rounded once to nearest; integers in range, checked below"

EXACT = {
    "aten.abs": ONE,
    "aten.add": ONE + "; alpha = 1, checked below",
    "aten.add_": ONE + "; alpha = 1, checked below",
    "aten.div": ONE + "; by a tensor, checked below",
    "aten.mul": ONE,
    "aten.mul_": ONE,
    "aten.neg": ONE,
    "aten.round": ONE + ", ties to even",
    "aten.round_": ONE + ", ties to even",
    "aten.rsub": ONE + "; alpha = 1, checked below",
    "aten.sub": ONE + "; alpha = 1, checked below",
    "aten.amax": CHOICE,
    "aten.clamp": CHOICE,
    "aten.clamp_": CHOICE,
    "aten.ge": CHOICE,
    "aten.le": CHOICE,
    "aten.where": CHOICE,
    "aten.__and__": BITS,
    "aten.__lshift__": BITS,
    "aten.__rshift__": BITS,
    "aten.bmm": SUM,
    "aten.matmul": SUM,
    "aten.mm": SUM,
    "aten.sum": SUM,
    "aten._to_copy": CAST,
    "aten.copy_": CAST,
    "aten.to": CAST,
    "aten.alias": MOVED,
    "aten.arange": MOVED,
    "aten.clone": MOVED,
    "aten.contiguous": MOVED,
    "aten.detach": MOVED,
    "aten.detach_": MOVED,
    "aten.empty": MOVED,
    "aten.empty_like": MOVED,
    "aten.expand": MOVED,
    "aten.fill_": MOVED,
    "aten.flatten": MOVED,
    "aten.full_like": MOVED,
    "aten.index": MOVED,
    "aten.lift_fresh": MOVED,
    "aten.new_empty": MOVED,
    "aten.new_ones": MOVED,
    "aten.new_zeros": MOVED,
    "aten.numpy_T": MOVED,
    "aten.ones_like": MOVED,
    "aten.permute": MOVED,
    "aten.repeat": MOVED,
    "aten.repeat_interleave": MOVED,
    "aten.reshape": MOVED,
    "aten.resolve_conj": MOVED,
    "aten.resolve_neg": MOVED,
    "aten.select": MOVED,
    "aten.slice": MOVED,
    "aten.stack": MOVED,
    "aten.transpose": MOVED,
    "aten.unbind": MOVED,
    "aten.unsqueeze": MOVED,
    "aten.view": MOVED,
    "aten.zero_": MOVED,
    "aten.zeros": MOVED,
    "aten.zeros_like": MOVED,
}
# Doubles only hold sums of integers, until these are rounded to float32.
DOUBLE = {"aten.add", "aten.add_", "aten.sum", "aten.zeros", "aten.to", "aten._to_copy"}
DOUBLE |= {"aten.copy_", "aten.lift_fresh", "aten.detach", "aten.slice"}


class Inexact(AssertionError):
    """An operation that is not known to be exact."""


class AllowList(TorchDispatchMode):
    """Checks every PyTorch operation of the thread; `seen` has the names that passed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = set[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = str(func.overloadpacket)
        if EXACT.get(name) == SUM:
            self._check_sum(name, args, kwargs)  # before an output may overwrite its input
        result = func(*args, **kwargs)
        self._check(name, args, kwargs, result)
        self.seen.add(name)
        return result

    def _check(self, name, args, kwargs, result) -> None:
        if name not in EXACT:
            fail(name, "is not on the list")
        leaves = tree_leaves((args, kwargs, result))
        tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
        for dtype in {x.dtype for x in tensors} - DTYPES:
            fail(name, f"runs on {dtype}")
        if name not in DOUBLE and any(x.dtype == torch.float64 for x in tensors):
            fail(name, "runs on float64")
        if kwargs.get("alpha", 1) != 1 or (name == "aten.rsub" and len(args) > 2):
            fail(name, "has a factor alpha, which may be fused")
        if name == "aten.div" and not isinstance(args[1], torch.Tensor):
            fail(name, "divides by a Python number, which a GPU turns into a product")
        if any(x.dtype == torch.float32 for x in tensors):
            for number in (x for x in leaves if isinstance(x, float)):
                if float(np.float32(number)) != number:
                    fail(name, f"takes {number!r}, which is no float32")
        if EXACT[name] == CAST and isinstance(result, torch.Tensor):
            source = args[1] if name == "aten.copy_" else args[0]
            limit = {torch.int32: 2**31, torch.int64: 2**63}.get(result.dtype)
            if limit and source.is_floating_point() and bool((source.abs() >= limit).any()):
                fail(name, f"casts a number out of the range of {result.dtype}")

    def _check_sum(self, name, args, kwargs) -> None:
        operands = [x.double() for x in args if isinstance(x, torch.Tensor)]
        for x in operands:
            if not torch.equal(x, x.round()):
                fail(name, "adds numbers that are not integers")
        if name == "aten.sum":
            dims = args[1] if len(args) > 1 else None
            total = operands[0].abs().sum(dims).max()
            dtype = kwargs.get("dtype") or args[0].dtype
        else:
            total = (operands[0].abs() @ operands[1].abs()).max()
            dtype = args[0].dtype
        if not dtype.is_floating_point:
            dtype = torch.int64  # what PyTorch adds integers in
        limit = LIMITS[str(dtype).removeprefix("torch.")]
        if total.item() > limit:
            fail(name, f"may reach {total.item():.0f} in {dtype}, beyond {limit}")


def fail(name: str, what: str) -> None:
    """Name the operation and the innermost line of this package, or of the test, that asked."""
    frames = traceback.extract_stack()
    own = [f for f in frames if Path(f.filename).parent == PACKAGE] or [
        f for f in frames if f.filename == __file__ and f.name.startswith("test_")
    ]
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno}: {own[-1].line}" if own else "?"
    raise Inexact(f"{name} {what}, called at {where}")


def cut(preset: str, *overrides: str) -> Config:
    return load(preset, overrides=["ngrams.rows_log2=10", "model.input_rows_log2=10", *overrides])


@pytest.fixture
def no_selftest(monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes operands of its own, in ways that the arithmetic may not."""
    monkeypatch.setattr(selftest, "require", lambda *_: None)


VARIANTS = [(), ("optimizer.name=sgd",), ("model.conv=1",), ("model.window=0",), ("streams=3",)]


@pytest.mark.slow
@pytest.mark.usefixtures("no_selftest")
@pytest.mark.parametrize("form", [portable, contextlib.nullcontext], ids=["portable", "compiled"])
@pytest.mark.parametrize(
    ("preset", "overrides"),
    [(p, v) for p in preset_names() for v in VARIANTS if (v == () and p != "gpu") or p == "tiny"],
)
def test_every_operation_is_exact(preset: str, overrides: tuple[str, ...], form: Any) -> None:
    data, config = text(300), cut(preset, *overrides)
    with form(), AllowList() as listed:
        archive = codec.compress(data, 1, config, threads=1)
        assert codec.decompress(archive, threads=1) == data
    assert bool(listed.seen) == config.has_transformer  # or else nothing is PyTorch's


@pytest.mark.slow
@pytest.mark.usefixtures("no_selftest")
def test_long_sums_are_exact() -> None:
    """More tokens per step than a float32 sum can take."""
    config = cut("tiny", "streams=33", "chunk=700")  # 2100 of three streams
    with portable(), AllowList() as listed:
        codec.codelength(text(33 * 700), 1, config, threads=1)
    assert "aten.zeros" in listed.seen  # of the float64 totals


X = torch.arange(6.0).reshape(2, 3)
FORBIDDEN = {
    "aten.exp is not on the list": lambda: torch.exp(X),
    "softmax": lambda: torch.softmax(X, 0),
    "aten.sqrt is not on the list": lambda: X.sqrt(),
    "aten.mean is not on the list": lambda: X.mean(),
    "aten.div divides by a Python number": lambda: X / 3.0,
    "aten.add has a factor alpha": lambda: torch.add(X, X, alpha=2),
    "aten.mul takes 0.1": lambda: X * 0.1,
    "runs on torch.float16": lambda: X.half(),
    "aten.mul runs on float64": lambda: X.double() * X.double(),
    "aten.sum adds numbers that are not integers": lambda: (X * 0.25).sum(),
    "aten.sum may reach 16777217 in torch.float32": lambda: torch.tensor([2.0**24, 1.0]).sum(),
    "casts a number out of the range of torch.int32": lambda: (X * 2.0**30).to(torch.int32),
}


@pytest.mark.slow
@pytest.mark.parametrize("message", FORBIDDEN)
def test_what_is_not_exact_is_caught(message: str) -> None:
    with AllowList(), pytest.raises(Inexact) as caught:
        FORBIDDEN[message]()
    assert message in str(caught.value)
    assert "called at test_allowlist.py:" in str(caught.value)


# Whatever takes part in a prediction, a step, or the coding of a symbol.
MODULES = sorted(
    codesize.closure(
        "training/alone",
        "training/learner",
        "training/step",
        "training/loop",
        "training/team",
        "training/device",
        "exact/fused",
        "predictors/numbers",
        "coding/merges",
    )
)

TYPE = "a type, or a conversion rounded at most once"
MADE = "makes or moves values"
WHOLE = "on integers only"
NAMES = {
    "np.ndarray": TYPE,
    "np.float32": TYPE,
    "np.float64": TYPE,
    "np.uint8": TYPE,
    "np.uint16": TYPE,
    "np.uint32": TYPE,
    "np.uint64": TYPE,
    "np.int8": TYPE,
    "np.int16": TYPE,
    "np.int32": TYPE,
    "np.int64": TYPE,
    "np.arange": WHOLE,
    "np.array": MADE,
    "np.array_equal": MADE,
    "np.ascontiguousarray": MADE,
    "np.asarray": MADE,
    "np.broadcast_to": MADE,
    "np.concatenate": MADE,
    "np.empty": MADE,
    "np.empty_like": MADE,
    "np.frombuffer": MADE,
    "np.full": MADE,
    "np.ones": MADE,
    "np.repeat": MADE,
    "np.stack": MADE,
    "np.tile": MADE,
    "np.zeros": MADE,
    "np.clip": WHOLE,
    "np.minimum": WHOLE,
    "np.searchsorted": WHOLE,
    "np.random.Philox": "a counter-based generator, of which only raw words are taken",
    "np.sqrt": "correctly rounded by IEEE-754; in a numba loop one instruction",
    "math.sqrt": "correctly rounded by IEEE-754, on a double",
    "math.isqrt": WHOLE,
    "math.ldexp": "exact",
    "torch.Tensor": TYPE,
    "torch.device": TYPE,
    "torch.float32": TYPE,
    "torch.float64": TYPE,
    "torch.int8": TYPE,
    "torch.int32": TYPE,
    "torch.arange": MADE,
    "torch.cat": MADE,
    "torch.empty": MADE,
    "torch.empty_like": MADE,
    "torch.from_numpy": MADE,
    "torch.full_like": MADE,
    "torch.ones_like": MADE,
    "torch.split": MADE,
    "torch.stack": MADE,
    "torch.zeros": MADE,
    "torch.zeros_like": MADE,
    "torch.where": MADE,
    "torch.inference_mode": "a setting: no gradient is recorded",
    "torch.set_num_threads": "a setting: no sum depends on it",
    "torch.matmul": "a sum of integers; checked above as it runs",
    "torch.as_tensor": MADE,
    "torch.contiguous_format": "a layout",
}
# (module, name) where a name that is otherwise refused is in its place.
PLACES = {
    ("coding/coder", "np.rint"): "the codelength that is reported, in parts of a bit",
    ("coding/coder", "np.log2"): "the codelength that is reported, not coded with",
    ("predictors/memory", "np.log2"): "the codelength that is reported, not coded with",
    ("predictors/mixer", ".sum"): "of integers: the sizes of tables",
    ("coding/merges", "sum"): "of integers: the lengths of what is given",
    ("coding/vocabulary", "np.cumsum"): "of integers: the lengths of pieces",
    ("coding/vocabulary", "np.append"): "of integers",
    ("transformer/graphs", "torch.cuda.CUDAGraph"): "launches kernels and computes nothing",
    ("transformer/graphs", "torch.cuda.graph"): "likewise",
    ("training/device", "torch.cuda"): "streams and events wait for copies and compute nothing",
    ("exact/fused", ".dot"): "of integers; attention is compared at the bound, on the device",
    ("exact/fused", ".sum"): "of integers",
    ("exact/fused", "@"): "of integers, at the bound",
    ("exact/fused", "**"): "a power of two",
    ("exact/fused", "torch.Size"): "a type",
    ("exact/fused", "torch.equal"): "compares",
    ("exact/fused", "torch.Generator"): "of operands for a test of the device",
    ("exact/fused", "torch.randint"): "likewise",
    ("training/team", ".all_reduce"): "of integers",
    ("predictors/lanes", "sum"): "of codelengths, whole parts of a bit, that are only reported",
    ("predictors/notes", "np.bool_"): "a type of flags",
    ("training/team", "sum"): "of integers: sizes of the message's parts",
    ("exact/kernels", "np.rint"): "rounds to an integer, ties to even",
    ("exact/tensors", ".sum"): "of integers, checked above as they run",
    ("exact/tensors", "rsqrt"): "the package's own, of products and differences",
    ("exact/kernels", "rsqrt"): "the package's own, of products and differences",
    ("exact/softmax", ".exp2"): "the package's own, of a table of integers",
    ("exact/kernels", ".exp2"): "the package's own, of a table of integers",
    ("exact/bounds", "**"): "of integers",
    ("exact/tensors", "**"): "of integers: the largest product of two operands",
    ("exact/bounds", ".sum"): "not a sum but a name",
}
# Called as methods or plain functions, these add, or call a platform's library.
_UNSAFE = """
all_reduce cumsum dot einsum exp exp2 expm1 fsum inner log log10 log1p log2 logsumexp mean norm
outer pow prod rand randn random rsqrt sigmoid sin cos softmax sqrt std sum tanh trace var vdot
addcmul addcdiv addmm lerp integers choice shuffle permutation
"""
REFUSED = set(_UNSAFE.split())
KEYWORDS = {"fastmath", "parallel"}


def names_used(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name of NumPy, PyTorch and math, refused calls, `@`, `**`, and compiler flags."""
    dotted = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (path := module_path(node)):
            dotted[path] = node.lineno
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in REFUSED:
                yield called.id, node.lineno
            elif (
                isinstance(called, ast.Attribute)
                and called.attr in REFUSED
                and not module_path(called)
                and ast.unparse(called) != "tensors.rsqrt"
            ):
                yield f".{called.attr}", node.lineno
        elif isinstance(node, ast.BinOp | ast.AugAssign):
            if isinstance(node.op, ast.MatMult | ast.Pow):
                yield "@" if isinstance(node.op, ast.MatMult) else "**", node.lineno
        elif isinstance(node, ast.keyword) and node.arg in KEYWORDS:
            yield f"{node.arg}=", node.lineno
    for path, line in dotted.items():
        if not any(longer.startswith(path + ".") for longer in dotted):
            yield path, line


def module_path(node: ast.Attribute) -> str:
    """np.random.Philox for such a chain of names; empty for anything else."""
    path = ast.unparse(node)
    known = path.split(".")[0] in {"np", "numpy", "torch", "math"}
    return path if known and all(part.isidentifier() for part in path.split(".")) else ""


def refused(module: str, source: str) -> list[str]:
    """What the lists above do not name."""
    return [
        f"{module}.py:{line}: {name}"
        for name, line in names_used(ast.parse(source))
        if name not in NAMES and (module, name) not in PLACES
    ]


@pytest.mark.parametrize("module", MODULES)
def test_sources_name_only_exact_functions(module: str) -> None:
    found = refused(module, (PACKAGE / f"{module}.py").read_text())
    assert found == []


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("y = np.exp(x)", "np.exp"),
        ("y = np.dot(a, b)", "np.dot"),
        ("y = x.mean()", ".mean"),
        ("y = np.random.default_rng(0)", "np.random.default_rng"),
        ("f = numba.njit(fastmath=True)", "fastmath="),
        ("y = a @ b", "@"),
        ("y = beta**step", "**"),
        ("y = math.cos(x)", "math.cos"),
        ("y = sum(x)", "sum"),
        ("y = torch.nn.functional.softmax(x)", "torch.nn.functional.softmax"),
    ],
)
def test_sources_with_other_functions_are_refused(line: str, name: str) -> None:
    assert refused("kernels", line) == [f"kernels.py:1: {name}"]
