"""Sparse Adagrad, per element: only rows that were used are touched.

Source: Duchi et al. 2011.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prequential.exact.compiled import jit

_EPSILON = np.float32(1e-6)


@jit
def learn(
    table: Any, squares: Any, rows: Any, gradient: Any, rate: Any, first: Any, end: Any
) -> None:
    """One update, in order, of every row (n, C) of a table (R, D) that a token used; -1 is none.

    gradient (n, D) is that of the sum of a token's rows; squares (R, D) holds the sums of squares.
    Only the columns first..end of all are meant.
    """
    for i in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            r = rows[i, c]
            if r >= 0:
                # Views from zero on, so that the loop is vectorised.
                g, square, row = gradient[i, first:end], squares[r, first:end], table[r, first:end]
                for j in range(len(row)):
                    square[j] += g[j] * g[j]
                    row[j] -= rate * g[j] / np.sqrt(square[j] + _EPSILON)
