"""Sections of a report on a session: what was run, its curves, the errors of its network, its times and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from os.path import relpath
from pathlib import Path
from typing import Any

import numpy as np

from physgym.errors import PhysGymError
from physgym.experiment.networks import network_of
from physgym.experiment.record import DIED, RUNNING, read_config
from physgym.experiment.references import checkpoints_of, get
from physgym.experiment.report_text import code_text, command_text, record_text, when_text
from physgym.experiment.session import CONFIG, INFO, RECORD
from physgym.experiment.unseen_samples import unseen_samples
from physgym.experiment.yaml_text import to_yaml
from physgym.nn.predictor import Predictor
from physgym.report import charts
from physgym.report.charts import Chart
from physgym.report.dataset_sections import add_fields
from physgym.report.drawn_samples import SAMPLES as DRAWN
from physgym.report.drawn_samples import DrawnSamples
from physgym.report.figures import seconds_text, text_of
from physgym.report.page import Page
from physgym.report.prediction_sections import SAMPLES as PREDICTED
from physgym.report.prediction_sections import NetworkErrors, add_predictions, add_rollouts, add_samples
from physgym.training.history import LOSS_CURVES, History
from physgym.training.stored_history import read_history

CURVES = 24  # besides the losses
NO_CURVES = ("epoch", "samples", "seconds", "lr")  # of an epoch
VALIDATION, ONLINE = "validation_", "online_"
FILES = {
    INFO: "what was run, for people, with room for notes",
    RECORD: "the same for programs",
    CONFIG: "the resolved configuration",
    "results.csv": "all trials of the search",
    "best.yaml": "the configuration of the best trial",
    "networks": "checkpoints",
    "stats": "curves of the loggers",
    "dataset": "samples",
    "replay": "what the agent has recorded while it learned",
    "trials": "a session for each trial",
}


def add_what_was_run(page: Page, session: Path, record: Mapping[str, Any], outcome: str) -> None:
    """Add what was run, where and how it ended."""
    last = record["runs"][-1]
    if outcome in (RUNNING, DIED):
        page.remark(
            "The session is still running: the page shows what there was when it was made."
            if outcome == RUNNING
            else "The last run was killed: the page shows what it has left."
        )
    page.section("What was run")
    hardware, samples = last["hardware"], last["dataset"] or {}
    gpus = ", ".join(hardware.get("gpus") or [])
    machine = [last["host"], hardware.get("cpu"), f"{hardware.get('cores')} cores", gpus]
    page.facts(
        {
            "command": command_text(last["command"]),
            "outcome": outcome,
            "started": when_text(record["runs"][0]["start"]),
            "ended": when_text(last["end"]) if last["end"] else "",
            "runs": f"{len(record['runs'])}, it was resumed" if len(record["runs"]) > 1 else "",
            "code": code_text(last),
            "machine": ", ".join(str(part) for part in machine if part),
            "device": last.get("device"),
            "seed": str(record["seed"]),
            "dataset": f"{samples['samples']:,} samples in {samples['path']}" if samples else "",
        }
    )
    page.details("Everything that is recorded", record_text(record, outcome, details=True))
    page.details(f"Configuration ({CONFIG})", to_yaml(read_config(session)))


def wall_seconds(record: Mapping[str, Any]) -> float | None:
    """Return the seconds that all runs of a session took together; None where one has not ended by itself."""
    try:
        spans = [datetime.fromisoformat(run["end"]) - datetime.fromisoformat(run["start"]) for run in record["runs"]]
    except (TypeError, ValueError):
        return None
    return float(sum(span.total_seconds() for span in spans))


def history_of(session: Path) -> History | None:
    """Return the history of a training, as far as its last checkpoint has it; None without one."""
    elsewhere = checkpoints_of(read_config(session))
    try:
        return read_history(elsewhere or session)[0]
    except PhysGymError:
        return None


# --- curves and times


def add_curves(page: Page, history: History | None) -> None:
    """Add the loss, and all else that was measured in every epoch."""
    page.section("Curves")
    if history is None or not history.epochs:
        page.text("There is no checkpoint with a completed epoch, which would have the curves.")
        return
    losses = [name for name in LOSS_CURVES if name in history.table()]
    page.charts([_over_epochs("Loss", history, losses, wide=True), *_other_curves(history)])
    if history.skipped:
        page.remark(f"{history.skipped} batches were skipped, for their loss was not finite.")


def _other_curves(history: History) -> Iterator[Chart]:
    groups: dict[str, list[str]] = {}
    for name in history.table():
        if name not in (*LOSS_CURVES, *NO_CURVES) and not name.startswith(ONLINE):
            groups.setdefault(name.removeprefix(VALIDATION), []).append(name)
    groups |= {"lr": ["lr"]} if "lr" in history.table() else {}
    for title, names in list(groups.items())[:CURVES]:
        yield _over_epochs("Learning rate" if title == "lr" else title, history, names)


def _over_epochs(title: str, history: History, names: Sequence[str], *, wide: bool = False) -> Chart:
    found = {}
    for name in names:
        epochs = [epoch for epoch in history.epochs if name in epoch]
        found[name.replace("_", " ")] = ([epoch["epoch"] for epoch in epochs], [epoch[name] for epoch in epochs])
    return charts.curves(title, found, across="epoch", wide=wide)


def add_times(page: Page, record: Mapping[str, Any], history: History | None) -> None:
    """Add how fast the training was, and how long it waited."""
    page.section("Throughput and waiting")
    wall, facts = wall_seconds(record), dict[str, str]()
    if history is not None and history.epochs:
        seconds, samples = np.array(history["seconds"]), np.array(history["samples"])
        facts["epochs"] = f"{len(seconds)}, together {seconds_text(float(seconds.sum()))}"
        if (seconds > 0).all():
            facts["throughput"] = f"{np.median(samples / seconds):,.0f} samples/s, the median of the epochs"
        if wall is not None and wall >= seconds.sum():
            rest = wall - float(seconds.sum())
            facts["waiting"] = (
                f"{seconds_text(rest)} of {seconds_text(wall)} ({rest / wall:.0%}) outside of the epochs: starting, "
                "generating samples, saving"
            )
    elif wall is not None:
        facts["time"] = seconds_text(wall)
    page.facts(facts)
    if history is not None and history.epochs:
        page.charts(_time_charts(history))


def _time_charts(history: History) -> Iterator[Chart]:
    table = history.table()
    epochs, seconds = np.array(table["epoch"]), np.array(table["seconds"])
    with np.errstate(divide="ignore"):
        rate = np.array(table["samples"]) / seconds
    yield charts.curves("Seconds of an epoch", {"seconds": (epochs, seconds)}, across="epoch", up="s")
    yield charts.curves("Throughput", {"samples/s": (epochs, rate)}, across="epoch", up="samples/s")
    for name in table:
        if name.startswith(ONLINE):
            yield _over_epochs(name.replace("_", " "), history, [name])


# --- the network


def add_network(page: Page, session: Path, most: int | None) -> dict[str, str]:
    """Add the errors of a session's network on samples that it has not seen; return the most important figures.

    Args:
        page: The page.
        session: The folder.
        most: How many samples are predicted at most; None for the usual number.
    """
    page.section("Errors of the network")
    try:
        predictor = network_of(session)
        samples = unseen_samples(session)
        found = NetworkErrors.measure(predictor, samples.dataset, most or PREDICTED)
    except PhysGymError as error:
        page.text(f"They were not measured: {error}")
        return {}
    if samples.unseen:
        page.text(f"Measured on {samples.name}, from which the network has not learned.")
    else:
        page.remark(f"Measured on {samples.name}: the error on unseen samples may be larger.")
    add_predictions(page, found)
    add_samples(page, found)
    add_rollouts(page, predictor, samples.dataset, get(read_config(session), "dataset", "feedback"))
    add_fields(page, DrawnSamples(samples.dataset, most or DRAWN), f"Statistics of {samples.name}")
    return _headline(predictor, found)


def _headline(predictor: Predictor, found: NetworkErrors) -> dict[str, str]:
    errors = {f"relative L2 error, {name}": f"{value:.3g}" for name, value in list(found.relative.items())[:2]}
    return errors | {"parameters": f"{predictor.num_parameters:,}"}


def loss_headline(history: History | None) -> dict[str, str]:
    """Return the most important figures of a training: its epochs and its last and best loss."""
    if history is None or not history.epochs:
        return {}
    found = {"epochs": f"{len(history.epochs):,}"}
    for name in (one for one in LOSS_CURVES if one in history):
        values = np.array(history[name], np.float64)
        good = values[np.isfinite(values)]
        if len(good):
            best = int(np.nanargmin(np.where(np.isfinite(values), values, np.nan)))
            text = name.replace("_", " ")
            found[f"{text}, last"] = text_of(float(values[-1]))
            if name == LOSS_CURVES[-1] and best < len(values) - 1:
                found[f"{text}, best (epoch {best + 1})"] = text_of(float(values[best]))
    return found


def add_files(page: Page, session: Path, around: Path) -> None:
    """Add links to the files of a session.

    Args:
        page: The page.
        session: The folder.
        around: The folder of the page, from which links lead.
    """
    page.section("Files")
    patches = {file.name: "changes that were not committed" for file in sorted(session.glob("changes-*.patch"))}
    there = {name: what for name, what in (FILES | patches).items() if (session / name).exists()}
    page.links({relpath(session / name, around): what for name, what in there.items()})
