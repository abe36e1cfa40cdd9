"""`Changes`: outputs that a network predicts as the difference from the input that they are at the next step.

The difference is divided by the root mean square of the differences in the training samples, and nothing is taken off:
where the network returns zeros, the output is its input to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from physgym.errors import ConfigError
from physgym.nn.registry import register
from physgym.nn.scales import RELATIVE_FLOOR, Moments, Scale, choose_scale, scale_groups, scale_of_field, scale_shape
from physgym.nn.transforms import Fields, Normalize, Transforms
from physgym.sample import SampleSpec
from physgym.spaces import Array


@register
class Changes(nn.Module):
    """The outputs of a network that are changes of its inputs, and the units in which it predicts them.

    A network predicts (output - input) / scale. The scale is the root mean square of the differences in the training
    samples: one number for each component, channel or field, as that of `physgym.nn.Normalize` is chosen. A component
    that changes less than a thousandth of its field, or never, has a thousandth of the scale of its field.

    Usually made by `Changes.of`.

    Args:
        pairs: Output to the input that it is at the next step.
        shapes: Shape of each output, without the batch axis.
        scale: Which scale, for all outputs or by name.
        physical_loss: Whether the loss compares outputs in physical units, not changes in scales.

    Attributes:
        fitted: Whether it has scales; a `Trainer` gives those of its training samples to one that has none.

    Raises:
        ConfigError: A scale is unknown.
    """

    def __init__(
        self,
        pairs: Mapping[str, str],
        shapes: Mapping[str, Sequence[int]],
        scale: Scale | Mapping[str, Scale] = "auto",
        physical_loss: bool = False,
    ) -> None:
        super().__init__()
        self.fitted, self.physical_loss = False, physical_loss
        self.pairs = dict(pairs)
        self.shapes = {name: tuple(shapes[name]) for name in self.pairs}
        self.scale: dict[str, Scale] = {name: choose_scale(scale, name, shape) for name, shape in self.shapes.items()}
        for index, (name, shape) in enumerate(self.shapes.items()):
            self.register_buffer(f"scale_{index}", torch.ones(scale_shape(shape, self.scale[name])))

    @classmethod
    def of(
        cls,
        spec: SampleSpec,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        scale: Scale | Mapping[str, Scale] = "auto",
        physical_loss: bool = False,
        network: nn.Module | None = None,
    ) -> Self:
        """Return the changes of all outputs that are inputs of the next step; they have no scales yet.

        Outputs that feed nothing are predicted as they are; so are integers, and fields that are declared as flags or
        one-hot, which have no differences.

        Args:
            spec: The fields of a step, with what feeds what.
            inputs: Fields that feed the network.
            outputs: Fields that it predicts.
            scale: Which scale, for all outputs or by name.
            physical_loss: As in `Changes`.
            network: The network, which may know where fields have their channels, as `UNet` and `FNO` do.

        Raises:
            ConfigError: No output is an input of the next step, or that input does not feed the network.
        """
        fed = [spec[name] for name in outputs if spec[name].feeds not in ("", name)]
        real = [field for field in fed if field.dtype.kind == "f" and field.kind == "number"]
        if not fed:
            raise ConfigError(
                f"a network predicts the change of outputs that are inputs of the next step, and none of "
                f"{list(outputs)} is one: {_remedy(spec)}"
            )
        if not real:
            raise ConfigError(
                f"{[field.name for field in fed]} are integers or flags, which have no differences; predict values"
            )
        for field in real:
            if field.feeds not in inputs:
                raise ConfigError(
                    f"the predicted change of {field.name!r} is added to the input {field.feeds!r}, which is none of "
                    f"those that feed the network, {list(inputs)}; add it to the inputs, or predict values"
                )
        return cls(
            {field.name: field.feeds for field in real},
            {field.name: field.shape for field in real},
            {field.name: scale_of_field(field, scale, network) for field in real},
            physical_loss,
        )

    def fit(self, differences: Mapping[str, Moments]) -> Self:
        """Take over the scales of training samples; returns itself.

        Args:
            differences: Moments of output - input, by output, arrays of the field's shape.

        Raises:
            ConfigError: A field never changes, or there are no two steps of which one follows the other.
        """
        scales = {name: _scale(name, differences[name], kind) for name, kind in self.scale.items()}
        for index, scale in enumerate(scales.values()):
            self.get_buffer(f"scale_{index}").copy_(torch.from_numpy(scale))
        self.fitted = True
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.fitted = True

    def applied(self, prediction: Fields, fields: Fields) -> Fields:
        """Return a prediction with outputs in physical units in place of their changes; others as they are.

        Args:
            prediction: Outputs in units of the network, shape (batch, *shape).
            fields: The fields that fed the network, in physical units.

        Raises:
            ConfigError: A predicted change has another shape than its input.
        """
        found = dict(prediction)
        for output, scale, before in self._of(prediction, fields):
            change = prediction[output]
            if change.shape[1:] != before.shape[1:]:  # it might broadcast, to nonsense
                got, want = tuple(change.shape[1:]), tuple(before.shape[1:])
                raise ConfigError(
                    f"the network predicts the change of {output!r} with shape {got}; {self.pairs[output]!r}, to which "
                    f"it is added, has {want}"
                )
            found[output] = before + change * scale
        return found

    def for_loss(self, prediction: Fields, target: Fields, fields: Fields) -> tuple[Fields, Fields]:
        """Return prediction and target in the units of the loss.

        Args:
            prediction: Outputs in units of the network, shape (batch, *shape).
            target: Fields of the samples, in physical units.
            fields: The fields that fed the network, in physical units.
        """
        if self.physical_loss:
            return self.applied(prediction, fields), target
        changed = {
            output: (target[output].to(before.dtype) - before) / scale
            for output, scale, before in self._of(target, fields)
        }
        return prediction, {**target, **changed}

    def _of(self, given: Fields, fields: Fields) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield output, scale and input, in a dtype that holds both, for the outputs that are there."""
        for index, (output, name) in enumerate(self.pairs.items()):
            if output in given:
                scale: Tensor = getattr(self, f"scale_{index}")
                before = fields[name]
                yield output, scale, before.to(torch.promote_types(before.dtype, scale.dtype))

    @property
    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON data."""
        return {
            "pairs": dict(self.pairs),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "scale": dict(self.scale),
            "physical_loss": self.physical_loss,
        }

    def __str__(self) -> str:
        return ", ".join(f"{output} - {name}" for output, name in self.pairs.items())


def check_changes(
    changes: Changes, inputs: Sequence[str], outputs: Sequence[str], network: nn.Module, transforms: Transforms
) -> None:
    """Raise ConfigError where a network cannot predict such changes.

    Args:
        changes: The changes.
        inputs: Fields that feed the network.
        outputs: Fields that it predicts.
        network: The network.
        transforms: What happens around it.
    """
    for output, name in changes.pairs.items():
        if output not in outputs or name not in inputs:
            raise ConfigError(
                f"the change of {output!r} is added to {name!r}; the network predicts {list(outputs)} and is fed "
                f"{list(inputs)}"
            )
    for where in (transforms.before_loss, transforms.before_apply):
        for module in where.modules():
            if isinstance(module, Normalize) and (twice := [name for name in changes.pairs if name in module.shapes]):
                raise ConfigError(
                    f"the transforms normalize {twice}, of which the network predicts the change, in units of its own. "
                    "Leave them out of the outputs that are normalized: Transforms.normalizing(spec, inputs, outputs)"
                )
    residual = getattr(network, "residual", False)
    if residual is True or (isinstance(residual, (tuple, list)) and any(channel is not None for channel in residual)):
        raise ConfigError(
            f"the network {type(network).__name__} adds an input to its output (residual={residual}) in normalized "
            "units, and the change that it predicts is added to that input again; set residual=False"
        )


def _remedy(spec: SampleSpec) -> str:
    """Say what makes an output an input of the next step."""
    if spec.feedback:
        return f"the samples declare {spec.feedback}; name {' or '.join(map(repr, spec.feedback))} as an output"
    return (
        "declare it with the samples (sample_feedback). Or declare it where the dataset is opened (SampleDataset(..., "
        "feedback='next_state -> state')), or in the configuration (dataset.feedback); or predict values. Where these "
        "are windows of a dataset that declares it, train on the dataset itself (unroll=2 for two steps)"
    )


def _scale(name: str, moments: Moments, kind: Scale) -> Array:
    """Return the root mean square of differences, which broadcasts to the field, never zero; float64."""
    square = np.square(np.array(moments.mean, np.float64)) + np.square(np.array(moments.std, np.float64))
    counts = getattr(moments, "counts", None)
    known = np.ones(square.shape, bool) if counts is None else np.asarray(counts) > 0
    if not known.any():
        raise ConfigError(
            f"the changes of {name!r} have no scale: there are no two finite samples of which one follows the other "
            "in its episode"
        )
    whole = float(np.sqrt(square[known].mean()))
    if whole == 0:
        raise ConfigError(
            f"{name!r} never changes from one step to the next in the training samples, so that its changes have no "
            "scale; leave it out of the outputs, or predict values"
        )
    if kind == "component":
        scale = np.where(known, np.sqrt(square), whole)
    else:
        parts = ((square[group], known[group]) for group in scale_groups(square.shape, kind))
        means = [np.sqrt(part[here].mean()) if here.any() else whole for part, here in parts]
        scale = np.reshape(means, scale_shape(square.shape, kind))
    return np.asarray(np.maximum(scale, RELATIVE_FLOOR * whole))
