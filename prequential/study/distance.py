"""How far files are from one another, by what one takes given the other.

With `preq` as the method L(x | y) is a conditional codelength, and the normalized information
distance max(L(x | y), L(y | x)) / max(L(x), L(y)) stands for itself (Li, Chen, Li, Ma & Vitanyi
2004, the similarity metric). With `gzip` there is no conditional one: C(xy) - C(y) takes its place,
and the normalized compression distance (C(xy) - min(C(x), C(y))) / max(C(x), C(y)) is that of
Cilibrasi & Vitanyi 2005, clustering by compression.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from prequential.archive.files import display
from prequential.config import Config
from prequential.study import plots, score
from prequential.training import given
from prequential.training.run import Options

METHODS = ("preq", "gzip")
KINDS = ("ncd", "mean", "conditional")
SCHEMA = 1

Matrix = list[list[float]]


@dataclass(frozen=True)
class Distances:
    """Of n files: lengths in bits, and three matrices (n, n), a row for each x, a column for y."""

    names: list[str]
    method: str
    alone: list[float]  # bits of x
    conditional: Matrix  # bits of x given y
    ncd: Matrix  # normalized distance, by the longer of the two ways
    mean: Matrix  # (L(x | y) + L(y | x)) / (L(x) + L(y))
    schema: int = SCHEMA

    def matrix(self, kind: str) -> Matrix:
        """One of KINDS."""
        return {"ncd": self.ncd, "mean": self.mean, "conditional": self.conditional}[kind]

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))

    def to_csv(self, kind: str) -> str:
        """A line of names, and one for each file."""
        lines = [["", *self.names]]
        lines += [
            [name, *map(str, row)] for name, row in zip(self.names, self.matrix(kind), strict=True)
        ]
        return "".join(f"{score.csv_line(line)}\n" for line in lines)


def by_gzip(names: Sequence[str], files: Sequence[bytes]) -> Distances:
    """Distances by gzip -9, of files that are not empty."""
    alone = [_gzip(x) for x in files]
    joined = [[_gzip(x + y) for y in files] for x in files]
    n = range(len(files))
    conditional = [[float(joined[j][i] - alone[j]) for j in n] for i in n]
    ncd = [
        [(joined[i][j] - min(alone[i], alone[j])) / max(alone[i], alone[j]) for j in n] for i in n
    ]
    lengths = [float(bits) for bits in alone]
    return Distances(list(names), "gzip", lengths, conditional, ncd, _means(lengths, conditional))


def _gzip(data: bytes) -> int:
    """Bits."""
    return 8 * len(gzip.compress(data, 9))


def by_codelength(
    names: Sequence[str],
    files: Sequence[bytes],
    config: Config,
    *,
    seed: int = 0,
    processes: int = 1,
    options: Options | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Distances:
    """Distances by our own codelengths, of files that are not empty."""
    things = [score.Thing(name, None, data) for name, data in zip(names, files, strict=True)]
    first = [given.named(t.file, np.frombuffer(t.data, np.uint8)) for t in things]
    found = score.score(
        things, config, first, seed=seed, processes=processes, options=options, progress=progress
    )
    alone = [s.alone.bits for s in found]
    conditional = [[length.bits for length in s.given] for s in found]
    n = range(len(files))
    ncd = [
        [max(conditional[i][j], conditional[j][i]) / max(alone[i], alone[j]) for j in n] for i in n
    ]
    return Distances(list(names), "preq", alone, conditional, ncd, _means(alone, conditional))


def _means(alone: Sequence[float], conditional: Matrix) -> Matrix:
    n = range(len(alone))
    return [[(conditional[i][j] + conditional[j][i]) / (alone[i] + alone[j]) for j in n] for i in n]


def heat_map(distances: Distances, kind: str, suffix: str) -> bytes:
    """The matrix as a picture: "svg" or "png". Raises FileError without matplotlib."""
    plots.require()
    from matplotlib.figure import Figure

    matrix, size = distances.matrix(kind), 2.5 + 0.5 * len(distances.names)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix, cmap="viridis")
    figure.colorbar(image, label="bits of row given column" if kind == "conditional" else kind)
    ticks = range(len(matrix))
    names = [display(name) for name in distances.names]
    axes.set_xticks(ticks, names, rotation=45, ha="right")
    axes.set_yticks(ticks, names)
    axes.set_title(f"{kind} ({distances.method})")
    out = io.BytesIO()
    figure.savefig(out, format=suffix, dpi=120, metadata={"Date": None} if suffix == "svg" else {})
    return out.getvalue()
