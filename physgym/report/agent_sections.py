"""Sections of a report on an agent: curves of its training, how it acts in a run or an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from physgym.report import charts
from physgym.report.charts import Chart
from physgym.report.figures import seconds_text, text_of
from physgym.report.page import Page
from physgym.rl.agent_run import AgentRun
from physgym.rl.evaluation import AgentEvaluation
from physgym.rl.offline import OfflineEvaluation
from physgym.spaces import Array
from physgym.training.history import History

EVALUATION = "evaluation_"
FIRST = ("return", "length", "loss")  # the curves that say most, in their order
NO_CURVES = ("epoch", "step", "samples", "seconds")  # of a record
STEPS = "steps of the environments"


def agent_headline(history: History | None) -> dict[str, str]:
    """Return the most important figures of an agent's training: its steps and its last returns."""
    if history is None or not history.epochs:
        return {}
    found = {"steps": f"{int(history['step'][-1]):,}"} if "step" in history else {}
    for name, title in (("return", "return in training, last"), (f"{EVALUATION}return", "return in evaluation, last")):
        if name in history:  # no episode may have ended, and nobody may have asked for an evaluation
            found[title] = text_of(history[name][-1])
    return found


def add_agent_curves(page: Page, history: History | None) -> None:
    """Add return, length, loss and all else that was measured while an agent learned, over its steps."""
    page.section("Curves")
    if history is None or not history.epochs:
        page.text("There is no checkpoint with a record, which would have the curves.")
        return
    page.charts(list(_curves(history)))


def _curves(history: History) -> Iterator[Chart]:
    names = [name for name in history.table() if name not in NO_CURVES]
    groups: dict[str, list[str]] = {}
    for name in (*FIRST, *names):
        plain = name.removeprefix(EVALUATION)
        groups.setdefault(plain, [one for one in (plain, f"{EVALUATION}{plain}") if one in names])
    for title, members in groups.items():
        drawn = {}
        for name in members:
            records = [record for record in history.epochs if name in record]
            label = "in evaluation, without exploration" if name.startswith(EVALUATION) else "in training"
            drawn[label] = ([record["step"] for record in records], [record[name] for record in records])
        if drawn:
            text = title.replace("_", " ")
            logarithmic = None if title == "loss" else False
            yield charts.curves(
                text[0].upper() + text[1:], drawn, across=STEPS, logarithmic=logarithmic, wide=title == FIRST[0]
            )


def add_agent_times(page: Page, history: History | None, wall: float | None) -> None:
    """Add how fast an agent acted and learned.

    Args:
        page: The page.
        history: The history of its training.
        wall: Seconds of all runs together; None where one has not ended by itself.
    """
    rates = [] if history is None or "steps_per_second" not in history else history["steps_per_second"]
    facts = {}
    if wall is not None:
        facts["time"] = seconds_text(wall)
    if rates:
        facts["speed"] = f"{np.median(rates):,.0f} steps/s of acting and learning together, the median of the records"
    if facts:
        page.section("Throughput")
        page.facts(facts)


def add_agent_run(page: Page, found: AgentRun) -> None:
    """Add how an agent acted in a run."""
    page.headline({"steps": f"{found.steps:,}", "episodes": f"{len(found.returns):,}", **found.figures})
    if found.interrupted:
        page.remark("Ctrl-C ended the run before its last step.")
    page.section("Episodes")
    if not found.returns:
        page.text(
            f"None ended within {found.steps:,} steps; the return of the one that was begun is {found.begun:.4g}."
        )
        return
    rows = [[index, text_of(value), length] for index, (value, length) in enumerate(found.episodes)]
    page.table(["episode", "return", "steps"], rows)
    page.charts(list(episode_charts({"return": np.array(found.returns), "steps": np.array(found.lengths)})))


def episode_charts(columns: Mapping[str, Array]) -> Iterator[Chart]:
    """Yield what episodes had, one value each, by name: over the episodes, and how often values occur."""
    for name, values in columns.items():
        title = name.replace("_", " ")
        yield charts.values(f"{title[0].upper()}{title[1:]} of each episode", {title: values})
        if len(values) > 1:
            yield charts.histogram(f"{title[0].upper()}{title[1:]}", {title: values})


def add_agent_evaluation(page: Page, found: AgentEvaluation) -> None:
    """Add how an agent acted in an evaluation."""
    values = found.values
    page.headline({"episodes": f"{len(found):,}", **{name.replace("_", " "): text_of(values[name]) for name in values}})
    page.section("Episodes", f"Episodes of {found.env} without exploration; seed {found.seed}.")
    columns = {"return": found.returns, "length": found.lengths, **found.figures}
    scalars = {name: column for name, column in found.parameters.items() if column.ndim == 1}
    names = ["episode", "seed", *scalars, *(name.replace("_", " ") for name in columns), "ended"]
    rows = [
        [
            number,
            found.seeds[number],
            *(text_of(column[number]) for column in scalars.values()),
            *(text_of(column[number]) for column in columns.values()),
            found.endings[number],
        ]
        for number in range(len(found))
    ]
    page.table(names, rows)
    page.charts(list(episode_charts(columns)))


def add_offline_evaluation(page: Page, found: OfflineEvaluation) -> None:
    """Add how far an agent expects the returns of recordings."""
    figures = {"value - return": found.mean_error, "correlation": found.correlation, "not covered": found.uncovered}
    page.headline(
        {
            "transitions": f"{found.transitions:,}",
            **{name: text_of(value) for name, value in figures.items() if np.isfinite(value)},
        }
    )
    page.section("Values and returns", str(found))
    if not len(found.values):
        return
    rows = [[text_of(value), text_of(outcome), f"{count:,}"] for value, outcome, count in found.calibration]
    page.table(["mean value", "mean return", "steps"], rows, "From the lowest values to the highest.")
    episodes = found.by_episode
    across, up = "mean return", "mean value that the agent expects"
    pairs = {"episodes": (episodes["return"], episodes["value"])}
    page.charts([charts.cloud("Episodes", pairs, across=across, up=up, diagonal=True)])
