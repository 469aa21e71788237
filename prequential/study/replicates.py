"""Runs with several seeds, and on the first so many bytes: means, differences, where they cross.

A seed is luck, not a choice, so settings are compared by their means over the same seeds. The
difference of two settings is taken seed by seed: what a seed does to both is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from prequential.study.mdl import Row, Sweep

# Student's t that 97.5 % are below, for 1, 2, ... degrees of freedom; 1.96 in the end.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


class Mean(NamedTuple):
    """A mean, and half of the interval that has the true one in 95 % of cases."""

    value: float
    within: float | None  # None: of one value nothing is known

    def __str__(self) -> str:
        return f"{self.value:,.0f}" + ("" if self.within is None else f" ± {self.within:,.0f}")


class Line(NamedTuple):
    """A setting at a size."""

    original_bytes: int
    label: str
    seeds: int
    total_bits: Mean
    behind_bits: Mean  # of the best setting at this size, seed by seed


class Crossing(NamedTuple):
    """Two settings of which one is shorter at first, the other from a size on."""

    first: str
    then: str
    original_bytes: int  # the smallest size measured from which `then` stays the shorter one
    ahead_bits: Mean  # there, seed by seed


def mean(values: Sequence[float]) -> Mean:
    """With Student's interval.

    >>> mean([1.0, 3.0])
    Mean(value=2.0, within=12.706)
    """
    count = len(values)
    middle = math.fsum(values) / count
    if count == 1:
        return Mean(middle, None)
    variance = math.fsum((value - middle) ** 2 for value in values) / (count - 1)
    t = _T[count - 2] if count - 2 < len(_T) else 1.96
    return Mean(middle, t * math.sqrt(variance / count))


def label_of(settings: dict[str, str]) -> str:
    """The settings on one line, but for the seed."""
    return " ".join(f"{k}={v}" for k, v in settings.items() if k != "seed") or "run"


def groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by setting, each in the order of their seeds."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(label_of(row.settings), []).append(row)
    return {key: sorted(own, key=lambda row: int(row.report["seed"])) for key, own in found.items()}


def lines(sweeps: Sequence[Sweep]) -> list[Line]:
    """Every setting at every size, those of the smallest first."""
    found = []
    for sweep in sweeps:
        by_setting = groups(sweep.rows)
        best = by_setting[label_of(sweep.best.settings)]
        for label, rows in by_setting.items():
            total = mean([row.total_bits for row in rows])
            behind = _difference(rows, best)
            found.append(Line(sweep.original_bytes, label, len(rows), total, behind))
    return found


def crossings(sweeps: Sequence[Sweep]) -> list[Crossing]:
    """Where the best setting of the smallest size is overtaken, by each that overtakes it."""
    by_size = [groups(sweep.rows) for sweep in sweeps]
    first = label_of(sweeps[0].best.settings)
    found = []
    for label in by_size[0]:
        ahead = [_difference(rows[first], rows[label]) for rows in by_size]
        last_behind = max(k for k, gain in enumerate(ahead) if gain.value <= 0)
        if last_behind + 1 < len(sweeps):
            k = last_behind + 1
            found.append(Crossing(first, label, sweeps[k].original_bytes, ahead[k]))
    return found


def _difference(rows: Sequence[Row], others: Sequence[Row]) -> Mean:
    pairs = zip(rows, others, strict=True)
    return mean([float(row.total_bits - other.total_bits) for row, other in pairs])
