"""A dataset in words: what ``physgym info`` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np

from physgym.data import constants
from physgym.data.declared_bounds import lines_beyond
from physgym.data.description import UNKNOWN, Description, Mode, open_partitions
from physgym.data.layout import ENDINGS, EPISODES, REJECTED
from physgym.data.opened_folders import OpenedFolders
from physgym.data.origins import holds_all_steps
from physgym.data.partition import Partition
from physgym.data.provenance import code_lines
from physgym.data.rejected_steps import count_rejected
from physgym.data.sizes import size_text
from physgym.data.snapshots import snapshot_files
from physgym.data.statistics import Statistics, merged
from physgym.data.times import step_seconds
from physgym.errors import DatasetError
from physgym.feedback import unequal_units
from physgym.scene.declared import in_words
from physgym.spaces import Array
from physgym.storage.location import Location, place

PARTITIONS = 8  # of a part that are named, if it has more of them: half of them at each end
CHECKSUM = 12  # digits of a checksum that are shown


def stored(path: str | Path | Location) -> dict[Mode, list[Partition]]:
    """Return the partitions of a dataset folder, by mode; a dataset in S3 is brought to the cache.

    Raises:
        DatasetError: There are none, or one is damaged.
    """
    at = place(path)
    if isinstance(at, Location):
        from physgym.data.remote import fetch_dataset
        from physgym.storage.cache import keep

        folder = keep(fetch_dataset(at, get_args(Mode)))
    else:
        folder = at
    found = {mode: open_partitions(folder, mode)[0] for mode in get_args(Mode)}
    if not any(found.values()):
        raise DatasetError(f"there is no dataset at {path}: it has no file such as training-00000.h5")
    return {mode: partitions for mode, partitions in found.items() if partitions}


def summarize(path: str | Path) -> Iterator[str]:
    """Describe a dataset folder line by line.

    Raises:
        DatasetError: There are no partitions, or one is damaged.
    """
    for mode, partitions in stored(path).items():
        samples = sum(part.count for part in partitions)
        size = sum(part.path.stat().st_blocks * 512 for part in partitions)
        known = {part.path: part for part in partitions}
        folders = OpenedFolders([place(path)], mode, None, known) if samples else None
        episodes = _episodes(partitions)
        yield f"{mode}: {samples} samples, {episodes} episodes, {len(partitions)} partitions, {size_text(size)}"
        if folders is not None and folders.dropped is not None:
            yield f"  bounded: old partitions are dropped, {folders.dropped} samples so far"
        yield from (f"  {line}" for line in _partitions(partitions))
        statistics = merged((part.statistics for part in partitions), partitions[0].spec) if samples else {}
        yield from (f"  {line}" for line in _fields(partitions[0], statistics))
        yield from (f"  note: {line}" for line in lines_beyond(partitions[0].attributes, statistics))
        if feedback := partitions[0].spec.feedback:
            yield f"  feedback: {feedback}"
            spec = partitions[0].spec
            for output, name in unequal_units(spec, feedback.stored):
                units = f"{spec[output].unit!r} and {spec[name].unit!r}"
                yield f"  wrong: {output} and {name} are the same values, in {units}; correct one: data describe --unit"
        yield from (f"  {line}" for line in _lines_by_part(partitions))
        if folders is not None and folders.dropped is None and (text := _rejected_steps(partitions, folders)):
            yield f"  {text}"
        if files := snapshot_files(partitions[0].path.parent, mode):
            taken = size_text(sum(file.stat().st_size for file in files))
            yield f"  snapshots: {len(files)} states, {taken}, from which physgym.reopen continues"
        if folders is not None:
            yield from (f"  {line}" for line in code_lines(folders.provenances[0]))
    folder = partitions[0].path.parent
    described = Description.read(folder)
    entry = described.constants
    yield from (f"{key}: {in_words(key, text)}" for key, text in described.said.items())
    if entry == UNKNOWN and not (folder / constants.CONSTANTS).exists():
        yield f"constants: {UNKNOWN}"
        return
    for name, value in constants.read(folder, entry).items():
        yield f"constant {name}: {value.dtype} {value.shape}"


def _episodes(partitions: list[Partition]) -> int:
    """Count the episodes of samples: partition by partition, of which there may be thousands."""
    numbers = [np.unique(part.read("index/episode", 0, part.count)) for part in partitions if part.count]
    return len(np.unique(np.concatenate(numbers))) if numbers else 0


def _partitions(partitions: list[Partition]) -> Iterator[str]:
    """Describe partitions, of many the first and the last ones: a recording has one for every 300 rows."""
    few = len(partitions) <= PARTITIONS
    ends = (partitions, []) if few else (partitions[: PARTITIONS // 2], partitions[-PARTITIONS // 2 :])
    yield from map(_partition, ends[0])
    if not few:
        inner = partitions[PARTITIONS // 2 : -PARTITIONS // 2]
        samples, size = sum(part.count for part in inner), sum(part.path.stat().st_blocks * 512 for part in inner)
        unsealed = len(inner) - sum(part.sealed for part in inner)
        note = f", {unsealed} of them open" if unsealed else ""
        yield f"... {len(inner)} further partitions: {samples} samples, {size_text(size)}{note}"
    yield from map(_partition, ends[1])


def _partition(part: Partition) -> str:
    size = size_text(part.path.stat().st_blocks * 512)  # an open partition is sparse: what it takes, not its length
    state = f"checksum {part.checksum[:CHECKSUM]}" if part.sealed else "open"
    packed = f", compressed ({part.attributes.get('compression', 'archive')})" if part.archive else ""
    return f"{part.path.name}: {part.count} samples, {size}, {state}{packed}"


def _fields(part: Partition, statistics: dict[str, Statistics]) -> Iterator[str]:
    rows = [["field", "role", "dtype", "shape", "unit", "mean", "std", "min", "max"]]
    for name, field in part.spec.items():
        known = statistics.get(name)
        numbers = overall_moments(known) if known is not None and known.counts.any() else ()
        shown = [f"{number:.4g}" for number in numbers] or [""] * 4
        rows.append([name, field.role, str(field.dtype), str(field.shape), field.unit, *shown])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def overall_moments(s: Statistics) -> tuple[float, float, float, float]:
    """Compute mean, standard deviation, smallest and largest of all numbers of a field."""
    weights = s.counts / s.counts.sum()
    mean = np.sum(weights * s.mean)
    variance = np.sum(weights * (s.std**2 + (s.mean - mean) ** 2))
    return float(mean), float(np.sqrt(variance)), float(s.min.min()), float(s.max.max())


def _rejected_steps(partitions: list[Partition], folders: OpenedFolders) -> str:
    """Say how many steps were rejected; empty where the dataset does not tell, or need not be in order."""
    first = partitions[0]
    if not first.layout.endings or not holds_all_steps(json.loads(first.attributes["source"]), folders.provenances[0]):
        return ""
    ended, lengths = (_endings(partitions, name) for name in ("episode", "steps"))
    if (np.diff(ended) < 0).any():
        return ""
    count, done, before = 0, 0, None
    for part in partitions:  # one at a time: all of them may be larger than the memory
        episodes, steps = (part.read(f"index/{name}", 0, part.count) for name in ("episode", "step"))
        if not len(episodes):
            continue
        if (np.diff(episodes, prepend=episodes[0] if before is None else before[0]) < 0).any():
            return ""
        until = int(np.searchsorted(ended, episodes[-1]))
        count += count_rejected(episodes, steps, ended[done:until], lengths[done:until], before)
        done, before = until, (int(episodes[-1]), int(steps[-1]))
    none = np.empty(0, np.int64)
    count += count_rejected(none, none, ended[done:], lengths[done:], before)
    return f"{count} steps were rejected" if count else ""


def _endings(partitions: list[Partition], name: str) -> Array:
    return np.concatenate([part.read(f"endings/{name}", 0, part.tables[ENDINGS].count) for part in partitions])


def _lines_by_part(partitions: list[Partition]) -> Iterator[str]:
    first = partitions[0]
    if first.layout.parameters is not None:
        count = sum(part.tables[EPISODES].count for part in partitions)
        fields = first.layout.parameters.values()
        names = ", ".join(f"{x.name} {x.shape}{f' [{x.unit}]' if x.unit else ''}" for x in fields)
        yield f"parameters of {count} episodes: {names}"
    if first.layout.rejected:
        yield f"rejected: {sum(part.tables[REJECTED].count for part in partitions)} samples are kept"
    if (seconds := step_seconds(first.attributes)) is not None:
        yield f"a step: {seconds:g} s"
    for name in ("source", "env_spec", "git_commit", "physgym"):
        value = first.attributes.get(name)
        if value and value != "{}":
            yield f"{name}: {json.dumps(json.loads(value)) if name == 'source' else value}"
