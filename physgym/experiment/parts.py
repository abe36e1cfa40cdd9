"""Transforms, optimization and checkpoints that a configuration names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from physgym.errors import ConfigError
from physgym.experiment import components
from physgym.experiment.component_section import Component
from physgym.experiment.schema import Config
from physgym.factories import takes
from physgym.nn import Changes, Compose, LossTransform, Optimization, Predictor, Transforms
from physgym.nn.predictor import field_names
from physgym.object_references import with_objects
from physgym.sample import SampleSpec
from physgym.training import Checkpoints, Logger

# schedules over the whole training, which advance with every batch, and the argument that says how long that is
SPANNING = {"cosine": "T_max", "one_cycle": "total_steps"}
# what torch leaves open; the others have defaults there
SCHEDULE_DEFAULTS: dict[str, dict[str, Any]] = {"step": {"step_size": 5, "gamma": 0.5}, "exponential": {"gamma": 0.95}}
# a function is a loss where its second parameter has such a name
TARGETS = ("target", "targets", "truth", "expected", "label", "labels", "y", "y_true")


def make_part(
    part: Component, known: Mapping[str, str], key: str, wanted: type, instead: str = "", *given: Any, **more: Any
) -> Any:
    """Make a part of a kind that the configuration names.

    Args:
        part: Its name and arguments.
        known: ``module:attr`` by registered name.
        key: Key of the configuration, for errors.
        wanted: Class of which the part must be.
        instead: What else would do, for errors.
        given: Arguments that it gets first.
        more: Arguments by name, unless the configuration has others.

    Raises:
        ConfigError: The configuration names something else, or the arguments do not fit.
    """
    found = components.find_class(part.type, known, key, wanted, instead=instead)
    made = components.make(found, key, *given, **{**more, **part.arguments})
    if not isinstance(made, wanted):
        raise ConfigError(f"{key}: {part.type} gives {made!r}, which is no {wanted.__module__}.{wanted.__name__}")
    return made


def build_changes(config: Config, network: nn.Module | Predictor, spec: SampleSpec) -> Changes | None:
    """Return the changes that a network predicts; None for one that brings its own, or predicts values.

    Raises:
        ConfigError: There are none, or the network that is trained further predicts values.
    """
    section = config.transforms
    if config.training.predict == "value":
        return None
    if isinstance(network, Predictor):
        if network.changes is None:
            raise ConfigError(
                f"training.predict: change, and the network of network.start_from, {config.network.start_from}, "
                "predicts values; leave training.predict out, or begin with a new network"
            )
        return None
    names = field_names(spec, config.inputs, config.outputs)
    loss_units = section.physical_loss
    try:
        return Changes.of(spec, *names, scale=section.scale, physical_loss=loss_units, network=network)
    except ConfigError as error:
        raise ConfigError(f"training.predict: {error}") from None


def build_transforms(config: Config, network: nn.Module | Predictor, spec: SampleSpec) -> Transforms | None:
    """Return the transforms around a network; None for one that brings its own."""
    section = config.transforms
    if isinstance(network, Predictor):
        return None
    places = {
        name: [
            make_part(part, components.TRANSFORMS, f"transforms.{name}", nn.Module) for part in getattr(section, name)
        ]
        for name in ("before_prediction", "before_loss", "before_apply")
    }
    normal = Transforms()
    if section.normalize:
        inputs, outputs = field_names(spec, config.inputs, config.outputs)
        if unknown := [name for name in _by_name(section.scale) if name not in (*inputs, *outputs)]:
            raise ConfigError(f"transforms.scale: {unknown[0]!r} is none of the fields {(*inputs, *outputs)}")
        loss_units, changes = section.physical_loss, build_changes(config, network, spec)
        values = [name for name in outputs if changes is None or name not in changes.pairs]
        normal = Transforms.normalizing(
            spec,
            inputs,
            values,
            scale=section.scale,
            pointwise_mean=section.pointwise_mean,
            physical_loss=loss_units,
            network=network,
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
    """Build loss, optimizer and learning-rate schedule over a number of steps."""
    section = config.optimization
    key = "optimization"
    loss = components.find(section.loss.type, components.LOSSES, f"{key}.loss")
    if takes(loss, *TARGETS):
        loss = (
            functools.partial(loss, **with_objects(section.loss.arguments, f"{key}.loss"))
            if section.loss.arguments
            else loss
        )
    else:
        instead = "; or name a function of (prediction, target), with parameters of these names"
        loss = make_part(section.loss, components.LOSSES, f"{key}.loss", nn.Module, instead)
    optimizer = components.find_class(
        section.optimizer.type, components.OPTIMIZERS, f"{key}.optimizer", torch.optim.Optimizer
    )
    arguments = with_objects(section.optimizer.arguments, f"{key}.optimizer")
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
    """Return whether the learning rate depends on the planned number of epochs, so that there cannot be more."""
    part = config.optimization.schedule
    if part.type == "one_cycle":
        return True  # it refuses to go on after its end
    return part.type in SPANNING and SPANNING[part.type] not in part.arguments


def _schedule(config: Config, steps: int) -> Callable[[Any], Any] | None:
    """Return a function that makes the learning-rate schedule of an optimizer, over a number of its steps."""
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


def build_loggers(config: Config, session: Path) -> list[Logger]:
    """Build the callbacks that write the curves of a training."""
    section = config.stats
    options = section.model_dump(exclude={"loggers"}, exclude_none=True)  # a user's own may not know the later ones
    loggers: list[Logger] = [
        make_part(part, components.LOGGERS, "stats.loggers", Logger, "", session / "stats", **options)
        for part in section.loggers
    ]
    for logger in loggers:
        logger.add_config(config.model_dump())
    return loggers


def build_checkpoints(config: Config, session: Path) -> Checkpoints:
    """Build the callback that saves a training; by default its best is that of early stopping."""
    section, stopping = config.training.checkpoints, config.training.early_stopping
    chosen: dict[str, Any] = section.model_dump(exclude={"path"})
    if section.monitor is None and stopping is not None:
        chosen |= {"monitor": stopping.monitor, "mode": section.mode or stopping.mode}
    chosen["mode"] = chosen["mode"] or "min"
    return Checkpoints(section.path or session / "networks", **chosen)
