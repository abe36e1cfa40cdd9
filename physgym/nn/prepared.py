"""`PreparedPredictor`: a network made ready to predict often, for few samples at once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from physgym.engine_names import ENGINES, Engine
from physgym.errors import ConfigError
from physgym.feedback import Feedback
from physgym.nn.engines import BuiltEngine, build_engine, network_digest
from physgym.nn.export.samples import drawn_samples
from physgym.nn.flat_mlp import FlatMLP
from physgym.nn.predictor import Predictor
from physgym.nn.threads import SMALL, TRIES, OneThread, ThreadChoice, chosen_threads, timed
from physgym.nn.undisturbed import undisturbed
from physgym.sample import Sample, SampleSpec

log = logging.getLogger(__name__)


class PreparedPredictor:
    """Predicts as a network does, without waiting for threads that save no time; by torch to the bit.

    Args:
        predictor: The network, which shares its weights with the engine "torch".
        batch_size: How many samples are predicted at once where it is not one.
        engine: What computes, see `physgym.nn.engines`.

    Attributes:
        predictor: The same.
        batch_size: The same.
        engine: The same.
        choice: The threads of a prediction for `batch_size` samples, and its time.

    Raises:
        ConfigError: There is no such engine, or it cannot be made of the network.
    """

    def __init__(self, predictor: Predictor, batch_size: int = 1, engine: Engine = "torch") -> None:
        if engine not in ENGINES:
            raise ConfigError(f"engine={engine!r} must be one of {', '.join(ENGINES)}")
        self.predictor, self.batch_size, self.engine = predictor, batch_size, engine
        self._built: BuiltEngine | None = None
        self._choose()
        self.refresh()

    def _choose(self) -> None:
        """Find out how many threads pay, which depends on how many torch has."""
        self._threads = torch.get_num_threads()
        choices = {count: chosen_threads(self.predictor, count) for count in {1, self.batch_size}}
        self._alone = {count for count, choice in choices.items() if choice.alone}
        self.choice: ThreadChoice = choices[self.batch_size]
        self._short = {count for count, choice in choices.items() if choice.seconds < SMALL}
        self._flat: FlatMLP | None = None
        self._flatten()

    def _flatten(self) -> None:
        """Find out whether a small network can predict without the calls of its modules: with the same bits."""
        if self.engine != "torch" or not self._short or (self._flat is not None and self._flat.holds):
            return
        self._flat = flat = FlatMLP.of(self.predictor)
        if flat is None:
            return
        with undisturbed():
            if not all(self._has_same_bits(flat, count) for count in self._short):
                self._flat = None
            elif self.batch_size in self._short:
                self.choice = replace(self.choice, seconds=self._timed())

    def _has_same_bits(self, flat: FlatMLP, count: int) -> bool:
        """Return whether the predictions for some random batches are the same to the bit."""
        drawn = self.predictor.arrays(drawn_samples(self.predictor, count * TRIES), batched=True)
        with OneThread(active=count in self._alone):
            for start in range(0, count * TRIES, count):
                fed = {name: value[start : start + count] for name, value in drawn.items()}
                wanted = self.predictor.predict(fed, batched=True)
                if any(wanted[name].tobytes() != value.tobytes() for name, value in flat.predict(fed).items()):
                    return False
        return True

    def refresh(self) -> None:
        """Make the engine where there is none, and again where the network has changed, in weights or otherwise.

        Raises:
            ConfigError: It cannot be made.
        """
        if self.engine == "torch":
            self._flatten()
            return
        one = 1 in self._alone
        with OneThread(active=one):
            if self._built is not None and self._built.network == network_digest(self.predictor):
                return
            self._built = build_engine(self.predictor, self.engine, threads=1 if one else self._threads)
        self.choice = ThreadChoice(one, self._timed(), self._built.text)
        log.info("predictions by the engine %s: %s", self.engine, self._built.text)

    def _timed(self) -> float:
        """Return the time of a prediction by the engine."""
        batch = drawn_samples(self.predictor, self.batch_size)
        self.predict(batch, batched=True)
        return timed(lambda: self.predict(batch, batched=True))

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

    def predict(self, sample: Mapping[str, Any], *, batched: bool = False, finite: bool = True) -> Sample:
        """Predict in physical units; see `Predictor.predict`."""
        return self.predict_from(sample, None, batched=batched, finite=finite)[0]

    def predict_from(
        self, sample: Mapping[str, Any], memory: Any, *, batched: bool = False, finite: bool = True
    ) -> tuple[Sample, Any]:
        """Predict with what a recurrent network remembers; see `Predictor.predict_from`."""
        if self._built is not None:
            return self._run(self._built, sample, batched=batched, finite=finite), None
        if torch.get_num_threads() != self._threads:
            self._choose()
        count = _count(sample, self.inputs[0], batched=batched)
        with OneThread(active=count in self._alone):
            if self._flat is None or count not in self._short or not self._flat.holds:
                return self.predictor.predict_from(sample, memory, batched=batched, finite=finite)
            found = self._flat.predict(self.predictor.arrays(sample, batched=batched, finite=finite))
            return found if batched else {name: value[0] for name, value in found.items()}, None

    def _run(self, built: BuiltEngine, sample: Mapping[str, Any], *, batched: bool, finite: bool) -> Sample:
        fed = self.predictor.arrays(sample, batched=batched, finite=finite)
        self.predictor.check_overflow(fed, self.predictor.dtype)
        with OneThread(active=1 in self._alone):
            found = built.run(fed)
        return dict(found) if batched else {name: value[0] for name, value in found.items()}


def _count(sample: Mapping[str, Any], name: str, *, batched: bool) -> int:
    """Return how many samples there are; 0 where that cannot be seen."""
    if not batched:
        return 1
    value = sample.get(name)
    return len(value) if isinstance(value, np.ndarray) and value.ndim else 0
