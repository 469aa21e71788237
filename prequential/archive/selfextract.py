"""The literal form of a description: one runnable file that holds decoder and payload.

FILE.pyz is a zip archive that Python runs: a short `__main__.py`, the decoder's modules as one LZMA
stream (`codesize.packed`), and the `.pq` archive as it is. `python FILE.pyz -o FILE` restores the
original wherever the libraries it names are installed; its size is the description length.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from typing import BinaryIO

from prequential.archive import codesize
from prequential.errors import FileError

_ZIP = b"PK\x03\x04"
# What zipfile raises on bytes that are no zip archive, or one with unusual features.
_ZIP_ERRORS = (zipfile.BadZipFile, LookupError, EOFError, RuntimeError, ValueError, struct.error)

# Modules go to a folder of their own because numba compiles from files, not from archives.
_MAIN = """\
import argparse, lzma, os, pathlib, sys, tempfile, zipfile
p = argparse.ArgumentParser(description="Restore the file that this archive describes.")
p.add_argument("-o", "--output", required=True)
p.add_argument("--threads", type=int)
p.add_argument("--prior")
a = p.parse_args()
with zipfile.ZipFile(sys.path[0]) as z, tempfile.TemporaryDirectory() as d:
    code, at = lzma.decompress(z.read("code")), 0
    os.mkdir(d + "/prequential")
    while at < len(code):
        end = code.index(10, at)
        name, size = code[at:end].decode().split()
        at = end + 1 + int(size)
        pathlib.Path(d, "prequential", name).write_bytes(code[end + 1 : at])
    sys.path.insert(0, d)
    from prequential import decoding, errors, prior
    try:
        import numpy as np
        with open(a.output, "xb+") as f:
            try:
                def allocate(n):
                    f.truncate(n)
                    return np.memmap(f, np.uint8, "r+", shape=(n,)) if n else np.empty(0, np.uint8)
                given = prior.load(a.prior) if a.prior else None
                decoding.decode(z.open("data.pq"), allocate, threads=a.threads, prior=given,
                                limits=decoding.Limits(float("inf"), float("inf")))
            except BaseException:
                os.unlink(a.output)
                raise
    except (errors.PrequentialError, OSError) as e:
        sys.exit(f"error: {e}")
"""


def write(archive: bytes, out: BinaryIO) -> int:
    """Write the runnable archive around a `.pq` archive; return its size in bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as pyz:
        _add(pyz, "__main__.py", _MAIN.encode(), zipfile.ZIP_DEFLATED)
        _add(pyz, "code", codesize.packed(), zipfile.ZIP_STORED)
        _add(pyz, "data.pq", archive, zipfile.ZIP_STORED)
    out.write(packed.getvalue())
    return len(packed.getvalue())


def is_runnable(file: BinaryIO) -> bool:
    """Whether a file on the disk begins as a zip archive does, not as a `.pq` archive."""
    return os.pread(file.fileno(), len(_ZIP), 0) == _ZIP


def payload(name: str, file: BinaryIO) -> bytes:
    """The `.pq` archive in a runnable one, of which nothing is run.

    Raises:
        FileError: not a file that `write` wrote, or damaged.
    """
    try:
        with zipfile.ZipFile(file) as pyz:
            member = pyz.getinfo("data.pq")
            # As it is stored, it cannot unpack to more than the file holds.
            if member.compress_type == zipfile.ZIP_STORED:
                return pyz.read(member)
    except _ZIP_ERRORS as error:
        raise FileError(f"{name}: is no self-extracting archive, or damaged ({error})") from error
    raise FileError(f"{name}: is no self-extracting archive of preq: its data are packed")


def _add(pyz: zipfile.ZipFile, name: str, content: bytes, method: int) -> None:
    info = zipfile.ZipInfo(name)  # dated 1980-01-01: the same bytes every time
    info.compress_type = method
    pyz.writestr(info, content, compresslevel=9)
