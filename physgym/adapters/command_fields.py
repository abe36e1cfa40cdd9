"""The fields of a program's samples: parameters, actions and outputs, each with its space and unit."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym.adapters.command_outputs import output_reader
from physgym.adapters.command_program import STDERR, STDOUT
from physgym.casting import CastError, as_array, as_dtype
from physgym.checks import integer_list, mapping
from physgym.errors import ConfigError, SampleError
from physgym.sample import FieldRole
from physgym.spaces import Array

NAME = re.compile(r"[A-Za-z_]\w*")
RESERVED = ("step", "seed", "env_index")  # variables of templates that are no fields
WORDS = (*keyword.kwlist, "true", "false", "none", "self", "loop")  # of the language of templates
WHOLE = 2.0**53  # below it float64 holds integers one by one
DECLARED = ("low", "high", "shape", "dtype", "unit")
FieldsOf = Mapping[str, Mapping[str, Any]]


class CommandFields:
    """The fields that are declared for a program.

    Args:
        parameters: Those that differ from episode to episode.
        actions: Those that a step is given.
        outputs: Those that a run computes. One with ``initial`` is a state: what a step ends with, the next one begins
            with. It is the name of the parameter that an episode begins with, or a number, or a list of them.
        own_reader: Whether a subclass reads them, so that ``read`` may be left out.

    Attributes:
        parameters, actions, outputs: The space of each, by name.
        initial: What each state begins an episode with, by name: the name of a parameter, or an array.
        readers: What reads each output from a working folder.
        files: Names of the files from which they read, without what the program printed.
        units: The unit of each that has one.

    Raises:
        ConfigError: A name is taken or none, or what is said of a field is wrong.
    """

    def __init__(self, parameters: FieldsOf, actions: FieldsOf, outputs: FieldsOf, *, own_reader: bool = False) -> None:
        for kind, fields in (("parameters", parameters), ("actions", actions), ("outputs", outputs)):
            mapping(kind, fields, "{x: {low: 0, high: 1}}" if kind != "outputs" else "{y: {read: npy, file: y.npy}}")
        names = [*parameters, *actions, *outputs]
        for name in names:
            if not NAME.fullmatch(name) or name in (*RESERVED, *WORDS) or names.count(name) > 1:
                raise ConfigError(
                    f"{name!r} cannot be the name of a field: a name has letters, digits and _, is there once, and is "
                    f"none of {', '.join(RESERVED)}, nor a word of the templates' language"
                )
        if not outputs:
            raise ConfigError("outputs is empty, so a run computes nothing; name what is to be read from its files")
        self.parameters = {
            name: declared_space("parameters", name, said, DECLARED) for name, said in parameters.items()
        }
        self.actions = {name: declared_space("actions", name, said, DECLARED) for name, said in actions.items()}
        self.outputs = {name: declared_space("outputs", name, said, ()) for name, said in outputs.items()}
        self.initial = {name: self._initial(name, of["initial"]) for name, of in outputs.items() if "initial" in of}
        if twice := [name for name in self.initial if f"next_{name}" in names]:
            raise ConfigError(f"'next_{twice[0]}' is what the state {twice[0]!r} is after a step: rename one of both")
        read = {name: said for name, said in outputs.items() if "read" in said or not own_reader}
        self.readers = {name: output_reader(name, said) for name, said in read.items()}
        files = {said["file"] for said in read.values() if isinstance(said["read"], str)}
        self.files = sorted(files - {STDOUT, STDERR})
        every = {**parameters, **actions, **outputs}
        self.units = {name: str(said["unit"]) for name, said in every.items() if said.get("unit")}
        self.units |= {self.after(name): self.units[name] for name in self.initial if name in self.units}

    def _initial(self, name: str, said: Any) -> str | Array:
        """Return what a state begins an episode with.

        Raises:
            ConfigError: It is no parameter of the same shape, and no numbers that the state can be.
        """
        where, space = f"outputs[{name!r}]: initial", self.outputs[name]
        if isinstance(said, str):
            if said not in self.parameters:
                raise ConfigError(f"{where} must be a number or a parameter, and there is no parameter {said!r}")
            if self.parameters[said].shape != space.shape:
                raise ConfigError(
                    f"{where}: the parameter {said!r} has shape {self.parameters[said].shape}, the output {space.shape}"
                )
            return said
        try:
            value = np.broadcast_to(held(said, np.dtype(space.dtype)), space.shape).copy()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {error}") from error
        if not np.isfinite(value).all():
            raise ConfigError(f"{where} must be finite, not {said!r}")
        return value

    def begun(self, parameters: Mapping[str, Any]) -> dict[str, Array]:
        """Return the states at the beginning of an episode.

        Raises:
            ConfigError: The episode has no parameters yet.
            SampleError: A parameter is no number that the state can be.
        """
        found = {}
        for name, begin in self.initial.items():
            if isinstance(begin, str) and begin not in parameters:
                raise ConfigError(f"reset the environment before its first step: {name!r} begins with {begin!r}")
            found[name] = parameters[begin] if isinstance(begin, str) else begin
        return taken(found, {name: self.outputs[name] for name in self.initial}, "the beginning of an episode")

    def after(self, name: str) -> str:
        """Return the name that an output has in a sample: a state is ``next_NAME`` after a step."""
        return f"next_{name}" if name in self.initial else name

    @property
    def roles(self) -> dict[str, FieldRole]:
        """Return the role of each field of a sample: outputs are targets, states before the step inputs.

        A parameter with which a state begins is additional: the state has replaced it.
        """
        begins = [begin for begin in self.initial.values() if isinstance(begin, str)]
        inputs: dict[str, FieldRole] = dict.fromkeys([*self.parameters, *self.actions, *self.initial], "input")
        targets: dict[str, FieldRole] = dict.fromkeys(map(self.after, self.outputs), "target")
        return {**inputs, **dict.fromkeys(begins, "additional"), **targets}

    @property
    def feedback(self) -> dict[str, str]:
        """Return the field of the next step that each state after a step is."""
        return {self.after(name): name for name in self.initial}

    @property
    def sample_space(self) -> spaces.Dict:
        """Return the space of a sample."""
        before = [(name, self.outputs[name]) for name in self.initial]
        after = [(self.after(name), space) for name, space in self.outputs.items()]
        return spaces.Dict([*self.parameters.items(), *self.actions.items(), *before, *after])


def declared_space(kind: str, name: str, declared: Any, known: Sequence[str]) -> spaces.Box:
    """Return the space of a field.

    Args:
        kind: Argument that declares it, for errors.
        name: Its name.
        declared: What is said of it.
        known: What may be said; empty for anything. Without ``low`` it has no bounds.

    Raises:
        ConfigError: What is said of it is wrong.
    """
    where = f"{kind}[{name!r}]"
    if not isinstance(declared, Mapping):
        example = "{low: 0, high: 1}" if "low" in known else "{shape: [3], unit: m}"
        raise ConfigError(f"{where} must be a mapping, as {example}, not {declared!r}")
    if known and (wrong := [key for key in declared if key not in known]):
        raise ConfigError(f"{where} has no {wrong[0]!r}; there are {', '.join(known)}")
    try:
        dtype = np.dtype(declared.get("dtype", "float64"))
        shape = tuple(integer_list(f"{where}: shape", declared.get("shape", ()), 1))
        if dtype.kind not in "iuf":
            raise ConfigError(f"{where}: dtype must be one of numbers, not {dtype}")
        if "low" not in known:
            of: Any = np.iinfo(dtype) if dtype.kind in "iu" else None
            low, high = (of.min, of.max) if of else (-np.inf, np.inf)
        else:
            low, high = declared["low"], declared["high"]
        ends = [np.broadcast_to(held(end, dtype), shape) for end in (low, high)]
        if "low" in known and not (np.isfinite(ends).all() and (ends[0] <= ends[1]).all()):
            raise ConfigError(f"{where}: give finite bounds, low <= high")
        return spaces.Box(ends[0], ends[1], shape, dtype=dtype.type)
    except KeyError as error:
        raise ConfigError(f"{where}: give {error.args[0]}, so that values can be drawn") from error
    except (TypeError, ValueError, OverflowError, AssertionError) as error:
        raise ConfigError(f"{where}: {error}") from error


def held(value: Any, dtype: np.dtype[Any]) -> Array:
    """Return numbers with a dtype; whole ones of floating point may become integers.

    Raises:
        CastError: The dtype cannot hold them.
    """
    array = as_array(value)
    if array.dtype.kind == "f" and dtype.kind in "iu":
        exact = (array == np.rint(array)) & (np.abs(array) < WHOLE)
        if not exact.all():
            wrong = array[~exact].flat[0]
            raise CastError(f"has {wrong}, which is no whole number that floating point holds exactly")
        array = array.astype(np.int64)
    return as_dtype(array, dtype)


def shaped(array: Array, shape: tuple[int, ...]) -> Array:
    """Return an array in a shape of the same size.

    Raises:
        CastError: The size is another one, or the axes are the same in another order.
    """
    own, wanted = ([size for size in sizes if size > 1] for sizes in (array.shape, shape))
    if array.size != math.prod(shape) or (own != wanted and sorted(own) == sorted(wanted)):
        raise CastError(f"has the shape {array.shape} ({array.dtype})")
    return array.reshape(shape)


def taken(given: Any, of: Mapping[str, spaces.Box], what: str) -> dict[str, Array]:
    """Return given values by name, each with the dtype of its space.

    Raises:
        SampleError: One is missing, or is not in its space.
    """
    found = {}
    for name, space in of.items():
        try:
            found[name] = held(given[name], np.dtype(space.dtype))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise SampleError(f"{what} must hold {', '.join(of)} by name, each of its shape: {error!r}") from error
        if not space.contains(found[name]):
            raise SampleError(f"{what}: {name!r} = {found[name]} is not in {space}")
    return found
