"""`SurrogateEnv`: a trained network in place of the solver, behind the simulation's own spaces.

torch is not imported here, so that a surrogate can stand in a worker whose predictions are made elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from physgym.engine_names import Engine
from physgym.errors import ConfigError
from physgym.feedback import Declaration
from physgym.placement import Env
from physgym.registration import EnvLike
from physgym.running.field_checks import check_network_fields
from physgym.running.surrogate_core import SurrogateCore, stand_in
from physgym.running.surrogate_network import Network, SurrogateNetwork, loaded
from physgym.running.transition_outcome import Judge
from physgym.sample import Sample
from physgym.vector.make import env_factory


class SurrogateEnv(gymnasium.Env[Any, Any]):
    """A simulation whose steps are made by a network: same spaces, same resets, same wrappers, no solver.

    A step asks the simulation what the network is fed (its hook ``inputs(action)``), predicts, and lets the simulation
    take the prediction as its state (``adopt(action, prediction)``). Observation, reward, end of the episode, info,
    sample and picture are the simulation's own, observations kept within their space. The sample's targets are what the
    network predicted. A prediction that is not finite is a rejected step: the state stays as it was, and
    ``info["rejected"]`` says why.

    A simulation without ``adopt`` needs a declared feedback (``sample_feedback`` of its samples, that of the network's
    training, or `feedback`): what the network predicts is its input at the next step, and the observation, which is
    made of such fields then. The other inputs still come from ``inputs(action)``: the simulation stays where it was
    reset, so that they follow from action, parameters and constants alone. Samples have the network's inputs and
    outputs. Rewards are as with transitions, and there are no pictures.

    Any environment can be learned as transitions instead. For one wrapped in `physgym.sample.RecordTransition` and a
    network that predicts ``next_observation``, the observation is the state and no hook is needed. The reward and the
    end of an episode are what the network predicts (fields ``reward``, ``terminated``), else what the functions
    `reward` and `terminated` say, else 0 and never. There are no pictures of such states.

    Args:
        env: The simulation, which the surrogate takes over; or its id, `EnvSpec`, or a callable that makes one.
        predictor: A trained network; the folder of its session or checkpoint; a function from input fields to output
            fields of one sample; or None, where the pipeline in which the surrogate stands sets `predictor`.
        env_kwargs: Arguments of the simulation's constructor, where it is to be made.
        render_mode: One of these arguments, so that `gymnasium.make` can pass it.
        reward: For transitions, and without ``adopt``: function of (observation, action, next observation).
        terminated: For the same: function of the same, whether the episode has ended.
        feedback: Which output is which input of the next step, see `physgym.feedback`; by default what the network was
            trained with, else what the samples declare. Used where the simulation has no ``adopt``.
        engine: What computes the predictions of a `physgym.nn.Predictor`: "torch", "compiled" or "onnx", see `Runner`.

    Attributes:
        predictor: The network, which may be replaced by another one.
        prediction: What it predicted last, None before the first step.
        network_seconds: Time of that prediction; its share where it was one of a batch.

    Raises:
        ConfigError: The environment has not what it needs, or the network does not fit its fields.
        CheckpointError: There is no usable checkpoint.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - replaced by that of the simulation

    def __init__(
        self,
        env: Env | EnvLike,
        predictor: Network = None,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
        reward: Judge | None = None,
        terminated: Judge | None = None,
        feedback: Declaration | None = None,
        engine: Engine = "torch",
    ) -> None:
        kwargs = {**(env_kwargs or {}), **({} if render_mode is None else {"render_mode": render_mode})}
        if isinstance(env, gymnasium.Env) and kwargs:
            raise ConfigError(f"{kwargs} are for an environment that is to be made; this one is made already")
        network = SurrogateNetwork(loaded(predictor), engine)
        made: Env = env if isinstance(env, gymnasium.Env) else env_factory(env, kwargs)()
        try:
            core, outer = stand_in(made, network, reward, terminated, feedback)
        except BaseException:
            if made is not env:
                made.close()
            raise
        self._be(network, core, outer)
        if outer is not core:
            self._bare = object.__new__(type(self))
            self._bare._be(network, core, core)

    def _be(self, network: SurrogateNetwork, core: SurrogateCore, outer: Env) -> None:
        self._network, self._core, self._outer, self._bare = network, core, outer, self
        self._spec: EnvSpec | None = None
        self.observation_space, self.action_space = outer.observation_space, outer.action_space
        self.metadata, self.render_mode = outer.metadata, outer.render_mode

    @property
    def unwrapped(self) -> SurrogateEnv:
        """Return the surrogate without the wrappers around the simulation, a time limit among them."""
        return self._bare

    @property
    def simulation(self) -> Env:
        """Return the simulation whose solver is replaced, without the wrappers around it."""
        return self._core.env

    @property
    def predictor(self) -> Any:
        """Return the network."""
        return self._network.predictor

    @predictor.setter
    def predictor(self, predictor: Network) -> None:
        network = loaded(predictor)
        check_network_fields(network, self._core.fields)
        self._network.use(network)

    @property
    def spec(self) -> EnvSpec | None:  # which `gymnasium.make` sets on what is unwrapped
        """Return how `gymnasium.make` made it, None if that did not."""
        return self._bare._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._bare._spec = spec

    @property
    def prediction(self) -> Sample | None:
        """Return what the network predicted last."""
        return self._core.prediction

    @property
    def network_seconds(self) -> float:
        """Return the time of the last prediction."""
        return self._core.seconds

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode as the simulation does."""
        self._network.refresh()
        result = self._outer.reset(seed=seed, options=options)
        inner = self._core.env.unwrapped
        for one in (self, self._bare):
            one._np_random, one._np_random_seed = inner._np_random, inner._np_random_seed
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Let the network make a step.

        Raises:
            ConfigError: The network lacks a field that the simulation needs, or the other way round.
            SampleError: A field does not fit, or there is no network.
        """
        return self._outer.step(action)

    def render(self) -> Any:
        """Return the simulation's picture of the state."""
        return self._outer.render()

    def close(self) -> None:
        """Close the simulation."""
        self._outer.close()

    def __getattr__(self, name: str) -> Any:
        # what else a simulation has, such as its parameters and its sampler of actions
        outer = self.__dict__.get("_outer")
        if outer is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return outer.get_wrapper_attr(name)
