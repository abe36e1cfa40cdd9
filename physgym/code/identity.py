"""Descriptions of values, functions and objects: JSON data that are the same in every process, without addresses."""

from __future__ import annotations

import ast
import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import re
import textwrap
import types
from collections.abc import Iterator, Mapping
from typing import Any

from physgym.code.fingerprint import as_plain_array, fingerprint
from physgym.code.members import DEEPEST, attributes_of
from physgym.code.search import caught
from physgym.code.values import LONGEST

ADDRESS = re.compile(r"\b0x[0-9A-Fa-f]{6,}\b")
MOST_OBJECTS = 10_000  # that are looked at, within one value
TOO_DEEP = f"more than {DEEPEST} objects within one another"
TOO_MANY = f"more than {MOST_OBJECTS} objects"
DIGITS = 16  # of the digest of a text of Python


def described(value: Any) -> Any:
    """Return JSON data by which two values differ where they do: numbers and texts themselves, arrays by their bytes.

    Functions are described by module, name and what they have caught, objects by class and fields. What cannot be
    known is named as "unknown".
    """
    return json.loads(json.dumps(_Look().at(value)))


def qualified_name(what: Any) -> str:
    """Return module and name of a function, a class or, of another object, of its class."""
    shown = what if hasattr(what, "__qualname__") else type(what)
    module = getattr(shown, "__module__", None) or type(what).__module__
    return f"{module}:{shown.__qualname__}"


def maker_text(maker: Any) -> str:
    """Return a text that names what makes environments and has no name of its own: a partial, or an object."""
    text = _text(maker)
    if text is not None:
        return text
    whole = json.dumps(described(maker), sort_keys=True)
    if isinstance(maker, functools.partial):
        whole = f"functools.partial({qualified_name(maker.func)}) {whole}"
    return whole if len(whole) <= LONGEST else f"{qualified_name(maker)} {_digest(whole)}"


def text_digest(function: Any) -> str | None:
    """Return a digest of what a function says, or the class of an object; None where its text is nowhere to be read.

    Comments, layout and the text that documents it do not count, nor what it calls.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, types.MethodType):  # which may call others of its class
        function = function.__self__
    what = inspect.unwrap(function) if hasattr(function, "__qualname__") else type(function)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(what)))
    except (OSError, TypeError, SyntaxError, ValueError):  # a part of an expression is no text of its own
        return None
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            documented = ast.get_docstring(node) is not None
            node.body = (node.body[1:] or [ast.Pass()]) if documented else node.body
    return _digest(ast.unparse(tree))


def own_code(*things: Any) -> dict[str, str]:
    """Return digests of the texts of functions, classes and objects that are not of torch or physgym, by their names.

    What `text_digest` cannot read is left out, and so are lambdas: their lines hold more than them.
    """
    found = {}
    for thing in things:
        while isinstance(thing, functools.partial):
            thing = thing.func
        shown = thing if hasattr(thing, "__qualname__") else type(thing)
        top = str(shown.__module__).partition(".")[0]
        own = top not in ("torch", "physgym", "builtins") and shown.__name__ != "<lambda>"
        if own and (digest := text_digest(shown)) is not None:
            found[str(shown.__qualname__)] = digest
    return found


class _Look:
    """One look at a value and its parts."""

    def __init__(self) -> None:
        self._around: set[int] = set()  # identities of the objects that the present one is a part of
        self._count = 0

    def at(self, value: Any, depth: int = 0) -> Any:
        """Return JSON data for a value, or for a part of one."""
        if value is None or isinstance(value, (str, int, float)):
            return value
        if (array := as_plain_array(value)) is not None:
            if not array.dtype.hasobject:
                return fingerprint(array)
            return {"array": list(array.shape), "of": self._parts(value, array.tolist(), depth)}
        if isinstance(value, dict):
            found = {self._key(key): one for key, one in value.items()}
            return self._inside(value, depth, lambda: {key: self.at(one, depth) for key, one in found.items()})
        if isinstance(value, (list, tuple)):
            return self._parts(value, value, depth)
        return self._inside(value, depth, lambda: self._object(value, depth + 1))

    def _parts(self, whole: Any, parts: Any, depth: int) -> Any:
        return self._inside(whole, depth, lambda: [self.at(one, depth) for one in parts])

    def _inside(self, value: Any, depth: int, found: Any) -> Any:
        """Return the description of an object, unless it is part of itself, or there is no end."""
        self._count += not isinstance(value, (dict, list, tuple))
        for true, reason in (
            (id(value) in self._around, "an object that has itself as a part"),
            (depth > DEEPEST, TOO_DEEP),
            (self._count > MOST_OBJECTS, TOO_MANY),
        ):
            if true:
                return {"object": qualified_name(type(value)), "unknown": reason}
        self._around.add(id(value))
        try:
            return found()
        finally:
            self._around.discard(id(value))

    def _key(self, key: Any) -> Any:
        plain = key is None or isinstance(key, (str, int, float))
        return key if plain else json.dumps(self.at(key), sort_keys=True)

    def _object(self, value: Any, depth: int) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {type(value).__qualname__: self.at(attributes_of(value), depth)}
        if isinstance(value, functools.partial):
            return {"partial": [self.at(part, depth) for part in (value.func, list(value.args), value.keywords)]}
        if isinstance(value, (set, frozenset)) and len(value) > 1:  # their order is another one in every process
            return {type(value).__name__: sorted((self.at(one, depth) for one in value), key=json.dumps)}
        if isinstance(value, type):
            return self._function("class", value) if "<locals>" in value.__qualname__ else repr(value)
        if isinstance(value, types.FunctionType):
            return self._function("function", value)
        if (text := _text(value)) is not None:
            return text
        if isinstance(value, enum.Enum):
            return f"<{type(value).__qualname__}.{value.name}>"
        if isinstance(inner := getattr(value, "__wrapped__", None), types.FunctionType):  # behind a cache
            return self.at(inner, depth)
        if isinstance(value, (types.MethodType, types.BuiltinFunctionType, types.MethodWrapperType)):
            of = self.at(getattr(value, "__self__", None), depth)
            return {"function": f"{type(value.__self__).__module__}:{value.__qualname__}", "of": of}
        return {"object": qualified_name(type(value)), **self._fields(value, depth)}

    def _function(self, kind: str, value: Any) -> dict[str, Any]:
        values = {name: ADDRESS.sub("0x", text) for name, text in caught(kind, value).items()}
        return {kind: qualified_name(value), **({"values": values} if values else {})}

    def _fields(self, value: Any, depth: int) -> dict[str, Any]:
        """Return the fields of an object; for one not of Python, what it would be made of again."""
        if isinstance(value, Mapping):
            return {"fields": self.at(dict(value), depth)}
        fields = attributes_of(value)
        if fields or hasattr(value, "__dict__"):
            return {"fields": self.at(fields, depth)} if fields else {}
        try:
            _, *parts = value.__reduce_ex__(2)
        except Exception:  # noqa: BLE001 - objects of others: locks, files, generators
            return {"unknown": "its fields cannot be read"}
        parts = [list(part) if isinstance(part, Iterator) else part for part in parts]
        return {"made of": self.at([part for part in parts if part is not None], depth)}


def _text(value: Any) -> str | None:
    """Return the text of an object, None where that names its address."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a text for people may need what is not there yet
        return None
    return None if ADDRESS.search(text) else text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
