"""Tokens that are not bytes: there and back, whatever predicts them and however it runs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import noise, portable, small, text

import prequential
from prequential import codec
from prequential.archive.container import ArchiveReader, Header, Tokens
from prequential.archive.writer import ArchiveWriter
from prequential.cli import main
from prequential.coding import pieces, tokenizer
from prequential.coding.coder import MEASURE, TOTAL_BITS
from prequential.coding.encoder import blank
from prequential.coding.vocabulary import SINGLE_BYTES, Vocabulary
from prequential.config import Config, MemoryConfig
from prequential.errors import ArchiveError, DivergenceError
from prequential.exact import softmax
from prequential.predictors.memory import Memory
from prequential.training import checkpoint, run
from prequential.training.learner import Learner
from prequential.training.run import Options

DATA = text(4000) + noise(300) + b"\r\n  \xff\xfe\0 the end \xe2\x96\x81" + text(2000, 1)
MIX = ("memory.kind=mix", "streams=1")


def tokens(*overrides: str, kind: str = "bpe:320") -> Config:
    return small(f"tokenizer={kind}", 'ngrams.contexts=["o1","t1","t2","w0"]', *overrides)


def encode(data: bytes, config: Config, **options: object) -> bytes:
    file = io.BytesIO()
    how = Options(**options)  # type: ignore[arg-type]
    codec.encode(np.frombuffer(data, np.uint8), file, config=config, seed=1, options=how)
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("streams=3",),
        MIX,
        ("memory.kind=mix", "streams=3"),
        ("epochs=2", "streams=2"),
        ("optimizer.name=sgd", "model.conv=1", 'model.inputs=["t3","c1"]'),
        ("model.layers=0", *MIX),
    ],
)
@pytest.mark.parametrize("kind", ["bpe:320", "unigram:300"])
def test_round_trip_and_codelength(overrides: tuple[str, ...], kind: str) -> None:
    config = tokens(*overrides, kind=kind)
    file = io.BytesIO()
    report = codec.encode(np.frombuffer(DATA, np.uint8), file, config=config, seed=1)
    assert codec.decompress(file.getvalue()) == DATA
    assert codec.decompress(file.getvalue(), threads=1) == DATA
    assert report.tokens < len(DATA)
    assert 0 < report.vocabulary_bytes < report.header_bytes
    measured = codec.codelength(DATA, 1, config)
    assert measured.loss_integral_bits == report.loss_integral_bits
    assert measured.weights_digest == report.weights_digest
    slack = 64 + 1e-4 * report.loss_integral_bits
    assert abs(report.payload_bits - report.loss_integral_bits) <= slack


@pytest.mark.slow
def test_a_vocabulary_beyond_one_block_of_a_sum() -> None:
    """1,300 pieces: the gradient of the head adds more products than float32 holds exactly."""
    words = b" ".join(b"%x" % (i * 2654435761 % 2**20) for i in range(1500)) * 2
    config = tokens("model.width=16", kind="bpe:2000")
    file = io.BytesIO()
    report = codec.encode(np.frombuffer(words, np.uint8), file, config=config)
    assert report.vocabulary > 1040
    assert codec.decompress(file.getvalue()) == words
    with portable():
        again = io.BytesIO()
        codec.encode(np.frombuffer(words, np.uint8), again, config=config)
    assert again.getvalue() == file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("data", [b"", b"x", b"xx", bytes(3000), noise(900), b" " * 500])
def test_edges(data: bytes) -> None:
    for config in (tokens(), tokens(*MIX)):
        assert codec.decompress(codec.compress(data, 0, config)) == data


def test_bytes_as_a_vocabulary_are_coded_as_bytes_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The general way along the pieces makes the choices of eight bits a byte."""
    monkeypatch.setattr("prequential.predictors.memory.SAMPLE", b"")  # which is for bytes only
    config = MemoryConfig(kind="mix", buckets=10240, window_log2=10)
    data = np.frombuffer(text(500), np.uint8)
    ends = np.full((len(data), 256), 1 << 16, np.int32)
    # 255 bytes and one longer piece that never occurs: the same bits, but for the end of "zz".
    longer = Vocabulary(tuple(sorted([*SINGLE_BYTES.pieces[:255], b"\xfe\xfe"])))
    sizes = []
    for vocabulary in (SINGLE_BYTES, longer):
        memory = Memory(config, 1, vocabulary)
        sizes.append(memory.code(MEASURE, data.copy(), ends, 0, blank()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)


@pytest.mark.slow
def test_whole_chunk_equals_column_by_column() -> None:
    config = tokens("streams=2").resolve(3000)
    vocabulary = Vocabulary(tuple(sorted({*SINGLE_BYTES.pieces, b" the", b"th", b"zqj", b"he "})))
    rng = np.random.default_rng(0)
    whole = Learner(config, 1, vocabulary=vocabulary)
    stepwise = Learner(config, 1, vocabulary=vocabulary)
    for _ in range(6):
        chunk = rng.integers(0, len(vocabulary), (config.chunk, 2)).astype(np.uint16)
        a = whole.predict(chunk)
        assert a.shape[1] == len(vocabulary)
        assert (a.sum(1) == 1 << 24).all()
        for t, symbols in enumerate(chunk):
            assert np.array_equal(a[2 * t : 2 * t + 2], stepwise.predict_column(t))
            stepwise.observe(symbols)
        whole.learn(chunk, chunk.size)
        stepwise.learn(chunk, chunk.size)
        assert whole.digest() == stepwise.digest()


@pytest.mark.slow
def test_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FRAME_BYTES", 1000)
    config, path = tokens(*MIX), str(tmp_path / "c")
    archive = encode(DATA, config)

    class Stop(Exception):
        pass

    class Keeper(checkpoint.Checkpoints):
        def __init__(self, command: str, stop: int = 0, resume: bool = False) -> None:
            super().__init__(path, command, seconds=0, resume=resume, warn=print, share=1e9)
            self.stop = stop

        def chunk_done(self, run: run.Run) -> None:
            if run.steps_done % 60 == self.stop % 60:  # a checkpoint has 94 MB
                super().chunk_done(run)
            if run.steps_done == self.stop:
                raise Stop

    def decode(archive: bytes, keeper: Keeper) -> bytes:
        out = np.zeros(0, np.uint8)

        def allocate(size: int) -> np.ndarray:
            nonlocal out
            out = np.zeros(size, np.uint8)
            return out

        codec.decode(io.BytesIO(archive), allocate, Options(checkpoints=keeper))
        return out.tobytes()

    for stop in (1, 60, 120):
        with pytest.raises(Stop):
            encode(DATA, config, checkpoints=Keeper("encode", stop))
        assert encode(DATA, config, checkpoints=Keeper("encode", resume=True)) == archive
        with pytest.raises(Stop):
            decode(archive, Keeper("decode", stop))
        assert decode(archive, Keeper("decode", resume=True)) == DATA


def test_hostile_headers() -> None:
    config, vocabulary = tokens().resolve(100, 50), Vocabulary((b"a", b"ab", b"b"))
    packed = pieces.pack(vocabulary)

    def message(header: Header) -> str:
        file = io.BytesIO()
        writer = ArchiveWriter(file, header)
        writer.data(b"\x55" * 20)
        with pytest.raises((ArchiveError, DivergenceError)) as caught:
            codec.decompress(file.getvalue())
        return str(caught.value)

    def header(found: Tokens | None, used: Config = config) -> Header:
        return Header(100, 0, bytes(8), used, None, found)

    assert "token count" in message(header(Tokens(101, packed)))
    assert "token count" in message(header(Tokens(0, packed)))
    assert "vocabulary is invalid" in message(header(Tokens(50, b"")))
    assert "vocabulary is invalid" in message(header(Tokens(50, b"\xff\xff" + packed)))
    assert "vocabulary is empty" in message(header(Tokens(50, b"\0\0")))
    assert "does not fit its vocabulary" in message(header(None))
    plain = small().resolve(100)
    assert "does not fit its vocabulary" in message(header(Tokens(50, packed), plain))
    # 50 tokens of one or two bytes, which are not the 100 bytes of that hash.
    assert "differs" in message(header(Tokens(50, packed)))


def test_the_header_holds_what_decoding_needs(tmp_path: Path) -> None:
    """A given model is named and hashed; the archive decodes without it."""
    import sentencepiece

    corpus = [line.decode() for line in text(20_000).split(b" have ")]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_prefix=str(tmp_path / "own"), vocab_size=60,
        model_type="bpe", minloglevel=2,
    )  # fmt: skip
    model = tmp_path / "own.model"
    archive = codec.compress(text(5000), 0, tokens(kind=str(model)))
    model.unlink()
    assert codec.decompress(archive) == text(5000)
    found = ArchiveReader(io.BytesIO(archive), "a").header
    assert found.config is not None
    assert found.config.tokenizer.startswith("own.model ")
    assert len(found.config.tokenizer.split()[1]) == 64


@pytest.mark.slow
def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a"
    file.write_bytes(text(20_000))
    common = ["--preset", "tiny", "--no-progress"]
    assert main(["encode", str(file), "--tokenizer", "bpe:300", *common]) == 0
    shown = capsys.readouterr().err
    assert "pieces" in shown
    assert main(["info", "--json", f"{file}.pq"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["config"]["tokenizer"] == "bpe:300"
    assert 0 < info["tokens"] < 20_000
    assert info["vocabulary_bytes"] > 0
    assert main(["test", "-q", f"{file}.pq"]) == 0
    assert main(["encode", str(file), "--tokenizer", "bpe:9", "-f", *common]) == 2
    assert "tokenizer 'bpe:9'" in capsys.readouterr().err
    grid = ["mdl", str(file), "--grid", "tokenizer=bytes,bpe:300", *common]
    assert main([*grid, "--json-file", str(tmp_path / "s.json"), "--verify"]) == 0
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    assert [row["report"]["vocabulary_bytes"] > 0 for row in rows] == [False, True]
    for row in rows:
        report = row["report"]
        terms = report["archive_bytes"] + report["code_bytes"]
        assert report["description_length_bits"] == 8 * terms


# What an editable installation does: whatever the package in front lacks is looked for in another.
FINDER = f"""
import sys
from importlib.machinery import PathFinder
from pathlib import Path
class Finder:
    def find_spec(name, path=None, target=None):
        parts = name.split(".")[1:]
        there = Path({str(Path(prequential.__file__).parent)!r}).joinpath(*parts)
        if parts and name.startswith("prequential.") and not PathFinder.find_spec(name, path):
            if there.is_dir() or there.with_suffix(".py").exists():
                sys.exit(name + ": would be taken from a checkout")
sys.meta_path.insert(0, Finder)
"""


@pytest.mark.slow
def test_self_extracting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FINDER)
    file.write_bytes(DATA)
    options = ["--tokenizer", "bpe:300", "--preset", "tiny", "-q", "--self-extracting"]
    assert main(["encode", str(file), *options]) == 0
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # all of a decoder would be compiled anew
    command = [sys.executable, f"{file}.pyz", "-o", f"{file}.out"]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert Path(f"{file}.out").read_bytes() == DATA


def test_salvage_is_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FRAME_BYTES", 1000)
    archive = bytearray(encode(DATA, tokens(*MIX)))
    (tmp_path / "a.pq").write_bytes(archive[: len(archive) * 2 // 3])
    assert main(["decode", "-q", "--salvage", str(tmp_path / "a.pq")]) == 1
    rescued = (tmp_path / "a").read_bytes()
    assert 1000 < len(rescued) < len(DATA)
    assert DATA.startswith(rescued)


@pytest.mark.slow
def test_long_prose_is_cut_into_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "PROSE_BYTES", (5000, 20_000))
    config = small("tokenizer=auto")
    for data, pieces_wanted in (
        (text(5000), True),
        (text(4999), False),
        (text(20_001), False),
        (text(4000) + noise(1000), False),
        (b"12345, " * 1000, False),
    ):
        archive = codec.compress(data, 0, config)
        assert codec.decompress(archive) == data
        header = ArchiveReader(io.BytesIO(archive), "a").header
        assert (header.tokens is not None) is pieces_wanted
        assert header.config is not None
        assert header.config.tokenizer == ("bpe:1024" if pieces_wanted else "bytes")


def test_floors_cost_nothing_on_peaked_distributions() -> None:
    """Of 16,384 pieces all but one are as good as impossible: the one costs 0.002 bits."""
    logits = np.full((1, 16_384), -40, np.float32)
    logits[0, 5000] = 0
    frequencies = np.zeros(logits.shape, np.int32)
    softmax.frequencies(logits, TOTAL_BITS, frequencies)
    assert frequencies.min() >= 1
    assert frequencies.sum() == 1 << TOTAL_BITS
    assert -np.log2(frequencies[0, 5000] / 2**TOTAL_BITS) < 0.002
