"""State of a surrogate, which a prediction replaces: that of the simulation, or the last observation."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from physgym import spaces as walk
from physgym.errors import ConfigError
from physgym.placement import Env
from physgym.running.space_fitting import fitter
from physgym.running.transition_outcome import Judge, TransitionOutcome
from physgym.sample import Sample, SampleSpec, flat_items
from physgym.simulation import PredictFunction, Simulation


class SurrogateState(ABC):
    """The state of a surrogate, which a prediction replaces.

    Attributes:
        render_mode: The mode in which it can be pictured, None where it cannot.
        declarations: What declares the fields of samples, by the name of an environment's attribute, where these are
            others than those of the simulation.
    """

    render_mode: str | None = None
    declarations: Mapping[str, Any] = MappingProxyType({})

    def begin(self, observation: Any) -> None:  # noqa: B027 - a simulation has its state already
        """Take the state after a reset.

        Args:
            observation: The first observation of the episode.
        """

    @abstractmethod
    def inputs(self, action: Any) -> Mapping[str, Any]:
        """Return the fields that the network is fed for an action in this state."""

    @abstractmethod
    def adopt(self, action: Any, prediction: Sample) -> None:
        """Take a prediction as the state after the step."""

    def extra(self) -> dict[str, Any]:
        """Return what the info of a step has in addition."""
        return {}

    @abstractmethod
    def seen(self, *, rejected: bool) -> tuple[Any, float, bool, dict[str, Any]]:
        """Return the observation, the reward, whether the episode has ended, and the info.

        Args:
            rejected: Whether the step was rejected, so that the state is still that before it.
        """

    def render(self) -> Any:
        """Return a picture of the state, None where there is none."""
        return None


class SimulationState(SurrogateState):
    """The state of a simulation that has the hooks ``inputs``, ``adopt`` and ``observation``.

    Args:
        simulation: Has them.
        fields: The fields of a sample.
        network: Answers a hook that asks for a prediction.
    """

    def __init__(self, simulation: Env, fields: SampleSpec, network: PredictFunction) -> None:
        self._simulation: Any = simulation
        self._fields, self._name = fields, type(simulation).__name__
        self.render_mode = simulation.render_mode
        if hasattr(self._simulation, "predictor"):
            self._simulation.predictor = network

    def inputs(self, action: Any) -> Mapping[str, Any]:
        """Ask the simulation."""
        return dict(flat_items(self._simulation.inputs(action)))

    def adopt(self, action: Any, prediction: Sample) -> None:
        """Hand the prediction to the simulation."""
        self._simulation.adopt(action, prediction)

    def extra(self) -> dict[str, Any]:
        """Return the simulation's sample, where it makes one."""
        make = getattr(self._simulation, "sample", None)
        return {} if make is None else {"sample": self._fields.check(make(), self._name)}

    def seen(self, *, rejected: bool) -> tuple[Any, float, bool, dict[str, Any]]:
        """Ask the simulation, which has its state in any case."""
        simulation = self._simulation
        reward, terminated = simulation.outcome() if hasattr(simulation, "outcome") else (0.0, False)
        info = simulation.info() if hasattr(simulation, "info") else {}
        return simulation.observation(), reward, terminated, info

    def render(self) -> Any:
        """Return the simulation's picture."""
        return self._simulation.render()


class ObservedState(SurrogateState):
    """The last observation as the state of an environment whose transitions were learned.

    Args:
        env: The environment, which resets.
        reward: Function of (observation, action, next observation), used where the network predicts none.
        terminated: Function of the same: whether the episode has ended.
    """

    def __init__(self, env: Env, reward: Judge | None, terminated: Judge | None) -> None:
        self._outcome = TransitionOutcome(reward, terminated)
        self._observation_space, self._action_space = env.observation_space, env.action_space
        self._observed = [leaf.path for leaf in walk.leaves(env.observation_space, "observation")]
        self._acted = [leaf.path for leaf in walk.leaves(env.action_space, "action")]
        self._next = [leaf.path for leaf in walk.leaves(env.observation_space, "next_observation")]
        self._fit = fitter(env.observation_space)
        self._observation: Any = None
        self._result: tuple[float, bool] = 0.0, False

    def check(self, outputs: Sequence[str]) -> None:
        """Check that a network predicts the whole next observation.

        Args:
            outputs: The fields that it predicts.

        Raises:
            ConfigError: It lacks a part.
        """
        if missing := [name for name in self._next if name not in outputs]:
            raise ConfigError(f"a network in place of transitions must predict {missing}; it predicts {list(outputs)}")

    def begin(self, observation: Any) -> None:
        """Take the first observation as the state."""
        self._observation = copy.deepcopy(observation)

    def inputs(self, action: Any) -> Mapping[str, Any]:
        """Return the parts of the last observation and of the action."""
        before = walk.flatten(self._observation_space, self._observation)
        return dict(
            zip([*self._observed, *self._acted], [*before, *walk.flatten(self._action_space, action)], strict=True)
        )

    def adopt(self, action: Any, prediction: Sample) -> None:
        """Take the predicted observation, within its space, and judge the step."""
        before = self._observation
        raw = walk.unflatten(self._observation_space, iter([prediction[name] for name in self._next]))
        self._observation = self._fit(raw)
        self._result = self._outcome.of(prediction, before, action, self._observation)

    def seen(self, *, rejected: bool) -> tuple[Any, float, bool, dict[str, Any]]:
        """Return the last observation and how the step was judged."""
        reward, ended = (0.0, False) if rejected else self._result
        return copy.deepcopy(self._observation), reward, ended, {}


def lacking_hooks(env: Env) -> list[str]:
    """Return the hooks that a network in place of the solver needs, and that an environment does not implement."""
    lacking = []
    for hook in ("inputs", "adopt", "observation"):
        method = getattr(env, hook, None)
        if not callable(method) or getattr(method, "__func__", None) is getattr(Simulation, hook):
            lacking.append(hook)
    return lacking
