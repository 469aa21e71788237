"""A file as one page, each byte coloured by what it costs, with nothing loaded (`where.html`)."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html import escape
from importlib import resources

import numpy as np

from prequential.archive.files import printable
from prequential.study.where import Where

# Bits a byte at which the next colour begins, and how dense the colours are.
_EDGES = (0.1, 0.25, 0.5, 1, 2, 3.5, 5, 8)
_DENSITY = (0, 0.07, 0.13, 0.2, 0.3, 0.42, 0.55, 0.68, 0.82)
_PARTS = 16  # of a bit, in the page


def render(where: Where) -> str:
    """The page."""
    report, size = where.report, len(where.data)
    bits = float(report.loss_integral_bits)
    each = max(1, size)
    cards = [
        (f"{bits:,.0f}", "bits in all, the payload"),
        (f"{bits / each:.4f}", "bits per byte"),
        (f"{int(np.count_nonzero(where.bits < 0.1)) / each:.1%}", "of bytes below 0.1 bits"),
        (f"{len(where.costs.bits):,}", "tokens"),
    ]
    if where.has_networks:
        cards.insert(2, (f"{where.costs.learner_bits.sum() / each:.4f}", "by the networks alone"))
    kinds = "".join(
        f"<tr><td>{escape(kind.name)}</td><td>{kind.bytes:,}</td><td>{kind.bits:,.0f}</td>"
        f"<td>{kind.bits / kind.bytes:.3f}</td><td>{kind.bits / max(bits, 1):.1%}</td></tr>"
        for kind in where.kinds()
    )
    places = "".join(
        f'<tr><td><a href="#b{place.start}">{place.start:,}</a></td>'
        f"<td>{place.bits / (place.end - place.start):.2f}</td>"
        f'<td class="place">{escape(printable(where.text_of(place)))}</td></tr>'
        for place in where.dearest()
    )
    tokens = len(where.costs.bits) != size
    before = "what stood before it" + (f", {escape(where.after)}" if where.after else "")
    parts = {
        "title": escape(printable(where.file)),
        "lead": f"{size:,} bytes, coded with seed {report.seed}; each by {before}."
        + (" A token's bits are shared out over its bytes." if tokens else ""),
        "cards": "".join(
            f'<div class="card"><b>{figure}</b><span>{what}</span></div>' for figure, what in cards
        ),
        "kinds": kinds,
        "places": places,
        "curve": _curve(where),
        "unit": "character" if where.is_text else "byte",
        "key": _key(),
        "colours": _colours(),
        "view": "text" if where.is_text else "hex",
        "hex": "false" if where.is_text else "true",
        "size": str(size),
        "edges": ", ".join(map(str, _EDGES)),
        "versions": escape(", ".join(f"{k} {v}" for k, v in report.versions.items())),
        "sha256": report.sha256,
        "command": escape(printable(where.command)),
        "config": escape(json.dumps(report.config)),
        "packed": _packed(where),
        "apart": json.dumps(list(where.costs.apart)),
        "apart_options": "".join(
            f'<option value="{k}">what the {name} alone would pay</option>'
            for k, name in enumerate(where.costs.apart, 3)
        ),
    }
    page = resources.files("prequential.study").joinpath("where.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda name: parts[name[1]], page)


def _packed(where: Where) -> str:
    """The bytes, what they cost, by the learner alone too, repeats, parts: deflated, base64."""
    lengths = np.diff(where.costs.offsets)
    alone, *parts = where.alone.values()
    known = [np.clip(np.rint(row * _PARTS), 0, 255) for row in (where.bits, alone, *parts)]
    repeats = np.minimum(np.repeat(where.costs.repeat_bytes, lengths), 255)
    rows = (where.data, *known[:2], repeats, *known[2:])
    raw = b"".join(row.astype(np.uint8).tobytes() for row in rows)
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def _colours() -> str:
    """Background colours: dear ones warm; what is saved, cool."""
    return "\n".join(
        f".c{k} {{ background: rgba(var(--heat), {density}); }}"
        f" .d{k} {{ background: rgba(var(--cool), {density}); }}"
        for k, density in enumerate(_DENSITY)
    )


def _key() -> str:
    """The colours, with the bits from which they hold."""
    return "".join(f'<span class="c{k}">{edge:g}</span>' for k, edge in enumerate((0, *_EDGES)))


def _curve(where: Where) -> str:
    """Bits so far against bytes, as a picture whose text is text."""
    points = where.curve()
    size, most = points[-1][0] or 1, points[-1][1] or 1.0
    path = " ".join(f"{100 * x / size:.2f},{100 - 100 * y / most:.2f}" for x, y in points)
    return f"""<svg class="curve" role="img" aria-label="{most:,.0f} bits over {size:,} bytes">
<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="160">
<line class="axis" x1="0" y1="100" x2="100" y2="100" vector-effect="non-scaling-stroke"/>
<polyline class="sum" points="{path}"/></svg>
<text x="2" y="14">{most:,.0f} bits</text><text x="2" y="176">byte 0</text>
<text x="100%" y="176" text-anchor="end">{size:,} bytes</text></svg>"""
