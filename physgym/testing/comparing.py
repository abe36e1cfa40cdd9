"""Comparisons that the rules for environments share."""

from __future__ import annotations

from typing import Any

import numpy as np

from physgym.spaces import Array, flatten


def require(holds: bool, rule: str) -> None:
    """Raise AssertionError with the text of a rule that does not hold."""
    if not holds:
        raise AssertionError(rule)


def same_bits(a: Any, b: Any) -> bool:
    """Return whether two arrays are equal in shape, dtype and every bit."""
    a, b = np.asarray(a), np.asarray(b)
    return bool(a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes())


def observed(env: Any) -> list[Array]:
    """Return copies of the leaves of what a simulation observes now."""
    return [np.array(leaf) for leaf in flatten(env.observation_space, env.observation())]
