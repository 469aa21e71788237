"""All columns of a chunk in one compiled call: the bits are those of one column at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from samples import noise, portable, small, text

from prequential import codec
from prequential.coding.coder import Decoder
from prequential.coding.encoder import Encoder
from prequential.config import Config
from prequential.errors import DivergenceError
from prequential.training import columns, loop
from prequential.training.learner import Learner

MIX = "memory.kind=mix"


@contextmanager
def calls(monkeypatch: pytest.MonkeyPatch, *, at_once: bool) -> Iterator[list[int]]:
    """Lists the columns of each chunk that is decoded at once; or forbids that."""
    counted: list[int] = []
    decode, init = columns.decode, Learner.__init__

    def counting(chunk: np.ndarray, *rest: object) -> object:
        counted.append(len(chunk))
        return decode(chunk, *rest)

    def one_by_one(self: Learner, *args: object, **named: object) -> None:
        init(self, *args, **named)  # type: ignore[arg-type]
        self.decode_columns = None

    with monkeypatch.context() as patch:
        patch.setattr(columns, "decode", counting)
        if not at_once:
            patch.setattr(Learner, "__init__", one_by_one)
        yield counted


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (),  # coded with the learner's own frequencies
        (MIX,),
        ("streams=3", MIX, "chunk=5"),
        ("streams=7", "model.layers=0", "model.conv=1"),
        ("epochs=2", "streams=2", MIX),
        ("tokenizer=bpe:300", MIX),
        ("tokenizer=bpe:300", "streams=3"),
        ("optimizer.name=sgd", MIX),
        ("model.width=20", "model.heads=2", "model.hidden=37", MIX),
    ],
)
def test_the_same_as_one_by_one(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every frame's digest of the weights is checked on the way."""
    config = small("streams=1", *overrides)
    data = text(1500, 4) + noise(50)
    archive = codec.compress(data, 2, config)
    for threads in (1, 2):
        with calls(monkeypatch, at_once=True) as counted:
            assert codec.decompress(archive, threads=threads) == data
        assert max(counted) == config.chunk
        assert counted[-1] <= config.chunk
    with calls(monkeypatch, at_once=False) as counted:
        assert codec.decompress(archive) == data
    assert not counted


def test_the_portable_form_goes_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    data, config = text(300), small("optimizer.name=sgd")
    archive = codec.compress(data, 2, config)
    with portable(), calls(monkeypatch, at_once=True) as counted:
        assert codec.compress(data, 2, config) == archive
        assert codec.decompress(archive) == data
    assert not counted


def learned(config: Config, payload: bytes | None, at_once: bool) -> tuple[bytes, list[bytes]]:
    """Payload and weights' digest after each chunk, of an encoder or of a decoder."""
    learner, digests = Learner(config, 1), []
    if not at_once:
        learner.decode_columns = None
    data = np.frombuffer(text(3 * config.chunk * config.streams - 2), np.uint8)
    whole = np.resize(data, (3, config.chunk, config.streams)).copy()
    encoder, decoder = Encoder(), Decoder()
    if payload is not None:
        decoder.load(payload)
    for i, original in enumerate(whole):
        count = original.size - 2 * (i == 2)
        chunk = original if payload is None else np.zeros_like(original)
        loop.run([(chunk, count)], encoder if payload is None else decoder, learner)
        assert np.array_equal(chunk.reshape(-1)[:count], original.reshape(-1)[:count])
        digests.append(learner.digest())
    return encoder.finish(), digests


@pytest.mark.parametrize("kind", ["none", "mix"])
def test_a_last_column_that_is_not_full(kind: str) -> None:
    config = small("streams=3", f"memory.kind={kind}").resolve(3000)
    payload, digests = learned(config, None, at_once=True)
    # What the last column's missing streams hold is not coded, but is learned from by none.
    for at_once in (True, False):
        _, found = learned(config, payload, at_once)
        assert found == digests


@pytest.mark.parametrize("kind", ["none", "mix"])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_payload_that_ends_too_early(kind: str, at_once: bool) -> None:
    config = small("streams=2", "chunk=64", f"memory.kind={kind}").resolve(3000)
    learner, decoder = Learner(config, 1), Decoder()
    if not at_once:
        learner.decode_columns = None
    decoder.load(learned(config, None, at_once)[0])
    decoder._payload = decoder._payload[:, :20].copy()  # what is decoded up to there is true
    decoder._ends[:] = 20
    chunk = np.zeros((64, 2), np.uint8)
    with pytest.raises(DivergenceError, match="too early"):
        decoder.code(chunk, chunk.size, learner)
    assert not chunk[-1].any()  # nothing was made up to the end


@pytest.mark.parametrize("kind", ["none", "mix"])
@pytest.mark.parametrize("learned_first", [False, True])
def test_an_assistant_that_comes_late(kind: str, learned_first: bool) -> None:
    """It finds the columns done, and the backward pass either to be done or done as well."""
    config = small("streams=1", "chunk=28", f"memory.kind={kind}").resolve(3000)
    payload, digests = learned(config, None, at_once=True)
    waiting: list[tuple[Future[None], Callable[[], None]]] = []

    class Late(ThreadPoolExecutor):
        def submit(self, call: Callable[[], None]) -> Future[None]:  # type: ignore[override]
            waiting.append((Future(), call))
            return waiting[-1][0]

    def come() -> None:
        for future, call in waiting:
            if not future.cancelled():
                call()
        waiting.clear()

    learner, decoder = Learner(config, 1, threads=2), Decoder()
    learner.threads._pool = Late()
    decoder.load(payload)
    for digest, count in zip(digests, (28, 28, 26), strict=True):
        chunk = np.zeros((28, 1), np.uint8)
        decoder.code(chunk, count, learner)
        assert waiting
        if not learned_first:
            come()
        learner.learn(chunk, count)
        come()
        assert learner.digest() == digest


def test_an_interrupt_releases_the_assistant(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small("streams=1", "chunk=28").resolve(3000)
    learner, decoder = Learner(config, 1, threads=2), Decoder()

    def interrupted(*_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(columns, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decoder.code(np.zeros((28, 1), np.uint8), 28, learner)
    assert learner.threads._pool is not None
    learner.threads._pool.submit(lambda: None).result(timeout=60)


@pytest.mark.parametrize("streams", [1, 3])
def test_a_chunk_is_located_as_its_columns_are(streams: int) -> None:
    config = small(f"streams={streams}", "chunk=20").resolve(1000)
    one, other = Learner(config, 0), Learner(config, 0)
    for chunk in np.frombuffer(text(40 * streams), np.uint8).reshape(2, 20, streams):
        one.predict(chunk)
        for column, symbols in enumerate(chunk):
            other.predict_column(column)
            other.observe(symbols)
        assert np.array_equal(one.embeddings.state.rows, other.embeddings.state.rows)
        found, by_column = one.ngrams.state.located, other.ngrams.state.located
        assert np.array_equal(found.hashes, by_column.hashes)
        assert np.array_equal(found.last, by_column.last)
        assert np.array_equal(one.history.state.bytes, other.history.state.bytes)
        for learner in (one, other):
            learner.learn(chunk, chunk.size)
