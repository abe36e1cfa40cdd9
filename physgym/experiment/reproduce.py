"""Runs a session again from its record, with the code of its commit, and compares what comes out."""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode, partition_files
from physgym.errors import CheckpointError, ConfigError, DatasetError
from physgym.experiment.provenance import NUMERICS, THREADS, dataset_hash, hardware
from physgym.experiment.record import read_config, read_record, state
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
from physgym.experiment.search.section import PRUNED
from physgym.experiment.session import CONFIG, check_session
from physgym.files import lock
from physgym.git import NO_GIT, GitError, git
from physgym.interrupt import SignalRelay
from physgym.real_time import SOURCE
from physgym.samplers import Breed
from physgym.storage.location import Location, place
from physgym.system.children import Child, capture
from physgym.training.breeding import CHOICES

AGAIN = "again"
TEMPORARY, OWNED = "physgym-again-", ".owned"  # folders with the code of a run, and the file whose lock says whose
PATHS = (*SAMPLES.values(), ("network", "start_from"))  # keys of configurations whose values are paths that are read
KINDS = {"train": "training", "generate": "generation"}
LISTED = 20  # packages of another version that are named
TIMES = ("seconds", "_ms", "_per_second")  # ends of names of results that are times, and never the same
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


@dataclass(frozen=True)
class Comparison:
    """Results of a session that was run again.

    Attributes:
        session: The new session.
        metrics: Values then and now, by name; those of times are left out.
        dataset: Hashes of the samples then and now, None where there are none.
        weights: Hashes of the final weights then and now, None where there are none.
        differences: What else is different: versions, machine.
        statistics: Mean and standard deviation then and now, by field, where samples of a simulator in real time were
            made again; None where all is to be the same.
    """

    session: Path
    metrics: Mapping[str, tuple[Any, Any]]
    dataset: tuple[str | None, str | None]
    weights: tuple[str | None, str | None]
    differences: tuple[str, ...] = field(default=())
    statistics: Mapping[str, tuple[Any, Any]] | None = None

    @property
    def equal(self) -> bool:
        """Return whether metrics, samples and weights are the same, bit for bit; in real time, the fields alone."""
        if self.statistics is not None:
            return all(None not in pair for pair in self.statistics.values())
        return all(then == now for then, now in (*self.metrics.values(), self.dataset, self.weights))

    def __str__(self) -> str:
        lines = _table("", {name: (_figure(a), _figure(b), _difference(a, b)) for name, (a, b) in self.metrics.items()})
        if self.statistics is not None:
            lines += [
                "samples: of a simulator in real time, whose bytes nobody promises; mean and deviation of a field:"
            ]
            lines += _table("  ", {name: (_spread(a), _spread(b), "") for name, (a, b) in self.statistics.items()})
            lines += [f"  {line}" for line in self.differences]
            said = "made again" if self.equal else "NOT reproduced, the fields are others"
            return "\n".join([*lines, f"{said}: {self.session}"])
        for what, (then, now) in {"samples": self.dataset, "weights": self.weights}.items():
            if then or now:
                same = f"the same, bit for bit (sha256 {str(then)[:16]}...)"
                lines.append(f"{what}: {same if then == now else f'different: sha256 {then} then, {now} now'}")
        if self.differences:
            lines += ["otherwise different:", *(f"  {line}" for line in self.differences)]
        lines.append(f"{'reproduced' if self.equal else 'NOT reproduced'}: {self.session}")
        return "\n".join(lines)


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
    base = Path(then["folder"]) if Path(then["folder"]).is_dir() else root / then["git"]["folder"]
    wanted = session.with_name(f"{session.name}-{AGAIN}") if out is None else check_session(out).absolute()
    if get(config, "dataset", "produce") == "always" and get(config, "dataset", "path"):
        wanted = _free(wanted)  # only below a known folder can such a training keep its samples
    changes = _changes(session, config, then, base, wanted)
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
    now = read_record(again)["runs"][-1]
    return Comparison(
        again,
        {
            name: (then["results"].get(name), now["results"].get(name))
            for name in {**then["results"], **now["results"]}
            if not name.endswith(TIMES)
        },
        (_hash(then), _hash(now)),
        (then["weights"], now["weights"]),
        tuple(_differences(then, now)),
        _statistics(then, now, base),
    )


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


def _changes(session: Path, config: Mapping[str, Any], then: Mapping[str, Any], base: Path, wanted: Path) -> list[str]:
    """Return the overrides with which a session's configuration does the same elsewhere.

    Raises:
        ConfigError: The samples or the network that it began with are others now.
    """
    changes: dict[str, Any] = {"session": str(wanted)}
    samples = {"dataset": then["dataset"], **(then.get("others") or {})}
    for what, (section, name) in SAMPLES.items():
        if value := get(config, section, name):
            path = changes[f"{section}.{name}"] = (
                [_absolute(one, base) for one in value] if isinstance(value, list) else _absolute(value, base)
            )
            if what == "dataset" and (produce := get(config, "dataset", "produce")) not in (None, "before"):
                # such a training makes them anew, in its session; if always, it keeps them only where that is said
                changes["dataset.path"] = str(wanted / "dataset") if produce == "always" else None
            elif samples.get(what):
                _check_samples(session, path, samples[what], _place(f"{section}.{name}", value, base))
    if start := start_of(config):
        path = changes["network.start_from"] = _absolute(start[0], base)
        _check_weights(
            "the network in {path}, from which {session} started, is another one now. Bring it back as it was",
            session,
            path,
            start[1],
            then.get("start_from"),
        )
    if tests := get(config, "training", "test"):
        changes["training.test"] = {name: _absolute(path, base) for name, path in tests.items()}
        for name, path in changes["training.test"].items():
            if then_tested := samples.get(f"test {name}"):
                _check_samples(session, path, then_tested, _place(f"training.test.{name}", tests[name], base))
    if order := order_of(session, config):
        changes["training.shuffle"] = order  # else the memory and the page cache of today choose it
    if checkpoints_of(config):
        changes["training.checkpoints.path"] = None  # the old ones lie there
    if actions := actions_of(config):
        path = _absolute(actions[0], base)
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
    if kind == Breed.name and (chosen := (base / session / CHOICES)).exists():
        # its choices follow from losses, and these from the speed of both sides
        changes["sampler.parameters"] = {"type": kind, "arguments": {**arguments, "choices": str(chosen)}}
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items()]


def _free(wanted: Path) -> Path:
    """Return a folder that is not there yet, named as `new_session` names it."""
    names = (wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(1))
    return next(folder for folder in names if not folder.exists())


def _absolute(value: Any, base: Path) -> str:
    """Return a path relative to a folder as an absolute one."""
    local = Path(str(value)).expanduser()
    return str(value) if isinstance(place(str(value)), Location) else str(base / local)


def _place(key: str, value: Any, base: Path) -> str:
    """Say where a configuration expects a dataset: in a folder that relative paths begin at, or exactly where it says.

    Args:
        key: The key that names the dataset.
        value: Its value: a path, or several.
        base: The folder that relative paths begin at.
    """
    paths = [str(one) for one in (value if isinstance(value, list) else [value])]
    said = f"{key} names {', '.join(paths)}"
    relative = any(_absolute(path, base) != path and not path.startswith("~") for path in paths)
    return f"{said}, below {base}" if relative else said


def _check_samples(session: Path, path: str | list[str], then: Mapping[str, Any], where: str) -> None:
    """Check that the samples of a session are those that were; the last argument is that of `_place`."""
    mode = then.get("mode", "training")
    try:
        now = dataset_hash(SampleDataset(path, mode, mini=max(1, then["samples"])))
    except DatasetError as error:
        raise ConfigError(
            f"the samples of {session} cannot be read: {error}. The session used {then['samples']} {mode} samples with "
            f"the hash {then['hash']}, which are not part of it: {where}. Copy the dataset there, from the person or "
            "machine that made the session"
        ) from error
    if now != then["hash"]:
        text = (
            f"the samples in {path} are not those of {session}: their hash is {now}, it was {then['hash']} over "
            f"{then['samples']} samples. Bring the dataset back as it was"
        )
        raise ConfigError(text)


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


# --- what came out


def _hash(run: Mapping[str, Any]) -> str | None:
    return run["dataset"]["hash"] if run["dataset"] else None


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield the other differences, a line each."""
    for name in ("python", "platform", "threads"):
        if then[name] != now[name]:
            yield f"{name}: {then[name]} then, {now[name]} now"
    for name in ("cpu", "cores", "gpus", "cuda"):
        if (old := then["hardware"].get(name)) != (new := now["hardware"].get(name)):
            yield f"{name}: {old} then, {new} now"
    versions = {
        name: (then["packages"].get(name), now["packages"].get(name)) for name in then["packages"] | now["packages"]
    }
    others = {name: pair for name, pair in versions.items() if pair[0] != pair[1]}
    for name, (old, new) in list(others.items())[:LISTED]:
        yield f"package {name}: {old or 'none'} then, {new or 'none'} now"
    if len(others) > LISTED:
        yield f"and {len(others) - LISTED} more packages"
    own = [(run.get("physgym") or {}).get("commit") for run in (then, now)]
    if own[0] != own[1]:
        yield f"commit of physgym: {own[0]} then, {own[1]} now"


def _statistics(then: Mapping[str, Any], now: Mapping[str, Any], base: Path) -> dict[str, tuple[Any, Any]] | None:
    """Return what `Comparison.statistics` has, of two runs."""
    if _hash(then) == _hash(now) or not all((run["dataset"] or {}).get(SOURCE) for run in (then, now)):
        return None
    found = []
    for run in (then, now):
        about = run["dataset"]
        try:
            dataset = SampleDataset(
                _absolute(about["path"], base), about.get("mode", "training"), mini=about["samples"]
            )
        except DatasetError as error:
            raise ConfigError(f"the samples in {about['path']} cannot be read, and not be compared: {error}") from error
        found.append(
            {
                name: (float(np.mean(one.mean)), float(np.sqrt(np.mean(np.square(one.std)))))
                for name, one in dataset.statistics.items()
            }
        )
    old, new = found
    return {name: (old.get(name), new.get(name)) for name in {**old, **new}}


def _table(indent: str, rows: Mapping[str, tuple[str, str, str]]) -> list[str]:
    """Return rows with what was, what is and the difference as lines, below a head; none of no rows."""
    if not rows:
        return []
    table = [("", "then", "now", "difference" if any(row[2] for row in rows.values()) else "")]
    table += [(name, *row) for name, row in rows.items()]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    lines = []
    for name, *figures in table:
        columns = (figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True))
        lines.append(indent + "  ".join([name.ljust(widths[0]), *columns]).rstrip())
    return lines


def _spread(found: tuple[float, float] | None) -> str:
    return "-" if found is None else f"{found[0]:.3g} ± {found[1]:.3g}"


def _figure(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else "-" if value is None else str(value)


def _difference(then: Any, now: Any) -> str:
    if then == now:
        return "0"
    numbers = all(isinstance(value, (int, float)) for value in (then, now))
    return f"{now - then:.3g}" if numbers and math.isfinite(now - then) else "different"
