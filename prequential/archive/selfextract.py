"""The literal form of a description: one runnable file that holds decoder and payload.

FILE.pyz is a zip archive that Python runs: a short `__main__.py`, the decoder's modules as one LZMA
stream (`codesize.packed`), and the `.pq` archive as it is. `python FILE.pyz -o FILE` restores the
original wherever the libraries it names are installed; its size is the description length.

Without an archive in it, and with all that any archive takes, the same file is a frozen decoder:
what keeps the archives of a numerics version readable when the package has gone on to another.
"""

from __future__ import annotations

import io
import struct
import zipfile
from typing import BinaryIO

from prequential import system
from prequential.archive import codesize
from prequential.archive.bare import bare
from prequential.errors import FileError

_ZIP = b"PK\x03\x04"
# What zipfile raises on bytes that are no zip archive, or one with unusual features.
_ZIP_ERRORS = (zipfile.BadZipFile, LookupError, EOFError, RuntimeError, ValueError, struct.error)

# Lines marked "after given files" are only written for archives that are made after some, those
# marked "its own" not for a frozen decoder, and those marked "any archive" only for one.
# Modules go to a folder because numba compiles from files, not from archives. It is kept, with what
# was compiled, for all files with the same decoder: its name is a digest of the modules, which are
# compared all the same.
_MAIN = """\
import argparse, hashlib, lzma, os, signal, sys, tempfile, zipfile
from pathlib import Path
p = argparse.ArgumentParser(description="Restore the file that this archive describes.")  # its own
p = argparse.ArgumentParser(description="Decode archives of one numerics version.")  # any archive
p.add_argument("archive")  # any archive
p.add_argument("--max-memory", type=float, default=4, metavar="GIB")  # any archive
p.add_argument("--max-hours", type=float, default=1 / 6)  # any archive
p.add_argument("-o", "--output", required=True, help="a new file, or -")
p.add_argument("--threads", type=int, help="CPU threads")
p.add_argument("--prior", help="the weights it was made with, if any")
p.add_argument("--given", action="append", default=[],  # after given files
               help="a file it was made after")  # after given files
a = p.parse_args()
log = sys.stderr or open(os.devnull, "w")
beside = a.output != "-"
for kind in signal.SIGTERM, signal.SIGHUP:
    if signal.getsignal(kind) != signal.SIG_IGN:
        signal.signal(kind, signal.default_int_handler)
z = zipfile.ZipFile(sys.path[0])
packed = z.read("code")
code = lzma.decompress(packed)

def place(folder):
    at = 0
    folder.mkdir(0o700, parents=True, exist_ok=True)
    while at < len(code):
        end = code.index(10, at)
        name, size = code[at:end].decode().split()
        at = end + 1 + int(size)
        path, source = folder / name, code[end + 1 : at]
        if not path.is_file() or path.read_bytes() != source:
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as f:
                f.write(source)
            os.replace(f.name, path)
    tempfile.TemporaryFile(dir=folder).close()
    sys.path.insert(0, str(folder.parent))

def show(p):
    print(f"{100 * p.bytes_done // p.bytes_total} %", end="\\r", file=log, flush=True)

def check():
    if os.path.lexists(a.output):
        raise FileExistsError(0, "File exists", a.output)

def restore(d):
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache, "prequential", hashlib.sha256(packed).hexdigest()[:16], "prequential")
    when = "once"
    try:
        place(folder)
    except OSError:
        when = f"each time, as {folder} cannot be written"
        folder = Path(d, "prequential")
        place(folder)
    compiled = folder / "compiled"
    if not compiled.exists():
        print(f"compiling the decoder, {when}: a minute or two", file=log, flush=True)
    import numpy as np
    from prequential import decoding, errors, prior, run
    from prequential.given import named  # after given files
    data, part = None, Path(d, "data")
    f = open(part, "wb+") if beside else sys.stdout.buffer
    def allocate(n):
        nonlocal data
        if beside and n:
            f.truncate(n)
            return np.memmap(f, np.uint8, "r+", shape=(n,))
        data = np.empty(n, np.uint8)
        return data
    try:
        options = run.Options(threads=a.threads,
                              prior=prior.load(a.prior) if a.prior else None,
                              given=[named(f, np.fromfile(f, np.uint8))  # after given files
                                     for f in a.given],  # after given files
                              progress=show if log.isatty() else None,
                              limits=run.Limits(float("inf"), float("inf")))  # its own
                              name=a.archive,  # any archive
                              limits=run.Limits(a.max_memory * 2**30,  # any archive
                                                a.max_hours * 3600))  # any archive
        decoding.decode(z.open("data.pq"), allocate, options)  # its own
        with open(a.archive, "rb") as archive:  # any archive
            decoding.decode(archive, allocate, options)  # any archive
    except errors.PrequentialError as e:
        sys.exit(f"error: {e}")
    compiled.touch()
    if data is not None:
        f.write(data)
        f.flush()
    if beside:
        try:
            os.link(part, a.output)  # unlike a rename, never replaces
        except OSError:  # there is one by now, or the file system has no hard links
            check()
            os.rename(part, a.output)

try:
    if beside:
        check()
    # What is in work lies beside the output, where there is room for it and nobody else's name.
    where = os.path.dirname(a.output) or "." if beside else None
    with tempfile.TemporaryDirectory(prefix=".preq-", dir=where) as d:
        restore(d)
except OSError as e:
    sys.exit(f"error: {e.filename or a.output}: {e.strerror}")
except KeyboardInterrupt:
    print("interrupted", file=log)
    sys.exit(130)
"""


def write(archive: bytes, out: BinaryIO, parts: frozenset[str] = codesize.TRANSFORMER) -> int:
    """Write the runnable archive around a `.pq` archive; return its size in bytes.

    parts are what decoding it takes beyond others: see `codesize.parts`.
    """
    without = ["# any archive"] if codesize.GIVEN in parts else ["# any archive", "# after given"]
    return _write(out, without, parts, archive)


def freeze(out: BinaryIO) -> int:
    """Write a decoder of all archives of this numerics version; return its size in bytes.

    `python OUT.pyz ARCHIVE -o FILE` has the limits of memory and work that `preq decode` has.
    """
    return _write(out, ["# its own"], codesize.ALL, None)


def _write(out: BinaryIO, without: list[str], parts: frozenset[str], archive: bytes | None) -> int:
    """A runnable file, of whose program lines with some marks are left out."""
    packed, lines = io.BytesIO(), _MAIN.splitlines(keepends=True)
    main = "".join(line for line in lines if not any(mark in line for mark in without))
    with zipfile.ZipFile(packed, "w") as pyz:
        _add(pyz, "__main__.py", bare(main.encode()), zipfile.ZIP_DEFLATED)
        _add(pyz, "code", codesize.packed(parts), zipfile.ZIP_STORED)
        if archive is not None:
            _add(pyz, "data.pq", archive, zipfile.ZIP_STORED)
    out.write(packed.getvalue())
    return len(packed.getvalue())


def is_runnable(file: BinaryIO) -> bool:
    """Whether a file on the disk begins as a zip archive does, not as a `.pq` archive."""
    return system.read_at(file.fileno(), len(_ZIP), 0) == _ZIP


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
