"""Configs: strict when read, canonical as bytes, sized by the input's length."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prequential.archive.container import Limits
from prequential.config import (
    MAX_TERMS,
    OPERAND_MAX,
    Config,
    from_tree,
    load,
    parse_context,
    preset_names,
)
from prequential.errors import ConfigError
from prequential.exact import bounds
from prequential.exact.scalars import group_of
from prequential.grids import Grid, parse, text_of


def test_presets_load_and_survive_their_bytes() -> None:
    assert {"best", "default", "fast", "gpu", "literal", "tiny"} <= set(preset_names())
    for name in preset_names():
        for size in (1, 1000, 10**6, 10**10):
            found = {"tokenizer": "bytes", "numbers": ""}  # by the encoder, where they are auto
            config = load(name, overrides=found).resolve(size)
            assert Config.from_bytes(config.to_bytes()) == config
            assert config.resolve(size) == config
            assert 1 <= config.streams <= size
            assert len(config.to_bytes()) < 200


def test_literal_has_no_memory() -> None:
    assert load("literal").memory.kind == "none"


def test_memory_stays_within_bounds_at_ten_megabytes() -> None:
    for name, gibibytes in (("fast", 1.75), ("literal", 1.75), ("default", 2.25)):
        assert load(name).resolve(10_192_446).memory_bytes() < gibibytes * (1 << 30), name


def test_gpu_has_tens_of_millions_of_weights_within_the_limits() -> None:
    config = load("gpu").resolve(10**9)
    m = config.model
    weights = m.layers * (4 * m.width + 2 * m.hidden) * m.width + (256 + m.conv - 1) * m.width
    assert 20e6 < weights < 50e6
    assert config.streams > 128
    bounds.check(m, config.streams, config.chunk)
    # The host's part, and the GPU's.
    there = config.device_bytes()
    config = config.fitting(int(Limits.memory_bytes) + there)
    assert config.memory_bytes() - there <= Limits.memory_bytes
    assert config.device_bytes() < 8 << 30
    # What tensor cores take, and a group's tokens in one product.
    rows = config.streams * config.chunk
    assert rows > 16
    assert rows * OPERAND_MAX**2 < 1 << 31
    for size in (m.width, m.hidden, 3 * m.width, rows):
        assert size % 8 == 0
    assert group_of(config.streams, config.optimizer.groups) * config.chunk <= MAX_TERMS


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({"colour": 1}, "colour"),
        ({"model": {"widht": 64}}, "model.widht"),
        ({"model": 3}, "model"),
        ({"chunk": "16"}, "chunk"),
        ({"chunk": True}, "chunk"),
        ({"chunk": 0}, "chunk"),
        ({"chunk": 2**40}, "chunk"),
        ({"streams": -1}, "streams"),
        ({"optimizer": {"rate": float("nan")}}, "optimizer.rate"),
        ({"optimizer": {"name": "lion"}}, "adam"),
        ({"model": {"width": 100, "heads": 3}}, "heads"),
        ({"model": {"window": 500}, "chunk": 1000}, "1040"),
        ({"ngrams": {"contexts": ["x3"]}}, "x3"),
        ({"ngrams": {"contexts": "o3"}}, "contexts"),
        ({"memory": {"contexts": ["o1"] * 65}}, "64"),
        ({"numbers": "15-1179663"}, "numbers"),
        ({"numbers": "0-6:<i5x1"}, "numbers"),
        ({"numbers": "0-6:u1x5"}, "numbers"),
        ({"numbers": "0-6:u2x1"}, "numbers"),
        ({"numbers": "0-7:>u2x1"}, "whole elements"),
        ({"numbers": "6-6:u1x1"}, "order"),
        ({"numbers": "0-60:u1x3/6"}, "order"),
        ({"numbers": "0-9:u1x1,6-12:u1x1"}, "overlaps"),
        ({"numbers": "0-9:u1x1", "memory": {"kind": "none"}}, "memory"),
        ({"numbers": "0-9:u1x1", "tokenizer": "bpe:300"}, "bytes"),
    ],
)
def test_bad_values_are_named(tree: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        from_tree(tree)


def test_overrides_and_files(tmp_path: Path) -> None:
    config = load("tiny", overrides=["model.width=64", 'ngrams.contexts=["o2"]', "epochs=2"])
    assert (config.model.width, config.ngrams.contexts, config.epochs) == (64, ("o2",), 2)
    assert load("tiny", overrides=["optimizer.name=sgd"]).optimizer.name == "sgd"
    file = tmp_path / "mine.toml"
    file.write_text("chunk = 5\n[model]\nwidth = 48\n")
    assert load(path=str(file)).model.width == 48
    for bad in ("chunk", "chunk=1\nstreams=9", "model.width.x=3"):
        with pytest.raises(ConfigError):
            load("tiny", overrides=[bad])
    file.write_text("chunk = = 5")
    deep = tmp_path / "deep.toml"
    deep.write_text("a = " + "[" * 100_000)
    with pytest.raises(ConfigError, match=r"deep\.toml: not valid TOML"):
        load(path=str(deep))
    with pytest.raises(ConfigError, match="chunk"):
        load(overrides=["chunk=" + "[" * 100_000])
    with pytest.raises(ConfigError, match="chunk"):
        load(overrides=["chunk=" + "1" * 6000])
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        load(path=str(file))
    with pytest.raises(ConfigError, match="no preset"):
        load("gigantic")


@pytest.mark.parametrize("name", ["o0", "o32", "w0", "w3", "s2", "s10", "s32"])
def test_contexts_that_exist(name: str) -> None:
    kind, size = parse_context(name)
    assert ("ows"[kind], size) == (name[0], int(name[1:]))


@pytest.mark.parametrize("name", ["o33", "w4", "s1", "s0", "o03", "o", "4", "o-1", "O3", "o٣"])
def test_contexts_that_do_not(name: str) -> None:
    with pytest.raises(ConfigError, match="context"):
        parse_context(name)


def test_numbers_stand_behind_the_settings() -> None:
    """So an input without any has the same bytes as before there were any."""
    text = "0-30:u1x3/7,31-37:<i2x1"
    config = from_tree({"numbers": text, "chunk": 7})
    assert config.to_bytes() == from_tree({"chunk": 7}).to_bytes() + text.encode()
    assert Config.from_bytes(config.to_bytes()) == config
    assert parse(text)[1] == Grid(31, 37, 2, 1, 0, True, True)
    assert text_of(parse(text)) == text
    assert config.resolve(37).numbers == text
    with pytest.raises(ConfigError, match="36 bytes"):
        config.resolve(36)
    large = from_tree({"numbers": "0-90000:u1x3/30000"}).resolve(90000)
    assert large.memory_bytes() > 30000 * 16 * 152


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_canonical(packed: bytes) -> None:
    try:
        config = Config.from_bytes(packed)
    except ConfigError:
        return
    assert config.to_bytes() == packed


def test_every_truncation_and_extension_is_refused() -> None:
    packed = load("default", overrides=["numbers="]).resolve(5000).to_bytes()
    for end in range(1, len(packed)):
        with pytest.raises(ConfigError):
            Config.from_bytes(packed[:end])
    with pytest.raises(ConfigError, match="numbers"):
        Config.from_bytes(packed + b"\0")


def test_field_order_is_the_format() -> None:
    """Moving or adding a field changes every archive: then docs/FORMAT.md must say so."""
    names = [f.name for f in dataclasses.fields(Config)]
    sections = ["model", "ngrams", "memory", "optimizer", "recurrence", "mixer"]
    assert names == [
        "streams",
        "stream_bytes",
        "chunk",
        "epochs",
        "tokenizer",
        *sections,
        "lanes",
        "numbers",
    ]


def test_the_memory_has_buckets_by_the_input_and_by_the_room_there_is() -> None:
    found = [Config().resolve(n).memory.buckets for n in (1000, 500_000, 10**7, 2 * 10**7, 10**9)]
    assert found == [2 << 20, 3_000_000, 16 << 20, 2 * 10**7, 24 << 20]
    large = Config().resolve(10**9)
    smaller = large.fitting(2 << 30)
    assert 8 << 20 < smaller.memory.buckets < large.memory.buckets
    assert smaller.memory_bytes() <= 2 << 30
    assert large.fitting(4 << 30) == large
    assert large.fitting(0).memory.buckets == 8 << 20
    restored = Config.from_bytes(smaller.following(10**9, 10**9).to_bytes())
    assert restored.resolve(10**9) == smaller
