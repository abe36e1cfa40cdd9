"""Environments with a sampler of actions, as workers make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from physgym.placement import DeclaringFactory, EnvFactory, PortableFactory, declared_metadata, described, makes_batch
from physgym.samplers.base import Sampler
from physgym.samplers.find import rebuild_sampler
from physgym.worker.batch import RowBatch

SAMPLED_ACTIONS = "sampled actions"  # what a description says is to be made


class SampledActionsEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment with the sampler of the actions of its rollouts.

    Args:
        env: The environment.
        sampler: Draws them.
        seed: Seed of the run.

    Attributes:
        episode_policy: Maps the index of an episode to its policy.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], sampler: Sampler, seed: int) -> None:
        super().__init__(env)
        self.episode_policy = sampler.actions(env.action_space, seed)


class SampledActionsFactory(PortableFactory):
    """Makes environments with a sampler of actions; a local worker gets it in place of their factory.

    Args:
        factory: Makes one environment.
        sampler: Draws its actions.
        seed: Seed of the run.
    """

    def __init__(self, factory: EnvFactory, sampler: Sampler, seed: int) -> None:
        self._factory, self._sampler, self._seed = factory, sampler, seed

    def __call__(self) -> gymnasium.Env[Any, Any]:
        """Make an environment."""
        return SampledActionsEnv(self._factory(), self._sampler, self._seed)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the metadata of their class; nothing where that is not known."""
        return declared_metadata(self._factory)

    def makes_batch(self, factories: Sequence[EnvFactory]) -> bool:
        """Return whether all have this sampler, around factories that make a batch."""
        alike = [one for one in factories if isinstance(one, SampledActionsFactory) and one._draws_like(self)]
        return len(alike) == len(factories) and makes_batch([one._factory for one in alike])

    def batch(self, factories: Sequence[EnvFactory]) -> RowBatch | None:
        """Make the environments of several factories at once, with this sampler."""
        alike = [one._factory for one in factories if isinstance(one, SampledActionsFactory)]
        if not self.makes_batch(factories) or not isinstance(self._factory, DeclaringFactory):
            return None
        made = self._factory.batch(alike)
        return RowBatch(made.rows, self._sampler.actions(made.rows.venv.single_action_space, self._seed))

    def _draws_like(self, other: SampledActionsFactory) -> bool:
        """Return whether both draw the same; a description reads the code of a function, which takes a while."""
        if self._sampler is other._sampler:
            return self._seed == other._seed
        return self._seed == other._seed and self._sampler.describe() == other._sampler.describe()

    def describe(self) -> dict[str, Any]:
        """Return the factory as JSON data.

        Raises:
            ConfigError: The sampler is a function or a network, of which a description has the name alone.
        """
        sampler = self._sampler.describe()
        rebuild_sampler(sampler, "actions")  # here an error is read
        return {"make": SAMPLED_ACTIONS, "of": described(self._factory), "sampler": sampler, "seed": self._seed}
