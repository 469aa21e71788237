"""What labels cost, given their inputs, by anybody's model: the prequential codelength.

A model predicts labels that it has not seen, pays for them, and then learns them. Two schedules:

- block (Blier & Ollivier 2018, The description length of deep learning models): the examples are
  cut into blocks; the first one is coded uniformly, every other one by a new model that was trained
  on all before it.
- online (Bornschein et al. 2022, Sequential learning of neural networks for prequential MDL): batch
  by batch, one step of training after each is paid for, and further ones on past batches.

The model runs as it is, in floats: what comes out is measured, and no file that decodes. (What
`labelled` writes is one, by this package's own loop; `own` says what it costs.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from prequential.errors import ConfigError

# Shares of the examples at which the blocks of Blier & Ollivier end, in per cent.
_BLOCK_ENDS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.125, 6.25, 12.5, 25, 50, 100)


class Trained(Protocol):
    """What the schedules need of a model."""

    def logits(self, inputs: Any) -> np.ndarray:
        """(n, K) float64: logarithms of chances of the labels, up to a constant a row."""
        ...

    def fit(self, inputs: Any, labels: np.ndarray) -> None:
        """Train on all examples before a block."""
        ...

    def step(self, inputs: Any, labels: np.ndarray) -> None:
        """One step on a batch."""
        ...


@dataclass(frozen=True)
class Labels:
    """What n labels of K kinds cost, for each of S seeds. Measured; not the size of a file."""

    bits: np.ndarray  # (S, n) float64: of each label, in the order of the examples
    classes: int

    @property
    def total_bits(self) -> np.ndarray:
        """(S,): of all labels."""
        return np.asarray(self.bits.sum(1))

    @property
    def curve(self) -> np.ndarray:
        """(n,): bits of the first labels, the mean over the seeds."""
        return np.asarray(self.bits.mean(0).cumsum())

    @property
    def uniform_bits(self) -> float:
        """n log2 K: what they cost if nothing is known."""
        return len(self.curve) * math.log2(self.classes)

    def __str__(self) -> str:
        totals = self.total_bits
        spread = f" ± {totals.std(ddof=1):,.1f} over seeds" if len(totals) > 1 else ""
        n = self.bits.shape[1]
        return (
            f"{n:,} labels: {totals.mean():,.1f} bits{spread}, {totals.mean() / n:.4f} a label"
            f" (uniform {self.uniform_bits:,.1f}); measured, not a file that decodes"
        )


def labels(
    make_model: Callable[[int], Any],
    inputs: Any,
    labels: Any,
    *,
    schedule: Literal["block", "online"] = "block",
    ends: Sequence[int] | None = None,
    batch: int = 32,
    epochs: int = 50,
    rate: float = 0.001,
    replay: int = 0,
    calibrate: bool = False,
    seeds: Sequence[int] = (0,),
    shuffle: bool = True,
) -> Labels:
    """Measure the codelength of labels (n,), whole numbers from 0 on, given inputs (n, ...).

    make_model(seed) makes a new model: a `torch.nn.Module` that gives logits (n, K), trained by
    Adam at `rate` in batches, for `epochs` passes before each block; or one with scikit-learn's
    `fit` (block) or `partial_fit` (online) and `predict_proba`. ends are the blocks' ends, else
    those of Blier & Ollivier. replay is how many past batches follow each new one (online).
    calibrate scales logits by what would have been best for the examples already paid for. Each
    seed shuffles the examples its own way, unless told not to; bits stand in the given order.

    Raises:
        ConfigError: labels or ends that are none, or a model of neither kind.
    """
    known = np.asarray(labels)
    if known.ndim != 1 or len(known) == 0 or not np.issubdtype(known.dtype, np.integer):
        raise ConfigError(f"labels are {known.dtype} {known.shape}: give whole numbers (n,)")
    if known.min() < 0 or len(inputs) != len(known):
        raise ConfigError("labels: give one from 0 on for each input")
    classes = int(known.max()) + 1
    if ends is not None and (list(ends) != sorted(set(ends)) or ends[-1] != len(known)):
        raise ConfigError(f"ends: are to rise to the number of labels, {len(known)}")
    if min(batch, epochs, len(seeds)) < 1 or replay < 0:
        raise ConfigError("batch, epochs and seeds: give at least one; replay: 0 or more")
    if replay and schedule == "block":
        raise ConfigError("replay goes with schedule='online': a block's model sees all there is")
    inputs = inputs if isinstance(inputs, torch.Tensor) else np.asarray(inputs)
    if not bool(torch.isfinite(torch.as_tensor(inputs)).all()):
        raise ConfigError("inputs: some are not finite")
    code = {"block": _block, "online": _online}.get(schedule)
    if code is None:
        raise ConfigError(f"schedule is {schedule!r}: block or online")
    found = np.zeros((len(seeds), len(known)))
    for k, seed in enumerate(seeds):
        generator = np.random.default_rng(seed)
        order = generator.permutation(len(known)) if shuffle else np.arange(len(known))
        how = _How(ends, batch, replay, calibrate, classes, generator)

        def make(seed: int = seed) -> Trained:
            torch.manual_seed(seed)
            return _adapted(make_model(seed), classes, epochs, batch, rate, seed)

        found[k, order] = code(make, _taken(inputs, order), known[order], how)
    return Labels(found, classes)


def frequency_bits(labels: Any) -> np.ndarray:
    """(n,): by how often each came before, which looks at no input (Krichevsky & Trofimov 1981)."""
    known = np.asarray(labels)
    classes = int(known.max()) + 1
    counts, bits = np.full(classes, 0.5), np.empty(len(known))
    for i, label in enumerate(known):
        bits[i] = math.log2(counts.sum() / counts[label])
        counts[label] += 1
    return bits


def own(
    inputs: Sequence[bytes], labels: Sequence[bytes], config: Any = None, seed: int = 0
) -> np.ndarray:
    """(n,): bits of each label by this package's own loop, given the inputs.

    Input and label stand in turns in one file, as an archive would have them; only the labels'
    bytes are counted, since whoever decodes is given the inputs. All of it is exact, so these bits
    are the same on every machine; `labelled.encode_labels` writes them.

    Raises:
        ConfigError: a config that does not take bytes as they come.
    """
    from prequential import codec
    from prequential.study.labelled import as_bytes

    parts = [part for pair in zip(inputs, labels, strict=True) for part in pair]
    _, costs = codec.codelength(b"".join(parts), seed, as_bytes(config), per_token=True)
    sums = np.concatenate([[0.0], costs.per_byte().cumsum()])
    edges = np.cumsum([0, *map(len, parts)])
    return np.asarray(np.diff(sums[edges])[1::2])


@dataclass(frozen=True)
class _How:
    ends: Sequence[int] | None
    batch: int
    replay: int
    calibrate: bool
    classes: int
    generator: np.random.Generator


def _block(make: Callable[[], Trained], inputs: Any, labels: np.ndarray, how: _How) -> np.ndarray:
    n = len(labels)
    ends = how.ends or sorted({max(1, round(n * share / 100)) for share in _BLOCK_ENDS})
    bits = np.full(n, math.log2(how.classes))
    scale = 1.0
    for start, end in itertools.pairwise(ends):
        model = make()
        model.fit(inputs[:start], labels[:start])
        logits = model.logits(inputs[start:end])
        bits[start:end] = _bits(scale * logits, labels[start:end])
        if how.calibrate:  # for the next block
            scale = _best_scale(logits, labels[start:end])
    return bits


def _online(make: Callable[[], Trained], inputs: Any, labels: np.ndarray, how: _How) -> np.ndarray:
    n, model, bits = len(labels), make(), np.zeros(len(labels))
    scale, past = 1.0, np.zeros((n, how.classes))
    for start, end in _batches(n, how.batch):
        part = slice(start, end)
        if start == 0:
            bits[part] = math.log2(how.classes)  # a model may need labels before it can predict
        else:
            past[part] = model.logits(inputs[part])
            bits[part] = _bits(scale * past[part], labels[part])
        model.step(inputs[part], labels[part])
        if how.calibrate and start:
            lately = slice(max(how.batch, end - 16 * how.batch), end)
            scale = _best_scale(past[lately], labels[lately])
        for _ in range(how.replay):
            first = how.batch * int(how.generator.integers(0, start // how.batch + 1))
            again = slice(first, min(first + how.batch, end))
            model.step(inputs[again], labels[again])
    return bits


def _batches(count: int, batch: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, batch):
        yield start, min(start + batch, count)


def _bits(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    nats = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]
    return np.asarray(nats / math.log(2))


def _best_scale(logits: np.ndarray, labels: np.ndarray) -> float:
    """What to multiply logits by, from 1/8 to 8, that labels cost least."""
    scales = [float(2.0 ** (k / 8)) for k in range(-24, 25)]
    costs = [float(_bits(scale * logits, labels).sum()) for scale in scales]
    return scales[costs.index(min(costs))]


def _taken(inputs: Any, order: np.ndarray) -> Any:
    if isinstance(inputs, torch.Tensor):
        return inputs[torch.from_numpy(order)]
    return np.asarray(inputs)[order]


def _adapted(model: Any, classes: int, epochs: int, batch: int, rate: float, seed: int) -> Trained:
    if isinstance(model, torch.nn.Module):
        return _Module(model, epochs, batch, rate, seed)
    if hasattr(model, "predict_proba"):
        return _Estimator(model, classes)
    raise ConfigError(
        f"make_model gave {type(model).__name__}: a torch.nn.Module, or a model with predict_proba"
    )


class _Module:
    """A PyTorch model."""

    def __init__(
        self, model: torch.nn.Module, epochs: int, batch: int, rate: float, seed: int
    ) -> None:
        self._model, self._epochs, self._batch = model, epochs, batch
        self._optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        self._generator = np.random.default_rng(seed)
        floats = [p.dtype for p in model.parameters() if p.is_floating_point()]
        self._dtype = floats[0] if floats else torch.get_default_dtype()

    def _tensor(self, inputs: Any) -> torch.Tensor:
        """Inputs as the model's floats, unless they are whole numbers (for an embedding)."""
        tensor = torch.as_tensor(inputs)
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    def logits(self, inputs: Any) -> np.ndarray:
        self._model.eval()
        with torch.no_grad():
            found = self._model(self._tensor(inputs))
        return np.asarray(found.double().cpu().numpy())

    def fit(self, inputs: Any, labels: np.ndarray) -> None:
        for _ in range(self._epochs):
            order = self._generator.permutation(len(labels))
            for start, end in _batches(len(labels), self._batch):
                part = order[start:end]
                self.step(inputs[part], labels[part])

    def step(self, inputs: Any, labels: np.ndarray) -> None:
        self._model.train()
        self._optimizer.zero_grad()
        logits = self._model(self._tensor(inputs))
        if logits.ndim != 2 or int(labels.max()) >= logits.shape[1]:
            raise ConfigError(
                f"the model gives {tuple(logits.shape)}, labels go to {int(labels.max())}:"
                " let it have an output for each"
            )
        target = torch.as_tensor(labels, device=logits.device, dtype=torch.long)
        # A sum, so that an example of the last, smaller batch weighs no more than any other.
        loss = torch.nn.functional.cross_entropy(logits, target, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


class _Estimator:
    """A model with scikit-learn's methods.

    It may not have seen every label yet, or be sure without reason: after n examples one part in
    n + 1 of what it expects is taken away from it and shared out over all labels alike.
    """

    def __init__(self, model: Any, classes: int) -> None:
        self._model, self._classes = model, classes
        self._only: int | None = None  # the one label there was: nothing to fit
        self._seen = 0

    def logits(self, inputs: Any) -> np.ndarray:
        chances = np.zeros((len(inputs), self._classes))
        if self._only is not None:
            chances[:, self._only] = 1.0
        else:
            found = np.asarray(self._model.predict_proba(inputs), np.float64)
            chances[:, np.asarray(self._model.classes_, np.int64)] = found
        doubt = 1.0 / (self._seen + 1)
        return np.asarray(np.log((1 - doubt) * chances + doubt / self._classes))

    def fit(self, inputs: Any, labels: np.ndarray) -> None:
        self._seen = len(labels)
        self._only = int(labels[0]) if len(set(labels.tolist())) == 1 else None
        if self._only is None:
            self._model.fit(inputs, labels)

    def step(self, inputs: Any, labels: np.ndarray) -> None:
        if not hasattr(self._model, "partial_fit"):
            raise ConfigError(
                f"{type(self._model).__name__} has no partial_fit: take schedule='block'"
            )
        self._seen += len(labels)
        self._model.partial_fit(inputs, labels, np.arange(self._classes))
