"""`Runner`: a trained network inside its simulation, next to the solver."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.metrics import Errors, compare
from physgym.nn import Predictor
from physgym.progress import Progress
from physgym.rollout import (
    DEFAULT_MAX_REJECTS,
    DEFAULT_MAX_STEPS,
    Policy,
    Transition,
    episode_policy,
    episode_seed,
    require_spec,
    run_episode,
)
from physgym.sample import Field, Sample, SampleSpec, declared
from physgym.samplers import EpisodePolicy, Sampler, SamplerLike, draw_parameters, find_sampler, rebuild_sampler
from physgym.sim import Simulation
from physgym.spaces import Array, leaf_spaces, unflatten
from physgym.training.checkpoint import load_checkpoint
from physgym.training.events import Callback, Callbacks
from physgym.vector.entry import EnvLike, env_factory

WRONG_FIELD = (
    "the network was trained on field {name!r} as {want}, the simulation has {got}. Use the environment arguments of "
    "the training, or a network trained for these"
)
DIFFERS = (
    "{where}: the simulation gives another {name!r} than the dataset holds. Use the environment arguments, actions and "
    "physgym version with which it was made"
)
OTHER_PARAMETERS = (
    "the dataset was made with given parameters of episodes, of which it holds {known}; the simulation declares "
    "{space}. Use the simulation with which it was made"
)


@dataclass(frozen=True)
class RunStep:
    """One step of a run.

    Attributes:
        episode: Index of the episode.
        transition: What the simulation did.
        prediction: What the network predicts for the step's inputs; None where the step was rejected.
        solver_seconds: Time of the simulation's step.
        network_seconds: Time of the prediction, transforms included.
    """

    episode: int
    transition: Transition
    prediction: Sample | None
    solver_seconds: float
    network_seconds: float

    @property
    def fields(self) -> Sample:
        """The sample's fields and, as ``prediction/<name>``, the predicted ones; empty where it was rejected."""
        if self.prediction is None or self.transition.sample is None:
            return {}
        return {**self.transition.sample, **{f"prediction/{name}": v for name, v in self.prediction.items()}}


@dataclass
class RunReport:
    """What a run showed.

    Attributes:
        errors: Errors by predicted field, over the steps that were not rejected.
        solver_seconds: Per step, shape (n,).
        network_seconds: Per step, shape (n,).
        steps: Steps made, rejected ones included.
        rejected: Rejected steps.
        interrupted: Whether Ctrl-C ended the run.
    """

    errors: dict[str, Errors] = field(default_factory=dict)
    solver_seconds: Array = field(default_factory=lambda: np.zeros(0))
    network_seconds: Array = field(default_factory=lambda: np.zeros(0))
    steps: int = 0
    rejected: int = 0
    interrupted: bool = False


class Runner:
    """Runs a trained network in one environment, next to the solver.

    After each step the network predicts from the step's inputs, and the simulation gets the prediction through
    ``apply_prediction`` (a ghost to display, a correction, an initial guess). A `Simulation` may also ask for one in
    the middle of a step.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes the environment.
        predictor: A trained network, or the folder of its checkpoint.
        seed: Seed of the run; episodes are those that generation with this seed would give.
        env_kwargs: Arguments of the environment's constructor, ``render_mode`` among them.
        actions: What draws the actions, as in `physgym.generate`; None leaves it to the environment.
        parameters: What draws the parameters of episodes, likewise.
        record: Dataset folder that gets samples and predictions, in mode "prediction"; None records nothing.
        max_steps: Truncate an episode after so many steps.
        max_rejects: Give up after so many rejected steps in a row.

    Attributes:
        env: The environment.
        predictor: The network.
        spec: The sample fields of the environment.
        last: The last step, None before the first.

    Raises:
        ConfigError: The id is unknown, or the network does not fit the simulation's fields.
        CheckpointError: There is no usable checkpoint.
        SampleError: The environment declares no samples.
        DatasetError: The record exists already.
    """

    def __init__(
        self,
        env: EnvLike,
        predictor: Predictor | str | Path,
        *,
        seed: int = 0,
        env_kwargs: Mapping[str, Any] | None = None,
        actions: SamplerLike = None,
        parameters: SamplerLike = None,
        record: str | Path | None = None,
        max_steps: int = DEFAULT_MAX_STEPS,
        max_rejects: int = DEFAULT_MAX_REJECTS,
    ) -> None:
        if seed < 0 or max_steps < 1 or max_rejects < 1:
            numbers = f"{seed}, {max_steps}, {max_rejects}"
            raise ConfigError(f"seed must not be negative, max_steps and max_rejects at least 1; got {numbers}")
        self.predictor = predictor if isinstance(predictor, Predictor) else load_checkpoint(predictor)
        self._acting, self._drawing = find_sampler(actions, "actions"), find_sampler(parameters, "parameters")
        self._limits: dict[str, Any] = {"max_steps": max_steps, "max_rejects": max_rejects}
        self.env = env_factory(env, dict(env_kwargs or {}))()
        try:
            self.spec = require_spec(self.env)
            self._check_fields()
            if hasattr(self.env.unwrapped, "predictor"):
                self.env.unwrapped.predictor = self.predictor.predict
            self._apply = getattr(self.env.unwrapped, "apply_prediction", None)
            self._writer = None if record is None else self._make_writer(record, seed)
            self._policy = self._policies(self._acting, seed)
            space = declared(self.env, "parameter_space")
            self._draw = draw_parameters(self._drawing, space, seed, str(self.env))
        except BaseException:
            self.env.close()
            raise
        self.seed = seed
        self.last: RunStep | None = None

    def steps(self) -> Iterator[RunStep]:
        """Steps of the run, without end."""
        for episode in itertools.count():
            options = None if self._draw is None else {"parameters": self._draw(episode)}
            seed = episode_seed(self.seed, episode)
            yield from self._episode(episode, seed, self._policy(episode), options, **self._limits)

    def replay(self, dataset: SampleDataset) -> Iterator[RunStep]:
        """The stored steps of a dataset again: its episodes are run anew from their seeds.

        Parameters, the sampler of actions and limits are those of the dataset; a function or a network that gave its
        actions is to be given to the runner again.

        Args:
            dataset: Made by the same simulation with the same arguments.

        Raises:
            ConfigError: What gave the actions of the dataset cannot be rebuilt and was not given.
            DatasetError: The simulation does not give what is stored.
        """
        source = dataset.source
        acting = self._acting or rebuild_sampler(source.get("actions"), "actions")
        policy = self._policies(acting, source.get("seed", self.seed))
        options = self._stored_parameters(dataset)
        max_steps = source.get("max_steps", self._limits["max_steps"])
        limits = {"max_steps": max_steps, "max_rejects": max_steps, "nonfinite": source.get("nonfinite", "error")}
        names = zip(*(dataset.index(name).tolist() for name in ("episode", "step", "seed")), strict=True)
        rows: dict[tuple[int, int], dict[int, int]] = {}
        for row, (episode, step, seed) in enumerate(names):
            rows.setdefault((episode, seed), {})[step] = row
        for (episode, seed), stored in rows.items():
            where, last, step = f"episode {episode}", max(stored), -1
            for again in self._episode(episode, seed, policy(episode), options(episode), **limits):
                step = again.transition.step
                if step in stored:
                    _check_same(dataset[stored[step]], again, f"{where}, step {step}")
                    yield again
                if step == last:
                    break
            if step < last:
                raise DatasetError(DIFFERS.format(where=where, name="length"))

    def _policies(self, sampler: Sampler | None, seed: int) -> EpisodePolicy:
        return episode_policy(self.env) if sampler is None else sampler.actions(self.env.action_space, seed)

    def _stored_parameters(self, dataset: SampleDataset) -> Callable[[int], dict[str, Any] | None]:
        """Options of the reset of an episode of a dataset, by its index."""
        if dataset.source.get("parameters") is None:
            return lambda _: None  # the environment drew them itself, from the seed
        space = declared(self.env, "parameter_space")
        stored, episodes = dataset.parameters, dataset.parameter_episodes
        if space is None or stored is None or episodes is None or list(stored) != list(leaf_spaces(space)):
            known = "none" if stored is None else list(stored)
            raise DatasetError(OTHER_PARAMETERS.format(known=known, space=space))
        row_of = {episode: row for row, episode in enumerate(episodes.tolist())}
        if len(row_of) < len(episodes):
            raise DatasetError("several datasets with parameters were joined; replay them one at a time")

        def options(episode: int) -> dict[str, Any]:
            row = row_of.get(episode)
            if row is None:
                raise DatasetError(f"the dataset has no parameters of episode {episode}, so it cannot be replayed")
            return {"parameters": unflatten(space, iter([column[row] for column in stored.values()]))}

        return options

    def _episode(
        self, episode: int, seed: int, policy: Policy, options: dict[str, Any] | None, **limits: Any
    ) -> Iterator[RunStep]:
        env = self.env.unwrapped
        if isinstance(env, Simulation):
            env.nonfinite = "error" if limits.get("nonfinite", "error") == "error" else "allow"
        transitions = run_episode(
            self.env,
            self.spec,
            seed=seed,
            policy=policy,
            where=f"episode {episode}",
            options=options,
            begun=lambda info: self._record_parameters(info, episode, seed),
            **limits,
        )
        while True:
            start = time.perf_counter()
            transition = next(transitions, None)
            solved = time.perf_counter()
            if transition is None:
                return
            prediction = None
            if transition.sample is not None:
                prediction = self.predictor.predict(transition.sample)
            predicted = time.perf_counter()
            if prediction is not None and self._apply is not None:
                self._apply(prediction)
            step = RunStep(episode, transition, prediction, solved - start, predicted - solved)
            self._record(step, seed)
            yield step

    def run(
        self,
        steps: int | None = None,
        *,
        replay: SampleDataset | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> RunReport:
        """Run a number of steps, or until Ctrl-C.

        Args:
            steps: How many; None goes on until Ctrl-C, and then reports counts alone.
            replay: Replay these samples instead of new episodes, all of them if `steps` is None.
            callbacks: Get the events of a prediction run; `Runner.last` holds the step.
            progress: Whether to show a progress bar.

        Raises:
            ConfigError: The number of steps is not positive.
        """
        if steps is not None and steps < 1:
            raise ConfigError(f"steps must be at least 1, not {steps}; None runs until Ctrl-C")
        if replay is not None:
            steps = min(steps or len(replay), len(replay))
        source = self.steps() if replay is None else self.replay(replay)
        report = RunReport()
        done: list[RunStep] = []
        events = Callbacks(callbacks)
        try:
            events.emit("prediction_begin", self)
            with Progress(steps, "run", "step", enabled=progress) as bar:
                while steps is None or report.steps < steps:
                    events.emit("sample_begin", self)
                    self.last = step = next(source)
                    report.steps += 1
                    report.rejected += step.prediction is None
                    if steps is not None and step.prediction is not None:
                        done.append(step)  # a run without end would fill the memory
                    events.emit("sample_end", self, step.fields)
                    bar.update()
        except KeyboardInterrupt:
            report.interrupted = True
        finally:
            events.emit("prediction_end", self)
            events.close()
        self._summarize(report, done)
        return report

    def close(self) -> None:
        """Close the environment and complete the record; calling it again does no harm."""
        self.env.close()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def _summarize(self, report: RunReport, done: list[RunStep]) -> None:
        report.solver_seconds = np.array([step.solver_seconds for step in done])
        report.network_seconds = np.array([step.network_seconds for step in done])
        if not done:
            return
        for name in self.predictor.outputs:
            pairs = [
                (s.prediction[name], s.transition.sample[name]) for s in done if s.prediction and s.transition.sample
            ]
            prediction, target = (np.stack(column) for column in zip(*pairs, strict=True))
            report.errors[name] = compare(prediction, target)

    def _check_fields(self) -> None:
        for name, want in self.predictor.spec.items():
            got = self.spec.get(name)
            if got is None or got.shape != want.shape:
                shown = "none" if got is None else f"{got.dtype} {got.shape}"
                raise ConfigError(WRONG_FIELD.format(name=name, want=f"{want.dtype} {want.shape}", got=shown))

    def _make_writer(self, record: str | Path, seed: int) -> SampleWriter:
        predicted = [
            Field(f"prediction/{name}", f.shape, f.dtype, "additional", f.unit)
            for name, f in self.predictor.spec.items()
            if name in self.predictor.outputs
        ]
        spec = SampleSpec([*self.spec.values(), *predicted])
        source = {
            "run": str(self.env.spec),
            "seed": seed,
            "max_steps": self._limits["max_steps"],
            "actions": None if self._acting is None else self._acting.describe(),
            "parameters": None if self._drawing is None else self._drawing.describe(),
        }
        self._parameter_spec = SampleSpec.parameters_of(self.env)
        return SampleWriter(record, spec, mode="prediction", source=source, parameters=self._parameter_spec)

    def _record_parameters(self, info: Mapping[str, Any], episode: int, seed: int) -> None:
        if self._writer is None or self._parameter_spec is None:
            return
        parameters = self._parameter_spec.check(info.get("parameters", {}), f"episode {episode}, parameters")
        self._writer.add_parameters(
            {name: value[np.newaxis] for name, value in parameters.items()},
            episode=np.array([episode]),
            seed=np.array([seed], np.uint64),
        )

    def _record(self, step: RunStep, seed: int) -> None:
        if self._writer is None or not step.fields:
            return
        self._writer.append(
            {name: np.asarray(value)[np.newaxis] for name, value in step.fields.items()},
            episode=np.array([step.episode]),
            step=np.array([step.transition.step]),
            seed=np.array([seed], np.uint64),
        )


def _check_same(stored: Sample, again: RunStep, where: str) -> None:
    sample = again.transition.sample
    if sample is None:
        raise DatasetError(DIFFERS.format(where=where, name="outcome"))
    for name, value in stored.items():
        # to the bit, which NaN equals as well
        if name in sample and np.asarray(value).tobytes() != np.asarray(sample[name]).tobytes():
            raise DatasetError(DIFFERS.format(where=where, name=name))


class SaveFrames(Callback):
    """Writes a picture after each step of a run, as ``step-00000.png`` and so on.

    Args:
        folder: Where to; made if needed.

    Raises:
        ConfigError: The environment was made without ``render_mode="rgb_array"``.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._count = 0

    def prediction_begin(self, pipeline: Any) -> None:
        """Make the folder."""
        if pipeline.env.render_mode != "rgb_array":
            raise ConfigError('pictures need an environment made with env_kwargs={"render_mode": "rgb_array"}')
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the folder {self.folder} for pictures: {error.strerror}") from error

    def sample_end(self, pipeline: Any, sample: Mapping[str, Any]) -> None:
        """Write the picture."""
        from matplotlib.image import imsave

        imsave(self.folder / f"step-{self._count:05d}.png", pipeline.env.render())
        self._count += 1
