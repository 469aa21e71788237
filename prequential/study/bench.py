"""What exactness costs: our training step and codec beside plain float32 PyTorch training.

Everything runs in this one process, in turns, round after round, so that whatever else the machine
does weighs on all alike; a ratio is the median of the rounds' ratios. What is compared, on the same
text (`_words`), shapes and thread counts:

    plain step      transformer alone: float32, autograd, fused Adam (`plain`)
    exact step      transformer alone: what the learner does with it, loss and optimizer included
    plain learner   plain step, with the learner's embeddings and n-gram tables around it
    exact learner   predict a known chunk and learn it: all but the coding
    encode, decode  the codec's loop, memory and range coder included
    encode apart    so many encoders of one thread each, at once: what the processors have to give
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from prequential.coding.coder import TOTAL_BITS, Decoder, Direct
from prequential.coding.encoder import Encoder
from prequential.config import SYMBOLS, Config, ModelConfig
from prequential.exact import kernels, multiply, selftest, softmax
from prequential.predictors import embeddings as embeddings_module
from prequential.predictors import memory, ngrams
from prequential.predictors.contexts import History
from prequential.recurrence.resting import Resting
from prequential.study.plain import Plain, PlainTrainer
from prequential.training import columns, loop, sums
from prequential.training.run import new_learner
from prequential.training.step import CompiledStep
from prequential.training.threads import Threads
from prequential.transformer import backward, forward, update
from prequential.transformer.model import Transformer
from prequential.transformer.optimizer import Optimizer

ROUNDS, PROFILED = 8, 2
# A turn of each kind of work: so many chunks, or as many as have so many tokens. A second processor
# that has idled needs some tenths of a second to come to speed, so that short turns belittle it.
CHUNKS, TOKENS = 10, 5120
APART = "encode apart"
_FIGURES = (np.median, np.max, np.min)  # of the seconds of a turn
_SQUARE = 512  # of the matrices whose product gives the machine's rate
# Sizes that follow the input's length are those of an input of so many bytes: about what is coded,
# and small enough for eight learners at once.
INPUT_BYTES = 1 << 16
_INPUT_ROWS_LOG2 = 12  # at most, of the embeddings' tables, which are written whole: the same


@dataclass(frozen=True)
class Speed:
    """Tokens per second of one kind of work: median, slowest and fastest round."""

    work: str
    threads: int
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """Everything measured; `ratios` are of times, medians over the rounds."""

    config: dict[str, Any]
    tokens_per_chunk: int
    rounds: int
    first_chunk_seconds: float
    speeds: list[Speed]
    ratios: dict[str, float]
    step_gflops: float  # 0 where there is no transformer
    sgemm_gflops: float
    stages: dict[str, dict[str, float]]  # of work -> stage -> share of its time

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))


def run(
    config: Config,
    threads: tuple[int, ...] = (1, 2),
    rounds: int = ROUNDS,
    told: Callable[[str], None] = lambda _: None,
) -> Result:
    """Measure; config is resolved here, for INPUT_BYTES. `told` hears what is being done."""
    config = config.resolve(INPUT_BYTES)
    rows = min(config.model.input_rows_log2, _INPUT_ROWS_LOG2)
    config = replace(config, model=replace(config.model, input_rows_log2=rows))
    tokens_per_chunk = config.streams * config.chunk
    chunks = max(CHUNKS, -(-TOKENS // tokens_per_chunk))
    before = torch.get_num_threads()
    started = time.perf_counter()
    try:
        torch.set_num_threads(1)
        with torch.inference_mode():
            selftest.require()
            bench = _Bench(config, chunks)
            told("warming up, which may compile")
            bench.warm_up()
            first = time.perf_counter() - started
            works = {(name, n): work for n in threads for name, work in bench.works(n).items()}
            seconds: dict[tuple[str, int], list[float]] = {key: [] for key in works}
            gflops = []
            for index in range(-1, rounds):  # one more before what counts
                told(
                    f"round {index + 1} of {rounds}"
                    if index >= 0
                    else "a round that does not count"
                )
                bench.turn(index + 1)
                gflops.append(_sgemm_gflops())
                for key, work in works.items():
                    started = time.perf_counter()
                    work()
                    seconds[key].append(time.perf_counter() - started)
            # The same learners go on: in new ones, the tables' first pages would weigh most.
            names = ("exact learner", "encode", "decode")
            clocks = {name: _Clock() for name in names if (name, threads[0]) in works}
            products = _products_seconds(config)
            told("a profile")
            for index in range(PROFILED):
                bench.turn(rounds + index + 1)
                for name, clock in clocks.items():
                    with clock.attached():
                        works[name, threads[0]]()
                    for stage, spent in products.items():
                        inside = COLUMNS if (name, stage) == ("decode", FORWARD) else stage
                        clock.move(inside, PRODUCTS, spent * chunks)
    finally:
        torch.set_num_threads(before)
    # For a turn's tokens once: separate encoders go through them n times.
    counted = {
        (name, n): np.array(values[1:]) / (n if name == APART else 1)
        for (name, n), values in seconds.items()
    }
    tokens = tokens_per_chunk * chunks
    rates = [
        Speed(name, n, *(tokens / float(f(s)) for f in _FIGURES))
        for (name, n), s in counted.items()
    ]
    flops = chunks * step_flops(config.model, config.streams, config.chunk)
    step = counted.get(("exact step", threads[0]))
    return Result(
        config=asdict(config),
        tokens_per_chunk=tokens_per_chunk,
        rounds=rounds,
        first_chunk_seconds=first,
        speeds=rates,
        ratios=_ratios(counted, threads),
        step_gflops=0.0 if step is None else float(flops / np.median(step) / 1e9),
        sgemm_gflops=statistics.median(gflops[1:]),
        stages={name: clock.shares() for name, clock in clocks.items()},
    )


def _ratios(
    seconds: dict[tuple[str, int], np.ndarray], threads: tuple[int, ...]
) -> dict[str, float]:
    """Named ratios of times, by number of threads."""
    found = {}
    for name, a, b in (
        ("determinism tax", "exact step", "plain step"),
        ("tax of the whole learner", "exact learner", "plain learner"),
        ("decode / encode", "decode", "encode"),
    ):
        for n in threads:
            if (b, n) in seconds:
                found[f"{name}, {n} threads"] = float(np.median(seconds[a, n] / seconds[b, n]))
    for n in threads[1:]:
        for name in ("exact learner", "encode", "decode"):
            if (name, n) not in seconds:
                continue
            ratio = float(np.median(seconds[name, threads[0]] / seconds[name, n]))
            found[f"{name}, {n} threads over {threads[0]}"] = ratio
        if threads[0] == 1:
            ratio = float(np.median(seconds["encode", 1] / seconds[APART, n]))
            found[f"encode, {n} apart over 1"] = ratio
    return found


def step_flops(config: ModelConfig, B: int, T: int) -> int:
    """Floating point operations of a step's matrix products, two per multiply and add."""
    D, W = config.width, config.window
    dense = config.layers * (4 * D + 2 * config.hidden) * D + SYMBOLS * D
    scores = config.layers * D * (W + T)
    # Forward, gradient of the input, gradient of the weights; of the cached keys there is none.
    attention = scores * (2 + 2) + 2 * config.layers * D * T
    return 2 * B * T * (3 * dense + attention)


def _sgemm_gflops() -> float:
    a, b = torch.ones(_SQUARE, _SQUARE), torch.ones(_SQUARE, _SQUARE)
    out = torch.empty(_SQUARE, _SQUARE)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        times.append(time.perf_counter() - started)
    return 2 * _SQUARE**3 / min(times) / 1e9


def _words(count: int) -> bytes:
    """So many words of a made-up language of 2048, common ones more often: the same every time."""
    raw = np.random.Philox(key=0).random_raw(2048 + count)
    dictionary = [
        bytes(97 + b % 26 for b in int(r).to_bytes(8)[: 1 + int(r) % 8]) for r in raw[:2048]
    ]
    # The product of three uniform numbers: half of all words are the 150 commonest.
    a, b, c = ((raw[2048:] >> np.uint64(shift)) & np.uint64(2047) for shift in (0, 11, 22))
    return b" ".join(dictionary[int(rank)] for rank in a * b * c >> np.uint64(22))


class _Bench:
    """The text, cut into rounds, and every kind of work on a round's chunks."""

    def __init__(self, config: Config, chunks: int) -> None:
        self.config, self.count = config, chunks
        self.tokens = config.streams * config.chunk
        self.text = _words(1 << 16)
        self.chunks: list[np.ndarray] = []  # of this round, each (T, B)
        self.turn(0)

    def turn(self, index: int) -> None:
        """Take the chunks of round `index`; the text starts over at its end."""
        size = self.tokens * self.count
        start = index * size % max(1, len(self.text) - size)
        data = np.frombuffer(self.text, np.uint8)[start : start + size]
        data = np.resize(data, size)
        self.chunks = list(data.reshape(self.count, self.config.chunk, self.config.streams))

    def warm_up(self) -> None:
        """Compile, or load from the cache, everything that runs."""
        for work in self.works(1).values():
            work()

    def works(self, threads: int) -> dict[str, Callable[[], None]]:
        """Each kind of work, with a state of its own, on the chunks of the present round."""
        exact = new_learner(self.config, 0, "cpu", threads)
        encoding = new_learner(self.config, 0, "cpu", threads)
        decoding = new_learner(self.config, 0, "cpu", threads)
        lanes = self.config.payload_lanes
        encoder, decoder = Encoder(lanes), Decoder(lanes)

        def learn() -> None:
            for chunk in self.chunks:
                exact.predict(chunk)
                exact.learn(chunk, chunk.size)

        def encode() -> None:
            loop.run(self._counted(self.chunks), encoder, encoding)
            decoder.load(encoder.finish())

        def decode() -> None:
            empty = [np.zeros_like(chunk) for chunk in self.chunks]
            loop.run(self._counted(empty), decoder, decoding)
            assert all(map(np.array_equal, empty, self.chunks)), "the decoder differs"

        works = {"encode": encode, "decode": decode}
        if not self.config.memory.alone:
            works = {"exact learner": learn, **works}
            if self.config.model.layers:
                works = {
                    "plain step": self._plain_step(threads),
                    "exact step": self._exact_step(),
                    "plain learner": self._plain_learner(threads),
                    **works,
                }
        return works if threads == 1 else {**works, APART: self._apart(threads)}

    def _apart(self, threads: int) -> Callable[[], None]:
        learners = [new_learner(self.config, 0, "cpu", 1) for _ in range(threads)]
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

        def encode(learner: loop.Learner) -> None:
            with torch.inference_mode():
                loop.run(self._counted(self.chunks), Encoder(self.config.payload_lanes), learner)

        def work() -> None:
            for _ in pool.map(encode, learners):  # raises what an encoder does
                pass

        return work

    def _counted(self, chunks: list[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
        return ((chunk, chunk.size) for chunk in chunks)

    def _rows(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.tokens, self.config.model.width, generator=generator)

    def _trainer(self) -> PlainTrainer:
        c = self.config
        with torch.inference_mode(False):
            return PlainTrainer(Plain(c.model, c.streams, c.chunk), c.optimizer)

    def _plain_step(self, threads: int) -> Callable[[], None]:
        trainer, rows = self._trainer(), self._rows()

        def work() -> None:
            with _plain_mode(threads):
                for chunk in self.chunks:
                    targets = torch.from_numpy(chunk.reshape(-1).astype(np.int64))
                    trainer.step(rows.clone(), targets)

        return work

    def _exact_step(self) -> Callable[[], None]:
        c = self.config
        net = Transformer(c.model, c.streams, c.chunk, 0, "cpu")
        step = CompiledStep(net, Optimizer(c.optimizer), Threads(1))
        rows = self._rows().numpy()
        none = ngrams.Ngrams(replace(c.ngrams, contexts=()), c.streams, c.chunk).state
        frequencies = np.zeros((self.tokens, SYMBOLS), np.int32)
        dlogits = np.empty(frequencies.shape, np.float32)

        def work() -> None:
            for chunk in self.chunks:
                step.forward(rows, 0, c.chunk, none, frequencies)
                step.settle()
                softmax.gradient(frequencies, chunk.reshape(-1), self.tokens, TOTAL_BITS, dlogits)
                step.learn(dlogits, self.tokens)
                step.advance(c.chunk)

        return work

    def _plain_learner(self, threads: int) -> Callable[[], None]:
        c, trainer = self.config, self._trainer()
        history = History(c.streams)
        embeddings = embeddings_module.Embeddings(c.model, c.streams, c.chunk, 0)
        cells = Resting(c, 0)
        tables = ngrams.Ngrams(c.ngrams, c.streams, c.chunk)

        def learn(chunk: np.ndarray) -> None:
            columns.take_in(
                history.packed, history.spelling, chunk, embeddings.packed, *cells.packed,
                tables.packed,
            )  # fmt: skip
            rows = torch.from_numpy(embeddings.gather(0, len(chunk))).requires_grad_()
            logits = trainer.model(rows)
            joined = logits.detach().numpy().copy()
            tables.add_logits(joined, 0)
            dlogits = torch.softmax(torch.from_numpy(joined), -1).numpy()
            dlogits[np.arange(chunk.size), chunk.reshape(-1)] -= 1
            trainer.optimizer.zero_grad(set_to_none=True)
            logits.backward(torch.from_numpy(dlogits))
            trainer.optimizer.step()
            tables.learn(dlogits, chunk.reshape(-1))
            assert rows.grad is not None
            embeddings.learn(rows.grad.numpy())

        def work() -> None:
            with _plain_mode(threads):
                for chunk in self.chunks:
                    learn(chunk)

        return work


@contextmanager
def _plain_mode(threads: int) -> Iterator[None]:
    """Autograd, and as many intra-op threads as plain training would be given."""
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(1)


REST, PRODUCTS = "Python and the rest", "matrix products"
FORWARD = "forward: attention, norms, quantising, n-grams, frequencies"
BACKWARD = "backward: attention, norms, quantising"
OPTIMIZER = "optimizer"
COLUMNS = "a decoder's columns, all from embeddings to coder"
_STAGES: list[tuple[str, Any, str]] = [
    (FORWARD, forward, "forward"),
    (FORWARD, sums, "_forward"),
    (BACKWARD, backward, "backward"),
    (BACKWARD, kernels, "convolve_backward"),
    (OPTIMIZER, update, "update"),
    (OPTIMIZER, kernels, "descend"),
    ("recurrence", Resting, "predict learn"),
    ("contexts", columns, "take_in"),
    ("embeddings", embeddings_module.Embeddings, "gather learn"),
    ("n-grams", ngrams.Ngrams, "add_logits learn"),
    ("memory and coder", memory.Memory, "code"),
    ("coder", Direct, "code"),
    (COLUMNS, columns, "decode"),
    ("frequencies, gradient", softmax, "frequencies gradient"),
]


def _products_seconds(config: Config) -> dict[str, float]:
    """Seconds that a chunk's linear layers take in each stage: their products alone, same shapes.

    Within the stages they cannot be timed.
    """
    m, n = config.model, config.streams * config.chunk
    one_layer = [(3 * m.width, m.width), (m.width, m.width), (m.hidden, m.width)]
    shapes = m.layers * [*one_layer, (m.width, m.hidden)]
    shapes += min(1, m.layers) * [(SYMBOLS, m.width)]
    seconds = dict.fromkeys((FORWARD, BACKWARD, OPTIMIZER), 0.0)
    for outputs, inputs in shapes:
        x, dy = np.ones((n, inputs), np.float32), np.ones((n, outputs), np.float32)
        columns, weight = np.ones((outputs, n), np.float32), np.ones((outputs, inputs), np.int8)
        gradient = np.empty(weight.shape, np.float32)
        for stage, product, operands in (
            (FORWARD, multiply.in_int32, (x.astype(np.int16), weight, 0, dy)),
            (BACKWARD, multiply.in_float32, (dy, weight, x)),
            (OPTIMIZER, multiply.in_float32, (columns, x, gradient)),
        ):
            times = []
            for _ in range(5):
                started = time.perf_counter()
                product(*operands)
                times.append(time.perf_counter() - started)
            seconds[stage] += min(times)
    return seconds


class _Clock:
    """Seconds spent in each stage, what a stage calls of another counted there only."""

    def __init__(self) -> None:
        self.seconds = {REST: 0.0}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Time every function of the table while the block runs."""
        kept = []
        for stage, owner, names in _STAGES:
            for name in names.split():
                kept.append((owner, name, getattr(owner, name)))
                setattr(owner, name, self._timed(stage, getattr(owner, name)))
        self._enter(REST)
        try:
            yield
        finally:
            self._leave()
            for owner, name, function in kept:
                setattr(owner, name, function)

    def shares(self) -> dict[str, float]:
        """Each stage's share of the whole, largest first."""
        total = sum(self.seconds.values())
        ordered = sorted(self.seconds.items(), key=lambda item: -item[1])
        return {stage: seconds / total for stage, seconds in ordered}

    def move(self, stage: str, to: str, seconds: float) -> None:
        """Count part of a stage's time elsewhere, at most all of it."""
        held = self.seconds.get(stage, 0.0)
        moved = min(seconds, held)
        self.seconds[stage] = held - moved
        self.seconds[to] = self.seconds.get(to, 0.0) + moved

    def _timed(self, stage: str, function: Any) -> Any:
        def timed(*args: Any, **named: Any) -> Any:
            self._enter(stage)
            try:
                return function(*args, **named)
            finally:
                self._leave()

        return timed

    def _enter(self, stage: str) -> None:
        self._count()
        self._open.append(stage)

    def _leave(self) -> None:
        self._count()
        self._open.pop()

    def _count(self) -> None:
        now = time.perf_counter()
        if self._open:
            stage = self._open[-1]
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now
