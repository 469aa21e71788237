"""Archives as commands read them: opened wherever they are, and decoded."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from prequential.archive.files import STDIO, display, open_binary, same_file
from prequential.cli import checkpoints, summary
from prequential.cli.options import Options
from prequential.cli.warmup import LARGE_BYTES, compile_apart
from prequential.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prequential.report import Report
    from prequential.training.checkpoint import Checkpoints


@dataclass(frozen=True)
class Archive:
    """An archive open for reading: `bytes` is its size, None in a stream."""

    file: BinaryIO
    bytes: int | None
    status: os.stat_result | None = None  # as it was when opened
    runnable_bytes: int | None = None  # size of the self-extracting file that holds it


@contextmanager
def open_archive(source: str) -> Iterator[Archive]:
    """Open a `.pq` archive, or the one in a self-extracting file, which is not run."""
    with open_binary(source) as (file, status):
        if status is None:
            yield Archive(file, None)
            return
        from prequential.archive import selfextract

        if selfextract.is_runnable(file):
            inner = selfextract.payload(display(source), file)
            yield Archive(io.BytesIO(inner), len(inner), status, status.st_size)
        else:
            yield Archive(file, status.st_size, status)


def removing(options: Options, source: str, target: str) -> bool:
    """Whether the input goes once the output is there. Raises ConfigError where it is needed on."""
    if not options.remove or STDIO in (source, target):
        return False
    if any(same_file(name, source) for name in options.read_too):
        raise ConfigError(f"{display(source)}: --rm: is read as well, and needed later: keep it")
    return True


def decode(
    options: Options,
    source: str,
    archive: Archive,
    allocate: Callable[[int], NDArray[np.uint8]],
    *,
    keeper: Checkpoints | None = None,
    decoded: list[slice] | None = None,
    in_memory: bool = False,
    weights: BinaryIO | None = None,
) -> Report:
    """Decode an open archive as the flags say: see `codec.decode`."""
    from prequential import codec

    if archive.bytes is not None and archive.bytes > 2**18:  # of a file of a megabyte or so
        compile_apart(LARGE_BYTES)
    with (
        options.open_given() as given,
        options.bar(source) as progress,
        checkpoints.interruptible(keeper),
    ):
        run = options.run(
            progress,
            given,
            name=display(source),
            kept=options.kept,
            checkpoints=keeper,
            in_memory=in_memory,
        )
        report = codec.decode(archive.file, allocate, run, decoded, weights)
    size = archive.runnable_bytes
    return report if size is None else summary.of_runnable(report, size)
