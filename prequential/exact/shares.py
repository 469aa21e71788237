"""Work that threads share inside compiled loops: whoever comes takes the next piece.

A call's work is cut into phases, each into pieces. Every thread runs the same loop: it claims
pieces until none is left, then waits until those that others claimed are done. No piece waits for
a thread that has not come, so one thread alone does everything, and one that comes late finds what
is left. The interpreter's lock is not needed for any of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import llvmlite.ir as llvm
import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from prequential.exact.compiled import jit

# Whether loops are compiled: as plain Python there are no atomic counters, and but one thread.
COMPILED = not numba.config.DISABLE_JIT  # type: ignore[attr-defined]
# Looks at a counter before the processor is offered to others: about 20 microseconds, longer than
# a decoder's second thread waits for the next column.
_SPINS = 20_000
_LINE = 8  # int64 in a cache line


class Pace:
    """Whether other threads pay: now and then some chunks are timed with them, some without.

    On a busy machine a thread that has lost its processor in the middle of a piece is waited for,
    and one is then faster than two.
    """

    _PERIOD, _TRIAL, _TURN = 1024, 48, 8  # chunks: at most from trial to trial, of one, in turns

    def __init__(self) -> None:
        self.together = True
        # In the first chunks loops may be compiled.
        self._chunks = -16
        self._pays = True  # as the last trial found
        # From trial to trial, longer than one; the first finding, whatever it is, makes it 128.
        self._period = 64
        self._started: float | None = None
        self._seconds = [0.0, 0.0]  # of the trial, alone and together

    def start(self) -> None:
        """A chunk begins, if none has."""
        if self._started is None:
            self._started = time.perf_counter()

    def stop(self) -> None:
        """The chunk ends."""
        if self._started is None:
            return
        trial = 0 <= self._chunks < self._TRIAL
        if trial:
            self._seconds[self.together] += time.perf_counter() - self._started
        self._started = None
        self._chunks += 1
        alone, together = self._seconds
        whole_turns = self._chunks % (2 * self._TURN) == 0
        if trial and whole_turns and not 0.7 * alone < together < alone:
            self._chunks = self._TRIAL  # enough has been seen
        if self._chunks == self._period:
            self._chunks, self._seconds = 0, [0.0, 0.0]
        if 0 <= self._chunks < self._TRIAL:
            self.together = self._chunks // self._TURN % 2 == 0
        elif self._chunks == self._TRIAL:
            # Beside another process turns flatter several threads by some tenth, for one that has
            # rested is served first; and as much is not worth another processor.
            pays = together < 0.85 * alone
            # What a trial finds is soon asked again, later and later while it stays. In the first
            # chunks, for one, fresh pages of memory take time with and without.
            self._period = min(2 * self._period if pays == self._pays else 128, self._PERIOD)
            self.together = self._pays = pays


def phases(count: int) -> np.ndarray:
    """Counters for one call of `count` phases: pieces claimed, and pieces done."""
    return np.zeros((count, 2 * _LINE), np.int64)


def release(counters: np.ndarray, phase: int) -> None:
    """Let nobody wait for a phase any more, whatever of it is missing."""
    counters[phase, _LINE] = 1 << 62


def _atomic(instruction: Callable[[Any, Any], Any]) -> Any:
    """A compiled function of (counters, i, j): one atomic instruction on counters[i, j]."""

    @intrinsic
    def function(typing: Any, counters: Any, i: Any, j: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = signature.args[0]
            array = context.make_array(kind)(context, builder, arguments[0])
            place: Any = cgutils.get_item_pointer
            return instruction(builder, place(context, builder, kind, array, arguments[1:]))

        return types.int64(counters, types.intp, types.intp), generate

    return function


def _increment_alone(counters: Any, i: Any, j: Any) -> Any:
    counters[i, j] += 1
    return counters[i, j] - 1


_ONE = llvm.Constant(llvm.IntType(64), 1)
# Adds one, and gives the value before.
_increment: Any = _atomic(lambda builder, p: builder.atomic_rmw("add", p, _ONE, "seq_cst"))
# The value, as other threads have left it.
_look: Any = _atomic(lambda builder, p: builder.load_atomic(p, "seq_cst", 8))
if not COMPILED:
    _increment, _look = _increment_alone, lambda counters, i, j: counters[i, j]
_YIELD = "SwitchToThread" if os.name == "nt" else "sched_yield"
_give_way: Any = types.ExternalFunction(_YIELD, types.int32())


@jit
def claim(counters: Any, phase: Any) -> Any:
    """The number of the next piece of a phase, which may be beyond the last."""
    return _increment(counters, phase, 0)


@jit
def done(counters: Any, phase: Any) -> None:
    """Say that a claimed piece is done."""
    _increment(counters, phase, _LINE)


@jit
def next_piece(counters: Any, phase: Any) -> Any:
    """The claimed piece is done; the number of the next one."""
    done(counters, phase)
    return claim(counters, phase)


@jit
def wait(counters: Any, phase: Any, pieces: Any) -> None:
    """Wait until all pieces of a phase are done."""
    spins = 0
    while _look(counters, phase, _LINE) < pieces:
        spins += 1
        if spins > _SPINS:
            _give_way()
