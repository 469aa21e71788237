"""A sweep as one self-contained HTML page: table, totals and plots, nothing loaded."""

from __future__ import annotations

import json
from html import escape

from prequential.archive.files import display
from prequential.study import plots
from prequential.study.mdl import HEADINGS, Sweep, cells, formatted
from prequential.study.mixture import BLOCKS
from prequential.study.replicates import groups, label_of, mean

_CSS = """
:root { color-scheme: light dark; --text: #1b1f24; --quiet: #57606a; --page: #fff;
  --line: #d8dee4; --faint: #eef1f4; --best: #eaf5ea; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e3e6e9; --quiet: #9aa4ae; --page: #141414; --line: #3b4249; --faint: #262b30;
    --best: #1d3322; }
  figure svg { filter: invert(.92) hue-rotate(180deg); }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  margin: 0; }
main { max-width: 1240px; margin: 0 auto; padding: 2.2rem 1.5rem 4rem; }
h1 { font-size: 1.55rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.4rem 0 .6rem; }
p.lead { color: var(--quiet); margin: 0 0 1.4rem; overflow-wrap: anywhere; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: .7rem 1rem; flex: 1 1 9rem;
  box-sizing: border-box; }
.card b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.card span { color: var(--quiet); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .5rem; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid var(--line); font-weight: 600; }
td { border-bottom: 1px solid var(--faint); }
th:first-child, td:first-child { text-align: left; }
tr.best td { background: var(--best); font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr));
  gap: 1.8rem 1.4rem; }
figure { margin: 0; } figure svg { width: 100%; height: auto; }
figcaption, p.note { color: var(--quiet); font-size: .85rem; }
.bars { display: grid; grid-template-columns: fit-content(40%) 1fr; gap: .3rem .8rem;
  align-items: center; font-size: .85rem; margin: 1.2rem 0 .4rem; }
.bars dt { overflow-wrap: anywhere; } .bars dd { margin: 0; display: flex; height: 1.1rem; }
.key span { margin-right: 1rem; white-space: nowrap; } .key i { display: inline-block; width: .8em;
  height: .8em; }
.payload { background: #0072b2; } .code { background: #8a8a8a; } .prior { background: #d55e00; }
.header { background: #009e73; } .vocabulary { background: #cc79a7; }
code, pre { font: .82rem ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
footer { margin-top: 3rem; color: var(--quiet); font-size: .82rem; overflow-wrap: anywhere; }
"""


def render(sweep: Sweep) -> str:
    """The page."""
    best, rows = sweep.best, sweep.best_rows
    seeds = len(rows)
    payload = mean([row.mean_bits_per_byte for row in rows]).value
    size = max(1, sweep.original_bytes)
    cards = [
        (f"{sweep.total_bits:,.0f}", "bits in all, with the choice"),
        (f"{sweep.total_bits / size:.4f}", "bits per byte, code and choice included"),
        (f"{payload:.4f}", "bits per byte, payload"),
        (f"{8 * size / sweep.total_bits:.3f}", "compression factor, of all bits"),
        (f"{sweep.selection_bits:.2f}", f"bits to choose 1 of {len(groups(sweep.rows))} settings"),
    ]
    if len(sweep.rows) > 1:
        cards += [
            (f"{sweep.mixture_bits:,.0f}", "bits by all runs mixed, without a choice"),
            (f"{sweep.fixed_share_bits:,.0f}", "bits by all runs with fixed share"),
        ]
    after = f" After learning {', '.join(map(display, sweep.given))}." if sweep.given else ""
    price = f" The {sweep.prior}." if sweep.prior is not None else ""
    counted = "the decoder's code" + (" and the prior" if sweep.prior is not None else "")
    decoded = all(row.verified for row in sweep.rows)
    checked = (
        "each of them was decoded and compared" if decoded else "--verify would decode each of them"
    )
    found, of = f"Best run: {best.label}.", "the best run"
    if seeds > 1:
        of = "the best setting"
        found = f"Best setting: {label_of(best.settings)}; its figures are means of {seeds} seeds."
    level = "the final loss" if best.level is None else f"{best.level:g} bits"
    figures = "".join(
        f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
        for svg, caption in plots.panels_svg(sweep)
    )
    yardsticks = "".join(
        f"<tr><td>{escape(name)}</td><td>{points[-1][1]:,.0f}</td>"
        f"<td>{points[-1][1] / size:.4f}</td><td>{sweep.difference_bits[name]:+,.0f}</td></tr>"
        for name, points in sweep.baselines.items()
    )
    versions = ", ".join(f"{k} {v}" for k, v in best.report["versions"].items())
    settings = {"command": sweep.command, "seed": best.report["seed"]}
    if seeds > 1:
        settings["seed"] = [row.report["seed"] for row in rows]
    settings["config"] = best.report["config"]
    embedded = json.dumps(settings).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Description length of {escape(display(sweep.file))}</title><style>{_CSS}</style></head>
<body><main>
<h1>Description length of {escape(display(sweep.file))}</h1>
<p class="lead">{sweep.original_bytes:,} bytes. {escape(found)} Every run's total is the size of an
archive that was written, plus {counted}; {checked}.{escape(after + price)}</p>
<div class="cards">{"".join(f"<div class=card><b>{b}</b><span>{s}</span></div>" for b, s in cards)}
</div>
<h2>Runs</h2>
{_table(sweep)}
<p class="note">payload, header (with frame checksums), vocabulary, prior and code in bytes, adding
up to the total; bits/byte and factor of the total; final and mean loss in bits per byte of the
payload; structure in bits, what the payload has beyond {level} for every byte. Parameters and FLOPs
are the transformer's, without the tables. What mixtures cost is measured, and no archive is of that
size: with fixed share another run may take over after each of {BLOCKS} blocks, at the rate
{sweep.fixed_share_rate:.5f}.</p>
{_bars(sweep)}
<h2>Yardsticks</h2>
<div class="scroll"><table><thead><tr><th>yardstick</th><th>bits</th><th>bits/byte</th>
<th>payload of {of}</th></tr></thead><tbody>{yardsticks}</tbody></table></div>
<p class="note">The same bytes by simple means; the code of none of them is counted. The last column
is the payload of {of} minus the yardstick, in bits.</p>
<h2>Plots</h2><div class="plots">{figures}</div>
<h2>How it was made</h2>
<p><code>{escape(sweep.command)}</code></p>
<details><summary>seed and config of {of}</summary>
<pre>{escape(json.dumps(settings, indent=2))}</pre></details>
<script type="application/json" id="settings">{embedded}</script>
<footer>SHA-256 {sweep.sha256}<br>{escape(versions)}<br>
Libraries (Python, PyTorch, NumPy, numba) are named here and not counted.</footer>
</main></body></html>
"""


def _table(sweep: Sweep) -> str:
    """The runs: total and bits per byte first, and what is the same in all of them in one line."""
    first = [HEADINGS.index(name) for name in ("total bits", "bits/byte")]
    order = first + [k for k in range(len(HEADINGS)) if k not in first]
    lines = [formatted(cells(row)) for row in sweep.rows]
    same = [k for k in order if len(lines) > 1 and len({line[k] for line in lines}) == 1]
    shown = [k for k in order if k not in same]
    best = sweep.best_rows
    head = "".join(f"<th>{name}</th>" for name in ("run", *(HEADINGS[k] for k in shown), "decoded"))
    rows = "".join(
        f"<tr{' class=best' if row in best else ''}><td>{escape(row.label)}</td>"
        + "".join(f"<td>{line[k]}</td>" for k in shown)
        + f"<td>{'yes' if row.verified else '-'}</td></tr>"
        for row, line in zip(sweep.rows, lines, strict=True)
    )
    alike = ", ".join(f"{HEADINGS[k]} {lines[0][k]}" for k in same)
    note = f'<p class="note">The same in all runs: {alike}.</p>' if alike else ""
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f"</div>{note}"
    )


_PARTS = ("payload", "header", "vocabulary", "prior", "code")


def _bars(sweep: Sweep) -> str:
    """What each total is made of, as a bar."""
    most = max(row.total_bits for row in sweep.rows) / 8
    bars = []
    for row in sweep.rows:
        sizes = dict(zip(HEADINGS, cells(row), strict=True))
        parts = "".join(
            f'<i class="{name}" style="width: {100 * sizes[name] / most:.2f}%"'
            f' title="{name}: {sizes[name]:,} bytes"></i>'
            for name in _PARTS
            if sizes[name]
        )
        bars.append(f"<dt>{escape(row.label)}</dt><dd>{parts}</dd>")
    key = "".join(f'<span><i class="{name}"></i> {name}</span>' for name in _PARTS)
    return f'<dl class="bars">{"".join(bars)}</dl><p class="note key">{key}</p>'
