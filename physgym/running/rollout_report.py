"""`RolloutReport`: how the error of a network grows that continues from its own predictions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from physgym.errors import ConfigError
from physgym.files import absolute, write_atomically
from physgym.running.autoregression import PredictedTrajectory
from physgym.running.component_errors import ComponentErrors
from physgym.running.rollout_animation import FRAMES, save_animation
from physgym.running.rollout_plot import save_error_plot
from physgym.running.threshold_times import ThresholdTimes
from physgym.spaces import Array

SHOWN = (1, 2, 5)  # horizons of the table, times powers of ten
MOST_SHOWN = 8  # components of a field in the table; JSON and CSV have more


@dataclass
class RolloutReport:
    """Errors of rollouts by horizon; as text, a table.

    Horizon h is the h-th predicted step; given states are no horizon. An episode that ends earlier leaves the later
    horizons: `counts` says how many there are at each. Where a network has diverged, its error is infinite from there
    on, which the mean then is too; `diverged_counts` says in how many.

    Attributes:
        errors: Error of each step by metric and field, shape (episodes, horizon), float64: NaN behind the end of an
            episode, infinite from a divergence on.
        units: Unit of each metric by field, empty for none: "metric/field".
        field_units: Unit of each field.
        episodes: Index of each episode, shape (episodes,), int64.
        reached: Its last horizon, shape (episodes,), int64.
        diverged: Its first horizon at which the network has diverged, shape (episodes,), int64; 0 for none.
        times: Time of each horizon after the last given state in s, shape (episodes, horizon), NaN where not known.
        quantiles: Parts of the episodes, between 0 and 1, whose largest errors are shown.
        thresholds: Times until thresholds of the first metric.
        source: What was rolled out on which episodes, as JSON data.
        short: Number of episodes that are too short for a single predicted step; they count nowhere else.
        cut: Number of episodes that end here at a missing step, such as a rejected one.
        examples: Some of the rollouts, for `animate`.
        components: Errors of the components of fields that have some, each relative to its own standard deviation.
    """

    errors: dict[str, dict[str, Array]]
    units: dict[str, str]
    field_units: dict[str, str]
    episodes: Array
    reached: Array
    diverged: Array
    times: Array
    quantiles: tuple[float, ...]
    thresholds: list[ThresholdTimes] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)
    short: int = 0
    cut: int = 0
    examples: list[PredictedTrajectory] = field(default_factory=list)
    components: dict[str, ComponentErrors] = field(default_factory=dict)

    @property
    def horizon(self) -> int:
        """Return the largest horizon."""
        return int(self.times.shape[1])

    @property
    def counts(self) -> Array:
        """Return the number of episodes that reach each horizon, shape (horizon,), int64."""
        return np.asarray(self._there.sum(0))

    @property
    def diverged_counts(self) -> Array:
        """Return in how many of these the network has diverged by each horizon, shape (horizon,), int64."""
        begun = (self.diverged[:, None] > 0) & (self.diverged[:, None] <= self._horizons)
        return np.asarray((begun & self._there).sum(0))

    @property
    def seconds(self) -> Array | None:
        """Return the time of each horizon in s, shape (horizon,); None where unknown, or different by episode."""
        columns = [times[reached] for times, reached in zip(self.times.T, self._there.T, strict=True)]
        if any(np.isnan(times).any() or not np.allclose(times, times[0], rtol=1e-6) for times in columns):
            return None
        return np.array([times[0] for times in columns])

    @property
    def _horizons(self) -> Array:
        return np.arange(1, self.horizon + 1)

    @property
    def _there(self) -> Array:
        return np.asarray(self.reached[:, None] >= self._horizons)

    def mean(self, metric: str | None = None, name: str | None = None) -> Array:
        """Return the mean over the episodes that reach each horizon, shape (horizon,).

        Args:
            metric: The metric; the first one by default.
            name: The field; the first one by default.

        Raises:
            ConfigError: There is none of that name.
        """
        columns = self._columns(metric, name)
        return np.array([column.mean() for column in columns])

    def quantile(self, part: float, metric: str | None = None, name: str | None = None) -> Array:
        """Return the smallest error that this part of the episodes does not exceed, at each horizon: shape (horizon,).

        It is the error of an episode, and not interpolated between two of them, of which one may be infinite.

        Args:
            part: Between 0 and 1.
            metric: As for `mean`.
            name: As for `mean`.

        Raises:
            ConfigError: It is out of range, or there is no metric or field of that name.
        """
        _check_part(part)
        return np.array([np.quantile(c, part, method="inverted_cdf") for c in self._columns(metric, name)])

    def _columns(self, metric: str | None, name: str | None) -> list[Array]:
        fields = self.errors[_known("metric", metric, self.errors)]
        errors = fields[_known("field", name, fields)]
        return [column[there] for column, there in zip(errors.T, self._there.T, strict=True)]

    # --- as data

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON data, with null for what is infinite or unknown: see ``diverged``."""
        figures = {
            metric: {
                name: {
                    "unit": self.units.get(f"{metric}/{name}", ""),
                    "mean": _finite_or_none(self.mean(metric, name)),
                    "quantiles": {f"{q:g}": _finite_or_none(self.quantile(q, metric, name)) for q in self.quantiles},
                }
                for name in fields
            }
            for metric, fields in self.errors.items()
        }
        seconds = self.seconds
        return {
            "source": self.source,
            "horizon": list(range(1, self.horizon + 1)),
            "seconds": None if seconds is None else _finite_or_none(seconds),
            "episodes": self.counts.tolist(),
            "diverged": self.diverged_counts.tolist(),
            "metrics": figures,
            "components": {name: _component_data(one) for name, one in self.components.items()},
            "thresholds": [one.to_dict() for one in self.thresholds],
            "too_short": self.short,
            "cut_at_missing_steps": self.cut,
            "by_episode": {
                "episode": self.episodes.tolist(),
                "horizon": self.reached.tolist(),
                "diverged_at": [one or None for one in self.diverged.tolist()],
            },
        }

    def save_json(self, file: str | Path) -> None:
        """Write the figures of `to_dict` to a file.

        Raises:
            ConfigError: The file cannot be written.
        """
        _write(file, json.dumps(self.to_dict(), indent=1, allow_nan=False, ensure_ascii=False) + "\n")

    def save_csv(self, file: str | Path) -> None:
        """Write a table with a row for each horizon.

        Its columns are ``horizon``, ``seconds`` (where known), ``episodes``, ``diverged``, and for each metric and
        field ``<metric>/<field>/mean`` and ``<metric>/<field>/q<part>``; then ``nrmse/<field>/<component>``, see
        `ComponentErrors`. ``inf`` stands for infinite errors.

        Raises:
            ConfigError: The file cannot be written.
        """
        columns: dict[str, Array] = {"horizon": self._horizons}
        if (seconds := self.seconds) is not None:
            columns["seconds"] = seconds
        columns |= {"episodes": self.counts, "diverged": self.diverged_counts}
        for metric, fields in self.errors.items():
            for name in fields:
                columns[f"{metric}/{name}/mean"] = self.mean(metric, name)
                columns |= {f"{metric}/{name}/q{q:g}": self.quantile(q, metric, name) for q in self.quantiles}
        for name, each in self.components.items():
            columns |= {f"nrmse/{name}/{index}": each.nrmse[:, index] for index in range(len(each.units))}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
        _write(file, text.getvalue())

    # --- as text and pictures

    def __str__(self) -> str:
        whole = int((self.reached == self.horizon).sum())
        lines = [f"rollout of {self.horizon} steps in {len(self.episodes)} episodes"]
        if whole < len(self.episodes):
            lines.append(f"{len(self.episodes) - whole} episodes end earlier, from step {self.reached.min()} on")
        if self.cut:
            lines.append(f"{self.cut} episodes continue behind a missing step, at which they end here")
        if self.short:
            lines.append(f"{self.short} episodes are too short for a predicted step, and left out")
        if count := int((self.diverged > 0).sum()):
            first = self.diverged[self.diverged > 0].min()
            lines.append(
                f"the network diverged in {count} episodes, the first time at step {first}; its error is infinite from "
                "there on"
            )
        for metric, fields in self.errors.items():
            for name in fields:
                unit = self.units.get(f"{metric}/{name}", "")
                title = f"{metric} of {name}{f' ({unit})' if unit else ''}"
                if (each := self.components.get(name)) is not None and each.mixed:
                    title += f": of all components together, which have the units {', '.join(each.units)}"
                lines += ["", title, *self._table(metric, name)]
        for name, each in self.components.items():
            if len(each.units) <= MOST_SHOWN:
                title = f"components of {name}: root mean squared error over the standard deviation of each"
                lines += ["", title, *self._lines(self._component_columns(each))]
        return "\n".join([*lines, *([""] if self.thresholds else []), *map(str, self.thresholds)])

    def _table(self, metric: str, name: str) -> list[str]:
        figures = {"mean": self.mean(metric, name)}
        return self._lines(figures | {f"{100 * q:g} %": self.quantile(q, metric, name) for q in self.quantiles})

    @staticmethod
    def _component_columns(each: ComponentErrors) -> dict[str, Array]:
        """Return the figures of each component by its index and unit."""
        titles = [f"[{index}]{f' ({unit})' if unit else ''}" for index, unit in enumerate(each.units)]
        return {title: each.nrmse[:, index] for index, title in enumerate(titles)}

    def _lines(self, figures: dict[str, Array]) -> list[str]:
        """Return figures by horizon as the lines of a table, some horizons of many."""
        rows = [i for i in range(self.horizon) if i + 1 == self.horizon or _is_shown(i + 1)]
        seconds = self.seconds
        columns: dict[str, list[str]] = {"step": [str(i + 1) for i in rows]}
        if seconds is not None:
            columns["time (s)"] = [f"{seconds[i]:.4g}" for i in rows]
        columns["episodes"] = [str(self.counts[i]) for i in rows]
        if (self.diverged > 0).any():
            columns["diverged"] = [str(self.diverged_counts[i]) for i in rows]
        columns |= {title: [f"{values[i]:.4g}" for i in rows] for title, values in figures.items()}
        widths = [max(len(title), *map(len, cells)) for title, cells in columns.items()]
        lines = [list(columns), *zip(*columns.values(), strict=True)]
        return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]

    def plot(self, file: str | Path, metric: str | None = None) -> None:
        """Draw the mean error of each field by horizon, within the band of the quantiles, as a picture.

        The axis is the time in s where it is known, else the step. Horizons at which the mean is infinite are left out
        and marked.

        Args:
            file: Where to, by its ending a PNG, PDF or SVG.
            metric: The metric; the first one by default.

        Raises:
            ConfigError: There is no such metric, or the file cannot be written.
        """
        chosen = _known("metric", metric, self.errors)
        curves = {
            name: (self.mean(chosen, name), [self.quantile(q, chosen, name) for q in sorted(self.quantiles)])
            for name in self.errors[chosen]
        }
        limits = [one.threshold for one in self.thresholds if one.metric == chosen]
        units = {name: self.units.get(f"{chosen}/{name}", "") for name in curves}
        save_error_plot(absolute(file), chosen, curves, units, self.quantiles, self.counts, self.seconds, limits)

    def animate(
        self,
        file: str | Path,
        name: str | None = None,
        *,
        example: int = 0,
        frames: int = FRAMES,
        drawn: Callable[[], None] | None = None,
    ) -> None:
        """Show a rollout as a GIF: a field as it is predicted, as the solver has it, and the error.

        A field of one axis is drawn as curves, one of two axes as pictures; vectors of at most three components by
        their Euclidean norm, and a few numbers over time.

        Args:
            file: Where to, ending with ``.gif``.
            name: The field; the first one by default.
            example: Number of the rollout in `examples`.
            frames: Largest number of frames; of longer rollouts some steps are shown.
            drawn: Called after each frame that was drawn, as for a bar.

        Raises:
            ConfigError: There is no such field or example, the field has too many axes, or the file cannot be written.
        """
        chosen = _known("field", name, self.errors[_known("metric", None, self.errors)])
        if not -len(self.examples) <= example < len(self.examples):
            raise ConfigError(f"there is no example {example}; {len(self.examples)} rollouts were kept (examples=)")
        rollout, unit = self.examples[example], self.field_units.get(chosen, "")
        save_animation(absolute(file), rollout, chosen, unit, frames, drawn)


def _is_shown(step: int) -> bool:
    while step % 10 == 0:
        step //= 10
    return step in SHOWN


def _known(what: str, name: str | None, there: dict[str, Any]) -> str:
    if name is None:
        return next(iter(there))
    if name not in there:
        raise ConfigError(f"the rollout has no {what} {name!r}; it has {', '.join(there)}")
    return name


def _check_part(part: float) -> None:
    if not 0 <= part <= 1:
        raise ConfigError(f"a quantile is of a part between 0 and 1, not {part!r}")


def _component_data(one: ComponentErrors) -> dict[str, Any]:
    """Return the errors of components as JSON data: a list of all horizons for each."""
    figures = {"rmse": one.rmse, "nrmse": one.nrmse}
    return {"units": list(one.units), **{name: [*map(_finite_or_none, rows.T)] for name, rows in figures.items()}}


def _finite_or_none(values: Array) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]


def _write(file: str | Path, text: str) -> None:
    try:
        write_atomically(absolute(file), text, durable=False)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}") from error
