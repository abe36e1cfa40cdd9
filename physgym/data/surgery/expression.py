"""`Expression`: a condition on samples, such as ``norm(forces) < 10 and step > 0``; read by a list of allowed syntax.

Nothing of it is run as Python: what the list does not have is an error, so that an expression can neither call nor
import anything, and its cost is bounded by its length and the size of the samples.
"""

from __future__ import annotations

import ast
import math
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from physgym.data.layout import INDEX
from physgym.errors import ConfigError
from physgym.sample import Field, SampleSpec, present
from physgym.spaces import Array

LONGEST = 2000  # characters
DEEPEST = 60  # levels of the syntax
SHOWN = 100  # characters of a wrong expression
LARGEST_POWER = 16
NAMES = ("episode", "step")  # of the index of a sample
FUNCTIONS = ("min", "max", "mean", "norm", "isfinite", "abs")
CHOOSING = {"field": "field", "parameter": "parameter"}  # functions that say which of two of one name is meant
EXAMPLE = "norm(forces) < 10 and step > 0"

ReadValues = Callable[[str, str], Array]  # rows of a field, parameter or index column, by the kind and the name

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.remainder,
    ast.Pow: np.power,
}


@dataclass(frozen=True)
class PartValue:
    """Values of a part of an expression, for some samples.

    Attributes:
        data: A number of the expression, or an array of shape (n, *shape).
        text: The part of the expression, for errors.
        there: Which values are there where a field is padded, shape as `data`; None for all.
    """

    data: Any
    text: str
    there: Array | None = None

    @property
    def constant(self) -> bool:
        """Return whether it is a number that stands in the expression."""
        return not isinstance(self.data, np.ndarray)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one sample's value."""
        return () if self.constant else self.data.shape[1:]

    @property
    def flag(self) -> bool:
        """Return whether it is a condition."""
        return not self.constant and self.data.dtype.kind == "b"


class Expression:
    """A condition on samples, over fields, parameters of their episodes, ``episode`` and ``step``.

    There are comparisons, ``and``, ``or``, ``not``, arithmetic, and of arrays ``min``, ``max``, ``mean``, ``norm`` and
    ``isfinite``, which make one value of each sample's array; ``abs``, and integers as indices. A name with other
    characters than those of Python's stands in quotes, ``norm("group/x")``. Arithmetic is in double precision. Of
    padded fields those values count that are there; a comparison with one that is not is false, as with NaN.

    Args:
        text: The expression.

    Raises:
        ConfigError: It is none.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"the expression is empty; write a condition such as {EXAMPLE}")
        if len(text) > LONGEST:
            raise ConfigError(f"the expression has {len(text)} characters, {LONGEST} are the most")
        self.text = text = " ".join(text.strip().splitlines())
        try:
            self._tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            problem = getattr(error, "msg", None) or str(error) or "it is too deep"
            shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
            raise ConfigError(f"{shown!r} is no expression: {problem}. Write one such as {EXAMPLE}") from error
        if _depth(self._tree) > DEEPEST:
            raise ConfigError(f"the expression is nested {_depth(self._tree)} deep, {DEEPEST} levels are the most")

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def check(self, spec: SampleSpec, parameters: SampleSpec | None = None) -> None:
        """Check that samples have what the expression names, in the form that it needs.

        Args:
            spec: Their fields.
            parameters: The parameters of their episodes, None for none.

        Raises:
            ConfigError: A name is unknown, an array is not reduced, or a text stands where numbers are wanted.
        """

        def nothing(kind: str, name: str) -> Array:
            if kind == "index":
                return np.empty(0, INDEX[name])
            fields: Mapping[str, Field] = spec if kind == "field" or parameters is None else parameters
            field = fields[name]
            return np.empty((0, *field.shape), field.dtype)

        self.evaluate(spec, parameters, nothing)

    def evaluate(self, spec: SampleSpec, parameters: SampleSpec | None, read: ReadValues) -> Array:
        """Tell which samples fulfil the condition.

        Args:
            spec: Their fields.
            parameters: The parameters of their episodes, None for none.
            read: Returns the values of a ``field``, a ``parameter`` or an ``index``, by this kind and its name.

        Returns:
            Flags, shape (n,).

        Raises:
            ConfigError: As `check`.
        """
        with np.errstate(all="ignore"):  # what is not finite compares as false
            found = _Evaluation(spec, parameters, read).of(self._tree)
        if found.shape:
            raise _unreduced(found)
        if not found.flag:
            raise ConfigError(
                f"{self.text} is no condition, which is true or false for a sample; compare it: {EXAMPLE}"
            )
        return _given(found)


class _Evaluation:
    """Values of the parts of an expression, for some samples."""

    def __init__(self, spec: SampleSpec, parameters: SampleSpec | None, read: ReadValues) -> None:
        self._spec, self._read = spec, read
        self._parameters: Mapping[str, Field] = parameters or {}

    def of(self, node: ast.AST) -> PartValue:
        """Return the value of a part."""
        kinds: dict[type[ast.AST], Callable[[Any], PartValue]] = {
            ast.Constant: self._constant,
            ast.Name: lambda name: self._values_of(self._written(name)),
            ast.BoolOp: self._boolean,
            ast.UnaryOp: self._unary,
            ast.BinOp: self._arithmetic,
            ast.Compare: self._comparison,
            ast.Call: self._call,
            ast.Subscript: self._subscript,
        }
        if type(node) not in kinds:
            raise ConfigError(
                f"{_text(node)}: an expression has no {type(node).__name__}; it has comparisons, and, or, not, "
                f"arithmetic, {', '.join(FUNCTIONS)}"
            )
        return kinds[type(node)](node)

    def _constant(self, node: ast.Constant) -> PartValue:
        value: Any = node.value
        if isinstance(value, str):  # a name that Python would not take
            return self._values_of(value)
        if type(value) not in (int, float):
            raise ConfigError(f"{_text(node)} is no number; an expression has integers and decimal numbers")
        try:
            large = not math.isfinite(float(value))
        except OverflowError:
            large = True
        if large:
            raise ConfigError("a number of the expression is too large for double precision")
        return PartValue(value if abs(value) < 1 << 64 else float(value), _text(node))

    # --- names

    def _written(self, node: ast.Name) -> str:
        """Return the name that stands there: Python has normalized it, so that a field may have it in another form."""
        every = dict.fromkeys([*self._spec, *self._parameters])
        alike = [name for name in every if unicodedata.normalize("NFKC", name) == node.id]
        if len(alike) > 1:
            raise ConfigError(f"{node.id} may be each of the names {', '.join(map(repr, alike))}; write it in quotes")
        return alike[0] if alike and node.id not in NAMES else node.id

    def _values_of(self, name: str, kind: str | None = None) -> PartValue:
        """Return the values of a name; of one kind where it is said."""
        in_fields, in_parameters = (name in known for known in (self._spec, self._parameters))
        if kind is None and name in NAMES:
            if in_fields or in_parameters:
                kinds = [kind for kind, there in (("field", in_fields), ("parameter", in_parameters)) if there]
                raise self._ambiguous(name, ["the index of samples", *(f"a {kind}" for kind in kinds)], kinds)
            return PartValue(self._read("index", name), name)
        if kind is None and in_fields and in_parameters:
            raise self._ambiguous(name, ["a field", "a parameter"], ["field", "parameter"])
        if in_fields and kind != "parameter":
            return self._padded(self._spec[name])
        if in_parameters and kind != "field":
            return self._numbers(PartValue(self._read("parameter", name), name))
        raise ConfigError(f"there is no {kind or 'field or parameter'} {name!r}; there are {self._known()}")

    def _known(self) -> str:
        fields = f"the fields {', '.join(map(repr, self._spec))}"
        parameters = f", the parameters {', '.join(map(repr, self._parameters))}" if self._parameters else ""
        return f"{fields}{parameters}, and {' and '.join(NAMES)}"

    def _ambiguous(self, name: str, means: list[str], kinds: list[str]) -> ConfigError:
        choices = " or ".join(f"{kind}({name})" for kind in kinds)
        return ConfigError(f"{name!r} is the name of {' and of '.join(means)}; write {choices}")

    def _padded(self, field: Field) -> PartValue:
        """Return the values of a field; which are there, where it is padded."""
        data = self._read("field", field.name)
        value = self._numbers(PartValue(data, field.name))
        if field.mask not in self._spec:
            return value
        there = present(field, self._spec[field.mask], self._read("field", field.mask))
        return PartValue(data, field.name, np.broadcast_to(there, data.shape))

    def _numbers(self, value: PartValue) -> PartValue:
        if value.data.dtype.kind not in "biufc":
            what = "a text" if value.data.dtype.kind == "U" else f"of dtype {value.data.dtype}"
            raise ConfigError(f"{value.text!r} is {what}; an expression takes numbers and flags")
        return value

    # --- conditions

    def _boolean(self, node: ast.BoolOp) -> PartValue:
        parts = [self._condition(part) for part in node.values]
        combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return PartValue(combine.reduce([part.data for part in parts]), _text(node))

    def _condition(self, node: ast.AST) -> PartValue:
        """Return a part that must be a condition."""
        value = self.of(node)
        if value.shape:
            raise _unreduced(value)
        if not value.flag:
            raise ConfigError(f"{value.text} is no condition, and stands where one is wanted; compare it")
        return PartValue(_given(value), value.text)

    def _comparison(self, node: ast.Compare) -> PartValue:
        sides = [self._scalar(side) for side in (node.left, *node.comparators)]
        if all(side.constant for side in sides):
            raise ConfigError(f"{_text(node)} compares numbers with numbers, the same for every sample")
        flags: Any = True
        for operation, one, other in zip(node.ops, sides, sides[1:], strict=False):
            if type(operation) not in COMPARISONS:
                raise ConfigError(f"{_text(node)}: an expression compares by ==, !=, <, <=, > and >= alone")
            flags = flags & COMPARISONS[type(operation)](*_comparable(one, other))
        for side in sides:
            flags = flags & _compares(side)
        return PartValue(np.asarray(flags), _text(node))

    def _scalar(self, node: ast.AST) -> PartValue:
        """Return a part that must be one real number for each sample."""
        value = self.of(node)
        if value.shape:
            raise _unreduced(value)
        return _real(value)

    # --- arithmetic

    def _unary(self, node: ast.UnaryOp) -> PartValue:
        if isinstance(node.op, ast.Not):
            return PartValue(~self._condition(node.operand).data, _text(node))
        if isinstance(node.op, ast.Invert):
            raise ConfigError(f"{_text(node)}: write not in place of ~")
        value = _number(self.of(node.operand))
        data = -value.data if isinstance(node.op, ast.USub) else value.data
        return PartValue(data, _text(node), value.there)

    def _arithmetic(self, node: ast.BinOp) -> PartValue:
        if type(node.op) not in ARITHMETIC:
            hint = "; write and and or in place of & and |" if isinstance(node.op, (ast.BitAnd, ast.BitOr)) else ""
            raise ConfigError(f"{_text(node)}: an expression calculates by +, -, *, /, //, % and ** alone{hint}")
        one, other = _number(self.of(node.left)), _number(self.of(node.right))
        if one.shape and other.shape and one.shape != other.shape:
            raise ConfigError(f"{_text(node)}: {one.text} has shape {one.shape} and {other.text} {other.shape}")
        if isinstance(node.op, ast.Pow) and not (other.constant and abs(other.data) <= LARGEST_POWER):
            raise ConfigError(f"{_text(node)}: a power is a number of at most {LARGEST_POWER}")
        if one.constant and other.constant:
            one = PartValue(np.float64(one.data), one.text)
        sides = (_lifted(side.data, max(len(one.shape), len(other.shape))) for side in (one, other))
        data = ARITHMETIC[type(node.op)](*sides)
        if one.constant and other.constant:
            if not np.isfinite(data):
                raise ConfigError(f"{_text(node)} is no finite number")
            return PartValue(float(data), _text(node))
        return PartValue(data, _text(node), _both(one.there, other.there))

    # --- functions

    def _call(self, node: ast.Call) -> PartValue:
        name = node.func.id if isinstance(node.func, ast.Name) else _text(node.func)
        if name not in (*FUNCTIONS, *CHOOSING):
            raise ConfigError(f"there is no function {name!r} in expressions; there are {', '.join(FUNCTIONS)}")
        if node.keywords or not node.args or (len(node.args) > 1 and name not in ("min", "max")):
            raise ConfigError(f"{_text(node)}: {name} takes one argument")
        if name in CHOOSING:
            chosen = node.args[0]
            text = self._written(chosen) if isinstance(chosen, ast.Name) else getattr(chosen, "value", None)
            if not isinstance(text, str):
                raise ConfigError(f"{_text(node)}: {name} takes a name")
            return self._values_of(text, CHOOSING[name])
        if len(node.args) > 1:
            sides = [_number(self._scalar(side)) for side in node.args]
            combine = np.minimum if name == "min" else np.maximum
            data, there = sides[0].data, sides[0].there
            for side in sides[1:]:
                data, there = combine(data, side.data), _both(there, side.there)
            return PartValue(data if isinstance(data, np.ndarray) and data.ndim else float(data), _text(node), there)
        value = self.of(node.args[0])
        if value.constant:
            raise ConfigError(f"{_text(node)}: {name} takes the values of samples, not a number")
        if name == "abs":
            data = value.data if value.data.dtype.kind == "c" else _number(value).data
            return PartValue(np.abs(data), _text(node), value.there)
        there = None if value.shape or name == "isfinite" else value.there  # one value, which may be padding
        return PartValue(_reduced(name, value), _text(node), there)

    def _subscript(self, node: ast.Subscript) -> PartValue:
        value = self.of(node.value)
        places = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        indices = tuple(_index(place) for place in places)
        if len(indices) > len(value.shape) or any(
            not -side <= index < side for index, side in zip(indices, value.shape, strict=False)
        ):
            raise ConfigError(f"{_text(node)}: {value.text} has shape {value.shape}")
        at: Any = (slice(None), *indices)
        return PartValue(value.data[at], _text(node), None if value.there is None else value.there[at])


def _reduced(name: str, value: PartValue) -> Array:
    """Return what min, max, mean, norm or isfinite make of the array of each sample, shape (n,)."""
    data, there = value.data, value.there
    size = math.prod(data.shape[1:])
    rows = data.reshape(len(data), size)
    counts = None if there is None else there.reshape(len(data), size)
    if name == "isfinite":
        finite = np.isfinite(rows)
        return np.asarray((finite if counts is None else finite | ~counts).all(1))
    if name == "norm":
        squares = np.abs(rows).astype(np.float64) ** 2
        return np.asarray(np.sqrt(squares.sum(1, where=True if counts is None else counts)))
    _real(value)
    if name == "mean":
        number = size if counts is None else counts.sum(1)
        return np.asarray(rows.sum(1, dtype=np.float64, where=True if counts is None else counts) / number)
    if size == 0:
        return np.full(len(rows), np.nan)
    if counts is None:
        return np.asarray(rows.min(1) if name == "min" else rows.max(1))
    start = np.inf if name == "min" else -np.inf
    filled = np.where(counts, rows, start)  # a sample without any value compares as false
    found = filled.min(1) if name == "min" else filled.max(1)
    return np.where(counts.any(1), found, np.nan)


def _given(value: PartValue) -> Array:
    """Return the flags of a condition, false where it is padding."""
    flags: Array = value.data if value.there is None else value.data & value.there
    return flags


def _compares(value: PartValue) -> Any:
    """Return which values compare at all: padding does not, nor what is not a number, by ``!=`` neither."""
    known: Any = True if value.there is None else value.there
    return known & ~np.isnan(value.data) if not value.constant and value.data.dtype.kind == "f" else known


def _comparable(one: PartValue, other: PartValue) -> tuple[Any, Any]:
    """Return the sides of a comparison with a precision in which each is a number of its own.

    A number of the expression is compared in the precision of single or double ones: 0.1 is what a float32 makes of it.
    Half precision would make 2048 of 2049, and infinite what is larger than its greatest number.
    """
    return _wide(one, other), _wide(other, one)


def _wide(value: PartValue, other: PartValue) -> Any:
    """Return the values of a field in double precision where its own does not hold the number of the other side."""
    data = value.data
    if value.constant or not other.constant or data.dtype.kind != "f" or data.dtype.itemsize >= 8:
        return data
    fits = data.dtype.itemsize > 2 and abs(other.data) <= np.finfo(data.dtype).max
    return data if fits else data.astype(np.float64)


def _both(one: Array | None, other: Array | None) -> Array | None:
    """Return which values are there in both, of which each may be a number for each sample."""
    if one is None or other is None:
        return other if one is None else one
    axes = max(one.ndim, other.ndim) - 1
    both: Array = _lifted(one, axes) & _lifted(other, axes)
    return both


def _lifted(data: Any, axes: int) -> Any:
    """Return values with so many axes behind the axis of the samples, so that a number goes with an array."""
    if not isinstance(data, np.ndarray) or data.ndim == axes + 1:
        return data
    return data.reshape(len(data), *(1,) * axes)


def _number(value: PartValue) -> PartValue:
    """Return values to calculate with, in double precision: integers of few bits would overflow."""
    value = _real(value)
    if value.constant:
        return value
    if value.flag:
        raise ConfigError(f"{value.text} is a flag, and stands where numbers are wanted")
    return PartValue(value.data.astype(np.float64, copy=False), value.text, value.there)


def _real(value: PartValue) -> PartValue:
    """Return values that can be compared."""
    if not value.constant and value.data.dtype.kind == "c":
        raise ConfigError(f"{value.text} is complex; take norm({value.text}) or abs({value.text})")
    return value


def _unreduced(value: PartValue) -> ConfigError:
    """Return the error of an array where one value for each sample is wanted."""
    some = ", ".join(f"{name}({value.text})" for name in FUNCTIONS[:4])
    return ConfigError(f"{value.text} is an array of shape {value.shape}; take one value of it: {some}")


def _index(node: ast.AST) -> int:
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, node = -1, node.operand
    if not (isinstance(node, ast.Constant) and type(node.value) is int):
        raise ConfigError(f"{_text(node)}: an index of an array is an integer")
    return sign * node.value


def _text(node: ast.AST) -> str:
    return ast.unparse(node)


def _depth(tree: ast.AST) -> int:
    """Return how deep a syntax is nested, without going into it as deep."""
    deepest, waiting = 0, [(tree, 1)]
    while waiting:
        node, depth = waiting.pop()
        deepest = max(deepest, depth)
        waiting += [(child, depth + 1) for child in ast.iter_child_nodes(node)]
    return deepest
