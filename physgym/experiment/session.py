"""A session: one folder with everything that belongs to one training, generation or search, and its record."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import yaml
from pydantic import BaseModel, ValidationError

from physgym.code.record import Code, check_same, code_of, last_known
from physgym.data.description import LOCK
from physgym.data.provenance import code_of_part
from physgym.errors import CheckpointError, ConfigError, PhysGymError
from physgym.experiment.config import Loader, read_yaml
from physgym.experiment.provenance import Origin, dataset_hash
from physgym.experiment.repository import shown
from physgym.files import lock, short, write_atomically
from physgym.storage.location import Location, local, place

if TYPE_CHECKING:
    from physgym.data.dataset import SampleDataset

CONFIG = "config.yaml"
RECORD = "record.json"
INFO = "info.txt"
FORMAT = 1
ENDING = (signal.SIGTERM, signal.SIGHUP)
RUNNING, DIED, TERMINATED = "running", "died", "terminated"
UNFINISHED = "running, or killed; physgym show tells which"  # as long as nothing else is written
ATTEMPTS, PAUSE = 5, 0.05  # to get a lock that somebody who looks whether it is taken has for an instant

NETWORK = "network:"  # what the name of a sampler that asks a network begins with

Kind = Literal["train", "generate", "search", "demo"]
Samples = Literal["dataset", "validation", "load_samples"]
# the keys of samples that a run may use
SAMPLES: dict[Samples, tuple[str, str]] = {
    "dataset": ("dataset", "path"),
    "validation": ("validation", "path"),
    "load_samples": ("dataset", "load_samples"),
}

NO_FOLDER = (
    "{path!r} cannot be the folder of a session, which is one of its own: write a path that ends in a name, such as "
    "sessions/mine"
)
NO_DATA = "{key}: {what} cannot be kept in a configuration file; {remedy}"
BUSY = "another process works in {session}; wait for it, or use another session"
CANNOT_WRITE = "cannot write {file}: {reason}"
NOTES = "--- notes: what is written below this line is kept ---"
MADE = ("dataset", "networks", "stats", "trials")  # what holds what was made
CONTENT = {
    "dataset/": "samples, unless the configuration names another place",
    "networks/": "checkpoints",
    "stats/": "TensorBoard curves",
    CONFIG: "the resolved configuration",
    RECORD: "where it comes from and what came out, for programs; this file is made of it",
}


def check_session(path: str | Path) -> Path:
    """A path at which a session can be made.

    Raises:
        ConfigError: It is in S3, or has no name, such as "." and "/".
    """
    wanted = local(path, "a session")
    if Path(path).name in ("", "..") or "\0" in str(wanted):
        raise ConfigError(NO_FOLDER.format(path=str(path)))
    return wanted


def new_session(path: str | Path) -> Path:
    """A new folder for a session; a name already taken gets a suffix, so that nothing is ever overwritten.

    git ignores the folder, so that sessions are no changes of a repository.

    Args:
        path: The wanted folder.

    Returns:
        The folder made: `path`, or `path` with ``-2``, ``-3``, ... behind it, which is said on stderr.

    Raises:
        ConfigError: The folder cannot be made.
    """
    wanted, number = check_session(path), 1
    while True:
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()  # atomic: of two sessions started at once only one gets the name
            write_atomically(folder / ".gitignore", "*\n")
        except FileExistsError as error:
            if not folder.is_dir():
                raise ConfigError(f"cannot make the session folder {folder}: a file of this name exists") from error
            number += 1
        except OSError as error:
            with contextlib.suppress(OSError):  # it may have been made, on a disk that was full then
                folder.rmdir()
            raise ConfigError(f"cannot make the session folder {folder}: {error.strerror}") from error
        else:
            if number > 1:
                print(f"{short(wanted)} is taken; this session is {short(folder)}", file=sys.stderr)
            return folder


def is_empty(session: Path) -> bool:
    """Whether nothing was made in a session yet: no samples, no networks, no curves."""
    own = {CONFIG, RECORD, INFO, ".gitignore", *MADE, *(file.name for file in session.glob("changes-*.patch"))}
    if any(entry.name not in own for entry in session.iterdir()):
        return False
    made = (entry for name in MADE for entry in (session / name).rglob("*"))
    return not any(entry.is_file() and entry.name != LOCK for entry in made)


def discard(session: Path) -> None:
    """Remove a session in which nothing was made; what a user has put there stays, and the folder with it."""
    names = [CONFIG, RECORD, INFO, ".gitignore", *(file.name for file in session.glob("changes-*.patch"))]
    ours = (session / ".gitignore").exists()  # as `new_session` makes one
    with contextlib.suppress(OSError):
        for name in names:
            (session / name).unlink(missing_ok=True)
        for folder in MADE:
            (session / folder / LOCK).unlink(missing_ok=True)
            if (session / folder).is_dir():
                (session / folder).rmdir()
        if ours:
            session.rmdir()


def _notes(info: Path) -> str:
    """What a user has written below the line for notes; in an older file, below everything."""
    try:
        text = info.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    _, found, notes = text.partition(f"\n{NOTES}\n")
    if not found:
        *_, last = CONTENT.values()
        _, _, notes = text.partition(last)
    return notes.lstrip("\n")


def _code_of(config: Mapping[str, Any]) -> Code | None:
    """The code of the simulation of a configuration, unknown where it cannot be imported; None where it names none."""
    env = get(config, "environment", "id")
    if not isinstance(env, str):
        return None
    try:
        return code_of(env, get(config, "environment", "arguments") or {})
    except ConfigError as error:
        return Code(unknown=(str(error),))


class Run:
    """One run of a session, in its record; a session that was resumed has several.

    The record is written before the first step, and completed when the ``with`` block ends, however it ends: SIGTERM,
    with which clusters end jobs, and SIGHUP, of a terminal that is closed, raise `SystemExit` in it, the second time
    they end the process. A killed run leaves the record as it is, from which `state` tells that it died.

    A session that is resumed keeps its configuration, also in its record, until the new one is `accepted`: what is
    refused before leaves nothing behind.

    Args:
        session: The folder.
        kind: What is done.
        config: The resolved configuration.
        origin: How the run came about; by default what can be seen from here.
        from_python: Whether a program made it, of which the configuration knows a part.

    Attributes:
        session: The folder.
        results: Metrics at the end, numbers by name; to be filled.
        outcome: How it ended; "completed" unless it is set to something else, or there is an exception.

    Raises:
        ConfigError: Another process works in the session, its record is damaged, or the disk refuses.
    """

    def __init__(
        self,
        session: Path,
        kind: Kind,
        config: Mapping[str, Any],
        origin: Origin | None = None,
        *,
        from_python: bool = False,
    ) -> None:
        self.session = session
        self.results: dict[str, Any] = {}
        self.outcome = "completed"
        self._terminated, self._from_python = False, from_python
        origin = Origin.here() if origin is None else origin
        self._config = dict(config)
        self._lock: Any = _locked(session)
        try:
            self._write(kind, origin)
        except OSError as error:
            self._lock.release()
            raise ConfigError(CANNOT_WRITE.format(file=session / RECORD, reason=error.strerror or error)) from error
        except BaseException:
            if not (session / RECORD).exists():
                discard(session)
            self._lock.release()
            raise

    def _write(self, kind: Kind, origin: Origin) -> None:
        self._text = to_yaml(self._config)
        before = read_record(self.session) if (self.session / RECORD).exists() else {"runs": []}
        earlier = before["runs"]
        code = _code_of(self._config)
        known = last_known([run.get("code") for run in earlier])
        if code is not None and code.unknown and known is None:
            code = None  # whoever makes the simulation says what is wrong with it
        if earlier and code is not None:
            check_same(known, code, f"the session {self.session}", allow=origin.allow_changed_code)
        number, patch = len(earlier) + 1, None
        if origin.patch is not None:
            patch = f"changes-{number}.patch"
            write_atomically(self.session / patch, origin.patch)
        self._run: dict[str, Any] = {
            "kind": kind,
            "from_python": self._from_python,
            "start": _now(),
            "end": None,
            "outcome": None,
            **origin.record(),
            "patch": patch,
            "code": None if code is None else code.to_json(),
            "start_from": _digest_of(start_of(self._config)),
            "actions_from": _digest_of(actions_of(self._config)),
            "dataset": None,
            "others": {},
            "results": {},
            "weights": None,
        }
        self._record = {
            "format": FORMAT,
            "session": self.session.name,
            "description": before.get("description", ""),
            "seed": before.get("seed"),
            "runs": [*earlier, self._run],
        }
        self._accepted = not (self.session / CONFIG).exists()
        if self._accepted:
            self._take_config()
        self._save()

    def _take_config(self) -> None:
        write_atomically(self.session / CONFIG, self._text)
        self._record["description"] = str(self._config.get("description") or "")
        self._record["seed"] = self._config.get("seed")

    def accepted(self) -> None:
        """The configuration is good for what is resumed: it takes the place of that of the session.

        In a new session, and where a run ends without an exception, this is so by itself. Calling it again does no
        harm.

        Raises:
            ConfigError: The disk refuses.
        """
        if not self._accepted:
            try:
                self._take_config()
                self._save()
            except OSError as error:
                raise ConfigError(CANNOT_WRITE.format(file=self.session / CONFIG, reason=error.strerror)) from error
            self._accepted = True

    def _save(self) -> None:
        text = json.dumps(_plain(self._record), indent=1, allow_nan=False, ensure_ascii=False)
        write_atomically(self.session / RECORD, text + "\n")
        told = describe(json.loads(text), self._run["outcome"] or UNFINISHED)
        write_atomically(self.session / INFO, f"{told}\n{NOTES}\n{_notes(self.session / INFO)}")

    def describe_dataset(self, dataset: SampleDataset, what: Samples = "dataset") -> None:
        """Note which samples are used: where they are, how many, and their hash; again where there are more now.

        Args:
            dataset: The samples.
            what: What they are for: "dataset" are those that it is about, "validation" those of ``validation.path``,
                "load_samples" those of ``dataset.load_samples``.

        Raises:
            ConfigError: The disk refuses.
        """
        # of what is in S3 a copy is read
        named = get(self._config, *SAMPLES[what]) or dataset.paths
        path = named if isinstance(named, str) else ", ".join(map(str, named))
        samples: dict[str, Any] = {"path": path, "samples": len(dataset), "hash": dataset_hash(dataset)}
        samples["code"] = code_of_part(dataset.provenance)
        notes = self._run if what == "dataset" else self._run["others"]
        if samples != notes.get(what):
            notes[what] = samples
            try:
                self._save()
            except OSError as error:
                raise ConfigError(CANNOT_WRITE.format(file=self.session / RECORD, reason=error.strerror)) from error

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._on_signal)
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != self._run["pid"]:  # a forked process, which ends as ever
            signal.raise_signal(number)
        self._terminated = True
        raise SystemExit(128 + number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in ENDING:
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, signal.SIG_DFL)
        if self._terminated and isinstance(error, SystemExit):
            self.outcome = TERMINATED
        elif isinstance(error, KeyboardInterrupt):
            self.outcome = "interrupted" if self.outcome == "completed" else self.outcome
        elif error is not None:
            self.outcome = f"{type(error).__name__}: {error}"
        try:
            if error is None and not self._accepted:
                self._take_config()
            if not self._accepted and isinstance(error, PhysGymError) and len(self._record["runs"]) > 1:
                self._forget()
                return
            refused = isinstance(error, (ConfigError, CheckpointError, KeyboardInterrupt))
            if refused and len(self._record["runs"]) == 1 and is_empty(self.session):
                discard(self.session)  # the name is free for the right one
                return
            self._run |= {"end": _now(), "outcome": self.outcome, "results": dict(self.results)}
            with contextlib.suppress(PhysGymError):  # a damaged checkpoint says so when it is used
                self._run["weights"] = self._last_weights()
            self._save()
        except OSError as failure:
            text = CANNOT_WRITE.format(file=self.session / RECORD, reason=failure.strerror or failure)
            if error is None:
                raise ConfigError(f"{text}. The run itself ended: {self.outcome}") from failure
            print(text, file=sys.stderr)  # what it ended with says more
        finally:
            self._lock.release()

    def _forget(self) -> None:
        """Leave the session as it was before a run that was refused."""
        refused = self._record["runs"].pop()
        self._run = self._record["runs"][-1]
        self._save()
        if refused["patch"] is not None:
            (self.session / refused["patch"]).unlink(missing_ok=True)

    def _last_weights(self) -> str | None:
        """Digest of the weights in the last checkpoint, None where there is none."""
        elsewhere = checkpoints_of(self._config) if self._run["kind"] == "train" else None
        folder = place(elsewhere or self.session / "networks")
        if isinstance(folder, Path) and not folder.is_dir():
            return None
        from physgym.training.checkpoint_files import WEIGHTS, list_checkpoints

        last = list(list_checkpoints(folder).values())[-1:]  # of what is in S3 the weights are not fetched for that
        return str(last[0]["files"][WEIGHTS][1]) if last else None


def _locked(session: Path) -> Any:
    from physgym.training.checkpointing import Lock  # which needs torch

    if not session.is_dir():
        raise ConfigError(f"{session} is no session: there is no such folder")
    for attempt in range(ATTEMPTS):
        try:
            return Lock(session)
        except CheckpointError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise ConfigError(f"cannot work in {session}: {error.__cause__}") from error
            if attempt == ATTEMPTS - 1:
                raise ConfigError(BUSY.format(session=session)) from error
            time.sleep(PAUSE)
    raise AssertionError


def weights_digest(checkpoints: str | Path | Location, which: str = "last") -> str | None:
    """SHA-256 of the weights in a checkpoint, as its manifest has it.

    Args:
        checkpoints: A session, a folder of checkpoints, or a checkpoint.
        which: Which one of several, as in a configuration.

    Returns:
        That of the file ``network.safetensors``; None where there is no checkpoint.

    Raises:
        CheckpointError: It is damaged.
    """
    from physgym.training.checkpoint_files import (
        MANIFEST,
        WEIGHTS,
        as_which,
        find_checkpoint,
        list_checkpoints,
        read_manifest,
    )

    if isinstance(found := place(checkpoints), Path) and not (found / MANIFEST).is_file():
        folder = found / "networks" if (found / "networks").is_dir() else found
        if not list_checkpoints(folder):
            return None
    return str(read_manifest(find_checkpoint(checkpoints, as_which(which)))["files"][WEIGHTS][1])


def get(config: Mapping[str, Any], section: str, name: str) -> Any:
    """A value in a section of a configuration; None where there is none."""
    found = config.get(section)
    return found.get(name) if isinstance(found, Mapping) else None


def start_of(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """The network that a training starts from, and which of its checkpoints; None for a new one."""
    start = get(config, "network", "start_from")
    return (start, str(get(config, "network", "which") or "last")) if start else None


def actions_of(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """The network that acts in the simulation, and which of its checkpoints; None if none does."""
    actions = get(config, "sampler", "actions")
    kind = actions.get("type") if isinstance(actions, Mapping) else actions
    return (kind.removeprefix(NETWORK), "last") if isinstance(kind, str) and kind.startswith(NETWORK) else None


def checkpoints_of(config: Mapping[str, Any]) -> str | None:
    """The folder of checkpoints that a configuration names; None for that of the session."""
    found = get(config, "training", "checkpoints")
    return found.get("path") if isinstance(found, Mapping) else None


def _digest_of(found: tuple[str, str] | None) -> str | None:
    return None if found is None else weights_digest(*found)


class _Dumper(yaml.SafeDumper):
    """Puts texts in quotes that a reader of configurations would take for numbers."""

    yaml_implicit_resolvers = Loader.yaml_implicit_resolvers


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """A text, with escapes where its ends of lines would be read as others."""
    style = '"' if set(text) & set("\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def to_yaml(config: Mapping[str, Any]) -> str:
    """A configuration as the text that reads as the same one.

    Raises:
        ConfigError: It holds what YAML does not know or reads as something else, such as dates; the text names the key.
    """
    return yaml.dump(_data(config, ()), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _data(value: Any, path: tuple[str, ...]) -> Any:
    """A value as data that YAML knows; tuples and numbers of NumPy become lists and numbers of Python."""
    key = ".".join(path) or "the configuration"
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                what = f"the key {name!r}, which is no text,"
                raise ConfigError(NO_DATA.format(key=key, what=what, remedy="put it in quotes"))
        return {str(name): _data(item, (*path, name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_data(item, (*path, str(number))) for number, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    for kind in (bool, int, float, str):  # YAML would not take what is derived from them
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    what = f"{value!r:.100}, which is of the type {type(value).__name__},"
    raise ConfigError(NO_DATA.format(key=key, what=what, remedy="write a text or numbers instead"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _plain(value: Any) -> Any:
    """A value as data that JSON knows; numbers that are not finite become texts."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        with contextlib.suppress(ValueError, RuntimeError):  # an array of several numbers
            value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        # names of files may hold bytes that are no text
        return value.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return value if value is None or isinstance(value, (bool, int)) else str(value)


# --- reading


class _GitPart(BaseModel):
    root: str
    commit: str | None
    branch: str | None
    remote: str | None
    dirty: bool
    changed: list[str]
    untracked: list[str]
    others: list[str] = []  # later than the rest


class _DatasetPart(BaseModel):
    path: str
    samples: int
    hash: str
    code: dict[str, Any] | None = None  # later than the rest


class _RunPart(BaseModel):
    kind: str
    command: list[str]
    folder: str
    edits: dict[str, Any]
    start: str
    end: str | None
    outcome: str | None
    host: str
    git: _GitPart | None
    patch: str | None
    packages: dict[str, str]
    python: str
    platform: str
    hardware: dict[str, Any]
    threads: int | None
    environment: dict[str, str]
    dataset: _DatasetPart | None
    code: dict[str, Any] | None = None  # later than the rest
    from_python: bool = False  # likewise
    others: dict[str, _DatasetPart] = {}  # later than the rest
    results: dict[str, Any]
    weights: str | None


class _WholeRecord(BaseModel):
    format: Literal[1]
    session: str
    description: str
    seed: int | None
    runs: list[_RunPart]


def read_config(session: Path) -> dict[str, Any]:
    """The resolved configuration of a session.

    Raises:
        ConfigError: The folder is not a session.
    """
    try:
        config = read_yaml((session / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{session} is not a session: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{session / CONFIG} does not hold a configuration")
    return config


def read_record(session: Path) -> dict[str, Any]:
    """The record of a session, see `docs/sessions.md`.

    Raises:
        ConfigError: The folder is not a session, or its record is damaged or of another version.
    """
    file = session / RECORD
    try:
        record = json.loads(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{session} is not a session: cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is damaged: {str(error)[:100]}. Restore a copy") from error
    if isinstance(record, dict) and record.get("format", FORMAT) != FORMAT:
        raise ConfigError(f"{file} has the format {record['format']!r:.50}; this version of physgym reads {FORMAT}")
    try:
        _WholeRecord.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise ConfigError(f"{file} is damaged: {where}: {first['msg']}. Restore a copy") from error
    if not record["runs"]:
        raise ConfigError(f"{file} is damaged: it has no run. Restore a copy")
    return dict(record)


def state(session: Path) -> str:
    """How a session's last run ended; "running" while it runs, "died" where it was killed.

    Raises:
        ConfigError: As `read_record`.
    """
    if (outcome := read_record(session)["runs"][-1]["outcome"]) is not None:
        return str(outcome)
    if _is_locked(session):
        return RUNNING
    # it may have ended between the two looks
    return str(read_record(session)["runs"][-1]["outcome"] or DIED)


def _is_locked(session: Path) -> bool:
    try:
        descriptor = os.open(session, os.O_RDONLY)
    except OSError:
        return False
    try:
        return lock(descriptor, session, shared=True, warn=False) == "taken"
    except OSError:
        return False
    finally:
        os.close(descriptor)


# --- for people


def describe(record: Mapping[str, Any], outcome: str, *, details: bool = False) -> str:
    """A record as a person reads it.

    Args:
        record: The record.
        outcome: How the last run ended, see `state`.
        details: Whether to tell all of every run, in place of what matters most of the last one.
    """
    runs = record["runs"]
    last = runs[-1]
    lines = [
        f"physgym session {record['session']}: {last['kind']}",
        record["description"] or "(no description)",
        "",
        f"outcome: {outcome}",
        f"started: {_when(runs[0]['start'])}",
        *([f"ended:   {_when(last['end'])}"] if last["end"] else []),
        f"seed:    {record['seed']}",
        f"command: {_shell(last['command'])}",
        f"code:    {_code(last)}",
    ]
    if last["dataset"]:
        found = last["dataset"]
        lines.append(f"dataset: {found['samples']} samples in {found['path']}, sha256 {found['hash'][:16]}...")
    if last["weights"]:
        lines.append(f"weights: sha256 {last['weights'][:16]}...")
    lines += ["", *(f"{name}: {_figure(value)}" for name, value in last["results"].items())]
    if len(runs) > 1 and not details:
        lines += ["", f"{len(runs)} runs: it was resumed"]
    if details:
        for number, run in enumerate(runs, 1):
            ended = run["outcome"] or (outcome if run is last else DIED)
            lines += ["", f"run {number} of {len(runs)}: {ended}", *(f"  {line}" for line in _details(run))]
    width = max(map(len, CONTENT))
    lines += ["", *(f"{name:<{width}}  {what}" for name, what in CONTENT.items())]
    return printable("\n".join(lines) + "\n")


def printable(text: str) -> str:
    """A text of somebody else without what would steer a terminal."""
    return "".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text)


def _details(run: Mapping[str, Any]) -> list[str]:
    hardware, found = run["hardware"], run["git"] or {}
    gpus = ", ".join(hardware.get("gpus") or []) or "no GPU"
    memory = f"{(hardware.get('memory') or 0) / 2**30:.0f} GiB"
    more = [f"{name}={value}" for name, value in run["environment"].items()]
    lines = [
        f"{_when(run['start'])} to {_when(run['end']) if run['end'] else '?'}",
        f"command:  {_shell(run['command'])}",
        f"folder:   {run['folder']}",
        f"code:     {_code(run)}",
        *(f"          changed {shown(name)}" for name in found.get("changed", [])),
        *(f"          untracked {shown(name)}" for name in found.get("untracked", [])),
        *(f"          beside    {shown(name)}" for name in found.get("others", [])),
        f"machine:  {run['host']}, {hardware.get('cpu')}, {hardware.get('cores')} cores, {memory}, {gpus}",
        f"software: Python {run['python']}, {run['platform']}, {len(run['packages'])} packages in {RECORD}",
        f"threads:  {run['threads'] or 'unknown'}{': ' if more else ''}{' '.join(more)}",
    ]
    if code := run.get("code"):
        lines.append(f"solver:   code {str(code.get('hash'))[:16]}, {len(code.get('modules', ()))} modules")
    if run["edits"]:
        lines.append(f"edits:    {json.dumps(run['edits'], ensure_ascii=False)}")
    samples = {"dataset": run["dataset"], **run.get("others", {})}
    lines += [f"{what + ':':<9} {one['path']}, sha256 {one['hash']}" for what, one in samples.items() if one]
    if run["weights"]:
        lines.append(f"weights:  sha256 {run['weights']}")
    return lines


def _code(run: Mapping[str, Any]) -> str:
    found = run["git"]
    if not found or not found["commit"]:
        return f"in no repository; in the folder {run['folder']}"
    branch = f" on {found['branch']}" if found["branch"] else ""
    remote = f" of {found['remote']}" if found["remote"] else ""
    changes = f", with {run['patch']}" if run["patch"] else ", with changes that are not kept" if found["dirty"] else ""
    return f"commit {found['commit'][:12]}{branch}{remote}{changes}"


def _when(moment: str) -> str:
    with contextlib.suppress(ValueError):
        return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return moment


def _shell(command: list[str]) -> str:
    return " ".join(shown(shlex.quote(word)) for word in command)


def _figure(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
