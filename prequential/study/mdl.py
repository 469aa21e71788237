"""Description lengths of one file under many settings; every figure is the size of an archive.

A sweep is a grid of settings. Each run writes an archive, which anyone can decode, and a report;
both go to the sweep's folder as soon as they are complete, so an interrupted sweep takes up where
it stopped. Choosing the best of n runs by looking at them costs log2 n bits, and they are counted.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prequential import config
from prequential.archive import codesize
from prequential.archive.container import Limits
from prequential.archive.files import atomic_output, display, open_input
from prequential.errors import ArchiveError, ConfigError, FileError
from prequential.progress import Progress, ProgressCallback
from prequential.study import child, mixture, replicates

if TYPE_CHECKING:
    import numpy as np

    from prequential.coding.itemised import Costs
    from prequential.study.priors import Price
    from prequential.training.given import Given

SCHEMA = 2
FINAL_SHARE = 0.1  # of the file, over which the final loss is the mean


@dataclass(frozen=True)
class Job:
    """One run of a sweep, in a form that another process can take."""

    source: str
    settings: dict[str, str]
    preset: str | None
    config_path: str | None
    overrides: tuple[str, ...]
    seed: int
    threads: int | None
    device: str
    prior: str | None
    verify: bool
    folder: str
    given: tuple[str, ...] = ()  # names of files that are learned first
    memory_bytes: float = Limits().memory_bytes  # limit of what the model may allocate
    force: bool = True  # may replace what another sweep has kept
    size: int | None = None  # the first so many bytes only

    @property
    def label(self) -> str:
        """The settings, as shown."""
        return ",".join(f"{key}={value}" for key, value in self.settings.items()) or "run"

    def config(self) -> config.Config:
        """The config with this run's settings.

        Raises:
            ConfigError: an unknown key or a value out of range.
        """
        own = [f"{k}={v}" for k, v in self.settings.items() if k not in ("preset", "seed")]
        preset = self.settings.get("preset", self.preset)
        path = None if "preset" in self.settings else self.config_path
        return config.load(preset, path, [*self.overrides, *own])

    @property
    def own_seed(self) -> int:
        """The seed, from the grid if it is there."""
        text = self.settings.get("seed", str(self.seed))
        if not text.isdecimal():
            raise ConfigError(f"--grid seed={text}: a seed is an integer from 0 to 2^64 - 1")
        return int(text)

    def path(self, suffix: str) -> Path:
        """Where this run's archive or report is kept: the name has every setting given."""
        parts = [*self.overrides, *(f"{key}={value}" for key, value in self.settings.items())]
        if "preset" not in self.settings and (self.preset or self.config_path):
            parts.append(f"preset={self.preset or Path(str(self.config_path)).stem}")
        if "seed" not in self.settings:
            parts.append(f"seed={self.seed}")
        parts += [f"given={Path(name).name}" for name in self.given]
        if self.size is not None:
            parts.append(f"bytes={self.size}")
        name = re.sub(r"[^\w.,=+-]", "_", ",".join(parts))
        if len(name) > 150:
            name = name[:120] + hashlib.sha256(name.encode()).hexdigest()[:16]
        return Path(self.folder, f"{Path(self.source).name[:60]}.{name}{suffix}")


@dataclass(frozen=True)
class Row:
    """One run: its settings and report, and what only a sweep asks for."""

    settings: dict[str, str]
    report: dict[str, Any]  # the fields of `report.Report`
    mean_bits_per_byte: float  # of the payload
    final_bits_per_byte: float  # over the last tenth of the bytes coded
    flops: float  # estimated
    archive: str  # its file name
    verified: bool
    # (bytes, payload bits of them) along the file.
    trajectory: list[tuple[int, float]] = field(repr=False)
    level: float | None = None  # bits per byte that count as noise; None: those of the end

    @property
    def noise_bits(self) -> float:
        """What stays dear: every byte at the level."""
        level = self.final_bits_per_byte if self.level is None else self.level
        return int(self.report["original_bytes"]) * level

    @property
    def structure_bits(self) -> float:
        """What learning cost: the payload beyond the noise, its surplus.

        Rissanen 1986 at the final loss; surplus description length at any level, Whitney et al.
        2020.
        """
        return float(self.report["loss_integral_bits"]) - self.noise_bits

    @property
    def total_bits(self) -> int:
        """The description length: archive, code and prior."""
        return int(self.report["description_length_bits"])

    @property
    def label(self) -> str:
        """The settings on one line."""
        return " ".join(f"{key}={value}" for key, value in self.settings.items()) or "run"


@dataclass(frozen=True)
class Sweep:
    """All runs on one file, the best of them, and what having chosen it costs."""

    command: str
    file: str
    original_bytes: int
    sha256: str
    rows: list[Row]
    baselines: dict[str, list[tuple[int, float]]]
    given: list[str] = field(default_factory=list)  # names of what was learned first
    prior: Price | None = None  # what the prior costs, if there is one
    schema: int = SCHEMA

    @property
    def best(self) -> Row:
        """The run with the shortest description; of several seeds, the first of the best ones."""
        return self.best_rows[0]

    @property
    def best_rows(self) -> list[Row]:
        """The runs of the setting with the shortest description, the mean over its seeds."""
        return min(replicates.groups(self.rows).values(), key=_mean_bits)

    @property
    def selection_bits(self) -> float:
        """What it takes to say which setting of the grid it was; a seed is no choice."""
        return math.log2(len(replicates.groups(self.rows)))

    @property
    def best_bits(self) -> float:
        """The description length by the best setting, the mean over its seeds."""
        return _mean_bits(self.best_rows)

    @property
    def total_bits(self) -> float:
        """The description length of the file by the best setting, the choice included."""
        return self.best_bits + self.selection_bits

    @property
    def mixture_bits(self) -> float:
        """The description length by all settings at once, and all their seeds, weighed alike.

        Never above total_bits: -log2 of the mean of 2^-bits takes no choice.
        """
        import numpy as np

        totals = np.array([[float(row.total_bits)] for row in self.rows])
        return mixture.bits(totals, self._weights())

    @property
    def fixed_share_rate(self) -> float:
        """The part of all weight that is given out anew after a block: one in all blocks."""
        return 1 / max(2, len(mixture.edges(self.original_bytes)))

    @property
    def fixed_share_bits(self) -> float:
        """The same by fixed share: after each block of the file another run may take over.

        What of a description is not payload stands before the first block.
        """
        import numpy as np

        places = mixture.edges(self.original_bytes)
        costs = []
        for row in self.rows:
            before = row.total_bits - float(row.report["loss_integral_bits"])
            xs, ys = zip(*row.trajectory, strict=True)
            costs.append([before, *np.diff(np.interp(places, xs, ys))])
        return mixture.bits(np.array(costs), self._weights(), self.fixed_share_rate)

    def _weights(self) -> np.ndarray:
        """(R,): of each row before anything is known; a setting's is shared out over its seeds."""
        import numpy as np

        by_setting = replicates.groups(self.rows)
        seeds = [len(by_setting[replicates.label_of(row.settings)]) for row in self.rows]
        return 1.0 / (len(by_setting) * np.array(seeds))

    @property
    def difference_bits(self) -> dict[str, float]:
        """Yardstick -> the best setting's payload, a mean over seeds, minus its own, in bits."""
        payloads = [float(row.report["loss_integral_bits"]) for row in self.best_rows]
        payload = replicates.mean(payloads).value
        return {name: payload - points[-1][1] for name, points in self.baselines.items()}

    def to_json(self) -> str:
        """One JSON object; see docs/REPORT.md."""
        fields = dataclasses.asdict(self)
        for row, parts in zip(self.rows, fields["rows"], strict=True):
            parts |= {"structure_bits": row.structure_bits, "noise_bits": row.noise_bits}
        fields["prior"] = self.prior and self.prior._asdict()
        fields |= {
            "best": self.rows.index(self.best),
            "selection_bits": self.selection_bits,
            "best_bits": self.best_bits,
            "total_bits": self.total_bits,
            "mixture_bits": self.mixture_bits,
            "fixed_share_bits": self.fixed_share_bits,
            "fixed_share_rate": self.fixed_share_rate,
            "difference_bits": self.difference_bits,
        }
        return json.dumps(fields)

    def to_csv(self) -> str:
        """A line per run, the columns of the table."""
        out = io.StringIO()
        keys = list(dict.fromkeys(key for row in self.rows for key in row.settings))
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([*keys, *COLUMNS])
        for row in self.rows:
            writer.writerow([*(row.settings.get(key, "") for key in keys), *cells(row)])
        return out.getvalue()


def _mean_bits(rows: Sequence[Row]) -> float:
    return replicates.mean([row.total_bits for row in rows]).value


COLUMNS = (
    "payload_bytes",
    "header_bytes",
    "vocabulary_bytes",
    "prior_bytes",
    "code_bytes",
    "total_bits",
    "bits_per_byte",
    "factor",
    "final_loss",
    "mean_loss",
    "structure_bits",
    "parameters",
    "steps",
    "seconds",
    "bytes_per_second",
    "flops",
)


def cells(row: Row) -> tuple[float, ...]:
    """The figures of a row, in the order of COLUMNS.

    The first five are bytes and add up to total_bits; header_bytes has the frames with it, and not
    the vocabulary. bits_per_byte and factor are of the total, the losses bits per byte of the
    payload.
    """
    report = row.report
    size = max(1, int(report["original_bytes"]))
    return (
        report["payload_bytes"],
        report["archive_bytes"] - report["payload_bytes"] - report["vocabulary_bytes"],
        report["vocabulary_bytes"],
        report["prior_bytes"],
        report["code_bytes"],
        row.total_bits,
        row.total_bits / size,
        8 * size / row.total_bits,
        row.final_bits_per_byte,
        row.mean_bits_per_byte,
        row.structure_bits,
        report["parameters"],
        report["steps"],
        report["seconds"],
        report["bytes_per_second"],
        row.flops,
    )


# Short names of the same, for tables.
HEADINGS = (
    "payload", "header", "vocabulary", "prior", "code", "total bits", "bits/byte", "factor",
    "final", "mean", "structure", "parameters", "steps", "seconds", "bytes/s", "FLOPs",
)  # fmt: skip
_FORMATS = (
    ",d", ",d", ",d", ",d", ",d", ",d", ".4f", ".3f", ".4f", ".4f", ",.0f", ",d", ",d", ".1f",
    ",.0f", ".2e",
)  # fmt: skip


def formatted(values: tuple[float, ...]) -> list[str]:
    """The cells of a row as text, in the order of HEADINGS."""
    return [format(value, how) for value, how in zip(values, _FORMATS, strict=True)]


def grid(axes: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Every combination of the axes' values.

    >>> grid({"a": ["1", "2"], "b": ["x"]})
    [{'a': '1', 'b': 'x'}, {'a': '2', 'b': 'x'}]
    """
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def parse_axis(text: str) -> tuple[str, list[str]]:
    """KEY=V1,V2 as (key, values); commas inside brackets do not separate.

    >>> parse_axis('model.inputs=["o1","o2"],["o1"]')
    ('model.inputs', ['["o1","o2"]', '["o1"]'])

    Raises:
        ConfigError: no key, or no values.
    """
    key, found, rest = text.partition("=")
    values = re.findall(r"(?:\[[^\]]*\]|[^,\[])+", rest)
    if not found or not key or not values or len(set(values)) < len(values):
        raise ConfigError(f"--grid {text!r}: expected KEY=V1,V2,... with different values")
    return key.strip(), [value.strip() for value in values]


def run(
    jobs: Sequence[Job],
    workers: int = 1,
    progress: Callable[[str], Any] | None = None,
    done: Callable[[str], None] | None = None,
) -> list[Row]:
    """Measure every job, those already in the folder without running them again.

    progress(label) gives a context manager with a callback for a run in this process; done is told
    of each finished run, with the time left.
    """
    for job in jobs:
        job.config()  # every setting is checked before the first run
        _ = job.own_seed
    started = time.monotonic()
    rows: dict[int, Row] = {}
    for i, job in enumerate(jobs):
        kept = _kept(job)
        if kept is not None:
            rows[i] = kept
        elif not job.force and _is_foreign(job):
            raise FileError(
                f"{display(str(job.path('.pq')))}: is of other data, or by another version:"
                " replace it with -f, or --keep this sweep elsewhere"
            )
    waiting = [i for i in range(len(jobs)) if i not in rows]
    if done is not None and rows:
        done(f"{len(rows)} of {len(jobs)} runs were finished already")
    work = {i: float(jobs[i].config().epochs) for i in waiting}
    spent = 0.0
    for i, row in _measured(jobs, waiting, workers, progress):
        rows[i] = row
        spent += work[i]
        if done is not None:
            left = (time.monotonic() - started) * (sum(work.values()) - spent) / spent
            done(f"{len(rows)}/{len(jobs)} {row.label}: {row.total_bits:,} bits, {left:.0f} s left")
    return [rows[i] for i in range(len(jobs))]


def _measured(
    jobs: Sequence[Job],
    waiting: list[int],
    workers: int,
    progress: Callable[[str], Any] | None,
) -> Iterator[tuple[int, Row]]:
    if workers == 1 or len(waiting) < 2:
        for i in waiting:
            if progress is None:
                yield i, measure(jobs[i])
            else:
                with progress(f"{i + 1}/{len(jobs)} {jobs[i].label}") as callback:
                    yield i, measure(jobs[i], callback)
        return
    # PyTorch does not survive a fork of its threads.
    with child.safe_path():
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        futures: dict[Future[Row], int] = {pool.submit(measure, jobs[i]): i for i in waiting}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def measure(job: Job, progress: ProgressCallback | None = None) -> Row:
    """Encode, verify if asked, and keep archive and row in the job's folder."""
    from prequential import codec
    from prequential.training import prior
    from prequential.training import run as runs

    points: list[tuple[int, float]] = [(0, 0.0)]
    costs: list[Costs] = []

    def follow(p: Progress) -> None:
        points.append((p.bytes_done, p.payload_bits))
        if progress is not None:
            progress(p)

    archive = job.path(".pq")
    weights = prior.load(job.prior) if job.prior else None
    with open_input(job.source) as original, ExitStack() as stack:
        data = original.array[: job.size]
        given = _given(job, stack)
        key = _key(job, hashlib.sha256(data.data).hexdigest(), given)
        with atomic_output(str(archive), force=True) as output:
            report = codec.encode(
                data,
                output.file,
                config=job.config(),
                seed=job.own_seed,
                options=runs.Options(
                    device=job.device,
                    threads=job.threads,
                    progress=follow,
                    prior=weights,
                    given=given,
                    limits=Limits(memory_bytes=job.memory_bytes),
                ),
                told=costs.append,
            )
    if job.verify:
        _verify(job, archive, report.original_bytes)
    fields = dataclasses.asdict(report)
    size = report.original_bytes
    points[-1] = (size, report.loss_integral_bits)
    row = Row(
        settings=job.settings,
        report=fields,
        mean_bits_per_byte=report.loss_integral_bits / max(1, size),
        final_bits_per_byte=_final_loss(points),
        flops=flops(fields),
        archive=archive.name,
        verified=job.verify,
        trajectory=_along(costs[0]),
    )
    kept = {"key": key, "row": dataclasses.asdict(row)}
    with atomic_output(str(job.path(".json")), force=True) as output:
        output.file.write(json.dumps(kept).encode())
    return row


def priced(row: Row, price: Price) -> Row:
    """The row with its prior at this price."""
    report = dict(row.report)
    if report["prior_bytes"]:  # a stored file has none
        report["description_length_bits"] += 8 * (price.bytes - report["prior_bytes"])
        report["prior_bytes"] = price.bytes
    return dataclasses.replace(row, report=report)


def flops(report: Mapping[str, Any]) -> float:
    """Floating-point operations of the transformer's steps, estimated.

    6 per parameter and token of a step (Kaplan et al. 2020) and 12 * width per layer and visible
    key; for every replayed chunk also the forward passes over the context before it.
    """
    tree = report["config"]
    if tree is None:
        return 0.0
    model, chunk = tree["model"], tree["chunk"]
    keys = model["window"] + chunk / 2
    step = 6.0 * report["parameters"] + 12.0 * model["layers"] * model["width"] * keys
    context = math.ceil(max(model["window"], config.HISTORY_BYTES) / chunk) / 3
    return float(report["tokens"] * step * (1 + (tree["epochs"] - 1) * (1 + context)))


def _final_loss(points: Sequence[tuple[int, float]]) -> float:
    """Bits per byte over the last tenth.

    >>> _final_loss([(0, 0.0), (50, 400.0), (90, 600.0), (100, 620.0)])
    2.0
    """
    size, bits = points[-1]
    start, before = next(p for p in reversed(points) if p[0] <= size * (1 - FINAL_SHARE))
    return (bits - before) / max(1, size - start)


def _along(costs: Costs) -> list[tuple[int, float]]:
    """Bits of the first bytes, in the order of the file, where the mixture's blocks begin."""
    bits = costs.per_byte()
    places = mixture.edges(len(bits))
    sums = bits.cumsum()
    return [(0, 0.0), *((int(n), float(sums[n - 1])) for n in places[1:])]


def _given(job: Job, stack: ExitStack) -> tuple[Given, ...]:
    """What is learned first."""
    from prequential.training import given

    return tuple(given.named(n, stack.enter_context(open_input(n)).data) for n in job.given)


def _key(job: Job, sha256: str, given: Sequence[Given]) -> str:
    """What a kept result must agree in to be taken over."""
    prior = hashlib.sha256(Path(job.prior).read_bytes()).hexdigest() if job.prior else ""
    parts = [sha256, job.config().to_bytes().hex(), str(job.own_seed), prior]
    parts += [f"{g.file.name} {g.file.size} {g.file.sha256.hex()}" for g in given]
    code = hashlib.sha256(codesize.packed(codesize.ALL)).hexdigest()
    from prequential.coding import tokenizer

    if (name := job.config().tokenizer) != config.AUTO:
        parts.append(tokenizer.identity(tokenizer.parse(name)))
    return hashlib.sha256("\n".join([*parts, code, f"{SCHEMA}"]).encode()).hexdigest()


def _kept(job: Job) -> Row | None:
    """The row of a run that was finished earlier with the same data, settings and code."""
    try:
        kept = json.loads(job.path(".json").read_bytes())
        size = job.path(".pq").stat().st_size
    except (OSError, ValueError, RecursionError):
        return None
    with open_input(job.source) as original, ExitStack() as stack:
        sha256 = hashlib.sha256(original.array[: job.size].data).hexdigest()
        key = _key(job, sha256, _given(job, stack))
    if kept.get("key") != key or size != kept["row"]["report"]["archive_bytes"]:
        return None
    row = kept["row"]
    row["trajectory"] = [(int(x), float(y)) for x, y in row["trajectory"]]
    found = Row(**row)
    if job.verify and not found.verified:
        _verify(job, job.path(".pq"), int(found.report["original_bytes"]))
        found = dataclasses.replace(found, verified=True)
    return found


def _is_foreign(job: Job) -> bool:
    """Whether in this run's place stands anything but its archive, left without a report."""
    from prequential.archive.container import ArchiveReader
    from prequential.training.run import sha256_of

    if job.path(".json").exists():
        return True
    try:
        with job.path(".pq").open("rb") as file, open_input(job.source) as original:
            header = ArchiveReader(file, job.path(".pq").name).header
            return header.sha256 != sha256_of(original.array[: job.size])
    except FileNotFoundError:
        return False
    except ArchiveError:
        return True


def _verify(job: Job, archive: Path, original_bytes: int) -> None:
    child.verify(
        str(archive),
        f"{archive.name}: does not decode",
        original_bytes=original_bytes,
        memory_bytes=job.memory_bytes,
        threads=job.threads,
        device=job.device,
        prior=job.prior,
        given=job.given,
    )


def work_folder(source: str, keep: str | None) -> Path:
    """The folder of a sweep: the one to keep, or one in the user's cache until it is finished."""
    if keep is not None:
        folder = Path(keep)
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        name = hashlib.sha256(os.path.realpath(source).encode(errors="surrogateescape")).hexdigest()
        folder = Path(cache, "prequential", "mdl", name[:16])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise FileError(
            f"{display(str(folder))}: is a file: name a folder to keep runs in"
        ) from error
    return folder


def discard(folder: Path) -> None:
    """Remove the folder of a finished sweep."""
    shutil.rmtree(folder, ignore_errors=True)
