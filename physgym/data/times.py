"""The time of samples: the duration of a step, which a dataset stores once, or each sample's own, which is a field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from physgym.checks import positive
from physgym.data.partition import Partition
from physgym.errors import ConfigError, DatasetError
from physgym.simulation import TIME
from physgym.spaces import Array

TIME_STEP = "time_step"  # attribute of a partition, in s
ROUNDING = 1e-3  # of a time that was summed up over many steps


def time_attribute(seconds: float | None) -> dict[str, str]:
    """Return the attribute of partitions that says how long a step is; empty for None.

    Raises:
        ConfigError: It is no positive number.
    """
    return {} if seconds is None else {TIME_STEP: json.dumps(float(positive(TIME_STEP, seconds)))}


def step_seconds(attributes: Mapping[str, Any]) -> float | None:
    """Return the time of a step in s, from the attributes of a partition; None where they do not say it.

    Raises:
        DatasetError: They say something else.
    """
    said = attributes.get(TIME_STEP)
    if said is None:
        return None
    try:
        return float(positive(TIME_STEP, json.loads(said)))
    except (ValueError, ConfigError) as error:
        raise DatasetError(f"a partition has the time step {said!r}, which is no positive number of seconds") from error


def common_step_seconds(partitions: Sequence[Partition]) -> float | None:
    """Return the time of a step in s that all partitions say; None where one does not, or says another."""
    found = {step_seconds(part.attributes) for part in partitions}
    return found.pop() if len(found) == 1 else None


def sample_times(partitions: Sequence[Partition]) -> Array:
    """Return the time of every sample in s since the reset, at the end of its step: shape (n,), float64.

    Raises:
        ConfigError: A partition does not say how long a step is, and has no field with the time in s.
        DatasetError: It has both, and they disagree.
    """
    return np.concatenate([_times(part) for part in partitions])


def _times(part: Partition) -> Array:
    field = part.spec.get(TIME)
    if field is not None and not field.shape and field.dtype.kind in "iuf":
        if field.unit not in ("", "s"):
            raise ConfigError(
                f"the field {TIME!r} of {part.path} is in {field.unit!r}, and times are taken in s: the axis is "
                "index('step'). Rename the field, or convert it (physgym data rename, add)"
            )
        found: Array = part.read(f"data/{TIME}", 0, part.count).astype(np.float64)
        _check_alike(part, found)
        return found
    seconds = step_seconds(part.attributes)
    if seconds is None:
        raise ConfigError(
            f"{part.path} does not say how long a step is, and its samples have no field {TIME!r}: the axis is "
            "index('step'). A simulation declares time_step, see docs/howto/simulation.md"
        )
    return _ends(part, seconds)


def _ends(part: Partition, seconds: float) -> Array:
    """Return the end of each sample's step in s since the reset, for steps of one length."""
    ends: Array = (part.read("index/step", 0, part.count) + 1) * seconds
    return ends


def _check_alike(part: Partition, times: Array) -> None:
    """Check that the times of samples are those of the steps, where both are known.

    Raises:
        DatasetError: They are others.
    """
    seconds = step_seconds(part.attributes)
    if seconds is None:
        return
    ends = _ends(part, seconds)
    wrong = np.flatnonzero(~(np.abs(times - ends) <= ROUNDING * (np.abs(ends) + seconds)))  # sums of many steps, too
    if len(wrong):
        step = int(part.read("index/step", int(wrong[0]), int(wrong[0]) + 1)[0])
        raise DatasetError(
            f"{part.path}: the field {TIME!r} is {times[wrong[0]]:g} s at the end of step {step}, and with a time_step "
            f"of {seconds:g} s that is at {ends[wrong[0]]:g} s. Where steps differ, declare no time_step; rename a "
            "field that is another time (physgym data rename)"
        )
