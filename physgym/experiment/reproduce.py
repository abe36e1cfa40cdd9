"""Runs a session again from its record, with the code of its commit, and compares what comes out."""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

from physgym.data.description import Mode, partition_files
from physgym.errors import CheckpointError, ConfigError
from physgym.experiment.provenance import NUMERICS, THREADS, hardware
from physgym.experiment.record import read_config, read_record, state
from physgym.experiment.recorded_samples import RecordedSamples
from physgym.experiment.references import (
    NETWORK,
    SAMPLES,
    actions_of,
    checkpoints_of,
    get,
    order_of,
    start_of,
    weights_digest,
)
from physgym.experiment.repository import add_worktree, find_repository, has_commit, printable_name, remove_worktree
from physgym.experiment.rerun_comparison import Comparison
from physgym.experiment.search.section import PRUNED
from physgym.experiment.session import CONFIG, check_session
from physgym.files import lock
from physgym.git import NO_GIT, GitError, git
from physgym.interrupt import SignalRelay
from physgym.samplers import Breed
from physgym.system.children import Child, capture
from physgym.training.breeding import CHOICES

AGAIN = "again"
TEMPORARY, OWNED = "physgym-again-", ".owned"  # folders with the code of a run, and the file whose lock says whose
PATHS = (*SAMPLES.values(), ("network", "start_from"))  # keys of configurations whose values are paths that are read
KINDS = {"train": "training", "generate": "generation"}
POLL = 1.0  # seconds between looks at whether the run has ended
PATIENCE = 3  # Ctrl-C's after which the run is killed
MODULE = re.compile(r"([A-Za-z_]\w*)(?:\.\w+)*:[\w./-]+")
# as of ``python -m``, the current folder is where modules are looked for first
FIND = """
import importlib.util, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    found[name] = next((place for place in places if place and place not in ("built-in", "frozen")), None)
print(json.dumps(found))
"""


def reproduce(session: Path, *, out: Path | None = None, keep: bool = False) -> Comparison:
    """Run a session again: the code of its commit with its patch, in a git worktree, by its configuration.

    Args:
        session: A completed training or generation.
        out: The new session; by default in the same folder as the old one, with ``-again`` behind its name.
        keep: Whether to keep the worktree.

    Returns:
        What is the same and what is not.

    Raises:
        ConfigError: The session cannot be run again, or the run failed.
        KeyboardInterrupt: Ctrl-C; the run has got it first.
    """
    session = session.absolute()
    record = read_record(session)
    then = _reproducible(session, record["runs"])
    config = read_config(session)
    root = _repository(session, then["git"])
    patch = (session / then["patch"]).read_bytes() if then["patch"] else b""
    wanted = session.with_name(f"{session.name}-{AGAIN}") if out is None else check_session(out).absolute()
    if get(config, "dataset", "produce") == "always" and get(config, "dataset", "path"):
        wanted = _free(wanted)  # only below a known folder can such a training keep its samples
    copies = _free(wanted.with_name(f"{wanted.name}-samples"))
    samples = RecordedSamples(session, (root / then["git"]["folder"], Path(then["folder"])), copies)
    try:
        return _run_again(session, then, root, patch, wanted, samples, keep=keep)
    except BaseException:
        configs = wanted.parent.glob(f"{glob.escape(wanted.name)}*/{CONFIG}")
        if not any(str(copies) in config.read_text(encoding="utf-8") for config in configs):
            samples.remove_copies()  # else there is a session that may be resumed
        raise


def _run_again(
    session: Path,
    then: Mapping[str, Any],
    root: Path,
    patch: bytes,
    wanted: Path,
    samples: RecordedSamples,
    *,
    keep: bool,
) -> Comparison:
    """Run a session again in a worktree of its commit, and compare; see `reproduce`."""
    config = read_config(session)
    changes = _changes(session, config, then, samples, wanted)
    command = [then["kind"], str(session / CONFIG), *changes]
    if then["kind"] == "generate":
        command += ["--mode", _mode(session)]
    if patch:
        command.append("--save-diff")
    with _Reproduction() as process, _worktree(root, then["git"]["commit"], patch, keep=keep) as worktree:
        process.check()
        folder = worktree / then["git"]["folder"]
        if not folder.resolve().is_relative_to(worktree.resolve()) or not folder.is_dir():
            raise ConfigError(f"the commit {then['git']['commit']} has no folder {then['git']['folder']}")
        environment = _environment(then, worktree)
        _check_modules(root, worktree, folder, environment, config, then["git"]["commit"])
        with_patch = ", with its patch" if patch else ""
        print(f"running {session.name} again: commit {then['git']['commit'][:12]}{with_patch}", flush=True)
        pid, code = process.run([sys.executable, "-m", "physgym", *command], folder, environment)
        process.check()
        again = _session_of(pid, wanted)
        if code:
            kept = f"; what there is of it is in {again}" if again is not None else ""
            raise ConfigError(f"the {KINDS[then['kind']]} failed, with exit status {code}{kept}")
        if again is None:
            raise ConfigError(f"the {KINDS[then['kind']]} left no session in the folder of {wanted}")
    return Comparison.of(session, again, then, read_record(again)["runs"][-1], samples)


# --- what is to be run


def _reproducible(session: Path, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the run that stands for all of a session's.

    Raises:
        ConfigError: There is none; the text says why.
    """

    def refuse(reason: str) -> ConfigError:
        return ConfigError(f"{session} cannot be run again: {reason}")

    last, outcome = runs[-1], state(session)
    if last.get("from_python"):
        raise refuse("a program in Python made it, of which the configuration knows a part; run that again")
    if any(run["kind"] != last["kind"] for run in runs) or last["kind"] not in KINDS:
        kind = last["kind"]
        hint = {"search": "; run physgym search with its config.yaml", "demo": "; run physgym demo"}.get(kind, "")
        raise refuse(f"it is of the kind {kind}, not a training or a generation{hint}")
    if outcome != "completed" and not outcome.startswith("stopped: "):
        raise refuse(f"it was not completed: {outcome}")
    if outcome.startswith(f"stopped: {PRUNED}"):
        raise refuse("a search ended it early; train its config.yaml to see where it goes")
    for run in runs:
        if (processes := run["environment"].get("WORLD_SIZE", "1")) != "1":
            raise refuse(f"it was trained by {processes} processes together; start torchrun with its config.yaml")
        found = run["git"]
        if found is None or found["commit"] is None:
            raise refuse("it was not run in a git repository with a commit")
        if not re.fullmatch(r"[0-9a-f]{7,64}", found["commit"]):
            raise refuse(f"its record has no commit but {found['commit']!r:.50}")
        if found["dirty"] and run["patch"] is None:
            raise refuse("it was run with changes that were neither committed nor kept (--save-diff)")
        if run["patch"] is not None and not (
            Path(run["patch"]).name == run["patch"] and (session / run["patch"]).is_file()
        ):
            raise refuse(f"its changes are missing: there is no {printable_name(run['patch'])}")
    codes = {(run["git"]["commit"], run["git"]["folder"], _content(session, run)): run for run in runs}
    if len(codes) > 1:
        said = sorted(f"{code[0][:12]} {_uncommitted(run)}" for code, run in codes.items())
        raise refuse(f"its {len(runs)} runs were of different code: {', '.join(said)}")
    return last


def _uncommitted(run: Mapping[str, Any]) -> str:
    """Say which changes that were not committed a run has, and in which folder it ran."""
    folder = f" in {printable_name(run['git']['folder'])}" if run["git"]["folder"] not in ("", ".") else ""
    return ("as committed" if run["patch"] is None else f"with {printable_name(run['patch'])}") + folder


def _content(session: Path, run: Mapping[str, Any]) -> bytes:
    return (session / run["patch"]).read_bytes() if run["patch"] else b""


def _repository(session: Path, found: Mapping[str, Any]) -> Path:
    """Return a repository that has the commit: the current one, that of the session, or where it was."""
    if shutil.which("git") is None:
        raise ConfigError(f"{NO_GIT}, which brings the code of {session} back; install it")
    around = [find_repository(), find_repository(session)]
    roots = [repository.root for repository in around if repository is not None and repository.problem is None]
    for root in (*roots, Path(found["root"])):
        if has_commit(root, found["commit"]):
            return root
    places = " and ".join(dict.fromkeys(map(str, (*roots, found["root"]))))
    remote = found["remote"] or "REPOSITORY"
    raise ConfigError(
        f"the commit {found['commit']} of {session} is not in {places}. Get it, for example with 'git fetch {remote}' "
        f"or 'git clone {remote}', and run this in that repository"
    )


def _changes(
    session: Path, config: Mapping[str, Any], then: Mapping[str, Any], samples: RecordedSamples, wanted: Path
) -> list[str]:
    """Return the overrides with which a session's configuration does the same elsewhere.

    Raises:
        ConfigError: The samples or the network that it began with are others now.
    """
    changes: dict[str, Any] = {"session": str(wanted)}
    used = {"dataset": then["dataset"], **(then.get("others") or {})}
    first = get(config, "dataset", "mini") is not None
    for what, (section, name) in SAMPLES.items():
        if value := get(config, section, name):
            key = f"{section}.{name}"
            if what == "dataset" and (produce := get(config, "dataset", "produce")) not in (None, "before"):
                # such a training makes them anew, in its session; if always, it keeps them only where that is said
                changes[key] = str(wanted / "dataset") if produce == "always" else None
            elif about := used.get(what):
                changes[key] = samples.find(key, value, about, bounded=first and what in ("dataset", "validation"))
            else:
                changes[key] = samples.paths(value)
    if start := start_of(config):
        path = changes["network.start_from"] = samples.path(start[0])
        _check_weights(
            "the network in {path}, from which {session} started, is another one now. Bring it back as it was",
            session,
            path,
            start[1],
            then.get("start_from"),
        )
    if tests := get(config, "training", "test"):
        changes["training.test"] = found = {}
        for name, value in tests.items():
            about, key = used.get(f"test {name}"), f"training.test.{name}"
            found[name] = samples.path(value) if about is None else samples.find(key, value, about, bounded=False)
    if order := order_of(session, config):
        changes["training.shuffle"] = order  # else the memory and the page cache of today choose it
    if checkpoints_of(config):
        changes["training.checkpoints.path"] = None  # the old ones lie there
    if actions := actions_of(config):
        path = samples.path(actions[0])
        changes["sampler.actions.type"] = f"{NETWORK}{path}"
        _check_weights(
            "the network in {path}, which acted in {session}, is another one now. Bring it back as it was",
            session,
            path,
            actions[1],
            then.get("actions_from"),
        )
    parameters = get(config, "sampler", "parameters")
    kind: Any = parameters
    arguments: Mapping[str, Any] = {}
    if isinstance(parameters, Mapping):
        kind, arguments = parameters.get("type"), parameters.get("arguments") or {}
    if kind == Breed.name and (chosen := (session / CHOICES)).exists():
        # its choices follow from losses, and these from the speed of both sides
        changes["sampler.parameters"] = {"type": kind, "arguments": {**arguments, "choices": str(chosen)}}
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items()]


def _free(wanted: Path) -> Path:
    """Return a folder that is not there yet, named as `new_session` names it."""
    names = (wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(1))
    return next(folder for folder in names if not folder.exists())


def _check_weights(message: str, session: Path, path: str, which: str, then: str | None) -> None:
    if then is None:
        return
    message = message.format(path=path, session=session)
    try:
        now = weights_digest(path, which)
    except CheckpointError as error:
        raise ConfigError(f"{message}: {error}") from error
    if now != then:
        raise ConfigError(message)


def _mode(session: Path) -> str:
    """Return the part of its dataset that a generation wrote."""
    return next((mode for mode in get_args(Mode) if partition_files(session / "dataset", mode)), "training")


# --- where it is run


@contextlib.contextmanager
def _worktree(root: Path, commit: str, patch: bytes, *, keep: bool) -> Iterator[Path]:
    """Check out the files of a commit, with a patch, in a temporary folder."""
    _remove_abandoned(root)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY))
    folder = temporary / (root.name or "repository")
    owner = os.open(temporary / OWNED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        lock(owner, temporary, warn=False)  # which ends with this process, whatever ends it
        add_worktree(root, folder, commit, patch)
        yield folder
    finally:
        os.close(owner)
        if keep:
            (temporary / OWNED).unlink()
            print(f"the code is in {folder}; git -C {root} worktree remove --force {folder} removes it")
        else:
            remove_worktree(root, folder)
            shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(root: Path) -> None:
    """Remove the worktrees of reproductions that were killed: a file that only they make says which these are."""
    try:
        listed = os.fsdecode(git(root, "worktree", "list", "--porcelain", "-z")).split("\0")
    except GitError:  # an older git has no -z; the next one removes them
        return
    for folder in (Path(line.removeprefix("worktree ")) for line in listed if line.startswith("worktree ")):
        temporary = folder.parent
        if not temporary.name.startswith(TEMPORARY):
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(temporary / OWNED, os.O_RDWR | os.O_CLOEXEC)
            try:
                if lock(descriptor, temporary, warn=False) == "held":
                    remove_worktree(root, folder)
                    shutil.rmtree(temporary, ignore_errors=True)
            finally:
                os.close(descriptor)


def _environment(then: Mapping[str, Any], worktree: Path) -> dict[str, str]:
    """Return variables with which the same bits come out, and modules are imported from the worktree."""
    environment = {name: value for name, value in os.environ.items() if name not in (*THREADS, *NUMERICS)}
    environment |= {name: value for name, value in then["environment"].items() if name in (*THREADS, *NUMERICS)}
    other_cores = then["hardware"].get("cores") != hardware()["cores"]
    if then["threads"] and other_cores and "OMP_NUM_THREADS" not in environment:
        environment["OMP_NUM_THREADS"] = str(then["threads"])
    folders = [str(worktree / name) for name in then["git"].get("import_folders") or [] if (worktree / name).is_dir()]
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    environment["PYTHONPATH"] = os.pathsep.join([*folders, *inherited])
    return environment


def _check_modules(
    root: Path, worktree: Path, folder: Path, environment: dict[str, str], config: Any, commit: str
) -> None:
    """Raise where modules that the configuration names would be imported from the repository as it is now."""
    names = sorted({"physgym", *_modules(config)})
    try:
        done = capture([sys.executable, "-c", FIND, *names], cwd=folder, environment=environment, timeout=120)
        done.check_returncode()
        found = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        raise ConfigError(f"Python cannot be run in {folder}: {error}") from error
    for name, where in found.items():
        path = Path(where or "/").resolve()
        if path.is_relative_to(worktree.resolve()) or not path.is_relative_to(root.resolve()):
            continue
        if (worktree / path.relative_to(root.resolve())).exists():  # else it is not of the commit, such as a package
            raise ConfigError(
                f"{name} would be imported from {path}, not from the commit {commit}: some installation puts that "
                "folder before all others. Uninstall it, or install it with pip install -e from the repository"
            )


def _modules(value: Any) -> Iterator[str]:
    """Return the modules in the ``module:attr`` of a configuration."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _modules(item)
    elif isinstance(value, list):
        for item in value:
            yield from _modules(item)
    elif isinstance(value, str) and (found := MODULE.fullmatch(value)):
        yield found[1]


class _Reproduction:
    """Process that runs a session again; it gets the signals that come to this one, which lives to clean up."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._relay = SignalRelay(self._send)

    def __enter__(self) -> Self:
        self._relay.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._relay.__exit__()
        if error is None or isinstance(error, ConfigError):  # which the signal may be the reason of
            self.check()

    def check(self) -> None:
        """Raise if there was a signal."""
        self._relay.check()

    def run(self, command: list[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, int]:
        """Run a command; return the number of its process, and the code with which it ended."""
        # a group of its own: a terminal would send Ctrl-C to both, and twice means to stop at once
        with Child(command, environment, cwd=folder, stdin=subprocess.DEVNULL) as child:
            self._child = child
            try:
                if self._relay.received is not None:  # just before
                    self._send(self._relay.received)
                while child.process.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.process.wait(timeout=POLL)
            finally:
                self._child = None
        return child.pid, child.process.returncode

    def _send(self, number: int) -> None:
        if self._child is not None:
            self._child.send(signal.SIGKILL if self._relay.interrupts >= PATIENCE else number)


def _session_of(pid: int, wanted: Path) -> Path | None:
    """Return the session of a process: the wanted one, or with a suffix where somebody else was faster."""
    for folder in sorted(wanted.parent.glob(f"{glob.escape(wanted.name)}*"), key=lambda path: len(path.name)):
        with contextlib.suppress(ConfigError):
            if read_record(folder)["runs"][-1].get("pid") == pid:
                return folder
    return None
