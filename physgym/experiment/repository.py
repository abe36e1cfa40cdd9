"""The repository of the code that runs: facts, the rule that it must be committed, patches, worktrees.

Nothing here changes the user's repository, but for a worktree, which is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from physgym.data.constants import CONSTANTS
from physgym.data.description import DESCRIPTION, FORMAT, LOCK, Mode
from physgym.data.leftovers import LEFTOVER
from physgym.errors import ConfigError
from physgym.experiment.settings import Settings, read_settings
from physgym.git import NO_GIT, TIMEOUT, GitError, git, one_line, without_credentials

SHOWN = 20  # files that a message names
NETWORKS = (".onnx", ".pt2")  # networks, each with a description of the same name and .json
LARGEST, LARGEST_TOGETHER = 10_000_000, 100_000_000  # bytes of untracked files that a patch takes
DATA = (".json", ".yaml", ".yml", ".toml")  # which are code elsewhere
SESSION = ("record.json", "config.yaml")
EXPORTED = "fields.json"
SMALL, SMALL_TOGETHER = 1_000_000, 10_000_000  # the same of files that are no code
CHECKPOINT = ("manifest.json", "network.safetensors", "training.json", "training.safetensors")
PARTITION = re.compile(rf"(({'|'.join(get_args(Mode))})-\d{{5}}|dataset-\d+)\.(h5|tmp)")
HALF_WRITTEN = re.compile(r"\..+-[0-9a-f]+\.tmp")  # a file of a session, see `files.temporary_name`


@dataclass(frozen=True)
class Repository:
    """The repository around a folder.

    Attributes:
        root: Its working tree.
        folder: The folder in it, "." for the root.
        commit: The commit that is checked out, None where there is none yet.
        branch: Its branch, None where no branch is checked out.
        remote: Address of the branch's remote, else of "origin", else of the first; without user names and passwords
            of web addresses.
        changed: Files that are in the commit or the index and differ from the commit, from the root on; without
            documents, see `physgym.experiment.settings`.
        untracked: Files of code that git does not know and does not ignore, without what lies in sessions and datasets.
        others: Files that are no code: those that git does not know and does not ignore, and changed documents.
        submodules: Those of `changed` that are submodules.
        problem: Why git refuses to say more, None where it does not.
    """

    root: Path
    folder: str = "."
    commit: str | None = None
    branch: str | None = None
    remote: str | None = None
    changed: tuple[str, ...] = ()
    untracked: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    submodules: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def dirty(self) -> bool:
        """Return whether what runs may be something else than the commit."""
        return bool(self.changed or self.untracked or self.problem)


def find_repository(folder: Path | None = None) -> Repository | None:
    """Return the repository around a folder.

    Args:
        folder: By default the current one.

    Returns:
        What git says; None where there is no repository, no working tree, or no git.
    """
    try:
        folder = (folder or Path.cwd()).absolute()
    except FileNotFoundError:  # it was deleted
        return None
    try:
        root = Path(one_line(git(folder, "rev-parse", "--show-toplevel")))
    except GitError as error:
        harmless = ("not a git repository", "must be run in a work tree", NO_GIT, "there is no folder")
        if any(text in str(error) for text in harmless):
            return None
        return Repository(folder, problem=str(error))
    try:
        return _read(root, folder)
    except GitError as error:
        return Repository(root, problem=str(error))


def _read(root: Path, folder: Path) -> Repository:
    prefix = one_line(git(folder, "rev-parse", "--show-prefix")).rstrip("/") or "."
    heads, changed, untracked, submodules = _status(root)
    settings = read_settings(root)

    def is_code(file: str) -> bool:
        if file.endswith("/"):  # a repository of its own
            return True
        return settings.is_code(file) and not (Path(file).suffix in DATA and _in_ours(root, Path(file)))

    if uncommitted := set(filter(is_code, _not_ours(root, untracked))):
        # a session that was just being made shows before its .gitignore does, and not when looked at again
        heads, changed, untracked, submodules = _status(root)
        uncommitted.intersection_update(_not_ours(root, untracked))
    documents = {file for file in changed if settings.is_document(file)}
    others = {file for file in _not_ours(root, untracked) if not is_code(file)} | documents
    commit, branch = heads.get("branch.oid"), heads.get("branch.head")
    branch = None if branch == "(detached)" else branch
    return Repository(
        root,
        prefix,
        None if commit == "(initial)" else commit,
        branch,
        _remote(root, branch),
        tuple(sorted(set(changed) - documents)),
        tuple(sorted(uncommitted)),
        tuple(sorted(others)),
        tuple(sorted(submodules)),
    )


def _status(root: Path) -> tuple[dict[str, str], list[str], list[str], list[str]]:
    """Read commit and branch, and which files are changed, untracked, and changed submodules."""
    heads: dict[str, str] = {}
    changed, untracked, submodules = [], [], []
    command = ("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--no-renames")
    for entry in git(root, *command, "--ignore-submodules=none").split(b"\0"):
        text = os.fsdecode(entry)
        kind, _, rest = text.partition(" ")
        if kind == "#":
            name, _, value = rest.partition(" ")
            heads[name] = value
        elif kind == "?":
            untracked.append(rest)
        elif kind in ("1", "u"):
            # XY, submodule, three modes and two names of objects; one more of each where a merge is under way
            fields = rest.split(" ", 7 if kind == "1" else 9)
            changed.append(fields[-1])
            if fields[1].startswith("S"):
                submodules.append(fields[-1])
    return heads, changed, untracked, submodules


def _remote(root: Path, branch: str | None) -> str | None:
    names = os.fsdecode(git(root, "remote")).split()
    if not names:
        return None
    wanted = "origin"
    if branch is not None:
        with contextlib.suppress(GitError):  # the branch has none
            wanted = one_line(git(root, "config", "--get", f"branch.{branch}.remote"))
    name = wanted if wanted in names else "origin" if "origin" in names else names[0]
    try:
        return without_credentials(one_line(git(root, "remote", "get-url", name)))
    except GitError:
        return None


def _not_ours(root: Path, files: Iterable[str]) -> Iterator[str]:
    """Return the files that the code may depend on: not what physgym has made, nor what Python keeps compiled."""
    datasets: dict[Path, bool] = {}
    for file in files:
        path = Path(file)
        folder = root / path.parent
        if path.parent not in datasets:
            datasets[path.parent] = _is_dataset(folder)
        sample = datasets[path.parent] and (
            path.name in (DESCRIPTION, LOCK, CONSTANTS) or path.suffix in (".h5", ".tmp")
        )
        if not sample and (
            path.name in (LOCK, CONSTANTS) or PARTITION.fullmatch(path.name) or LEFTOVER.fullmatch(path.name)
        ):  # its description is still to come
            sample = (folder / LOCK).is_file() and not (folder / DESCRIPTION).exists()
        network = path.name in CHECKPOINT and all((folder / name).is_file() for name in CHECKPOINT[:2])
        curve = path.name.startswith("events.out.tfevents.") and path.suffix == ".physgym"
        half_written = HALF_WRITTEN.fullmatch(path.name) is not None
        exported = path.suffix == ".json" and Path(path.stem).suffix in NETWORKS and (folder / path.stem).is_file()
        if not (sample or network or curve or half_written or exported or path.parent.name == "__pycache__"):
            yield file


def _in_ours(root: Path, file: Path) -> bool:
    """Return whether a file lies in a session or a dataset, or describes exported arrays."""
    if file.name == EXPORTED:
        return any((root / file.parent).glob("*.npy")) or any((root / file.parent).glob("*/*.npy"))
    around = (root / parent for parent in file.parents if parent != Path())
    return any(_is_dataset(folder) or all((folder / name).is_file() for name in SESSION) for folder in around)


def _is_dataset(folder: Path) -> bool:
    try:
        found = json.loads((folder / DESCRIPTION).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("format") == FORMAT


def check_repository(
    repository: Repository | None,
    *,
    allow_dirty: bool,
    save_diff: bool,
    yes: bool,
    settings: Settings | None = None,
) -> bool:
    """Return whether a run is recorded, as it is where it can be run again from a commit.

    Args:
        repository: Of the current folder.
        allow_dirty: Run without a record where there are changes or no commit; asks first.
        save_diff: Take changes as they are, because the session stores them.
        yes: Do not ask.
        settings: What holds where no argument says what happens with changes.

    Returns:
        True: record it. False: run it without a record.

    Raises:
        ConfigError: There are changes, or there is no commit; the text names the files and says what to do.
    """
    settings = Settings() if settings is None else settings
    refusal = _refusal(repository, save_diff=save_diff)
    if not refusal:
        return True
    if not allow_dirty and settings.uncommitted == "unrecorded":
        reason = refusal.rpartition("\n")[0] or refusal
        print(
            f"{reason}\nIt runs without a session folder or any other record, as {settings.where} says", file=sys.stderr
        )
        return False
    if not allow_dirty:
        raise ConfigError(refusal)
    if not yes:
        if not _can_ask():
            raise ConfigError(f"{refusal}\nThere is no terminal to ask on: add --y to run without a record")
        print(refusal, file=sys.stderr)
        try:
            answer = input("Run all the same, without a session folder or any other record? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise ConfigError("nothing was run")
    return False


def _can_ask() -> bool:
    """Return whether somebody sits at a terminal; without standard input, as in a service, nobody does."""
    return sys.stdin is not None and sys.stdin.isatty()


def _refusal(repository: Repository | None, *, save_diff: bool) -> str:
    option = "--allow-dirty-repo" if _can_ask() else "--allow-dirty-repo --y"
    init = f"Make one (git init, git add, git commit), or run without a record ({option})"
    if repository is None:
        if shutil.which("git") is None:
            return f"{NO_GIT}, so that nobody could run the same again. Install it, or run without a record ({option})"
        return f"this folder is in no git repository, so that nobody could run the same again. {init}"
    if repository.problem is not None:
        return f"git cannot read the repository: {repository.problem}\nSet this right, or add {option}"
    if repository.commit is None:
        return f"the repository {repository.root} has no commit yet, so that nobody could run the same again. {init}"
    if not repository.dirty or save_diff:
        return ""
    return (
        f"the repository {repository.root} has changes that are not committed, so that nobody could run the same "
        f"again:\n{listed(repository)}\n"
        f"Commit them, or store them with the session (--save-diff), or run without a record ({option}). The "
        "setting uncommitted of [tool.physgym] in pyproject.toml, or the variable PHYSGYM_UNCOMMITTED, decides that "
        "for all runs: refuse, save-diff or unrecorded"
    )


def listed(repository: Repository) -> str:
    """Return the files that are not committed, a line each; the first ones of many."""
    lines = [f"  changed    {printable_name(name)}" for name in repository.changed]
    lines += [f"  untracked  {printable_name(name)}" for name in repository.untracked]
    more = len(lines) - SHOWN
    return "\n".join([*lines[:SHOWN], *([f"  and {more} more"] if more > 0 else [])])


def printable_name(name: str) -> str:
    """Return the name of a file on one line, for any characters."""
    return name if name.isprintable() else ascii(name)


# --- patches


def make_patch(repository: Repository) -> bytes:
    """Make a patch for `git apply` of all that differs from the commit, with the contents of untracked files.

    Of untracked files that are no code those that are small.

    The index and the objects that this takes are made in a temporary folder.

    Raises:
        ConfigError: An untracked file is too large, a submodule has changes, or git refuses.
    """
    if repository.problem is not None or repository.commit is None:
        raise ConfigError(_refusal(repository, save_diff=True))
    if not repository.dirty:
        return b""
    _check_patch(repository)
    with _temporary_index(repository.root) as environment:
        git(repository.root, "read-tree", repository.commit, environment=environment)
        names = (*repository.changed, *repository.untracked, *_small(repository))
        there = {name for name in names if _is_file(repository.root, name)}
        for option, some in (("--force-remove", [name for name in names if name not in there]), ("--add", there)):
            stdin = b"".join(os.fsencode(name) + b"\0" for name in some)
            git(
                repository.root,
                "update-index",
                "--replace",
                option,
                "-z",
                "--stdin",
                stdin=stdin,
                environment=environment,
            )
        form = ("--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-renames", "--no-color", "-p")
        pinned = ("--src-prefix=a/", "--dst-prefix=b/", "--unified=3", "--ignore-submodules=none", "--submodule=short")
        return git(
            repository.root, "diff-index", "--cached", *form, *pinned, repository.commit, environment=environment
        )


def _is_file(root: Path, name: str) -> bool:
    """Return whether a file or link is there, and no link to a folder has taken the place of a folder."""
    path = root / name
    between = [parent for parent in path.parents if parent != root and root in parent.parents]
    return not any(parent.is_symlink() for parent in between) and (path.is_symlink() or path.is_file())


@contextlib.contextmanager
def _temporary_index(root: Path) -> Iterator[dict[str, str]]:
    """Give variables with which git writes to a temporary index and folder, and reads what there is."""
    objects = Path(one_line(git(root, "rev-parse", "--git-path", "objects")))
    with tempfile.TemporaryDirectory(prefix="physgym-") as folder:
        (Path(folder) / "objects").mkdir()
        quoted = str(root / objects).replace("\\", "\\\\").replace('"', '\\"')
        yield {
            "GIT_INDEX_FILE": str(Path(folder) / "index"),
            "GIT_OBJECT_DIRECTORY": str(Path(folder) / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{quoted}"',
        }


def _check_patch(repository: Repository) -> None:
    if repository.submodules:
        names = ", ".join(map(printable_name, repository.submodules))
        raise ConfigError(f"--save-diff cannot store the changes of the submodules {names}; commit them")
    if nested := [name for name in repository.untracked if name.endswith("/")]:
        names = ", ".join(map(printable_name, nested))
        raise ConfigError(f"--save-diff cannot store {names}, repositories of their own; move or ignore them")
    sizes = {name: _size(repository.root / name) for name in repository.untracked}
    largest = sorted(sizes, key=lambda name: -sizes[name])
    large = [name for name in largest if sizes[name] > LARGEST]
    if not large and sum(sizes.values()) > LARGEST_TOGETHER:
        large = largest
    if large:
        names = "\n".join(f"  {sizes[name] / 1e6:.1f} MB  {printable_name(name)}" for name in large[:SHOWN])
        raise ConfigError(
            f"--save-diff stores untracked files of at most {LARGEST / 1e6:.0f} MB each, "
            f"{LARGEST_TOGETHER / 1e6:.0f} MB together:\n{names}\nCommit them, or add them to .gitignore"
        )


def _small(repository: Repository) -> Iterator[str]:
    """Yield small files that are no code, which a simulation may read."""
    room = SMALL_TOGETHER
    for name in repository.others:
        size = _size(repository.root / name)
        if size <= SMALL and size <= room and not name.endswith("/"):
            room -= size
            yield name


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0  # deleted meanwhile


# --- worktrees


def has_commit(root: Path, commit: str) -> bool:
    """Return whether a repository has a commit."""
    try:
        git(root, "cat-file", "-e", f"{commit}^{{commit}}")
    except GitError:
        return False
    return True


def add_worktree(root: Path, folder: Path, commit: str, patch: bytes = b"") -> None:
    """Check a commit out in a folder of its own, and apply a patch there.

    Args:
        root: The repository.
        folder: Where; it must not exist. Remove it with `remove_worktree`, also if this fails.
        commit: What to check out.
        patch: As `make_patch` gives it.

    Raises:
        ConfigError: git refuses.
    """
    git(root, "worktree", "add", "--detach", "--no-checkout", str(folder), commit)
    with _temporary_index(folder) as environment:
        # by way of an index, so that line ends and filters of files do not matter
        git(folder, "read-tree", commit, environment=environment)
        if patch:
            git(folder, "apply", "--cached", "--binary", "-", stdin=patch, environment=environment)
        git(folder, "checkout-index", "--all", "--force", environment=environment)
    git(folder, "reset", "--quiet", "--mixed")
    if (folder / ".gitmodules").exists():
        git(folder, "submodule", "update", "--init", "--recursive", timeout=10 * TIMEOUT)


def remove_worktree(root: Path, folder: Path) -> None:
    """Remove a worktree and what is in it, if it is there at all."""
    administration = None
    with contextlib.suppress(GitError):
        found = Path(one_line(git(folder, "rev-parse", "--absolute-git-dir")))
        with contextlib.suppress(OSError):  # what git keeps of this worktree, not of one that is around it
            belongs = one_line((found / "gitdir").read_bytes()) == str(folder.resolve() / ".git")
            administration = found if belongs else None
    try:
        git(root, "worktree", "remove", "--force", "--force", str(folder))
    except GitError:  # it is damaged, or not even half made
        shutil.rmtree(folder, ignore_errors=True)
        if administration is not None:
            shutil.rmtree(administration, ignore_errors=True)
