"""The predictor of a training: made around a network, or a trained one that fits the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from physgym.checks import one_of
from physgym.errors import ConfigError
from physgym.nn.changes import Changes
from physgym.nn.predictor import Predictor, field_names
from physgym.nn.transforms import Transforms
from physgym.nn.wrapped import unwrapped
from physgym.sample import SampleSpec
from physgym.step_fields import check_target
from physgym.training.argument_checks import check_fields

FORMS = ("value", "change")
PredictedForm: TypeAlias = Literal["value", "change"] | Changes


def predictor_of(
    network: nn.Module | Predictor,
    spec: SampleSpec,
    *,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    loss_fields: Sequence[str] | None,
    transforms: Transforms | None,
    normalize: bool,
    predict: PredictedForm = "value",
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
        predict: What the network predicts.

    Raises:
        ConfigError: It does not fit the samples.
    """
    if not isinstance(predict, Changes):
        one_of("predict", predict, FORMS)
    if isinstance(network, Predictor):
        for name, value in {"inputs": inputs, "outputs": outputs, "transforms": transforms}.items():
            if value is not None:
                raise ConfigError(f"a Predictor has its {name} already; leave {name} out, or pass its network")
        if isinstance(predict, Changes) or (predict == "change" and network.changes is None):
            what = "values" if network.changes is None else "changes"
            raise ConfigError(f"the Predictor predicts {what} already; leave predict out, or pass its network")
        for name, wanted in network.spec.items():
            got = spec[name].shape if name in spec else None
            if got != wanted.shape:
                raise ConfigError(
                    f"the predictor was made for field {name!r} of shape {wanted.shape}; the samples have {got}"
                )
        check_target(spec, network.inputs, network.outputs)
        return network, False
    if isinstance(unwrapped(network), Predictor):
        raise ConfigError(
            "the network is a Predictor that is compiled or wrapped; pass the Predictor itself, with compile=True"
        )
    check_target(spec, inputs, outputs)
    inputs, outputs = field_names(spec, inputs, outputs)
    changes = predict if isinstance(predict, Changes) else None
    if predict == "change":
        changes = Changes.of(spec, inputs, outputs, network=network)
    if normalize and transforms is None:
        others = [name for name in outputs if changes is None or name not in changes.pairs]
        transforms = Transforms.normalizing(spec, inputs, others, network=network)
    normalizes = transforms is not None and not transforms.fitted
    check_fields(spec, inputs, (*outputs, *(loss_fields or ())), normalized=normalizes)
    made = Predictor(network, spec, inputs=inputs, outputs=outputs, transforms=transforms, changes=changes)
    return made, not made.fitted


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
