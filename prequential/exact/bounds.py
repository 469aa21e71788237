"""Every exact reduction of the networks, with the bound that makes its order irrelevant.

A sum of integers is exact, in any order, while the magnitudes of its terms add up to no more than
its type holds: 2^24 in float32, 2^53 in float64, 2^31 - 1 in int32. `check` computes that from
the shapes when a model is built.
"""

from __future__ import annotations

from typing import NamedTuple

from prequential.config import MAX_TERMS, OPERAND_MAX, SYMBOLS, ModelConfig, RecurrenceConfig
from prequential.errors import ConfigError
from prequential.exact.scalars import GROUP_LIMIT, GROUPS, SHARE_BITS, group_of

LIMITS = {"float32": 1 << 24, "float64": 1 << 53, "int32": (1 << 31) - 1, "int64": (1 << 63) - 1}
_PRODUCT = OPERAND_MAX**2
_EXP2_ONE = 1 << SHARE_BITS  # the largest numerator of a softmax


class Reduction(NamedTuple):
    """`terms` integers of magnitude at most `largest`, added in `dtype`."""

    name: str
    terms: int
    largest: int
    dtype: str

    def holds(self) -> bool:
        """Whether every partial sum is exact."""
        return self.terms * self.largest <= LIMITS[self.dtype]


def reductions(
    config: ModelConfig,
    streams: int,
    chunk: int,
    tokens: int = SYMBOLS,
    group: int | None = None,
) -> list[Reduction]:
    """What `Transformer` adds up, by the places in `model` and `tensors`.

    group streams, by itself as many as make `GROUPS`, have scales of their own in gradients.
    """
    group = group_of(streams) if group is None else group
    keys, rows, head_width = config.window + chunk, streams * chunk, config.width // config.heads
    sums = [
        Reduction("norm", config.width, _PRODUCT, "float32"),
        Reduction("queries times keys", head_width, _PRODUCT, "float32"),
        Reduction("attention times values", keys, _PRODUCT, "float32"),
        Reduction("attention's gradient at the queries", keys, _PRODUCT, "float32"),
        Reduction("attention's gradient at the keys", chunk, _PRODUCT, "float32"),
        Reduction("output times its gradient", head_width, _PRODUCT, "float32"),
        Reduction("softmax", keys, _EXP2_ONE, "int64"),
        Reduction("convolution's gradient", rows, _PRODUCT, "float64"),
        Reduction("weights' gradient, all groups", GROUPS, GROUP_LIMIT, "int32"),
        # The decoder's columns and the norms add in int32.
        Reduction("decoder's products", max(config.width, config.hidden), _PRODUCT, "int32"),
    ]
    outputs = (3 * config.width, config.width, config.hidden, tokens)
    for name, terms in (
        ("layer's input", config.width),
        ("MLP's middle", config.hidden),
        *((f"gradient of {n} outputs", n) for n in outputs),
        ("weights' gradient of a group", (group or streams) * chunk),
    ):
        # `tensors.matmul` adds blocks of MAX_TERMS in float32 and the blocks' sums in float64.
        sums.append(Reduction(f"{name}, a block", min(terms, MAX_TERMS), _PRODUCT, "float32"))
        sums.append(Reduction(f"{name}, all blocks", terms, _PRODUCT, "float64"))
    return sums


def of_recurrence(config: RecurrenceConfig, rows: int, tokens: int = SYMBOLS) -> list[Reduction]:
    """What `Recurrence` adds up, over so many rows of a chunk."""
    sums = [
        Reduction("cells' products", config.cells, _PRODUCT, "int32"),
        Reduction("cells' norm", config.cells, _PRODUCT, "float32"),
    ]
    for name, terms in (
        ("gradient of a cell's gates", 3 * config.cells),
        ("gradient of cells' logits", tokens),
        ("gradient of cells' weights", rows),
    ):
        sums.append(Reduction(f"{name}, a block", min(terms, MAX_TERMS), _PRODUCT, "float32"))
        sums.append(Reduction(f"{name}, all blocks", terms, _PRODUCT, "float64"))
    return sums


def check(
    config: ModelConfig,
    streams: int,
    chunk: int,
    tokens: int = SYMBOLS,
    group: int | None = None,
) -> None:
    """Refuse shapes whose sums could round.

    Raises:
        ConfigError: naming the sum, its terms and the limit.
    """
    refuse(reductions(config, streams, chunk, tokens, group))


def refuse(sums: list[Reduction]) -> None:
    """Refuse sums that could round.

    Raises:
        ConfigError: naming the sum, its terms and the limit.
    """
    for r in sums:
        if not r.holds():
            raise ConfigError(
                f"config: {r.name}: {r.terms} terms of magnitude up to {r.largest} can reach"
                f" {r.terms * r.largest}, more than the {LIMITS[r.dtype]} that {r.dtype} holds"
                " exactly"
            )
