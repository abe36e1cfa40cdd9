"""`RejectedSamples`: the rejected samples of a dataset."""

from __future__ import annotations

from dataclasses import dataclass

from physgym.sample import Sample
from physgym.spaces import Array


@dataclass(frozen=True)
class RejectedSamples:
    """Rejected samples, stored in a table of their own.

    Attributes:
        samples: Fields of shape (n, *field shape); values need not be finite.
        reasons: Why, shape (n,).
        episode: Index of the episode of each, shape (n,), int64.
        step: Its step in the episode, shape (n,), int64.
        env: Number of the simulation, shape (n,), int32.
        seed: Seed of the episode, shape (n,), uint64.
    """

    samples: Sample
    reasons: list[str]
    episode: Array
    step: Array
    env: Array
    seed: Array
