"""Sections of a report on a search: its trials, how it went, and the metric against each parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from physgym.experiment.search.report import TrialRow, best_trial, read_results, summary_of
from physgym.experiment.search.section import SearchSection
from physgym.report import charts
from physgym.report.charts import DECADES, Chart
from physgym.report.figures import seconds_text, text_of
from physgym.report.page import Page

TRIALS = 50  # in the table
LONGEST = 60  # letters of a value in it


def add_search(page: Page, session: Path, section: SearchSection) -> dict[str, str]:
    """Add what came of a search; return the most important figures.

    Args:
        page: The page.
        session: Its session.
        section: How it searches.
    """
    page.section("Trials")
    rows = read_results(session)
    if not rows:
        page.text("There is no table of trials yet.")
        return {}
    page.text(f"{summary_of(rows)}. {section.metric} is to be {section.direction}d.")
    best = best_trial(rows, section)
    page.charts(_charts(rows, section))
    keys = list(section.parameters)
    sign = 1 if section.direction == "minimize" else -1
    order = sorted(rows, key=lambda row: (row.value is None, sign * (row.value or 0.0)))
    cells = [
        [row.name, row.state, text_of(row.value), text_of(row.epochs), text_of(row.seconds)]
        + [_short(text_of(row.values.get(key))) for key in keys]
        + [_short(row.reason)]
        for row in order[:TRIALS]
    ]
    note = f"The best {TRIALS} of {len(rows):,} trials." if len(rows) > TRIALS else ""
    page.table(["trial", "state", section.metric, "epochs", "seconds", *keys, "reason"], cells, note)
    spent = sum(row.seconds or 0.0 for row in rows)
    found = {"trials": f"{len(rows):,}", "time of all trials": seconds_text(spent)}
    if best is not None:
        found |= {f"best {section.metric}": text_of(best.value), "best trial": best.name}
    return found


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _charts(rows: Sequence[TrialRow], section: SearchSection) -> list[Chart]:
    done = [row for row in rows if row.value is not None and math.isfinite(row.value)]
    if not done:
        return []
    values = np.array([row.value for row in done], np.float64)
    log = bool(values.min() > 0 and values.max() > DECADES * values.min())
    numbers = np.array([row.number for row in done], np.float64)
    better = np.minimum.accumulate if section.direction == "minimize" else np.maximum.accumulate
    complete = np.array([row.state == "complete" for row in done])
    found = [
        charts.cloud(
            "How the search went",
            _by_state(done, numbers),
            across="trial",
            up=section.metric,
            logarithmic=(False, log),
        )
    ]
    if complete.any():
        best = {"best so far": (numbers[complete], better(values[complete]))}
        found.append(charts.curves("Best so far", best, across="trial", up=section.metric, logarithmic=log))
    for key, known in section.parameters.items():
        there = [row for row in done if key in row.values]
        if known.choices is None:
            places, texts = np.array([float(row.values[key]) for row in there]), []
        else:
            texts = sorted({str(row.values[key]) for row in there})
            places = np.array([texts.index(str(row.values[key])) for row in there], np.float64)
        if len(there):
            found.append(
                charts.cloud(
                    key,
                    _by_state(there, places),
                    across=key,
                    up=section.metric,
                    logarithmic=(bool(known.log) and known.choices is None, log),
                    categories=[_short(text) for text in texts],
                )
            )
    return found


def _by_state(rows: Sequence[TrialRow], places: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the points of the trials, by how these ended."""
    values, states = np.array([row.value for row in rows], np.float64), np.array([row.state for row in rows])
    return {str(state): (places[states == state], values[states == state]) for state in dict.fromkeys(states.tolist())}
