"""`Preprocessing`: wrappers as data, the same when acting, when recording and when training from recordings."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from gymnasium.wrappers import (
    ClipAction,
    DiscretizeAction,
    RepeatAction,
    RescaleAction,
    TransformObservation,
    TransformReward,
)
from gymnasium.wrappers.utils import rescale_box

from physgym.errors import ConfigError, PhysGymError, SampleError
from physgym.object_references import FORM, KEY, with_objects
from physgym.rl.wrappers import InfoReward, Pinned
from physgym.spaces import Array, Leaf, fixed_leaves, flatten, unflatten, value_range

OBSERVATION, ACTION = "observation", "action"
GYMNASIUM = (
    *("GrayscaleObservation", "ResizeObservation", "ReshapeObservation", "RescaleObservation", "DtypeObservation"),
    *("FlattenObservation", "FilterObservation", "DiscretizeAction", "RescaleAction", "ClipAction", "ClipReward"),
    "RepeatAction",
)
WRAPPERS = {name: f"gymnasium.wrappers:{name}" for name in GYMNASIUM} | {
    "Crop": "physgym.rl.wrappers:Crop",
    "InfoReward": "physgym.rl.wrappers:InfoReward",
    "LatentObservation": "physgym.rl.latent:LatentObservation",
}
READING_FILES = ("LatentObservation",)
INSTEAD = {
    "FrameStackObservation": "stacks are made of single frames when they are drawn: say stack=4 of the trainer",
    "NormalizeObservation": "it would have statistics of its own in each environment: say normalize_observations=True",
    "NormalizeReward": "it would have statistics of its own in each environment: say normalize_rewards=True",
    "MaxAndSkipObservation": (
        "where an episode ends before its last two frames it returns those of an earlier step; take RepeatAction, "
        "which repeats the action as well"
    ),
}
BOUNDS = {  # arguments that Gymnasium wants as arrays of a space, which is the one named here
    **dict.fromkeys(("min_action", "max_action"), "action_space"),
    **dict.fromkeys(("min_obs", "max_obs"), "observation_space"),
}
# what constructors raise for an environment or arguments that they do not take
MISFITS = (TypeError, ValueError, AssertionError, AttributeError, NotImplementedError, gymnasium.error.Error)
EXACT = 1e-5  # part of the range by which a continuous action may miss after there and back, by rounding


class Preprocessing:
    """Wrappers as data, which also work on recorded rows.

    For example::

        track = gymnasium.make("physgym/Track-v0")
        steps = [
            {"type": "Crop", "arguments": {"rows": [40, 120, 2], "columns": [0, 160, 2]}},
            "GrayscaleObservation",
            {"type": "DiscretizeAction", "arguments": {"bins": [7, 2]}},
        ]
        preprocessing = Preprocessing(steps, track.observation_space, track.action_space)
        env = preprocessing.wrap(track)  # to act
        pictures = preprocessing.observations(dataset[:])["observation"]  # of a recording of the track itself

    What they make of a recorded observation is, to the bit, what an agent saw when it acted there: each row goes
    through the functions of the same wrappers.

    Args:
        steps: The wrappers, the first one next to the environment: each the name of one of `WRAPPERS`, or a wrapper of
            your own as ``module:Class``; with arguments ``{"type": ..., "arguments": {...}}``. Lists among the
            arguments become tuples, as Gymnasium wants them.
        observation_space: The space of the environment without them; needed for what works on recorded rows.
        action_space: The same.

    Raises:
        ConfigError: There is no such wrapper; or the spaces are given, and one of the wrappers does not fit them.
    """

    def __init__(
        self,
        steps: Sequence[str | Mapping[str, Any]] = (),
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
    ) -> None:
        if isinstance(steps, (str, Mapping)) or not isinstance(steps, Sequence):
            raise ConfigError(f"preprocessing is a list of wrappers, not {steps!r}")
        self._steps = [_Step.of(number, step) for number, step in enumerate(steps)]
        kinds = [step.kind for step in self._steps]
        if InfoReward in kinds and RepeatAction in kinds[: kinds.index(InfoReward)]:
            raise ConfigError(
                "preprocessing: InfoReward comes behind RepeatAction, where all infos but those of the last step are "
                "lost; put it before RepeatAction, which adds the rewards"
            )
        self._made: _Chain | None = None
        if observation_space is not None and action_space is not None:
            self._made = _Chain(self, observation_space, action_space)

    @property
    def config(self) -> list[dict[str, Any]]:
        """Return the wrappers as JSON data, of which the same ones are made."""
        return [step.config for step in self._steps]

    def wrap(self, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
        """Return an environment within the wrappers.

        Raises:
            ConfigError: One of them does not fit the environment, or needs a package that is not installed.
        """
        for step in self._steps:
            env = step.wrap(env)
        return env

    def spaces(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
        """Return the spaces of observations and actions within the wrappers, from those of the environment.

        Raises:
            ConfigError: One of the wrappers does not fit them.
        """
        wrapped = self.wrap(_SpacesAlone(observation_space, action_space))
        return wrapped.observation_space, wrapped.action_space

    def surround(self, described: Sequence[Mapping[str, Any]]) -> bool | None:
        """Return whether these wrappers are the outermost ones of an environment; None where it has none of the kind.

        Args:
            described: Its wrappers as Gymnasium's description has them, ``additional_wrappers``, innermost first.
        """
        own = [step.described for step in self._steps]
        kinds = {place for place, _ in own}
        found = [one for one in described if one["entry_point"] in kinds or _is_listed(one["entry_point"])]
        if not found:
            return None
        last = found[len(found) - len(own) :] if len(own) <= len(found) else []
        return len(last) == len(own) and all(
            place == one["entry_point"] and _alike(arguments, one["kwargs"] or {})
            for (place, arguments), one in zip(own, last, strict=True)
        )

    @property
    def infos(self) -> tuple[str, ...]:
        """Return the names of the infos from which rewards are computed: what a recording must have for `rewards`."""
        return tuple(
            name for wrapper in self._chain.wrappers if isinstance(wrapper, InfoReward) for name in wrapper.infos
        )

    def observations(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Return recorded observations of the environment as an agent would have seen them.

        Args:
            batch: ``observation``, or ``observation/NAME`` of a nested space, of shape (n, *shape); others are ignored.

        Raises:
            ConfigError: A wrapper cannot do it with single rows, such as one that joins several steps.
            SampleError: A field is missing, or has another shape than the space.
        """
        chain = self._chain
        chain.check_rows("the observations")
        return chain.observations(batch)

    def actions(self, batch: Mapping[str, Array]) -> Array:
        """Return recorded actions of the environment as those of the agent, such as the numbers of bins.

        Args:
            batch: ``action`` of shape (n, *shape); others are ignored.

        Raises:
            ConfigError: A wrapper cannot do it.
            SampleError: An action is none that the agent can choose; the text names it and the nearest one.
        """
        chain = self._chain
        chain.check_rows("the actions")
        return chain.actions(batch)

    def rewards(self, columns: Mapping[str, Array], episodes: Array | None = None, steps: Array | None = None) -> Array:
        """Return the rewards of recorded rows as an agent would have got them, shape (n,), float64.

        Args:
            columns: ``reward``, ``terminated`` and ``info/NAME`` of shape (n,); rows that are not ``acted`` earn 0.
            episodes: Number of each row's episode; needed for `InfoReward` with ``backwards``.
            steps: Number of each row in its episode; the same.

        Raises:
            ConfigError: An info that a reward needs was not recorded, or a wrapper joins several steps.
            SampleError: See `InfoReward.rewards`.
        """
        chain = self._chain
        chain.check_rows("the rewards")
        return chain.rewards(columns, episodes, steps)

    @property
    def _chain(self) -> _Chain:
        if self._made is None:
            raise ConfigError(
                "what works on recorded rows needs the spaces of the environment: "
                "Preprocessing(steps, observation_space, action_space)"
            )
        return self._made


class _SpacesAlone(gymnasium.Env[Any, Any]):
    """An environment that has spaces, and nothing happens in it: wrappers are made around it to be asked."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space


class _Step:
    """A wrapper as data.

    Args:
        number: Place in the list, for errors.
        name: Name of the wrapper.
        arguments: Arguments of its constructor.

    Attributes:
        kind: Its class.
    """

    def __init__(self, number: int, name: str, arguments: Mapping[str, Any]) -> None:
        self._where = f"preprocessing.{number}: {name}"
        self._name = name
        if name in INSTEAD:
            raise ConfigError(f"{self._where} is no wrapper for agents: {INSTEAD[name]}")
        if name not in WRAPPERS and not FORM.fullmatch(name):
            near = difflib.get_close_matches(name, WRAPPERS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(WRAPPERS)};"
            raise ConfigError(f"{self._where} is unknown; {hint} give your own as module:Class")
        self.kind = _wrapper_class(WRAPPERS.get(name, name), self._where)
        self._arguments = dict(arguments)
        if issubclass(self.kind, Pinned):
            with _placed(self._where):
                self._arguments = self.kind.pinned(self._arguments)

    @classmethod
    def of(cls, number: int, given: Any) -> _Step:
        """Return the wrapper that an entry of the list describes."""
        if isinstance(given, str):
            return cls(number, given, {})
        if isinstance(given, Mapping) and set(given) <= {"type", "arguments"} and isinstance(given.get("type"), str):
            arguments = given.get("arguments", {})
            if isinstance(arguments, Mapping):
                return cls(number, given["type"], arguments)
        raise ConfigError(
            f"preprocessing.{number}: {given!r} is no wrapper; give its name, or "
            '{"type": name, "arguments": {...}} with its arguments'
        )

    @property
    def config(self) -> dict[str, Any]:
        """Return the entry of the list."""
        return {"type": self._name, "arguments": dict(self._arguments)} if self._arguments else {"type": self._name}

    @property
    def described(self) -> tuple[str, dict[str, Any]]:
        """Return the class as ``module:Class``, and the arguments of its constructor with their defaults."""
        parameters = list(inspect.signature(self.kind).parameters.values())[1:]
        given = {one.name: one.default for one in parameters if one.default is not one.empty} | self._arguments
        return f"{self.kind.__module__}:{self.kind.__name__}", given

    def wrap(self, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
        """Return an environment within the wrapper."""
        try:
            arguments = {name: self._argument(name, value, env) for name, value in self._arguments.items()}
            with _placed(self._where):
                wrapped: gymnasium.Env[Any, Any] = self.kind(env, **arguments)
        except DependencyNotInstalled as error:
            hint = "needs OpenCV: pip install 'physgym[opencv]'" if "cv2" in str(error) else f"needs a package: {error}"
            raise ConfigError(f"{self._where} {hint}") from error
        except MISFITS as error:
            raise ConfigError(
                f"{self._where} does not fit {env.observation_space}, {env.action_space}: {error}"
            ) from error
        return wrapped

    def _argument(self, name: str, value: Any, env: gymnasium.Env[Any, Any]) -> Any:
        if name in BOUNDS and self._name in WRAPPERS:
            space: Any = env.action_space if BOUNDS[name] == "action_space" else env.observation_space
            return np.broadcast_to(np.asarray(value, space.dtype), space.shape).copy()
        return _tuples(value)


@contextlib.contextmanager
def _placed(where: str) -> Iterator[None]:
    """Say in an error of physgym which wrapper it is about."""
    try:
        yield
    except PhysGymError as error:
        raise type(error)(f"{where}: {error}") from error


def _wrapper_class(place: str, where: str) -> type[gymnasium.Wrapper[Any, Any, Any, Any]]:
    found = with_objects({KEY: place}, where)
    if isinstance(found, type) and issubclass(found, gymnasium.Wrapper):
        return found
    raise ConfigError(f"{where} is no subclass of gymnasium.Wrapper")


def _is_listed(place: str) -> bool:
    """Return whether a class, ``module:Class``, is one of `WRAPPERS`."""
    module, _, name = place.partition(":")
    return name in WRAPPERS and module.startswith(WRAPPERS[name].partition(":")[0])


def _alike(arguments: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    """Return whether arguments are those that were recorded as JSON, as far as both are known."""
    both = arguments.keys() & recorded.keys()
    return all(json.loads(json.dumps(arguments[name], default=str)) == recorded[name] for name in both)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


class _Chain:
    """The wrappers around an environment that has spaces alone: what they do with values.

    Args:
        preprocessing: The wrappers.
        observation_space: Of the environment.
        action_space: The same.
    """

    def __init__(
        self, preprocessing: Preprocessing, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> None:
        env = preprocessing.wrap(_SpacesAlone(observation_space, action_space))
        self.observed, self.chosen = env.observation_space, env.action_space
        self.raw_observed, self.raw_chosen = observation_space, action_space
        self.wrappers: list[gymnasium.Wrapper[Any, Any, Any, Any]] = []  # the first one next to the environment
        while isinstance(env, gymnasium.Wrapper):
            self.wrappers.insert(0, env)
            env = env.env

    def check_rows(self, what: str) -> None:
        """Raise ConfigError where a wrapper needs more than single rows."""
        for wrapper in self.wrappers:
            alone = (TransformObservation, gymnasium.ActionWrapper, TransformReward, InfoReward)
            if not isinstance(wrapper, alone):
                name = type(wrapper).__name__
                raise ConfigError(
                    f"{name} works on the steps of a current episode, and cannot be applied to {what} of "
                    f"recorded rows. Record with it: Recorder(preprocessing.wrap(env), ...), and train from that "
                    "recording without it"
                )

    def observations(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Return observations by field, each row through the function of every wrapper."""
        raw, made = _leaves(OBSERVATION, self.raw_observed), _leaves(OBSERVATION, self.observed)
        columns = [_column(leaf, batch) for leaf in raw]
        functions = [one.observation for one in self.wrappers if isinstance(one, TransformObservation)]
        found: list[list[Any]] = [[] for _ in made]
        for row in zip(*columns, strict=True):
            value = unflatten(self.raw_observed, iter(row))
            for function in functions:
                value = function(value)
            for column, part in zip(found, flatten(self.observed, value), strict=True):
                column.append(part)
        return {
            leaf.path: np.asarray(column, leaf.dtype).reshape(len(column), *leaf.shape)
            for leaf, column in zip(made, found, strict=True)
        }

    def actions(self, batch: Mapping[str, Array]) -> Array:
        """Return actions of the agent; see `Preprocessing.actions`."""
        around = [wrapper for wrapper in self.wrappers if isinstance(wrapper, gymnasium.ActionWrapper)]
        leaves = _leaves(ACTION, self.raw_chosen)
        if len(leaves) != 1 or leaves[0].path != ACTION:
            raise ConfigError(f"recorded actions of {self.raw_chosen} are not brought back to those of an agent")
        given = _column(leaves[0], batch)
        if not around:
            return given
        (made,) = _leaves(ACTION, self.chosen)
        known: dict[bytes, Any] = {}  # there are few different ones where they are bins
        rows = []
        for row in given:
            key = row.tobytes()
            if key not in known:
                known[key] = self._action_of(row, around)
            rows.append(known[key])
        return np.asarray(rows, made.dtype).reshape(len(rows), *made.shape)

    def _action_of(self, stored: Any, around: Sequence[gymnasium.ActionWrapper[Any, Any, Any]]) -> Any:
        """Return the action of the agent that a wrapped environment turns into a stored one."""
        action = stored
        for wrapper in around:
            action = _reverted(wrapper, action)
        again = action
        for wrapper in reversed(around):
            again = wrapper.action(again)
        if not self._same(again, stored):
            names = ", ".join(type(wrapper).__name__ for wrapper in around)
            given, near, chosen = (np.asarray(one).tolist() for one in (stored, again, action))
            raise SampleError(
                f"the recorded action {given} is none of those that {names} gives to the environment; the nearest one "
                f"is {near}, the agent's {chosen}. Record with the same wrappers, or train an agent whose actions are "
                "continuous"
            )
        return action

    def _same(self, again: Any, stored: Any) -> bool:
        """Return whether an action of the environment is a stored one; a continuous agent's up to rounding."""
        chosen, given = value_range(self.chosen), value_range(self.raw_chosen)
        if chosen is None or given is None or chosen.dtype.kind != "f":
            return np.array_equal(again, stored)
        span = np.asarray(given.high, np.float64) - given.low if given.bounded else 1.0
        return bool((np.abs(np.asarray(again, np.float64) - stored) <= EXACT * span).all())

    def rewards(self, columns: Mapping[str, Array], episodes: Array | None, steps: Array | None) -> Array:
        """Return rewards; see `Preprocessing.rewards`."""
        computed = any(isinstance(wrapper, InfoReward) for wrapper in self.wrappers)
        if not computed and "reward" not in columns:
            raise ConfigError(f"there is no column 'reward' among {list(columns)}")
        found = None if computed else np.asarray(columns["reward"], np.float64)
        for wrapper in self.wrappers:
            if isinstance(wrapper, InfoReward):
                found = wrapper.rewards(columns, episodes, steps)
            elif isinstance(wrapper, TransformReward) and found is not None:
                found = np.array([float(wrapper.reward(one)) for one in found.tolist()], np.float64)
        assert found is not None
        return np.where(columns["acted"], found, 0.0) if "acted" in columns else found


def _reverted(wrapper: gymnasium.ActionWrapper[Any, Any, Any], action: Any) -> Any:
    """Return the action that a wrapper may have got, from that which it passed on."""
    if isinstance(wrapper, DiscretizeAction):
        return wrapper.revert_action(action)  # type: ignore[no-untyped-call]
    if isinstance(wrapper, RescaleAction):
        box: Any = wrapper.action_space
        inner: Any = wrapper.env.action_space
        return np.clip(rescale_box(inner, box.low, box.high)[1](action), box.low, box.high).astype(box.dtype)
    if isinstance(wrapper, ClipAction):
        return action
    raise ConfigError(
        f"{type(wrapper).__name__} does not say which action of the agent a recorded one was; DiscretizeAction, "
        "RescaleAction and ClipAction do. Record with it, and train from that recording without it"
    )


def _leaves(name: str, space: spaces.Space[Any]) -> list[Leaf]:
    """Return the fields of recorded values of a space."""
    return fixed_leaves(spaces.Dict({name: space}))


def _column(leaf: Leaf, batch: Mapping[str, Array]) -> Array:
    """Return a recorded field, of the shape and dtype of the space."""
    if leaf.path not in batch:
        raise SampleError(f"there is no field {leaf.path!r} among the recorded ones {list(batch)}")
    values = np.asarray(batch[leaf.path])
    if values.shape[1:] != leaf.shape or values.dtype != leaf.dtype:
        raise SampleError(
            f"recorded {leaf.path} has shape {values.shape[1:]} and dtype {values.dtype}, and the environment's space "
            f"says {leaf.shape} and {leaf.dtype}; it was recorded in another environment, or through wrappers"
        )
    return values
