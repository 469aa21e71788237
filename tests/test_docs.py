"""The documents: links lead somewhere, pictures are those that are drawn, the site is built."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samples import ROOT

from prequential.cli import entry

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What headings are called in links."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = (unicodedata.normalize("NFKD", h).lower() for h in headings)
    return {re.sub(r"[^\w\- ]", "", h).strip().replace(" ", "-") for h in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_lines_are_short(page: Path) -> None:
    assert [line for line in page.read_text().split("\n") if len(line) > 100] == []


def test_every_document_has_its_place_on_the_site() -> None:
    site = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        name = page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT)
        assert re.search(rf"[ ]{re.escape(str(name))}$", site, re.MULTILINE), name


@pytest.fixture(scope="module")
def pages() -> dict[str, Any]:
    """What docs/pages.py has, which needs no mkdocs."""
    return runpy.run_path(str(DOCS / "pages.py"))


def test_links_on_the_site(pages: dict[str, Any]) -> None:
    relinked: Callable[[str, str], str] = pages["relinked"]
    for path, text, expected in (
        ("docs/log/files.md", "[a](../../README.md#b)", "[a](../README.md#b)"),
        ("docs/log/files.md", "[a](../SCALE.md)", "[a](../SCALE.md)"),
        ("docs/MDL.md", "![a](../examples/a.png)", "![a](examples/a.png)"),
        ("README.md", "![a](docs/pictures/loop.svg)", "![a](pictures/loop.svg)"),
        ("README.md", "[a](https://x.org/a) [b](#c)", "[a](https://x.org/a) [b](#c)"),
    ):
        assert relinked(text, path) == expected


def test_the_page_of_commands(pages: dict[str, Any]) -> None:
    page = pages["commands"]()
    for name, command in entry.build_parser().commands.items():
        assert f"\n### preq {name}\n" in page
        for action in command._actions:
            assert all(flag in page for flag in action.option_strings)


@pytest.mark.parametrize("name", ["loop", "chunk"])
def test_pictures(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "draw.py"
    copy.write_text((DOCS / "pictures" / "draw.py").read_text())
    subprocess.run([sys.executable, copy], check=True)
    drawn = (tmp_path / f"{name}.svg").read_bytes()
    assert drawn == (DOCS / "pictures" / f"{name}.svg").read_bytes()
    assert ET.fromstring(drawn).findtext("{*}title")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mkdocs") is None, reason="no mkdocs: the extra `docs`")
def test_the_site(tmp_path: Path) -> None:
    done = subprocess.run([ROOT / "scripts" / "docs", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in ("index", "START/index", "COMMANDS/index", "PYTHON/index", "log/index"):
        text = (tmp_path / f"{page}.html").read_text()
        assert "<h1" in text
        assert not re.search(r'(src|href)="https?://[^"]*\.(js|css|woff2?)"', text)
