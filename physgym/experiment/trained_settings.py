"""Settings, network, fields and transforms of a training, as the last checkpoint of its session says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from physgym.errors import CheckpointError

CONFIGURED = ("seed", "batch_size")  # which the configuration of every session says
UNITS = ("loss", "weight", "loss_fields", "code", "predict", "unroll", "transforms.before_loss")
SHAPES = ("shapes", "input_shapes", "output_shapes")  # of what the fields say


def trained_settings(session: Path) -> dict[str, Any]:
    """Return what a checkpoint says of a training, by dotted key; empty where no checkpoint can be read.

    Args:
        session: The folder of the session.
    """
    from physgym.training.checkpoint_folders import find_checkpoint  # which imports torch
    from physgym.training.checkpoint_manifests import read_manifest
    from physgym.training.stored_history import read_history

    if not (session / "networks").is_dir():
        return {}
    try:
        _, settings = read_history(session)
        manifest = read_manifest(find_checkpoint(session))
    except CheckpointError:
        return {}
    found = {key: value for key, value in settings.items() if key not in CONFIGURED and value is not None}
    found["predict"] = found.pop("changes", None)
    found |= {"network": manifest.get("network"), "transforms": _stages(manifest.get("transforms"))}
    found["fields"] = {field["name"]: field["shape"] for field in manifest.get("fields") or ()}
    return {key: value for name, part in found.items() for key, value in _leaves(name, part)}


def loss_units(training: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what decides in which units the loss of a training is, by what it belongs to.

    Args:
        training: What `trained_settings` returns.
    """
    found = {unit: {key: part for key, part in training.items() if f"{key}.".startswith(f"{unit}.")} for unit in UNITS}
    return found if training else {}


def _stages(transforms: Any) -> Any:
    return transforms.get("config") if isinstance(transforms, Mapping) else None


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values in nested data by dotted key; the shapes of fields stand at the fields."""
    if isinstance(value, Mapping) and set(value) == {"module"}:
        value = value["module"]
    if isinstance(value, Mapping) and set(value) == {"name", "config"}:
        yield name, value["name"]
        value = value["config"]
    if isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
        value = {str(number): part for number, part in enumerate(value)}
    if isinstance(value, Mapping):
        for key, part in value.items():
            if key not in SHAPES:
                yield from _leaves(f"{name}.{key}", part)
    elif value is not None:
        yield name, value
