"""Sizes, names and docstrings."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping

from tests.house.tree import Module

FILE_LINES = 400
FUNCTION_LINES = 60
ARGUMENTS = 8
LINES_WITHOUT_DOCSTRING = 10
NAMES_THAT_SAY_NOTHING = {"util", "utils", "helper", "helpers", "common", "misc", "manager"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def oversized(modules: Iterable[Module]) -> Iterator[tuple[str, str]]:
    """(what, how much) for every file, function and argument list above the bounds."""
    for module in modules:
        lines = len(module.text.splitlines())
        if lines > FILE_LINES:
            yield module.where, f"{lines} lines, at most {FILE_LINES}"
        for name, function in functions(module.tree):
            yield from _oversized_function(f"{module.where}:{name}", function)


def _oversized_function(where: str, function: Function) -> Iterator[tuple[str, str]]:
    lines = (function.end_lineno or 0) - function.lineno + 1
    if lines > FUNCTION_LINES:
        yield where, f"{lines} lines, at most {FUNCTION_LINES}"
    names = [
        a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    ]
    count = len(names) - (names[:1] in (["self"], ["cls"]))
    if count > ARGUMENTS:
        yield f"{where}()", f"{count} arguments, at most {ARGUMENTS}"


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Every function with its dotted name, methods and nested ones too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield prefix + node.name, node
        named = isinstance(node, Function | ast.ClassDef)
        yield from functions(node, f"{prefix}{node.name}." if named else prefix)


def unexcused(found: Iterable[tuple[str, str]], excuses: Mapping[str, str]) -> list[str]:
    """Sentences for what no excuse covers, and for excuses that nothing needs any more."""
    found = list(found)
    offenders = {what for what, _ in found}
    sentences = [f"{what}: {much}" for what, much in found if what not in excuses]
    return sentences + [
        f"{what}: is excused for nothing" for what in excuses if what not in offenders
    ]


def empty_names(modules: Iterable[Module]) -> list[str]:
    """Files, folders and classes whose names do not say what they are."""
    found = []
    for module in modules:
        parts = module.where.removesuffix(".py").split("/")
        found += [f"{module.where}: {part}" for part in parts if part in NAMES_THAT_SAY_NOTHING]
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and node.name.lower().endswith(
                tuple(NAMES_THAT_SAY_NOTHING)
            ):
                found.append(f"{module.where}: class {node.name}")
    return found


def without_docstring(modules: Iterable[Module]) -> list[str]:
    """Modules, public functions and classes, and longer public methods that explain nothing."""
    found = []
    for module in modules:
        if not ast.get_docstring(module.tree):
            found.append(module.where)
        for name, node in _public(module.tree):
            if not ast.get_docstring(node):
                found.append(f"{module.where}: {name}")
    return found


def _public(tree: ast.Module) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, Function) and not method.name.startswith("_"):
                    lines = (method.end_lineno or 0) - method.lineno
                    if lines > LINES_WITHOUT_DOCSTRING:
                        yield f"{node.name}.{method.name}", method
