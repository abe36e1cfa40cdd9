"""`Values`: arrays that a picture takes from a sample or from the constants of a dataset, written down as JSON data.

A declaration made of them is stored with a dataset, and drawn from its samples without the simulation's code. There are
sums, products, parts, lengths of rows and columns put side by side; nothing of it runs code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from physgym.checks import is_integer
from physgym.errors import SceneError
from physgym.spaces import Array

PREDICTION = "prediction/"  # before the name of a field, what a network predicts for it
LARGEST = 10_000  # numbers of a literal
DEEPEST = 60  # operations within operations

FIELD, CONSTANT, LITERAL, OPERATION = "field", "constant", "literal", "do"


class AbsentValue(LookupError):
    """A field or a constant that is not there, so that nothing can be drawn of it."""


def _stack(*columns: Array) -> Array:
    return np.stack(np.broadcast_arrays(*columns), axis=-1)


def _norm(rows: Array) -> Array:
    found: Array = np.linalg.norm(np.asarray(rows), axis=-1)
    return found


def _flags(rows: int, mask: Array) -> Array:
    """Return which rows are there by a mask: an integer is their number, else not zero is there."""
    found = np.asarray(mask)
    flags = np.asarray(np.arange(rows) < found if found.ndim == 0 else found.reshape(len(found), -1).all(axis=1))
    if len(flags) != rows:
        raise ValueError(f"a mask of {len(flags)} rows does not belong to values of {rows}")
    return flags


def _present(values: Array, mask: Array) -> Array:
    found: Array = np.asarray(values)[_flags(len(values), mask)]
    return found


def _present_cells(cells: Array, points: Array, mask: Array) -> Array:
    numbers: Array = np.cumsum(_flags(len(points), mask)) - 1
    return numbers[_present_of_cells(cells, cells, points, mask)]


def _present_of_cells(values: Array, cells: Array, points: Array, mask: Array) -> Array:
    whole = _flags(len(points), mask)[np.asarray(cells)].all(axis=1)
    found: Array = np.asarray(values)[whole]
    return found


OPERATIONS: dict[str, tuple[int | None, Callable[..., Any]]] = {  # how many arrays it takes, and what it does
    "+": (2, np.add),
    "-": (2, np.subtract),
    "*": (2, np.multiply),
    "norm": (1, _norm),
    "stack": (None, _stack),
    "present": (2, _present),
    "present cells": (3, _present_cells),
    "present of cells": (4, _present_of_cells),
}
PART = "part"


class Values:
    """An array that follows from a sample and the constants of its dataset.

    Made by `field`, `constant`, `prediction` and by computing: ``constant("nodes") + field("displacement")``. ``+``,
    ``-`` and ``*`` take numbers and arrays as well, whose shapes are broadcast; ``[...]`` takes integers, lists of
    integers and slices.

    Args:
        tree: The JSON data of `to_json`.

    Raises:
        SceneError: It is no such data.
    """

    __array_ufunc__ = None  # numpy leaves ``array + values`` to this class
    __hash__ = None  # type: ignore[assignment]  # equal where the data are

    def __init__(self, tree: Any) -> None:
        self._tree = _checked(tree)
        self._prepared = _prepared(self._tree)

    def to_json(self) -> Any:
        """Return the values as JSON data."""
        return self._tree

    def of(self, sample: Mapping[str, Array], constants: Mapping[str, Array]) -> Array:
        """Return the array.

        Args:
            sample: The fields of one sample by name.
            constants: The constants by name.

        Raises:
            AbsentValue: A field or a constant is not there.
            ValueError: Shapes do not fit each other.
        """
        with np.errstate(all="ignore"):
            return np.asarray(_computed(self._prepared, sample, constants))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Values) and self._tree == other._tree

    def __repr__(self) -> str:
        return f"Values({self._tree!r})"

    def __add__(self, other: Any) -> Values:
        return _operation("+", self, other)

    def __radd__(self, other: Any) -> Values:
        return _operation("+", other, self)

    def __sub__(self, other: Any) -> Values:
        return _operation("-", self, other)

    def __rsub__(self, other: Any) -> Values:
        return _operation("-", other, self)

    def __mul__(self, other: Any) -> Values:
        return _operation("*", self, other)

    def __rmul__(self, other: Any) -> Values:
        return _operation("*", other, self)

    def __getitem__(self, key: Any) -> Values:
        keys = key if isinstance(key, tuple) else (key,)
        return Values({OPERATION: PART, "of": [self._tree], "at": [_key(one) for one in keys]})

    def __iter__(self) -> Any:
        raise TypeError("how many rows the values have is known of each sample alone; take parts by their numbers")


def field(name: str) -> Values:
    """Return the field of a sample, by its name (path)."""
    return Values({FIELD: name})


def constant(name: str) -> Values:
    """Return a constant of the dataset (`physgym.Simulation.constants`), by its name."""
    return Values({CONSTANT: name})


def prediction(name: str) -> Values:
    """Return what a network predicts for a field; nothing is drawn of it where nothing is predicted."""
    return field(f"{PREDICTION}{name}")


def norm(values: Values) -> Values:
    """Return the lengths of rows: the Euclidean norm over the last axis."""
    return _operation("norm", values)


def stack(*columns: Any) -> Values:
    """Return arrays and numbers as the columns of one array, their shapes broadcast: shape (..., columns)."""
    return _operation("stack", *columns)


def present(values: Values, mask: Values) -> Values:
    """Return the rows of values that are there by their mask; an integer as the mask is the number of rows."""
    return _operation("present", values, mask)


def present_cells(cells: Values, points: Values, mask: Values) -> Values:
    """Return the cells all of whose points are there, which are numbered as `present` leaves them."""
    return _operation("present cells", cells, points, mask)


def present_of_cells(values: Values, cells: Values, points: Values, mask: Values) -> Values:
    """Return the values of those cells that `present_cells` gives."""
    return _operation("present of cells", values, cells, points, mask)


def _operation(name: str, *given: Any) -> Values:
    return Values({OPERATION: name, "of": [_tree_of(one) for one in given]})


def _tree_of(value: Any) -> Any:
    return value.to_json() if isinstance(value, Values) else literal(value)


def literal(value: Any) -> dict[str, Any]:
    """Return an array of numbers as JSON data.

    Raises:
        SceneError: It has other values, too many, or some that are not finite.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise SceneError(f"a literal array of a scene must have numbers, not {array.dtype}")
    if array.size > LARGEST:
        raise SceneError(
            f"a literal array of {array.size} numbers is too large to be stored with a scene ({LARGEST} at most); "
            "return it from constants(), and name it with constant(...)"
        )
    if not np.isfinite(array).all():
        raise SceneError("a literal array of a scene holds values that are not finite")
    return {LITERAL: array.tolist()}


def _key(key: Any) -> Any:
    if is_integer(key):
        return int(key)
    if isinstance(key, slice):
        ends = (key.start, key.stop, key.step)
        if all(end is None or is_integer(end) for end in ends):
            return {"slice": [None if end is None else int(end) for end in ends]}
    elif isinstance(key, (list, np.ndarray)) and np.asarray(key).dtype.kind in "iu" and np.ndim(key) == 1:
        return np.asarray(key).tolist()
    raise SceneError(f"values of a scene are taken by integers, lists of integers and slices, not by {key!r}")


def _checked(tree: Any, depth: int = 0) -> Any:
    """Return the data of values, where they are well formed."""
    if depth > DEEPEST:
        raise SceneError(f"values of a scene are computed in at most {DEEPEST} operations within each other")
    if isinstance(tree, Mapping):
        for kind in (FIELD, CONSTANT):
            if tree.keys() == {kind} and isinstance(tree[kind], str) and tree[kind]:
                return dict(tree)
        if tree.keys() == {LITERAL}:
            return literal(_array(tree[LITERAL]))
        of = tree.get("of")
        name = tree.get(OPERATION)
        if isinstance(of, list) and isinstance(name, str):
            inner = [_checked(one, depth + 1) for one in of]
            if name == PART and len(of) == 1 and tree.keys() == {OPERATION, "of", "at"}:
                return {OPERATION: name, "of": inner, "at": [_key(_index(one)) for one in _listed(tree["at"])]}
            if name in OPERATIONS and tree.keys() == {OPERATION, "of"}:
                count = OPERATIONS[name][0]
                if of and count in (None, len(of)):
                    return {OPERATION: name, "of": inner}
    text = repr(tree)
    raise SceneError(f"{text[:200]} is no value of a scene; make it by field(...), constant(...) or prediction(...)")


def _array(data: Any) -> Array:
    try:
        return np.asarray(data)
    except ValueError as error:
        raise SceneError(f"a literal array of a scene is none ({error})") from error


def _listed(data: Any) -> list[Any]:
    if not isinstance(data, list) or not data:
        raise SceneError(f"{data!r} does not say which part of the values to take")
    return data


def _index(data: Any) -> Any:
    if isinstance(data, Mapping) and data.keys() == {"slice"} and len(_listed(data["slice"])) == 3:
        return slice(*data["slice"])
    return data


def _prepared(tree: Any) -> Any:
    """Return the data of values for computing: with arrays, and with what takes a part."""
    if LITERAL in tree:
        return {LITERAL: np.asarray(tree[LITERAL])}
    if OPERATION not in tree:
        return tree
    found = {**tree, "of": [_prepared(one) for one in tree["of"]]}
    return found | ({"at": tuple(_index(one) for one in tree["at"])} if "at" in tree else {})


def _computed(tree: Any, sample: Mapping[str, Array], constants: Mapping[str, Array]) -> Any:
    for kind, values in ((FIELD, sample), (CONSTANT, constants)):
        if kind in tree:
            if tree[kind] not in values:
                raise AbsentValue(f"there is no {kind} {tree[kind]!r}")
            return values[tree[kind]]
    if LITERAL in tree:
        return tree[LITERAL]
    given = [_computed(one, sample, constants) for one in tree["of"]]
    if tree[OPERATION] == PART:
        try:
            return np.asarray(given[0])[tree["at"]]
        except IndexError as error:
            raise ValueError(str(error)) from error
    return OPERATIONS[tree[OPERATION]][1](*given)


def factor_of(tree: Any, fields: Collection[str]) -> float | None:
    """Return by how much an array changes where fields change by one, as the data of values say.

    Args:
        tree: The data of values, see `Values.to_json`.
        fields: Names of the fields that change together.

    Returns:
        A size without a sign, zero where no such field is named; None where it differs from element to element, or
        where the array is no sum of multiples of the fields.
    """
    if set(fields_of(tree)).isdisjoint(fields):
        return 0.0
    if FIELD in tree:
        return 1.0
    factors = [factor_of(one, fields) for one in tree["of"]]
    named = {one for one in factors if one != 0.0}
    if tree[OPERATION] == "*":
        numbers = [one[LITERAL] for one in tree["of"] if LITERAL in one]
        one = factors[0] if factors[1] == 0.0 else factors[1]
        return abs(numbers[0]) * one if numbers and np.ndim(numbers[0]) == 0 and one is not None else None
    linear = tree[OPERATION] in ("+", "-", "stack", PART) or (tree[OPERATION] == "present" and factors[1] == 0.0)
    return named.pop() if linear and len(named) == 1 else None


def names_of(values: Values) -> set[tuple[str, str]]:
    """Return what values name: pairs of "field" or "constant" and a name."""
    return set(_named(values.to_json()))


def fields_of(tree: Any) -> list[str]:
    """Return the names of the fields in the data of values."""
    return [name for kind, name in _named(tree) if kind == FIELD]


def _named(tree: Any) -> list[tuple[str, str]]:
    for kind in (FIELD, CONSTANT):
        if kind in tree:
            return [(kind, tree[kind])]
    return [one for inner in tree.get("of", ()) for one in _named(inner)]
