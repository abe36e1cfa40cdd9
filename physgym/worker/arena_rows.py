"""The rows of the arena that belong to the environments of one process: actions to read, results to write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from physgym import spaces as walk
from physgym.protocol.buffers import IDLE, Arena, Layout, Slot, results_layout
from physgym.returned import check_observation, fitted, taken
from physgym.spaces import Leaf


class ArenaRows:
    """The rows of a group of environments.

    Without shared memory they lie in an arena of this process, and are sent in messages.

    Args:
        observation_space: Of each environment.
        action_space: Of each environment.
        count: How many environments there are.

    Attributes:
        inline: Whether rows are sent in messages.
        actions: One array per fixed leaf of the action space, shape (count, *leaf shape).
        slots: The sets of results.
        objects: One list per observation leaf of variable size, one value per environment.
        current_env: One integer, which others may see: the environment among all that is busy, else `IDLE`.
        first: Index of the first environment among all.
    """

    def __init__(self, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any], count: int) -> None:
        self._space, self._leaves = observation_space, walk.leaves(observation_space)
        self._acted, self._count = walk.leaves(action_space), count
        self.objects: list[list[Any]] = [[None] * count for leaf in self._leaves if leaf.variable]
        self._use(Arena(*self.layouts(), count, 1), 0, None)
        self.inline = True

    def layouts(self) -> tuple[Layout, Layout]:
        """Return the layouts of actions and results."""
        return Layout(self._acted), results_layout(Layout(self._leaves))

    def attach(self, arena: Arena, first: int, worker: int | None) -> None:
        """Read actions from and write results to an arena, from its row `first` on.

        Args:
            arena: The arrays.
            first: Index of the first environment.
            worker: Which worker this is, for `Arena.current_env`; None if nobody looks there.
        """
        self.inline = False
        self._use(arena, first, worker)

    def _use(self, arena: Arena, first: int, worker: int | None) -> None:
        part = slice(first, first + self._count)
        self.first = first
        self.actions = [array[part] for array in arena.actions]
        self.slots = [SlotRows(slot.rows(part), self._leaves, self.objects, self._space) for slot in arena.slots]
        self.current_env = [IDLE] if worker is None else _view(arena.current_env[worker : worker + 1])
        self.current_env[0] = IDLE

    def slot(self, number: int) -> SlotRows:
        """Return the set of results that a request names."""
        return self.slots[0 if self.inline else number]

    def begin(self, index: int) -> None:
        """Note that an environment is busy, so that the parent can name it where it ends the process."""
        self.current_env[0] = self.first + index


def _view(array: Any) -> Any:
    return memoryview(array)  # single numbers are written much faster than through numpy


class SlotRows:
    """The rows of one slot as the stepping loop writes them.

    Args:
        slot: The rows.
        leaves: Of the observation space.
        objects: One list per leaf of variable size, which takes the values.
        space: The observation space.

    Attributes:
        slot: As the argument.
        rewards: Shape (rows,), float64.
        terminations: Shape (rows,), bool.
        truncations: Shape (rows,), bool.
        write: Stores the observation of one environment.
        plain: Array, shape and dtype of observations that are arrays, which a loop may compare and store by itself;
            else None three times.
    """

    def __init__(self, slot: Slot, leaves: list[Leaf], objects: list[list[Any]], space: gymnasium.Space[Any]) -> None:
        self.slot = slot
        self.rewards = _view(slot.rewards)
        self.terminations = _view(slot.terminations)
        self.truncations = _view(slot.truncations)
        self.write = _writer(slot, leaves, objects, space)
        self.plain: tuple[Any, Any, Any] = (None, None, None)
        if _is_plain(leaves, space):
            self.plain = slot.observations[0], leaves[0].shape, leaves[0].dtype
        self._unset = _view(np.zeros_like(slot.terminations))

    def clear_flags(self, rows: Sequence[int] | None) -> None:
        """Set the flags of some rows to False, of all by default: far less work than one by one."""
        if rows is None:
            self.terminations[:] = self.truncations[:] = self._unset
            return
        for row in rows:
            self.terminations[row] = self.truncations[row] = False


def _writer(
    slot: Slot, leaves: list[Leaf], objects: list[list[Any]], space: gymnasium.Space[Any]
) -> Callable[[int, Any], None]:
    """Return what stores the observation of one environment; made for the layout, as it is the innermost function."""
    if _is_plain(leaves, space):
        (buffer,), leaf = slot.observations, leaves[0]
        array_shape, array_dtype, numbers = leaf.shape, leaf.dtype, _numbers(leaf)

        def write_array(index: int, value: Any) -> None:
            if value.__class__ is np.ndarray:
                if value.dtype is not array_dtype or value.shape != array_shape:
                    value = fitted(value, leaf)
            elif value.__class__ not in numbers:
                value = fitted(value, leaf)
            try:
                buffer[index] = value
            except OverflowError:  # of an integer of Python's own
                buffer[index] = fitted(value, leaf)

        return write_array
    fixed, variable = iter(slot.observations), iter(objects)
    targets: list[Any] = [next(variable) if leaf.variable else next(fixed) for leaf in leaves]
    inner = [(None, space)] if walk.children(space) is None else list(walk.children(space) or ())
    keys = [key for key, _ in inner]
    flat = walk.children(space) is not None and all(walk.children(sub) is None for _, sub in inner)
    if flat and not any(leaf.variable for leaf in leaves):
        items = [
            (k, leaf.shape, leaf.dtype, target, leaf) for k, leaf, target in zip(keys, leaves, targets, strict=True)
        ]

        def write_dict(index: int, value: Any) -> None:
            for key, shape, dtype, target, leaf in items:
                try:
                    part = value[key]
                except (LookupError, TypeError):
                    check_observation(space, value)
                    raise
                if part.__class__ is not np.ndarray or part.dtype is not dtype or part.shape != shape:
                    part = fitted(part, leaf)
                target[index] = part

        return write_dict

    def write(index: int, value: Any) -> None:
        try:
            parts = walk.flatten(space, value)
        except (LookupError, TypeError):
            check_observation(space, value)
            raise
        for target, leaf, part in zip(targets, leaves, parts, strict=True):
            target[index] = taken(part) if leaf.variable else fitted(part, leaf)

    return write


def _is_plain(leaves: list[Leaf], space: gymnasium.Space[Any]) -> bool:
    """Return whether an observation is one array of fixed layout."""
    return walk.children(space) is None and not leaves[0].variable


def _numbers(leaf: Leaf) -> tuple[type, ...]:
    """Return the classes of single numbers that are values of a leaf as they are."""
    own = {np.dtype(np.float64): float, np.dtype(np.int64): int, np.dtype(np.bool_): bool}
    if leaf.shape:
        return ()
    return (leaf.dtype.type, own[leaf.dtype]) if leaf.dtype in own else (leaf.dtype.type,)
