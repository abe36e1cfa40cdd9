"""The fields of windows: which rows of which field of a dataset each of them holds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from physgym.errors import ConfigError
from physgym.feedback import Feedback
from physgym.sample import Field, SampleSpec


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
class WindowFields:
    """The fields of windows in their order, and how far these reach.

    Attributes:
        spec: The fields, each with an axis for its rows before its own.
        parts: Their rows, by name; the mask of padded windows has none.
        rows: Rows from the first to the last of a window, in strides.
        first_target: The row of the first target.
        mask: Name of the field that says which targets are there; empty for none.
    """

    spec: SampleSpec
    parts: dict[str, WindowField]
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
            feeds = feedback.get(name, "")
            fields.append(replace(stored[part.source], name=name, role=self.spec[name].role, feeds=feeds))
        return SampleSpec(fields)


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
    if lost := [name for name in parts if spec[source_of.get(name, name)].mask]:
        warnings.warn(
            f"windows keep no mask within a row: a loss over them counts the padding of {lost} like values. Multiply "
            "both sides by the mask in a loss of your own, or leave these fields out with fields=[...]",
            UserWarning,
            stacklevel=4,
        )
    if mask:
        if mask in parts:
            raise ConfigError(f"the windows have a field {mask!r}; give their mask another name with mask=...")
        fields = [replace(field, mask=mask) if field.role == "target" else field for field in fields]
        fields.append(Field(mask, (targets,), np.dtype(np.bool_), "additional"))
    # of all fields, not of those that are wanted: these do not change which windows there are
    first_target = inputs if feedback.once else inputs - 1
    return WindowFields(SampleSpec(fields), parts, first_target + targets, first_target, mask)
