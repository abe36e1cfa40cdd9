"""Reports of the steps of a rollout: a run counts every step, also one that was rejected and gave no sample."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from physgym.spaces import Array


@dataclass(frozen=True, slots=True)
class StepReports:
    """Reports of n steps that follow each other, of which r were rejected; the others gave a sample each.

    Attributes:
        rewards: Shape (n,), float64: the reward of each step.
        solver_seconds: Shape (n,), float64: the time that the simulation took; NaN where nobody measured it.
        network_seconds: Shape (n,), float64: the time of the prediction that the step made; NaN where it made none.
        rejected: Shape (r,), int64: places of the rejected steps among the n, in ascending order.
        reasons: Why each of these was rejected.
        inputs: What a person changed at the beginning of a step: its place among the n, name and value of each.
    """

    rewards: Array
    solver_seconds: Array
    network_seconds: Array
    rejected: Array
    reasons: list[Any]
    inputs: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def accepted(self) -> Array:
        """Return a mask of the steps that gave a sample, shape (n,)."""
        mask = np.ones(len(self), np.bool_)
        mask[self.rejected] = False
        return mask

    def cut(self, part: slice | Array) -> StepReports:
        """Return the reports of some of the steps, by a slice or a mask."""
        wanted = self._mask(part)
        places = np.cumsum(wanted) - 1
        return StepReports(
            self.rewards[wanted],
            self.solver_seconds[wanted],
            self.network_seconds[wanted],
            np.flatnonzero(~self.accepted[wanted]),
            list(itertools.compress(self.reasons, wanted[self.rejected].tolist())),
            [[int(places[place]), *change] for place, *change in self.inputs if wanted[place]],
        )

    def samples_of(self, part: slice | Array) -> Array:
        """Return a mask of the n - r samples: those of some of the steps, by a slice or a mask."""
        mask: Array = self._mask(part)[self.accepted]
        return mask

    def _mask(self, part: slice | Array) -> Array:
        mask = np.zeros(len(self), np.bool_)
        mask[part] = True
        return mask
