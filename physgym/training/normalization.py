"""Moments for the normalizations around a network, also for one behind another transform."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from physgym.data.statistics import Statistics, of_samples
from physgym.errors import ConfigError
from physgym.nn.predictor import Predictor, evaluating
from physgym.nn.transforms import Compose, Moments, Normalize, Transform, checked_fields
from physgym.sample import Sample, SampleSpec
from physgym.training.sources import Samples

AT_ONCE = 16 << 20  # bytes of stored samples


def fit_normalization(
    predictor: Predictor,
    spec: SampleSpec,
    statistics: Mapping[str, Moments],
    batches: Callable[[], Iterable[Mapping[str, Any]]],
) -> None:
    """Give every normalization that has none the moments of what it gets of the training samples.

    One that gets the fields as they are has their `statistics`. For one behind another transform in
    ``before_prediction``, that transform is applied to the samples, in evaluation mode.

    Args:
        predictor: The network with its transforms.
        spec: The fields of the samples.
        statistics: Moments of the fields as they are.
        batches: Gives these samples, batch by batch; called once for each normalization behind another transform.

    Raises:
        ConfigError: A transform returned no fields, or fields of another shape than the normalization was made for; or
            the samples do not have the fields that the network is fed as such.
        SampleError: A field is padded, and its mask is not among the samples.
    """
    earlier: list[nn.Module] = []
    for transform in in_order(predictor.transforms.before_prediction):
        if isinstance(transform, Normalize) and not transform.fitted:
            transform.fit(
                {**statistics, **_moments_behind(earlier, transform, predictor, spec, batches)}
                if earlier
                else statistics
            )
        if type(transform) is not Transform:
            earlier.append(transform)
    predictor.transforms.fit(statistics)


def in_order(transform: nn.Module) -> Iterator[nn.Module]:
    """Yield a transform; in place of transforms that are composed, each of them."""
    if type(transform) is Compose:
        for inner in transform.transforms:
            yield from in_order(inner)
    else:
        yield transform


@torch.no_grad()
def _moments_behind(
    earlier: list[nn.Module],
    normalize: Normalize,
    predictor: Predictor,
    spec: SampleSpec,
    batches: Callable[[], Iterable[Mapping[str, Any]]],
) -> dict[str, Statistics]:
    """Compute moments of what earlier transforms make of the fields that one normalizes."""
    if missing := [name for name in predictor.inputs if name not in spec]:
        raise ConfigError(
            f"the normalization behind {type(earlier[-1]).__name__} in before_prediction needs the moments of what "
            f"that gives, and these samples lack {missing}: give it some, Normalize.from_statistics(...)"
        )
    found: dict[str, Statistics] = {}
    with evaluating(predictor):
        for batch in batches():
            fields = predictor.tensors({name: batch[name] for name in predictor.inputs})
            for transform in earlier:
                fields = checked_fields(transform(fields), "before_prediction", transform)
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
