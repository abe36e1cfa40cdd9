"""`SampleStream`: episodes run in parallel workers, samples arrive in the order of their names, whatever ran them.

A place in a stream is the
name of the sample that was handed out last: whatever is stored, what comes after it is always the same.
"""

from __future__ import annotations

import itertools
import math
import operator
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np

from physgym.code.record import Code, check_same
from physgym.code.search import code_of
from physgym.data.dataset import SampleDataset
from physgym.data.description import check_mode
from physgym.data.provenance import begun, continued, warn_of_parts
from physgym.data.writer import DEFAULT_MAX_FILE_SIZE, Mode, SampleWriter, close_after
from physgym.episode import (
    DEFAULT_MAX_REJECTS,
    DEFAULT_MAX_STEPS,
    NO_SAMPLE_SPACE,
    SEED_RULE,
    TOO_MANY_REJECTS,
    episode_seed,
    part_seed,
    seeds_of,
)
from physgym.errors import ConfigError, DatasetError, PhysGymError, SampleError, UnequalSpaces
from physgym.generation.constants import common_constants
from physgym.generation.named_samples import Name, NamedSamples, SampleNames, join_names
from physgym.generation.source import as_recorded, describable, is_same_source, origin_attributes, recorded_source
from physgym.generation.stored_episodes import StoredEpisodes
from physgym.naming import env_name
from physgym.placement import EnvFactory
from physgym.protocol.messages import RolloutResult
from physgym.registration import EnvLike, defaults_of
from physgym.sample import Sample, SampleSpec
from physgym.samplers import Breed, Grid, find_sampler
from physgym.samplers.base import SamplerLike, draw_parameters
from physgym.simulation import NonFinite
from physgym.spaces import Array
from physgym.storage.location import Location
from physgym.system.cores import usable_cores
from physgym.vector.arguments import Arguments, check_arguments
from physgym.vector.episode_schedule import Episode
from physgym.vector.make import episode_factory
from physgym.vector.predictions import Predictor
from physgym.vector.quota import Demand
from physgym.vector.vector_env import DEFAULT_TIMEOUT, SocketVectorEnv
from physgym.worker.sampled_actions import SampledActionsFactory
from physgym.worker.stored_actions import StoredActionsFactory
from physgym.worker.variants import ARGUMENTS

INTERRUPT_PATIENCE = 0.5  # seconds that workers get to close their environments after Ctrl-C or a fault
BLOCK = 1 << 20  # bytes of stored samples that are read at once

ENDED = "all stored samples were loaded {passes} times; load them more often (passes), or for ever (passes=None)"
NO_MORE = "all episodes={episodes} have ended, and there are no more samples; raise episodes, or leave it out"
OTHER_SOURCE = (
    "the saved position is one of {saved}, this stream produces {mine}. Continue with the same environment, arguments, "
    "samplers and seed"
)
ONE_EPISODE = (
    "episode {episode} has given {given} of the {wanted} samples wanted, and goes on: an episode is sequential, "
    "so that meanwhile the other workers ({others}) have little or nothing to do. Set max_steps (now {max_steps}), as "
    "to max_steps={better}, and they share the work"
)
HINT_SECONDS = 1.0  # of generation before it is worth a hint
ONCE_MORE = (
    "some of the {count} points of the grid were rejected, and there are no others: the first ones come once more, and "
    "give the same samples again. Take more points, or fewer samples (dataset.samples, batches_per_epoch)"
)
THROUGH = (
    "{count} episodes went through all {what}, and {rejected} of their {steps} steps were rejected: the dataset has "
    "fewer samples than {wanted}, since those that are missing would only repeat the first ones. Take more {what}, or "
    "ask for more samples than there are steps if they shall be repeated"
)
SAME_SPACES = (
    "a list of arguments (env_kwargs) belongs to the episodes of one dataset, and must not change its spaces and "
    "fields; make a dataset for each instead. {error}"
)
NO_STATE = "not the state of a SampleStream: {error!r}"


class SampleStream:
    """Fresh samples from parallel simulations, in an order that depends on the seed alone.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes one environment.
        path: Dataset folder, or ``s3://bucket/prefix``, in which everything drawn is stored; None stores nothing.
        num_envs: Number of environments; by default one per worker.
        num_workers: Worker processes; by default one per usable core.
        seed: Seed of the run; episode i of a part gets a seed derived from it, the part (`mode`) and i.
        env_kwargs: Arguments of the environment's constructor; of a list of k dictionaries, episode e has
            ``env_kwargs[e % k]``, whichever worker runs it.
        mode: Which part of the dataset to write.
        resume: Continue the dataset at `path` after its last sample.
        max_steps: Truncate an episode after so many steps.
        max_rejects: Give up after so many rejected steps in a row.
        max_file_size: Largest size of a partition in bytes.
        timeout: Seconds to wait for a worker.
        on_error: "raise", or "restart": a worker that dies or hangs is started again and runs its episodes anew from
            their seeds; the samples are the same.
        predictor: Answers simulations that ask for a prediction in the middle of a step.
        actions: What draws the actions: one of `physgym.samplers`, its name, or a function of (observation, generator);
            None leaves it to the environment.
        parameters: What draws the parameters of episodes: one of `physgym.samplers`, or its name; None leaves it to the
            environment.
        nonfinite: What a sample with a value that is not finite is: an "error", a rejected step ("reject"), or a sample
            like others ("allow").
        keep_rejected: Whether the dataset keeps the samples of rejected steps apart.
        load: Stored samples that drive the simulation in place of a sampler of actions: each stored episode is begun
            anew with its seed and parameters, and each of its samples gives, through the environment's
            ``load_sample(sample)``, the action of a step. Once in the order of the dataset; then again, shuffled.
        passes: How often `load` is run through; None for ever.
        episodes: How many episodes there are, those of a resumed dataset included; None for no end.
        seeds: Part and rule from which seeds are derived, as `physgym.episode.part_seed` has them; those of `mode` by
            default.
        allow_changed_code: Whether to go on with another code of the simulation than that which made what is there;
            the dataset records both.

    Attributes:
        spec: The sample fields.
        parameter_spec: Parameters of an episode, None if the environment declares none.
        rejected: Number of rejected steps so far.
        writer: Writes to `path`; None without one.
        position: Episode and step of the sample that was handed out last, or, of a resumed dataset, stored last; None
            at the beginning.
        drawn: Names of the samples that were handed out last.
        stopped: Why `stop` was called; empty where it was not.

    Raises:
        ConfigError: An argument is wrong, or the environment has no ``load_sample``.
        SampleError: The environment declares no samples.
        WorkerError: An environment's constructor raised.
        DatasetError: The folder holds samples already and `resume` is off; or the samples to load do not fit.
    """

    def __init__(
        self,
        env: EnvLike,
        *,
        path: str | Path | Location | None = None,
        num_envs: int | None = None,
        num_workers: int | None = None,
        seed: int = 0,
        env_kwargs: Arguments = None,
        mode: Mode = "training",
        resume: bool = False,
        max_steps: int = DEFAULT_MAX_STEPS,
        max_rejects: int = DEFAULT_MAX_REJECTS,
        max_file_size: int = DEFAULT_MAX_FILE_SIZE,
        timeout: float = DEFAULT_TIMEOUT,
        on_error: str = "raise",
        predictor: Predictor = None,
        actions: SamplerLike = None,
        parameters: SamplerLike = None,
        nonfinite: NonFinite = "error",
        keep_rejected: bool = False,
        load: SampleDataset | None = None,
        passes: int | None = None,
        episodes: int | None = None,
        seeds: tuple[str, int] | None = None,
        allow_changed_code: bool = False,
    ) -> None:
        try:
            seed, max_steps, max_rejects = (operator.index(number) for number in (seed, max_steps, max_rejects))
            num_envs, num_workers = (n if n is None else operator.index(n) for n in (num_envs, num_workers))
        except TypeError as error:
            names = "seed, max_steps, max_rejects, num_envs and num_workers"
            raise ConfigError(f"{names} must be integers: {error}") from error
        if seed < 0:
            raise ConfigError(f"seed must not be negative, got {seed}")
        if max_steps < 1 or max_rejects < 1:
            raise ConfigError(f"max_steps and max_rejects must be at least 1, got {max_steps} and {max_rejects}")
        if num_envs is None:
            num_envs = max(1, usable_cores() if num_workers is None else num_workers)
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, not {num_envs}; leave it out for one per worker")
        if episodes is not None and (isinstance(episodes, bool) or not isinstance(episodes, int) or episodes < 1):
            raise ConfigError(f"episodes must be at least 1 and an integer, or None for no end, not {episodes!r}")
        if nonfinite not in get_args(NonFinite):
            raise ConfigError(f"nonfinite must be one of {get_args(NonFinite)}, not {nonfinite!r}")
        self._acting, self._drawing = find_sampler(actions, "actions"), find_sampler(parameters, "parameters")
        self._until = episodes
        self._env, self._kwargs = env, check_arguments(env_kwargs)
        check_mode(mode)
        self._part: tuple[str, int] = (mode, SEED_RULE) if seeds is None else seeds
        self._recorded = recorded_source(path, mode) if resume and path is not None else None
        if self._recorded is not None:
            self._part = seeds_of(self._recorded, mode)
        drawn = part_seed(seed, *self._part)
        self._nonfinite, self._passes, self._load = nonfinite, passes, load
        self._stored_episodes = None if load is None else StoredEpisodes(load, seed=drawn, passes=passes)
        if self._stored_episodes is not None:
            self._stored_episodes.check(max_steps, actions, len(self._kwargs))
        elif passes is not None:
            raise ConfigError("passes says how often stored samples are loaded; give them with load=")
        self.seed, self.rejected, self.writer, self.stopped = seed, 0, None, ""
        self._part_seed, self._allow_changed_code = drawn, allow_changed_code
        self._limits: dict[str, Any] = {"max_steps": max_steps, "max_rejects": max_rejects}
        self._limits |= {"nonfinite": nonfinite, "keep_rejected": bool(keep_rejected and path is not None)}
        factory = episode_factory(env, self._kwargs, self._driven)
        self._round: int | None = None  # episodes after which what is drawn begins again
        self._through = False  # whether it ended there
        self._repeats = False  # whether it was said that it did not
        self._patience: float | None = None  # that of the environments
        try:
            self._envs = SocketVectorEnv(
                [factory] * num_envs, num_workers=num_workers, timeout=timeout, on_error=on_error, predictor=predictor
            )
        except UnequalSpaces as error:
            if len(self._kwargs) == 1:
                raise
            raise UnequalSpaces(SAME_SPACES.format(error=error)) from error
        try:
            spec = self._envs.sample_spec
            if spec is None:
                raise SampleError(NO_SAMPLE_SPACE.format(env=env_name(env)))
            self.spec: SampleSpec = spec
            self.parameter_spec = self._envs.parameter_spec
            space = self._envs.parameter_space
            self._draw = draw_parameters(self._drawing, space, drawn, env_name(env))
            if self._stored_episodes is not None and self._draw is None:
                self._stored_episodes.use_parameters(space)
            if self._stored_episodes is not None:
                self._round = len(self._stored_episodes)
            elif isinstance(self._drawing, Grid) and space is not None:
                self._round = math.prod(self._drawing.counts(space))
            if path is not None:
                self.writer = SampleWriter(
                    path,
                    spec,
                    mode=mode,
                    source=self.source,
                    resume=resume,
                    max_file_size=max_file_size,
                    parameters=self.parameter_spec,
                    rejected=keep_rejected,
                    endings=True,
                    nonfinite="allow",  # the workers have decided
                    attributes=origin_attributes(env, self._kwargs, self._envs),
                )
                self._record_code(allow_changed_code)
                warn_of_parts(self, self.writer)
                if (constants := self.constants) or self.writer.constants:
                    self.writer.set_constants(constants)
        except BaseException as error:
            self._close(type(error))
            raise
        self.position: Name | None = None if self.writer is None else self.writer.last
        if self.breed is not None and self.position is not None:
            self._recall(self.breed)
        self.drawn = SampleNames()
        self._rows: Iterator[NamedSamples] | None = None  # None: to begin after the position
        self._written: Name | None = None  # what was stored then
        self._behind: Name | None = None  # the last name that was taken from there
        self._expected: int | None = None  # how many samples are wanted after the position
        self._demand: Demand | None = None  # likewise, of the rollout under way
        self._due = 0  # how many of them have not been handed out
        self._left = NamedSamples({})  # what a take did not need

    def _driven(self, factory: EnvFactory) -> EnvFactory:
        """The factory with what gives the actions."""
        if self._acting is not None:
            factory = SampledActionsFactory(factory, self._acting, self._part_seed)
        return factory if self._stored_episodes is None else StoredActionsFactory(factory)

    @cached_property
    def code(self) -> Code:
        """The code of the simulation, see `physgym.code.record`."""
        return code_of(self._env, self._kwargs, self.made)

    @property
    def made(self) -> Mapping[str, Any] | None:
        """What the environments say of their classes and files."""
        found: Mapping[str, Any] | None = self._envs.description.get("code")
        return found

    @property
    def constants(self) -> dict[str, Array]:
        """Arrays that the simulation gives once, see `common_constants`."""
        return common_constants(self._envs)

    @cached_property
    def defaults(self) -> Any:
        """The arguments of the constructor where none are given, as JSON data."""
        return describable([defaults_of(self._env)])

    @property
    def loaded(self) -> SampleDataset | None:
        """The samples whose episodes are run again; None where episodes are drawn."""
        return self._load

    def episode_seed(self, episode: int) -> int:
        """The seed of an episode, by its index; of stored samples that are loaded, those have their own."""
        return episode_seed(self._part_seed, episode)

    def _record_code(self, allow: bool) -> None:
        """Note which code makes the samples, in the description of the dataset.

        Raises:
            ChangedCode: It is not that which made the samples that are there.
        """
        assert self.writer is not None
        if self.writer.count == 0:
            self.writer.provenance = begun(self.code, self.defaults)
            return
        where = f"the part {self.writer.mode} of {self.writer.path}"
        self.writer.provenance = continued(
            self.writer.provenance, self.code, self.writer.count, where, allow=allow, defaults=self.defaults
        )

    @cached_property
    def source(self) -> dict[str, Any]:
        """What the samples are a function of, as JSON data, which a dataset stores."""
        source = {
            "env": env_name(self._env),
            "env_kwargs": describable(self._kwargs),
            "seed": self.seed,
            "max_steps": self._limits["max_steps"],
            "actions": None if self._acting is None else self._acting.describe(),
            "parameters": None if self._drawing is None else self._drawing.describe(),
            "nonfinite": self._nonfinite,
        }
        if self._part[1] > 1:
            source["seeds"] = {"part": self._part[0], "rule": self._part[1]}
        if self._stored_episodes is not None:
            source |= {"actions": {"sampler": "load_sample"}, "load": self._stored_episodes.describe()}
        return as_recorded(source, self._recorded)

    def _recall(self, breed: Breed) -> None:
        """Let episodes that are stored have the parameters that they had."""
        stored = self.dataset()
        if stored is not None and stored.parameters is not None and stored.parameter_episodes is not None:
            breed.recall(stored.parameter_episodes, stored.parameters)

    @property
    def breed(self) -> Breed | None:
        """The sampler of parameters, where it is one that losses drive."""
        return self._drawing if isinstance(self._drawing, Breed) else None

    @property
    def stored(self) -> int:
        """How many samples the dataset has, those that it had at first included; 0 without one."""
        return 0 if self.writer is None else self.writer.count

    @property
    def begun(self) -> bool:
        """Whether samples were taken, since it was made or its state was loaded."""
        return self._rows is not None

    def expect(self, samples: int) -> None:
        """Say that only so many samples more will be taken: simulations make no steps beyond them.

        Without it they run ahead, so that whoever takes samples need not wait. More may be taken all the same; what was
        saved then takes time.

        Args:
            samples: How many.

        Raises:
            ConfigError: Samples were taken already; `load_state_dict` begins anew.
            DatasetError: They do not fit on the disk.
        """
        if self._rows is not None:
            raise ConfigError("say how many samples are expected before the first one is taken")
        if self.writer is not None and self._passes is None:
            self.writer.check_room(samples if self._until is None else min(samples, self._until))
        self._expected = self._due = samples

    def want(self, samples: int) -> None:
        """Say that so many samples are wanted next, at least; other than `expect` at any time.

        What was expected before and was not taken counts. Where nothing was expected there is no end.

        Args:
            samples: How many.
        """
        if self._rows is None:
            self.expect(samples)
        elif self._demand is not None and self._expected is not None and (more := samples - self._due) > 0:
            self._demand.samples += more
            self._expected, self._due = self._expected + more, samples

    def stop(self, reason: str = "") -> None:
        """End the generation that `generate` is at, after the event that calls this.

        Args:
            reason: Why, for whoever reads `stopped`.
        """
        self.stopped = reason or "a callback asked for it"

    @property
    def predictor(self) -> Predictor:
        """What answers simulations that ask for a prediction in the middle of a step; may be set at any time."""
        return self._envs.predictor

    @predictor.setter
    def predictor(self, predictor: Predictor) -> None:
        self._envs.predictor = predictor

    def take(self, limit: int) -> NamedSamples:
        """The next samples, at least one and at most `limit`; stored if there is a dataset.

        Returns:
            The samples and their names. None of them once stored samples were loaded as often as `passes` says, or the
            last of `episodes` has ended.

        Raises:
            SampleError: A sample does not fit its declaration, or too many in a row were rejected.
            WorkerError: A worker died or did not answer, or an environment raised.
            DatasetError: The disk refuses the write.
        """
        parts = self._hand_out(1, limit)
        return parts[0] if parts else NamedSamples({})

    def draw(self, batch_size: int) -> Sample:
        """A batch of the next samples: fields of shape (batch_size, *field shape); fewer at the end of the last pass.

        Raises:
            SampleError: As `take`.
            WorkerError: As `take`.
            DatasetError: As `take`; or stored samples were loaded as often as `passes` says, or all `episodes` ended.
        """
        parts = self._hand_out(batch_size, batch_size)
        if not parts:
            text = NO_MORE if self._passes is None else ENDED
            raise DatasetError(text.format(passes=self._passes, episodes=self._until))
        # also of one part: what arrived need not be aligned in memory
        return {name: np.concatenate([part.samples[name] for part in parts]) for name in self.spec}

    def state_dict(self) -> dict[str, Any]:
        """The place after the samples that were handed out last, as JSON data."""
        position = None if self.position is None else list(self.position)
        return {"position": position, "source": self.source, "code": self.code.to_json()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place: the next samples are those that came after it, to the bit, whatever is stored.

        Samples that are stored already are read; what a killed process could not store is produced and stored again.

        Args:
            state: What `state_dict` gave; empty for the beginning.

        Raises:
            ConfigError: It is the state of another stream.
            ChangedCode: The simulation has other code than when it was saved.
        """
        position: Name | None = None
        try:
            if state and state["position"] is not None:
                episode, step = state["position"]
                position = operator.index(episode), operator.index(step)
            source = state["source"] if state else None
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(NO_STATE.format(error=error)) from error
        if source is not None and not is_same_source(source, self.source):
            raise ConfigError(OTHER_SOURCE.format(saved=source, mine=self.source))
        if position is not None:
            check_same(state.get("code"), self.code, "what was saved", allow=self._allow_changed_code)
        self.position, self.drawn, self._rows, self._expected = position, SampleNames(), None, None

    def _hand_out(self, least: int, most: int) -> list[NamedSamples]:
        """The next samples, fewer than `least` only at the end."""
        parts: list[NamedSamples] = []
        before = self.position
        try:
            while (count := sum(map(len, parts))) < least and (part := self._next(most - count)) is not None:
                parts.append(part)
        except BaseException:
            self._rows, self.position = None, before  # what was not handed out is not lost
            raise
        if parts:
            self._due -= sum(map(len, parts))
            self.drawn = join_names(*(part.names for part in parts))
            self.position = self.drawn.last
        return parts

    def _next(self, limit: int) -> NamedSamples | None:
        """The next samples after the position; they and any before them are stored."""
        if self._rows is None:
            self._begin()
        assert self._rows is not None
        while True:
            while not len(self._left):
                more = next(self._rows, None)
                if more is None and self._expected is not None and not self._through:
                    self._expected = None  # there may be more than that
                    self.position = self._behind or self.position
                    self._begin()
                    continue
                if more is None:
                    return None
                self._left = self._left.then(more)
            rows, self._left = self._left.split(limit)
            # a part has either samples that are stored already or new ones
            if self.writer is not None and (self._written is None or rows.names.last > self._written):
                rows.write(self.writer)
                if self._expected is None:
                    self._say_again(rows)
            self._behind = rows.names.last
            if self.position is None or rows.names.first > self.position:
                return rows
            if rows.names.last > self.position:
                return rows.cut(rows.names.after(*self.position))

    def _begin(self) -> None:
        """Begin after the position: with what is stored, else with the production."""
        if self.breed is not None:
            self.breed.keep()  # an episode that was begun has its parameters
        stored = None if self.writer is None else self.writer.last
        again: Iterator[NamedSamples] = iter(())
        expected = self._expected
        if stored is not None and (self.position is None or self.position < stored):
            again = self._stored_after(self.position)
            if expected is not None:
                names = self._stored_names()
                expected -= len(names if self.position is None else names.cut(names.after(*self.position)))
        self._left, self._written, self._behind = NamedSamples({}), stored, self.position
        produced = self._ordered(self.position if self.writer is None else stored, expected)
        self._rows = itertools.chain(again, produced)

    def _stored_names(self) -> SampleNames:
        """Names of all stored samples."""
        dataset = self.dataset()
        assert dataset is not None
        return SampleNames(*(dataset.index(name) for name in ("episode", "step", "seed")))

    def _stored_after(self, position: Name | None) -> Iterator[NamedSamples]:
        """The stored samples behind a name, some at a time."""
        dataset = self.dataset()
        assert dataset is not None
        names = SampleNames(*(dataset.index(name) for name in ("episode", "step", "seed")))
        first = 0 if position is None else int(np.argmax(names.after(*position)))
        block = max(1, BLOCK // max(1, dataset.row_nbytes))
        for start in range(first, len(dataset), block):
            stop = min(start + block, len(dataset))
            yield NamedSamples(dataset.read(start, stop), names.cut(slice(start, stop)))

    def dataset(self) -> SampleDataset | None:
        """Everything stored so far, None where nothing is."""
        if self.writer is None:
            return None
        if not self.writer.closed:
            self.writer.commit()
        return SampleDataset(self.writer.path, self.writer.mode)

    def cancel(self) -> None:
        """From another thread: let a call that waits for samples raise `ClosedError`, and all later ones.

        It ends within a second where simulations are in workers, else with the episode that is under way.
        """
        self._envs.cancel_rollout()

    def kill(self) -> None:
        """End the workers at once; `close` is still needed to complete the dataset."""
        self._envs.close(terminate=True)

    def hurry(self) -> None:
        """Let `close` not wait for what takes long, as after Ctrl-C."""
        self._patience = INTERRUPT_PATIENCE

    def close(self) -> None:
        """End the workers and complete the dataset; calling it again does no harm."""
        self._close(None)

    def _close(self, error: type[BaseException] | None) -> None:
        try:
            if error is not None:
                self.hurry()
            if not self._envs.closed:
                self._envs.close(timeout=self._patience)
        finally:
            if self.writer is not None:
                close_after(self.writer, error)

    def __enter__(self) -> SampleStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._close(kind)

    def _episodes(self, first: int) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Index, seed and options of the episodes, from the index `first` on."""
        episodes: Iterator[tuple[int, int, dict[str, Any]]]
        if self._stored_episodes is None:
            episodes = ((episode, episode_seed(self._part_seed, episode), {}) for episode in itertools.count(first))
        else:
            episodes = self._stored_episodes.run(first, len(self._kwargs))
        for episode, seed, options in episodes:
            if self._until is not None and episode >= self._until:
                return
            if len(self._kwargs) > 1:
                options.setdefault(ARGUMENTS, episode % len(self._kwargs))
            if self._draw is not None:
                options["parameters"] = self._draw(episode)
            yield episode, seed, options

    def _again(self, last: Name) -> int:
        """How many samples of an episode come once more before those after a name."""
        if self.writer is None:
            return last[1] + 1
        return int(np.count_nonzero(self._stored_names().episodes == last[0]))

    def _ended(self, last: Name) -> bool:
        """Whether the dataset says that its last episode has ended with its last sample."""
        dataset = None if self.writer is None else self.dataset()
        return dataset is not None and dataset.endings is not None and dataset.endings[last[0]] != "unfinished"

    def _after_a_round(self, wanted: int) -> Callable[[RolloutResult], bool] | None:
        """A function that is given the parts of a generation, and says when to end it after a round of what is drawn.

        That is where so many samples would have come from one round but for rejected steps: the first points would give
        the first samples again.
        """
        if (count := self._round) is None:
            return None
        dataset = self.dataset() if self.stored else None
        known = {} if dataset is None else dataset.lengths
        made = sum(steps for episode, steps in known.items() if episode < count)  # in the episodes of the round
        seen = count - 1 in known

        def over(part: RolloutResult) -> bool:
            nonlocal made, seen
            made += sum(entry[1] for entry in part.ended if entry[0] < count)
            seen = seen or any(entry[0] == count - 1 for entry in part.ended)
            if not seen or wanted > made or self._expected is None:
                return False
            kept = self.stored + int(np.count_nonzero(part.episodes < count))
            if kept >= wanted:
                return False
            what = "points of the grid" if self._stored_episodes is None else "stored samples"
            figures = {"count": count, "what": what, "rejected": made - kept, "steps": made, "wanted": wanted}
            warnings.warn(THROUGH.format(**figures), UserWarning, stacklevel=2)
            return True

        return over

    def _say_again(self, rows: NamedSamples) -> None:
        """Warn once where stored samples repeat the first points of a grid, since others were rejected."""
        if self._round is None or not len(rows) or int(rows.names.episodes[-1]) < self._round:
            return
        if isinstance(self._drawing, Grid) and self.rejected and not self._repeats:
            self._repeats = True
            warnings.warn(ONCE_MORE.format(count=self._round), UserWarning, stacklevel=2)

    def _hint(self, wanted: int) -> Callable[[RolloutResult], None]:
        """A function that is given the parts of a generation, and warns once where one episode makes up most of it."""
        begun, workers = time.monotonic(), self._envs.num_workers
        said = False

        def look(part: RolloutResult) -> None:
            nonlocal said
            if said or workers < 2 or not len(part.steps):
                return
            episode, given = int(part.episodes[-1]), int(part.steps[-1]) + 1
            goes_on = all(entry[0] != episode for entry in part.ended)
            if goes_on and given > wanted / workers and time.monotonic() - begun > HINT_SECONDS:
                said = True
                figures = {"episode": episode, "given": given, "wanted": wanted, "others": workers - 1}
                better, limit = max(1, wanted // (4 * workers)), self._limits["max_steps"]
                warnings.warn(ONE_EPISODE.format(**figures, max_steps=limit, better=better), UserWarning, stacklevel=2)

        return look

    def _ordered(self, last: Name | None, expected: int | None) -> Iterator[NamedSamples]:
        """Samples in order of their names, from after the sample `last` (episode, step); maybe only so many."""
        if expected is not None and expected <= 0:
            return
        first, done = (0, -1) if last is None else last
        if last is not None and self._ended(last):
            first, done = first + 1, -1
        elif expected is not None and last is not None:
            expected += self._again(last)
        seeds: dict[int, int] = {}

        def names() -> Iterator[Episode]:
            for episode, seed, options in self._episodes(first):
                seeds[episode] = seed
                yield (episode, seed, options) if options else (episode, seed)

        self._demand = demand = None if expected is None else Demand(expected)
        arrivals = self._envs.rollout(names(), **self._limits, samples=demand)
        early: dict[int, deque[RolloutResult | PhysGymError]] = {}
        chunk = following = first
        arrived_so_far = rejects_in_a_row = 0
        hint = None if expected is None else self._hint(expected)
        stores = expected is not None and self.writer is not None
        over = self._after_a_round(self.stored + (self._expected or 0)) if stores else None
        while True:
            parts = early.setdefault(chunk, deque())
            while not parts:
                if (arrival := next(arrivals, None)) is None:
                    return
                arrived, part = arrival
                early.setdefault(arrived, deque()).append(part)
            part = parts.popleft()
            if isinstance(part, PhysGymError):
                raise part  # only now, when all samples before it are delivered, whoever was faster
            rows = _rows(part, seeds)
            if chunk == first and done >= 0:
                rows = rows.after(first, done)
            for episode, _, kept, _, rejected, *_ in part.ended:
                following = episode + 1
                del seeds[episode]
                self.rejected += len(rejected)
                # within an episode the worker counts; episodes of one step need the count across episodes
                rejects_in_a_row = 0 if kept else rejects_in_a_row + len(rejected)
                if rejects_in_a_row >= (limit := self._limits["max_rejects"]):
                    yield rows.cut(rows.names.episodes < episode)
                    reason = list(rejected.values())[-1]
                    raise SampleError(
                        TOO_MANY_REJECTS.format(
                            where=f"episode {episode}", count=rejects_in_a_row, limit=limit, reason=reason
                        )
                    )
            if part.last:
                del early[chunk]
                chunk = following
            if over is not None and over(part):
                self._through = True
                yield rows.cut(rows.names.episodes < (self._round or 0))
                return
            yield rows
            arrived_so_far += len(part.steps)
            if hint is not None:
                hint(part)
            if demand is not None and arrived_so_far >= demand.samples:
                return


def _rows(part: RolloutResult, seeds: Mapping[int, int]) -> NamedSamples:
    """What arrived, with the seeds of its episodes."""
    rows = NamedSamples(part.samples, _names(part.episodes, part.steps, seeds))
    if (parameters := part.parameters) is not None:
        steps = np.zeros(len(parameters.episodes), np.int64)
        names = _names(parameters.episodes, steps, seeds)
        rows = replace(rows, parameter_names=names, parameters=parameters.values)
    if (rejected := part.rejected) is not None:
        names = _names(rejected.episodes, rejected.steps, seeds)
        rows = replace(rows, rejected_names=names, rejected=rejected.samples, reasons=rejected.reasons)
    if ended := [entry for entry in part.ended if len(entry) > 5]:
        episodes, steps = (np.array([entry[place] for entry in ended], np.int64) for place in (0, 1))
        rows = replace(rows, ending_names=_names(episodes, steps - 1, seeds), endings=[entry[5] for entry in ended])
    return rows


def _names(episodes: Array, steps: Array, seeds: Mapping[int, int]) -> SampleNames:
    """Names with the seed of each one's episode; the rows of an episode stand together."""
    begins = np.flatnonzero(np.diff(episodes, prepend=-1))
    found = np.array([seeds[episode] for episode in episodes[begins].tolist()], np.uint64)
    return SampleNames(episodes, steps, np.repeat(found, np.diff(begins, append=len(episodes))))
