"""Transforms of fields around a network: before the prediction, before the loss, before the prediction is applied.

Each transform is a module, so that its buffers (the mean and standard deviation of a normalization) move with the
network to its device and into its checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from physgym.checks import flag
from physgym.errors import ConfigError
from physgym.nn.registry import check_rebuildable, named_transform, register
from physgym.nn.scales import Moments, Scale, choose_scale, scale_of_field, scale_shape, shift_and_scale
from physgym.sample import SampleSpec

Fields = dict[str, Tensor]

NO_FIELD = "there is no field {name!r} to transform; there are {known}"


class Normalizable(Protocol):
    """A dataset as `Transforms.normalization` needs it."""

    @property
    def spec(self) -> SampleSpec: ...  # noqa: D102

    @property
    def statistics(self) -> Mapping[str, Moments]: ...  # noqa: D102


def checked_fields(fields: Any, where: str, transform: nn.Module, needed: Sequence[str] = ()) -> Fields:
    """Return what a transform returned, if it is fields.

    Raises:
        ConfigError: It is not, or needed ones are missing; the text names the transform.
    """
    if fields.__class__ is dict and not needed:  # as nearly always, several times a batch
        usual: Fields = fields
        return usual
    name = type(transform).__name__
    if not isinstance(fields, Mapping):
        got = "None" if fields is None else f"a {type(fields).__name__}"
        raise ConfigError(
            f"the transform {where}, {name}, returned {got} instead of a dictionary of tensors by field; return the "
            "given fields with what has changed: {**fields, ...}"
        )
    if missing := [one for one in needed if one not in fields]:
        raise ConfigError(f"the transform {where}, {name}, returned no field {missing}; it gave {list(fields)}")
    return cast(Fields, fields)


@register
class Transform(nn.Module):
    """Maps fields to fields; the base class changes nothing.

    Subclasses override `forward`, and `inverse` where there is one. They leave the given dictionary and its tensors as
    they are, keep fields that they do not know, and keep the batch axis, which is the first of every tensor.
    """

    def forward(self, fields: Fields) -> Fields:
        """Return the transformed fields, each of shape (batch, *shape)."""
        return fields

    def inverse(self, fields: Fields) -> Fields:
        """Return the fields that `forward` would map to the given ones.

        Raises:
            ConfigError: There is no inverse.
        """
        if type(self).forward is Transform.forward:
            return fields
        raise ConfigError(
            f"{type(self).__name__} has no inverse; override `inverse`, or do not use it where its effect must be "
            "undone"
        )

    @property
    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON data; empty unless a subclass says more."""
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
            fields = checked_fields(transform(fields), "in Compose", transform)
        return fields

    def inverse(self, fields: Fields) -> Fields:
        """Undo all, the last one first."""
        for transform in reversed(self.transforms):
            fields = checked_fields(cast(Transform, transform).inverse(fields), "in Compose", transform)
        return fields

    @property
    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON data."""
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
        """Return the constructor's arguments as JSON data."""
        return {"transform": self.transform}


@register
class Normalize(Transform):
    """Shifts and scales fields to zero mean and unit deviation: ``(x - mean) / scale``.

    The mean is taken off component by component. The scale of a field is one number ("field": the root mean square of
    its components' standard deviations), one per channel ("channel": of the first axis, for (channels, *grid);
    "channel_last": of the last one) or one per component ("component"). One number keeps the proportions within the
    field: nodes that hardly move, next to a clamped end, stay small instead of being blown up to the size of the others
    together with their errors. One per channel does so for each of several quantities on a grid, such as velocity and
    pressure. One per component suits a vector of unlike quantities. "auto" takes "component" for scalars and vectors;
    "channel" for arrays of three and more axes whose first one is shorter than the others, as channels are; else
    "field". What a field declares, or the network knows, about grid and channels goes before: see
    `Transforms.normalizing`.

    No scale is zero: a component's is at least a thousandth of its field's, and that of a constant field or channel is
    one. A component without a finite value in any sample has the mean and scale of its field.

    With ``pointwise_mean=False`` what has one scale has one mean too. A field with one scale may then have any number
    of points, and one with a scale for each channel any number in each channel: such as those of a finer grid.

    Args:
        shapes: Shape of each field to normalize, without the batch axis.
        scale: Which scale, for all fields or by name.
        pointwise_mean: Whether each component has a mean of its own.

    Attributes:
        fitted: Whether it has moments; a `Trainer` gives those of its training samples to one that has none.

    Raises:
        ConfigError: A scale is unknown.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        scale: Scale | Mapping[str, Scale] = "auto",
        pointwise_mean: bool = True,
    ) -> None:
        super().__init__()
        self.fitted, self.pointwise_mean = False, flag("pointwise_mean", pointwise_mean)
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.scale: dict[str, Scale] = {name: choose_scale(scale, name, shape) for name, shape in self.shapes.items()}
        # buffers have numbers, since a field's name may hold a slash or a dot; not fitted, they change nothing
        for index, (name, shape) in enumerate(self.shapes.items()):
            scales = scale_shape(shape, self.scale[name])
            self.register_buffer(f"mean_{index}", torch.zeros(shape if pointwise_mean else scales))
            self.register_buffer(f"scale_{index}", torch.ones(scales))
        self._names = [(name, f"mean_{index}", f"scale_{index}") for index, name in enumerate(self.shapes)]

    @classmethod
    def from_statistics(
        cls,
        statistics: Mapping[str, Moments],
        fields: Iterable[str] | None = None,
        scale: Scale | Mapping[str, Scale] = "auto",
        pointwise_mean: bool = True,
    ) -> Self:
        """Return a normalization by the moments of training samples.

        Args:
            statistics: Moments by field name, arrays of the field's shape.
            fields: Which fields to normalize, by default all that have moments.
            scale: Which scale, for all fields or by name.
            pointwise_mean: Whether each component has a mean of its own.

        Raises:
            ConfigError: A field has no moments, or a scale is unknown.
        """
        names = list(statistics if fields is None else fields)
        for name in names:
            if name not in statistics:
                raise ConfigError(NO_FIELD.format(name=name, known=list(statistics)))
        shapes = {name: np.shape(statistics[name].mean) for name in names}
        return cls(shapes, scale, pointwise_mean).fit(statistics)

    def fit(self, statistics: Mapping[str, Moments]) -> Self:
        """Take over the moments of training samples; returns itself.

        Args:
            statistics: Moments of at least the fields given to the constructor.

        Raises:
            ConfigError: There are none of a field.

        Warns:
            UserWarning: No value of a field is finite in any sample; it is left as it is.
        """
        if unknown := [name for name in self.scale if name not in statistics]:
            raise ConfigError(
                f"there are no moments of {unknown}, which a transform makes or another simulation has; the samples "
                f"have those of {list(statistics)}. Give the normalization its own: Normalize.from_statistics(...)"
            )
        self.fitted = True
        for index, (name, kind) in enumerate(self.scale.items()):
            mean, scale = shift_and_scale(name, statistics[name], kind, self.pointwise_mean)
            self.get_buffer(f"mean_{index}").copy_(torch.from_numpy(mean))
            self.get_buffer(f"scale_{index}").copy_(torch.from_numpy(scale))
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.fitted = True

    def forward(self, fields: Fields) -> Fields:
        """Return the normalized fields; those that it does not know pass as they are.

        Raises:
            ConfigError: A field has not the shape of its statistics.
        """
        changed, buffers = dict(fields), cast(dict[str, Tensor], self._buffers)
        for name, mean, scale in self._names:
            if name in changed:
                # the difference is nobody else's, and dividing it in place takes no further memory
                changed[name] = (fields[name] - self._mean(fields, name, mean)).div_(buffers[scale])
        return changed

    def inverse(self, fields: Fields) -> Fields:
        """Return the fields in their own units; those that it does not know pass as they are.

        Raises:
            ConfigError: A field has not the shape of its statistics.
        """
        changed, buffers = dict(fields), cast(dict[str, Tensor], self._buffers)
        for name, mean, scale in self._names:
            if name in changed:
                shift = self._mean(fields, name, mean)
                changed[name] = (fields[name] * buffers[scale]).add_(shift)
        return changed

    def _mean(self, fields: Fields, name: str, buffer: str) -> Tensor:
        """Return the mean of a field.

        Raises:
            ConfigError: The field has not the shape of its statistics; it might broadcast, to nonsense.
        """
        buffers: Any = self._buffers  # get_buffer costs as much as the arithmetic
        mean: Tensor = buffers[buffer]
        got = fields[name].shape[1:]
        if got != mean.shape and (self.pointwise_mean or not self._same_scales(name, got)):
            text = (
                f"field {name!r} has shape {tuple(got)} where it is normalized; its statistics have {self.shapes[name]}"
            )
            hint = "; with pointwise_mean=False grids may be of any size"
            raise ConfigError(text + hint * (self.pointwise_mean and len(got) == mean.ndim))
        return mean

    def _same_scales(self, name: str, shape: Sequence[int]) -> bool:
        """Say whether the scales of a field are also those of another shape of it."""
        own, kind = self.shapes[name], self.scale[name]
        return len(shape) == len(own) and scale_shape(tuple(shape), kind) == scale_shape(own, kind)

    @property
    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON data."""
        config = {"shapes": {name: list(shape) for name, shape in self.shapes.items()}, "scale": dict(self.scale)}
        return config if self.pointwise_mean else {**config, "pointwise_mean": False}


@named_transform
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
        """Hold the entries that masks name; masks and values are stored in the checkpoint.

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
        hold = cls({name: np.shape(mask) for name, mask in masks.items()})
        for index, (name, mask) in enumerate(masks.items()):
            hold.get_buffer(f"mask_{index}").copy_(torch.tensor(np.asarray(mask, bool)))
            hold.get_buffer(f"value_{index}").copy_(torch.tensor(np.asarray(values.get(name, 0.0), np.float64)))
        return hold

    def forward(self, fields: Fields) -> Fields:
        """Return the fields with what is held in place; those that it does not know pass as they are.

        Raises:
            ConfigError: A field has not the shape of its mask.
        """
        changed = {}
        for index, (name, shape) in enumerate(self.shapes.items()):
            if name not in fields:
                continue
            field = fields[name]
            if field.shape[1:] != shape:
                raise ConfigError(
                    f"field {name!r} has shape {tuple(field.shape[1:])} where parts of it are held; their mask has "
                    f"{shape}"
                )
            held = self.get_buffer(f"value_{index}").to(field.dtype)
            changed[name] = torch.where(self.get_buffer(f"mask_{index}"), held, field)
        return {**fields, **changed}

    @property
    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON data."""
        return {"shapes": {name: list(shape) for name, shape in self.shapes.items()}}


@register
class LossTransform(nn.Module):
    """A transform of prediction and target before they meet in the loss.

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
        """Return the transformed predicted fields, and those of the samples; tensors of shape (batch, *shape)."""
        parts: Any = self._modules  # looking for an attribute of a module costs as much as such a call
        on_prediction, on_target = parts["on_prediction"], parts["on_target"]
        if type(on_prediction) is not Transform:  # which changes nothing
            prediction = checked_fields(on_prediction(prediction), "before_loss", on_prediction)
        if type(on_target) is not Transform:
            target = checked_fields(on_target(target), "before_loss", on_target)
        return prediction, target

    @property
    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON data."""
        return {"on_prediction": self.on_prediction, "on_target": self.on_target}


@register
class Transforms(nn.Module):
    """The three places at which fields are transformed; each changes nothing by default.

    Args:
        before_prediction: Applied to the input fields before the network sees them.
        before_loss: Applied to the prediction and to the fields of the samples before the loss.
        before_apply: Applied to the prediction before it leaves: it brings the network's units into physical ones.

    Raises:
        ConfigError: `before_loss` is a transform of fields alone.
    """

    def __init__(
        self,
        before_prediction: Transform | None = None,
        before_loss: LossTransform | None = None,
        before_apply: Transform | None = None,
    ) -> None:
        super().__init__()
        given: object = before_loss
        if isinstance(given, Transform):
            name = type(given).__name__
            raise ConfigError(
                "before_loss takes the prediction and the fields of the samples, not a transform of fields alone: pass "
                f"LossTransform(None, {name}(...)) for the targets, LossTransform({name}(...), {name}(...)) for both"
            )
        self.before_prediction = Transform() if before_prediction is None else before_prediction
        self.before_loss = LossTransform() if before_loss is None else before_loss
        self.before_apply = Transform() if before_apply is None else before_apply
        check_rebuildable(self)

    @classmethod
    def normalization(
        cls,
        dataset: Normalizable,
        inputs: Iterable[str] | None = None,
        outputs: Iterable[str] | None = None,
        *,
        scale: Scale | Mapping[str, Scale] = "auto",
        pointwise_mean: bool = True,
        physical_loss: bool = False,
        network: nn.Module | None = None,
    ) -> Self:
        """Return the normalized inputs, and predictions that the network makes in normalized units.

        Only floating-point fields are normalized, unless they are declared as flags or one-hot: integers may be labels.

        Args:
            dataset: The training samples, and no others: what validates must not have been seen.
            inputs: Fields that feed the network, by default those of role "input".
            outputs: Fields that it predicts, by default those of role "target".
            scale: How to scale, see `Normalize`; for all fields or by name.
            pointwise_mean: Whether each number has a mean of its own, see `Normalize`; False for fields that the
                network shall take on other grids as well.
            physical_loss: Compute the loss in physical units, instead of in the normalized ones.
            network: The network, which may know where fields have their channels, as `UNet` and `FNO` do.
        """
        transforms = cls.normalizing(
            dataset.spec,
            inputs,
            outputs,
            scale=scale,
            pointwise_mean=pointwise_mean,
            physical_loss=physical_loss,
            network=network,
        )
        return transforms.fit(dataset.statistics)

    @classmethod
    def normalizing(
        cls,
        spec: SampleSpec,
        inputs: Iterable[str] | None = None,
        outputs: Iterable[str] | None = None,
        *,
        scale: Scale | Mapping[str, Scale] = "auto",
        pointwise_mean: bool = True,
        physical_loss: bool = False,
        network: nn.Module | None = None,
    ) -> Self:
        """Make a `normalization` for samples yet to come: it changes nothing until `fit` gives it their moments.

        Where the scale is "auto", a field that is declared to lie on a grid (``sample_dimensions``) has one scale for
        each channel, or one where it has no channels; the same holds for fields of a network that knows its grid.
        """
        fed, predicted = (
            Normalize(
                {f.name: f.shape for f in fields},
                {f.name: scale_of_field(f, scale, network) for f in fields},
                pointwise_mean,
            )
            for fields in (
                [spec[n] for n in names if spec[n].dtype.kind == "f" and spec[n].kind == "number"]
                for names in (
                    spec.names("input") if inputs is None else inputs,
                    spec.names("target") if outputs is None else outputs,
                )
            )
        )
        back = Inverse(predicted)
        return cls(fed, LossTransform(back, None) if physical_loss else LossTransform(None, predicted), back)

    def for_loss(self, prediction: Fields, target: Fields) -> tuple[Fields, Fields]:
        """Return what prediction and target are in the loss: what `before_loss` makes of them.

        Raises:
            ConfigError: It returned something else.
        """
        modules: Any = self._modules  # looking for an attribute of a module costs as much as such a call
        pair: Any = modules["before_loss"](prediction, target)
        if pair.__class__ is tuple and len(pair) == 2 and pair[0].__class__ is pair[1].__class__ is dict:
            usual: tuple[Fields, Fields] = pair  # as nearly always
            return usual
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            got = f"{len(pair)} values" if isinstance(pair, (tuple, list)) else f"a {type(pair).__name__}"
            raise ConfigError(
                f"the transform before_loss, {type(self.before_loss).__name__}, returned {got} instead of two "
                "dictionaries: (prediction, target)"
            )
        one, other = (checked_fields(fields, "before_loss", self.before_loss) for fields in pair)
        return one, other

    @property
    def fitted(self) -> bool:
        """Say whether every normalization inside has moments."""
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
        """Return the constructor's arguments as JSON data."""
        return {
            "before_prediction": self.before_prediction,
            "before_loss": self.before_loss,
            "before_apply": self.before_apply,
        }
