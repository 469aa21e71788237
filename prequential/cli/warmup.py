"""What a first run is told about compiling, and a large one spared.

Loops are compiled once after installing; later processes read numba's cache. It takes 300 MB that a
process does not get rid of again, so ahead of a large run a process of its own does it. Otherwise a
second process compiles one half beside the run, which compiles the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prequential.cli import terminal
from prequential.config import BYTES, Config
from prequential.errors import DivergenceError
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


_BESIDE = "from prequential.cli import warmup; warmup.compile_learning(sys.argv[1])"


@contextmanager
def beside(config: Config | None = None) -> Iterator[None]:
    """On a first run, have another process compile what is needed last, until the block ends.

    Both look into the cache before they compile, and wait for what the other is at.
    """
    from prequential.transformer.update import update

    processors, second = len(os.sched_getaffinity(0)), None
    if processors > 1 and _cache() is not None and not _kept(update):
        command = child.python(_BESIDE, (config or Config()).to_bytes().hex())
        nothing = subprocess.DEVNULL
        with suppress(OSError):  # without, this one compiles all
            second = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)
    try:
        yield
    finally:
        if second is not None:
            second.terminate()
            second.wait()


def compile_learning(packed: str) -> None:
    """Compile what learns a chunk, and then what decodes one, in a config of these bytes."""
    import numpy as np
    import torch

    from prequential.coding.coder import Decoder
    from prequential.coding.vocabulary import SINGLE_BYTES, Vocabulary
    from prequential.training.learner import Learner

    config = Config.from_bytes(bytes.fromhex(packed)).resolve(1024)
    bytewise = config.tokenizer == BYTES
    more = Vocabulary(tuple(sorted((*SINGLE_BYTES.pieces, b"ab"))))
    learner = Learner(config, 0, vocabulary=SINGLE_BYTES if bytewise else more)
    chunk = np.zeros((config.chunk, config.streams), np.uint8 if bytewise else np.uint16)
    with torch.inference_mode():
        learner.learn(chunk, chunk.size)
    with torch.inference_mode(), suppress(DivergenceError):  # there is nothing to decode
        Decoder().code(chunk, chunk.size, learner)


def compile_apart(model_bytes: float) -> None:
    """See that the loops are compiled before a model of this size is made.

    What goes wrong goes unnoticed: then the run compiles them.
    """
    if model_bytes < LARGE_BYTES:
        return
    from prequential.predictors.memory import code_tokens

    if _cache() is not None and not _kept(code_tokens):
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


def _kept(loop: Any) -> bool:
    """Whether a loop, with whatever arguments, is in numba's cache."""
    return any(Path(loop.stats.cache_path).glob(f"*{loop.py_func.__qualname__}-*.nbi"))


def _cache() -> Path | None:
    """Where numba keeps the package's compiled loops, if anywhere."""
    from prequential.predictors.memory import code_tokens

    path = code_tokens.stats.cache_path
    return None if path is None else Path(path)
