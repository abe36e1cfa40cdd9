"""Import every module of physgym but those that need a package that is not here; warnings are errors.

Run by .ci/pythons.py in an environment without torch and without the extras.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import warnings

import physgym


def main() -> None:
    """Print how many modules were imported, and which packages kept the others from it."""
    warnings.simplefilter("error")
    imported, missing = 0, set()
    for found in pkgutil.walk_packages(physgym.__path__, "physgym.", onerror=lambda name: None):
        if found.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("physgym"):
                raise
            missing.add(error.name)
        else:
            imported += 1
    print(f"Python {sys.version.split()[0]}: {imported} modules; the others need {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main()
