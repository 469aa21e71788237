"""Where well-known files have their samples; wrong and cut headers propose nothing that is not."""

from __future__ import annotations

import io
import struct
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import noise

from prequential.coding.formats import proposals
from prequential.config import parse_grids
from prequential.grids import text_of


def told(data: bytes) -> str:
    return text_of(proposals(np.frombuffer(data, np.uint8)))


def wav(channels: int, size: int, frames: int = 400) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as w:
        w.setnchannels(channels)
        w.setsampwidth(size)
        w.setframerate(8000)
        w.writeframes(noise(frames * channels * size))
    return file.getvalue()


def bmp(bits: int, width: int, height: int) -> bytes:
    stride = (width * bits + 31) // 32 * 4
    offset = 54 + (1024 if bits == 8 else 0)
    size = offset + stride * abs(height)
    head = b"BM" + struct.pack(
        "<IIIIiiHHIIiiII", size, 0, offset, 40, width, height, 1, bits, *[0] * 6
    )
    return head + bytes(offset - 54) + noise(stride * abs(height))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tiff(order: str, strips: list[tuple[int, int]], channels: int, bits: int, width: int) -> bytes:
    """Strips of (offset, size), and the directory behind them."""
    end = max(offset + size for offset, size in strips)
    lists = [[o for o, _ in strips], [s for _, s in strips]]
    at, behind = end, b""
    entries = [(256, 3, [width]), (258, 3, [bits] * channels), (259, 3, [1]), (273, 4, lists[0])]
    entries += [(277, 3, [channels]), (279, 4, lists[1])]
    directory = struct.pack(order + "H", len(entries))
    start = at + 2 + 12 * len(entries) + 4
    for tag, kind, values in entries:
        raw = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(raw) > 4:
            raw, behind = struct.pack(order + "I", start + len(behind)), behind + raw
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + raw.ljust(4, b"\0")
    magic = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, at)
    return magic.ljust(8, b"\0") + noise(end - 8) + directory + bytes(4) + behind


PGM16 = b"P5\n# made by hand\n20 30\n# most\n65535\n" + noise(1200)
PAM = b"P7\n# made by hand\nWIDTH 20\nHEIGHT 30\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n"
PAM += noise(2400)
CASES = [
    (wav(1, 2), "44-844:<i2x1"),
    (wav(2, 2), "44-1644:<i2x2"),
    (wav(1, 1), "44-444:u1x1"),
    (wav(2, 3), "44-2444:<i3x2"),
    (wav(4, 4), "44-6444:<i4x4"),
    (wav(5, 2), ""),
    (wav(2, 2)[:1001], "44-1000:<i2x2"),
    (wav(2, 2)[:50], ""),
    (b"P6 20 30 255\n" + noise(1800), "13-1813:u1x3/60"),
    (b"P5 20 30 255\n" + noise(1800), "13-613:u1x1/20"),
    (PAM, f"{len(PAM) - 2400}-{len(PAM)}:u1x4/80"),
    (PAM.replace(b"255", b"256"), f"{len(PAM) - 2400}-{len(PAM)}:>u2x4/80"),
    (PAM.replace(b"DEPTH", b"# DEPTH"), ""),
    (PAM.replace(b"ENDHDR", b"ENDHEAD"), ""),
    (PGM16, f"{len(PGM16) - 1200}-{len(PGM16)}:>u2x1/20"),
    (b"P6 20 30 255\n" + noise(700), "13-713:u1x3/60"),  # cut off
    (b"P6 2 300 255\n" + noise(1800), "13-1813:u1x3"),  # narrow
    (b"P6 20 wide 255\n" + noise(1800), ""),
    (bmp(24, 17, 20), "54-1094:u1x3/52"),
    (bmp(32, 17, -20), "54-1414:u1x4/68"),
    (bmp(8, 17, 20), "1078-1478:u1x1/20"),
    (bmp(24, 17, 20)[:40], ""),
    (npy(np.zeros((20, 30), np.uint8)), "128-728:u1x1/30"),
    (npy(np.zeros((20, 30, 3), "<u2")), "128-3728:<u2x3/90"),
    (npy(np.zeros((20, 30), ">i2", "F")), "128-1328:>i2x1/20"),
    (npy(np.zeros(400, "<i4")), "128-1728:<i4x1"),
    (npy(np.zeros((400, 2), "<i2")), "128-1728:<i2x2"),
    (npy(np.zeros(400, np.float32)), ""),
    (tiff("<", [(8, 600)], 3, 8, 20), "8-608:u1x3/60"),
    (tiff(">", [(8, 800), (808, 400)], 1, 16, 20), "8-1208:>u2x1/20"),
    (tiff("<", [(8, 600), (700, 300)], 1, 8, 20), "8-608:u1x1/20,700-1000:u1x1/20"),
    (tiff("<", [(8, 600)], 1, 1, 20), ""),
    (b"RIFF", ""),
    (b"", ""),
    (noise(3000), ""),
    (b"BM" + bytes(100), ""),
    (b"II*\0" + b"\xff" * 300, ""),
]


@pytest.mark.parametrize(("data", "proposed"), CASES, ids=range(len(CASES)))
def test_headers(data: bytes, proposed: str) -> None:
    assert told(data) == proposed
    shifted = parse_grids(told(b"some text before it" + data + b"and behind"))
    assert [g.start - 19 for g in shifted] == [g.start for g in parse_grids(proposed)]


def test_several_in_one_file() -> None:
    one, two = b"P6 20 30 255\n" + noise(1800), wav(2, 2)
    whole = bytes(1 << 20) + b"x" + one + two + one
    start = (1 << 20) + 1
    expected = [start + 13, start + 1813 + 44, start + 1813 + len(two) + 13]
    assert [g.start for g in proposals(np.frombuffer(whole, np.uint8))] == expected


@given(st.data())
def test_damaged_headers_stay_within_the_data(draw: st.DataObject) -> None:
    data = bytearray(draw.draw(st.sampled_from([d for d, text in CASES if text])))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, min(len(data), 140) - 1))] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.integers(0, len(data)))
    grids = proposals(np.frombuffer(bytes(data[:cut]), np.uint8))
    assert parse_grids(text_of(grids)) == grids
    assert all(grid.end <= cut for grid in grids)
