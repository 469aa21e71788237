"""Layers of LSTM cells that see the token before and themselves, learned by a step a chunk.

    for each layer, with h and c of the column before:
        F, C, O = norm(W h + U x + D) + E     x: the layer below's h, if any; D, E: the last token's
        c = sigmoid(F) c + (1 - sigmoid(F)) tanh(C)
        h = sigmoid(O) tanh(c)
    logits = the sum over layers of V h

The norm is each gate's own, by the root mean square.
A recurrence learns from far fewer bytes than attention does, and every column waits for the one
before it: so it stays on the host, for every device. Its logits are added to those of the
transformer and the n-grams, so all learn by the same gradient, each what the others do not know.
Steps are normalised by the root of the mean square of gradients, without momentum, at rates that
fall. At first E lets the first cell of a layer forget half of its state in a column, and the last
one a fiftieth. Sources: see `loops`; Knoll, lstm-compress; Tallec & Ollivier 2018, can recurrent
neural networks warp time? (what forgets at different rates at first).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from prequential.config import SYMBOLS, WEIGHT_BOUND, ModelConfig, RecurrenceConfig
from prequential.exact import bounds, kernels, shares
from prequential.exact.compiled import pack
from prequential.exact.dense import pieces_of
from prequential.predictors.embeddings import Embeddings
from prequential.recurrence import loops, structure

Call = Callable[[], object]

_KEEP = 1.0 - 1.0 / 2048.0  # of the mean square, a step
_EPSILON = 1e-12
_INPUTS = 0.3  # what a token says at first is within it,
_REMEMBER = 4.0  # but for what the gates F hear of it: up to so much more
_SLOWER = 0.0004  # a rate falls as 1 / sqrt(1 + _SLOWER * steps)


class Recurrence:
    """The network of B streams, its state, and the step on it; with no layers it is nothing."""

    def __init__(
        self, config: RecurrenceConfig, streams: int, columns: int, seed: int, tokens: int = SYMBOLS
    ) -> None:
        bounds.refuse(bounds.of_recurrence(config, streams * columns, tokens))
        self.config = config
        width = config.layers * 6 * config.cells
        c = config
        inputs = ModelConfig(
            width=width,
            inputs=c.inputs + c.missed if c.layers else (),
            input_rows_log2=c.input_rows_log2,
            input_rate=c.input_rate,
        )
        self.embeddings = Embeddings(inputs, streams, columns, seed, tokens, 1, _INPUTS)
        remember = np.arange(c.cells, dtype=np.float32) * np.float32(_REMEMBER / c.cells)
        of_layers = self.embeddings.state.table[:tokens].reshape(tokens, c.layers, 2, 3, c.cells)
        of_layers[:, :, 1, 0] += remember
        self.network = net = structure.make(config, streams, columns, seed, tokens)
        self.packed = pack(net) if config.layers else None
        self._kinds = {"hidden": net.hidden, "below": net.below, "head": net.head}
        self._pieces = pieces_of(self._kinds.values())
        self.steps = 0
        self._power = 1.0  # _KEEP^steps, by recurrence
        self.quantise()

    def forward(self, first: int, end: int) -> None:
        """Logits of the columns first..end, whose rows the embeddings have located."""
        if self.config.layers:
            B = self.network.streams
            self.network.inputs[first * B : end * B] = self.embeddings.gather(first, end)
            loops.forward(self.packed, first, end)

    def learn(
        self, dlogits: np.ndarray, count: int, join: Callable[[Call], None] = lambda _: None
    ) -> None:
        """One step at dlogits (n, V), of which the first `count` rows are of tokens.

        join lets other threads take part in a call, whose work can be shared.
        """
        if self.config.layers:
            loops.backward(self.packed, dlogits)
            self.steps += 1
            self._power *= _KEEP
            pieces = self._pieces, self.packed, dlogits, self._constants()
            update = partial(loops.update, shares.phases(1), *pieces)
            join(update)
            update()
            self.embeddings.learn(self.network.dinputs[:count])

    def _constants(self) -> np.ndarray:
        """Those of this step, a row (4,) for each kind of weights: see `tensors.descend`."""
        c = self.config
        slower = 1.0 / math.sqrt(1.0 + _SLOWER * self.steps)
        same = _KEEP, 1.0 / (1.0 - self._power), _EPSILON
        rates = c.rate, c.rate, c.head_rate
        return np.array([(rate * slower, *same) for rate in rates], np.float32)

    def advance(self, columns: int) -> None:
        """Move the state past a finished chunk of so many columns."""
        if self.config.layers:
            loops.advance(self.packed, columns)

    def state(self) -> list[np.ndarray]:
        """Views of what a chunk needs of the chunks before it; zeros at the beginning."""
        net = self.network
        return [x[:, : net.streams] for x in (net.outputs, net.output_scale, net.states)]

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything learned, by name."""
        arrays = dict[str, np.ndarray]()
        for name, dense in self._kinds.items():
            arrays |= {name: dense.value, f"{name}_squares": dense.square}
        arrays |= self.embeddings.arrays()
        return {f"recurrence.{name}": array for name, array in arrays.items()}

    def quantise(self) -> None:
        """Follow weights that were set from outside: the products take quantised ones."""
        for dense in self._kinds.values():
            np.clip(dense.value, -WEIGHT_BOUND, WEIGHT_BOUND, out=dense.value)
            for layer in zip(dense.value, dense.weight, dense.scale, strict=True):
                kernels.quantise_rows(*layer)
            dense.turned[:] = dense.weight.transpose(0, 2, 1)
