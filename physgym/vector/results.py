"""The results of environments: where they are put as they arrive, and how they are handed out."""

from __future__ import annotations

import copy as copying
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym import spaces as walk
from physgym.checks import integer
from physgym.errors import ConfigError
from physgym.protocol.batched_infos import Infos
from physgym.protocol.buffers import SLOTS, Arena, Slot
from physgym.protocol.messages import Results
from physgym.spaces import Array
from physgym.vector.workers import Worker
from physgym.worker.stepping import RESTARTED


def check_buffers(buffers: int, *, copy: bool, on_error: str) -> None:
    """Check how many buffers of observations take turns.

    Args:
        buffers: How many.
        copy: Whether observations are handed out as copies.
        on_error: The reaction to a worker that dies.

    Raises:
        ConfigError: It is neither 1 nor 2, or 1 does not do.
    """
    if integer("observation_buffers", buffers, 1) > SLOTS:
        raise ConfigError(f"observation_buffers must be 1 or {SLOTS}, not {buffers}")
    if buffers < SLOTS and copy:
        raise ConfigError("observation_buffers=1 is for views of observations; pass copy=False, or leave it out")
    if buffers < SLOTS and on_error == "restart":
        raise ConfigError(
            'on_error="restart" reports the last observation of a worker that died, which may have begun to write into '
            "a single buffer; leave observation_buffers=1 out"
        )


def count_slots(space: spaces.Space[Any], *, copy: bool, buffers: int, local: bool) -> int:
    """Return how many sets of results take turns.

    Args:
        space: The observation space of one environment.
        copy: Whether observations are handed out as copies.
        buffers: How many are wanted where they are not.
        local: Whether the environments are in this process, where none is written by half.
    """
    plain = walk.children(space) is None and not walk.leaves(space)[0].variable
    return 1 if copy and local and plain else buffers


class ResultStore:
    """Results of all environments, in the slots of an arena that take turns.

    Args:
        space: The observation space of one environment.
        arena: The arrays.
        copy: Whether observations are handed out as copies.
        local: Whether the environments are in this process, so that objects which arrive are their own.

    Attributes:
        copy: As the argument.
        number: Which slot is the present one.
    """

    def __init__(self, space: spaces.Space[Any], arena: Arena, *, copy: bool, local: bool) -> None:
        self._space, self._leaves = space, walk.leaves(space)
        self._plain = walk.children(space) is None and not self._leaves[0].variable
        self._arena, self.copy, self._local = arena, copy, local
        rows = len(arena.slots[0].rewards)
        self._objects: list[list[Any]] = [[None] * rows for leaf in self._leaves if leaf.variable]
        self.number = 0

    @property
    def slot(self) -> Slot:
        """Return the present slot."""
        return self._arena.slots[self.number]

    @property
    def previous(self) -> Slot:
        """Return the slot before the present one; that itself where there is one slot."""
        return self._arena.slots[self.number - 1]

    def next_slot(self) -> int:
        """Let the next results go to the other slot, if there is one; return its number."""
        self.number = (self.number + 1) % len(self._arena.slots)
        return self.number

    def put(self, worker: Worker, results: Results, lost: Sequence[int], before: Slot) -> None:
        """Put results of a worker into the present slot.

        Args:
            worker: Whose results these are.
            results: What arrived.
            lost: Rows of the worker whose observations mean nothing; they stay as they were.
            before: The slot that has these.
        """
        start, slot = worker.envs.start, self.slot
        rows = range(len(worker.envs)) if results.rows is None else results.rows
        kept = [start + row for row in lost]
        saved = [array[kept] for array in before.observations] if kept else []
        if results.arrays is not None:
            where: Any = worker.slice if results.rows is None else [start + row for row in rows]
            for mine, received in zip(slot.arrays, results.arrays, strict=True):
                mine[where] = received
        for mine, values in zip(slot.observations, saved, strict=bool(saved)):
            mine[kept] = values
        for objects, theirs in zip(self._objects, results.objects, strict=bool(results.objects)):
            for row, value in zip(rows, theirs, strict=True):
                if row not in lost:
                    # without a worker in between the value is the environment's own
                    objects[start + row] = copying.deepcopy(value) if self._local and self.copy else value

    def keep(self, rows: Any) -> None:
        """Take over rows of the previous slot into the present one."""
        self.slot.copy_rows(self.previous, rows)

    def final_infos(self, start: int, cut: list[int]) -> Infos:
        """Return the last observations of environments that were reset in the step in which their episode was cut.

        Args:
            start: Index of the first environment of their worker.
            cut: Their rows in that worker.
        """
        columns = self._rows(self.previous, np.array([start + row for row in cut]))
        finals = [self._nested(list(values)) for values in zip(*columns, strict=True)]
        return list(cut), [{"final_obs": final, "final_info": {RESTARTED: True}} for final in finals]

    def _rows(self, slot: Slot, ids: Array) -> list[Any]:
        """Return copies of the observations of some environments, one column per leaf."""
        fixed, objects = iter(slot.observations), iter(self._objects)
        columns: list[Any] = []
        for leaf in self._leaves:
            if leaf.variable:
                values = next(objects)
                columns.append(tuple(values[env] for env in ids))
            else:
                columns.append(np.take(next(fixed), ids, axis=0))
        return columns

    def _nested(self, columns: list[Any]) -> Any:
        return walk.unflatten(self._space, iter(columns))

    def all(self) -> tuple[Any, Array, Array, Array]:
        """Return the present observations, rewards, terminations and truncations of all environments."""
        slot = self._arena.slots[self.number]
        if self._plain:
            (observations,) = slot.observations
            if self.copy:
                observations = observations.copy()
        else:
            observations = self.observations()
        return observations, slot.rewards.copy(), slot.terminations.copy(), slot.truncations.copy()

    def observations(self) -> Any:
        """Return the present observations of all environments."""
        fixed = self.slot.observations
        if self.copy:
            fixed = [array.copy() for array in fixed]
        if self._plain:
            return fixed[0]
        columns, objects = iter(fixed), iter(self._objects)
        parts = [tuple(next(objects)) if leaf.variable else next(columns) for leaf in self._leaves]
        return self._nested(parts)

    def of(self, ids: Array) -> tuple[Any, Array, Array, Array]:
        """Return copies of the present observations, rewards, terminations and truncations of some environments."""
        slot = self.slot
        observations = self._nested(self._rows(slot, ids))
        return observations, slot.rewards[ids], slot.terminations[ids], slot.truncations[ids]
