"""The names of samples, episode and step, that a dataset has; none is given twice."""

from __future__ import annotations

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
        # equal bytes are found sooner than ascending numbers: those of consecutive steps, and of one episode's number
        self._steps = 0, b""  # the first one, and the bytes from it on
        self._episodes = 0, b""

    def forget(self) -> None:
        """Look the names up anew: not all that were taken are stored."""
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
                if self._consecutive(episodes, steps, episode, step, count):
                    self._last = episode, step + count - 1
                    return
                if _ascend(episodes, steps):
                    self._last = episodes.item(-1), steps.item(-1)
                    return
        self._take_runs(np.asarray(episodes, np.int64), np.asarray(steps, np.int64))

    def _consecutive(self, episodes: Array, steps: Array, episode: int, step: int, count: int) -> bool:
        """Return whether names are a step after the other of one episode, as far as that is seen at once."""
        if count > BLOCK or steps.dtype != INT64 or episodes.dtype != INT64 or step > GREATEST:
            return False
        size, (base, known) = WIDTH * count, self._steps
        first = WIDTH * (step - base)
        if first < 0 or first + size > len(known):
            first, known = 0, (np.arange(BLOCK) + step).tobytes()
            self._steps = step, known
        if steps.tobytes() != known[first : first + size]:
            return False
        number, known = self._episodes
        if episode != number or len(known) < size:
            known = episodes[:1].tobytes() * count
            self._episodes = episode, known
        return episodes.tobytes() == known[:size]

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
