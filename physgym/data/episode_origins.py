"""`origin_of`: the dataset that an episode was first stored in, its number there, and the arguments that made it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.data.origins import (
    SampleOrigin,
    argument_places,
    arguments_of,
    entries_of,
    merged_of,
    provenances_of,
)
from physgym.errors import ConfigError
from physgym.spaces import Array

if TYPE_CHECKING:
    from physgym.data.dataset import SampleDataset


@dataclass(frozen=True)
class EpisodeOrigin:
    """Origin of an episode: a dataset, and its number there.

    Attributes:
        dataset: The dataset that it was first stored in, by its path; empty where it is this one.
        episode: Its number there.
        arguments: Arguments of the simulation that made it; empty where nothing says it.
        source: The source of that dataset.
        provenance: The provenance of that dataset.
    """

    dataset: str
    episode: int
    arguments: dict[str, Any]
    source: dict[str, Any]
    provenance: Any


def origin_of(dataset: SampleDataset, episode: int) -> EpisodeOrigin:
    """Return where an episode of a dataset of one folder comes from.

    Args:
        dataset: The dataset.
        episode: Its number in it.

    Raises:
        ConfigError: There is no such episode, or several folders may have one.
    """
    if len(dataset.paths) > 1:
        raise ConfigError("several folders may have an episode of one number; open them one by one")
    if not (dataset.index("episode") == episode).any():
        raise ConfigError(f"the dataset has no samples of an episode {episode}")
    if each := merged_of(dataset.source):
        number = int(entries_of(each, np.array([episode]))[0])
        entry, provenance = each[number], provenances_of(dataset.provenance, len(each))[number]
        source, before = dict(entry["source"]), episode - int(entry["shift"])
        return EpisodeOrigin(str(entry["dataset"]), before, _arguments(source, before), source, provenance)
    return EpisodeOrigin("", episode, _arguments(dataset.source, episode), dataset.source, dataset.provenance)


def episode_sources(dataset: SampleDataset) -> list[SampleOrigin]:
    """Return source and provenance of a dataset, or of each of those that were merged into it.

    Of several folders that are read as one they are those of the first.
    """
    source, provenance = dataset.source, dataset.provenance
    if not (entries := merged_of(source)) or len(dataset.paths) > 1:
        return [(source, provenance)]
    known = provenances_of(provenance, len(entries))
    return [(dict(entry["source"]), one) for entry, one in zip(entries, known, strict=True)]


def episode_names(dataset: SampleDataset, rows: Array) -> list[tuple[int, int]]:
    """Return the names of the episodes of some samples: which of `episode_sources` made each, and its number there.

    Args:
        dataset: The samples.
        rows: Which of them, shape (n,).
    """
    episodes = dataset.index("episode")[rows]
    if not (entries := merged_of(dataset.source)) or len(dataset.paths) > 1:
        return [(0, episode) for episode in episodes.tolist()]
    before = dataset.original_episodes[rows]
    return list(zip(entries_of(entries, episodes).tolist(), before.tolist(), strict=True))


def argument_numbers(dataset: SampleDataset, rows: Array, count: int) -> Array:
    """Return which of several arguments of the simulation the episodes of some samples have, shape (n,), int64.

    Args:
        dataset: The samples.
        rows: Which of them, shape (n,).
        count: How many arguments there are; episodes have one in turn, unless the dataset was merged.

    Raises:
        DatasetError: Episodes of a merged dataset were made with other ones.
    """
    episodes, which = dataset.index("episode")[rows], dataset.partition_numbers[rows]
    found = np.empty(len(rows), np.int64)
    for number, part in enumerate(dataset.partitions):
        mine = which == number
        if mine.any():
            found[mine] = argument_places(json.loads(part.attributes["source"]), episodes[mine], count)
    return found


def _arguments(source: dict[str, Any], episode: int) -> dict[str, Any]:
    every = arguments_of(source.get("env_kwargs"))
    return dict(every[episode % len(every)] or {})
