"""Find out whether the larger model has the shorter description at this data size.

`preq mdl` with a grid of depths and learning rates, on longer and longer beginnings of one file.
The model is a bare transformer of width 64: no n-gram logits, no hashed inputs, no memory. Each
depth gets the best of the rates, since a larger net wants a smaller one.

    python examples/scaling.py enwik6 --plot examples/scaling.png

Finished runs are kept in the folder of --keep, so that an interrupted example goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from prequential.cli import main as preq

GRID = ["--grid", "model.layers=0,1,2,4", "--grid", "optimizer.rate=0.002,0.004,0.008,0.016,0.032"]
MODEL = [
    "ngrams.contexts=[]",
    "model.inputs=[]",
    "model.conv=4",
    "model.width=64",
    "model.hidden=256",
]


def sweep(data: bytes, folder: Path) -> dict[str, Any]:
    """The JSON of `preq mdl` on data."""
    folder.mkdir(parents=True, exist_ok=True)
    source, result = folder / f"first-{len(data)}", folder / f"first-{len(data)}.sweep.json"
    source.write_bytes(data)
    settings = [part for setting in MODEL for part in ("--set", setting)]
    command = ["mdl", str(source), "--preset", "tiny", *settings, *GRID, "--keep", str(folder)]
    if preq([*command, "--json-file", str(result), "-f", "-q"]):
        raise SystemExit(1)
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def shortest(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each depth the run with the shortest description, the smallest model first."""
    best: dict[int, dict[str, Any]] = {}
    for row in found["rows"]:
        report = row["report"]
        size = report["parameters"]
        if (
            size not in best
            or report["description_length_bits"] < best[size]["report"]["description_length_bits"]
        ):
            best[size] = row
    return [best[size] for size in sorted(best)]


def plot(path: str, sweeps: list[dict[str, Any]]) -> None:
    """One panel per data size: total bits against parameters, the shortest ringed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(3.1 * len(sweeps), 3.2), layout="constrained")
    for axes, found in zip(figure.subplots(1, len(sweeps), squeeze=False)[0], sweeps, strict=True):
        rows = shortest(found)
        xs = [row["report"]["parameters"] for row in rows]
        ys = [row["report"]["description_length_bits"] for row in rows]
        lowest = ys.index(min(ys))
        axes.plot(xs, ys, "o-", color="#0072b2", markersize=4)
        axes.plot(xs[lowest], ys[lowest], "o", color="#d55e00", markersize=10, fillstyle="none")
        for x, y, row in zip(xs, ys, rows, strict=True):
            layers = row["settings"]["model.layers"]
            axes.annotate(layers, (x, y), (0, 8), textcoords="offset points", ha="center")
        axes.set_title(
            f"{found['original_bytes']:,} bytes", loc="left", fontweight="bold", fontsize=10
        )
        axes.set_xscale("log")
        axes.margins(0.12, 0.2)
        axes.set_xticks([xs[0], xs[-2], xs[-1]] if len(xs) > 2 else xs)
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(EngFormatter(places=0, sep=""))
        axes.yaxis.set_major_formatter(EngFormatter(unit="bit"))
        axes.locator_params(axis="y", nbins=5)
        axes.set_xlabel("parameters (at the points: layers)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e8e8e8", linewidth=0.7)
    figure.axes[0].set_ylabel("description length")
    figure.savefig(path, dpi=100)


def main() -> None:
    """Sweep, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--sizes", default="5000,20000,80000,320000")
    parser.add_argument("--keep", type=Path, metavar="DIR")
    parser.add_argument("--plot", metavar="OUT")
    args = parser.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp())
    sweeps = []
    print("bytes    layers  parameters  rate   payload  total bits")
    with args.file.open("rb") as file:
        data = file.read(max(int(size) for size in args.sizes.split(",")))
    for size in args.sizes.split(","):
        found = sweep(data[: int(size)], folder)
        sweeps.append(found)
        rows = shortest(found)
        least = min(row["report"]["description_length_bits"] for row in rows)
        for row in rows:
            report, settings = row["report"], row["settings"]
            total = report["description_length_bits"]
            print(
                f"{size:>7}  {settings['model.layers']:>6}  {report['parameters']:>10,}"
                f"  {settings['optimizer.rate']:5}  {report['payload_bytes']:>7,}  {total:>10,}"
                f"{'  shortest' if total == least else ''}",
                flush=True,
            )
    if args.plot:
        plot(args.plot, sweeps)


if __name__ == "__main__":
    main()
