"""Numbers as they are coded: highest byte first, without a sign, and back."""

from __future__ import annotations

import numpy as np
import pytest
from samples import noise

from prequential.coding.elements import Arranged, restore
from prequential.grids import parse

GRIDS = "3-33:<i2x1,40-61:>i3x1,61-64:i1x1,70-90:u1x2/5,90-98:<u4x1"


def test_order_and_sign() -> None:
    data = np.array([1, 2, 0x34, 0x12, 0xFF, 0xFF, 9], np.uint8)
    arranged = Arranged(data, parse("2-6:<i2x1"))
    assert bytes(arranged[0:7]).hex() == "010292347fff09"
    assert bytes(Arranged(data, parse("2-6:>u2x1"))[0:7]) == bytes(data)
    assert len(arranged) == 7
    assert data[2] == 0x34  # is left as it was


def test_any_part_is_that_of_the_whole() -> None:
    data = np.frombuffer(noise(100), np.uint8)
    arranged = Arranged(data, parse(GRIDS))
    whole = arranged[0:100]
    assert (np.sort(whole[70:90]) == np.sort(data[70:90])).all()
    for start in range(100):
        for end in range(start, 101, 3):
            assert (arranged[start:end] == whole[start:end]).all()


def test_back_in_the_order_of_the_file() -> None:
    data = np.frombuffer(noise(100), np.uint8)
    grids = parse(GRIDS)
    coded = Arranged(data, grids)[0:100].copy()
    assert restore(coded, grids, [slice(0, 50), slice(50, 100)]) == [slice(0, 100)]
    assert (coded == data).all()


@pytest.mark.parametrize(
    ("known", "whole"),
    [((0, 34), (0, 34)), ((0, 32), (0, 31)), ((4, 50), (5, 49)), ((42, 72), (43, 72))],
)
def test_elements_known_in_part_are_not_known(
    known: tuple[int, int], whole: tuple[int, int]
) -> None:
    data = np.frombuffer(noise(100), np.uint8)
    grids = parse(GRIDS)
    coded = Arranged(data, grids)[0:100].copy()
    assert restore(coded, grids, [slice(*known)]) == [slice(*whole)]
    part = slice(*whole)
    assert (coded[part] == data[part]).all()
