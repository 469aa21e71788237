"""The code's size is computed once, however many ask, and again when the code changes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import prequential
from prequential.archive import codesize
from prequential.archive.bare import bare


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Another place for the package's files, as far as the kept number goes."""
    (tmp_path / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(prequential, "__file__", str(tmp_path / "__init__.py"))
    codesize._code_bytes.cache_clear()
    yield tmp_path
    codesize._code_bytes.cache_clear()


@pytest.mark.slow
def test_threads_that_start_together_pack_once(package: Path) -> None:
    codesize._packed.cache_clear()
    with ThreadPoolExecutor(6) as pool:
        sizes = list(pool.map(lambda _: codesize.code_bytes(), range(6)))
    assert set(sizes) == {len(codesize.packed())}
    assert codesize._packed.cache_info().misses == 1


def test_the_number_is_kept_until_the_code_changes(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codesize, "_packed", lambda _: bytes(7))
    assert codesize.code_bytes() == 7
    monkeypatch.setattr(codesize, "_packed", lambda _: bytes(8))
    codesize._code_bytes.cache_clear()
    assert codesize.code_bytes() == 7
    (package / "a.py").write_text("x = 2\n")
    codesize._code_bytes.cache_clear()
    assert codesize.code_bytes() == 8
    assert len(list((package / "__pycache__").iterdir())) == 1


def test_a_folder_that_cannot_be_written_does_no_harm(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "__pycache__").write_text("in the way")
    monkeypatch.setattr(codesize, "_packed", lambda _: bytes(9))
    assert codesize.code_bytes() == 9


@pytest.mark.slow
@pytest.mark.parametrize("document", ["README.md", "docs/MDL.md"])
def test_what_given_files_cost_in_code_is_said(document: str) -> None:
    """To within 50 bytes, since any change of the decoder moves it a little."""
    text = " ".join((Path(__file__).parents[2] / document).read_text("utf-8").split())
    told = re.search(r"([\d,]+) bytes more (?:of|than) [^.]*?or ([\d,]+) where tokens follow", text)
    assert told is not None
    given = codesize.NETWORKS | {codesize.GIVEN}
    for number, parts in zip(told.groups(), (given, given | {codesize._MERGES}), strict=True):
        more = codesize.code_bytes(parts) - codesize.code_bytes()
        assert abs(int(number.replace(",", "")) - more) <= 50


@pytest.mark.slow
@pytest.mark.parametrize("parts", [codesize.NONE, codesize.ALL])
def test_no_file_of_a_decoder_takes_anothers_name(parts: frozenset[str]) -> None:
    """Its modules lie in one folder, and none imports from another."""
    files = codesize._files(parts)
    names = [path.split("/")[-1] for path in files]
    assert len(set(names)) == len(names) > 20
    for path, source in files.items():
        for module in re.findall(r"from prequential\.([\w.]+) import", bare(source).decode()):
            assert module in names, path
