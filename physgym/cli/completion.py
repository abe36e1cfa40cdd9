"""Completion in a shell: environments by their ids, sessions, datasets and configuration files.

Where nothing fits, the shell completes file names, as it does everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

LEVELS = 3  # of folders below sessions/ and data/ that are looked at ...
MOST = 1000  # ... and how many


def completion_of(metavar: str) -> Callable[[str], list[str]] | None:
    """Return the completion of a parameter, by the words of its metavariable; None where the shell completes files.

    Args:
        metavar: Such as "ENV" or "SESSION|CONFIG".
    """
    kinds = [COMPLETIONS[word] for word in re.findall(r"[A-Z]+", metavar) if word in COMPLETIONS]
    if not kinds:
        return None

    def complete(incomplete: str) -> list[str]:
        return sorted({text for kind in kinds for text in kind(incomplete) if text.startswith(incomplete)})

    return complete


def environments(incomplete: str) -> Iterator[str]:
    """Yield the ids of environments: the shipped ones, others once something is typed."""
    import gymnasium

    from physgym.envs import register

    register()
    return (name for name in gymnasium.registry if incomplete or name.startswith("physgym/"))


def sessions(incomplete: str) -> Iterator[str]:
    """Yield sessions: in the folder sessions/, and in the folder that is typed."""
    from physgym.experiment.session import RECORD

    return _folders_with(RECORD, incomplete, "sessions")


def datasets(incomplete: str) -> Iterator[str]:
    """Yield datasets: in the folders data/ and sessions/, and in the folder that is typed."""
    from physgym.data.description import DESCRIPTION

    return _folders_with(DESCRIPTION, incomplete, "data", "sessions")


def configurations(incomplete: str) -> Iterator[str]:
    """Yield configuration files in the folder that is typed."""
    for file in _entries(_typed_folder(incomplete)):
        if file.suffix in (".yaml", ".yml"):
            yield str(file)


COMPLETIONS: dict[str, Callable[[str], Iterator[str]]] = {
    "ENV": environments,
    "SESSION": sessions,
    "DATA": datasets,
    "CONFIG": configurations,
}


def _typed_folder(incomplete: str) -> Path:
    return Path(incomplete.rpartition("/")[0] + "/") if "/" in incomplete else Path()


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:  # none, or not ours to read
        return []


def _folders_with(file: str, incomplete: str, *folders: str) -> Iterator[str]:
    """Yield the folders that hold a file of that name: in the folder that is typed, and at some depth below others."""
    waiting = [(_typed_folder(incomplete), 1), *((Path(folder), LEVELS) for folder in folders)]
    for _ in range(MOST):
        if not waiting:
            return
        folder, levels = waiting.pop(0)
        for path in _entries(folder):
            if (path / file).is_file():
                yield str(path)
            if levels > 1 and path.is_dir():
                waiting.append((path, levels - 1))
