"""Recordings as they are found: a file, folders, S3, imports of Minari; and the spaces that they say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from gymnasium import spaces

from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.data.recordings import ACTION, OBSERVATION
from physgym.errors import ConfigError
from physgym.rl.recorded_steps import fields_of, places_of
from physgym.spaces import children, fixed_leaves, from_json, is_custom
from physgym.storage.location import Location, place

Recordings = str | Path | Location | SampleDataset | Sequence[str | Path | Location]


def open_recordings(given: Recordings, mode: Mode = "training") -> SampleDataset:
    """Open recordings as one dataset.

    Args:
        given: A dataset folder, a file of one, such as ``data/me/training-00003.h5``, ``s3://bucket/prefix``, several
            of these, or an open dataset.
        mode: Which part of folders to read.

    Raises:
        DatasetError: There are none, or their fields differ.
        ConfigError: A file is none of a dataset.
    """
    if isinstance(given, SampleDataset):
        return given
    places = [_same_place(place(one)) for one in ([given] if isinstance(given, (str, Path, Location)) else given)]
    if not places:
        raise ConfigError("no recording is given")
    chosen: dict[Path | Location, set[str]] = {}  # files of each folder; none for all of them
    modes = {mode} if any(isinstance(found, Location) or not found.is_file() for found in places) else set()
    for found in places:
        if isinstance(found, Location) or not found.is_file():
            chosen[found] = set()
            continue
        part = found.name.rpartition("-")[0]
        if part not in get_args(Mode):
            raise ConfigError(f"{found} is no file of a dataset, such as training-00000.h5; give that, or its folder")
        modes.add(cast(Mode, part))
        if found.parent not in chosen or chosen[found.parent]:
            chosen.setdefault(found.parent, set()).add(found.name)
    if len(modes) > 1:
        raise ConfigError(f"recordings are read of one mode, and these are of {sorted(modes)}")
    dataset = SampleDataset(list(chosen), modes.pop())
    if not any(chosen.values()):
        return dataset
    files = dict(zip(dataset.paths, chosen.values(), strict=True))
    kept = [not files[part.path.parent] or part.path.name in files[part.path.parent] for part in dataset.partitions]
    return dataset.subset(np.asarray(kept)[dataset.partition_numbers])


def _same_place(found: Path | Location) -> Path | Location:
    """Return a place without links and detours, by which one that is named twice is read once."""
    if isinstance(found, Location):
        return found
    return found.parent.resolve() / found.name if found.is_file() else found.resolve()


def recorded_spaces(dataset: SampleDataset) -> dict[str, spaces.Space[Any] | None]:
    """Return the spaces of ``observation`` and ``action`` as recordings say them; None where they do not.

    Raises:
        ConfigError: Recordings that are read as one have other spaces.
    """
    said: dict[str, Path] = {}
    for part in dataset.partitions:
        said.setdefault(str(part.attributes.get("spaces") or "{}"), part.path.parent)
    found: dict[str, spaces.Space[Any] | None] = dict.fromkeys((OBSERVATION, ACTION))
    first: dict[str, Path] = {}
    for text, folder in said.items():
        for name, space in _described(json.loads(text)).items():
            known = found[name]
            if space is None:
                continue
            if known is not None and space != known:
                raise ConfigError(
                    f"{folder} has {name}s {space}, and {first[name]} has {known}; train from one of them"
                )
            found[name], first[name] = space, folder
    return found


def recorded_wrappers(dataset: SampleDataset) -> list[list[dict[str, Any]]]:
    """Return the wrappers of each environment that was recorded, as Gymnasium describes them; empty where unknown."""
    texts = dict.fromkeys(str(part.attributes.get("env_spec") or "{}") for part in dataset.partitions)
    return [list((json.loads(text) or {}).get("additional_wrappers") or ()) for text in texts]


def _described(said: Mapping[str, Any]) -> dict[str, spaces.Space[Any] | None]:
    """Return the spaces in what a partition says: of the environment, or as parts of its samples."""
    names = (OBSERVATION, ACTION)
    samples = said.get("sample_space")
    if samples is not None and not is_custom(samples):
        inner = dict(children(from_json(samples)) or ())
        return {name: inner.get(name) for name in names}
    given = {name: said.get(f"{name}_space") for name in names}
    return {name: None if data is None or is_custom(data) else from_json(data) for name, data in given.items()}


def check_layout(dataset: SampleDataset, name: str, space: spaces.Space[Any]) -> None:
    """Compare recorded fields with a space; their dtype may be wider.

    Args:
        dataset: The recordings.
        name: Name of the fields, such as "observation".
        space: Space that they should be of.

    Raises:
        ConfigError: They are of another one.
    """
    leaves = fixed_leaves(spaces.Dict({name: space}))
    wanted = {leaf.path: (leaf.shape, leaf.dtype) for leaf in leaves}
    stored = {field: (dataset.spec[field].shape, dataset.spec[field].dtype) for field in fields_of(dataset.spec, name)}
    forms = [
        {field: (shape, dtype.kind.replace("u", "i")) for field, (shape, dtype) in one.items()}
        for one in (wanted, stored)
    ]
    if forms[0] != forms[1]:
        texts = (
            ", ".join(f"{field} {shape} {dtype}" for field, (shape, dtype) in fields.items())
            for fields in (stored, wanted)
        )
        raise ConfigError("{} holds {}; the agent's environment has {}".format(places_of(dataset), *texts))
