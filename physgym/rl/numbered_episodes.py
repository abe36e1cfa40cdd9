"""`NumberedEpisodes`: an environment whose episodes have numbers and seeds of their own, and can be resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from physgym.episode import episode_seed
from physgym.errors import ConfigError, NotAllowed, SampleError
from physgym.placement import Env, EnvFactory, PortableFactory, declared_metadata, described
from physgym.placement import current as placement
from physgym.rl.preprocessing import READING_FILES, WRAPPERS, Preprocessing
from physgym.rl.step_limit import StepLimit
from physgym.simulation import lacking_state_hooks
from physgym.worker.snapshots import remembering_layer, set_elapsed_steps, state_of


class NumberedEpisodes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that resets itself with the seed of its next episode.

    Environment i of n has the episodes i, i + n, i + 2 n and so on. The seed of an episode is a function of the seed of
    the run and of its number, so that an episode can be run again without those before it.

    Args:
        env: The environment.
        seed: Seed of the run.
        limit: Most steps of an episode; None for those of the environment.

    Attributes:
        number: The number of the episode, below 0 before the first one.
    """

    def __init__(self, env: Env, seed: int, limit: StepLimit | None) -> None:
        super().__init__(env)
        self._seed, self._limit = seed, limit
        place = placement()
        self._stride = place.env_count
        self.number = place.env_index - place.env_count
        self._steps = 0
        self._most: float = 0
        self._keeps_state = not lacking_state_hooks(env) and remembering_layer(env) is None
        self._actions: list[Any] = []  # of the episode, where its state cannot be kept

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin the next episode, with the seed of its number, in place of a given one."""
        self.number += self._stride
        return self._begin(options)

    def _begin(self, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._steps, self._actions = 0, []
        self._most = float("inf") if self._limit is None else self._limit.of_episode(self.number)
        found: tuple[Any, dict[str, Any]] = self.env.reset(seed=episode_seed(self._seed, self.number), options=options)
        return found

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Make a step; the last one that the limit allows is truncated."""
        self._steps += 1
        if not self._keeps_state:
            self._actions.append(action)
        found = self.env.step(action)
        if self._steps >= self._most and not found[2]:
            return (*found[:3], True, found[4])
        return found

    def skip_to(self, number: int) -> None:
        """Let the next episode be the first one of this environment whose number is not below another one."""
        behind = number - self.number - self._stride
        if behind > 0:
            self.number += -(-behind // self._stride) * self._stride

    def kept_episode(self) -> dict[str, Any]:
        """Return what `resume_episode` needs to come back to this point of the episode: numbers and arrays by name."""
        found: dict[str, Any] = {"number": self.number, "steps": self._steps}
        if self._keeps_state:
            return found | {"state": state_of(self.env)}
        return found | {"actions": np.array(self._actions)}

    def resume_episode(self, kept: dict[str, Any]) -> Any:
        """Come back to a point of an episode, and return the observation there.

        A simulation that keeps its state gets it back; another one makes the steps again.

        Args:
            kept: What `kept_episode` gave.

        Raises:
            SampleError: The episode ended before that point: the environment does not do the same again.
            ConfigError: The state does not fit the simulation.
        """
        self.number = int(kept["number"])
        observation, _ = self._begin()
        steps = int(kept["steps"])
        if "state" in kept:
            inner: Any = self.env.unwrapped
            inner.set_state(dict(kept["state"]))
            set_elapsed_steps(self.env, steps)
            self._steps = steps
            return inner.observation()
        for done, action in enumerate(kept.get("actions", ()), 1):
            observation, _, terminated, truncated, _ = self.step(action)
            if (terminated or truncated) and done < steps:
                raise SampleError(
                    f"episode {self.number} ended after {done} steps, and had {steps}: the environment does not do the "
                    "same again"
                )
        return observation


class NumberedEpisodesFactory(PortableFactory):
    """Makes environments with numbered episodes; a worker gets it in place of their factory.

    Args:
        factory: Makes one environment.
        seed: Seed of the run.
        limit: Most steps of an episode.
        preprocessing: The wrappers around the environment; None for none.
    """

    def __init__(
        self,
        factory: EnvFactory,
        seed: int,
        limit: StepLimit | None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        self._factory, self._seed, self._limit, self._preprocessing = factory, seed, limit, preprocessing

    def __call__(self) -> Env:
        """Make an environment.

        Raises:
            ConfigError: The wrappers return something else.
        """
        env = self._factory()
        if self._preprocessing is not None:
            env = self._preprocessing.wrap(env)
            if not isinstance(env, gymnasium.Env):
                raise ConfigError(f"the wrappers around an environment gave {env!r}, which is none")
        return NumberedEpisodes(env, self._seed, self._limit)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the metadata of their class; nothing where that is not known."""
        return declared_metadata(self._factory)

    def describe(self) -> dict[str, Any]:
        """Return the factory as JSON data."""
        limit = None if self._limit is None else self._limit.config
        wrappers = [] if self._preprocessing is None else self._preprocessing.config
        return {
            "make": "numbered episodes",
            "of": described(self._factory),
            "seed": self._seed,
            "limit": limit,
            "preprocessing": wrappers,
        }


def factory_of(description: Mapping[str, Any], factory: EnvFactory) -> NumberedEpisodesFactory:
    """Return the factory that a parent on another machine describes, around that of its environment.

    Raises:
        NotAllowed: One of the wrappers is none of physgym's or Gymnasium's, or reads a file.
    """
    for step in description["preprocessing"]:
        if step["type"] not in WRAPPERS or step["type"] in READING_FILES:
            raise NotAllowed(
                f"preprocessing: {step['type']} loads code or a file, which no worker does for a parent on another "
                "machine; leave it out, or train on one machine"
            )
    preprocessing = Preprocessing(description["preprocessing"]) if description["preprocessing"] else None
    return NumberedEpisodesFactory(factory, description["seed"], StepLimit.of(description["limit"]), preprocessing)
