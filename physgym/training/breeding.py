"""Breeding: the losses of an online training choose the parameters of the simulations to come."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from physgym.errors import ConfigError
from physgym.events import Callback
from physgym.generation.generate import BREED_ALONE
from physgym.generation.online import Online
from physgym.generation.stream import SampleStream
from physgym.nn.predictor import evaluating
from physgym.samplers.breed import Breed
from physgym.spaces import Array

if TYPE_CHECKING:
    from torch import Tensor

    from physgym.training.history import History
    from physgym.training.pipeline import Training

CHOICES = "simulations.json"  # in a session: the parameters that were chosen, by episode


def breeding_of(source: Any, session: Path | None) -> Breeding | None:
    """Return what lets the losses of a training drive the sampler of its source, None where it needs none.

    Args:
        source: That of a `Trainer`.
        session: Its folder.

    Raises:
        ConfigError: The sampler is `Breed`, and the source is no online one.
    """
    if isinstance(source, SampleStream) and source.breed is not None:
        raise ConfigError(BREED_ALONE)
    if isinstance(source, Online) and source.stream.breed is not None:
        return Breeding(source.stream.breed, session)
    return None


class Breeding(Callback):
    """Tells a `Breed` how hard its simulations are to learn.

    The loss of a sample is its mean squared error, as the network sees it: normalized, where that is done. What counts
    is by how many standard deviations it exceeds the mean of its batch (nothing, where it is less), so that losses of
    different times can be compared; a simulation's loss is the mean over its samples that were drawn.

    Args:
        breed: The sampler.
        session: Folder that gets ``simulations.json``, what was chosen; None for none.
        period: Batches after which the sampler gets the losses.
        every: Batches of which the losses of one are looked at, which takes a further forward pass.

    Sources:
        Dymchenko, Purandare and Raffin, "MelissaDL x Breed: Towards Data-Efficient On-line Supervised Training of
        Multi-parametric Surrogates with Active Learning", AI4S 2024: the deviation of losses, and the period.
    """

    every_rank = False

    def __init__(self, breed: Breed, session: Path | None = None, *, period: int = 100, every: int = 1) -> None:
        self.breed, self.session, self.period, self.every = breed, session, period, every
        self._sums: dict[int, float] = {}
        self._counts: dict[int, int] = {}
        self._batches = 0
        self._batch: dict[str, Tensor] = {}

    def batch_begin(self, trainer: Training, batch: dict[str, Tensor]) -> None:
        """Keep the batch."""
        self._batch = batch

    def batch_end(self, trainer: Training, values: dict[str, float]) -> None:
        """Note the losses of the samples, and tell the sampler every `period` batches."""
        self._batches += 1
        if self._batches % self.every == 0:
            self._note(trainer.drawn_episodes, _errors(trainer, self._batch))
        if self._batches % self.period == 0:
            self.breed.learn({episode: total / self._counts[episode] for episode, total in self._sums.items()})
            self._sums, self._counts = {}, {}

    def _note(self, episodes: Array, errors: Array) -> None:
        """Add the deviations of a batch to its simulations."""
        spread = errors.std()
        if len(episodes) != len(errors) or not np.isfinite(spread) or spread == 0:
            return
        deviations = np.maximum((errors - errors.mean()) / spread, 0.0)
        for episode, deviation in zip(episodes.tolist(), deviations.tolist(), strict=True):
            self._sums[episode] = self._sums.get(episode, 0.0) + deviation
            self._counts[episode] = self._counts.get(episode, 0) + 1

    def epoch_end(self, trainer: Training, values: dict[str, float]) -> None:
        """Save the chosen parameters."""
        self._save()

    def train_end(self, trainer: Training, history: History) -> None:
        """Save the chosen parameters."""
        self._save()

    def _save(self) -> None:
        if self.session is not None and self.session.exists():
            self.breed.save(self.session / CHOICES)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the sampler, and the losses that it has not got yet."""
        sums = [[episode, total, self._counts[episode]] for episode, total in self._sums.items()]
        return {"breed": self.breed.state_dict(), "batches": self._batches, "sums": sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.breed.load_state_dict(state["breed"])
        self.breed.keep()
        self._batches = int(state["batches"])
        self._sums = {int(episode): float(total) for episode, total, _ in state["sums"]}
        self._counts = {int(episode): int(count) for episode, _, count in state["sums"]}


@torch.no_grad()
def _errors(trainer: Training, batch: dict[str, Tensor]) -> Array:
    """Return the mean squared error of each sample of a batch, shape (batch,), float64."""
    predictor = trainer.predictor
    fields = predictor.tensors(batch)
    target = {name: fields[name] for name in trainer.loss_fields}
    with evaluating(predictor):  # a further pass may change no statistics of layers, and draw no random numbers
        prediction, wanted = predictor.for_loss(predictor(fields), target, fields)
    errors = [
        (prediction[name].double() - wanted[name].double()).square().reshape(len(prediction[name]), -1).mean(1)
        for name in prediction
        if name in wanted and wanted[name].shape == prediction[name].shape
    ]
    found: Array = torch.stack(errors).sum(0).cpu().numpy() if errors else np.zeros(0)
    return found
