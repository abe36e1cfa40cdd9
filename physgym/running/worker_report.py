"""What a run keeps of its steps: the step itself, figures, a record; and how steps travel from a worker.

torch is not imported here, since workers use it.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from physgym import spaces as walk
from physgym.episode import TOO_MANY_REJECTS, Transition, require_spec
from physgym.errors import SampleError
from physgym.placement import Env
from physgym.running.field_checks import nonfinite
from physgym.running.prediction_errors import Errors, compare
from physgym.running.surrogate import SurrogateEnv
from physgym.sample import Field, Sample, SampleSpec, declared
from physgym.simulation import Simulation
from physgym.spaces import Array

if TYPE_CHECKING:
    from physgym.data.writer import SampleWriter

PREDICTION, ERROR = "prediction/", "error/"  # prefixes of what a run adds to the fields of a sample
BLOCK_ROWS, BLOCK_BYTES = 64, 1 << 20  # of steps whose errors are computed, and which are stored, together
BLOCK_SECONDS = 0.2  # or as many as come in this time
WINDOW = 100_000  # steps of which a run without end keeps the figures
REASON = 160  # bytes of the reason of a rejected step that travel from a worker


@dataclass(frozen=True, slots=True)
class RunStep:
    """One step of a run.

    Attributes:
        episode: Index of the episode.
        transition: What the simulation did. From a worker, and in a replay without the solver, it has no action, no
            observation and no info; there and in a run of the network alone the sample is all that there is.
        prediction: What the network predicts for the step's inputs; None where the step was rejected.
        solver_seconds: Time of the simulation's step; NaN where no solver ran.
        network_seconds: Time of the prediction, transforms included; its share where it was one of a batch.
        seed: Seed of the episode.
        env: Number of the simulation, in a replay of a dataset that has several.
        compared: Whether the prediction is compared with the sample.
    """

    episode: int
    transition: Transition
    prediction: Sample | None
    solver_seconds: float
    network_seconds: float
    seed: int = 0
    env: int = 0
    compared: bool = True

    @property
    def errors(self) -> dict[str, np.float32]:
        """Relative L2 error of each predicted field that the sample has; empty where nothing is compared."""
        sample = self.transition.sample
        if self.prediction is None or sample is None or not self.compared:
            return {}
        both = [name for name in self.prediction if name in sample]
        return {name: _relative(self.prediction[name][None], np.asarray(sample[name])[None])[0] for name in both}

    @property
    def fields(self) -> Sample:
        """The sample's fields, the predicted ones as ``prediction/<name>``, their errors as ``error/<name>``.

        Empty where the step was rejected.
        """
        if self.prediction is None or self.transition.sample is None:
            return {}
        return {
            **self.transition.sample,
            **{f"{PREDICTION}{name}": value for name, value in self.prediction.items()},
            **{f"{ERROR}{name}": np.asarray(value) for name, value in self.errors.items()},
        }


@dataclass
class RunReport:
    """What a run showed; as text, a summary of it.

    Attributes:
        errors: Errors by predicted field, over the steps that were not rejected; empty where there was no solver to
            compare with, and of the last 100,000 steps in a run without end.
        solver_seconds: Time of each of these steps in the simulation, shape (n,); empty where no solver ran.
        network_seconds: Time of each prediction, shape (n,).
        steps: Steps made, rejected ones included.
        rejected: Rejected steps.
        nonfinite: Predictions with a value that is not finite.
        interrupted: Whether Ctrl-C ended the run.
        units: Units of the predicted fields.
    """

    errors: dict[str, Errors] = field(default_factory=dict)
    solver_seconds: Array = field(default_factory=lambda: np.zeros(0))
    network_seconds: Array = field(default_factory=lambda: np.zeros(0))
    steps: int = 0
    rejected: int = 0
    nonfinite: int = 0
    interrupted: bool = False
    units: dict[str, str] = field(default_factory=dict)

    @property
    def latency_ms(self) -> dict[str, float]:
        """Median and 95th percentile of the time per step in ms: "network_median", "network_p95", "solver_..."."""
        found: dict[str, float] = {}
        for name, seconds in (("network", self.network_seconds), ("solver", self.solver_seconds)):
            if len(seconds):
                found[f"{name}_median"], found[f"{name}_p95"] = (np.percentile(seconds, [50, 95]) * 1e3).tolist()
        return found

    def __str__(self) -> str:
        counts = [f"{self.steps} steps", f"{self.rejected} rejected"]
        if self.nonfinite:
            counts.append(f"{self.nonfinite} predictions not finite")
        lines = [", ".join(counts)]
        for name, errors in self.errors.items():
            summary, unit = errors.summary, f" {self.units.get(name, '')}".rstrip()
            lines.append(
                f"{name}: relative L2 error {summary['relative_l2']:.2%}, "
                f"mean error {summary['mean_error']:.4g}{unit}, largest {summary['max_error']:.4g}{unit}"
            )
        latency = self.latency_ms
        times = [
            f"{name} median {latency[f'{name}_median']:.3g} ms, 95th percentile {latency[f'{name}_p95']:.3g} ms"
            for name in ("network", "solver")
            if f"{name}_median" in latency
        ]
        return "\n".join([*lines, *(["time per step: " + "; ".join(times)] if times else [])])


class Ledger:
    """Takes the steps of a run; errors are computed, and rows stored, block by block.

    Args:
        sample: The fields of a sample that steps have.
        outputs: The predicted fields.
        compare: Whether predictions are compared with the samples that have the same fields.
        writer: Stores the steps, None to store nothing; its fields are those of `record_fields`.
        window: Keep the figures of so many steps at least, and not of all.
    """

    def __init__(
        self,
        sample: SampleSpec,
        outputs: Sequence[Field],
        *,
        compare: bool,
        writer: SampleWriter | None = None,
        window: int | None = None,
    ) -> None:
        self._compared = [f.name for f in outputs if compare and f.name in sample]
        self._writer, self._window = writer, window
        kept = [f for f in sample.values() if writer is not None or f.name in self._compared]
        each = sum(f.nbytes for f in [*kept, *outputs])
        self._size = max(1, min(BLOCK_ROWS, BLOCK_BYTES // max(1, each)))
        self._samples = [(f.name, np.empty((self._size, *f.shape), f.dtype)) for f in kept]
        self._predictions = [(f.name, np.empty((self._size, *f.shape), f.dtype)) for f in outputs]
        self._names = {
            name: np.empty(self._size, dtype)
            for name, dtype in (("episode", np.int64), ("step", np.int64), ("seed", np.uint64), ("env", np.int32))
        }
        self._times = np.empty((self._size, 2))
        self._fill, self._since = 0, 0.0
        self._figures: deque[tuple[Array, dict[str, Errors]]] = deque()
        self._kept = 0
        self.nonfinite = 0

    def add(self, step: RunStep) -> None:
        """Take a step; a rejected one leaves no trace.

        Raises:
            SampleError: A value does not fit its field.
            DatasetError: The disk refuses a write.
        """
        sample, prediction = step.transition.sample, step.prediction
        if sample is None or prediction is None:
            return
        i = self._fill
        for name, column in self._samples:
            column[i] = sample[name]
        for name, column in self._predictions:
            column[i] = prediction[name]
        self._times[i] = step.network_seconds, step.solver_seconds
        if self._writer is not None:
            names = self._names
            names["episode"][i], names["step"][i] = step.episode, step.transition.step
            names["seed"][i], names["env"][i] = step.seed, step.env
        self._fill = i + 1
        now = time.monotonic()
        if not i:
            self._since = now
        if i + 1 == self._size or now - self._since > BLOCK_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Compute and store what there is."""
        count, self._fill = self._fill, 0
        if not count:
            return
        samples = {name: column[:count] for name, column in self._samples}
        predictions = {name: column[:count] for name, column in self._predictions}
        if nonfinite(predictions):
            good = np.all([np.isfinite(v.reshape(count, -1)).all(1) for v in predictions.values()], axis=0)
            self.nonfinite += count - int(good.sum())
        with np.errstate(over="ignore", invalid="ignore"):
            errors = {name: compare(predictions[name], samples[name]) for name in self._compared}
        if self._writer is not None:
            rows = {
                **samples,
                **{f"{PREDICTION}{name}": value for name, value in predictions.items()},
                **{f"{ERROR}{name}": _as_stored(errors[name].relative_l2) for name in self._compared},
            }
            self._writer.append(rows, **{name: column[:count] for name, column in self._names.items()})
        self._figures.append((self._times[:count].copy(), errors))
        self._kept += count
        while self._window is not None and self._kept - len(self._figures[0][0]) >= self._window:
            self._kept -= len(self._figures.popleft()[0])

    def summarize(self, report: RunReport) -> None:
        """Put the figures in a report."""
        self.flush()
        report.nonfinite = self.nonfinite
        if not self._figures:
            return
        times = np.concatenate([times for times, _ in self._figures])
        report.network_seconds = times[:, 0]
        report.solver_seconds = times[~np.isnan(times[:, 1]), 1]
        for name in self._compared:
            parts = [errors[name] for _, errors in self._figures]
            report.errors[name] = Errors(
                *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Errors))
            )


def record_fields(sample: SampleSpec, outputs: Sequence[Field], *, compare: bool) -> SampleSpec:
    """The fields of what a run stores: those of the sample, the predicted ones, and errors where they are compared."""
    predicted = [Field(f"{PREDICTION}{f.name}", f.shape, f.dtype, "additional", f.unit) for f in outputs]
    compared = [f for f in outputs if compare and f.name in sample]
    errors = [Field(f"{ERROR}{f.name}", (), np.dtype(np.float32), "additional") for f in compared]
    # a mask that the network predicts, or that was not loaded for a replay, is not stored
    own = [replace(f, mask=f.mask if f.mask in sample else "") for f in sample.values()]
    return SampleSpec([*own, *predicted, *errors])


def without_additions(spec: SampleSpec) -> SampleSpec:
    """The fields of a sample alone, where a run stored more."""
    return SampleSpec([f for f in spec.values() if not f.name.startswith((PREDICTION, ERROR))])


def _relative(prediction: Array, target: Array) -> Any:
    with np.errstate(over="ignore", invalid="ignore"):
        return _as_stored(compare(prediction, target).relative_l2)


def _as_stored(errors: Array) -> Array:
    with np.errstate(over="ignore"):
        return errors.astype(np.float32)


# --- steps of a worker


class Reporting(gymnasium.Wrapper[Any, Any, Any, Any]):
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
        names = [f.name for f in outputs]
        self._fields = [name for name in self._spec if self._surrogate is None or name not in names]
        self._predicted = names if self._surrogate is not None or self._apply is not None else []
        every = walk.leaf_spaces(declared(env, "sample_space"))
        number = spaces.Box(-np.inf, np.inf, (), np.float64)
        self._row = _ROW if self._surrogate is None else tuple(name for name in _ROW if name != _SOLVER)
        self.sample_space = spaces.Dict(
            [
                *((name, every[name]) for name in self._fields),
                *((f"{PREDICTION}{f.name}", _anything(f)) for f in outputs if f.name in self._predicted),
                *((name, number) for name in self._row if name != _REASON),
                (_REASON, spaces.Box(0, 255, (REASON,), np.uint8)),
            ]
        )
        roles = dict(declared(env, "sample_roles") or {})
        units = dict(declared(env, "sample_units") or {})
        self.sample_roles = {name: role for name, role in roles.items() if name in self._fields}
        self.sample_units = {name: unit for name, unit in units.items() if name in self._fields}
        kept = [self._spec[name] for name in self._fields]
        self.sample_dimensions = {f.name: f.dimensions for f in kept if f.dimensions is not None}
        self.sample_kinds = {f.name: f.kind for f in kept}
        self.sample_masks = {f.name: f.mask for f in kept if f.mask in self._fields}
        self._nothing = {
            name: np.zeros(f.shape, f.dtype)
            for name, f in [
                *((name, self._spec[name]) for name in self._fields),
                *((f"{PREDICTION}{f.name}", f) for f in outputs if f.name in self._predicted),
            ]
        }
        self._step, self._rejects = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's own."""
        self._step, self._rejects = 0, 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's own; ``info["sample"]`` is the row."""
        start = time.perf_counter()
        observation, reward, terminated, truncated, info = self.env.step(action)
        solver, network = time.perf_counter() - start, 0.0
        self._step += 1
        last = terminated or truncated or self._step == self._max_steps
        sample, reason = info.get("sample"), b""
        if sample is None:
            why = str(info.get("rejected", "the step returned no sample"))
            self._rejects += 1
            if self._rejects >= self._max_rejects:
                raise SampleError(
                    TOO_MANY_REJECTS.format(where=self._name, count=self._rejects, limit=self._max_rejects, reason=why)
                )
            reason, row = (why.encode() or b"?")[:REASON], dict(self._nothing)
        else:
            self._rejects = 0
            checked = self._spec.check(sample, self._name)
            row = {name: checked[name] for name in self._fields}
            if self._surrogate is not None:
                network = self._surrogate.network_seconds
                row |= self._predictions(self._surrogate.prediction or {})
            elif self._apply is not None:
                start = time.perf_counter()
                prediction = self._ask({name: checked[name] for name in self._inputs})
                network = time.perf_counter() - start
                row |= self._predictions(prediction)
                if not nonfinite(prediction):
                    self._apply(prediction)
        text = np.frombuffer(reason.ljust(REASON, b"\0"), np.uint8)
        told: dict[str, Any] = dict(zip(_ROW, (solver, network, float(reward), float(last), text), strict=True))
        row |= {name: told[name] for name in self._row}
        return observation, reward, terminated, truncated, {**info, "sample": row}

    def _ask(self, fed: Sample) -> Sample:
        predict: Any = self.unwrapped.predictor  # type: ignore[attr-defined]  # set above
        return dict(predict(fed))

    def _predictions(self, prediction: Mapping[str, Any]) -> Sample:
        return {f"{PREDICTION}{name}": np.asarray(prediction[name]) for name in self._predicted}


class Reported:
    """Makes the environments of workers.

    Args:
        make: Makes one simulation from the arguments of its constructor.
        surrogate: Whether the network stands in for its solver.
        arguments: Of `Reporting`.
    """

    def __init__(self, make: Callable[..., Env], surrogate: bool, arguments: Mapping[str, Any]) -> None:
        self._make, self._surrogate, self._arguments = make, surrogate, dict(arguments)

    def __call__(self, **kwargs: Any) -> Env:
        """Make one."""
        make = functools.partial(self._make, **kwargs)
        return Reporting(SurrogateEnv(make) if self._surrogate else make(), **self._arguments)


_SOLVER, _REASON = "run/solver_seconds", "run/reason"
_ROW = (_SOLVER, "run/network_seconds", "run/reward", "run/last", _REASON)


def read_rows(
    samples: Sample, episodes: Sequence[int], steps: Sequence[int], seeds: Sequence[int]
) -> Iterator[tuple[int, int, Transition, Sample | None, float, float]]:
    """What `Reporting` said of steps.

    Args:
        samples: The rows, each field of shape (n, ...).
        episodes: Their episodes.
        steps: Their steps.
        seeds: Seeds of their episodes.

    Yields:
        Episode, seed, transition, prediction if it came along, seconds of the solver, seconds of the network.
    """
    without = np.full(len(samples[_REASON]), np.nan)  # seconds, where a network stands in for the solver
    solver, network, rewards, lasts = (samples.get(name, without).tolist() for name in _ROW if name != _REASON)
    reasons = samples[_REASON]
    fields = [(n, list(v)) for n, v in samples.items() if n not in _ROW and not n.startswith(PREDICTION)]
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
        yield episode, seed, transition, prediction, solver[i], network[i]


def fields_of_rows(spec: SampleSpec) -> tuple[SampleSpec, bool]:
    """The fields of a sample among those of rows, and whether a network makes the steps."""
    own = [f for f in spec.values() if f.name not in _ROW and not f.name.startswith(PREDICTION)]
    return SampleSpec(own), _SOLVER not in spec


def prediction_user(env: gymnasium.Env[Any, Any]) -> Callable[[Mapping[str, Array]], None] | None:
    """The simulation's ``apply_prediction``, None where it has none of its own."""
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
