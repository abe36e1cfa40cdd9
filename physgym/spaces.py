"""The one place that walks nested spaces: leaves, byte layout, batching, JSON form.

A *leaf* is an array space of fixed shape and dtype, or one whose values vary in size (`Text`, `Sequence`, `Graph`,
`OneOf`, a space class of the user's own); `Dict` and `Tuple` spaces nest them. A leaf's path joins the keys on the way
with ``/``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym.errors import ConfigError

Array = np.ndarray[Any, np.dtype[Any]]

VARIABLE = np.dtype(object)  # dtype of a leaf without a fixed layout


@dataclass(frozen=True)
class Leaf:
    """An array, or a value of variable size, inside a nested space.

    Attributes:
        path: Keys from the root, joined by ``/``; empty for a space that is a leaf itself.
        shape: Shape of one value, without the batch axis.
        dtype: dtype of one value; `VARIABLE` for one without a fixed layout.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Return the number of bytes of one value."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def variable(self) -> bool:
        """Return whether values have no fixed layout and travel encoded."""
        return self.dtype == VARIABLE


def children(space: spaces.Space[Any]) -> Iterator[tuple[str | int, spaces.Space[Any]]] | None:
    """Return the keys and sub-spaces of a nested space, None for a leaf."""
    if isinstance(space, spaces.Dict):
        return iter(space.spaces.items())
    if isinstance(space, spaces.Tuple):
        return iter(enumerate(space.spaces))
    return None


def leaves(space: spaces.Space[Any], path: str = "") -> list[Leaf]:
    """Return all leaves of a space in the order in which they travel."""
    inner = children(space)
    if inner is not None:
        return [leaf for key, sub in inner for leaf in leaves(sub, f"{path}/{key}" if path else str(key))]
    if not isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)):
        return [Leaf(path, (), VARIABLE)]
    assert space.dtype is not None
    return [Leaf(path, tuple(space.shape or ()), np.dtype(space.dtype))]


def leaf_spaces(space: spaces.Space[Any], path: str = "") -> dict[str, spaces.Space[Any]]:
    """Return the leaves of a space themselves by their paths, in the order of `leaves`."""
    inner = children(space)
    if inner is None:
        return {path: space}
    found: dict[str, spaces.Space[Any]] = {}
    for key, sub in inner:
        found |= leaf_spaces(sub, f"{path}/{key}" if path else str(key))
    return found


def fixed_leaves(space: spaces.Space[Any]) -> list[Leaf]:
    """Return all arrays of a space that has nothing else.

    Raises:
        ConfigError: The space holds one without a fixed shape and dtype (Text, Sequence, Graph, OneOf).
    """
    found = leaves(space)
    if any(leaf.variable for leaf in found):
        raise ConfigError(
            f"{space} has no fixed byte layout, so it cannot be a field of a sample. Use Box, Discrete, MultiBinary, "
            "MultiDiscrete, or Dict and Tuple of them."
        )
    return found


def flatten(space: spaces.Space[Any], value: Any) -> list[Any]:
    """Return the values of a space's leaves, in the order of `leaves`."""
    inner = children(space)
    if inner is None:
        return [value]
    return [item for key, sub in inner for item in flatten(sub, value[key])]


def unflatten(space: spaces.Space[Any], values: Iterator[Any]) -> Any:
    """Return the nested value whose leaves are taken from `values`; the inverse of `flatten`."""
    if isinstance(space, spaces.Dict):
        return {key: unflatten(sub, values) for key, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(unflatten(sub, values) for sub in space.spaces)
    return next(values)


def _bound(values: Array, bounded: Array) -> Any:
    """Return a Box bound as JSON: one number where all are equal; null for none, as JSON lacks infinity."""
    flat = [
        value if has else None for value, has in zip(values.ravel().tolist(), bounded.ravel().tolist(), strict=True)
    ]
    return flat[0] if flat and flat.count(flat[0]) == len(flat) else flat


def _from_bound(data: Any, shape: tuple[int, ...], dtype: np.dtype[Any], unbounded: float) -> tuple[Array, Array]:
    """Return a Box bound from JSON: its values, and where there is one."""
    values = data if isinstance(data, list) else [data]
    numbers = np.array([unbounded if x is None else x for x in values], dtype)
    has = np.array([x is not None for x in values], np.bool_)
    if isinstance(data, list):
        return numbers.reshape(shape), has.reshape(shape)
    return np.full(shape, numbers[0], dtype), np.full(shape, has[0], np.bool_)


def _extremes(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the number that a Box holds where it has no bound; for integers it keeps a flag beside."""
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    return -np.inf, np.inf


def to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Return a space as plain JSON data; `from_json` is the inverse, but for classes of the user's own.

    Those are only named (type "custom"): a reader of the description needs the space from somewhere else.
    """
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": [[key, to_json(sub)] for key, sub in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [to_json(sub) for sub in space.spaces]}
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "shape": list(space.shape),
            "dtype": np.dtype(space.dtype).str,
            "low": _bound(space.low, space.bounded_below),
            "high": _bound(space.high, space.bounded_above),
        }
    if isinstance(space, spaces.Discrete):
        return {
            "type": "Discrete",
            "n": int(space.n),
            "start": int(space.start),
            "dtype": np.dtype(space.dtype).str,
        }
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "type": "MultiDiscrete",
            "nvec": space.nvec.tolist(),
            "start": space.start.tolist(),
            "dtype": np.dtype(space.dtype).str,
        }
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": np.asarray(space.n).tolist()}
    if isinstance(space, spaces.Text):
        return {
            "type": "Text",
            "min_length": space.min_length,
            "max_length": space.max_length,
            "charset": "".join(space.character_list),
        }
    if isinstance(space, spaces.Sequence):
        return {"type": "Sequence", "space": to_json(space.feature_space), "stack": space.stack}
    if isinstance(space, spaces.OneOf):
        return {"type": "OneOf", "spaces": [to_json(sub) for sub in space.spaces]}
    if isinstance(space, spaces.Graph):
        edges = None if space.edge_space is None else to_json(space.edge_space)
        return {"type": "Graph", "nodes": to_json(space.node_space), "edges": edges}
    return {"type": "custom", "class": f"{type(space).__module__}.{type(space).__qualname__}"}


def is_custom(data: Any) -> bool:
    """Return whether a description names a class of the user's own, which `from_json` cannot make."""
    if isinstance(data, dict):
        return data.get("type") == "custom" or any(is_custom(value) for value in data.values())
    return isinstance(data, list) and any(is_custom(value) for value in data)


class Custom(spaces.Space[Any]):
    """Stands for a space of the user's own class where only its description is known."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Custom)

    __hash__ = None  # type: ignore[assignment]  # spaces compare by value


def from_json(data: dict[str, Any]) -> spaces.Space[Any]:
    """Return the space that `to_json` described.

    Raises:
        ConfigError: The description is not one that `to_json` makes.
    """
    try:
        match data["type"]:
            case "Dict":
                return spaces.Dict([(key, from_json(sub)) for key, sub in data["spaces"]])  # a dict would be sorted
            case "Tuple":
                return spaces.Tuple([from_json(sub) for sub in data["spaces"]])
            case "Box":
                shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
                lowest, highest = _extremes(dtype)
                low, has_low = _from_bound(data["low"], shape, dtype, lowest)
                high, has_high = _from_bound(data["high"], shape, dtype, highest)
                box = spaces.Box(low, high, shape, dtype)  # whose type alone has no byte order
                box.bounded_below, box.bounded_above = has_low, has_high
                return box
            case "Discrete":
                dtype = np.dtype(data["dtype"])
                return spaces.Discrete(data["n"], start=data["start"], dtype=dtype)
            case "MultiDiscrete":
                dtype = np.dtype(data["dtype"])
                nvec, start = np.array(data["nvec"], dtype), np.array(data["start"], dtype)
                return spaces.MultiDiscrete(nvec, dtype=dtype, start=start)
            case "MultiBinary":
                return spaces.MultiBinary(data["n"])
            case "Text":
                return spaces.Text(data["max_length"], min_length=data["min_length"], charset=data["charset"])
            case "Sequence":
                return spaces.Sequence(from_json(data["space"]), stack=data["stack"])
            case "OneOf":
                return spaces.OneOf([from_json(sub) for sub in data["spaces"]])
            case "Graph":
                edges = None if data["edges"] is None else from_json(data["edges"])
                return spaces.Graph(from_json(data["nodes"]), edges)
            case "custom":
                return Custom()
            case other:
                raise ConfigError(f"unknown space type {other!r}")
    except (KeyError, TypeError, ValueError, AssertionError) as error:  # spaces check by assert
        raise ConfigError(f"not a description of a space: {error!r}") from error
