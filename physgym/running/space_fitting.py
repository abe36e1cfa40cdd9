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
    found = walk.value_range(space)
    if found is None:
        return lambda value: value
    if not found.single:
        return _array_fitter(found)
    kind, first, last = found.dtype.type, int(found.low), int(found.high)
    return lambda value: kind(min(max(round(float(value)), first), last))


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


def _array_fitter(found: walk.ValueRange) -> Callable[[Any], Any]:
    low, high, dtype = found.low, found.high, found.dtype
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
