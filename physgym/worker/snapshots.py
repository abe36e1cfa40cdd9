"""States of simulations on the way through an episode, as workers take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from physgym.errors import ConfigError
from physgym.placement import Env, EnvFactory, PortableFactory, declared_metadata, described
from physgym.simulation import lacking_state_hooks
from physgym.spaces import Array
from physgym.worker.folders import OwnFolder
from physgym.worker.sampled_actions import SampledActionsEnv
from physgym.worker.stored_actions import StoredActionsEnv

SNAPSHOT = "physgym/snapshot"  # key of an info: the state after the step
SNAPSHOTS = "snapshots"  # what a description says is to be made
KINDS = "biufcSU"  # of what a state may hold
# wrappers that give a step the same sample whatever came before it
WITHOUT_MEMORY = (OwnFolder, TimeLimit, OrderEnforcing, PassiveEnvChecker, SampledActionsEnv, StoredActionsEnv)


def remembering_layer(env: Env) -> Env | None:
    """Return the outermost wrapper that may have something to remember, which no state holds; None without any."""
    layer = env
    while layer is not env.unwrapped:
        if type(layer) not in WITHOUT_MEMORY:
            return layer
        layer = getattr(layer, "env", env.unwrapped)
    return None


def state_of(env: Env) -> dict[str, Array]:
    """Return the state of a simulation, as copies.

    Raises:
        ConfigError: It holds something else than arrays, numbers and texts.
    """
    found: Any = env.unwrapped.state()  # type: ignore[attr-defined]  # a Simulation that keeps states
    state = {name: np.array(value) for name, value in found.items()}
    for name, value in state.items():
        if not isinstance(name, str) or value.dtype.kind not in KINDS:
            raise ConfigError(
                f"state() of {type(env.unwrapped).__name__} has {name!r} = {found[name]!r:.80}; a state is arrays, "
                "numbers and texts by name"
            )
    return state


def set_elapsed_steps(env: Env, steps: int) -> None:
    """Let limits of steps around a simulation count so many, as those of the episode whose state it takes."""
    layer: Any = env
    while layer is not env.unwrapped:
        if type(layer) is TimeLimit:
            setattr(layer, "_elapsed_steps", steps)  # noqa: B010 - mypy takes it for None
        layer = layer.env


class SnapshotsEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose infos have a state after every few steps of an episode.

    Args:
        env: The environment.
        every: How many steps.

    Raises:
        ConfigError: The simulation keeps no state, or a wrapper around it has something to remember.
    """

    def __init__(self, env: Env, every: int) -> None:
        super().__init__(env)
        self._every, self._done = every, 0
        if lacking := lacking_state_hooks(env):
            raise ConfigError(
                f"snapshots: {type(env.unwrapped).__name__} has no {' and no '.join(lacking)}, so its state can be "
                "neither kept nor restored. Implement state() and set_state(state), see docs/howto/simulation.md, or "
                "leave snapshots out"
            )
        if (layer := remembering_layer(env)) is not None:
            raise ConfigError(
                f"snapshots: the wrapper {type(layer).__name__} around the simulation may remember what came before, "
                "which is not in its state. Take the wrapper away, or leave snapshots out: episodes are replayed from "
                "their seeds then"
            )

    def reset(self, **kwargs: Any) -> Any:
        """Begin an episode."""
        self._done = 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Make a step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._done += 1
        if self._done % self._every == 0 and not (terminated or truncated):
            info = {**info, SNAPSHOT: state_of(self.env)}
        return observation, reward, terminated, truncated, info


class SnapshotsFactory(PortableFactory):
    """Makes environments that give states; a local worker gets it in place of their factory.

    Args:
        factory: Makes one environment.
        every: After how many steps there is a state.
    """

    def __init__(self, factory: EnvFactory, every: int) -> None:
        self._factory, self._every = factory, every

    def __call__(self) -> Env:
        """Make an environment."""
        return SnapshotsEnv(self._factory(), self._every)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the metadata of their class; nothing where that is not known."""
        return declared_metadata(self._factory)

    def describe(self) -> dict[str, Any]:
        """Return the factory as JSON data."""
        return {"make": SNAPSHOTS, "of": described(self._factory), "every": self._every}
