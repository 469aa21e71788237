"""What a run measured: one object for the API, the JSON output and the tables."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from prequential._version import __version__
from prequential.config import Config

SCHEMA = 1


@dataclass(frozen=True)
class Report:
    """Sizes in bytes or bits, times in seconds. See docs/REPORT.md for each field.

    The description length is that of all that decoding takes, libraries aside:
    description_length_bits = 8 * (archive_bytes + code_bytes + prior_bytes). Where given_bytes are
    learned first, it is that of the original given these, which do not count.
    """

    original_bytes: int
    archive_bytes: int
    header_bytes: int
    payload_bytes: int
    payload_bits: int
    loss_integral_bits: float
    code_bytes: int
    prior_bytes: int
    given_bytes: int
    description_length_bits: int
    bits_per_byte: float
    tokens: int
    vocabulary: int
    vocabulary_bytes: int
    bits_per_token: float
    seconds: float
    bytes_per_second: float
    seed: int
    mode: str
    config: dict[str, Any] | None
    sha256: str
    weights_digest: str
    parameters: int
    weights_bytes: int
    steps: int
    versions: dict[str, str]
    schema: int = SCHEMA

    def to_csv(self) -> str:
        """A line of names and a line of values; nested ones as JSON."""
        out = io.StringIO()
        fields = dataclasses.asdict(self)
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(fields)
        writer.writerow(
            json.dumps(value) if isinstance(value, dict) else value for value in fields.values()
        )
        return out.getvalue()

    def to_json(self) -> str:
        """One JSON object, keys in the order of the fields."""
        return json.dumps(dataclasses.asdict(self))


def versions(numerics: int, container: int) -> dict[str, str]:
    """The versions that the result depends on (numerics, container) or was made with."""
    named = {name: metadata.version(name) for name in ("torch", "numpy", "numba")}
    return {
        "prequential": __version__,
        "numerics": str(numerics),
        "container": str(container),
        "python": platform.python_version(),
        **named,
    }


def config_tree(config: Config | None) -> dict[str, Any] | None:
    """The config as nested dictionaries; None for a stored archive."""
    return None if config is None else dataclasses.asdict(config)
