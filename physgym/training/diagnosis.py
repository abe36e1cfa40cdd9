"""Diagnosis of batches whose loss or gradient is not finite."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from physgym.errors import ConfigError, DivergedError
from physgym.nn.optimization import Optimization
from physgym.nn.predictor import Predictor
from physgym.spaces import Array
from physgym.training.history import TrainingProgress, length
from physgym.training.supply import Supply

OnNonFinite = Literal["raise", "skip"]

log = logging.getLogger(__name__)

SHOWN = 8  # samples that a message names


@dataclass(frozen=True)
class BatchPlace:
    """Place of a batch in a training.

    Attributes:
        epoch: Completed epochs before it.
        batch: Completed batches of the epoch before it.
        step: Completed batches in all before it.
        names: Gives episodes and steps of its samples, each of shape (batch,); empty if unknown.
    """

    epoch: int
    batch: int
    step: int
    names: Callable[[], list[Array]]

    @classmethod
    def of(cls, progress: TrainingProgress, supply: Supply) -> BatchPlace:
        """Return the place of the batch that is trained on."""
        return cls(progress.epoch, progress.batch, progress.step, supply.naming(progress))


class Diagnosis:
    """Decides what becomes of a batch, and explains what is wrong with it.

    Args:
        policy: What to do with a batch whose loss is not finite: "raise", or "skip" it.
        predictor: The network.
        optimization: Loss and optimizer.
        progress: Where the training is; counts batches that are skipped.

    Attributes:
        elsewhere: Whether another process has the loss that is not finite.
    """

    def __init__(
        self, policy: OnNonFinite, predictor: Predictor, optimization: Optimization, progress: TrainingProgress
    ) -> None:
        self.policy = policy
        self.elsewhere = False
        self._predictor, self._optimization, self._progress = predictor, optimization, progress

    def accepts(self, values: dict[str, float], batch: Mapping[str, Tensor], supply: Supply) -> bool:
        """Return whether a batch has a finite loss and gradient; if not, its loss becomes one that is not finite.

        Args:
            values: The loss, and what else was computed.
            batch: Fields of shape (batch, *shape).
            supply: Where the batch comes from.

        Raises:
            DivergedError: It has not, and such batches are not to be skipped.
        """
        finite = math.isfinite(values["loss"])
        if finite and self._optimization.has_finite_gradient():
            return True
        if finite:
            self.elsewhere = False
        self.refuse(values, batch, BatchPlace.of(self._progress, supply))
        return False

    def refuse(self, values: dict[str, float], batch: Mapping[str, Tensor], place: BatchPlace) -> None:
        """Skip a batch; its loss becomes one that is not finite.

        Args:
            values: The loss, which is not finite, or is finite where the gradient is not; and what else was computed.
            batch: Fields of shape (batch, *shape).
            place: The place of the batch.

        Raises:
            DivergedError: Such batches are not to be skipped.
        """
        if math.isfinite(values["loss"]):
            cause = f", and the gradient of the loss {values['loss']:.6g} is not finite"
            values["loss"] = math.nan
        elif bad := [name for name, value in batch.items() if not value.isfinite().all()]:
            cause = f", whose samples are not finite in {bad}"
        else:
            cause = ""
        sound = all(bool(value.isfinite().all()) for value in self._predictor.parameters())
        names = "samples of another process, whose message names them"
        if not self.elsewhere:
            names = self._names(batch, place)
        weights = "The weights are not finite themselves, after an earlier step."
        if sound:
            weights = "The network has the weights from before this batch."
        message = (
            f"the loss is {values['loss']} in epoch {place.epoch + 1}, batch {place.batch + 1}"
            f"{cause}; the batch holds {names}. {weights} "
            "Lower the learning rate, clip the gradient (Optimization(clip_norm=...)), look for bad samples, or skip "
            'such batches with on_nonfinite="skip".'
        )
        if self.policy == "raise" or not sound:
            raise DivergedError(message)
        self._progress.history.skipped += 1
        log.warning("skipped: %s", message)

    def _names(self, batch: Mapping[str, Tensor], place: BatchPlace) -> str:
        """Return episodes and steps of a batch, for people: of its non-finite samples if there are any."""
        found = place.names()
        if not found or len(found[0]) != length(batch):
            return f"{length(batch)} samples"
        flat = [value.flatten(1) if value.ndim > 1 else value[:, None] for value in batch.values()]
        finite = torch.stack([value.isfinite().all(1) for value in flat]).all(0).cpu().numpy()
        chosen = np.flatnonzero(~finite) if not finite.all() else np.arange(len(finite))
        shown = [f"episode {found[0][row]} step {found[1][row]}" for row in chosen[:SHOWN]]
        return ", ".join(shown) + (f" and {len(chosen) - SHOWN} more" if len(chosen) > SHOWN else "")


def no_gradient() -> ConfigError:
    """Return the error of a loss from which no gradient follows."""
    if not torch.is_grad_enabled():
        return ConfigError(
            "gradients are off: fit is called under torch.no_grad() or torch.inference_mode(); call it outside of that"
        )
    return ConfigError(
        "no gradient follows from the loss: something between the prediction and it is detached, or not of torch"
    )
