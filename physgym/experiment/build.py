"""Turns a configuration into the objects of a training, and runs it."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from physgym.data.dataset import SampleDataset
from physgym.data.generate import SampleStream, env_name, generate
from physgym.data.online import Online
from physgym.data.writer import partition_files
from physgym.errors import ConfigError
from physgym.experiment.config import NEW_SAMPLES, Config
from physgym.experiment.session import new_session, write_record
from physgym.nn import FNO, MLP, Optimization, Predictor, RelativeL2, UNet
from physgym.rollout import require_spec
from physgym.runner import RolloutEvaluation
from physgym.sample import SampleSpec
from physgym.samplers import rebuild_sampler
from physgym.storage.location import Location, place
from physgym.training import Callback, Checkpoints, EarlyStopping, History, SampleSource, Trainer, load_checkpoint
from physgym.training.trainer import check_device
from physgym.vector.entry import env_factory

NETWORKS: dict[str, Callable[..., nn.Module]] = {"MLP": MLP.from_spec, "UNet": UNet.from_spec, "FNO": FNO.from_spec}
LOSSES: dict[str, type[nn.Module]] = {
    "mse": nn.MSELoss,
    "l1": nn.L1Loss,
    "huber": nn.HuberLoss,
    "relative_l2": RelativeL2,
}
OPTIMIZERS: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


@dataclass(frozen=True)
class Outcome:
    """What a training from a configuration gave.

    Attributes:
        session: Its folder.
        trainer: The trainer, with the network and the samples.
        history: What was done.
    """

    session: Path
    trainer: Trainer
    history: History


def train(config: Config, resume: Path | None = None) -> Outcome:
    """Run the training that a configuration describes, in a new session folder or in that of an interrupted one.

    What can be wrong with the network and the device is found before the first sample is generated.

    Args:
        config: What to do.
        resume: Session to continue from its last checkpoint, or from where its samples end.

    Raises:
        PhysGymError: Whatever the parts raise; what was complete stays in the session.
        KeyboardInterrupt: Ctrl-C while samples were generated; the text says where they are. During training it ends
            in the outcome instead.
    """
    check_device(config.training.device)
    session = resume
    folder = None if session is None else _dataset_folder(config, session)
    spec = _existing_spec(config, folder) or _env_spec(config)
    network = build_network(config, spec)
    if session is None:
        session = new_session(config.session)
    folder = _dataset_folder(config, session)
    # the record stands before the first step, and names the folder that the session really has
    record = config.model_copy(update={"session": str(session)}).model_dump()
    results: dict[str, Any] = {"outcome": "not completed"}
    write_record(session, record, results)
    try:
        trainer, source = _make_trainer(config, network, folder, session, resume=resume is not None)
        try:
            history = trainer.fit()
        finally:
            if source is not None:
                source.close()
        outcome = "interrupted" if history.interrupted else "completed"
        results = {"outcome": f"stopped: {history.stopped}" if history.stopped else outcome, **_last(history)}
    except KeyboardInterrupt:
        results = {"outcome": "interrupted before the training"}
        kept = f"complete samples are in {folder}" if _has_samples(folder) else "no sample was complete"
        text = f"interrupted before the training; {kept}. Continue with: physgym resume {session}"
        raise KeyboardInterrupt(text) from None
    except BaseException as error:
        results = {"outcome": f"{type(error).__name__}: {error}"}
        raise
    finally:
        write_record(session, record, results)
    return Outcome(session, trainer, history)


def _make_trainer(
    config: Config, network: nn.Module | Predictor, folder: Path | Location, session: Path, *, resume: bool
) -> tuple[Trainer, SampleSource | None]:
    """The trainer with its samples: a dataset, generated if need be, or a source that produces them."""
    section = config.training
    training, validation, source = None, None, None
    if config.dataset.produce == "before":
        dataset = _dataset(config, folder)
        training, validation = dataset.split(section.validation, config.seed) if section.validation else (dataset, None)
        per_epoch = min(math.ceil(len(training) / section.batch_size), section.batches_per_epoch or sys.maxsize)
    else:
        source = _source(config, folder, resume=resume)
        samples = config.dataset.samples or NEW_SAMPLES
        per_epoch = section.batches_per_epoch or math.ceil(samples / section.batch_size)
    callbacks: list[Callback] = [Checkpoints(session / "networks", **section.checkpoints.model_dump())]
    if section.early_stopping is not None:
        callbacks.append(EarlyStopping(**section.early_stopping.model_dump()))
    rollout = section.rollout
    try:
        trainer = Trainer(
            network,
            training,
            source=source,
            produce="first_epoch" if config.dataset.produce == "first_epoch" else "always",
            epochs=section.epochs,
            batch_size=section.batch_size,
            batches_per_epoch=per_epoch,
            validation=validation if source is None else section.validation,
            optimization=build_optimization(config, network, section.epochs * per_epoch),
            session=session,
            seed=config.seed,
            device=section.device,
            callbacks=callbacks,
            inputs=None if isinstance(network, Predictor) else config.inputs,
            outputs=None if isinstance(network, Predictor) else config.outputs,
            normalize=section.normalize,
            resume=resume,
            on_nonfinite=section.on_nonfinite,
            compile=section.compile,
            loader_workers=section.loader_workers,
            rollout=None if rollout is None else _rollout(config, rollout.steps),
            rollout_every=1 if rollout is None else rollout.every,
        )
    except BaseException:
        if source is not None:
            source.close()
        raise
    return trainer, source


def _rollout(config: Config, steps: int) -> RolloutEvaluation:
    # another seed than that of the training gives episodes that it has not seen
    return RolloutEvaluation(
        config.environment.id, steps=steps, seed=config.seed + 1, env_kwargs=config.environment.arguments
    )


def _source(config: Config, folder: Path | Location, *, resume: bool) -> SampleSource:
    """What produces samples while training."""
    section = config.dataset
    stored = None if section.produce == "always" and section.path is None else folder
    load = None if section.load_samples is None else SampleDataset(section.load_samples)
    there = resume and stored is not None
    options = _continued(config, stored) if there and stored is not None else _generation(config)
    path = None if stored is None else str(stored)
    stream = SampleStream(config.environment.id, path=path, resume=there, load=load, **options)
    if section.produce != "online":
        return stream
    try:
        return Online(stream, seed=config.seed, **section.online.model_dump())
    except BaseException:
        stream.close()
        raise


def _dataset_folder(config: Config, session: Path) -> Path | Location:
    return place(config.dataset.path) if config.dataset.path else session / "dataset"


def _has_samples(folder: Path | Location) -> bool:
    if not isinstance(folder, Location):
        return bool(partition_files(folder, "training"))
    from physgym.storage.datasets import has_samples  # which needs a package that not everyone has

    return has_samples(folder)


def _generation(config: Config) -> dict[str, Any]:
    section = config.dataset
    return {
        "num_envs": section.num_envs,
        "num_workers": section.num_workers,
        "seed": config.seed,
        "env_kwargs": config.environment.arguments,
        "actions": section.actions,
        "parameters": section.parameters,
    }


def _continued(config: Config, folder: Path | Location) -> dict[str, Any]:
    """Options of generation, with those that a dataset was made with where the configuration does not give others."""
    options = _generation(config)
    if not _has_samples(folder):
        return options
    source = SampleDataset(folder).source
    for name in ("actions", "parameters"):
        options[name] = options[name] or rebuild_sampler(source.get(name), name)
    return options | {name: source[name] for name in ("seed", "max_steps", "nonfinite") if name in source}


def _dataset(config: Config, folder: Path | Location) -> SampleDataset:
    """The dataset to train on, with as many samples as the configuration wants."""
    wanted = config.dataset.samples
    if _has_samples(folder):
        dataset = SampleDataset(folder)
        if wanted is None or len(dataset) >= wanted:
            return dataset
    load = None if config.dataset.load_samples is None else SampleDataset(config.dataset.load_samples)
    if wanted is None and load is None:
        wanted = NEW_SAMPLES
    options = _continued(config, folder)
    return generate(config.environment.id, str(folder), samples=wanted, resume=True, load=load, **options)


def _existing_spec(config: Config, folder: Path | Location | None) -> SampleSpec | None:
    """The fields of the dataset in a folder, or of that which the configuration names; None if there is none yet."""
    path = folder or config.dataset.path
    if path is None or not _has_samples(place(path)):
        return None
    dataset = SampleDataset(path)
    recorded = dataset.source.get("env", config.environment.id)
    if recorded != env_name(config.environment.id):
        raise ConfigError(
            f"dataset.path: {path} holds samples of {recorded}, the configuration names "
            f"{config.environment.id}; set environment.id, or choose another dataset"
        )
    return dataset.spec


def _env_spec(config: Config) -> SampleSpec:
    env = env_factory(config.environment.id, config.environment.arguments)()
    try:
        return require_spec(env)
    finally:
        env.close()


def build_network(config: Config, spec: SampleSpec) -> nn.Module | Predictor:
    """The network, its initial weights drawn from the configuration's seed; or a trained one, to train it further."""
    if (start := config.network.start_from) is not None:
        if config.network.arguments or config.inputs or config.outputs:
            raise ConfigError(f"network.start_from: {start} brings its arguments, inputs and outputs; leave these out")
        which = config.network.which
        return load_checkpoint(start, int(which) if which.isdecimal() else which)
    if config.network.type not in NETWORKS:
        raise ConfigError(f"network.type: {config.network.type!r} is none of {', '.join(NETWORKS)}")
    torch.manual_seed(config.seed)
    make = functools.partial(NETWORKS[config.network.type], spec, inputs=config.inputs, outputs=config.outputs)
    try:
        network = make(**config.network.arguments)
    except TypeError as error:
        raise ConfigError(f"network.arguments: {error}") from error
    Predictor(network, spec, inputs=config.inputs, outputs=config.outputs)  # raises if it does not fit the fields
    return network


def build_optimization(config: Config, network: nn.Module | Predictor, steps: int) -> Optimization:
    """Loss, optimizer and learning-rate schedule over a number of steps."""
    section = config.optimization
    schedules: dict[str, Any] = {
        "constant": None,
        "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=steps),
        # one more than there are, because it refuses to be asked once too often
        "one_cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, section.lr, total_steps=steps + 1),
    }
    return Optimization(
        network.network if isinstance(network, Predictor) else network,
        loss=LOSSES[section.loss],
        optimizer=functools.partial(OPTIMIZERS[section.optimizer], weight_decay=section.weight_decay),
        lr=section.lr,
        scheduler=schedules[section.schedule],
        scheduler_every="batch",
        clip_norm=section.clip_norm,
        accumulate=section.accumulate,
        precision=section.precision,
    )


def _last(history: History) -> dict[str, Any]:
    return {name: f"{value:.6g}" for name, value in history.epochs[-1].items()} if history.epochs else {}
