"""`TransitionIndex`: which rows of recorded episodes are transitions, and of which rows stacks of frames are made."""

from __future__ import annotations

from typing import Any

import numpy as np

from physgym.checks import integer
from physgym.spaces import Array

MISSING = -1  # in place of a row that there is not


class _Column:
    """An array that grows at its end, and loses rows at its beginning.

    Args:
        dtype: Of its values.
    """

    def __init__(self, dtype: Any) -> None:
        self._memory: Array = np.empty(64, dtype)
        self._begin = self._end = 0

    @property
    def values(self) -> Array:
        """Return the values as a view."""
        return self._memory[self._begin : self._end]

    def __len__(self) -> int:
        return self._end - self._begin

    def extend(self, values: Array) -> None:
        if self._end + len(values) > len(self._memory):
            kept = self.values
            larger = np.empty(max(2 * len(kept) + len(values), 64), self._memory.dtype)
            larger[: len(kept)] = kept
            self._memory, self._begin, self._end = larger, 0, len(kept)
        self._memory[self._end : self._end + len(values)] = values
        self._end += len(values)

    def drop(self, count: int) -> None:
        self._begin += count


class TransitionIndex:
    """Transitions among rows of episodes that hold each observation once, as a `Recorder` writes them.

    A row is a transition if an action was applied there and the row of the next step is known. Where the episode
    terminated there, nothing is learned from the next observation, and the row stands in for a missing one. A stack
    begins anew at a reset: the first frame is repeated. A row whose stack would reach over a step that is not there (it
    was rejected, or dropped with the oldest rows) is no transition.

    The order of the transitions depends on the rows alone, not on the portions in which they came.

    Args:
        stack: Frames of an observation.
        next_stored: Whether rows hold the next observation themselves, as those of a `RecordTransition`.

    Raises:
        ConfigError: The stack is no positive integer.
    """

    def __init__(self, stack: int = 1, *, next_stored: bool = False) -> None:
        self.stack = integer("stack", stack, 1)
        self.next_stored = next_stored
        self._before, self._after = _Column(np.int64), _Column(np.int64)  # rows of the steps before and after
        self._waiting = _Column(np.bool_)  # whether a row becomes a transition with the next row
        self._transitions = _Column(np.int64)
        self._first = 0  # the oldest row that is kept
        self._last: dict[int, tuple[int, int]] = {}  # row and step of the last row of each episode that goes on

    def __len__(self) -> int:
        return len(self._transitions)

    @property
    def rows(self) -> Array:
        """Return the rows that are transitions, shape (len(self),), int64, in the order in which they became such."""
        return self._transitions.values

    @property
    def count(self) -> int:
        """Return how many rows there were, the dropped ones included."""
        return self._first + len(self._before)

    def extend(self, episodes: Array, steps: Array, acted: Array, terminated: Array) -> None:
        """Take in further rows; those of an episode that came before have lower steps.

        Args:
            episodes: Number of each row's episode, shape (n,).
            steps: Its step within that, shape (n,).
            acted: Whether an action was applied there, shape (n,), bool.
            terminated: Whether the episode terminated with that, shape (n,), bool.
        """
        rows = self.count + np.arange(len(episodes))
        before = self._rows_before(rows, np.asarray(episodes), np.asarray(steps), acted)
        complete = np.asarray(terminated, np.bool_) | self.next_stored  # needs no next row
        self._before.extend(before)
        self._after.extend(np.full(len(rows), MISSING))
        self._waiting.extend(acted & ~complete)
        linked = np.flatnonzero((before != MISSING) & (before != rows))
        places = before[linked] - self._first
        self._after.values[places] = rows[linked]
        followed = linked[self._waiting.values[places]]
        ready = rows[acted & complete]
        found = np.concatenate([ready, before[followed]])
        known_with = np.concatenate([ready, rows[followed]])
        self._transitions.extend(self._whole(found[np.lexsort((found, known_with))]))

    def drop(self, first: int) -> None:
        """Forget the rows before one of them.

        Args:
            first: Number of the first row that stays.
        """
        gone = min(first, self.count) - self._first
        if gone <= 0:
            return
        for column in (self._before, self._after, self._waiting):
            column.drop(gone)
        self._first += gone
        self._before.values[self._before.values < self._first] = MISSING
        kept = self._whole(self.rows[self.rows >= self._first])
        self._transitions = _Column(np.int64)
        self._transitions.extend(kept)

    def frames(self, rows: Array) -> Array:
        """Return the rows of the frames of transitions, shape (n, stack + 1), int64.

        The first ones, without the last, are the stack of the observation; without the first one they are that of the
        next observation. Where rows hold the next observation themselves, the last one is the row again.

        Args:
            rows: Rows that are transitions, shape (n,).
        """
        found = np.empty((len(rows), self.stack + 1), np.int64)
        after = self._after.values[rows - self._first]
        found[:, -2] = rows
        found[:, -1] = rows if self.next_stored else np.where(after == MISSING, rows, after)
        for place in range(self.stack - 2, -1, -1):
            later = found[:, place + 1]
            # what is missing stays so: the row 0 before it is looked at and not taken
            before = self._before.values[np.maximum(later - self._first, 0)]
            found[:, place] = np.where(later == MISSING, MISSING, before)
        return found

    def _whole(self, rows: Array) -> Array:
        """Return the rows whose stack is complete."""
        if self.stack == 1:
            return rows
        whole: Array = rows[(self.frames(rows) != MISSING).all(1)]
        return whole

    def _rows_before(self, rows: Array, episodes: Array, steps: Array, acted: Array) -> Array:
        """Return the row of the step before each; the row itself at the beginning of an episode."""
        order = np.lexsort((steps, episodes))
        episode, step, row = episodes[order], steps[order], rows[order]
        same = episode[1:] == episode[:-1]
        found = np.full(len(rows), MISSING)
        follows = np.flatnonzero(same & (step[1:] == step[:-1] + 1))
        found[order[follows + 1]] = row[follows]
        heads = np.concatenate([[0], np.flatnonzero(~same) + 1]) if len(rows) else np.empty(0, np.int64)
        tails = np.append(heads[1:] - 1, len(rows) - 1) if len(rows) else heads
        for head, tail in zip(heads.tolist(), tails.tolist(), strict=True):
            number = int(episode[head])
            last, last_step = self._last.get(number, (MISSING, MISSING))
            if last >= self._first and last_step + 1 == step[head]:
                found[order[head]] = last
            if acted[order[tail]]:
                self._last[number] = int(row[tail]), int(step[tail])
            else:  # the last observation of the episode
                self._last.pop(number, None)
        begins = steps == 0
        found[begins] = rows[begins]
        return found
