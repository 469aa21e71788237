"""The description length of a training run from its published loss curve.

A run that sees every token once has coded the data: the area under its loss over tokens is the
payload of an archive that its code, run again, would decode.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from prequential.errors import FileError

BITS_PER_NAT = 1.0 / math.log(2.0)


@dataclass(frozen=True)
class Curve:
    """What a loss curve says: lengths in bits or bytes, losses per token."""

    tokens: float  # counted, that is, seen for the first time
    repeated_tokens: float  # seen again: learned from, not counted
    payload_bits: float
    mean_bits_per_token: float
    mean_nats_per_token: float
    final_bits_per_token: float
    code_bytes: int
    total_bytes: float
    raw_bytes: int | None
    factor: float | None  # raw_bytes / total_bytes
    bits_per_raw_byte: float | None

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))


def describe(
    tokens: Sequence[float],
    losses: Sequence[float],
    *,
    nats: bool = True,
    epoch_tokens: float | None = None,
    raw_bytes: int | None = None,
    code_bytes: int = 0,
) -> Curve:
    """Integrate losses per token over tokens seen (trapezoids).

    Before the first point the loss is taken to be that of the first point. From epoch_tokens on
    the data repeats: that part trains the model but describes nothing new, and is not counted.

    >>> describe([0, 1000], [2.0, 1.0], nats=False).payload_bits
    1500.0

    Raises:
        ValueError: fewer than one point, tokens not increasing, or numbers that are not finite.
    """
    if not tokens or len(tokens) != len(losses):
        raise ValueError("a loss curve needs at least one point, a loss for each")
    if not all(map(math.isfinite, (*tokens, *losses))):
        raise ValueError("a loss curve holds a number that is not finite")
    if tokens[0] < 0 or any(b <= a for a, b in itertools.pairwise(tokens)):
        raise ValueError("the steps of a loss curve must increase")
    xs, ys = [0.0, *tokens], [losses[0], *losses]
    end = min(xs[-1], epoch_tokens if epoch_tokens is not None else math.inf)
    area, last = 0.0, ys[0]
    for x0, x1, y0, y1 in zip(xs, xs[1:], ys, ys[1:], strict=False):
        if x0 >= end or x1 == x0:
            continue
        stop = min(x1, end)
        last = y0 + (y1 - y0) * (stop - x0) / (x1 - x0)
        area += (stop - x0) * (y0 + last) / 2
    unit = BITS_PER_NAT if nats else 1.0
    bits = area * unit
    total = bits / 8 + code_bytes
    mean = bits / end if end else 0.0
    return Curve(
        tokens=end,
        repeated_tokens=xs[-1] - end,
        payload_bits=bits,
        mean_bits_per_token=mean,
        mean_nats_per_token=mean / BITS_PER_NAT,
        final_bits_per_token=last * unit,
        code_bytes=code_bytes,
        total_bytes=total,
        raw_bytes=raw_bytes,
        factor=raw_bytes / total if raw_bytes is not None and total else None,
        bits_per_raw_byte=8 * total / raw_bytes if raw_bytes else None,
    )


def read(path: str, step_column: str, loss_column: str) -> tuple[list[float], list[float]]:
    """Steps and losses of a CSV file with a line of names.

    Raises:
        FileError: no such file or column, or a value that is not a number.
    """
    shown = ascii(path)[1:-1]
    steps: list[float] = []
    losses: list[float] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file)
            names = lines.fieldnames or []
            for column in (step_column, loss_column):
                if column not in names:
                    raise FileError(f"{shown}: no column {column!r}; it has {', '.join(names)}")
            for row in lines:
                steps.append(float(row[step_column]))
                losses.append(float(row[loss_column]))
    except OSError as error:
        raise FileError(f"{shown}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, ValueError, TypeError, csv.Error) as error:
        raise FileError(f"{shown}: is not a table of numbers ({error})") from error
    return steps, losses
