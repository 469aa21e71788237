"""What a first run is told about compiling, and a large one spared.

Loops are compiled once after installing; later processes read numba's cache. It takes 300 MB that a
process does not get rid of again, so ahead of a large run a process of its own does it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prequential.cli import terminal
from prequential.study import child

LARGE_BYTES = 1e9  # of a model: with less, the run itself compiles what it needs

_NOTICE = "preq: compiling its loops, once after installing: a minute or so"
_EACH_TIME = (
    "preq: compiling its loops: a minute or so each time, since no folder to keep them in can be"
    " written: set NUMBA_CACHE_DIR to one that can"
)
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
    if model_bytes < LARGE_BYTES:
        return
    cache = _cache()
    if cache is not None and not any(cache.glob(_compiled())):
        subprocess.run(child.python(_PROGRAM), capture_output=True, check=False)


@contextmanager
def announced(show: Callable[[str], None] | None = None) -> Iterator[None]:
    """Say on standard error, once, when a loop has to be compiled, and let `show` say how far."""
    from numba.core import event

    class Compiling(event.Listener):
        def __init__(self) -> None:
            self.said = False
            self.done = set[str]()

        def on_start(self, _: Any) -> None:
            if not self.said:
                self.said = True
                terminal.note(_NOTICE if _cache() else _EACH_TIME)

        def on_end(self, compiled: Any) -> None:
            linking: Any = sys.modules.get("prequential.exact.linking")
            loop = compiled.data["dispatcher"]
            if show is not None and linking is not None and isinstance(loop, linking.Loop):
                self.done.add(loop.py_func.__qualname__)
                show(f"compiling: {len(self.done)} loops of at most {linking.Loop.made}")

    with event.install_listener("numba:compile", Compiling()):
        yield


def _compiled() -> str:
    """What the last of the loops is called there."""
    from prequential.exact.compiled import SOURCES

    return f"memory.code_tokens{SOURCES}-*.nbi"


def _cache() -> Path | None:
    """Where numba keeps the package's compiled loops, if anywhere."""
    from prequential.predictors.memory import code_tokens

    path = code_tokens.stats.cache_path
    return None if path is None else Path(path)
