"""`RecordedSteps`: the steps of recordings as columns, all but their observations."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from gymnasium import spaces

from physgym.data.dataset import SampleDataset
from physgym.data.recordings import ACTED, ACTION, FLAGS, INFO, OBSERVATION, REWARD
from physgym.errors import ConfigError
from physgym.sample import SampleSpec
from physgym.spaces import Array, value_range

NEXT = "next_observation"  # field of what `RecordTransition` makes
BLOCK_BYTES = 1 << 24  # of rows that are read at once
ROUNDING = 1e-6  # part of the range by which a value may miss its bounds

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordedSteps:
    """Steps of recordings as columns, all but their observations; those without a finite observation are left out.

    Attributes:
        rows: Row of each in the dataset, shape (n,), int64.
        episodes: Number of its episode, across folders, shape (n,).
        steps: Its step in the episode, shape (n,).
        acted: Whether an action was applied there whose outcome is finite, shape (n,), bool.
        columns: Actions, rewards, flags and infos by field, shape (n, *shape).
        next_stored: Whether rows hold the next observation themselves.
        left_out: Steps from which nothing is learned since a value is not finite.
    """

    rows: Array
    episodes: Array
    steps: Array
    acted: Array
    columns: dict[str, Array]
    next_stored: bool
    left_out: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def terminated(self) -> Array:
        """Return whether episodes terminated there, shape (n,), bool."""
        return self.columns["terminated"].astype(np.bool_)

    @classmethod
    def of(cls, dataset: SampleDataset) -> Self:
        """Return the steps of recordings.

        Raises:
            ConfigError: The dataset holds no transitions.
        """
        spec = dataset.spec
        next_stored = ACTED not in spec
        needed = (OBSERVATION, ACTION, REWARD, *FLAGS, *([NEXT] if next_stored else []))
        if missing := [name for name in needed if not fields_of(spec, name)]:
            raise ConfigError(
                f"{places_of(dataset)} has no {', '.join(missing)}, and is no recording of transitions; record some "
                "with physgym.Recorder, or make them with physgym.RecordTransition"
            )
        names = [*fields_of(spec, ACTION), REWARD, *FLAGS]
        learned_from = names[:-2]
        names += [name for name in fields_of(spec, INFO) if spec[name].dtype.kind in "biufS"]
        columns = dataset.read(0, len(dataset), [*names, *([] if next_stored else [ACTED])])
        columns |= {name: columns[name].reshape(len(dataset)) for name in (REWARD, *FLAGS)}
        acted = np.ones(len(dataset), np.bool_) if next_stored else columns[ACTED]
        outcome = np.logical_and.reduce([_finite(columns[name]) for name in learned_from])
        seen = _finite_rows(dataset, OBSERVATION)
        if next_stored:
            outcome &= _finite_rows(dataset, NEXT)
        left_out = int((acted & ~(outcome & seen)).sum())
        if left_out:
            text = "%d of %d steps of %s are left out: their values are not finite"
            log.warning(text, left_out, acted.sum(), places_of(dataset))
        rows = np.flatnonzero(seen)
        return cls(
            rows,
            dataset.episodes[rows],
            dataset.index("step")[rows],
            (acted & outcome)[rows],
            {name: column[rows] for name, column in columns.items()},
            next_stored,
            left_out,
        )


def fields_of(spec: SampleSpec, name: str) -> list[str]:
    """Return the fields of one name, such as "observation": the field itself, or those below it."""
    return [field for field in spec if field == name or field.startswith(f"{name}/")]


def places_of(dataset: SampleDataset) -> str:
    """Return where recordings are, in words."""
    return ", ".join(map(str, dataset.places))


def check_values(dataset: SampleDataset, name: str, values: Array, space: spaces.Space[Any]) -> None:
    """Compare values with the bounds of a space without parts.

    Args:
        dataset: The recordings that they are of.
        name: Name of the values.
        values: Of shape (n, *shape).
        space: Their space.

    Raises:
        ConfigError: Some are out of bounds.
    """
    bounds = value_range(space)
    if bounds is None or not len(values):
        return
    low, high = bounds.low.astype(np.float64), bounds.high.astype(np.float64)
    slack = ROUNDING * np.where(bounds.has_low & bounds.has_high, high - low, 0.0)
    outside = (bounds.has_low & (values < low - slack)) | (bounds.has_high & (values > high + slack))
    wrong = np.flatnonzero(outside.reshape(len(values), -1).any(1))
    if len(wrong):
        raise ConfigError(
            f"{len(wrong)} {name}s of {places_of(dataset)} are none of {space}, the first {values[wrong[0]]}: they are "
            "of another environment, or were recorded before they were clipped"
        )


def _finite(values: Array) -> Array:
    """Return the rows whose values are all finite, as flags of shape (n,)."""
    if values.dtype.kind not in "fc":
        return np.ones(len(values), np.bool_)
    return np.asarray(np.isfinite(values.reshape(len(values), -1)).all(1))


def _finite_rows(dataset: SampleDataset, name: str) -> Array:
    """Return the rows whose fields of one name are finite, as flags of shape (len(dataset),)."""
    found = np.ones(len(dataset), np.bool_)
    real = [field for field in fields_of(dataset.spec, name) if dataset.spec[field].dtype.kind in "fc"]
    size = max(1, BLOCK_BYTES // max(1, sum(dataset.spec[field].nbytes for field in real)))
    for start in range(0, len(dataset), size) if real else ():
        stop = min(start + size, len(dataset))
        for column in dataset.read(start, stop, real).values():
            found[start:stop] &= _finite(column)
    return found
