"""The place of a module: own code, an installed package, a part of Python, or nowhere."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.machinery
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class ModulePlace:
    """The place of a module.

    Attributes:
        kind: "own" code, an installed "package", a part of "python", or "missing".
        name: Name of the module; of a script its path.
        file: Its file, if it has one.
        is_package: Whether it is a folder of modules.
        package: Name of the installed distribution.
        version: Version of that distribution.
        is_script: Whether it is a file that another module runs, and that nobody imports.
    """

    kind: str
    name: str
    file: str | None = None
    is_package: bool = False
    package: str = ""
    version: str = ""
    is_script: bool = False


def main_file() -> str | None:
    """Return the file of the running script; None in a notebook and from standard input."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.abspath(file) if file and Path(file).is_file() else None  # noqa: PTH100 - links stay


def is_own(name: str) -> bool:
    """Return whether a module is own code."""
    return place_of(name).kind == "own"


def forget_places() -> None:
    """Forget where modules lie: modules may have been written meanwhile."""
    place_of.cache_clear()
    _spec.cache_clear()


@functools.cache
def place_of(name: str) -> ModulePlace:
    """Find a module. Each search forgets it, see `forget_places`."""
    if name in ("__main__", "__mp_main__"):
        return _place_of_main()
    if os.path.isabs(name):  # noqa: PTH117 - thousands of times in a search; a file that another one runs
        return _place_of_script(name)
    spec = _spec(name)
    if spec is None:
        return ModulePlace("python" if name.partition(".")[0] in sys.stdlib_module_names else "missing", name)
    file = spec.origin if spec.has_location else None
    folders = spec.submodule_search_locations
    if file is None and folders is None:
        return ModulePlace("python", name)  # built in, or frozen
    return _sorted_place(name, file, None if folders is None else tuple(folders))


def _place_of_main() -> ModulePlace:
    main, file = sys.modules.get("__main__"), main_file()
    if file is None:
        return ModulePlace("missing", "__main__")
    spec = getattr(main, "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec is not None else Path(file).stem
    if spec is not None and spec.name.endswith(".__main__"):
        name = spec.name
    return _sorted_place(name, file, None)


def _place_of_script(file: str) -> ModulePlace:
    found = _sorted_place(file, file, None)
    near = Path(file)
    shown = str(near.relative_to(Path.cwd())) if near.is_relative_to(Path.cwd()) else near.name
    return dataclasses.replace(found, name=shown, is_script=True) if found.kind == "own" else found


@functools.cache
def _sorted_place(name: str, file: str | None, folders: tuple[str, ...] | None) -> ModulePlace:
    where = Path(file or next(iter(folders or ()), ""))
    top = name.partition(".")[0]
    if INSTALLED & set(where.parts):
        if version := _version(top):
            return ModulePlace("package", name, package=version[0], version=version[1])
    elif any(where.is_relative_to(folder) for folder in _python_folders()):
        return ModulePlace("python", name)
    return ModulePlace("own", name, file, folders is not None)


@functools.cache
def _python_folders() -> tuple[Path, ...]:
    import sysconfig

    return tuple({Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")})


@functools.cache
def _version(top: str) -> tuple[str, str] | None:
    """Return name and version of the distribution that has a package."""
    import importlib.metadata  # it imports the modules for mail, which workers do not need

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


@functools.cache  # of a package it is asked for each of its modules
def _spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Find the spec of a module without importing anything."""
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


def parents_of(name: str) -> Iterator[str]:
    """Yield the packages around a module, the nearest first."""
    while name := name.rpartition(".")[0]:
        yield name
