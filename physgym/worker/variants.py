"""Environments of several sets of arguments: each episode runs in the one with its own.

Where a dataset is made, a list of k arguments belongs to episodes: episode e runs with ``arguments[e % k]``, whichever
worker runs it. The options of its reset say which ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from physgym import placement
from physgym import spaces as walk
from physgym.episode import episode_policy
from physgym.errors import UnequalSpaces
from physgym.placement import Env, EnvFactory, PortableFactory, declared_metadata, described
from physgym.policies import ActionPolicy, EpisodePolicy
from physgym.sample import SampleSpec, declaration
from physgym.simulation import Simulation
from physgym.single import single_of
from physgym.worker.folders import here
from physgym.worker.given_inputs import hand_on
from physgym.worker.machine_claims import claim_machine, release_machine

ARGUMENTS = "physgym/arguments"  # key of a reset's options: the index of the episode's arguments
BY_EPISODE = "by episode"  # what a description says is to be made


class ByEpisode(PortableFactory):
    """Makes the environments of several arguments in one place.

    Args:
        factories: One for each of the arguments.
    """

    def __init__(self, factories: Sequence[EnvFactory]) -> None:
        self.factories = list(factories)

    def __call__(self) -> Variants:
        """Make those that this place has to check, the others when an episode needs them."""
        return Variants(self.factories)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the metadata of their class; nothing where that is not known."""
        return declared_metadata(self.factories[0])

    def describe(self) -> dict[str, Any]:
        """Return the factories as JSON data."""
        return {"make": BY_EPISODE, "of": [described(factory) for factory in self.factories]}


class Variants(gymnasium.Env[Any, Any]):
    """The environments of several arguments in one place, as the environment of the present episode.

    Each is made when an episode needs it, and stays; where they declare ``physgym.single``, one takes the place of the
    other. At the beginning the places of a vector env make each of them once, to see that the spaces are equal. With k
    arguments there are k times as many environments as places, and so do their placements count.

    Args:
        factories: One for each of the arguments.

    Raises:
        UnequalSpaces: The arguments change a space.
    """

    def __init__(self, factories: Sequence[EnvFactory]) -> None:
        self._factories, self._placement = list(factories), placement.current()
        self._envs: dict[int, Env] = {}
        self._policies: dict[int, EpisodePolicy] = {}
        self._set: dict[str, Any] = {}
        self._spaces: dict[str, Any] = {}
        self._home, self._folders = here(), [""] * len(factories)
        place, places = self._placement
        self.index = self._first = place % len(factories)
        try:
            for index in range(self._first, len(factories), places):
                self.select(index)
            env = self.select(self._first)
        except BaseException:
            self.close()
            raise
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.metadata, self.render_mode, self.spec = env.metadata, env.render_mode, env.spec

    def select(self, index: int) -> Env:
        """Return the environment of these arguments, which is the present one from now on.

        Raises:
            UnequalSpaces: They change a space.
        """
        before = self._envs.get(self.index)
        if index != self.index or index not in self._envs:
            self._folders[self.index] = now = here()
            if (folder := self._folders[index] or self._home) and folder != now:
                os.chdir(folder)
            self.index = index
        if index not in self._envs:
            self._make(index)
        env = self._envs[index]
        if before is not None and before is not env:
            hand_on(before, env)
        return env

    def _make(self, index: int) -> None:
        if any(single_of(env.metadata) for env in self._envs.values()):
            self.close()
        place, places = self._placement
        env = placement.build(self._factories[index], place + index * places, places * len(self._factories))
        self._envs[index] = env
        claim_machine(env)
        spaces = {**describe_spaces(env), "constants": _constants(env)} if len(self._factories) > 1 else {}
        self._spaces = self._spaces or spaces
        for name, want in self._spaces.items():
            if spaces[name] != want:
                text = f"arguments {index} give {name} {spaces[name]}, arguments {self._first} give {want}"
                raise UnequalSpaces(text)
        for name, value in self._set.items():
            _pass_on(env, name, value)

    @property
    def present(self) -> Env:
        """Return the environment of the present episode."""
        return self._envs[self.index]

    @property
    def predictor(self) -> Any:
        """Return the network that answers the environments when they ask for a prediction."""
        return self._set.get("predictor")

    @predictor.setter
    def predictor(self, predictor: Any) -> None:
        self._pass_on("predictor", predictor)

    @property
    def nonfinite(self) -> Any:
        """Return the value of `physgym.Simulation.nonfinite`."""
        return self._set.get("nonfinite", "error")

    @nonfinite.setter
    def nonfinite(self, nonfinite: Any) -> None:
        self._pass_on("nonfinite", nonfinite)

    @property
    def step_seconds(self) -> float | None:
        """Return the time of a step that the environments made here have in common; None where they have none."""
        if single_of(self.metadata) and len(self._factories) > 1:
            return None  # one of them is there at a time
        seconds = {declaration(env, "step_seconds") for env in self._envs.values()}
        found: float | None = seconds.pop() if len(seconds) == 1 else None
        return found

    def _pass_on(self, name: str, value: Any) -> None:
        """Set an attribute of all environments, those included that are still to be made."""
        self._set[name] = value
        for env in self._envs.values():
            _pass_on(env, name, value)

    def episode_policy(self, episode: int) -> ActionPolicy:
        """Return what gives the actions of an episode, which has begun when it is asked first."""
        policy: ActionPolicy | None = None

        def act(observation: Any, rng: np.random.Generator) -> Any:
            nonlocal policy
            if policy is None:
                if self.index not in self._policies:
                    self._policies[self.index] = episode_policy(self.present)
                policy = self._policies[self.index](episode)
            return policy(observation, rng)

        return act

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode with the arguments that the options say."""
        options = dict(options or {})
        env = self.select(options.pop(ARGUMENTS, self.index))
        return env.reset(seed=seed, options=options or None)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the present environment."""
        return self._envs[self.index].step(action)

    def render(self) -> Any:
        """Return the picture of the present environment."""
        return self.present.render()

    def close(self) -> None:
        """Close all environments, also where one of them raises."""
        with contextlib.ExitStack() as stack:
            for env in self._envs.values():
                stack.callback(release_machine, env)
                stack.callback(env.close)
            self._envs, self._policies = {}, {}

    def __getattr__(self, name: str) -> Any:
        # what else an environment has, such as its sample_space
        made = self.__dict__.get("_envs")
        if not made or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return made[self.index].get_wrapper_attr(name)


def describe_spaces(env: Env) -> dict[str, Any]:
    """Return the spaces and fields of an environment, as JSON data."""
    found: dict[str, Any] = {
        "observation_space": walk.to_json(env.observation_space),
        "action_space": walk.to_json(env.action_space),
    }
    for name in ("sample_space", "parameter_space"):
        space = declaration(env, name)
        found[name] = None if space is None else walk.to_json(space)
    spec = SampleSpec.from_env(env)
    return {**found, "sample_fields": None if spec is None else spec.to_json()}


def _constants(env: Env) -> dict[str, Any]:
    """Return dtype, shape and digest of the constants of a dataset, by name."""
    found = env.get_wrapper_attr("constants")() if env.has_wrapper_attr("constants") else {}
    if not isinstance(found, Mapping):
        return {}  # which is said where they are stored
    arrays = {name: np.asarray(value) for name, value in found.items()}
    return {name: [v.dtype.str, v.shape, hashlib.sha256(v.tobytes()).hexdigest()] for name, v in arrays.items()}


def _pass_on(env: Env, name: str, value: Any) -> None:
    """Set an attribute of an environment that knows it."""
    if isinstance(env.unwrapped, Simulation) if name == "nonfinite" else hasattr(env.unwrapped, name):
        setattr(env.unwrapped, name, value)
