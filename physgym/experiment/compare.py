"""SessionComparison of sessions: what differs in their configurations, what came out, and how long it took."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from physgym.errors import ConfigError
from physgym.experiment import components
from physgym.experiment.record import read_config, read_record, results_of, state
from physgym.experiment.report_text import printable
from physgym.experiment.trained_settings import loss_units, trained_settings
from physgym.files import short, write_atomically
from physgym.training.journal import by_dotted_key
from physgym.training.loggers import CurvePoints

Direction = Literal["minimize", "maximize"]

NO_METRICS = ("epoch", "lr", "seconds", "samples", "steps_per_second")  # of the values of an epoch
# the first one that is there is drawn
DRAWN = ("validation_loss", "evaluation_return", "return", "loss")
# of an agent, in training and in evaluations
AGENT: dict[str, Direction] = {
    "return": "maximize",
    "distance": "maximize",
    "laps": "maximize",
    "time_off_track": "minimize",
}
ERRORS = re.compile(r"relative_l2|horizon_\d+|latency_ms")  # what a rollout gives
ABSENT = "-"  # in the text
WIDE = 32  # signs of a value in the text


@dataclass(frozen=True)
class ComparedSession:
    """A session, as it is compared.

    Attributes:
        name: What it is called here, different for all.
        path: Its folder.
        config: Its configuration, values by dotted key.
        facts: What was run, on what and how it ended, by name.
        training: What its last checkpoint says of loss, optimizer, network, fields and transforms, by dotted key.
        from_python: Whether it was made in Python; its configuration says only part then.
        metrics: Values of the last epoch by name.
        times: Seconds by name.
        directions: Of metrics, those that the configuration declares.
        tests: Names of its test sets.
    """

    name: str
    path: Path
    config: dict[str, Any]
    facts: dict[str, Any]
    training: dict[str, Any]
    from_python: bool
    metrics: dict[str, float]
    times: dict[str, float]
    directions: dict[str, Direction]
    tests: tuple[str, ...]


@dataclass(frozen=True)
class ComparedMetric:
    """A metric of several sessions.

    Attributes:
        values: By session, of those that have it.
        direction: What is better; None where nobody knows.
        best: The sessions with the best value; empty where all are equal, one alone has it, or the direction is
            unknown.
    """

    values: dict[str, float]
    direction: Direction | None
    best: tuple[str, ...]


@dataclass(frozen=True)
class SessionComparison:
    """Differences between sessions; as text a table for each attribute.

    Attributes:
        sessions: Their folders by name.
        config: Values by key and session, of keys that differ; a session that lacks a key is left out.
        runs: The same of what was run, on what and how it ended.
        metrics: Metrics that differ, by name.
        times: Seconds by name and session.
        same: Metrics that are the same in all sessions.
        training: Values by key and session of what the checkpoints say of the training, where a session was made in
            Python.
        other_units: What makes the losses values of other units; no loss has a best session then.
        unknown: Sessions made in Python, without such a checkpoint.
    """

    sessions: dict[str, Path]
    config: dict[str, dict[str, Any]]
    runs: dict[str, dict[str, Any]]
    metrics: dict[str, ComparedMetric]
    times: dict[str, dict[str, float]]
    same: list[str]
    training: dict[str, dict[str, Any]]
    other_units: list[str]
    unknown: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data; numbers that are not finite are texts."""
        metrics = {
            name: {"values": found.values, "direction": found.direction, "best": list(found.best)}
            for name, found in self.metrics.items()
        }
        data = {
            "sessions": {name: str(path) for name, path in self.sessions.items()},
            "config": self.config,
            "runs": self.runs,
            "metrics": metrics,
            "times": self.times,
            "same": self.same,
            "training": self.training,
            "other_units": self.other_units,
            "unknown": self.unknown,
        }
        return dict(_strict(data))

    def __str__(self) -> str:
        metrics = {
            f"{name} ({'?' if one.direction is None else one.direction[:3]})": {
                session: _number(value) + (" *" if session in one.best else "") for session, value in one.values.items()
            }
            for name, one in self.metrics.items()
        }
        times = {name: {key: f"{value:.4g} s" for key, value in row.items()} for name, row in self.times.items()}
        tables = [
            self._table("configuration", self.config),
            *([self._table("training", self.training)] if self.training else []),
            self._table("runs", self.runs),
            self._table("metrics of the last epoch, * is the best", metrics),
            self._table("times", times),
        ]
        notes = []
        if self.same:
            notes.append(f"the same in all: {', '.join(self.same)}")
        if self.unknown:
            notes.append(
                f"of sessions made in Python only part is known without a checkpoint: {', '.join(self.unknown)}"
            )
        unmarked = [name for name, one in self.metrics.items() if _is_loss(name) and not one.best]
        if self.other_units and unmarked:
            notes.append(
                f"none is marked where losses have other units: {', '.join(unmarked)}; these differ: "
                f"{', '.join(self.other_units)}"
            )
        if unknown := [name for name, one in self.metrics.items() if one.direction is None]:
            notes.append(
                f"none is marked where nobody knows which direction is better: {', '.join(unknown)}; "
                "--minimize NAME or --maximize NAME says it"
            )
        return printable("\n\n".join([*tables, *notes]))

    def _table(self, title: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
        if not rows:
            return f"{title}: no difference"
        names = list(self.sessions)
        cells = [[title, *names]]
        cells += [[key, *_row([row.get(name, ABSENT) for name in names])] for key, row in rows.items()]
        widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
        )


def compare(
    paths: Sequence[str | Path], *, minimize: Iterable[str] = (), maximize: Iterable[str] = ()
) -> SessionComparison:
    """Return what differs between sessions, or trials of a search.

    Args:
        paths: Their folders, two or more.
        minimize: Metrics of which the smallest value is the best, also if something else is known of them.
        maximize: Metrics of which the largest one is.

    Raises:
        ConfigError: There is only one, one is given twice, one is no session or has no metrics, or a metric is unknown.
    """
    sessions = read_sessions(paths)
    given: dict[str, Direction] = dict.fromkeys(minimize, "minimize")
    for name in maximize:
        if name in given:
            raise ConfigError(f"the metric {name!r} can be minimized or maximized, not both")
        given[name] = "maximize"
    known = dict.fromkeys(name for one in sessions for name in one.metrics)
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(f"no session has the metric {unknown[0]!r}; there are {', '.join(known)}")
    other_units = list(_different([one for one in sessions if one.training], lambda one: loss_units(one.training)))
    metrics = {name: _metric(name, sessions, given) for name in known}
    for name, one in metrics.items():
        if other_units and _is_loss(name) and name not in given:
            metrics[name] = replace(one, best=())
    same = [name for name, one in metrics.items() if len(one.values) == len(sessions) and _equal(one.values.values())]
    return SessionComparison(
        {one.name: one.path for one in sessions},
        _different(sessions, lambda one: one.config),
        _different(sessions, lambda one: one.facts),
        {name: one for name, one in metrics.items() if name not in same},
        _different(sessions, lambda one: one.times),
        same,
        _different(sessions, lambda one: one.training) if any(one.from_python for one in sessions) else {},
        other_units,
        [one.name for one in sessions if one.from_python and not one.training],
    )


def read_sessions(paths: Sequence[str | Path]) -> list[ComparedSession]:
    """Return sessions as they are compared.

    Raises:
        ConfigError: There is only one, one is given twice, or one is no session or has no metrics.
    """
    given = [Path(path) for path in paths]
    if not given[1:]:
        raise ConfigError("one session alone cannot be compared; name two or more")
    seen: dict[Path, Path] = {}
    for path in given:
        if not path.is_dir():
            raise ConfigError(f"there is no session {path}")
        if (first := seen.setdefault(path.resolve(), path)) is not path:
            raise ConfigError(f"{first} and {path} are the same session; name each once")
    names = [path.name for path in seen]
    if len(set(names)) < len(names):
        names = [short(path) for path in given]
    return [_read_session(path, name) for path, name in zip(given, names, strict=True)]


def _read_session(path: Path, name: str) -> ComparedSession:
    record = read_record(path)
    if record["runs"][-1]["kind"] == "search":
        raise ConfigError(f"{path} is a search; compare its trials: {path}/trials/*")
    last, results, config = record["runs"][-1], results_of(path, record), read_config(path)
    metrics = {key: float(value) for key, value in results.items() if key not in NO_METRICS and _is_number(value)}
    if not metrics:
        what = "no epoch was completed there" if last["kind"] == "train" else f"it is one of physgym {last['kind']}"
        raise ConfigError(f"the session {path} has no metrics: {what}")
    facts = {
        "kind": last["kind"],
        "outcome": state(path),
        "epochs": results.get("epoch"),
        "commit": _commit(last["git"]),
        "dataset": _dataset(last["dataset"]),
        "machine": last["host"],
        "device": last.get("device"),
        "description": record["description"] or None,
    }
    times = {"whole session": _seconds(record["runs"]), "last epoch": results.get("seconds")}
    dotted = {key: value for key, value in by_dotted_key(config) if key not in ("session", "description")}
    return ComparedSession(
        name,
        path,
        dotted,
        {key: value for key, value in facts.items() if value is not None},
        trained_settings(path),
        bool(last.get("from_python")),
        metrics,
        {key: float(value) for key, value in times.items() if value is not None and _is_number(value)},
        _searched(path) | _declared(dotted),
        tuple((config.get("training") or {}).get("test") or ()),
    )


def _commit(git: Mapping[str, Any] | None) -> str | None:
    if not git or not git["commit"]:
        return None
    return str(git["commit"][:12]) + (" with changes" if git["dirty"] else "")


def _dataset(found: Mapping[str, Any] | None) -> str | None:
    return None if found is None else f"{found['samples']} samples, sha256 {found['hash'][:12]}"


def _seconds(runs: Sequence[Mapping[str, Any]]) -> float | None:
    """Return how long runs took; None where one of them did not come to its end."""
    total = 0.0
    for run in runs:
        if run["end"] is None:
            return None
        total += (datetime.fromisoformat(run["end"]) - datetime.fromisoformat(run["start"])).total_seconds()
    return total


def _declared(config: Mapping[str, Any]) -> dict[str, Direction]:
    """Return the directions of metrics that a configuration watches."""
    found: dict[str, Direction] = {}
    for section in ("training.early_stopping", "training.checkpoints"):
        monitor, mode = config.get(f"{section}.monitor"), config.get(f"{section}.mode")
        if isinstance(monitor, str) and mode in ("min", "max"):
            found[monitor] = "minimize" if mode == "min" else "maximize"
    return found


def _searched(path: Path) -> dict[str, Direction]:
    """Return the direction of the metric of a search, of one of its trials."""
    section: Any = None
    if path.resolve().parent.name == "trials":
        with contextlib.suppress(ConfigError):
            section = read_config(path.resolve().parents[1]).get("search")
    if isinstance(section, Mapping) and section.get("direction") in ("minimize", "maximize"):
        return {str(section.get("metric")): section["direction"]}
    return {}


def _metric(name: str, sessions: Sequence[ComparedSession], given: Mapping[str, Direction]) -> ComparedMetric:
    values = {one.name: one.metrics[name] for one in sessions if name in one.metrics}
    direction = given.get(name) or _direction(name, sessions)
    finite = {session: value for session, value in values.items() if not math.isnan(value)}
    if direction is None or not finite or len(values) < 2 or (len(values) == len(sessions) and _equal(values.values())):
        return ComparedMetric(values, direction, ())
    best = (min if direction == "minimize" else max)(finite.values())
    return ComparedMetric(values, direction, tuple(session for session, value in finite.items() if value == best))


def _is_loss(name: str) -> bool:
    """Return whether a metric is the loss of a training, or that of its validation or of a test set."""
    base = name.partition("/")[0]
    return base in ("loss", "validation_loss") or (base.startswith("test_") and base.endswith("_loss"))


def _direction(name: str, sessions: Sequence[ComparedSession]) -> Direction | None:
    """Return which direction of a metric is better; None where nobody knows, or two sessions declare different ones."""
    declared = {one.directions[name] for one in sessions if name in one.directions}
    if declared:
        return declared.pop() if len(declared) == 1 else None
    if any("agent.type" in one.config for one in sessions):
        return AGENT.get(name.removeprefix("evaluation_"))  # the loss of an agent says nothing of how well it acts
    from physgym.nn.metrics import METRICS  # which imports torch

    base = name.partition("/")[0]
    if base == "loss":
        return "minimize"
    if base.startswith("rollout_"):
        return "minimize" if ERRORS.fullmatch(base.removeprefix("rollout_")) else None
    tests = {f"test_{test}_" for one in sessions for test in one.tests}
    for prefix in ("validation_", *sorted(tests, key=len, reverse=True)):
        if base.startswith(prefix):
            what = base.removeprefix(prefix)
            if what == "loss":
                return "minimize"
            if what in METRICS and "/" in name:
                return "maximize" if METRICS[what].larger_is_better else "minimize"
    return None


def _different(
    sessions: Sequence[ComparedSession], of: Callable[[ComparedSession], Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the values that are not the same in all sessions, by key and session."""
    keys = dict.fromkeys(key for one in sessions for key in of(one))
    rows = {key: {one.name: of(one)[key] for one in sessions if key in of(one)} for key in keys}
    return {key: row for key, row in rows.items() if len(row) < len(sessions) or not _equal(row.values())}


def _equal(values: Iterable[Any]) -> bool:
    """Return whether all values are the same, as JSON: True is not 1, and NaN is NaN."""
    return len({json.dumps(value, sort_keys=True, default=str) for value in values}) < 2


def _is_number(value: Any) -> bool:
    """Return whether a value of a record is a number, those that are not finite included, which are texts there."""
    with contextlib.suppress(TypeError, ValueError):
        float(value)
        return True
    return False


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float) -> str:
    return f"{value:.6g}"


def _row(values: Sequence[Any]) -> list[str]:
    """Return values as texts of a line; long ones are cut, where they differ before, and whole where they do not."""
    texts = [
        value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False) for value in values
    ]
    texts = [" ".join(text.split()) for text in texts]
    cut = [text if len(text) <= WIDE else f"{text[: WIDE - 3]}..." for text in texts]
    return cut if len(set(cut)) == len(set(texts)) else texts


# --- curves


def curves_of(session: Path) -> CurvePoints:
    """Return the curves over epochs of the last training in a session, written by any logger; by name.

    Args:
        session: The folder.
    """
    stats = session / "stats"
    runs = [path for path in stats.glob("run-*") if path.name.removeprefix("run-").isdecimal()]
    for folder in [*sorted(runs, key=lambda path: -int(path.name.removeprefix("run-"))), stats]:
        for name in components.LOGGERS:
            if found := components.find(name, components.LOGGERS, "stats.loggers").read(folder):
                return {key.removeprefix("epoch/"): points for key, points in found.items()}
    return {}


def plot(paths: Sequence[str | Path], file: Path, names: Sequence[str] = ()) -> None:
    """Draw curves of sessions over the epochs into one picture.

    Args:
        paths: Folders of the sessions.
        file: The picture, whose suffix says its format; one that is there is replaced.
        names: Which curves; by default the validation loss, the return of evaluations, that of the training or the
            loss, the first of these that a session has.

    Raises:
        ConfigError: A session has no such curve, or the file cannot be written.
    """
    from physgym.scene.pictures import draw_curves

    if not file.absolute().parent.is_dir():
        raise ConfigError(f"--plot: there is no folder {file.absolute().parent}")
    sessions = {one.name: curves_of(one.path) for one in read_sessions(paths)}
    chosen = list(names) or [next((name for name in DRAWN if any(name in one for one in sessions.values())), DRAWN[-1])]
    drawn = {}
    for session, curves in sessions.items():
        for name in chosen:
            if name not in curves:
                there = f"it has {', '.join(sorted(curves))}" if curves else "its folder stats has no curves"
                raise ConfigError(f"the session {session} has no curve {name!r}: {there}")
            steps, values = np.array(curves[name], np.float64).T
            drawn[session if len(chosen) == 1 else f"{session}: {name}"] = (
                steps,
                np.where(np.isfinite(values), values, np.nan),
            )
    positive = all((values[~np.isnan(values)] > 0).all() for _, values in drawn.values())
    returns = any(name.endswith("return") for name in chosen)
    picture = draw_curves(drawn, label="epoch", logarithmic=positive and not returns)
    axes: Any = picture.figure.axes[0]
    axes.set_ylabel(", ".join(chosen))
    axes.xaxis.get_major_locator().set_params(integer=True)
    content = io.BytesIO()
    try:
        picture.figure.savefig(content, format=file.suffix.removeprefix(".") or "png")
        write_atomically(file, content.getvalue())
    except (ValueError, OSError) as error:
        raise ConfigError(f"--plot {file}: {error}") from error
