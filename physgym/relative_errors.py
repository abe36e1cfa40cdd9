"""Errors over the sizes of what they are errors of. Workers use it, which do without torch."""

from __future__ import annotations

import numpy as np

from physgym.spaces import Array


def relative_to(errors: Array, sizes: Array) -> Array:
    """Return errors over sizes; where a size is zero, 0 for an error of zero and infinite for another one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(errors == 0, 0.0, errors / sizes)
