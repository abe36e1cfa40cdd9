"""The model description of an FMU: its variables by name, with types, units, ranges and start values."""

from __future__ import annotations

import difflib
import itertools
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from physgym.errors import ConfigError, needs
from physgym.files import absolute
from physgym.spaces import Array

# what values of a type are in a sample; an enumeration is an integer of the width that its version gives it
DTYPES = {
    "Real": np.float64,
    "Float32": np.float32,
    "Float64": np.float64,
    "Integer": np.int32,
    "Int8": np.int8,
    "UInt8": np.uint8,
    "Int16": np.int16,
    "UInt16": np.uint16,
    "Int32": np.int32,
    "UInt32": np.uint32,
    "Int64": np.int64,
    "UInt64": np.uint64,
    "Boolean": np.int8,
}
ENUMERATIONS = {2: np.int32, 3: np.int64}
ELEMENT = re.compile(r"(.+)\[(\d+(?:,\s*\d+)*)\](.*)", re.DOTALL)  # name[1,2] and what stands behind it, as .x


@dataclass(frozen=True, eq=False)
class FmuVariable:
    """A variable of an FMU, or an array of them.

    Attributes:
        name: Its name.
        references: Its value references: one, or one for each element where the elements are variables themselves.
        kind: Its type, such as "Real" or "Float64".
        dtype: dtype of its values in a sample; None for texts, bytes and clocks, which no sample holds.
        shape: Its shape, () for a scalar.
        unit: Its unit; empty for none.
        causality: "parameter", "input", "output", "local", ...
        variability: "constant", "fixed", "tunable", "discrete" or "continuous".
        exact: Whether its start value is given from outside.
        low: Its least value; None where the description says none.
        high: Its largest one.
        start: Its start value as an array of `shape`, or a text; None where the description says none.
        choices: Values of an enumeration by name.
        clocked: Whether it belongs to a clock.
        description: What the description says about it.
    """

    name: str
    references: tuple[int, ...]
    kind: str
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...]
    unit: str
    causality: str
    variability: str
    exact: bool
    low: float | None = None
    high: float | None = None
    start: Any = None
    choices: Mapping[str, int] = field(default_factory=dict)
    clocked: bool = False
    description: str = ""

    @property
    def real(self) -> bool:
        """Return whether its values are floating-point numbers."""
        return self.dtype is not None and self.dtype.kind == "f"

    @property
    def line(self) -> str:
        """Return what there is to say about it, in a line."""
        unit = f" [{self.unit}]" if self.unit else ""
        parts = [f"{self.causality}, {self.variability}, {self.kind} {self.shape or ''}".rstrip() + unit]
        if self.low is not None or self.high is not None:
            parts.append(
                f"from {'...' if self.low is None else self.low} to {'...' if self.high is None else self.high}"
            )
        if self.choices:
            parts.append(", ".join(f"{name}={value}" for name, value in self.choices.items()))
        if self.start is not None:
            parts.append(f"start {self.start if isinstance(self.start, str) else np.asarray(self.start).tolist()}")
        return f"{self.name}: {'; '.join(parts)}" + (f" ({self.description})" if self.description else "")


@dataclass(frozen=True)
class FmuDescription:
    """Model description of an FMU.

    Attributes:
        path: Its file, absolute.
        version: Major version of FMI, 2 or 3.
        name: Name of the model.
        token: What identifies this FMU (guid, instantiation token).
        identifier: Name of its library.
        variables: Its variables by name.
        platforms: Platforms for which it has a library, in the words of FMPy.
        once: Whether a process may have one instance of it alone.
        needs_tool: Whether it starts a program of its own, the tool that made it.
        keeps_state: Whether its state can be taken out as bytes, and put back.
        internal_step: Step of its own solver in s; None where it says none.
        step_size: Communication step that it proposes, in s; None where it proposes none.
        start_time: Time in s at which it proposes to begin.
        tolerance: Relative tolerance that it proposes; None where it proposes none.
    """

    path: Path
    version: int
    name: str
    token: str
    identifier: str
    variables: Mapping[str, FmuVariable]
    platforms: tuple[str, ...]
    once: bool
    needs_tool: bool
    keeps_state: bool
    internal_step: float | None
    step_size: float | None
    start_time: float
    tolerance: float | None

    def find(self, name: Any, argument: str) -> FmuVariable:
        """Return the variable of a name.

        Args:
            name: The name.
            argument: Who names it, for the error.

        Raises:
            ConfigError: There is none; the text has similar ones.
        """
        found = self.variables.get(name) if isinstance(name, str) else None
        if found is None:
            near = difflib.get_close_matches(str(name), self.variables, 3)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"`physgym info {self.path}` lists them"
            raise ConfigError(f"{argument}: {self.path.name} has no variable {name!r}; {hint}")
        return found

    def of_causality(self, causality: str) -> list[FmuVariable]:
        """Return the variables of a causality whose values a sample can hold, in their order."""
        return [v for v in self.variables.values() if v.causality == causality and v.dtype is not None]

    def lines(self) -> Iterator[str]:
        """Yield what there is to say about the FMU, and a line for each variable."""
        yield f"{self.name}: FMI {self.version}, co-simulation, for {', '.join(self.platforms) or 'no platform'}"
        step = "says none" if self.step_size is None else f"{self.step_size} s"
        yield f"  step {step}, {'one instance per process, ' if self.once else ''}snapshots: {_yes(self.keeps_state)}"
        for variable in self.variables.values():
            yield f"  {variable.line}"


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def read_description(path: Any, *, validate: bool = True) -> FmuDescription:
    """Return what an FMU says about itself; nothing of it is unpacked or run.

    Args:
        path: Its file.
        validate: Whether its model description has to fulfil the standard.

    Raises:
        ConfigError: FMPy is not installed; there is no such file; it is no FMU of version 2 or 3 for co-simulation.
    """
    with needs("fmpy", "fmu", "an FMU"):
        import fmpy
    from fmpy.model_description import ValidationError, read_model_description

    if not isinstance(path, (str, Path)):
        raise ConfigError(f"path is the file of an FMU, not {path!r}")
    file = absolute(path)
    if not file.is_file():
        raise ConfigError(f"there is no FMU {file}")
    try:
        found = read_model_description(file, validate=validate)
        platforms = tuple(fmpy.supported_platforms(file))
    except zipfile.BadZipFile as error:
        raise ConfigError(f"{file} is no FMU: {error}") from error
    except ValidationError as error:
        raise ConfigError(
            f"the model description of {file} is not as the standard says; validate=False takes it as it is. {error}"
        ) from error
    except Exception as error:
        raise ConfigError(f"{file} is no FMU that can be read: {error}") from error
    if str(found.fmiVersion).split(".")[0] not in ("2", "3"):
        raise ConfigError(f"{file} is an FMU of FMI {found.fmiVersion}; versions 2 and 3 are supported")
    simulated = found.coSimulation
    if simulated is None:
        raise ConfigError(
            f"{file} is no FMU for co-simulation: it has no solver of its own. Export it for co-simulation"
        )
    version = int(str(found.fmiVersion)[0])
    experiment = found.defaultExperiment
    return FmuDescription(
        path=file,
        version=version,
        name=str(found.modelName),
        token=str(found.guid),
        identifier=str(simulated.modelIdentifier),
        variables=_variables(found, version),
        platforms=platforms,
        once=simulated.canBeInstantiatedOnlyOncePerProcess,
        needs_tool=simulated.needsExecutionTool,
        keeps_state=simulated.canGetAndSetFMUstate and simulated.canSerializeFMUstate,
        internal_step=_number(simulated.fixedInternalStepSize),
        step_size=_number(experiment.stepSize if experiment else None),
        start_time=_number(experiment.startTime if experiment else None) or 0.0,
        tolerance=_number(experiment.tolerance if experiment else None),
    )


def _number(text: Any) -> float | None:
    return None if text is None else float(text)


def _variables(found: Any, version: int) -> dict[str, FmuVariable]:
    """Return the variables by name; where names are structured, the elements of an array follow it as one."""
    single = {v.name: _variable(v, version) for v in found.modelVariables}
    if found.variableNamingConvention != "structured":
        return single
    return {**single, **{array.name: array for array in _arrays(single.values()) if array.name not in single}}


def _variable(found: Any, version: int) -> FmuVariable:
    declared = found.declaredType
    given = {
        name: getattr(found, name) or (getattr(declared, name) if declared is not None else None)
        for name in ("unit", "min", "max")
    }
    dtype = ENUMERATIONS[version] if found.type == "Enumeration" else DTYPES.get(found.type)
    shape = tuple(found.shape or ())
    return FmuVariable(
        name=found.name,
        references=(found.valueReference,),
        kind=found.type,
        dtype=None if dtype is None else np.dtype(dtype),
        shape=shape,
        unit=given["unit"] or "",
        causality=found.causality,
        variability=found.variability,
        exact=found.initial in ("exact", "approx"),
        low=_number(given["min"]),
        high=_number(given["max"]),
        start=_start(found, dtype, shape),
        choices={item.name: int(item.value) for item in declared.items} if found.type == "Enumeration" else {},
        clocked=bool(found.clocks),
        description=found.description or "",
    )


def _start(found: Any, dtype: Any, shape: tuple[int, ...]) -> Any:
    if found.start is None or dtype is None:
        return found.start
    words = str(found.start).split()
    if found.type == "Boolean":
        words = ["1" if word in ("true", "1") else "0" for word in words]
    kind = float if np.dtype(dtype).kind == "f" else int
    values = np.array([kind(word) for word in words], dtype)
    return values.reshape(shape) if values.size == np.prod(shape, dtype=int) else np.full(shape, values[0], dtype)


def _arrays(variables: Iterable[FmuVariable]) -> Iterator[FmuVariable]:
    """Yield the arrays whose elements are variables: all of their indices are there, and the elements are alike."""
    elements: dict[str, dict[tuple[int, ...], FmuVariable]] = {}
    for variable in variables:
        matched = ELEMENT.fullmatch(variable.name)
        if matched is not None and variable.shape == () and variable.dtype is not None:
            index = tuple(int(part) for part in matched[2].split(","))
            elements.setdefault(matched[1] + matched[3], {})[index] = variable
    for name, by_index in elements.items():
        indices = list(by_index)
        if len({len(index) for index in indices}) > 1:
            continue
        axes = [range(min(axis), max(axis) + 1) for axis in zip(*indices, strict=True)]
        if any(axis.start > 1 for axis in axes) or len(indices) != np.prod([len(axis) for axis in axes], dtype=int):
            continue
        inside = [by_index[index] for index in itertools.product(*axes)]
        if len({_likeness(variable) for variable in inside}) == 1:
            shape = tuple(len(axis) for axis in axes)
            starts = [variable.start for variable in inside]
            start = None if any(one is None for one in starts) else np.array(starts).reshape(shape)
            references = tuple(reference for variable in inside for reference in variable.references)
            yield replace(inside[0], name=name, references=references, shape=shape, start=start)


def _likeness(variable: FmuVariable) -> tuple[Any, ...]:
    """Return what the elements of an array have in common."""
    return (
        *(variable.kind, variable.unit, variable.causality, variable.variability, variable.exact),
        *(variable.low, variable.high, tuple(variable.choices.items()), variable.clocked),
    )


def flat_values(variable: FmuVariable, value: Any, argument: str) -> Array:
    """Return a value for a variable as an array of its shape and dtype.

    Args:
        variable: The variable.
        value: A number, a list, the name of an item of an enumeration.
        argument: Who gives it, for the error.

    Raises:
        ConfigError: It is none of this variable.
    """
    if isinstance(value, str) and value in variable.choices:
        value = variable.choices[value]
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "biuf" or variable.dtype is None:
            raise ValueError("it is no number")
        with np.errstate(all="ignore"):
            values = given.astype(variable.dtype)
        if not (np.isfinite(given).all() and np.isfinite(values).all() and (variable.real or (values == given).all())):
            raise ValueError(f"{variable.kind} does not hold it")
        values = np.broadcast_to(values, variable.shape).copy()
    except (TypeError, ValueError, OverflowError) as error:
        names = f", or one of {list(variable.choices)}" if variable.choices else ""
        raise ConfigError(
            f"{argument}: {variable.name!r} takes {variable.kind} of shape {variable.shape}{names}, not {value!r} "
            f"({error})"
        ) from error
    allowed = {"false": 0, "true": 1} if variable.kind == "Boolean" else dict(variable.choices)
    if allowed and not set(values.ravel().tolist()) <= set(allowed.values()):
        raise ConfigError(f"{argument}: {variable.name!r} is one of {allowed}, not {value!r}")
    for bound, out in ((variable.low, values < (variable.low or 0)), (variable.high, values > (variable.high or 0))):
        if bound is not None and out.any():
            raise ConfigError(
                f"{argument}: {variable.name!r} = {value!r} is beyond the bounds of the FMU, {variable.low} to "
                f"{variable.high} {variable.unit}".rstrip()
            )
    return values
