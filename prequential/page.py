"""A sweep as one self-contained HTML page: table, totals and plots, nothing loaded."""

from __future__ import annotations

from html import escape

from prequential import plots
from prequential.mdl import HEADINGS, Sweep, cells, formatted

_CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; margin: 0; }
main { max-width: 1240px; margin: 0 auto; padding: 2.2rem 1.5rem 4rem; }
h1 { font-size: 1.55rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.4rem 0 .6rem; }
p.lead { color: #57606a; margin: 0 0 1.4rem; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; }
.card { border: 1px solid #d8dee4; border-radius: 8px; padding: .7rem 1rem; min-width: 9rem; }
.card b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.card span { color: #57606a; font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .5rem; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid #d8dee4; font-weight: 600; }
td { border-bottom: 1px solid #eef1f4; }
th:first-child, td:first-child { text-align: left; }
tr.best td { background: #eaf5ea; font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 1.4rem; }
figure { margin: 0; } figure svg { width: 100%; height: auto; }
figcaption { color: #57606a; font-size: .85rem; }
footer { margin-top: 3rem; color: #57606a; font-size: .82rem; overflow-wrap: anywhere; }
@media (max-width: 560px) { .plots { grid-template-columns: 1fr; } }
"""


def render(sweep: Sweep) -> str:
    """The page."""
    best = sweep.best
    size = max(1, sweep.original_bytes)
    cards = [
        (f"{sweep.total_bits:,.0f}", "bits in all, with the choice"),
        (f"{best.total_bits / size:.4f}", "bits per byte, code included"),
        (f"{best.mean_bits_per_byte:.4f}", "bits per byte, payload"),
        (f"{8 * size / best.total_bits:.3f}", "compression factor"),
        (f"{sweep.selection_bits:.2f}", f"bits to choose 1 of {len(sweep.rows)} runs"),
    ]
    rows = "".join(
        f"<tr{' class=best' if row is best else ''}><td>{escape(row.label)}</td>"
        + "".join(f"<td>{cell}</td>" for cell in formatted(cells(row)))
        + f"<td>{'yes' if row.verified else '-'}</td></tr>"
        for row in sweep.rows
    )
    head = "".join(f"<th>{name}</th>" for name in ("run", *HEADINGS, "decoded"))
    figures = "".join(
        f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
        for svg, caption in plots.panels_svg(sweep)
    )
    versions = ", ".join(f"{k} {v}" for k, v in best.report["versions"].items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Description length of {escape(sweep.file)}</title><style>{_CSS}</style></head>
<body><main>
<h1>Description length of {escape(sweep.file)}</h1>
<p class="lead">{sweep.original_bytes:,} bytes. Best run: {escape(best.label)}. Every total is the
size of an archive that decodes, plus the decoder's code.</p>
<div class="cards">{"".join(f"<div class=card><b>{b}</b><span>{s}</span></div>" for b, s in cards)}
</div>
<h2>Runs</h2>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>
<p><small>payload, header (with frame checksums), prior and code in bytes, adding up to the total;
bits/byte and factor of the total; final and mean loss in bits per byte of the payload.</small></p>
<h2>Plots</h2><div class="plots">{figures}</div>
<footer>SHA-256 {sweep.sha256}<br>{escape(versions)}<br>
Libraries (Python, PyTorch, NumPy, numba) are named here and not counted.</footer>
</main></body></html>
"""
