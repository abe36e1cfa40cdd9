"""Imports and names of Python texts, read from their syntax trees and remembered from one process to the next.

Parsing takes most of the time that it takes to find the code of a simulation, and what a text says does not depend on
where it stands. What was read of a text is therefore kept under the hash of the text, in one small file of the user's
cache folder. The hash is always that of the text as it is now; where the file is missing, broken or foreign, texts are
parsed as if there were none.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from physgym.files import cache_folder, read_regular, write_atomically

VERSION = 3  # of the entries in the cache
CALLS = (b"__import__", b"exec(", b"run_path", b"run_module", b"SourceFileLoader")
FILE = "<file>"
IMPORTING = {"import_module": "name", "__import__": "name", "run_module": "mod_name"}  # functions and their argument
READING = ("exec", "run_path", "spec_from_file_location", "SourceFileLoader")  # functions that carry out files
MOST_TEXTS = 4000
LARGEST = 64 << 20  # bytes of the file in which it is


class Imports(NamedTuple):
    """Imports of a text, also those within functions; without those for type checkers alone.

    Attributes:
        modules: For each import the dots before it, the module, and the name that is taken from it, empty for none.
        aliases: Names in the text that stand for modules.
        by_call: Whether it may import by calls: of ``importlib``, ``runpy``, ``__import__`` or ``exec``.
    """

    modules: tuple[tuple[int, str, str], ...]
    aliases: dict[str, str]
    by_call: bool


class Lazy(NamedTuple):
    """A module with a ``__getattr__`` of its own.

    Attributes:
        bound: Names that it binds.
        texts: Texts in it that may name modules.
    """

    bound: frozenset[str]
    texts: tuple[str, ...]


class Text:
    """The text of a module, or a part of one that was parsed already.

    Args:
        data: The text.
        tree: Its syntax tree; what is read of it is not remembered then.
    """

    def __init__(self, data: bytes = b"", tree: ast.AST | None = None) -> None:
        self._data, self._given = data, tree
        self._key = "" if tree is not None else hashlib.sha256(data).hexdigest()

    @functools.cached_property
    def _tree(self) -> ast.AST:
        if self._given is not None:
            return self._given
        try:
            with uncollected():
                return ast.parse(self._data)
        except (SyntaxError, ValueError):  # it cannot be imported either
            return ast.Module([], [])

    @property
    def imports(self) -> Imports:
        """Return the imports by statements."""
        found = self._remembered("imports", lambda: _imports(self._tree, by_call=self._calls))
        modules = tuple((int(dots), str(module), str(name)) for dots, module, name in found[0])
        return Imports(modules, dict(found[1]), bool(found[2]))

    @property
    def _calls(self) -> bool:
        """Return whether a text may run other code by calls that need no import; only its tree tells."""
        return self._given is not None or any(word in self._data for word in CALLS)

    @property
    def uses(self) -> list[tuple[str, str]]:
        """Return the attributes of its aliases that it names, and what it carries out by calls, in their order.

        Before a module that a call imports stands an empty text, before a file of Python that one may read `FILE`.
        """
        found = self._remembered("uses", lambda: _uses(self._tree, self.imports.aliases))
        return [(str(alias), str(name)) for alias, name in found]

    @property
    def lazy(self) -> Lazy | None:
        """Return the modules that its ``__getattr__`` may take names from; None where it has none."""
        if b"__getattr__" not in self._data:
            return None
        found = self._remembered("lazy", lambda: _lazy(self._tree))
        return None if found is None else Lazy(frozenset(map(str, found[0])), tuple(map(str, found[1])))

    def _remembered(self, what: str, read: Callable[[], Any]) -> Any:
        if not self._key:
            return read()
        known = _memory().texts.setdefault(self._key, {})
        if what not in known or not FITS[what](known[what]):
            known[what] = read()
            _memory().changed = True
        _memory().used[self._key] = None
        return known[what]


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from looking at syntax trees, which have no cycles: that takes longer than parsing."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


# --- the memory


class _Memory:
    """Memory of texts that were read, by their hashes.

    Args:
        texts: What other processes have read.
    """

    def __init__(self, texts: dict[str, dict[str, Any]]) -> None:
        self.texts = texts
        self.used: dict[str, None] = {}
        self.changed = False


@functools.cache
def _memory() -> _Memory:
    # what is in the file may be anything
    with contextlib.suppress(OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        file = _file()
        if file.stat().st_uid == os.getuid():  # in a folder that many share, others may write what they like
            texts = json.loads(read_regular(file, LARGEST))["texts"]
            return _Memory({key: found for key, found in texts.items() if isinstance(found, dict)})
    return _Memory({})


def _file() -> Path:
    return cache_folder() / f"imports-{VERSION}-{sys.version_info[0]}.{sys.version_info[1]}.json"


def remember() -> None:
    """Keep what was read for the next process; where that is not possible it is read again."""
    memory = _memory()
    if not memory.changed:
        return
    memory.changed = False
    unused = [key for key in memory.texts if key not in memory.used]
    kept = [*unused, *memory.used][-MOST_TEXTS:]
    data = json.dumps({"texts": {key: memory.texts[key] for key in kept}}, separators=(",", ":"))
    with contextlib.suppress(OSError):
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, data, durable=False)


def _is_pair(found: Any) -> bool:
    return isinstance(found, (list, tuple)) and len(found) == 2 and all(isinstance(text, str) for text in found)


def _is_imports(found: Any) -> bool:
    return (
        isinstance(found, (list, tuple))
        and len(found) == 3
        and isinstance(found[0], (list, tuple))
        and all(
            isinstance(one, (list, tuple)) and len(one) == 3 and type(one[0]) is int and _is_pair(one[1:])
            for one in found[0]
        )
        and isinstance(found[1], dict)
        and all(isinstance(module, str) for module in found[1].values())
        and isinstance(found[2], bool)
    )


def _is_uses(found: Any) -> bool:
    return isinstance(found, (list, tuple)) and all(map(_is_pair, found))


def _is_lazy(found: Any) -> bool:
    if found is None:
        return True
    return (
        isinstance(found, (list, tuple))
        and len(found) == 2
        and all(isinstance(part, (list, tuple)) and all(isinstance(text, str) for text in part) for part in found)
    )


FITS: dict[str, Callable[[Any], bool]] = {"imports": _is_imports, "uses": _is_uses, "lazy": _is_lazy}


# --- syntax trees


def _imports(tree: ast.AST, *, by_call: bool = False) -> list[Any]:
    modules: list[tuple[int, str, str]] = []
    aliases: dict[str, str] = {}
    for node in _bodies(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                modules.append((0, one.name, ""))
                top = one.name.partition(".")[0]
                aliases[one.asname or top] = one.name if one.asname else top
                by_call = by_call or top in ("importlib", "runpy")
        elif isinstance(node, ast.ImportFrom):
            by_call = by_call or (node.module or "").partition(".")[0] in ("importlib", "runpy")
            for one in node.names:
                modules.append((node.level, node.module or "", "" if one.name == "*" else one.name))
    return [modules, aliases, by_call]


def _uses(tree: ast.AST, aliases: dict[str, str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    reads, renamed = False, _renamed(tree)
    for inner in ast.walk(tree):
        if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name) and inner.value.id in aliases:
            found.append((inner.value.id, inner.attr))
        elif isinstance(inner, ast.Call):
            called = _called(inner)
            called = renamed.get(called, called)
            found += [("", text) for text in _imported_by_call(inner, called)]
            reads = reads or called in READING
    if reads:  # which file a call reads is often said elsewhere: open(NAME), Path(__file__).with_name("solver.py")
        texts = (one.value for one in ast.walk(tree) if isinstance(one, ast.Constant) and isinstance(one.value, str))
        found += [(FILE, text) for text in texts if text.endswith(".py") and "\n" not in text]
    return list(dict.fromkeys(found))


def _bodies(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield all statements of a text but those for type checkers, without a look at expressions."""
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.stmt):
            yield node
        if not (isinstance(node, ast.If) and _for_types(node.test)):
            waiting += getattr(node, "body", ()) if isinstance(getattr(node, "body", ()), list) else ()
            waiting += (*getattr(node, "handlers", ()), *getattr(node, "finalbody", ()), *getattr(node, "cases", ()))
        waiting += getattr(node, "orelse", ()) if isinstance(getattr(node, "orelse", ()), list) else ()


def _for_types(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else str(getattr(node.func, "id", ""))


def _renamed(tree: ast.AST) -> dict[str, str]:
    """Return the functions that import or carry out files, by the other names that a text gives to them."""
    known = {*IMPORTING, *READING}
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {one.asname: one.name for one in node.names if one.asname and one.name in known}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, (ast.Attribute, ast.Name)):
            name = node.value.attr if isinstance(node.value, ast.Attribute) else node.value.id
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if name in known:
                found |= {one.id: name for one in targets if isinstance(one, ast.Name)}
    return found


def _imported_by_call(node: ast.Call, called: str) -> list[str]:
    """Return the modules of a call of ``import_module("name")``, ``__import__("name")`` or ``run_module("name")``."""
    if called not in IMPORTING:
        return []
    named = [one.value for one in node.keywords if one.arg == IMPORTING[called]]
    first = next(iter([*node.args[:1], *named]), None)
    if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
        return []
    return [first.value, f"{first.value}.__main__"] if called == "run_module" else [first.value]


def _lazy(tree: ast.AST) -> list[list[str]] | None:
    bound = set()
    for node in _statements(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            bound.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {(one.asname or one.name).partition(".")[0] for one in node.names}
        else:
            bound |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    if "__getattr__" not in bound:
        return None
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return [sorted(bound), sorted(t for t in texts if t.replace(".", "a").isidentifier())]


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Return the statements that run when a module is imported, without those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.stmt, ast.ExceptHandler)):
            continue
        if isinstance(node, ast.If) and _for_types(node.test):
            yield from node.orelse
            continue
        if isinstance(node, ast.stmt):
            yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from _statements(node)
