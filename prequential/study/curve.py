"""The description length of a training run from its published loss curve.

A run that sees every token once has coded the data: the area under its loss over tokens is the
payload of an archive that its code, run again, would decode.
"""

from __future__ import annotations

import bisect
import csv
import io
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import NamedTuple, TextIO

from prequential.archive.files import STDIO, display
from prequential.errors import FileError

BITS_PER_NAT = 1.0 / math.log(2.0)


@dataclass(frozen=True)
class Source:
    """A part of a mixture of data."""

    share: float  # of all tokens
    epochs: float  # how often the run goes through it; up to 1, nothing of it comes twice
    name: str = ""


class Log(NamedTuple):
    """The points of a loss curve, and what was in their file beside them."""

    steps: list[float]
    losses: list[float]
    blank_rows: int  # without a step or a loss
    replaced_rows: int  # of steps that the run took again, after it was resumed


@dataclass(frozen=True)
class Curve:
    """What a loss curve says: lengths in bits or bytes, losses per token."""

    tokens: float  # counted, that is, seen for the first time
    repeated_tokens: float  # seen again: learned from, not counted
    payload_bits: float
    mean_bits_per_token: float
    mean_nats_per_token: float
    final_bits_per_token: float
    # Parts of payload_bits: every counted token at a level, the final loss unless another was
    # asked for, and what is beyond it (below it, less than nothing).
    noise_bits: float
    structure_bits: float
    code_bytes: int
    total_bytes: float
    raw_bytes: int | None
    factor: float | None  # raw_bytes / total_bytes
    bits_per_raw_byte: float | None
    # Part of payload_bits: before the first point, whose loss is assumed there; and what it is at
    # most, with a vocabulary of known size, whose tokens need not cost more than log2 of it.
    assumed_bits: float
    assumed_bits_at_most: float | None

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))


def describe(
    tokens: Sequence[float],
    losses: Sequence[float],
    *,
    nats: bool = True,
    epoch_tokens: float | None = None,
    sources: Sequence[Source] = (),
    vocabulary: int | None = None,
    level: float | None = None,
    raw_bytes: int | None = None,
    code_bytes: int = 0,
) -> Curve:
    """Integrate losses per token over tokens seen (trapezoids).

    Before the first point the loss is taken to be that of the first point. From epoch_tokens on
    the data repeats: that part trains the model but describes nothing new, and is not counted.
    Sources of a mixture are spread evenly over the run, each with the loss of the whole; of one
    with E > 1 epochs nothing is counted behind the E-th part of the run, when it begins to repeat.
    What is beyond `level`, a loss, is structure: the surplus description length (Whitney et al.
    2020); at the final loss, the model's cost (Rissanen 1986; epiplexity, Finzi et al. 2026).

    >>> describe([0, 1000], [2.0, 1.0], nats=False).payload_bits
    1500.0

    Raises:
        ValueError: fewer than one point, tokens not increasing, numbers that are not finite, or
            sources that share more than all.
    """
    if not tokens or len(tokens) != len(losses):
        raise ValueError("a loss curve needs at least one point, a loss for each")
    if not all(map(math.isfinite, (*tokens, *losses))):
        raise ValueError("a loss curve holds a number that is not finite")
    if min(losses) < 0:
        raise ValueError("a loss curve goes below zero, which no codelength of tokens does")
    if tokens[-1] == 0:
        raise ValueError("a loss curve needs a point behind step 0")
    if tokens[0] < 0 or any(b <= a for a, b in itertools.pairwise(tokens)):
        raise ValueError("the steps of a loss curve must increase")
    if sum(source.share for source in sources) > 1 + 1e-9:
        raise ValueError("the sources of a loss curve share more than all of it")
    xs, ys = [0.0, *tokens], [losses[0], *losses]
    end = min(xs[-1], epoch_tokens if epoch_tokens is not None else math.inf)
    repeats = [(xs[-1] / max(1.0, source.epochs), source.share) for source in sources]
    edges = sorted({*(x for x in xs if x < end), *(x for x, _ in repeats if x < end), end})
    area, counted, assumed, last = 0.0, 0.0, 0.0, ys[0]
    for x0, x1 in itertools.pairwise(edges):
        new = 1.0 - sum(share for begin, share in repeats if begin <= x0)
        y0, last = _at(xs, ys, x0), _at(xs, ys, x1)
        part = (x1 - x0) * (y0 + last) / 2 * new
        area += part
        counted += (x1 - x0) * new
        if x1 <= tokens[0]:
            assumed += part
    unit = BITS_PER_NAT if nats else 1.0
    bits = area * unit
    total = bits / 8 + code_bytes
    mean = bits / counted if counted else 0.0
    noise = counted * (last if level is None else level) * unit
    before = min(tokens[0], end)
    return Curve(
        tokens=counted,
        repeated_tokens=xs[-1] - counted,
        payload_bits=bits,
        mean_bits_per_token=mean,
        mean_nats_per_token=mean / BITS_PER_NAT,
        final_bits_per_token=last * unit,
        noise_bits=noise,
        structure_bits=bits - noise,
        code_bytes=code_bytes,
        total_bytes=total,
        raw_bytes=raw_bytes,
        factor=raw_bytes / total if raw_bytes is not None and total else None,
        bits_per_raw_byte=8 * total / raw_bytes if raw_bytes else None,
        assumed_bits=assumed * unit,
        assumed_bits_at_most=before * math.log2(vocabulary) if vocabulary else None,
    )


def _at(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """The loss at x, on a straight line between its points."""
    k = min(max(bisect.bisect_right(xs, x), 1), len(xs) - 1)
    x0, x1 = xs[k - 1], xs[k]
    return ys[k] if x1 == x0 else ys[k - 1] + (ys[k] - ys[k - 1]) * (x - x0) / (x1 - x0)


def parse_source(text: str) -> Source:
    """NAME=SHARE:EPOCHS, the share as a number up to 1 or with a per cent sign.

    >>> parse_source("Wikipedia=4.5%:2.45")
    Source(share=0.045, epochs=2.45, name='Wikipedia')

    Raises:
        ValueError: this is something else.
    """
    match = re.fullmatch(r"([^=]+)=([\d.]+)(%?):([\d.]+)", text)
    if match is None:
        raise ValueError(f"{text!r}: expected NAME=SHARE:EPOCHS, as in Wikipedia=4.5%:2.45")
    share = float(match[2]) / (100 if match[3] else 1)
    source = Source(share, float(match[4]), match[1].strip())
    if not (0 < source.share <= 1 and source.epochs > 0):
        raise ValueError(f"{text!r}: a share is above 0 and at most 1, epochs are above 0")
    return source


def read(path: str, step_column: str, loss_column: str) -> Log:
    """Steps and losses of a log.

    A CSV file with a line of names (- for standard input), `trainer_state.json`, or TensorBoard's
    event files, or a folder of them. Blanks around names and numbers do not count. Rows that lack
    one of the two are left out, as loggers write them for other figures. Where steps go back, the
    run was resumed: later rows replace those from there on.

    Raises:
        FileError: no such file or column, no row with both, or a value that is no loss or step.
    """
    shown, step_column, loss_column = display(path), step_column.strip(), loss_column.strip()
    try:
        if path.endswith(".json"):
            rows, names = _trainer_rows(path)
        elif os.path.isdir(path) or "tfevents" in os.path.basename(path):
            rows, names = _event_rows(path, step_column, loss_column)
        else:
            rows, names = _table_rows(path)
    except OSError as error:
        raise FileError(f"{shown}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{shown}: is no text in UTF-8: give a CSV file or another log") from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise FileError(f"{shown}: is not a table of numbers ({error})") from error
    if not names:
        raise FileError(f"{shown}: is empty: give a log with a line of names and rows below it")
    if names[0].startswith(("{", "[")):
        raise FileError(
            f"{shown}: looks like JSON or JSON lines, not like CSV: give --csv a table with a line"
            " of names, or the state of transformers' Trainer in a file named .json"
        )
    for column in (step_column, loss_column):
        if column not in names:
            raise FileError(f"{shown}: no column {column!r}; it has {', '.join(names)}")
    log = _log(shown, rows, step_column, loss_column)
    if not log.steps:
        told = f"its {log.blank_rows:,} rows lack one or both" if rows else "it has names only"
        raise FileError(f"{shown}: no row has a {step_column} and a {loss_column}: {told}")
    return log


class Row(NamedTuple):
    """What a log says at once."""

    place: str  # in the file, for messages
    cells: dict[str, str | float | None]

    def number(self, column: str) -> float | None:
        """A cell's number; None: it is blank, or there is none.

        Raises:
            ValueError: it is no number that a step or a loss can be.
        """
        cell = self.cells.get(column)
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            return None
        try:
            value = float(cell)
        except (TypeError, ValueError):
            value = math.nan
        if not 0 <= value < math.inf:
            raise ValueError(f"{self.place}: {column} is {cell!r}, not a number from 0 on")
        return value


def _table_rows(path: str) -> tuple[list[Row], list[str]]:
    """The rows of a CSV file, and its columns."""
    with ExitStack() as stack:
        file: TextIO
        if path == STDIO:
            file = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", newline="")
            stack.callback(file.detach)
        else:
            file = stack.enter_context(open(path, newline="", encoding="utf-8-sig"))
        lines = csv.DictReader(file)
        lines.fieldnames = names = [name.strip() for name in lines.fieldnames or []]
        return [Row(f"line {lines.line_num}", cells) for cells in lines], names


def _trainer_rows(path: str) -> tuple[list[Row], list[str]]:
    """What transformers' Trainer keeps beside a checkpoint."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if not text.strip():
        return [], []
    state = json.loads(text)
    rows = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it has no log_history")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [Row(f"log_history[{k}]", row) for k, row in enumerate(rows)], names


def _event_rows(path: str, step: str, tag: str) -> tuple[list[Row], list[str]]:
    """The scalars of a tag, by TensorBoard's own reader."""
    shown = display(path)
    if os.path.isdir(path) and not any("tfevents" in name for name in os.listdir(path)):
        raise FileError(
            f"{shown}: is a folder, and none of TensorBoard's event files is in it: name the log"
        )
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise FileError(
            f"{shown}: event files need tensorboard, which is not installed:"
            " pip install 'prequential[tensorboard]'"
        ) from error
    events = EventAccumulator(path, size_guidance={"scalars": 0})
    events.Reload()
    names = events.Tags()["scalars"]
    scalars = events.Scalars(tag) if tag in names else []
    rows = [Row(f"event {k}", {step: e.step, tag: e.value}) for k, e in enumerate(scalars, 1)]
    return rows, [step, *names] if names else []


def _log(shown: str, rows: Iterable[Row], step_column: str, loss_column: str) -> Log:
    steps, losses = list[float](), list[float]()
    blank = replaced = 0
    for row in rows:
        try:
            step, loss = row.number(step_column), row.number(loss_column)
        except ValueError as error:
            raise FileError(f"{shown}, {error}") from error
        if step is None or loss is None:
            blank += 1
            continue
        while steps and steps[-1] >= step:
            steps.pop()
            losses.pop()
            replaced += 1
        steps.append(step)
        losses.append(loss)
    return Log(steps, losses, blank, replaced)
