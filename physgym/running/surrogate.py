"""`SurrogateEnv`: a trained network in place of the solver, behind the simulation's own spaces.

torch is not imported here, so that a surrogate can stand in a worker whose predictions are made elsewhere.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import iterate
from gymnasium.wrappers import TimeLimit

from physgym import placement
from physgym import spaces as walk
from physgym.casting import CastError, as_dtype
from physgym.errors import ConfigError, RejectSample, SampleError
from physgym.registration import EnvLike
from physgym.sample import RecordTransition, Sample, SampleSpec, flat_items
from physgym.simulation import Predict, Simulation
from physgym.spaces import Array
from physgym.vector.arguments import Arguments, check_arguments, one_each
from physgym.vector.make import env_factory

if TYPE_CHECKING:
    from physgym.nn import Predictor

Env: TypeAlias = gymnasium.Env[Any, Any]
Network: TypeAlias = "Predictor | Predict | str | Path | None"
Judge: TypeAlias = Callable[[Any, Any, Any], float]

WRONG_FIELD = (
    "the network was trained on field {name!r} as {want}, the simulation has {got}. Use the environment arguments of "
    "the training, or a network trained for these"
)
NO_HOOKS = (
    "{env} does not say how a network can stand in for it: it lacks {missing}. Implement inputs(action), which gives "
    "the fields that the network is fed, and adopt(action, prediction), which takes the prediction as the state after "
    "the step, beside observation(); see docs/running.md. Without them, wrap the environment in "
    "physgym.sample.RecordTransition and use a network that predicts next_observation"
)
NO_INPUT = "{env}: inputs(action) gives {got}, but the network is fed with {name!r}. Return that field too"
NO_OUTPUT = (
    "{env} needs the field {name!r} of a prediction, the network predicts {known}. Use a network with that output "
    "(outputs=[..., {name!r}] of the Trainer)"
)
NO_NEXT = "a network in place of transitions must predict {missing}; it predicts {known}"
JUDGES = "reward and terminated are for transitions; {env} says both itself, in outcome()"
NO_NETWORK = (
    "the surrogate has no network. Pass one to SurrogateEnv, or as predictor= to the vector env or the Runner in which "
    "it stands"
)
NOT_FINITE = "the network predicted values of {names} that are not finite"


class SurrogateEnv(gymnasium.Env[Any, Any]):
    """A simulation whose steps are made by a network: same spaces, same resets, same wrappers, no solver.

    A step asks the simulation what the network is fed (its hook ``inputs(action)``), predicts, and lets the simulation
    take the prediction as its state (``adopt(action, prediction)``). Observation, reward, end of the episode, info,
    sample and picture are the simulation's own, observations kept within their space. The sample's targets are what the
    network predicted. A prediction that is not finite is a rejected step: the state stays as it was, and
    ``info["rejected"]`` says why.

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
        reward: For transitions: function of (observation, action, next observation).
        terminated: For transitions: likewise, whether the episode has ended.

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
    ) -> None:
        kwargs = {**(env_kwargs or {}), **({} if render_mode is None else {"render_mode": render_mode})}
        if isinstance(env, gymnasium.Env) and kwargs:
            raise ConfigError(f"{kwargs} are for an environment that is to be made; this one is made already")
        network = _Network(_loaded(predictor))
        made: Env = env if isinstance(env, gymnasium.Env) else env_factory(env, kwargs)()
        try:
            core, outer = _stand_in(made, network, reward, terminated)
        except BaseException:
            if made is not env:
                made.close()
            raise
        self._be(network, core, outer)
        if outer is not core:
            self._bare = object.__new__(type(self))
            self._bare._be(network, core, core)

    def _be(self, network: _Network, core: _Core, outer: Env) -> None:
        self._network, self._core, self._outer, self._bare = network, core, outer, self
        self._made_as: EnvSpec | None = None
        self.observation_space, self.action_space = outer.observation_space, outer.action_space
        self.metadata, self.render_mode = outer.metadata, outer.render_mode

    @property
    def unwrapped(self) -> SurrogateEnv:
        """The surrogate without the wrappers around the simulation, a time limit among them."""
        return self._bare

    @property
    def simulation(self) -> Env:
        """The simulation that is stood in for, without the wrappers around it."""
        return self._core.env

    @property
    def predictor(self) -> Any:
        """The network."""
        return self._network.predictor

    @predictor.setter
    def predictor(self, predictor: Network) -> None:
        network = _loaded(predictor)
        check_fields(network, self._core.fields)
        self._network.use(network)

    @property
    def spec(self) -> EnvSpec | None:  # which `gymnasium.make` sets on what is unwrapped
        """How `gymnasium.make` made it, None if that did not."""
        return self._bare._made_as

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._bare._made_as = spec

    @property
    def prediction(self) -> Sample | None:
        """What the network predicted last."""
        return self._core.prediction

    @property
    def network_seconds(self) -> float:
        """Time of the last prediction."""
        return self._core.seconds

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode as the simulation does."""
        result = self._outer.reset(seed=seed, options=options)
        inner = self._core.env.unwrapped
        for one in (self, self._bare):
            one._np_random, one._np_random_seed = inner._np_random, inner._np_random_seed
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step, made by the network.

        Raises:
            ConfigError: The network lacks a field that the simulation needs, or the other way round.
            SampleError: A field does not fit, or there is no network.
        """
        return self._outer.step(action)

    def render(self) -> Any:
        """The simulation's picture of the state."""
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


class SurrogateVectorEnv(SyncVectorEnv):
    """Surrogates of several simulations in this process, stepped with one batched prediction.

    Equal to a `gymnasium.vector.SyncVectorEnv` of `SurrogateEnv`, seed for seed, up to the rounding of a prediction in
    a batch; all three autoreset modes. A wrapper around the simulation that changes actions in its ``step`` (and is not
    a `gymnasium.ActionWrapper`) makes the prediction of its environment a single one.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes one simulation.
        predictor: A `physgym.nn.Predictor`, or the folder of its session or checkpoint.
        num_envs: Number of environments.
        env_kwargs: Arguments of the simulation's constructor, ``render_mode`` among them; or a list, one dictionary for
            each environment.
        autoreset_mode: What happens when an episode ends, as in Gymnasium.
        reward: As in `SurrogateEnv`.
        terminated: As in `SurrogateEnv`.
        copy: Whether observations are copies.

    Attributes:
        predictor: The network.

    Raises:
        ConfigError: As `SurrogateEnv`, or there is no environment.
        CheckpointError: There is no usable checkpoint.
    """

    def __init__(
        self,
        env: EnvLike,
        predictor: Predictor | str | Path,
        num_envs: int = 1,
        *,
        env_kwargs: Arguments = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        reward: Judge | None = None,
        terminated: Judge | None = None,
        copy: bool = True,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, not {num_envs}")
        self.predictor: Any = _loaded(predictor)
        if not hasattr(self.predictor, "predict"):
            raise ConfigError(f"a batched step needs a physgym.nn.Predictor, not {self.predictor!r}")
        made: list[SurrogateEnv] = []
        each = one_each(check_arguments(env_kwargs), num_envs, listed=isinstance(env_kwargs, Sequence))

        def make() -> SurrogateEnv:
            with placement.at(len(made), num_envs):
                one = SurrogateEnv(
                    env, self.predictor, env_kwargs=each[len(made)], reward=reward, terminated=terminated
                )
            made.append(one)
            return one

        try:
            super().__init__([make] * num_envs, copy=copy, autoreset_mode=autoreset_mode)
        except BaseException:
            for one in made:
                one.close()
            raise
        self._surrogates = made

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Step all environments; see `gymnasium.vector.VectorEnv.step`."""
        resets = self.autoreset_mode == AutoresetMode.NEXT_STEP  # of those that have ended
        self._prepare(
            [
                (one._core, one._core.through(action))
                for one, action, ended in zip(
                    self._surrogates, iterate(self.action_space, actions), self._autoreset_envs, strict=False
                )
                if not (resets and ended)
            ]
        )
        return super().step(actions)

    def _prepare(self, steps: Sequence[tuple[_Core, Any]]) -> None:
        """Predict for steps that are about to be made."""
        asking: list[tuple[_Core, Any, Sample]] = []
        for core, action in steps:
            try:
                asking.append((core, action, core.fed(action)))
            except RejectSample:
                continue  # the step says so itself
        if not asking:
            return
        names = list(asking[0][2])
        batch = {name: np.stack([fed[name] for _, _, fed in asking]) for name in names}
        start = time.perf_counter()
        predicted = self.predictor.predict(batch, batched=True)
        share = (time.perf_counter() - start) / len(asking)
        for i, (core, action, _) in enumerate(asking):
            core.prepared = _Prepared(action, {name: value[i] for name, value in predicted.items()}, share)


# --- what stands in the simulation's place


class _Prepared(NamedTuple):
    """A prediction that was made before its step."""

    action: Any
    prediction: Sample
    seconds: float


class _Prediction(dict[str, Array]):
    """Predicted fields, which say what is wrong where one is missing."""

    env = ""

    def __missing__(self, name: str) -> Array:
        raise ConfigError(NO_OUTPUT.format(env=self.env, name=name, known=list(self)))


class _Network:
    """The network of the moment, as a function of one sample; shared by a surrogate and what is in its core."""

    def __init__(self, predictor: Any) -> None:
        self.use(predictor)

    def use(self, predictor: Any) -> None:
        """Use this one from now on."""
        self.predictor = predictor
        self.inputs: tuple[str, ...] | None = getattr(predictor, "inputs", None)
        self._predict: Predict | None = getattr(predictor, "predict", predictor)

    def __call__(self, fed: Sample) -> Sample:
        if self._predict is None:
            raise SampleError(NO_NETWORK)
        return self._predict(fed)


class _Core(gymnasium.Env[Any, Any]):
    """The innermost environment of a surrogate: the simulation with the network in place of its solver.

    Args:
        env: What resets it, and has the hooks.
        fields: The fields of a sample.
        network: The network.

    Attributes:
        prepared: A prediction for the next step, if that has the action which it was made for.
        prediction: The last one.
        seconds: What it took.
    """

    def __init__(self, env: Env, fields: SampleSpec, network: _Network) -> None:
        self.env, self.fields, self._network = env, fields, network
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.metadata, self.render_mode = env.metadata, env.render_mode
        self._name = type(env.unwrapped).__name__
        self._kept = _keeper(env.observation_space)
        self._action_wrappers: list[gymnasium.ActionWrapper[Any, Any, Any]] = []
        self.prepared: _Prepared | None = None
        self.prediction: Sample | None = None
        self.seconds = 0.0

    def through(self, action: Any) -> Any:
        """What becomes of an action on its way here."""
        for wrapper in self._action_wrappers:
            action = wrapper.action(action)
        return action

    def fed(self, action: Any) -> Sample:
        """What the network is fed for an action, in the dtypes of the fields."""
        given = self._inputs(action)
        names = given if self._network.inputs is None else self._network.inputs
        try:
            return {
                name: _cast(f"input {name} of {self._name}", given[name], self.fields[name].dtype) for name in names
            }
        except KeyError as error:
            raise ConfigError(NO_INPUT.format(env=self._name, got=list(given), name=error.args[0])) from error

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.prepared = self.prediction = None
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        extra: dict[str, Any] = {}
        try:
            prediction = self._predicted(action)
            if strange := nonfinite(prediction):
                raise RejectSample(NOT_FINITE.format(names=strange))
            self._adopt(action, prediction)
            extra = self._extra()
        except RejectSample as rejection:
            extra = {"rejected": str(rejection)}
        observation, reward, terminated, info = self._seen(rejected="rejected" in extra)
        return self._kept(observation), reward, terminated, False, {**info, **extra}

    def _predicted(self, action: Any) -> Sample:
        prepared, self.prepared = self.prepared, None
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

    def _inputs(self, action: Any) -> Mapping[str, Any]:
        raise NotImplementedError

    def _adopt(self, action: Any, prediction: Sample) -> None:
        raise NotImplementedError

    def _extra(self) -> dict[str, Any]:
        """What the info has in addition."""
        return {}

    def _seen(self, *, rejected: bool) -> tuple[Any, float, bool, dict[str, Any]]:
        """Observation, reward, whether the episode has ended, info."""
        raise NotImplementedError

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def __getattr__(self, name: str) -> Any:
        env = self.__dict__.get("env")
        if env is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return env.get_wrapper_attr(name)


class _Hooked(_Core):
    """By the hooks of a simulation."""

    def __init__(self, env: Env, fields: SampleSpec, network: _Network) -> None:
        super().__init__(env, fields, network)
        self._simulation: Any = env
        if hasattr(self._simulation, "predictor"):
            self._simulation.predictor = network  # for a hook that asks

    def _inputs(self, action: Any) -> Mapping[str, Any]:
        return dict(flat_items(self._simulation.inputs(action)))

    def _adopt(self, action: Any, prediction: Sample) -> None:
        self._simulation.adopt(action, prediction)

    def _extra(self) -> dict[str, Any]:
        make = getattr(self._simulation, "sample", None)
        return {} if make is None else {"sample": self.fields.check(make(), self._name)}

    def _seen(self, *, rejected: bool) -> tuple[Any, float, bool, dict[str, Any]]:
        simulation = self._simulation
        reward, terminated = simulation.outcome() if hasattr(simulation, "outcome") else (0.0, False)
        info = simulation.info() if hasattr(simulation, "info") else {}
        return simulation.observation(), reward, terminated, info


class _Transitions(_Core):
    """By transitions: the last observation is the state."""

    def __init__(
        self, env: Env, fields: SampleSpec, network: _Network, reward: Judge | None, terminated: Judge | None
    ) -> None:
        super().__init__(env, fields, network)
        self.render_mode = None
        self._reward, self._terminated = reward, terminated
        space = env.observation_space
        self._observed = [leaf.path for leaf in walk.leaves(space, "observation")]
        self._acted = [leaf.path for leaf in walk.leaves(env.action_space, "action")]
        self._next = [leaf.path for leaf in walk.leaves(space, "next_observation")]
        self._observation: Any = None
        self._result: tuple[float, bool] = 0.0, False

    def check(self, outputs: Sequence[str]) -> None:
        """Raise ConfigError if a part of the next observation is not predicted."""
        if missing := [name for name in self._next if name not in outputs]:
            raise ConfigError(NO_NEXT.format(missing=missing, known=list(outputs)))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        self._observation = copy.deepcopy(observation)
        return observation, info

    def _inputs(self, action: Any) -> Mapping[str, Any]:
        before = walk.flatten(self.observation_space, self._observation)
        return dict(
            zip([*self._observed, *self._acted], [*before, *walk.flatten(self.action_space, action)], strict=True)
        )

    def _adopt(self, action: Any, prediction: Sample) -> None:
        before = self._observation
        raw = walk.unflatten(self.observation_space, iter([prediction[name] for name in self._next]))
        self._observation = self._kept(raw)
        judged = before, action, self._observation
        reward, terminated = (
            float(prediction[name]) if name in prediction else 0.0 if judge is None else float(judge(*judged))
            for name, judge in (("reward", self._reward), ("terminated", self._terminated))
        )
        self._result = reward, terminated > 0.5

    def _seen(self, *, rejected: bool) -> tuple[Any, float, bool, dict[str, Any]]:
        reward, ended = (0.0, False) if rejected else self._result
        return copy.deepcopy(self._observation), reward, ended, {}

    def render(self) -> Any:
        return None


def _stand_in(env: Env, network: _Network, reward: Judge | None, terminated: Judge | None) -> tuple[_Core, Env]:
    """What stands innermost in an environment in place of its solver, and the environment with that inside.

    The wrappers are copied, so that the given environment stays what it is.
    """
    wrappers: list[gymnasium.Wrapper[Any, Any, Any, Any]] = []
    inner = env
    while isinstance(inner, gymnasium.Wrapper):
        wrappers.append(inner)
        inner = inner.env
    outputs = tuple(getattr(network.predictor, "outputs", ()))
    recorders = [i for i, wrapper in enumerate(wrappers) if isinstance(wrapper, RecordTransition)]
    hooks = lacking_hooks(inner)
    core: _Core
    if recorders and (hooks or any(name.split("/")[0] == "next_observation" for name in outputs)):
        first = recorders[0]
        core = transitions = _Transitions(wrappers[first].env, _fields(wrappers[first]), network, reward, terminated)
        if network.predictor is not None and network.inputs is not None:
            transitions.check(outputs)
        limits = [w._max_episode_steps for w in wrappers[first + 1 :] if isinstance(w, TimeLimit)]
        wrappers = wrappers[: first + 1]
        outer: Env = TimeLimit(core, min(limits)) if limits else core
    else:
        if hooks:
            raise ConfigError(NO_HOOKS.format(env=type(inner).__name__, missing=", ".join(hooks)))
        if reward is not None or terminated is not None:
            raise ConfigError(JUDGES.format(env=type(inner).__name__))
        core = outer = _Hooked(inner, _fields(inner), network)
    check_fields(network.predictor, core.fields)
    for wrapper in reversed(wrappers):
        again = copy.copy(wrapper)
        again.env = outer
        outer = again
        if isinstance(again, gymnasium.ActionWrapper):
            core._action_wrappers.insert(0, again)
    return core, outer


def lacking_hooks(env: Env) -> list[str]:
    """The hooks that a network in place of the solver needs, and that an environment does not implement."""
    lacking = []
    for hook in ("inputs", "adopt", "observation"):
        method = getattr(env, hook, None)
        if not callable(method) or getattr(method, "__func__", None) is getattr(Simulation, hook):
            lacking.append(hook)
    return lacking


def _fields(env: Env) -> SampleSpec:
    fields = SampleSpec.from_env(env)
    if fields is None:
        raise SampleError(f"{env} declares no sample_space, so that the fields of its network are not known")
    return fields


def check_fields(predictor: Any, fields: SampleSpec) -> None:
    """Raise ConfigError if a network was made for other fields than these.

    Args:
        predictor: A `physgym.nn.Predictor`; whatever else has no fields to compare.
        fields: Those of the simulation.
    """
    for name, want in getattr(predictor, "spec", {}).items():
        got = fields.get(name)
        if got is None or got.shape != want.shape:
            shown = "none" if got is None else f"{got.dtype} {got.shape}"
            raise ConfigError(WRONG_FIELD.format(name=name, want=f"{want.dtype} {want.shape}", got=shown))


def nonfinite(fields: Mapping[str, Any]) -> list[str]:
    """Names of the fields with a value that is not finite."""
    return [name for name, value in fields.items() if not np.isfinite(value).all()]


def _loaded(predictor: Network) -> Any:
    if not isinstance(predictor, (str, Path)):
        return predictor
    from physgym.training import load_checkpoint

    return load_checkpoint(predictor)


def _keeper(space: spaces.Space[Any]) -> Callable[[Any], Any]:
    """A function that brings values into a space: dtype, bounds, whole numbers."""
    if walk.children(space) is not None:
        parts = [_keeper(one) for one in walk.leaf_spaces(space).values()]

        def keep(value: Any) -> Any:
            values = zip(parts, walk.flatten(space, value), strict=True)
            return walk.unflatten(space, iter([part(one) for part, one in values]))

        return keep
    if isinstance(space, spaces.Box):
        return _box_keeper(space)
    if isinstance(space, spaces.Discrete):
        kind, first, last = space.dtype.type, int(space.start), int(space.start + space.n - 1)
        return lambda value: kind(min(max(round(float(value)), first), last))
    if isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)):
        low = space.start if isinstance(space, spaces.MultiDiscrete) else 0
        high = low + space.nvec - 1 if isinstance(space, spaces.MultiDiscrete) else 1
        return lambda value: np.clip(np.rint(value), low, high).astype(space.dtype)
    return lambda value: value


def _cast(name: str, value: Any, dtype: np.dtype[Any]) -> Array:
    try:
        return as_dtype(value, dtype)
    except CastError as error:
        raise SampleError(f"{name} {error}") from error


def _box_keeper(space: spaces.Box) -> Callable[[Any], Any]:
    low, high, dtype = space.low, space.high, space.dtype
    real = np.issubdtype(dtype, np.floating)
    bounded = not real or bool(np.isfinite(low).any() or np.isfinite(high).any())

    def keep(value: Any) -> Any:
        array = np.asanyarray(value)
        if real:
            array = _cast("the predicted observation", array, dtype)
        elif array.dtype != dtype:
            array = np.rint(array) if array.dtype.kind == "f" else array
            array = np.clip(array, low, high).astype(dtype)  # a cast of others would wrap around
        return np.clip(array, low, high) if bounded else array

    return keep
