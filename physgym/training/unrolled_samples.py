"""The windows of an unrolled training: made of the samples, and their fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from physgym.data.dataset import SampleDataset
from physgym.data.window_fields import window_fields
from physgym.data.windows import EpisodeWindows
from physgym.errors import ConfigError
from physgym.feedback import Feedback
from physgym.generation.sample_source import SampleSource
from physgym.nn.padding import Padding
from physgym.nn.predictor import Predictor
from physgym.sample import SampleSpec
from physgym.step_fields import predicts_next
from physgym.training.unroll import Unroll


def unroll_for(unroll: Unroll | None, samples: Any, outputs: Sequence[str] | None) -> Unroll | None:
    """Return the form of a training: that of one step where the network predicts a field of the next sample.

    Args:
        unroll: The wanted form, which goes before; None for single samples.
        samples: What is trained on. Only stored samples, or those of a source, have a next one.
        outputs: Names of the fields that the network predicts; None for those of role "target".
    """
    if unroll is not None or not isinstance(samples, (SampleDataset, SampleSource)):
        return unroll
    return Unroll(1) if predicts_next(samples.spec, outputs) else None


def windows_of(samples: Any, unroll: Unroll | None, what: str = "dataset") -> Any:
    """Return the windows that a network is unrolled over; what is no samples, such as a fraction, as it is.

    Args:
        samples: A dataset, or windows of one that are as long as the unroll.
        unroll: The form of the training; None for single samples.
        what: What an error calls the samples.

    Raises:
        ConfigError: There are no windows: no feedback is declared, the samples have no episodes and steps, or all
            episodes are too short.
    """
    if unroll is None or samples is None or isinstance(samples, (int, float)):
        return samples
    if isinstance(samples, SampleDataset):
        _check_feedback(samples.feedback, unroll, what)
        try:
            return samples.windows(inputs=1, targets=unroll.steps)
        except ConfigError as error:
            raise ConfigError(f"unroll={unroll.steps}: {error} ({what})") from None
    if not isinstance(samples, EpisodeWindows):
        raise ConfigError(
            f"unroll={unroll.steps} needs samples with episodes and steps, a SampleDataset or windows of one, as "
            f"{what}; a {type(samples).__name__} has none. Leave unroll out, or store the samples in a dataset"
        )
    form = samples.form
    if (form.inputs, form.targets, form.stride) != (1, unroll.steps, 1) or samples.padded:
        raise ConfigError(
            f"unroll={unroll.steps} needs windows(inputs=1, targets={unroll.steps}) without padding and stride, as "
            f"{what}; these are {samples!r}. Pass the dataset itself, or such windows"
        )
    _check_feedback(samples.feedback, unroll, what)
    return samples


def check_produced(unroll: Unroll | None, *, fresh: bool) -> None:
    """Raise ConfigError where samples that are trained on as they come would be needed in the order of their steps.

    Args:
        unroll: The form of the training.
        fresh: Whether a source always produces new samples.
    """
    if unroll is not None and fresh:
        raise ConfigError(
            f"unroll={unroll.steps}, or a field of the next sample as an output, needs whole episodes, and samples "
            "that are produced while the network trains come one by one. Generate the dataset before the training, or "
            'use produce="first_epoch"'
        )


def fields_of(samples: Any, unroll: Unroll | None) -> tuple[SampleSpec, SampleSpec]:
    """Return the fields of what is trained on, and the fields of one step, which a network is made for.

    Args:
        samples: Single samples, windows of them, or a source of samples that become windows once they are stored.
        unroll: The form of the training; None for single samples.

    Raises:
        ConfigError: No feedback is declared.
    """
    if unroll is None:
        return samples.spec, samples.spec
    if isinstance(samples, EpisodeWindows):
        return samples.spec, samples.step_spec
    return planned_fields(samples.spec, unroll)


def planned_fields(stored: SampleSpec, unroll: Unroll) -> tuple[SampleSpec, SampleSpec]:
    """Return the fields of windows of samples that need not be there yet, and the fields of one step.

    Args:
        stored: Fields of the samples.
        unroll: The form of the training.

    Raises:
        ConfigError: No feedback is declared.
    """
    _check_feedback(stored.feedback, unroll)
    fields = window_fields(stored, stored.feedback, None, 1, unroll.steps, "")
    return fields.spec, fields.of_steps(stored, stored.feedback)


def padding_of(predictor: Predictor, loss_fields: Sequence[str], unroll: Unroll | None, step: SampleSpec) -> Padding:
    """Return which values of padded fields are there: in the loss, and of what a network is fed of its own.

    Args:
        predictor: The network.
        loss_fields: Fields that the loss gets.
        unroll: The form of the training; None for single samples.
        step: Fields of one step.

    Raises:
        ConfigError: A mask is not among the fields.
    """
    return Padding(step, loss_fields if unroll is None else (*loss_fields, *predictor.outputs, *predictor.inputs))


def fed_inputs(predictor: Predictor, feedback: Feedback, unroll: Unroll) -> dict[str, str]:
    """Return the inputs of a network that its outputs are at the next step, each with its output.

    Args:
        predictor: The network.
        feedback: What feeds what.
        unroll: The form of the training.

    Raises:
        ConfigError: The network is not fed what it predicts, or an input has nothing that it could be.
    """
    fed = {name: output for output, name in feedback.items() if name in predictor.inputs}
    if not fed:
        raise ConfigError(
            f"unroll={unroll.steps}: the network is fed {list(predictor.inputs)}, and the feedback of the samples, "
            f"{feedback}, feeds none of these; choose other inputs, or leave unroll out"
        )
    for name, output in fed.items():
        if output not in predictor.outputs:
            raise ConfigError(
                f"unroll={unroll.steps}: the network is fed {name!r}, which is {output!r} of the step before, and "
                f"does not predict that; its outputs are {list(predictor.outputs)}. Add it to the outputs"
            )
        if (kind := predictor.spec[name].dtype.kind) not in "fc":
            raise ConfigError(
                f"unroll={unroll.steps}: {name!r} has dtype {predictor.spec[name].dtype}; what is fed back must be "
                f"floating-point numbers, not of kind {kind!r}"
            )
    return fed


def check_loss_fields(spec: SampleSpec, names: Any, unroll: Unroll) -> None:
    """Raise ConfigError where the loss gets a field that windows do not hold for every step.

    Args:
        spec: Fields of the windows.
        names: Those that the loss gets.
        unroll: The form of the training.
    """
    for name in names:
        if (rows := spec[name].shape[0]) < unroll.steps:
            raise ConfigError(
                f"unroll={unroll.steps}: the loss gets {name!r}, of which a window has {rows} stored row, since the "
                "network's own outputs are that input from then on; take it out of loss_fields"
            )


def _check_feedback(feedback: Feedback, unroll: Unroll, what: str = "dataset") -> None:
    if not feedback:
        raise ConfigError(
            f"unroll={unroll.steps} needs to know which output of a step is which input of the next one: declare it "
            "with the samples (sample_feedback), where the dataset is opened (SampleDataset(..., "
            f"feedback='next_state -> state')), or in the configuration (dataset.feedback) ({what})"
        )
