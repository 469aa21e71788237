"""The size of the decoder's code, the second term of a description length.

It is the import closure of `training.decoding` within the package (libraries are named in the
report, not counted), without what does not run: comments, docstrings, blank lines, layout, folders,
and what only annotations use. It is packed in a fixed order and compressed with LZMA, whose model
of positions is told that text has none. `selfextract` runs exactly these bytes.
"""

from __future__ import annotations

import ast
import io
import lzma
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from importlib import resources

_ROOT = "training/decoding"
_FOLDERS = "archive|coding|exact|predictors|training|transformer"


def closure(*roots: str) -> dict[str, bytes]:
    """Module -> source of what these, or else decoding, import, each after its own imports.

    A module is named by its path in the package: "exact/kernels".
    """
    package = resources.files("prequential")
    found: dict[str, bytes] = {}
    begun = set[str]()

    def visit(name: str) -> None:
        if name in begun or not (package / f"{name}.py").is_file():
            return
        begun.add(name)
        source = (package / f"{name}.py").read_bytes()
        for node in _running(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                head, *path = (node.module or "").split(".")
                if head == "prequential":
                    for names in (path, *([*path, alias.name] for alias in node.names)):
                        visit("/".join(names))
        found[name] = source

    for name in roots or (_ROOT,):
        visit(name)
    return found


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """A module's nodes, but for those under `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not _for_types(child):
            yield from _running(child)


def _for_types(node: ast.AST) -> bool:
    """What only annotations use: imports for them, protocols, names of types."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    if isinstance(node, ast.ClassDef):
        return any(ast.unparse(base) == "Protocol" for base in node.bases)
    value = node.value if isinstance(node, ast.Assign) else None
    return isinstance(value, ast.Subscript) and ast.unparse(value.value) in ("Callable", "tuple")


def _is_tuple(node: ast.ClassDef) -> bool:
    return [ast.unparse(base) for base in node.bases] == ["NamedTuple"]


def bare(source: bytes) -> bytes:
    r"""Source without comments, docstrings, blank lines and what only annotations use.

    Every statement has a line of its own, indented by one space a level. Other spaces are only
    between two words.

    >>> bare(b"'doc'\n\nx = 1  # why\ndef f(x: int) -> str:\n    'doc'\n    return '#'\n")
    b"x=1\ndef f(x):\n return'#'\n"
    """
    text = _flat(_imported(_cut(source)).decode())
    out: list[str] = []
    depth = 0
    begins = True  # a line
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.INDENT, tokenize.DEDENT):
            depth += 1 if token.type == tokenize.INDENT else -1
        elif token.type == tokenize.NEWLINE:
            out.append("\n")
            begins = True
        elif token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER):
            if begins:
                out.append(" " * depth)
            elif re.fullmatch(r"\w\w", out[-1][-1] + token.string[0]):
                out.append(" ")
            out.append(token.string)
            begins = False
    return "".join(out).encode()


def _cut(source: bytes) -> bytes:
    """Source without docstrings and annotations of and in functions."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def span(node: ast.AST) -> tuple[int, int]:
        assert isinstance(node, ast.expr | ast.arg)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        first = starts[node.lineno - 1] + node.col_offset
        return first, starts[node.end_lineno - 1] + node.end_col_offset

    cuts = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg) and node.annotation is not None:
            name = span(node)[0] + len(node.arg.encode())
            cuts.add((name, span(node.annotation)[1], b""))
        elif isinstance(node, ast.ClassDef) and _is_tuple(node):
            # Fields are told by their annotations, whatever these say.
            for field in node.body:
                if isinstance(field, ast.AnnAssign):
                    cuts.add((*span(field.annotation), b"0"))
        elif isinstance(node, ast.FunctionDef):
            if node.returns is not None:
                end = span(node.returns)[1]
                arrow = source.rindex(b"->", 0, end)
                cuts.add((source.rindex(b")", 0, arrow) + 1, end, b""))
            for inner in ast.walk(node):
                if isinstance(inner, ast.AnnAssign) and inner.value is not None:
                    cuts.add((span(inner.target)[1], span(inner.annotation)[1], b""))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                cuts.add((*span(first.value), b"0" if len(node.body) == 1 else b""))
    for a, b, instead in sorted(cuts, reverse=True):
        source = source[:a] + instead + source[b:]
    return source


def _imported(source: bytes) -> bytes:
    """Source without imports of names that only annotations have used."""
    lines = source.splitlines(keepends=True)
    tree = ast.parse(source)
    kept = [node for node in tree.body if not _for_types(node)]
    names = {n.id for node in kept for n in ast.walk(node) if isinstance(n, ast.Name)}
    for node in tree.body:
        instead = b"" if node not in kept else None
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            node.names = [alias for alias in node.names if (alias.asname or alias.name) in names]
            instead = ast.unparse(node).encode() + b"\n" if node.names else b""
        if instead is not None:
            assert node.end_lineno is not None
            between = [b""] * (node.end_lineno - node.lineno)
            lines[node.lineno - 1 : node.end_lineno] = [instead, *between]
    return b"".join(lines)


def _flat(source: str) -> str:
    """Source that imports of the package as if it had no folders."""
    return re.sub(rf"(?<=from prequential)\.(?:{_FOLDERS})(?=\.| import )", "", source)


@cache
def packed() -> bytes:
    """The closure as one LZMA stream: for each file a line "name size", then its bytes."""
    files = {path.split("/")[-1] + ".py": bare(source) for path, source in _files().items()}
    joined = b"".join(f"{name} {len(f)}\n".encode() + f for name, f in files.items())
    lzma1 = {"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "pb": 0}
    return lzma.compress(joined, format=lzma.FORMAT_ALONE, filters=[lzma1])


def code_bytes() -> int:
    """Compressed bytes of the closure."""
    return len(packed())


def listing() -> list[tuple[str, int, int]]:
    """(file, bytes as written, bytes that are packed) of the closure."""
    return [(f"{path}.py", len(source), len(bare(source))) for path, source in _files().items()]


def _files() -> dict[str, bytes]:
    # The package itself loads nothing until it is asked for.
    init = (resources.files("prequential") / "__init__.py").read_bytes()
    return {**closure(), "__init__": init}
