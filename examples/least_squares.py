"""Solved for or stepped towards? One linear model, learned in closed form and by gradient steps.

The samples of a file are a sum of the sixteen before them, with fixed weights, and of noise: a
linear model is all there is to learn. Least squares solve for its weights after every sample, from
all that was coded; a gradient step moves them a little, downhill from the last error. The features
go together (neighbouring samples are alike), so downhill is seldom towards the solution. Both pay
for each sample before they see it, by the same distribution around what they expect.

Bits a sample beyond what the noise takes, over the samples so far (sixteen bits a sample):

    samples                             1,024   4,096  16,384  65,536 131,072
    least squares                       0.723   0.227   0.074   0.033   0.027
    Adam, rate 0.001                    2.729   1.955   1.265   0.760   0.588
    normalised steps, rate 0.3          1.459   0.948   0.643   0.426   0.354
    gradient steps, rate 0.1            2.015   1.411   0.969   0.624   0.485
    archive, as sound                   0.499   0.214   0.119   0.094   0.086
    archive, as text                    2.304   1.776   1.496   1.264   1.161

The rates of the steps are the best of several, chosen knowing the data; least squares had none to
choose. The last rows are archives of the same samples: the sound model's least squares (`fast`),
and the same file coded as if it were text.

    python examples/least_squares.py --plot examples/least_squares.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from prequential import codelength
from prequential.config import load

ORDER = 16
NOISE = 60.0
# Resonances (radius, angle): what makes neighbouring samples alike.
POLES = [(0.985, 0.1), (0.95, 0.4), (0.9, 0.8), (0.9, 1.2)]
POLES += [(0.85, 1.6), (0.8, 2.0), (0.8, 2.4), (0.7, 2.8)]


def samples(count: int, seed: int = 0) -> tuple[np.ndarray, float]:
    """(count,) int16, each from the sixteen before it and noise; the noise's deviation."""
    polynomial = np.array([1.0])
    for radius, angle in POLES:
        polynomial = np.convolve(polynomial, [1.0, -2 * radius * np.cos(angle), radius * radius])
    weights, noise = -polynomial[1:], np.random.default_rng(seed).normal(0, NOISE, count + 2000)
    found = np.zeros(len(noise) + ORDER)
    for i, rest in enumerate(noise):
        found[ORDER + i] = weights @ found[i : i + ORDER][::-1] + rest
    scale = min(1.0, 30_000 / np.abs(found).max())
    return np.round(found[-count:] * scale).astype("<i2"), NOISE * scale


class LeastSquares:
    """Weights that are solved for, by recursion (Plackett 1950)."""

    def __init__(self) -> None:
        self.weights = np.zeros(ORDER)
        self.inverse = np.eye(ORDER)

    def learn(self, features: np.ndarray, error: float) -> None:
        """After each sample."""
        along = self.inverse @ features
        gain = along / (1.0 + features @ along)
        self.weights += gain * error
        self.inverse -= np.outer(gain, along)


class Steps:
    """Weights that take a step down the gradient of the squared error."""

    def __init__(self, rate: float, *, normalised: bool) -> None:
        self.weights = np.zeros(ORDER)
        self.rate, self.normalised = rate, normalised

    def learn(self, features: np.ndarray, error: float) -> None:
        """After each sample; normalised: by the features' length (NLMS)."""
        length = 1.0 + features @ features if self.normalised else 1e7
        self.weights += self.rate * error / length * features


class Adam:
    """The same steps, each weight's by the size of its gradients (Kingma & Ba 2015)."""

    def __init__(self, rate: float) -> None:
        self.weights = np.zeros(ORDER)
        self.rate, self.time = rate, 0
        self.mean, self.square = np.zeros(ORDER), np.zeros(ORDER)

    def learn(self, features: np.ndarray, error: float) -> None:
        """After each sample."""
        gradient = -error * features
        self.time += 1
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.001 * (gradient**2 - self.square)
        mean = self.mean / (1 - 0.9**self.time)
        square = self.square / (1 - 0.999**self.time)
        self.weights -= self.rate * mean / (np.sqrt(square) + 1e-8)


def bits(data: np.ndarray, model: LeastSquares | Steps | Adam) -> np.ndarray:
    """(n,) what each sample costs, by a logistic distribution as wide as errors were lately."""
    padded = np.concatenate([np.zeros(ORDER), data.astype(float)])
    paid, wide = np.empty(len(data)), 1000.0
    for i, value in enumerate(data.astype(float)):
        features = padded[i : i + ORDER][::-1]
        error = value - float(np.clip(model.weights @ features, -32_768, 32_767))
        scale = max(0.72 * wide, 0.1)
        low, high = (error - 0.5) / scale, (error + 0.5) / scale
        share = 0.5 * (np.tanh(high / 2) - np.tanh(low / 2))
        paid[i] = -np.log2((1 - 1e-6) * share + 1e-6 / 65_536)
        wide = 0.99 * wide + 0.01 * abs(error)
        model.learn(features, error)
    return paid


def best_of(
    data: np.ndarray, make: Callable[[float], Steps | Adam], rates: list[float]
) -> tuple[np.ndarray, float]:
    """(bits (n,), rate) of the steps that turn out to be the best."""
    tried = [(bits(data, make(rate)), rate) for rate in rates]
    return min(tried, key=lambda found: found[0].sum())


def plot(path: str, excess: dict[str, np.ndarray]) -> None:
    """Bits beyond the noise's against bytes, both on logarithmic scales."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for colour, (name, paid) in zip(
        ("#d55e00", "#0072b2", "#56b4e9", "#8a8a8a"), excess.items(), strict=True
    ):
        axes.plot(2 * np.arange(1, len(paid) + 1), paid, color=colour, label=name, linewidth=1.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(200)
    axes.set_xlabel("bytes so far")
    axes.set_ylabel("bits a sample beyond the noise")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e8e8e8", linewidth=0.7)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=131_072)
    parser.add_argument("--plot", metavar="OUT")
    args = parser.parse_args()
    data, noise = samples(args.samples)
    least = 0.5 * np.log2(2 * np.pi * np.e * noise**2)
    steps, rate = best_of(data, lambda r: Steps(r, normalised=False), [0.01, 0.03, 0.1])
    normal, normal_rate = best_of(data, lambda r: Steps(r, normalised=True), [0.1, 0.3, 1.0])
    adam, adam_rate = best_of(data, Adam, [0.001, 0.003, 0.01])
    paid = {
        "least squares": bits(data, LeastSquares()),
        f"Adam, rate {adam_rate}": adam,
        f"normalised steps, rate {normal_rate}": normal,
        f"gradient steps, rate {rate}": steps,
    }
    lengths = {n: p.cumsum() / np.arange(1, len(p) + 1) - least for n, p in paid.items()}
    shown = [n for n in (1024, 4096, 16_384, 65_536, 131_072) if n <= len(data)]
    print(f"{'samples':36}", *(f"{n:>8,}" for n in shown))
    for name, excess in lengths.items():
        print(f"{name:36}", *(f"{excess[n - 1]:8.3f}" for n in shown))
    for name, kind in (("archive, as sound", "0-{}:<i2x1"), ("archive, as text", "")):
        row = []
        for n in shown:
            config = load("fast", overrides={"numbers": kind.format(2 * n)})
            row.append(codelength(data[:n].tobytes(), config=config).payload_bits / n - least)
        print(f"{name:36}", *(f"{excess:8.3f}" for excess in row))
    if args.plot:
        plot(args.plot, lengths)


if __name__ == "__main__":
    main()
