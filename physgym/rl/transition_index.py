"""`TransitionIndex`: which rows of recorded episodes are transitions, and of which rows stacks of frames are made."""

from __future__ import annotations

import numpy as np

from physgym.checks import integer
from physgym.spaces import Array

MISSING = -1  # in place of a row that there is not


class TransitionIndex:
    """Transitions among rows of episodes that hold each observation once, as a `Recorder` writes them.

    A row is a transition if an action was applied there and the row of the next step is there. Where the episode
    terminated, nothing is learned from the next observation, and the row stands in for a missing one. A stack starts
    again at a reset: the first frame is repeated. A row whose stack would reach over a step that is not there, such as
    a rejected one, is no transition.

    Args:
        episodes: Number of each row's episode, shape (rows,).
        steps: Its step within that, shape (rows,).
        acted: Whether an action was applied there, shape (rows,), bool.
        terminated: Whether the episode terminated with that, shape (rows,), bool.
        stack: Frames of an observation.
        next_stored: Whether rows hold the next observation themselves, as those of a `RecordTransition`.

    Attributes:
        stack: Frames of an observation.
        rows: The rows that are transitions, ascending, shape (transitions,), int64.

    Raises:
        ConfigError: The stack is no positive integer.
    """

    def __init__(
        self,
        episodes: Array,
        steps: Array,
        acted: Array,
        terminated: Array,
        *,
        stack: int = 1,
        next_stored: bool = False,
    ) -> None:
        self.stack = integer("stack", stack, 1)
        self._next_stored = next_stored
        order = np.lexsort((steps, episodes))
        follows = np.flatnonzero((np.diff(episodes[order]) == 0) & (np.diff(steps[order]) == 1))
        self._before, self._after = np.full((2, len(order)), MISSING)  # rows of the steps before and after
        self._before[order[follows + 1]] = order[follows]
        self._after[order[follows]] = order[follows + 1]
        begins = np.flatnonzero(steps == 0)
        self._before[begins] = begins
        self.rows: Array = np.flatnonzero(acted & (terminated | next_stored | (self._after != MISSING)))
        if stack > 1:
            self.rows = self.rows[(self.frames(self.rows) != MISSING).all(1)]

    def __len__(self) -> int:
        return len(self.rows)

    def frames(self, rows: Array) -> Array:
        """Return the rows of the frames of transitions, shape (n, stack + 1), int64.

        The first ones, without the last, are the stack of the observation; without the first one they are that of the
        next observation. Where rows hold the next observation themselves, the last one is the row again.

        Args:
            rows: Rows that are transitions, shape (n,).
        """
        found = np.empty((len(rows), self.stack + 1), np.int64)
        after = self._after[rows]
        found[:, -2] = rows
        found[:, -1] = rows if self._next_stored else np.where(after == MISSING, rows, after)
        for place in range(self.stack - 2, -1, -1):
            later = found[:, place + 1]
            found[:, place] = np.where(later == MISSING, MISSING, self._before[later])
        return found
