"""Moments for the normalizations around a network, also for one behind another transform."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import nn

from physgym.data.statistics import Statistics, of_samples
from physgym.errors import ConfigError
from physgym.nn.predictor import Predictor, evaluating
from physgym.nn.scales import Moments
from physgym.nn.transforms import Compose, Hold, Inverse, LossTransform, Normalize, Transform, checked_fields
from physgym.sample import Sample, SampleSpec
from physgym.training.sources import Samples

AT_ONCE = 16 << 20  # bytes of stored samples
PASSING = (Compose, nn.ModuleList, Inverse, LossTransform)  # of which it is known what the transforms within them get

BatchesOf: TypeAlias = Callable[[Iterable[str]], Iterable[Mapping[str, Any]]]  # some fields of the samples


def fit_normalization(
    predictor: Predictor,
    spec: SampleSpec,
    statistics: Mapping[str, Moments],
    batches: BatchesOf,
    loss_fields: Sequence[str] = (),
) -> None:
    """Give every normalization that has none the moments of what it gets of the training samples.

    One that gets the fields as they are has their `statistics`. For one behind another transform in
    ``before_prediction``, on the targets in ``before_loss``, or undone in ``before_apply``, that transform is applied
    to the samples, in evaluation mode.

    Args:
        predictor: The network with its transforms.
        spec: The fields of the samples.
        statistics: Moments of the fields as they are.
        batches: Gives these samples, batch by batch; called once for each normalization behind another transform.
        loss_fields: Fields that the loss gets from the samples.

    Raises:
        ConfigError: A transform returned no fields, or fields of another shape than the normalization was made for; the
            samples do not have the fields as such; or a normalization is within a module of which nobody knows what
            it gets.
        SampleError: A field is padded, and its mask is not among the samples.
    """
    transforms = predictor.transforms
    for inside, module in _hidden(transforms, ""):
        raise ConfigError(
            f"the normalization of {list(module.shapes)} within {inside} has no moments, and what it gets there is "
            "not known: give it some, Normalize.from_statistics(...), or let it stand by itself, in a Compose"
        )
    _fit_in_order(
        _Chain("before_prediction", transforms.before_prediction, predictor.inputs),
        predictor,
        spec,
        statistics,
        batches,
    )
    if plain := type(transforms.before_loss) is LossTransform:
        chain = _Chain("before_loss", transforms.before_loss.on_target, loss_fields)
        _fit_in_order(chain, predictor, spec, statistics, batches)
    back = _Chain("before_apply", Compose(_undone(transforms.before_apply)), predictor.outputs)
    _fit_in_order(back, predictor, spec, statistics, batches)
    _check_alone("before_prediction", transforms.before_prediction)
    _check_alone("before_loss", transforms.before_loss.on_prediction if plain else transforms.before_loss)
    _check_alone("before_apply", transforms.before_apply)
    transforms.fit(statistics)


def _check_alone(where: str, transform: nn.Module) -> None:
    """Raise ConfigError where a normalization still has no moments and stands with another transform.

    The moments of the fields as they are would be those of other values than it gets.
    """
    parts = [part for part in transform.modules() if type(part) is not Transform and type(part) not in PASSING]
    others = [type(part).__name__ for part in parts if not isinstance(part, Normalize)]
    for part in parts:
        if others and isinstance(part, Normalize) and not part.fitted:
            raise ConfigError(
                f"the normalization of {list(part.shapes)} with {others[0]} in {where} has no moments, and those of "
                "the stored fields are of other values: give it some, Normalize.from_statistics(...). For an output, "
                "use one object in before_loss and before_apply: back = Inverse(Compose([...]))"
            )


def _undone(transform: nn.Module) -> list[Transform]:
    """Return the transforms that lead from physical fields to what a network predicts: those to be undone, in order."""
    found: list[nn.Module] = []
    for one in reversed(list(in_order(transform))):
        if isinstance(one, Inverse):
            found += in_order(one.transform)
        elif type(one) is not Transform and not isinstance(one, Hold):  # the samples have what is held as it is
            found.append(Inverse(cast(Transform, one)))
    return cast(list[Transform], found)


@dataclass(frozen=True)
class _Chain:
    """Transforms that fields of samples go through.

    Attributes:
        where: What an error calls them.
        transform: The transforms.
        fields: Names of the fields.
    """

    where: str
    transform: nn.Module
    fields: Sequence[str]


def _fit_in_order(
    chain: _Chain, predictor: Predictor, spec: SampleSpec, statistics: Mapping[str, Moments], batches: BatchesOf
) -> None:
    """Give each normalization of a chain the moments of what those before it make of the samples."""
    earlier: list[nn.Module] = []
    for transform in in_order(chain.transform):
        if isinstance(transform, Normalize) and not transform.fitted:
            behind = _moments_behind(chain, earlier, transform, predictor, spec, batches) if earlier else {}
            transform.fit({**statistics, **behind})
        if type(transform) is not Transform:
            earlier.append(transform)


def _hidden(module: nn.Module, inside: str) -> Iterator[tuple[str, Normalize]]:
    """Yield normalizations without moments within modules of your own, with the class of the outermost of these."""
    for child in module.children():
        if isinstance(child, Normalize):
            if inside and not child.fitted:
                yield inside, child
        elif inside or type(child) in PASSING:
            yield from _hidden(child, inside)
        else:
            yield from _hidden(child, type(child).__name__)


def in_order(transform: nn.Module) -> Iterator[nn.Module]:
    """Yield a transform; in place of transforms that are composed, each of them."""
    if type(transform) is Compose:
        for inner in transform.transforms:
            yield from in_order(inner)
    else:
        yield transform


@torch.no_grad()
def _moments_behind(
    chain: _Chain,
    earlier: list[nn.Module],
    normalize: Normalize,
    predictor: Predictor,
    spec: SampleSpec,
    batches: BatchesOf,
) -> dict[str, Statistics]:
    """Compute moments of what earlier transforms make of the fields that one normalizes."""
    if (missing := [name for name in chain.fields if name not in spec]) or not chain.fields:
        raise ConfigError(
            f"the normalization behind {type(earlier[-1]).__name__} in {chain.where} needs the moments of what that "
            f"gives, and these samples lack {missing}: give it some, Normalize.from_statistics(...)"
        )
    found: dict[str, Statistics] = {}
    with evaluating(predictor):
        for batch in batches(chain.fields):
            fields = predictor.tensors({name: batch[name] for name in chain.fields})
            for transform in earlier:
                fields = checked_fields(transform(fields), chain.where, transform)
            normalize(fields)  # which says where a shape is another one
            names = [name for name in normalize.shapes if name in fields]
            made = {name: fields[name].double().cpu().numpy() for name in names}
            stored = [name for name in names if name in spec]
            added = {name: Statistics.of(made[name]) for name in names if name not in spec}  # of which no mask is known
            for name, more in {**of_samples(spec, stored, {**_arrays(batch), **made}), **added}.items():
                found[name] = found[name].merge(more) if name in found else more
    return found


def _arrays(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {n: v.cpu().numpy() if isinstance(v, torch.Tensor) else v for n, v in batch.items()}


def stored_batches(samples: Samples, fields: Iterable[str]) -> Iterator[Sample]:
    """Yield stored samples with the masks of their fields, in their order."""
    spec = samples.spec
    names = list(dict.fromkeys(name for field in fields for name in (field, spec[field].mask) if name in spec))
    size = max(1, AT_ONCE // max(1, sum(spec[name].nbytes for name in names)))
    for start in range(0, len(samples), size):
        yield samples.gather(np.arange(start, min(start + size, len(samples))), names)
