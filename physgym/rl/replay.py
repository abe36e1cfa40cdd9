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
from physgym.rl.recorded_code import RecordedCode
from physgym.rl.replay_files import ReplayFiles
from physgym.rl.replay_rows import CurrentEpisodes, ReplayRows
from physgym.rl.transition_log import Columns, described_spaces, transition_fields
from physgym.spaces import Array

if TYPE_CHECKING:
    from physgym.rl.transitions import Transitions

EVERY = 10_000  # rows of a file at most
FILES = 20  # of a bounded replay, about
LEAST = 250  # rows of a file, unless that is more than a quarter of all
TOGETHER = 512  # rows that are handed to the disk at once,
PATIENCE = 0.5  # at the latest after so many seconds


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
        every: Rows of a file; by default a twentieth of those that can be drawn, 10,000 at most, or as before where
            it is resumed.
        infos: Names of infos to keep.
        source: JSON data that says where the samples come from.
        code: The code of the environments; None records nothing of it.
        resume: The position to continue from, as `position` gave it.

    Attributes:
        capacity: As given.
        every: Rows of a file.
        infos: As given.
        observation: How observations become fields.
        action: How actions do.

    Raises:
        ConfigError: An argument is wrong.
        DatasetError: The folder holds a recording, and `resume` is not given; or it ends before the position.
        ChangedCode: What is continued was recorded of other code.
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
        code: RecordedCode | None = None,
        resume: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(infos, str):
            raise ConfigError(f"infos are a list of names, not the text {infos!r}")
        self.capacity = None if capacity is None else integer("capacity", capacity, 1)
        limit = integer("most", most, 1) if self.capacity is None else self.capacity
        usual = max(1, min(EVERY, max(limit // FILES, min(limit // 4, LEAST))))
        if every is None:  # the files that are there stay as they are, though a longer training would have larger ones
            self.every = int((resume or {}).get("every", usual))
        else:
            self.every = integer("every", every, 1, limit)
        self.infos = tuple(infos)
        self.observation, self.action = Columns(OBSERVATION, observation_space), Columns(ACTION, action_space)
        self._rows = ReplayRows((-(-limit // self.every) + 1) * self.every, integer("stack", stack, 1))
        self._current = CurrentEpisodes(num_envs)
        self._handed = 0  # rows that the disk was given
        self._due = time.monotonic()
        self._files = None
        if path is not None:
            self._files = ReplayFiles(
                Path(path),
                every=self.every,
                bounded=capacity is not None,
                source=dict(source or {}),
                attributes=described_spaces(observation_space, action_space),
                code=code,
                resume=resume is not None,
            )
        if resume is not None:
            self._resume(resume)

    # --- what there is

    @property
    def rows(self) -> int:
        """Return how many rows there were, those that are forgotten included."""
        return self._rows.end

    @property
    def first(self) -> int:
        """Return the first row that can be drawn."""
        return self._rows.first

    def __len__(self) -> int:
        """Return how many transitions can be drawn."""
        return len(self._rows)

    @property
    def position(self) -> dict[str, Any]:
        """Return where it is, as data for a checkpoint; `commit` before it is saved."""
        return {"rows": self.rows, "capacity": self.capacity, "every": self.every, **self._current.position}

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
        self._current.begin(environments, numbers, seeds)

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
        if self._rows.spec is None:
            kept = {name: value for name, value in given.items() if name.startswith(f"{INFO}/")}
            self._rows.make(transition_fields(self.observation, self.action, kept))
        columns, places = self._rows.columns, self._rows.append(self._current, environments)
        for name, values in given.items():
            columns[name][places] = values if environments is None else values[environments]
        columns[ACTED][places] = True
        self._appended()

    def end(self, environments: Array, last: Mapping[str, Array]) -> None:
        """Take the last observations of the episodes of some environments, which are left then.

        Args:
            environments: Which ones, shape (n,), ascending.
            last: The observations by field, shape (n, *shape).
        """
        there = np.flatnonzero(self._current.last[environments] >= 0)  # an episode without a step leaves nothing
        if len(there):
            places = self._rows.append(self._current, environments[there])
            for name in self._rows.spec or ():
                self._rows.columns[name][places] = last[name][there] if name in last else 0
        self._current.last[environments] = -1
        self._appended()

    # --- the disk

    def _appended(self) -> None:
        """Forget what is too old, and hand rows to the disk now and then."""
        self._rows.first = self._first_of(self.rows)
        waiting = self.rows - self._handed
        if waiting >= min(TOGETHER, self.every) or self.catching_up or (waiting and time.monotonic() >= self._due):
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
            part = self._rows.part(self._handed)
            _check_finite(part)
            if self._files is not None and self._rows.spec is not None:
                self._files.take(self._rows.spec, part, self._handed)
            self._handed += len(part[ACTED])

    def commit(self) -> None:
        """Bring all rows to the disk, so that a checkpoint may rely on them."""
        self.flush()
        if self._files is not None:
            self._files.commit()

    def forget(self, positions: Sequence[Mapping[str, Any]]) -> None:
        """Delete files that nothing needs any more, of a bounded replay.

        Args:
            positions: Those of the checkpoints that are kept; what can be drawn now is needed anyway.
        """
        if self._files is not None:
            needed = [self._first_of(int(one["rows"])) for one in positions]
            self._files.drop_before(min([self.first, *needed]))

    def take_stored(self) -> int:
        """Continue after all that the recording has, in place of what was taken since; episodes start again.

        Returns:
            The number after that of the last episode.
        """
        names = np.zeros(0, np.int64)
        if self._files is not None:
            self._load(self._handed, max(self._files.stored, self._handed))
            names = self._files.episodes()
        self._current.leave()
        later = self._current.names["episode"].max(initial=-1)
        return int(max(names.max(initial=-1), later)) + 1

    def _resume(self, position: Mapping[str, Any]) -> None:
        rows, files = int(position["rows"]), self._files
        for name in ("capacity", "every") if rows else ():
            if position[name] != (now := getattr(self, name)):
                raise ConfigError(f"the replay had {name} {position[name]}, now it is {now}; set it as it was")
        if files is None:
            raise ConfigError("a replay that is in memory alone cannot be resumed; give it a path")
        files.check(rows)
        if rows:
            self._load(self._first_of(rows), rows)
            self._current.resume(position)

    def _load(self, start: int, stop: int) -> None:
        """Read rows from the disk to their places; they are the last ones then."""
        assert self._files is not None
        rows = self._rows
        rows.end = self._handed = stop
        rows.first = self._first_of(stop)
        if rows.spec is None and stop > start:
            rows.make(self._files.spec)
        for begin, part in self._files.read(max(start, rows.first), stop):
            rows.put(begin, part)
        if rows.spec is not None:
            rows.find_neighbours()

    def _first_of(self, rows: int) -> int:
        """Return the first row that can be drawn where there were so many: whole files of older ones are left out."""
        return 0 if self.capacity is None else max(0, -(-(rows - self.capacity) // self.every) * self.every)

    def close(self) -> None:
        """Complete the recording; calling it again does no harm."""
        if self._files is not None:
            try:
                self.flush()
            finally:
                self._files.close()

    # --- drawing

    def sample(self, count: int, generator: np.random.Generator, gamma: float) -> Transitions:
        """Draw transitions with equal chances, with replacement.

        Args:
            count: How many.
            generator: What they are drawn with.
            gamma: Factor of the value of the next observation where the episode continues.

        Raises:
            ConfigError: There are none yet.
        """
        import torch

        from physgym.rl.transitions import Transitions

        rows = self._rows.draw(count, generator)
        columns, places = self._rows.columns, rows % self._rows.size
        now, later = self._rows.observations(rows, [leaf.path for leaf in self.observation.leaves])
        action = columns[self.action.leaves[0].path][places]
        discount = np.where(columns[FLAGS[0]][places] == 0, np.float32(gamma), np.float32(0))
        return Transitions(
            {name: torch.from_numpy(value) for name, value in now.items()},
            torch.from_numpy(action if action.dtype.kind == "f" else action.astype(np.int64, copy=False)),
            torch.from_numpy(columns[REWARD][places].astype(np.float32)),
            {name: torch.from_numpy(value) for name, value in later.items()},
            torch.from_numpy(discount),
        )


def _check_finite(part: Mapping[str, Array]) -> None:
    for name, values in part.items():
        if values.dtype.kind in "fc" and not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values.reshape(len(values), -1)).all(1)))
            raise SampleError(
                f"{name} is not finite in episode {part['index/episode'][row]}, step {part['index/step'][row]} "
                f"(environment {part['index/env'][row]}); an agent would learn from that. Let the environment "
                "terminate the episode before"
            )
