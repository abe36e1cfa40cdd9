"""Values that a network predicted, brought into a space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym import spaces as walk
from physgym.casting import CastError, as_dtype
from physgym.errors import SampleError
from physgym.spaces import Array


def fitter(space: spaces.Space[Any]) -> Callable[[Any], Any]:
    """Return a function that brings values into a space: dtype, bounds, whole numbers."""
    if walk.children(space) is not None:
        parts = [fitter(one) for one in walk.leaf_spaces(space).values()]

        def fit(value: Any) -> Any:
            values = zip(parts, walk.flatten(space, value), strict=True)
            return walk.unflatten(space, iter([part(one) for part, one in values]))

        return fit
    if isinstance(space, spaces.Box):
        return _box_fitter(space)
    if isinstance(space, spaces.Discrete):
        kind, first, last = space.dtype.type, int(space.start), int(space.start + space.n - 1)
        return lambda value: kind(min(max(round(float(value)), first), last))
    if isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)):
        low = space.start if isinstance(space, spaces.MultiDiscrete) else 0
        high = low + space.nvec - 1 if isinstance(space, spaces.MultiDiscrete) else 1
        return lambda value: np.clip(np.rint(value), low, high).astype(space.dtype)
    return lambda value: value


def cast(name: str, value: Any, dtype: np.dtype[Any]) -> Array:
    """Return a value as an array of a dtype.

    Args:
        name: What to call it in an error.
        value: The value.
        dtype: The dtype.

    Raises:
        SampleError: It does not convert, or loses what it means.
    """
    try:
        return as_dtype(value, dtype)
    except CastError as error:
        raise SampleError(f"{name} {error}") from error


def _box_fitter(space: spaces.Box) -> Callable[[Any], Any]:
    low, high, dtype = space.low, space.high, space.dtype
    real = np.issubdtype(dtype, np.floating)
    bounded = not real or bool(np.isfinite(low).any() or np.isfinite(high).any())

    def fit(value: Any) -> Any:
        array = np.asanyarray(value)
        if real:
            array = cast("the predicted observation", array, dtype)
        elif array.dtype != dtype:
            array = np.rint(array) if array.dtype.kind == "f" else array
            array = np.clip(array, low, high).astype(dtype)  # a cast of others would wrap around
        return np.clip(array, low, high) if bounded else array

    return fit
