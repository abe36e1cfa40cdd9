"""`BatchStep`: an optimization step on a batch: losses, gradient, checks, step of the optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from physgym.nn.finiteness import NonFiniteFlag
from physgym.nn.optimization import Optimization
from physgym.training.batch_loss import BatchLoss
from physgym.training.diagnosis import BatchPlace, Diagnosis, no_gradient
from physgym.training.history import Means, TrainingProgress, floats, length
from physgym.training.late_losses import LateLosses, Numbers
from physgym.training.supply import Learner, Supply

LATE = ("cuda",)  # devices of which losses are fetched later; others are not waited for, or not worth it


class BatchStep:
    """Optimization step on a batch.

    On the CPU the loss is looked at before the gradient is computed, and the gradient before the step is made. On a GPU
    that would wait for the device three times in each step. There the optimizer is made one that leaves the weights
    alone where a flag on the device says that loss or gradient are not finite; losses and flags are fetched every
    `late_losses.FETCH_EVERY` steps, at the end of an epoch, before a checkpoint, and when a callback looks at a loss.
    What follows from a loss that is not finite is the same, some steps later. Where the optimizer cannot do so, or
    is more than a step of the gradient, where batches are skipped, and with several processes, each loss is fetched.

    Args:
        loss: The loss of a batch.
        learner: The network, its optimization, and the processes that train together.
        progress: Where the training is; gets the losses.
        diagnosis: Decides what becomes of a batch whose loss is not finite.
    """

    def __init__(self, loss: BatchLoss, learner: Learner, progress: TrainingProgress, diagnosis: Diagnosis) -> None:
        self._loss, self._learner, self._progress, self._diagnosis = loss, learner, progress, diagnosis
        self._optimization = learner.optimization
        self._late = LateLosses(progress, diagnosis)
        self._flag: NonFiniteFlag | None = None  # while losses are fetched later
        self._tried = False  # whether they can be

    def begin(self, optimization: Optimization) -> None:
        """Begin a training, or continue with one: the first loss is looked at before its step.

        Raises:
            DivergedError: Losses were left on the device, by a training that an error has ended, and one is not finite.
        """
        self.fetch()
        self._optimization, self._flag, self._tried = optimization, None, False

    def fetch(self) -> None:
        """Fetch the losses that are still on the device.

        Raises:
            DivergedError: One is not finite.
        """
        self._late.fetch()

    def take(self, batch: Mapping[str, Tensor], supply: Supply) -> dict[str, float]:
        """Optimize the network on a batch, and return the loss and what else was computed, by name.

        Raises:
            DivergedError: A loss is not finite, of this batch or of one before.
        """
        if self._flag is not None:
            return self._take_late(batch, supply, self._flag)
        optimization, ranks = self._optimization, self._learner.ranks
        values = self.gradient(batch, supply.least)  # the forward and the backward pass
        if self._diagnosis.accepts(values, batch, supply):
            optimization.step(partial(self._closure, batch, supply.least))
            optimization.end_batch()
            self._progress.means.add(values, samples=length(batch) * ranks.size)
            if ranks.device.type in LATE and not self._tried:
                self._flag, self._tried = self._guard(), True
        return values

    def gradient(self, batch: Mapping[str, Tensor], least: int = 1) -> dict[str, float]:
        """Compute the gradient of a batch, and its values by name; without a finite loss there is no gradient.

        The values are the means over all processes, so that what follows from them is the same in all.

        Args:
            batch: Fields of shape (batch, *shape).
            least: Samples that the network needs in each part in which the gradient is computed.
        """
        optimization, ranks, count = self._optimization, self._learner.ranks, length(batch)
        parts = max(1, min(optimization.accumulate, count // least))
        ranks.agree(self._learner.predictor)
        optimization.zero_grad()
        means = Means()
        for number in range(parts):
            part = _part(batch, number, parts)
            samples = length(part)
            own: dict[str, float] = {}
            for losses in self._loss.summands(part):  # the forward pass; a single part, unless memory is saved
                numbers = floats(losses)
                own = {name: own.get(name, 0.0) + value for name, value in numbers.items()} if own else numbers
                if math.isfinite(own["loss"]) and not optimization.idle:
                    self._backward(losses["loss"], samples / count)
            means.add(ranks.means(own), samples=samples)
            values = means.values()
            if not math.isfinite(values["loss"]):
                self._diagnosis.elsewhere = math.isfinite(own["loss"])
                return values
        if ranks.size > 1:
            ranks.average(optimization.parameters)
        return values

    def _backward(self, loss: Tensor, share: float) -> None:
        if not loss.requires_grad:
            raise no_gradient()
        self._optimization.backward(loss * share if share != 1.0 else loss)

    def _closure(self, batch: Mapping[str, Tensor], least: int) -> Tensor:
        return torch.tensor(self.gradient(batch, least)["loss"], dtype=torch.float64)

    # --- without waiting for the device

    def _guard(self) -> NonFiniteFlag | None:
        """Return a flag that keeps the optimizer from a step; None where each loss has to be looked at."""
        ranks = self._learner.ranks
        if ranks.size > 1 or self._diagnosis.policy == "skip" or not self._optimization.guard():
            return None
        return NonFiniteFlag(ranks.device)

    def _take_late(self, batch: Mapping[str, Tensor], supply: Supply, flag: NonFiniteFlag) -> dict[str, float]:
        """Optimize the network on a batch, as `take`, and leave its losses on the device."""
        optimization = self._optimization
        count = max(1, min(optimization.accumulate, length(batch) // supply.least))
        optimization.zero_grad()
        parts: list[tuple[list[Numbers], int]] = []
        for number in range(count):
            part = _part(batch, number, count)
            summands: list[Numbers] = []
            for losses in self._loss.summands(part):
                self._backward(losses["loss"], length(part) / length(batch) if count > 1 else 1.0)
                flag.note([losses["loss"].detach()])
                summands.append({n: v.detach() if isinstance(v, Tensor) else float(v) for n, v in losses.items()})
            parts.append((summands, length(part)))
        flag.note(optimization.gradients)
        optimization.guarded_step(flag.value)
        optimization.end_batch()
        place = BatchPlace.of(self._progress, supply)
        values = self._late.add(parts, flag.value, batch, place)
        if self._late.full:
            self._late.fetch()
        return values


def _part(batch: Mapping[str, Tensor], number: int, parts: int) -> Mapping[str, Tensor]:
    """Return one of so many parts of a batch."""
    return batch if parts == 1 else {name: value.tensor_split(parts)[number] for name, value in batch.items()}
