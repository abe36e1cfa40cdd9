"""The fields of one step as a network has them: what it is fed, and what it predicts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from physgym.feedback import Feedback
from physgym.sample import Field, SampleSpec


def step_fields(spec: SampleSpec) -> SampleSpec:
    """Return the fields of a step with all of its outputs.

    A field that samples hold once, the input of a step and the output of the one before it, gets a target of its own
    after it, ``next_<name>``, which feeds it. Other fields are as they are.

    Args:
        spec: The fields of samples.
    """
    once = spec.feedback.once
    fields: list[Field] = []
    for field in spec.values():
        fields.append(replace(field, feeds="") if field.name in once else field)
        if field.name in once:
            fields.append(replace(field, name=once[field.name], role="target", feeds=field.name))
    return SampleSpec(fields)


def network_feedback(spec: SampleSpec, inputs: Collection[str], outputs: Collection[str]) -> Feedback:
    """Return which outputs of a network are which of its inputs at the next step.

    Args:
        spec: The fields, as `step_fields` gives them.
        inputs: Names of those that feed the network.
        outputs: Names of those that it predicts.
    """
    stored = spec.feedback.stored
    return Feedback({output: name for output, name in stored.items() if output in outputs and name in inputs})
