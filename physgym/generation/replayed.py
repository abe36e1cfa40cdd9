"""Comparison of samples that a simulation gives again with those that a dataset holds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from physgym.errors import DatasetError
from physgym.spaces import Array


def check_same_sample(stored: Mapping[str, Array], again: Mapping[str, Array] | None, where: str) -> None:
    """Check that a sample is the stored one, to the bit, in the fields that both have.

    Args:
        stored: The stored fields.
        again: Those that the simulation gives; None where the step was rejected.
        where: Name of the step, for the message.

    Raises:
        DatasetError: It is another one.
    """
    if again is None:
        raise different(where, "outcome")
    for name, value in stored.items():
        # to the bit, which NaN equals as well
        if name in again and np.asarray(value).tobytes() != np.asarray(again[name]).tobytes():
            raise different(where, name)


def different(where: str, name: str) -> DatasetError:
    """Return the error of a simulation that gives something else than a dataset holds."""
    return DatasetError(
        f"{where}: the simulation gives another {name!r} than the dataset holds. Use the environment arguments, "
        "actions and physgym version with which it was made"
    )
