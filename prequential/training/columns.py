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
from prequential.exact.compiled import apart, jit, outer
from prequential.predictors import embeddings, memory, ngrams
from prequential.predictors.contexts import push_column
from prequential.transformer import steps


@apart
def locate(history: Any, column: Any, inputs: Any, tables: Any) -> None:
    """Remember what the predictions of a column rest on, which comes next in the history."""
    embeddings.locate(history, column, inputs)
    ngrams.locate(history, column, tables)


@jit
def take_in(history: Any, spelling: Any, chunk: Any, inputs: Any, tables: Any) -> None:
    """Locate the columns of a known chunk (T, B), and append them to the history."""
    for t in range(len(chunk)):
        locate(history, t, inputs, tables)
        push_column(history, spelling, chunk[t])


@outer
def assist(columns: Any, streams: Any, pieces: Any, transformer: Any, backward: Any) -> None:
    """What a second thread does beside `decode` and after: pieces of columns, the backward pass.

    It begins with the latter as far as columns are decoded.
    """
    counters, _, forward, scratch = transformer
    x, _, layers, temperature, logits = forward
    for t in range(columns):
        shares.wait(counters, 0, t + 1)
        steps.share_column(counters, pieces, t, streams, x, layers, temperature, logits, scratch)
        if t > 0 and t % steps.COLUMNS == 0:
            count, piece = len(backward[4][0][0][0]), shares.claim(backward[0], 0)
            # All may be decoded, and even learned, by now.
            if piece * steps.COLUMNS < columns:
                steps.backward_rows(piece, count, *backward[1:6])
                shares.done(backward[0], 0)
    shares.wait(counters, 0, columns + 1)
    steps.backward(*backward)


@outer
def decode(
    chunk: Any,
    count: Any,
    frequencies: Any,
    dlogits: Any,
    history: Any,
    spelling: Any,
    inputs: Any,
    pieces: Any,
    transformer: Any,
    tables: Any,
    past: Any,
    state: Any,
    payload: Any,
    position: Any,
) -> Any:
    """Decode the first `count` tokens, in time-major order, of the chunk (T, B), in place.

    frequencies (T * B, V) int32 receives those of every token, and dlogits (T * B, V) float32 the
    gradient. history, inputs, transformer, tables and past are what the parts of a learner give as
    their `state`; past is None where there is no memory. The transformer's phases have so many
    pieces. Returns (position, bits) as `coder.SymbolCoder.code`; what is behind the payload's end
    is not decoded.
    """
    counters, entrance, forward, scratch = transformer
    x, convolution, layers, temperature, logits = forward
    columns, streams = chunk.shape
    bits = 0.0
    for t in range(columns):
        a, b = t * streams, (t + 1) * streams
        locate(history, t, inputs, tables)
        embeddings.gather_rows(inputs.table, inputs.rows[t], entrance[a:b])
        steps.convolve(convolution, a, b, streams, x)
        shares.done(counters, 0)
        steps.share_column(counters, pieces, t, streams, x, layers, temperature, logits, scratch)
        steps.finish(a, b, layers, logits, tables, frequencies)
        symbols = chunk[t, : min(streams, count - a)]
        expected = frequencies[a:b]
        if past is None:
            position = coder.decode_symbols(expected, symbols, state, payload, position)
            bits += coder.codelength(expected, symbols)
        else:
            position, spent = memory.code_tokens(
                DECODE, symbols, expected, past, state, payload, position
            )
            bits += spent
        softmax.gradient(expected, chunk[t], len(symbols), TOTAL_BITS, dlogits[a:b])
        if position > len(payload):
            break
        push_column(history, spelling, chunk[t])
    shares.done(counters, 0)
    return position, bits
