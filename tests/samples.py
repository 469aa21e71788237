"""Data and configs that several tests share."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prequential import codec
from prequential.config import Config, load
from prequential.exact import kernels, shares
from prequential.training import prior as priors
from prequential.training.prior import Prior

ROOT = Path(__file__).parent.parent  # of the checkout
GOLDEN = ROOT / "tests" / "golden"
WORDS = (
    b"the of and to in that was his with for had you not but her she they have him one"
).split()


def text(size: int, seed: int = 0) -> bytes:
    """English-like words from a seeded generator, `size` bytes."""
    generator = np.random.Generator(np.random.Philox(seed))
    words = [WORDS[int(w) % len(WORDS)] for w in generator.bit_generator.random_raw(size // 2 + 2)]
    return b" ".join(words)[:size]


def noise(size: int, seed: int = 0) -> bytes:
    """Uniform random bytes."""
    words = np.random.Philox(seed).random_raw(size // 8 + 1)
    return words.astype("<u8").tobytes()[:size]


def golden_given(name: str) -> list[bytes]:
    """What a golden archive is made after."""
    learned = {"default-given": [text(2000, 9), noise(50)], "literal-pieces": [text(3000, 11)]}
    return learned.get(name, [])


def golden_prior(name: str) -> Prior | None:
    """The weights that a golden archive starts from: those at the end of another run."""
    if not name.endswith("-prior"):
        return None
    weights, data = io.BytesIO(), np.frombuffer(text(1200, 17), np.uint8)
    config = load("tiny", overrides=["ngrams.rows_log2=10"])
    codec.encode(data, io.BytesIO(), config=config, weights=weights)
    return priors.from_bytes(weights.getvalue(), "golden")


def small(*overrides: str) -> Config:
    """The preset `tiny`, shrunk further so that a test takes a fraction of a second."""
    shrunk = "ngrams.rows_log2=10", "chunk=8", "model.window=8"
    # Cells that rest now and then, and learn when a few tokens have come together.
    resting = "ngrams.sure=3", "recurrence.least=6"
    recurrent = "recurrence.layers=2", "recurrence.cells=16", *resting
    return load("tiny", overrides=[*shrunk, *recurrent, *overrides])


@contextmanager
def portable() -> Iterator[None]:
    """Learners that are made here take PyTorch's form of the step, as on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shares, "COMPILED", False)
        yield


class Loops:
    """The operations of `kernels`, on PyTorch's tensors as those of `tensors`."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        loop = getattr(kernels, name)

        def call(*arguments: Any) -> Any:
            return loop(*(a.numpy() if isinstance(a, torch.Tensor) else a for a in arguments))

        return call
