"""Folders of checkpoints, on the disk or in S3: which are there, which one is wanted, and what is to be deleted."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from physgym import files as disk
from physgym.errors import CheckpointError
from physgym.storage.location import Location, place
from physgym.training.checkpoint_manifests import (
    INCOMPLETE,
    MANIFEST,
    NONE_HERE,
    STATE,
    STATE_TENSORS,
    WEIGHTS,
    parse_manifest,
    read_manifest,
)

Place = TypeVar("Place", Path, Location)

# a directory that is being written or deleted; the second form is that of earlier versions
TEMPORARY = re.compile(r"\..+-[0-9a-f]{16}\.tmp|\.tmp-.+-\d+-\d+")


def as_which(which: str | int) -> str | int:
    """Return the choice of a checkpoint from a text, such as one of a configuration: an epoch if it is a number."""
    return int(which) if isinstance(which, str) and which.isdecimal() else which


def find_checkpoint(path: str | Path | Location, which: str | int = "last") -> Path:
    """Return the directory of a checkpoint; one in S3 is brought to the cache.

    Args:
        path: A checkpoint, a folder of checkpoints, or a session.
        which: Which one of a folder: "last", "best" (by the value that `Checkpoints` monitors, or the validation loss,
            or the training loss where there was no validation), the number of epochs done, or a name.

    Raises:
        CheckpointError: There is none.
    """
    found = place(path)
    if isinstance(found, Path):
        return _choose(found, which)
    from physgym.training.remote_checkpoints import fetch_checkpoint

    return fetch_checkpoint(_choose_remote(found, which), MANIFEST)


def _choose(path: Path, which: str | int) -> Path:
    if (path / MANIFEST).is_file():
        return path
    if (path / WEIGHTS).is_file():
        raise CheckpointError(INCOMPLETE.format(path=path, problem=f"{MANIFEST} is missing"))
    folder = path / "networks" if (path / "networks").is_dir() else path
    return _choose_among(list_checkpoints(folder), which, path, folder)


def _choose_remote(location: Location, which: str | int) -> Location:
    from physgym.training.remote_checkpoints import checkpoint_names, read_checkpoint

    if read_checkpoint(location, MANIFEST) is not None:
        return location
    folder = location / "networks" if "networks" in checkpoint_names(location) else location
    return _choose_among(list_checkpoints(folder), which, location, folder)


def _choose_among(found: dict[Place, dict[str, Any]], which: str | int, path: Place, folder: Place) -> Place:
    if not found:
        raise CheckpointError(NONE_HERE.format(path=path))
    if which == "last":
        return list(found)[-1]
    if which == "best":
        return best_of(found) or list(found)[-1]
    for directory, manifest in found.items():
        if directory.name == which or (manifest.get("epoch") == which and not manifest.get("batch")):
            return directory
    raise CheckpointError(f"{folder} has no checkpoint {which!r}; there are {[directory.name for directory in found]}")


@overload
def list_checkpoints(folder: Location) -> dict[Location, dict[str, Any]]: ...


@overload
def list_checkpoints(folder: str | Path) -> dict[Path, dict[str, Any]]: ...


def list_checkpoints(folder: str | Path | Location) -> dict[Any, dict[str, Any]]:
    """Return the checkpoints in a folder and their manifests, in the order of training."""
    at = place(folder)
    found = _manifests(at) if isinstance(at, Path) else _remote_manifests(at)
    return dict(sorted(found.items(), key=lambda item: (item[1].get("step", 0), item[0].name)))


def _manifests(folder: Path) -> dict[Any, dict[str, Any]]:
    found = {}
    for file in folder.glob(f"[!.]*/{MANIFEST}"):
        try:
            found[file.parent] = read_manifest(file.parent)
        except CheckpointError:
            if file.exists():  # otherwise a trainer at work has deleted it meanwhile
                raise
    return found


def _remote_manifests(location: Location) -> dict[Any, dict[str, Any]]:
    from physgym.training.remote_checkpoints import checkpoint_names, read_checkpoint

    read = {location / name: read_checkpoint(location / name, MANIFEST) for name in checkpoint_names(location)}
    return {directory: parse_manifest(directory, text) for directory, text in read.items() if text is not None}


def best_of(found: Mapping[Place, Mapping[str, Any]]) -> Place | None:
    """Return the checkpoint with the lowest score; None if none has a score."""
    scores = {directory: manifest["score"] for directory, manifest in found.items() if "score" in manifest}
    return min(scores, key=lambda directory: scores[directory], default=None)


def delete_checkpoint(path: Path | Location) -> None:
    """Delete a checkpoint; readers see it whole or not at all meanwhile.

    Raises:
        CheckpointError: The disk refuses.
    """
    if isinstance(path, Location):
        from physgym.training.remote_checkpoints import delete_checkpoint as delete

        return delete(path, MANIFEST)
    try:
        disk.delete_folder(path)
    except OSError as error:
        raise CheckpointError(f"cannot delete the checkpoint {path}: {error}") from error


def delete_leftovers(folder: Path | Location) -> None:
    """Delete what a killed process has left half written or half deleted; in S3 nothing is."""
    if isinstance(folder, Location):
        return
    for directory in folder.glob(".*"):
        hidden = TEMPORARY.fullmatch(directory.name) and directory.is_dir() and not directory.is_symlink()
        if hidden and all(_is_ours(file.name) for file in directory.iterdir()):  # nothing of anybody else's is there
            shutil.rmtree(directory, ignore_errors=True)


def _is_ours(name: str) -> bool:
    """Return whether a file of a checkpoint has this name, or had it until it was complete."""
    begun = re.fullmatch(r"\.(.+)-[0-9a-f]{16}\.tmp", name)
    if begun is None and re.fullmatch(r"\.tmp\w{6}", name):  # what safetensors calls a file until it is complete
        return True
    return (begun[1] if begun else name) in {MANIFEST, WEIGHTS, STATE, STATE_TENSORS}
