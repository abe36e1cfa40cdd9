"""Samples that are not physgym's: a `torch.utils.data.Dataset`, or a loader of your own."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset

from physgym.casting import as_arrays, as_field
from physgym.data.statistics import Statistics, of_samples
from physgym.errors import ConfigError, DatasetError
from physgym.sample import Field, FieldRole, Sample, SampleSpec
from physgym.spaces import Array
from physgym.training.random_state import generator_states, seed_generators, set_generator_states

PAIR = ("input", "target")  # names of the fields of a sample that is a pair, and their roles
STATISTICS_BATCH = 256  # samples that are read together for statistics
STATISTICS_SAMPLES = 1024  # how many of an endless loader the normalization is made from, at most


def as_samples(value: Any, batch_size: int) -> Any:
    """Return what a trainer takes for samples of torch; anything else as it is.

    Args:
        value: A `Subset` of samples of ours becomes a subset, which keeps its episodes and has statistics of its own;
            another dataset `TorchSamples`; a `DataLoader`, or an `IterableDataset`, a `Feed`.
        batch_size: Of the batches that are made of an iterable dataset.
    """
    if isinstance(value, Subset) and hasattr(inner := as_samples(value.dataset, batch_size), "subset"):
        return inner.subset(np.asarray(value.indices, np.int64))
    if isinstance(value, IterableDataset):
        return Feed(DataLoader(value, batch_size=batch_size))
    if isinstance(value, DataLoader):
        return Feed(value)
    if isinstance(value, Dataset) and not isinstance(getattr(value, "spec", None), SampleSpec):
        return TorchSamples(value)
    return value


class TorchSamples:
    """A map-style `torch.utils.data.Dataset` as samples of a training.

    Its items are dictionaries of fields, or pairs (input, target). Fields of dictionaries have no roles, so that a
    `Trainer` gets its inputs and outputs as arguments. Statistics are computed from all its samples, in one pass. Where
    it has an attribute ``episodes``, an integer for each sample, no episode is split; else every sample is an episode.

    Args:
        dataset: The dataset; it has a length.
        indices: Only these of its samples.

    Raises:
        ConfigError: Its samples are no fields.
        DatasetError: It is empty.
    """

    def __init__(self, dataset: Any, indices: Array | None = None) -> None:
        self.dataset = dataset
        self._indices = np.arange(len(dataset)) if indices is None else indices
        if not len(self._indices):
            raise DatasetError(f"the {type(dataset).__name__} has no samples")
        self._kind = type(dataset).__name__
        self.spec = _spec_of(_fields_of(dataset[int(self._indices[0])], self._kind), self._kind, _said_of(dataset))

    def __len__(self) -> int:
        return len(self._indices)

    def gather(self, indices: Array, fields: Sequence[str] | None = None) -> Sample:
        """Return the samples at the given indices, stacked."""
        names = list(self.spec) if fields is None else list(fields)
        rows = [int(row) for row in self._indices[indices]]
        many = getattr(self.dataset, "__getitems__", None)
        items = many(rows) if many is not None else [self.dataset[row] for row in rows]
        samples = [_fields_of(item, self._kind) for item in items]
        batch = {name: np.empty((len(rows), *self.spec[name].shape), self.spec[name].dtype) for name in names}
        for place, sample in enumerate(samples):
            for name in names:
                value = _array(sample.get(name), name, self._kind)
                if value.shape != (want := self.spec[name].shape):
                    raise DatasetError(
                        f"sample {rows[place]} of {self._kind} has field {name!r} of shape {value.shape}; the first "
                        f"one has {want}"
                    )
                batch[name][place] = as_field(value, batch[name].dtype, name, f"a {self._kind}")
        return batch

    @cached_property
    def statistics(self) -> Mapping[str, Statistics]:
        """Return the mean and standard deviation by field name, over these samples."""
        found = {name: Statistics.empty(field.shape) for name, field in self.spec.items()}
        for start in range(0, len(self), STATISTICS_BATCH):
            batch = self.gather(np.arange(start, min(start + STATISTICS_BATCH, len(self))))
            more = of_samples(self.spec, self.spec, batch)
            found = {name: known.merge(more[name]) for name, known in found.items()}
        return found

    def subset(self, indices: Array) -> TorchSamples:
        """Return the samples at the given indices."""
        return TorchSamples(self.dataset, self._indices[indices])

    def split(self, validation_fraction: float, seed: int = 0) -> tuple[TorchSamples, TorchSamples]:
        """Return training and validation samples that share no episode."""
        episodes = np.asarray(getattr(self.dataset, "episodes", np.arange(len(self.dataset))))[self._indices]
        known = np.unique(episodes)
        if len(known) < 2:
            raise ConfigError(f"a split needs at least two episodes, the {self._kind} has {len(known)}")
        held = min(len(known) - 1, max(1, round(validation_fraction * len(known))))
        chosen = np.isin(episodes, np.random.default_rng(seed).permutation(known)[:held])
        return self.subset(np.flatnonzero(~chosen)), self.subset(np.flatnonzero(chosen))


class Feed:
    """Batches of a loader of your own, in its order; what a batch is follows from `DataLoader`.

    Each epoch is a pass over it, before which the global generators of Python, NumPy and torch are seeded, so that a
    shuffling loader gives the same order when a training is repeated or resumed.

    Args:
        loader: A `DataLoader`, or another iterable of batches that can be iterated again.

    Attributes:
        spec: The fields of its first batch.

    Raises:
        ConfigError: Its batches are no fields.
        DatasetError: It is empty.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._kind = type(loader).__name__
        before = generator_states()
        try:
            first = next(iter(loader), None)
        finally:
            set_generator_states(before)
        if first is None:
            raise DatasetError(f"the {self._kind} has no samples")
        batch = {name: _array(value, name, self._kind) for name, value in _fields_of(first, self._kind).items()}
        self.spec = _spec_of(
            {name: value[0] for name, value in batch.items()}, self._kind, _said_of(getattr(loader, "dataset", None))
        )

    @property
    def num_batches(self) -> int | None:
        """Return the batches of a pass, None where nobody knows."""
        try:
            return len(self.loader)
        except TypeError:
            return None

    def batches(self, seed: int, skip: int = 0) -> Generator[dict[str, Tensor], None, None]:
        """Yield the batches of a pass: fields of shape (batch, *shape).

        Args:
            seed: Of the global generators before it.
            skip: Leave out so many, which were trained on before; the generators are then as they were before.
        """
        before = generator_states()
        seed_generators(seed)
        loaded = iter(self.loader)
        for _ in range(skip):
            next(loaded, None)
        if skip:
            set_generator_states(before)
        for item in loaded:
            yield {name: self._tensor(value, name) for name, value in _fields_of(item, self._kind).items()}

    def _tensor(self, value: Any, name: str) -> Tensor:
        if isinstance(value, Tensor):
            return value
        _array(value, name, self._kind)  # which refuses missing values, and what is no number
        return torch.as_tensor(value)

    @cached_property
    def statistics(self) -> Mapping[str, Statistics]:
        """Return mean and standard deviation by field name: over a pass, or its first samples if it has no end."""
        found = {name: Statistics.empty(field.shape) for name, field in self.spec.items()}
        for batch in self.first_batches():
            more = of_samples(self.spec, self.spec, batch)
            found = {name: known.merge(more[name]) for name, known in found.items()}
        return found

    def first_batches(self) -> Generator[dict[str, Array], None, None]:
        """Yield the batches that make the statistics; the generators are as they were before afterwards."""
        count, endless = 0, self.num_batches is None
        before = generator_states()
        try:
            for batch in self.batches(0):
                yield {name: batch[name].cpu().numpy() for name in self.spec}
                count += len(next(iter(batch.values())))
                if endless and count >= STATISTICS_SAMPLES:
                    break
        finally:
            set_generator_states(before)


def _fields_of(item: Any, kind: str) -> dict[str, Any]:
    """Return the fields of a sample or a batch."""
    if isinstance(item, Mapping) and item and all(isinstance(name, str) for name in item):
        return dict(item)
    if isinstance(item, (tuple, list)) and len(item) == len(PAIR):
        return dict(zip(PAIR, item, strict=True))
    what = f"a {type(item).__name__}" + (f" of {len(item)}" if hasattr(item, "__len__") else "")
    raise ConfigError(
        f"a sample of {kind} must be a dictionary of fields by name, or a pair (input, target); it is {what}. Wrap it "
        "so that its items are dictionaries of arrays, tensors or numbers"
    )


def _array(value: Any, name: str, kind: str) -> Array:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else as_arrays({name: value}, f"a {kind}")[name]
    if array.dtype.kind not in "biufc":
        raise ConfigError(
            f"field {name!r} of a sample of {kind} is a {type(value).__name__} of {array.dtype}, which is no array of "
            "numbers"
        )
    return array


def _said_of(dataset: Any) -> Mapping[str, Field]:
    """Return the declared fields of a dataset, or of the one in a `Subset` or `ConcatDataset`; mostly none."""
    while isinstance(dataset, (Subset, ConcatDataset)):
        dataset = dataset.dataset if isinstance(dataset, Subset) else dataset.datasets[0]
    spec = getattr(dataset, "spec", None)
    return spec if isinstance(spec, SampleSpec) else {}


def _spec_of(sample: Mapping[str, Any], kind: str, said: Mapping[str, Field]) -> SampleSpec:
    arrays = {name: _array(value, name, kind) for name, value in sample.items()}
    pair = tuple(arrays) == PAIR
    roles: dict[str, FieldRole] = {"input": "input", "target": "target"} if pair else {}
    fields = [Field(n, v.shape, v.dtype, roles.get(n, "additional"), "") for n, v in arrays.items()]
    for place, field in enumerate(fields):
        of = said.get(field.name)
        if of is not None and (of.shape, of.dtype.kind) == (field.shape, field.dtype.kind):
            fields[place] = replace(field, dimensions=of.dimensions, kind=of.kind, mask=of.mask)
    return SampleSpec(fields)
