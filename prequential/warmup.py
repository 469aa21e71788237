"""Compile the loops in a process of its own, ahead of a large run.

Compiling takes 300 MB that a process does not get rid of again. It happens once after installing;
later processes read numba's cache.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LARGE_BYTES = 1e9  # of a model: with less, the run itself compiles what it needs

_PROGRAM = """
from prequential import compress, decompress, load
for tokenizer in ("bytes", "bpe:300"):
    config = load(overrides=["tokenizer=" + tokenizer])
    decompress(compress(b"to be or not to be, " * 40, 0, config))
"""


def compile_apart(model_bytes: float) -> None:
    """See that the loops are compiled before a model of this size is made.

    What goes wrong goes unnoticed: then the run compiles them.
    """
    if model_bytes >= LARGE_BYTES and not any(_cache().glob(_compiled())):
        subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, check=False)


def _compiled() -> str:
    """What the last of the loops is called there."""
    from prequential.compiled import SOURCES

    return f"memory.code_tokens{SOURCES}-*.nbi"


def _cache() -> Path:
    """Where numba keeps the package's compiled loops."""
    from prequential.coder import carry

    return Path(carry.stats.cache_path)
