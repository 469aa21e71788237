"""What each token costs, in the order of the input; together what the file costs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from samples import noise, small, text

from prequential import codec
from prequential.coding.itemised import Costs
from prequential.config import Config

DATA = text(1500) + noise(200) + text(700)
CONFIGS = [
    small("streams=1", "memory.kind=none"),
    small("streams=3", "memory.kind=mix"),
    small("streams=2", "memory.kind=mix", "epochs=2"),
    small("streams=3", "memory.kind=mix", 'numbers="100-1700:<i2x2"'),
    small("streams=2", "memory.kind=mix", "tokenizer=bpe:300", 'ngrams.contexts=["t1"]'),
]


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_together_they_are_what_the_file_costs(config: Config) -> None:
    told: list[Costs] = []
    archive = io.BytesIO()
    array = np.frombuffer(DATA, np.uint8)
    written = codec.encode(array, archive, config=config, told=told.append)
    assert archive.getvalue() == codec.compress(DATA, config=config)
    report, costs = codec.codelength(DATA, config=config, per_token=True)
    assert report.loss_integral_bits == codec.codelength(DATA, config=config).loss_integral_bits
    assert report.weights_digest == written.weights_digest
    for found in (costs, told[0]):
        assert found.bits.sum() == found.bits[::-1].sum() == report.loss_integral_bits
        assert found.per_byte().sum() == report.loss_integral_bits
        assert found.offsets[0] == 0
        assert found.offsets[-1] == len(found.per_byte()) == len(DATA)
        assert len(found.bits) == len(found.learner_bits) == report.tokens
    if config.memory.kind == "none":
        assert np.abs(costs.bits - costs.learner_bits).max() <= 2.0**-25


def test_noise_in_the_middle_is_where_the_bits_are() -> None:
    """With several streams too, each of which is at another place of the file."""
    for streams in (1, 3):
        config = small(f"streams={streams}", "memory.kind=mix")
        _, costs = codec.codelength(DATA, config=config, per_token=True)
        bits = costs.per_byte()
        assert bits[1500:1700].mean() > 2 * bits[1000:1500].mean()
        assert bits[1500:1700].mean() > 2 * bits[1750:].mean()


def test_bytes_of_numbers_stand_where_they_are_in_the_file() -> None:
    """Low bytes are noise, high bytes nearly always zero, whichever is coded first."""
    values = np.frombuffer(noise(1200), np.uint8).astype("<u2")
    config = small("memory.kind=mix", f'numbers="0-{2 * len(values)}:<u2x1"')
    _, costs = codec.codelength(values.tobytes(), config=config, per_token=True)
    assert costs.bits[0::2].mean() > 7
    assert costs.bits[1::2].mean() < 1


def test_a_repeat_is_seen() -> None:
    data = noise(300) + noise(300)
    _, costs = codec.codelength(data, config=small("streams=1", "memory.kind=mix"), per_token=True)
    assert costs.repeat_bytes[:300].max() < 5
    assert costs.repeat_bytes[400:].min() > 32
    assert costs.bits[400:].mean() < 1 < 7 < costs.bits[:300].mean()


def test_tokens_are_where_they_stand() -> None:
    config = small("tokenizer=bpe:300", "memory.kind=mix", 'ngrams.contexts=["t1"]')
    told: list[Costs] = []
    report = codec.measure(np.frombuffer(DATA, np.uint8), config=config, told=told.append)
    lengths = np.diff(told[0].offsets)
    assert lengths.max() > 1
    assert lengths.sum() == len(DATA)
    assert report.tokens == len(lengths)


@pytest.mark.parametrize("data", [b"", noise(300)])
def test_what_is_stored_costs_eight_bits_a_byte(data: bytes) -> None:
    told: list[Costs] = []
    report = codec.encode(
        np.frombuffer(data, np.uint8), io.BytesIO(), config=small(), told=told.append
    )
    assert report.mode == "stored"
    assert told[0].per_byte().tolist() == [8.0] * len(data)
