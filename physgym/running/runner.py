"""`Runner`: a trained network inside its simulation, next to the solver or in its place."""

from __future__ import annotations

import functools
import itertools
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np

from physgym.code.made import describe_made
from physgym.code.record import Code, check_same, code_of
from physgym.data.constants import as_constants
from physgym.data.dataset import SampleDataset
from physgym.data.provenance import (
    begun,
    code_of_part,
    continued,
    overlaps,
    overlaps_with_draws,
)
from physgym.data.writer import SampleWriter, close_after, partition_files
from physgym.episode import (
    DEFAULT_MAX_REJECTS,
    DEFAULT_MAX_STEPS,
    SEED_RULE,
    Policy,
    Transition,
    episode_policy,
    episode_seed,
    part_seed,
    require_spec,
    run_episode,
    seeds_of,
)
from physgym.errors import ChangedCode, ConfigError, DatasetError
from physgym.events import Callback, Callbacks
from physgym.generation.generate import Rows, SampleStream, as_recorded, describable, recorded_source
from physgym.generation.stored_episodes import StoredEpisodes
from physgym.interrupt import Interrupt
from physgym.naming import env_name
from physgym.nn import Predictor
from physgym.progress import Progress
from physgym.registration import EnvLike, defaults_of, env_maker
from physgym.running.field_checks import check_fields, nonfinite
from physgym.running.surrogate import SurrogateEnv
from physgym.running.worker_report import (
    WINDOW,
    Ledger,
    Reported,
    RunReport,
    RunStep,
    fields_of_rows,
    prediction_user,
    read_rows,
    record_fields,
    without_additions,
)
from physgym.sample import Sample, SampleSpec, declared
from physgym.samplers import (
    Draw,
    EpisodePolicy,
    Loading,
    NetworkPolicy,
    Sampler,
    SamplerLike,
    draw_parameters,
    find_sampler,
    rebuild_sampler,
)
from physgym.simulation import Simulation
from physgym.spaces import leaf_spaces, unflatten
from physgym.storage.location import place
from physgym.training.checkpoint_files import load_checkpoint
from physgym.vector.arguments import Arguments, check_arguments
from physgym.vector.make import env_factories
from physgym.vector.vector_env import DEFAULT_TIMEOUT
from physgym.worker.folders import Folder
from physgym.worker.variants import ARGUMENTS, Variants

ROWS = 256  # steps that are taken from workers, or read from a dataset, at once
ROW_BYTES = 1 << 20
ENDLESS = 1 << 40  # steps that nobody makes

NUMBERS = "seed must not be negative, batch_size, max_steps and max_rejects at least 1; got {numbers}"
NO_PREDICTOR = (
    "a Runner takes a physgym.nn.Predictor or the folder of a session or checkpoint, not {got!r}: it needs to know "
    "which fields feed the network and which it predicts: Predictor(module, spec, inputs=[...], outputs=[...]). "
    "A function of fields alone is for SocketVectorEnv(predictor=...) and SurrogateEnv"
)
NO_ENV = "this runner has no environment: pass one to Runner, or stored samples (replay=) without solver=True"
NO_FIELD = "the network is fed with {name!r} as {want}, the dataset has {got}. Use the dataset of the same simulation"
TRAINED_ON = "the samples that the network was trained on"
OTHER_FIELD = "the network predicts {name!r} as {want}, the dataset has {got}. Use the dataset of the same simulation"
IN_WORKERS = "a replay with the solver runs in this process: make the Runner without num_envs and num_workers"
TAKEN = "{path} already holds prediction samples. Continue that run with resume=True, or choose another folder"
RECORDED = "{path} holds what this runner recorded before; record {what} with a Runner and a folder of its own"
OF_SURROGATE = (
    "the dataset was recorded with a network in place of the solver, which cannot be compared with the solver"
)
DIFFERS = (
    "{where}: the simulation gives another {name!r} than the dataset holds. Use the environment arguments, actions and "
    "physgym version with which it was made"
)
OTHER_PARAMETERS = (
    "the dataset was made with given parameters of episodes, of which it holds {known}; the simulation declares "
    "{space}. Use the simulation with which it was made"
)
OTHER_ARGUMENTS = (
    "the dataset was made with {made} different arguments in turn, this runner has {given}. Make the Runner with the "
    'list that dataset.source["env_kwargs"] says'
)
JOINED = (
    "{count} datasets were joined, whose episodes cannot be told apart by what the solver needs. Replay them one at a "
    "time, or without the solver"
)
LOADED = (
    "the dataset was made by stored samples that drove the simulation (load=), not from seeds alone. Replay it without "
    "the solver, or let those samples drive it again: SampleStream(load=...)"
)


class Runner:
    """Runs a trained network next to the solver, in its place, or on stored samples.

    After each step the network predicts from the step's inputs, and the simulation gets the prediction through
    ``apply_prediction`` (a ghost to display, a correction, an initial guess), unless it is not finite. A `Simulation`
    may also ask for one in the middle of a step.

    Steps are made in this process, or by workers as `physgym.generate` has them: names, samples, predictions and the
    record are the same, whatever their number. Steps come in the order of their names, and a further run goes on where
    the last one ended.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes the environment; None to replay stored samples alone.
        predictor: A trained network, or the folder of its session or checkpoint.
        seed: Seed of the run. Episodes are others than those of generation with this seed, see `part`.
        env_kwargs: Arguments of the environment's constructor, ``render_mode`` among them; of a list of k dictionaries,
            episode e has ``env_kwargs[e % k]``.
        actions: What draws the actions, as in `physgym.generate`; None leaves it to the environment.
        parameters: What draws the parameters of episodes, likewise.
        record: Dataset folder that gets samples, predictions and errors, in mode "prediction", or ``s3://bucket/prefix``;
            None records nothing.
        resume: Continue the record after its last sample.
        max_steps: Truncate an episode after so many steps.
        max_rejects: Give up after so many rejected steps in a row.
        compare: Whether to compare predictions with what the solver, or the dataset, gives.
        apply: Whether the simulation gets the predictions. Without, workers need not wait for the network.
        surrogate: Let the network make the steps in place of the solver, as `SurrogateEnv` does; there is nothing to
            compare with then.
        num_envs: Number of environments in workers; by default one per worker, and none where `num_workers` is None.
        num_workers: Worker processes; by default one per usable core, and none where `num_envs` is None.
        batch_size: Predict for so many samples at once, in a replay and where workers do not wait for the prediction.
            1 gives the bits of a single prediction, more is faster and equal to rounding.
        timeout: Seconds to wait for a worker.
        on_error: "raise", or "restart": a worker that dies or hangs is started again; the steps are the same.
        load: Stored samples that drive the simulation in place of a sampler of actions, as in `physgym.generate`: each
            gives one step, through the environment's ``load_sample(sample)``. A run without a number of steps goes
            through them once; a longer one goes on with shuffled episodes.
        part: Whose seeds the episodes have: "prediction" has its own, as has "evaluation"; with "training" episodes are
            those that generation with this seed gives, with "validation" and "test" those of such parts.
        trained_on: The samples that the network was trained on: a run or a replay of the same episodes is warned of; by
            default those that `predictor` remembers (``predictor.learned``), as one does that a `Trainer` has trained
            here, or that was loaded from a session whose dataset is still there.
        learned: Record of the code of the simulation whose samples the network was trained on, see `physgym.code`; by
            default that which `predictor` remembers, which comes from its checkpoint or session. An empty one compares
            nothing.
        allow_changed_code: Whether to go on where the simulation has other code than that, than a record that is
            resumed, or than a dataset that is replayed with the solver.

    Attributes:
        env: The environment, None where it is in workers or there is none.
        predictor: The network.
        spec: The fields of a step's sample; those of the network where there is no environment. A step that the network
            makes has none of its outputs.
        last: The last step, None before the first.
        stepping: Whether the run under way steps `env`.

    Raises:
        ConfigError: The id is unknown, an argument is out of range, or the network does not fit the simulation.
        CheckpointError: There is no usable checkpoint.
        SampleError: The environment declares no samples.
        DatasetError: The record exists already.
        WorkerError: An environment's constructor raised in a worker.
    """

    def __init__(
        self,
        env: EnvLike | None,
        predictor: Predictor | str | Path,
        *,
        seed: int = 0,
        env_kwargs: Arguments = None,
        actions: SamplerLike = None,
        parameters: SamplerLike = None,
        record: str | Path | None = None,
        resume: bool = False,
        max_steps: int = DEFAULT_MAX_STEPS,
        max_rejects: int = DEFAULT_MAX_REJECTS,
        compare: bool = True,
        apply: bool = True,
        surrogate: bool = False,
        num_envs: int | None = None,
        num_workers: int | None = None,
        batch_size: int = 1,
        timeout: float = DEFAULT_TIMEOUT,
        on_error: str = "raise",
        load: SampleDataset | None = None,
        part: str = "prediction",
        trained_on: SampleDataset | None = None,
        learned: Mapping[str, Any] | None = None,
        allow_changed_code: bool = False,
    ) -> None:
        if seed < 0 or min(max_steps, max_rejects, batch_size) < 1:
            raise ConfigError(NUMBERS.format(numbers=f"{seed}, {batch_size}, {max_steps}, {max_rejects}"))
        if not isinstance(predictor, (Predictor, str, Path)):
            raise ConfigError(NO_PREDICTOR.format(got=predictor))
        self._allow_changed_code = allow_changed_code
        self._trained_on, self._compared = trained_on, False
        self.predictor = predictor if isinstance(predictor, Predictor) else load_checkpoint(predictor)
        if learned is None and self.predictor.learned is not None:
            learned = self.predictor.learned.code
        self._outputs = [self.predictor.spec[name] for name in self.predictor.outputs]
        self._acting, self._drawing = find_sampler(actions, "actions"), find_sampler(parameters, "parameters")
        self._limits: dict[str, Any] = {"max_steps": max_steps, "max_rejects": max_rejects}
        self._env, self._kwargs = env, check_arguments(env_kwargs)
        self._compare, self._surrogate, self._batch_size = compare, surrogate, batch_size
        self._folder, self._resume = None if record is None else place(record), resume
        self._part: tuple[str, int] = part, SEED_RULE
        self._before = recorded_source(record, "prediction") if resume and record is not None else None
        if self._before is not None:
            self._part = seeds_of(self._before, part)
        self._part_seed = part_seed(seed, *self._part)
        self._writer: SampleWriter | None = None
        self._recorded = ""  # what: a run or a replay
        self._parameter_spec: SampleSpec | None = None
        self._ledger: Ledger | None = None
        self._after: tuple[int, int] | None = None  # the last step
        self._refuse_taken()
        self._running: Iterator[RunStep] | None = None
        self._wanted: int | None = None  # steps, so that workers are not waited for in vain
        self._workers: dict[str, Any] = {
            "num_envs": num_envs,
            "num_workers": num_workers,
            "timeout": timeout,
            "on_error": on_error,
        }
        self._stream: SampleStream | None = None
        self._load = load
        self._stored_episodes = None if load is None else StoredEpisodes(load, seed=self._part_seed, passes=None)
        if self._stored_episodes is not None:
            self._stored_episodes.check(max_steps, actions, len(self._kwargs))
        self._apply_wanted = apply
        self.seed, self.stepping = seed, False
        self.last: RunStep | None = None
        self.env: gymnasium.Env[Any, Any] | None = None
        self.spec = self.predictor.spec
        self._draw: Draw | None = None
        if env is None:
            if load is not None:
                raise ConfigError(
                    "load= drives a simulation, and there is none; to replay stored samples: run(replay=)"
                )
            return
        if num_envs is not None or num_workers is not None:
            self._stream = stream = self._open_stream()
            self.spec, self._surrogate = fields_of_rows(stream.spec)
            self._parameter_spec = stream.parameter_spec
            apart = self._outputs if self._surrogate else []  # of the sample, in which they are predictions
            try:
                check_fields(self.predictor, SampleSpec([*self.spec.values(), *apart]))
                self._check_learned(learned)
            except ConfigError as error:
                self._close_stream(type(error))
                raise
            return
        self._place = Folder()
        with self._place:
            self._every = self._in_process(env)
            try:
                self.env = self._every.select(0)
                self._prepare(self.env)
                self._check_learned(learned)
            except BaseException:
                self._every.close()
                raise

    def _in_process(self, env: EnvLike) -> Variants:
        """The environments of this process, one for each of the arguments."""
        factories = env_factories(env, self._kwargs)
        if self._surrogate:
            factories = [functools.partial(SurrogateEnv, factory, self.predictor) for factory in factories]
        if self._stored_episodes is not None:
            factories = [Loading(factory) for factory in factories]
        return Variants(factories)

    def _enter(self, episode: int) -> int:
        """Step the environment of an episode's arguments from now on; return which arguments these are."""
        with self._place:
            env = self._every.select(episode % len(self._kwargs))
            if env is not self.env:
                self.env = env
                self._prepare(env)
        return self._every.index

    def _prepare(self, env: gymnasium.Env[Any, Any]) -> None:
        """Get ready to step the environment in this process."""
        spec = require_spec(env)
        check_fields(self.predictor, spec)
        inner: Any = env.unwrapped
        if isinstance(inner, SurrogateEnv):
            self._surrogate = True
            inner.predictor = self.predictor
            spec = SampleSpec([f for f in spec.values() if f.name not in self.predictor.outputs])
        elif hasattr(inner, "predictor"):
            inner.predictor = self.predictor.predict
        self.spec, self._sampled = spec, require_spec(env)
        self._apply = prediction_user(env) if self._apply_wanted else None
        self._timed = _Timed(env)
        self._policy = self._policies(self._acting, self._part_seed)
        self._draw = draw_parameters(self._drawing, declared(env, "parameter_space"), self._part_seed, str(env))
        self._parameter_spec = SampleSpec.parameters_of(env)
        if self._stored_episodes is not None and self._draw is None:
            self._stored_episodes.use_parameters(declared(env, "parameter_space"))

    # --- where steps come from

    def steps(self) -> Iterator[RunStep]:
        """Steps of the run, from where it stands, without end."""
        if self._env is None:
            raise ConfigError(NO_ENV)
        self._warn_of_overlap(None)
        ledger = self._open_ledger(self.spec, self._run_source(), window=1)
        return self._kept(self._source(None), ledger, advance=True)

    def replay(self, dataset: SampleDataset, *, solver: bool = False) -> Iterator[RunStep]:
        """The stored steps of a dataset again.

        Without the solver the network predicts from what is stored, and is compared with what is stored. With it the
        episodes are run anew from their seeds: parameters, the sampler of actions and limits are those of the dataset;
        a function or a network that gave its actions is to be given to the runner again.

        Args:
            dataset: Has the fields that feed the network; for the solver, made by the same simulation with the same
                arguments.
            solver: Whether to run the solver too.

        Raises:
            ConfigError: What gave the actions of the dataset cannot be rebuilt and was not given, or there is no
                environment in this process, or the fields do not fit.
            DatasetError: The simulation does not give what is stored, or cannot be told what to do.
        """
        self._warn_of_overlap(dataset)
        source, sample = self._replayed(dataset, len(dataset), solver)
        ledger = self._open_ledger(sample, self._replay_source(dataset, solver), window=1, replayed=dataset)
        return self._kept(source, ledger, advance=False)

    def _kept(self, source: Iterator[RunStep], ledger: Ledger, *, advance: bool) -> Iterator[RunStep]:
        try:
            while (step := self._next(source)) is not None:
                self._take(step, ledger, advance)
                yield step
        finally:
            ledger.flush()

    def _next(self, source: Iterator[RunStep]) -> RunStep | None:
        try:
            return next(source, None)
        except BaseException as error:
            self._running = None  # an iterator that raised is at its end
            self._close_stream(type(error))
            raise

    def _take(self, step: RunStep, ledger: Ledger, advance: bool) -> None:
        self.last = step
        if advance:
            self._after = step.episode, step.transition.step
        ledger.add(step)

    def _source(self, limit: int | None) -> Iterator[RunStep]:
        if self._running is None:
            self._running = self._work() if self.env is None else self._solve(self._after)
        self._wanted = limit
        return self._running

    def _replayed(self, dataset: SampleDataset, limit: int, solver: bool) -> tuple[Iterator[RunStep], SampleSpec]:
        """Steps of a replay and the fields of their samples."""
        if not solver:
            return self._stored(dataset, limit), self._fitting(dataset)
        if self.env is None:
            raise ConfigError(NO_ENV if self._env is None else IN_WORKERS)
        if self._surrogate or dataset.source.get("surrogate"):
            raise ConfigError(OF_SURROGATE)
        self._running = None  # the environment leaves the episode that it is in
        return self._again(dataset), self.spec

    def _solve(self, after: tuple[int, int] | None) -> Iterator[RunStep]:
        """Steps in this process, from behind one of them."""
        for episode, seed, options in self._episodes(after[0] if after else 0):
            self._enter((options or {}).pop(ARGUMENTS, episode))
            for step in self._episode(episode, seed, self._policy(episode), options, **self._limits):
                if after is None or (episode, step.transition.step) > after:
                    yield step

    def _episodes(self, first: int) -> Iterator[tuple[int, int, dict[str, Any] | None]]:
        """Index, seed and options for the reset of the episodes of a run in this process."""
        if self._stored_episodes is None:
            for episode in itertools.count(first):
                yield episode, episode_seed(self._part_seed, episode), self.options(episode)
        else:
            for episode, seed, options in self._stored_episodes.run(first, len(self._kwargs)):
                yield episode, seed, options | (self.options(episode) or {})

    def options(self, episode: int) -> dict[str, Any] | None:
        """What the reset of an episode of a run in this process gets, by its index."""
        return None if self._draw is None else {"parameters": self._draw(episode)}

    def _work(self) -> Iterator[RunStep]:
        """Steps by workers, in the order of their names, from where the run stands."""
        if self._stream is None:
            self._stream = self._open_stream()
        self._stream.position = self._after
        stream, most = self._stream, ROWS if self._batch_size == 1 else self._batch_size
        fault: Exception | None = None
        while fault is None:
            if self._wanted is not None:
                stream.want(self._wanted)  # no step is made beyond these
            elif stream.begun:
                stream.want(ENDLESS)
            wanted = most if self._wanted is None else max(1, min(most, self._wanted))
            least = 1 if self._batch_size == 1 else wanted
            rows: list[tuple[int, int, Transition, Sample | None, float, float]] = []
            while len(rows) < least and fault is None:
                try:
                    rows += self._read(stream.take(wanted - len(rows)))
                except Exception as error:  # noqa: BLE001 - raised below, after the steps before it
                    fault = error
            # of the rows that have no prediction yet
            samples = [None if prediction else transition.sample for _, _, transition, prediction, *_ in rows]
            for row, late in zip(rows, self._predictions(samples), strict=True):
                episode, seed, transition, prediction, solver, network = row
                found, seconds = (prediction, network) if prediction else late
                self._wanted = None if self._wanted is None else self._wanted - 1
                yield RunStep(episode, transition, found, solver, seconds, seed, 0, self._compare)
        raise fault

    def _read(self, rows: Rows) -> Iterator[tuple[int, int, Transition, Sample | None, float, float]]:
        """What workers say of steps; parameters of their episodes are recorded."""
        if self._writer is not None and len(rows.told):
            self._writer.add_parameters(rows.parameters, episode=rows.told.episodes, seed=rows.told.seeds)
        names = rows.names
        return read_rows(rows.samples, names.episodes.tolist(), names.steps.tolist(), names.seeds.tolist())

    def _stored(self, dataset: SampleDataset, limit: int) -> Iterator[RunStep]:
        """Stored steps, without a solver."""
        sample = without_additions(dataset.spec)
        size = self._batch_size
        block = size * max(1, min(ROWS, ROW_BYTES // max(1, sample.nbytes)) // size)
        names = [dataset.index(name) for name in ("episode", "step", "seed", "env")]
        for start in range(0, limit, block):
            stop = min(start + block, limit)
            columns = [(name, list(value)) for name, value in dataset.read(start, stop, list(sample)).items()]
            rows = [{name: np.asarray(column[i]) for name, column in columns} for i in range(stop - start)]
            which = [column[start:stop].tolist() for column in names]
            for first in range(0, len(rows), size):
                part = slice(first, first + size)
                for row, (prediction, seconds), episode, step, seed, env in zip(
                    rows[part], self._predictions(rows[part]), *(column[part] for column in which), strict=True
                ):
                    transition = Transition(step, None, None, np.nan, False, {}, row, "")
                    yield RunStep(episode, transition, prediction, np.nan, seconds, seed, env, self._compare)

    def _again(self, dataset: SampleDataset) -> Iterator[RunStep]:
        """Stored steps, with the solver: their episodes are run anew."""
        source = dataset.source
        self._refuse_joined(dataset)
        if "load" in source:
            raise DatasetError(LOADED)
        acting = self._acting or rebuild_sampler(source.get("actions"), "actions")
        made_by = code_of_part(dataset.provenance)
        if made_by is not None and made_by.get("hash") != "unknown":  # what comes out is compared in any case
            where = f"the dataset in {dataset.paths[0]}"
            check_same(made_by, self.code, where, allow=self._allow_changed_code, made_alike=False)
        self._check_listed(source.get("env_kwargs"))
        policies: dict[int, EpisodePolicy] = {}
        options = self._stored_parameters(dataset)
        max_steps = source.get("max_steps", self._limits["max_steps"])
        limits = {"max_steps": max_steps, "max_rejects": max_steps, "nonfinite": source.get("nonfinite", "error")}
        names = zip(*(dataset.index(name).tolist() for name in ("episode", "step", "seed")), strict=True)
        rows: dict[tuple[int, int], dict[int, int]] = {}
        for row, (episode, step, seed) in enumerate(names):
            rows.setdefault((episode, seed), {})[step] = row
        for (episode, seed), stored in rows.items():
            where, last, step = f"episode {episode}", max(stored), -1
            if self._enter(episode) not in policies:
                drawn = part_seed(source.get("seed", self.seed), *seeds_of(source, dataset.mode))
                policies[self._every.index] = self._policies(acting, drawn)
            policy = policies[self._every.index](episode)
            for again in self._episode(episode, seed, policy, options(episode), **limits):
                step = again.transition.step
                if step in stored:
                    _check_same(dataset[stored[step]], again, f"{where}, step {step}")
                    yield again
                if step == last:
                    break
            if step < last:
                raise DatasetError(DIFFERS.format(where=where, name="length"))

    def _check_listed(self, recorded: Any) -> None:
        """Raise DatasetError where the episodes of a dataset had others of several arguments than they would have."""
        if isinstance(recorded, list) and len(recorded) != len(self._kwargs):
            raise DatasetError(OTHER_ARGUMENTS.format(made=len(recorded), given=len(self._kwargs)))

    def _refuse_joined(self, dataset: SampleDataset) -> None:
        if len(dataset.paths) == 1:
            return
        sources = [json.loads(part.attributes["source"]) for part in dataset.partitions]
        named = any(source.get(what) is not None for source in sources for what in ("actions", "parameters"))
        same = len({json.dumps({**source, "seed": None}, sort_keys=True) for source in sources}) == 1
        if named or not same:
            raise DatasetError(JOINED.format(count=len(dataset.paths)))

    def _policies(self, sampler: Sampler | None, seed: int) -> EpisodePolicy:
        assert self.env is not None
        return episode_policy(self.env) if sampler is None else sampler.actions(self.env.action_space, seed)

    def _stored_parameters(self, dataset: SampleDataset) -> Callable[[int], dict[str, Any] | None]:
        """Options of the reset of an episode of a dataset, by its index."""
        if dataset.source.get("parameters") is None:
            return lambda _: None  # the environment drew them itself, from the seed
        assert self.env is not None
        space = declared(self.env, "parameter_space")
        stored, episodes = dataset.parameters, dataset.parameter_episodes
        if space is None or stored is None or episodes is None or list(stored) != list(leaf_spaces(space)):
            known = "none" if stored is None else list(stored)
            raise DatasetError(OTHER_PARAMETERS.format(known=known, space=space))
        row_of = {episode: row for row, episode in enumerate(episodes.tolist())}

        def options(episode: int) -> dict[str, Any]:
            row = row_of.get(episode)
            if row is None:
                raise DatasetError(f"the dataset has no parameters of episode {episode}, so it cannot be replayed")
            return {"parameters": unflatten(space, iter([column[row] for column in stored.values()]))}

        return options

    def _episode(
        self, episode: int, seed: int, policy: Policy, options: dict[str, Any] | None, **limits: Any
    ) -> Iterator[RunStep]:
        env = self._timed.unwrapped
        if isinstance(env, Simulation):
            env.nonfinite = "error" if limits.get("nonfinite", "error") == "error" else "allow"
        transitions = run_episode(
            self._timed,
            self._sampled,
            seed=seed,
            policy=policy,
            where=f"episode {episode}",
            options=options,
            begun=lambda info: self._record_parameters(info, episode, seed),
            **limits,
        )
        while (transition := self._in_place(transitions)) is not None:
            solver, network, prediction = self._timed.seconds, np.nan, None
            if transition.sample is not None and isinstance(env, SurrogateEnv):
                solver, network, prediction = np.nan, env.network_seconds, dict(env.prediction or {})
                transition.sample = {name: transition.sample[name] for name in self.spec}
            elif transition.sample is not None:
                prediction, network = self._predict(transition.sample)
                if self._apply is not None and not nonfinite(prediction):
                    with self._place:
                        self._apply(prediction)
            yield RunStep(episode, transition, prediction, solver, network, seed, 0, self._compare)

    def _in_place(self, transitions: Iterator[Transition]) -> Transition | None:
        """The next step, made in the working folder of the environment."""
        with self._place:
            return next(transitions, None)

    def _predict(self, sample: Sample) -> tuple[Sample, float]:
        start = time.perf_counter()
        prediction = self.predictor.predict(sample)
        return prediction, time.perf_counter() - start

    def _predictions(self, samples: Sequence[Sample | None]) -> Iterator[tuple[Sample | None, float]]:
        """Predictions for samples and the time of each; for None None."""
        if self._batch_size == 1:
            for sample in samples:
                yield (None, np.nan) if sample is None else self._predict(sample)
            return
        asking = [sample for sample in samples if sample is not None]
        found: Iterator[Sample] = iter(())
        start = time.perf_counter()
        if asking:
            batch = {name: np.stack([sample[name] for sample in asking]) for name in self.predictor.inputs}
            predicted = self.predictor.predict(batch, batched=True)
            found = ({name: value[i] for name, value in predicted.items()} for i in range(len(asking)))
        share = (time.perf_counter() - start) / max(1, len(asking))
        for sample in samples:
            yield (None, np.nan) if sample is None else (next(found), share)

    # --- the run

    def run(
        self,
        steps: int | None = None,
        *,
        replay: SampleDataset | None = None,
        solver: bool = False,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> RunReport:
        """Run a number of steps, or until Ctrl-C, which ends the run and keeps what was done.

        Args:
            steps: How many; None goes on until Ctrl-C, or to the end of a replay.
            replay: Replay these samples instead of new episodes; see `replay`.
            solver: Whether to run the solver too in a replay, and to compare it with what is stored.
            callbacks: Get the events of a prediction run; `Runner.last` holds the step.
            progress: Whether to show a progress bar.

        Raises:
            ConfigError: The number of steps is not positive, or there is no environment; also as `replay`.
            SampleError: A sample or a prediction does not fit its fields, or too many steps in a row were rejected.
            WorkerError: A worker died or did not answer, or an environment raised.
            DatasetError: The disk refuses a write; also as `replay`.
        """
        if steps is not None and steps < 1:
            raise ConfigError(f"steps must be at least 1, not {steps}; None runs until Ctrl-C")
        if replay is None and self._env is None:
            raise ConfigError(NO_ENV)
        if replay is None and steps is None and self._load is not None:
            steps = len(self._load)  # once through
        self._warn_of_overlap(replay)
        if replay is None:
            if solver:
                raise ConfigError("solver=True is for a replay: pass replay=, or leave it out")
            ledger = self._open_ledger(self.spec, self._run_source(), window=None if steps else WINDOW)
            if steps is not None and self._writer is not None:
                self._writer.check_room(steps)
            source = self._source(steps)
        else:
            steps = min(steps or len(replay), len(replay))
            source, sample = self._replayed(replay, steps, solver)
            ledger = self._open_ledger(sample, self._replay_source(replay, solver), replayed=replay)
        self.stepping = self.env is not None and (replay is None or solver)
        report = RunReport(units={f.name: f.unit for f in self._outputs})
        events = Callbacks(callbacks)
        try:
            with Interrupt() as interrupt, Progress(steps, "run", "step", enabled=progress) as bar:
                events.emit("prediction_begin", self)
                while steps is None or report.steps < steps:
                    events.emit("sample_begin", self)
                    step = self._next(source)
                    if step is None:
                        break
                    with interrupt.held():
                        self._take(step, ledger, replay is None)
                        report.steps += 1
                        report.rejected += step.prediction is None
                    if callbacks:
                        events.emit("sample_end", self, step.fields)
                    bar.update()
        except KeyboardInterrupt:
            report.interrupted = True
        finally:
            self.stepping = False
            ledger.flush()
            events.emit("prediction_end", self)
            events.close()
        ledger.summarize(report)
        return report

    def close(self) -> None:
        """Close the environment or the workers and complete the record; calling it again does no harm."""
        self._close(None)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._close(kind)

    def _close(self, error: type[BaseException] | None) -> None:
        try:
            if self.env is not None:
                with self._place:
                    self._every.close()
            self._close_stream(error)
        finally:
            if self._writer is not None and not self._writer.closed:
                if self._ledger is not None:
                    self._ledger.flush()
                close_after(self._writer, error)

    # --- workers

    def _open_stream(self) -> SampleStream:
        assert self._env is not None
        env_factories(self._env, self._kwargs)  # raises where an argument is wrong
        every = Reported(
            env_maker(self._env),
            self._surrogate,
            {"inputs": self.predictor.inputs, "outputs": self._outputs, "apply": self._apply_wanted, **self._limits},
        )
        return SampleStream(
            every,
            env_kwargs=self._kwargs,
            seed=self.seed,
            seeds=self._part,
            predictor=_Answers(self.predictor, self._batch_size),
            actions=self._acting,
            parameters=self._drawing,
            nonfinite="allow",  # `Reporting` checks samples; a prediction need not be finite
            load=self._load,
            **self._limits,
            **self._workers,
        )

    def _close_stream(self, error: type[BaseException] | None) -> None:
        stream, self._stream = self._stream, None
        self._running = None
        if stream is not None:
            stream.__exit__(error, None, None)

    # --- the record

    def _refuse_taken(self) -> None:
        """Raise DatasetError early where there is a record that is not to be continued."""
        folder = self._folder
        if isinstance(folder, Path) and not self._resume and partition_files(folder, "prediction"):
            raise DatasetError(TAKEN.format(path=folder))

    def _open_ledger(
        self,
        sample: SampleSpec,
        source: dict[str, Any],
        window: int | None = None,
        replayed: SampleDataset | None = None,
    ) -> Ledger:
        if self._ledger is not None:
            self._ledger.flush()
        compare = self._compare
        if self._folder is not None:
            what = "replay" if "replay" in source else "run"
            if self._writer is None:
                self._writer = SampleWriter(
                    self._folder,
                    record_fields(sample, self._outputs, compare=compare),
                    mode="prediction",
                    source=source,
                    resume=self._resume,
                    parameters=None if what == "replay" and "solver" not in source else self._parameter_spec,
                    nonfinite="allow",  # samples are checked, and a prediction is what it is
                )
                if self._env is not None:
                    self._record_code(self._writer)
                if (constants := self._constants(replayed)) or self._writer.constants:
                    self._writer.set_constants(constants)
                if what == "run":
                    self._after = self._writer.last or self._after
            elif what != self._recorded or what == "replay":
                raise ConfigError(RECORDED.format(path=self._folder, what=f"a {what}"))
            self._recorded = what
        self._ledger = Ledger(sample, self._outputs, compare=compare, writer=self._writer, window=window)
        return self._ledger

    def _constants(self, replayed: SampleDataset | None) -> Mapping[str, Any]:
        """What the record stores once: of the samples that are replayed, else of the simulation."""
        if replayed is not None:
            return replayed.constants
        if self._stream is not None:
            return self._stream.constants
        assert self.env is not None
        if not self.env.has_wrapper_attr("constants"):
            return {}
        found = self.env.get_wrapper_attr("constants")
        return as_constants(found() if callable(found) else found)

    @cached_property
    def code(self) -> Code:
        """The code of the simulation, see `physgym.code.record`."""
        if self._stream is not None:
            return code_of(self._env, self._kwargs, self._stream.made)
        return code_of(self._env, self._kwargs, None if self.env is None else describe_made(self.env))

    def _record_code(self, writer: SampleWriter) -> None:
        if not writer.count:
            writer.provenance = begun(self.code, describable([defaults_of(self._env)]))
            return
        where = f"the record in {writer.path}"
        try:
            writer.provenance = continued(
                writer.provenance,
                self.code,
                writer.count,
                where,
                allow=self._allow_changed_code,
                defaults=describable([defaults_of(self._env)]),
            )
        except ChangedCode:
            self._writer = None
            writer.close()
            raise

    def _check_learned(self, learned: Mapping[str, Any] | None) -> None:
        """Refuse a simulation of other code than that whose samples the network has learned from."""
        if learned:
            check_same(
                learned,
                self.code,
                "what the network was trained on",
                allow=self._allow_changed_code,
                made_alike=False,
            )

    def _warn_of_overlap(self, replay: SampleDataset | None) -> None:
        """Warn where the network has learned from the episodes that are replayed, or run."""
        if replay is None and self._compared:
            return
        if (trained_on := self._trained_on) is None and self.predictor.learned is not None:
            drawn = replay is None and self._stored_episodes is None
            if not (drawn and self._part[0] == "evaluation"):  # whose seeds no part of a dataset has
                trained_on = self.predictor.learned.samples
        if trained_on is None:
            return
        if replay is not None:
            text = overlaps(replay, trained_on, ("the replayed samples", TRAINED_ON))
        elif self._stored_episodes is not None:
            text = overlaps(cast(SampleDataset, self._load), trained_on, ("the loaded samples", TRAINED_ON))
        else:
            source = {"env": env_name(cast(EnvLike, self._env)), "env_kwargs": describable(self._kwargs)}
            draws, known = functools.partial(episode_seed, self._part_seed), describable([defaults_of(self._env)])
            names = ("this run", TRAINED_ON)
            text = overlaps_with_draws(trained_on, source, known, draws, names, drawn=True)
        self._compared = self._compared or replay is None
        if text:
            warnings.warn(text, UserWarning, stacklevel=3)

    def _run_source(self) -> dict[str, Any]:
        """Where the steps of a run come from; with this a replay can make them again."""
        if self._folder is None or self._env is None:
            return {}
        source = {
            "env": env_name(self._env),
            "env_kwargs": describable(self._kwargs),
            "seed": self.seed,
            "max_steps": self._limits["max_steps"],
            "actions": None if self._acting is None else self._acting.describe(),
            "parameters": None if self._drawing is None else self._drawing.describe(),
            "network": NetworkPolicy(self.predictor).describe()["weights"],
            "surrogate": self._surrogate,
            **({} if self._stored_episodes is None else {"load": self._stored_episodes.describe()}),
            **({} if self._part[1] == 1 else {"seeds": {"part": self._part[0], "rule": self._part[1]}}),
        }
        return as_recorded(source, self._before)

    def _replay_source(self, dataset: SampleDataset, solver: bool) -> dict[str, Any]:
        if self._folder is None:
            return {}
        network = NetworkPolicy(self.predictor).describe()["weights"]
        told: dict[str, Any] = {**dataset.source, "replay": [str(path) for path in dataset.paths], "network": network}
        return {**told, "solver": True} if solver else told

    def _record_parameters(self, info: Mapping[str, Any], episode: int, seed: int) -> None:
        if self._writer is None or self._parameter_spec is None:
            return
        parameters = self._parameter_spec.check(info.get("parameters", {}), f"episode {episode}, parameters")
        self._writer.add_parameters(
            {name: value[np.newaxis] for name, value in parameters.items()},
            episode=np.array([episode]),
            seed=np.array([seed], np.uint64),
        )

    def _fitting(self, dataset: SampleDataset) -> SampleSpec:
        """The fields of stored samples.

        Raises:
            ConfigError: One does not fit the network.
        """
        sample = without_additions(dataset.spec)
        for name, want in self.predictor.spec.items():
            got, needed = sample.get(name), name in self.predictor.inputs
            if (got is None and needed) or (got is not None and got.shape != want.shape):
                shown = "none" if got is None else f"{got.dtype} {got.shape}"
                text = NO_FIELD if needed else OTHER_FIELD
                raise ConfigError(text.format(name=name, want=f"{want.dtype} {want.shape}", got=shown))
        return sample


class _Timed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Takes the time of every step."""

    seconds = 0.0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        start = time.perf_counter()
        result = self.env.step(action)
        self.seconds = time.perf_counter() - start
        return result


class _Answers:
    """Answers environments that wait for a prediction; one by one gives the bits that it has in one process."""

    def __init__(self, predictor: Predictor, batch_size: int) -> None:
        self._predictor, self._single = predictor, batch_size == 1

    def predict(self, batch: Mapping[str, Any], *, batched: bool = True) -> Sample:
        count = len(next(iter(batch.values())))
        if not self._single or count == 1:
            return self._predictor.predict(batch, batched=batched)
        found = [self._predictor.predict({name: value[i] for name, value in batch.items()}) for i in range(count)]
        return {name: np.stack([one[name] for one in found]) for name in found[0]}


def _check_same(stored: Sample, again: RunStep, where: str) -> None:
    sample = again.transition.sample
    if sample is None:
        raise DatasetError(DIFFERS.format(where=where, name="outcome"))
    for name, value in stored.items():
        # to the bit, which NaN equals as well
        if name in sample and np.asarray(value).tobytes() != np.asarray(sample[name]).tobytes():
            raise DatasetError(DIFFERS.format(where=where, name=name))
