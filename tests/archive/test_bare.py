"""What is packed of the decoder's code is the same code, function by function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from types import CodeType
from typing import Any

import pytest

from prequential.archive import codesize
from prequential.archive.bare import bare


class _NoDocstrings(ast.NodeTransformer):
    """Nor annotations of and in functions."""

    inside = 0  # functions

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.inside += 1
        visited = self.generic_visit(node)
        self.inside -= 1
        return visited

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if self.inside and node.value is not None:
            return ast.Assign([node.target], node.value)
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [
                statement
                for statement in node.body
                if not (
                    isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
                )
            ] or [ast.Pass()]
        return node


def functions(source: bytes) -> dict[str, Any]:
    """What each function of a module does, but for what its variables are called."""
    tree = ast.fix_missing_locations(_NoDocstrings().visit(ast.parse(source)))
    return {code.co_qualname: behaviour(code) for code in inner(compile(tree, "", "exec"))}


def inner(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_flags & 2:  # newlocals: a function, no class
                yield constant
            yield from inner(constant)


def behaviour(code: CodeType) -> tuple[Any, ...]:
    constants = [behaviour(c) if isinstance(c, CodeType) else c for c in code.co_consts]
    arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return code.co_code, code.co_names, arguments, len(code.co_varnames), constants


def protocols(source: bytes) -> tuple[str, ...]:
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    return tuple(c.name + "." for c in classes if "Protocol" in map(ast.unparse, c.bases))


CLOSURE = codesize.closure()


@pytest.mark.parametrize("name", CLOSURE)
def test_functions_do_the_same(name: str) -> None:
    """Only those of protocols, which nothing calls, are left out."""
    source = CLOSURE[name]
    whole, packed = functions(source), functions(bare(source))
    left_out = whole.keys() - packed.keys()
    assert all(function.startswith(protocols(source)) for function in left_out)
    assert packed == {function: whole[function] for function in packed}


@pytest.mark.slow
def test_imports_that_nothing_needs_are_left_out() -> None:
    for source in CLOSURE.values():
        tree = ast.parse(bare(source))
        imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        names = {alias.asname or alias.name for node in imports for alias in node.names}
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert names - {"annotations"} <= used


@pytest.mark.parametrize(
    ("written", "packed"),
    [
        ("first = p + 1\n    return first", "a=p+1\n return a"),
        ("return [item for item in p]", "return[item for item in p]"),
        ("of = p\n    return lambda x: of + x", "of=p\n return lambda x:of+x"),
        ("at = p\n    return f'{at} is'", "at=p\n return f'{at} is'"),
        ("ab = p\n    a = ab\n    return a", "b=p\n a=b\n return a"),
        ("import numpy\n    return numpy", "import numpy\n return numpy"),
        ("global all_of\n    all_of = p", "global all_of\n all_of=p"),
        ("while p:\n        p -= 1", "while p:\n  p-=1"),
    ],
)
def test_local_variables_are_called_a_b_c(written: str, packed: str) -> None:
    assert bare(f"def f(p):\n    {written}\n".encode()) == f"def f(p):\n {packed}\n".encode()
