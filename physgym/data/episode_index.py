"""`EpisodeIndex`: which rows are of which episode, read in portions, and the rows of some of the episodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from physgym.data.dataset_parts import PARTS, DatasetPart, EpisodeSplit
from physgym.data.episode_split import chosen_episodes, number_episodes
from physgym.data.opened_folders import OpenedFolders
from physgym.data.origins import episodes_before
from physgym.data.row_selection import AllRows, ListedRows, RowSelection, SelectionBuilder
from physgym.spaces import Array

PORTION = 1 << 18  # rows whose episodes are read together: they stay in the processor's cache
KEPT = 1 << 20  # runs that are kept from one pass to the next one


class EpisodeRuns(NamedTuple):
    """Runs of consecutive rows of one episode; an episode may have several.

    Attributes:
        starts: First row of each, shape (runs,), int64.
        stops: The row after its last one, shape (runs,), int64.
        partitions: Number of its partition, shape (runs,), int64.
        episodes: Number of its episode, as it is stored, shape (runs,), int64.
    """

    starts: Array
    stops: Array
    partitions: Array
    episodes: Array


class EpisodeIndex:
    """The episodes of rows of a dataset, in no memory that grows with the rows.

    Args:
        folders: The opened folders.
        rows: Which of their rows.
    """

    def __init__(self, folders: OpenedFolders, rows: RowSelection) -> None:
        self._folders, self._rows = folders, rows
        self._kept: list[EpisodeRuns] | None = None

    def held_out(self, fraction: float, seed: int) -> tuple[RowSelection, RowSelection]:
        """Return the rows to train on, and those of the episodes that are held out.

        Args:
            fraction: Fraction of the episodes to hold out, at least one.
            seed: Which episodes.

        Raises:
            ConfigError: The fraction is out of range, or there are fewer than two episodes.
        """
        count, in_order = self._count()
        chosen = chosen_episodes(count, fraction, seed)
        training, validation = (SelectionBuilder(self._folders.total) for _ in range(2))
        for runs, numbers in self._numbered(in_order):
            held = chosen[numbers]
            training.add(runs.starts[~held], runs.stops[~held])
            validation.add(runs.starts[held], runs.stops[held])
        return training.made(), validation.made()

    def part(self, split: EpisodeSplit, part: DatasetPart) -> RowSelection:
        """Return the rows whose episodes are in a part.

        Raises:
            ConfigError: There are none.
        """
        found, number = SelectionBuilder(self._folders.total), PARTS.index(part)
        for runs in self._portions():
            inside = split.parts(self._original(runs)) == number
            found.add(runs.starts[inside], runs.stops[inside])
        selected = found.made()
        if not len(selected):
            episodes = [np.zeros(0, np.int64), *(self._original(runs) for runs in self._portions())]
            raise split.without(part, len(np.unique(np.concatenate(episodes))))
        return selected

    def _original(self, runs: EpisodeRuns) -> Array:
        """Return the numbers that episodes had where they were stored first, shape (runs,)."""
        sources = [json.loads(part.attributes["source"]) for part in self._folders.partitions]
        return episodes_before(sources, runs.partitions, runs.episodes)

    def _count(self) -> tuple[int, bool]:
        """Return the number of episodes, and whether they come in the order of their folders and numbers."""
        count, before = 0, (-1, 0)
        for runs in self._portions():
            names = self._names(runs)
            folders, episodes = (np.append(first, rest) for first, rest in zip(before, names, strict=True))
            same = folders[1:] == folders[:-1]
            if ((folders[1:] < folders[:-1]) | (same & (episodes[1:] < episodes[:-1]))).any():
                return int(self._numbers_of_all().max()) + 1, False
            count += int(np.count_nonzero(~same | (episodes[1:] != episodes[:-1])))
            before = int(folders[-1]), int(episodes[-1])
        return count, True

    def _numbered(self, in_order: bool) -> Iterator[tuple[EpisodeRuns, Array]]:
        """Yield runs, and for each of them a number of its episode across folders, as of `number_episodes`."""
        if not in_order:
            numbers, begin = self._numbers_of_all(), 0
            for runs in self._portions():
                yield runs, numbers[begin : begin + len(runs.starts)]
                begin += len(runs.starts)
            return
        last, before = -1, (-1, 0)
        for runs in self._portions():
            names = self._names(runs)
            folders, episodes = (np.append(first, rest) for first, rest in zip(before, names, strict=True))
            numbers = last + number_episodes(folders, episodes)[1:]
            last, before = int(numbers[-1]), (int(folders[-1]), int(episodes[-1]))
            yield runs, numbers

    def _numbers_of_all(self) -> Array:
        folders, episodes = (np.concatenate(found) for found in zip(*map(self._names, self._portions()), strict=True))
        return number_episodes(folders, episodes)

    def _names(self, runs: EpisodeRuns) -> tuple[Array, Array]:
        """Return the folder and the episode of each run."""
        folders = np.array([folder for folder, _ in self._folders.numbered])
        return folders[runs.partitions], runs.episodes

    # --- reading

    def _portions(self) -> Iterator[EpisodeRuns]:
        """Yield all runs in the order of the rows, those of a number of rows together."""
        if self._kept is not None:
            yield from self._kept
            return
        kept, count = list[EpisodeRuns](), 0
        # rows in any order may be anywhere
        portion = max(1, len(self._rows)) if isinstance(self._rows, ListedRows) else PORTION
        for start in range(0, len(self._rows), portion):
            runs = self._read(start, min(len(self._rows), start + portion))
            yield runs
            count += len(runs.starts)
            if count <= KEPT:
                kept.append(runs)
        self._kept = kept if count <= KEPT else None

    def _read(self, start: int, stop: int) -> EpisodeRuns:
        """Return the runs of the rows from one place of the selection to another."""
        bounds, whole = self._folders.bounds, isinstance(self._rows, AllRows)
        rows = None if whole else self._rows.between(start, stop)
        low, high = (start, stop) if rows is None else (int(rows.min()), int(rows.max()) + 1)
        owners = range(int(np.searchsorted(bounds, low, side="right")) - 1, int(np.searchsorted(bounds, high)))
        parts = [(self._folders.partitions[owner], int(bounds[owner])) for owner in owners]
        columns = [
            part.read("index/episode", max(0, low - first), min(part.count, high - first)) for part, first in parts
        ]
        episodes = columns[0] if len(columns) == 1 else np.concatenate(columns)
        edges = bounds[list(owners)[1:]]
        if rows is None:
            cuts = np.flatnonzero(episodes[1:] != episodes[:-1]) + 1
            begins = np.union1d(np.append(0, cuts), edges - low) if len(edges) else np.append(0, cuts)
            starts = begins + low
            return EpisodeRuns(starts, np.append(starts[1:], high), self._owners(starts, owners), episodes[begins])
        episodes = episodes[rows - low]
        new = (episodes[1:] != episodes[:-1]) | (rows[1:] != rows[:-1] + 1) | np.isin(rows[1:], edges)
        begins = np.append(0, np.flatnonzero(new) + 1)
        stops = rows[np.append(begins[1:], len(rows)) - 1] + 1
        return EpisodeRuns(rows[begins], stops, self._owners(rows[begins], owners), episodes[begins])

    def _owners(self, rows: Array, owners: range) -> Array:
        """Return the partitions of rows, of which these are possible."""
        if len(owners) == 1:
            return np.full(len(rows), owners[0])
        return np.searchsorted(self._folders.bounds, rows, side="right") - 1
