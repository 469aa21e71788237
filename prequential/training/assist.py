"""What a decoder's column takes of a transformer, and what a second thread does of it.

That one takes its part in every column, a few microseconds of work at a time, and begins the
backward pass while the first one decodes.
"""

from __future__ import annotations

from typing import Any

from prequential.exact import shares
from prequential.exact.compiled import inline, outer
from prequential.predictors import embeddings
from prequential.transformer import backward, forward
from prequential.transformer.layout import linear_of, network


@outer
def assist(
    columns: Any,
    counters: Any,
    pieces: Any,
    packed: Any,
    room: Any,
    tables: Any,
    frequencies: Any,
    known: Any,
) -> None:
    """What a second thread does beside `columns.decode`: pieces of columns.

    It begins the backward pass, `known`, as far as columns are decoded. Phase 0 of the counters
    says how many are entered.
    """
    net = network(packed)
    layers = net.layers
    of_backward, _, dlogits, dx = known
    for t in range(columns):
        shares.wait(counters, 0, t + 1)
        phase = 1 + t * forward.phases(layers, pieces)
        forward.forward(counters, phase, t, t + 1, pieces, packed, room, tables, frequencies)
        if t > 0 and t % forward.COLUMNS == 0:
            piece = shares.claim(of_backward, 0)
            # All may be decoded, and even learned, by now.
            if piece * forward.COLUMNS < columns:
                backward.rows(net, layers, piece, dlogits, dx)
                shares.done(of_backward, 0)
    shares.wait(counters, 0, columns + 1)


@inline
def enter(packed: Any, t: Any, inputs: Any, entrance: Any) -> None:
    """Let the rows of column t, which is located, enter."""
    net = network(packed)
    a, b = t * net.streams, (t + 1) * net.streams
    inputs = embeddings.state_of(inputs)
    embeddings.gather_rows(inputs.table, inputs.rows[t], entrance[a:b])
    forward.convolve(net.inputs, net.taps, net.streams, a, b, net.x)


@inline
def predict(
    packed: Any,
    t: Any,
    counters: Any,
    pieces: Any,
    room: Any,
    tables: Any,
    known: Any,
    frequencies: Any,
) -> None:
    """Frequencies (N, V) int32 of column t, with whoever assists; tables are packed, known not."""
    net = network(packed)
    a, b = t * net.streams, (t + 1) * net.streams
    phase = 1 + t * forward.phases(net.layers, pieces)
    forward.forward(counters, phase, t, t + 1, pieces, packed, room, tables, frequencies)
    forward.finish(linear_of(net.head, 0), a, b, known, net.logits, frequencies)
