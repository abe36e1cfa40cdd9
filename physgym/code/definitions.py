"""Texts of classes and functions that stand in no file: in a notebook, after ``python -c``, on standard input."""

from __future__ import annotations

import ast
import linecache
import os
import stat
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def source_of(what: Any, qualname: str) -> tuple[str, ast.AST] | None:
    """Return the text of a class or function that stands in no file, and its tree; None if there is none."""
    for text in _cells(what):
        try:
            tree: ast.AST = ast.parse(text)
        except (SyntaxError, ValueError):  # a cell with the commands of a notebook
            tree = _tolerant(text)
        node = _find(tree, qualname, what)
        if node is not None:
            found = ast.get_source_segment(text, node)
            if found is not None:
                decorators = [ast.get_source_segment(text, one) or "" for one in getattr(node, "decorator_list", ())]
                return "\n".join([*decorators, found]), node
    return None


def _tolerant(text: str) -> ast.AST:
    """Parse a text without the lines that are commands of a notebook."""
    lines = ["" if line.lstrip().startswith(("%", "!", "?")) else line for line in text.splitlines()]
    try:
        return ast.parse("\n".join(lines))
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _find(tree: ast.AST, qualname: str, what: Any) -> ast.AST | None:
    if isinstance(what, types.FunctionType) and what.__name__ == "<lambda>":
        line = what.__code__.co_firstlineno
        found = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and n.lineno <= line <= (n.end_lineno or line)]
        return max(found, key=lambda n: n.lineno, default=None)  # the innermost statement around it
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    node: ast.AST | None = tree
    for part in qualname.split("."):
        if part == "<locals>":
            continue
        inner = [n for n in _inside(node) if isinstance(n, kinds) and n.name == part]
        node = inner[-1] if inner else None  # the last definition counts
        if node is None:
            return None
    return node


def _inside(node: ast.AST | None) -> Iterator[ast.AST]:
    """Yield the nodes below one, without those within further classes and functions."""
    for child in ast.iter_child_nodes(node) if node is not None else ():
        yield child
        if not isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _inside(child)


def _cells(what: Any) -> Iterator[str]:
    """Yield the texts that may hold the definition of a class or function, the likeliest first."""
    names = list(dict.fromkeys(_file_names(what)))
    for name in names:
        if lines := linecache.getlines(name):
            yield "".join(lines)
    options = [*sys.orig_argv]
    if "<string>" in names and "-c" in options[:-1]:
        yield options[options.index("-c") + 1]
    if "<stdin>" in names and (text := _standard_input()):
        yield text
    if isinstance(what, type) and not names:  # a class without functions: try the cells, the latest first
        for name in reversed([n for n in linecache.cache if "ipython-input" in n or "ipykernel" in n]):
            yield "".join(linecache.getlines(name))


def _standard_input() -> str:
    """Return the program on standard input; empty unless that is a file, which can be read again."""
    try:
        about = os.fstat(0)
        return os.pread(0, about.st_size, 0).decode() if stat.S_ISREG(about.st_mode) else ""
    except (OSError, UnicodeError):
        return ""


def _file_names(what: Any) -> Iterable[str]:
    if isinstance(what, types.FunctionType):
        return [what.__code__.co_filename]
    functions = (getattr(one, "__func__", getattr(one, "fget", one)) for one in vars(what).values())
    return [one.__code__.co_filename for one in functions if isinstance(one, types.FunctionType)]


def origin_of(what: Any) -> str:
    """Return the name of the file or cell that defines a class or function."""
    names = list(_file_names(what))
    return names[0] if names else "something without a name"


def names_in(tree: ast.AST) -> set[str]:
    """Return the variables in a tree."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def globals_of(what: Any, module: str) -> Mapping[str, Any]:
    """Return the global variables that a class or function of a module sees."""
    if isinstance(what, types.FunctionType):
        return what.__globals__
    found = sys.modules.get(module)
    return {} if found is None else vars(found)
