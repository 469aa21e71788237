"""The size of the decoder's code, the second term of a description length.

It is the import closure of `training.decoding` within the package (libraries are named in the
report, not counted), reduced to what runs (`bare`). It is packed in a fixed order and compressed
with LZMA, whose model of positions is told that text has none. `selfextract` runs exactly these
bytes.
"""

from __future__ import annotations

import ast
import lzma
from functools import cache
from importlib import resources

from prequential.archive.bare import bare, running

_ROOT = "training/decoding"


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


@cache
def packed() -> bytes:
    """The closure as one LZMA stream: for each file a line "name size", then its bytes."""
    files = {path.split("/")[-1] + ".py": bare(source) for path, source in _files().items()}
    joined = b"".join(f"{name} {len(f)}\n".encode() + f for name, f in files.items())
    lzma1 = {"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "pb": 0}
    return lzma.compress(joined, format=lzma.FORMAT_ALONE, filters=[lzma1])


def code_bytes() -> int:
    """Compressed bytes of the closure."""
    return len(packed())


def listing() -> list[tuple[str, int, int]]:
    """(file, bytes as written, bytes that are packed) of the closure."""
    return [(f"{path}.py", len(source), len(bare(source))) for path, source in _files().items()]


def _files() -> dict[str, bytes]:
    # The package itself loads nothing until it is asked for.
    init = (resources.files("prequential") / "__init__.py").read_bytes()
    return {**closure(), "__init__": init}
