"""Imports run one way: from the command line down to the arithmetic."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

import prequential

PACKAGE = Path(prequential.__file__).parent
# Each imports only those before it. At the root, what all need stands first, what needs all last.
LAYERS = [
    *("_version", "system", "errors", "progress", "grids", "config"),
    *("exact", "archive", "coding", "predictors", "transformer", "recurrence", "training"),
    *(
        "report",
        "codec",
        "stream",
        "registration",
        "numcodecs",
        "study",
        "cli",
        "__init__",
        "__main__",
    ),
]


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The layers that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prequential"):
            parts = (node.module or "").split(".")[1:]
            names = parts[:1] or [alias.name for alias in node.names]
            # What the package itself gives lazily stands in these.
            lazy = {"compress": "codec", "decompress": "codec", "load": "config"}
            found |= {lazy.get(name, name) for name in names}
    return found


def test_the_layers_are_all_there_is() -> None:
    here = {layer(path) for path in PACKAGE.rglob("*.py") if "configs" not in path.parts}
    assert here == set(LAYERS)


def test_every_folder_is_installed() -> None:
    """A package that is missing from the list works in the checkout, and nowhere else."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    folders = {f"prequential.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    expected = folders | {"prequential", "prequential.configs"}
    assert set(project["tool"]["setuptools"]["packages"]) == expected


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_run_one_way(path: Path) -> None:
    own = layer(path)
    if own == "__init__":  # lazily, whatever is public
        return
    above = LAYERS[LAYERS.index(own) + 1 :]
    assert not imported(path) & set(above), path
