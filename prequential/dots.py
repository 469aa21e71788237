"""Products of a row of integers with several rows of weights, in whole vectors.

Written as a plain loop, compilers find half of this rate. What is written here are vectors of
integers, whose sums are the same in any order; LLVM chooses the instructions of the machine.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as llvm
from numba.core import cgutils, types
from numba.extending import intrinsic

ROWS = 4
TERMS = 16  # of a vector
_NUMBER, _INT = llvm.IntType(64), llvm.IntType(32)
_declare: Any = cgutils.get_or_insert_function
_variable: Any = cgutils.alloca_once_value
_PAIRS = llvm.VectorType(_INT, TERMS // 2)


@intrinsic
def _dots(typing: Any, row: Any, weight: Any, first: Any) -> Any:
    """The products of row (K,) int16 with the ROWS rows of weight (M, K) int8 from `first` on.

    ROWS sums in int32, of all terms but the last K % TERMS.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, w = (
            context.make_array(kind)(context, builder, array)
            for kind, array in zip(signature.args[:2], arguments[:2], strict=True)
        )
        terms = builder.extract_value(w.shape, 1)
        lines = [
            builder.gep(w.data, [builder.mul(terms, builder.add(arguments[2], _NUMBER(i)))])
            for i in range(ROWS)
        ]
        sums = [_variable(builder, _PAIRS(None)) for _ in lines]

        def load(data: Any, k: Any) -> Any:
            place = builder.gep(data, [k])
            kind = llvm.VectorType(place.type.pointee, TERMS)
            part = builder.load(builder.bitcast(place, kind.as_pointer()), align=1)
            return builder.sext(part, llvm.VectorType(_INT, TERMS))

        def every_other(v: Any, start: int) -> Any:
            chosen = [_INT(j) for j in range(start, TERMS, 2)]
            return builder.shuffle_vector(v, v, llvm.Constant(_PAIRS, chosen))

        with cgutils.for_range(builder, builder.sdiv(terms, _NUMBER(TERMS))) as loop:
            k = builder.mul(loop.index, _NUMBER(TERMS))
            a = load(x.data, k)
            for line, total in zip(lines, sums, strict=True):
                p = builder.mul(a, load(line, k))
                pairs = builder.add(every_other(p, 0), every_other(p, 1))
                builder.store(builder.add(builder.load(total), pairs), total)
        kind = llvm.FunctionType(_INT, [_PAIRS])
        name = f"llvm.vector.reduce.add.v{TERMS // 2}i32"
        add = _declare(builder.module, kind, name)
        totals = [builder.call(add, [builder.load(total)]) for total in sums]
        return context.make_tuple(builder, signature.return_type, totals)

    result: Any = types.UniTuple
    return result(types.int32, ROWS)(row, weight, types.intp), generate


dots: Any = _dots
