"""Writes a package for your own simulation: simulation, configuration, tests, README."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import string
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from physgym.errors import ConfigError
from physgym.files import creating
from physgym.git import GitError, run

SUFFIX = ".template"
GIT_TIMEOUT = 30.0  # seconds
MESSAGE = "A new simulation, as physgym new wrote it"
OWN_FOLDERS = ("tests", "sessions", "data", "frames")  # of the project: a package there would be in their way


@dataclass(frozen=True)
class Project:
    """A package that was written.

    Attributes:
        folder: Where it is.
        package: Name under which Python imports it.
        env_id: Under which it registers its simulation.
        note: What is left to do about git; empty where there is nothing.
    """

    folder: Path
    package: str
    env_id: str
    note: str


def new_project(path: str | Path, *, git: bool = True) -> Project:
    """Write a package for your own simulation, which works and passes its tests as it is.

    It appears at once and complete: it is written under another name in the same folder.

    Args:
        path: The new folder; its last part names the package, "-" becoming "_".
        git: Whether to make it a git repository with a first commit, unless it lies in one.

    Returns:
        What was written.

    Raises:
        ConfigError: The name cannot be imported or means another package, the folder is not empty, or the disk refuses.
    """
    try:
        folder = Path.cwd() / path
    except FileNotFoundError as error:
        raise ConfigError("the current folder was deleted; go to another one") from error
    package = package_name(Path(path).name, folder.parent)
    simulation = "".join(part[:1].upper() + part[1:] for part in package.split("_"))
    env_id = f"{package}/{simulation}-v0"
    names = {"package": package, "distribution": folder.name, "simulation": simulation, "env_id": env_id}
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{path} exists and is not empty; choose another name, or move it away")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with creating(folder, durable=False) as temporary:
            temporary.mkdir()
            _write(temporary, names)
            note = _under_git(temporary, folder) if git else ""
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    return Project(folder, package, env_id, note)


def package_name(name: str, parent: Path) -> str:
    """Return the name under which Python will import a package.

    Args:
        name: Of its folder.
        parent: Where this folder will be; what is in there does not count as another package.

    Raises:
        ConfigError: There is none; the text says why and what else to take.
    """
    package = name.replace("-", "_").lower()
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        reason = "a name begins with a letter and has letters, digits, - and _ alone"
    elif keyword.iskeyword(package) or keyword.issoftkeyword(package):
        reason = f"{package!r} is a word of Python's own"
    elif package in OWN_FOLDERS:
        reason = f"{package!r} is another folder of the project"
    elif package in sys.stdlib_module_names or _is_elsewhere(package, parent):
        reason = f"'import {package}' means another package already"
    else:
        return package
    raise ConfigError(
        f"{name!r} cannot be the name of a package, because {reason}. Try: physgym new {_suggestion(name)}"
    )


def _suggestion(name: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    good = words[:1].isalpha() and not keyword.iskeyword(words) and words != name
    return words if good else f"my_{words or 'simulation'}"


def _is_elsewhere(package: str, parent: Path) -> bool:
    """Return whether Python finds a package of this name elsewhere than in this folder."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # what is there cannot be imported, but is there
        return True
    if spec is None or spec.origin is None:  # without an origin it is a folder that happens to lie on the path
        return False
    return not Path(spec.origin).is_relative_to(parent)


def _write(folder: Path, names: dict[str, str]) -> None:
    for parts, file in _templates(resources.files(__package__) / "template"):
        place = [{"package": names["package"], "gitignore": ".gitignore"}.get(part, part) for part in parts]
        target = folder.joinpath(*place)
        target.parent.mkdir(parents=True, exist_ok=True)
        # substitute, not safe_substitute: a mistake in a template is an error
        target.write_text(string.Template(file.read_text("utf-8")).substitute(names), "utf-8")


def _templates(folder: Traversable, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Traversable]]:
    """Yield the files of the template, with their places in it."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _templates(entry, (*above, entry.name))
        elif entry.name.endswith(SUFFIX):
            yield (*above, entry.name.removesuffix(SUFFIX)), entry


# --- git


def _under_git(temporary: Path, folder: Path) -> str:
    """Make the folder a repository with a commit, unless it lies in one; returns what is left to do."""
    status, root = _git(temporary, "rev-parse", "--show-toplevel")
    if status == 0:
        command = f'git add {folder.name} && git commit -m "{MESSAGE}"'
        return f"it lies in the repository {root}; add it there: {command}"
    for arguments in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "-m", MESSAGE)):
        status, text = _git(temporary, *arguments)
        if status:
            reason = next(iter(text.splitlines()), f"exit status {status}")
            if "identity unknown" in text or "user.email" in text:
                reason = "it does not know who you are: git config --global user.name and user.email"
            command = f'cd {folder.name} && git add . && git commit -m "{MESSAGE}"'
            return f"git made no commit ({reason}). Make it yourself: {command}"
    return ""


def _git(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run a command of git; return its exit status, and its output or error.

    The first commit is the user's own: hooks and configuration count, and an identity given by variables.
    """
    identity = {key: value for key, value in os.environ.items() if key.startswith(("GIT_AUTHOR_", "GIT_COMMITTER_"))}
    # without an identity git would make one of the machine's name, which nobody wants in a history
    config = ("user.useConfigOnly=true",)
    try:
        done = run(folder, *arguments, environment=identity, timeout=GIT_TIMEOUT, config=config)
    except GitError as error:
        return 127, str(error)
    return done.returncode, (done.stderr if done.returncode else done.stdout).decode(errors="replace").strip()
