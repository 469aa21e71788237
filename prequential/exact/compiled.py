"""How loops are compiled, and when a compiled one may be used again.

numba keeps what it compiled and asks for the date of the function's own file only, though the
loops of other modules, and their constants, are compiled into it. Here a function's name in that
cache ends in a digest of all modules that loops come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numba

import prequential

_MODULES = (
    "adagrad assist backward bits certain coder columns compiled config contexts curvature dense"
    " embeddings forward kernels layout loops matches memory merges mixer multiply ngrams notes"
    " numbers pieces resting scalars series shares softmax squares structure sums tables tile turns"
    " update vocabulary"
)


def _digest() -> str:
    names, sha = _MODULES.split(), hashlib.sha256()
    for path in sorted(Path(prequential.__file__).parent.rglob("*.py")):
        if path.stem in names:
            sha.update(path.read_bytes())
    return sha.hexdigest()[:12]


SOURCES = "_" + _digest()
try:
    _njit = import_module(".linking", __package__).njit
except ImportError:  # a self-extracting file has no need of it, nor of an installed package's
    _njit = numba.njit


def jit(
    function: Callable[..., Any], counted: bool = True, inlined: bool = False, apart: bool = False
) -> Any:
    """Compile a loop when it is first called: no fastmath, so the order of operations stays.

    Unless references are counted it must not make arrays. Apart: see `linking`.
    """
    function.__qualname__ += SOURCES
    njit = partial(_njit, nogil=True, error_model="numpy", _nrt=counted, forceinline=inlined)
    try:
        loop = njit(cache=True)(function)
    except RuntimeError:  # there is no folder to keep it in
        loop = njit(function)
    loop.apart = apart
    return loop


def optional(name: str, package: str | None) -> Any:
    """A module beside others that a self-extracting file has only where it is needed, or None."""
    try:
        return import_module(f".{name}", package)
    except ImportError:
        return None


def pack(structure: tuple[Any, ...]) -> tuple[Any, ...]:
    """The structure in plain tuples: what a loop is given that Python calls at every chunk.

    Forty arrays in named ones would take 30 microseconds a call, in plain ones they take 4. The
    loop puts the names back, at no cost.
    """
    return tuple(pack(part) if isinstance(part, tuple) else part for part in structure)


# For loops that make no arrays: views of those they are given cost nothing then.
uncounted = partial(jit, counted=False)
# For loops that Python calls, whose arrays have no owner then, for all that they call: references
# are not counted, by an atomic instruction each, which took a sixth of a decoder's column.
outer = partial(uncounted, apart=True)
# For parts of such a loop that take whole structures, which would all be passed at every call, or
# take structures apart. They make no arrays either, and what they return has no owner: a loop that
# counts may only take it where its own arrays have none, for it would give up what it never took.
inline = partial(uncounted, inlined=True)
# For parts that several large loops call, some microseconds' work at a time.
apart = partial(jit, apart=True)
