"""`Trainer`: supervised training of a network on samples, in one visible loop."""

from __future__ import annotations

import logging
import math
import platform
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from physgym.data.learned import Learned
from physgym.data.provenance import warn_of_overlap
from physgym.data.statistics import Statistics, of_samples
from physgym.errors import CheckpointError, ConfigError, DatasetError, DivergedError, PhysGymError
from physgym.events import Callback, Callbacks
from physgym.interrupt import Interrupt
from physgym.loading.gather_processes import LOST, gathered_by_workers, is_death
from physgym.loading.loader import Loader
from physgym.loading.reading import Shuffle
from physgym.nn.optimization import Optimization
from physgym.nn.predictor import Predictor, evaluating, field_names
from physgym.nn.transforms import Transforms
from physgym.nn.wrapped import unwrapped
from physgym.sample import SampleSpec
from physgym.spaces import Array
from physgym.storage.location import local
from physgym.training.answers import answers_of
from physgym.training.argument_checks import (
    check_alike,
    check_fields,
    check_parts,
    check_samples,
    check_validation,
    whole,
)
from physgym.training.batches import Batches, LastBatch, check_last_batch, divide, refusal
from physgym.training.breeding import breeding_of
from physgym.training.callbacks import ProgressBar, TensorBoard
from physgym.training.checkpoint_files import read_training
from physgym.training.checkpoint_folders import find_checkpoint, list_checkpoints
from physgym.training.checkpointing import Checkpoints
from physgym.training.foreign import Feed, as_samples
from physgym.training.history import History, Means
from physgym.training.monitors import check_saved, check_watched, loss_names
from physgym.training.random_state import check_generators, generator_states, seed_generators, set_generator_states
from physgym.training.ranks import Ranks
from physgym.training.resume import check_training
from physgym.training.sources import Drawn, Samples, SampleSource

Produce = Literal["first_epoch", "always"]
OnNonFinite = Literal["raise", "skip"]

log = logging.getLogger(__name__)

UNFIT = RuntimeError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError  # of a state
SHOWN = 8  # samples that a message names
STATISTICS_SAMPLES = 1024  # how many of an endless stream of samples the normalization is made from, at most

EMPTY = "the {what} has no samples; generate some first"
BOTH = "give either a dataset or a source of samples, not {what}"
NO_LENGTH = "a source of samples has no end: say how long an epoch is with batches_per_epoch"
NOT_STORED = 'produce="first_epoch" reuses samples, but the source stores none. Store them, or produce="always".'
NOT_MINE = "the optimization has no parameter of the network that is to be trained; build it with that network"
NOT_COMPILED = (
    "torch.compile fails: {error}. Its usual backend needs a C++ compiler on the CPU and Triton on a GPU; without them "
    'leave compile out, or try compile={{"backend": "aot_eager"}}'
)
NO_GRADIENT = "no gradient follows from the loss: something between the prediction and it is detached, or not of torch"
GRADIENTS_OFF = (
    "gradients are off: fit is called under torch.no_grad() or torch.inference_mode(); call it outside of that"
)
COMPILED_PREDICTOR = (
    "the network is a Predictor that is compiled or wrapped; pass the Predictor itself, with compile=True"
)
FIXED = "a Predictor has its {name} already; leave {name} out, or pass its network"
MISFIT = "the predictor was made for field {name!r} of shape {want}; the samples have {got}"
DIVERGED = (
    "the loss is {loss} in epoch {epoch}, batch {batch}{cause}; the batch holds {names}. {weights} "
    "Lower the learning rate, clip the gradient (Optimization(clip_norm=...)), look for bad samples, or skip such "
    'batches with on_nonfinite="skip".'
)
OTHERS = "samples of another process, whose message names them"
ELSEWHERE = "in another process"
BEFORE = "The network has the weights from before this batch."
BROKEN = "The weights are not finite themselves, after an earlier step."
ALL_SKIPPED = "no batch of epoch {epoch} had a finite loss. Lower the learning rate, or look for bad samples"
ONE_TO_EVALUATE = "the network needs more than one sample to be evaluated, and there is a single one; hold out more"
NOTHING_HELD_OUT = (
    "the batches of a loader cannot be divided by episode: give samples or a loader as validation, or validation=None"
)
FEED_ALONE = "several processes cannot share a loader of your own; pass its dataset, which the trainer divides"
FEED_WORKERS = "loader_workers gathers samples of a dataset; a loader of your own has num_workers"
NO_FOLDER = "resume=True looks for the last checkpoint in the session; give a session, or the path of a checkpoint"
OTHER_SETTINGS = "{path} is of a training with other settings: {differences}. Set them as they were to continue it"
OTHER_STATE = "{path} is of a training that this one cannot continue: {problem}"
OTHER_RANKS = "process {rank} continues at step {step}, others elsewhere; all of them must see the same checkpoints"
ALONE = "several processes train from a dataset alone: generate the samples first, then pass the dataset"


class Trainer:
    """Trains a network on samples: those of a dataset, or of simulations that run meanwhile.

    Args:
        network: The network, with its initial weights; a module, or a `Predictor` to train it further with the
            normalization that it has.
        dataset: Samples to train on: a `physgym.SampleDataset`, or what torch has: a `Dataset` whose items are
            dictionaries of fields or pairs (input, target), a `Subset` of either, or a `DataLoader` or
            `IterableDataset` of one's own, whose batches come as they are.
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
        last_batch: What happens where the samples do not fill the last batch of an epoch: "keep" trains on the smaller
            one, "join" adds it to the one before, "drop" leaves it out. "auto" keeps it, but for a single sample that
            the network cannot be trained on, as with batch normalization: that joins the batch before.
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
        inputs: Fields that feed the network; by default those of role "input", in the order of the samples. They reach
            the parameters of its `forward` that have their names, else its arguments in this order.
        outputs: Fields that it predicts; by default those of role "target".
        loss_fields: Fields that the loss gets from the samples; by default `outputs`.
        transforms: What happens to fields around the network; by default a normalization. Normalizations that have no
            moments yet, such as those of `Transforms.normalizing`, get those of the training samples alone, and keep
            them from then on.
        normalize: Whether to normalize where no transforms are given.
        resume: True continues from the last checkpoint of the session if there is one; a path from that checkpoint, or
            the last one in that folder. Everything else must be given as it was, but for `epochs`. On the CPU the
            result is that of a training that was never interrupted, bit for bit.
        on_nonfinite: What to do with a batch whose loss is not finite: "raise", or "skip" it.
        compile: Whether to call the network through `torch.compile`, or its arguments.
        loader_workers: Processes that gather batches; 0 for a thread of this one, which is faster unless gathering is
            slow Python. Gathering may use the global random generators only with workers.
        rollout: The costlier validation, called with the predictor every `rollout_every` epochs and after the last
            one; its values enter the record with the prefix "rollout_". See `physgym.runner.RolloutEvaluation`.
        rollout_every: How often.
        record: Whether the session gets the record that `physgym list`, `show` and `run` read. A folder that holds a
            session already is continued with `resume`, or with a network that is a `Predictor`; otherwise the new
            session is another one, with a number behind its name, which is said.
        allow_changed_code: Whether a recorded session may be continued though the code of its simulation has changed;
            both codes are recorded then.

    Started by ``torchrun``, the processes train one network together: each on its part of every batch, so that
    `batch_size` is that of each. Only the first one writes.

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
        resume: bool | str | Path = False,
        on_nonfinite: OnNonFinite = "raise",
        compile: bool | Mapping[str, Any] = False,
        loader_workers: int = 0,
        rollout: Callable[[Predictor], Mapping[str, float]] | None = None,
        rollout_every: int = 1,
        record: bool = True,
        allow_changed_code: bool = False,
    ) -> None:
        for name, choice, choices in (
            ("produce", produce, get_args(Produce)),
            ("on_nonfinite", on_nonfinite, get_args(OnNonFinite)),
        ):
            if choice not in choices:
                raise ConfigError(f"{name} must be one of {choices}, not {choice!r}")
        epochs, batch_size = whole("epochs", epochs, 1), whole("batch_size", batch_size, 1)
        if batches_per_epoch is not None:
            batches_per_epoch = whole("batches_per_epoch", batches_per_epoch, 1)
        rollout_every, seed = whole("rollout_every", rollout_every, 1), whole("seed", seed, 0)
        loader_workers = whole("loader_workers", loader_workers, 0)
        check_last_batch(last_batch)
        check_parts(network, optimization, callbacks)
        if not isinstance(compile, (bool, Mapping)):
            raise ConfigError(f"compile must be True, False, or the arguments of torch.compile, not {compile!r}")
        if session is not None:
            session = local(session, "the session (networks may be in S3: callbacks=[Checkpoints('s3://...')])")
        check_device(device)
        self.ranks = Ranks(device)
        if session is not None and record and resume is False and not isinstance(network, Predictor):
            from physgym.experiment.from_python import own_session  # which this package stands below

            session = Path(self.ranks.share(str(own_session(session)) if self.ranks.rank == 0 else ""))
        self.session = None if session is None else Path(session)
        self._recorded = record and session is not None and self.ranks.rank == 0
        self.allow_changed_code = allow_changed_code
        if self.ranks.size > 1 and source is not None:
            raise ConfigError(ALONE)
        self.on_nonfinite, self.loader_workers = on_nonfinite, loader_workers
        self._rollout, self._rollout_every = rollout, rollout_every
        self.epochs, self.batch_size, self.batches_per_epoch = epochs, batch_size, batches_per_epoch
        self.seed, self.source, self.shuffle = seed, source, shuffle
        self.training: Samples | None
        self.validation: Samples | Feed | None
        self.last_batch: LastBatch = last_batch
        self._divided: Batches | None = None  # how the training samples are
        self._always = source is not None and produce == "always"
        self._drawn: deque[Drawn] = deque()  # for the statistics, yet to be trained on
        self._handed: Drawn | None = None  # the batch of a source that is to be trained on next
        self._last: Drawn | None = None  # that which was trained on last
        self._loader: Loader | None = None  # of the training samples
        given, held_out = as_samples(dataset, batch_size), as_samples(validation, batch_size)
        self._held_out: float | Samples | Feed | None = held_out
        self._feed = given if isinstance(given, Feed) else None  # batches that somebody else makes
        for what, samples in (("dataset", given), ("source", source)):
            if samples is not None:
                check_samples(what, samples)
        check_validation(held_out)
        if self._feed is not None and source is None:
            self._check_feed(self._feed)
            spec = self._feed.spec
            self.training, self.validation = None, None if isinstance(held_out, (int, float)) else held_out
        elif given is not None and source is None:
            spec = given.spec
            self.training, self.validation = self._divide(given)
        elif source is not None and given is None:
            if batches_per_epoch is None:
                raise ConfigError(NO_LENGTH)
            spec = source.spec
            self.training, self.validation = None, None if isinstance(held_out, (int, float)) else held_out
        else:
            raise ConfigError(BOTH.format(what="none" if dataset is None else "both"))

        if not isinstance(network, Predictor) and isinstance(unwrapped(network), Predictor):
            raise ConfigError(COMPILED_PREDICTOR)
        if isinstance(network, Predictor):
            self.predictor = _checked(network, spec, inputs=inputs, outputs=outputs, transforms=transforms)
            self._normalizes = False
        else:
            inputs, outputs = field_names(spec, inputs, outputs)
            if normalize and transforms is None:
                transforms = Transforms.normalizing(spec, inputs, outputs, network=network)
            self._normalizes = transforms is not None and not transforms.fitted
            check_fields(spec, inputs, (*outputs, *(loss_fields or ())), normalized=self._normalizes)
            self.predictor = Predictor(network, spec, inputs=inputs, outputs=outputs, transforms=transforms)
        self.predictor.to(self.ranks.device)
        self.loss_fields = self.predictor.outputs if loss_fields is None else tuple(loss_fields)
        for name in self.loss_fields:
            if name not in spec:
                raise ConfigError(f"loss_fields names {name!r}, which the samples lack; they have {list(spec)}")
        self.fields = tuple(dict.fromkeys((*self.predictor.inputs, *self.loss_fields)))
        if self.validation is not None:
            check_alike(self.validation, spec, self.fields)
        divided = isinstance(validation, (int, float))
        warn_of_overlap(self.validation, self.training if source is None else source, divided=divided)
        if (learned := Learned.of(self.training if source is None else source)) is not None:
            getattr(rollout, "compare_code", lambda _: None)(learned.code)
        self._spec = spec

        self.optimization = Optimization(self.predictor.network) if optimization is None else optimization
        mine = {id(parameter) for parameter in self.predictor.parameters()}
        if not self.optimization.idle and not any(id(parameter) in mine for parameter in self.optimization.parameters):
            raise ConfigError(NOT_MINE)
        self.optimization.to(self.ranks.device)
        self.ranks.alike((*self.optimization.parameters, *self.predictor.parameters(), *self.predictor.buffers()))
        self._forward: Any = self.predictor
        if compile:
            try:
                self._forward = torch.compile(self.predictor, **(compile if isinstance(compile, Mapping) else {}))
            except (RuntimeError, TypeError, ValueError) as error:
                raise ConfigError(f"torch.compile refuses the network or its arguments: {error}") from error

        self.history = History()
        self.epoch = self.batch = self.step = 0
        self.stopping = self.in_step = False
        self._interrupt = Interrupt()
        own: list[Callback] = [ProgressBar()] if progress else []
        if source is not None and getattr(source, "predictor", self) is None:
            # simulations that ask for a prediction get that of the network in training
            source.predictor = answers = answers_of(self.predictor)  # type: ignore[attr-defined]
            own += [] if answers is None else [answers]
        if session is not None and not any(isinstance(callback, TensorBoard) for callback in callbacks):
            own.append(TensorBoard(Path(session) / "stats"))
        if session is not None and not any(isinstance(callback, Checkpoints) for callback in callbacks):
            own.append(Checkpoints(Path(session) / "networks"))
        breeding = breeding_of(source, None if session is None else Path(session))
        own += [] if breeding is None else [breeding]
        called = [call for call in (*callbacks, *own) if call.every_rank or self.ranks.rank == 0]
        # checkpoints hold the state of the other callbacks, which must have seen the event
        called.sort(key=lambda call: isinstance(call, Checkpoints))
        self._callbacks = Callbacks(called)
        self._means = Means()  # of the current epoch
        self._order: dict[str, Any] | None = None  # of the samples, in the checkpoint to continue from
        self._generators: dict[str, Any] | None = None  # likewise
        self._resumed: Path | None = None  # this checkpoint
        self._elsewhere = False  # whether the loss that is not finite is that of another process
        if self.training is not None:
            self._normalize(self.training)
            assert self.num_batches
        elif self._feed is not None:
            self._normalize(self._feed)
        elif batches_per_epoch is not None:
            wanted = batches_per_epoch * batch_size
            made = divide(self.predictor, wanted, batch_size, accumulate=self.optimization.accumulate)
            self._divided = made if self._always else None
        lone = self.validation is not None and not isinstance(self.validation, Feed) and len(self.validation) == 1
        if lone and self._refuses_one:
            raise ConfigError(ONE_TO_EVALUATE)
        self._saves = any(isinstance(callback, Checkpoints) for callback in (*callbacks, *own))
        if self._saves:
            check_saved(self.predictor, self.optimization, called)
        check_watched(
            called,
            self._loss_names,
            validated=self._has_validation,
            rollout=self._rollout,
            predictor=self.predictor,
            metrics=getattr(source, "metrics", dict)(),
        )
        if resume is not False:
            saving = [callback.folder for callback in callbacks if isinstance(callback, Checkpoints)]
            self._resume(resume, saving[0] if saving else None if session is None else Path(session) / "networks")
            if self.ranks.differ(self.step):
                raise CheckpointError(OTHER_RANKS.format(rank=self.ranks.rank, step=self.step))

    @property
    def held_out(self) -> bool:
        """Whether the samples to validate on were held out from the dataset."""
        return isinstance(self._held_out, (int, float))

    @property
    def num_batches(self) -> int:
        """Batches in an epoch, on each process."""
        if self.training is None:
            limit, length = self.batches_per_epoch, None if self._feed is None else self._feed.num_batches
            assert limit is not None or length is not None
            return min(number for number in (limit, length) if number is not None)
        return self._division().count(len(self.training), self.batch_size, self.ranks.size, self.batches_per_epoch)

    def _division(self) -> Batches:
        """How the training samples are divided into batches; found out once."""
        if self._divided is None:
            assert self.training is not None
            self._divided = divide(
                self.predictor,
                len(self.training),
                self.batch_size,
                last_batch=self.last_batch,
                ranks=self.ranks.size,
                accumulate=self.optimization.accumulate,
                at_most=self.batches_per_epoch,
            )
        return self._divided

    @property
    def drawn_episodes(self) -> Array:
        """Episode of each sample of the batch that is trained on, shape (batch,); empty without a source."""
        names = None if self._handed is None else self._handed.names
        return np.zeros(0, np.int64) if names is None else np.asarray(names.episodes)

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
        if not self._recorded:
            return self._fit()
        from physgym.experiment.from_python import recorded  # which this package stands below

        assert self.session is not None
        with recorded(self, self.session):
            return self._fit()

    def _fit(self) -> History:
        if self._generators is not None:  # only now: building the parts of a training may draw from them
            set_generator_states(self._generators)
            self._generators = None
        elif self.step == 0:
            seed_generators(self.seed)
        self.history.interrupted, self.history.stopped, self.stopping = False, "", False
        try:
            with Interrupt(patient=self.ranks.size > 1) as interrupt:
                self._interrupt = interrupt
                try:
                    self._train(interrupt)
                except KeyboardInterrupt:
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
                    getattr(self.source, "hurry", lambda: None)()
                self.source.close()
        return self.history

    def _train(self, interrupt: Interrupt) -> None:
        """The training loop."""
        emit, optimization = self._callbacks.emit, self.optimization
        log.info("%s", self.predictor.summary)
        emit("train_begin", self)
        if self._saves:  # callbacks may have changed the optimizer, and have their state now
            check_saved(self.predictor, optimization, self._callbacks, begun=True)
        self._prepare()
        self.predictor.learned = Learned.of(self.training or self.source) or self.predictor.learned
        while self.epoch < self.epochs and not self._stops():
            emit("epoch_begin", self)
            self.predictor.train()
            start = time.monotonic()
            if self._stops():
                return
            with closing(self._batches()) as batches:
                for batch in batches:  # field name -> (batch, *shape)
                    with interrupt.held():
                        self._step(batch)  # see below
                    if self._stops():
                        break
            self.ranks.agree(self.predictor)
            if self.batch < self.num_batches:
                return  # stopped in the midst of the epoch, which can be continued
            if not self._means.samples:
                raise DivergedError(ALL_SKIPPED.format(epoch=self.epoch + 1))
            record = self._means.values() | {"samples": self._means.samples}
            record |= self._validate() | {"lr": optimization.lr, "seconds": time.monotonic() - start}
            record |= getattr(self.source, "metrics", dict)()
            with interrupt.held():
                optimization.end_epoch(record.get("validation_loss", record["loss"]))
                self.epoch, self.batch, self._means = self.epoch + 1, 0, Means()
                self.history.epochs.append({"epoch": self.epoch, **record})
                emit("epoch_end", self, self.history.epochs[-1])

    def _step(self, batch: dict[str, Tensor]) -> None:
        """Optimize the network on a batch."""
        emit, optimization = self._callbacks.emit, self.optimization
        self.in_step = True
        self._last = self._handed
        emit("batch_begin", self, batch)
        values = self._gradient(batch)  # the forward and the backward pass
        if self._usable(values, batch):
            optimization.step(partial(self._closure, batch))
            optimization.end_batch()
            self._means.add(values, samples=_length(batch) * self.ranks.size)
        self.batch, self.step, self.in_step = self.batch + 1, self.step + 1, False
        emit("batch_end", self, values)

    def _gradient(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """Compute the gradient of a batch, and its values by name; without a finite loss there is no gradient.

        The values are the means over all processes, so that what follows from them is the same in all.
        """
        least = 1 if self._divided is None else self._divided.least
        parts = max(1, min(self.optimization.accumulate, _length(batch) // least))
        self.ranks.agree(self.predictor)
        self.optimization.zero_grad()
        means = Means()
        for number in range(parts):
            part = batch if parts == 1 else {name: value.tensor_split(parts)[number] for name, value in batch.items()}
            losses = self.losses(part)  # the forward pass
            own = _floats(losses)
            means.add(self.ranks.means(own), samples=_length(part))
            values = means.values()
            if not math.isfinite(values["loss"]):
                self._elsewhere = math.isfinite(own["loss"])
                return values
            if self.optimization.idle:
                continue
            if not losses["loss"].requires_grad:
                raise ConfigError(NO_GRADIENT if torch.is_grad_enabled() else GRADIENTS_OFF)
            share = _length(part) / _length(batch)
            self.optimization.backward(losses["loss"] * share if parts > 1 else losses["loss"])
        self.ranks.average(self.optimization.parameters)
        return values

    def _closure(self, batch: Mapping[str, Tensor]) -> Tensor:
        return torch.tensor(self._gradient(batch)["loss"], dtype=torch.float64)

    def losses(self, arrays: Mapping[str, Array | Tensor]) -> dict[str, Tensor]:
        """The forward pass of a batch: prediction, transforms, loss.

        Args:
            arrays: Fields of shape (batch, *shape): those that feed the network, and those of the loss.

        Returns:
            Scalars by name; "loss" is the one to minimize.
        """
        predictor, forward = self.predictor, self._forward
        fields = predictor.tensors(arrays)  # name -> (batch, *shape)
        with self.optimization.autocast(predictor.device):
            try:
                prediction = forward(fields)  # name -> (batch, *shape), in units of the network
            except RuntimeError as error:
                if type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
                    raise ConfigError(
                        NOT_COMPILED.format(error=" ".join(str(error).split("\n\n")[0].split()))
                    ) from error
                raise
            if self.optimization.precision != "float32":
                prediction = {name: value.to(predictor.dtype) for name, value in prediction.items()}
            target = {name: fields[name] for name in self.loss_fields}
            return self.optimization.losses(*predictor.transforms.for_loss(prediction, target))

    @torch.no_grad()
    def evaluate(self, samples: Samples | Feed) -> dict[str, float]:
        """The means over samples of the loss, and of what `Optimization.transform_loss` adds, by name."""
        means = Means()
        if isinstance(samples, Feed):
            before = generator_states()
            with evaluating(self.predictor), closing(samples.batches(self.seed)) as given:
                for tensors in given:
                    means.add(_floats(self.losses(tensors)), samples=_length(tensors))
            set_generator_states(before)
            return means.values()
        lone = len(samples) % self.batch_size == 1 and self._refuses_one
        if lone and len(samples) == 1:
            raise ConfigError(ONE_TO_EVALUATE)
        loader = self._load(samples, shuffle=False, min_batch=2 if lone else 1)
        # each process evaluates its share of the batches, unless they do not go round
        shared = len(loader) >= self.ranks.size
        rank, size = (self.ranks.rank, self.ranks.size) if shared else (0, 1)
        with evaluating(self.predictor), closing(iter(loader)) as batches:
            for tensors in islice(batches, rank, None, size):
                means.add(_floats(self.losses(tensors)), samples=_length(tensors))
        values = means.over(self.ranks) if shared else means.values()
        return {name: value for name, value in values.items() if name != "samples"}

    @property
    def _has_validation(self) -> bool:
        """Whether there are samples to validate on, or will be once the source has produced all."""
        if self.validation is not None:
            return True
        later = self.training is None and not self._always and isinstance(self._held_out, (int, float))
        return later and bool(self._held_out)

    def _loss_names(self) -> set[str] | None:
        return loss_names(self.predictor, self.optimization, self.losses, self._spec, self.fields)

    @cached_property
    def _refuses_one(self) -> bool:
        """Whether the network cannot be evaluated on a single sample."""
        return refusal(self.predictor, training=False) is not None

    def _stops(self) -> bool:
        """Whether a callback wants to stop, in any of the processes.

        Raises:
            KeyboardInterrupt: Ctrl-C came to one of them; they stop together, or the others would wait for ever.
        """
        self.stopping, interrupted = self.ranks.any(self.stopping, self._interrupt.waiting)
        if interrupted:
            raise KeyboardInterrupt
        if self.stopping and not self.history.stopped:
            self.history.stopped = ELSEWHERE
        return self.stopping

    # --- samples

    def _check_feed(self, feed: Feed) -> None:
        """Raise ConfigError unless batches that somebody else makes can be trained on as is asked for."""
        if isinstance(self._held_out, (int, float)) and self._held_out:
            raise ConfigError(NOTHING_HELD_OUT)
        if feed.num_batches is None and self.batches_per_epoch is None:
            raise ConfigError(NO_LENGTH)
        if self.ranks.size > 1:
            raise ConfigError(FEED_ALONE)
        if self.loader_workers:
            raise ConfigError(FEED_WORKERS)

    def _divide(self, samples: Samples) -> tuple[Samples, Samples | Feed | None]:
        """The samples to train on, and those to validate on."""
        if len(samples) == 0:
            raise DatasetError(EMPTY.format(what="dataset"))
        training: Samples = samples
        validation: Samples | Feed | None = None
        if not isinstance(self._held_out, (int, float)):
            validation = self._held_out
        elif self._held_out:
            training, validation = samples.split(self._held_out, self.seed)
        for what, part in (("training part of the dataset", training), ("validation part", validation)):
            if part is not None and not isinstance(part, Feed) and len(part) == 0:
                raise DatasetError(EMPTY.format(what=what))
        return training, validation

    def _prepare(self) -> None:
        """With a source: produce what must be there before the first epoch."""
        if self.source is None:
            return
        assert self.batches_per_epoch is not None
        if self._always:
            self._expect((self.epochs * self.batches_per_epoch - self.step) * self.batch_size)
        if not self._always and self.training is None:
            self._produce(self.batches_per_epoch * self.batch_size)
            self.source.close()
            produced = self.source.dataset()
            if produced is None:
                raise ConfigError(NOT_STORED)
            self.training, self.validation = self._divide(produced)
            self._normalize(self.training)
            if self._order is not None:
                try:
                    self._training_loader()
                except ConfigError as error:
                    raise CheckpointError(OTHER_STATE.format(path=self._resumed, problem=error)) from error
        elif self._always and self._normalizes and self.step == 0 and not self._drawn:
            count = min(self.batches_per_epoch, math.ceil(STATISTICS_SAMPLES / self.batch_size))
            statistics = {name: Statistics.empty(self.source.spec[name].shape) for name in self.fields}
            for _ in range(count):
                batch = self._draw()
                more = of_samples(self.source.spec, self.fields, batch.samples)
                statistics = {name: known.merge(more[name]) for name, known in statistics.items()}
                self._drawn.append(batch)
            self.predictor.transforms.fit(statistics)

    def _produce(self, wanted: int) -> None:
        """Have the source store so many samples; those of an earlier run count."""
        assert self.source is not None
        count = getattr(self.source, "stored", 0)
        if count >= wanted:
            return
        self._expect(wanted - count)
        self._callbacks.emit("data_generation_begin", self)
        while count < wanted:
            size = min(self.batch_size, wanted - count)
            self.source.draw(size)
            self._interrupt.check()
            count += size
            self._callbacks.emit("data_generation_batch_end", self, size)
        self._callbacks.emit("data_generation_end", self)

    def _expect(self, samples: int) -> None:
        """Tell a source that can be told so how many samples will be drawn: it makes no steps beyond them."""
        tell = getattr(self.source, "expect", None)
        if tell is not None and samples > 0 and not getattr(self.source, "begun", False):
            tell(samples)

    def _draw(self) -> Drawn:
        """The next batch of the source, with the position behind it: others may be drawn before it is trained on."""
        assert self.source is not None
        samples = self.source.draw(self.batch_size)
        position: Any = getattr(self.source, "state_dict", dict)()
        return Drawn(samples, getattr(self.source, "drawn", None), position)

    def _normalize(self, samples: Samples | Feed) -> None:
        """Make the trainer's own normalization from training samples."""
        if self._normalizes and self.step == 0:
            self.predictor.transforms.fit(samples.statistics)

    def _load(self, samples: Samples, shuffle: Shuffle, **part: Any) -> Loader:
        pinned = self.predictor.device.type == "cuda"
        fields = self.fields
        return Loader(
            samples, self.batch_size, shuffle=shuffle, seed=self.seed, fields=fields, pin_memory=pinned, **part
        )

    def _training_loader(self) -> Loader:
        """The loader of the training samples, made when it is needed first: only then they are all there."""
        assert self.training is not None
        if self._loader is None:
            rank, size = self.ranks.rank, self.ranks.size
            divided = self._division()
            part = {"drop_last": divided.drop_last, "min_batch": divided.min_batch}
            self._loader = self._load(self.training, self.shuffle, rank=rank, world_size=size, **part)
            if self._order is not None:
                self._loader.load_state_dict(self._order)
        return self._loader

    def _batches(self) -> Generator[dict[str, Tensor], None, None]:
        """The batches of the current epoch that are still to be trained on, on the network's device."""
        if self.training is not None:
            loader, left = self._training_loader(), self.num_batches - self.batch
            loader.set_epoch(self.epoch, self.batch)
            loaded: Any = iter(loader)
            if self.loader_workers and left:
                loaded = gathered_by_workers(loader, self.epoch, self.batch, self.loader_workers)
            with closing(loaded):
                for batch in islice(loaded, left):
                    if self.ranks.size > 1:
                        # a state for each process would fit only as many of them
                        seed_generators(_seed_of(self.seed, self.ranks.rank, self.step))
                    yield self.predictor.tensors(batch)
            return
        if self._feed is not None:
            left = self.num_batches - self.batch
            for batch in islice(self._feed.batches(_seed_of(self.seed, self.epoch), self.batch), left):
                yield self.predictor.tensors({name: batch[name] for name in self.fields})
            return
        while self.batch < self.num_batches:
            self._handed = self._drawn.popleft() if self._drawn else self._draw()
            yield self.predictor.tensors(self._handed.samples)

    def _validate(self) -> dict[str, float]:
        """The values of both validations that are due."""
        values = {}
        if self.validation is not None:
            values = {f"validation_{name}": value for name, value in self.evaluate(self.validation).items()}
        done = self.epoch + 1
        if self._rollout is not None and (done % self._rollout_every == 0 or done == self.epochs):
            with evaluating(self.predictor):
                values |= {f"rollout_{name}": float(value) for name, value in self._rollout(self.predictor).items()}
        return values

    def _usable(self, values: dict[str, float], batch: Mapping[str, Tensor]) -> bool:
        """Whether a batch has a finite loss and gradient; if not, its loss becomes one that is not finite.

        Raises:
            DivergedError: It has not, and such batches are not to be skipped.
        """
        if math.isfinite(values["loss"]):
            if self.optimization.has_finite_gradient():
                return True
            cause = f", and the gradient of the loss {values['loss']:.6g} is not finite"
            values["loss"], self._elsewhere = math.nan, False
        elif bad := [name for name, value in batch.items() if not value.isfinite().all()]:
            cause = f", whose samples are not finite in {bad}"
        else:
            cause = ""
        sound = all(bool(value.isfinite().all()) for value in self.predictor.parameters())
        message = DIVERGED.format(
            loss=values["loss"],
            epoch=self.epoch + 1,
            batch=self.batch + 1,
            cause=cause,
            names=OTHERS if self._elsewhere else self._names(batch),
            weights=BEFORE if sound else BROKEN,
        )
        if self.on_nonfinite == "raise" or not sound:
            raise DivergedError(message)
        self.history.skipped += 1
        log.warning("skipped: %s", message)
        return False

    def _names(self, batch: Mapping[str, Tensor]) -> str:
        """Episodes and steps of the current batch, for people: of its samples that are not finite if there are any."""
        found: list[Array] = []
        if self._last is not None and hasattr(self._last.names, "episodes"):
            found = [self._last.names.episodes, self._last.names.steps]
        elif self.training is not None and hasattr(self.training, "index"):
            rows = self._training_loader().indices(self.epoch, self.batch)
            found = [self.training.index(name)[rows] for name in ("episode", "step")]
        if not found or len(found[0]) != _length(batch):
            return f"{_length(batch)} samples"
        flat = [value.flatten(1) if value.ndim > 1 else value[:, None] for value in batch.values()]
        finite = torch.stack([value.isfinite().all(1) for value in flat]).all(0).cpu().numpy()
        chosen = np.flatnonzero(~finite) if not finite.all() else np.arange(len(finite))
        shown = [f"episode {found[0][row]} step {found[1][row]}" for row in chosen[:SHOWN]]
        return ", ".join(shown) + (f" and {len(chosen) - SHOWN} more" if len(chosen) > SHOWN else "")

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to continue, apart from the weights: data, arrays and tensors, nested."""
        source: Any = None
        if self._always:
            # a batch that was drawn and not trained on is drawn again
            source = getattr(self.source, "state_dict", dict)() if self._last is None else self._last.position
        order = None
        if self.training is not None:
            order = {**self._training_loader().state_dict(), "epoch": self.epoch, "batch": self.batch}
        return {
            "settings": self._settings(),
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "means": {"samples": self._means.samples, "sums": dict(self._means.sums)},
            "history": {"epochs": [dict(epoch) for epoch in self.history.epochs], "skipped": self.history.skipped},
            "optimization": self.optimization.state_dict(),
            "order": order,
            "source": source,
            "generators": generator_states(),
            "threads": torch.get_num_threads(),
            "versions": _versions(),
            "callbacks": {name: _state_of(callback) for name, callback in self._named_callbacks()},
        }

    def _settings(self) -> dict[str, Any]:
        """What must be the same for a training to be continued."""
        return {
            "batch_size": self.batch_size,
            "batches_per_epoch": self.batches_per_epoch,
            "seed": self.seed,
            "validation": self._held_out if isinstance(self._held_out, (int, float)) else None,
            "produce": None if self.source is None else "always" if self._always else "first_epoch",
            "inputs": list(self.predictor.inputs),
            "outputs": list(self.predictor.outputs),
            "loss_fields": list(self.loss_fields),
            **self.optimization.settings,
        }

    def _named_callbacks(self) -> Iterator[tuple[str, Callback]]:
        """The callbacks by the name of their class, and which one of it they are."""
        seen: dict[str, int] = {}
        for callback in self._callbacks:
            name = type(callback).__name__
            seen[name] = seen.get(name, 0) + 1
            yield f"{name}-{seen[name]}", callback

    def _resume(self, resume: bool | str | Path, folder: Path | None) -> None:
        """Take over the weights and the state of a checkpoint: the last one in a folder, or a given one."""
        if isinstance(resume, bool):
            if folder is None:
                raise ConfigError(NO_FOLDER)
            if not list_checkpoints(folder):
                # what a killed training has stored is trained on as if it came now
                if self._always and (begin := getattr(self.source, "load_state_dict", None)) is not None:
                    begin({})
                return
        path = find_checkpoint(str(folder if isinstance(resume, bool) else resume))
        state, weights = read_training(path, self.predictor)
        try:
            check_training(state)
            self._take(path, state)
            self.predictor.load_state_dict(weights)
        except CheckpointError:
            raise
        except (PhysGymError, *UNFIT) as error:
            problem = str(error) if isinstance(error, PhysGymError) else f"{type(error).__name__} {error}"
            raise CheckpointError(OTHER_STATE.format(path=path, problem=problem)) from error
        self._resumed = path
        log.info("continues %s at epoch %d, batch %d", path, self.epoch, self.batch)

    def _take(self, path: Path, state: dict[str, Any]) -> None:
        """Continue from a state."""
        was, now = state["settings"], self._settings()
        if differing := [
            f"{name} was {was.get(name)!r}, now it is {now[name]!r}" for name in now if was.get(name) != now[name]
        ]:
            raise CheckpointError(OTHER_SETTINGS.format(path=path, differences="; ".join(differing)))
        check_generators(state["generators"])
        self.optimization.load_state_dict(state["optimization"])
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
        self._means = Means(state["means"]["samples"], dict(state["means"]["sums"]))
        self.history.epochs, self.history.skipped = state["history"]["epochs"], state["history"]["skipped"]
        if (order := state["order"]) is not None and (size := self.ranks.size) != order["world_size"]:
            # as many samples as were seen, rounded down to a whole batch of as many processes as there are now
            self.batch = min(self.batch * order["world_size"] // size, self.num_batches)
            order = {**order, "world_size": size, "batch": self.batch}
        self._order = order
        if self.training is not None:
            if order is None:
                raise ConfigError("it has no place in the order of the samples")
            self._training_loader()
        if self._always and (load := getattr(self.source, "load_state_dict", None)) is not None:
            load(state["source"])
        for name, callback in self._named_callbacks():
            if name in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][name])
        self._generators = state["generators"]
        if (threads := state["threads"]) != torch.get_num_threads():
            log.info("torch computes with %d threads, as before the interruption", threads)
            torch.set_num_threads(threads)
        if state["versions"] != _versions():
            log.warning(
                "%s was written by %s; with %s results may differ in bits", path, state["versions"], _versions()
            )


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


def _state_of(callback: Callback) -> dict[str, Any]:
    state = callback.state_dict()
    if not isinstance(state, dict):
        raise CheckpointError(f"state_dict of {type(callback).__name__} gave a {type(state).__name__}, not a dict")
    return state


def check_device(device: torch.device | str) -> None:
    """Raise ConfigError unless torch can compute on a device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _versions() -> dict[str, str]:
    """Of what computes."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}


def _floats(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value.item() if isinstance(value, Tensor) else float(value) for name, value in values.items()}


def _length(arrays: Mapping[str, Array | Tensor]) -> int:
    return len(next(iter(arrays.values())))
