"""`TimedPredictor`: predictions for the steps of a run, and the time that they take."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from physgym.engine_names import Engine
from physgym.nn import Predictor
from physgym.nn.prepared import PreparedPredictor
from physgym.sample import Sample


class TimedPredictor:
    """Predicts for steps, one by one or for several at once, and takes the time.

    Args:
        predictor: The network.
        batch_size: For how many samples it predicts at once; 1 gives the bits of a single prediction.
        engine: What computes, see `PreparedPredictor`.

    Attributes:
        predictor: The same.
        batch_size: The same.
        prepared: The network as it predicts here.
    """

    def __init__(self, predictor: Predictor, batch_size: int, engine: Engine = "torch") -> None:
        self.predictor, self.batch_size = predictor, batch_size
        self.prepared = PreparedPredictor(predictor, batch_size, engine)

    def one(self, sample: Sample) -> tuple[Sample, float]:
        """Return the prediction for a sample, and its time in seconds."""
        start = time.perf_counter()
        prediction = self.prepared.predict(sample)
        return prediction, time.perf_counter() - start

    def following(self, sample: Sample, memory: Any) -> tuple[Sample, float, Any]:
        """Return the prediction for a sample of an episode, its time in seconds, and what the network remembers then.

        Args:
            sample: The sample.
            memory: What was returned for the one before it; None at the beginning of the episode.
        """
        if not self.predictor.recurrent:
            return *self.one(sample), None
        start = time.perf_counter()
        prediction, memory = self.prepared.predict_from(sample, memory)
        return prediction, time.perf_counter() - start, memory

    def several(self, samples: Sequence[Sample | None]) -> Iterator[tuple[Sample | None, float]]:
        """Yield the predictions for samples, and the time of each, its share of a batch; for None None and NaN."""
        if self.batch_size == 1:
            for sample in samples:
                yield (None, np.nan) if sample is None else self.one(sample)
            return
        asking = [sample for sample in samples if sample is not None]
        found: Iterator[Sample] = iter(())
        start = time.perf_counter()
        if asking:
            batch = {name: np.stack([sample[name] for sample in asking]) for name in self.predictor.inputs}
            predicted = self.prepared.predict(batch, batched=True)
            found = ({name: value[i] for name, value in predicted.items()} for i in range(len(asking)))
        share = (time.perf_counter() - start) / max(1, len(asking))
        for sample in samples:
            yield (None, np.nan) if sample is None else (next(found), share)

    def predict(self, batch: Mapping[str, Any], *, batched: bool = True, finite: bool = True) -> Sample:
        """Answer environments in workers that wait for a prediction.

        Without batches these are predicted one by one, which gives the bits that they have in one process.

        Args:
            batch: The fields that feed the network, of shape (n, *field shape).
            batched: As in `Predictor.predict`.
            finite: As in `Predictor.predict`.
        """
        count = len(next(iter(batch.values())))
        if self.batch_size > 1 or count == 1:
            return self.prepared.predict(batch, batched=batched, finite=finite)
        rows = [{name: value[i] for name, value in batch.items()} for i in range(count)]
        found = [self.prepared.predict(row, finite=finite) for row in rows]
        return {name: np.stack([one[name] for one in found]) for name in found[0]}
