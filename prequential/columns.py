"""A chunk's columns in one compiled call: predict one, decode it, take it in, and so on.

It does what the loop of `coder.Decoder.code` does with a learner's methods, by the same compiled
functions. A column of one stream is a single token and takes some 40 microseconds, of which calls
from Python, with dozens of arrays each, would be another 15.
"""

from __future__ import annotations

from typing import Any

from prequential import coder, embeddings, memory, ngrams, steps
from prequential.coder import DECODE
from prequential.compiled import jit
from prequential.contexts import push_column


@jit
def locate(history: Any, column: Any, inputs: Any, tables: Any) -> None:
    """Remember what the predictions of a column rest on, which comes next in the history."""
    embeddings.locate(history, column, inputs)
    ngrams.locate(history, column, tables)


@jit
def take_in(history: Any, pieces: Any, chunk: Any, inputs: Any, tables: Any) -> None:
    """Locate the columns of a known chunk (T, B), and append them to the history."""
    for t in range(len(chunk)):
        locate(history, t, inputs, tables)
        push_column(history, pieces, chunk[t])


@jit
def decode(
    chunk: Any,
    count: Any,
    frequencies: Any,
    history: Any,
    pieces: Any,
    inputs: Any,
    transformer: Any,
    tables: Any,
    past: Any,
    state: Any,
    payload: Any,
    position: Any,
) -> Any:
    """Decode the first `count` tokens, in time-major order, of the chunk (T, B), in place.

    frequencies (T * B, V) int32 receives those of every token. history, inputs, transformer, tables
    and past are what the parts of a learner give as their `state`; past is None where there is no
    memory. Returns (position, bits) as `coder.SymbolCoder.code`; what is behind the payload's end
    is not decoded.
    """
    table, rows = inputs[5:]
    counters, entrance, forward = transformer
    columns, streams = chunk.shape
    bits = 0.0
    for t in range(columns):
        a, b = t * streams, (t + 1) * streams
        locate(history, t, inputs, tables)
        embeddings.gather_rows(table, rows[t], entrance[a:b])
        counters[:] = 0
        steps.forward_columns(counters, t, t + 1, streams, *forward, tables, frequencies)
        symbols = chunk[t, : min(streams, count - a)]
        expected = frequencies[a:b]
        if past is None:
            position = coder.decode_symbols(expected, symbols, state, payload, position)
            bits += coder.codelength(expected, symbols)
        else:
            position, spent = memory.code_tokens(
                DECODE, symbols, expected, *past, state, payload, position
            )
            bits += spent
        if position > len(payload):
            break
        push_column(history, pieces, chunk[t])
    return position, bits
