"""The own modules that a simulation imports, directly or not, and the packages among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from physgym.code.imports import read_module, resolved
from physgym.code.places import is_own, parents_of, place_of


class Modules:
    """Collect modules and what they import.

    Args:
        unknown: A list to which reasons are appended why part of the code cannot be known.

    Attributes:
        hashes: Hash of the text, or of the compiled file, of each own module.
        packages: Version of each installed package.
        folder: Folder of the first own module, the simulation's; None before there is one.
    """

    def __init__(self, unknown: list[str]) -> None:
        self.hashes: dict[str, str] = {}
        self.packages: dict[str, str] = {}
        self.folder: Path | None = None
        self._unknown = unknown
        self._seen: set[str] = set()

    def take(self, name: str, wanted: str = "") -> bool:
        """Take a module and its imports, and return whether it is own code.

        Args:
            name: Its name, or the path of a script.
            wanted: The class or function in it that is looked for; if the module has no file, that is unknown.
        """
        waiting, own = [name], False
        while waiting:
            found = self._one(waiting.pop(), wanted)
            own = own or (found is not None)  # the first one decides: nothing else follows a module that is not own
            waiting += [more for more in found or () if more not in self._seen]
        return own

    def _one(self, name: str, wanted: str) -> Sequence[str] | None:
        """Take one module and return its imports; None if it is no own code."""
        if name in self._seen:
            return () if is_own(name) else None
        self._seen.add(name)
        place = place_of(name)
        if place.kind == "python":
            return None
        if place.kind == "package":
            self.packages[place.package] = place.version
            return None
        if place.kind == "missing":
            if wanted:
                self._unknown.append(f"{wanted} stands in the module {name!r}, which has no file")
            return None
        if place.file is not None:
            try:
                digest, imported = read_module(place.file, place.name, place.is_package)
            except OSError as error:
                self._unknown.append(f"{place.file} cannot be read: {error.strerror}")
                return ()
            self.hashes[place.name] = digest
            self.folder = self.folder or Path(place.file).parent
        else:
            imported = ()
        parents = () if place.is_script else parents_of(place.name)
        return [*parents, *(found for one in imported for found in resolved(one))]
