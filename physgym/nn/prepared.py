"""`PreparedPredictor`: a network made ready to predict often, for few samples at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from physgym.feedback import Feedback
from physgym.nn.predictor import Predictor
from physgym.nn.threads import OneThread, ThreadChoice, chosen_threads
from physgym.sample import Sample, SampleSpec


class PreparedPredictor:
    """Predicts as a network does, to the bit, without waiting for threads that save no time.

    Args:
        predictor: The network, which shares its weights.
        batch_size: How many samples are predicted at once where it is not one.

    Attributes:
        predictor: The same.
        batch_size: The same.
    """

    def __init__(self, predictor: Predictor, batch_size: int = 1) -> None:
        self.predictor, self.batch_size = predictor, batch_size
        self._choose()

    def _choose(self) -> None:
        """Find out how many threads pay, which depends on how many torch has."""
        self._threads = torch.get_num_threads()
        choices = {count: chosen_threads(self.predictor, count) for count in {1, self.batch_size}}
        self._alone = {count for count, choice in choices.items() if choice.alone}
        self.choice: ThreadChoice = choices[self.batch_size]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the fields that feed the network."""
        return self.predictor.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the fields that it predicts."""
        return self.predictor.outputs

    @property
    def spec(self) -> SampleSpec:
        """Return the input and output fields."""
        return self.predictor.spec

    @property
    def recurrent(self) -> bool:
        """Return whether the network remembers earlier steps."""
        return self.predictor.recurrent

    @property
    def feedback(self) -> Feedback:
        """Return which outputs are which inputs of the next step; empty where nothing is declared."""
        return self.predictor.feedback

    @property
    def seconds(self) -> float:
        """Return the time of a prediction, one after the other, or its share of a batch; NaN where it is not known."""
        return self.choice.seconds / self.batch_size

    def predict(self, sample: Mapping[str, Any], *, batched: bool = False) -> Sample:
        """Predict in physical units; see `Predictor.predict`."""
        return self.predict_from(sample, None, batched=batched)[0]

    def predict_from(self, sample: Mapping[str, Any], memory: Any, *, batched: bool = False) -> tuple[Sample, Any]:
        """Predict with what a recurrent network remembers; see `Predictor.predict_from`."""
        if torch.get_num_threads() != self._threads:
            self._choose()
        if _count(sample, self.inputs[0], batched=batched) not in self._alone:
            return self.predictor.predict_from(sample, memory, batched=batched)
        with OneThread():
            return self.predictor.predict_from(sample, memory, batched=batched)


def _count(sample: Mapping[str, Any], name: str, *, batched: bool) -> int:
    """Return how many samples there are; 0 where that cannot be seen."""
    if not batched:
        return 1
    value = sample.get(name)
    return len(value) if isinstance(value, np.ndarray) and value.ndim else 0
