"""Samples: named arrays that belong together as one training example.

An environment declares its samples next to its other spaces: ``sample_space`` (a `gymnasium.spaces.Dict`),
``sample_roles`` (field to "input", "target" or "additional") and, if it likes, ``sample_units``, ``sample_dimensions``
(field to the number of its axes that lie on a grid), ``sample_kinds`` (field to "flag" or "one-hot"),
``sample_masks`` (field to the field that says which of its values are there) and ``sample_feedback`` (output to the
input that it is at the next step, see `physgym.feedback`). Its ``step`` returns a sample in ``info["sample"]``, or
leaves it out where the step has none (a solver that diverged).
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import gymnasium
import numpy as np
from gymnasium import spaces

from physgym.casting import CastError, as_dtype
from physgym.checks import is_integer
from physgym.errors import SampleError
from physgym.feedback import Declaration, Feedback, feedback_of, following, parse_feedback, unequal_units
from physgym.returned import flag_of, returned, reward_of, taken
from physgym.spaces import Array, Leaf, fixed_leaves, leaves, stored_leaves

FieldRole = Literal["input", "target", "additional"]
Sample = dict[str, Array]
FieldKind = Literal["number", "flag", "one-hot"]
InfoKey = Literal["sample", "parameters"]  # where an info has fields

_SPACES: dict[InfoKey, str] = {"sample": "sample_space", "parameters": "parameter_space"}

NOT_FINITE = (
    '{where}: info["sample"][{name!r}] holds {count} non-finite values, the first at index {index}. '
    "Reject the step (leave the sample out, or raise RejectSample) or repair the simulation."
)


@dataclass(frozen=True)
class Field:
    """One named array of a sample.

    Attributes:
        name: Path of the field; nested fields join their keys with ``/``.
        shape: Shape of one sample's array; an integer for one axis.
        dtype: dtype on the wire and on disk; what `numpy.dtype` takes, such as ``"float32"``, becomes one.
        role: "input" feeds the network, "target" is what it predicts, "additional" is stored only.
        unit: Physical unit, for people; empty if none.
        dimensions: How many of its axes lie on a grid: all, or all but one for channels. None says nothing.
        kind: "number", or what is not to be normalized: a "flag" (zeros and ones) or "one-hot" (one of several is 1).
        mask: Name of the field that says which of its values are there, for one that is padded; empty for none. See
            `present`.
        feeds: Name of the input that it is at the next step, for an output that is fed back; its own name for an input
            that samples hold alone, so that the output is that of the next sample; empty for none.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    role: FieldRole
    unit: str = ""
    # what is said about values, not how they are stored: datasets with and without it continue each other
    dimensions: int | None = dataclasses.field(default=None, compare=False)
    kind: FieldKind = dataclasses.field(default="number", compare=False)
    mask: str = dataclasses.field(default="", compare=False)
    feeds: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        try:
            given: Any = self.shape  # people write numbers
            shape = (given,) if is_integer(given) else given
            object.__setattr__(self, "shape", tuple(operator.index(side) for side in shape))
            object.__setattr__(self, "dtype", np.dtype(self.dtype))
        except TypeError as error:
            raise SampleError(
                f"field {self.name!r} needs a tuple of integers as its shape and a numpy dtype: {error}"
            ) from error

    @property
    def nbytes(self) -> int:
        """Return the number of bytes of one sample."""
        return Leaf(self.name, self.shape, self.dtype).nbytes

    def to_json(self) -> dict[str, Any]:
        """Return the field as plain JSON data, without keys that are not declared."""
        said = {"dimensions": self.dimensions, "kind": self.kind, "mask": self.mask, "feeds": self.feeds}
        silent: dict[str, Any] = {"dimensions": None, "kind": "number", "mask": "", "feeds": ""}
        more = {name: value for name, value in said.items() if value != silent[name]}
        base = {"name": self.name, "shape": list(self.shape), "dtype": self.dtype.str, "role": self.role}
        return {**base, "unit": self.unit, **more}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Field:
        """Return the field that `to_json` described."""
        return cls(
            data["name"],
            tuple(data["shape"]),
            np.dtype(data["dtype"]),
            data["role"],
            data.get("unit", ""),
            data.get("dimensions"),
            data.get("kind", "number"),
            data.get("mask", ""),
            data.get("feeds", ""),
        )


def _said(field: Field) -> str:
    """Return what is stored of a field, for people."""
    return f"{field.name}: {field.shape} {field.dtype} {field.role} [{field.unit}]"


class SampleSpec(Mapping[str, Field]):
    """The fields of a simulation's samples, in a fixed order.

    Args:
        fields: The fields, in the order in which they are sent and stored.

    Raises:
        SampleError: There is no field, or two have the same name.
    """

    def __init__(self, fields: list[Field]) -> None:
        self._fields = {field.name: field for field in fields}
        if not fields:
            raise SampleError("a sample needs at least one field")
        if len(self._fields) != len(fields):
            raise SampleError(f"two fields of a sample share a name: {[field.name for field in fields]}")
        for name in self._fields:
            if any(part in ("", ".", "..") for part in name.split("/")):
                raise SampleError(f"{name!r} cannot name a field: give every part of it a name")
            if inside := [other for other in self._fields if other.startswith(f"{name}/")]:
                raise SampleError(f"{name!r} cannot be a field and hold the field {inside[0]!r}; rename one")
        for field in fields:
            self._check_said(field)

    def _check_said(self, field: Field) -> None:
        """Raise where what is declared about a field contradicts its shape."""
        if field.dimensions is not None and (field.dimensions < 1 or len(field.shape) - field.dimensions not in (0, 1)):
            raise SampleError(
                f"sample_dimensions says that field {field.name!r} has {field.dimensions} axes of a grid; with a shape "
                f"of {field.shape} it has as many axes, or one more for its channels"
            )
        if field.kind not in get_args(FieldKind):
            raise SampleError(
                f"the kind of field {field.name!r} is {field.kind!r}, which is none of {get_args(FieldKind)}"
            )
        self._check_feeds(field)
        if not field.mask or field.mask not in self._fields:  # a part of the fields may lack it
            return
        mask = self._fields[field.mask]
        if mask is field:
            raise SampleError(
                f"field {field.name!r} cannot say itself which of its values are there; name another field as its mask"
            )
        alike = mask.shape in (field.shape[: len(mask.shape)], field.shape[len(field.shape) - len(mask.shape) :])
        kinds = "biuf" if mask.shape or not field.shape else "b"  # a float is no number of rows
        if not counts_rows(field, mask) and not (alike and mask.dtype.kind in kinds):
            text = (
                f"sample_masks says that {mask.name!r} tells which values of {field.name!r} are there; it must be "
                f"an integer, how many rows are, or an array of the first or the last axes of {field.shape}, not "
                f"of shape {mask.shape} and dtype {mask.dtype}"
            )
            raise SampleError(text)

    def _check_feeds(self, field: Field) -> None:
        """Raise where a field cannot be the input of the next step that it is declared to be."""
        if not field.feeds or field.feeds not in self._fields:  # a part of the fields may lack it
            return
        fed = self._fields[field.feeds]
        if fed is field:
            if field.role != "input":
                raise SampleError(
                    f"sample_feedback says that {field.name!r} is stored once, the input of a step and the target of "
                    f'the one before it; its role must be "input", not {field.role!r}'
                )
            if following(field.name) in self._fields:
                raise SampleError(
                    f"sample_feedback says that {field.name!r} is stored once, but there is {following(field.name)!r} "
                    f"too; declare '{following(field.name)} -> {field.name}', or rename that field"
                )
            return
        if (field.role, fed.role) != ("target", "input"):
            raise SampleError(
                f"sample_feedback says that {field.name!r} feeds {fed.name!r}; a target feeds an input, not "
                f"{field.role!r} {fed.role!r}. Change sample_roles"
            )
        if (field.shape, field.dtype) != (fed.shape, fed.dtype):
            raise SampleError(
                f"sample_feedback says that {field.name!r} feeds {fed.name!r}; they need the same shape and dtype, and "
                f"have {field.shape} {field.dtype} and {fed.shape} {fed.dtype}"
            )

    def __getitem__(self, name: str) -> Field:
        return self._fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self._fields  # asked at each step: that of a Mapping raises and catches an error

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"SampleSpec({', '.join(map(_said, self.values()))})"

    def difference(self, other: SampleSpec) -> str:
        """Describe the fields in which another specification differs, or their order, for people."""
        names = [name for name in {**self, **other} if self.get(name) != other.get(name)]
        if not names:
            return f"the order {', '.join(self)} in place of {', '.join(other)}"
        pairs = ([_said(spec[name]) if name in spec else f"no {name}" for spec in (self, other)] for name in names)
        return "; ".join(" in place of ".join(pair) for pair in pairs)

    def names(self, role: FieldRole) -> tuple[str, ...]:
        """Return the names of the fields of a role, in order."""
        return tuple(field.name for field in self.values() if field.role == role)

    @property
    def nbytes(self) -> int:
        """Return the number of bytes of one sample."""
        return sum(field.nbytes for field in self.values())

    @property
    def feedback(self) -> Feedback:
        """Return which outputs are which inputs of the next step; empty where nothing is declared."""
        return feedback_of(self._fields)

    def with_feedback(self, declared: Declaration, label: str = "feedback") -> SampleSpec:
        """Return the same fields with another declaration of what feeds what.

        Args:
            declared: See `physgym.feedback`.
            label: What an error calls it.

        Raises:
            SampleError: It names a field that there is not, or the fields do not fit, in shape, dtype or unit.
        """
        feeds = parse_feedback(declared, label)
        if unknown := sorted({*feeds, *feeds.values()} - set(self._fields)):
            raise SampleError(f"{label} names {unknown}, which are no fields; there are {list(self._fields)}")
        for output, name in unequal_units(self, feeds):
            raise SampleError(
                f"{label} says that {output!r} of a step is {name!r} of the next one; the units declared for them are "
                f"{self[output].unit!r} and {self[name].unit!r}. Values in two units cannot be the same ones: correct "
                "a unit (sample_units, or physgym data describe --unit), or the values"
            )
        return SampleSpec([replace(field, feeds=feeds.get(field.name, "")) for field in self.values()])

    @classmethod
    def from_env(cls, env: gymnasium.Env[Any, Any]) -> SampleSpec | None:
        """Return the declaration of an environment, None if it has no `sample_space`.

        Raises:
            SampleError: The declaration contradicts itself.
        """
        return cls._declared_by(env, "sample")

    @classmethod
    def parameters_of(cls, env: gymnasium.Env[Any, Any]) -> SampleSpec | None:
        """Return the parameters that an environment declares, None if it has no `parameter_space`.

        Raises:
            SampleError: The declaration contradicts itself.
        """
        return cls._declared_by(env, "parameter")

    @classmethod
    def _declared_by(cls, env: gymnasium.Env[Any, Any], what: str) -> SampleSpec | None:
        name = f"{what}_space"
        space = declaration(env, name)
        if space is None:
            return None
        if not isinstance(space, spaces.Dict):
            raise SampleError(f"{name} must be a gymnasium.spaces.Dict of fields, not {type(space).__name__}")
        found = stored_leaves(space)
        if not found:
            raise SampleError(f"{name} needs at least one field; give it one, or take it away")
        roles = cast(dict[str, FieldRole], dict(declaration(env, "sample_roles") or {}) if what == "sample" else {})
        units = cast(dict[str, str], dict(declaration(env, f"{what}_units") or {}))
        said: dict[str, dict[str, Any]] = {
            key: dict(declaration(env, f"sample_{key}") or {}) if what == "sample" else {}
            for key in ("dimensions", "kinds", "masks")
        }
        known = {leaf.path for leaf in found}
        tables: dict[str, Mapping[str, Any]] = {
            "sample_roles": roles,
            f"{what}_units": units,
            **{f"sample_{key}": said[key] for key in said},
        }
        for label, table in tables.items():
            if unknown := sorted(set(table) - known):
                raise SampleError(f"{label} names {unknown}, which {name} lacks; it has {sorted(known)}")
        if wrong := {name: role for name, role in roles.items() if role not in get_args(FieldRole)}:
            raise SampleError(f"sample_roles: {wrong} is none of {get_args(FieldRole)}")
        if unknown := sorted(set(said["masks"].values()) - known):
            raise SampleError(f"sample_masks names {unknown} as masks, which {name} lacks; it has {sorted(known)}")
        spec = cls(
            [
                Field(
                    leaf.path,
                    leaf.shape,
                    leaf.dtype,
                    roles.get(leaf.path, "additional"),
                    units.get(leaf.path, ""),
                    said["dimensions"].get(leaf.path),
                    said["kinds"].get(leaf.path, "number"),
                    said["masks"].get(leaf.path, ""),
                )
                for leaf in found
            ]
        )
        feedback = declaration(env, "sample_feedback") if what == "sample" else None
        return spec.with_feedback(feedback, "sample_feedback") if feedback else spec

    def to_json(self) -> list[dict[str, Any]]:
        """Return the fields as plain JSON data; `from_json` is the inverse."""
        return [field.to_json() for field in self.values()]

    @classmethod
    def from_json(cls, data: list[dict[str, Any]]) -> SampleSpec:
        """Return the fields that `to_json` described."""
        return cls([Field.from_json(item) for item in data])

    def check(
        self, sample: Mapping[str, Any], where: str = "sample", *, finite: bool = True, of: InfoKey = "sample"
    ) -> Sample:
        """Return a sample as a flat dictionary of arrays with the declared shapes and dtypes, copied from those given.

        Args:
            sample: Field names to values, nested as in the sample space.
            where: What to call it in an error, such as "episode 3, step 7".
            finite: Whether every value must be finite.
            of: Which entry of the info it is, for an error.

        Raises:
            SampleError: A field is missing, extra, of a wrong shape or dtype, or not finite.
        """
        flat = self._flat(sample, where, of)
        if (plain := self._plain(flat)) is not None:
            return plain
        checked = self._cast(flat, where, of)
        if finite:
            self.check_finite(checked, where)
        return checked

    def _plain(self, flat: Mapping[str, Any]) -> Sample | None:
        """Return copies as `_cast` does, in less time, of arrays of finite floats; None of all else."""
        checked: Sample = {}
        with np.errstate(over="ignore"):  # an overflow becomes inf, which `_cast` reports
            for field in self._fields.values():
                value = flat[field.name]
                if value.__class__ is not np.ndarray or value.shape != field.shape:
                    return None
                if value.dtype == field.dtype:
                    value = value.copy()
                elif value.dtype.kind == "f" and field.dtype.kind == "f":
                    value = value.astype(field.dtype)
                else:
                    return None
                # a cast of floats destroys a value only where a finite one becomes infinite
                if field.dtype.kind in "fc" and not np.logical_and.reduce(np.isfinite(value), axis=None):
                    return None
                checked[field.name] = value
        return checked

    def _cast(self, flat: Mapping[str, Any], where: str, of: InfoKey) -> Sample:
        """Return copies with the declared shapes and dtypes."""
        checked: Sample = {}
        for field in self._fields.values():
            try:
                value = as_dtype(flat[field.name], field.dtype)
            except CastError as error:
                raise SampleError(
                    f'{where}: info["{of}"][{field.name!r}] {error}. Convert it, or change the dtype in {_SPACES[of]}.'
                ) from error
            if value.shape != field.shape:
                raise SampleError(
                    f'{where}: info["{of}"][{field.name!r}] has shape {value.shape}; {_SPACES[of]} says {field.shape}. '
                    f"Return {field.shape} or change the space."
                )
            checked[field.name] = value.copy()
        return checked

    def check_finite(self, sample: Mapping[str, Array], where: str = "sample") -> None:
        """Raise SampleError, as `check` does, if a value of a checked sample is not finite."""
        for name in self.nonfinite(sample):
            bad = np.argwhere(~np.isfinite(sample[name]))
            index = tuple(int(i) for i in bad[0])
            raise SampleError(NOT_FINITE.format(where=where, name=name, count=len(bad), index=index))

    def nonfinite(self, sample: Mapping[str, Array]) -> list[str]:
        """Return the fields of a checked sample with a value that is not finite."""
        real = (field.name for field in self._fields.values() if field.dtype.kind in "fc")
        return [name for name in real if not np.isfinite(sample[name]).all()]

    def _flat(self, sample: Mapping[str, Any], where: str, of: InfoKey) -> dict[str, Any]:
        if not isinstance(sample, Mapping):
            raise SampleError(f'{where}: info["{of}"] must be a dictionary of fields, not {type(sample).__name__}')
        alike = sample.__class__ is dict and sample.keys() == self._fields.keys()
        if alike and all(value.__class__ is np.ndarray for value in sample.values()):
            return cast(dict[str, Any], sample)  # flat already, as nearly always
        given = dict(self._items(sample))
        if missing := [name for name in self if name not in given]:
            what, them = ("is missing", "it") if len(missing) == 1 else ("are missing", "them")
            raise SampleError(
                f"{where}: {_named(missing)} {what}; {_SPACES[of]} has {list(self)}. Return {them} or take {them} out "
                "of the space."
            )
        if extra := [name for name in given if name not in self]:
            what, them = ("is not", "it") if len(extra) == 1 else ("are not", "them")
            raise SampleError(
                f"{where}: {_named(extra)} {what} in {_SPACES[of]}, which has {list(self)}. Add {them} there or leave "
                f"{them} out."
            )
        return given

    def _items(self, values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
        """Yield the values of a nested sample with their paths; a tuple may nest fields, or be the value of one."""
        for key, value in values.items():
            name = f"{path}/{key}" if path else str(key)
            inner = {str(i): item for i, item in enumerate(value)} if isinstance(value, tuple) else value
            if name not in self._fields and isinstance(inner, Mapping):
                yield from self._items(inner, name)
            else:
                yield name, value


def _named(names: Sequence[str]) -> str:
    """Return fields by name, for an error."""
    return f"field {names[0]!r}" if len(names) == 1 else f"the fields {', '.join(map(repr, names))}"


def counts_rows(field: Field, mask: Field) -> bool:
    """Return whether a mask says how many rows of a field are there, and not which of its values."""
    return mask.dtype.kind in "iu" and not mask.shape and bool(field.shape)


def present(field: Field, mask: Field, values: Array) -> Array:
    """Return the flags of the values that are there by a field's mask, which broadcast to (n, *field shape).

    Args:
        field: The field.
        mask: Its mask: an integer says how many rows of the field are there; flags, not zero for what is there, are of
            its first axes (the nodes of (nodes, 3)) or of its last ones (the grid of (channels, *grid)).
        values: Values of the mask, shape (n, *mask shape).
    """
    flags = np.arange(field.shape[0]) < values[:, None] if counts_rows(field, mask) else values != 0
    axes = flags.ndim - 1
    if field.shape[:axes] == flags.shape[1:]:
        return flags.reshape(*flags.shape, *(1,) * (len(field.shape) - axes))
    return flags.reshape(len(flags), *(1,) * (len(field.shape) - axes), *flags.shape[1:])


def present_in(spec: Mapping[str, Field], name: str, rows: Mapping[str, Array]) -> Array | None:
    """Return the flags of the values of a field that are there in some rows; None where it is not padded."""
    mask = spec.get(spec[name].mask)
    return None if mask is None else present(spec[name], mask, rows[mask.name])


def finite_values(spec: Mapping[str, Field], name: str, rows: Mapping[str, Array]) -> Array:
    """Return which values of a field are finite, or not there by its mask; shape (n, *field shape), bool.

    Args:
        spec: The fields.
        name: The field.
        rows: Values of the fields, shape (n, *field shape). Where the mask of a padded field is not among them, all of
            it may be padding.
    """
    field, values = spec[name], rows[name]
    padded = bool(field.mask) and not (field.mask in rows and field.mask in spec)
    if padded or field.dtype.kind not in "fc":
        return np.ones(values.shape, bool)
    there = present_in(spec, name, rows)
    return np.isfinite(values) if there is None else np.isfinite(values) | ~there


def finite_rows(spec: Mapping[str, Field], name: str, rows: Mapping[str, Array]) -> Array:
    """Return in which rows `finite_values` are all true, shape (n,), bool."""
    good = finite_values(spec, name, rows)
    found: Array = np.logical_and.reduce(good, axis=tuple(range(1, good.ndim)))
    return found


def flat_items(sample: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a nested dictionary with their paths."""
    for key, value in sample.items():
        name = f"{path}/{key}" if path else str(key)
        if isinstance(value, Mapping):
            yield from flat_items(value, name)
        elif isinstance(value, tuple):
            yield from flat_items({str(i): item for i, item in enumerate(value)}, name)
        else:
            yield name, value


def declaration(env: gymnasium.Env[Any, Any], name: str) -> Any:
    """Return a declaration of the environment or of a wrapper around it, the outermost first; None if there is none."""
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None


class RecordTransition(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Makes a sample source of any Gymnasium environment: every step gives its transition.

    Fields: ``observation`` and ``action`` (inputs), ``next_observation`` and ``reward`` (targets), ``terminated`` and
    ``truncated`` (additional). Nested spaces give a field per array, such as ``observation/position``. It belongs
    outside of wrappers that end episodes, such as those that `gymnasium.make` adds.

    Args:
        env: The environment; its spaces have a fixed layout.

    Raises:
        ConfigError: A space has arrays of variable size.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        for space in (env.observation_space, env.action_space):
            fixed_leaves(space)
        flag = spaces.Discrete(2, dtype=np.int8)
        self.sample_space = spaces.Dict(
            [
                ("observation", env.observation_space),
                ("action", env.action_space),
                ("next_observation", env.observation_space),
                ("reward", spaces.Box(-np.inf, np.inf, (), np.float64)),
                ("terminated", flag),
                ("truncated", flag),
            ]
        )
        parts = {"observation": "input", "action": "input", "next_observation": "target", "reward": "target"}
        self.sample_roles = {
            leaf.path: parts[leaf.path.split("/")[0]]
            for leaf in leaves(self.sample_space)
            if leaf.path.split("/")[0] in parts
        }
        self.sample_units: dict[str, str] = {}  # the environment's units are of other fields
        self.sample_dimensions: dict[str, int] = {}
        self.sample_kinds: dict[str, str] = {}
        self.sample_masks: dict[str, str] = {}
        self.sample_feedback = {
            leaf.path: leaf.path.removeprefix("next_")
            for leaf in leaves(self.sample_space)
            if leaf.path.split("/")[0] == "next_observation"
        }
        self._observation: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment."""
        observation, info = returned("reset", self.env.reset(seed=seed, options=options), 2)
        self._observation = taken(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment; ``info["sample"]`` is the transition, as copies."""
        before, applied = self._observation, taken(action)  # which the environment may change in its step
        values = self.env.step(action)
        # nearly all values are of the classes that they should have, which is seen sooner than by a call
        if values.__class__ is not tuple or len(values) != 5:
            values = returned("step", values, 5)
        observation, reward, terminated, truncated, info = values
        if observation.__class__ is np.ndarray and not observation.dtype.hasobject:
            self._observation, following = observation.copy(), observation.copy()
        else:
            self._observation, following = taken(observation), taken(observation)
        sample = {
            "observation": before,
            "action": applied,
            "next_observation": following,
            "reward": reward if reward.__class__ is float else reward_of(reward),
            "terminated": _FLAGS[terminated if terminated.__class__ is bool else flag_of("terminated", terminated)],
            "truncated": _FLAGS[truncated if truncated.__class__ is bool else flag_of("truncated", truncated)],
        }
        return observation, reward, terminated, truncated, {**info, "sample": sample}


_FLAGS = (np.int8(0), np.int8(1))
