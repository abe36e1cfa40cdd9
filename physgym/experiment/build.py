"""Turns a configuration into the objects of a training, and runs it."""

from __future__ import annotations

import functools
import math
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast, get_args

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from physgym.code.record import check_same, code_of
from physgym.data.dataset import SampleDataset
from physgym.data.provenance import code_of_part
from physgym.data.writer import Mode, partition_files
from physgym.episode import require_spec
from physgym.errors import ConfigError, PhysGymError
from physgym.experiment import components
from physgym.experiment.config import NEW_SAMPLES, check_config
from physgym.experiment.produced import check_produced
from physgym.experiment.provenance import Origin
from physgym.experiment.record import read_config
from physgym.experiment.run import Run
from physgym.experiment.schema import Component, Config, TransformsSection
from physgym.experiment.session import CONFIG, is_empty, new_session
from physgym.factories import takes
from physgym.files import absolute, short
from physgym.generation.generate import BREED_ALONE, SampleStream, generate
from physgym.generation.online import METRICS, Online
from physgym.loading.loader import TOO_SHORT
from physgym.naming import env_name, same_name
from physgym.nn import Compose, LossTransform, Optimization, Predictor, Transforms
from physgym.nn.predictor import field_names
from physgym.running.rollout_evaluation import RolloutEvaluation
from physgym.sample import SampleSpec
from physgym.samplers import Breed, NetworkPolicy, Sampler, find_sampler, rebuild_sampler
from physgym.storage.location import Location, place
from physgym.training import (
    Callback,
    Checkpoints,
    EarlyStopping,
    History,
    SampleSource,
    TensorBoard,
    Trainer,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
)
from physgym.training.answers import Asked, answers_of
from physgym.training.argument_checks import check_alike
from physgym.training.batches import divide
from physgym.training.checkpoint_files import as_which, read_manifest
from physgym.training.foreign import Feed, TorchSamples, as_samples
from physgym.training.monitors import check_saved, check_watched, loss_names
from physgym.training.ranks import Ranks
from physgym.training.trainer import ALONE, check_device
from physgym.vector.make import env_factories
from physgym.worker import folders

OPTIONS = {"num_envs", "num_workers", "max_steps", "max_rejects", "nonfinite", "keep_rejected", "timeout", "on_error"}
OPTIONS |= {"max_file_size"}
# schedules over the whole training, which advance with every batch, and the argument that says how long that is
SPANNING = {"cosine": "T_max", "one_cycle": "total_steps"}
# what torch leaves open; the others have defaults there
SCHEDULE_DEFAULTS: dict[str, dict[str, Any]] = {"step": {"step_size": 5, "gamma": 0.5}, "exponential": {"gamma": 0.95}}
# a function is a loss where its second parameter has such a name, and a policy likewise
TARGETS = ("target", "targets", "truth", "expected", "label", "labels", "y", "y_true")
GENERATORS = ("generator", "rng", "random", "np_random")
LOSS_FUNCTION = "; or name a function of (prediction, target), with parameters of these names"
POLICY = "; or name a function of (observation, generator), with parameters of these names"
Folder: TypeAlias = Path | Location | list[Path | Location]  # of a dataset, or of several
ONE_DATASET = "dataset.path: physgym generate writes one dataset; name one folder"
NO_SIMULATION = "environment: missing; {what} needs the simulation"


@dataclass(frozen=True)
class Outcome:
    """What a training from a configuration gave.

    Attributes:
        session: Its folder; None where nothing was logged.
        trainer: The trainer, with the network and the samples.
        history: What was done.
    """

    session: Path | None
    trainer: Trainer
    history: History


def train(
    config: Config,
    resume: Path | None = None,
    origin: Origin | None = None,
    *,
    log: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """Run the training that a configuration describes, in a new session folder or in that of an interrupted one.

    What can be wrong with the network and all else that the configuration names is found before the first sample is
    generated.

    Args:
        config: What to do.
        resume: Session to continue from its last checkpoint, or from where its samples end.
        origin: How this run came about, for the record; by default what can be seen from here.
        log: Whether there is a session. Without one nothing is kept: no checkpoints, no curves, and the samples only
            where ``dataset.path`` says so.
        callbacks: More callbacks of the training.

    Started by ``torchrun``, the processes train one network together, from a dataset that is complete.

    Raises:
        PhysGymError: Whatever the parts raise; what was complete stays in the session.
        KeyboardInterrupt: Ctrl-C while samples were generated; the text says where they are. During training it ends
            in the outcome instead.
    """
    given, config = config, located(config)
    plan = _Plan(config, None if resume is None else _dataset_folder(config, resume), callbacks)
    plan.generation["allow_changed_code"] = origin is not None and origin.allow_changed_code
    ranks = Ranks(config.device)  # torchrun starts all of them; the first one has the session
    if ranks.size > 1 and not _complete(config, resume):
        raise ConfigError(f"{ALONE}: physgym generate, then dataset.path")
    if not log:
        with tempfile.TemporaryDirectory(prefix="physgym-") as temporary:
            return _train(plan, _dataset_folder(config, Path(temporary)), None, None)
    session = resume
    if session is None:
        plan.foresee_samples(ranks.size)
        session = Path(ranks.share(str(new_session(config.session)) if ranks.rank == 0 else ""))
    folder = _dataset_folder(config, session)
    # the record stands before the first step, and names the folder that the session really has
    recorded = given.model_copy(update={"session": str(session)}).model_dump()
    if ranks.rank > 0:
        return _train(plan, folder, session, None, resume=resume is not None)
    with Run(session, "train", recorded, origin) as run:
        try:
            return _train(plan, folder, session, run, resume=resume is not None)
        except KeyboardInterrupt as interrupt:
            if is_empty(session):
                there = f"samples are in {folder}" if _has_samples(folder) else "nothing is kept"
                text = f"interrupted before the training; {there}. Begin again with the same command"
                raise KeyboardInterrupt(text) from None
            kept = f"complete samples are in {short(str(folder))}" if _has_samples(folder) else "no sample was complete"
            if checkpoints := list_checkpoints(config.training.checkpoints.path or session / "networks"):
                kept = f"the last complete checkpoint is {short(str(list(checkpoints)[-1]))}"
            run.outcome = str(interrupt) or "interrupted before the training"
            onward = f"physgym resume {shlex.quote(short(session))}"
            raise KeyboardInterrupt(f"{run.outcome}; {kept}. Continue with: {onward}") from None


def generate_samples(
    config: Config,
    resume: Path | None = None,
    origin: Origin | None = None,
    *,
    mode: Mode = "training",
    more: bool = False,
    allow_changed_code: bool = False,
) -> SampleDataset:
    """Generate the samples that a configuration describes: where ``dataset.path`` says, or in a session of their own.

    Args:
        config: What to do.
        resume: Session to continue.
        origin: How this run came about, for the record of a session.
        mode: Part of the dataset to write.
        more: Continue the dataset in ``dataset.path`` after its last sample.
        allow_changed_code: Continue it with another code of the simulation too; of a session `origin` says it.

    Raises:
        ConfigError: The configuration has no environment.
        PhysGymError: What `physgym.generate` raises.
    """
    given, config = config, located(config)
    if config.dataset.type is not None:
        raise ConfigError("dataset.type: names samples that are there, and there are none to generate; leave it out")
    env, load, options = _environment(config, "physgym generate"), _load(config), _generation(config)
    samples = None if load is not None and config.dataset.samples is config.dataset.mini is None else _wanted(config)
    options["allow_changed_code"] = allow_changed_code or (origin is not None and origin.allow_changed_code)
    if resume is not None:  # the part that was begun
        mode = next((part for part in get_args(Mode) if _has_samples(resume / "dataset", part)), mode)
    options |= {"samples": samples, "episodes": config.dataset.episodes, "mode": mode, "load": load}
    options["predictor"] = _asked(config)
    make: Any = functools.partial(generate, env, **options)
    if isinstance(config.dataset.path, list):
        raise ConfigError(ONE_DATASET)
    if config.dataset.path is not None:
        return cast(SampleDataset, make(config.dataset.path, resume=more))
    env_factories(env, environment_arguments(config))  # raises before there is a session
    session = new_session(config.session) if resume is None else resume
    recorded = given.model_copy(update={"session": str(session)}).model_dump()
    with Run(session, "generate", recorded, origin) as run:
        run.accepted()
        if load is not None:
            run.describe_dataset(load, "load_samples")
        try:
            dataset: SampleDataset = make(session / "dataset", resume=resume is not None)
        except KeyboardInterrupt:
            if is_empty(session):
                raise KeyboardInterrupt("interrupted before the first sample; nothing is kept") from None
            onward = f"physgym resume {shlex.quote(short(session))}"
            raise KeyboardInterrupt(
                f"interrupted; complete samples are in {short(session)}. Continue with: {onward}"
            ) from None
        run.describe_dataset(dataset)
        return dataset


def check(config: Config, metric: str | None = None) -> None:
    """Raise what `train` would raise before the first sample is generated.

    Args:
        config: What to do.
        metric: A value of an epoch that is wanted.
    """
    _Plan(config, None, (), metric)


def shared_dataset(config: Config, folder: Folder, *, allow_changed_code: bool = False) -> SampleDataset:
    """The samples of several trainings that a configuration describes, generated where they are missing.

    Raises:
        PhysGymError: What `physgym.generate` raises, and as `train` if the folder holds others.
    """
    _existing_spec(config, folder)
    more = {"allow_changed_code": allow_changed_code, "predictor": _asked(config)}
    return _dataset(config, _generation(config) | more, folder)


def _asked(config: Config) -> Asked:
    """What answers a simulation that asks the network while samples are generated without a training.

    It is the network with which the training of this configuration would begin, so that its samples are the same.
    """

    def make() -> Predictor:
        spec = _env_spec(config)
        network = build_network(config, spec)
        return _predictor(config, network, spec, build_transforms(config, network, spec))

    return Asked(make)


def _predictor(
    config: Config, network: nn.Module | Predictor, spec: SampleSpec, transforms: Transforms | None
) -> Predictor:
    """A network with its fields and transforms, as it is before the training."""
    if isinstance(network, Predictor):
        return network
    return Predictor(network, spec, transforms=transforms, inputs=config.inputs, outputs=config.outputs)


def located(config: Config) -> Config:
    """Return a configuration whose paths are absolute: a simulation may change the folder that the process is in."""

    def at(path: Any) -> Any:
        if path is None:
            return None
        return str(place(path)) if isinstance(path, str) else [at(one) for one in path]

    dataset, training = config.dataset, config.training
    checkpoints = training.checkpoints.model_copy(update={"path": at(training.checkpoints.path)})
    changed = {
        "dataset": dataset.model_copy(update={"path": at(dataset.path), "load_samples": at(dataset.load_samples)}),
        "network": config.network.model_copy(update={"start_from": at(config.network.start_from)}),
        "training": training.model_copy(update={"checkpoints": checkpoints}),
        "validation": config.validation.model_copy(update={"path": at(config.validation.path)}),
    }
    return config.model_copy(update=changed)


class _Plan:
    """The parts of a training that need no samples; making them finds what is wrong."""

    def __init__(
        self,
        config: Config,
        folder: Folder | None,
        callbacks: Sequence[Callback],
        metric: str | None = None,
    ) -> None:
        self.config = config
        if folder is None:  # a session of before goes on as it was
            check_produced(config)
        check_device(config.device)
        _check_samplers(config)
        self.own = own_samples(config)
        self.spec = self.own.spec if self.own is not None else _existing_spec(config, folder) or _env_spec(config)
        self.network = build_network(config, self.spec)
        optimization = build_optimization(config, self.network, 1)  # the number of steps is not known yet
        self.transforms = build_transforms(config, self.network, self.spec)
        self.generation = _generation(config)
        self.callbacks = list(callbacks)
        for part in config.training.callbacks:
            self.callbacks.append(_make(part, components.CALLBACKS, "training.callbacks", Callback))
        if config.training.early_stopping is not None:
            self.callbacks.append(EarlyStopping(**config.training.early_stopping.model_dump()))
        self._foresee(optimization, metric)

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
        _load(config)
        if config.validation.path is not None:
            held = place(config.validation.path)
            check_alike(SampleDataset(held, mode=_part_of(held)), self.spec, [*predictor.inputs, *predictor.outputs])
        if self.own is None and config.dataset.mini is None and _complete(config, None):
            folder = _dataset_folder(config, Path())
            training, _ = _split(config, _dataset(config, self.generation, folder), folder)
            share, size = len(training) // ranks, config.training.batch_size
            if config.training.last_batch == "drop" and share < size:
                raise ConfigError(TOO_SHORT.format(share=share, batch_size=size))

    def predictor(self) -> Predictor:
        """The network as it is before the training, with its fields and transforms."""
        return _predictor(self.config, self.network, self.spec, self.transforms)

    def _foresee(self, optimization: Optimization, metric: str | None) -> None:
        """Raise what the trainer would raise of values that are watched and states that are saved."""
        config, predictor = self.config, self.predictor()
        fields = config.loss_fields or predictor.outputs

        def losses(batch: Mapping[str, Any]) -> Mapping[str, Any]:
            tensors = predictor.tensors(batch)
            target = {name: tensors[name] for name in fields}
            return optimization.losses(*predictor.transforms.before_loss(predictor(tensors), target))

        check_saved(predictor, optimization, self.callbacks)
        produce, validation = config.dataset.produce, config.validation
        held_out = validation.fraction > 0 and produce in ("before", "first_epoch") and not isinstance(self.own, Feed)
        check_watched(
            [*self.callbacks, _checkpoints(config, Path("session")), *([] if metric is None else [Watch(metric)])],
            lambda: loss_names(predictor, optimization, losses, self.spec, [*predictor.inputs, *fields]),
            validated=validation.path is not None or held_out,
            rollout=None if validation.rollout is None else _rollout(config),
            predictor=predictor,
            metrics=METRICS if produce == "online" else (),
        )


class Watch(Callback):
    """A value that a search watches."""

    adds = ()
    called = "search.metric"

    def __init__(self, name: str) -> None:
        self.watches = (name,)


def _checkpoints(config: Config, session: Path) -> Checkpoints:
    """What saves a training: the best one by what early stopping looks at, unless it is told otherwise."""
    section, stopping = config.training.checkpoints, config.training.early_stopping
    chosen: dict[str, Any] = section.model_dump(exclude={"path"})
    if section.monitor is None and stopping is not None:
        chosen |= {"monitor": stopping.monitor, "mode": section.mode or stopping.mode}
    chosen["mode"] = chosen["mode"] or "min"
    return Checkpoints(section.path or session / "networks", **chosen)


def _train(plan: _Plan, folder: Folder, session: Path | None, run: Run | None, *, resume: bool = False) -> Outcome:
    """The training, in a session or without one."""
    trainer, source = _make_trainer(plan, folder, session, run, resume=resume)
    if run is not None:
        run.accepted()  # only now it is known that the last checkpoint fits
    try:
        history = trainer.fit()
    except KeyboardInterrupt:  # the second one: the first ends in the history
        raise KeyboardInterrupt("interrupted twice") from None
    finally:
        if source is not None:
            source.close()
    if run is not None:
        run.outcome = f"stopped: {history.stopped}" if history.stopped else run.outcome
        run.outcome = "interrupted" if history.interrupted else run.outcome
        run.results = dict(history.epochs[-1]) if history.epochs else {}
        if source is not None and _has_samples(folder):  # which were made meanwhile
            run.describe_dataset(SampleDataset(folder))
    return Outcome(session, trainer, history)


def _make_trainer(
    plan: _Plan, folder: Folder, session: Path | None, run: Run | None, *, resume: bool
) -> tuple[Trainer, SampleSource | None]:
    """The trainer with its samples: a dataset, generated if need be, or a source that produces them."""
    config, section = plan.config, plan.config.training
    training: SampleDataset | TorchSamples | Feed | None = None
    validation: SampleDataset | TorchSamples | float | None = config.validation.fraction
    source = None
    if plan.own is not None:
        training, validation = _split_own(plan.own, config)
        per_epoch = _own_batches(plan, training)
    elif config.dataset.produce == "before":
        dataset = _dataset(config, plan.generation | {"predictor": answers_of(plan.predictor())}, folder)
        if run is not None:
            run.describe_dataset(dataset)
        _check_physics(config, dataset, plan)
        training, validation = _split(config, dataset, folder)
        per_epoch = _batches(plan, training)
    else:
        per_epoch = math.ceil((_wanted(config) or NEW_SAMPLES) / section.batch_size)
        if section.batches_per_epoch is not None:
            few = sys.maxsize if config.dataset.mini is None else per_epoch
            per_epoch = min(few, section.batches_per_epoch)
    if (held := _held_out(config, folder)) is not None:
        validation = SampleDataset(held, mode=_part_of(held), mini=config.dataset.mini)
        if run is not None:
            run.describe_dataset(validation, "validation")
    if run is not None and (load := _load(config)) is not None:
        run.describe_dataset(load, "load_samples")
    callbacks = list(plan.callbacks)
    if session is not None:
        callbacks.append(_checkpoints(config, session))
        callbacks.append(TensorBoard(session / "stats", **config.stats.model_dump()))
    network, rollout = plan.network, config.validation.rollout
    trained = isinstance(network, Predictor)  # and has its fields and transforms
    if config.dataset.produce != "before":
        source = _source(plan, folder, resume=resume)  # which has processes, from here on to be closed
    try:
        trainer = Trainer(
            network,
            cast(Any, training),  # of which it knows more kinds than it says
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
            seed=config.seed,
            device=config.device,
            callbacks=callbacks,
            inputs=None if trained else config.inputs,
            outputs=None if trained else config.outputs,
            loss_fields=config.loss_fields,
            transforms=plan.transforms,
            normalize=False,
            resume=resume,
            on_nonfinite=section.on_nonfinite,
            compile=section.compile,
            loader_workers=section.loader_workers,
            rollout=None if rollout is None else _rollout(config),
            rollout_every=1 if rollout is None else rollout.every,
        )
    except BaseException:
        if source is not None:
            source.close()
        raise
    return trainer, source


def own_samples(config: Config) -> TorchSamples | Feed | None:
    """The samples that a configuration names by a class of its own; None where it names none.

    Raises:
        ConfigError: It is no dataset or loader of torch, or its samples are no fields.
    """
    part, key = config.dataset.type, "dataset.type"
    if part is None:
        return None
    kinds = (torch.utils.data.Dataset, torch.utils.data.DataLoader)
    found = components.find_class(part.type, {}, key, *kinds)
    torch.manual_seed(config.seed)
    made = components.make(found, key, **part.arguments)
    if not isinstance(made, kinds):
        raise ConfigError(f"{key}: {part.type} gives {made!r}, which is no dataset or loader of torch")
    samples = cast(TorchSamples | Feed, as_samples(made, config.training.batch_size))
    endless = isinstance(samples, Feed) and samples.num_batches is None
    if endless and config.training.batches_per_epoch is None:
        raise ConfigError("training.batches_per_epoch: missing; the loader does not say how long it is")
    if config.dataset.mini is None or isinstance(samples, Feed):
        return samples
    return samples.subset(np.arange(min(len(samples), config.dataset.mini)))


def _split_own(own: TorchSamples | Feed, config: Config) -> tuple[TorchSamples | Feed, TorchSamples | None]:
    """Samples of one's own to train and to validate on; of a loader nothing can be held out."""
    fraction = config.validation.fraction
    if isinstance(own, Feed) or config.validation.path is not None or not fraction:
        return own, None
    return own.split(fraction, config.seed)


def _own_batches(plan: _Plan, samples: TorchSamples | Feed) -> int:
    """How many batches an epoch has."""
    if not isinstance(samples, Feed):
        return _batches(plan, samples)
    limit = plan.config.training.batches_per_epoch
    few = (
        sys.maxsize if (mini := plan.config.dataset.mini) is None else math.ceil(mini / plan.config.training.batch_size)
    )
    return min(samples.num_batches or sys.maxsize, limit or sys.maxsize, few)


def _batches(plan: _Plan, samples: SampleDataset | TorchSamples) -> int:
    """How many batches an epoch has on each process, over which a schedule may span."""
    section, ranks, predictor = plan.config.training, Ranks(plan.config.device).size, plan.predictor()
    size, limit = section.batch_size, section.batches_per_epoch
    options: dict[str, Any] = {"ranks": ranks, "accumulate": plan.config.optimization.accumulate, "at_most": limit}
    divided = divide(predictor, len(samples), size, last_batch=section.last_batch, **options)
    return divided.count(len(samples), size, ranks, limit)


def _check_physics(config: Config, dataset: SampleDataset, plan: _Plan) -> None:
    """Raise ChangedCode where rollouts would compare the network with another simulation than it learns from."""
    recorded = code_of_part(dataset.provenance)
    if config.environment is None or config.validation.rollout is None or recorded is None:
        return
    now = code_of(config.environment.id, config.environment.arguments)
    folders = ", ".join(map(str, dataset.paths))
    where = f"the dataset in {folders}, to which validation.rollout compares the simulation,"
    check_same(recorded, now, where, allow=bool(plan.generation.get("allow_changed_code")), made_alike=False)


def _held_out(config: Config, folder: Folder) -> Folder | None:
    """Where there are samples to validate on: ``validation.path``, or the part of the dataset itself for that."""
    if config.validation.path is not None:
        return place(config.validation.path)
    if config.dataset.produce == "before" and config.validation.fraction and _has_samples(folder, "validation"):
        return folder
    return None


def _part_of(folder: Folder) -> Mode:
    """The part of a dataset to validate on: that which was made for it, else the only one there is."""
    return "validation" if _has_samples(folder, "validation") else "training"


def _split(config: Config, dataset: SampleDataset, folder: Folder) -> tuple[SampleDataset, SampleDataset | None]:
    """Samples to train and to validate on."""
    if _held_out(config, folder) is not None or not config.validation.fraction:
        return dataset, None
    if config.dataset.mini is not None and len(np.unique(dataset.episodes)) < 2:
        print(f"no validation: the first {len(dataset)} samples are of one episode", file=sys.stderr)
        return dataset, None
    return dataset.split(config.validation.fraction, config.seed)


def _rollout(config: Config) -> RolloutEvaluation:
    section = config.validation.rollout
    assert section is not None
    return RolloutEvaluation(
        _environment(config, "validation.rollout"),
        steps=section.steps,
        seed=config.seed,
        env_kwargs=environment_arguments(config),
        max_steps=config.dataset.max_steps,
        horizons=tuple(section.horizons),
    )


# --- samples


def _environment(config: Config, what: str) -> str:
    if config.environment is None:
        raise ConfigError(NO_SIMULATION.format(what=what))
    return config.environment.id


def environment_arguments(config: Config, **more: Any) -> list[dict[str, Any]]:
    """Return the arguments of the environment, as a list: of k entries, episode e has those at e modulo k.

    Args:
        config: Names them.
        **more: Further ones of each.
    """
    named = {} if config.environment is None else config.environment.arguments
    return [{**one, **more} for one in ([named] if isinstance(named, dict) else named)]


def _wanted(config: Config) -> int | None:
    """How many samples are to be generated; None where it is a number of episodes alone."""
    section = config.dataset
    if section.samples is None and section.episodes is not None:
        return section.mini
    return min(section.samples or NEW_SAMPLES, section.mini or sys.maxsize)


def _enough(config: Config, dataset: SampleDataset) -> bool:
    """Whether a dataset has the samples, or the episodes, that a configuration wants."""
    wanted, episodes = _wanted(config), config.dataset.episodes
    if wanted is not None and len(dataset) >= wanted:
        return True
    if episodes is None:
        return False
    last, endings = int(dataset.index("episode").max(initial=-1)), dataset.endings
    ended = endings is not None and endings.get(last) != "unfinished"
    return last + 1 > episodes or (last + 1 == episodes and ended)


def _load(config: Config) -> SampleDataset | None:
    return None if config.dataset.load_samples is None else SampleDataset(config.dataset.load_samples)


def _source(plan: _Plan, folder: Folder, *, resume: bool) -> SampleSource:
    """What produces samples while training."""
    config, section = plan.config, plan.config.dataset
    stored = None if section.produce == "always" and section.path is None else folder
    there = resume and stored is not None
    options = _continued(plan.generation, stored) if there and stored is not None else plan.generation
    path = None if stored is None else str(stored)
    env = _environment(config, f"dataset.produce: {section.produce}")
    stream = SampleStream(env, path=path, resume=there, load=_load(config), **options)
    if section.produce != "online":
        return stream
    online = section.online.model_dump()
    if section.mini is not None:
        online["samples"] = min(section.mini, online["samples"] or sys.maxsize)
        online["minimum"] = min(section.mini, online["minimum"])
    try:
        return Online(stream, seed=config.seed, **online)
    except BaseException:
        stream.close()
        raise


def _dataset_folder(config: Config, session: Path) -> Folder:
    return places(config.dataset.path) if config.dataset.path else session / "dataset"


def places(path: str | list[str]) -> Folder:
    """Where a dataset is, or several that are read as one."""
    return place(path) if isinstance(path, str) else [place(one) for one in path]


def _has_samples(folder: Folder, mode: Mode = "training") -> bool:
    if isinstance(folder, list):
        return all(_has_samples(one, mode) for one in folder)
    if not isinstance(folder, Location):
        return bool(partition_files(folder, mode))
    from physgym.data.remote import has_samples  # which needs a package that not everyone has

    return has_samples(folder, mode)


def _generation(config: Config) -> dict[str, Any]:
    """Options of generation."""
    parameters = build_sampler(config.sampler.parameters, "parameters")
    if isinstance(parameters, Breed) and config.dataset.produce != "online":
        raise ConfigError(f"sampler.{BREED_ALONE}")
    return {
        **config.dataset.model_dump(include=OPTIONS),
        "seed": config.seed,
        "env_kwargs": environment_arguments(config),
        "actions": build_sampler(config.sampler.actions, "actions"),
        "parameters": parameters,
    }


def _continued(options: dict[str, Any], folder: Folder) -> dict[str, Any]:
    """Options of generation, with those that a dataset was made with where the configuration does not give others."""
    if not _has_samples(folder):
        return options
    options, source = dict(options), SampleDataset(folder).source
    for name in ("actions", "parameters"):
        options[name] = options[name] or rebuild_sampler(source.get(name), name)
    return options | {name: source[name] for name in ("seed", "max_steps", "nonfinite") if name in source}


def _check_samplers(config: Config) -> None:
    """Raise ConfigError if samples are to be added to a dataset that other samplers have made."""
    section = config.dataset
    asked = section.samples is not None or section.episodes is not None
    if section.path is None or not asked or not _has_samples(folder := places(section.path)):
        return
    dataset = SampleDataset(folder)
    if _enough(config, dataset):
        return
    for what in ("actions", "parameters"):
        wanted = build_sampler(getattr(config.sampler, what), what)
        made = dataset.source.get(what)
        if wanted is not None and wanted.describe() != made:
            raise ConfigError(
                f"sampler.{what}: {short(str(folder))} has {len(dataset)} of {section.samples} samples, made with "
                f"{made or 'none'}, the configuration says {wanted.describe()}. Take the dataset as it stands "
                f"(dataset.samples=null), leave the sampler to it (sampler.{what}=null), or name another place"
            )


def _dataset(config: Config, generation: dict[str, Any], folder: Folder) -> SampleDataset:
    """The dataset to train on, with as many samples as the configuration wants."""
    wanted, episodes = config.dataset.samples, config.dataset.episodes
    if isinstance(folder, list):
        return SampleDataset(folder, mini=config.dataset.mini)
    if _has_samples(folder):
        dataset = SampleDataset(folder, mini=config.dataset.mini)
        if (wanted is None and episodes is None) or _enough(config, SampleDataset(folder)):
            return dataset
    load = _load(config)
    if wanted is not None or load is None or config.dataset.mini is not None:
        wanted = _wanted(config)
    env, options = _environment(config, f"generating samples into {folder}"), _continued(generation, folder)
    dataset = generate(env, str(folder), samples=wanted, episodes=episodes, resume=True, load=load, **options)
    return dataset if config.dataset.mini is None else dataset.subset(np.arange(min(config.dataset.mini, len(dataset))))


def _complete(config: Config, session: Path | None) -> bool:
    """Whether there are all samples that a training wants."""
    if config.dataset.type is not None:
        return True
    if config.dataset.produce != "before" or (config.dataset.path is None and session is None):
        return False
    folder = _dataset_folder(config, session or Path())
    if not _has_samples(folder):
        return False
    return (config.dataset.samples is None and config.dataset.episodes is None) or _enough(
        config, SampleDataset(folder)
    )


def _existing_spec(config: Config, folder: Folder | None) -> SampleSpec | None:
    """The fields of the dataset in a folder, or of that which the configuration names; None if there is none yet."""
    path = folder or (None if config.dataset.path is None else places(config.dataset.path))
    if path is None or not (isinstance(path, list) or _has_samples(path)):
        return None
    dataset = SampleDataset(path)
    for one in path if isinstance(path, list) else [path]:
        recorded = SampleDataset(one).source.get("env")
        if config.environment is None or recorded is None or same_name(recorded, env_name(config.environment.id)):
            continue
        raise ConfigError(
            f"dataset.path: {one} holds samples of {recorded}, the configuration names "
            f"{config.environment.id}; set environment.id, or choose another dataset"
        )
    return dataset.spec


def _env_spec(config: Config) -> SampleSpec:
    name = _environment(config, f"a new dataset in {config.dataset.path or 'the session'}")
    arguments = environment_arguments(config)
    factory = env_factories(name, arguments)[0]
    with folders.Folder():
        try:
            env = factory()
        except PhysGymError as error:
            raise ConfigError(f"environment: {error}") from error
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise ConfigError(f"environment: making {name} with {arguments[0]} raised {what}") from error
        try:
            return require_spec(env)
        finally:
            env.close()


# --- parts that the configuration names


def _make(part: Component, known: Mapping[str, str], key: str, wanted: type, instead: str = "") -> Any:
    """A part of a kind that the configuration names; `instead` says what else would do."""
    found = components.find_class(part.type, known, key, wanted, instead=instead)
    made = components.make(found, key, **part.arguments)
    if not isinstance(made, wanted):
        raise ConfigError(f"{key}: {part.type} gives {made!r}, which is no {wanted.__module__}.{wanted.__name__}")
    return made


def build_sampler(part: Component | None, what: str, key: str = "sampler") -> Sampler | None:
    """The sampler of actions or parameters."""
    if part is None:
        return None
    name, colon, argument = part.type.partition(":")
    ours = components.ACTION_SAMPLERS if what == "actions" else components.PARAMETER_SAMPLERS
    if name in ours:
        if part.arguments and not colon:
            return rebuild_sampler({"sampler": name, **part.arguments}, f"{key}.{what}")
        if name == "network" and argument and absolute(argument).exists():
            return NetworkPolicy(trained_network(absolute(argument)))  # also one of a class of one's own
        return find_sampler(part.type, what)
    found = components.find(part.type, {}, f"{key}.{what}")
    if what == "actions" and not part.arguments and takes(found, *GENERATORS):
        return find_sampler(found, what)
    return find_sampler(_make(part, {}, f"{key}.{what}", Sampler, POLICY if what == "actions" else ""), what)


def build_network(config: Config, spec: SampleSpec) -> nn.Module | Predictor:
    """The network, its initial weights drawn from the configuration's seed; or a trained one, to train it further."""
    section = config.network
    if section.start_from is not None:
        if section.arguments or config.inputs or config.outputs or config.transforms != TransformsSection():
            raise ConfigError(
                f"network.start_from: {section.start_from} brings its arguments, inputs, outputs and transforms; "
                "leave these out"
            )
        return _precise(config, trained_network(section.start_from, section.which))
    found = components.find_class(section.type, components.NETWORKS, "network.type", nn.Module)
    torch.manual_seed(config.seed)
    if hasattr(found, "from_spec"):
        found = functools.partial(found.from_spec, spec, inputs=config.inputs, outputs=config.outputs)
    network = components.make(found, "network.arguments", **section.arguments)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"network.type: {section.type} gives {network!r}, which is no torch.nn.Module")
    network = _precise(config, network)
    Predictor(network, spec, inputs=config.inputs, outputs=config.outputs)  # raises if it does not fit the fields
    return network


Network = TypeVar("Network", bound=nn.Module)


def _precise(config: Config, network: Network) -> Network:
    """A network with weights of the precision that the configuration asks for; its batches follow them."""
    return network.double() if config.optimization.precision == "float64" else network


def build_transforms(config: Config, network: nn.Module | Predictor, spec: SampleSpec) -> Transforms | None:
    """What happens around the network; None for one that brings its transforms."""
    section = config.transforms
    if isinstance(network, Predictor):
        return None
    places = {
        name: [_make(part, components.TRANSFORMS, f"transforms.{name}", nn.Module) for part in getattr(section, name)]
        for name in ("before_prediction", "before_loss", "before_apply")
    }
    normal = Transforms()
    if section.normalize:
        inputs, outputs = field_names(spec, config.inputs, config.outputs)
        if unknown := [name for name in _by_name(section.scale) if name not in (*inputs, *outputs)]:
            raise ConfigError(f"transforms.scale: {unknown[0]!r} is none of the fields {(*inputs, *outputs)}")
        loss_units = section.physical_loss
        normal = Transforms.normalizing(
            spec, inputs, outputs, scale=section.scale, physical_loss=loss_units, network=network
        )
    loss = normal.before_loss
    return Transforms(
        _composed(*places["before_prediction"], normal.before_prediction),
        LossTransform(*(_composed(own, *places["before_loss"]) for own in (loss.on_prediction, loss.on_target))),
        _composed(normal.before_apply, *places["before_apply"]),
    )


def _by_name(scale: str | dict[str, Any]) -> dict[str, Any]:
    return {} if isinstance(scale, str) else scale


def _composed(*transforms: Any) -> Any:
    return transforms[0] if len(transforms) == 1 else Compose(transforms)


def build_optimization(config: Config, network: nn.Module | Predictor, steps: int) -> Optimization:
    """Loss, optimizer and learning-rate schedule over a number of steps."""
    section = config.optimization
    key = "optimization"
    loss = components.find(section.loss.type, components.LOSSES, f"{key}.loss")
    if takes(loss, *TARGETS):
        loss = functools.partial(loss, **section.loss.arguments) if section.loss.arguments else loss
    else:
        loss = _make(section.loss, components.LOSSES, f"{key}.loss", nn.Module, LOSS_FUNCTION)
    optimizer = components.find_class(
        section.optimizer.type, components.OPTIMIZERS, f"{key}.optimizer", torch.optim.Optimizer
    )
    arguments = dict(section.optimizer.arguments)
    if section.weight_decay:
        arguments["weight_decay"] = section.weight_decay
    every = section.schedule_every or ("batch" if section.schedule.type in SPANNING else "epoch")
    optimization = components.make(
        components.find_class(section.type.type, components.OPTIMIZATIONS, f"{key}.type", Optimization),
        key,
        network.network if isinstance(network, Predictor) else network,
        loss=loss,
        optimizer=functools.partial(optimizer, **arguments),
        lr=section.lr,
        scheduler=_schedule(config, steps if every == "batch" else config.training.epochs),
        scheduler_every=every,
        clip_norm=section.clip_norm,
        accumulate=section.accumulate,
        precision="float32" if section.precision == "float64" else section.precision,
        **section.type.arguments,
    )
    if not isinstance(optimization, Optimization):
        raise ConfigError(f"{key}.type: {section.type.type} gives no physgym.nn.Optimization")
    return optimization


def planned(config: Config) -> bool:
    """Whether the learning rate depends on how many epochs were planned, so that there cannot be more."""
    part = config.optimization.schedule
    if part.type == "one_cycle":
        return True  # it refuses to go on after its end
    return part.type in SPANNING and SPANNING[part.type] not in part.arguments


def _schedule(config: Config, steps: int) -> Callable[[Any], Any] | None:
    """What makes the learning-rate schedule of an optimizer, over so many of its steps."""
    part, lr = config.optimization.schedule, config.optimization.lr
    spans: dict[str, dict[str, Any]] = {
        "cosine": {"T_max": steps},
        # one more than there are, because it refuses to be asked once too often
        "one_cycle": {"max_lr": lr, "total_steps": steps + 1},
    }
    if part.type == "constant" and not part.arguments:
        return None
    kinds = (LRScheduler, ReduceLROnPlateau)
    found = components.find_class(part.type, components.SCHEDULES, "optimization.schedule", *kinds)
    arguments = {**spans.get(part.type, {}), **SCHEDULE_DEFAULTS.get(part.type, {}), **part.arguments}
    return lambda optimizer: components.make(found, "optimization.schedule", optimizer, **arguments)


# --- a trained network


def load_network(config: Config | None, session: Path, which: str | None = None) -> Predictor:
    """The trained network of a session, also one of a class that the configuration alone can make.

    Args:
        config: The session's configuration, None if it has none.
        session: Its folder.
        which: Which checkpoint; by default the best one where early stopping may have ended the training, since the
            last one is worse then, else the last one.

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    if config is None:
        return trained_network(session, which or "last")
    check_device(config.device)
    path = config.training.checkpoints.path or session
    return _load_with(config, find_checkpoint(path, as_which(which or usual_checkpoint(config))), config.device)


def usual_checkpoint(config: Config) -> str:
    """Which checkpoint of a training is meant where nobody says it."""
    section = config.training
    return "best" if section.early_stopping is not None and section.checkpoints.best else "last"


def trained_network(path: str | Path, which: str = "last") -> Predictor:
    """The network of a checkpoint, also one of a class that the configuration of its session alone can make.

    Args:
        path: A session, a folder of checkpoints, or a checkpoint.
        which: Which one of several.

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged, or its class is unknown.
    """
    found = find_checkpoint(path, as_which(which))
    config = _config_around(absolute(path), found)
    return load_checkpoint(found) if config is None else _load_with(config, found, "cpu")


def _config_around(path: Path, checkpoint: Path) -> Config | None:
    """The configuration of the session that a checkpoint is of; None where there is none."""
    for folder in (path, checkpoint.parent, checkpoint.parent.parent):
        if (folder / CONFIG).is_file():
            return check_config(read_config(folder), str(folder / CONFIG))
    return None


def _load_with(config: Config, checkpoint: Path, device: str) -> Predictor:
    """The network of a checkpoint, by the configuration of its training."""
    _import_classes(config)
    manifest = read_manifest(checkpoint)
    given: dict[str, Any] = {}
    spec = SampleSpec.from_json(manifest["fields"])
    if manifest["network"]["config"] is None:
        made = build_network(config, spec)
        given["network"] = made.network if isinstance(made, Predictor) else made
    if manifest["transforms"]["config"] is None:
        around = build_transforms(config, given.get("network", nn.Identity()), spec)
        begun = config.network.start_from
        given["transforms"] = around if begun is None else trained_network(begun, config.network.which).transforms
    return load_checkpoint(checkpoint, device=device, **given)


def _import_classes(config: Config) -> None:
    """Import the modules of the classes that a configuration names, and that its first session named: it registers."""
    around = config.transforms
    for part in (*around.before_prediction, *around.before_loss, *around.before_apply):
        components.find_class(part.type, components.TRANSFORMS, "transforms", nn.Module)
    components.find_class(config.network.type, components.NETWORKS, "network.type", nn.Module)
    begun = config.network.start_from
    # what was loaded from there is part of this session now: it may have been deleted
    if begun is not None and "://" not in begun and absolute(begun).is_dir():
        path = find_checkpoint(begun, as_which(config.network.which))
        if (first := _config_around(absolute(begun), path)) is not None:
            _import_classes(first)
