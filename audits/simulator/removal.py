"""Nodes without single lines: removes a refusal from the running program, to see what stops an attack then.

A refusal is a `raise` statement of the nodes' code, named by file and line as a traceback names it. Without it, the
condition in front of it is never tested, or, in an `except` clause, the error is swallowed; every other statement
stays. The function is compiled again from its source without that statement, and the code of the *same* function object
is replaced. So the line is gone wherever the function is known: in tables of handlers, in modules that imported it by
name, in subclasses. Nothing is written to disk. Only for audits and tests.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

NODES_CODE = ("protocols", "secfed", "crypto", "dp")
"""The packages that a node runs."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef


def place_of(error: BaseException) -> str:
    """File and line at which an error was raised, such as `protocols/client.py:312`: the innermost frame in the nodes'
    own code."""
    place = "outside the project"
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if name.partition(".")[0] in NODES_CODE:
            place = f"{name.replace('.', '/')}.py:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def is_refusal(place: str) -> bool:
    """Whether a line is a refusal, rather than a line at which a node only fails."""
    module, line = _parse(place)
    return module is not None and _outermost(_source(module), line) is not None


@contextmanager
def without(places: Iterable[str]) -> Iterator[None]:
    """While active, the nodes lack these refusals.

    Args:
        places: as `place_of` gives them.

    Raises:
        LookupError: a place is not a refusal, or the running program is not the one in the file.
    """
    lines: dict[tuple[ModuleType, str], set[int]] = defaultdict(set)
    for place in places:
        module, line = _parse(place)
        qualified = None if module is None else _outermost(_source(module), line)
        if module is None or qualified is None:
            raise LookupError(f"{place} is no refusal in a function of the nodes' code")
        lines[module, qualified].add(line)
    replaced: list[tuple[FunctionType, CodeType]] = []
    try:
        for (module, qualified), gone in lines.items():
            function = _running(module, qualified)
            replaced.append((function, function.__code__))
            function.__code__ = _compiled(_source(module), qualified, frozenset(gone))
        yield
    finally:
        for function, code in replaced:
            function.__code__ = code


def _parse(place: str) -> tuple[ModuleType | None, int]:
    """Module and line of a place."""
    name, _, line = place.rpartition(":")
    module = sys.modules.get(name.removesuffix(".py").replace("/", "."))
    return module, int(line) if line.isdecimal() else 0


def _source(module: ModuleType) -> str:
    return Path(module.__file__ or "").read_text(encoding="utf-8")


@cache
def _outermost(source: str, line: int) -> str | None:
    """Qualified name of the outermost function around the `raise` at a line; None if there is none."""
    scope: ast.AST = ast.parse(source)
    path: list[str] = []
    while not isinstance(scope, Definition):
        around = (node for node in ast.iter_child_nodes(scope) if isinstance(node, ast.ClassDef | Definition))
        inner = next((node for node in around if node.lineno <= line <= (node.end_lineno or 0)), None)
        if inner is None:
            return None
        path.append(inner.name)
        scope = inner
    raises = (node for node in ast.walk(scope) if isinstance(node, ast.Raise))
    return ".".join(path) if any(node.lineno == line for node in raises) else None


def _running(module: ModuleType, qualified: str) -> FunctionType:
    """The function object of this name. Raises LookupError when it is not the function in the file."""
    found: object = module
    for part in qualified.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, staticmethod | classmethod):
        found = found.__func__
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    if not isinstance(found, FunctionType) or found.__code__ != _compiled(_source(module), qualified, frozenset()):
        raise LookupError(f"{module.__name__}.{qualified} is not what runs: something else has taken its place")
    return found


@cache
def _compiled(source: str, qualified: str, gone: frozenset[int]) -> CodeType:
    """A function's code without the refusals at these lines."""
    tree = ast.fix_missing_locations(_Remover(gone).visit(ast.parse(source)))
    todo = [compile(tree, "without lines", "exec", dont_inherit=True)]
    while todo:
        code = todo.pop()
        if code.co_qualname == qualified:
            return code
        todo += [const for const in code.co_consts if isinstance(const, CodeType)]
    raise LookupError(f"no function {qualified}")


class _Remover(ast.NodeTransformer):
    """Removes the `raise` statements at some lines, each with the `if` that it alone depends on."""

    def __init__(self, gone: frozenset[int]) -> None:
        self._gone = gone

    def visit_Raise(self, node: ast.Raise) -> ast.stmt:
        return ast.copy_location(ast.Pass(), node) if node.lineno in self._gone else node

    def visit_If(self, node: ast.If) -> ast.stmt | list[ast.stmt]:
        alone = isinstance(node.body[0], ast.Raise) and node.body[0].lineno in self._gone
        self.generic_visit(node)
        if not alone:
            return node
        return node.orelse or ast.copy_location(ast.Pass(), node)
