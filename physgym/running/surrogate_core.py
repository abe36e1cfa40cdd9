"""The innermost environment of a surrogate: the simulation with a network in place of its solver."""

from __future__ import annotations

import copy
import time
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit

from physgym import spaces as walk
from physgym.errors import ConfigError, RejectSample, SampleError
from physgym.feedback import Declaration
from physgym.placement import Env
from physgym.running.fed_back_state import FedBackState, feedback_for
from physgym.running.field_checks import check_network_fields, nonfinite
from physgym.running.space_fitting import cast, fitter
from physgym.running.surrogate_network import SurrogateNetwork
from physgym.running.surrogate_state import ObservedState, SimulationState, SurrogateState, lacking_hooks
from physgym.running.transition_outcome import Judge
from physgym.sample import RecordTransition, Sample, SampleSpec
from physgym.spaces import Array


class _Prepared(NamedTuple):
    """A prediction that was made before its step."""

    action: Any
    prediction: Sample
    seconds: float


class _Prediction(dict[str, Array]):
    """Predicted fields, which say what is wrong where one is missing."""

    env = ""

    def __missing__(self, name: str) -> Array:
        raise ConfigError(
            f"{self.env} needs the field {name!r} of a prediction, the network predicts {list(self)}. Use a network "
            f"with that output (outputs=[..., {name!r}] of the Trainer)"
        )


class SurrogateCore(gymnasium.Env[Any, Any]):
    """The innermost environment of a surrogate: the simulation with the network in place of its solver.

    Args:
        env: What resets it.
        fields: The fields of a sample.
        network: The network.
        state: What a prediction replaces.

    Attributes:
        prediction: The last one.
        seconds: What it took.
    """

    def __init__(self, env: Env, fields: SampleSpec, network: SurrogateNetwork, state: SurrogateState) -> None:
        self.env, self.fields, self._network, self._state = env, fields, network, state
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.metadata, self.render_mode = env.metadata, state.render_mode
        self._name = type(env.unwrapped).__name__
        self._fit = fitter(env.observation_space)
        self._action_wrappers: list[gymnasium.ActionWrapper[Any, Any, Any]] = []
        self._prepared: _Prepared | None = None
        self.prediction: Sample | None = None
        self.seconds = 0.0

    def add_action_wrapper(self, wrapper: gymnasium.ActionWrapper[Any, Any, Any]) -> None:
        """Note a wrapper further out that changes actions on their way to this environment."""
        self._action_wrappers.insert(0, wrapper)

    def action_here(self, action: Any) -> Any:
        """Return what the wrappers around this environment make of an action."""
        for wrapper in self._action_wrappers:
            action = wrapper.action(action)
        return action

    def fed(self, action: Any) -> Sample:
        """Return what the network is fed for an action, in the dtypes of the fields.

        Raises:
            RejectSample: A value is not finite, and the network does not say that it takes such values.
        """
        given = self._state.inputs(action)
        names = given if self._network.inputs is None else self._network.inputs
        try:
            fed = {name: cast(f"input {name} of {self._name}", given[name], self.fields[name].dtype) for name in names}
        except KeyError as error:
            raise ConfigError(
                f"{self._name}: inputs(action) gives {list(given)}, but the network is fed with {error.args[0]!r}. "
                "Return that field too"
            ) from error
        if self._network.checks and (strange := [name for name in nonfinite(fed) if not self.fields[name].mask]):
            raise RejectSample(f"the network is fed with values of {strange} that are not finite")
        return fed

    def prepare(self, action: Any, prediction: Sample, seconds: float) -> None:
        """Take a prediction that was made before its step.

        Args:
            action: That of the step; a step with another one predicts again.
            prediction: The predicted fields.
            seconds: What it took.
        """
        self._prepared = _Prepared(action, prediction, seconds)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the simulation."""
        self._prepared = self.prediction = None
        self._network.memory = None
        observation, info = self.env.reset(seed=seed, options=options)
        self._state.begin(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Let the network make a step."""
        extra: dict[str, Any] = {}
        memory = self._network.memory
        try:
            prediction = self._predicted(action)
            if strange := nonfinite(prediction):
                raise RejectSample(f"the network predicted values of {strange} that are not finite")
            self._state.adopt(action, prediction)
            extra = self._state.extra()
        except RejectSample as rejection:
            extra = {"rejected": str(rejection)}
            self._network.memory = memory
        observation, reward, terminated, info = self._state.seen(rejected="rejected" in extra)
        return self._fit(observation), reward, terminated, False, {**info, **extra}

    def _predicted(self, action: Any) -> Sample:
        prepared, self._prepared = self._prepared, None
        if prepared is not None and self._same(prepared.action, action):
            found, self.seconds = prepared.prediction, prepared.seconds
        else:
            fed = self.fed(action)
            start = time.perf_counter()
            found = self._network(fed)
            self.seconds = time.perf_counter() - start
        prediction = _Prediction(found)
        prediction.env = self._name
        self.prediction = prediction
        return prediction

    def _same(self, first: Any, second: Any) -> bool:
        pairs = zip(walk.flatten(self.action_space, first), walk.flatten(self.action_space, second), strict=True)
        return all(np.array_equal(one, other) for one, other in pairs)

    def render(self) -> Any:
        """Return a picture of the state."""
        return self._state.render()

    def close(self) -> None:
        """Close the simulation."""
        self.env.close()

    def __getattr__(self, name: str) -> Any:
        if (state := self.__dict__.get("_state")) is not None and name in state.declarations:
            return state.declarations[name]
        env = self.__dict__.get("env")
        if env is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return env.get_wrapper_attr(name)


def stand_in(
    env: Env,
    network: SurrogateNetwork,
    reward: Judge | None,
    terminated: Judge | None,
    feedback: Declaration | None = None,
) -> tuple[SurrogateCore, Env]:
    """Return (core, env): the environment that the network drives, and the same in copies of the wrappers.

    The wrappers are copied so that the given environment stays what it is.

    Args:
        env: The simulation, maybe in wrappers.
        network: Makes the steps in place of the solver.
        reward: As in `SurrogateEnv`.
        terminated: As in `SurrogateEnv`.
        feedback: As in `SurrogateEnv`.

    Raises:
        ConfigError: The environment has not what it needs, or the network does not fit its fields.
        SampleError: The environment declares no samples.
    """
    wrappers: list[gymnasium.Wrapper[Any, Any, Any, Any]] = []
    inner = env
    while isinstance(inner, gymnasium.Wrapper):
        wrappers.append(inner)
        inner = inner.env
    outputs = tuple(getattr(network.predictor, "outputs", ()))
    recorders = [i for i, wrapper in enumerate(wrappers) if isinstance(wrapper, RecordTransition)]
    hooks = lacking_hooks(inner)
    core: SurrogateCore
    if recorders and (hooks or any(name.split("/")[0] == "next_observation" for name in outputs)):
        first = recorders[0]
        learned, fields = wrappers[first].env, _fields(wrappers[first])
        state = ObservedState(learned, reward, terminated)
        core = SurrogateCore(learned, fields, network, state)
        if network.predictor is not None and network.inputs is not None:
            state.check(outputs)
        limits = [w._max_episode_steps for w in wrappers[first + 1 :] if isinstance(w, TimeLimit)]
        wrappers = wrappers[: first + 1]
        outer: Env = TimeLimit(core, min(limits)) if limits else core
    elif (
        "adopt" in hooks
        and (found := SampleSpec.from_env(inner))
        and (fed_back := feedback_for(found, network, feedback))
    ):
        fed = FedBackState(inner, found, fed_back, network, reward, terminated)
        core = outer = SurrogateCore(inner, found, network, fed)
    else:
        if hooks:
            raise ConfigError(
                f"{type(inner).__name__} does not say how a network can stand in for it: it lacks {', '.join(hooks)}. "
                "Implement inputs(action), which gives the fields that the network is fed, and adopt(action, "
                "prediction), which takes the prediction as the state after the step, in addition to observation(). "
                "Or declare which output is which input of the next step (sample_feedback), so that adopt is not "
                "needed; see docs/howto/running.md. Without them, wrap the environment in "
                "physgym.sample.RecordTransition and use a network that predicts next_observation: "
                '"transitions:" before its id does that, see docs/howto/dynamics.md'
            )
        if reward is not None or terminated is not None:
            raise ConfigError(
                f"reward and terminated are for transitions; {type(inner).__name__} says both itself, in outcome()"
            )
        fields = _fields(inner)
        core = outer = SurrogateCore(inner, fields, network, SimulationState(inner, fields, network))
    check_network_fields(network.predictor, core.fields)
    for wrapper in reversed(wrappers):
        again = copy.copy(wrapper)
        again.env = outer
        outer = again
        if isinstance(again, gymnasium.ActionWrapper):
            core.add_action_wrapper(again)
    return core, outer


def _fields(env: Env) -> SampleSpec:
    fields = SampleSpec.from_env(env)
    if fields is None:
        raise SampleError(f"{env} declares no sample_space, so that the fields of its network are not known")
    return fields
