"""The origins of episodes: what a source says of datasets that were merged or changed.

A dataset that surgery has made says so in its source, under `SURGERY`, and is not continued. One that was merged has
an entry for each run of episodes there, under `MERGED`: the source of the dataset that they come from, and the shift
from their numbers there to those here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from physgym.errors import DatasetError
from physgym.spaces import Array

SURGERY = "surgery"  # what was done to the samples, step by step
MERGED = "merged"  # where episodes come from: dataset, first, last, shift, source
SampleOrigin = tuple[dict[str, Any], Any]  # a source, and a provenance


def merged_of(source: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entries of a source for runs of episodes, by their first numbers; none where nothing was merged."""
    found = source.get(MERGED)
    return list(found) if isinstance(found, list) else []


def sources_of(sources: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield sources; in place of one of merged datasets, those of its entries."""
    for source in sources:
        entries = merged_of(source)
        yield from (entry["source"] for entry in entries) if entries else (source,)


def provenances_of(provenance: Any, count: int) -> list[Any]:
    """Return the provenance of each of several merged datasets, None where it is not known any more."""
    found = provenance.get("origins") if isinstance(provenance, Mapping) else None
    return list(found) if isinstance(found, list) and len(found) == count else [None] * count


def divided(
    each: Sequence[SampleOrigin], which: Array, read_episodes: Callable[[], Array]
) -> tuple[list[SampleOrigin], Array]:
    """Divide samples further, by the datasets that they come from.

    Args:
        each: Source and provenance of partitions.
        which: The partition of each sample, shape (n,).
        read_episodes: Returns the episode of each sample, shape (n,).

    Returns:
        Source and provenance of each origin; and its number for each sample.
    """
    if not any(merged_of(source) for source, _ in each):
        return list(each), which
    episodes, found = read_episodes(), list[SampleOrigin]()
    numbers = np.empty(len(which), np.int64)
    for number, (source, provenance) in enumerate(each):
        rows, entries = np.flatnonzero(which == number), merged_of(source)
        if not entries:
            numbers[rows] = len(found)
            found.append((source, provenance))
            continue
        numbers[rows] = len(found) + entries_of(entries, episodes[rows])
        known = provenances_of(provenance, len(entries))
        found += [(dict(entry["source"]), one) for entry, one in zip(entries, known, strict=True)]
    return found, numbers


def episodes_before(sources: Sequence[Mapping[str, Any]], which: Array, episodes: Array) -> Array:
    """Return the numbers of episodes in the datasets that they were first stored in, shape (n,), int64.

    Args:
        sources: Of partitions.
        which: The partition of each sample, shape (n,).
        episodes: The episode of each sample, shape (n,).
    """
    found = episodes.copy()
    for number, source in enumerate(sources):
        if entries := merged_of(source):
            rows = np.flatnonzero(which == number)
            shifts = np.array([entry["shift"] for entry in entries], np.int64)
            found[rows] -= shifts[entries_of(entries, episodes[rows])]
    return found


def argument_places(source: Mapping[str, Any], episodes: Array, count: int) -> Array:
    """Return which of several arguments of the simulation episodes have, shape (n,), int64.

    Args:
        source: Of their dataset.
        episodes: Their numbers in it, shape (n,).
        count: How many arguments there are.

    Raises:
        DatasetError: Nothing says it.
    """
    entries = merged_of(source)
    if not entries or count == 1:
        return np.asarray(episodes % count)
    known = arguments_of(source.get("env_kwargs"))
    found = np.empty(len(episodes), np.int64)
    owners = entries_of(entries, episodes)
    for number, entry in enumerate(entries):
        mine = owners == number
        own = arguments_of(entry["source"].get("env_kwargs"))
        if len(known) != count or any(one not in known for one in own):
            raise DatasetError(
                f"episodes of {entry['dataset']} were made with other arguments than those that are given; take those "
                'of the merged dataset: dataset.source["env_kwargs"]'
            )
        places = np.array([known.index(one) for one in own])
        found[mine] = places[(episodes[mine] - int(entry["shift"])) % len(own)]
    return found


def placed_entries(source: Mapping[str, Any], first: int, last: int, shift: int) -> list[tuple[int, dict[str, Any]]]:
    """Return the entries of a merged dataset whose episodes get new numbers, each with its place among all.

    Of episodes that a filter has taken away nothing is said: their numbers may be those of another dataset now.

    Args:
        source: Of the dataset.
        first: Its first episode in the new numbers.
        last: Its last one.
        shift: From its numbers to the new ones.
    """
    found, entries = [], merged_of(source)
    for number, entry in enumerate(entries):
        end = int(entry["last"])
        if number + 1 < len(entries):  # the next entry has the numbers from its first on, as of `entries_of`
            end = min(end, int(entries[number + 1]["first"]) - 1)
        bounds = {"first": max(int(entry["first"]) + shift, first), "last": min(end + shift, last)}
        if bounds["first"] <= bounds["last"]:
            found.append((number, {**entry, **bounds, "shift": int(entry["shift"]) + shift}))
    return found


def merged_source(sources: Sequence[tuple[str, Mapping[str, Any], int, int, int]]) -> dict[str, Any]:
    """Return the source of datasets that are merged.

    What all have the same stands in it too. Arguments of the simulation become the list of all that there are, each
    once: `argument_places` says which of them an episode has.

    Args:
        sources: For each dataset its name, its source, its first and last episode in the new numbers, and the shift to
            these.
    """
    entries: list[dict[str, Any]] = []
    for name, source, first, last, shift in sources:
        if merged_of(source):
            entries += [entry for _, entry in placed_entries(source, first, last, shift)]
        else:
            entries.append({"dataset": name, "first": first, "last": last, "shift": shift, "source": dict(source)})
    for one, following in pairwise(entries):
        assert one["first"] <= one["last"] < following["first"], "two datasets have an episode"
    every = [entry["source"] for entry in entries]
    common = {key: value for key, value in every[0].items() if all(s.get(key) == value and key in s for s in every)}
    common = {key: value for key, value in common.items() if key not in (SURGERY, MERGED, "env_kwargs")}
    arguments: list[Any] = []
    for source in every:
        arguments += [one for one in arguments_of(source.get("env_kwargs")) if one not in arguments]
    if "env" in common:
        common["env_kwargs"] = arguments[0] if len(arguments) == 1 else arguments
    return {**common, MERGED: entries}


def check_not_made_by_surgery(source: Mapping[str, Any], where: object) -> None:
    """Raise DatasetError for a dataset that was merged or changed: nothing can continue it.

    Args:
        source: Its source.
        where: What to call it.
    """
    steps = source.get(SURGERY)
    if isinstance(steps, list) and steps:
        done = ", then ".join(str(next(iter(step), "")) for step in steps if isinstance(step, Mapping))
        raise DatasetError(
            f"{where} was made from other datasets (physgym data: {done}), and cannot be continued: no simulation "
            "gives the samples that would come next. Generate another dataset, and merge both: physgym data merge"
        )


def holds_all_steps(*records: Any) -> bool:
    """Return whether a dataset holds each step of its episodes that was not rejected.

    It does not where it was filtered, where it is the record of rollouts, which begin after the given states, or where
    nothing says which simulation made it.

    Args:
        records: Its source, its provenance, and those of what it was made of.
    """
    source = records[0]
    left_out = any(key in source for key in ("replay", "rollout"))
    return bool(source.get("env")) and not left_out and not any(map(_names_filter, records))


def _names_filter(record: Any) -> bool:
    """Return whether a source or a provenance says that samples were filtered, there or in what it was made of."""
    if isinstance(record, list):
        return any(map(_names_filter, record))
    if not isinstance(record, Mapping):
        return False
    return "filter" in record or any(_names_filter(record.get(key)) for key in (SURGERY, "from", MERGED, "source"))


def entries_of(entries: Sequence[Mapping[str, Any]], episodes: Array) -> Array:
    """Return which entry each episode belongs to, by their first numbers, which ascend."""
    firsts = np.array([entry["first"] for entry in entries], np.int64)
    return np.maximum(np.searchsorted(firsts, episodes, side="right") - 1, 0)


def arguments_of(arguments: Any) -> list[Any]:
    """Return the arguments of a source, of which episodes have one in turn, as a list."""
    return arguments if isinstance(arguments, list) else [arguments]
