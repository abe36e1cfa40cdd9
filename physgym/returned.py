"""Values that an environment returns from `step` and `reset`: checked before use, copied before they can change."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np

from physgym.casting import CastError, as_dtype, as_number, value_text
from physgym.errors import SampleError
from physgym.spaces import Array, Leaf, children, leaves

WHAT = {2: "(observation, info)", 5: "(observation, reward, terminated, truncated, info)"}
INFO = "info must be a dictionary, not a {kind}"

_IMMUTABLE = frozenset({bool, int, float, complex, str, bytes, type(None), np.float64, np.float32, np.int64, np.bool_})
_REALS = (float, np.float32)  # classes of numbers that a float holds, whatever their value; np.float64 is a float


def returned(name: str, values: Any, count: int) -> Any:
    """Return what `step` or `reset` gave, if it has so many values.

    Args:
        name: "step" or "reset".
        values: What it returned.
        count: 5 or 2.

    Raises:
        SampleError: It has not.
    """
    several = isinstance(values, (tuple, list))
    if several and len(values) == count:
        return values
    got = f"{len(values)} values" if several else f"a {type(values).__name__}"
    raise SampleError(f"{name} must return {count} values, {WHAT[count]}; it returned {got}")


def info_of(info: Any) -> dict[str, Any]:
    """Return an info that is a dictionary.

    Raises:
        SampleError: It is none.
    """
    if isinstance(info, dict):
        return info
    raise SampleError(INFO.format(kind=type(info).__name__))


def reward_of(reward: Any) -> float:
    """Return a reward as a float; NaN is one.

    Raises:
        SampleError: It is no number, or a float64 cannot hold it.
    """
    if isinstance(reward, _REALS):
        return float(reward)
    try:
        return as_number(reward)
    except CastError as error:
        raise SampleError(f"the reward must be a number, not {value_text(reward)}, which {error}") from error


def flag_of(name: str, flag: Any) -> bool:
    """Return a flag that is one, or a number that stands for one.

    Args:
        name: "terminated" or "truncated".
        flag: What the environment gave.

    Raises:
        SampleError: It is neither, such as a text.
    """
    if flag.__class__ is bool or flag.__class__ is np.bool_:
        return bool(flag)
    if (isinstance(flag, (int, float)) or hasattr(flag, "dtype")) and not np.ma.is_masked(flag):
        array = np.asarray(flag)
        if not array.shape and array.dtype.kind in "biuf" and array in (0, 1):
            return bool(array)
    raise SampleError(f"{name} must be True or False, not {value_text(flag)}")


def check_observation(space: gymnasium.Space[Any], observation: Any, path: str = "") -> None:
    """Check that an observation has the parts of its space, each of a shape and dtype that fits.

    Args:
        space: The observation space, or a part of it.
        observation: What the environment gave.
        path: Name of that part.

    Raises:
        SampleError: It has not; the text names the part.
    """
    inside = children(space)
    if inside is None:
        (leaf,) = leaves(space, path)
        if not leaf.variable:
            fitted(observation, leaf)
        return
    parts = dict(inside)
    for key, inner in parts.items():
        try:
            part = observation[key]
        except (LookupError, TypeError) as error:
            has = f"has {list(observation)}" if isinstance(observation, dict) else f"is a {type(observation).__name__}"
            raise SampleError(
                f"{_observation(path)} {has} and no part {key!r}; observation_space says {list(parts)}. Return "
                "all of them, or change the space"
            ) from error
        check_observation(inner, part, f"{path}/{key}" if path else str(key))


def fitted(value: Any, leaf: Leaf) -> Array:
    """Return the value of a part of an observation with the dtype that is declared.

    Args:
        value: What the environment gave.
        leaf: The part.

    Raises:
        SampleError: It has another shape or kind, or the dtype cannot hold it.
    """
    try:
        array = as_dtype(value, leaf.dtype)
    except CastError as error:
        raise SampleError(
            f"{_observation(leaf.path)} {error}; observation_space says {leaf.dtype}. Convert it in the environment, "
            "or change the space"
        ) from error
    if array.shape != leaf.shape:
        raise SampleError(
            f"{_observation(leaf.path)} has shape {array.shape}; observation_space says {leaf.shape}. Return "
            f"{leaf.shape} or change the space"
        )
    return array


def _observation(path: str) -> str:
    """Return what a message calls a part of an observation."""
    return f"observation {path!r}" if path else "the observation"


def taken(value: Any) -> Any:
    """Return a value as it is now: what can change later is copied.

    Args:
        value: Arrays, numbers, texts, random generators, and dictionaries, lists and tuples of them. Objects of other
            classes stay what they are.
    """
    kind = value.__class__
    if kind in _IMMUTABLE:
        return value
    if kind is np.ndarray and not value.dtype.hasobject:
        return value.copy()
    if kind is dict or isinstance(value, dict):
        return {key: item if item.__class__ in _IMMUTABLE else taken(item) for key, item in value.items()}
    if kind is list:
        return [taken(item) for item in value]
    if isinstance(value, tuple):
        parts = [taken(item) for item in value]
        return value._make(parts) if hasattr(value, "_make") else tuple(parts)
    if kind is np.ndarray and value.dtype == object:
        items = np.empty(value.size, object)
        for place, item in enumerate(value.ravel().tolist()):
            items[place] = taken(item)
        return items.reshape(value.shape)
    if isinstance(value, (np.ndarray, list, set, bytearray, np.random.Generator)):
        return copy.deepcopy(value)
    return value
