"""Classes of a package that a decorator marks, found in its source: importing all of it may take seconds.

The decorator stands in a line of its own above the class, so that a new class is one new file.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

MARKED = re.compile(r"^@(\w+)\n(?=(?:@.*\n)*class (\w+))", re.MULTILINE)  # others may stand between


@functools.cache
def _all_marked(package: str) -> dict[str, dict[str, str]]:
    """Return the classes of the modules of a package by their decorator."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    found: dict[str, dict[str, str]] = {}
    for folder in spec.submodule_search_locations or ():
        for file in sorted(Path(folder).glob("*.py")):
            for mark, name in MARKED.findall(file.read_text(encoding="utf-8")):
                found.setdefault(mark, {})[name] = f"{package}.{file.stem}:{name}"
    return found


def marked_classes(package: str, *marks: str) -> dict[str, str]:
    """Return the classes with one of some decorators as ``module:class`` by name; nothing is imported.

    Args:
        package: The package, such as "physgym.nn"; its modules are read, not those of packages in it.
        marks: Names of the decorators.
    """
    return {name: place for mark in marks for name, place in _all_marked(package).get(mark, {}).items()}
