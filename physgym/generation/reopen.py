"""`reopen`: a simulation as it was just before a stored step, and the action of that step."""

from __future__ import annotations

import contextlib
import copy
import importlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from physgym.checks import integer
from physgym.code.env_description import describe_env
from physgym.code.record import Code, check_same
from physgym.code.search import code_of
from physgym.data.dataset import SampleDataset
from physgym.data.episode_origins import EpisodeOrigin, origin_of
from physgym.data.provenance import code_of_part, runs_of
from physgym.data.recordings import is_recording
from physgym.data.snapshots import Snapshot
from physgym.episode import (
    TRUNCATED,
    ActionGenerator,
    Transition,
    episode_policy,
    part_seed,
    require_spec,
    run_episode,
    seeds_of,
)
from physgym.errors import ConfigError, DatasetError
from physgym.generation.recorded_arguments import passed_again
from physgym.generation.reopen_recording import reopen_recording
from physgym.generation.replayed import check_same_sample, different
from physgym.generation.resumed_episode import (
    ResumedEpisode,
    check_seed,
    check_step_seconds,
    check_version,
    draws_alone,
    nearest_snapshot,
    skip_actions,
)
from physgym.generation.stored_episode import StoredEpisode
from physgym.placement import Env, EnvFactory, build
from physgym.policies import ActionPolicy
from physgym.real_time import was_in_real_time
from physgym.registration import EnvLike, find_spec
from physgym.returned import returned
from physgym.sample import Sample, SampleSpec, declaration
from physgym.samplers import find_sampler, rebuild_sampler
from physgym.samplers.base import SamplerLike
from physgym.scene.inputs import RECORD
from physgym.simulation import Simulation, lacking_state_hooks
from physgym.single import single_of
from physgym.spaces import leaf_spaces, unflatten
from physgym.storage.location import Location
from physgym.vector.make import env_factory
from physgym.vector.predictions import AnyPredictor
from physgym.worker.folders import OwnFolder
from physgym.worker.snapshots import remembering_layer


def reopen(
    dataset: SampleDataset | str | Path | Location,
    episode: int,
    step: int,
    *,
    env: EnvLike | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    actions: SamplerLike = None,
    predictor: AnyPredictor = None,
    allow_changed_code: bool = False,
) -> tuple[Env, Any]:
    """Return a simulation just before a stored step, and the action that was applied then.

    ``env.step(action)`` gives the stored sample again, to the bit; another action branches from there. The episode is
    run again from its seed, or from the nearest snapshot before the step (``generate(snapshots=every)``). Its samples
    are compared with those that are stored: all of these steps, and that of the step itself where the simulation keeps
    states (`physgym.Simulation.state`). A step that was rejected must be rejected again. An episode of a recording
    (`physgym.Recorder`) is reset with its seed and done again as a whole, so that all of it is compared.

    Actions are drawn again as they were. Where that is not possible, since a function, a network or a person gave them,
    they are taken from the stored samples: a field ``action``, or what the simulation's ``load_sample`` makes of one.

    Args:
        dataset: The dataset, or its folder.
        episode: Number of the episode.
        step: Number of the step. One that was rejected may be reopened too, where actions are drawn again.
        env: Registered id, `EnvSpec`, or a callable that makes the environment; by default what the dataset names.
        env_kwargs: Arguments of its constructor; by default those of the episode. Functions, arrays and other objects
            among them are not stored: pass all arguments then.
        actions: What gave the actions; by default what the dataset says.
        predictor: Network that the simulation asked in the middle of its steps.
        allow_changed_code: Whether to continue where the code of the simulation has changed; samples are compared all
            the same.

    Returns:
        The environment, which the caller closes, and the action.

    Raises:
        ConfigError: There is no such episode or step, the simulation is not found or runs in real time, or its actions
            are neither stored nor to be drawn again.
        ChangedCode: The code of the simulation is not that which made the sample.
        DatasetError: The simulation gives something else than what is stored.
        SampleError: A step does not fit the simulation's declaration.
    """
    step, whole = integer("step", step, 0), _whole(dataset)
    if is_recording(whole.spec):
        if actions is not None or predictor is not None:
            raise ConfigError(
                "a recording holds its actions, and no network was asked: leave actions and predictor out"
            )
        _refuse_real_time(whole, whole.source)
        return reopen_recording(whole, integer("episode", episode, 0), step, env, env_kwargs)
    found = _find(whole, episode, env, env_kwargs)
    found.stored.check_step(step)
    made = found.build()
    try:
        replay = _Replay(made, found, predictor)
        now = _check_code(found, step, made, allow=allow_changed_code)
        snapshot = None
        if now is not None and replay.can_resume(actions):
            folder, mode = found.dataset.paths[0], found.dataset.mode
            snapshot = nearest_snapshot(folder, mode, found.stored.episode, step - replay.needs_a_step)
            if snapshot is not None:
                check_seed(snapshot, found.stored.seed)
                check_version(snapshot, found.dataset.provenance, now)
                check_step_seconds(snapshot, made)
        with _said_of(snapshot):
            action = replay.go(step, replay.policy(actions), snapshot)
            replay.check_next(found.factory, step, action)
    except BaseException:
        made.close()
        raise
    return made, action


@contextlib.contextmanager
def rerun(
    dataset: SampleDataset | str | Path | Location,
    episode: int,
    *,
    env: EnvLike | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    allow_changed_code: bool = False,
) -> Iterator[tuple[Env, Iterator[Transition]]]:
    """Give a simulation and the steps of a stored episode, which it makes again from its seed, as for `reopen`.

    The simulation is closed at the end of the block. Each sample is compared with the stored one.

    Args:
        dataset: The dataset, or its folder.
        episode: Number of the episode.
        env: As for `reopen`.
        env_kwargs: As for `reopen`.
        allow_changed_code: As for `reopen`.

    Raises:
        ConfigError: As for `reopen`.
        ChangedCode: The code of the simulation is not that which made the samples.
        DatasetError: The simulation gives something else than what is stored; raised by the step.
    """
    found = _find(dataset, episode, env, env_kwargs)
    made = found.build()
    with contextlib.closing(made):
        replay = _Replay(made, found, None)
        _check_code(found, found.stored.last, made, allow=allow_changed_code)
        yield made, replay.steps(found.stored.last + 1, replay.policy(None))


@dataclass(frozen=True)
class _Found:
    """An episode, and the simulation that made it.

    Attributes:
        dataset: All samples of its dataset.
        stored: Its samples.
        origin: Where it comes from.
        like: The simulation.
        kwargs: Arguments of its constructor.
        factory: What makes it.
    """

    dataset: SampleDataset
    stored: StoredEpisode
    origin: EpisodeOrigin
    like: EnvLike
    kwargs: Mapping[str, Any]
    factory: EnvFactory

    def build(self) -> Env:
        """Make the environment."""
        return build(lambda: OwnFolder(self.factory), 0, 1)


def _find(
    dataset: SampleDataset | str | Path | Location,
    episode: int,
    env: EnvLike | None,
    env_kwargs: Mapping[str, Any] | None,
) -> _Found:
    """Return an episode of a dataset of one folder, and its simulation, which is not made yet."""
    episode, dataset = integer("episode", episode, 0), _whole(dataset)
    stored = StoredEpisode(dataset, episode)
    origin = origin_of(dataset, episode)
    _refuse_surrogate(origin.source)
    _refuse_real_time(dataset, origin.source)
    _refuse_inputs(dataset)
    like: EnvLike = _simulation(origin) if env is None else env
    kwargs = _arguments(origin) if env_kwargs is None else dict(env_kwargs)
    return _Found(dataset, stored, origin, like, kwargs, env_factory(like, kwargs))


def _refuse_inputs(dataset: SampleDataset) -> None:
    """Raise ConfigError where a person changed the simulation while it made the samples."""
    if (dataset.paths[0] / RECORD).exists():
        raise ConfigError(
            f"a person changed inputs of the simulation while these samples were made ({RECORD}): a Runner makes them "
            f"again, Runner(..., inputs={str(dataset.paths[0])!r}).replay(dataset, solver=True)"
        )


def _whole(dataset: SampleDataset | str | Path | Location) -> SampleDataset:
    """Return all samples of a dataset of one folder; what was selected of them does not matter."""
    if not isinstance(dataset, SampleDataset):
        dataset = SampleDataset(dataset)
    if len(dataset.paths) > 1:
        raise ConfigError("several folders are read as one dataset; reopen a step of one of them: SampleDataset(path)")
    parts = dataset.partitions
    if len(dataset) != sum(part.count for part in parts) or list(dataset.spec) != list(parts[0].spec):
        return SampleDataset(dataset.paths[0], dataset.mode)
    return dataset


class _Replay:
    """An episode that is run again.

    Args:
        env: The environment.
        found: The episode.
        predictor: Network that the simulation asks.
    """

    def __init__(self, env: Env, found: _Found, predictor: AnyPredictor) -> None:
        self._env, self._origin, self._stored, self._predictor = env, found.origin, found.stored, predictor
        self._mode = found.dataset.mode
        self._prepare(env)
        self._spec = require_spec(env)
        self._options = _reset_options(env, found.origin.source, found.stored)

    def _prepare(self, env: Env) -> None:
        inner: Any = env.unwrapped
        if isinstance(inner, Simulation):
            inner.nonfinite = "error" if self._origin.source.get("nonfinite", "error") == "error" else "allow"
        if self._predictor is not None and hasattr(inner, "predictor"):
            inner.predictor = getattr(self._predictor, "predict", self._predictor)

    def policy(self, given: SamplerLike) -> ActionPolicy:
        """Return what gives the actions of the episode.

        Raises:
            ConfigError: They are neither stored nor to be drawn again.
        """
        source, sampler = self._origin.source, find_sampler(given, "actions")
        described = source.get("actions")
        if sampler is None and described is None and "actions" in source and "load" not in source:
            return episode_policy(self._env)(self._origin.episode)
        if sampler is None and described is not None and "load" not in source:
            try:
                sampler = rebuild_sampler(described, "actions")
            except ConfigError as error:
                if (policy := self._stored.policy(self._env, self._spec)) is not None:
                    return policy
                raise ConfigError(
                    f"{error}. Nor does a stored sample say its action: it has no field 'action', and the simulation "
                    "no load_sample"
                ) from error
        if sampler is not None:
            seed = part_seed(int(source.get("seed", 0)), *seeds_of(source, self._mode))
            return sampler.actions(self._env.action_space, seed)(self._origin.episode)
        if (policy := self._stored.policy(self._env, self._spec)) is not None:
            return policy
        raise ConfigError(
            "the dataset does not say what gave its actions, a stored sample has no field 'action', and the simulation "
            "no load_sample: the steps cannot be made again. Pass actions= with what gave them"
        )

    @property
    def needs_a_step(self) -> bool:
        """Return whether a snapshot has to be followed by a step, since nothing else can be compared."""
        return single_of(self._env.metadata) is not None

    def can_resume(self, given: SamplerLike) -> bool:
        """Return whether the episode can continue from a state: its actions there follow without the steps before.

        Args:
            given: What gave the actions, as for `policy`.
        """
        if not _keeps_all(self._env) or self._origin.dataset:
            return False
        source = self._origin.source
        if "load" in source:
            return False
        sampler = find_sampler(given, "actions")
        if sampler is None and (described := source.get("actions")) is not None:
            try:
                sampler = rebuild_sampler(described, "actions")
            except ConfigError:
                return False
        return "actions" in source and draws_alone(self._env, sampler)

    def go(self, step: int, policy: ActionPolicy, snapshot: Snapshot | None = None) -> Any:
        """Run the episode up to a step, and return the action of that step.

        Args:
            step: The step.
            policy: Gives the actions of the episode.
            snapshot: Where to begin; None for the beginning of the episode.

        Raises:
            DatasetError: A sample is not that which is stored.
        """
        stored, rng = self._stored, ActionGenerator().of(self._stored.seed)
        env, begin = self._env, 0
        if snapshot is not None:
            env, begin = ResumedEpisode(env, snapshot), snapshot.step
            skip_actions(policy, rng, begin)
        if step == begin:
            observation, _ = returned("reset", env.reset(seed=stored.seed, options=self._options), 2)
            return policy(observation, rng)
        last: Transition | None = None
        for one in self._transitions(env, policy, rng, begin, step):
            last = one
        if last is None or begin + last.step < step - 1 or last.last:
            raise different(f"episode {stored.episode}", "length")
        return policy(last.observation, rng)

    def steps(self, count: int, policy: ActionPolicy) -> Iterator[Transition]:
        """Make so many steps from the beginning of the episode.

        Args:
            count: How many.
            policy: Gives the actions of the episode.

        Raises:
            DatasetError: A sample is not that which is stored, or the episode ends earlier.
        """
        made = 0
        for one in self._transitions(self._env, policy, ActionGenerator().of(self._stored.seed), 0, count):
            made += 1
            yield one
        if made < count:
            raise different(f"episode {self._stored.episode}", "length")

    def _transitions(
        self, env: Env, policy: ActionPolicy, generator: np.random.Generator, begin: int, end: int
    ) -> Iterator[Transition]:
        """Make the steps of the episode from one to before another one, and compare their samples with the stored ones.

        Steps of the transitions count from the first one.
        """
        stored, source = self._stored, self._origin.source
        where = f"episode {stored.episode}"
        transitions = run_episode(
            env,
            self._spec,
            seed=stored.seed,
            policy=policy,
            max_steps=max(end + 1, int(source.get("max_steps", 0))) - begin,
            max_rejects=end + 1,
            where=where,
            nonfinite=source.get("nonfinite", "error"),
            options=self._options,
            generator=generator,
            check_observations=False,  # samples alone are stored
        )
        for one in itertools.islice(transitions, end - begin):
            at = begin + one.step
            if (sample := stored.sample(at)) is not None:
                _check_fields(sample, one.sample, self._spec)
                check_same_sample(sample, one.sample, f"{where}, step {at}")
            elif stored.is_whole and one.sample is not None:  # it was rejected
                raise different(f"{where}, step {at}", "outcome")
            yield one

    def check_next(self, factory: EnvFactory, step: int, action: Any) -> None:
        """Compare the sample of the next step too, in another environment, where one can come to the same state.

        Raises:
            DatasetError: It is another one.
        """
        sample, env = self._stored.sample(step), self._env
        keeps = _keeps_all(env)
        if (sample is None and not self._stored.is_whole) or single_of(env.metadata) or not (keeps or step == 0):
            return
        state = {}
        if keeps:  # copies: the other environment may keep or change what it gets
            found = env.unwrapped.state()  # type: ignore[attr-defined]  # a Simulation
            state = {name: np.array(value) for name, value in found.items()}
        other = build(lambda: OwnFolder(factory), 0, 1)
        with contextlib.closing(other):
            self._prepare(other)
            other.reset(seed=self._stored.seed, options=copy.deepcopy(self._options))
            if keeps:
                other.unwrapped.set_state(state)  # type: ignore[attr-defined]  # as above
            info = other.step(copy.deepcopy(action))[-1]
            where = f"episode {self._stored.episode}, step {step}"
            again = self._sample_of(info, where)
            if sample is None:
                if again is not None:
                    raise different(where, "outcome")
                return
            _check_fields(sample, again, self._spec)
            check_same_sample({name: sample[name] for name in sample if name != TRUNCATED}, again, where)

    def _sample_of(self, info: Mapping[str, Any], where: str) -> Sample | None:
        """Return the sample of a step; None where it is rejected."""
        if info.get("sample") is None:
            return None
        sample = self._spec.check(info["sample"], where, finite=False)
        refused = self._origin.source.get("nonfinite") == "reject" and self._spec.nonfinite(sample)
        return None if refused else sample


@contextlib.contextmanager
def _said_of(snapshot: Snapshot | None) -> Iterator[None]:
    """Name the snapshot that an episode continues from where its samples are not those that are stored."""
    try:
        yield
    except DatasetError as error:
        if snapshot is None:
            raise
        raise DatasetError(
            f"{error}. It went on from the snapshot {snapshot.file}: let state() hold all that steps depend on; "
            "without this file the episode is replayed from its seed"
        ) from error


def _keeps_all(env: Env) -> bool:
    """Return whether a simulation keeps states, and no wrapper around it has something to remember."""
    return remembering_layer(env) is None and not lacking_state_hooks(env)


def _check_fields(sample: Sample, again: Sample | None, spec: SampleSpec) -> None:
    """Raise DatasetError where a simulation has nothing to compare with what is stored."""
    if again is not None and not sample.keys() & again.keys():
        raise DatasetError(
            f"the dataset has the fields {sorted(sample)}, the simulation gives {sorted(spec)}: it is another one. "
            "Pass env= with the one that made the dataset"
        )


def _refuse_real_time(dataset: SampleDataset, source: Mapping[str, Any]) -> None:
    if was_in_real_time(source):
        raise ConfigError(
            f"{dataset.paths[0]} was made by a simulator in real time, which does not repeat itself: no step of it can "
            "be made again. Read the stored samples, or generate further episodes"
        )


def _refuse_surrogate(source: Mapping[str, Any]) -> None:
    if source.get("surrogate"):
        raise DatasetError(
            "the dataset was recorded with a network in place of the solver, so that there is no state of the solver "
            "to go back to. Take a dataset of the solver"
        )


def _simulation(origin: EpisodeOrigin) -> EnvLike:
    """Return the environment that the source of an episode names.

    Raises:
        ConfigError: It names none that can be found.
    """
    name = origin.source.get("env")
    if not isinstance(name, str) or not name:
        raise ConfigError("the dataset does not say which simulation made it; pass env=")
    try:
        return find_spec(name)
    except ConfigError as error:
        module, _, function = name.rpartition(":")
        with contextlib.suppress(Exception):
            found = getattr(importlib.import_module(module), function)
            if callable(found):
                made: EnvLike = found
                return made
        for module in _modules_of(origin.provenance):  # one of them registers the id, as "module:id" did
            with contextlib.suppress(Exception):
                importlib.import_module(module)
                return find_spec(name)
        raise ConfigError(
            f"the dataset was made by {name!r}, which is not found here; pass env= with the same simulation ({error})"
        ) from error


def _modules_of(provenance: Any) -> list[str]:
    """Return the names of the modules that the code of a simulation was in, as far as they are recorded."""
    modules = (code_of_part(provenance) or {}).get("modules")
    return [name for name in modules if name.partition(".")[0] != "physgym"] if isinstance(modules, Mapping) else []


def _arguments(origin: EpisodeOrigin) -> dict[str, Any]:
    """Return the arguments of the constructor that an episode had.

    Raises:
        ConfigError: Nothing says which of several it had, or it holds only a description of one.
    """
    if "load" in origin.source and isinstance(origin.source.get("env_kwargs"), list):
        raise ConfigError(
            "the dataset was made by loading samples, with several arguments of which it does not say which one an "
            "episode had; pass env_kwargs="
        )
    return passed_again(origin.arguments)


def _reset_options(env: Env, source: Mapping[str, Any], stored: StoredEpisode) -> dict[str, Any] | None:
    """Return the options of the reset of an episode.

    Raises:
        DatasetError: It had given parameters, which are not stored, or not those of the simulation.
    """
    if source.get("parameters") is None and "load" not in source:
        return None  # the environment drew them itself, from the seed
    space = declaration(env, "parameter_space")
    parameters = stored.parameters()
    if parameters is None and "load" in source:
        return None
    if space is None or parameters is None or list(parameters) != list(leaf_spaces(space)):
        known = "none" if parameters is None else list(parameters)
        raise DatasetError(
            f"the episode was made with given parameters, of which the dataset holds {known}; the simulation declares "
            f"{space}. Use the simulation with which it was made"
        )
    return {"parameters": unflatten(space, iter(parameters.values()))}


def _check_code(found: _Found, step: int, env: Env, *, allow: bool) -> Code | None:
    """Check that the code of the simulation is that which made a step; return it, None where another is allowed.

    Raises:
        ChangedCode: It is not.
    """
    runs, row = runs_of(found.origin.provenance), found.stored.row(step)
    if row is not None and not found.origin.dataset:  # a dataset that was resumed may have had several
        runs = [run for run in runs if int(run.get("samples", 0)) <= row] or runs
    producer = runs[-1].get("code") if runs else None
    now = code_of(found.like, dict(found.kwargs), describe_env(env))
    if not isinstance(producer, Mapping) or producer.get("hash") == "unknown":  # samples are compared in any case
        return now
    where = f"the sample of {found.dataset.paths[0]}"
    return None if check_same(producer, now, where, allow=allow, compare_factories=False) else now
