"""Where files that are well known have their samples: pictures, sound, arrays.

Headers are looked for anywhere in the input: a folder of pictures in one archive has many. What one
says is only a proposal, for it may be wrong, and its file cut off: see `training/finding.py`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

from prequential.grids import Grid

_BLOCK = 1 << 20
_HEADER_BYTES = 4096  # in which a header without long comments ends
_MOST_CHANNELS = 4
_MOST_ROW = 99_999
_LEAST_BYTES = 256  # of what is worth a proposal
_SIGNATURES = re.compile(
    rb"RIFF....WAVE|FORM....AIFF|P[567]\s|BM(?=....\0\0\0\0)|\x93NUMPY|II\*\0|MM\0\*", re.DOTALL
)
_PNM = re.compile(
    rb"P([56])(?:\s+|#[^\n]*\n)+(\d{1,6})(?:\s+|#[^\n]*\n)+(\d{1,6})(?:\s+|#[^\n]*\n)+(\d{1,5})\s"
)
_PAM = re.compile(rb"P7\n((?:[^\n]*\n){1,64}?)ENDHDR\n")
_PAM_FIELD = re.compile(rb"^(WIDTH|HEIGHT|DEPTH|MAXVAL)\s+(\d{1,6})\s*$", re.MULTILINE)
_NPY = re.compile(
    rb"'descr': *'([|<>])([ui])([124])', *'fortran_order': *(True|False), *'shape': *\(([\d, ]*)\)"
)


def proposals(data: Any) -> list[Grid]:
    """What the headers in data (n,) uint8 say of it, in order and without overlap."""
    found, end = list[Grid](), 0
    for at, header in _headers(data):
        for grid in header(data, at):
            if grid.start >= end and grid.end - grid.start >= _LEAST_BYTES:
                found.append(grid)
                end = grid.end
    return found


def _headers(data: Any) -> Iterator[tuple[int, Callable[[Any, int], list[Grid]]]]:
    """Where something begins like a header, and what reads it."""
    for start in range(0, len(data), _BLOCK):
        block = _take(data, start, _BLOCK + 16)
        for match in _SIGNATURES.finditer(block):
            if match.start() < _BLOCK:
                yield start + match.start(), _FORMATS[match[0][:2]]


def _take(data: Any, start: int, count: int) -> bytes:
    part: bytes = data[start : start + count].tobytes()
    return part


def _grid(data: Any, start: int, count: int, kind: str, channels: int, row: int = 0) -> list[Grid]:
    """The proposal of `count` bytes of elements of a type such as "<i2", as far as they are there.

    Rows of few pixels are no picture.
    """
    size = int(kind[-1])
    count = min(count, len(data) - start)
    fits = 1 <= channels <= _MOST_CHANNELS and 0 <= row <= _MOST_ROW and 1 <= size <= 4
    if count < size or not fits:
        return []
    end = start + count - count % size
    row = row if row > 2 * channels else 0
    return [Grid(start, end, size, channels, row, kind[0] == "<" and size > 1, "i" in kind)]


def _riff(data: Any, at: int) -> list[Grid]:
    """WAVE: chunks of a name, a size and as many bytes, to even places."""
    channels, kind = 0, ""
    place = at + 12
    while len(head := _take(data, place, 8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"fmt " and size >= 16:
            fields = _take(data, place + 8, 40)
            if len(fields) < 16:
                break
            form, channels, _, _, frame, bits = struct.unpack("<HHIIHH", fields[:16])
            if form == 0xFFFE and len(fields) >= 26:
                form = int.from_bytes(fields[24:26], "little")
            whole = channels and frame == channels * ((bits + 7) // 8)
            kind = f"<{'u' if bits <= 8 else 'i'}{frame // channels}" if form == 1 and whole else ""
        elif name == b"data":
            return _grid(data, place + 8, size or len(data), kind, channels) if kind else []
        place += 8 + size + size % 2
    return []


def _form(data: Any, at: int) -> list[Grid]:
    """AIFF: the same, highest byte first."""
    channels, kind = 0, ""
    place = at + 12
    while len(head := _take(data, place, 16)) == 16:
        name, size, first = struct.unpack(">4sII4x", head)
        if name == b"COMM":
            channels, _, bits = struct.unpack(">HIH", head[8:])
            kind = f">i{(bits + 7) // 8}"
        elif name == b"SSND":
            return _grid(data, place + 16 + first, size - 8, kind, channels) if kind else []
        place += 8 + size + size % 2
    return []


def _pnm(data: Any, at: int) -> list[Grid]:
    match = _PNM.match(_take(data, at, _HEADER_BYTES))
    if match is None:
        return []
    channels = 1 if match[1] == b"5" else 3
    width, height, most = (int(match[k]) for k in (2, 3, 4))
    return _raster(data, at + match.end(), width, height, channels, most)


def _pam(data: Any, at: int) -> list[Grid]:
    match = _PAM.match(_take(data, at, _HEADER_BYTES))
    fields = dict(_PAM_FIELD.findall(match[1])) if match else {}
    if match is None or len(fields) < 4:
        return []
    width, height, channels, most = (
        int(fields[name]) for name in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL")
    )
    return _raster(data, at + match.end(), width, height, channels, most)


def _raster(data: Any, start: int, width: int, height: int, channels: int, most: int) -> list[Grid]:
    """Pixels up to a value: in two bytes, the highest first, where one is too small."""
    kind = "|u1" if most < 256 else ">u2"
    count = width * height * channels * int(kind[-1])
    return _grid(data, start, count, kind, channels, width * channels)


def _bmp(data: Any, at: int) -> list[Grid]:
    head = _take(data, at, 54)
    if len(head) < 54:
        return []
    start, size, width, height, planes, bits, packed = struct.unpack("<10xIIiiHHI20x", head)
    if not (40 <= size <= 124 and width > 0 and planes == 1 and packed in (0, 3)):
        return []
    if bits not in (8, 24, 32):
        return []
    row = (width * bits + 31) // 32 * 4  # filled up to four bytes
    return _grid(data, at + start, row * abs(height), "|u1", bits // 8, row)


def _npy(data: Any, at: int) -> list[Grid]:
    head = _take(data, at, _HEADER_BYTES)
    if len(head) < 12:
        return []
    wide = head[6] > 1  # the length has four bytes
    start = 12 if wide else 10
    length = int.from_bytes(head[8:start], "little")
    match = _NPY.search(head[start : start + length])
    if match is None:
        return []
    shape = [int(part) for part in match[5].split(b",") if part.strip()]
    if match[4] == b"True":
        shape.reverse()
    count = int(match[3])
    for part in shape:
        count *= part
    channels = shape[-1] if len(shape) > 1 and 1 <= shape[-1] <= _MOST_CHANNELS else 1
    across = shape[:-1] if channels > 1 else shape
    row = across[-1] * channels if len(across) > 1 and across[-1] * channels <= _MOST_ROW else 0
    kind = (match[1] + match[2] + match[3]).decode()
    return _grid(data, at + start + length, count, kind, channels, row)


def _tiff(data: Any, at: int) -> list[Grid]:
    """Uncompressed pictures in strips; those that touch are one."""
    order = "<" if _take(data, at, 2) == b"II" else ">"
    found = list[Grid]()
    place = _field(_take(data, at + 4, 4), order)
    for _ in range(64):  # directories
        head = _take(data, at + place, 2)
        count = _field(head, order)
        entries = _take(data, at + place + 2, 12 * count + 4)
        if place == 0 or len(head) < 2 or len(entries) < 12 * count + 4:
            break
        tags = {
            _field(entries[k : k + 2], order): entries[k + 2 : k + 12]
            for k in range(0, 12 * count, 12)
        }
        found += _strips(data, at, order, {t: _values(data, at, order, v) for t, v in tags.items()})
        place = _field(entries[-4:], order)
    return sorted(found)


def _strips(data: Any, at: int, order: str, tags: dict[int, list[int]]) -> list[Grid]:
    """A directory's picture: its width, bits, compression, strips, channels, planes, kinds."""
    (width,) = tags.get(256) or [0]
    bits, compression = set(tags.get(258) or [1]), tags.get(259) or [1]
    starts, counts = tags.get(273) or [], tags.get(279) or []
    channels, planes = (tags.get(277) or [1])[0], (tags.get(284) or [1])[0]
    forms = set(tags.get(339) or [1])
    if bits not in ({8}, {16}) or compression[:1] != [1] or planes != 1 or not forms <= {1, 2}:
        return []
    joined = list[list[int]]()
    for start, count in sorted(zip(starts, counts, strict=False)):
        if joined and joined[-1][1] == start:
            joined[-1][1] += count
        else:
            joined.append([start, start + count])
    kind = f"{order}{'i' if forms == {2} else 'u'}{bits.pop() // 8}"
    grids = [_grid(data, at + a, z - a, kind, channels, width * channels) for a, z in joined]
    return [grid for proposal in grids for grid in proposal]


def _values(data: Any, at: int, order: str, entry: bytes) -> list[int]:
    """The integers of a TIFF field: its type, their number, and they or where they are."""
    size = {1: 1, 3: 2, 4: 4}.get(_field(entry[:2], order), 0)
    count = min(_field(entry[2:6], order), 1 << 16)
    raw = entry[6:]
    if size * count > 4:
        raw = _take(data, at + _field(raw, order), size * count)
    return [_field(raw[k : k + size], order) for k in range(0, size * count, size or 1)]


def _field(raw: bytes, order: str) -> int:
    return int.from_bytes(raw, "little" if order == "<" else "big")


_FORMATS = {
    b"RI": _riff,
    b"FO": _form,
    b"P5": _pnm,
    b"P6": _pnm,
    b"P7": _pam,
    b"BM": _bmp,
    b"\x93N": _npy,
    b"II": _tiff,
    b"MM": _tiff,
}
