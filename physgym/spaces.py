"""Nested spaces: the one module that knows their classes, and walks them.

Each class of spaces has a `Kind`, which says what physgym needs to know of it: its parts, the layout and the range of
its values, its JSON form. All else is a walk over the leaves, here or elsewhere, that asks the kind. A new class of
spaces is one more kind, with `register_kind`.

A *leaf* is an array space of fixed shape and dtype, or one whose values vary in size (`Text`, `Sequence`, `Graph`,
`OneOf`, a space class of the user's own); `Dict` and `Tuple` spaces nest them. A leaf's path joins the keys on the way
with ``/``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym.errors import ConfigError

Array = np.ndarray[Any, np.dtype[Any]]

VARIABLE = np.dtype(object)  # dtype of a leaf without a fixed layout
NESTED = ("spaces", "space", "nodes", "edges")  # keys below which the JSON form of a space holds others


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
        """Return whether values have no fixed layout and are sent encoded."""
        return self.dtype == VARIABLE


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
    """Return the number that a Box holds where it has no bound; for integers it keeps a flag as well."""
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    return -np.inf, np.inf


@dataclass(frozen=True)
class ValueRange:
    """Range of the values of a leaf of fixed layout.

    Attributes:
        low: Lowest values, of the leaf's shape and dtype.
        high: Highest values, of the leaf's shape and dtype.
        has_low: Where there is a lower bound, bool.
        has_high: Where there is an upper one, bool.
        single: Whether an element of the space is a scalar, and not an array.
    """

    low: Array
    high: Array
    has_low: Array
    has_high: Array
    single: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype of the values."""
        return self.low.dtype

    @property
    def bounded(self) -> bool:
        """Return whether all values have both bounds."""
        return bool(self.has_low.all() and self.has_high.all())

    def holds(self, values: Array) -> bool:
        """Return whether all values, of the leaf's shape, are within the bounds."""
        below, above = self.has_low & (values < self.low), self.has_high & (values > self.high)
        return not (below.any() or above.any())

    @property
    def choices(self) -> int:
        """Number of values of a scalar that is one of several, else 0."""
        return int(self.high) - int(self.low) + 1 if self.single else 0


def _range(low: Any, high: Any, shape: tuple[int, ...], dtype: Any, *, single: bool = False) -> ValueRange:
    """Return the range of integers with both bounds."""
    first, last = (np.broadcast_to(np.asarray(bound, dtype), shape) for bound in (low, high))
    everywhere = np.ones(shape, np.bool_)
    return ValueRange(first, last, everywhere, everywhere, single)


class Kind:
    """Knowledge of a class of spaces; by default one of a user's own, whose values have no fixed layout.

    Attributes:
        name: Name in the JSON form.
    """

    name = "custom"

    def children(self, space: Any) -> Iterator[tuple[str | int, spaces.Space[Any]]] | None:
        """Return keys and sub-spaces of a nested space, None for a leaf."""
        return None

    def join(self, space: Any, parts: Sequence[Any]) -> Any:
        """Return an element of a nested space, made of elements of its sub-spaces."""
        raise NotImplementedError

    def layout(self, space: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and dtype of the values of a leaf; `VARIABLE` where they have no fixed layout."""
        return (), VARIABLE

    def stored(self, space: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and dtype of an array that a dataset stores for a value; `VARIABLE` where it stores none."""
        return self.layout(space)

    def value_range(self, space: Any) -> ValueRange | None:
        """Return the range of the values of a leaf; None where they have no fixed layout."""
        return None

    def to_json(self, space: Any) -> dict[str, Any]:
        """Return what tells the space from others of its class, as JSON data."""
        return {"class": f"{type(space).__module__}.{type(space).__qualname__}"}

    def from_json(self, data: dict[str, Any]) -> spaces.Space[Any]:
        """Return the space that `to_json` described; faults of the data raise what they may."""
        return Custom()

    def arrays(self, data: dict[str, Any]) -> tuple[Any, Any] | None:
        """Return shape and dtype of the largest array that `from_json` makes, as the data have them, unchecked."""
        return ([], data["dtype"]) if "dtype" in data else None


class _ArrayKind(Kind):
    """Spaces whose values are arrays of fixed shape and dtype, or scalars."""

    def layout(self, space: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
        return tuple(space.shape or ()), np.dtype(space.dtype)


_KINDS: dict[type[Any], Kind] = {}
_BY_NAME: dict[str, Kind] = {Kind.name: Kind()}


def register_kind(space_class: type[Any], kind: Kind) -> None:
    """Make a class of spaces known, with its subclasses."""
    _KINDS[space_class] = _BY_NAME[kind.name] = kind


def kind_of(space: spaces.Space[Any]) -> Kind:
    """Return the kind that is registered for the class of a space, or for the nearest class above it."""
    found = _KINDS.get(space.__class__)
    if found is None:
        known = (_KINDS[base] for base in type(space).__mro__ if base in _KINDS)
        found = _KINDS[space.__class__] = next(known, _BY_NAME[Kind.name])
    return found


class _DictKind(Kind):
    name = "Dict"

    def children(self, space: spaces.Dict) -> Iterator[tuple[str | int, spaces.Space[Any]]]:
        return iter(space.spaces.items())

    def join(self, space: spaces.Dict, parts: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(space.spaces, parts, strict=True))

    def to_json(self, space: spaces.Dict) -> dict[str, Any]:
        return {"spaces": [[key, to_json(sub)] for key, sub in space.spaces.items()]}

    def from_json(self, data: dict[str, Any]) -> spaces.Space[Any]:
        return spaces.Dict([(key, from_json(sub)) for key, sub in data["spaces"]])  # a dict would be sorted


class _TupleKind(Kind):
    name = "Tuple"

    def children(self, space: Any) -> Iterator[tuple[str | int, spaces.Space[Any]]]:
        return iter(enumerate(space.spaces))

    def join(self, space: Any, parts: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(parts)

    def to_json(self, space: Any) -> dict[str, Any]:
        return {"spaces": [to_json(sub) for sub in space.spaces]}

    def from_json(self, data: dict[str, Any]) -> spaces.Space[Any]:
        return spaces.Tuple([from_json(sub) for sub in data["spaces"]])


class _BoxKind(_ArrayKind):
    name = "Box"

    def value_range(self, space: spaces.Box) -> ValueRange:
        return ValueRange(space.low, space.high, space.bounded_below, space.bounded_above)

    def to_json(self, space: spaces.Box) -> dict[str, Any]:
        return {
            "shape": list(space.shape),
            "dtype": np.dtype(space.dtype).str,
            "low": _bound(space.low, space.bounded_below),
            "high": _bound(space.high, space.bounded_above),
        }

    def from_json(self, data: dict[str, Any]) -> spaces.Space[Any]:
        shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
        lowest, highest = _extremes(dtype)
        low, has_low = _from_bound(data["low"], shape, dtype, lowest)
        high, has_high = _from_bound(data["high"], shape, dtype, highest)
        box = spaces.Box(low, high, shape, dtype)  # whose type alone has no byte order
        box.bounded_below, box.bounded_above = has_low, has_high
        return box

    def arrays(self, data: dict[str, Any]) -> tuple[Any, Any]:
        return data.get("shape"), data.get("dtype")


class _DiscreteKind(_ArrayKind):
    name = "Discrete"

    def value_range(self, space: spaces.Discrete) -> ValueRange:
        return _range(space.start, space.start + space.n - 1, (), space.dtype, single=True)

    def to_json(self, space: spaces.Discrete) -> dict[str, Any]:
        return {"n": int(space.n), "start": int(space.start), "dtype": np.dtype(space.dtype).str}

    def from_json(self, data: dict[str, Any]) -> spaces.Space[Any]:
        dtype = np.dtype(data["dtype"])
        return spaces.Discrete(data["n"], start=data["start"], dtype=dtype)


class _MultiDiscreteKind(_ArrayKind):
    name = "MultiDiscrete"

    def value_range(self, space: spaces.MultiDiscrete) -> ValueRange:
        return _range(space.start, space.start + space.nvec - 1, space.shape, space.dtype)

    def to_json(self, space: spaces.MultiDiscrete) -> dict[str, Any]:
        dtype = np.dtype(space.dtype).str
        return {"nvec": space.nvec.tolist(), "start": space.start.tolist(), "dtype": dtype}

    def from_json(self, data: dict[str, Any]) -> spaces.Space[Any]:
        dtype = np.dtype(data["dtype"])
        nvec, start = np.array(data["nvec"], dtype), np.array(data["start"], dtype)
        return spaces.MultiDiscrete(nvec, dtype=dtype, start=start)


class _MultiBinaryKind(_ArrayKind):
    name = "MultiBinary"

    def value_range(self, space: spaces.MultiBinary) -> ValueRange:
        return _range(0, 1, space.shape, space.dtype)

    def to_json(self, space: spaces.MultiBinary) -> dict[str, Any]:
        return {"n": np.asarray(space.n).tolist()}

    def from_json(self, data: dict[str, Any]) -> spaces.Space[Any]:
        return spaces.MultiBinary(data["n"])

    def arrays(self, data: dict[str, Any]) -> tuple[Any, Any]:
        n = data.get("n")
        return n if isinstance(n, list) else [n], "|i1"


class _TextKind(Kind):
    name = "Text"

    def stored(self, space: spaces.Text) -> tuple[tuple[int, ...], np.dtype[Any]]:
        return (), np.dtype(f"U{space.max_length}")

    def to_json(self, space: spaces.Text) -> dict[str, Any]:
        return {
            "min_length": space.min_length,
            "max_length": space.max_length,
            "charset": "".join(space.character_list),
        }

    def from_json(self, data: dict[str, Any]) -> spaces.Space[Any]:
        return spaces.Text(data["max_length"], min_length=data["min_length"], charset=data["charset"])


class _SequenceKind(Kind):
    name = "Sequence"

    def to_json(self, space: spaces.Sequence) -> dict[str, Any]:
        return {"space": to_json(space.feature_space), "stack": space.stack}

    def from_json(self, data: dict[str, Any]) -> spaces.Space[Any]:
        return spaces.Sequence(from_json(data["space"]), stack=data["stack"])


class _OneOfKind(Kind):
    name = "OneOf"

    def to_json(self, space: Any) -> dict[str, Any]:
        return {"spaces": [to_json(sub) for sub in space.spaces]}

    def from_json(self, data: dict[str, Any]) -> spaces.Space[Any]:
        return spaces.OneOf([from_json(sub) for sub in data["spaces"]])


class _GraphKind(Kind):
    name = "Graph"

    def to_json(self, space: spaces.Graph) -> dict[str, Any]:
        edges = None if space.edge_space is None else to_json(space.edge_space)
        return {"nodes": to_json(space.node_space), "edges": edges}

    def from_json(self, data: dict[str, Any]) -> spaces.Space[Any]:
        edges = None if data["edges"] is None else from_json(data["edges"])
        return spaces.Graph(from_json(data["nodes"]), edges)


register_kind(spaces.Dict, _DictKind())
register_kind(spaces.Tuple, _TupleKind())
register_kind(spaces.Box, _BoxKind())
register_kind(spaces.Discrete, _DiscreteKind())
register_kind(spaces.MultiDiscrete, _MultiDiscreteKind())
register_kind(spaces.MultiBinary, _MultiBinaryKind())
register_kind(spaces.Text, _TextKind())
register_kind(spaces.Sequence, _SequenceKind())
register_kind(spaces.OneOf, _OneOfKind())
register_kind(spaces.Graph, _GraphKind())


# --- walks


def children(space: spaces.Space[Any]) -> Iterator[tuple[str | int, spaces.Space[Any]]] | None:
    """Return the keys and sub-spaces of a nested space, None for a leaf."""
    return kind_of(space).children(space)


def _walk(space: spaces.Space[Any], path: str) -> Iterator[tuple[str, spaces.Space[Any]]]:
    """Yield the leaves of a space with their paths, in the order in which they are sent."""
    inner = children(space)
    if inner is None:
        yield path, space
    else:
        for key, sub in inner:
            yield from _walk(sub, f"{path}/{key}" if path else str(key))


def leaves(space: spaces.Space[Any], path: str = "") -> list[Leaf]:
    """Return the layouts of all leaves of a space in the order in which they are sent."""
    return [Leaf(name, *kind_of(single).layout(single)) for name, single in _walk(space, path)]


def leaf_spaces(space: spaces.Space[Any], path: str = "") -> dict[str, spaces.Space[Any]]:
    """Return the leaves of a space themselves by their paths, in the order of `leaves`."""
    return dict(_walk(space, path))


def fixed_leaves(space: spaces.Space[Any]) -> list[Leaf]:
    """Return all arrays of a space that has nothing else.

    Raises:
        ConfigError: The space holds one without a fixed shape and dtype (Text, Sequence, Graph, OneOf).
    """
    return _all_fixed(space, leaves(space))


def stored_leaves(space: spaces.Space[Any]) -> list[Leaf]:
    """Return the arrays of a space of samples, a text being one of its greatest length.

    Raises:
        ConfigError: The space holds one without a fixed shape and dtype (Sequence, Graph, OneOf).
    """
    found = [Leaf(path, *kind_of(single).stored(single)) for path, single in _walk(space, "")]
    return _all_fixed(space, found)


def _all_fixed(space: spaces.Space[Any], found: list[Leaf]) -> list[Leaf]:
    if any(leaf.variable for leaf in found):
        raise ConfigError(
            f"{space} has no fixed byte layout, so it cannot be a field of a sample. Use Box, Discrete, MultiBinary, "
            "MultiDiscrete, or Dict and Tuple of them."
        )
    return found


def value_range(space: spaces.Space[Any]) -> ValueRange | None:
    """Return the range of the values of a leaf; None where they have no fixed layout."""
    return kind_of(space).value_range(space)


def flatten(space: spaces.Space[Any], value: Any) -> list[Any]:
    """Return the values of a space's leaves, in the order of `leaves`."""
    inner = children(space)
    if inner is None:
        return [value]
    return [item for key, sub in inner for item in flatten(sub, value[key])]


def unflatten(space: spaces.Space[Any], values: Iterator[Any]) -> Any:
    """Return the nested value whose leaves are taken from `values`; the inverse of `flatten`."""
    kind = kind_of(space)
    inner = kind.children(space)
    return next(values) if inner is None else kind.join(space, [unflatten(sub, values) for _, sub in inner])


def to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Return a space as plain JSON data; `from_json` is the inverse, but for classes of the user's own.

    Those are only named (type "custom"): a reader of the description needs the space from somewhere else.
    """
    kind = kind_of(space)
    return {"type": kind.name, **kind.to_json(space)}


def described_array(data: dict[str, Any]) -> tuple[Any, Any] | None:
    """Return shape and dtype of the array that part of a description stands for; both unchecked, None for no array."""
    name = data.get("type")
    return _BY_NAME.get(name if isinstance(name, str) else "", _BY_NAME[Kind.name]).arrays(data)


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
        name = data["type"]
        if not isinstance(name, str) or name not in _BY_NAME:
            raise ConfigError(f"unknown space type {name!r}")
        return _BY_NAME[name].from_json(data)
    except (KeyError, TypeError, ValueError, AssertionError) as error:  # spaces check by assert
        raise ConfigError(f"not a description of a space: {error!r}") from error
