"""Diagnosis of batches whose loss or gradient is not finite."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from physgym.errors import ConfigError, DivergedError
from physgym.nn.optimization import Optimization
from physgym.nn.predictor import Predictor
from physgym.training.history import TrainingProgress, length
from physgym.training.supply import Supply

OnNonFinite = Literal["raise", "skip"]

log = logging.getLogger(__name__)

SHOWN = 8  # samples that a message names


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
        if math.isfinite(values["loss"]):
            if self._optimization.has_finite_gradient():
                return True
            cause = f", and the gradient of the loss {values['loss']:.6g} is not finite"
            values["loss"], self.elsewhere = math.nan, False
        elif bad := [name for name, value in batch.items() if not value.isfinite().all()]:
            cause = f", whose samples are not finite in {bad}"
        else:
            cause = ""
        sound = all(bool(value.isfinite().all()) for value in self._predictor.parameters())
        names = "samples of another process, whose message names them"
        if not self.elsewhere:
            names = self._names(batch, supply)
        weights = "The weights are not finite themselves, after an earlier step."
        if sound:
            weights = "The network has the weights from before this batch."
        message = (
            f"the loss is {values['loss']} in epoch {self._progress.epoch + 1}, batch {self._progress.batch + 1}"
            f"{cause}; the batch holds {names}. {weights} "
            "Lower the learning rate, clip the gradient (Optimization(clip_norm=...)), look for bad samples, or skip "
            'such batches with on_nonfinite="skip".'
        )
        if self.policy == "raise" or not sound:
            raise DivergedError(message)
        self._progress.history.skipped += 1
        log.warning("skipped: %s", message)
        return False

    def _names(self, batch: Mapping[str, Tensor], supply: Supply) -> str:
        """Return episodes and steps of the current batch, for people: of its non-finite samples if there are any."""
        found = supply.names(self._progress)
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
