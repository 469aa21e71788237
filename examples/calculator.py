"""What is a tool worth? An expert that adds, beside a transformer that has to learn it.

On the lines of `additions.py`, such as "123+456=0579", an expert with a calculator expects the
digits of the sum. It is one expert among others: for every place of the line it is weighed against
the learner's distribution by how often it was right there (Krichevsky-Trofimov), so nobody tells
how far it can be trusted. Its code counts: what it takes under LZMA, some hundred bytes. The
transformer brings no code for adding, and pays for every line until it has worked out how.

Description length, code and all, in bytes:

    lines                                1,000      4,000     16,000
    n-gram tables                       50,363     64,493    112,514
    transformer                         54,950     84,814    145,266
    n-gram tables and calculator        48,298     57,932     89,650

    python examples/calculator.py --lines 32000 --plot examples/calculator.png
"""

from __future__ import annotations

import argparse
import inspect
import lzma

import numpy as np
from additions import additions, measure, tables, transformer

from prequential.archive import codesize
from prequential.archive.bare import bare


class Calculator:
    """Expects the digits of a sum behind its "=", in lines of fixed length."""

    def __init__(self, length: int) -> None:
        self.right = np.full(length, 0.5)  # how often, by place
        self.wrong = np.full(length, 0.5)

    def expect(self, line: bytes) -> list[int]:
        """The byte at each place of a line, given those before it; -1: no opinion.

        >>> Calculator(8).expect(b"7+5=??")
        [-1, -1, -1, -1, 49, 50]
        """
        start = line.find(b"=") + 1
        a, found, b = line[: max(0, start - 1)].partition(b"+")
        if not (found and a.isdigit() and b.isdigit()):
            return [-1] * len(line)
        digits = b"%0*d" % (len(a) + 1, int(a) + int(b))
        return ([-1] * start + list(digits) + [-1] * len(line))[: len(line)]

    def mix(self, line: bytes, bits: np.ndarray) -> np.ndarray:
        """The bits of each byte, where the learner alone would take `bits`; then learn the line."""
        expected, known = np.array(self.expect(line)), np.frombuffer(line, np.uint8)
        asked, hit = expected >= 0, expected == known
        trust = np.where(asked, self.right / (self.right + self.wrong), 0.0)
        self.right += asked & hit
        self.wrong += asked & ~hit
        return -np.log2((1 - trust) * 2.0**-bits + trust * hit)


def code_bytes() -> int:
    """What the calculator adds to the decoder's code."""
    return len(lzma.compress(bare(inspect.getsource(Calculator).encode()), lzma.FORMAT_ALONE))


def with_calculator(lines: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """bits (n, line) of a learner, with the calculator as one more expert."""
    calculator = Calculator(lines.shape[1])
    pairs = zip(lines[: len(bits)], bits, strict=True)
    return np.array([calculator.mix(line.tobytes(), paid) for line, paid in pairs])


def plot(path: str, lengths: dict[str, np.ndarray]) -> None:
    """Description length against lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    colours = ("#8a8a8a", "#0072b2", "#d55e00")
    for colour, (name, length) in zip(colours, lengths.items(), strict=True):
        seen = np.arange(1, len(length) + 1)
        axes.plot(seen, length / 1000, color=colour, label=name, linewidth=1.6)
    axes.set_xscale("log")
    axes.set_xlim(100)
    axes.set_xlabel("lines")
    axes.set_ylabel("description length, kB")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e8e8e8", linewidth=0.7)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=64_000)
    parser.add_argument("--plot", metavar="OUT")
    args = parser.parse_args()
    lines = additions(args.lines, 3)
    counted = measure(lines, tables(lines.shape[1]))
    learned = measure(lines, transformer(lines.shape[1]))
    decoder, tool = codesize.code_bytes(), code_bytes()
    parts = {
        "n-gram tables": (decoder, counted),
        "transformer": (decoder, learned),
        f"n-gram tables and calculator ({tool} bytes)": (
            decoder + tool,
            with_calculator(lines, counted),
        ),
    }
    lengths = {name: code + bits.sum(1).cumsum() / 8 for name, (code, bits) in parts.items()}
    shown = [n for n in (1000, 4000, 16_000, 64_000, 256_000) if n <= len(counted)]
    print(f"{'lines':44}", *(f"{n:>10,}" for n in shown))
    for name, length in lengths.items():
        print(f"{name:44}", *(f"{length[n - 1]:>10,.0f}" for n in shown))
    if args.plot:
        plot(args.plot, lengths)


if __name__ == "__main__":
    main()
