"""A lane's turn at a column whose logits a GPU has computed: one compiled call for all it takes.

The lane makes frequencies of its streams' logits, decodes a token of each, and looks up what the
next column's prediction rests on. So Python, which threads cannot share, only launches and copies.
"""

from __future__ import annotations

from typing import Any

from prequential.coding.coder import DECODE, TOTAL_BITS
from prequential.exact import softmax
from prequential.exact.compiled import outer
from prequential.predictors import embeddings, memory, ngrams
from prequential.predictors.contexts import history_of, push_column


@outer
def take(
    chunk: Any,
    column: Any,
    first: Any,
    end: Any,
    count: Any,
    history: Any,
    spelling: Any,
    inputs: Any,
    tables: Any,
    logits: Any,
    frequencies: Any,
    entrance: Any,
    lane: Any,
    interval: Any,
    payload: Any,
    position: Any,
) -> Any:
    """Decode streams first..end of a column of the chunk (T, B), in place, and prepare the next.

    Before the first one, it is column -1. All these streams are the lane's, and there are no cells.
    History (of these streams), inputs (their rows, likewise), tables and lane are packed; the first
    `count` tokens of the chunk are real. logits (N, V) float32 have what the transformer says of
    the column; frequencies (N, V) int32 receive what is expected, entrance (N, D) what enters the
    transformer next. Returns (position, bits) as `memory.code_tokens`.
    """
    history, inputs = history_of(history), embeddings.state_of(inputs)
    tables = ngrams.state_of(tables)
    columns, streams = chunk.shape
    bits = 0.0
    a = column * streams + first
    if column >= 0:
        b = a + end - first
        ngrams.add_logits(tables, a, logits[a:b])
        softmax.frequencies(logits[a:b], TOTAL_BITS, frequencies[a:b])
        known = min(max(count - a, 0), end - first)
        position, bits = memory.code_tokens(
            DECODE, chunk[column, first : first + known], frequencies[a : a + known], first, lane,
            interval, payload, position,
        )  # fmt: skip
        push_column(history, spelling, chunk[column, first:end])
    if column + 1 < columns:
        a += streams
        embeddings.locate(history, column + 1, inputs)
        ngrams.locate(history, a, tables)
        rows = inputs.rows[column + 1]
        embeddings.gather_rows(inputs.table, rows, entrance[a : a + len(rows)])
    return position, bits
