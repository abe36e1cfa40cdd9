"""Arguments of a training: each that is wrong is named before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from physgym.errors import ConfigError
from physgym.events import Callback
from physgym.generation.sample_source import SampleSource
from physgym.nn.devices import as_device
from physgym.nn.optimization import Optimization
from physgym.nn.wrapped import refuse_exported
from physgym.sample import SampleSpec
from physgym.training.foreign import Feed

LARGEST = 2**63 - 1  # what the generators of torch take as a seed

NO_LENGTH = "a source of samples has no end: say how long an epoch is with batches_per_epoch"


def check_validation(validation: Any) -> None:
    """Raise ConfigError unless it is a fraction that leaves something to train on, samples, or None."""
    if isinstance(validation, (int, float)):
        if isinstance(validation, bool) or not 0 <= validation < 1 or math.isnan(validation):
            raise ConfigError(f"validation must be a fraction from 0 to below 1, or samples, not {validation!r}")
    elif validation is not None:
        check_samples("validation", validation)


def check_samples(name: str, samples: Any) -> None:
    """Raise ConfigError unless something has a spec of its fields."""
    if not isinstance(getattr(samples, "spec", None), SampleSpec):
        raise ConfigError(
            f"{name} must be samples with a spec, such as a SampleDataset, not a {type(samples).__name__}"
        )


def check_parts(network: Any, optimization: Any, callbacks: Any) -> None:
    """Raise ConfigError unless the parts of a training are what they are to be."""
    refuse_exported(network)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"the network must be a torch.nn.Module or a Predictor, not {network!r}")
    if optimization is not None and not isinstance(optimization, Optimization):
        raise ConfigError(f"optimization must be an Optimization of the network, not {optimization!r}")
    if not isinstance(callbacks, Iterable):
        raise ConfigError(f"callbacks must be a list of callbacks, not a {type(callbacks).__name__}")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ConfigError(f"callbacks has {callback!r}, which is no instance of physgym.training.Callback")


def check_fields(spec: SampleSpec, inputs: Sequence[str], others: Sequence[str], *, normalized: bool) -> None:
    """Raise ConfigError unless a network can be trained on the fields."""
    for argument, names in (("inputs", inputs), ("outputs and loss_fields", others)):
        for name in names:
            if name in spec and spec[name].dtype.kind not in "biufc":
                raise ConfigError(
                    f"field {name!r} has dtype {spec[name].dtype}, which a network is not trained on; choose others as "
                    f"{argument}"
                )
            if name in spec and normalized and spec[name].dtype.kind == "c":
                raise ConfigError(
                    f"field {name!r} is complex, which has no such normalization; give transforms, or normalize=False"
                )


def checked_loss_fields(names: Sequence[str] | None, outputs: Sequence[str], spec: SampleSpec) -> tuple[str, ...]:
    """Return the fields that the loss gets from the samples: by default those that are predicted.

    Raises:
        ConfigError: The samples lack one.
    """
    found = tuple(outputs if names is None else names)
    for name in found:
        if name not in spec:
            raise ConfigError(f"loss_fields names {name!r}, which the samples lack; they have {list(spec)}")
    return found


def check_alike(validation: Any, spec: SampleSpec, names: Iterable[str], what: str = "validation") -> None:
    """Raise ConfigError unless samples to validate or test on have fields of the shape of those to train on."""
    for name in names:
        got = validation.spec[name].shape if name in validation.spec else None
        if got != spec[name].shape:
            raise ConfigError(f"the {what} samples have {got} as field {name!r}, those to train on {spec[name].shape}")


def check_source(source: Any, batches_per_epoch: int | None) -> None:
    """Raise ConfigError unless something produces samples, and it is known how long an epoch is."""
    if not isinstance(source, SampleSource):
        raise ConfigError(
            f"source must be a physgym.training.SampleSource, such as a SampleStream, not a {type(source).__name__}; "
            "derive its class from it"
        )
    if batches_per_epoch is None:
        raise ConfigError(NO_LENGTH)


def check_feed(feed: Feed, batches_per_epoch: int | None, held_out: Any, ranks: int, loader_workers: int) -> None:
    """Raise ConfigError unless the batches of a loader of your own can be trained on as is asked for.

    Args:
        feed: The loader.
        batches_per_epoch: Batches in an epoch at most.
        held_out: Fraction to hold out, or samples.
        ranks: Processes that train together.
        loader_workers: Processes that gather batches.
    """
    if isinstance(held_out, (int, float)) and held_out:
        raise ConfigError(
            "the batches of a loader cannot be divided by episode: give samples or a loader as validation, or "
            "validation=None"
        )
    if feed.num_batches is None and batches_per_epoch is None:
        raise ConfigError(NO_LENGTH)
    if ranks > 1:
        raise ConfigError(
            "several processes cannot share a loader of your own; pass its dataset, which the trainer divides"
        )
    if loader_workers:
        raise ConfigError("loader_workers gathers samples of a dataset; a loader of your own has num_workers")


def check_device(device: torch.device | str) -> None:
    """Raise ConfigError unless torch can compute on a device."""
    try:
        torch.empty(0, device=as_device(device))
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error
