"""Reports of datasets, sessions, runs and evaluations: what `physgym report` writes, and commands at their end."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from physgym.data.dataset import SampleDataset
from physgym.data.dataset_parts import PARTS, has_partitions
from physgym.data.description import Mode
from physgym.data.summary import stored
from physgym.errors import ConfigError, DatasetError
from physgym.experiment.config import check_config
from physgym.experiment.record import has_agent, read_config, read_record, state
from physgym.experiment.session import CONFIG, RECORD
from physgym.experiment.session_samples import dataset_of
from physgym.files import absolute
from physgym.nn.predictor import Predictor
from physgym.report.agent_sections import (
    add_agent_curves,
    add_agent_evaluation,
    add_agent_run,
    add_agent_times,
    add_offline_evaluation,
    agent_headline,
)
from physgym.report.dataset_sections import add_dataset, headline_of
from physgym.report.drawn_samples import SAMPLES
from physgym.report.figures import seconds_text
from physgym.report.page import Page, plotly_script
from physgym.report.prediction_sections import NetworkErrors, add_predictions, add_rollout_report, add_samples
from physgym.report.run_sections import add_run
from physgym.report.search_sections import add_search
from physgym.report.session_sections import (
    add_curves,
    add_files,
    add_network,
    add_times,
    add_what_was_run,
    history_of,
    loss_headline,
    wall_seconds,
)
from physgym.rl.agent_run import AgentRun
from physgym.rl.evaluation import AgentEvaluation
from physgym.rl.offline import OfflineEvaluation
from physgym.running.evaluation import EvaluationReport
from physgym.running.rollout_report import RolloutReport
from physgym.running.run_report import RunReport
from physgym.storage.location import Location, place

REPORT = "report.html"


def write_report(path: str | Path, out: str | Path | None = None, *, samples: int | None = None) -> Path:
    """Write the report of a session or of a dataset, one HTML file, and return where it is.

    Args:
        path: The folder of a session, or of a dataset, or s3://bucket/prefix of one.
        out: The file to write; by default ``report.html`` in the session, or ``NAME-report.html`` here for a dataset.
        samples: How many samples plots are drawn from at most, and a network predicts; by default as many as take
            seconds.

    Raises:
        ConfigError: There is nothing, plotly is not installed, or the file cannot be written.
        DatasetError: The dataset is empty or damaged.
    """
    at = place(path)
    plotly_script()  # raises before anything is read
    if isinstance(at, Path) and any((at / name).is_file() for name in (RECORD, CONFIG)):
        file = at / REPORT if out is None else absolute(out)
        _check_folder(file)
        session_report(at, file.parent, samples=samples).save(file)
        return file
    if isinstance(at, Path) and not at.is_dir():
        raise ConfigError(f"there is no {path}: name the folder of a session or of a dataset")
    if isinstance(at, Path) and not any(has_partitions(at, mode) for mode in get_args(Mode)):
        raise ConfigError(
            f"{path} is neither a session nor a dataset: it has no {RECORD}, and no file such as training-00000.h5"
        )
    file = absolute(f"{at.name}-{REPORT}" if out is None else out)
    _check_folder(file)
    dataset_report(at, samples=samples).save(file)
    return file


def _check_folder(file: Path) -> None:
    if not file.parent.is_dir():
        raise ConfigError(f"cannot write the report {file}: there is no folder {file.parent}")
    if file.is_dir():
        raise ConfigError(f"cannot write the report {file}: it is a folder; name a file, such as {file / REPORT}")


def dataset_report(path: Path | Location, *, samples: int | None = None) -> Page:
    """Return the report of a dataset.

    Raises:
        DatasetError: It is empty, damaged or not there.
    """
    parts = parts_of([path])
    simulation = next(iter(parts.values())).source.get("env")
    where = f"samples of {simulation}, in {path}" if simulation else str(path)
    page = Page(path.name, "dataset", where)
    page.headline(headline_of(parts))
    add_dataset(page, parts, samples or SAMPLES)
    return page


def parts_of(folders: list[Path | Location]) -> dict[str, SampleDataset]:
    """Return the parts of a dataset that have samples by name: its modes, or the episodes of a recorded split.

    Raises:
        DatasetError: There are none.
    """
    each = [stored(folder) for folder in folders]
    modes = [mode for mode in get_args(Mode) if all(sum(p.count for p in one.get(mode, ())) for one in each)]
    if not modes:
        raise DatasetError(f"the dataset at {', '.join(map(str, folders))} has no samples yet")
    found = {mode: SampleDataset(folders, mode) for mode in modes}
    training = found.get("training")
    if training is None or (split := training.recorded_split) is None:
        return found
    divided = {part: training.part(part, split) for part in PARTS if getattr(split, part)}
    return {
        name: part
        for name, part in (divided | {m: d for m, d in found.items() if m != "training"}).items()
        if len(part)
    }


def session_report(session: Path, around: Path, *, samples: int | None = None) -> Page:
    """Return the report of a session: of a training, a generation or a search.

    Args:
        session: The folder.
        around: The folder of the page, from which its links lead.
        samples: How many samples are drawn or predicted at most.

    Raises:
        ConfigError: The folder is no session, or its record is damaged.
    """
    record, outcome = read_record(session), state(session)
    kind = record["runs"][0]["kind"]
    titles = {"train": "training", "generate": "generation"}
    page = Page(record["session"], titles.get(kind, kind), record["description"])
    page.headline({"outcome": outcome if len(outcome) <= 60 else f"{outcome[:57]}..."})
    add_what_was_run(page, session, record, outcome)
    history = None
    if kind == "search":
        section = check_config(read_config(session), str(session / CONFIG)).search
        if section is None:
            raise ConfigError(f"{session / CONFIG} has no section search, though the record is that of a search")
        page.headline(add_search(page, session, section))
    elif kind == "generate":
        _add_generated(page, session, samples or SAMPLES)
    elif has_agent(session):
        history = history_of(session)
        page.headline(agent_headline(history))
        add_agent_curves(page, history)
    else:
        history = history_of(session)
        page.headline(loss_headline(history))
        add_curves(page, history)
        page.headline(add_network(page, session, samples))
    if (wall := wall_seconds(record)) is not None:
        page.headline({"time": seconds_text(wall)})
    if history is not None and has_agent(session):
        add_agent_times(page, history, wall)
    else:
        add_times(page, record, history)
    add_files(page, session, around)
    return page


def _add_generated(page: Page, session: Path, samples: int) -> None:
    """Add the sections of the dataset of a session."""
    try:
        found = dataset_of(session)
        parts = parts_of(found if isinstance(found, list) else [found])
    except (ConfigError, DatasetError) as error:
        page.section("Samples")
        page.text(f"There are none: {error}")
        return
    page.headline(headline_of(parts))
    add_dataset(page, parts, samples)


def run_report(name: str, report: RunReport | RolloutReport, command: str) -> Page:
    """Return the report of a run, or of rollouts.

    Args:
        name: Of the session.
        report: What came of it.
        command: The command, as it was typed.
    """
    if isinstance(report, RunReport):
        page = Page(name, "run", command)
        add_run(page, report)
        return page
    page = Page(name, "rollouts", command)
    page.headline({"episodes": f"{len(report.episodes):,}", "steps": f"{report.horizon:,}"})
    page.section("Error by horizon")
    add_rollout_report(page, report)
    return page


def agent_run_report(name: str, found: AgentRun, command: str) -> Page:
    """Return the report of a run of an agent.

    Args:
        name: Of the session.
        found: What came of it.
        command: The command, as it was typed.
    """
    page = Page(name, "run", command)
    add_agent_run(page, found)
    return page


def agent_evaluation_report(name: str, found: AgentEvaluation | OfflineEvaluation, command: str) -> Page:
    """Return the report of an evaluation of an agent, in its environment or by recordings.

    Args:
        name: Of the session.
        found: What came of it.
        command: The command, as it was typed.
    """
    page = Page(name, "evaluation", command)
    if isinstance(found, OfflineEvaluation):
        add_offline_evaluation(page, found)
    else:
        add_agent_evaluation(page, found)
    return page


def evaluation_report(name: str, report: EvaluationReport, predictor: Predictor, samples: object, command: str) -> Page:
    """Return the report of an evaluation.

    Args:
        name: Of the session.
        report: What came of it.
        predictor: The network.
        samples: What it was evaluated on.
        command: The command, as it was typed.
    """
    found = NetworkErrors.of(predictor, samples, report)
    page = Page(name, "evaluation", command)
    figures = {f"relative L2 error, {field}": f"{value:.3g}" for field, value in found.relative.items()}
    page.headline({"samples": f"{report.samples:,}", "episodes": f"{report.episodes:,}", **figures})
    page.section("Errors", report.data)
    add_predictions(page, found)
    add_samples(page, found)
    return page
