"""Our presets beside well-known compressors on the same files, as a table and as JSON.

Each run is a process of its own, so that its time (all of it, start-up included) and its peak
memory are its own. What is not installed is left out and named.
"""

from __future__ import annotations

import bz2
import json
import lzma
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from prequential.errors import PrequentialError
from prequential.study import child


@dataclass(frozen=True)
class Row:
    """One compressor on one file; times in seconds, decode_seconds None where not measured."""

    file: str
    method: str
    original_bytes: int
    archive_bytes: int
    bits_per_byte: float
    encode_seconds: float
    decode_seconds: float | None
    encode_peak_bytes: int


def _zstandard(data: bytes) -> bytes:
    level = import_module("zstandard").ZstdCompressor(level=22)
    return bytes(level.compress(data))


def _brotli(data: bytes) -> bytes:
    return bytes(import_module("brotli").compress(data, quality=11, lgwin=24))


# pyppmd's default, variant I, does not give every file back (1.3.1); variant H is the one of 7-Zip.
_PPMD_ORDER, _PPMD_BYTES = 16, 1 << 28


def _ppmd(data: bytes) -> bytes:
    encoder = import_module("pyppmd").Ppmd7Encoder(_PPMD_ORDER, _PPMD_BYTES)
    return len(data).to_bytes(4, "little") + bytes(encoder.encode(data) + encoder.flush())


def _unppmd(archive: bytes) -> bytes:
    decoder = import_module("pyppmd").Ppmd7Decoder(_PPMD_ORDER, _PPMD_BYTES)
    return bytes(decoder.decode(archive[4:], int.from_bytes(archive[:4], "little")))


# In a process of its own: name -> (compress, decompress).
LIBRARIES: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "zlib -9": (lambda d: zlib.compress(d, 9), zlib.decompress),
    "bz2 -9": (lambda d: bz2.compress(d, 9), bz2.decompress),
    "xz -9e": (lambda d: lzma.compress(d, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
    "zstd -22": (_zstandard, lambda d: import_module("zstandard").ZstdDecompressor().decompress(d)),
    "brotli 11": (_brotli, lambda d: import_module("brotli").decompress(d)),
    "PPMd o16": (_ppmd, _unppmd),
}
_NEEDS = {"zstd -22": "zstandard", "brotli 11": "brotli", "PPMd o16": "pyppmd"}
# On the PATH: name -> program, compressing, decompressing; {i} and {o} are input and output.
PROGRAMS: dict[str, tuple[str, str, str]] = {
    "zpaq -m5": ("zpaq", "zpaq a {o}.zpaq {i} -m5 -t1", ""),
    "7z PPMd": ("7z", "7z a -m0=PPMd:o=16:mem=28 {o}.7z {i}", ""),
    "paq8px -8": ("paq8px", "paq8px -8 {i} {o}", ""),
    "cmix": ("cmix", "cmix -c {i} {o}", "cmix -d {i} {o}"),
    "lstm-compress": ("lstm-compress", "lstm-compress -c {i} {o}", "lstm-compress -d {i} {o}"),
    "nncp": ("nncp", "nncp c {i} {o}", "nncp d {i} {o}"),
}


def available() -> tuple[list[str], list[str]]:
    """Methods that can run here, and those that cannot."""
    here: list[str] = []
    missing: list[str] = []
    for name in [*LIBRARIES, *PROGRAMS]:
        if name in LIBRARIES:
            found = name not in _NEEDS or find_spec(_NEEDS[name]) is not None
        else:
            found = shutil.which(PROGRAMS[name][0]) is not None
        (here if found else missing).append(name)
    return here, missing


def run(
    path: Path, methods: Sequence[str], *, decode: bool = False, threads: int | None = None
) -> list[Row]:
    """Every method on one file; a method is one of `available` or `preq NAME` for a preset.

    Raises:
        PrequentialError: a compressor fails, or its decompressor does not give the file back.
    """
    return [_run(path, method, decode, threads) for method in methods]


def _run(path: Path, method: str, decode: bool, threads: int | None) -> Row:
    size = path.stat().st_size
    with tempfile.TemporaryDirectory() as folder:
        archive, output = Path(folder) / "archive", Path(folder) / "output"
        seconds, peak = _timed(_command(method, "c", path, archive, threads), method)
        made = [p for p in Path(folder).iterdir() if p.name.startswith("archive")]
        if not made:
            raise PrequentialError(f"{method} made no archive of {path}")
        archive_bytes = made[0].stat().st_size
        decode_seconds = None
        if decode and (method not in PROGRAMS or PROGRAMS[method][2]):
            command = _command(method, "d", made[0], output, threads)
            decode_seconds, _ = _timed(command, method)
            if output.read_bytes() != path.read_bytes():
                raise PrequentialError(f"{method} does not give {path} back")
    return Row(
        file=path.name,
        method=method,
        original_bytes=size,
        archive_bytes=archive_bytes,
        bits_per_byte=8 * archive_bytes / max(1, size),
        encode_seconds=seconds,
        decode_seconds=decode_seconds,
        encode_peak_bytes=peak,
    )


def _command(method: str, way: str, source: Path, target: Path, threads: int | None) -> list[str]:
    if method.startswith("preq "):
        options = ["-o", str(target), "-q", "-f"]
        options += ["--preset", method.split()[1]] if way == "c" else []
        options += ["--threads", str(threads)] if threads else []
        return child.preq("encode" if way == "c" else "decode", *options, "--", str(source))
    if method in LIBRARIES:
        program = "from prequential.study import compare; compare.run_library(*sys.argv[1:])"
        return child.python(program, method, way, str(source), str(target))
    template = PROGRAMS[method][1 if way == "c" else 2]
    return [part.format(i=source, o=target) for part in template.split()]


def _timed(command: list[str], method: str) -> tuple[float, int]:
    """(wall seconds, peak resident bytes) of a finished process; 0 where that is not told."""
    started = time.monotonic()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    message = process.stderr.read()
    peak = 0
    if hasattr(os, "wait4"):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    else:
        process.wait()
    process.stderr.close()
    if process.returncode != 0:
        last = message.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise PrequentialError(f"{method} failed: {last[0]}")
    return time.monotonic() - started, peak


def weissman(row: Row, reference: Row) -> float:
    """Weissman score, alpha = 1: (r / r0) * log(t0) / log(t), with times in milliseconds."""
    ratio = row.original_bytes / row.archive_bytes
    ratio0 = reference.original_bytes / reference.archive_bytes
    milliseconds = max(2.0, 1000 * row.encode_seconds)
    return (
        ratio
        / ratio0
        * math.log(max(2.0, 1000 * reference.encode_seconds))
        / math.log(milliseconds)
    )


def to_json(rows: Sequence[Row], missing: Sequence[str], failed: Sequence[str] = ()) -> str:
    """All rows, the machine's cores, what was not found, and what went wrong."""
    document = {
        "cores": os.cpu_count(),
        "not_found": list(missing),
        "failed": list(failed),
        "rows": [asdict(row) for row in rows],
    }
    return json.dumps(document, indent=1)


def run_library(method: str, way: str, source: str, target: str) -> None:
    """Run one library on one file, in a process of its own: way is c or d."""
    with suppress(ImportError):  # Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    data = Path(source).read_bytes()
    Path(target).write_bytes(LIBRARIES[method][0 if way == "c" else 1](data))
