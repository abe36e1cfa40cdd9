"""Turns a configuration into the objects of a training, and runs it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from physgym.data.dataset import SampleDataset
from physgym.data.generate import SampleStream, generate
from physgym.data.writer import partition_files
from physgym.errors import ConfigError
from physgym.experiment.config import Config
from physgym.experiment.session import new_session, write_record
from physgym.nn import MLP, Optimization, RelativeL2, UNet
from physgym.sample import SampleSpec
from physgym.training import History, Trainer

NETWORKS: dict[str, Callable[..., nn.Module]] = {"MLP": MLP.from_spec, "UNet": UNet.from_spec}
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


def train(config: Config) -> Outcome:
    """Run the training that a configuration describes, in a new session folder.

    Raises:
        PhysGymError: Whatever the parts raise; what was complete stays in the session.
        KeyboardInterrupt: Ctrl-C while samples were generated; during training it ends in the outcome instead.
    """
    session = new_session(config.session)
    # the record stands before the first step, and names the folder that the session really has
    record = config.model_copy(update={"session": str(session)}).model_dump()
    results: dict[str, Any] = {"outcome": "not completed"}
    write_record(session, record, results)
    try:
        dataset, source = samples(config, session)
        try:
            spec = (dataset or source).spec  # type: ignore[union-attr]  # one of the two is there
            network = build_network(config, spec)
            trainer = Trainer(
                network,
                dataset,
                source=source,
                produce="always" if config.dataset.produce == "always" else "first_epoch",
                epochs=config.training.epochs,
                batch_size=config.training.batch_size,
                batches_per_epoch=_batches_per_epoch(config),
                validation=config.training.validation,
                optimization=build_optimization(config, network, spec, len(dataset) if dataset else None),
                session=session,
                seed=config.seed,
                device=config.training.device,
                inputs=config.inputs,
                outputs=config.outputs,
                normalize=config.training.normalize,
            )
            history = trainer.fit()
        finally:
            if source is not None:
                source.close()
        results = {"outcome": "interrupted" if history.interrupted else "completed", **_last(history)}
    except BaseException as error:
        results = {"outcome": f"{type(error).__name__}: {error}"}
        raise
    finally:
        write_record(session, record, results)
    return Outcome(session, trainer, history)


def samples(config: Config, session: Path) -> tuple[SampleDataset | None, SampleStream | None]:
    """The dataset to train on, generated if need be, or the stream that produces one."""
    folder = Path(config.dataset.path) if config.dataset.path else session / "dataset"
    if config.dataset.produce == "before" and partition_files(folder, "training"):
        return SampleDataset(folder), None  # as it stands
    options: dict[str, Any] = {
        "num_envs": config.dataset.num_envs,
        "num_workers": config.dataset.num_workers,
        "seed": config.seed,
        "env_kwargs": config.environment.arguments,
    }
    if config.dataset.produce == "before":
        return generate(config.environment.id, folder, samples=config.dataset.samples, **options), None
    stored = None if config.dataset.produce == "always" and config.dataset.path is None else folder
    return None, SampleStream(config.environment.id, path=stored, **options)


def build_network(config: Config, spec: SampleSpec) -> nn.Module:
    """The network, its initial weights drawn from the configuration's seed."""
    if config.network.type not in NETWORKS:
        raise ConfigError(f"network.type: {config.network.type!r} is none of {', '.join(NETWORKS)}")
    torch.manual_seed(config.seed)
    make = functools.partial(NETWORKS[config.network.type], spec, inputs=config.inputs, outputs=config.outputs)
    try:
        return make(**config.network.arguments)
    except TypeError as error:
        raise ConfigError(f"network.arguments: {error}") from error


def build_optimization(config: Config, network: nn.Module, spec: SampleSpec, num_samples: int | None) -> Optimization:
    """Loss, optimizer and learning-rate schedule."""
    section, training = config.optimization, config.training
    per_epoch = _batches_per_epoch(config)
    if num_samples is not None:
        available = math.ceil(num_samples * (1 - training.validation) / training.batch_size)
        per_epoch = min(per_epoch or available, available)
    assert per_epoch is not None
    total = training.epochs * max(1, per_epoch)
    schedules: dict[str, Any] = {
        "constant": None,
        "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=total),
        "one_cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, section.lr, total_steps=total + training.epochs),
    }
    return Optimization(
        network,
        loss=LOSSES[section.loss],
        optimizer=functools.partial(OPTIMIZERS[section.optimizer], weight_decay=section.weight_decay),
        lr=section.lr,
        scheduler=schedules[section.schedule],
        scheduler_every="batch",
        clip_norm=section.clip_norm,
    )


def _batches_per_epoch(config: Config) -> int | None:
    if config.dataset.produce == "before" or config.training.batches_per_epoch is not None:
        return config.training.batches_per_epoch
    return math.ceil(config.dataset.samples / config.training.batch_size)


def _last(history: History) -> dict[str, Any]:
    return {name: f"{value:.6g}" for name, value in history.epochs[-1].items()} if history.epochs else {}
