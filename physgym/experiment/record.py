"""The record of a session: its schema, and how it is read and checked."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError

from physgym.errors import ConfigError
from physgym.experiment.session import CONFIG, RECORD, is_locked
from physgym.experiment.yaml_text import read_yaml

FORMAT = 1
RUNNING, DIED, TERMINATED = "running", "died", "terminated"
RUNNING, DIED, TERMINATED = "running", "died", "terminated"
RUNNING, DIED, TERMINATED = "running", "died", "terminated"


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
    stored: int | None = None  # later than the rest
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
    from_python: bool = False  # later than the rest
    device: str | None = None  # later than the rest
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
    """Return the resolved configuration of a session.

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


def has_agent(session: Path) -> bool:
    """Return whether a folder is the session of an agent's training.

    Raises:
        ConfigError: Its configuration cannot be read.
    """
    return (session / CONFIG).is_file() and read_config(session).get("agent") is not None


def read_record(session: Path) -> dict[str, Any]:
    """Return the record of a session, whose keys `docs/concepts/sessions.md` explains.

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
    """Return how a session's last run ended; "running" while it runs, "died" where it was killed.

    Raises:
        ConfigError: The folder is not a session, or its record is damaged or of another version.
    """
    if (outcome := read_record(session)["runs"][-1]["outcome"]) is not None:
        return str(outcome)
    if is_locked(session):
        return RUNNING
    # it may have ended between the two looks
    return str(read_record(session)["runs"][-1]["outcome"] or DIED)


def results_of(session: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the last epoch, of a training that was killed or runs those in its last checkpoint.

    Args:
        session: The folder.
        record: Its record.

    Returns:
        Numbers by name, "epoch" among them, where those that are not finite may be texts; empty without an epoch.
    """
    return dict(record["runs"][-1]["results"]) or _saved_results(session)


def _saved_results(session: Path) -> dict[str, Any]:
    """Return the values in the last checkpoint; empty without one."""
    found: dict[float, dict[str, Any]] = {}
    for file in session.glob("networks/*/manifest.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
            manifest = json.loads(file.read_bytes())
            values = manifest.get("values")
            found[float(manifest["time"])] = {
                **(values if isinstance(values, dict) else {}),
                "epoch": manifest["epoch"],
            }
    return found[max(found)] if found else {}


def as_text(record: Mapping[str, Any]) -> str:
    """Return a record as the text of its file."""
    return json.dumps(_json_data(record), indent=1, allow_nan=False, ensure_ascii=False)


def _json_data(value: Any) -> Any:
    """Return a value as data that JSON knows; numbers that are not finite become texts."""
    if isinstance(value, Mapping):
        return {str(key): _json_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_json_data(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        with contextlib.suppress(ValueError, RuntimeError):  # an array of several numbers
            value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        # names of files may hold bytes that are no text
        return value.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return value if value is None or isinstance(value, (bool, int)) else str(value)
