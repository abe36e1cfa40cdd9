"""`ReplayRows`: the rows of a replay that are in memory, in places that take turns, and what is drawn of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from physgym.data.recordings import ACTED
from physgym.data.sizes import size_text
from physgym.errors import ConfigError
from physgym.sample import SampleSpec
from physgym.spaces import Array
from physgym.system.memory import available_memory

TRIES = 20  # to draw a complete transition, after which it is time to look whether there is one
NAMES = {"episode": np.int64, "step": np.int64, "seed": np.uint64, "env": np.int32}


class CurrentEpisodes:
    """The episodes that environments are in.

    Args:
        num_envs: How many environments there are.

    Attributes:
        last: The last row of each, shape (num_envs,); -1 where there is none.
        names: Number, seed and next step of each, and the environments, by name of the index.
    """

    def __init__(self, num_envs: int) -> None:
        self.last = np.full(num_envs, -1, np.int64)
        self.names = {name: np.zeros(num_envs, dtype) for name, dtype in NAMES.items()}
        self.names["env"][:] = np.arange(num_envs)

    def begin(self, environments: Array, numbers: Array, seeds: Sequence[int]) -> None:
        """Begin episodes in some environments."""
        self.last[environments], self.names["step"][environments] = -1, 0
        self.names["episode"][environments] = numbers
        self.names["seed"][environments] = np.asarray(seeds, np.uint64)

    def leave(self) -> None:
        """Leave all of them."""
        self.last[:], self.names["step"][:] = -1, 0

    @property
    def position(self) -> dict[str, Any]:
        """Return all of it as JSON data."""
        return {"last": self.last.tolist(), **{name: values.tolist() for name, values in self.names.items()}}

    def resume(self, position: Mapping[str, Any]) -> None:
        """Continue from what `position` gave."""
        self.last[:] = position["last"]
        for name, values in self.names.items():
            values[:] = position[name]


class ReplayRows:
    """Rows by their number; of each, how far the one before and the next one of its episode are.

    Args:
        size: Places; a row takes that of the row so many before it.
        stack: Observations of a stack.

    Attributes:
        size: As given.
        stack: As given.
        end: How many rows there were.
        first: The first row that can be drawn.
        spec: The fields, once there are some.
        columns: By field, and ``index/NAME``, shape (size, *shape).
    """

    def __init__(self, size: int, stack: int) -> None:
        self.size, self.stack, self.end, self.first = size, stack, 0, 0
        self.spec: SampleSpec | None = None
        self.columns: dict[str, Array] = {}
        self._back = np.zeros(size, np.int32)  # 0 for the first row of an episode
        self._ahead = np.zeros(size, np.int32)  # 0 as long as there is no next one

    def make(self, spec: SampleSpec) -> None:
        """Make the columns.

        Raises:
            ConfigError: They need more memory than there is.
        """
        needed, free = self.size * spec.nbytes, available_memory()
        if free is not None and needed > free:
            raise ConfigError(
                f"{self.size} rows of the replay need {size_text(needed)}, and {size_text(free)} of memory are free; "
                "lower the capacity, or make the observations smaller (preprocessing)"
            )
        self.spec = spec
        self.columns = {name: np.zeros((self.size, *field.shape), field.dtype) for name, field in spec.items()}
        self.columns |= {f"index/{name}": np.zeros(self.size, dtype) for name, dtype in NAMES.items()}

    def append(self, current: CurrentEpisodes, environments: Array | None) -> Any:
        """Give a row to some environments, with its name and its neighbours; return the places.

        Args:
            current: The episodes that they are in.
            environments: Which ones, shape (n,); None for all.
        """
        where: Any = slice(None) if environments is None else environments
        last, start, place = current.last[where], self.end, self.end % self.size
        count = len(last)
        rows = np.arange(start, start + count)
        places: Any = slice(place, place + count) if place + count <= self.size else rows % self.size
        far, going_on = rows - last, last >= 0
        if going_on.all():
            self._back[places] = far
            self._ahead[last % self.size] = far
        else:
            self._back[places] = np.where(going_on, far, 0)
            self._ahead[last[going_on] % self.size] = far[going_on]
        self._ahead[places] = 0
        current.last[where] = rows
        for name, values in current.names.items():
            self.columns[f"index/{name}"][places] = values[where]
        current.names["step"][where] += 1
        self.end = start + count
        return places

    def put(self, start: int, part: Mapping[str, Array]) -> None:
        """Put columns of rows that were read in their places.

        Args:
            start: The number of the first one.
            part: The columns, shape (n, *shape).
        """
        places = np.arange(start, start + len(part["index/step"])) % self.size
        for name, values in part.items():
            self.columns[name][places] = values

    def part(self, start: int) -> dict[str, Array]:
        """Return the columns of rows that follow one another, from one on, as views: as many as lie together."""
        place = start % self.size
        count = min(self.end - start, self.size - place)
        return {name: column[place : place + count] for name, column in self.columns.items()}

    def find_neighbours(self) -> None:
        """Find the row before and the next one in the episode, of all rows that can be drawn."""
        rows = np.arange(self.first, self.end)
        places = rows % self.size
        episodes, steps = self.columns["index/episode"][places], self.columns["index/step"][places]
        order = np.lexsort((steps, episodes))
        mine, same = rows[order], np.diff(episodes[order]) == 0
        far = np.diff(mine)
        # an episode whose first rows are gone has some before, which cannot be drawn
        self._back[places] = np.where(steps > 0, rows - self.first + 1, 0)
        self._ahead[places] = 0
        self._back[mine[1:][same] % self.size] = far[same]
        self._ahead[mine[:-1][same] % self.size] = far[same]

    # --- drawing

    def __len__(self) -> int:
        rows = np.arange(self.first, self.end)
        return int(np.count_nonzero(self._drawable(rows))) if len(rows) else 0

    def draw(self, count: int, generator: np.random.Generator) -> Array:
        """Draw rows whose transitions are complete, with equal chances; shape (count,).

        Raises:
            ConfigError: There are none.
        """
        if self.end <= self.first:
            raise ConfigError("the replay has no transition to draw yet; act first")
        rows = generator.integers(self.first, self.end, count)
        good = self._drawable(rows)
        if good.all():
            return rows
        wrong, tries = np.flatnonzero(~good), 0
        while len(wrong):
            tries += 1
            if tries % TRIES == 0 and not len(self):  # which looks at all rows
                raise ConfigError("the replay has no complete transition to draw yet; act first")
            again = generator.integers(self.first, self.end, len(wrong))
            rows[wrong] = again
            wrong = wrong[~self._drawable(again)]
        return rows

    def _drawable(self, rows: Array) -> Array:
        """Return which rows have an action and a next row, and all rows of their stack."""
        places = rows % self.size
        good: Array = self.columns[ACTED][places] & (self._ahead[places] > 0)
        before = rows
        for _ in range(self.stack - 1):
            before = before - self._back[before % self.size]
            good &= before >= self.first
            before = np.maximum(before, self.first)
        return good

    def observations(self, rows: Array, names: Sequence[str]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return observations before and after the action of rows, by field, stacked where there are stacks."""
        places = rows % self.size
        following = (rows + self._ahead[places]) % self.size
        if self.stack == 1:
            both, count = np.concatenate([places, following]), len(rows)
            found = {name: self.columns[name].take(both, axis=0) for name in names}
            return {n: v[:count] for n, v in found.items()}, {n: v[count:] for n, v in found.items()}
        frames = np.empty((len(rows), self.stack + 1), np.int64)  # (n, oldest to newest, and the next one)
        frames[:, -1], frames[:, -2] = following, places
        before = rows
        for column in range(self.stack - 2, -1, -1):
            before = before - self._back[before % self.size]
            frames[:, column] = before % self.size
        found = {name: self.columns[name].take(frames, axis=0) for name in names}
        return {n: v[:, :-1] for n, v in found.items()}, {n: v[:, 1:] for n, v in found.items()}
