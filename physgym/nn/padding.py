"""Padding in a loss: which values of a batch are there by their masks, and the loss of those that are."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as functions
from torch import Tensor, nn

from physgym.errors import ConfigError
from physgym.nn.transforms import Fields
from physgym.sample import Field, SampleSpec, counts_rows

# losses of each value by itself, of which a mean or a sum is taken
ELEMENTWISE: tuple[type[nn.Module], ...] = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.PoissonNLLLoss,
    nn.SoftMarginLoss,
)
ELEMENTWISE_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    functions.mse_loss,
    functions.l1_loss,
    functions.smooth_l1_loss,
    functions.huber_loss,
    functions.binary_cross_entropy,
    functions.binary_cross_entropy_with_logits,
    functions.poisson_nll_loss,
    functions.soft_margin_loss,
)


class Padding:
    """The padded ones of some fields, with the masks that say which of their values are there.

    Args:
        spec: The fields of samples.
        names: Names of fields.

    Raises:
        ConfigError: A mask is not among the fields of the samples.
    """

    def __init__(self, spec: SampleSpec, names: Iterable[str]) -> None:
        self._padded: dict[str, tuple[Field, Field]] = {}
        for name in dict.fromkeys(names):
            field = spec[name]
            if not field.mask:
                continue
            if field.mask not in spec:
                raise ConfigError(
                    f"field {name!r} is padded, and its mask {field.mask!r}, which says which of its values are there, "
                    f"is not among the fields {list(spec)}: its padding would be learned like values. Open the samples "
                    f"with {field.mask!r} as well"
                )
            self._padded[name] = field, spec[field.mask]

    @property
    def masks(self) -> tuple[str, ...]:
        """Return the names of the masks."""
        return tuple(dict.fromkeys(mask.name for _, mask in self._padded.values()))

    def present(self, batch: Mapping[str, Tensor]) -> Fields:
        """Return the flags of the values that are there, by padded field; they broadcast to (batch, *field shape).

        Args:
            batch: The masks, each of shape (batch, *mask shape).
        """
        return {name: _flags(field, mask, batch[mask.name]) for name, (field, mask) in self._padded.items()}


def _flags(field: Field, mask: Field, values: Tensor) -> Tensor:
    """Return what `physgym.sample.present` does, of tensors."""
    if counts_rows(field, mask):
        flags = torch.arange(field.shape[0], device=values.device) < values.long()[:, None]
    else:
        flags = values if values.dtype == torch.bool else values != 0
    axes, ones = flags.ndim - 1, (1,) * (len(field.shape) - flags.ndim + 1)
    if field.shape[:axes] == tuple(flags.shape[1:]):
        return flags.reshape(*flags.shape, *ones)
    return flags.reshape(len(flags), *ones, *flags.shape[1:])


def held_at_zero(fields: Fields, present: Fields, what: str) -> Fields:
    """Return fields with zeros where nothing is there, so that padding reaches neither a loss nor a gradient.

    Args:
        fields: Predictions or targets in the loss, shape (batch, *shape).
        present: The flags of the values that are there, by padded field.
        what: Which of both they are, for an error.

    Raises:
        ConfigError: A field has another shape than its flags in the loss.
    """
    held = dict(fields)
    for name in present.keys() & fields.keys():
        value, flags = fields[name], present[name]
        alike = value.ndim == flags.ndim
        if not alike or any(one not in (1, size) for one, size in zip(flags.shape, value.shape, strict=True)):
            raise ConfigError(
                f"field {name!r} is padded, and its {what} has shape {tuple(value.shape)} in the loss, the flags of "
                f"its values {tuple(flags.shape)}: which of them are there is not known. Let before_loss and the "
                "network keep its shape"
            )
        held[name] = torch.where(flags, value, 0)
    return held


def padded_loss(loss: Callable[..., Tensor], prediction: Tensor, target: Tensor, flags: Tensor) -> Tensor:
    """Return the loss of the values that are there.

    The mean of a loss of single values is, of each sample, that over its values, and then that over the samples, so
    that it does not depend on how samples are divided into batches. A sample without a value counts 0.

    Args:
        loss: A loss of (prediction, target). One that is not known to be of single values gets both as they are.
        prediction: Shape (batch, *shape), zero where nothing is there.
        target: Same shape.
        flags: Flags of the values that are there, which broadcast to that shape.

    Returns:
        A scalar.
    """
    found = _of_single_values(loss)
    if found is None:
        return loss(prediction, target)
    single, reduction = found
    values = _flat(torch.where(flags, single(prediction, target), 0)).sum(1)  # (batch,)
    if reduction == "sum":
        return values.sum()
    counts = _flat(flags.expand(prediction.shape)).sum(1)  # (batch,)
    return (values / counts.clamp_min(1)).mean()


def _flat(values: Tensor) -> Tensor:
    """Return the values of each sample in a row, shape (batch, values), also of single numbers, shape (batch,)."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def sums(loss: Callable[..., Tensor]) -> bool:
    """Return whether a loss is known to be the sum over a batch, and not its mean."""
    found = _of_single_values(loss)
    return found is not None and found[1] == "sum"


def _of_single_values(loss: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], str] | None:
    """Return the loss of each value by itself, and how it is reduced; None for another one."""
    if type(loss) in ELEMENTWISE:
        single: Any = copy.copy(loss)
        reduction, single.reduction = single.reduction, "none"
        return single, reduction
    function: Callable[..., Any] = loss
    options: dict[str, Any] = {}
    if isinstance(loss, partial) and not loss.args and "weight" not in loss.keywords:  # weights have means of their own
        function, options = loss.func, dict(loss.keywords)
    if any(function is one for one in ELEMENTWISE_FUNCTIONS):
        reduction = options.pop("reduction", "mean")
        return partial(function, **options, reduction="none"), reduction
    return None
