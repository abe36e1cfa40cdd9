"""`StoredSteps`: the steps of a dataset again, without a solver."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.episode import Transition
from physgym.errors import ConfigError, SampleError
from physgym.nn import Predictor
from physgym.running.episode_memory import EpisodeMemory
from physgym.running.run_step import RunStep, without_additions
from physgym.running.step_source import DatasetSteps
from physgym.running.timed_predictor import TimedPredictor
from physgym.sample import Sample, SampleSpec, finite_rows

ROWS, ROW_BYTES = 256, 1 << 20  # of steps that are read at once


class StoredSteps(DatasetSteps):
    """Gives the stored steps of a dataset.

    Args:
        dataset: Has the fields that feed the network.
        predictor: The network.
        compare: Whether predictions are compared with what is stored.

    Raises:
        ConfigError: A field does not fit the network, or a recurrent network cannot follow the episodes.
    """

    def __init__(self, dataset: SampleDataset, predictor: TimedPredictor, *, compare: bool) -> None:
        super().__init__(dataset)
        self._predictor, self._compare = predictor, compare
        self._memory = EpisodeMemory(dataset, predictor) if predictor.predictor.recurrent else None
        self.spec = fitting_fields(without_additions(dataset.spec), predictor.predictor)

    @property
    def solved(self) -> bool:
        """Return whether a solver made the samples."""
        return not self._dataset.source.get("surrogate")

    def steps(self, after: tuple[int, int] | None, limit: int | None) -> Iterator[RunStep]:
        """Yield the first steps of the dataset."""
        count = len(self._dataset) if limit is None else limit
        size = self._predictor.batch_size
        block = size * max(1, min(ROWS, ROW_BYTES // max(1, self.spec.nbytes)) // size)
        names = [self._dataset.index(name) for name in ("episode", "step", "seed", "env")]
        for start in range(0, count, block):
            stop = min(start + block, count)
            read = self._dataset.read(start, stop, list(self.spec))
            self._check_finite(read, start)
            columns = [(name, list(value)) for name, value in read.items()]
            rows = [{name: np.asarray(column[i]) for name, column in columns} for i in range(stop - start)]
            which = [column[start:stop].tolist() for column in names]
            for first in range(0, len(rows), size):
                part = slice(first, first + size)
                if self._memory is None:
                    predictions = self._predictor.several(rows[part])
                else:
                    predictions = iter([self._memory.predict(start + first, rows[first])])
                for row, (prediction, seconds), episode, step, seed, env in zip(
                    rows[part], predictions, *(column[part] for column in which), strict=True
                ):
                    transition = Transition(step, None, None, np.nan, False, {}, row, "")
                    yield RunStep(episode, transition, prediction, np.nan, seconds, seed, env, self._compare, self.spec)

    def _check_finite(self, rows: Sample, start: int) -> None:
        """Check what the network is fed with in samples from an index on.

        Raises:
            SampleError: A value is not finite, and the network does not say that it takes such values.
        """
        predictor = self._predictor.predictor
        if predictor.takes_nonfinite:
            return
        for name in predictor.inputs:
            if not (good := finite_rows(self.spec, name, rows)).all():
                i = start + int(np.argmin(good))
                episode, step = (self._dataset.index(one)[i] for one in ("episode", "step"))
                raise SampleError(
                    f"the input {name!r} is not finite in sample {i} (episode {episode}, step {step}). Replay a "
                    f"dataset without such samples: physgym data filter DATA --where 'isfinite(\"{name}\")' --out OTHER"
                )


def fitting_fields(sample: SampleSpec, predictor: Predictor) -> SampleSpec:
    """Return the fields of stored samples.

    Raises:
        ConfigError: One does not fit the network.
    """
    for name, want in predictor.spec.items():
        got, needed = sample.get(name), name in predictor.inputs
        if (got is None and needed) or (got is not None and got.shape != want.shape):
            shown = "none" if got is None else f"{got.dtype} {got.shape}"
            what = "is fed with" if needed else "predicts"
            raise ConfigError(
                f"the network {what} {name!r} as {want.dtype} {want.shape}, the dataset has {shown}. Use the dataset "
                "of the same simulation, or, for another grid, the predictor for it: predictor.on(dataset.spec)"
            )
    return sample
