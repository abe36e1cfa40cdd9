"""The fields of one step as a network has them: what it is fed, and what it predicts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from physgym.errors import ConfigError
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


def predicts_next(spec: SampleSpec, outputs: Collection[str] | None) -> bool:
    """Return whether a network predicts an output that samples do not hold: a field of the next one.

    Args:
        spec: The fields of samples.
        outputs: Names of the fields that it predicts; None for those of role "target". Where there are none, it
            predicts all fields that samples hold once.
    """
    once = spec.feedback.once.values()
    return any(name in once for name in outputs) if outputs is not None else bool(once) and not spec.names("target")


def fields_for(spec: SampleSpec, outputs: Collection[str] | None) -> SampleSpec:
    """Return the fields of samples as a network has them: those of a step where it predicts a field of the next one.

    Args:
        spec: The fields of samples.
        outputs: As for `predicts_next`.
    """
    return step_fields(spec) if predicts_next(spec, outputs) else spec


def copied_inputs(spec: SampleSpec, inputs: Collection[str], outputs: Collection[str]) -> dict[str, str]:
    """Return the outputs of a network that are its own inputs, where what follows them is known and not predicted.

    Args:
        spec: The fields of samples, or those of a step.
        inputs: Names of those that feed the network.
        outputs: Names of those that it predicts.

    Returns:
        Each with the output that follows it; none for an autoencoder, whose outputs are all of its inputs.
    """
    if {*inputs} == {*outputs}:
        return {}
    following = {name: output for output, name in spec.feedback.items() if name in inputs and output not in outputs}
    return {name: following[name] for name in outputs if name in following}


def check_target(spec: SampleSpec, inputs: Collection[str] | None, outputs: Collection[str] | None) -> None:
    """Raise ConfigError where a network would be trained to return what feeds it, in place of the next state.

    An autoencoder is meant where somebody has named the same fields as inputs and outputs.

    Args:
        spec: The fields of samples, or those of a step.
        inputs: Names of those that feed the network; None for those of role "input".
        outputs: Names of those that it predicts; None for those of role "target".
    """
    if outputs is None:
        return
    copied = copied_inputs(spec, spec.names("input") if inputs is None else inputs, outputs)
    if inputs is None and not copied and {*spec.names("input")} == {*outputs}:
        copied = {name: output for output, name in spec.feedback.items() if name in outputs}
    if copied:
        wanted = [copied.get(name, name) for name in outputs]
        raise ConfigError(
            f"outputs names {list(copied)}, which also feeds the network: it would learn to return its own input. Name "
            f"what follows, which is that of the next sample: outputs={wanted}. For an autoencoder name the same "
            "fields in inputs and outputs"
        )


def network_feedback(spec: SampleSpec, inputs: Collection[str], outputs: Collection[str]) -> Feedback:
    """Return which outputs of a network are which of its inputs at the next step.

    Args:
        spec: The fields, as `step_fields` gives them.
        inputs: Names of those that feed the network.
        outputs: Names of those that it predicts.
    """
    stored = spec.feedback.stored
    return Feedback({output: name for output, name in stored.items() if output in outputs and name in inputs})
