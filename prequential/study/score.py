"""How many bits things take, alone and given something: many things, each from the same state.

The given is learned once. Each thing is then coded in a process that is forked from there: the
state is not copied, but for the pages that the thing changes, and the next one finds it as it was.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import signal
import struct
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from prequential import codec
from prequential.archive.files import display
from prequential.coding.encoder import Encoder
from prequential.config import AUTO, BYTES, Config
from prequential.errors import ConfigError, FileError, PrequentialError
from prequential.study import child
from prequential.training import given
from prequential.training.given import Given
from prequential.training.run import Kept, Options, Run, exact

if TYPE_CHECKING:
    from prequential.training.alone import Alone
    from prequential.training.learner import Learner

_RESULT = "<dq"


class Thing(NamedTuple):
    """What is scored: a file, or one of its lines or records, counted from 1."""

    file: str
    number: int | None
    data: bytes

    @property
    def name(self) -> str:
        """As it is shown."""
        shown = display(self.file)
        return shown if self.number is None else f"{shown}:{self.number}"


class Length(NamedTuple):
    """What coding a thing takes, header and checksums not counted."""

    bits: float  # sum of -log2 p
    payload_bits: int  # of the coder's output, whole bytes a frame


def things(file: str, content: bytes, per: str, field: str | None = None) -> list[Thing]:
    """A file as one thing, or its lines that are not empty, or its JSON records.

    Records are the items of a list, or one a line. With a field only that is taken of each: a text
    as it is, else as JSON.

    Raises:
        FileError: it has no such records.
    """
    if per == "file":
        return [Thing(file, None, content)]
    lines = [(n, line) for n, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    if per == "line":
        return [Thing(file, n, line) for n, line in lines]
    try:
        items = json.loads(content)
    except (ValueError, RecursionError):
        items = None
    if isinstance(items, list):
        return [Thing(file, n, _field(file, n, item, field)) for n, item in enumerate(items, 1)]
    found = []
    for n, line in lines:
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FileError(
                f"{display(file)}:{n}: is no JSON ({error}): give a list, or a record a line"
            ) from error
        found.append(Thing(file, n, line if field is None else _field(file, n, item, field)))
    return found


def _field(file: str, number: int, item: Any, field: str | None) -> bytes:
    if field is not None:
        if not isinstance(item, dict) or field not in item:
            raise FileError(
                f"{display(file)}:{number}: has no field {field!r}: give another --field"
            )
        item = item[field]
        if isinstance(item, str):
            return item.encode("utf-8", "surrogatepass")
    return json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def lengths(
    data: Sequence[bytes],
    config: Config,
    first: Sequence[Given] = (),
    *,
    seed: int = 0,
    processes: int = 1,
    options: Options | None = None,
) -> Iterator[tuple[int, Length]]:
    """The number and the length of each of the data, once the first are learned; in any order.

    They are those of the archives that `codec.encode` would write, to the bit.

    Raises:
        ConfigError: tokens are not bytes, or the model would need more than the memory limit.
        PrequentialError: one cannot be coded.
    """
    if config.tokenizer not in (BYTES, AUTO):
        raise ConfigError("lengths are compared byte by byte: use --tokenizer bytes")
    config = dataclasses.replace(config, tokenizer=BYTES)
    how = dataclasses.replace(options or Options(), threads=1, given=tuple(first))
    groups: dict[bytes, list[tuple[int, codec.Described]]] = {}
    for i, content in enumerate(data):
        if not content:
            yield i, Length(0.0, 0)
            continue
        found = codec.described(np.frombuffer(content, np.uint8), config, seed, how)
        groups.setdefault(found.config.to_bytes(), []).append((i, found))
    with exact("cpu", config):
        for group in groups.values():
            if not first and len(group) > 1:
                _code(_run(group[0][1], how))  # so that the forks find all loops loaded
            learner = _learned(group[0][1], how)
            tasks = (_task(found, learner, how) for _, found in group)
            for (i, _), result in zip(group, forked(tasks, processes), strict=True):
                bits, payload_bits = struct.unpack(_RESULT, result)
                yield i, Length(bits, payload_bits)


def _run(found: codec.Described, options: Options) -> Run:
    header, config, symbols, vocabulary, first = found
    encoder = Encoder(config.payload_lanes)
    return Run(header, config, options, symbols, vocabulary, encoder, time.monotonic(), None, first)


def _learned(found: codec.Described, options: Options) -> Learner | Alone:
    """A learner of this config that has learned the given."""
    run = _run(found, options)
    if run.given_steps:
        given.learn(run)
    return run.learner


class _Known:
    """The learner has learned the given: see `run.Kept`."""

    def restore(self, run: Run) -> bool:
        return True

    def keep(self, run: Run) -> None:
        """Nothing is to be kept."""


def _task(
    found: codec.Described, learner: Learner | Alone, options: Options
) -> Callable[[], bytes]:
    """What codes one thing, and changes the learner."""
    kept: Kept = _Known()

    def go_on(*arguments: Any) -> Learner | Alone:
        learner.past = arguments[4]
        return learner

    def work() -> bytes:
        run = _run(found, dataclasses.replace(options, new_learner=go_on, kept=kept))
        return struct.pack(_RESULT, *_code(run))

    return work


def _code(run: Run) -> Length:
    assert isinstance(run.coder, Encoder)
    payload_bytes = sum(len(run.coder.finish()) for _ in run.frames())
    return Length(run.coder.loss_bits, 8 * payload_bytes)


def forked(tasks: Iterable[Callable[[], bytes]], processes: int) -> Iterator[bytes]:
    """What each task returns, in order; each in a fork of this process, so many at once.

    Raises:
        PrequentialError: one has failed; with its message. Or there are no forks here.
        KeyboardInterrupt: one was interrupted, as all are by Ctrl-C.
    """
    if not hasattr(os, "fork"):
        raise PrequentialError(
            "what has learned is copied by a fork, which this system does not have: use another"
        )
    running = deque[tuple[int, int]]()
    try:
        for task in tasks:
            if len(running) >= processes:
                yield _result(*running.popleft())
            with child.interrupts_held():
                running.append(_begin(task))
        while running:
            yield _result(*running.popleft())
    finally:
        for process, pipe in running:
            os.close(pipe)
            _end(process)


def _begin(task: Callable[[], bytes]) -> tuple[int, int]:
    """(process, pipe) of a task that has begun."""
    pipe, end = os.pipe()
    with warnings.catch_warnings():
        # Libraries have threads, which are idle; the fork uses none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process:
        os.close(end)
        return process, pipe
    status = 1
    try:
        os.close(pipe)
        for number in child.INTERRUPTS:  # which the handlers held back are deaf to
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        _write(end, b"\0" + task())
        status = 0
    except Exception as error:
        _write(end, b"\1" + f"{type(error).__name__}: {error}".encode())
    finally:  # without what this process would do at its end, which is the other's
        os._exit(status)


def _write(pipe: int, content: bytes) -> None:
    while content:
        content = content[os.write(pipe, content) :]


def _result(process: int, pipe: int) -> bytes:
    try:
        with open(pipe, "rb") as file:
            content = file.read()
    finally:
        status = _end(process)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in child.INTERRUPTS:
        raise KeyboardInterrupt
    if content[:1] != b"\0":
        told = content[1:].decode() or "its process was killed: is there memory for it?"
        raise PrequentialError(f"could not be scored: {told}")
    return content[1:]


def _end(process: int) -> int:
    """The status of a process that is no longer needed."""
    os.kill(process, signal.SIGKILL)
    return os.waitpid(process, 0)[1]


class Score(NamedTuple):
    """A thing's lengths."""

    thing: Thing
    alone: Length
    given: tuple[Length, ...]  # each of what was given by itself

    @property
    def surprise(self) -> float:
        """Bits per byte given the first of the given, or alone."""
        return (self.given[0] if self.given else self.alone).bits / max(1, len(self.thing.data))


def csv_line(cells: Iterable[Any]) -> str:
    """Cells with commas between them; quoted where they hold any end of a line."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue().removesuffix("\r\n")


def score(
    found: Sequence[Thing],
    config: Config,
    first: Sequence[Given] = (),
    *,
    seed: int = 0,
    processes: int = 1,
    options: Options | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Score]:
    """Every thing's length alone, and given each of the first by itself."""
    data = [thing.data for thing in found]
    table = [[Length(0.0, 0)] * (1 + len(first)) for _ in data]
    done = 0
    for column, each in enumerate([(), *((g,) for g in first)]):
        for i, length in lengths(
            data, config, each, seed=seed, processes=processes, options=options
        ):
            table[i][column] = length
            done += 1
            progress(done, len(data) * (1 + len(first)))
    return [Score(thing, row[0], tuple(row[1:])) for thing, row in zip(found, table, strict=True)]
