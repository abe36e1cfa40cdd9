"""Answers of the network in training to simulations that ask it while they produce samples."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.events import Callback
from physgym.nn.predictor import Predictor
from physgym.sample import Sample

if TYPE_CHECKING:
    from physgym.training.pipeline import Training


log = logging.getLogger(__name__)


class Answers(Callback):
    """Answers to a simulation's `predict` while a network is trained on its samples.

    A copy of the network answers, with the weights that it had when the present epoch began; before the first epoch
    those with which the training began. The copy is in evaluation mode, and may be asked from any thread.

    Which of the steps are made in which epoch depends on how fast simulations and training are, unless all are made
    before the first one: with samples that are produced meanwhile the result is not the same bit for bit in every run.

    Args:
        predictor: The network.
    """

    every_rank = False
    adds = ()

    def __init__(self, predictor: Predictor) -> None:
        self._lock = threading.Lock()
        self._predictor = self._copied(predictor)

    def predict(self, sample: Mapping[str, Any], *, batched: bool = False) -> Sample:
        """Predict in physical units, as `Predictor.predict`.

        Each row of a batch alone: which questions come together depends on the speed of the workers, and the last bits
        of a prediction on what is predicted with it.
        """
        with self._lock:
            if not batched:
                return self._predictor.predict(sample)
            count = len(next(iter(sample.values())))
            rows = [
                self._predictor.predict({name: value[row] for name, value in sample.items()}) for row in range(count)
            ]
        return {name: np.stack([row[name] for row in rows]) for name in self._predictor.outputs}

    def epoch_begin(self, trainer: Training) -> None:
        """Take over the weights."""
        known = self._copied(trainer.predictor)
        with self._lock:
            self._predictor = known

    @staticmethod
    def _copied(predictor: Predictor) -> Predictor:
        known = copy.deepcopy(predictor)
        known.zero_grad(set_to_none=True)
        return known.eval()


class Asked:
    """Answers of a network that is made when it is asked for the first time.

    Samples are generated without a training too, and most simulations ask for nothing.

    Args:
        make: Makes the network: that with which a training would begin.
    """

    def __init__(self, make: Callable[[], Predictor]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._answers: Answers | None = None

    def predict(self, sample: Mapping[str, Any], *, batched: bool = False) -> Sample:
        """Predict in physical units, as `Answers.predict`."""
        with self._lock:
            if self._answers is None:
                self._answers = Answers(self._make())
        return self._answers.predict(sample, batched=batched)


def answers_of(predictor: Predictor) -> Answers | None:
    """Return what answers with a network, None for one that cannot be copied."""
    try:
        return Answers(predictor)
    except Exception as error:  # noqa: BLE001 - of whatever a network is made
        log.info("simulations cannot ask this network, which cannot be copied: %s", error)
        return None
