"""Plots of a sweep, with matplotlib (the extra `plot`)."""

from __future__ import annotations

import io
import itertools
import re
from html import escape
from typing import TYPE_CHECKING, Any

from prequential.archive.files import display
from prequential.errors import FileError
from prequential.study.mdl import Row, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Distinguishable for most colour-blind readers (Okabe & Ito 2008); greys for the yardsticks.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREYS = ("#a0a0a0", "#858585", "#5f5f5f", "#333333")
STYLES = (":", "-.", "--", "-")
MAX_LINES = 6  # runs shown along the file; more would hide each other

_STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.fancybox": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
}


def require() -> None:
    """See that matplotlib is there, before long work.

    Raises:
        FileError: it is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise FileError(
            "plots need matplotlib, which is not installed: pip install 'prequential[plot]'"
        ) from error


def figure_bytes(sweep: Sweep, kind: str) -> bytes:
    """All panels as one picture: kind is "svg" or "png"."""
    panels = _panels(sweep)
    with _style():
        from matplotlib.figure import Figure

        columns = 2
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(11.5, 3.7 * rows), layout="constrained")
        for i, (draw, _) in enumerate(panels):
            draw(figure.add_subplot(rows, columns, i + 1), sweep)
        figure.suptitle(f"{display(sweep.file)}: {sweep.original_bytes:,} bytes", fontsize=11)
        return _save(figure, kind)


def panels_svg(sweep: Sweep) -> list[tuple[str, str]]:
    """(SVG element, caption) of each panel."""
    found = []
    for draw, caption in _panels(sweep):
        with _style():
            import matplotlib
            from matplotlib.figure import Figure

            matplotlib.rcParams["svg.hashsalt"] = draw.__name__  # what ids are made from
            figure = Figure(figsize=(5.6, 3.7), layout="constrained")
            draw(figure.add_subplot(), sweep)
            svg = _save(figure, "svg").decode()
        svg = svg[svg.index("<svg") :]
        end = svg.index(">") + 1
        # Other ids are counted, in every picture from one on.
        svg = re.sub(r'(id="|#)([\w.]+_\d+")', rf"\1{draw.__name__}-\2", svg[end:])
        title = f"<title>{escape(caption)}</title>"
        found.append((f'<svg viewBox="0 0 403.2 266.4" role="img">{title}{svg}', caption))
    return found


def _style() -> Any:
    require()
    import matplotlib

    # The same file every time.
    return matplotlib.rc_context(_STYLE | {"svg.hashsalt": "prequential"})


def _save(figure: Figure, kind: str) -> bytes:
    out = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(out, format=kind, dpi=150, metadata=metadata)
    return out.getvalue()


def _panels(sweep: Sweep) -> list[tuple[Any, str]]:
    panels = []
    best = "the best run" if len(sweep.best_rows) == 1 else sweep.best.label
    if len({_epochs_of(row) for row in sweep.rows}) > 1:
        panels.append(
            (
                _epochs,
                "Description length (payload, header, vocabulary, code and prior together) against"
                " steps per chunk; the lowest point is ringed.",
            )
        )
    if len({row.report["parameters"] for row in sweep.rows}) > 1:
        panels.append((_scaling, "Description length against the transformer's parameters."))
    order = coding_order(sweep)
    panels.append(
        (
            _cumulative,
            f"Cumulative codelength: bits of the bytes so far, in the order of the file. {order}"
            " Uniform, 8 bits a byte, may leave at the top.",
        )
    )
    if len(sweep.rows) > 1:
        panels.append(
            (
                _behind,
                f"How many bits each run is behind {best}, so far. Where a line falls, that run"
                " gains on it.",
            )
        )
    panels += [
        (
            _difference,
            f"The bits of {best} minus a yardstick's, so far. Where it falls, the model gains on"
            " it. The legend has the differences at the end; uniform may leave at the bottom.",
        ),
        (_loss, "Loss per byte along the file, each point the mean of the bytes around it."),
    ]
    return panels


def coding_order(sweep: Sweep) -> str:
    """How the bytes were coded, in a sentence: what the sum over the first of them means."""
    streams = {int(row.report["config"]["streams"]) for row in sweep.rows if row.report["config"]}
    if streams <= {1}:
        return "They were coded in this order, so the archive of a prefix is about this large."
    return (
        f"They were coded as {' or '.join(map(str, sorted(streams)))} streams side by side, each"
        " from its own place on: a prefix alone would be another archive, and a larger one."
    )


def _lines(sweep: Sweep) -> list[Row]:
    """The runs to draw along the file: the best ones, in the order of the grid."""
    best = sorted(sweep.rows, key=lambda row: row.total_bits)[:MAX_LINES]
    return [row for row in sweep.rows if row in best]


def _grouped(sweep: Sweep, key: str) -> dict[str, list[Row]]:
    """Rows by their settings other than `key`."""
    groups: dict[str, list[Row]] = {}
    for row in sweep.rows:
        rest = " ".join(f"{k}={v}" for k, v in row.settings.items() if k != key)
        groups.setdefault(rest, []).append(row)
    return groups


def _epochs(axes: Axes, sweep: Sweep) -> None:
    for colour, (name, rows) in zip(_cycle(), _grouped(sweep, "epochs").items(), strict=False):
        xs = [_epochs_of(row) for row in rows]
        _marked(axes, xs, [row.total_bits for row in rows], colour, name or "total")
    ticks = sorted({_epochs_of(row) for row in sweep.rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set(title="Description length by epochs", xlabel="epochs")
    _bits_axis(axes)
    _legend(axes)


def _scaling(axes: Axes, sweep: Sweep) -> None:
    from matplotlib.ticker import EngFormatter

    varying = next((k for k in sweep.rows[0].settings if k.startswith("model.")), "model")
    for colour, (name, rows) in zip(_cycle(), _grouped(sweep, varying).items(), strict=False):
        ordered = sorted(rows, key=lambda row: int(row.report["parameters"]))
        xs = [row.report["parameters"] for row in ordered]
        _marked(axes, xs, [row.total_bits for row in ordered], colour, name or "total")
    sizes = sorted({int(row.report["parameters"]) for row in sweep.rows})
    axes.set_xscale("log")
    if len(sizes) <= MAX_LINES:
        axes.set_xticks(sizes)
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(EngFormatter(places=0, sep=""))
    axes.set(title="Description length by size", xlabel="parameters of the transformer")
    _bits_axis(axes)
    _legend(axes)


def _epochs_of(row: Row) -> int:
    """1 for a file that was stored."""
    return int((row.report["config"] or {"epochs": 1})["epochs"])


def _marked(axes: Axes, xs: list[int], ys: list[int], colour: str, label: str) -> None:
    axes.plot(xs, ys, "o-", color=colour, label=label, linewidth=1.5, markersize=4)
    lowest = min(range(len(ys)), key=ys.__getitem__)
    axes.plot(xs[lowest], ys[lowest], "o", color=colour, markersize=9, fillstyle="none")


def _cumulative(axes: Axes, sweep: Sweep) -> None:
    _yardsticks(axes, sweep)
    for colour, row in zip(_cycle(), _lines(sweep), strict=False):
        xs, ys = zip(*row.trajectory, strict=True)
        axes.plot(xs, ys, color=colour, label=row.label, linewidth=1.5)
    ends = [points[-1][1] for name, points in sweep.baselines.items() if name != "uniform"]
    ends += [row.trajectory[-1][1] for row in _lines(sweep)]
    axes.set(title="Cumulative codelength", xlabel="bytes")
    axes.set_xlim(0, max(1, sweep.original_bytes))
    axes.set_ylim(0, 1.1 * max(1.0, *ends))
    _bytes_axis(axes)
    _bits_axis(axes)
    _legend(axes)


def _yardsticks(axes: Axes, sweep: Sweep) -> None:
    for grey, style, (name, points) in zip(GREYS, STYLES, sweep.baselines.items(), strict=False):
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, style, color=grey, label=name, linewidth=1.2)


def _behind(axes: Axes, sweep: Sweep) -> None:
    edges = [sweep.original_bytes * i / 200 for i in range(201)]
    best = [_at(sweep.best.trajectory, edge) for edge in edges]
    for colour, row in zip(_cycle(), _lines(sweep), strict=False):
        behind = [_at(row.trajectory, x) - y for x, y in zip(edges, best, strict=True)]
        axes.plot(edges, behind, color=colour, label=row.label, linewidth=1.5)
    axes.set(title=f"Bits behind {sweep.best.label}", xlabel="bytes")
    axes.set_xlim(0, max(1, sweep.original_bytes))
    _bytes_axis(axes)
    _bits_axis(axes)
    _legend(axes)


def _difference(axes: Axes, sweep: Sweep) -> None:
    from matplotlib.ticker import EngFormatter

    row, bits, others = sweep.best, EngFormatter(unit="bit", places=1), [0.0]
    for grey, style, (name, points) in zip(GREYS, STYLES, sweep.baselines.items(), strict=False):
        ys = [_at(row.trajectory, x) - y for x, y in points]
        label = f"against {name}: {bits(ys[-1])}"
        axes.plot([x for x, _ in points], ys, style, color=grey, label=label, linewidth=1.5)
        if name != "uniform":  # which would flatten the others
            others += ys
    axes.axhline(0, color="#333333", linewidth=0.8)
    axes.set(title=f"{row.label} against yardsticks", xlabel="bytes")
    axes.set_xlim(0, max(1, sweep.original_bytes))
    margin = 0.08 * max(1.0, max(others) - min(others))
    axes.set_ylim(min(others) - margin, max(others) + margin)
    _bytes_axis(axes)
    _bits_axis(axes)
    _legend(axes)


def _at(trajectory: list[tuple[int, float]], x: float) -> float:
    """The trajectory's bits at x bytes, on a straight line between its points."""
    import numpy as np

    xs, ys = zip(*trajectory, strict=True)
    return float(np.interp(x, xs, ys))


def _loss(axes: Axes, sweep: Sweep) -> None:
    bins = 60
    edges = [sweep.original_bytes * i / bins for i in range(bins + 1)]
    middle = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    for colour, row in zip(_cycle(), _lines(sweep), strict=False):
        bits = [_at(row.trajectory, edge) for edge in edges]
        loss = [(b - a) * bins / max(1, sweep.original_bytes) for a, b in itertools.pairwise(bits)]
        axes.plot(middle, loss, color=colour, label=row.label, linewidth=1.2)
    axes.set(title="Loss along the file", xlabel="bytes", ylabel="bits per byte")
    axes.set_xlim(0, max(1, sweep.original_bytes))
    axes.set_ylim(0)
    _bytes_axis(axes)
    _legend(axes)


def _cycle() -> tuple[str, ...]:
    return COLOURS * 100


def _legend(axes: Axes) -> None:
    labels = axes.get_legend_handles_labels()[1]
    if len(labels) > 1:  # below, where it covers nothing
        columns = 2 if max(map(len, labels)) < 32 else 1
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=columns, borderaxespad=0)


def _bits_axis(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter

    axes.yaxis.set_major_formatter(EngFormatter(unit="bit"))


def _bytes_axis(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter

    axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    axes.locator_params(axis="x", nbins=6)
