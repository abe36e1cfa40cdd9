"""The plan of a training: its parts, checked before the first sample is generated, and the trainer made of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from physgym.code.record import check_same
from physgym.code.search import code_of
from physgym.data.dataset import SampleDataset
from physgym.data.dataset_parts import effective_split
from physgym.data.provenance import code_of_part
from physgym.errors import ConfigError
from physgym.experiment import components
from physgym.experiment.config import NEW_SAMPLES
from physgym.experiment.dataset_plan import (
    DatasetFolders,
    check_environment,
    check_samplers,
    check_stored,
    continued_options,
    dataset_folder,
    episode_split,
    existing_spec,
    held_out_folder,
    is_complete,
    make_dataset,
    note_unused_count,
    open_dataset,
    own_samples,
    samples_to_load,
    split_own,
    split_samples,
    validation_part,
    wanted_samples,
)
from physgym.experiment.evaluate import build_metrics
from physgym.experiment.generation_plan import (
    environment_arguments,
    environment_id,
    generation_options,
    simulation_spec,
    with_feedback,
)
from physgym.experiment.networks import as_predictor, build_network
from physgym.experiment.parts import (
    build_changes,
    build_checkpoints,
    build_loggers,
    build_optimization,
    build_transforms,
    make_part,
)
from physgym.experiment.produced import check_produced
from physgym.experiment.run import Run
from physgym.experiment.schema import Config
from physgym.experiment.sections import options_in
from physgym.experiment.unroll_plan import UnrollPlan
from physgym.generation.online import Online
from physgym.generation.online_report import METRICS
from physgym.generation.options import GenerationOptions, OnlineOptions
from physgym.generation.stream import SampleStream
from physgym.launch.base import Launcher
from physgym.loading.batching import TOO_SHORT
from physgym.nn import Optimization, Predictor
from physgym.running.rollout_evaluation import RolloutEvaluation
from physgym.step_fields import check_target
from physgym.storage.location import Location, place
from physgym.training import Callback, EarlyStopping, Metrics, SampleSource, Trainer
from physgym.training.answers import answers_of
from physgym.training.argument_checks import check_alike, check_device
from physgym.training.batches import divide
from physgym.training.foreign import Feed, TorchSamples
from physgym.training.monitors import check_saved, check_watched, loss_names
from physgym.training.ranks import Ranks
from physgym.viewing.shown import UNSEEN, LiveView


class TrainingPlan:
    """Parts of a training that need no samples; making them finds what is wrong.

    Args:
        config: Describes the training.
        folder: Place of the samples of a session that continues; None for a new one.
        callbacks: More callbacks.
        metric: A value of an epoch that is wanted.
        allow_changed_code: Whether a dataset may continue with another code of the simulation.
        view: How simulations are shown while they run.
        launcher: What brings the workers of simulations from elsewhere; None for workers here.

    Attributes:
        config: Describes the training.
        own: Samples of a class that the configuration names; None where it names none.
        unrolling: Whether the network makes several steps, and the fields that follow from it.
        spec: Fields of a sample, or of one step of several.
        network: The network before the training.
        transforms: Transforms around it; None where it brings them.
        changes: The changes that it predicts; None where it brings them, or predicts values.
        generation: Options of generation.
        callbacks: All callbacks but those of a session.

    Raises:
        PhysGymError: A part cannot be made, or does not fit the others.
    """

    def __init__(
        self,
        config: Config,
        folder: DatasetFolders | None,
        callbacks: Sequence[Callback],
        metric: str | None = None,
        *,
        allow_changed_code: bool = False,
        view: LiveView = UNSEEN,
        launcher: Launcher[Any] | None = None,
    ) -> None:
        self.config = config
        if folder is None:  # a session of before goes on as it was
            check_produced(config)
            check_stored(config)
            check_environment(config)
        check_device(config.device)
        check_samplers(config)
        self.own = own_samples(config)
        spec = self.own.spec if self.own is not None else existing_spec(config, folder) or simulation_spec(config)
        trained = None if config.network.start_from is None else build_network(config, spec)
        names = (trained.inputs, trained.outputs) if isinstance(trained, Predictor) else (config.inputs, config.outputs)
        self.unrolling = UnrollPlan(config, spec, names[1], stored=self.own is None)
        self.spec = self.unrolling.step
        check_target(self.spec, *names)
        self.network = build_network(config, self.spec) if trained is None else trained
        optimization = build_optimization(config, self.network, 1)  # the number of steps is not known yet
        self.transforms = build_transforms(config, self.network, self.spec)
        self.changes = build_changes(config, self.network, self.spec)
        self.generation = {**generation_options(config), "allow_changed_code": allow_changed_code}
        self.generation |= {"view": view, "launcher": launcher}
        self.callbacks = [*build_metrics(config, self.predictor()), *callbacks]
        for part in config.training.callbacks:
            self.callbacks.append(make_part(part, components.CALLBACKS, "training.callbacks", Callback))
        if config.training.early_stopping is not None:
            self.callbacks.append(EarlyStopping(**config.training.early_stopping.model_dump()))
        self._foresee(optimization, metric)

    def show_in(self, session: Path) -> None:
        """Let simulations be watched by the folder of a session, also where it stores no samples."""
        view: LiveView = self.generation["view"]
        self.generation["view"] = replace(view, places=(session,))

    def foresee_samples(self, ranks: int) -> None:
        """Raise what is wrong with samples that are there already, before a session takes its name.

        Args:
            ranks: Processes that train together.
        """
        config, predictor = self.config, self.predictor()
        for key, path in (("dataset.path", config.dataset.path), ("validation.path", config.validation.path)):
            for one in [path] if isinstance(path, str) else path or []:
                if not isinstance(found := place(one), Location) and found.exists() and not found.is_dir():
                    raise ConfigError(f"{key}: {one} is no folder; a dataset is one")
        samples_to_load(config)
        if config.validation.path is not None:
            held = place(config.validation.path)
            samples = self.unrolling.windows(open_dataset(config, held, validation_part(held)), "validation.path")
            check_alike(samples, self.unrolling.samples, [*predictor.inputs, *predictor.outputs])
        if self.own is None and config.dataset.mini is None and is_complete(config, None):
            folder = dataset_folder(config, Path())
            training, _ = split_samples(config, make_dataset(config, self.generation, folder), folder)
            training = self.unrolling.windows(training, "dataset")
            share, size = len(training) // ranks, config.training.batch_size
            if config.training.last_batch == "drop" and share < size:
                raise ConfigError(TOO_SHORT.format(share=share, batch_size=size))

    def predictor(self) -> Predictor:
        """Return the network as it is before the training, with its fields and transforms."""
        return as_predictor(self.config, self.network, self.spec, self.transforms, self.changes)

    def _foresee(self, optimization: Optimization, metric: str | None) -> None:
        """Raise what the trainer would raise of values that are watched and states that are saved."""
        config, predictor = self.config, self.predictor()
        fields = config.loss_fields or predictor.outputs
        self.unrolling.check(predictor, fields)

        def losses(batch: Mapping[str, Any]) -> Mapping[str, Any]:
            tensors = predictor.tensors(batch)
            target = {name: tensors[name] for name in fields}
            return optimization.losses(*predictor.for_loss(predictor(tensors), target, tensors))

        check_saved(predictor, optimization, self.callbacks)
        produce, validation = config.dataset.produce, config.validation
        held_out = validation.fraction > 0 and produce in ("before", "first_epoch") and not isinstance(self.own, Feed)
        check_watched(
            [
                *self.callbacks,
                build_checkpoints(config, Path("session")),
                *([] if metric is None else [WatchedMetric(metric)]),
            ],
            lambda: loss_names(predictor, optimization, losses, self.spec, [*predictor.inputs, *fields]),
            validated=validation.path is not None or held_out,
            rollout=None if validation.rollout is None else build_rollout(config),
            predictor=predictor,
            metrics=METRICS if produce == "online" else self.unrolling.record,
        )


class WatchedMetric(Callback):
    """Value that a search watches."""

    adds = ()
    called = "search.metric"

    def __init__(self, name: str) -> None:
        self.watches = (name,)


def build_rollout(config: Config) -> RolloutEvaluation:
    """Build the comparison of the network with the solver."""
    section = config.validation.rollout
    assert section is not None
    return RolloutEvaluation(
        environment_id(config, "validation.rollout"),
        steps=section.steps,
        seed=config.seed,
        env_kwargs=environment_arguments(config),
        max_steps=options_in(config.dataset, GenerationOptions)["max_steps"],
        horizons=tuple(section.horizons),
    )


def _batches(plan: TrainingPlan, samples: SampleDataset | TorchSamples) -> int:
    """Return how many batches an epoch has on each process, over which a schedule may span."""
    section, ranks, predictor = plan.config.training, Ranks(plan.config.device).size, plan.predictor()
    size, limit = section.batch_size, section.batches_per_epoch
    options: dict[str, Any] = {"ranks": ranks, "accumulate": plan.config.optimization.accumulate, "at_most": limit}
    divided = divide(predictor, len(samples), size, last_batch=section.last_batch, **options)
    return divided.count(len(samples), size, ranks, limit)


def _own_batches(plan: TrainingPlan, samples: TorchSamples | Feed) -> int:
    """Return how many batches an epoch has."""
    if not isinstance(samples, Feed):
        return _batches(plan, samples)
    limit = plan.config.training.batches_per_epoch
    few = (
        sys.maxsize if (mini := plan.config.dataset.mini) is None else math.ceil(mini / plan.config.training.batch_size)
    )
    return min(samples.num_batches or sys.maxsize, limit or sys.maxsize, few)


def _check_physics(config: Config, dataset: SampleDataset, plan: TrainingPlan) -> None:
    """Raise ChangedCode where rollouts would compare the network with another simulation than it learns from."""
    recorded = code_of_part(dataset.provenance)
    if config.environment is None or config.validation.rollout is None or recorded is None:
        return
    now = code_of(config.environment.id, config.environment.arguments)
    folders = ", ".join(map(str, dataset.paths))
    where = f"the dataset in {folders}, to which validation.rollout compares the simulation,"
    check_same(recorded, now, where, allow=plan.generation["allow_changed_code"], compare_factories=False)


def build_source(plan: TrainingPlan, folder: DatasetFolders, *, resume: bool) -> SampleSource:
    """Build the source that produces samples while training."""
    config, section = plan.config, plan.config.dataset
    stored = None if section.produce == "always" and section.path is None else folder
    there = resume and stored is not None
    options = continued_options(plan.generation, stored) if there and stored is not None else plan.generation
    path = None if stored is None else str(stored)
    env = environment_id(config, f"dataset.produce: {section.produce}")
    stream = SampleStream(env, path=path, resume=there, load=samples_to_load(config), **options)
    online = options_in(section.online, OnlineOptions)
    if section.mini is not None:
        online["samples"] = min(section.mini, online["samples"] or sys.maxsize)
        online["minimum"] = min(section.mini, online["minimum"])
    try:
        stream.spec = with_feedback(config, stream.spec)
        if section.produce != "online":
            return stream
        return Online(stream, seed=config.seed, timeout=plan.generation["timeout"], **online)
    except BaseException:
        stream.close()
        raise


def _samples(plan: TrainingPlan, folder: DatasetFolders, run: Run | None) -> tuple[Any, Any, int]:
    """Return the samples to train on, those to validate on or their fraction, and the number of batches of an epoch."""
    config, section = plan.config, plan.config.training
    training: SampleDataset | TorchSamples | Feed | None = None
    validation: SampleDataset | TorchSamples | float | None = config.validation.fraction
    if plan.own is not None:
        training, validation = split_own(plan.own, config)
        per_epoch = _own_batches(plan, training)
    elif config.dataset.produce == "before":
        dataset = make_dataset(config, plan.generation | {"predictor": answers_of(plan.predictor())}, folder)
        if run is not None:
            run.describe_dataset(dataset, split=effective_split(dataset.episode_split, episode_split(config)))
        note_unused_count(config, dataset)
        _check_physics(config, dataset, plan)
        training, validation = split_samples(config, dataset, folder)
        training = windows = plan.unrolling.windows(training, "dataset")
        per_epoch = _batches(plan, windows)
    else:
        per_epoch = math.ceil((wanted_samples(config) or NEW_SAMPLES) / section.batch_size)
        if section.batches_per_epoch is not None:
            few = sys.maxsize if config.dataset.mini is None else per_epoch
            per_epoch = min(few, section.batches_per_epoch)
    if (held := held_out_folder(config, folder)) is not None:
        validation = open_dataset(config, held, validation_part(held), mini=config.dataset.mini)
        if run is not None:
            run.describe_dataset(validation, "validation")
    return training, validation, per_epoch


def make_trainer(
    plan: TrainingPlan, folder: DatasetFolders, session: Path | None, run: Run | None, *, resume: bool
) -> tuple[Trainer, SampleSource | None]:
    """Make the trainer with its samples: a dataset, generated if need be, or a source that produces them.

    Args:
        plan: The parts.
        folder: Place of the samples.
        session: Its folder; None where nothing is kept.
        run: The record that notes the samples; None for none.
        resume: Whether the training continues from its last checkpoint.

    Returns:
        The trainer and the source, which is to be closed; None for a dataset.

    Raises:
        PhysGymError: Samples are missing, or the parts do not fit them.
    """
    config, section = plan.config, plan.config.training
    training, validation, per_epoch = _samples(plan, folder, run)
    if run is not None and (load := samples_to_load(config)) is not None:
        run.describe_dataset(load, "load_samples")
    for one in plan.callbacks if run is not None else ():
        for name, tested in one.tests.items() if isinstance(one, Metrics) else ():
            if run is not None and isinstance(tested, SampleDataset):
                run.describe_test(name, tested)
    source = None
    callbacks = list(plan.callbacks)
    if session is not None:
        callbacks.append(build_checkpoints(config, session))
        callbacks += build_loggers(config, session)
    network, rollout = plan.network, config.validation.rollout
    trained = isinstance(network, Predictor)  # and has its fields and transforms
    if config.dataset.produce != "before":
        source = build_source(plan, folder, resume=resume)  # which has processes, from here on to be closed
    try:
        trainer = Trainer(
            network,
            training,
            source=source,
            produce="first_epoch" if config.dataset.produce == "first_epoch" else "always",
            epochs=section.epochs,
            batch_size=section.batch_size,
            batches_per_epoch=per_epoch,
            shuffle=section.shuffle,
            last_batch=section.last_batch,
            validation=validation,
            optimization=build_optimization(config, network, section.epochs * per_epoch),
            session=session,
            record=False,
            allow_changed_code=bool(plan.generation["allow_changed_code"]),
            seed=config.seed,
            device=config.device,
            callbacks=callbacks,
            inputs=None if trained else config.inputs,
            outputs=None if trained else config.outputs,
            loss_fields=config.loss_fields,
            transforms=plan.transforms,
            normalize=False,
            predict=plan.changes or "value",
            resume=resume,
            on_nonfinite=section.on_nonfinite,
            compile=section.compile,
            loader_workers=section.loader_workers,
            device_resident=section.device_resident,
            unroll=plan.unrolling.unroll,
            rollout=None if rollout is None else build_rollout(config),
            rollout_every=1 if rollout is None else rollout.every,
        )
    except BaseException:
        if source is not None:
            source.close()
        raise
    return trainer, source
