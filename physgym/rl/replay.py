"""`Replay`: the transitions that an agent learns from, stored as a recording and drawn by index."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from physgym.checks import integer
from physgym.data.recordings import ACTED, ACTION, FLAGS, INFO, OBSERVATION, REWARD
from physgym.errors import ConfigError, SampleError
from physgym.rl.replay_files import ReplayFiles
from physgym.rl.transition_log import Columns, transition_fields
from physgym.sample import SampleSpec
from physgym.spaces import Array

if TYPE_CHECKING:
    from physgym.rl.transitions import Transitions

EVERY = 10_000  # rows of a file at most
FILES = 20  # of a bounded replay, about
LEAST = 250  # rows of a file, unless that is more than a quarter of all
TOGETHER = 512  # rows that are handed to the disk at once,
PATIENCE = 0.5  # at the latest after so many seconds
NAMES = {"episode": np.int64, "step": np.int64, "seed": np.uint64, "env": np.int32}


class Replay:
    """The steps of several environments: in memory as long as they can be drawn, on the disk as a recording.

    A row holds an observation, the action that was chosen there, and what followed; an episode ends with a row of its
    last observation, see `physgym.Recorder`. So every observation is stored once. Stacks are made when they are drawn;
    at the beginning of an episode its first observation is repeated.

    What is drawn is a function of the generator and of the rows that there are, and not of what the disk has already.

    A bounded replay forgets whole files of its oldest rows. The files themselves go with `forget`, once nothing needs
    them, and its description says before that they will.

    Args:
        path: Folder of the recording; None to keep it in memory alone.
        observation_space: Space of a single environment, as it is stored: without stacks.
        action_space: Space of a single environment, `Discrete` or `Box`.
        num_envs: How many environments there are.
        capacity: Rows that can be drawn at most; the files of older ones may be deleted. None keeps all.
        most: Rows that there will be at most, where all are kept.
        stack: Observations of a stack; 1 for none.
        every: Rows of a file; by default a twentieth of those that can be drawn, 10,000 at most.
        infos: Names of infos to keep.
        source: JSON data that says where the samples come from.
        resume: The position to go on from, as `position` gave it.

    Attributes:
        rows: How many rows there were, those that are forgotten included.
        capacity: As given.

    Raises:
        ConfigError: An argument is wrong.
        DatasetError: The folder holds a recording, and `resume` is not given; or it ends before the position.
    """

    def __init__(
        self,
        path: str | Path | None,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        num_envs: int,
        *,
        capacity: int | None,
        most: int = 0,
        stack: int = 1,
        every: int | None = None,
        infos: Sequence[str] = (),
        source: Mapping[str, Any] | None = None,
        resume: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(infos, str):
            raise ConfigError(f"infos are a list of names, not the text {infos!r}")
        self.capacity = None if capacity is None else integer("capacity", capacity, 1)
        limit = integer("most", most, 1) if self.capacity is None else self.capacity
        self.stack, self.infos = integer("stack", stack, 1), tuple(infos)
        usual = max(1, min(EVERY, max(limit // FILES, min(limit // 4, LEAST))))
        self.every = usual if every is None else integer("every", every, 1, limit)
        self.observation, self.action = Columns(OBSERVATION, observation_space), Columns(ACTION, action_space)
        self._size = (-(-limit // self.every) + 1) * self.every  # places, of which rows take the next free one
        self.rows = 0
        self._last = np.full(num_envs, -1, np.int64)  # the last row of each environment's episode; -1 without one
        self._names = {name: np.zeros(num_envs, dtype) for name, dtype in NAMES.items() if name != "env"}
        self._steps = np.zeros(num_envs, np.int64)
        self._environments = np.arange(num_envs, dtype=np.int32)
        self._columns: dict[str, Array] = {}  # shape (places, *shape)
        self._back = np.zeros(self._size, np.int32)  # rows to the one before in the episode, 0 for its first one
        self._ahead = np.zeros(self._size, np.int32)  # rows to the next one in the episode, 0 as long as there is none
        self._handed = 0  # rows that the disk was given
        self._together = min(TOGETHER, self.every)
        self._due = time.monotonic()
        self._files = None
        if path is not None:
            self._files = ReplayFiles(
                Path(path),
                every=self.every,
                bounded=capacity is not None,
                source=dict(source or {}),
                resume=resume is not None,
            )
        if resume is not None:
            self._resume(resume)

    # --- what there is

    @property
    def first(self) -> int:
        """Return the first row that can be drawn."""
        return first_of(self.rows, self.capacity, self.every)

    def __len__(self) -> int:
        """Return how many transitions can be drawn."""
        rows = np.arange(self.first, self.rows)
        return int(np.count_nonzero(self._drawable(rows, rows % self._size))) if len(rows) else 0

    @property
    def position(self) -> dict[str, Any]:
        """Return where it is, as data for a checkpoint; `commit` before it is saved."""
        return {
            "rows": self.rows,
            "capacity": self.capacity,
            "every": self.every,
            "last": self._last.tolist(),
            "steps": self._steps.tolist(),
            **{name: values.tolist() for name, values in self._names.items() if name != "step"},
        }

    @property
    def catching_up(self) -> bool:
        """Return whether the rows to come are on the disk already, from a run that was killed."""
        return self._files is not None and self._handed < self._files.stored

    # --- writing

    def begin(self, environments: Array, numbers: Array, seeds: Sequence[int]) -> None:
        """Begin an episode in some environments.

        Args:
            environments: Which ones, shape (n,).
            numbers: Of the episodes, shape (n,).
            seeds: Of the episodes.
        """
        self._last[environments], self._steps[environments] = -1, 0
        self._names["episode"][environments] = numbers
        self._names["seed"][environments] = np.asarray(seeds, np.uint64)

    def add(
        self,
        environments: Array | None,
        before: Mapping[str, Array],
        actions: Array,
        rewards: Array,
        terminated: Array,
        truncated: Array,
        infos: Mapping[str, Array] | None = None,
    ) -> None:
        """Take a step of some environments.

        Args:
            environments: Which ones, shape (n,), ascending; None for all.
            before: Observations before the step, by field, shape (num_envs, *shape), as all that follows.
            actions: What was applied, shape (num_envs, *shape).
            rewards: Shape (num_envs,).
            terminated: Shape (num_envs,).
            truncated: Shape (num_envs,).
            infos: Values of the infos to keep, by name.

        Raises:
            SampleError: A value is not finite.
            ReplayDiffers: A row is another one than the recording has from a run that was killed.
            DatasetError: The disk refuses.
        """
        given = {REWARD: rewards, FLAGS[0]: terminated, FLAGS[1]: truncated, **before}
        given[self.action.leaves[0].path] = actions
        for name in self.infos:
            given[f"{INFO}/{name}"] = (infos or {})[name]
        if not self._columns:
            self._make(given)
        chosen = self._environments if environments is None else self._environments[environments]
        places = self._append(chosen, None if environments is None else environments)
        for name, values in given.items():
            self._columns[name][places] = values if environments is None else values[environments]
        self._columns[ACTED][places] = True
        self._hand_over()

    def end(self, environments: Array, last: Mapping[str, Array]) -> None:
        """Take the last observations of the episodes of some environments, which are left then.

        Args:
            environments: Which ones, shape (n,), ascending.
            last: The observations by field, shape (n, *shape).
        """
        there = np.flatnonzero(self._last[environments] >= 0)  # an episode without a step leaves nothing
        if len(there):
            ended = environments[there]
            places = self._append(self._environments[ended], ended)
            for name in self._spec:
                self._columns[name][places] = last[name][there] if name in last else 0
        self._last[environments] = -1
        self._hand_over()

    def _append(self, chosen: Array, environments: Array | None) -> Any:
        """Give rows the next places, with their names and neighbours; return the places."""
        count, start = len(chosen), self.rows
        place = start % self._size
        rows = np.arange(start, start + count)
        places: Any = slice(place, place + count) if place + count <= self._size else rows % self._size
        where: Any = slice(None) if environments is None else environments
        last = self._last[where]
        far = rows - last
        going_on = last >= 0
        if going_on.all():
            self._back[places] = far
            self._ahead[last % self._size] = far
        else:
            self._back[places] = np.where(going_on, far, 0)
            self._ahead[last[going_on] % self._size] = far[going_on]
        self._ahead[places] = 0
        self._last[where] = rows
        columns = self._columns
        columns["index/episode"][places], columns["index/seed"][places] = (
            self._names[name][where] for name in ("episode", "seed")
        )
        columns["index/step"][places], columns["index/env"][places] = self._steps[where], chosen
        self._steps[where] += 1
        self.rows = start + count
        return places

    def _make(self, given: Mapping[str, Array]) -> None:
        """Make the columns, with the infos in the form that they have now."""
        infos = {name: value for name, value in given.items() if name.startswith(f"{INFO}/")}
        self._take_spec(transition_fields(self.observation, self.action, infos))

    def _take_spec(self, spec: SampleSpec) -> None:
        self._spec = spec
        self._columns = {name: np.zeros((self._size, *field.shape), field.dtype) for name, field in spec.items()}
        self._columns |= {f"index/{name}": np.zeros(self._size, dtype) for name, dtype in NAMES.items()}

    # --- the disk

    def _hand_over(self) -> None:
        waiting = self.rows - self._handed
        if waiting >= self._together or self.catching_up or (waiting and time.monotonic() >= self._due):
            self.flush()

    def flush(self) -> None:
        """Hand all rows to the disk.

        Raises:
            SampleError: A value is not finite.
            ReplayDiffers: A row is another one than the recording has already.
            DatasetError: The disk refuses.
        """
        self._due = time.monotonic() + PATIENCE
        while self._handed < self.rows:
            start = self._handed % self._size
            count = min(self.rows - self._handed, self._size - start)
            part = {name: column[start : start + count] for name, column in self._columns.items()}
            self._check_finite(part)
            if self._files is not None:
                self._files.take(self._spec, part, self._handed, count)
            self._handed += count

    def commit(self) -> None:
        """Bring all rows to the disk, so that a checkpoint may rely on them."""
        self.flush()
        if self._files is not None:
            self._files.commit()

    def _check_finite(self, part: Mapping[str, Array]) -> None:
        for name, values in part.items():
            if values.dtype.kind in "fc" and not np.isfinite(values).all():
                row = int(np.argmin(np.isfinite(values.reshape(len(values), -1)).all(1)))
                raise SampleError(
                    f"{name} is not finite in episode {part['index/episode'][row]}, step {part['index/step'][row]} "
                    f"(environment {part['index/env'][row]}); an agent would learn from that. Let the environment "
                    "terminate the episode before"
                )

    def forget(self, positions: Sequence[Mapping[str, Any]]) -> None:
        """Delete files that nothing needs any more, of a bounded replay.

        Args:
            positions: Those of the checkpoints that are kept; what can be drawn now is needed anyway.
        """
        if self._files is not None:
            needed = [first_of(int(one["rows"]), self.capacity, self.every) for one in positions]
            self._files.drop_before(min([self.first, *needed]))

    def take_stored(self) -> int:
        """Go on after all that the recording has, in place of what was taken since; episodes begin anew.

        Returns:
            The number after that of the last episode.
        """
        assert self._files is not None
        self.rows = self._handed
        self._load(self._handed, self._files.stored)
        self._last[:] = -1
        self._steps[:] = 0
        names = self._files.episodes()
        return int(names.max()) + 1 if len(names) else 0

    def _resume(self, position: Mapping[str, Any]) -> None:
        rows, files = int(position["rows"]), self._files
        for name in ("capacity", "every") if rows else ():
            if position[name] != (now := getattr(self, name)):
                raise ConfigError(f"the replay had {name} {position[name]}, now it is {now}; set it as it was")
        if files is None:
            raise ConfigError("a replay that is in memory alone cannot be resumed; give it a path")
        files.check(rows)
        if not rows:
            return
        self._load(first_of(rows, self.capacity, self.every), rows)
        self._last[:], self._steps[:] = position["last"], position["steps"]
        for name, values in self._names.items():
            if name != "step":
                values[:] = position[name]

    def _load(self, start: int, stop: int) -> None:
        """Read rows from the disk to their places."""
        assert self._files is not None
        self.rows = self._handed = stop
        if stop == start:
            return
        if not self._columns:
            self._take_spec(self._files.spec)
        for begin, part in self._files.read(max(start, self.first), stop):
            places = np.arange(begin, begin + len(part["index/step"])) % self._size
            for name, values in part.items():
                self._columns[name][places] = values
        self._find_neighbours()

    def _find_neighbours(self) -> None:
        """Find the row before and the next one in the episode, of all rows that can be drawn."""
        rows = np.arange(self.first, self.rows)
        places = rows % self._size
        episodes, steps = self._columns["index/episode"][places], self._columns["index/step"][places]
        order = np.lexsort((steps, episodes))
        mine, same = rows[order], np.diff(episodes[order]) == 0
        far = np.diff(mine)
        # an episode whose first rows are gone has some before, which cannot be drawn
        self._back[places] = np.where(steps > 0, rows - self.first + 1, 0)
        self._ahead[places] = 0
        self._back[mine[1:][same] % self._size] = far[same]
        self._ahead[mine[:-1][same] % self._size] = far[same]

    def close(self) -> None:
        """Complete the recording; calling it again does no harm."""
        if self._files is not None:
            try:
                self.flush()
            finally:
                self._files.close()

    # --- drawing

    def sample(self, count: int, generator: np.random.Generator, gamma: float) -> Transitions:
        """Draw transitions uniformly, with replacement.

        Args:
            count: How many.
            generator: What they are drawn with.
            gamma: Factor of the value of the next observation where the episode goes on.

        Raises:
            ConfigError: There are none yet.
        """
        import torch

        from physgym.rl.transitions import Transitions

        rows = self._draw(count, generator)
        places = rows % self._size
        columns = self._columns
        following = (rows + self._ahead[places]) % self._size
        now, later = self._observations(rows, places, following)
        reward = columns[REWARD][places].astype(np.float32)
        goes_on = columns[FLAGS[0]][places] == 0
        discount = np.where(goes_on, np.float32(gamma), np.float32(0))
        action = columns[self.action.leaves[0].path][places]
        return Transitions(
            {name: torch.from_numpy(value) for name, value in now.items()},
            torch.from_numpy(action if action.dtype.kind == "f" else action.astype(np.int64, copy=False)),
            torch.from_numpy(reward),
            {name: torch.from_numpy(value) for name, value in later.items()},
            torch.from_numpy(discount),
        )

    def _draw(self, count: int, generator: np.random.Generator) -> Array:
        """Draw rows whose transitions are complete, shape (count,)."""
        first, end = self.first, self.rows
        if end <= first:
            raise ConfigError("the replay has no transition to draw yet; act first")
        rows = generator.integers(first, end, count)
        wrong = np.flatnonzero(~self._drawable(rows, rows % self._size))
        while len(wrong):
            if not len(self):
                raise ConfigError("the replay has no complete transition to draw yet; act first")
            again = generator.integers(first, end, len(wrong))
            rows[wrong] = again
            wrong = wrong[~self._drawable(again, again % self._size)]
        return rows

    def _drawable(self, rows: Array, places: Array) -> Array:
        """Return which rows have an action and a next row, and all rows of their stack."""
        good: Array = self._columns[ACTED][places] & (self._ahead[places] > 0)
        before = rows
        for _ in range(self.stack - 1):
            before = before - self._back[before % self._size]
            good &= before >= self.first
            before = np.maximum(before, self.first)
        return good

    def _observations(self, rows: Array, places: Array, following: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return stacks before and after the action of rows."""
        names = [leaf.path for leaf in self.observation.leaves]
        if self.stack == 1:
            both = np.concatenate([places, following])
            found = {name: self._columns[name].take(both, axis=0) for name in names}
            count = len(rows)
            return {n: v[:count] for n, v in found.items()}, {n: v[count:] for n, v in found.items()}
        frames = np.empty((len(rows), self.stack + 1), np.int64)
        frames[:, -1], frames[:, -2] = following, places
        before = rows
        for column in range(self.stack - 2, -1, -1):
            before = before - self._back[before % self._size]
            frames[:, column] = before % self._size
        found = {name: self._columns[name].take(frames, axis=0) for name in names}
        return {n: v[:, :-1] for n, v in found.items()}, {n: v[:, 1:] for n, v in found.items()}


def first_of(rows: int, capacity: int | None, every: int) -> int:
    """Return the first row that can be drawn where there were so many: whole files of older ones are left out."""
    return 0 if capacity is None else max(0, -(-(rows - capacity) // every) * every)
