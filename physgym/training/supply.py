"""The batches of a training: from a dataset, from a loader of your own, or from a source that produces samples."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from physgym.batched.rows import on_host
from physgym.data.differences import difference_statistics, drawn_differences
from physgym.data.statistics import Statistics, of_samples
from physgym.data.windows import without_windows
from physgym.errors import CheckpointError, ConfigError
from physgym.generation.sample_source import SampleSource
from physgym.loading.gather_processes import gathered_by_workers
from physgym.loading.loader import Loader
from physgym.loading.reading import Shuffle
from physgym.nn.optimization import Optimization
from physgym.nn.padding import Padding
from physgym.nn.predictor import Predictor
from physgym.sample import Sample
from physgym.spaces import Array
from physgym.training.batches import Batches, LastBatch, divide
from physgym.training.foreign import Feed
from physgym.training.history import TrainingProgress
from physgym.training.normalization import BatchesOf, fit_normalization, stored_batches
from physgym.training.random_state import seed_generators, seed_of
from physgym.training.ranks import Ranks
from physgym.training.resident import DeviceResident, ResidentSamples, resident_samples
from physgym.training.sources import IndexedSamples, Samples
from physgym.training.transfer import moved_ahead

STATISTICS_SAMPLES = 1024  # how many of an endless stream of samples the normalization is made from, at most

OTHER_STATE = "{path} is of a training that this one cannot continue: {problem}"


@dataclass(frozen=True)
class Batching:
    """Options of batches.

    Attributes:
        batch_size: Samples per batch.
        batches_per_epoch: Batches per epoch at most; None for all.
        shuffle: How stored samples are shuffled.
        last_batch: What happens to a last batch that is smaller.
        loader_workers: Processes that gather batches; 0 for a thread.
        seed: Of the order.
        device_resident: Whether stored samples are held on the device.
    """

    batch_size: int
    batches_per_epoch: int | None
    shuffle: Shuffle
    last_batch: LastBatch
    loader_workers: int
    seed: int
    device_resident: DeviceResident = "auto"


@dataclass(frozen=True)
class Learner:
    """The user of batches.

    Attributes:
        predictor: The network with its transforms.
        optimization: Loss and optimizer.
        loss_fields: Fields that the loss gets.
        ranks: The processes that train together.
        normalizes: Whether the transforms get the moments of the training samples.
        padding: Which values of padded fields are there.
    """

    predictor: Predictor
    optimization: Optimization
    loss_fields: tuple[str, ...]
    ranks: Ranks
    normalizes: bool
    padding: Padding

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """Return the fields of a batch: those that feed the network, those of the loss, and masks of padded ones."""
        return tuple(dict.fromkeys((*self.predictor.inputs, *self.loss_fields, *self.padding.masks)))

    def fit(self, samples: Samples | Feed) -> None:
        """Give the transforms, and the changes that the network predicts, the moments of training samples.

        Raises:
            ConfigError: The changes have no scale there.
        """
        predictor = self.predictor
        rows: Any = samples
        if any(samples.spec[name].shape != predictor.spec[name].shape for name in predictor.inputs):
            rows = without_windows(samples)  # of which an unrolled network is fed one by one
        if isinstance(samples, Feed):
            first = samples.first_batches
            batches: BatchesOf = lambda _: first()  # noqa: E731
        else:
            batches = partial(stored_batches, rows)
        fit_normalization(predictor, rows.spec, samples.statistics, batches, self.loss_fields)
        changes = self.predictor.changes
        if changes is not None and not changes.fitted:
            changes.fit(difference_statistics(samples, changes.pairs))

    def load(self, samples: Samples, batching: Batching, shuffle: Shuffle, **part: Any) -> Loader:
        """Return a loader of stored samples."""
        return Loader(
            samples,
            batching.batch_size,
            shuffle=shuffle,
            seed=batching.seed,
            fields=self.fields,
            pin_memory=self.predictor.device.type == "cuda",
            **part,
        )


class Supply(ABC):
    """The batches of a training.

    Args:
        batching: How they are made.
        learner: Who they are for.
    """

    def __init__(self, batching: Batching, learner: Learner) -> None:
        self.batching, self.learner = batching, learner

    @property
    def training(self) -> Samples | None:
        """Return the stored samples to train on, None where there are none."""
        return None

    @property
    def source(self) -> SampleSource | None:
        """Return the producer of the samples, None where nothing produces them."""
        return None

    @property
    def num_batches(self) -> int:
        """Return the batches in an epoch, on each process."""
        assert self.batching.batches_per_epoch is not None
        return self.batching.batches_per_epoch

    @property
    def least(self) -> int:
        """Return how many samples the network needs in every part in which a gradient is computed."""
        return 1

    @property
    def episodes(self) -> Array:
        """Return the episode of each sample of the batch that is trained on, shape (batch,); empty without a source."""
        return np.zeros(0, np.int64)

    @abstractmethod
    def batches(self, progress: TrainingProgress) -> Generator[dict[str, Tensor], None, None]:
        """Yield the batches of the current epoch that are still to be trained on, on the network's device."""

    def begin_step(self) -> None:
        """Count the last batch as trained on."""
        return

    def naming(self, progress: TrainingProgress) -> Callable[[], list[Array]]:
        """Return what gives episodes and steps of the samples of the current batch, also later.

        Each is of shape (batch,); there are none where they are unknown.
        """
        return list

    # --- for checkpoints

    def begin(self) -> None:
        """Begin a training that may be resumed, and has no checkpoint yet."""
        return

    def order_state(self, progress: TrainingProgress) -> dict[str, Any] | None:
        """Return the position in the order of stored samples; None without such an order."""
        return None

    def source_state(self) -> Any:
        """Return the position of the source after the last batch that was trained on; None without such a source."""
        return None

    def resume(self, order: dict[str, Any] | None, source: Any, path: Path) -> None:
        """Continue from a checkpoint.

        Args:
            order: The value of `order_state`.
            source: The value of `source_state`.
            path: The checkpoint, for messages.

        Raises:
            ConfigError: These are not the samples of the checkpoint.
        """
        return


class FeedSupply(Supply):
    """The batches of a loader of your own.

    Args:
        feed: The loader.
        batching: How batches are made elsewhere.
        learner: Who they are for.
    """

    def __init__(self, feed: Feed, batching: Batching, learner: Learner) -> None:
        super().__init__(batching, learner)
        self.feed = feed
        if learner.normalizes:
            learner.fit(feed)

    @property
    def num_batches(self) -> int:
        """Return the batches in an epoch."""
        limit, length = self.batching.batches_per_epoch, self.feed.num_batches
        assert limit is not None or length is not None
        return min(number for number in (limit, length) if number is not None)

    def batches(self, progress: TrainingProgress) -> Generator[dict[str, Tensor], None, None]:
        """Yield the batches of the current epoch that are still to be trained on."""
        remaining, seed = self.num_batches - progress.batch, seed_of(self.batching.seed, progress.epoch)
        for batch in islice(self.feed.batches(seed, progress.batch), remaining):
            yield self.learner.predictor.tensors({name: batch[name] for name in self.learner.fields})


class StoredSupply(Supply):
    """The batches of stored samples.

    Args:
        samples: The samples to train on.
        batching: How batches are made.
        learner: Who they are for.
        normalize: Whether the transforms get the moments of these samples now, if they get any.
        source: The producer of the samples.
        order: The position in their order that is continued.
    """

    def __init__(
        self,
        samples: Samples,
        batching: Batching,
        learner: Learner,
        *,
        normalize: bool = True,
        source: SampleSource | None = None,
        order: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(batching, learner)
        self._samples, self._source, self._order = samples, source, order
        if learner.normalizes and normalize:
            learner.fit(samples)

    @property
    def training(self) -> Samples:
        """Return the samples."""
        return self._samples

    @property
    def source(self) -> SampleSource | None:
        """Return the producer of the samples, None where they were there before."""
        return self._source

    @cached_property
    def _division(self) -> Batches:
        return divide(
            self.learner.predictor,
            len(self._samples),
            self.batching.batch_size,
            last_batch=self.batching.last_batch,
            ranks=self.learner.ranks.size,
            accumulate=self.learner.optimization.accumulate,
            at_most=self.batching.batches_per_epoch,
        )

    @property
    def num_batches(self) -> int:
        """Return the batches in an epoch, on each process."""
        batching = self.batching
        count, ranks = len(self._samples), self.learner.ranks.size
        return self._division.count(count, batching.batch_size, ranks, batching.batches_per_epoch)

    @property
    def least(self) -> int:
        """Return how many samples the network needs in every part in which a gradient is computed."""
        return self._division.least

    @cached_property
    def loader(self) -> Loader:
        """Return the loader, made when it is needed first."""
        rank, size = self.learner.ranks.rank, self.learner.ranks.size
        part = {"drop_last": self._division.drop_last, "min_batch": self._division.min_batch}
        made = self.learner.load(
            self._samples, self.batching, self.batching.shuffle, rank=rank, world_size=size, **part
        )
        if self._order is not None:
            made.load_state_dict(self._order)
        return made

    @cached_property
    def _resident(self) -> ResidentSamples | None:
        """Return the samples on the device; None where they are streamed there."""
        batching, device = self.batching, self.learner.predictor.device
        return resident_samples(self._samples, self.loader, device, batching.device_resident, batching.loader_workers)

    def batches(self, progress: TrainingProgress) -> Generator[dict[str, Tensor], None, None]:
        """Yield the batches of the current epoch that are still to be trained on, on the network's device."""
        loader, remaining = self.loader, self.num_batches - progress.batch
        workers, ranks, seed = self.batching.loader_workers, self.learner.ranks, self.batching.seed
        loader.set_epoch(progress.epoch, progress.batch)
        loaded: Any = iter(loader)
        if workers and remaining:
            loaded = gathered_by_workers(loader, progress.epoch, progress.batch, workers)
        move = partial(self.learner.predictor.tensors, device=ranks.device)
        moved = moved_ahead(islice(loaded, remaining), move, ranks.device)
        if self._resident is not None:
            moved = islice(self._resident.batches(loader, progress.epoch, progress.batch), remaining)
        with closing(loaded):
            for batch in moved:
                if ranks.size > 1:
                    # a state for each process would fit only as many of them
                    seed_generators(seed_of(seed, ranks.rank, progress.step))
                yield batch

    def naming(self, progress: TrainingProgress) -> Callable[[], list[Array]]:
        """Return what gives episodes and steps of the samples of the current batch; none where they have no names."""
        return partial(self._names, progress.epoch, progress.batch)

    def _names(self, epoch: int, batch: int) -> list[Array]:
        samples = self._samples
        if not isinstance(samples, IndexedSamples):
            return []
        rows = self.loader.indices(epoch, batch)
        return [samples.index(name)[rows] for name in ("episode", "step")]

    def order_state(self, progress: TrainingProgress) -> dict[str, Any]:
        """Return the position in the order of the samples."""
        return {**self.loader.state_dict(), "epoch": progress.epoch, "batch": progress.batch}

    def resume(self, order: dict[str, Any] | None, source: Any, path: Path) -> None:
        """Continue at a position in the order of the samples.

        Raises:
            ConfigError: It is that of other samples, or there is none.
        """
        if order is None:
            raise ConfigError("it has no place in the order of the samples")
        self._order = order
        self.__dict__.pop("loader", None)
        assert self.loader


class FirstEpochSupply(Supply):
    """Samples that a source is to produce before the first epoch.

    Args:
        source: The source.
        batching: How batches are made.
        learner: Who they are for.
    """

    def __init__(self, source: SampleSource, batching: Batching, learner: Learner) -> None:
        super().__init__(batching, learner)
        self._source = source
        self._order: dict[str, Any] | None = None
        self._checkpoint: Path | None = None
        _check_batches(batching, learner)

    @property
    def source(self) -> SampleSource:
        """Return the producer of the samples."""
        return self._source

    @property
    def missing(self) -> int:
        """Return the number of samples that are still to be stored; those of an earlier run count."""
        return self.num_batches * self.batching.batch_size - self._source.stored

    def produce(self) -> Iterator[int]:
        """Have the source store what is missing; yield the size of every batch."""
        missing = self.missing
        expect(self._source, missing)
        while missing > 0:
            size = min(self.batching.batch_size, missing)
            self._source.draw(size)
            missing -= size
            yield size

    def batches(self, progress: TrainingProgress) -> Generator[dict[str, Tensor], None, None]:
        """Refuse: the samples are not there yet."""
        raise AssertionError("the samples are to be produced first")

    def resume(self, order: dict[str, Any] | None, source: Any, path: Path) -> None:
        """Continue at a position in the order of the samples, once they are there."""
        self._order, self._checkpoint = order, path

    def stored(self, samples: Samples, *, normalize: bool) -> StoredSupply:
        """Return the batches of the samples that were produced.

        Args:
            samples: Those to train on.
            normalize: Whether the transforms get their moments, if they get any.

        Raises:
            CheckpointError: The checkpoint that is resumed has others.
        """
        supply = StoredSupply(
            samples, self.batching, self.learner, normalize=normalize, source=self._source, order=self._order
        )
        if self._order is not None:
            try:
                assert supply.loader
            except ConfigError as error:
                raise CheckpointError(OTHER_STATE.format(path=self._checkpoint, problem=error)) from error
        return supply


@dataclass
class Drawn:
    """A batch of a source: its samples, their names if the source has them, and the source's position after it."""

    samples: Sample
    names: Any
    position: Any


class FreshSupply(Supply):
    """Fresh samples in every batch, from a source that produces them meanwhile.

    Args:
        source: The source.
        batching: How batches are made.
        learner: Who they are for.
    """

    def __init__(self, source: SampleSource, batching: Batching, learner: Learner) -> None:
        super().__init__(batching, learner)
        self._source = source
        self._least = _check_batches(batching, learner).least
        self._waiting: deque[Drawn] = deque()  # drawn for the statistics, yet to be trained on
        self._next: Drawn | None = None  # the batch that is to be trained on next
        self._trained: Drawn | None = None  # the batch of the last step

    @property
    def source(self) -> SampleSource:
        """Return the producer of the samples."""
        return self._source

    @property
    def least(self) -> int:
        """Return how many samples the network needs in every part in which a gradient is computed."""
        return self._least

    @property
    def episodes(self) -> Array:
        """Return the episode of each sample of the batch that is trained on, shape (batch,)."""
        names = None if self._next is None else self._next.names
        return super().episodes if names is None else np.asarray(names.episodes)

    def prepare(self, progress: TrainingProgress, epochs: int) -> None:
        """Prepare the source for the batches to come, and make the normalization from the first ones.

        Args:
            progress: Where the training is.
            epochs: Epochs in all.
        """
        size = self.batching.batch_size
        expect(self._source, (epochs * self.num_batches - progress.step) * size)
        if not self.learner.normalizes or progress.step or self._waiting:
            return
        spec, fields = self._source.spec, self.learner.fields
        statistics = {name: Statistics.empty(spec[name].shape) for name in fields}
        changes = self.learner.predictor.changes
        pairs = {} if changes is None or changes.fitted else changes.pairs
        differences = {output: Statistics.empty(spec[output].shape) for output in pairs}
        for _ in range(min(self.num_batches, math.ceil(STATISTICS_SAMPLES / size))):
            batch = self._draw()
            arrays = {name: on_host(value) for name, value in batch.samples.items()}  # once, where they are tensors
            more = of_samples(spec, fields, arrays)
            statistics = {name: known.merge(more[name]) for name, known in statistics.items()}
            changed = drawn_differences(spec, arrays, pairs)
            differences = {name: known.merge(changed[name]) for name, known in differences.items()}
            self._waiting.append(batch)
        batches = [{name: on_host(value) for name, value in batch.samples.items()} for batch in self._waiting]
        fit_normalization(self.learner.predictor, spec, statistics, lambda _: batches, self.learner.loss_fields)
        if changes is not None and pairs:
            changes.fit(differences)

    def _draw(self) -> Drawn:
        """Draw a batch, with the position after it: others may be drawn before it is trained on."""
        samples = self._source.draw(self.batching.batch_size)
        return Drawn(samples, self._source.drawn, self._source.state_dict())

    def batches(self, progress: TrainingProgress) -> Generator[dict[str, Tensor], None, None]:
        """Yield the batches of the current epoch that are still to be trained on, on the network's device."""
        while progress.batch < self.num_batches:
            self._next = self._waiting.popleft() if self._waiting else self._draw()
            yield self.learner.predictor.tensors(self._next.samples)

    def begin_step(self) -> None:
        """Count the last batch as trained on."""
        self._trained = self._next

    def naming(self, progress: TrainingProgress) -> Callable[[], list[Array]]:
        """Return what gives episodes and steps of the samples of the current batch; none where they have no names."""
        names = None if self._trained is None else self._trained.names
        return list if names is None else lambda: [names.episodes, names.steps]

    def begin(self) -> None:
        """Begin at the first sample: what a killed training has stored is trained on as if it came now."""
        self._source.load_state_dict({})

    def source_state(self) -> Any:
        """Return the position of the source after the last batch that was trained on: others are drawn again."""
        return self._source.state_dict() if self._trained is None else self._trained.position

    def resume(self, order: dict[str, Any] | None, source: Any, path: Path) -> None:
        """Continue at a position of the source."""
        self._source.load_state_dict(source)


def _check_batches(batching: Batching, learner: Learner) -> Batches:
    """Return the division of a source's samples into full batches; raise ConfigError for too small ones."""
    size = batching.batch_size
    assert batching.batches_per_epoch is not None
    accumulate = learner.optimization.accumulate
    return divide(learner.predictor, batching.batches_per_epoch * size, size, accumulate=accumulate)


def expect(source: SampleSource, samples: int) -> None:
    """Prepare a source for a number of samples, unless it has begun: it makes no steps beyond them."""
    if samples > 0 and not source.begun:
        source.expect(samples)


def supply_of(given: Any, source: SampleSource | None, batching: Batching, learner: Learner, *, fresh: bool) -> Supply:
    """Return the batches of a training.

    Args:
        given: Samples to train on, or a loader of your own.
        source: In place of them, what produces samples.
        batching: How batches are made.
        learner: Who they are for.
        fresh: Whether every batch of a source is a new one.

    Raises:
        ConfigError: There is a batch of one sample, on which the network cannot be trained.
    """
    if source is None:
        return (FeedSupply if isinstance(given, Feed) else StoredSupply)(given, batching, learner)
    return (FreshSupply if fresh else FirstEpochSupply)(source, batching, learner)
