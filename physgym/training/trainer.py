"""`Trainer`: supervised training of a network on samples, in one visible loop."""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn

from physgym.data.loader import Loader, Shuffle
from physgym.data.statistics import Statistics
from physgym.errors import ConfigError, DatasetError, DivergedError
from physgym.nn.optimization import Optimization
from physgym.nn.predictor import Predictor, evaluating, field_names
from physgym.nn.transforms import Moments, Transforms
from physgym.sample import Sample, SampleSpec
from physgym.spaces import Array
from physgym.training.callbacks import Checkpoints, ProgressBar, TensorBoard
from physgym.training.events import Callback, Callbacks
from physgym.training.interrupt import Interrupt

Produce = Literal["first_epoch", "always"]

STATISTICS_SAMPLES = 1024  # how many of an endless stream of samples the normalization is made from, at most

EMPTY = "the {what} has no samples; generate some first"
BOTH = "give either a dataset or a source of samples, not {what}"
NO_LENGTH = "a source of samples has no end: say how long an epoch is with batches_per_epoch"
NOT_STORED = 'produce="first_epoch" reuses samples, but the source stores none. Store them, or produce="always".'
NOT_MINE = "the optimization has no parameter of the network that is to be trained; build it with that network"
FIXED = "a Predictor has its {name} already; leave {name} out, or pass its network"
MISFIT = "the predictor was made for field {name!r} of shape {want}; the samples have {got}"
DIVERGED = (
    "the loss is {loss} in epoch {epoch}, batch {batch}{cause}. Lower the learning rate, clip the gradient "
    "(Optimization(clip_norm=...)), or look for bad samples; the network has the weights from before this batch."
)


class Samples(Protocol):
    """A stored set of samples; `physgym.SampleDataset` is one."""

    @property
    def spec(self) -> SampleSpec:
        """The fields."""
        ...

    @property
    def statistics(self) -> Mapping[str, Moments]:
        """Mean and standard deviation by field name, over these samples and no others."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: Array, fields: Sequence[str] | None = None) -> Sample:
        """The samples at the given indices: fields of shape (n, *shape). See `physgym.data.loader.Loadable`."""
        ...

    def split(self, validation_fraction: float, seed: int) -> tuple[Samples, Samples]:
        """Training and validation samples that share no episode."""
        ...


class SampleSource(Protocol):
    """What produces samples while training; `physgym.data.generate.SampleStream` is one."""

    @property
    def spec(self) -> SampleSpec:
        """The fields."""
        ...

    def draw(self, batch_size: int) -> Sample:
        """The next samples, as soon as there are so many: fields of shape (batch_size, *shape)."""
        ...

    def dataset(self) -> Samples | None:
        """All samples drawn so far, None where they are not stored."""
        ...

    def close(self) -> None:
        """End the production; calling it again does no harm."""
        ...


@dataclass
class History:
    """What a training has done.

    Attributes:
        epochs: For each completed epoch the means over its samples by name: "loss", what `Optimization.transform_loss`
            adds, both with the prefix "validation_" where there is validation; also "epoch" (from 1), "lr",
            "seconds", "samples".
        interrupted: Whether Ctrl-C ended it before the last epoch was completed.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    interrupted: bool = False

    def __getitem__(self, name: str) -> list[float]:
        """A value over the epochs that have it."""
        return [epoch[name] for epoch in self.epochs if name in epoch]


class Trainer:
    """Trains a network on samples: those of a dataset, or of simulations that run meanwhile.

    Args:
        network: The network, with its initial weights; a module, or a `Predictor` to train it further with the
            normalization that it has.
        dataset: Samples to train on.
        source: In place of a dataset, what produces samples. The trainer closes it once it needs no more.
        produce: When the source produces: "first_epoch" draws ``batches_per_epoch`` batches once, then trains on them
            in all epochs as on a dataset; "always" trains on fresh samples alone.
        epochs: How many epochs to train.
        batch_size: Samples per batch.
        batches_per_epoch: Batches per epoch at most, of all by default; needed with a source.
        shuffle: How stored samples are shuffled, see `physgym.data.Loader`: by default as fits the memory that is
            free. Samples about as large as that are shuffled the same way in every run only if this says how.
        validation: Fraction of the episodes to hold out, or samples of their own; 0 or None for no validation. A
            source that always produces has nothing to hold out, since it shows every sample once: its training loss
            is one on unseen samples.
        optimization: Loss and optimizer; the mean squared error and Adam by default.
        session: Folder for checkpoints (``networks/``) and TensorBoard (``stats/``); None writes nothing.
        seed: Of the split, of the order of the samples, and of the global generators of Python, NumPy and torch (for
            dropout and the like), which `fit` seeds when it starts. Initial weights are drawn before, where the
            network is built. On the CPU, same weights, seed and number of threads give the same result bit for bit.
        device: Where to train; the network is moved there.
        callbacks: Called at the events, before the trainer's own. A `TensorBoard` or `Checkpoints` among them takes
            the place of the trainer's own.
        progress: Whether to show a progress bar.
        inputs: Fields that feed the network, in the order of its arguments; by default those of role "input".
        outputs: Fields that it predicts; by default those of role "target".
        loss_fields: Fields that the loss gets from the samples; by default `outputs`.
        transforms: What happens to fields around the network; by default a normalization.
        normalize: Whether to normalize where no transforms are given; with the statistics of the training samples
            alone, which stay as they are from then on.

    Attributes:
        predictor: The network with its fields and transforms; what to use after the training.
        optimization: Loss and optimizer.
        training: Samples to train on; None as long as a source has not produced them.
        validation: Samples held out, None without validation.
        history: What was done so far.
        epoch: Number of completed epochs.
        batch: Number of completed batches in the current epoch.
        step: Number of completed batches in all.

    Raises:
        ConfigError: Arguments contradict each other, or the network does not fit the samples.
        DatasetError: There are no samples.
    """

    def __init__(
        self,
        network: nn.Module | Predictor,
        dataset: Samples | None = None,
        *,
        source: SampleSource | None = None,
        produce: Produce = "first_epoch",
        epochs: int,
        batch_size: int = 32,
        batches_per_epoch: int | None = None,
        shuffle: Shuffle = True,
        validation: float | Samples | None = 0.1,
        optimization: Optimization | None = None,
        session: str | Path | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        loss_fields: Sequence[str] | None = None,
        transforms: Transforms | None = None,
        normalize: bool = True,
    ) -> None:
        if produce not in get_args(Produce):
            raise ConfigError(f"produce must be one of {get_args(Produce)}, not {produce!r}")
        numbers = {"epochs": epochs, "batch_size": batch_size, "batches_per_epoch": batches_per_epoch}
        for name, number in numbers.items():
            if number is not None and number < 1:
                raise ConfigError(f"{name} must be at least 1, not {number}")
        if seed < 0:
            raise ConfigError(f"seed must not be negative, got {seed}")
        check_device(device)
        self.epochs, self.batch_size, self.batches_per_epoch = epochs, batch_size, batches_per_epoch
        self.seed, self.source, self.shuffle = seed, source, shuffle
        self.training: Samples | None
        self.validation: Samples | None
        self._held_out = validation
        self._always = source is not None and produce == "always"
        self._drawn: deque[Sample] = deque()  # drawn for the statistics, yet to be trained on
        self._loader: Loader | None = None  # of the training samples
        if dataset is not None and source is None:
            spec = dataset.spec
            self.training, self.validation = self._divide(dataset)
        elif source is not None and dataset is None:
            if batches_per_epoch is None:
                raise ConfigError(NO_LENGTH)
            spec = source.spec
            self.training, self.validation = None, None if isinstance(validation, (int, float)) else validation
        else:
            raise ConfigError(BOTH.format(what="none" if dataset is None else "both"))

        if isinstance(network, Predictor):
            self.predictor = _checked(network, spec, inputs=inputs, outputs=outputs, transforms=transforms)
            self._normalizes = False
        else:
            inputs, outputs = field_names(spec, inputs, outputs)
            self._normalizes = normalize and transforms is None
            if self._normalizes:
                transforms = Transforms.normalizing(spec, inputs, outputs)
            self.predictor = Predictor(network, spec, inputs=inputs, outputs=outputs, transforms=transforms)
        self.predictor.to(device)
        self.loss_fields = self.predictor.outputs if loss_fields is None else tuple(loss_fields)
        for name in self.loss_fields:
            if name not in spec:
                raise ConfigError(f"loss_fields names {name!r}, which the samples lack; they have {list(spec)}")
        self.fields = tuple(dict.fromkeys((*self.predictor.inputs, *self.loss_fields)))

        self.optimization = Optimization(self.predictor.network) if optimization is None else optimization
        mine = {id(parameter) for parameter in self.predictor.parameters()}
        if not any(id(parameter) in mine for parameter in self.optimization.parameters):
            raise ConfigError(NOT_MINE)
        self.optimization.to(device)

        self.history = History()
        self.epoch = self.batch = self.step = 0
        own: list[Callback] = [ProgressBar()] if progress else []
        if session is not None and not any(isinstance(callback, TensorBoard) for callback in callbacks):
            own.append(TensorBoard(Path(session) / "stats"))
        if session is not None and not any(isinstance(callback, Checkpoints) for callback in callbacks):
            own.append(Checkpoints(Path(session) / "networks"))
        self._callbacks = Callbacks((*callbacks, *own))
        self._means = Means()  # of the current epoch
        if self.training is not None:
            self._normalize(self.training)

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        if self.training is None:
            assert self.batches_per_epoch is not None
            return self.batches_per_epoch
        available = math.ceil(len(self.training) / self.batch_size)
        return min(available, self.batches_per_epoch or available)

    def fit(self) -> History:
        """Train until all epochs are completed.

        Ctrl-C ends it after the current optimization step: the last state is saved as a checkpoint where there is a
        session, and ``history.interrupted`` is set. Calling it again continues from there, unless it would need a
        source, which is closed.

        Returns:
            The history, `Trainer.history`.

        Raises:
            DivergedError: A loss is not finite.
            ConfigError: The network does not fit the samples in the loss.
            DatasetError: There are no samples.
            CheckpointError: A checkpoint cannot be written.
        """
        if self.step == 0:
            _seed_everything(self.seed)
        self.history.interrupted = False
        try:
            with Interrupt() as interrupt:
                try:
                    self._train(interrupt)
                except KeyboardInterrupt:
                    self.history.interrupted = self.epoch < self.epochs
            self._callbacks.emit("train_end", self, self.history)
        finally:
            self.predictor.eval()
            self._callbacks.close()
            if self.source is not None:
                self.source.close()
        return self.history

    def _train(self, interrupt: Interrupt) -> None:
        """The training loop."""
        emit, optimization = self._callbacks.emit, self.optimization
        emit("train_begin", self)
        self._prepare()
        while self.epoch < self.epochs:
            emit("epoch_begin", self)
            self.predictor.train()
            start = time.monotonic()
            for arrays in self._batches():  # field name -> (batch, *shape)
                emit("batch_begin", self)
                losses = self.losses(arrays)  # the forward pass, see below
                values = self._finite(losses, arrays)
                with interrupt.held():
                    optimization.step(losses["loss"])
                    optimization.end_batch()
                    self.batch, self.step = self.batch + 1, self.step + 1
                    self._means.add(values, samples=_length(arrays))
                    emit("batch_end", self, values)
            record = self._means.values() | self._validate()
            record |= {"lr": optimization.lr, "seconds": time.monotonic() - start, "samples": self._means.samples}
            with interrupt.held():
                optimization.end_epoch(record.get("validation_loss", record["loss"]))
                self.epoch, self.batch, self._means = self.epoch + 1, 0, Means()
                self.history.epochs.append({"epoch": self.epoch, **record})
                emit("epoch_end", self, self.history.epochs[-1])

    def losses(self, arrays: Mapping[str, Array | Tensor]) -> dict[str, Tensor]:
        """The forward pass of a batch: prediction, transforms, loss.

        Args:
            arrays: Fields of shape (batch, *shape): those that feed the network, and those of the loss.

        Returns:
            Scalars by name; "loss" is the one to minimize.
        """
        predictor = self.predictor
        fields = predictor.tensors(arrays)  # name -> (batch, *shape)
        prediction = predictor(fields)  # name -> (batch, *shape), in units of the network
        target = {name: fields[name] for name in self.loss_fields}
        return self.optimization.losses(*predictor.transforms.before_loss(prediction, target))

    @torch.no_grad()
    def evaluate(self, samples: Samples) -> dict[str, float]:
        """The means over samples of the loss, and of what `Optimization.transform_loss` adds, by name."""
        means = Means()
        with evaluating(self.predictor), closing(iter(self._load(samples, shuffle=False))) as batches:
            for tensors in batches:
                means.add(_floats(self.losses(tensors)), samples=_length(tensors))
        return means.values()

    # --- samples

    def _divide(self, samples: Samples) -> tuple[Samples, Samples | None]:
        """The samples to train on, and those to validate on."""
        if len(samples) == 0:
            raise DatasetError(EMPTY.format(what="dataset"))
        training, validation = samples, None
        if not isinstance(self._held_out, (int, float)):
            validation = self._held_out
        elif self._held_out:
            training, validation = samples.split(self._held_out, self.seed)
        for what, part in (("training part of the dataset", training), ("validation part", validation)):
            if part is not None and len(part) == 0:
                raise DatasetError(EMPTY.format(what=what))
        return training, validation

    def _prepare(self) -> None:
        """With a source: produce what must be there before the first epoch."""
        if self.source is None:
            return
        assert self.batches_per_epoch is not None
        if not self._always and self.training is None:
            self._callbacks.emit("data_generation_begin", self)
            for _ in range(self.batches_per_epoch):
                self.source.draw(self.batch_size)
                self._callbacks.emit("data_generation_batch_end", self, self.batch_size)
            self._callbacks.emit("data_generation_end", self)
            self.source.close()
            produced = self.source.dataset()
            if produced is None:
                raise ConfigError(NOT_STORED)
            self.training, self.validation = self._divide(produced)
            self._normalize(self.training)
        elif self._always and self._normalizes and self.step == 0 and not self._drawn:
            count = min(self.batches_per_epoch, math.ceil(STATISTICS_SAMPLES / self.batch_size))
            statistics = {name: Statistics.empty(self.source.spec[name].shape) for name in self.fields}
            for _ in range(count):
                batch = self.source.draw(self.batch_size)
                statistics = {name: known.merge(Statistics.of(batch[name])) for name, known in statistics.items()}
                self._drawn.append(batch)
            self.predictor.transforms.fit(statistics)

    def _normalize(self, samples: Samples) -> None:
        """Make the trainer's own normalization from training samples."""
        if self._normalizes:
            self.predictor.transforms.fit(samples.statistics)

    def _load(self, samples: Samples, shuffle: Shuffle) -> Loader:
        pinned = self.predictor.device.type == "cuda"
        return Loader(samples, self.batch_size, shuffle=shuffle, seed=self.seed, fields=self.fields, pin_memory=pinned)

    def _batches(self) -> Iterator[Mapping[str, Array | Tensor]]:
        """The batches of the current epoch that are still to be trained on."""
        if self.training is not None:
            if self._loader is None:
                self._loader = self._load(self.training, self.shuffle)
            self._loader.set_epoch(self.epoch, self.batch)
            with closing(iter(self._loader)) as batches:
                yield from islice(batches, self.num_batches - self.batch)
            return
        assert self.source is not None
        while self.batch < self.num_batches:
            yield self._drawn.popleft() if self._drawn else self.source.draw(self.batch_size)

    def _validate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        return {f"validation_{name}": value for name, value in self.evaluate(self.validation).items()}

    def _finite(self, losses: Mapping[str, Tensor], arrays: Mapping[str, Array | Tensor]) -> dict[str, float]:
        """The values of a batch as numbers; raises if the loss is not finite."""
        values = _floats(losses)
        if not math.isfinite(values["loss"]):
            tensors = self.predictor.tensors(arrays)
            bad = [name for name, value in tensors.items() if not value.isfinite().all()]
            cause = f", whose samples are not finite in {bad}" if bad else ""
            raise DivergedError(
                DIVERGED.format(loss=values["loss"], epoch=self.epoch + 1, batch=self.batch + 1, cause=cause)
            )
        return values


class Means:
    """Means by name over batches of unequal size."""

    def __init__(self) -> None:
        self.samples = 0
        self._sums: dict[str, float] = {}

    def add(self, values: Mapping[str, float], samples: int) -> None:
        """Add the means over a batch."""
        self.samples += samples
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * samples

    def values(self) -> dict[str, float]:
        """The means over all samples added."""
        return {name: total / self.samples for name, total in self._sums.items()}


def _checked(predictor: Predictor, spec: SampleSpec, **fixed: Sequence[str] | Transforms | None) -> Predictor:
    """A predictor as it is given, if it fits the samples."""
    for name, value in fixed.items():
        if value is not None:
            raise ConfigError(FIXED.format(name=name))
    for name, wanted in predictor.spec.items():
        got = spec[name].shape if name in spec else None
        if got != wanted.shape:
            raise ConfigError(MISFIT.format(name=name, want=wanted.shape, got=got))
    return predictor


def check_device(device: torch.device | str) -> None:
    """Raise ConfigError unless torch can compute on a device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - code of the user may draw from the global generator
    torch.manual_seed(seed)


def _floats(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value.item() if isinstance(value, Tensor) else float(value) for name, value in values.items()}


def _length(arrays: Mapping[str, Array | Tensor]) -> int:
    return len(next(iter(arrays.values())))
