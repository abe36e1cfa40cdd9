"""The imports of a module's text, and the modules and files that they read."""

from __future__ import annotations

import functools
import importlib.machinery
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from physgym.code.fingerprint import sha256
from physgym.code.places import ModulePlace, forget_places, place_of
from physgym.code.syntax import FILE, Lazy, Text

COMPILED = tuple(importlib.machinery.EXTENSION_SUFFIXES)


@dataclass(frozen=True)
class Import:
    """An import, or a file of Python that a module may run.

    Attributes:
        module: The module; a path if `name` is `FILE`.
        name: The imported name, which may be a module too; empty for none.
        folder: For a file, the folder of the module that may run it.
    """

    module: str
    name: str = ""
    folder: Path | None = None


def forget() -> None:
    """Forget where modules lie and what imports read: each search does, since files may have been written meanwhile."""
    forget_places()
    resolved.cache_clear()
    _stamp.cache_clear()


@functools.cache  # the modules of a package import much the same
def resolved(found: Import) -> tuple[str, ...]:
    """Return the names of the modules that an import reads, or the paths of the files."""
    return tuple(_resolved(found))


def _resolved(found: Import) -> Iterator[str]:
    if found.name == FILE:
        yield from _scripts(found.module, found.folder)
        return
    top = place_of(found.module)
    if top.kind in ("missing", "python"):
        return
    yield found.module
    if not found.name or top.kind != "own":
        return
    inner = f"{found.module}.{found.name}"
    if place_of(inner).kind == "own":
        yield inner
    elif top.file is not None:
        yield from _lazily(top, found.name)


def _lazily(package: ModulePlace, name: str) -> Iterator[str]:
    """Yield the modules from which a package with a ``__getattr__`` of its own may take a name."""
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
            if place_of(candidate).kind == "own":
                yield candidate


@functools.cache  # a package is asked about each name that is imported from it
def _stamp(file: str) -> tuple[int, int]:
    about = os.stat(file)  # noqa: PTH116 - hundreds of times in a search
    return about.st_mtime_ns, about.st_size


def read_module(file: str, name: str, is_package: bool) -> tuple[str, tuple[Import, ...]]:
    """Return the hash of a module's file, and its imports.

    Raises:
        OSError: The file cannot be read.
    """
    return _read_once(file, name, is_package, *_stamp(file))


@functools.cache
def _read_once(file: str, name: str, is_package: bool, *_: int) -> tuple[str, tuple[Import, ...]]:
    data = Path(file).read_bytes()
    digest = sha256(data)[:32]
    if file.endswith(COMPILED) or b"\0" in data[:1024]:
        return digest, ()
    return digest, tuple(imports_of(Text(data), name, is_package, Path(file).parent))


@functools.cache
def _lazy(file: str, *_: int) -> Lazy | None:
    return Text(Path(file).read_bytes()).lazy


def imports_of(text: Text, name: str, is_package: bool, folder: Path | None = None) -> Iterator[Import]:
    """Yield the imports of a module's text, and the files in its folder that it may run."""
    package = name if is_package else name.rpartition(".")[0]
    imports = text.imports
    for dots, module, taken in imports.modules:
        if (absolute := _absolute(dots, module, package)) is not None:
            yield Import(absolute, taken)
    aliases = {alias: module for alias, module in imports.aliases.items() if place_of(module).kind == "own"}
    for alias, used in text.uses if aliases or imports.by_call else ():
        if alias in aliases:
            yield Import(aliases[alias], used)
        elif alias == FILE:
            yield Import(used, FILE, folder)  # whether it is there may change
        elif not alias:
            yield Import(f"{package}{used}" if used.startswith(".") else used)


def _scripts(name: str, folder: Path | None) -> list[str]:
    """List the files that a text may mean: below the working folder, and in the folder of the module."""
    places = [Path(name).expanduser(), *([folder / name] if folder is not None else [])]
    return list(dict.fromkeys(os.path.normpath(place.absolute()) for place in places if place.is_file()))


def _absolute(dots: int, module: str, package: str) -> str | None:
    if not dots:
        return module or None
    for _ in range(dots - 1):
        package = package.rpartition(".")[0]
    return ".".join(filter(None, (package, module))) or None
