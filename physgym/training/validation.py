"""Validation: samples held out, and the costlier evaluation every few epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from functools import cached_property
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from physgym.data.dataset_parts import HasParts
from physgym.errors import ConfigError, DatasetError
from physgym.nn.predictor import Predictor, evaluating
from physgym.training.batches import refusal
from physgym.training.foreign import Feed
from physgym.training.history import Means, floats, length
from physgym.training.random_state import generator_states, set_generator_states
from physgym.training.sources import Samples
from physgym.training.supply import Batching, Learner

EMPTY = "the {what} has no samples; generate some first"

LossFunction = Callable[[Mapping[str, Any]], Mapping[str, Tensor]]
RolloutFunction = Callable[[Predictor], Mapping[str, float]]


@runtime_checkable
class NamesFigures(Protocol):
    """A costlier validation that says which figures it gives; of others that is known when they have run."""

    def names(self, predictor: Predictor) -> Iterable[str]:
        """Return their names."""
        ...


@runtime_checkable
class ComparesCode(Protocol):
    """A costlier validation that runs code of a simulation, which may be other code than that of the samples."""

    def __call__(self, predictor: Predictor) -> Mapping[str, float]:
        """Return figures by name."""
        ...

    def compare_code(self, learned: Mapping[str, Any] | None) -> None:
        """Warn where it is."""
        ...


class Validation:
    """Validation of a training after an epoch.

    Args:
        held_out: Fraction of the episodes to hold out, or samples of their own, or None.
        rollout: The costlier validation.
        every: Epochs from one rollout to the next.

    Attributes:
        samples: The samples; None without any, and as long as they are not produced.
    """

    def __init__(self, held_out: float | Samples | Feed | None, rollout: RolloutFunction | None, every: int) -> None:
        self.held_out, self.rollout, self.every = held_out, rollout, every
        self.samples = None if isinstance(held_out, (int, float)) else held_out

    @property
    def fraction(self) -> float | None:
        """Return the fraction of the episodes to hold out, None where there are samples of their own."""
        return self.held_out if isinstance(self.held_out, (int, float)) else None

    def hold_out(self, samples: Samples, seed: int) -> Samples:
        """Hold out episodes, if any are to be, and return the samples to train on.

        Args:
            samples: All samples.
            seed: Of the choice.

        Raises:
            DatasetError: No samples are left on one of the sides.
        """
        if len(samples) == 0:
            raise DatasetError(EMPTY.format(what="dataset"))
        training: Samples = samples
        if isinstance(samples, HasParts) and (split := samples.episode_split) is not None:
            # a test part that is recorded is in neither of both
            training = samples.part("training", split)
            if self.fraction and split.validation and len(training) < len(samples):
                self.samples = samples.part("validation", split)
        if self.fraction and self.samples is None:
            training, self.samples = training.split(self.fraction, seed)
        for what, part in (("training part of the dataset", training), ("validation part", self.samples)):
            if part is not None and not isinstance(part, Feed) and len(part) == 0:
                raise DatasetError(EMPTY.format(what=what))
        return training

    def rolled_out(self, predictor: Predictor, done: int, epochs: int) -> dict[str, float]:
        """Return the values of the costlier validation, if it is due.

        Args:
            predictor: The network.
            done: Completed epochs.
            epochs: Epochs in all; the last one is always evaluated.
        """
        if self.rollout is None or (done % self.every and done != epochs):
            return {}
        with evaluating(predictor):
            return {f"rollout_{name}": float(value) for name, value in self.rollout(predictor).items()}


class Evaluation:
    """Means of the losses over samples.

    Args:
        batching: How batches are made.
        learner: The network and its fields.
    """

    def __init__(self, batching: Batching, learner: Learner) -> None:
        self._batching, self._learner = batching, learner

    @cached_property
    def refuses_one(self) -> bool:
        """Return whether the network cannot be evaluated on a single sample."""
        return refusal(self._learner.predictor, training=False) is not None

    def check(self, samples: Samples | Feed | None) -> None:
        """Raise ConfigError where there is a single sample, on which the network cannot be evaluated."""
        if samples is not None and not isinstance(samples, Feed) and len(samples) == 1 and self.refuses_one:
            raise ConfigError(
                "the network needs more than one sample to be evaluated, and there is a single one; hold out more"
            )

    @torch.no_grad()
    def means(self, samples: Samples | Feed, losses: LossFunction) -> dict[str, float]:
        """Return the means over samples by name.

        Args:
            samples: The samples.
            losses: Computes the losses of a batch.
        """
        means = Means()
        batching, predictor, ranks = self._batching, self._learner.predictor, self._learner.ranks
        if isinstance(samples, Feed):
            before = generator_states()
            with evaluating(predictor), closing(samples.batches(batching.seed)) as given:
                for tensors in given:
                    means.add(floats(losses(tensors)), samples=length(tensors))
            set_generator_states(before)
            return means.values()
        self.check(samples)
        lone = len(samples) % batching.batch_size == 1 and self.refuses_one
        loader = self._learner.load(samples, batching, shuffle=False, min_batch=2 if lone else 1)
        # each process evaluates its share of the batches, unless they do not go round
        shared = len(loader) >= ranks.size
        rank, size = (ranks.rank, ranks.size) if shared else (0, 1)
        with evaluating(predictor), closing(iter(loader)) as batches:
            for tensors in islice(batches, rank, None, size):
                means.add(floats(losses(tensors)), samples=length(tensors))
        values = means.over(ranks) if shared else means.values()
        return {name: value for name, value in values.items() if name != "samples"}
