"""The size of the decoder's code, the second term of a description length.

It is the import closure of `training.decoding` within the package (libraries are named in the
report, not counted), reduced to what runs (`bare`). It is packed in a fixed order and compressed
with LZMA, whose model of positions is told that text has none. `selfextract` runs exactly these
bytes.
"""

from __future__ import annotations

import ast
import hashlib
import lzma
import os
from contextlib import suppress
from functools import cache
from importlib import resources
from pathlib import Path
from threading import RLock

import prequential
from prequential.archive.bare import bare, running
from prequential.archive.container import Header

_LOCK = RLock()
_ROOT = "training/decoding"
# What decoding takes only where there are any. Nothing of it where a memory is alone.
_NUMBERS, GIVEN, _MERGES = "predictors/numbers", "training/given", "coding/merges"
_LANES, _CURVATURE = "predictors/lanes", "predictors/curvature"
_LEARNER, _HOSTTEST = "training/learner", "exact/hosttest"
NONE = frozenset[str]()
NETWORKS = frozenset([_LEARNER, _HOSTTEST])
TRANSFORMER = NETWORKS | {"training/step", "training/assist", "training/host"}
ALL = TRANSFORMER | {_NUMBERS, GIVEN, _MERGES, _LANES, _CURVATURE}


def closure(*roots: str) -> dict[str, bytes]:
    """Module -> source of what these, or else decoding, import, each after its own imports.

    A module is named by its path in the package: "exact/kernels".
    """
    package = resources.files("prequential")
    found: dict[str, bytes] = {}
    begun = set[str]()

    def visit(name: str) -> None:
        if name in begun or not (package / f"{name}.py").is_file():
            return
        begun.add(name)
        source = (package / f"{name}.py").read_bytes()
        for node in running(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                head, *path = (node.module or "").split(".")
                if head == "prequential":
                    for names in (path, *([*path, alias.name] for alias in node.names)):
                        visit("/".join(names))
        found[name] = source

    for name in roots or (_ROOT,):
        visit(name)
    return found


def parts(header: Header) -> frozenset[str]:
    """What decoding an archive takes and others do not, such as pictures and sound."""
    config = header.config
    needed = {
        GIVEN: header.given != (),
        _MERGES: header.given != () and header.tokens is not None,
    }
    if config is not None:
        needed |= {
            _LEARNER: not config.memory.alone,
            _HOSTTEST: config.floats,
            **dict.fromkeys(TRANSFORMER - NETWORKS, config.has_transformer),
            _NUMBERS: config.numbers != "",
            _LANES: config.lanes > 0,
            _CURVATURE: config.mixer.curvature_log2 > 0,
        }
    return frozenset(part for part, is_needed in needed.items() if is_needed)


def packed(parts: frozenset[str] = NETWORKS) -> bytes:
    """The closure as one LZMA stream: for each file a line "name size", then its bytes."""
    with _LOCK:  # or threads that start together would each do it
        return _packed(parts)


@cache
def _packed(parts: frozenset[str]) -> bytes:
    sources = _files(parts).items()
    files = {path.split("/")[-1] + ".py": bare(source) for path, source in sources}
    joined = b"".join(f"{name} {len(f)}\n".encode() + f for name, f in files.items())
    lzma1 = {"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "pb": 0}
    return lzma.compress(joined, format=lzma.FORMAT_ALONE, filters=[lzma1])


def code_bytes(parts: frozenset[str] = NETWORKS) -> int:
    """Compressed bytes of the closure, with parts that not every archive needs: of most, networks.

    Packing takes more than a second, so their number is kept beside the compiled modules, under a
    digest of all sources, where that folder can be written.
    """
    with _LOCK:
        return _code_bytes(parts)


@cache
def _code_bytes(parts: frozenset[str]) -> int:
    package, sha = Path(prequential.__file__).parent, hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        sha.update(path.read_bytes())
    prefix = "-".join(["code_bytes", *sorted(part.split("/")[-1] for part in parts)])
    kept = package / "__pycache__" / f"{prefix}-{sha.hexdigest()[:32]}"
    with suppress(OSError, ValueError):
        return int(kept.read_text())
    size = len(_packed(parts))
    with suppress(OSError):
        for old in kept.parent.glob(f"{prefix}-{32 * '?'}"):
            old.unlink(missing_ok=True)
        kept.parent.mkdir(exist_ok=True)
        part = kept.with_name(f"{kept.name}.{os.getpid()}")
        part.write_text(str(size))
        part.replace(kept)
    return size


def listing(parts: frozenset[str] = NETWORKS) -> list[tuple[str, int, int]]:
    """(file, bytes as written, bytes that are packed) of the closure."""
    return [
        (f"{path}.py", len(source), len(bare(source))) for path, source in _files(parts).items()
    ]


def _files(parts: frozenset[str]) -> dict[str, bytes]:
    files = closure(_ROOT, *sorted(parts))
    return {**files, "__init__": b""}  # what the package offers its users, no decoder needs
