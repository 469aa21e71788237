"""A chunk's columns in one compiled call: predict one, decode it, take it in, and so on.

It does what the loop of `coder.Decoder.code` does with a learner's methods, by the same compiled
functions. A column of one stream is a single token and takes some 40 microseconds, of which calls
from Python, with dozens of arrays each, would be another 15.

Where there is a transformer, a second thread may take its part in every column: see `assist`.
"""

from __future__ import annotations

from typing import Any

from prequential.coding import coder
from prequential.coding.coder import DECODE, TOTAL_BITS
from prequential.exact import shares, softmax
from prequential.exact.compiled import apart, inline, optional, outer
from prequential.predictors import embeddings, memory, ngrams
from prequential.predictors.contexts import history_of, push_column
from prequential.recurrence import resting
from prequential.training import sums

assist = optional("assist", __package__)


@apart
def locate(history: Any, column: Any, inputs: Any, cells: Any, entered: Any, tables: Any) -> None:
    """Remember what the predictions of a column follow from, which comes next in the history."""
    if inputs is not None:
        embeddings.locate(history, column, inputs)
    sure = ngrams.locate(history, column * len(history.bytes), tables)
    resting.locate(history, column, sure, cells, entered)


@outer
def take_in(
    history: Any, spelling: Any, chunk: Any, inputs: Any, cells: Any, entered: Any, tables: Any
) -> None:
    """Locate the columns of a known chunk (T, B), and append them to the history.

    History, inputs, of the transformer, if any, and of the recurrence, what has entered the latter,
    and tables are packed.
    """
    history, inputs = history_of(history), _inputs_of(inputs)
    cells, entered = embeddings.state_of(cells), resting.entered_of(entered)
    tables = ngrams.state_of(tables)
    for t in range(len(chunk)):
        locate(history, t, inputs, cells, entered, tables)
        push_column(history, spelling, chunk[t])


@inline
def _inputs_of(packed: Any) -> Any:
    """Input embeddings again, if there are any."""
    if packed is None:
        return None
    return embeddings.state_of(packed)


@inline
def _enter(packed: Any, t: Any, inputs: Any, entrance: Any) -> None:
    """Column t enters the transformer, if there is one."""
    if packed is not None:
        assist.enter(packed, t, inputs, entrance)


@inline
def _predict(
    packed: Any,
    t: Any,
    streams: Any,
    counters: Any,
    pieces: Any,
    room: Any,
    tables: Any,
    known: Any,
    logits: Any,
    frequencies: Any,
) -> None:
    """Frequencies of column t, with a transformer or without; logits (N, V) has room for them."""
    if packed is None:
        sums.predict(t * streams, (t + 1) * streams, known, logits, frequencies)
    else:
        assist.predict(packed, t, counters, pieces, room, tables, known, frequencies)


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
    logits: Any,
    entrance: Any,
    dlogits: Any,
) -> Any:
    """Decode the first `count` tokens, in time-major order, of the chunk (T, B), in place.

    history, inputs, cells, entered, recurrence, past and tables are the `packed` of the parts of a
    learner; inputs, recurrence and past are None where there are none, packed where there is no
    transformer. What follows `position` is as `assist` and `forward` take it; logits (N, V) are
    room, entrance (N, D) is where rows enter, frequencies (N, V) int32
    receives those of every token, and dlogits (N, V) the gradient. Returns (position, bits) as
    `coder.SymbolCoder.code`; what is behind the payload's end is not decoded.
    """
    history, located = history_of(history), _inputs_of(inputs)
    known = ngrams.state_of(tables)
    of_cells, of_entered = embeddings.state_of(cells), resting.entered_of(entered)
    columns, streams = chunk.shape
    bits = 0.0
    for t in range(columns):
        a, b = t * streams, (t + 1) * streams
        locate(history, t, located, of_cells, of_entered, known)
        _enter(packed, t, inputs, entrance)
        shares.done(counters, 0)
        if recurrence is not None:
            resting.predict(recurrence, cells, entered, t, t + 1)
        _predict(packed, t, streams, counters, pieces, room, tables, known, logits, frequencies)
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
