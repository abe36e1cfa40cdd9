"""`RowBatch`: environments of a process that are rows of one vector environment."""

from __future__ import annotations

from dataclasses import dataclass

from physgym.batched.rows import VectorRows
from physgym.policies import EpisodePolicy


@dataclass(frozen=True)
class RowBatch:
    """Environments that are rows of one vector environment.

    Attributes:
        rows: The rows.
        policy: Gives the actions of an episode, by its index; None for what the rows draw.
    """

    rows: VectorRows
    policy: EpisodePolicy | None = None
