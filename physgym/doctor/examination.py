"""All that is looked at, in its order."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from physgym.doctor.finding import Finding
from physgym.doctor.installation import installation
from physgym.doctor.machine import folder, machine
from physgym.doctor.trials import OPTIONAL, TRIALS, attempt
from physgym.errors import ConfigError
from physgym.experiment.repository import find_repository
from physgym.git import git
from physgym.scene.sinks.vedo_window import display_problem

# programs that are asked for where there is something to run with them, and for what
PROGRAMS = {
    "sbatch": "physgym submit",
    "mpiexec": "physgym/Mpi-v0",
    "chromium": "pictures of pages",
}


def examination(path: Path) -> Iterator[Finding]:
    """Look at everything, and yield what was found as soon as it is.

    Args:
        path: Folder in which one works.
    """
    yield from installation()
    yield from machine()
    yield from folder(path)
    for name in TRIALS:
        if name not in OPTIONAL or importlib.util.find_spec(name) is not None:
            yield attempt(name)
    yield windows()
    yield repository(path)
    yield programs()


def windows() -> Finding:
    """Return whether windows can be opened."""
    problem = display_problem()
    if problem:
        remedy = "use --view web, or write pictures and films; over SSH: ssh -X, or a page by ssh -L"
        return Finding("windows", "note", problem, remedy)
    return Finding("windows", "ok", "can be opened", values={"display": os.environ.get("DISPLAY", "")})


def repository(path: Path) -> Finding:
    """Return whether git is there, and which repository is around a folder."""
    try:
        version = git(path, "--version").decode().strip().removeprefix("git version ")
    except ConfigError as error:
        remedy = "install git; without it runs record no commit, and need --allow-dirty-repo, which keeps nothing"
        return Finding("git", "note", str(error), remedy)
    found = find_repository(path)
    values: dict[str, Any] = {"version": version, "root": None if found is None else str(found.root)}
    if found is None:
        text, remedy = (
            f"{version}; {path} is in no repository",
            "git init, and commit: runs record the commit of the code",
        )
        return Finding("git", "note", text, remedy, values)
    if found.problem:
        return Finding("git", "note", f"{version}; {found.problem}", "git says what to do", values)
    if found.commit is None:
        return Finding("git", "note", f"{version}; {found.root} has no commit yet", "git add, then git commit", values)
    text = f"{version}; {found.root} at {found.commit[:12]}"
    values |= {"commit": found.commit, "dirty": found.dirty}
    if found.dirty:
        remedy = "commit them, or keep them with a session: --save-diff"
        return Finding("git", "note", f"{text} with uncommitted changes", remedy, values)
    return Finding("git", "ok", text, values=values)


def programs() -> Finding:
    """Return which programs of others are there; nothing but what they are for needs them."""
    there = {name: path for name in PROGRAMS if (path := shutil.which(name)) is not None}
    missing = [f"{name} ({use})" for name, use in PROGRAMS.items() if name not in there]
    text = f"{', '.join(there) or 'none'}; not there: {', '.join(missing) or 'none'}"
    return Finding("programs", "ok", text, values=there)
