"""Episodes of linear systems, and networks whose rollouts have errors that are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from physgym.data.dataset import SampleDataset
from physgym.data.times import time_attribute
from physgym.data.writer import SampleWriter
from physgym.nn import Predictor
from physgym.sample import Field, SampleSpec

ANGLE = 0.4
TURN = np.array([[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]])  # keeps the norm
WIDE = np.dtype(np.float64)
STORED = {"next_state": "state"}


def spec(*, once: bool = False) -> SampleSpec:
    fields = [
        Field("state", (2,), WIDE, "input", "m", feeds="state" if once else ""),
        Field("push", (2,), WIDE, "input", "N"),
    ]
    return SampleSpec([*fields, *([] if once else [Field("next_state", (2,), WIDE, "target", "m", feeds="state")])])


def states(episode: int, steps: int, push: float) -> tuple[np.ndarray, np.ndarray]:
    """States before and after each step, and what is added to them in each: that differs in all rows."""
    pushes = push * np.random.default_rng(episode).normal(size=(steps, 2))
    found = [np.array([1.0 + episode, 0.5])]
    for one in pushes:
        found.append(TURN @ found[-1] + one)
    return np.array(found), pushes


def turning(
    folder: Path,
    lengths: Sequence[int],
    *,
    push: float = 0.0,
    once: bool = False,
    time_step: float | None = None,
    missing: Sequence[tuple[int, int]] = (),
    env: str = "tests:Turning",
    mode: str = "training",
) -> SampleDataset:
    """A dataset of states that turn; some samples are left out by episode and step."""
    fields = spec(once=once)
    writer = SampleWriter(folder, fields, mode=mode, source={"env": env}, attributes=time_attribute(time_step))
    with writer:
        for episode, length in enumerate(lengths):
            every, pushes = states(episode, length, push)
            rows = {"state": every[:-1], "push": pushes, "next_state": every[1:]}
            kept = [step for step in range(length) if (episode, step) not in missing]
            count = len(kept)
            writer.append(
                {name: rows[name][kept] for name in fields},
                episode=np.full(count, episode),
                step=np.array(kept),
                seed=np.full(count, 7 + episode, np.uint64),
            )
    return SampleDataset(folder, mode)


class Turn(nn.Module):
    """The exact next state, times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))
        self.register_buffer("turn", torch.tensor(TURN))

    def forward(self, state: torch.Tensor, push: torch.Tensor) -> torch.Tensor:
        return self.factor * (state @ self.turn.T + push)


def predictor(network: nn.Module, fields: SampleSpec | None = None) -> Predictor:
    fields = spec() if fields is None else fields
    return Predictor(network, fields, inputs=["state", "push"], outputs=["next_state"])
