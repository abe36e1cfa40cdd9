"""Measuring rollouts: a network continues from its own predictions, and each step is compared with the solver's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any

import numpy as np

from physgym.checks import integer, positive
from physgym.errors import ConfigError
from physgym.interrupt import Interrupt
from physgym.nn import Predictor
from physgym.progress import Progress
from physgym.running.autoregression import Autoregression, PredictedTrajectory
from physgym.running.component_errors import ComponentSums
from physgym.running.rollout_episodes import RolloutEpisodes
from physgym.running.rollout_form import RolloutForm
from physgym.running.rollout_metrics import RolloutMetrics
from physgym.running.rollout_record import RolloutRecord, check_record
from physgym.running.rollout_report import RolloutReport
from physgym.running.run_options import MeasureOptions
from physgym.running.threshold_times import ThresholdTimes
from physgym.running.trajectories import Trajectories, Trajectory
from physgym.spaces import Array

BLOCK_BYTES = 1 << 28  # of trajectories that are predicted together
TRAJECTORIES_AT_ONCE = 16  # trajectories, where they are predicted one by one


class RolloutMeasurement:
    """Collects the errors of rollouts.

    Args:
        form: How the network is rolled out.
        metrics: What is measured.
        horizon: Steps that are wanted.
        examples: Number of rollouts that are kept, the first ones.
    """

    def __init__(self, form: RolloutForm, metrics: RolloutMetrics, horizon: int, examples: int) -> None:
        self._form, self._metrics, self._horizon, self._most = form, metrics, horizon, examples
        self._errors: dict[tuple[str, str], list[Array]] = {
            (metric, field.name): [] for metric in metrics.names for field in form.outputs
        }
        self._components = {
            field.name: ComponentSums(field, horizon) for field in form.outputs if ComponentSums.possible(field)
        }
        self._times: list[Array] = []
        self._ends: list[tuple[int, int, int]] = []  # episode, last horizon, divergence
        self._examples: list[PredictedTrajectory] = []

    def add(self, one: PredictedTrajectory) -> None:
        """Measure a rollout.

        Raises:
            ConfigError: A metric returned something else than a number for each step.
        """
        finite = one.finite
        fields = {field.name: field for field in self._form.outputs}
        for (metric, name), rows in self._errors.items():
            row = np.full(self._horizon, np.nan)
            row[: one.horizon] = np.inf
            present = one.present[name]
            flags = None if present is None else present[:finite]
            row[:finite] = self._metrics.measure(
                metric, fields[name], one.predicted[name][:finite], one.true[name][:finite], flags
            )
            rows.append(row)
        for sums in self._components.values():
            sums.add(one)
        times = np.full(self._horizon, np.nan)
        if one.seconds is not None:
            times[: one.horizon] = one.seconds
        self._times.append(times)
        self._ends.append((one.trajectory.episode, one.horizon, one.diverged))
        if len(self._examples) < self._most:
            self._examples.append(one)

    def report(self, quantiles: tuple[float, ...], thresholds: Sequence[float], **more: Any) -> RolloutReport:
        """Return the figures."""
        fields, times = {field.name: field for field in self._form.outputs}, np.array(self._times)
        errors: dict[str, dict[str, Array]] = {metric: {} for metric in self._metrics.names}
        for (metric, name), rows in self._errors.items():
            errors[metric][name] = np.array(rows)
        first = self._metrics.names[0]
        episodes, reached, diverged = np.array(self._ends, np.int64).T
        return RolloutReport(
            errors=errors,
            units={f"{m}/{name}": self._metrics.unit(m, field) for m in errors for name, field in fields.items()},
            field_units={name: field.unit for name, field in fields.items()},
            episodes=episodes,
            reached=reached,
            diverged=diverged,
            times=times,
            quantiles=quantiles,
            thresholds=[
                ThresholdTimes.of(first, name, threshold, values, times)
                for name, values in errors[first].items()
                for threshold in thresholds
            ],
            examples=self._examples,
            components={name: sums.errors() for name, sums in self._components.items()},
            **more,
        )


def measure_rollouts(
    predictor: Predictor, source: RolloutEpisodes, horizon: int, options: MeasureOptions
) -> RolloutReport:
    """Roll a network out and compare it with the solver, see `RolloutEvaluation.measure`."""
    horizon, batch_size = integer("horizon", horizon, 1), integer("batch_size", options["batch_size"], 1)
    examples, metrics = integer("examples", options["examples"], 0), RolloutMetrics(options["metrics"])
    thresholds = [positive("a threshold", one) for one in options["thresholds"]]
    quantiles = tuple(sorted({_part(one) for one in options["quantiles"]}))
    folder = check_record(options["record"], source.dataset)
    workers = {name: options[name] for name in ("num_envs", "num_workers", "timeout")}
    with ExitStack() as stack:
        dataset, form = stack.enter_context(source.opened(predictor, horizon, options["episodes"], **workers))
        trajectories = Trajectories(dataset, options["episodes"], None if folder is not None else form.fields)
        longest = form.horizon(int(trajectories.lengths.max()))
        if longest < horizon:
            raise ConfigError(
                f"no episode has {horizon} steps to predict: the longest one has {longest}. Ask for a rollout of "
                f"{longest} at most, or for longer episodes"
                if longest
                else f"all episodes are shorter than the {form.rows(1)} steps that a rollout of one step needs"
            )
        record = None
        if folder is not None:
            record = RolloutRecord(folder, dataset, form, predictor, horizon)
            stack.enter_context(record.writing())
        measurement = RolloutMeasurement(form, metrics, horizon, examples)
        network = Autoregression(predictor, form, batch_size)
        interrupt = stack.enter_context(Interrupt())
        bar = stack.enter_context(Progress(len(trajectories), "rollout", "episode", enabled=options["progress"]))
        short = 0
        for block in _blocks(trajectories, form, horizon, batch_size):
            for one in network(block, horizon):
                short += not one.horizon
                if one.horizon:
                    measurement.add(one)
                if record is not None:
                    record.add(one)
            bar.update(len(block))
            interrupt.check()
        checkpoint = None if predictor.learned is None else predictor.learned.checkpoint
        said = {
            "env": source.env,
            "dataset": [str(path) for path in dataset.paths] if source.dataset is not None else None,
            "part": dataset.mode,
            "seed": dataset.source.get("seed"),
            "feedback": {output: name for name, output in form.fed.items()},
            "network": None if checkpoint is None else str(checkpoint),
        }
        return measurement.report(quantiles, thresholds, source=said, short=short, cut=trajectories.cut)


def _part(value: Any) -> float:
    number = float(value)
    if not 0 <= number <= 1:
        raise ConfigError(f"a quantile is of a part of the episodes between 0 and 1, not {value!r}")
    return number


def _blocks(
    trajectories: Trajectories, form: RolloutForm, horizon: int, batch_size: int
) -> Iterator[tuple[Trajectory, ...]]:
    """Yield the trajectories, so many at a time as are predicted together."""
    rows = form.rows(horizon)
    each = rows * (trajectories.row_nbytes + sum(field.nbytes for field in form.outputs))
    size = batch_size if batch_size > 1 else TRAJECTORIES_AT_ONCE
    size = max(1, min(size, BLOCK_BYTES // max(1, each)))
    going = trajectories.first(rows)
    while block := tuple(islice(going, size)):
        yield block
