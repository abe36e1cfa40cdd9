"""Steps of a run in a worker, and as they come from there.

A run counts every step, rejected ones included, and shows its reward and times: its rollouts report their steps. torch
is not imported here, since workers use it.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from physgym import spaces as walk
from physgym.episode import Transition, require_spec
from physgym.feedback import Feedback
from physgym.generation.named_samples import NamedSamples
from physgym.placement import Env
from physgym.returned import info_of
from physgym.running.field_checks import nonfinite
from physgym.running.run_step import PREDICTION
from physgym.running.surrogate import SurrogateEnv
from physgym.sample import Field, Sample, SampleSpec, declaration
from physgym.simulation import Simulation
from physgym.spaces import Array
from physgym.worker.given_inputs import GIVEN, with_inputs
from physgym.worker.reported_steps import SECONDS

SURROGATE = "physgym.surrogate"  # key of an environment's metadata: a network stands in for its solver


class ReportedStep(NamedTuple):
    """A step as a worker reports it.

    Attributes:
        episode: Index of the episode.
        seed: Its seed.
        transition: What the simulation did.
        prediction: What the network predicts, None where that is still to be asked.
        solver_seconds: Time of the simulation's step, NaN where a network stands in for the solver.
        network_seconds: Time of the prediction.
    """

    episode: int
    seed: int
    transition: Transition
    prediction: Sample | None
    solver_seconds: float
    network_seconds: float


class StepFields:
    """The fields that steps of a run have in a worker, declared as a sample: its own ones, and predictions made there.

    Args:
        env: The simulation, or a surrogate.
        spec: The fields of its samples.
        outputs: What the network predicts.
        surrogate: Whether the network stands in for the solver: its outputs are predictions then, and no fields.
        predicted: Whether predictions are made in the worker.

    Attributes:
        own: Names of the sample's fields that steps have.
        space: All fields, as ``sample_space``.
        declarations: The other declarations of samples, by the name of the environment's attribute.
    """

    def __init__(
        self, env: Env, spec: SampleSpec, outputs: Sequence[Field], *, surrogate: bool, predicted: bool
    ) -> None:
        names = [f.name for f in outputs]
        self.own = [name for name in spec if not surrogate or name not in names]
        self._predicted = names if predicted else []
        every = walk.leaf_spaces(declaration(env, "sample_space"))
        self.space = spaces.Dict(
            [
                *((name, every[name]) for name in self.own),
                *((f"{PREDICTION}{f.name}", _anything(f)) for f in outputs if predicted),
            ]
        )
        kept = [spec[name] for name in self.own]
        roles, units = dict(declaration(env, "sample_roles") or {}), dict(declaration(env, "sample_units") or {})
        self.declarations: dict[str, dict[str, Any]] = {
            "sample_roles": {name: role for name, role in roles.items() if name in self.own},
            "sample_units": {name: unit for name, unit in units.items() if name in self.own},
            "sample_dimensions": {f.name: f.dimensions for f in kept if f.dimensions is not None},
            "sample_kinds": {f.name: f.kind for f in kept},
            "sample_masks": {f.name: f.mask for f in kept if f.mask in self.own},
            "sample_feedback": {f.name: f.feeds for f in kept if f.feeds in self.own},
        }

    def predictions(self, prediction: Mapping[str, Any]) -> Sample:
        """Return the fields of a prediction."""
        return {f"{PREDICTION}{name}": np.asarray(prediction[name]) for name in self._predicted}


class ReportStepsWrapper(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Takes the times of every step, and makes the predictions of those whose simulation is to get them.

    A prediction is made after its step, and becomes fields of the sample. Where a network stands in for the solver, its
    predictions become such fields too.

    Args:
        env: The simulation, or a surrogate.
        inputs: What feeds the network.
        outputs: What it predicts.
        apply: Whether the simulation gets predictions, if it uses them.

    Raises:
        SampleError: The environment declares no samples.
    """

    def __init__(self, env: Any, inputs: Sequence[str], outputs: Sequence[Field], apply: bool) -> None:
        super().__init__(env)
        inner = env.unwrapped
        self._spec, self._inputs, self._name = require_spec(env), tuple(inputs), type(inner).__name__
        self._surrogate = inner if isinstance(inner, SurrogateEnv) else None
        self._apply = prediction_user(env) if apply else None
        if self._apply is not None and not hasattr(inner, "predictor"):
            inner.predictor = None  # to be set by the host
        surrogate = self._surrogate is not None
        predicted = surrogate or self._apply is not None
        self._fields = StepFields(env, self._spec, outputs, surrogate=surrogate, predicted=predicted)
        self.sample_space = self._fields.space
        self.metadata = {**env.metadata, SURROGATE: surrogate}

    @property
    def sample_roles(self) -> dict[str, Any]:
        """Return the roles of the fields that steps have."""
        return self._fields.declarations["sample_roles"]

    @property
    def sample_units(self) -> dict[str, Any]:
        """Return their units."""
        return self._fields.declarations["sample_units"]

    @property
    def sample_dimensions(self) -> dict[str, Any]:
        """Return the names of their dimensions."""
        return self._fields.declarations["sample_dimensions"]

    @property
    def sample_kinds(self) -> dict[str, Any]:
        """Return their kinds."""
        return self._fields.declarations["sample_kinds"]

    @property
    def sample_masks(self) -> dict[str, Any]:
        """Return their masks."""
        return self._fields.declarations["sample_masks"]

    @property
    def sample_feedback(self) -> dict[str, Any]:
        """Return which of them feeds which."""
        return self._fields.declarations["sample_feedback"]

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Make a step; the info has its times, and the sample what is predicted here."""
        start = time.perf_counter()
        observation, reward, terminated, truncated, info = self.env.step(action)
        solver, network = time.perf_counter() - start, math.nan
        info = dict(info_of(info))
        if self._surrogate is not None:
            solver = math.nan
        if (given := info.get("sample")) is not None:
            checked = self._spec.check(given, self._name)
            sample = {name: checked[name] for name in self._fields.own}
            if self._surrogate is not None:
                network = self._surrogate.network_seconds
                sample |= self._fields.predictions(self._surrogate.prediction or {})
            elif self._apply is not None:
                start = time.perf_counter()
                prediction = self._ask({name: checked[name] for name in self._inputs})
                network = time.perf_counter() - start
                sample |= self._fields.predictions(prediction)
                if not nonfinite(prediction):
                    self._apply(prediction)
            info["sample"] = sample
        info[SECONDS] = (solver, network)
        return observation, reward, terminated, truncated, info

    def _ask(self, fed: Sample) -> Sample:
        predict: Any = self.unwrapped.predictor  # type: ignore[attr-defined]  # set above
        return dict(predict(fed))


class ReportStepsFactory:
    """Makes the environments of workers.

    Args:
        make: Makes one simulation from the arguments of its constructor.
        surrogate: Whether the network stands in for its solver.
        arguments: Of `ReportStepsWrapper`.
        feedback: Which output of the network is which input of the next step; None leaves it to the samples.
        given: Whether the simulation takes the inputs of a person.
    """

    def __init__(
        self,
        make: Callable[..., Env],
        surrogate: bool,
        arguments: Mapping[str, Any],
        feedback: Feedback | None = None,
        *,
        given: bool = False,
    ) -> None:
        self._given = given
        self._make, self._surrogate, self._arguments = make, surrogate, dict(arguments)
        self._feedback = feedback

    def __call__(self, **kwargs: Any) -> Env:
        """Make one."""
        make: Callable[[], Env] = functools.partial(self._make, **kwargs)
        if self._surrogate:
            make = functools.partial(SurrogateEnv, make, feedback=self._feedback)
        return ReportStepsWrapper(with_inputs(make) if self._given else make(), **self._arguments)


def read_reported_steps(rows: NamedSamples) -> Iterator[ReportedStep]:
    """Read the steps that workers report.

    Args:
        rows: These, with their reports; episodes that end say so.

    Yields:
        What the worker reports of each step.
    """
    names, reports, ends = rows.names, rows.reports, rows.ending_names
    assert reports is not None
    endings = dict(zip(zip(ends.episodes.tolist(), ends.steps.tolist(), strict=True), rows.endings, strict=True))
    reasons = dict(zip(reports.rejected.tolist(), reports.reasons, strict=True))
    given: dict[int, list[Any]] = {}
    for place, *change in reports.inputs:
        given.setdefault(place, []).append(change)
    fields = [(n, list(v)) for n, v in rows.samples.items() if not n.startswith(PREDICTION)]
    predicted = [(n.removeprefix(PREDICTION), list(v)) for n, v in rows.samples.items() if n.startswith(PREDICTION)]
    columns = (*names.columns, reports.rewards, reports.solver_seconds, reports.network_seconds)
    lists = (column.tolist() for column in columns)
    places = itertools.count()  # of those that were not rejected among the samples
    for i, (episode, step, seed, reward, solver, network) in enumerate(zip(*lists, strict=True)):
        sample = prediction = None
        if i not in reasons:
            place = next(places)
            sample = {name: np.asarray(column[place]) for name, column in fields}
            prediction = {name: np.asarray(column[place]) for name, column in predicted} or None
        ending = endings.get((episode, step), "")
        info = {GIVEN: given[i]} if i in given else {}
        transition = Transition(step, None, None, reward, bool(ending), info, sample, reasons.get(i, ""), None, ending)
        yield ReportedStep(episode, seed, transition, prediction, solver, network)


def without_predictions(spec: SampleSpec) -> SampleSpec:
    """Return the fields of a sample alone, without predictions that were made in a worker."""
    return SampleSpec([f for f in spec.values() if not f.name.startswith(PREDICTION)])


def prediction_user(env: gymnasium.Env[Any, Any]) -> Callable[[Mapping[str, Array]], None] | None:
    """Return the simulation's ``apply_prediction``, None where it has none of its own."""
    inner = env.unwrapped
    method = None if isinstance(inner, SurrogateEnv) else getattr(inner, "apply_prediction", None)
    ignored = getattr(method, "__func__", None) is Simulation.apply_prediction
    return None if ignored else method


def _anything(f: Field) -> spaces.Space[Any]:
    low: float = -np.inf
    high: float = np.inf
    if f.dtype.kind in "iu":
        low, high = np.iinfo(f.dtype).min, np.iinfo(f.dtype).max
    elif f.dtype.kind == "b":
        low, high = 0, 1
    made: spaces.Space[Any] = spaces.Box(low, high, f.shape, dtype=f.dtype.type)
    return made
