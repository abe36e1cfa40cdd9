"""Spaces for the variables of an FMU: which of them are chosen, within which bounds, and how they are one element."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym.adapters.command_fields import taken
from physgym.adapters.fmu_description import FmuDescription, FmuVariable, flat_values
from physgym.errors import ConfigError, SampleError
from physgym.spaces import Array

Chosen = Mapping[str, Any] | Sequence[str] | str | None  # names, or names with their lowest and highest values
Bounds = tuple[Array, Array]


def chosen(about: FmuDescription, given: Chosen, causality: str, argument: str) -> dict[FmuVariable, Any]:
    """Return the variables that are chosen, with what is said of their bounds: None for nothing.

    Args:
        about: The FMU.
        given: What is chosen; None for all of a causality.
        causality: Which ones those are.
        argument: Name of the argument, for errors.

    Raises:
        ConfigError: There is no such variable, one is chosen twice, or one has a type that no sample holds.
    """
    if given is None:
        found = dict.fromkeys(_whole(about.of_causality(causality)))
    else:
        names = [given] if isinstance(given, str) else list(given)
        bounds = given if isinstance(given, Mapping) else {}
        found = {about.find(name, argument): bounds.get(name) for name in names}
        if len(found) != len(names):
            raise ConfigError(f"{argument} names a variable twice: {names}")
    for variable in found:
        if variable.dtype is None:
            raise ConfigError(
                f"{argument}: {variable.name!r} is of type {variable.kind}, which is no number, and a sample holds "
                "numbers; leave it out"
                + (f", or set it once with start={{{variable.name!r}: ...}}" if variable.kind == "String" else "")
            )
        if variable.clocked:
            raise ConfigError(
                f"{argument}: {variable.name!r} belongs to a clock, and clocks tick in the event mode of FMI 3 alone, "
                "which is not used; leave it out"
            )
    return found


def places(variables: Iterable[FmuVariable]) -> list[tuple[str, int]]:
    """Return where an FMU has the values of variables: type and value reference."""
    return [(variable.kind, reference) for variable in variables for reference in variable.references]


def check_once(variables: Sequence[FmuVariable]) -> None:
    """Raise ConfigError where a value of the FMU would be set in two ways."""
    found = Counter(places(variables))
    for variable in variables:
        if any(found[place] > 1 for place in places([variable])):
            raise ConfigError(
                f"{variable.name!r} is named twice among `inputs`, `parameters` and `start`, also as part of an array "
                "or by another name; choose one"
            )


def _whole(variables: Sequence[FmuVariable]) -> list[FmuVariable]:
    """Return arrays and what is no element of them, in the order of the first element; each value once."""
    arrays = {place: v for v in variables if len(v.references) > 1 for place in places([v])}
    found: dict[FmuVariable, None] = {}
    seen: set[tuple[str, int]] = set()
    for variable in variables:
        array = arrays.get(places([variable])[0], variable)
        if not seen.issuperset(places([variable])):  # an alias is the same value
            found[array] = None
            seen.update(places([array]))
    return list(found)


def check_settable(variable: FmuVariable, argument: str) -> None:
    """Raise ConfigError for a variable whose start value cannot be given."""
    if variable.causality == "structuralParameter":
        raise ConfigError(
            f"{argument}: {variable.name!r} is a structural parameter, on which the sizes of arrays depend; another "
            "value is not supported. Export the FMU with the value that you need"
        )
    if variable.variability == "constant" or not (variable.exact or variable.causality == "input"):
        raise ConfigError(
            f"{argument}: {variable.name!r} ({variable.causality}, {variable.variability}) is computed by the FMU, so "
            "that nobody can set it"
        )


def check_input(variable: FmuVariable) -> None:
    """Raise ConfigError for a variable that cannot be changed between two steps."""
    if variable.causality != "input" and variable.variability != "tunable":
        raise ConfigError(
            f"inputs: {variable.name!r} ({variable.causality}, {variable.variability}) cannot change while the FMU "
            "runs; inputs and tunable parameters can" + ("" if not variable.exact else ". Make it one of `parameters`")
        )


def check_units(about: FmuDescription, units: Mapping[str, str]) -> None:
    """Raise ConfigError where a variable has another unit than it is taken to have."""
    for name, unit in units.items():
        variable = about.find(name, "units")
        if variable.unit != unit:
            raise ConfigError(
                f"units: {name!r} of {about.path.name} is in {variable.unit or 'no unit'}, not in {unit or 'no unit'}; "
                "values are not converted"
            )


def bounds_of(variable: FmuVariable, given: Any, argument: str) -> Bounds:
    """Return the lowest and the highest values of a variable that is drawn or acts.

    Args:
        variable: The variable.
        given: Both, as numbers or arrays; None for those of the description.
        argument: Name of the argument, for errors.

    Raises:
        ConfigError: There are none, or they are wrong or beyond those of the description.
    """
    if variable.choices:
        values = sorted(variable.choices.values())
        if values != list(range(values[0], values[-1] + 1)):
            raise ConfigError(
                f"{argument}: the values of {variable.name!r} have gaps, {dict(variable.choices)}; leave it out"
            )
        lowest, highest = values[0], values[-1]
    elif variable.kind == "Boolean":
        lowest, highest = 0, 1
    else:
        lowest, highest = variable.low, variable.high  # type: ignore[assignment]
    if isinstance(given, Mapping):
        given = _declared(variable, given, argument)
    if given is None:
        if lowest is None or highest is None:
            raise ConfigError(
                f"{argument}: {variable.name!r} has no bounds in the model description; give them, as in "
                f"{argument}={{{variable.name!r}: [0, 1]}}" + (f", in {variable.unit}" if variable.unit else "")
            )
        given = [lowest, highest]
    try:
        low, high = given
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{argument}: the bounds of {variable.name!r} are its lowest and its highest value, as [0, 1], not "
            f"{given!r}"
        ) from error
    found = flat_values(variable, low, argument), flat_values(variable, high, argument)
    if (found[0] > found[1]).any():
        raise ConfigError(f"{argument}: {variable.name!r} has bounds {given!r}; the lower one comes first")
    return found


def _declared(variable: FmuVariable, given: Mapping[str, Any], argument: str) -> list[Any] | None:
    """Return the bounds of a declaration ``{"low": 0, "high": 1, "unit": "m"}``; None where it has only the unit."""
    if unknown := sorted(set(given) - {"low", "high", "unit"}):
        raise ConfigError(
            f"{argument}: {variable.name!r} takes low, high and unit, not {unknown}; the FMU says the rest"
        )
    if given.get("unit", variable.unit) != variable.unit:
        raise ConfigError(f"{argument}: {variable.name!r} is in {variable.unit or 'no unit'}, not in {given['unit']}")
    if ("low" in given) != ("high" in given):
        raise ConfigError(f"{argument}: {variable.name!r} needs both low and high, or none")
    return [given["low"], given["high"]] if "low" in given else None


def space_of(variable: FmuVariable, bounds: Bounds | None = None) -> spaces.Space[Any]:
    """Return the space of the values of a variable.

    Args:
        variable: The variable.
        bounds: Lowest and highest values; None for what a computed one may be.
    """
    dtype = variable.dtype
    assert dtype is not None
    if bounds is None:
        ends = (-np.inf, np.inf) if variable.real else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        low, high = (0, 1) if variable.kind == "Boolean" else ends
        return spaces.Box(low, high, variable.shape, dtype.type)
    if not variable.real and not variable.shape:
        first, last = (int(bound) for bound in bounds)
        return spaces.Discrete(last - first + 1, start=first, dtype=dtype.type)
    return spaces.Box(*bounds, variable.shape, dtype.type)


def _ends(variable: FmuVariable, bounds: Bounds | None) -> Bounds:
    return (np.full(variable.shape, -np.inf), np.full(variable.shape, np.inf)) if bounds is None else bounds


class Elements:
    """Values of several variables as one element of a space.

    Floating-point numbers alone are a vector, in the order of the variables, each flat in the order of C; a single
    whole number is an element of a Discrete space; others are a dictionary by name.

    Args:
        variables: The variables with their bounds, None for what is computed.

    Attributes:
        space: The space.
    """

    def __init__(self, variables: Mapping[FmuVariable, Bounds | None]) -> None:
        self._variables = list(variables)
        each = {variable.name: space_of(variable, bounds) for variable, bounds in variables.items()}
        self._vector = all(variable.real for variable in variables)
        self._only = len(each) == 1 and not self._vector and not self._variables[0].shape
        self.space: spaces.Space[Any]
        if self._vector:
            dtype: Any = np.result_type(*(v.dtype for v in variables)) if each else np.dtype(np.float64)
            low, high = (
                np.concatenate([np.zeros(0), *(_ends(v, b)[end].ravel() for v, b in variables.items())]).astype(dtype)
                for end in (0, 1)
            )
            self.space = spaces.Box(low, high, dtype=dtype.type)
        elif self._only:
            (self.space,) = each.values()
        else:
            self.space = spaces.Dict(list(each.items()))

    def pack(self, values: Mapping[str, Array]) -> Any:
        """Return values by name as an element."""
        if self._vector:
            parts = [np.ravel(values[variable.name]) for variable in self._variables]
            return np.concatenate(parts or [np.zeros(0)]).astype(self.space.dtype)
        if self._only:
            return values[self._variables[0].name]
        return {variable.name: values[variable.name] for variable in self._variables}

    def unpack(self, element: Any) -> dict[str, Array]:
        """Return an element as values by name, of the shapes and dtypes of the variables.

        Raises:
            SampleError: It has another shape, lacks one, or a dtype cannot hold a value.
        """
        if self._only or not self._vector:
            given = {self._variables[0].name: element} if self._only else element
            known: dict[str, Any] = {v.name: space_of(v) for v in self._variables}
            return taken(given, known, "an action of an FMU")
        flat, found, begin = np.asarray(element), {}, 0
        if flat.shape != self.space.shape:
            names = ", ".join(variable.name for variable in self._variables)
            raise SampleError(f"an element has {self.space.shape} values in a row ({names}), not {flat.shape}")
        for variable in self._variables:
            end = begin + int(np.prod(variable.shape, dtype=int))
            found[variable.name] = flat[begin:end].astype(variable.dtype).reshape(variable.shape)
            begin = end
        return found
