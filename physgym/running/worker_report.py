"""Rows in which the steps of a run travel from a worker, rejected ones included.

Rejected steps are rows like others, since a run counts them as steps, and each has its time and its reward; the
rejected samples of a rollout have neither. torch is not imported here, since workers use it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from physgym import spaces as walk
from physgym.episode import TOO_MANY_REJECTS, Transition, require_spec
from physgym.errors import SampleError
from physgym.placement import Env
from physgym.running.field_checks import nonfinite
from physgym.running.run_step import PREDICTION
from physgym.running.surrogate import SurrogateEnv
from physgym.sample import Field, Sample, SampleSpec, declared
from physgym.simulation import Simulation
from physgym.spaces import Array

REASON = 160  # bytes of the reason of a rejected step that travel from a worker
SOLVER_TIME, REJECTED = "run/solver_seconds", "run/reason"
ABOUT_STEP = (SOLVER_TIME, "run/network_seconds", "run/reward", "run/last", REJECTED)


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


class RowLayout:
    """The row that a worker makes of a step, declared as a sample.

    Args:
        env: The simulation, or a surrogate.
        spec: The fields of its samples.
        outputs: What the network predicts.
        surrogate: Whether the network stands in for the solver: its outputs are predictions then, and no fields.
        predicted: Whether predictions are made in the worker.

    Attributes:
        fields: Names of the sample's fields that rows have.
        predicted: Names of the predicted fields that they have.
        space: The fields of a row, as ``sample_space``.
        declarations: The other declarations of samples, by the name of the environment's attribute.
    """

    def __init__(
        self, env: Env, spec: SampleSpec, outputs: Sequence[Field], *, surrogate: bool, predicted: bool
    ) -> None:
        names = [f.name for f in outputs]
        self.fields = [name for name in spec if not surrogate or name not in names]
        self.predicted = names if predicted else []
        self._about = tuple(name for name in ABOUT_STEP if not (surrogate and name == SOLVER_TIME))
        every = walk.leaf_spaces(declared(env, "sample_space"))
        number = spaces.Box(-np.inf, np.inf, (), np.float64)
        predictions = [(f"{PREDICTION}{f.name}", f) for f in outputs if f.name in self.predicted]
        self.space = spaces.Dict(
            [
                *((name, every[name]) for name in self.fields),
                *((name, _anything(f)) for name, f in predictions),
                *((name, number) for name in self._about if name != REJECTED),
                (REJECTED, spaces.Box(0, 255, (REASON,), np.uint8)),
            ]
        )
        kept = [spec[name] for name in self.fields]
        roles, units = dict(declared(env, "sample_roles") or {}), dict(declared(env, "sample_units") or {})
        self.declarations: dict[str, dict[str, Any]] = {
            "sample_roles": {name: role for name, role in roles.items() if name in self.fields},
            "sample_units": {name: unit for name, unit in units.items() if name in self.fields},
            "sample_dimensions": {f.name: f.dimensions for f in kept if f.dimensions is not None},
            "sample_kinds": {f.name: f.kind for f in kept},
            "sample_masks": {f.name: f.mask for f in kept if f.mask in self.fields},
            "sample_feedback": {f.name: f.feeds for f in kept if f.feeds in self.fields},
        }
        self._zeros = {name: np.zeros(f.shape, f.dtype) for name, f in [*((f.name, f) for f in kept), *predictions]}

    def rejected(self) -> Sample:
        """Return the fields of a rejected step, which has none: zeros."""
        return dict(self._zeros)

    def predictions(self, prediction: Mapping[str, Any]) -> Sample:
        """Return the fields of a prediction."""
        return {f"{PREDICTION}{name}": np.asarray(prediction[name]) for name in self.predicted}

    def about(self, solver: float, network: float, reward: float, last: bool, reason: bytes) -> dict[str, Any]:
        """Return what a row says of its step.

        Args:
            solver: Time of the simulation's step.
            network: Time of the prediction.
            reward: The reward.
            last: Whether the episode ends with it.
            reason: Why it was rejected, empty where it was not.
        """
        text = np.frombuffer(reason.ljust(REASON, b"\0"), np.uint8)
        said: dict[str, Any] = dict(zip(ABOUT_STEP, (solver, network, reward, float(last), text), strict=True))
        return {name: said[name] for name in self._about}


class ReportStepsWrapper(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Makes a row of every step, rejected ones included: what is known of it, as the fields of a sample.

    A prediction is made here, after the step, only where the simulation is to get it.

    Args:
        env: The simulation, or a surrogate.
        inputs: What feeds the network.
        outputs: What it predicts.
        apply: Whether the simulation gets predictions, if it uses them.
        max_steps: Where episodes are cut.
        max_rejects: Fail after so many rejected steps in a row.

    Raises:
        SampleError: The environment declares no samples.
    """

    def __init__(
        self, env: Any, inputs: Sequence[str], outputs: Sequence[Field], apply: bool, max_steps: int, max_rejects: int
    ) -> None:
        super().__init__(env)
        inner = env.unwrapped
        self._spec, self._inputs, self._name = require_spec(env), tuple(inputs), type(inner).__name__
        self._surrogate = inner if isinstance(inner, SurrogateEnv) else None
        self._apply = prediction_user(env) if apply else None
        if self._apply is not None and not hasattr(inner, "predictor"):
            inner.predictor = None  # to be set by the host
        self._max_steps, self._max_rejects = max_steps, max_rejects
        surrogate = self._surrogate is not None
        predicted = surrogate or self._apply is not None
        self._row = RowLayout(env, self._spec, outputs, surrogate=surrogate, predicted=predicted)
        self.sample_space = self._row.space
        self._step, self._rejects = 0, 0

    @property
    def sample_roles(self) -> dict[str, Any]:
        """Return the roles of the sample's fields among those of a row."""
        return self._row.declarations["sample_roles"]

    @property
    def sample_units(self) -> dict[str, Any]:
        """Return their units."""
        return self._row.declarations["sample_units"]

    @property
    def sample_dimensions(self) -> dict[str, Any]:
        """Return the names of their dimensions."""
        return self._row.declarations["sample_dimensions"]

    @property
    def sample_kinds(self) -> dict[str, Any]:
        """Return their kinds."""
        return self._row.declarations["sample_kinds"]

    @property
    def sample_masks(self) -> dict[str, Any]:
        """Return their masks."""
        return self._row.declarations["sample_masks"]

    @property
    def sample_feedback(self) -> dict[str, Any]:
        """Return which of them feeds which."""
        return self._row.declarations["sample_feedback"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._step, self._rejects = 0, 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Make a step; ``info["sample"]`` is the row."""
        start = time.perf_counter()
        observation, reward, terminated, truncated, info = self.env.step(action)
        solver, network = time.perf_counter() - start, 0.0
        self._step += 1
        last = terminated or truncated or self._step == self._max_steps
        sample, reason = info.get("sample"), b""
        if sample is None:
            reason, row = self._count_rejected(info), self._row.rejected()
        else:
            self._rejects = 0
            checked = self._spec.check(sample, self._name)
            row = {name: checked[name] for name in self._row.fields}
            if self._surrogate is not None:
                network = self._surrogate.network_seconds
                row |= self._row.predictions(self._surrogate.prediction or {})
            elif self._apply is not None:
                start = time.perf_counter()
                prediction = self._ask({name: checked[name] for name in self._inputs})
                network = time.perf_counter() - start
                row |= self._row.predictions(prediction)
                if not nonfinite(prediction):
                    self._apply(prediction)
        row |= self._row.about(solver, network, float(reward), last, reason)
        return observation, reward, terminated, truncated, {**info, "sample": row}

    def _count_rejected(self, info: Mapping[str, Any]) -> bytes:
        """Return why a step was rejected.

        Raises:
            SampleError: Too many were rejected in a row.
        """
        why = str(info.get("rejected", "the step returned no sample"))
        self._rejects += 1
        if self._rejects >= self._max_rejects:
            raise SampleError(
                TOO_MANY_REJECTS.format(where=self._name, count=self._rejects, limit=self._max_rejects, reason=why)
            )
        return (why.encode() or b"?")[:REASON]

    def _ask(self, fed: Sample) -> Sample:
        predict: Any = self.unwrapped.predictor  # type: ignore[attr-defined]  # set above
        return dict(predict(fed))


class ReportStepsFactory:
    """Makes the environments of workers.

    Args:
        make: Makes one simulation from the arguments of its constructor.
        surrogate: Whether the network stands in for its solver.
        arguments: Of `ReportStepsWrapper`.
    """

    def __init__(self, make: Callable[..., Env], surrogate: bool, arguments: Mapping[str, Any]) -> None:
        self._make, self._surrogate, self._arguments = make, surrogate, dict(arguments)

    def __call__(self, **kwargs: Any) -> Env:
        """Make one."""
        make = functools.partial(self._make, **kwargs)
        return ReportStepsWrapper(SurrogateEnv(make) if self._surrogate else make(), **self._arguments)


def read_reported_steps(
    samples: Sample, episodes: Sequence[int], steps: Sequence[int], seeds: Sequence[int]
) -> Iterator[ReportedStep]:
    """Read the rows that `ReportStepsWrapper` made of steps.

    Args:
        samples: The rows, each field of shape (n, ...).
        episodes: Their episodes.
        steps: Their steps.
        seeds: Seeds of their episodes.

    Yields:
        What the worker reports of each step.
    """
    unknown = np.full(len(samples[REJECTED]), np.nan)  # seconds, where a network stands in for the solver
    solver, network, rewards, lasts = (samples.get(name, unknown).tolist() for name in ABOUT_STEP if name != REJECTED)
    reasons = samples[REJECTED]
    fields = [(n, list(v)) for n, v in samples.items() if n not in ABOUT_STEP and not n.startswith(PREDICTION)]
    predicted = [(n.removeprefix(PREDICTION), list(v)) for n, v in samples.items() if n.startswith(PREDICTION)]
    rejected = reasons[:, 0] != 0
    for i, (episode, step, seed) in enumerate(zip(episodes, steps, seeds, strict=True)):
        reason, sample, prediction = "", None, None
        if rejected[i]:
            reason = reasons[i].tobytes().rstrip(b"\0").decode(errors="replace")
        else:
            sample = {name: np.asarray(column[i]) for name, column in fields}
            prediction = {name: np.asarray(column[i]) for name, column in predicted} or None
        transition = Transition(step, None, None, rewards[i], bool(lasts[i]), {}, sample, reason)
        yield ReportedStep(episode, seed, transition, prediction, solver[i], network[i])


def reported_sample_fields(spec: SampleSpec) -> tuple[SampleSpec, bool]:
    """Return the fields of a sample among those of rows, and whether a network makes the steps."""
    own = [f for f in spec.values() if f.name not in ABOUT_STEP and not f.name.startswith(PREDICTION)]
    return SampleSpec(own), SOLVER_TIME not in spec


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
