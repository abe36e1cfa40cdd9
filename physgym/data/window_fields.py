"""The fields of windows: which rows of which field of a dataset each of them holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from physgym.errors import ConfigError
from physgym.feedback import Feedback
from physgym.sample import Field, SampleSpec, counts_rows, present
from physgym.spaces import Array

PRESENT = "present/"  # before the name of a padded field: the flags of those of its values that are there


@dataclass(frozen=True)
class WindowField:
    """A field of windows.

    Attributes:
        source: The field of the dataset whose rows it holds.
        offset: The first of these rows, counted in strides from the first row of the window.
        length: Their number.
    """

    source: str
    offset: int
    length: int


@dataclass(frozen=True)
class WindowFlags:
    """The flags of those values of a padded field that are there, in windows.

    Attributes:
        name: The padded field of the windows.
        field: What it is in the dataset.
        mask: The mask that it has there.
        part: The rows of the mask.
    """

    name: str
    field: Field
    mask: Field
    part: WindowField

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the flags of one row: the first axes of the field, or all of them."""
        axes = (self.field.shape[0],) if counts_rows(self.field, self.mask) else self.mask.shape
        return axes if self.field.shape[: len(axes)] == axes else self.field.shape

    def of(self, values: Array) -> Array:
        """Return the flags, shape (n, rows, *shape), from values of the mask, shape (n, rows, *mask shape)."""
        count, rows = values.shape[:2]
        flags = present(self.field, self.mask, values.reshape(count * rows, *self.mask.shape))
        if math.prod(flags.shape[1:]) != math.prod(self.shape):  # those of a grid hold for each of its channels
            flags = np.array(np.broadcast_to(flags, (count * rows, *self.shape)))
        return flags.reshape(count, rows, *self.shape)


@dataclass(frozen=True)
class WindowFields:
    """The fields of windows in their order, and how far these reach.

    Attributes:
        spec: The fields, each with an axis for its rows before its own.
        parts: Their rows, by name; the mask of padded windows and the flags of padded fields have none.
        flags: The flags of padded fields, by name.
        rows: Rows from the first to the last of a window, in strides.
        first_target: The row of the first target.
        mask: Name of the field that says which targets are there; empty for none.
    """

    spec: SampleSpec
    parts: dict[str, WindowField]
    flags: dict[str, WindowFlags]
    rows: int
    first_target: int
    mask: str

    def of_steps(self, stored: SampleSpec, feedback: Feedback) -> SampleSpec:
        """Return the fields of one step: those of windows without the axis of rows, with what feeds what.

        Args:
            stored: The fields of the dataset.
            feedback: What feeds what, by the names of windows.
        """
        fields = []
        for name, part in self.parts.items():
            feeds, mask = feedback.get(name, ""), _mask_name(name, stored[part.source], stored)
            role = self.spec[name].role
            fields.append(replace(stored[part.source], name=name, role=role, feeds=feeds, mask=mask))
        return SampleSpec([*fields, *(replace(self.spec[name], shape=one.shape) for name, one in self.flags.items())])


def window_fields(
    spec: SampleSpec, feedback: Feedback, names: Sequence[str] | None, inputs: int, targets: int, mask: str
) -> WindowFields:
    """Return the fields of windows over the fields of a dataset.

    Args:
        spec: The fields of the dataset.
        feedback: What feeds what, among all stored fields.
        names: Fields of the dataset, or outputs that it does not hold; None for all.
        inputs: Rows of the inputs.
        targets: Rows of the targets.
        mask: Name of the field that says which targets are there; empty for none.

    Raises:
        ConfigError: A name is unknown, or there is one twice.
    """
    once = {name: output for name, output in feedback.once.items() if name in spec}
    source_of = {output: name for name, output in once.items()}
    if taken := [output for output in source_of if output in spec]:
        raise ConfigError(f"the dataset has fields {taken} already; give the outputs of windows other names")
    wanted = list(spec) if names is None else list(names)
    if unknown := [name for name in wanted if name not in spec and name not in source_of]:
        outputs = f", and of windows {list(source_of)}" if source_of else ""
        raise ConfigError(f"fields {unknown} are not in the dataset, which has {list(spec)}{outputs}")
    # a field that is stored once is input and target
    wanted = [each for name in wanted for each in ([name, once[name]] if name in once else [name])]
    parts: dict[str, WindowField] = {}
    fields: list[Field] = []
    for name in dict.fromkeys(wanted):
        source = source_of.get(name, name)
        field = spec[source]
        role = field.role
        if name in source_of:
            role, part = "target", WindowField(source, inputs, targets)
        elif field.role == "target":
            part = WindowField(name, inputs - 1, targets)
        elif field.role == "input" and (name in feedback.values() or not feedback):
            part = WindowField(name, 0, inputs)
        else:  # additional, and inputs that nothing feeds
            part = WindowField(name, 0, inputs + targets - 1)
        parts[name] = part
        shape = (part.length, *field.shape)
        # what is said of the axes of a row does not hold for those of a window
        fields.append(replace(field, name=name, shape=shape, role=role, dimensions=None, mask="", feeds=""))
    flags = _flags(spec, parts, mask)
    if mask:
        if mask in parts:
            raise ConfigError(f"the windows have a field {mask!r}; give their mask another name with mask=...")
        fields = [replace(field, mask=mask) if field.role == "target" else field for field in fields]
        fields.append(Field(mask, (targets,), np.dtype(np.bool_), "additional"))
    masks = {name: _mask_name(name, spec[part.source], spec) for name, part in parts.items()}
    fields = [replace(field, mask=masks.get(field.name) or field.mask) for field in fields]
    for name, one in flags.items():
        fields.append(Field(name, (one.part.length, *one.shape), np.dtype(np.bool_), "additional"))
    # of all fields, not of those that are wanted: these do not change which windows there are
    first_target = inputs if feedback.once else inputs - 1
    return WindowFields(SampleSpec(fields), parts, flags, first_target + targets, first_target, mask)


def _flags(spec: SampleSpec, parts: Mapping[str, WindowField], mask: str) -> dict[str, WindowFlags]:
    """Return the flags of padded fields, by the name that they have in windows.

    Args:
        spec: The fields of the dataset; one whose mask is not among them gets no flags.
        parts: The rows of the fields of windows.
        mask: Name of the mask of the windows themselves; empty for none.

    Raises:
        ConfigError: Their names are taken.
    """
    found: dict[str, WindowFlags] = {}
    for name, part in parts.items():
        field = spec[part.source]
        if field.mask in spec:
            rows = replace(part, source=field.mask)
            found[_mask_name(name, field, spec)] = WindowFlags(name, field, spec[field.mask], rows)
    group = PRESENT.rstrip("/")
    if found and (taken := [name for name in (*parts, mask) if name == group or name.startswith(PRESENT)]):
        raise ConfigError(
            f"windows call the flags of padded fields {list(found)}, and there are fields {taken}; give these another "
            "name (physgym data rename, or mask=... for the mask of windows)"
        )
    return found


def _mask_name(name: str, stored: Field, spec: SampleSpec) -> str:
    """Return the name of the mask that a field has in windows; empty where it is not padded.

    A mask that is not among the fields of the dataset keeps its name, so that an error can say it.

    Args:
        name: The field in windows.
        stored: What it is in the dataset.
        spec: The fields of the dataset.
    """
    return f"{PRESENT}{name}" if stored.mask in spec else stored.mask
