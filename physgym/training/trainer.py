"""`Trainer`: supervised training of a network on samples, in one visible loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from physgym.checks import integer, one_of
from physgym.data.fed_back_rows import warn_of_feedback
from physgym.data.learned import Learned
from physgym.data.provenance import warn_of_overlap
from physgym.errors import CheckpointError, ConfigError, DatasetError, DivergedError
from physgym.events import Callback
from physgym.generation.sample_source import SampleSource
from physgym.interrupt import Interrupt
from physgym.loading.gather_processes import LOST, is_death
from physgym.loading.reading import Shuffle
from physgym.nn.optimization import Optimization
from physgym.nn.predictor import Predictor
from physgym.nn.transforms import Transforms
from physgym.spaces import Array
from physgym.system.freed_memory import keep_freed_memory
from physgym.training.argument_checks import (
    LARGEST,
    check_alike,
    check_device,
    check_feed,
    check_parts,
    check_samples,
    check_source,
    check_validation,
    checked_loss_fields,
)
from physgym.training.batch_step import BatchStep
from physgym.training.batches import LastBatch, check_last_batch
from physgym.training.callback_list import CallbackList, own_callbacks
from physgym.training.checkpointing import Checkpoints
from physgym.training.diagnosis import Diagnosis, OnNonFinite
from physgym.training.foreign import Feed, as_samples
from physgym.training.history import History, TrainingProgress
from physgym.training.monitors import check_saved, check_watched, loss_names
from physgym.training.predictors import PredictedForm, predictor_of
from physgym.training.ranks import Ranks
from physgym.training.resident import DeviceResident, check_resident
from physgym.training.resume import Resumable, settings_of
from physgym.training.sources import Samples
from physgym.training.supply import Batching, FirstEpochSupply, FreshSupply, Learner, supply_of
from physgym.training.training_session import TrainingSession, check_session
from physgym.training.unroll import Unroll, as_unroll
from physgym.training.unrolled_loss import loss_of
from physgym.training.unrolled_samples import check_produced, fields_of, padding_of, unroll_for, windows_of
from physgym.training.validation import ComparesCode, Evaluation, Validation

Produce = Literal["first_epoch", "always"]

log = logging.getLogger(__name__)

ALONE = "several processes train from a dataset alone: generate the samples first, then pass the dataset"


class Trainer:
    """Trains a network on the samples of a dataset, or of simulations that run meanwhile.

    Args:
        network: The network, with its initial weights; a module, or a `Predictor` to train it further with the
            normalization that it has.
        dataset: Samples to train on: a `physgym.SampleDataset`, or what torch has: a `Dataset` whose items are
            dictionaries of fields or pairs (input, target), a `Subset` of either, or a `DataLoader` or
            `IterableDataset` of your own, whose batches come as they are.
        source: In place of a dataset, what produces samples. The trainer closes it once it needs no more. Where it
            has no predictor, simulations that ask for a prediction are answered by the network in training, with the
            weights of the last completed epoch.
        produce: When the source produces: "first_epoch" draws ``batches_per_epoch`` batches once, then trains on them
            in all epochs as on a dataset; "always" trains on fresh samples alone.
        epochs: How many epochs to train.
        batch_size: Samples per batch.
        batches_per_epoch: Batches per epoch at most, of all by default; needed with a source.
        shuffle: How stored samples are shuffled, see `physgym.data.Loader`: by default as fits the memory that is
            free. Samples about as large as that are shuffled the same way in every run only if this says how.
        last_batch: What happens where the samples do not fill the last batch of an epoch. "keep" trains on the smaller
            one, "join" adds it to the one before, "drop" leaves it out. With "auto" it is kept, but for a single sample
            that the network cannot be trained on, as with batch normalization. That joins the batch before.
        validation: Fraction of the episodes to hold out, or samples of their own; 0 or None for no validation. A
            source that always produces has nothing to hold out, since it shows every sample once: its training loss
            is one on unseen samples.
        optimization: Loss and optimizer; the mean squared error and Adam by default.
        session: Folder for checkpoints (``networks/``) and TensorBoard (``stats/``); None writes nothing.
        seed: Of the split, of the order of the samples, and of the global generators of Python, NumPy and torch (for
            dropout and the like), which `fit` seeds when it starts. Initial weights are drawn before, where the
            network is built. On the CPU, same weights, seed and number of threads give the same result bit for bit.
        device: Where to train; the network is moved there. "auto" takes CUDA, else Apple's MPS, else the CPU.
        callbacks: Called at the events, before the trainer's own. A `Logger`, such as `TensorBoard` or `CSV`, or
            `Checkpoints` among them takes the place of the trainer's own.
        progress: Whether to show a progress bar.
        inputs: Fields that feed the network; by default those of role "input", in the order of the samples. They reach
            the parameters of its `forward` that have their names, else its arguments in this order.
        outputs: Fields that it predicts; by default those of role "target". Where samples hold a field once, such as
            the observation of a recording, ``next_<name>`` is that of the next sample.
        loss_fields: Fields that the loss gets from the samples; by default `outputs`.
        transforms: What happens to fields around the network; by default a normalization. Normalizations that have no
            moments yet, such as those of `Transforms.normalizing`, get those of the training samples alone, and keep
            them from then on.
        normalize: Whether to normalize where no transforms are given.
        predict: What the network predicts of outputs that are inputs of the next step: "value", or "change", the
            difference from that input in units of the differences in the training samples; or `physgym.nn.Changes`.
        resume: True continues from the last checkpoint of the session if there is one; a path from that checkpoint, or
            the last one in that folder. Everything else must be given as it was, but for `epochs`. On the CPU the
            result is that of a training that was never interrupted, bit for bit.
        on_nonfinite: What to do with a batch whose loss is not finite: "raise", or "skip" it.
        compile: Whether to call the network through `torch.compile`, or its arguments.
        loader_workers: Processes that gather batches; 0 for a thread of this one, which is faster unless gathering is
            slow Python. Gathering may use the global random generators only with workers.
        device_resident: Whether stored samples are held on the device as a whole, and gathered there. "auto" does so on
            a GPU where they take a quarter of its free memory at most. It does not where they are read in blocks, come
            without names, or `loader_workers` gather them. The batches are the same.
        rollout: The costlier validation, called with the predictor every `rollout_every` epochs and after the last
            one; its values enter the record with the prefix "rollout_". See `physgym.runner.RolloutEvaluation`.
        rollout_every: How often.
        unroll: How many steps the network makes from its own outputs in the loss, or an `Unroll`; the samples are then
            windows of so many steps, of a dataset that says which output feeds which input. None for one step of each
            sample.
        record: Whether the session gets the record that `physgym list`, `show` and `run` read. A folder that holds a
            session already is continued with `resume`, or with a network that is a `Predictor`; otherwise the new
            session is another one, with a number behind its name, which is said.
        allow_changed_code: Whether a session may be continued though the code of its simulation, which is recorded
            then, or the text of a loss of your own has changed.

    Started by ``torchrun``, the processes train one network together: each on its part of every batch, so that
    `batch_size` counts for each. Only the first one writes.

    Attributes:
        predictor: The network with its fields and transforms; what to use after the training.
        optimization: Loss and optimizer.
        training: Samples to train on; None as long as a source has not produced them.
        validation: Samples held out, None without validation.
        history: What was done so far.
        epoch: Number of completed epochs.
        batch: Number of completed batches in the current epoch.
        step: Number of completed batches in all.
        stopping: Whether `stop` was called.
        in_step: Whether an optimization step was begun and not completed, as after a second Ctrl-C.
        ranks: The processes that train together.
        session: The session's folder, None without one.
        allow_changed_code: As given.

    Raises:
        ConfigError: Arguments contradict each other, or the network does not fit the samples.
        DatasetError: There are no samples.
        CheckpointError: The checkpoint to resume from is missing, damaged, or of another training.
    """

    def __init__(
        self,
        network: nn.Module | Predictor,
        dataset: Samples | Dataset[Any] | DataLoader[Any] | None = None,
        *,
        source: SampleSource | None = None,
        produce: Produce = "first_epoch",
        epochs: int,
        batch_size: int = 32,
        batches_per_epoch: int | None = None,
        shuffle: Shuffle = True,
        last_batch: LastBatch = "auto",
        validation: float | Samples | Dataset[Any] | DataLoader[Any] | None = 0.1,
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
        predict: PredictedForm = "value",
        resume: bool | str | Path = False,
        on_nonfinite: OnNonFinite = "raise",
        compile: bool | Mapping[str, Any] = False,
        loader_workers: int = 0,
        device_resident: DeviceResident = "auto",
        rollout: Callable[[Predictor], Mapping[str, float]] | None = None,
        rollout_every: int = 1,
        unroll: Unroll | int | None = None,
        record: bool = True,
        allow_changed_code: bool = False,
    ) -> None:
        one_of("produce", produce, get_args(Produce))
        one_of("on_nonfinite", on_nonfinite, get_args(OnNonFinite))
        epochs, batch_size = integer("epochs", epochs, 1, LARGEST), integer("batch_size", batch_size, 1, LARGEST)
        if batches_per_epoch is not None:
            batches_per_epoch = integer("batches_per_epoch", batches_per_epoch, 1, LARGEST)
        rollout_every, seed = integer("rollout_every", rollout_every, 1, LARGEST), integer("seed", seed, 0, LARGEST)
        loader_workers = integer("loader_workers", loader_workers, 0, LARGEST)
        check_last_batch(last_batch)
        check_resident(device_resident)
        check_parts(network, optimization, callbacks)
        if not isinstance(compile, (bool, Mapping)):
            raise ConfigError(f"compile must be True, False, or the arguments of torch.compile, not {compile!r}")
        session = check_session(session)
        check_device(device)
        self.ranks = Ranks(device)
        self.ranks.say_device(device)
        self._session = TrainingSession(
            session,
            self.ranks,
            new=resume is False and not isinstance(network, Predictor),
            record=record,
            allow_changed_code=allow_changed_code,
        )
        if self.ranks.size > 1 and source is not None:
            raise ConfigError(ALONE)
        self.epochs = epochs
        batching = Batching(batch_size, batches_per_epoch, shuffle, last_batch, loader_workers, seed, device_resident)
        given, held_out = as_samples(dataset, batch_size), as_samples(validation, batch_size)
        for what, samples in (("dataset", given), ("source", source)):
            if samples is not None:
                check_samples(what, samples)
        check_validation(held_out)
        predicted = network.outputs if isinstance(network, Predictor) else outputs
        unroll = unroll_for(as_unroll(unroll, epochs), given if source is None else source, predicted)
        given, held_out = windows_of(given, unroll), windows_of(held_out, unroll, "validation")
        self._validation = Validation(held_out, rollout, rollout_every)
        if (given is None) == (source is None):
            raise ConfigError(
                f"give either a dataset or a source of samples, not {'none' if given is None else 'both'}"
            )
        if source is not None:
            check_source(source, batches_per_epoch)
            check_produced(unroll, fresh=produce == "always")
        elif isinstance(given, Feed):
            check_feed(given, batches_per_epoch, held_out, self.ranks.size, loader_workers)
        else:
            given = self._validation.hold_out(given, seed)
        # the fields of what is trained on, and of one step; the same unless it is unrolled
        spec, step_spec = fields_of(given if source is None else source, unroll)

        self.predictor, normalizes = predictor_of(
            network,
            step_spec,
            inputs=inputs,
            outputs=outputs,
            loss_fields=loss_fields,
            transforms=transforms,
            normalize=normalize,
            predict=predict,
        )
        self.predictor.to(self.ranks.device)
        loss_fields = checked_loss_fields(loss_fields, self.predictor.outputs, spec)
        padding = padding_of(self.predictor, loss_fields, unroll, step_spec)
        if self.validation is not None:
            check_alike(self.validation, spec, (*self.predictor.inputs, *loss_fields, *padding.masks))
        shown = source if source is not None else None if isinstance(given, Feed) else given
        warn_of_overlap(self.validation, shown, divided=isinstance(validation, (int, float)))
        warn_of_feedback(shown)
        if isinstance(rollout, ComparesCode) and (learned := Learned.of(shown)) is not None:
            rollout.compare_code(learned.code)

        self.optimization = Optimization(self.predictor.network) if optimization is None else optimization
        mine = {id(parameter) for parameter in self.predictor.parameters()}
        if not self.optimization.idle and not any(id(parameter) in mine for parameter in self.optimization.parameters):
            raise ConfigError(
                "the optimization has no parameter of the network that is to be trained; build it with that network"
            )
        self.optimization.to(self.ranks.device)
        self.ranks.alike((*self.optimization.parameters, *self.predictor.parameters(), *self.predictor.buffers()))

        self._progress = TrainingProgress()
        self.stopping = self.in_step = False
        self._interrupt = Interrupt()
        own = own_callbacks(callbacks, self.predictor, source, self.session, progress=progress)
        self._callbacks = CallbackList((*callbacks, *own), self.ranks.rank)
        learner = Learner(self.predictor, self.optimization, loss_fields, self.ranks, normalizes, padding)
        self._loss = loss_of(learner, compile, unroll, (spec, step_spec), self._progress, seed)
        diagnosis = Diagnosis(on_nonfinite, self.predictor, self.optimization, self._progress)
        self._batch_step = BatchStep(self._loss, learner, self._progress, diagnosis)
        self._supply = supply_of(given, source, batching, learner, fresh=produce == "always")
        assert self.num_batches
        self._evaluation = Evaluation(batching, learner)
        self._evaluation.check(self.validation)
        if self._callbacks.saves:
            check_saved(self.predictor, self.optimization, self._callbacks)
        check_watched(
            tuple(self._callbacks),
            lambda: loss_names(self.predictor, self.optimization, self.losses, spec, self.fields),
            validated=self._has_validation,
            rollout=rollout,
            predictor=self.predictor,
            metrics=(*({} if source is None else source.metrics()), *self._loss.record),
        )
        if resume is not False:
            saving = [callback.folder for callback in callbacks if isinstance(callback, Checkpoints)]
            folder = saving[0] if saving else self._session.subfolder("networks")
            self._resumable.resume(resume, folder, allow_changed_code=allow_changed_code)
            if self.ranks.differ(self.step):
                raise CheckpointError(
                    f"process {self.ranks.rank} continues at step {self.step}, others elsewhere; all of them must see "
                    "the same checkpoints"
                )

    # --- what it consists of, and where it is

    @property
    def training(self) -> Samples | None:
        """Return the samples to train on; None as long as a source has not produced them."""
        return self._supply.training

    @property
    def validation(self) -> Samples | Feed | None:
        """Return the samples held out, None without validation."""
        return self._validation.samples

    @property
    def held_out(self) -> bool:
        """Return whether the samples to validate on were held out from the dataset."""
        return self._validation.fraction is not None

    @property
    def source(self) -> SampleSource | None:
        """Return the producer of the samples, None for a dataset."""
        return self._supply.source

    @property
    def session(self) -> Path | None:
        """Return the session's folder, None without one."""
        return self._session.folder

    @property
    def allow_changed_code(self) -> bool:
        """Return whether a session may be continued though the code of its simulation has changed."""
        return self._session.allow_changed_code

    @property
    def batch_size(self) -> int:
        """Return the samples per batch."""
        return self._supply.batching.batch_size

    @property
    def shuffle(self) -> Shuffle:
        """Return the way in which stored samples are shuffled."""
        return self._supply.batching.shuffle

    @property
    def batches_per_epoch(self) -> int | None:
        """Return the batches per epoch at most, None for all."""
        return self._supply.batching.batches_per_epoch

    @property
    def seed(self) -> int:
        """Return the seed."""
        return self._supply.batching.seed

    @property
    def unroll(self) -> Unroll | None:
        """Return the form of a training over several steps; None for one step of each sample."""
        return self._loss.unroll

    @property
    def loss_fields(self) -> tuple[str, ...]:
        """Return the fields that the loss gets from the samples."""
        return self._supply.learner.loss_fields

    @property
    def fields(self) -> tuple[str, ...]:
        """Return all fields that are read: those that feed the network, and those of the loss."""
        return self._supply.learner.fields

    @property
    def history(self) -> History:
        """Return the record of what was done so far."""
        return self._progress.history

    @property
    def epoch(self) -> int:
        """Return the number of completed epochs."""
        return self._progress.epoch

    @property
    def batch(self) -> int:
        """Return the number of completed batches in the current epoch."""
        return self._progress.batch

    @property
    def step(self) -> int:
        """Return the number of completed batches in all."""
        return self._progress.step

    @property
    def num_batches(self) -> int:
        """Return the batches in an epoch, on each process."""
        return self._supply.num_batches

    @property
    def drawn_episodes(self) -> Array:
        """Return the episode of each sample of the batch that is trained on, shape (batch,); empty without a source."""
        return self._supply.episodes

    def stop(self, reason: str) -> None:
        """End the training after the event that is being called; ``history.stopped`` gets the reason."""
        self.stopping, self.history.stopped = True, reason

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
            DatasetError: There are no samples, or a process that loads them died.
            CheckpointError: A checkpoint cannot be written.
        """
        with self._session.recorded(self, self._callbacks):
            return self._fit()

    def _fit(self) -> History:
        self._progress.begin(self.seed)
        self.stopping = False
        keep_freed_memory()
        try:
            with Interrupt(patient=self.ranks.size > 1) as interrupt:
                self._interrupt = interrupt
                try:
                    self._train(interrupt)
                except KeyboardInterrupt:
                    self._batch_step.fetch()
                    self.history.interrupted = self.epoch < self.epochs
                except RuntimeError as error:
                    if not is_death(error):
                        raise
                    raise DatasetError(LOST.format(error=error)) from error
            self._callbacks.emit("train_end", self, self.history)
        finally:
            self.predictor.eval()
            self._callbacks.close()
            if self.source is not None:
                if self.history.interrupted:
                    self.source.hurry()
                self.source.close()
        return self.history

    def _train(self, interrupt: Interrupt) -> None:
        """Run the training loop."""
        emit, optimization = self._callbacks.emit, self.optimization
        log.info("%s", self.predictor.summary)
        emit("train_begin", self)
        if self._callbacks.saves:  # callbacks may have changed the optimizer, and have their state now
            check_saved(self.predictor, optimization, self._callbacks, begun=True)
        self._batch_step.begin(optimization)
        self._prepare()
        self.predictor.learned = Learned.of(self.training or self.source) or self.predictor.learned
        while self.epoch < self.epochs and not self._stops():
            emit("epoch_begin", self)
            self.predictor.train()
            start = time.monotonic()
            if self._stops():
                return
            with closing(self._supply.batches(self._progress)) as batches:
                for batch in batches:  # field name -> (batch, *shape)
                    with interrupt.held():
                        self._step(batch)  # see below
                    if self._stops():
                        break
            self._batch_step.fetch()
            self.ranks.agree(self.predictor)
            if self.batch < self.num_batches:
                return  # stopped in the midst of the epoch, which can be continued
            means = self._progress.means
            if not means.samples:
                raise DivergedError(
                    f"no batch of epoch {self.epoch + 1} had a finite loss. Lower the learning rate, or look for bad "
                    "samples"
                )
            record = means.values() | {"samples": means.samples}
            record |= self._validate() | {"lr": optimization.lr, "seconds": time.monotonic() - start}
            record |= {} if self.source is None else self.source.metrics()
            record |= self._loss.record
            with interrupt.held():
                optimization.end_epoch(record.get("validation_loss", record["loss"]))
                self._progress.end_epoch(record)
                emit("epoch_end", self, self.history.epochs[-1])

    def _step(self, batch: dict[str, Tensor]) -> None:
        """Optimize the network on a batch."""
        emit = self._callbacks.emit
        self.in_step = True
        self._supply.begin_step()
        batch = self._loss.begin(batch, self._supply)
        emit("batch_begin", self, batch)
        values = self._batch_step.take(batch, self._supply)  # forward and backward pass, checks, the optimizer
        self._progress.end_batch()
        self.in_step = False
        emit("batch_end", self, values)

    def losses(self, arrays: Mapping[str, Array | Tensor]) -> dict[str, Tensor]:
        """Compute the forward pass of a batch: prediction, transforms, loss.

        Args:
            arrays: Fields of shape (batch, *shape): those that feed the network, and those of the loss. Of an unrolled
                training (batch, rows, *shape), and the loss is of all steps.

        Returns:
            Scalars by name; "loss" is the one to minimize.
        """
        return self._loss.values(arrays)

    def evaluate(self, samples: Samples | Feed) -> dict[str, float]:
        """Return the means over samples of the loss, and of what `Optimization.transform_loss` adds, by name."""
        return self._evaluation.means(samples, self.losses)

    def _validate(self) -> dict[str, float]:
        """Return the values of both validations that are due."""
        values = {}
        if self.validation is not None:
            values = {f"validation_{name}": value for name, value in self.evaluate(self.validation).items()}
        return values | self._validation.rolled_out(self.predictor, self.epoch + 1, self.epochs)

    @property
    def _has_validation(self) -> bool:
        """Return whether there are samples to validate on, or will be once the source has produced all."""
        later = isinstance(self._supply, FirstEpochSupply) and bool(self._validation.fraction)
        return later or self.validation is not None

    def _prepare(self) -> None:
        """Produce the samples of a source that must be there before the first epoch."""
        if isinstance(self._supply, FreshSupply):
            self._supply.prepare(self._progress, self.epochs)
        if not isinstance(self._supply, FirstEpochSupply):
            return
        emit, source = self._callbacks.emit, self._supply.source
        if self._supply.missing > 0:
            emit("data_generation_begin", self)
            for size in self._supply.produce():
                self._interrupt.check()
                emit("data_generation_batch_end", self, size)
            emit("data_generation_end", self)
        source.close()
        produced = source.dataset()
        if produced is None:
            raise ConfigError(
                'produce="first_epoch" reuses samples, but the source stores none. Store them, or produce="always".'
            )
        training = self._validation.hold_out(windows_of(produced, self.unroll), self.seed)
        self._supply = self._supply.stored(training, normalize=self.step == 0)

    def _stops(self) -> bool:
        """Return whether a callback wants to stop, in any of the processes.

        Raises:
            KeyboardInterrupt: Ctrl-C came to one of them; they stop together, or the others would wait for ever.
        """
        self.stopping, interrupted = self.ranks.any(self.stopping, self._interrupt.waiting)
        if interrupted:
            raise KeyboardInterrupt
        if self.stopping and not self.history.stopped:
            self.history.stopped = "in another process"
        return self.stopping

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to continue, but for the weights: data, arrays and tensors, nested."""
        self._batch_step.fetch()
        return self._resumable.state_dict()

    @property
    def _resumable(self) -> Resumable:
        settings = {**settings_of(self._supply, self._validation), **self._loss.settings}
        return Resumable(settings, self._progress, self.optimization, self._supply, self._callbacks)
