"""Losses that `torch.nn` lacks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RelativeL2(nn.Module):
    """Mean over the batch of the relative error in the Euclidean norm, ``||prediction - target|| / ||target||``.

    Small and large samples count alike, and the value reads as an error in parts of one. It is relative to the units
    in which the loss is computed: choose ``Transforms.normalization(..., physical_loss=True)`` for physical ones.

    Args:
        eps: Smallest norm of a target to divide by, so that a target of zeros gives a finite loss.
    """

    def __init__(self, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            prediction: Shape (batch, *shape), floating point.
            target: Same shape.

        Returns:
            A scalar.
        """
        batch = target.shape[0]
        error = torch.linalg.vector_norm((prediction - target).reshape(batch, -1), dim=1)
        norm = torch.linalg.vector_norm(target.reshape(batch, -1), dim=1)
        relative: Tensor = error / norm.clamp_min(self.eps)  # (batch,)
        return relative.mean()
