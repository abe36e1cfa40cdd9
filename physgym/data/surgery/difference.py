"""`diff`: what two datasets do not have in common."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from physgym.data import constants
from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.data.joined_tables import joined
from physgym.data.layout import EPISODES, REJECTED
from physgym.data.surgery.filtering import described_attributes
from physgym.data.surgery.merging import differing_fields
from physgym.data.surgery.plans import block_rows
from physgym.data.surgery.sources import SourceDataset
from physgym.progress import Progress
from physgym.sample import Sample
from physgym.spaces import Array

SHOWN = 5  # names and values that are shown


@dataclass(frozen=True)
class DatasetDifference:
    """Differences between two datasets.

    Attributes:
        lines: It in words, a line for each difference.
    """

    lines: tuple[str, ...]

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self.lines)

    def __str__(self) -> str:
        return "\n".join(self.lines)


def difference(first: SourceDataset, second: SourceDataset, *, progress: bool = False) -> DatasetDifference:
    """Compare two datasets: parts, fields, samples by episode and step, what belongs to these, sources, metadata.

    Args:
        first: The one.
        second: The other.
        progress: Whether to show how far it is.
    """
    return DatasetDifference(tuple(_lines(first, second, progress)))


def _lines(first: SourceDataset, second: SourceDataset, progress: bool) -> Iterator[str]:
    for mode in get_args(Mode):
        one, two = first.parts.get(mode), second.parts.get(mode)
        if one is not None and two is not None:
            yield from (f"{mode}: {line}" for line in _part_lines(mode, one, two, progress))
        elif (only := one or two) is not None:
            yield f"{mode}: only the {'first' if two is None else 'second'} has this part, of {len(only)} samples"
    for name in constants.differing(first.constants, second.constants):
        yield f"constant {name!r}: {_sides(_form(first.constants.get(name)), _form(second.constants.get(name)))}"
    for key in dict.fromkeys([*first.metadata, *second.metadata]):
        if first.metadata.get(key) != second.metadata.get(key):
            yield f"metadata {key}: {_sides(first.metadata.get(key), second.metadata.get(key))}"


def _part_lines(mode: str, one: SampleDataset, two: SampleDataset, progress: bool) -> Iterator[str]:
    yield from (f"field {line}" for line in differing_fields(one.spec, two.spec))
    yield from (f"parameter {line}" for line in differing_fields(one.parameter_spec or {}, two.parameter_spec or {}))
    rows, others, alone = _matched(one, two)
    for which, dataset, lacking in (("first", one, alone[0]), ("second", two, alone[1])):
        if len(lacking):
            yield f"{len(lacking)} samples are in the {which} alone: {_some_names(dataset, lacking)}"
    if (rows[1:] < rows[:-1]).any() or (others[1:] < others[:-1]).any():
        sides = [_order(dataset, some) for dataset, some in ((one, rows), (two, others))]
        in_turn = f": the first has {sides[0]}, the second {sides[1]}" if sides[0] != sides[1] else ""
        yield f"the samples that both have are in another order{in_turn}"
    with Progress(len(rows), f"compare {mode} samples", "sample", enabled=progress) as bar:
        yield from _differing_values(one, two, rows, others, bar)
    yield from _differing_parameters(one, two)
    yield from _differing_seeds(one, two)
    yield from _differing_rejected(one, two)
    yield from _differing_endings(one, two)
    yield from _differing_attributes(one, two)
    yield from _differing_sources(one.source, two.source)


def _order(dataset: SampleDataset, rows: Array) -> str:
    """Say whether the steps of each episode are together in some rows, as they are not where environments alternate."""
    episodes = dataset.index("episode")[np.sort(rows)]
    together = 1 + np.count_nonzero(episodes[1:] != episodes[:-1]) == len(np.unique(episodes))
    return "episodes one after another" if together else "episodes in turn, as of several environments"


def _matched(one: SampleDataset, two: SampleDataset) -> tuple[Array, Array, tuple[Array, Array]]:
    """Return the rows of samples that both have, by episode and step, and those that one alone has."""
    names = []
    for dataset in (one, two):
        found = np.empty(len(dataset), [("episode", np.int64), ("step", np.int64)])
        found["episode"], found["step"] = dataset.index("episode"), dataset.index("step")
        names.append(found)
    if np.array_equal(names[0], names[1]):
        rows, nothing = np.arange(len(one)), np.empty(0, np.int64)
        return rows, rows, (nothing, nothing)
    _, rows, others = np.intersect1d(names[0], names[1], assume_unique=True, return_indices=True)
    order = np.argsort(rows)
    rows, others = rows[order], others[order]
    alone = (np.setdiff1d(np.arange(len(one)), rows), np.setdiff1d(np.arange(len(two)), others))
    return rows, others, alone


def _differing_values(
    one: SampleDataset, two: SampleDataset, rows: Array, others: Array, bar: Progress
) -> Iterator[str]:
    """Say in how many samples that both have a field differs, and by how much."""
    common = [name for name in one.spec if name in two.spec and one.spec[name].shape == two.spec[name].shape]
    counts = dict.fromkeys(common, 0)
    most = dict.fromkeys(common, 0.0)
    firsts: dict[str, int] = {}
    seeds = 0
    step = min(block_rows(one), block_rows(two))
    seed_of = one.index("seed")[rows] != two.index("seed")[others]
    seeds = int(seed_of.sum())
    for start in range(0, len(rows), step):
        mine, theirs = rows[start : start + step], others[start : start + step]
        left, right = one.gather(mine, common), two.gather(theirs, common)
        for name in common:
            differs, largest = _compared(left[name], right[name])
            if differs.any():
                counts[name] += int(differs.sum())
                most[name] = max(most[name], largest)
                firsts.setdefault(name, int(mine[np.argmax(differs)]))
        bar.update(len(mine))
    if seeds:
        yield f"{seeds} samples have another seed"
    for name, count in counts.items():
        if count:
            by = f" by {most[name]:.6g} at most" if most[name] else ""
            yield f"{name!r} differs in {count} of {len(rows)} samples{by}, first in {_names(one, firsts[name])}"


def _compared(left: Array, right: Array) -> tuple[Array, float]:
    """Tell which rows of two arrays differ, and by how much at most; what is not finite equals itself."""
    count = len(left)
    same = left == right
    if left.dtype.kind in "fc" and right.dtype.kind in "fc":
        same |= np.isnan(left) & np.isnan(right)
    differs = ~same.reshape(count, -1).all(1)
    if not differs.any() or left.dtype.kind not in "biufc" or right.dtype.kind not in "biufc":
        return differs, 0.0
    kind = np.complex128 if "c" in (left.dtype.kind, right.dtype.kind) else np.float64
    with np.errstate(all="ignore"):
        gaps = np.abs(left[differs].astype(kind) - right[differs].astype(kind))
    return differs, float(np.max(gaps, initial=0.0, where=np.isfinite(gaps)))


def _differing_parameters(one: SampleDataset, two: SampleDataset) -> Iterator[str]:
    first, second = one.parameters or {}, two.parameters or {}
    mine, theirs = one.parameter_episodes, two.parameter_episodes
    if mine is None or theirs is None:
        return
    _, rows, others = np.intersect1d(mine, theirs, return_indices=True)
    if len(rows) < max(len(mine), len(theirs)):
        yield f"parameters are those of {len(mine)} and {len(theirs)} episodes, of which both have {len(rows)}"
    for name in first:
        if name in second and first[name].shape[1:] == second[name].shape[1:]:
            differs, _ = _compared(first[name][rows], second[name][others])
            if differs.any():
                episode = int(mine[rows[np.argmax(differs)]])
                yield f"parameter {name!r} differs in {int(differs.sum())} episodes, first in episode {episode}"


def _differing_seeds(one: SampleDataset, two: SampleDataset) -> Iterator[str]:
    """Say of how many episodes that have parameters in both the seeds differ."""
    first, second = (joined(dataset.partitions, EPISODES, "episodes/") for dataset in (one, two))
    if first is not None and second is not None:
        _, rows, others = np.intersect1d(first["episode"], second["episode"], return_indices=True)
        if count := int((first["seed"][rows] != second["seed"][others]).sum()):
            yield f"parameters of {count} episodes have another seed"


def _differing_rejected(one: SampleDataset, two: SampleDataset) -> Iterator[str]:
    """Say how rejected samples differ; those of one step are compared in their order."""
    tables = [joined(dataset.partitions, REJECTED, "rejected/") for dataset in (one, two)]
    columns = ["index/seed", "reason", *(f"data/{name}" for name in one.spec)]
    yield from _differing_tables("rejected samples", tables, ("index/episode", "index/step"), columns)


def _differing_endings(one: SampleDataset, two: SampleDataset) -> Iterator[str]:
    """Say how the stored ends of episodes differ."""
    what = "episodes of which the end is stored"
    yield from _differing_tables(what, [one.ended, two.ended], ("episode",), ["steps", "how"])


def _differing_tables(
    what: str, tables: Sequence[Sample | None], keys: Sequence[str], columns: Sequence[str]
) -> Iterator[str]:
    """Say how rows of two tables differ; rows of one name are compared in their order.

    Args:
        what: What they hold, for a person.
        tables: Columns of both, None where one is not stored.
        keys: Names of the columns that name a row.
        columns: Names of those that are compared, where both have them in one shape.
    """
    sizes = ["none" if table is None else str(len(table[keys[0]])) for table in tables]
    if sizes[0] != sizes[1]:
        yield f"{what}: {sizes[0]} and {sizes[1]}"
    first, second = tables
    if first is None or second is None:
        return
    mine, theirs = (_row_names(table, keys) for table in (first, second))
    _, rows, others = np.intersect1d(mine, theirs, assume_unique=True, return_indices=True)
    if len(rows) < min(len(mine), len(theirs)):
        yield f"{what}: both have {len(rows)} of the same {' and '.join(key.split('/')[-1] for key in keys)}"
    for name in columns:
        if name in first and name in second and first[name].shape[1:] == second[name].shape[1:]:
            differs, _ = _compared(first[name][rows], second[name][others])
            if differs.any():
                row = int(rows[np.argmax(differs)])
                where = " ".join(f"{key.split('/')[-1]} {first[key][row]}" for key in keys)
                yield f"{what}: {name.split('/', 1)[-1]!r} differs in {int(differs.sum())}, first in {where}"


def _row_names(table: Sample, keys: Sequence[str]) -> Array:
    """Return a name of each row: its keys, and how many rows before it have the same; structured, shape (n,)."""
    columns = [table[key] for key in keys]
    found = np.empty(len(columns[0]), [(f"f{number}", np.int64) for number in range(len(keys) + 1)])
    for number, column in enumerate(columns):
        found[f"f{number}"] = column
    order = np.lexsort(columns[::-1])
    places = np.arange(len(order))
    begins = np.zeros(len(order), bool)
    for column in columns:
        begins[1:] |= np.diff(column[order]) != 0
    found[f"f{len(keys)}"][order] = places - np.maximum.accumulate(np.where(begins, places, 0))
    return found


def _differing_attributes(one: SampleDataset, two: SampleDataset) -> Iterator[str]:
    """Say what is said otherwise of the simulation, such as the time of a step."""
    first, second = described_attributes(one), described_attributes(two)
    for name in dict.fromkeys([*first, *second]):
        if (first.get(name) or None) != (second.get(name) or None):
            yield f"attribute {name}: {_sides(*(_cut(each.get(name) or None) for each in (first, second)))}"


def _differing_sources(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*first, *second]):
        if first.get(key) != second.get(key):
            yield f"source, {key}: {_sides(*(_short(one.get(key)) for one in (first, second)))}"


def _sides(one: Any, two: Any) -> str:
    return f"{'none' if one is None else one} and {'none' if two is None else two}"


def _short(value: Any) -> str | None:
    return _cut(None if value is None else json.dumps(value))


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= 80 else f"{text[:77]}..."


def _form(value: Array | None) -> str | None:
    return None if value is None else f"{value.dtype} {value.shape}"


def _some_names(dataset: SampleDataset, rows: Array) -> str:
    shown = ", ".join(_names(dataset, int(row)) for row in rows[:SHOWN])
    return shown if len(rows) <= SHOWN else f"{shown}, ..."


def _names(dataset: SampleDataset, row: int) -> str:
    part = dataset.partitions[int(dataset.partition_numbers[row])]
    place = row - sum(one.count for one in dataset.partitions[: dataset.partitions.index(part)])
    episode, step = (int(part.read(f"index/{name}", place, place + 1)[0]) for name in ("episode", "step"))
    return f"episode {episode} step {step}"
