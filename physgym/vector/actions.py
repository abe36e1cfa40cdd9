"""Actions as a vector env hands them on: every environment gets what `gymnasium.vector.SyncVectorEnv` would give it.

Neither value nor dtype nor kind is changed: of an array an environment gets a row, of a list an item, of any kind.
Two things are not sent between processes, and therefore differ here, without worker processes as with them: arrays of
other libraries (torch, jax) arrive as numpy arrays of the same dtype, instances of subclasses (of an array, a number, a
text, a dictionary, a tuple) as instances of the class itself. What cannot be sent at all is an error.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate

from physgym import spaces as walk
from physgym.errors import ProtocolError, WrongType, WrongValue
from physgym.protocol.buffers import Arena
from physgym.protocol.messages import Step
from physgym.protocol.msgpack_values import PLAIN_KINDS, decode_value, encode_value

# the actions of one leaf: an array, of which each environment gets a row, or a list, of which each gets an item
Column: TypeAlias = "np.ndarray[Any, np.dtype[Any]] | list[Any]"

IMMUTABLE = (int, float, bool, str, bytes, type(None))  # classes of actions that need no copy


def columns_of(
    single: spaces.Space[Any], batched: spaces.Space[Any], leaves: Sequence[walk.Leaf], actions: Any, number: int
) -> list[Column]:
    """Return the actions of each leaf of a space, one per environment.

    Args:
        single: The space of one action.
        batched: That of `number` of them.
        leaves: Of `single`.
        actions: What the caller gave.
        number: How many environments there are.

    Raises:
        WrongType: They cannot be divided among the environments.
        WrongValue: They are too few or too many, or an array has other numbers per action than the space.
    """
    try:
        try:
            columns = walk.flatten(single, actions)
        except (TypeError, ValueError, KeyError, IndexError):
            columns = []
        divided: list[Any] = [_of_numpy(column) for column in columns]
        if len(divided) != len(leaves) or not all(_is_column(column, number) for column in divided):
            divided = _one_by_one(single, batched, leaves, actions, number)
        for column, leaf in zip(divided, leaves, strict=True):
            _check_size(column, leaf)
        columns = [_joined(column, leaf.variable) for column, leaf in zip(divided, leaves, strict=True)]
        # an array travels as such where its rows have the shape that the space says
        return [
            column if isinstance(column, list) or column.shape[1:] == leaf.shape else list(column)
            for column, leaf in zip(columns, leaves, strict=True)
        ]
    except (TypeError, ValueError, KeyError, IndexError) as error:
        kind = WrongType if isinstance(error, TypeError) else WrongValue
        raise kind(f"the actions do not fit: {error}. step takes an element of action_space, {batched}") from error


def _is_column(column: Any, number: int) -> bool:
    """Return whether it is seen at once that each environment gets one item."""
    if isinstance(column, np.ndarray):
        return column.ndim > 0 and len(column) == number
    return isinstance(column, (list, tuple)) and len(column) == number


def _check_size(column: Any, leaf: walk.Leaf) -> None:
    """Raise ValueError where one array of numbers has more or fewer of them per action than the space.

    Gymnasium hands on such rows, of which an environment that broadcasts makes wrong numbers without a word.
    """
    if leaf.variable or column.__class__ is not np.ndarray or column.dtype.kind not in "biufc":
        return
    if math.prod(column.shape[1:]) != math.prod(leaf.shape):
        name = f"{leaf.path!r}" if leaf.path else "the array"
        raise ValueError(f"{name} has shape {column.shape} instead of {(len(column), *leaf.shape)}")


def _one_by_one(
    single: spaces.Space[Any], batched: spaces.Space[Any], leaves: Sequence[walk.Leaf], actions: Any, number: int
) -> list[Column]:
    each = list(itertools.islice(iterate(batched, actions), number + 1))
    if len(each) != number:
        count = f"{len(each)}" if len(each) < number else f"more than {number}"
        raise ValueError(f"{count} actions for {number} environments")
    flat = [walk.flatten(single, action) for action in each]
    return [[row[place] for row in flat] for place in range(len(leaves))]


def _of_numpy(value: Any) -> Any:
    """Return an array of another library as one of numpy, anything else as it is."""
    if isinstance(value, (np.ndarray, np.generic)) or not hasattr(value, "__dlpack__"):
        return value
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # it lies on a GPU, or has a dtype that numpy lacks
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(
            f"an array of type {kind} does not become one of numpy: {error}; pass a numpy array, as of "
            "`tensor.detach().cpu()`"
        ) from error


def _joined(column: Any, variable: bool) -> Column:
    """Return a column as an array where its rows are the very actions, else as a list of them."""
    if isinstance(column, np.ndarray):
        masked = column.__class__ is np.ma.MaskedArray
        whole = column.__class__ is np.ndarray or masked
        if whole and not variable and (column.dtype.kind in PLAIN_KINDS or masked):
            return column
    items = list(column)
    kinds = set(map(type, items))
    if any(hasattr(kind, "__dlpack__") and not issubclass(kind, (np.ndarray, np.generic)) for kind in kinds):
        items = [_of_numpy(item)[()] if hasattr(item, "__dlpack__") else item for item in items]
        kinds = set(map(type, items))
    if variable or len(kinds) != 1 or not issubclass(kind := kinds.pop(), (np.ndarray, np.generic)):
        return items
    dtype, shape = items[0].dtype, items[0].shape
    alike = all(item.dtype == dtype and item.shape == shape for item in items)
    # rows of one array are numbers, not arrays of no axis; of texts and structures it is not so clear
    if not alike or dtype.kind not in "biufc" or kind is not (np.ndarray if shape else dtype.type):
        return items
    return np.stack(items).astype(dtype, copy=False)  # stacked they have the machine's byte order


def travelled(column: Column, leaf: walk.Leaf, envs: Sequence[int], *, local: bool) -> Column:
    """Return a column as it arrives in the environments.

    Args:
        column: As of `columns_of`.
        leaf: Whose actions these are.
        envs: The environments.
        local: Whether they are in this process, and would get the caller's own objects.

    Raises:
        WrongType: An action cannot be sent between processes.
    """
    if column.__class__ is np.ndarray and column.dtype.kind in PLAIN_KINDS:
        return column.copy() if local else column
    if all(action.__class__ in IMMUTABLE for action in column):
        return column
    try:
        data = encode_value(column)
    except ProtocolError:
        for env, action in zip(envs, column, strict=True):
            try:
                encode_value(action)
            except ProtocolError as error:
                name = f" for {leaf.path!r}" if leaf.path else ""
                raise WrongType(f"the action of environment {env}{name}: {error}") from error
        raise
    return decode_value(data) if local else column


class ActionWriter:
    """Puts actions into the arena, and into messages as far as they do not belong there.

    Args:
        single: The space of one action.
        batched: The space of the actions of all environments.
        arena: The arrays.
        inline: Whether the arrays are sent in messages.
        local: Whether the environments are in this process.
    """

    def __init__(
        self, single: spaces.Space[Any], batched: spaces.Space[Any], arena: Arena, *, inline: bool, local: bool
    ) -> None:
        self._single, self._batched, self._leaves = single, batched, walk.leaves(single)
        self._plain = walk.children(single) is None and not self._leaves[0].variable
        self._arena, self.inline, self._local = arena, inline, local
        self._count = len(arena.slots[0].rewards)
        self._whole = arena.actions[0].shape if self._plain else ()  # of the actions of all environments

    def put(self, actions: Any, where: Any, number: int) -> list[list[Any]]:
        """Write actions into the arena.

        Args:
            actions: What the caller gave.
            where: Which environments, as an index of the arena's arrays.
            number: How many these are.

        Returns:
            What does not belong there, as in `Step.objects`.

        Raises:
            WrongType: They cannot be divided among the environments, or one cannot be sent.
            WrongValue: They do not fit the space.
        """
        if self._plain and actions.__class__ is np.ndarray:
            target = self._arena.actions[0]
            shape = self._whole if number == self._count else (number, *self._whole[1:])
            if actions.dtype == target.dtype and actions.shape == shape:
                target[where] = actions
                return []
        space = self._batched if number == self._count else batch_space(self._single, number)
        columns = columns_of(self._single, space, self._leaves, actions, number)
        fixed = iter(self._arena.actions)
        objects: list[Any] = [None] * len(columns)
        for place, (leaf, column) in enumerate(zip(self._leaves, columns, strict=True)):
            if not leaf.variable:
                target = next(fixed)
                if column.__class__ is np.ndarray and (column.dtype, column.shape) == (
                    target.dtype,
                    (number, *leaf.shape),
                ):
                    target[where] = column
                    continue
            envs = range(number) if isinstance(where, slice) else where.tolist()
            objects[place] = travelled(column, leaf, envs, local=self._local)
        return [] if all(values is None for values in objects) else objects

    def step(self, slot: int, part: slice, objects: list[Any]) -> Step:
        """Return the message that steps all environments of a worker.

        Args:
            slot: Where the results belong.
            part: The worker's environments among all.
            objects: The return value of `put` for all environments.
        """
        own = [None if values is None else values[part] for values in objects]
        return Step(slot, None, [array[part] for array in self._arena.actions] if self.inline else None, own)

    def stream(self, slot: int, ids: Any, rows: list[int], objects: list[Any]) -> Step:
        """Return the message that steps some environments of a worker, to be answered as they finish.

        Args:
            slot: Where the results belong.
            ids: The environments among all.
            rows: The same ones in the worker.
            objects: Their part of the return value of `put`.
        """
        actions = [array[ids] for array in self._arena.actions] if self.inline else None
        return Step(slot, rows, actions, objects, stream=True)

    def empty(self, slot: int, rows: list[int], *, stream: bool) -> Step:
        """Return a step in which the worker will report its environments as cut off; the actions do not matter."""
        actions = None
        if self.inline:
            actions = [np.zeros((len(rows), *array.shape[1:]), array.dtype) for array in self._arena.actions]
        objects: list[Any] = [[None] * len(rows) if leaf.variable else None for leaf in self._leaves]
        if all(values is None for values in objects):
            objects = []
        return Step(slot, rows, actions, objects, stream=stream)
