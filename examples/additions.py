"""Does the model calculate, or does it remember? Loss per digit on a file of additions.

The file has lines such as "12+34=046". What counts alone reach (adaptive counts of the last bytes)
cannot fall much below one digit's entropy before most of the 10,000 sums have been seen; a
transformer that works out the rule can. Nothing is trained in advance: each line is predicted, paid
for, and only then learned.

    python examples/additions.py --lines 60000 --plot examples/additions.svg
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np

from prequential import baselines, loop
from prequential.coder import TOTAL_BITS, Predictor
from prequential.config import Config, load
from prequential.learner import Learner

LINE = len("12+34=046\n")
DIGITS = {"hundreds": 6, "tens": 7, "units": 8}  # where in the line
STREAMS, LINES_PER_CHUNK = 16, 2


def additions(lines: int, seed: int = 0) -> np.ndarray:
    """(lines, LINE) uint8: sums of two numbers below 100."""
    words = np.random.Philox(seed).random_raw(lines) >> np.uint64(40)
    pairs = [divmod(int(word) % 10_000, 100) for word in words]
    text = "".join(f"{a:02}+{b:02}={a + b:03}\n" for a, b in pairs)
    return np.frombuffer(text.encode(), np.uint8).reshape(lines, LINE)


class Watch:
    """A coder that writes nothing and remembers what each symbol would have cost."""

    def __init__(self) -> None:
        self.bits: list[np.ndarray] = []

    def code(self, chunk: np.ndarray, count: int, predictor: Predictor) -> None:
        """Note the bits of the first `count` tokens of the chunk (T, B)."""
        frequencies = predictor.predict(chunk)[:count]
        paid = frequencies[np.arange(count), chunk.reshape(-1)[:count]]
        self.bits.append((TOTAL_BITS - np.log2(paid)).reshape(chunk.shape))


def measure(lines: np.ndarray, config: Config) -> np.ndarray:
    """Bits (lines, LINE) of each byte; streams side by side, a few whole lines at a time."""
    B, T = STREAMS, LINES_PER_CHUNK * LINE
    per_stream = len(lines) // B // LINES_PER_CHUNK * LINES_PER_CHUNK
    columns = lines[: B * per_stream].reshape(per_stream, B, LINE)  # line i of every stream

    def chunks() -> Iterator[tuple[np.ndarray, int]]:
        for i in range(0, per_stream, LINES_PER_CHUNK):
            block = columns[i : i + LINES_PER_CHUNK].transpose(0, 2, 1)  # (lines, LINE, B)
            yield block.reshape(T, B), T * B

    watch = Watch()
    loop.run(chunks(), watch, Learner(config.resolve(lines.size), 0, threads=2))
    bits = np.stack(watch.bits).reshape(-1, LINES_PER_CHUNK, LINE, B)
    return bits.transpose(0, 1, 3, 2).reshape(-1, LINE)


def smooth(values: np.ndarray, bins: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Line numbers and means of equal parts."""
    parts = np.array_split(values, bins)
    ends = np.cumsum([len(part) for part in parts])
    return ends, np.array([part.mean() for part in parts])


def plot(path: str, found: dict[str, np.ndarray]) -> None:
    """One panel per digit of the answer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    shared = figure.subplots(1, len(DIGITS), sharey=True)
    for axes, (digit, place) in zip(shared, DIGITS.items(), strict=True):
        for colour, (name, bits) in zip(
            ("#8a8a8a", "#d55e00", "#0072b2"), found.items(), strict=True
        ):
            axes.plot(*smooth(bits[:, place]), color=colour, label=name, linewidth=1.4)
        axes.set_title(f"{digit} of the sum", loc="left", fontweight="bold")
        axes.set_xlabel("lines seen")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e8e8e8", linewidth=0.7)
        axes.set_ylim(0, 4)
    shared[0].set_ylabel("bits for the digit")
    shared[-1].legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print the last tenth's means, plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=60_000)
    parser.add_argument("--plot", metavar="OUT")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    args = parser.parse_args()
    chunk = f"chunk={LINES_PER_CHUNK * LINE}"
    shape = [f"streams={STREAMS}", chunk, "ngrams.contexts=[]", "model.inputs=[]"]
    lines = additions(args.lines)
    found = {
        name: bits.reshape(-1, LINE)
        for name, bits in [("adaptive counts", baselines.best_adaptive(lines.reshape(-1))[1])]
    }
    started = time.monotonic()
    tables = ["model.layers=0", f"streams={STREAMS}", chunk]
    found["n-gram tables"] = measure(lines, load("literal", overrides=tables))
    found["transformer"] = measure(
        lines, load("literal", overrides=[*shape, "optimizer.rate=0.002", *args.overrides])
    )
    for name, bits in found.items():
        last = bits[-len(bits) // 10 :]
        print(f"{name:16}", *(f"{d} {last[:, p].mean():.3f}" for d, p in DIGITS.items()))
    print(f"{time.monotonic() - started:.0f} s")
    if args.plot:
        plot(args.plot, found)


if __name__ == "__main__":
    main()
