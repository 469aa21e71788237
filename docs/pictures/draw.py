#!/usr/bin/env python3
"""Draw loop.svg and chunk.svg beside this file.

Each picture is a card with a background of its own, which follows the reader's light or dark
scheme, so that it can be read on any page.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

STYLE = """\
.card { fill: #f6f8fa; stroke: #d0d7de } text { fill: #1f2328; text-anchor: middle }
.line { stroke: #57606a; stroke-width: 1.6; fill: none; marker-end: url(#head) }
.head { fill: #57606a } .note { fill: #57606a; font-size: 13px } .left { text-anchor: start }
.data { fill: #ddf4ff; stroke: #54aeff } .model { fill: #fff1e5; stroke: #fb8f44 }
.code { fill: #dafbe1; stroke: #4ac26b } .learn { stroke: #bc4c00; stroke-dasharray: 5 4 }
@media (prefers-color-scheme: dark) {
  .card { fill: #161b22; stroke: #30363d } text { fill: #e6edf3 }
  .line { stroke: #8b949e } .head { fill: #8b949e } .note { fill: #9aa4af }
  .data { fill: #0c2d4d; stroke: #388bfd } .model { fill: #3d1f0a; stroke: #db6d28 }
  .code { fill: #0f2e18; stroke: #2ea043 } .learn { stroke: #f0883e }
}"""


class Picture:
    """Boxes, arrows and words; all lengths in pixels."""

    def __init__(self, name: str, title: str, width: int, height: int) -> None:
        self.name = name
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            f' width="{width}" height="{height}" role="img"'
            ' font-family="system-ui, sans-serif" font-size="15">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{STYLE}\n</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
            ' markerHeight="7" orient="auto"><path class="head" d="M0 0 8 4 0 8z"/></marker>'
            "</defs>",
            f'<rect class="card" x="1" y="1" width="{width - 2}" height="{height - 2}" rx="10"/>',
        ]

    def box(self, kind: str, x: int, y: int, width: int, height: int, *lines: str) -> None:
        """A box by its centre."""
        corner = f'x="{x - width // 2}" y="{y - height // 2}"'
        self.parts.append(
            f'<rect class="{kind}" {corner} width="{width}" height="{height}" rx="6"/>'
        )
        for i, line in enumerate(lines):
            self.text(x, y + 5 + 18 * i - 9 * (len(lines) - 1), line)

    def text(self, x: int, y: int, words: str, kind: str = "") -> None:
        """Words on a baseline, centred unless the kind has `left`."""
        attribute = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text x="{x}" y="{y}"{attribute}>{escape(words)}</text>')

    def note(self, x: int, y: int, words: str, kind: str = "") -> None:
        """Small words."""
        self.text(x, y, words, f"note {kind}".strip())

    def arrow(self, *points: tuple[int, int], kind: str = "") -> None:
        """A line through points, with a head."""
        path = " ".join(f"{x} {y}" for x, y in points)
        self.parts.append(f'<path class="{f"line {kind}".strip()}" d="M{path}"/>')

    def write(self) -> None:
        """Close the picture and write it."""
        text = "\n".join([*self.parts, "</svg>", ""])
        (Path(__file__).parent / f"{self.name}.svg").write_text(text)


def loop() -> None:
    """The idea: sender and receiver grow the same model."""
    p = Picture("loop", "Sender and receiver grow the same model, chunk by chunk", 800, 440)
    rows = (("file", 55), ("sender", 130), ("archive", 215), ("receiver", 300), ("file", 375))
    for words, y in rows:
        p.note(24, y + 5, words, "left")
    for k, bits in enumerate((170, 120, 84)):
        x = 200 + 240 * k
        p.box("data", x, 55, 170, 36, f"chunk {k + 1}")
        p.box("code", x, 215, bits, 36, "bits")
        p.box("data", x, 375, 170, 36, f"chunk {k + 1}")
        told = ("model of the seed", "after chunk 1", "after chunk 2")[k]
        for y in (130, 300):
            p.box("model", x, y, 150, 40, told)
            if k < 2:
                p.arrow((x + 77, y), (x + 163, y), kind="learn")
                p.note(x + 120, y - 8, "learn")
        for start, end in ((73, 108), (150, 195), (233, 278), (320, 355)):
            p.arrow((x, start), (x, end))
        p.note(x + 10, 179, "code", "left")
        p.note(x + 10, 261, "decode", "left")
    p.note(400, 422, "No weights are sent: both start from one seed and take the same steps.")
    p.write()


def chunk() -> None:
    """A chunk's way from the bytes so far to the archive, and what is learned from it."""
    p = Picture("chunk", "A chunk's way to the archive, and what learns from it", 900, 400)
    p.box("data", 84, 190, 120, 58, "the bytes", "so far")
    p.box("model", 300, 72, 150, 36, "n-gram tables")
    p.box("model", 300, 120, 150, 36, "LSTM cells")
    p.box("model", 300, 168, 150, 36, "transformer")
    p.note(300, 38, "networks: a whole chunk at once")
    p.box("model", 300, 270, 150, 58, "memory: counts,", "matches, fits")
    p.note(300, 322, "one bit after the other")
    p.box("code", 500, 120, 150, 58, "logits, added:", "frequencies")
    p.box("model", 664, 270, 110, 58, "mixer")
    p.box("code", 806, 270, 118, 58, "range coder")
    p.box("data", 806, 168, 118, 40, "archive")
    for y in (72, 120, 168, 270):
        p.arrow((144, 190), (184, 190), (184, y), (223, y))
    for y in (72, 120, 168):
        p.arrow((375, y), (396, y), (396, 120), (423, 120))
    p.arrow((575, 120), (664, 120), (664, 239))
    p.note(672, 190, "one expert", "left")
    p.arrow((375, 270), (607, 270))
    p.note(490, 262, "many experts")
    p.arrow((719, 270), (745, 270))
    p.note(664, 318, "p of each bit")
    p.arrow((806, 241), (806, 190))
    p.arrow((806, 299), (806, 352), (84, 352), (84, 221), kind="learn")
    p.note(445, 344, "after each bit: counts and mixer; after the chunk: one step of the rest")
    p.note(
        445, 378, "A decoder is the same, but takes the networks through the chunk byte by byte."
    )
    p.write()


if __name__ == "__main__":
    loop()
    chunk()
