"""The samples and networks that a configuration names, and the digests of their weights."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from physgym.errors import CheckpointError
from physgym.storage.location import Location, place

NETWORK = "network:"  # what the name of a sampler that asks a network begins with
SamplesKey = Literal["dataset", "validation", "load_samples", "cache"]
# the keys of samples that a run may use
SAMPLES: dict[SamplesKey, tuple[str, str]] = {
    "dataset": ("dataset", "path"),
    "validation": ("validation", "path"),
    "load_samples": ("dataset", "load_samples"),
    "cache": ("agent", "cache"),
}


def get(config: Mapping[str, Any], section: str, name: str) -> Any:
    """Return a value in a section of a configuration; None where there is none."""
    found = config.get(section)
    return found.get(name) if isinstance(found, Mapping) else None


def start_of(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the network that a training starts from, and which of its checkpoints; None for a new one."""
    start = get(config, "network", "start_from")
    return (start, str(get(config, "network", "which") or "last")) if start else None


def actions_of(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the network that acts in the simulation, and which of its checkpoints; None if none does."""
    actions = get(config, "sampler", "actions")
    kind = actions.get("type") if isinstance(actions, Mapping) else actions
    return (kind.removeprefix(NETWORK), "last") if isinstance(kind, str) and kind.startswith(NETWORK) else None


def checkpoints_of(config: Mapping[str, Any]) -> str | None:
    """Return the folder of checkpoints that a configuration names; None for that of the session."""
    found = get(config, "training", "checkpoints")
    return found.get("path") if isinstance(found, Mapping) else None


def weights_digest(checkpoints: str | Path | Location, which: str = "last") -> str | None:
    """Return the SHA-256 of the weights in a checkpoint, as its manifest has it.

    Args:
        checkpoints: A session, a folder of checkpoints, or a checkpoint.
        which: Which one of several, as in a configuration.

    Returns:
        The digest of the file ``network.safetensors``; None where there is no checkpoint.

    Raises:
        CheckpointError: It is damaged.
    """
    from physgym.training.checkpoint_folders import as_which, find_checkpoint, list_checkpoints
    from physgym.training.checkpoint_manifests import MANIFEST, WEIGHTS, read_manifest

    if isinstance(found := place(checkpoints), Path) and not (found / MANIFEST).is_file():
        folder = found / "networks" if (found / "networks").is_dir() else found
        if not list_checkpoints(folder):
            return None
    return str(read_manifest(find_checkpoint(checkpoints, as_which(which)))["files"][WEIGHTS][1])


def digest_of(found: tuple[str, str] | None) -> str | None:
    """Return the digest of the weights of a network and its checkpoint; None where none is named."""
    return None if found is None else weights_digest(*found)


def order_of(session: Path, config: Mapping[str, Any]) -> str | None:
    """Return how stored samples were shuffled where the configuration left that to the memory and the page cache.

    Returns:
        What `training.shuffle` is to be for the same order; None where that follows from the configuration, or no
        checkpoint tells.
    """
    if not config.get("training") or get(config, "training", "shuffle") not in (None, True):
        return None
    if get(config, "dataset", "produce") not in (None, "before"):
        return None
    from physgym.training.checkpoint_files import read_state
    from physgym.training.checkpoint_folders import list_checkpoints

    folder = place(checkpoints_of(config) or session / "networks")
    if not isinstance(folder, Path) or not folder.is_dir():
        return None
    order = None
    with contextlib.suppress(CheckpointError):  # the weights of a damaged one are compared nevertheless
        for path, manifest in list(list_checkpoints(folder).items())[-1:]:
            order = (read_state(path, manifest)[0].get("order") or {}).get("order")
    return order if order in ("random", "window") else None
