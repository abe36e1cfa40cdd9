"""Samples: named arrays that belong together as one training example.

An environment declares its samples next to its other spaces: ``sample_space`` (a `gymnasium.spaces.Dict`),
``sample_roles`` (field to "input", "target" or "additional") and, if it likes, ``sample_units``. Its ``step`` returns a
sample in ``info["sample"]``, or leaves it out where the step has none (a solver that diverged).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import gymnasium
import numpy as np
from gymnasium import spaces

from physgym.errors import SampleError
from physgym.spaces import Array, Leaf, fixed_leaves, leaves

Role = Literal["input", "target", "additional"]
Sample = dict[str, Array]

MISSING = "{where}: field {name!r} is missing; sample_space has {expected}. Return it or take it out of the space."
EXTRA = "{where}: field {name!r} is not in sample_space, which has {expected}. Add it there or leave it out."
SHAPE = (
    '{where}: info["sample"][{name!r}] has shape {got}; sample_space says {want}. Return {want} or change the space.'
)
DTYPE = (
    '{where}: info["sample"][{name!r}] has dtype {got}, which does not convert to {want} without losing its kind. '
    "Convert it or change the space."
)
RAGGED = '{where}: info["sample"][{name!r}] is not an array: {error}. Return one of shape {want}.'
RANGE = '{where}: info["sample"][{name!r}] has values that {want} cannot hold. Change them, or the dtype of the space.'
NOT_FINITE = (
    '{where}: info["sample"][{name!r}] holds {count} non-finite values, the first at index {index}. '
    "Reject the step (leave the sample out, or raise RejectSample) or repair the simulation."
)


@dataclass(frozen=True)
class Field:
    """One named array of a sample.

    Attributes:
        name: Path of the field; nested fields join their keys with ``/``.
        shape: Shape of one sample's array.
        dtype: dtype on the wire and on disk.
        role: "input" feeds the network, "target" is what it predicts, "additional" is kept beside.
        unit: Physical unit, for people; empty if none.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    role: Role
    unit: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of one sample's array."""
        return Leaf(self.name, self.shape, self.dtype).nbytes


class SampleSpec(Mapping[str, Field]):
    """The fields of a simulation's samples, in a fixed order.

    Args:
        fields: The fields, in the order in which they travel and are stored.

    Raises:
        SampleError: There is no field, or two have the same name.
    """

    def __init__(self, fields: list[Field]) -> None:
        self._fields = {field.name: field for field in fields}
        if not fields:
            raise SampleError("a sample needs at least one field; sample_space has none")
        if len(self._fields) != len(fields):
            raise SampleError(f"two fields of a sample share a name: {[field.name for field in fields]}")
        for name in self._fields:
            if any(part in ("", ".", "..") for part in name.split("/")):
                raise SampleError(f"{name!r} cannot name a field: give every part of it a name")
            if inside := [other for other in self._fields if other.startswith(f"{name}/")]:
                raise SampleError(f"{name!r} cannot be a field and hold the field {inside[0]!r}; rename one")

    def __getitem__(self, name: str) -> Field:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        body = ", ".join(f"{f.name}: {f.shape} {f.dtype} {f.role} [{f.unit}]" for f in self.values())
        return f"SampleSpec({body})"

    def names(self, role: Role) -> tuple[str, ...]:
        """Names of the fields of a role, in order."""
        return tuple(field.name for field in self.values() if field.role == role)

    @property
    def nbytes(self) -> int:
        """Bytes of one sample."""
        return sum(field.nbytes for field in self.values())

    @classmethod
    def from_env(cls, env: gymnasium.Env[Any, Any]) -> SampleSpec | None:
        """The declaration of an environment, None if it has no `sample_space`.

        Raises:
            SampleError: The declaration contradicts itself.
        """
        space = _declared(env, "sample_space")
        if space is None:
            return None
        if not isinstance(space, spaces.Dict):
            raise SampleError(f"sample_space must be a gymnasium.spaces.Dict of fields, not {type(space).__name__}")
        found = fixed_leaves(space)
        roles = cast(dict[str, Role], dict(_declared(env, "sample_roles") or {}))
        units = cast(dict[str, str], dict(_declared(env, "sample_units") or {}))
        known = {leaf.path for leaf in found}
        for label, table in (("sample_roles", roles), ("sample_units", units)):
            if unknown := sorted(set(table) - known):
                raise SampleError(f"{label} names {unknown}, which sample_space lacks; it has {sorted(known)}")
        if wrong := {name: role for name, role in roles.items() if role not in get_args(Role)}:
            raise SampleError(f"sample_roles: {wrong} is none of {get_args(Role)}")
        return cls(
            [
                Field(
                    leaf.path,
                    leaf.shape,
                    leaf.dtype,
                    roles.get(leaf.path, "additional"),
                    units.get(leaf.path, ""),
                )
                for leaf in found
            ]
        )

    def to_json(self) -> list[dict[str, Any]]:
        """The fields as plain JSON data; `from_json` is the inverse."""
        return [
            {"name": f.name, "shape": list(f.shape), "dtype": f.dtype.str, "role": f.role, "unit": f.unit}
            for f in self.values()
        ]

    @classmethod
    def from_json(cls, data: list[dict[str, Any]]) -> SampleSpec:
        """The fields that `to_json` described."""
        return cls(
            [Field(d["name"], tuple(d["shape"]), np.dtype(d["dtype"]), d["role"], d.get("unit", "")) for d in data]
        )

    def check(self, sample: Mapping[str, Any], where: str = "sample") -> Sample:
        """One sample as a flat dictionary of arrays with the declared shapes and dtypes.

        Args:
            sample: Field names to values, nested as in the sample space.
            where: What to call it in an error, such as "episode 3, step 7".

        Raises:
            SampleError: A field is missing, extra, of a wrong shape or dtype, or not finite.
        """
        flat = self._flat(sample, where)
        checked: Sample = {}
        for field in self.values():
            try:
                value = np.asarray(flat[field.name])
            except ValueError as error:
                raise SampleError(RAGGED.format(where=where, name=field.name, error=error, want=field.shape)) from error
            if value.shape != field.shape:
                raise SampleError(SHAPE.format(where=where, name=field.name, got=value.shape, want=field.shape))
            if value.dtype != field.dtype:
                if not np.can_cast(value.dtype, field.dtype, "same_kind"):
                    raise SampleError(DTYPE.format(where=where, name=field.name, got=value.dtype, want=field.dtype))
                with np.errstate(over="ignore"):  # an overflow becomes inf, which is reported below
                    cast_value = value.astype(field.dtype)
                if field.dtype.kind in "iu" and not np.array_equal(cast_value, value):
                    raise SampleError(RANGE.format(where=where, name=field.name, want=field.dtype))
                value = cast_value
            if field.dtype.kind in "fc" and not np.isfinite(value).all():
                bad = np.argwhere(~np.isfinite(value))
                index = tuple(int(i) for i in bad[0])
                raise SampleError(NOT_FINITE.format(where=where, name=field.name, count=len(bad), index=index))
            checked[field.name] = value
        return checked

    def stack(self, samples: Sequence[Mapping[str, Any]], where: Callable[[int], str]) -> Sample:
        """Several samples as columns.

        Checks them as `check` does, but all at once where nothing is wrong: for small samples that costs a tenth.

        Args:
            samples: Field names to values, nested as in the sample space.
            where: What to call the sample at an index in an error.

        Returns:
            Fields of shape (n, *field shape) with the declared dtypes.

        Raises:
            SampleError: As `check`.
        """
        columns: Sample = {}
        if all(len(sample) == len(self) for sample in samples):
            for name, field in self.items():
                column = self._column(field, [sample.get(name) for sample in samples])
                if column is None:
                    break
                columns[name] = column
            else:
                return columns
        checked = [self.check(sample, where(i)) for i, sample in enumerate(samples)]
        return {
            name: np.array([sample[name] for sample in checked], field.dtype).reshape(len(checked), *field.shape)
            for name, field in self.items()
        }

    @staticmethod
    def _column(field: Field, values: list[Any]) -> Array | None:
        """A field of several samples; None unless it is plain that all are right."""
        try:
            column = np.array(values) if values else np.empty((0, *field.shape), field.dtype)
        except ValueError:
            return None
        if column.dtype != field.dtype or column.shape != (len(values), *field.shape):
            return None
        if field.dtype.kind in "fc" and not np.isfinite(column).all():
            return None
        return column

    def _flat(self, sample: Mapping[str, Any], where: str) -> dict[str, Any]:
        if not isinstance(sample, Mapping):
            raise SampleError(f'{where}: info["sample"] must be a dictionary of fields, not {type(sample).__name__}')
        given = dict(_flat_items(sample))
        for name in self:
            if name not in given:
                raise SampleError(MISSING.format(where=where, name=name, expected=list(self)))
        for name in given:
            if name not in self:
                raise SampleError(EXTRA.format(where=where, name=name, expected=list(self)))
        return given


def _flat_items(sample: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in sample.items():
        name = f"{path}/{key}" if path else str(key)
        if isinstance(value, Mapping):
            yield from _flat_items(value, name)
        elif isinstance(value, tuple):
            yield from _flat_items({str(i): item for i, item in enumerate(value)}, name)
        else:
            yield name, value


def _declared(env: gymnasium.Env[Any, Any], name: str) -> Any:
    """A declaration of the environment or of a wrapper around it, the outermost first; None if there is none."""
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
        self._observation: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's own."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._observation = copy.deepcopy(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's own; ``info["sample"]`` is the transition, as copies."""
        before = self._observation
        observation, reward, terminated, truncated, info = self.env.step(action)
        # an array is copied much faster than by deepcopy
        self._observation = observation.copy() if isinstance(observation, np.ndarray) else copy.deepcopy(observation)
        sample = {
            "observation": before,
            "action": action,
            "next_observation": self._observation,
            "reward": float(reward),
            "terminated": _FLAGS[bool(terminated)],
            "truncated": _FLAGS[bool(truncated)],
        }
        return observation, reward, terminated, truncated, {**info, "sample": sample}


_FLAGS = (np.int8(0), np.int8(1))
