"""The names of samples, episode and step, that a dataset has; none is given twice."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable

import numpy as np

from physgym.errors import DatasetError
from physgym.spaces import Array

REPEATED = (
    "there is a sample of episode {episode}, step {step} already, and a name is given once; nothing of this call is "
    "stored. Give every sample a step of its own within its episode; where datasets are joined, number the episodes of "
    "the second after those of the first"
)

BLOCK = 1 << 12  # consecutive steps whose bytes are at hand
INT64 = np.dtype(np.int64)
WIDTH = INT64.itemsize
GREATEST = np.iinfo(np.int64).max - BLOCK


class TakenNames:
    """Refuses a second sample of the same episode and step.

    While names ascend, as nearly always, the greatest one is all that is kept. With the first name that does not, those
    of all stored samples are read once and kept as runs of consecutive steps.

    Args:
        stored: Gives the names of all samples that there are: episodes and steps, each of shape (n,), int64.
    """

    def __init__(self, stored: Callable[[], Iterable[tuple[Array, Array]]]) -> None:
        self._stored = stored
        self._last: tuple[int, int] | None = None  # the greatest name; None: to be looked up
        self._runs: dict[int, list[int]] | None = None  # by episode: first step, end, first step, end, ...
        # equal bytes are found sooner than ascending numbers: those of consecutive steps
        self._steps = GREATEST, b""  # the first one, and the bytes from it on

    def forget(self) -> None:
        """Look the names up again: not all that were taken are stored."""
        self._last = self._runs = None

    def take_one(self, episode: int, step: int) -> None:
        """Take the name of one sample.

        Raises:
            DatasetError: It is taken.
        """
        if self._last is None:
            self._look_up()
        if self._runs is None and (episode, step) > self._last:  # type: ignore[operator]
            self._last = episode, step
            return
        self._take_runs(np.array([episode]), np.array([step]))

    def take(self, episodes: Array, steps: Array) -> None:
        """Take the names of samples, all or none.

        Args:
            episodes: Shape (n,), integers that int64 holds.
            steps: As `episodes`.

        Raises:
            DatasetError: One is taken, or there twice.
        """
        count = len(episodes)
        if not count:
            return
        if self._last is None:
            self._look_up()
        if self._runs is None:
            episode, step = episodes.item(0), steps.item(0)
            if (episode, step) > self._last:  # type: ignore[operator]
                first, known = self._steps
                begin = WIDTH * (step - first)
                if not 0 <= begin <= WIDTH * (BLOCK - count):
                    begin, known = 0, self._anew(step, count)
                # equal bytes of an episode are equal numbers, whatever their form
                if (
                    steps.tobytes() == known[begin : begin + WIDTH * count]
                    and steps.dtype == INT64
                    and episodes.tobytes() == episode.to_bytes(WIDTH, sys.byteorder, signed=True) * count
                ):
                    self._last = episode, step + count - 1
                    return
                if _ascend(episodes, steps):
                    self._last = episodes.item(-1), steps.item(-1)
                    return
        self._take_runs(np.asarray(episodes, np.int64), np.asarray(steps, np.int64))

    def _anew(self, step: int, count: int) -> bytes:
        """Return the bytes of consecutive steps from one on, and keep them; none where there are no so many."""
        if count > BLOCK or step > GREATEST:
            return b""
        self._steps = step, (np.arange(BLOCK) + step).tobytes()
        return self._steps[1]

    def _look_up(self) -> None:
        """Find the greatest name that is stored."""
        least = np.iinfo(np.int64).min
        self._last = (int(least) - 1, 0)
        for episodes, steps in self._stored():
            if len(episodes):
                greatest = episodes.max()
                self._last = max(self._last, (int(greatest), int(steps[episodes == greatest].max())))

    def _take_runs(self, episodes: Array, steps: Array) -> None:
        if self._runs is None:
            self._runs = {}
            for there, at in self._stored():
                for run in _runs(there, at, refuse=False):
                    _join(self._runs.setdefault(run[0], []), *run[1:])
        new = list(_runs(episodes, steps, refuse=True))
        for episode, begin, end in new:
            if (step := _common(self._runs.get(episode, []), begin, end)) is not None:
                raise DatasetError(REPEATED.format(episode=episode, step=step))
        for episode, begin, end in new:
            _join(self._runs.setdefault(episode, []), begin, end)


def _ascend(episodes: Array, steps: Array) -> bool:
    """Return whether names ascend, each greater than the one before."""
    before, after = episodes[:-1], episodes[1:]
    return 0 not in ((after > before) | ((after == before) & (steps[1:] > steps[:-1]))).tobytes()


def _runs(episodes: Array, steps: Array, *, refuse: bool) -> Iterable[tuple[int, int, int]]:
    """Yield names as runs of consecutive steps: episode, first step, end.

    Raises:
        DatasetError: One is there twice, and `refuse` says that this is wrong.
    """
    if not len(episodes):
        return
    order = np.lexsort((steps, episodes))
    episodes, steps = episodes[order], steps[order]
    same = episodes[1:] == episodes[:-1]
    twice = same & (steps[1:] == steps[:-1])
    if twice.any():
        if refuse:
            at = int(np.argmax(twice))
            raise DatasetError(REPEATED.format(episode=episodes[at], step=steps[at]))
        kept = np.concatenate([[True], ~twice])
        episodes, steps = episodes[kept], steps[kept]
        same = episodes[1:] == episodes[:-1]
    begins = np.flatnonzero(np.concatenate([[True], ~(same & (steps[1:] == steps[:-1] + 1))]))
    ends = np.concatenate([begins[1:], [len(steps)]]) - 1
    yield from zip(episodes[begins].tolist(), steps[begins].tolist(), (steps[ends] + 1).tolist(), strict=True)


def _common(runs: list[int], begin: int, end: int) -> int | None:
    """Return the first step that a run has in common with those there are."""
    at = bisect_right(runs, begin)
    if at % 2:
        return begin
    return runs[at] if at < len(runs) and runs[at] < end else None


def _join(runs: list[int], begin: int, end: int) -> None:
    """Add a run; what it has in common with those there are is there once."""
    if runs and runs[-1] == begin:  # the next step of an episode
        runs[-1] = end
        return
    low, high = bisect_right(runs, begin - 1), bisect_right(runs, end)
    runs[low:high] = ([begin] if low % 2 == 0 else []) + ([end] if high % 2 == 0 else [])
