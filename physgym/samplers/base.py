"""`Sampler`: what draws the parameters and the actions of episodes, and the random numbers that it draws with."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import numpy as np
from gymnasium import spaces

from physgym.cube import LeafColumns
from physgym.errors import ConfigError
from physgym.policies import ActionPolicy, EpisodePolicy, ParameterDraw
from physgym.sample import SampleSpec
from physgym.samplers.table import sampler_names
from physgym.spaces import Array

PARAMETERS, ACTIONS = 1, 2  # streams of random numbers


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return one of the independent streams of random numbers that belong to a seed."""
    # a spawn key, since a list of numbers as entropy would be padded with zeros, and large seeds run into the next one
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


class Sampler(ABC):
    """Draws parameters, actions, or both.

    Attributes:
        name: Name in the table of samplers.
        episodes: Number of episodes that it has parameters for; None for no end.
        observes: Whether an action may depend on what was observed; if not, those of steps to come can be drawn alone.
    """

    name: ClassVar[str]
    observes: ClassVar[bool] = True
    episodes: int | None = None

    def describe(self) -> dict[str, Any]:
        """Return the sampler as JSON data, which a dataset stores."""
        return {"sampler": self.name}

    def check_units(self, units: Mapping[str, str]) -> None:  # noqa: B027  # most know none
        """Compare the units of parameters, where the sampler knows some, with those of the simulation.

        Args:
            units: Unit by path of the parameter; empty where the simulation declares none.

        Raises:
            ConfigError: One differs.
        """

    def parameters(self, space: spaces.Space[Any], seed: int) -> ParameterDraw:
        """Return a function from the index of an episode to its parameters.

        Args:
            space: The environment's ``parameter_space``.
            seed: Seed of the run.

        Raises:
            ConfigError: The sampler cannot draw from that space, or draws actions only.
        """
        known = ", ".join(sampler_names("parameters"))
        raise ConfigError(f"a {self.name} sampler gives actions, not parameters; use one of {known}")

    def actions(self, space: spaces.Space[Any], seed: int) -> EpisodePolicy:
        """Return a function from the index of an episode to its policy.

        Args:
            space: The environment's ``action_space``.
            seed: Seed of the run.

        Raises:
            ConfigError: The sampler cannot draw from that space, or draws parameters only.
        """
        known = ", ".join(sampler_names("actions"))
        raise ConfigError(f"a {self.name} sampler gives parameters, not actions; use one of {known}")


SamplerLike: TypeAlias = Sampler | str | ActionPolicy | None


def draw_parameters(
    sampler: Sampler | None, space: spaces.Space[Any] | None, spec: SampleSpec | None, seed: int, env: str
) -> ParameterDraw | None:
    """Return a function from the index of an episode to its parameters, None if the environment is to draw them.

    Args:
        sampler: Draws them.
        space: The environment's ``parameter_space``, if it has one.
        spec: The parameters as fields, which have units.
        seed: Seed of the run.
        env: What to call the environment in an error.

    Raises:
        ConfigError: The environment has no parameters, or the sampler cannot draw them.
    """
    if sampler is None:
        return None
    if space is None:
        raise ConfigError(
            f"{env} declares no parameter_space, so there are no parameters to sample. Set `parameter_space` (a "
            'gymnasium.spaces.Dict) on it and take options["parameters"] in reset; see docs/howto/simulation.md.'
        )
    sampler.check_units({} if spec is None else {field.name: field.unit or "" for field in spec.values()})
    return sampler.parameters(space, seed)


class Blocks:
    """Values by the index of the episode, made a block at a time.

    Args:
        space: Where they are.
        make: Maps the index of a block to its values, one array per leaf of shape (size, *leaf shape).
        size: Episodes per block.
    """

    def __init__(self, space: LeafColumns, make: Callable[[int], list[Array]], size: int) -> None:
        self._space, self._make, self._size = space, make, size
        self._block = -1
        self._columns: list[Array] = []

    def __call__(self, episode: int) -> Any:
        """Return the value of an episode."""
        block, row = divmod(episode, self._size)
        if block != self._block:
            self._columns, self._block = self._make(block), block
        return self._space.value(self._columns, row)
