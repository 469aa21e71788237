"""Tokens join to the data whatever the data is, and the same data gives the same tokens."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import noise, text

from prequential.coding import content, tokenizer
from prequential.coding.pieces import pack, unpack
from prequential.coding.tokenizer import Spec, identity, parse, tokenize
from prequential.coding.vocabulary import MAX_PIECE_BYTES, MAX_PIECES, Vocabulary
from prequential.errors import ConfigError, FileError

SCRIPTS = (
    "The quick brown fox. Съешь ещё этих мягких булок. ωμέγα 中文字符測試 日本語のテキスト 한국어 "
    "עברית العربية हिन्दी ไทย 👩‍👩‍👧‍👦 🇪🇺 e\u0301 \u00e9 ﬁ Ａ ½ \u00a0\u200b\u2028"  # noqa: RUF001
).encode()
ADVERSARIAL = {
    "empty": b"",
    "one": b"x",
    "space": b" ",
    "spaces": b"  leading, trailing and   many   ",
    "scripts": SCRIPTS * 4,
    "invalid": b"\xff\xfe\xc3\x28\xe2\x82 \xf0\x9f\x98 ok \xed\xa0\x80 \xc0\x80" * 5,
    "nul": b"a\0b\0\0c",
    "lines": b"one\r\ntwo\rthree\n\n\tfour\r\n" * 9,
    "mark": "\u2581a \u2581\u2581b \u2585 \u2047 \u4e2d".encode() * 3,
    "names": b"<unk><s></s> <unk> <s> <0x0A><0x0a> <pad> \\u2581" * 5,
    "bom": b"\xef\xbb\xbftext \xef\xbb\xbf",
    "all": bytes(range(256)) * 3,
    "noise": noise(3000),
    "text": text(5000),
    "zeros": bytes(1_000_000),
    "long word": b"ab" * 30_000,
}
TRAINED = ["bytes", "bpe:300", "unigram:300", "bpe", "unigram"]


def checked(data: bytes, spec: str) -> tuple[Vocabulary, np.ndarray]:
    """Tokenize; the tokens and the packed vocabulary give the data back, with nothing to spare."""
    vocabulary, tokens = tokenize(data, parse(spec))
    assert tokens.dtype == np.uint16
    assert unpack(pack(vocabulary)).join(tokens).tobytes() == data
    if spec != "bytes":
        assert sorted(set(tokens.tolist())) == list(range(len(vocabulary)))
    return vocabulary, tokens


@pytest.mark.slow
@pytest.mark.parametrize("spec", TRAINED)
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_trained_pieces_give_any_bytes_back(name: str, spec: str) -> None:
    vocabulary, tokens = checked(ADVERSARIAL[name], spec)
    assert len(vocabulary) <= parse(spec).size
    assert len(tokens) <= len(ADVERSARIAL[name])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=20), st.text(max_size=20).map(str.encode))))
def test_random_bytes_come_back(parts: list[bytes]) -> None:
    for spec in ("bpe:260", "unigram:260"):
        checked(b"".join(parts) * 2, spec)


def save(path: Path, **options: object) -> Path:
    """An ordinary model, as sentencepiece trains it on text by default but for the options."""
    lines = [*text(20_000).decode().split(" a"), *SCRIPTS.decode().split(" ")]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        **({"hard_vocab_limit": False, "minloglevel": 2} | options),
    )
    path.write_bytes(model.getvalue())
    return path


MODELS: dict[str, dict[str, object]] = {
    "bpe": {"model_type": "bpe", "vocab_size": 300},
    "unigram": {"model_type": "unigram", "vocab_size": 220},
    "fallback": {"model_type": "bpe", "vocab_size": 500, "byte_fallback": True},
    "unigram fallback": {"model_type": "unigram", "vocab_size": 460, "byte_fallback": True},
    "suffix": {"model_type": "bpe", "vocab_size": 300, "treat_whitespace_as_suffix": True},
    "symbols": {
        "model_type": "unigram",
        "vocab_size": 250,
        "user_defined_symbols": ["<sep>", "\n", "한국어"],
        "normalization_rule_name": "nmt_nfkc_cf",
    },
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / f"{request.param}.model".replace(" ", "-")
    return str(save(path, **MODELS[request.param]))


def test_a_model_gives_any_bytes_back(model: str) -> None:
    for data in ADVERSARIAL.values():
        checked(data, model)
    checked(b"a<sep>\nb" * 4, model)


@settings(max_examples=30, deadline=None)
@given(data=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_a_model_gives_random_bytes_back(model: str, data: bytes) -> None:
    checked(data + data, model)


def test_a_model_segments_as_it_does_itself(tmp_path: Path) -> None:
    """Where its normaliser changes nothing, and the pieces are used often enough."""
    for kind, size in (("bpe", 200), ("unigram", 180)):
        path = save(tmp_path / "own.model", model_type=kind, vocab_size=size)
        data = "中文字符測試 ещё булок".encode() + b" the of and they have" * 2
        data = b" " + data + b" " + data
        own = sentencepiece.SentencePieceProcessor(model_file=str(path))
        expected = own.encode(data.decode().strip(), out_type=str)
        known = [p.replace("\u2581", " ").encode() for p in expected if own.piece_to_id(p)]
        vocabulary, tokens = checked(data, str(path))
        found = [vocabulary.pieces[t] for t in tokens]
        assert [p for p in found if len(p) > 1] == [p for p in known if len(p) > 1]


def test_the_same_data_gives_the_same_tokens() -> None:
    data = text(60_000) + noise(2000)
    for spec in ("bpe:600", "unigram:600"):
        (v, a), (w, b) = tokenize(data, parse(spec)), tokenize(bytearray(data), parse(spec))
        assert v.pieces == w.pieces
        assert np.array_equal(a, b)


def test_arrays_are_taken() -> None:
    data = np.frombuffer(text(3000), np.uint8)
    vocabulary, tokens = tokenize(data, parse("bpe:300"))
    assert np.array_equal(vocabulary.join(tokens), data)


def test_text_takes_fewer_tokens() -> None:
    data = text(50_000)
    assert len(checked(data, "bpe:300")[1]) < len(data) / 3
    assert len(checked(data, "unigram:300")[1]) < len(data) / 2
    assert len(checked(bytes(100_000), "bpe")[1]) <= 100_000 // MAX_PIECE_BYTES + 8


def test_long_inputs_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte that is not in the sample still has its token, and the size is kept."""
    monkeypatch.setattr(content, "SAMPLE_BYTES", 1 << 18)
    data = text(1 << 19) + bytes(range(256)) * 2 + text(1 << 19, seed=1)
    for kind in ("bpe", "unigram"):
        vocabulary, _ = checked(data, f"{kind}:400")
        assert 256 <= len(vocabulary) <= 400


def test_more_used_pieces_than_fit_are_cut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "MAX_PIECES", 280)
    monkeypatch.setattr(tokenizer, "MIN_SIZE", 257)
    data = np.frombuffer(text(20_000), np.uint8)
    for kind in ("bpe", "unigram"):
        pieces = tokenizer.train(data, kind, 400)
        vocabulary, tokens = tokenizer.segment(data, pieces)
        assert sum(len(p) > 1 for p in vocabulary.pieces) <= 280 - 256
        assert np.array_equal(vocabulary.join(tokens), data)


def test_specs_are_parsed() -> None:
    assert parse("bytes") == Spec("bytes")
    assert parse("bpe:257") == Spec("bpe", 257)
    assert parse(f"unigram:{MAX_PIECES}") == Spec("unigram", MAX_PIECES)
    assert parse("bpe") == Spec("bpe", tokenizer.DEFAULT_SIZE)
    assert parse("dir/x.model") == Spec("model", MAX_PIECES, "dir/x.model")


@pytest.mark.parametrize(
    "spec",
    [
        *("", "words", "bpe:", "bpe:x", "bpe:-5", "bpe:256", "bpe:16385", "bpe:" + "9" * 5000),
        *("bpe:512:3", "bpe:\u0665\u0660\u0660", "BPE", "bytes:8", "x.Model"),
    ],
)
def test_other_specs_are_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match="tokenizer"):
        parse(spec)


def test_a_given_model_is_named_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "a.model"
    path.write_bytes(b"abc")
    name, digest = identity(parse(str(path))).split()
    assert name == "a.model"
    assert digest.startswith("ba7816bf")
    assert identity(parse("bpe")) == "bpe:4096"


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    good = save(tmp_path / "good.model", model_type="bpe", vocab_size=300).read_bytes()
    words = save(tmp_path / "w.model", model_type="word", vocab_size=20)
    path = tmp_path / "bad.model"
    damaged = [b"", b"\xff" * 50, good[:-40], good[:300], noise(500), words.read_bytes()]
    for model in damaged:
        path.write_bytes(model)
        with pytest.raises(ConfigError, match=r"bad\.model"):
            tokenize(b"text", parse(str(path)))
    with pytest.raises(FileError, match=r"none\.model"):
        tokenize(b"text", parse(str(tmp_path / "none.model")))


def test_damaged_models_give_data_back_or_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "x.model", model_type="bpe", vocab_size=300)
    good = path.read_bytes()
    for place in range(0, len(good), max(1, len(good) // 60)):
        damaged = bytearray(good)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            checked(text(300) + SCRIPTS, str(path))
        except ConfigError:
            continue


def test_a_missing_sentencepiece_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ConfigError, match="install"):
        tokenize(b"text", parse("bpe"))
    assert checked(b"text", "bytes")[1].tolist() == list(b"text")
