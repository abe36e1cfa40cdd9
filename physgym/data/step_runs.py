"""Runs of consecutive steps in a dataset, and where windows of them begin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.spaces import Array


@dataclass(frozen=True)
class StepRuns:
    """The runs of consecutive steps, within episodes and without a missing step.

    Attributes:
        order: The samples in the order of (episode, step), each of them once, shape (places,), int64; None where the
            dataset has that order.
        starts: Place in this order at which each run begins, shape (runs,), int64.
        lengths: Its steps, shape (runs,), int64.
    """

    order: Array | None
    starts: Array
    lengths: Array

    @classmethod
    def find(cls, episodes: Array, steps: Array) -> StepRuns:
        """Return the runs of samples with these episodes and steps, each of shape (samples,)."""
        order: Array | None = None
        same = episodes[1:] == episodes[:-1]
        if not np.all((episodes[1:] > episodes[:-1]) | (same & (steps[1:] > steps[:-1]))):
            order = np.lexsort((steps, episodes))
            episodes, steps = episodes[order], steps[order]
            again = (np.diff(episodes) == 0) & (np.diff(steps) == 0)  # the same sample twice
            kept = np.concatenate([[True], ~again])
            order, episodes, steps = order[kept], episodes[kept], steps[kept]
            same = episodes[1:] == episodes[:-1]
        cuts = np.flatnonzero(~(same & (np.diff(steps) == 1))) + 1
        bounds = np.concatenate([[0], cuts, [len(steps)]])
        return cls(order, bounds[:-1], np.diff(bounds))

    def windows(self, span: int, every: int, least: int) -> tuple[Array, Array]:
        """Return where windows begin, and how many steps from there on are in their run; both of shape (windows,).

        Args:
            span: Steps from the first to the last of a window.
            every: Steps from the beginning of a window to that of the next one, counted from the beginning of a run.
            least: Steps of a run that is too short for a whole window and gives one all the same.
        """
        counts = np.where(self.lengths >= span, (self.lengths - span) // every + 1, self.lengths >= least)
        number = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        first = np.repeat(self.starts, counts) + every * number
        return first, np.repeat(self.starts + self.lengths, counts) - first
