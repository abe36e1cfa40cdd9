"""`Simulation`: an optional base class that makes a numerical simulation a Gymnasium environment with samples.

A plain `gymnasium.Env` that follows the convention of `physgym.sample` works as well. The base class splits a step into
the parts that a simulation has: draw parameters, advance the solver, observe, hand out the sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces

from physgym.errors import ConfigError, RejectSample, SampleError
from physgym.sample import Role, Sample, SampleSpec
from physgym.spaces import Array

ObsType = TypeVar("ObsType")
ActType = TypeVar("ActType")
Predict = Callable[[Sample], Sample]

NO_NETWORK = (
    "the simulation asked for a prediction, but this pipeline has no network. Run it in a Runner, set "
    "`env.unwrapped.predictor`, or do not ask during generation."
)


class Simulation(gymnasium.Env[ObsType, ActType], ABC, Generic[ObsType, ActType]):
    """A numerical simulation as a Gymnasium environment with training samples.

    Subclasses set ``action_space``, ``observation_space``, ``sample_space`` (with ``sample_roles`` and
    ``sample_units``) and implement `begin`, `advance`, `observation` and `sample`. Random numbers come from
    ``self.np_random`` alone, so that a seed names an episode.

    Args:
        simulations_per_step: Solver steps per environment step.
        render_mode: One of ``metadata["render_modes"]``, or None.

    Attributes:
        env_index: Which of the parallel environments this is, from 0.
        num_envs: How many there are.
        predictor: What `predict` asks, set by a pipeline that has a network.

    Raises:
        ConfigError: An argument is out of range.
    """

    sample_space: spaces.Dict
    sample_roles: ClassVar[dict[str, Role]] = {}
    sample_units: ClassVar[dict[str, str]] = {}
    env_index: int = 0
    num_envs: int = 1
    predictor: Predict | None = None

    def __init__(self, *, simulations_per_step: int = 1, render_mode: str | None = None) -> None:
        if simulations_per_step < 1:
            raise ConfigError(f"simulations_per_step must be at least 1, not {simulations_per_step}")
        modes = self.metadata.get("render_modes", [])
        if render_mode is not None and render_mode not in modes:
            raise ConfigError(f"render_mode {render_mode!r} is none of {modes}")
        self.simulations_per_step = simulations_per_step
        self.render_mode = render_mode

    @abstractmethod
    def begin(self, options: dict[str, Any]) -> None:
        """Start an episode: draw its parameters from ``self.np_random`` and set the initial state."""

    @abstractmethod
    def advance(self, action: ActType) -> None:
        """Advance the solver once under an action; raise `RejectSample` where it did not converge."""

    @abstractmethod
    def observation(self) -> ObsType:
        """What the agent or network sees now, as an element of `observation_space`."""

    @abstractmethod
    def sample(self) -> Mapping[str, Any]:
        """The fields of the sample of the step just made, as declared in `sample_space`."""

    def outcome(self) -> tuple[float, bool]:
        """Reward of the step just made, and whether the episode has reached a terminal state."""
        return 0.0, False

    def info(self) -> dict[str, Any]:
        """Further entries of the info dictionary: numbers, strings, arrays."""
        return {}

    def sample_action(self, rng: np.random.Generator) -> ActType:
        """A random action for data generation; override it where useful actions have structure.

        Args:
            rng: Derived from the episode's seed; the only source of randomness to use.
        """
        self.action_space.seed(int(rng.integers(2**31)))
        return self.action_space.sample()

    def apply_prediction(self, prediction: Mapping[str, Array]) -> None:
        """Use a network's prediction: a correction, an initial guess, a displayed ghost. Ignored by default.

        Args:
            prediction: Predicted fields by name, each with the shape and unit of the field in `sample_space`.
        """

    def predict(self, inputs: Mapping[str, Any]) -> Sample:
        """Ask the network for a prediction in the middle of a step.

        Args:
            inputs: Input fields by name, one sample each, without a batch axis.

        Returns:
            Predicted fields by name.

        Raises:
            SampleError: The pipeline has no network.
        """
        if self.predictor is None:
            raise SampleError(NO_NETWORK)
        return self.predictor({name: np.asarray(value) for name, value in inputs.items()})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsType, dict[str, Any]]:
        """Start an episode; see `gymnasium.Env.reset`."""
        super().reset(seed=seed)
        self.begin(options or {})
        return self.observation(), self.info()

    def step(self, action: ActType) -> tuple[ObsType, float, bool, bool, dict[str, Any]]:
        """Advance the solver; see `gymnasium.Env.step`.

        Returns:
            Observation, reward, terminated, False, info. ``info["sample"]`` holds the sample; where the step was
            rejected it is absent and ``info["rejected"]`` says why.

        Raises:
            SampleError: The sample does not fit `sample_space`.
        """
        try:
            for _ in range(self.simulations_per_step):
                self.advance(action)
            sample = self._spec.check(self.sample(), type(self).__name__)
        except RejectSample as rejection:
            extra: dict[str, Any] = {"rejected": str(rejection)}
        else:
            extra = {"sample": sample}
        reward, terminated = self.outcome()
        return self.observation(), reward, terminated, False, {**self.info(), **extra}

    @cached_property
    def _spec(self) -> SampleSpec:
        spec = SampleSpec.from_env(self)
        if spec is None:
            raise SampleError(f"{type(self).__name__} sets no sample_space; a Simulation declares its sample fields")
        return spec
