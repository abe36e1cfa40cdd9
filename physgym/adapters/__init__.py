"""Views of a vector env for libraries that want another interface than Gymnasium's, and other people's simulators.

Each module imports the library that it serves, so that nothing of it is loaded unless it is asked for. Libraries that
take a `gymnasium.vector.VectorEnv` as it is need none of this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_PYTHON_SCALARS = (np.dtype(np.bool_), np.dtype(np.int64), np.dtype(np.float64))


def unbatch_infos(batched: Mapping[str, Any], into: Sequence[dict[str, Any]] | Mapping[int, dict[str, Any]]) -> None:
    """Give every environment its own info; those that have nothing cost nothing.

    Args:
        batched: As Gymnasium's vector environments batch infos: at a key its values, shape (num_envs, ...), and at the
            key with an underscore before it the mask of the environments that have it, shape (num_envs,), bool.
        into: The info of an environment by its index, to be filled. A number comes as a Python number where its array
            is of 64 bits or bool, else as a scalar of numpy; an array is a view of the batched one.
    """
    for key, values in batched.items():
        mask = batched.get(f"_{key}")
        if mask is None:  # a mask itself
            continue
        members = np.flatnonzero(mask).tolist()
        if isinstance(values, dict):
            nested: dict[int, dict[str, Any]] = {i: {} for i in members}
            unbatch_infos(values, nested)
            values = nested
        elif values.ndim == 1 and values.dtype in _PYTHON_SCALARS:
            values = values.tolist()
        for i in members:
            into[i][key] = values[i]
