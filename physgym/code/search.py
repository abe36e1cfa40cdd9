"""The search for all that belongs to the code of a simulation, from its factory to the values in closures."""

from __future__ import annotations

import argparse
import functools
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physgym.code.definitions import globals_of, names_in, origin_of, source_of
from physgym.code.env_description import FIXED
from physgym.code.files_read import declared_files, read_files
from physgym.code.fingerprint import sha256
from physgym.code.imports import forget, imports_of, resolved
from physgym.code.members import (
    DEEPEST,
    attributes_of,
    caught_by,
    class_data,
    fields_and_class_data,
    functions_of,
    is_record,
    mentioned,
    weights,
)
from physgym.code.modules import Modules
from physgym.code.places import INSTALLED, main_file, place_of
from physgym.code.record import Code
from physgym.code.syntax import Text, remember
from physgym.code.values import constants, is_plain, plain_text
from physgym.git import commit_around
from physgym.object_references import with_objects
from physgym.registration import ELSEWHERE, find_spec

PROGRAM = "program"  # what a worker in another language says of itself: texts such as its name, version and hash


def code_of(env: Any, arguments: Any = None, made: Mapping[str, Any] | None = None) -> Code:
    """Find the code of a simulation.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes the environment; None where nothing but an environment
            that was made is known.
        arguments: Arguments of its constructor, or a list of such tables: classes and functions among them count.
        made: Description of an environment that was made, by `describe_env`; None if there is none.

    Returns:
        Its code; `Code.unknown` says which part cannot be known.

    Raises:
        ConfigError: The id is unknown, or a file that the simulation reads is missing.
    """
    forget()
    if isinstance(env, str) and env.startswith(ELSEWHERE):
        return _code_elsewhere(made)
    found = Search()
    if env is not None:
        found.environment(env)
    for number, table in enumerate(arguments if isinstance(arguments, (list, tuple)) else [arguments or {}]):
        for name, value in with_objects(dict(table), "env_kwargs").items():
            if not is_plain(value):  # plain ones stand in the source of a dataset
                found.datum(f"arguments[{number}].{name}", value, 0)
    for entry in (made or {}).get("classes", ()):
        found.named_class(*str(entry).partition(":")[::2])
    remember()
    files: dict[str, str] = {}
    if made is not None:
        files = read_files(found.modules.folder, [str(name) for name in made.get("files", ())])
    else:
        files = read_files(found.modules.folder, declared_files(env))
    found.values |= fixed_values(made)
    commit, dirty = commit_around(found.modules.folder or Path.cwd())
    return Code(
        modules=found.modules.hashes,
        packages=found.modules.packages,
        files=files,
        texts=found.texts,
        values=found.values,
        unknown=tuple(dict.fromkeys(found.unknown)),
        commit=commit,
        dirty=dirty,
        made=made is not None,
    )


def _code_elsewhere(made: Mapping[str, Any] | None) -> Code:
    """Return the code of an environment that only workers know: what they say of their program."""
    if made is None:
        return Code()
    program = ", ".join(map(str, made.get(PROGRAM, ())))
    unknown = () if program else ("the workers do not say which program they are (program in Ready.description.code)",)
    packages = {PROGRAM: program} if program else {}
    return Code(packages=packages, values=fixed_values(made), unknown=unknown, made=True)


def fixed_values(made: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the arguments that workers have given, as texts by name."""
    entries = [str(entry).partition("=") for entry in (made or {}).get(FIXED, ())]
    return {f"--arg {name}": value for name, _, value in entries}


def caught(name: str, function: Any) -> dict[str, str]:
    """Return the values that a callable brings along, as texts by name.

    They are its closure, its defaults, arguments of a partial, fields of an object.

    Args:
        name: Name of the callable in the result.
        function: The callable.
    """
    forget()
    found = Search()
    found.value(name, function)
    remember()
    return dict(sorted(found.values.items()))


class Search:
    """Collect the code of a simulation, beginning with its factory.

    Attributes:
        modules: The modules, as they were found.
        texts: Hashes of the texts that stand in no file.
        values: Values, as texts.
        unknown: Why part of the code cannot be known.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self.unknown: list[str] = []
        self.modules = Modules(self.unknown)
        self._objects: dict[int, Any] = {}  # kept, so that no identity is given twice

    def environment(self, env: Any) -> None:
        """Take the factory of an environment: a registration, or a callable."""
        if isinstance(env, str):
            self._registering(env)
            env = find_spec(env)
        if not (hasattr(env, "entry_point") and hasattr(env, "additional_wrappers")):
            self.value("env", env)
            return
        if isinstance(env.entry_point, str):
            self.named_class(*env.entry_point.partition(":")[::2])
        elif env.entry_point is not None:
            self.value("entry_point", env.entry_point)
        for name, value in (env.kwargs or {}).items():
            self.datum(f"kwargs.{name}", value, 0)
        for wrapper in env.additional_wrappers or ():
            if isinstance(wrapper.entry_point, str):
                self.named_class(*wrapper.entry_point.partition(":")[::2])
            self.value(f"wrapper {wrapper.name}", wrapper.kwargs)

    def _registering(self, env: str) -> None:
        module, _, name = env.rpartition(":")
        imported = sys.modules.get(module)
        if imported is not None and isinstance(getattr(imported, name, None), type):
            self.named_class(module, name)

    def named_class(self, module: str, qualname: str) -> None:
        """Take a class by its names, with its bases; or a function that makes environments."""
        loaded = sys.modules.get(module)
        found: Any = loaded
        for name in qualname.split("."):
            found = None if name == "<locals>" else getattr(found, name, None)
        if found is not None and found is not loaded:
            self.value(qualname, found)
        elif not self._in_file(module) and "<locals>" in qualname and self._covered(module, qualname):
            return  # the text of the function around it contains it
        else:
            self.modules.take(module, f"the class {qualname}")

    def _covered(self, module: str, qualname: str) -> bool:
        return f"{module}.{qualname.partition('.')[0]}" in self.texts

    def value(self, name: str, value: Any, depth: int = 0) -> None:
        """Take the code of an object and, if it holds data, the data."""
        if id(value) in self._objects or depth > DEEPEST:
            return
        self._objects[id(value)] = value
        if isinstance(value, types.ModuleType):
            self.modules.take(value.__name__, name)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, functools.partial):
            self.value(name, value.func, depth + 1)
            arguments = [*enumerate(value.args), *value.keywords.items()]
            for key, part in arguments:
                self.datum(f"{name}({key})", part, depth)
        elif isinstance(value, types.MethodType):
            self.value(name, value.__func__, depth + 1)
            self.datum(name, value.__self__, depth)
        elif isinstance(value, types.FunctionType):
            self._function(name, value, depth)
        elif isinstance(value, functools._lru_cache_wrapper):
            self.value(name, value.__wrapped__, depth + 1)
        elif isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            self.modules.take(str(getattr(value, "__module__", None) or "builtins"), name)
        else:
            self.datum(name, value, depth, seen=True)

    def _class(self, kind: type) -> None:
        for base in kind.__mro__:
            if base is kind or base.__module__ != kind.__module__:
                self._defined(base.__module__, base.__qualname__, base)
            own = base.__module__ == "__main__" or place_of(base.__module__).kind in ("own", "missing")
            for name, member in vars(base).items() if own else ():
                for method in functions_of(member):
                    self._method(f"{base.__qualname__}.{name}", method, local="<locals>" in base.__qualname__)
                    if base.__module__ == "__main__":
                        self._globals(method)

    def _method(self, name: str, method: types.FunctionType, *, local: bool) -> None:
        """Take the closure of a function of a class, and its defaults if another function makes the class.

        Variables that the function itself sets are the state of a simulation, and no part of its code.
        """
        if INSTALLED & set(Path(method.__code__.co_filename).parts):  # a decorator of a package made it
            return
        for free, part in caught_by(method):
            self.datum(f"{name}.{free}", part, 0)
        defaults = [*enumerate(method.__defaults__ or ()), *(method.__kwdefaults__ or {}).items()]
        for key, part in defaults if local else ():
            self.datum(f"{name}({key})", part, 0)

    def _globals(self, function: types.FunctionType) -> None:
        """Take the global data that a function of a script reads: a number given on the command line is in no text.

        A namespace, as argparse makes one, and an object of a dataclass count with the attributes that it names.
        """
        names = mentioned(function.__code__)
        for name in sorted(names & function.__globals__.keys()):
            value = function.__globals__[name]
            if isinstance(value, (argparse.Namespace, types.SimpleNamespace)) or is_record(value):
                for attribute in sorted(names & attributes_of(value).keys()):
                    self.datum(f"{name}.{attribute}", getattr(value, attribute, None), 0)
            elif is_plain(value) and not name.startswith("__"):
                self.values[f"global {name}"] = plain_text(value)

    def _function(self, name: str, function: types.FunctionType, depth: int) -> None:
        own = self._defined(function.__module__ or "", function.__qualname__, function)
        if (inner := getattr(function, "__wrapped__", None)) is not None:
            self.value(name, inner, depth + 1)
        if not own:
            return
        if function.__module__ == "__main__":
            self._globals(function)
        if "<" in function.__qualname__:  # which of several with the same name
            self.values.setdefault(f"{function.__qualname__} of {name}", constants(function.__code__))
        for free, part in caught_by(function):
            self.datum(f"{function.__qualname__}.{free}", part, depth)
        for key, part in (function.__kwdefaults__ or {}).items():
            self.datum(f"{function.__qualname__}({key})", part, depth)
        for number, part in enumerate(function.__defaults__ or ()):
            self.datum(f"{function.__qualname__}({number})", part, depth)

    def datum(self, name: str, value: Any, depth: int, *, seen: bool = False) -> None:
        """Take data: numbers, texts, arrays, containers of them; or an object by its class and fields."""
        if is_plain(value):
            self.values[name] = plain_text(value)
        elif isinstance(value, Mapping):
            for key, part in value.items():
                self.datum(f"{name}[{key!r}]", part, depth + 1)
        elif isinstance(value, (list, tuple, set, frozenset)):
            for number, part in enumerate(sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value):
                self.datum(f"{name}[{number}]", part, depth + 1)
        elif isinstance(value, (argparse.Namespace, types.SimpleNamespace)):
            self.datum(name, vars(value), depth)
        elif not seen:
            if (found := weights(value)) is not None:
                self.datum(name, found, depth)
            self.value(name, value, depth + 1)
            if (
                isinstance(value, type) and depth < DEEPEST and not hasattr(value, "step")
            ):  # those of a simulation change
                for key, part in sorted(class_data(value).items()):
                    self.datum(f"{name}.{key}", part, depth + 1)
        elif self._defined(type(value).__module__, type(value).__qualname__, type(value)):
            self._class(type(value))
            for key, part in sorted(fields_and_class_data(value).items()):
                self.datum(f"{name}.{key}", part, depth + 1)

    def _defined(self, module: str, qualname: str, what: Any) -> bool:
        """Take the module of a class or function, or its text if there is no file; return whether it is own code."""
        if self._in_file(module):
            return self.modules.take(module, qualname)
        self._text(module, qualname, what)
        return True

    def _in_file(self, module: str) -> bool:
        return module != "__main__" or main_file() is not None

    def _text(self, module: str, qualname: str, what: Any) -> None:
        """Take the text of a class or function, and the objects that it names."""
        key = f"{module}.{qualname}"
        if key in self.texts:
            return
        found = source_of(what, qualname)
        if found is None:
            self.unknown.append(f"the text of {qualname} is nowhere to be read (it was given by {origin_of(what)})")
            return
        text, tree = found
        self.texts[key] = sha256(text.encode())
        for imported in imports_of(Text(tree=tree), module, is_package=False):
            for name in resolved(imported):
                self.modules.take(name)
        names = names_in(tree)
        scope = globals_of(what, module)
        for name in sorted(names):
            if name in scope and not name.startswith("__"):
                self.value(name, scope[name])
                if is_plain(scope[name]):
                    self.values[f"{module}.{name}"] = plain_text(scope[name])
