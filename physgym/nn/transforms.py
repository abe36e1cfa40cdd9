"""What happens to fields around a network: before the prediction, before the loss, before the prediction is applied.

Each transform is a module, so that its buffers (the mean and standard deviation of a normalization) move with the
network to its device and into its checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, Self, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from physgym.errors import ConfigError
from physgym.nn.registry import register
from physgym.sample import SampleSpec
from physgym.spaces import Array

Fields = dict[str, Tensor]
Scale = Literal["auto", "field", "component"]

RELATIVE_FLOOR = 1e-3  # smallest scale of a component relative to the scale of its field
ROUNDING = 1e-12  # spread relative to the mean that is rounding of a constant in float64

NO_INVERSE = "{name} has no inverse; override `inverse`, or do not use it where its effect must be undone"
FIELD_SHAPE = "field {name!r} has shape {got} where it is normalized; its statistics have {want}"
HELD_SHAPE = "field {name!r} has shape {got} where parts of it are held; their mask has {want}"
NO_FIELD = "there is no field {name!r} to transform; there are {known}"


class Moments(Protocol):
    """Mean and standard deviation of a field over samples; `physgym.data.Statistics` is one."""

    @property
    def mean(self) -> Array: ...  # noqa: D102

    @property
    def std(self) -> Array: ...  # noqa: D102


class Normalizable(Protocol):
    """What `Transforms.normalization` needs of a dataset."""

    @property
    def spec(self) -> SampleSpec: ...  # noqa: D102

    @property
    def statistics(self) -> Mapping[str, Moments]: ...  # noqa: D102


@register
class Transform(nn.Module):
    """Maps fields to fields; the base class changes nothing.

    Subclasses override `forward`, and `inverse` where there is one. They leave the given dictionary and its tensors as
    they are, keep fields that they do not know, and keep the batch axis, which is the first of every tensor.
    """

    def forward(self, fields: Fields) -> Fields:
        """The transformed fields, each of shape (batch, *shape)."""
        return fields

    def inverse(self, fields: Fields) -> Fields:
        """The fields that `forward` would map to the given ones.

        Raises:
            ConfigError: There is no inverse.
        """
        if type(self).forward is Transform.forward:
            return fields
        raise ConfigError(NO_INVERSE.format(name=type(self).__name__))

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON data; empty unless a subclass says more."""
        return {}


@register
class Compose(Transform):
    """Transforms one after the other.

    Args:
        transforms: In the order in which they are applied.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    def forward(self, fields: Fields) -> Fields:
        """Apply all, the first one first."""
        for transform in self.transforms:
            fields = transform(fields)
        return fields

    def inverse(self, fields: Fields) -> Fields:
        """Undo all, the last one first."""
        for transform in reversed(self.transforms):
            fields = cast(Transform, transform).inverse(fields)
        return fields

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON data."""
        return {"transforms": list(self.transforms)}


@register
class Inverse(Transform):
    """The inverse of a transform, as a transform.

    Args:
        transform: What to undo.
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, fields: Fields) -> Fields:
        """Undo the transform."""
        return self.transform.inverse(fields)

    def inverse(self, fields: Fields) -> Fields:
        """Apply the transform."""
        return cast(Fields, self.transform(fields))

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON data."""
        return {"transform": self.transform}


@register
class Normalize(Transform):
    """Shifts and scales fields to zero mean and unit deviation: ``(x - mean) / scale``.

    The mean is taken off component by component. The scale of a field is one number ("field": the root mean square of
    its components' standard deviations) or one per component ("component"). One number keeps the proportions within
    the field: nodes that hardly move, next to a clamped end, stay small instead of being blown up to the size of the
    others together with their errors. One per component suits a vector of unlike quantities. "auto" takes "component"
    for scalars and vectors and "field" for arrays of two and more axes, which hold one quantity at many places.

    No scale is zero: a component's is at least a thousandth of its field's, and a constant field's is one.

    Args:
        shapes: Shape of each field to normalize, without the batch axis.
        scale: Which scale, for all fields or by name.

    Attributes:
        fitted: Whether it has moments; a `Trainer` gives those of its training samples to one that has none.

    Raises:
        ConfigError: A scale is unknown.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], scale: Scale | Mapping[str, Scale] = "auto") -> None:
        super().__init__()
        self.fitted = False
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.scale: dict[str, Scale] = {name: _choose(scale, name, shape) for name, shape in self.shapes.items()}
        # buffers have numbers, since a field's name may hold a slash or a dot; not fitted, they change nothing
        for index, (name, shape) in enumerate(self.shapes.items()):
            self.register_buffer(f"mean_{index}", torch.zeros(shape))
            self.register_buffer(f"scale_{index}", torch.ones(shape if self.scale[name] == "component" else ()))

    @classmethod
    def from_statistics(
        cls,
        statistics: Mapping[str, Moments],
        fields: Iterable[str] | None = None,
        scale: Scale | Mapping[str, Scale] = "auto",
    ) -> Self:
        """A normalization by the moments of training samples.

        Args:
            statistics: Moments by field name, arrays of the field's shape.
            fields: Which fields to normalize, by default all that have moments.
            scale: Which scale, for all fields or by name.

        Raises:
            ConfigError: A field has no moments, or a scale is unknown.
        """
        names = list(statistics if fields is None else fields)
        for name in names:
            if name not in statistics:
                raise ConfigError(NO_FIELD.format(name=name, known=list(statistics)))
        return cls({name: np.shape(statistics[name].mean) for name in names}, scale).fit(statistics)

    def fit(self, statistics: Mapping[str, Moments]) -> Self:
        """Take over the moments of training samples; returns itself.

        Args:
            statistics: Moments of at least the fields given to the constructor.
        """
        self.fitted = True
        for index, (name, kind) in enumerate(self.scale.items()):
            mean = np.asarray(statistics[name].mean, np.float64)
            scale = _safe_scale(mean, np.asarray(statistics[name].std, np.float64), kind)
            self.get_buffer(f"mean_{index}").copy_(torch.from_numpy(mean))
            self.get_buffer(f"scale_{index}").copy_(torch.from_numpy(scale))
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.fitted = True

    def forward(self, fields: Fields) -> Fields:
        """Normalized fields; those that it does not know pass as they are.

        Raises:
            ConfigError: A field has not the shape of its statistics.
        """
        changed = {name: (fields[name] - mean) / scale for name, mean, scale in self._buffers_of(fields)}
        return {**fields, **changed}

    def inverse(self, fields: Fields) -> Fields:
        """Fields in their own units; those that it does not know pass as they are.

        Raises:
            ConfigError: A field has not the shape of its statistics.
        """
        changed = {name: fields[name] * scale + mean for name, mean, scale in self._buffers_of(fields)}
        return {**fields, **changed}

    def _buffers_of(self, fields: Fields) -> Iterator[tuple[str, Tensor, Tensor]]:
        for index, name in enumerate(self.shapes):
            if name not in fields:
                continue
            mean: Tensor = getattr(self, f"mean_{index}")  # get_buffer costs as much as the arithmetic
            if fields[name].shape[1:] != mean.shape:  # it might broadcast, to nonsense of the right shape
                got, want = tuple(fields[name].shape[1:]), tuple(mean.shape)
                raise ConfigError(FIELD_SHAPE.format(name=name, got=got, want=want))
            yield name, mean, getattr(self, f"scale_{index}")

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON data."""
        return {"shapes": {name: list(shape) for name, shape in self.shapes.items()}, "scale": dict(self.scale)}


@register
class Hold(Transform):
    """Sets entries of fields to fixed values, so that a prediction meets a boundary condition exactly.

    What is held gets no gradient. There is no inverse. Usually made by `Hold.where`.

    Args:
        shapes: Shape of each field, without the batch axis; nothing is held until the buffers are filled.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        for index, shape in enumerate(self.shapes.values()):
            self.register_buffer(f"mask_{index}", torch.zeros(shape, dtype=torch.bool))
            self.register_buffer(f"value_{index}", torch.zeros(shape))

    @classmethod
    def where(cls, masks: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> Self:
        """Hold the entries that masks name; masks and values travel in the checkpoint.

        Args:
            masks: What is held of each field, true or false, of the field's shape.
            values: At what, by field, anything that broadcasts to its shape; 0 by default.

        Raises:
            ConfigError: There are values for a field without a mask.
        """
        values = values or {}
        for name in values:
            if name not in masks:
                raise ConfigError(NO_FIELD.format(name=name, known=list(masks)))
        made = cls({name: np.shape(mask) for name, mask in masks.items()})
        for index, (name, mask) in enumerate(masks.items()):
            made.get_buffer(f"mask_{index}").copy_(torch.tensor(np.asarray(mask, bool)))
            made.get_buffer(f"value_{index}").copy_(torch.tensor(np.asarray(values.get(name, 0.0), np.float64)))
        return made

    def forward(self, fields: Fields) -> Fields:
        """The fields with what is held in place; those that it does not know pass as they are.

        Raises:
            ConfigError: A field has not the shape of its mask.
        """
        changed = {}
        for index, (name, shape) in enumerate(self.shapes.items()):
            if name not in fields:
                continue
            field = fields[name]
            if field.shape[1:] != shape:
                raise ConfigError(HELD_SHAPE.format(name=name, got=tuple(field.shape[1:]), want=shape))
            held = self.get_buffer(f"value_{index}").to(field.dtype)
            changed[name] = torch.where(self.get_buffer(f"mask_{index}"), held, field)
        return {**fields, **changed}

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON data."""
        return {"shapes": {name: list(shape) for name, shape in self.shapes.items()}}


@register
class LossTransform(nn.Module):
    """What happens to prediction and target before they meet in the loss.

    Subclasses may override `forward` to use both at once.

    Args:
        on_prediction: Applied to the predicted fields; None changes nothing.
        on_target: Applied to the fields that the loss gets from the samples; None changes nothing.
    """

    def __init__(self, on_prediction: Transform | None = None, on_target: Transform | None = None) -> None:
        super().__init__()
        self.on_prediction = Transform() if on_prediction is None else on_prediction
        self.on_target = Transform() if on_target is None else on_target

    def forward(self, prediction: Fields, target: Fields) -> tuple[Fields, Fields]:
        """Transformed predicted fields, and transformed fields of the samples; tensors of shape (batch, *shape)."""
        return self.on_prediction(prediction), self.on_target(target)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON data."""
        return {"on_prediction": self.on_prediction, "on_target": self.on_target}


@register
class Transforms(nn.Module):
    """The three places at which fields are transformed; each changes nothing by default.

    Args:
        before_prediction: Applied to the input fields before the network sees them.
        before_loss: Applied to the prediction and to the fields of the samples before the loss.
        before_apply: Applied to the prediction before it leaves: it brings the network's units into physical ones.
    """

    def __init__(
        self,
        before_prediction: Transform | None = None,
        before_loss: LossTransform | None = None,
        before_apply: Transform | None = None,
    ) -> None:
        super().__init__()
        self.before_prediction = Transform() if before_prediction is None else before_prediction
        self.before_loss = LossTransform() if before_loss is None else before_loss
        self.before_apply = Transform() if before_apply is None else before_apply

    @classmethod
    def normalization(
        cls,
        dataset: Normalizable,
        inputs: Iterable[str] | None = None,
        outputs: Iterable[str] | None = None,
        *,
        scale: Scale | Mapping[str, Scale] = "auto",
        physical_loss: bool = False,
    ) -> Self:
        """Normalized inputs, and predictions that the network makes in normalized units.

        Only floating-point fields are normalized: integers may be labels.

        Args:
            dataset: The training samples, and no others: what validates must not have been seen.
            inputs: Fields that feed the network, by default those of role "input".
            outputs: Fields that it predicts, by default those of role "target".
            scale: How to scale, see `Normalize`; for all fields or by name.
            physical_loss: Compute the loss in physical units, instead of in the normalized ones.
        """
        return cls.normalizing(dataset.spec, inputs, outputs, scale=scale, physical_loss=physical_loss).fit(
            dataset.statistics
        )

    @classmethod
    def normalizing(
        cls,
        spec: SampleSpec,
        inputs: Iterable[str] | None = None,
        outputs: Iterable[str] | None = None,
        *,
        scale: Scale | Mapping[str, Scale] = "auto",
        physical_loss: bool = False,
    ) -> Self:
        """As `normalization`, for samples yet to come: it changes nothing until `fit` gives it their moments."""
        fed, predicted = (
            Normalize({name: spec[name].shape for name in names if spec[name].dtype.kind == "f"}, scale)
            for names in (
                spec.names("input") if inputs is None else inputs,
                spec.names("target") if outputs is None else outputs,
            )
        )
        back = Inverse(predicted)
        return cls(fed, LossTransform(back, None) if physical_loss else LossTransform(None, predicted), back)

    @property
    def fitted(self) -> bool:
        """Whether every normalization inside has moments."""
        return all(module.fitted for module in self.modules() if isinstance(module, Normalize))

    def fit(self, statistics: Mapping[str, Moments]) -> Self:
        """Give every normalization inside that has none the moments of the training samples; returns itself.

        Args:
            statistics: Moments by field name, arrays of the field's shape.
        """
        for module in self.modules():
            if isinstance(module, Normalize) and not module.fitted:
                module.fit(statistics)
        return self

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON data."""
        return {
            "before_prediction": self.before_prediction,
            "before_loss": self.before_loss,
            "before_apply": self.before_apply,
        }


def _choose(scale: Scale | Mapping[str, Scale], name: str, shape: tuple[int, ...]) -> Scale:
    kind = scale if isinstance(scale, str) else scale.get(name, "auto")
    if kind not in get_args(Scale):
        raise ConfigError(f"the scale of field {name!r} is {kind!r}, which is none of {get_args(Scale)}")
    if kind == "auto":
        return "component" if len(shape) <= 1 else "field"
    return kind


def _safe_scale(mean: Array, std: Array, kind: Scale) -> Array:
    """What to divide by: shape () for "field", that of the field for "component"; nowhere zero, float64."""
    whole = np.sqrt(np.mean(np.square(std)))
    # samples that are all equal have a spread of zero up to rounding; dividing by it would blow up that rounding
    if whole <= ROUNDING * np.max(np.abs(mean), initial=0.0):
        whole, std = np.float64(1.0), np.ones_like(std)
    return np.asarray(whole if kind == "field" else np.maximum(std, RELATIVE_FLOOR * whole))
