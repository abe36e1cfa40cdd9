"""Environments whose actions come from stored samples, as workers make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from physgym.errors import ConfigError, RejectSample, SampleError
from physgym.placement import EnvFactory, PortableFactory, declared_metadata, described
from physgym.policies import ActionPolicy
from physgym.simulation import NO_LOAD_SAMPLE, Simulation
from physgym.spaces import Array

STORED_ACTIONS = "stored actions"  # what a description says is to be made
LOAD_SAMPLES = "load_samples"  # option of a reset that holds the stored samples of the episode


class _StoredSample(dict[str, Array]):
    """A stored sample; the error for a field that it lacks names those that it has."""

    def __missing__(self, name: str) -> Any:
        raise SampleError(
            f"load_sample asks for the field {name!r}; the stored samples have {list(self)}. Load a dataset that has "
            "it, and open it with all fields that are needed"
        )


class StoredActionsEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that stored samples drive: the options of a reset bring them, and each gives one action.

    Args:
        env: The environment; it, or a wrapper around it, has ``load_sample(sample)``.

    Raises:
        ConfigError: There is no such method.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._load = env.get_wrapper_attr("load_sample") if env.has_wrapper_attr("load_sample") else None
        if self._load is None or getattr(self._load, "__func__", None) is Simulation.load_sample:
            raise ConfigError(NO_LOAD_SAMPLE.format(env=type(env.unwrapped).__name__))
        self._columns: dict[str, Array] = {}
        self._count = self._done = 0
        self._observation: Any = None
        self._rejected: str | None = None  # why the sample of this step could not be loaded

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; ``options["load_samples"]`` are its samples, fields of shape (n, *shape)."""
        options = dict(options or {})
        self._columns = options.pop(LOAD_SAMPLES)
        self._count, self._done = len(next(iter(self._columns.values()))), 0
        self._observation, info = self.env.reset(seed=seed, options=options or None)
        return self._observation, info

    def episode_policy(self, episode: int) -> ActionPolicy:
        """Return the policy of an episode."""

        def act(_: Any, __: np.random.Generator) -> Any:
            sample = _StoredSample({name: column[self._done] for name, column in self._columns.items()})
            self._rejected = None
            try:
                return self._load(sample)  # type: ignore[misc]  # it is not None
            except RejectSample as rejection:
                self._rejected = str(rejection)
            except SampleError as error:
                raise SampleError(f"episode {episode}, stored sample {self._done}: {error}") from error

        return act

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Make a step; the episode ends with the last sample.

        Raises:
            SampleError: The episode ends before.
        """
        self._done += 1
        if self._rejected is not None:
            return self._observation, 0.0, False, self._done == self._count, {"rejected": self._rejected}
        self._observation, reward, terminated, truncated, info = self.env.step(action)
        if self._done < self._count and (terminated or truncated):
            how = "reached a terminal state" if terminated else "was truncated"
            raise SampleError(
                f"the episode {how} after {self._done} steps, but {self._count} stored samples are to drive it. Raise "
                f'the limit of its length, as in env_kwargs={{"max_episode_steps": {self._count}}}, or load a dataset '
                "with shorter episodes"
            )
        return self._observation, reward, terminated, truncated or self._done == self._count, info


class StoredActionsFactory(PortableFactory):
    """Makes environments that stored samples drive; a local worker gets it in place of their factory.

    Args:
        factory: Makes one environment.
    """

    def __init__(self, factory: EnvFactory) -> None:
        self._factory = factory

    def __call__(self) -> gymnasium.Env[Any, Any]:
        """Make an environment."""
        return StoredActionsEnv(self._factory())

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the metadata of their class; nothing where that is not known."""
        return declared_metadata(self._factory)

    def describe(self) -> dict[str, Any]:
        """Return the factory as JSON data."""
        return {"make": STORED_ACTIONS, "of": described(self._factory)}
