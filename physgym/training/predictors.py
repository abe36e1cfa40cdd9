"""The predictor of a training: made around a network, or a trained one that fits the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from physgym.errors import ConfigError
from physgym.nn.predictor import Predictor, field_names
from physgym.nn.transforms import Transforms
from physgym.nn.wrapped import unwrapped
from physgym.sample import SampleSpec
from physgym.training.argument_checks import check_fields


def predictor_of(
    network: nn.Module | Predictor,
    spec: SampleSpec,
    *,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    loss_fields: Sequence[str] | None,
    transforms: Transforms | None,
    normalize: bool,
) -> tuple[Predictor, bool]:
    """Return the predictor to train, and whether its transforms get the moments of the training samples.

    Args:
        network: A network, or a predictor, which stays as it is.
        spec: The fields of the samples.
        inputs: Fields that feed a network.
        outputs: Fields that it predicts.
        loss_fields: Fields that the loss gets.
        transforms: What happens to fields around a network.
        normalize: Whether to normalize where no transforms are given.

    Raises:
        ConfigError: It does not fit the samples.
    """
    if isinstance(network, Predictor):
        for name, value in {"inputs": inputs, "outputs": outputs, "transforms": transforms}.items():
            if value is not None:
                raise ConfigError(f"a Predictor has its {name} already; leave {name} out, or pass its network")
        for name, wanted in network.spec.items():
            got = spec[name].shape if name in spec else None
            if got != wanted.shape:
                raise ConfigError(
                    f"the predictor was made for field {name!r} of shape {wanted.shape}; the samples have {got}"
                )
        return network, False
    if isinstance(unwrapped(network), Predictor):
        raise ConfigError(
            "the network is a Predictor that is compiled or wrapped; pass the Predictor itself, with compile=True"
        )
    inputs, outputs = field_names(spec, inputs, outputs)
    if normalize and transforms is None:
        transforms = Transforms.normalizing(spec, inputs, outputs, network=network)
    normalizes = transforms is not None and not transforms.fitted
    check_fields(spec, inputs, (*outputs, *(loss_fields or ())), normalized=normalizes)
    return Predictor(network, spec, inputs=inputs, outputs=outputs, transforms=transforms), normalizes


def compiled(predictor: Predictor, compile: bool | Mapping[str, Any]) -> Any:
    """Return a predictor through `torch.compile`, if it is to be compiled.

    Args:
        predictor: The predictor.
        compile: Whether to compile it, or the arguments.

    Raises:
        ConfigError: torch refuses.
    """
    if not compile:
        return predictor
    try:
        return torch.compile(predictor, **(compile if isinstance(compile, Mapping) else {}))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"torch.compile refuses the network or its arguments: {error}") from error
