"""The code of a simulation, so that samples of two physics are not mixed: what it is made of, and what has changed.

It is the text of the module of its class and of every module that this one imports, directly or not, unless that is an
installed package, of which name and version count, or belongs to Python itself. A package that is installed to be
edited counts as own code. Imports are read from the texts; nothing is imported for that.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import dis
import enum
import functools
import hashlib
import importlib
import importlib.machinery
import json
import linecache
import os
import shutil
import stat
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from physgym.code.fingerprint import as_plain_array, fingerprint
from physgym.code.syntax import FILE, Lazy, Text, remember
from physgym.errors import ChangedCode, ConfigError
from physgym.registration import creator_of, find_spec

GIT_TIMEOUT = 5.0
SHOWN = 8  # differences that a message names
SHORT = 12  # digits of a hash that a message names
DEEPEST = 6  # objects within objects that are looked at
LONGEST = 200  # letters of a value that are kept as they are
COMPILED = tuple(importlib.machinery.EXTENSION_SUFFIXES)
INSTALLED = {"site-packages", "dist-packages"}
PLAIN = (type(None), bool, int, float, complex, str, bytes)
READER = (
    "{where} was made by other code of the simulation than that of now: {differences}. Then {before}, now {now}. Take "
    "the code with which it was begun, or go on with that of now, and have both recorded: --allow-changed-code "
    "(allow_changed_code=True)"
)
UNRECORDED = (
    "{where} does not say which code of the simulation made it (it is from before physgym recorded that); taken as the "
    "same as that of now, which is recorded from here on"
)
UNKNOWN = (
    "the code of the simulation is unknown: {reasons}. What it makes can be continued only with --allow-changed-code "
    "(allow_changed_code=True); put the simulation into a module of its own to have its code recorded"
)
NO_FILE = "the simulation says that it reads {name!r} (files_read), but there is no such file below {folder}"


@dataclass(frozen=True)
class Code:
    """What a simulation is made of.

    Attributes:
        modules: Hash of the text, or of the compiled file, of each own module, by its name.
        packages: Version of each installed package that these import, by its name.
        files: Hash of each file that the simulation says it reads.
        texts: Hash of the text of what stands in no file: in a notebook or after ``python -c``.
        values: What a factory brings along: arguments of a partial, what a lambda has caught.
        unknown: Why part of it cannot be known; empty if all of it is.
        commit: The commit of the repository around the simulation, empty if there is none.
        dirty: Whether tracked files of that repository have changes.
        made: Whether an environment was made, which says what its classes are and which files it reads.
    """

    modules: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    unknown: Sequence[str] = ()
    commit: str = ""
    dirty: bool = False
    made: bool = False

    @property
    def hash(self) -> str | None:
        """SHA-256 over all of it, hexadecimal; None if part of it is unknown."""
        if self.unknown:
            return None
        return _digest(json.dumps([dict(part) for part in self._parts().values()], sort_keys=True).encode())

    def _parts(self) -> dict[str, Mapping[str, str]]:
        return {name: getattr(self, name) for name in PARTS}

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data, as a dataset and a session record it."""
        found: dict[str, Any] = {"hash": self.hash or "unknown"}
        found |= {name: dict(sorted(part.items())) for name, part in self._parts().items()}
        return found | {
            "unknown": list(self.unknown),
            "commit": self.commit,
            "dirty": self.dirty,
            "made": self.made,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Code:
        """Return what was recorded; what is missing counts as empty."""
        known = {name: data[name] for name in (*PARTS, "commit", "dirty", "made") if name in data}
        unknown = list(data.get("unknown", ()))
        if data.get("hash") == "unknown" and not unknown:
            unknown = ["the record says so"]
        return cls(**known, unknown=unknown)


PARTS = ("modules", "packages", "files", "texts", "values")


def code_of(env: Any, arguments: Any = None, made: Mapping[str, Any] | None = None) -> Code:
    """Find the code of a simulation.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes the environment.
        arguments: Those of its constructor, or a list of such tables: classes and functions among them count.
        made: What `describe_made` says of an environment that was made; None if there is none.

    Returns:
        Its code. Where part of it cannot be known, `Code.unknown` says so.

    Raises:
        ConfigError: The id is unknown, or a file that the simulation reads is not there.
    """
    _place.cache_clear()
    found = _Search()
    found.environment(env)
    for number, table in enumerate(arguments if isinstance(arguments, (list, tuple)) else [arguments or {}]):
        for name, value in table.items():
            if not _is_plain(value):  # plain ones stand in the source of a dataset
                found.datum(f"arguments[{number}].{name}", value, 0)
    for entry in (made or {}).get("classes", ()):
        found.named_class(*str(entry).partition(":")[::2])
    remember()
    files: dict[str, str] = {}
    if made is not None:
        files = _read_files(found.folder, [str(name) for name in made.get("files", ())])
    else:
        files = _read_files(found.folder, _declared_files(env))
    commit, dirty = _repository(found.folder or Path.cwd())
    return Code(
        found.modules, found.packages, files, found.texts, found.values, tuple(dict.fromkeys(found.unknown)), commit,
        dirty, made is not None,
    )  # fmt: skip


def caught(name: str, function: Any) -> dict[str, str]:
    """Return what a function or another object that can be called brings along, as a factory does, as texts by name.

    Args:
        name: What to call it.
        function: The function: its closure, its defaults, arguments of a partial, fields of an object.
    """
    _place.cache_clear()
    found = _Search()
    found.value(name, function)
    remember()
    return dict(sorted(found.values.items()))


def _declared_files(env: Any) -> list[str]:
    """Return the files that the class of a simulation names, where no environment was made that could say it."""
    try:
        make, _ = creator_of(env)
    except Exception:  # noqa: BLE001 - whoever makes the environment will say it
        return []
    files = getattr(make, "files_read", ())
    files = [files] if isinstance(files, (str, os.PathLike)) else files
    return [os.fspath(name) for name in files] if isinstance(files, (list, tuple)) else []


def recorded_code(session: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the record of the code from whose samples the network of a session has learned; None without one.

    Args:
        session: Its folder, or a checkpoint in it.
    """
    folder = Path(session)
    for place in (folder, *list(folder.parents)[:2]):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
            runs = json.loads((place / "record.json").read_bytes())["runs"]
            for run in reversed(runs):
                if code := (run.get("dataset") or {}).get("code"):
                    return dict(code)
                if (run.get("code") or {}).get("hash", "unknown") != "unknown":
                    return dict(run["code"])
            return last_known([run.get("code") for run in runs])
    return None


def last_known(codes: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return the last record of a code that is known, else the last record; None where there is none.

    A run whose simulation could not be imported records no code, and must not open the door for another one.
    """
    recorded = [dict(code) for code in codes if code]
    return next((code for code in reversed(recorded) if code.get("hash") != "unknown"), next(reversed(recorded), None))


def differences(before: Code, now: Code, *, made_alike: bool = True) -> list[str]:
    """Name what differs between two codes, one text each; empty if they are the same.

    Where an environment was made for one of them only, what stands in the other alone is no difference.

    Args:
        before: The one.
        now: The other.
        made_alike: Whether what makes the environment is to be the same too: a class, a lambda and an id may make the
            same simulation.
    """
    found = [f"it is unknown ({reason})" for code in (before, now) for reason in code.unknown]
    if found and not all(any(getattr(code, part) for part in PARTS) for code in (before, now)):
        return list(dict.fromkeys(found))  # of what could not be imported nothing is known
    both = made_alike and before.made == now.made
    for part in PARTS if made_alike else PARTS[:-1]:
        old, new = getattr(before, part), getattr(now, part)
        for name in sorted({*old, *new}):
            if old.get(name) == new.get(name) or (not both and (name not in old or name not in new)):
                continue
            found.append(_difference(part, name, old.get(name), new.get(name)))
    return list(dict.fromkeys(found))


def _difference(part: str, name: str, old: str | None, new: str | None) -> str:
    kind = {"modules": "module ", "packages": "package ", "files": "file ", "texts": "", "values": "value "}[part]
    if old is None or new is None:
        return f"{kind}{name} is {'new' if old is None else 'no longer used'}"
    if part in ("packages", "values"):
        return f"{kind}{name} was {old:.60}, is {new:.60}"
    return f"{kind}{name} has changed ({old[:SHORT]}, now {new[:SHORT]})"


def check_same(
    before: Mapping[str, Any] | None, now: Code, where: str, *, allow: bool = False, made_alike: bool = True
) -> list[str]:
    """Refuse code that is not that of before.

    Args:
        before: What was recorded, None if nothing was, which is accepted with a warning.
        now: The code of now.
        where: What was made with the code of before, for the message.
        allow: Go on all the same.
        made_alike: As in `differences`.

    Returns:
        The differences that were allowed.

    Raises:
        ChangedCode: They differ, or one of them is unknown; the text names both.
    """
    if before is None:
        warnings.warn(UNRECORDED.format(where=where), UserWarning, stacklevel=3)
        return []
    old = Code.from_json(before)
    found = differences(old, now, made_alike=made_alike)
    if found and not allow:
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        raise ChangedCode(
            READER.format(
                where=where, differences="; ".join([*found[:SHOWN], *more]), before=_named(old), now=_named(now)
            )
        )
    return found


def warn_unknown(code: Code) -> None:
    """Say that the code of a simulation cannot be known, where that is so."""
    if code.unknown:
        warnings.warn(UNKNOWN.format(reasons="; ".join(code.unknown[:SHOWN])), UserWarning, stacklevel=3)


def _named(code: Code) -> str:
    what = f"code {code.hash[:SHORT]}" if code.hash else "unknown code"
    return f"{what} (commit {code.commit[:SHORT]}{' with changes' if code.dirty else ''})" if code.commit else what


# --- what there is to look at


class _Search:
    """Collects what a simulation is made of, beginning with what makes it."""

    def __init__(self) -> None:
        self.modules: dict[str, str] = {}
        self.packages: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self.unknown: list[str] = []
        self.folder: Path | None = None  # of the first own module, which is that of the simulation
        self._seen: set[str] = set()  # names of modules
        self._objects: dict[int, Any] = {}  # kept, so that no identity is given twice

    def environment(self, env: Any) -> None:
        """Take what makes an environment: a registration, or a callable."""
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
        """Take a class by its names, with those that it is derived from; or a function that makes environments."""
        loaded = sys.modules.get(module)
        found: Any = loaded
        for name in qualname.split("."):
            found = None if name == "<locals>" else getattr(found, name, None)
        if found is not None and found is not loaded:
            self.value(qualname, found)
        elif not self._in_file(module) and "<locals>" in qualname and self._covered(module, qualname):
            return  # its text is part of that of the function which makes it
        else:
            self.module(module, f"the class {qualname}")

    def _covered(self, module: str, qualname: str) -> bool:
        return f"{module}.{qualname.partition('.')[0]}" in self.texts

    def value(self, name: str, value: Any, depth: int = 0) -> None:
        """Take an object: its code, and where it is data, the data."""
        if id(value) in self._objects or depth > DEEPEST:
            return
        self._objects[id(value)] = value
        if isinstance(value, types.ModuleType):
            self.module(value.__name__, name)
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
            self.module(str(getattr(value, "__module__", None) or "builtins"), name)
        else:
            self.datum(name, value, depth, seen=True)

    def _class(self, kind: type) -> None:
        for base in kind.__mro__:
            if base is kind or base.__module__ != kind.__module__:
                self._defined(base.__module__, base.__qualname__, base)
            own = base.__module__ == "__main__" or _place(base.__module__).kind in ("own", "missing")
            for name, member in vars(base).items() if own else ():
                for method in _functions(member):
                    self._method(f"{base.__qualname__}.{name}", method, made_here="<locals>" in base.__qualname__)
                    if base.__module__ == "__main__":
                        self._globals(method)

    def _method(self, name: str, method: types.FunctionType, *, made_here: bool) -> None:
        """Take what a function of a class has caught, and its defaults where each run of another function makes it.

        What the function itself sets is the state of a simulation, and no part of its code.
        """
        if INSTALLED & set(Path(method.__code__.co_filename).parts):  # what a decorator of a package makes
            return
        for free, part in _caught(method):
            self.datum(f"{name}.{free}", part, 0)
        defaults = [*enumerate(method.__defaults__ or ()), *(method.__kwdefaults__ or {}).items()]
        for key, part in defaults if made_here else ():
            self.datum(f"{name}({key})", part, 0)

    def _globals(self, function: types.FunctionType) -> None:
        """Take the data of a script that one of its functions reads: a number given on the command line is in no text.

        Of a namespace, as argparse makes one, and of a dataclass the attributes count that the function names.
        """
        names = _mentioned(function.__code__)
        for name in sorted(names & function.__globals__.keys()):
            value = function.__globals__[name]
            if isinstance(value, (argparse.Namespace, types.SimpleNamespace)) or _is_record(value):
                for attribute in sorted(names & fields_of(value).keys()):
                    self.datum(f"{name}.{attribute}", getattr(value, attribute, None), 0)
            elif _is_plain(value) and not name.startswith("__"):
                self.values[f"global {name}"] = _plain(value)

    def _function(self, name: str, function: types.FunctionType, depth: int) -> None:
        own = self._defined(function.__module__ or "", function.__qualname__, function)
        if (inner := getattr(function, "__wrapped__", None)) is not None:
            self.value(name, inner, depth + 1)
        if not own:
            return
        if function.__module__ == "__main__":
            self._globals(function)
        if "<" in function.__qualname__:  # which of several with the same name
            self.values.setdefault(f"{function.__qualname__} of {name}", _constants(function.__code__))
        for free, part in _caught(function):
            self.datum(f"{function.__qualname__}.{free}", part, depth)
        for key, part in (function.__kwdefaults__ or {}).items():
            self.datum(f"{function.__qualname__}({key})", part, depth)
        for number, part in enumerate(function.__defaults__ or ()):
            self.datum(f"{function.__qualname__}({number})", part, depth)

    def datum(self, name: str, value: Any, depth: int, *, seen: bool = False) -> None:
        """Take what may be data: numbers, texts, arrays, and containers of them; an object by its class and fields."""
        if _is_plain(value):
            self.values[name] = _plain(value)
        elif isinstance(value, Mapping):
            for key, part in value.items():
                self.datum(f"{name}[{key!r}]", part, depth + 1)
        elif isinstance(value, (list, tuple, set, frozenset)):
            for number, part in enumerate(sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value):
                self.datum(f"{name}[{number}]", part, depth + 1)
        elif isinstance(value, (argparse.Namespace, types.SimpleNamespace)):
            self.datum(name, vars(value), depth)
        elif not seen:
            if (weights := _weights(value)) is not None:
                self.datum(name, weights, depth)
            self.value(name, value, depth + 1)
            if (
                isinstance(value, type) and depth < DEEPEST and not hasattr(value, "step")
            ):  # those of a simulation change
                for key, part in sorted(_held_by(value).items()):
                    self.datum(f"{name}.{key}", part, depth + 1)
        elif self._defined(type(value).__module__, type(value).__qualname__, type(value)):
            self._class(type(value))
            for key, part in sorted(_fields(value).items()):
                self.datum(f"{name}.{key}", part, depth + 1)

    def _defined(self, module: str, qualname: str, what: Any) -> bool:
        """Take the module of a class or function, or its text where there is no such file; whether it is own code."""
        if self._in_file(module):
            return self.module(module, qualname)
        self._text(module, qualname, what)
        return True

    def _in_file(self, module: str) -> bool:
        return module != "__main__" or _main_file() is not None

    # --- modules

    def module(self, name: str, wanted: str = "") -> bool:
        """Take a module and what it imports; whether it is own code."""
        waiting, own = [name], False
        while waiting:
            found = self._one(waiting.pop(), wanted)
            own = own or (found is not None)  # of the first one
            if found is None and not self._seen:
                return False
            waiting += [more for more in found or () if more not in self._seen]
            name = ""
        return own

    def _one(self, name: str, wanted: str) -> Sequence[str] | None:
        """Take one module; what it imports, None if it is no own code."""
        if name in self._seen:
            return () if _is_own(name) else None
        self._seen.add(name)
        place = _place(name)
        if place.kind == "python":
            return None
        if place.kind == "package":
            self.packages[place.package] = place.version
            return None
        if place.kind == "missing":
            if wanted:
                self.unknown.append(f"{wanted} stands in the module {name!r}, which has no file")
            return None
        if place.file is not None:
            try:
                digest, imported = _read_module(place.file, place.name, place.is_package)
            except OSError as error:
                self.unknown.append(f"{place.file} cannot be read: {error.strerror}")
                return ()
            self.modules[place.name] = digest
            self.folder = self.folder or Path(place.file).parent
        else:
            imported = ()
        parents = () if place.is_script else _parents(place.name)
        return [*parents, *(found for one in imported for found in _resolved(one))]

    # --- texts without a file

    def _text(self, module: str, qualname: str, what: Any) -> None:
        """Take the text of a class or function, and of what it names."""
        key = f"{module}.{qualname}"
        if key in self.texts:
            return
        found = _source(what, qualname)
        if found is None:
            self.unknown.append(f"the text of {qualname} is nowhere to be read (it was given by {_origin(what)})")
            return
        text, tree = found
        self.texts[key] = _digest(text.encode())
        for imported in _imports(Text(tree=tree), module, is_package=False):
            for name in _resolved(imported):
                self.module(name)
        names = _names(tree)
        scope = _globals(what, module)
        for name in sorted(names):
            if name in scope and not name.startswith("__"):
                self.value(name, scope[name])
                if _is_plain(scope[name]):
                    self.values[f"{module}.{name}"] = _plain(scope[name])


def _globals(what: Any, module: str) -> Mapping[str, Any]:
    if isinstance(what, types.FunctionType):
        return what.__globals__
    found = sys.modules.get(module)
    return {} if found is None else vars(found)


def _fields(value: Any) -> dict[str, Any]:
    """Fields of an object of an own class: its own, and the data that its class holds for all."""
    found = {} if hasattr(value, "step") else _held_by(type(value))
    return found | fields_of(value)


def fields_of(value: Any) -> dict[str, Any]:
    """Return the fields of an object by name; those of its class are none of its own."""
    if dataclasses.is_dataclass(value):
        return {one.name: getattr(value, one.name, None) for one in dataclasses.fields(value)}
    slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return found | dict(getattr(value, "__dict__", {}))


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _functions(member: Any) -> Iterator[types.FunctionType]:
    """The functions of a member of a class: a method, one of a class, those of a property."""
    if isinstance(member, property):
        parts: list[Any] = [member.fget, member.fset, member.fdel]
    else:
        parts = [getattr(member, "__func__", None), getattr(member, "func", None), member]
    yield from (part for part in parts if isinstance(part, types.FunctionType))


def _caught(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function has caught, by name, but the class that it is of, and what it sets itself."""
    if not function.__code__.co_freevars:  # as nearly all; the look at instructions takes long
        return
    own = {one.argval for one in dis.get_instructions(function) if one.opname == "STORE_DEREF"}
    for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        if free != "__class__" and free not in own:
            with contextlib.suppress(ValueError):  # an empty cell
                yield free, cell.cell_contents


def _weights(value: Any) -> dict[str, Any] | None:
    """Weights and buffers of a network of torch, None for anything else."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.nn.Module):
        return None
    return {name: part for name, part in value.state_dict().items() if as_plain_array(part) is not None}


def _slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    named = [slots] if isinstance(slots, str) else list(slots)
    mangled = [f"_{kind.__name__.lstrip('_')}{one}" if one.startswith("__") else one for one in named]
    return [one for one in mangled if one not in ("__dict__", "__weakref__")]


def _held_by(kind: type) -> dict[str, Any]:
    """Attributes of a class, and of the own ones that it is derived from, that are data: a program may change them."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if _place(base.__module__).kind not in ("own", "missing"):
            continue
        for name, part in vars(base).items():
            is_text = isinstance(part, type) or hasattr(type(part), "__get__")  # a function, a property, a slot
            if not (is_text or name.startswith(("__", "_abc_"))):
                found[name] = part
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, (np.generic, os.PathLike, enum.Enum, *PLAIN)) or as_plain_array(value) is not None:
        return True
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    return isinstance(value, Mapping) and all(_is_plain(one) for pair in value.items() for one in pair)


def _plain(value: Any) -> str:
    """Data as a text that is the same in every process."""
    if (array := as_plain_array(value)) is not None:
        return f"array {array.shape} of {_plain(array.tolist())}" if array.dtype.hasobject else fingerprint(array)
    if isinstance(value, np.generic):
        return f"{value.dtype} {value!r}"
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, enum.Enum) and " at 0x" in repr(value):  # of a function or an object
        return f"<{type(value).__qualname__}.{value.name}>"
    if isinstance(value, (set, frozenset)):
        text = f"{{{', '.join(sorted(map(_plain, value)))}}}"
    elif isinstance(value, Mapping):
        text = f"{{{', '.join(f'{_plain(key)}: {_plain(one)}' for key, one in value.items())}}}"
    elif isinstance(value, (list, tuple)):
        text = f"[{', '.join(map(_plain, value))}]"
    else:
        text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:40]}... {_digest(text.encode())[:SHORT]}"


def _mentioned(code: types.CodeType) -> set[str]:
    """Names of globals and attributes in a function, and in those within it."""
    inner = (part for part in code.co_consts if isinstance(part, types.CodeType))
    return {*code.co_names}.union(*map(_mentioned, inner))


def _constants(code: types.CodeType) -> str:
    """Digest of what a function says, whatever the version of Python makes of it."""
    parts = [_constants(part) if isinstance(part, types.CodeType) else _plain(part) for part in code.co_consts]
    return _digest("\0".join([code.co_name, *code.co_names, *code.co_varnames, *parts]).encode())[:SHORT]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- where modules are


@dataclass(frozen=True)
class _Place:
    """Where a module is: own code, a package that is installed, a part of Python, or nowhere."""

    kind: str
    name: str
    file: str | None = None
    is_package: bool = False
    package: str = ""
    version: str = ""
    is_script: bool = False  # which another one carries out, and nobody imports


def _main_file() -> str | None:
    """The script that runs, None in a notebook and from standard input."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.abspath(file) if file and Path(file).is_file() else None  # noqa: PTH100 - links stay


def _is_own(name: str) -> bool:
    return _place(name).kind == "own"


@functools.cache
def _place(name: str) -> _Place:
    """Where a module is now; forgotten with every search, since modules may be written meanwhile."""
    if name in ("__main__", "__mp_main__"):
        return _place_of_main()
    if Path(name).is_absolute():  # a file that is carried out
        return _place_of_script(name)
    spec = _spec(name)
    if spec is None:
        return _Place("python" if name.partition(".")[0] in sys.stdlib_module_names else "missing", name)
    file = spec.origin if spec.has_location else None
    folders = spec.submodule_search_locations
    if file is None and folders is None:
        return _Place("python", name)  # built in, or frozen
    return _sorted_place(name, file, None if folders is None else tuple(folders))


def _place_of_main() -> _Place:
    main, file = sys.modules.get("__main__"), _main_file()
    if file is None:
        return _Place("missing", "__main__")
    spec = getattr(main, "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec is not None else Path(file).stem
    if spec is not None and spec.name.endswith(".__main__"):
        name = spec.name
    return _sorted_place(name, file, None)


def _place_of_script(file: str) -> _Place:
    found = _sorted_place(file, file, None)
    near = Path(file)
    shown = str(near.relative_to(Path.cwd())) if near.is_relative_to(Path.cwd()) else near.name
    return dataclasses.replace(found, name=shown, is_script=True) if found.kind == "own" else found


@functools.cache
def _sorted_place(name: str, file: str | None, folders: tuple[str, ...] | None) -> _Place:
    where = Path(file or next(iter(folders or ()), ""))
    top = name.partition(".")[0]
    if INSTALLED & set(where.parts):
        if version := _version(top):
            return _Place("package", name, package=version[0], version=version[1])
    elif any(where.is_relative_to(folder) for folder in _python_folders()):
        return _Place("python", name)
    return _Place("own", name, file, folders is not None)


@functools.cache
def _python_folders() -> tuple[Path, ...]:
    import sysconfig

    return tuple({Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")})


@functools.cache
def _version(top: str) -> tuple[str, str] | None:
    """Name and version of the distribution that has a package."""
    import importlib.metadata  # with the modules for mail, which workers have no use for

    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        return top, importlib.metadata.version(top)
    # importlib.metadata.packages_distributions takes seconds
    for entry in sys.path:
        for record in Path(entry).glob("*.dist-info/RECORD") if INSTALLED & set(Path(entry).parts) else ():
            with contextlib.suppress(OSError, UnicodeError):
                lines = f"\n{record.read_text(encoding='utf-8')}"
                if f"\n{top}/" in lines or f"\n{top}." in lines:
                    name, _, version = record.parent.name.removesuffix(".dist-info").rpartition("-")
                    return name, version
    return None


def _spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """The spec of a module, found without importing anything."""
    loaded = sys.modules.get(name)
    spec = getattr(loaded, "__spec__", None)
    if spec is not None and (spec.has_location or spec.origin in ("built-in", "frozen")):
        return spec  # type: ignore[no-any-return]
    parent = name.rpartition(".")[0]
    path: Any = None
    if parent:
        around = getattr(sys.modules.get(parent), "__path__", None)
        if around is None:
            outer = _spec(parent)
            around = None if outer is None else outer.submodule_search_locations
        if around is None:
            return None
        path = list(around)
    for finder in sys.meta_path:
        find: Callable[..., Any] | None = getattr(finder, "find_spec", None)
        if find is None:
            continue
        try:
            found = find(name, path)
        except Exception:  # noqa: BLE001 - finders of others, asked about modules that may not exist
            continue
        if found is not None:
            return found  # type: ignore[no-any-return]
    return spec


def _parents(name: str) -> Iterator[str]:
    while name := name.rpartition(".")[0]:
        yield name


@dataclass(frozen=True)
class _Import:
    """An import: a module, and a name in it, which may be a module too; empty for none.

    With `FILE` as its name it is a file of Python that a module in a folder may carry out.
    """

    module: str
    name: str = ""
    folder: Path | None = None


def _resolved(found: _Import) -> Iterator[str]:
    """Names of the modules that an import reads, and paths of the files."""
    if found.name == FILE:
        yield from _scripts(found.module, found.folder)
        return
    top = _place(found.module)
    if top.kind in ("missing", "python"):
        return
    yield found.module
    if not found.name or top.kind != "own":
        return
    inner = f"{found.module}.{found.name}"
    if _place(inner).kind == "own":
        yield inner
    elif top.file is not None:
        yield from _lazily(top, found.name)


def _lazily(package: _Place, name: str) -> Iterator[str]:
    """Modules that a package with a ``__getattr__`` of its own may take a name from."""
    assert package.file is not None
    try:
        lazy = _lazy(package.file, *_stamp(package.file))
    except OSError:
        return
    if lazy is None or name in lazy.bound:
        return
    inside = package.name if package.is_package else package.name.rpartition(".")[0]
    for text in lazy.texts:
        for candidate in dict.fromkeys((text.lstrip("."), f"{inside}.{text.lstrip('.')}")):
            if _place(candidate).kind == "own":
                yield candidate


def _stamp(file: str) -> tuple[int, int]:
    about = Path(file).stat()
    return about.st_mtime_ns, about.st_size


def _read_module(file: str, name: str, is_package: bool) -> tuple[str, tuple[_Import, ...]]:
    return _read_once(file, name, is_package, *_stamp(file))


@functools.cache
def _read_once(file: str, name: str, is_package: bool, *_: int) -> tuple[str, tuple[_Import, ...]]:
    """Hash of a module's file, and what it imports."""
    data = Path(file).read_bytes()
    digest = _digest(data)[:32]
    if file.endswith(COMPILED) or b"\0" in data[:1024]:
        return digest, ()
    return digest, tuple(_imports(Text(data), name, is_package, Path(file).parent))


@functools.cache
def _lazy(file: str, *_: int) -> Lazy | None:
    return Text(Path(file).read_bytes()).lazy


def _imports(text: Text, name: str, is_package: bool, folder: Path | None = None) -> Iterator[_Import]:
    """What a text imports, as a module of that name in a folder, and the files there that it may carry out."""
    package = name if is_package else name.rpartition(".")[0]
    imports = text.imports
    for dots, module, taken in imports.modules:
        if (absolute := _absolute(dots, module, package)) is not None:
            yield _Import(absolute, taken)
    aliases = {alias: module for alias, module in imports.aliases.items() if _place(module).kind == "own"}
    for alias, used in text.uses if aliases or imports.by_call else ():
        if alias in aliases:
            yield _Import(aliases[alias], used)
        elif alias == FILE:
            yield _Import(used, FILE, folder)  # whether it is there may change
        elif not alias:
            yield _Import(f"{package}{used}" if used.startswith(".") else used)


def _scripts(name: str, folder: Path | None) -> list[str]:
    """The files that a text may mean: below the working folder, and beside it."""
    places = [Path(name).expanduser(), *([folder / name] if folder is not None else [])]
    return list(dict.fromkeys(os.path.normpath(place.absolute()) for place in places if place.is_file()))


def _absolute(dots: int, module: str, package: str) -> str | None:
    if not dots:
        return module or None
    for _ in range(dots - 1):
        package = package.rpartition(".")[0]
    return ".".join(filter(None, (package, module))) or None


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


# --- texts of notebooks


def _source(what: Any, qualname: str) -> tuple[str, ast.AST] | None:
    """The text of a class or function that stands in no file, and its tree; None if it is nowhere."""
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
    """The tree of a text without the lines that are commands of a notebook."""
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
    """Nodes below one, not those within further classes and functions."""
    for child in ast.iter_child_nodes(node) if node is not None else ():
        yield child
        if not isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _inside(child)


def _cells(what: Any) -> Iterator[str]:
    """Texts in which the definition of something may stand, the likeliest first."""
    names = list(dict.fromkeys(_file_names(what)))
    for name in names:
        if lines := linecache.getlines(name):
            yield "".join(lines)
    options = [*sys.orig_argv]
    if "<string>" in names and "-c" in options[:-1]:
        yield options[options.index("-c") + 1]
    if "<stdin>" in names and (text := _standard_input()):
        yield text
    if isinstance(what, type) and not names:  # nothing in it tells: the cells, the latest first
        for name in reversed([n for n in linecache.cache if "ipython-input" in n or "ipykernel" in n]):
            yield "".join(linecache.getlines(name))


def _standard_input() -> str:
    """What Python reads its program from, where that is a file, which can be read again."""
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


def _origin(what: Any) -> str:
    names = list(_file_names(what))
    return names[0] if names else "something without a name"


# --- files and repositories


def _read_files(folder: Path | None, names: Sequence[str]) -> dict[str, str]:
    """Hashes of the files that a simulation reads, by name; those beside its module by their name from there."""
    found: dict[str, str] = {}
    for name in names:
        path = Path(name).expanduser()
        near = path if path.exists() or path.is_absolute() or folder is None else folder / path
        if not near.exists() and os.sep not in name and (executable := shutil.which(name)):
            near = Path(executable)
        if not near.exists():
            raise ConfigError(NO_FILE.format(name=name, folder=Path.cwd()))
        for file in sorted(f for f in near.rglob("*") if f.is_file()) if near.is_dir() else [near]:
            found[_file_name(file, name if file == near else str(file), folder)] = _file_digest(file)
    return found


def _file_name(file: Path, name: str, folder: Path | None) -> str:
    for around in (folder, Path.cwd()):
        if around is not None and file.is_absolute() and file.is_relative_to(around):
            return str(file.relative_to(around))
    return name


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _repository(folder: Path) -> tuple[str, bool]:
    """Commit of the repository around a folder, and whether its tracked files have changes."""
    return _asked(str(folder), "rev-parse", "HEAD"), bool(_asked(str(folder), "status", "--porcelain", "-uno"))


def _asked(folder: str, *arguments: str) -> str:
    try:
        found = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GIT_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
