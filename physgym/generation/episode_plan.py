"""The episodes of a stream: their seeds, arguments, parameters and actions, and the source that a dataset records."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from gymnasium import spaces

from physgym import real_time
from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode, check_mode
from physgym.episode import SEED_RULE, episode_seed, part_seed, seeds_of
from physgym.errors import ConfigError
from physgym.generation.named_samples import NamedSamples
from physgym.generation.source import as_recorded, describable, recorded_source
from physgym.generation.stored_episodes import StoredEpisodes
from physgym.naming import env_name
from physgym.placement import EnvFactory
from physgym.registration import EnvLike, defaults_of
from physgym.sample import SampleSpec
from physgym.samplers import Breed, Grid, Sampler, find_sampler
from physgym.samplers.base import SamplerLike, draw_parameters
from physgym.storage.location import Location
from physgym.vector.arguments import Arguments, check_arguments
from physgym.vector.make import episode_factory
from physgym.worker.given_inputs import RunInputs
from physgym.worker.sampled_actions import SampledActionsFactory
from physgym.worker.snapshots import SnapshotsFactory
from physgym.worker.stored_actions import StoredActionsFactory
from physgym.worker.variants import ARGUMENTS


class EpisodePlan:
    """Everything that the samples of a stream are a function of.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes one environment.
        arguments: Arguments of the constructor, or a list of them.
        seed: Seed of the run.
        mode: Part of the dataset.
        seeds: Part and rule from which seeds are derived; those of `mode` by default.
        continued: Dataset that is continued; None for none. It may have seeds by an older rule.
        actions: Sampler of actions.
        parameters: Sampler of parameters.
        limits: "max_steps", "max_rejects", "nonfinite", "keep_rejected" and "reports" of the episodes.
        load: Stored samples that drive the simulation.
        passes: Number of passes over them; None for ever.
        episodes: Number of episodes; None for no end.
        snapshots: Number of steps after which the state of the simulation is wanted each time; None for no states.

    Attributes:
        arguments: Arguments of the constructor, of which episode e has those at e modulo their number.
        part_seed: Seed of the part.
        real_time: Whether the simulation runs in real time, see `physgym.real_time`; known once there is one.
        stored_episodes: Episodes of the stored samples; None without any.

    Raises:
        ConfigError: An argument is wrong.
        DatasetError: There are no samples to load.
    """

    def __init__(
        self,
        env: EnvLike,
        arguments: Arguments,
        *,
        seed: int,
        mode: Mode,
        seeds: tuple[str, int] | None,
        continued: str | Path | Location | None,
        actions: SamplerLike,
        parameters: SamplerLike,
        limits: Mapping[str, Any],
        load: SampleDataset | None,
        passes: int | None,
        episodes: int | None,
        snapshots: int | None,
    ) -> None:
        self.actions, self.parameters = find_sampler(actions, "actions"), find_sampler(parameters, "parameters")
        self.env, self.arguments, self.seed = env, check_arguments(arguments), seed
        self.limits, self.loaded, self.passes = limits, load, passes
        self.snapshots, self.real_time = snapshots, False
        self.episodes = _limited(episodes, self.parameters)
        check_mode(mode)
        self._recorded = None if continued is None else recorded_source(continued, mode)
        self._part = (mode, SEED_RULE) if seeds is None else seeds
        if self._recorded is not None:
            self._part = seeds_of(self._recorded, mode)
        self.part_seed = part_seed(seed, *self._part)
        self.stored_episodes = None if load is None else StoredEpisodes(load, seed=self.part_seed, passes=passes)
        if self.stored_episodes is not None:
            self.stored_episodes.check(limits["max_steps"], actions, len(self.arguments))
        elif passes is not None:
            raise ConfigError("passes says how often stored samples are loaded; give them with load=")

    def factory(self) -> EnvFactory:
        """Return the function that makes an environment with its sampler of actions, or driven by stored samples."""
        return episode_factory(self.env, self.arguments, self._driven)

    def _driven(self, factory: EnvFactory) -> EnvFactory:
        if self.actions is not None:
            factory = SampledActionsFactory(factory, self.actions, self.part_seed)
        if self.stored_episodes is not None:
            factory = StoredActionsFactory(factory)
        return factory if self.snapshots is None else SnapshotsFactory(factory, self.snapshots)

    @property
    def breed(self) -> Breed | None:
        """Return the sampler of parameters, where it is one that losses drive."""
        return self.parameters if isinstance(self.parameters, Breed) else None

    @cached_property
    def defaults(self) -> Any:
        """Return the arguments of the constructor where none are given, as JSON data; without infinite ones."""
        return {name: value for name, value in describable([defaults_of(self.env)]).items() if _is_finite(value)}

    @cached_property
    def source(self) -> dict[str, Any]:
        """Return the plan as JSON data, which a dataset stores."""
        source = {
            "env": env_name(self.env),
            "env_kwargs": describable(self.arguments),
            "seed": self.seed,
            "max_steps": self.limits["max_steps"],
            "actions": None if self.actions is None else self.actions.describe(),
            "parameters": None if self.parameters is None else self.parameters.describe(),
            "nonfinite": self.limits["nonfinite"],
        }
        if self._part[1] > 1:
            source["seeds"] = {"part": self._part[0], "rule": self._part[1]}
        if self.stored_episodes is not None:
            source |= {"actions": {"sampler": "load_sample"}, "load": self.stored_episodes.describe()}
        if self.real_time:
            source[real_time.SOURCE] = True
        return as_recorded(source, self._recorded)


def _is_finite(value: Any) -> bool:
    """Return whether JSON data hold no number that JSON does not know."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _limited(episodes: int | None, sampler: Sampler | None) -> int | None:
    """Return the number of episodes, which a sampler of parameters may limit.

    Raises:
        ConfigError: More are wanted than it has parameters for.
    """
    if sampler is None or sampler.episodes is None:
        return episodes
    if episodes is not None and episodes > sampler.episodes:
        raise ConfigError(
            f"episodes={episodes} are more than the {sampler.episodes} for which the sampler of parameters has values"
        )
    return sampler.episodes if episodes is None else episodes


class Episodes:
    """The episodes of a plan, by their index.

    Args:
        plan: The plan.
        space: The simulation's ``parameter_space``; None if it has none.
        spec: Its parameters as fields.
        inputs: Inputs of a person; None for none.

    Attributes:
        inputs: As the argument.
        round: Number of episodes after which what is drawn begins again; None if it never does.

    Raises:
        ConfigError: The parameters cannot be drawn.
        DatasetError: The stored samples have other parameters.
    """

    def __init__(
        self,
        plan: EpisodePlan,
        space: spaces.Space[Any] | None,
        spec: SampleSpec | None,
        inputs: RunInputs | None = None,
    ) -> None:
        self.plan, self.inputs = plan, inputs
        self._draw = draw_parameters(plan.parameters, space, spec, plan.part_seed, env_name(plan.env))
        self.round: int | None = None
        self._repeats_said = False
        if plan.stored_episodes is not None:
            if self._draw is None:
                plan.stored_episodes.use_parameters(space)
            self.round = len(plan.stored_episodes)
        elif isinstance(plan.parameters, Grid) and space is not None:
            self.round = math.prod(plan.parameters.counts(space))

    def run(self, first: int) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Yield index, seed and options of the episodes from the index `first` on."""
        plan = self.plan
        episodes: Iterator[tuple[int, int, dict[str, Any]]]
        if plan.stored_episodes is None:
            episodes = ((episode, episode_seed(plan.part_seed, episode), {}) for episode in itertools.count(first))
        else:
            episodes = plan.stored_episodes.run(first, len(plan.arguments))
        for episode, seed, options in episodes:
            if plan.episodes is not None and episode >= plan.episodes:
                return
            if len(plan.arguments) > 1:
                options.setdefault(ARGUMENTS, episode % len(plan.arguments))
            if self._draw is not None:
                options["parameters"] = self._draw(episode)
            if self.inputs is not None:
                options |= self.inputs.options(episode)
            yield episode, seed, options

    def warn_of_repeats(self, samples: NamedSamples, rejected: int) -> None:
        """Warn once where stored samples repeat the first points of a grid, since others were rejected.

        Args:
            samples: Samples that were stored just now.
            rejected: Number of rejected steps so far.
        """
        if self.round is None or not len(samples) or int(samples.names.episodes[-1]) < self.round:
            return
        if isinstance(self.plan.parameters, Grid) and rejected and not self._repeats_said:
            self._repeats_said = True
            warnings.warn(
                f"some of the {self.round} points of the grid were rejected, and there are no others: the first ones "
                "come once more, and give the same samples again. Take more points, or fewer samples (dataset.samples, "
                "batches_per_epoch)",
                UserWarning,
                stacklevel=2,
            )
