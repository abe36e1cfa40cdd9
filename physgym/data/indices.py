"""Indices of samples: numbers, arrays and masks that people write, and where samples are after a dataset has grown."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from physgym.errors import ConfigError, DatasetError
from physgym.spaces import Array


def as_number(index: Any) -> int | None:
    """Return one integer of Python, numpy, an array or a tensor without axes; None where it is none.

    Raises:
        ConfigError: It is a flag, which names no sample.
    """
    if type(index) is int:
        return index
    if isinstance(index, (bool, np.bool_)) or (getattr(index, "shape", None) == () and "bool" in str(index.dtype)):
        raise ConfigError(f"{index!r} is a flag, which is no index of a sample; a mask has shape (number of samples,)")
    if isinstance(index, (list, tuple)) or getattr(index, "shape", ()) != ():
        return None
    try:
        return operator.index(index)
    except TypeError:
        return None


def as_indices(indices: Any, length: int) -> Array:
    """Return indices as integers in range; a mask becomes those where it is true.

    Raises:
        ConfigError: They are no integers, or out of range.
    """
    array = np.asarray(indices)
    if array.dtype == np.bool_ and array.shape == (length,):
        return np.flatnonzero(array)
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise ConfigError(f"indices must be integers, or a mask of shape ({length},), not {array.dtype} {array.shape}")
    array = array.astype(np.int64, copy=False)
    if array.view(np.uint64).max() >= length:  # negative ones are huge then
        raise ConfigError(f"indices must lie between 0 and {length - 1}, got {array.min()} to {array.max()}")
    return array


def moved(rows: Array, before: list[int], after: list[int]) -> Array:
    """Return the rows of the same samples where folders hold more than before: rows of the first one stay.

    Raises:
        DatasetError: A folder holds less.
    """
    if any(now < then for then, now in zip(before, after, strict=True)):
        raise DatasetError(f"folders that held {before} samples hold {after} now; open the dataset again")
    starts = np.cumsum([0, *before[:-1]])
    shifts = np.cumsum([0, *after[:-1]]) - starts
    found: Array = rows + shifts[np.searchsorted(starts, rows, side="right") - 1]
    return found


def episode_rows(number: int, numbers: Array, steps: Array, episodes: Array) -> Array:
    """Return the indices of the samples of an episode, in the order of their steps.

    Args:
        number: Its number.
        numbers: The number of the episode of every sample, shape (samples,), as ``dataset.index("episode")``.
        steps: The step of every sample there, as ``dataset.index("step")``.
        episodes: Another number for each episode of each folder, as ``dataset.episodes``.

    Raises:
        ConfigError: There is no such episode, or several folders have one.
    """
    rows: Array = np.flatnonzero(numbers == number)
    if not len(rows):
        raise ConfigError(f"there is no episode {number}; there are {numbers.min()} to {numbers.max()}")
    if len(np.unique(episodes[rows])) > 1:
        raise ConfigError(f"several folders have an episode {number}; open them one by one")
    ordered: Array = rows[np.argsort(steps[rows], kind="stable")]
    return ordered
