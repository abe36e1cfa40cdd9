"""`Timeline`: stored samples in the order in which they were made, and the time of each."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from physgym.checks import integer
from physgym.data.dataset import SampleDataset
from physgym.data.layout import REJECTED
from physgym.errors import ConfigError
from physgym.simulation import TIME
from physgym.spaces import Array

log = logging.getLogger(__name__)

SHOWN = 8  # numbers of episodes and steps that an error names


@dataclass(frozen=True)
class Timeline:
    """Stored samples, episode by episode and step by step; a position is the number of one in this order.

    Attributes:
        rows: Index of each in the dataset, or among its rejected samples, shape (n,), int64.
        folder: Number of the folder that each is from, shape (n,), int64.
        episode: Number of its episode in that folder, shape (n,), int64.
        step: Its step, shape (n,), int64.
        time: Time at the end of its step since the reset, shape (n,), float64.
        rejected: Whether it was rejected, shape (n,), bool.
        unit: Unit of the time: "s", or "steps" where the dataset does not say how long they are.
    """

    rows: Array
    folder: Array
    episode: Array
    step: Array
    time: Array
    rejected: Array
    unit: Literal["s", "steps"]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def begins(self) -> Array:
        """Return the position of the first sample of each episode, and the end of the last one: (episodes + 1,)."""
        changes = (np.diff(self.folder) != 0) | (np.diff(self.episode) != 0)
        return np.concatenate([[0], np.flatnonzero(changes) + 1, [len(self)]])

    @cached_property
    def clock(self) -> Array:
        """Return the time at which each sample is shown first, and the end of the last one: shape (n + 1,), float64.

        It continues over all episodes. A sample lasts until the next one; the last one of an episode as long as most
        do.
        """
        lasts = np.diff(self.time, append=np.nan)
        ends = self.begins[1:] - 1
        lasts[ends] = np.nan
        known = lasts[lasts > 0]
        if not len(known):  # episodes of a single step
            known = self.time[self.time > 0] / (self.step[self.time > 0] + 1)
        lasts[ends] = np.median(known) if len(known) else 1.0
        return np.concatenate([[0.0], np.cumsum(lasts)])

    @cached_property
    def joined(self) -> bool:
        """Return whether the samples are from several folders."""
        return bool(self.folder.min() < self.folder.max())

    @property
    def typical(self) -> float:
        """Return the time for which a sample is shown as a rule."""
        lasts = np.diff(self.clock)
        return float(np.median(lasts[lasts > 0]))

    def at(self, clock: float) -> int:
        """Return the position that is shown at a time of `clock`; the last one after the end."""
        return min(max(int(np.searchsorted(self.clock, clock, side="right")) - 1, 0), len(self) - 1)

    def find(self, episode: int, step: int | None = None) -> int:
        """Return the position of a step, by default that of the first one of the episode.

        Raises:
            ConfigError: There is no such episode or step, or several folders have the episode.
        """
        episode = integer("episode", episode, 0)
        there = np.flatnonzero(self.episode == episode)
        if not len(there):
            raise ConfigError(f"there is no episode {episode}; there are {_few(np.unique(self.episode))}")
        if len(np.unique(self.folder[there])) > 1:
            raise ConfigError(f"several folders have an episode {episode}; open them one by one")
        if step is None:
            return int(there[0])
        found = there[self.step[there] == integer("step", step, 0)]
        if not len(found):
            raise ConfigError(f"episode {episode} has no step {step}; it has {_few(self.step[there])}")
        return int(found[0])

    def of_sample(self, sample: int) -> int:
        """Return the position of a sample by its index in the dataset, as in ``dataset[17]``.

        Raises:
            ConfigError: There is no such sample.
        """
        sample, count = integer("sample", sample, 0), np.count_nonzero(~self.rejected)
        found = np.flatnonzero((self.rows == sample) & ~self.rejected)
        if not len(found):
            raise ConfigError(f"there is no sample {sample}; there are {count}, from 0")
        return int(found[0])

    def number(self, position: int) -> int:
        """Return which of the episodes a position is in, counted from 0."""
        return int(np.searchsorted(self.begins, position, side="right")) - 1

    def part(self, positions: Array) -> Timeline:
        """Return some of the samples, at positions of shape (m,) that ascend."""
        every = (self.rows, self.folder, self.episode, self.step, self.time, self.rejected)
        rows, folder, episode, step, time, rejected = (column[positions] for column in every)
        return Timeline(rows, folder, episode, step, time, rejected, self.unit)

    def select(self, episodes: Sequence[int]) -> Timeline:
        """Return the samples of some episodes, in the order of this one.

        Raises:
            ConfigError: There is no such episode, or several folders have it.
        """
        firsts = [self.find(episode) for episode in episodes]
        return self.part(np.flatnonzero(np.isin(self.episode, self.episode[firsts])))

    def deal(self, count: int) -> list[Timeline]:
        """Return the episodes in turn to several: the first one gets episodes 0, ``count``, and so on.

        Raises:
            ConfigError: There are fewer episodes.
        """
        episodes = len(self.begins) - 1
        if integer("grid", count, 1) > episodes:
            raise ConfigError(f"{count} episodes at once of {episodes} chosen ones; show fewer, or choose more")
        number = np.searchsorted(self.begins, np.arange(len(self)), side="right") - 1
        return [self.part(np.flatnonzero(number % count == lane)) for lane in range(count)]


def timeline_of(dataset: SampleDataset, *, rejected: bool = False) -> Timeline:
    """Return the samples of a dataset in the order in which they were made.

    Args:
        dataset: The samples.
        rejected: Whether those that were rejected are among them, at their steps.

    Raises:
        ConfigError: Rejected samples are wanted, and none were kept.
    """
    number = {path: folder for folder, path in enumerate(dataset.paths)}
    of_part = np.array([number[part.path.parent] for part in dataset.partitions], np.int64)
    columns = {"folder": of_part[dataset.partition_numbers], **{n: dataset.index(n) for n in ("episode", "step")}}
    columns |= {"rows": np.arange(len(dataset)), "rejected": np.zeros(len(dataset), bool)}
    time, unit = _times(dataset, columns)
    columns["time"] = time
    if rejected:
        more = _rejected(dataset, of_part, columns, unit)
        columns = {name: np.concatenate([column, more[name]]) for name, column in columns.items()}
    order = np.lexsort((columns["step"], columns["episode"], columns["folder"]))
    return Timeline(**{name: column[order] for name, column in columns.items()}, unit=unit)


def _times(dataset: SampleDataset, columns: dict[str, Array]) -> tuple[Array, Literal["s", "steps"]]:
    """Return the time of every sample, which are steps where the seconds are not known."""
    try:
        time = dataset.index(TIME)
    except ConfigError:
        return columns["step"] + 1.0, "steps"
    order = np.lexsort((columns["step"], columns["episode"], columns["folder"]))
    same = (np.diff(columns["episode"][order]) == 0) & (np.diff(columns["folder"][order]) == 0)
    if np.isfinite(time).all() and (np.diff(time[order])[same] >= 0).all():
        return time, "s"
    log.warning("the field %r goes back within an episode, or is not finite: steps are shown, and not seconds", TIME)
    return columns["step"] + 1.0, "steps"


def _rejected(
    dataset: SampleDataset, of_part: Array, columns: dict[str, Array], unit: Literal["s", "steps"]
) -> dict[str, Array]:
    found = dataset.rejected
    if found is None:
        raise ConfigError(
            'the dataset keeps no rejected samples; generate keeps them with reject="keep" (--keep-rejected)'
        )
    counts = [part.tables[REJECTED].count for part in dataset.partitions]
    more = {"folder": np.repeat(of_part, counts), "episode": found.episode, "step": found.step}
    more |= {"rows": np.arange(len(found.reasons)), "rejected": np.ones(len(found.reasons), bool)}
    if unit == "steps":
        more["time"] = found.step + 1.0
    elif TIME not in dataset.spec and dataset.time_step is not None:
        more["time"] = (found.step + 1) * dataset.time_step
    else:
        more["time"] = _between(more, columns)
    return more


def _between(more: dict[str, Array], columns: dict[str, Array]) -> Array:
    """Return times of rejected samples between those of the stored ones around them, which alone are known."""
    times = np.empty(len(more["step"]))
    for folder, episode in {*zip(more["folder"].tolist(), more["episode"].tolist(), strict=True)}:
        wanted = (more["folder"] == folder) & (more["episode"] == episode)
        there = np.flatnonzero((columns["folder"] == folder) & (columns["episode"] == episode))
        there = there[np.argsort(columns["step"][there], kind="stable")]
        steps, known = np.append(-1, columns["step"][there]), np.append(0.0, columns["time"][there])
        after = np.maximum(more["step"][wanted] - steps[-1], 0)
        mean = known[-1] / (steps[-1] + 1) if len(there) else 1.0
        times[wanted] = np.interp(more["step"][wanted], steps, known) + after * mean
    return times


def _few(numbers: Array) -> str:
    """Return numbers as a text, some of them where they are many."""
    if len(numbers) <= SHOWN:
        return ", ".join(map(str, numbers.tolist()))
    return f"{len(numbers)} from {numbers.min()} to {numbers.max()}"
