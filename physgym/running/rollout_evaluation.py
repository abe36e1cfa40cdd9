"""`RolloutEvaluation`: a network next to the solver, step by step and from its own predictions."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np

from physgym.checks import integer
from physgym.code.record import Code
from physgym.code.search import code_of
from physgym.data.dataset import SampleDataset
from physgym.data.provenance import other_code
from physgym.errors import ConfigError
from physgym.events import Callback
from physgym.nn import Predictor
from physgym.nn.predictor import evaluating
from physgym.nn.undisturbed import undisturbed
from physgym.options import complete, takes
from physgym.registration import EnvLike
from physgym.running.fed_back_state import feedback_for
from physgym.running.field_checks import nonfinite
from physgym.running.options import ROLLOUT_STEPS
from physgym.running.prediction_errors import compare
from physgym.running.rollout_episodes import DatasetEpisodes, FreshEpisodes
from physgym.running.rollout_measurement import measure_rollouts
from physgym.running.rollout_metrics import is_flag
from physgym.running.rollout_report import RolloutReport
from physgym.running.run_options import MeasureOptions, RolloutOptions
from physgym.running.runner import Runner
from physgym.running.surrogate import SurrogateEnv
from physgym.running.surrogate_network import SurrogateNetwork
from physgym.sample import Sample, SampleSpec, present_in
from physgym.spaces import Array
from physgym.training.checkpoint_files import load_checkpoint
from physgym.vector.arguments import check_arguments
from physgym.vector.make import env_factories
from physgym.worker.folders import Folder

NAMES = "the steps of the rollout", "the samples that the network is trained on"


@takes(RolloutOptions)
class RolloutEvaluation:
    """Figures of how well a network does next to the solver: what ``Trainer(rollout=...)`` takes.

    `measure` rolls a network out: it continues from its own predictions by the declared feedback, from the first states
    of episodes and under the same actions, parameters and other inputs, and each step is compared with the solver's.
    The report has the errors by horizon, with a plot and an animation.

    Episodes are those of a dataset; or fresh ones of a simulation with this seed and ``part="evaluation"``, the same at
    every call: no part of a dataset has them, for any seed. The figures depend on the network alone, but for the
    time. Environments are made and closed within the call, and the global random generators of Python, NumPy and torch
    are left as they were.

    With `horizons`, the figures of a training have errors that build up too. In a simulation the network makes whole
    episodes in place of the solver for that (`SurrogateEnv`), which needs the hooks ``inputs`` and ``adopt`` or a
    declared feedback. The run gives it no predictions. In a dataset it is rolled out as `measure` does.

    A simulation of other code than that from whose samples the network learns is warned of: by a `Trainer` before it
    begins, and by the first call with a network that remembers what it has learned from (`Predictor.learned`).

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes the environment; or a `SampleDataset`, such as the
            validation or test part, which needs `horizons` in a training.
        steps: Steps of the solver in a training; those of a dataset are its own.
        horizons: Numbers of steps after which to compare the trajectories, such as (1, 5, 20); none by default.
        **options: See `physgym.running.run_options.RolloutOptions`; of a dataset `feedback` alone counts.

    Raises:
        ConfigError: An argument is out of range, or the id is unknown.
    """

    def __init__(
        self,
        env: EnvLike | SampleDataset,
        steps: int = ROLLOUT_STEPS,
        *,
        horizons: Sequence[int] = (),
        **options: Unpack[RolloutOptions],
    ) -> None:
        options = complete(RolloutOptions, options, "RolloutEvaluation.__init__")
        steps, horizons = integer("steps", steps, 1), [integer("horizons", number, 1) for number in horizons]
        feedback, given = options["feedback"], options["env_kwargs"]
        self._feedback = feedback
        self._steps, self._horizons = steps, sorted(set(horizons))
        self._compared: Mapping[str, Any] | None = None
        self._dataset: DatasetEpisodes | None = None
        if isinstance(env, SampleDataset):
            self._dataset = DatasetEpisodes(env, feedback)
            return
        self._env, self._kwargs = env, check_arguments(given)
        self._factories = env_factories(env, self._kwargs)
        drawn: dict[str, Any] = {name: options[name] for name in ("seed", "max_steps", "actions", "parameters")}
        self._options: dict[str, Any] = {**drawn, "part": "evaluation", "apply": not horizons}
        self._fresh = FreshEpisodes(env, self._kwargs, self.compare_code, feedback, drawn)

    def measure(
        self, predictor: Predictor | str | Path, horizon: int = 100, **options: Unpack[MeasureOptions]
    ) -> RolloutReport:
        """Roll a network out, and compare each step with the solver's.

        Inputs that no output feeds (actions, parameters, forcings) are those of the solver's episode: an input that
        depends on the state must be fed back, or the network is given the truth.

        Args:
            predictor: A trained network, or the folder of its session or checkpoint; its mode (training or evaluation)
                stays what it is.
            horizon: Steps that it predicts; shorter episodes end earlier, and the report says so.
            **options: See `physgym.running.run_options.MeasureOptions`.

        Raises:
            ConfigError: No feedback is declared, no episode is so long, a metric is unknown, the episodes are those of
                another simulation, or an argument is out of range.
            SampleError: A field does not fit, or too many steps were rejected.
            DatasetError: There is a record already, or it cannot be written.
            KeyboardInterrupt: Ctrl-C; a record is not there then.
        """
        options = complete(MeasureOptions, options, "RolloutEvaluation.measure")
        network = predictor if isinstance(predictor, Predictor) else load_checkpoint(predictor)
        with undisturbed(), evaluating(network):
            return measure_rollouts(network, self._fresh if self._dataset is None else self._dataset, horizon, options)

    def compare_code(self, learned: Mapping[str, Any] | None, code: Code | None = None) -> None:
        """Warn where the simulation has other code than that from whose samples a network learns; once for each.

        Of stored episodes nothing is said here: their simulation is not run.

        Args:
            learned: Record of that code, see `physgym.code.record`; None if it is not known.
            code: The code of the simulation; by default it is found without making an environment.
        """
        if learned is None or learned == self._compared or self._dataset is not None:
            return
        self._compared = learned
        code = code_of(self._env, self._kwargs) if code is None else code
        if text := other_code(code, learned, NAMES):
            warnings.warn(text, UserWarning, stacklevel=3)

    def names(self, predictor: Predictor) -> list[str]:
        """Return the names of the figures, where every episode reaches every horizon."""
        if self._dataset is not None:
            return [f"horizon_{number}/{name}" for number in self._horizons for name in predictor.outputs]
        errors = [f"relative_l2/{name}" for name in predictor.outputs]
        horizons = [f"horizon_{number}/{name}" for number in self._horizons for name in predictor.outputs]
        return [*errors, "latency_ms", *horizons]

    def __call__(self, predictor: Predictor) -> dict[str, float]:
        """Run it.

        Args:
            predictor: The network; its mode (training or evaluation) stays what it is.

        Returns:
            By name: "relative_l2/<field>", the mean relative L2 error of the predictions for the solver's steps;
            "latency_ms", the median time of a prediction; and for each horizon h that an episode reaches
            "horizon_<h>/<field>", the mean relative L2 error h steps after the reset, infinite where the network has
            diverged by then. Of a dataset these alone.

        Raises:
            ConfigError: The network does not fit the simulation, or the simulation lacks the hooks.
            SampleError: A field does not fit, or too many steps were rejected.
            KeyboardInterrupt: Ctrl-C.
        """
        if self._dataset is not None:
            return self._stored(predictor)
        with Folder(), undisturbed(), evaluating(predictor):
            with Runner(self._env, predictor, env_kwargs=self._kwargs, learned={}, **self._options) as runner:
                if predictor.learned is not None and predictor.learned.code != self._compared:
                    self.compare_code(predictor.learned.code, runner.code)
                collector = _Episodes(feedback_for(runner.spec, SurrogateNetwork(predictor), self._feedback))
                report = runner.run(self._steps, callbacks=[collector] if self._horizons else (), progress=False)
            if report.interrupted:
                raise KeyboardInterrupt
            found = {f"relative_l2/{name}": errors.summary["relative_l2"] for name, errors in report.errors.items()}
            found["latency_ms"] = report.latency_ms.get("network_median", float("nan"))
            if self._horizons:
                found |= self._drift(predictor, collector)
        return found

    def _stored(self, predictor: Predictor) -> dict[str, float]:
        """Return the errors of rollouts in the episodes of a dataset."""
        if not self._horizons:
            raise ConfigError("a RolloutEvaluation of a dataset needs horizons in a training: horizons=(1, 5, 20)")
        report = self.measure(predictor, self._horizons[-1], examples=0)
        errors = {name: report.mean("relative_l2", name) for name in predictor.outputs}
        return {f"horizon_{h}/{name}": float(errors[name][h - 1]) for h in self._horizons for name in errors}

    def _drift(self, predictor: Predictor, solver: _Episodes) -> dict[str, float]:
        """Return the errors of trajectories that the network makes alone."""
        errors: dict[str, list[float]] = {}
        for index, factory in enumerate(self._factories):
            own = [one for one in solver.episodes if one.number % len(self._factories) == index]
            if not own:
                continue
            with SurrogateEnv(factory(), predictor, feedback=self._feedback) as surrogate:
                for episode in own:
                    self._compare(surrogate, episode, errors)
        # an episode in which nothing is there at a horizon has no error
        known = {name: [one for one in found if not np.isnan(one)] for name, found in errors.items()}
        return {name: float(np.mean(known[name])) for name in sorted(known, key=_by_horizon) if known[name]}

    def _compare(self, surrogate: SurrogateEnv, episode: _Episode, errors: dict[str, list[float]]) -> None:
        """Make an episode with the network alone, and add its errors at the horizons."""
        surrogate.reset(seed=episode.seed, options=episode.options)
        diverged = False
        for number, (action, target) in enumerate(episode.steps[: self._horizons[-1]], start=1):
            surrogate.step(action)
            prediction = surrogate.prediction or {}
            diverged = diverged or bool(nonfinite(prediction))  # such a step is rejected, and the state stays
            if number not in self._horizons:
                continue
            for name, value in prediction.items():
                if name in target:
                    error = np.inf if diverged else target[name].error(value)
                    errors.setdefault(f"horizon_{number}/{name}", []).append(error)


class _Target(NamedTuple):
    """Values that a prediction is compared with, which of them are there (None for all), and whether they are flags."""

    values: Array
    present: Array | None
    flags: bool

    @classmethod
    def of(cls, spec: SampleSpec, name: str, sample: Sample) -> _Target:
        """Return a field of a sample."""
        there = present_in(spec, name, {one: np.asarray(value)[np.newaxis] for one, value in sample.items()})
        return cls(np.array(sample[name]), None if there is None else there[0], is_flag(spec[name]))

    def error(self, prediction: Array) -> float:
        """Return the relative L2 error of a prediction, of flags the part that is wrong; NaN where nothing is there."""
        if self.flags:
            wrong = np.asarray(prediction != self.values)
            there = np.broadcast_to(self.present is None or self.present, wrong.shape)
            return float(wrong[there].mean()) if there.any() else np.nan
        flags = None if self.present is None else self.present[np.newaxis]
        with np.errstate(over="ignore", invalid="ignore"):
            return compare(prediction[np.newaxis], self.values[np.newaxis], flags).summary["relative_l2"]


class _Episode(NamedTuple):
    """An episode of the solver: its index and seed, the options of its reset, actions and targets."""

    number: int
    seed: int
    options: dict[str, Any] | None
    steps: list[tuple[Any, dict[str, _Target]]]


class _Episodes(Callback):
    """Seeds, actions and targets of a run, up to the first rejected step of each episode.

    Outputs that samples do not hold are inputs of the next step, and have no target at the last one.

    Args:
        feedback: Which output is which input of the next step.

    Attributes:
        episodes: The episodes.
    """

    def __init__(self, feedback: Mapping[str, str]) -> None:
        self.episodes: list[_Episode] = []
        self._feedback = feedback
        self._late: list[str] = []  # outputs that the next sample is the target of
        self._last, self._open = -1, False

    def sample_end(self, pipeline: Any, sample: Mapping[str, Any]) -> None:
        step = pipeline.last
        if step.episode != self._last:
            self._last, self._open, self._late = step.episode, True, []
            self.episodes.append(_Episode(step.episode, step.seed, pipeline.options(step.episode), []))
        self._open = self._open and bool(sample)
        if self._open:
            stored, spec = step.transition.sample, pipeline.spec
            for name in self._late:
                self.episodes[-1].steps[-1][1][name] = _Target.of(spec, self._feedback[name], stored)
            self._late = [name for name in step.prediction if name not in stored and name in self._feedback]
            targets = {name: _Target.of(spec, name, stored) for name in step.prediction if name in stored}
            self.episodes[-1].steps.append((copy.deepcopy(step.transition.action), targets))


def _by_horizon(name: str) -> tuple[int, str]:
    horizon, _, field = name.partition("/")
    return int(horizon.removeprefix("horizon_")), field
