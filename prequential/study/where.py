"""Where in a file its bits go: by kind of byte, by place, and the dearest stretches."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from prequential.archive.files import display
from prequential.coding.itemised import Costs
from prequential.report import Report

SCHEMA = 1
PLACE_BYTES = 32  # of a stretch, in what is not text
_BLANK = (9, 10, 12, 13)  # control characters of text
_LEAST_TEXT = 0.995  # of the bytes, as a file that is shown as text has them
# Kinds of bytes, in the order in which they are shown; each byte is of one.
_KINDS = (
    ("lower-case letters", b"abcdefghijklmnopqrstuvwxyz"),
    ("capital letters", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    ("digits", b"0123456789"),
    ("blanks and tabs", b" \t"),
    ("line ends", b"\r\n"),
    ("brackets and quotes", b"()[]{}<>\"'`"),
    ("other signs", b"!#$%&*+,-./:;=?@\\^_|~"),
    ("zeros", b"\0"),
    ("other control bytes", bytes(range(1, 32)) + b"\x7f"),
    ("bytes from 128 on", bytes(range(128, 256))),
)


class Kind(NamedTuple):
    """What bytes of a kind cost, and what each predictor would pay for them by itself."""

    name: str
    bytes: int
    bits: float
    alone: dict[str, float]


class Place(NamedTuple):
    """A stretch of the file."""

    start: int  # its first byte
    end: int  # behind its last one
    bits: float


class Known(NamedTuple):
    """A file that was there before: learned first, or a prior."""

    name: str
    sha256: str  # its beginning, in hexadecimal digits
    size: int  # bytes

    def __str__(self) -> str:
        return f"{display(self.name)} ({self.size:,} bytes, SHA-256 {self.sha256})"


@dataclass(frozen=True)
class Where:
    """A file, and what each of its bytes costs."""

    file: str
    data: np.ndarray  # (N,) uint8
    costs: Costs
    report: Report
    given: tuple[Known, ...] = ()  # learned first, in this order
    prior: Known | None = None
    command: str = ""  # how it was called

    @property
    def after(self) -> str:
        """What was there before it, in words; empty if nothing was."""
        parts = [f"after learning {', '.join(map(str, self.given))}"] if self.given else []
        parts += [] if self.prior is None else [f"from the prior {self.prior}"]
        return " ".join(parts)

    @property
    def has_networks(self) -> bool:
        """Whether something was learned beside a memory, whose costs all are."""
        config = self.report.config
        return config is not None and not config["memory"]["alone"]

    @cached_property
    def bits(self) -> np.ndarray:
        """(N,) float64: bits of each byte."""
        return self.costs.per_byte()

    @cached_property
    def alone(self) -> dict[str, np.ndarray]:
        """(N,) float64 each: bits of each byte by the learner alone, and by parts of it."""
        lengths = np.diff(self.costs.offsets)
        by_token = {"learner": self.costs.learner_bits, **self.costs.apart}
        return {
            name: np.repeat(bits / np.maximum(lengths, 1), lengths)
            for name, bits in by_token.items()
        }

    @cached_property
    def is_text(self) -> bool:
        """Whether it can be read as UTF-8, but for a few bytes."""
        shown = self.data.tobytes().decode("utf-8", "replace")
        odd = shown.count("\ufffd") + sum(shown.count(chr(c)) for c in range(32) if c not in _BLANK)
        return odd <= (1 - _LEAST_TEXT) * len(shown)

    def kinds(self) -> list[Kind]:
        """What each kind of bytes costs, those that there are."""
        bits, found = self.bits, []
        kind_of = np.empty(256, np.int64)
        for k, (_, members) in reversed(list(enumerate(_KINDS))):  # the first that has a byte
            kind_of[list(members)] = k
        counts = np.bincount(kind_of[self.data], minlength=len(_KINDS))
        sums = np.bincount(kind_of[self.data], bits, len(_KINDS))
        others = {
            name: np.bincount(kind_of[self.data], each, len(_KINDS))
            for name, each in self.alone.items()
        }
        for k, (name, _) in enumerate(_KINDS):
            if counts[k]:
                alone = {other: float(total[k]) for other, total in others.items()}
                found.append(Kind(name, int(counts[k]), float(sums[k]), alone))
        return found

    def dearest(self, most: int = 20) -> list[Place]:
        """The stretches that cost most a byte: lines of text, or as many bytes, those of 8 on."""
        edges = self.edges()
        if len(edges) < 2:
            return []
        sums = np.add.reduceat(self.bits, edges[:-1])
        lengths = np.diff(edges)
        dear = np.where(lengths >= min(8, lengths.max()), sums / lengths, -1.0)
        chosen = np.argsort(-dear, kind="stable")[:most]
        return [Place(int(edges[i]), int(edges[i + 1]), float(sums[i])) for i in chosen]

    def edges(self) -> np.ndarray:
        """(m + 1,) where stretches begin, and the end: after line ends, or every 32 bytes."""
        size = len(self.data)
        if not self.is_text:
            return np.unique(np.append(np.arange(0, size, PLACE_BYTES), size))
        ends = np.flatnonzero(self.data == ord("\n")) + 1
        return np.unique(np.concatenate([[0], ends, [size]]))

    def curve(self, points: int = 400) -> list[tuple[int, float]]:
        """(bytes, bits so far) in the order of the file."""
        size = len(self.data)
        at = np.unique(np.linspace(0, size, points + 1).astype(np.int64))
        sums = np.concatenate([[0.0], self.bits.cumsum()])
        return [(int(n), float(sums[n])) for n in at]

    def text_of(self, place: Place, most: int = 60) -> str:
        """What stands there, as text or in hexadecimal digits."""
        part = self.data[place.start : place.end].tobytes()
        if not self.is_text:
            return part[:16].hex(" ")
        shown = part.decode("utf-8", "replace").strip()
        return shown if len(shown) <= most else shown[: most - 1] + "…"

    def to_json(self) -> str:
        """One JSON object: totals, kinds, dearest places, curve."""
        fields = {
            "schema": SCHEMA,
            "file": self.file,
            "original_bytes": len(self.data),
            "loss_integral_bits": self.report.loss_integral_bits,
            "learner_bits": float(self.costs.learner_bits.sum()),
            "apart_bits": {name: float(each.sum()) for name, each in self.costs.apart.items()},
            "kinds": [kind._asdict() for kind in self.kinds()],
            "dearest": [
                place._asdict() | {"text": self.text_of(place)} for place in self.dearest()
            ],
            "curve": self.curve(),
            "given": [known._asdict() for known in self.given],
            "prior": self.prior and self.prior._asdict(),
            "command": self.command,
            "seed": self.report.seed,
            "config": self.report.config,
            "versions": self.report.versions,
        }
        return json.dumps(fields)
