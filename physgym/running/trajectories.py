"""`Trajectories`: the episodes of a dataset as trajectories of the solver, from their first steps on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from physgym.checks import integer, is_integer
from physgym.data.dataset import SampleDataset
from physgym.data.step_runs import StepRuns
from physgym.errors import ConfigError
from physgym.sample import Sample
from physgym.simulation import TIME
from physgym.spaces import Array


@dataclass(frozen=True)
class Trajectory:
    """Consecutive steps of an episode, as the solver made them.

    Attributes:
        episode: Index of the episode.
        seed: Its seed.
        env: Number of the simulation, where a dataset has several.
        steps: Step of each row within the episode, shape (rows,), int64.
        fields: What is stored of the steps, each of shape (rows, *field shape).
        seconds: Time from the state before the first row to the end of each row's step in s, shape (rows,), float64;
            None where it is not known.
    """

    episode: int
    seed: int
    env: int
    steps: Array
    fields: Sample
    seconds: Array | None = None

    def __len__(self) -> int:
        return len(self.steps)


class Trajectories(Sequence[Trajectory]):
    """The episodes of a dataset, each from its first stored step up to the first one that is missing.

    Args:
        dataset: The samples.
        episodes: How many, the first ones; or their indices, as in ``dataset.index("episode")``. None takes all.
        fields: Only these fields; None for all.

    Attributes:
        lengths: Rows of each, shape (len(self),), int64.
        cut: Number of these episodes that continue behind a missing step, such as a rejected one.

    Raises:
        ConfigError: There is no such episode.
    """

    def __init__(
        self, dataset: SampleDataset, episodes: int | Sequence[int] | None = None, fields: Sequence[str] | None = None
    ) -> None:
        runs = StepRuns.find(dataset.episodes, dataset.index("step"))
        self._dataset = dataset if runs.order is None else dataset.subset(runs.order)
        self._fields = None if fields is None else list(fields)
        self._index = {name: self._dataset.index(name) for name in ("episode", "step", "seed", "env")}
        names = self._dataset.episodes[runs.starts]
        first = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]]))
        chosen = first[self._chosen(self._index["episode"][runs.starts[first]], episodes)]
        self._starts, self.lengths = runs.starts[chosen], runs.lengths[chosen]
        self.cut = int(np.isin(names[chosen], names[np.setdiff1d(np.arange(len(names)), first)]).sum())
        self._times = self._known_times()

    @staticmethod
    def _chosen(numbers: Array, episodes: int | Sequence[int] | None) -> Array:
        """Return the places of the wanted episodes among all."""
        if episodes is None:
            return np.arange(len(numbers))
        if is_integer(episodes):
            return np.arange(min(integer("episodes", episodes, 1), len(numbers)))
        wanted = [integer("episodes", number, 0) for number in episodes]
        if missing := sorted(set(wanted) - set(numbers.tolist())):
            raise ConfigError(f"there are no episodes {missing}; there are {numbers.min()} to {numbers.max()}")
        if not wanted:
            raise ConfigError("no episode is given: episodes=[]")
        return np.flatnonzero(np.isin(numbers, wanted))

    def _known_times(self) -> Array | None:
        """Return the time of each sample from a field of the dataset, which goes before a common length of steps."""
        dataset = self._dataset
        if any(TIME not in part.spec for part in dataset.partitions):
            return None
        try:
            return dataset.index(TIME)
        except ConfigError:  # the field is no number
            return None

    @property
    def row_nbytes(self) -> int:
        """Return the bytes of a row."""
        spec = self._dataset.spec
        return sum(spec[name].nbytes for name in (spec if self._fields is None else self._fields))

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> Trajectory:  # type: ignore[override]  # one by one alone
        start = int(self._starts[number])
        return self._read(start, start + int(self.lengths[number]))

    def first(self, rows: int) -> Iterator[Trajectory]:
        """Yield the trajectories, each with so many rows at most."""
        for start, length in zip(self._starts.tolist(), self.lengths.tolist(), strict=True):
            yield self._read(start, start + min(rows, length))

    def _read(self, start: int, stop: int) -> Trajectory:
        named = {name: values[start] for name, values in self._index.items()}
        return Trajectory(
            int(named["episode"]),
            int(named["seed"]),
            int(named["env"]),
            self._index["step"][start:stop],
            self._dataset.read(start, stop, self._fields),
            self._seconds(start, stop),
        )

    def _seconds(self, start: int, stop: int) -> Array | None:
        if self._times is not None and not self._index["step"][start]:
            return self._times[start:stop]
        # when did an episode begin that lacks its first step?
        step = self._dataset.time_step
        return None if step is None else np.arange(1, stop - start + 1) * step
