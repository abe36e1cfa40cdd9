"""`EpisodeSeries`: the values of a few fields over the episode of a stored sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.sample import present_in
from physgym.scene.over_time import NOW, SERIES, TIMES
from physgym.scene.timeline import Timeline
from physgym.spaces import Array

LONGEST = 2000  # steps that are drawn; of more some are


class EpisodeSeries:
    """Values of fields at all steps of an episode; those of the last one are kept.

    Args:
        dataset: The samples.
        timeline: Whole episodes of them.
        fields: Names of the fields.
    """

    def __init__(self, dataset: SampleDataset, timeline: Timeline, fields: Sequence[str]) -> None:
        self._dataset, self._timeline, self._fields = dataset, timeline, list(fields)
        self._episode: tuple[int, int] | None = None
        self._kept: dict[str, Array] = {}

    def of(self, folder: int, episode: int, time: float) -> dict[str, Array]:
        """Return the series of `physgym.scene.over_time` by name; none where the episode has a single sample.

        Args:
            folder: Number of the folder of the sample.
            episode: Its episode.
            time: Its time, of `Timeline.time`.
        """
        if not self._fields:
            return {}
        if (folder, episode) != self._episode:
            self._episode, self._kept = (folder, episode), self._read(folder, episode)
        return {**self._kept, NOW: np.array([time])} if self._kept else {}

    def _read(self, folder: int, episode: int) -> dict[str, Array]:
        line, spec = self._timeline, self._dataset.spec
        there = np.flatnonzero((line.folder == folder) & (line.episode == episode) & ~line.rejected)
        if len(there) < 2:
            return {}
        there = there[np.unique(np.linspace(0, len(there) - 1, LONGEST).round().astype(int))]
        masks = {spec[name].mask for name in self._fields if spec[name].mask in spec}
        rows = self._dataset.gather(line.rows[there], [*dict.fromkeys([*self._fields, *masks])])
        found = {TIMES: line.time[there]}
        for name in self._fields:
            values, flags = rows[name].astype(np.float64), present_in(spec, name, rows)
            found[f"{name}{SERIES}"] = values if flags is None else np.where(flags, values, np.nan)
        return found
