"""`Case`: a problem at a budget, with what is trained on it and measured of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from physgym import SampleDataset, generate
from physgym.data.windows import EpisodeWindows

Budget = Literal["quick", "small", "full"]
Fields = Mapping[str, np.ndarray]
Predict = Callable[[Fields], Fields]  # stacks of input fields to stacks of output fields
Figures = dict[str, float]
Shown = SampleDataset | EpisodeWindows  # what a network is trained on


@dataclass(frozen=True)
class Network:
    """A network of the side by side: how it is made from the declaration of the samples, and its learning rate."""

    make: Callable[..., nn.Module]
    lr: float


@dataclass(frozen=True)
class Training:
    """How every network of a case is trained: Adam with one cycle of the learning rate, or its own optimization."""

    epochs: int
    batch_size: int
    change: bool = False  # whether the network predicts the change of a state
    loss: Literal["relative", "squared"] = "relative"
    constant_rate: bool = False


@dataclass(frozen=True)
class Samples:
    """Samples of a simulation, made once for all seeds: those of training and test have seeds of their own."""

    env: str | Callable[..., Any]
    train: int
    test: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    length: int | None = None  # steps of an episode; None for the simulation's own
    test_length: int | None = None  # the same of the test; None for `length`

    def make(self, folder: Path, workers: int) -> tuple[SampleDataset, SampleDataset]:
        """Return the samples to train on and those to test with, or take those of an earlier run."""
        made = partial(self._part, folder=folder, workers=workers)
        return made("train", self.train, self.length), made("test", self.test, self.test_length or self.length)

    def _part(self, part: str, count: int, length: int | None, *, folder: Path, workers: int) -> SampleDataset:
        name = self.env.split("/")[-1] if isinstance(self.env, str) else self.env.__name__
        words = [name, *(f"{key}{value:g}" for key, value in self.arguments.items()), part, str(count)]
        path = folder / "-".join(words + ([] if length is None else [f"length{length}"]))
        if path.exists() and len(found := SampleDataset(path)) == count:  # whichever code made them, as they record
            return found
        return generate(
            self.env,
            path,
            samples=count,
            num_workers=workers,
            seed={"train": 0, "test": 1}[part],
            env_kwargs=self.arguments,
            resume=path.exists(),
            progress=False,
            max_rejects=1000,  # an episode that cannot be resolved ends early
            **({} if length is None else {"max_steps": length}),
        )


@dataclass(frozen=True)
class Case:
    """A problem at a budget.

    Attributes:
        name: What its rows are called.
        samples: Of its simulation.
        training: Of all networks.
        networks: By name, side by side.
        baselines: What takes no training, by name: functions of the training samples that return what predicts.
        measure: Returns the figures of what predicts, on the test samples.
        given: States that a network is given, the latest one last; one without an axis for their number.
    """

    name: str
    samples: Samples
    training: Training
    networks: Mapping[str, Network]
    baselines: Mapping[str, Callable[[Shown], Predict]]
    measure: Callable[[Predict, SampleDataset], Figures]
    given: int = 1

    def shown(self, train: SampleDataset) -> Shown:
        """Return what the networks and baselines are made from: the training samples, or windows of as many states."""
        return train if self.given == 1 else train.windows(self.given)
