"""Source code reduced to what runs, so that how it is written costs nothing."""

from __future__ import annotations

import ast
import io
import itertools
import re
import string
import tokenize
from collections.abc import Iterator

_FOLDERS = "archive|coding|exact|predictors|recurrence|training|transformer"
# What has variables of its own, or names some in ways that are not replaced.
_SCOPES = (
    *(ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.JoinedStr, ast.Nonlocal, ast.Global),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Import, ast.ImportFrom),
)


def running(node: ast.AST) -> Iterator[ast.AST]:
    """A module's nodes, but for those under `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not for_types(child):
            yield from running(child)


def for_types(node: ast.AST) -> bool:
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
    text = _flat(_renamed(_imported(_cut(source))).decode())
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
    starts = _line_starts(source)

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


def _line_starts(source: bytes) -> list[int]:
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


def _imported(source: bytes) -> bytes:
    """Source without imports of names that only annotations have used."""
    lines = source.splitlines(keepends=True)
    tree = ast.parse(source)
    kept = [node for node in tree.body if not for_types(node)]
    used = [n for node in kept for n in ast.walk(node)]
    fields = [n.annotation for n in used if isinstance(n, ast.AnnAssign)]
    if b"from __future__ import annotations" in source:  # then those of fields are not evaluated
        annotations = {id(n) for field in fields for n in ast.walk(field)}
        used = [n for n in used if id(n) not in annotations]
    names = {n.id for n in used if isinstance(n, ast.Name)}
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


def _renamed(source: bytes) -> bytes:
    """Source whose functions call their local variables a, b, c: so long names cost nothing.

    Parameters keep their names, as do variables that a function or a comprehension within, an
    import, an exception or a formatted string name.
    """
    starts = _line_starts(source)
    changes = set()
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            names = [n for part in function.body for n in ast.walk(part) if isinstance(n, ast.Name)]
            taken = {n.id for n in names} | _names(function.args)
            kept = set().union(_names(function.args), *map(_names_within, function.body))
            stored = {n.id for n in names if isinstance(n.ctx, ast.Store)}
            local = {name for name in stored - kept if len(name) > 1}
            names.sort(key=lambda n: (n.lineno, n.col_offset))
            short = (letters for letters in _letters() if letters not in taken)
            new = {
                name: next(short) for name in dict.fromkeys(n.id for n in names) if name in local
            }
            for n in names:
                if n.id in new:
                    at = starts[n.lineno - 1] + n.col_offset
                    changes.add((at, at + len(n.id.encode()), new[n.id].encode()))
    for a, b, instead in sorted(changes, reverse=True):
        source = source[:a] + instead + source[b:]
    return source


def _letters() -> Iterator[str]:
    """a, ..., z, A, ..., Z, aa, ab, ..."""
    yield from string.ascii_letters
    for pair in itertools.product(string.ascii_lowercase, repeat=2):
        yield "".join(pair)


def _names(node: ast.AST) -> set[str]:
    """Every name in it."""
    found = set()
    for n in ast.walk(node):
        if isinstance(n, ast.Name):
            found.add(n.id)
        elif isinstance(n, ast.arg):
            found.add(n.arg)
        elif isinstance(n, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler) and n.name:
            found.add(n.name)
        elif isinstance(n, ast.alias):
            found.add((n.asname or n.name).split(".")[0])
        elif isinstance(n, ast.Nonlocal | ast.Global):
            found.update(n.names)
    return found


def _names_within(statement: ast.stmt) -> set[str]:
    """Names that are more than a variable of the function around the statement."""
    found = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
        elif isinstance(node, _SCOPES):
            found |= _names(node)
    return found


def _flat(source: str) -> str:
    """Source that imports of the package as if it had no folders."""
    return re.sub(rf"(?<=from prequential)\.(?:{_FOLDERS})(?=\.| import )", "", source)
