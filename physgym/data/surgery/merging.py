"""`merge`: several datasets as one, with episodes renumbered."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import get_args

import numpy as np

from physgym.data import constants
from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.data.layout import ENDINGS, REJECTED
from physgym.data.provenance import UNSEEN_PARTS, overlaps
from physgym.data.surgery.filtering import described_attributes
from physgym.data.surgery.lineage import merged_lineage
from physgym.data.surgery.plans import NewDataset, NewPart, Piece
from physgym.data.surgery.sources import SourceDataset, episode_range
from physgym.errors import ConfigError, DatasetError
from physgym.sample import Field

GREATEST = int(np.iinfo(np.int64).max)


def merged_dataset(sources: Sequence[SourceDataset]) -> NewDataset:
    """Return the dataset that several make, part by part; the episodes of each follow those of the one before.

    Raises:
        ConfigError: There are fewer than two.
        DatasetError: Fields, parameters or constants differ, or the numbers of episodes are too large.
    """
    if len(sources) < 2:
        raise ConfigError("a merge takes at least two datasets")
    first = sources[0]
    for other in sources[1:]:
        if names := constants.differing(first.constants, other.constants):
            raise DatasetError(
                f"{first.path} and {other.path} have different constants {names}, and a dataset stores them once"
            )
    notes: list[str] = []
    parts = []
    for mode in get_args(Mode):
        those = [(source.path, source.parts[mode]) for source in sources if mode in source.parts]
        if those:
            parts.append(_part(mode, those, notes))
    _warn_of_overlaps(sources)
    return NewDataset(parts, first.constants, _common_metadata(sources, notes), notes)


def _part(mode: Mode, those: Sequence[tuple[str, SampleDataset]], notes: list[str]) -> NewPart:
    path, first = those[0]
    for other_path, other in those[1:]:
        _check_alike(path, first, other_path, other, mode)
    placed, pieces = [], []
    following = None
    for name, dataset in those:
        low, high = episode_range(dataset)
        shift = 0 if following is None else following - low
        if high + shift >= GREATEST:
            raise DatasetError(f"the episodes of {name} have numbers up to {high}, too large to be renumbered")
        placed.append((name, dataset, low + shift, high + shift, shift))
        pieces.append(Piece(dataset, shift=shift))
        following = high + shift + 1
    source, provenance = merged_lineage(placed)
    datasets = [dataset for _, dataset in those]
    tables = {table: [_has(dataset, table) for dataset in datasets] for table in (REJECTED, ENDINGS)}
    if any(tables[ENDINGS]) and not all(tables[ENDINGS]):
        lacking = [name for (name, _), has in zip(those, tables[ENDINGS], strict=True) if not has]
        notes.append(f"{mode}: how episodes ended is left out, which {', '.join(lacking)} does not say")
    if any(tables[REJECTED]) and not all(tables[REJECTED]):
        lacking = [name for (name, _), has in zip(those, tables[REJECTED], strict=True) if not has]
        notes.append(f"{mode}: rejected samples are not those of {', '.join(lacking)}, which has not kept any")
    return NewPart(
        mode,
        first.spec,
        pieces,
        source,
        provenance,
        {},
        first.parameter_spec,
        any(tables[REJECTED]),
        all(tables[ENDINGS]),
        _common_attributes(datasets, mode, notes),
    )


def _check_alike(path: str, first: SampleDataset, other_path: str, other: SampleDataset, mode: str) -> None:
    """Raise DatasetError where the samples of two datasets do not fit together."""
    pairs: list[tuple[str, Mapping[str, Field], Mapping[str, Field]]] = [
        ("fields", first.spec, other.spec),
        ("parameters", first.parameter_spec or {}, other.parameter_spec or {}),
    ]
    for what, one, two in pairs:
        if found := list(differing_fields(one, two)):
            raise DatasetError(
                f"the {what} of {path} and {other_path} do not fit together ({mode}): {'; '.join(found)}. Make them "
                "alike first: physgym data drop, rename, add, describe"
            )


def differing_fields(one: Mapping[str, Field], two: Mapping[str, Field]) -> Iterator[str]:
    """Say how two sets of fields differ, field by field; their order counts too."""
    for name in [*one, *(name for name in two if name not in one)]:
        if name not in two or name not in one:
            yield f"only the {'first' if name in one else 'second'} has {name!r}"
            continue
        first, second = one[name].to_json(), two[name].to_json()
        for key in dict.fromkeys([*first, *second]):
            if first.get(key) != second.get(key):
                yield f"{name!r} has {key} {first.get(key)!r} and {second.get(key)!r}"
    if set(one) == set(two) and list(one) != list(two):
        yield f"their order is {list(one)} and {list(two)}"


def _has(dataset: SampleDataset, table: str) -> bool:
    return all(table in part.tables for part in dataset.partitions)


def _common_attributes(datasets: Sequence[SampleDataset], mode: str, notes: list[str]) -> dict[str, str]:
    """Return what is said of the simulation, where all say the same."""
    every = [described_attributes(dataset) for dataset in datasets]
    common = {name: text for name, text in every[0].items() if all(one.get(name) == text for one in every)}
    if left := sorted({name for one in every for name in one if one[name]} - set(common)):
        notes.append(f"{mode}: {', '.join(left)} of the simulation are left out, which not all have the same")
    return common


def _common_metadata(sources: Sequence[SourceDataset], notes: list[str]) -> dict[str, str]:
    """Return what is said of all datasets in the same words."""
    first = sources[0].metadata
    common = {key: text for key, text in first.items() if all(one.metadata.get(key) == text for one in sources)}
    if left := sorted({key for source in sources for key in source.metadata} - set(common)):
        notes.append(f"metadata that not all have the same are left out: {', '.join(left)}")
    return common


def _warn_of_overlaps(sources: Sequence[SourceDataset]) -> None:
    """Warn where an episode of one dataset is in another too, by simulation, arguments and seeds."""
    for one, other in combinations(sources, 2):
        for mode, dataset in one.parts.items():
            for second_mode, second in other.parts.items():
                if mode not in UNSEEN_PARTS or second_mode not in UNSEEN_PARTS:
                    continue
                names = (f"{one.path} ({mode})", f"{other.path} ({second_mode})")
                if text := overlaps(dataset, second, names):
                    warnings.warn(text, UserWarning, stacklevel=5)
