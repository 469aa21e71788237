"""The size of the decoder's code, the second term of a description length.

It is the import closure of `prequential.codec` within the package (libraries are named in the
report, not counted), packed in a fixed order and compressed with LZMA.
"""

from __future__ import annotations

import ast
import lzma
from functools import cache
from importlib import resources

_ROOT = "codec"


def closure() -> dict[str, bytes]:
    """Module name -> source of everything in the package that decoding imports."""
    package = resources.files("prequential")
    sources: dict[str, bytes] = {}
    waiting = ["__init__", _ROOT]
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        sources[name] = (package / f"{name}.py").read_bytes()
        for node in ast.walk(ast.parse(sources[name])):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                if node.module == "prequential":
                    names = [alias.name for alias in node.names]
                    waiting += [n for n in names if (package / f"{n}.py").is_file()]
                elif node.module.startswith("prequential."):
                    waiting.append(node.module.split(".")[1])
    return dict(sorted(sources.items()))


@cache
def code_bytes() -> int:
    """Compressed bytes of the closure."""
    packed = b"".join(
        f"{name}.py {len(source)}\n".encode() + source for name, source in closure().items()
    )
    return len(lzma.compress(packed, format=lzma.FORMAT_ALONE, preset=9 | lzma.PRESET_EXTREME))
