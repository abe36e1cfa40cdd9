"""The network of a configuration: a new one, or one that was trained."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from physgym.errors import ConfigError
from physgym.experiment import components
from physgym.experiment.config import check_config
from physgym.experiment.parts import build_transforms
from physgym.experiment.record import read_config, read_record
from physgym.experiment.schema import Config, TransformsSection
from physgym.experiment.session import CONFIG, RECORD
from physgym.files import absolute
from physgym.nn import Changes, Predictor, Transforms
from physgym.sample import SampleSpec
from physgym.training import (
    find_checkpoint,
    load_checkpoint,
)
from physgym.training.argument_checks import check_device
from physgym.training.checkpoint_folders import as_which
from physgym.training.checkpoint_manifests import read_manifest


def build_network(config: Config, spec: SampleSpec) -> nn.Module | Predictor:
    """Build the network, its initial weights drawn from the configuration's seed; or load a trained one."""
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


NetworkT = TypeVar("NetworkT", bound=nn.Module)


def _precise(config: Config, network: NetworkT) -> NetworkT:
    """Return a network with weights of the configured precision; its batches follow them."""
    return network.double() if config.optimization.precision == "float64" else network


def as_predictor(
    config: Config,
    network: nn.Module | Predictor,
    spec: SampleSpec,
    transforms: Transforms | None,
    changes: Changes | None = None,
) -> Predictor:
    """Return a network with its fields, transforms and changes, as it is before the training."""
    if isinstance(network, Predictor):
        return network
    return Predictor(
        network, spec, transforms=transforms, changes=changes, inputs=config.inputs, outputs=config.outputs
    )


def load_network(config: Config | None, session: Path, which: str | None = None) -> Predictor:
    """Load the trained network of a session, also one of a class that the configuration alone can make.

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


def network_of(path: Path, which: str | None = None) -> Predictor:
    """Load the network of a checkpoint; or of a session, by default from the checkpoint that a run takes.

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    if not (path / CONFIG).is_file() or by_python(path):
        return trained_network(path, which or "last")
    return load_network(check_config(read_config(path), str(path / CONFIG)), path, which)


def by_python(session: Path) -> bool:
    """Return whether a program in Python trained it, so that its configuration does not know the network."""
    return (session / RECORD).exists() and bool(read_record(session)["runs"][-1].get("from_python"))


def usual_checkpoint(config: Config) -> str:
    """Return the checkpoint of a training that is meant where nobody says it."""
    section = config.training
    return "best" if section.early_stopping is not None and section.checkpoints.best else "last"


def trained_network(path: str | Path, which: str = "last") -> Predictor:
    """Load the network of a checkpoint, also one of a class that the configuration of its session alone can make.

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
    """Return the configuration of the session around a checkpoint; None where there is none."""
    for folder in (path, checkpoint.parent, checkpoint.parent.parent):
        if (folder / CONFIG).is_file():
            return check_config(read_config(folder), str(folder / CONFIG))
    return None


def _load_with(config: Config, checkpoint: Path, device: str) -> Predictor:
    """Load the network of a checkpoint by the configuration of its training."""
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
    """Import the modules of the classes that a configuration and its first session name: importing registers them."""
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
