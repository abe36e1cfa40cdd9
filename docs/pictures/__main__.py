"""Make pictures of the gallery: ``python -m docs.pictures [NAME ...]``, by default all."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from docs.pictures import agents, configurations, dialled, drawing, programs, simulations, trainings
from docs.pictures.work import IMAGES, ROOT, prepare

GROUPS: dict[str, ModuleType] = {
    "configurations": configurations,
    "examples": simulations,
    "agents": agents,
    "programs": programs,
    "trainings": trainings,
    "dialled": dialled,
}


def makers() -> dict[str, Callable[[], Any]]:
    """Return the functions that make pictures, by the names of these."""
    found = {}
    for group, module in GROUPS.items():
        folder = "configurations" if group == "configurations" else "examples"
        for name, value in vars(module).items():
            if callable(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                found[f"{folder}/{name}"] = value
    return found


def main() -> None:
    """Make each picture in a process of its own, where there are several: examples register simulations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="such as configurations/heat; by default all")
    parser.add_argument("--work", default=ROOT / "data" / "gallery", type=Path, help="folder that keeps what was run")
    given = parser.parse_args()
    known, folder = makers(), given.work.resolve()
    names = given.names or sorted(known)
    if unknown := set(names) - set(known):
        parser.error(f"there is no picture {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    if len(names) > 1:
        failed = []
        for name in names:
            command = [sys.executable, "-m", "docs.pictures", name, "--work", str(folder)]
            if subprocess.run(command, cwd=ROOT).returncode:
                failed.append(name)
        sys.exit(f"not made: {', '.join(failed)}" if failed else 0)
    prepare(folder)
    picture = known[names[0]]()
    drawing.save(picture, IMAGES / "gallery" / f"{names[0]}.png")


if __name__ == "__main__":
    main()
