"""Results of a search in its session: a table of the trials, the best configuration, pictures."""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physgym.errors import ConfigError
from physgym.experiment.schema import Config
from physgym.experiment.search.section import SearchSection
from physgym.experiment.yaml_text import to_yaml
from physgym.files import write_atomically

if TYPE_CHECKING:
    import optuna

    from physgym.experiment.search.space import Space

RESULTS, BEST, HISTORY, PARAMETERS = "results.csv", "best.yaml", "history.png", "parameters.png"
COLUMNS = ("trial", "state", "value", "epochs", "seconds", "session", "reason")
SHOWN = 5  # trials in the table that is printed
WIDE = 40  # characters of a value in it
DECADE = 10.0  # values that differ by more are drawn on a logarithmic scale


@dataclass(frozen=True)
class TrialRow:
    """A trial.

    Attributes:
        number: From 0.
        state: "complete", "pruned", "failed", or "begun".
        value: Of the metric, None where there is none.
        epochs: That were trained.
        seconds: That they took.
        reason: Why it failed.
        values: Of the searched keys.
    """

    number: int
    state: str
    value: float | None
    epochs: int | None
    seconds: float | None
    reason: str
    values: dict[str, Any]

    @property
    def name(self) -> str:
        """Return the name of its folder below ``trials``."""
        return f"{self.number:04d}"


def best_trial(rows: Sequence[TrialRow], section: SearchSection) -> TrialRow | None:
    """Return the best completed trial; None where none has a value."""
    done = [row for row in rows if row.state == "complete" and row.value is not None]
    sign = 1 if section.direction == "minimize" else -1
    return min(done, key=lambda row: sign * (row.value or 0.0), default=None)


def write_results(session: Path, rows: Sequence[TrialRow], keys: Sequence[str]) -> None:
    """Write the table of all trials."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*COLUMNS, *keys])
    for row in rows:
        value = "" if row.value is None else repr(row.value)
        seconds = "" if row.seconds is None else f"{row.seconds:.3f}"
        cells = [row.number, row.state, value, row.epochs, seconds, f"trials/{row.name}", row.reason]
        table.writerow([*cells, *(_cell(row.values[key]) if key in row.values else "" for key in keys)])
    write_atomically(session / RESULTS, text.getvalue())


def read_results(session: Path) -> list[TrialRow]:
    """Return the trials in the table of a search; none where there is no table yet.

    A value of a searched key is what it reads as in JSON, else the text of its cell.

    Raises:
        ConfigError: The table is damaged.
    """
    try:
        with (session / RESULTS).open(newline="", encoding="utf-8") as stream:
            return [_row_of(cells) for cells in csv.DictReader(stream)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ConfigError(f"{session / RESULTS} is no table of trials: {error}") from error


def _row_of(cells: dict[str, str]) -> TrialRow:
    numbers = {"value": float, "epochs": int, "seconds": float}
    found: dict[str, Any] = {name: kind(cells[name]) if cells[name] else None for name, kind in numbers.items()}
    values = {key: _read(text) for key, text in cells.items() if key not in COLUMNS and text}
    return TrialRow(number=int(cells["trial"]), state=cells["state"], reason=cells["reason"], values=values, **found)


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def write_best(session: Path, best: TrialRow, config: Config, section: SearchSection) -> None:
    """Write the configuration of the best trial, to train it again, longer, or with other seeds."""
    data = config.model_copy(update={"session": f"{session}-best"}).model_dump()
    data.pop("search", None)
    head = f"# trial {best.name} of {session}: {section.metric} {best.value:.6g} ({section.which} epoch)\n"
    write_atomically(session / BEST, head + to_yaml(data))


def table_of(rows: Sequence[TrialRow], section: SearchSection) -> str:
    """Return the best trials as text."""
    sign = 1 if section.direction == "minimize" else -1
    done = [row for row in rows if row.state == "complete" and row.value is not None]
    done.sort(key=lambda row: sign * (row.value or 0.0))
    keys = list(section.parameters)
    lines = [["trial", section.metric, "epochs", *keys]]
    for row in done[:SHOWN]:
        cells = [_short(row.values.get(key)) for key in keys]
        lines.append([row.name, f"{row.value:.6g}", str(row.epochs), *cells])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def summary_of(rows: Sequence[TrialRow]) -> str:
    """Return how many trials ended in which state."""
    states = [row.state for row in rows]
    counts = [
        f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed", "begun") if state in states
    ]
    return f"{len(rows)} trials: {', '.join(counts)}" if rows else "no trial was begun"


def write_plots(session: Path, rows: Sequence[TrialRow], space: Space, study: optuna.Study) -> None:
    """Draw how the search went, and the metric against each parameter."""
    done = [row for row in rows if row.value is not None and math.isfinite(row.value)]
    if not done:
        return
    _draw_history(session / HISTORY, done, space, _importances(study, space.keys))
    _draw_parameters(session / PARAMETERS, done, space)


def _draw_history(path: Path, rows: Sequence[TrialRow], space: Space, importances: dict[str, float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5) if importances else (7, 4.5), layout="constrained")
    panels: Any = figure.subplots(1, 2 if importances else 1, squeeze=False)[0]
    axes = panels[0]
    _scatter(axes, rows, [row.number for row in rows])
    better = min if space.section.direction == "minimize" else max
    best: list[tuple[int, float]] = []
    for row in rows:
        if row.state == "complete" and row.value is not None:
            best.append((row.number, better(row.value, best[-1][1]) if best else row.value))
    if best:
        best.append((rows[-1].number, best[-1][1]))
        axes.step(*zip(*best, strict=True), where="post", color="C3", label="best")
    axes.set(xlabel="trial", ylabel=space.section.metric, title="trials")
    axes.set_yscale(_scale(rows))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    if importances:
        names = list(importances)[::-1]
        panels[1].barh(names, [importances[name] for name in names])
        panels[1].set(xlabel="share", title="importance of the parameters (PED-ANOVA)")
    _save(figure, path)


def _draw_parameters(path: Path, rows: Sequence[TrialRow], space: Space) -> None:
    from matplotlib.figure import Figure

    keys = space.keys
    columns = min(3, len(keys))
    lines = -(-len(keys) // columns)
    figure = Figure(figsize=(4.5 * columns, 3.8 * lines), layout="constrained")
    panels: Any = figure.subplots(lines, columns, squeeze=False)
    for axes, key in zip(panels.flat, keys, strict=False):
        known = space.section.parameters[key]
        if known.choices is None:
            _scatter(axes, rows, [row.values[key] for row in rows])
            axes.set_xscale("log" if known.log else "linear")
            axes.set_xlim(known.low, known.high)
        else:
            texts = [_cell(choice) for choice in known.choices]
            _scatter(axes, rows, [texts.index(_cell(row.values[key])) for row in rows])
            axes.set_xticks(range(len(texts)), [text[:WIDE] for text in texts], rotation=20, ha="right")
            axes.set_xlim(-0.5, len(texts) - 0.5)
        axes.set(xlabel=key, ylabel=space.section.metric, yscale=_scale(rows))
        axes.grid(alpha=0.3)
    for axes in panels.flat[len(keys) :]:
        axes.set_axis_off()
    panels.flat[0].legend()
    _save(figure, path)


def _scatter(axes: Any, rows: Sequence[TrialRow], at: Sequence[float]) -> None:
    for state, marker, color in (("complete", "o", "C0"), ("pruned", "x", "C7")):
        points = [(x, row.value) for x, row in zip(at, rows, strict=True) if row.state == state]
        if points:
            axes.scatter(*zip(*points, strict=True), marker=marker, color=color, s=28, label=state, clip_on=False)


def _scale(rows: Sequence[TrialRow]) -> str:
    values = [row.value for row in rows if row.value is not None]
    return "log" if min(values) > 0 and max(values) > DECADE * min(values) else "linear"


def _importances(study: optuna.Study, keys: Sequence[str]) -> dict[str, float]:
    """Return the importance of each parameter for the metric; empty where there are too few trials."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    if len(keys) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna warns where all it could say is that they are equal
        try:
            return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
        except (Warning, ValueError, RuntimeError):
            return {}


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else _cell(value)
    return text if len(text) <= WIDE else f"{text[: WIDE - 3]}..."


def _save(figure: Any, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110, format="png")
    write_atomically(path, picture.getvalue())
