"""A chunk's columns in one compiled call: predict one, decode it, take it in, and so on.

It does what the loop of `coder.Decoder.code` does with a learner's methods, by the same compiled
functions. A column of one stream is a single token and takes some 40 microseconds, of which calls
from Python, with dozens of arrays each, would be another 15.

A second thread takes its part in every column, a few microseconds of work at a time, and begins the
backward pass while the first one decodes.
"""

from __future__ import annotations

from typing import Any

from prequential.coding import coder
from prequential.coding.coder import DECODE, TOTAL_BITS
from prequential.exact import shares, softmax
from prequential.exact.compiled import apart, outer
from prequential.predictors import embeddings, memory, ngrams
from prequential.predictors.contexts import history_of, push_column
from prequential.recurrence import resting
from prequential.transformer import backward, forward
from prequential.transformer.layout import linear_of, network


@apart
def locate(history: Any, column: Any, inputs: Any, cells: Any, entered: Any, tables: Any) -> None:
    """Remember what the predictions of a column follow from, which comes next in the history."""
    embeddings.locate(history, column, inputs)
    ngrams.locate(history, column, tables)
    sure = ngrams.is_sure(column, len(history.bytes), tables)
    resting.locate(history, column, sure, cells, entered)


@outer
def take_in(
    history: Any, spelling: Any, chunk: Any, inputs: Any, cells: Any, entered: Any, tables: Any
) -> None:
    """Locate the columns of a known chunk (T, B), and append them to the history.

    History, inputs, of the transformer and of the recurrence, what has entered the latter, and
    tables are packed.
    """
    history, inputs = history_of(history), embeddings.state_of(inputs)
    cells, entered = embeddings.state_of(cells), resting.entered_of(entered)
    tables = ngrams.state_of(tables)
    for t in range(len(chunk)):
        locate(history, t, inputs, cells, entered, tables)
        push_column(history, spelling, chunk[t])


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
    """What a second thread does beside `decode`: pieces of columns.

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


@outer
def decode(
    chunk: Any,
    count: Any,
    history: Any,
    spelling: Any,
    inputs: Any,
    cells: Any,
    entered: Any,
    recurrence: Any,
    past: Any,
    state: Any,
    payload: Any,
    position: Any,
    counters: Any,
    pieces: Any,
    packed: Any,
    room: Any,
    tables: Any,
    frequencies: Any,
    entrance: Any,
    dlogits: Any,
) -> Any:
    """Decode the first `count` tokens, in time-major order, of the chunk (T, B), in place.

    history, inputs, cells, entered, recurrence, past and tables are the `packed` of the parts of a
    learner; recurrence and past are None where there is none. What follows `position` is as
    `assist` and `forward` take it; entrance (N, D) is where rows enter, frequencies (N, V) int32
    receives those of every token, and dlogits (N, V) the gradient. Returns (position, bits) as
    `coder.SymbolCoder.code`; what is behind the payload's end is not decoded.
    """
    net = network(packed)
    head = linear_of(net.head, 0)
    history, inputs = history_of(history), embeddings.state_of(inputs)
    known = ngrams.state_of(tables)
    of_cells, of_entered = embeddings.state_of(cells), resting.entered_of(entered)
    columns, streams = chunk.shape
    bits = 0.0
    for t in range(columns):
        a, b = t * streams, (t + 1) * streams
        locate(history, t, inputs, of_cells, of_entered, known)
        embeddings.gather_rows(inputs.table, inputs.rows[t], entrance[a:b])
        forward.convolve(net.inputs, net.taps, streams, a, b, net.x)
        shares.done(counters, 0)
        if recurrence is not None:
            resting.predict(recurrence, cells, entered, t, t + 1)
        phase = 1 + t * forward.phases(net.layers, pieces)
        forward.forward(counters, phase, t, t + 1, pieces, packed, room, tables, frequencies)
        forward.finish(head, a, b, known, net.logits, frequencies)
        symbols = chunk[t, : min(streams, count - a)]
        expected = frequencies[a:b]
        if past is None:
            position = coder.decode_symbols(expected, symbols, state, payload, position)
            bits += coder.codelength(expected, symbols)
        else:
            position, spent = memory.code_tokens(
                DECODE, symbols, expected, 0, past, state, payload, position
            )
            bits += spent
        softmax.gradient(expected, chunk[t], len(symbols), TOTAL_BITS, dlogits[a:b])
        if position > len(payload):
            break
        push_column(history, spelling, chunk[t])
    shares.done(counters, 0)
    return position, bits
