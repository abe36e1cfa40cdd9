"""The rejected steps of episodes: those that have no sample, up to the last sample and to the ends that are known."""

from __future__ import annotations

import numpy as np

from physgym.spaces import Array


def count_rejected(
    episodes: Array, steps: Array, ended: Array, lengths: Array, before: tuple[int, int] | None = None
) -> int:
    """Return how many steps of episodes have no sample.

    Args:
        episodes: Episode of each sample, shape (n,), in ascending order with the steps.
        steps: Step of each sample in its episode, shape (n,).
        ended: Episodes whose end is known, shape (m,).
        lengths: How many steps each of them had, shape (m,).
        before: Episode and step of the sample before the first one; None without any.
    """
    if before is not None:
        episodes, steps = np.concatenate([[before[0]], episodes]), np.concatenate([[before[1]], steps])
    first = np.diff(episodes, prepend=-1) != 0  # of the episode
    missing = np.where(first, steps, np.diff(steps, prepend=-1) - 1)
    found = int(missing[before is not None :].sum())
    place = np.searchsorted(episodes, ended, side="right") - 1
    if not len(episodes):
        return found + int(lengths.sum())
    known = (place >= 0) & (episodes[place] == ended)  # whose last sample is there
    return found + int((lengths - np.where(known, steps[place] + 1, 0)).sum())
