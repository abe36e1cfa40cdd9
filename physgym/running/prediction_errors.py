"""Errors of predictions against what the solver gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.errors import SampleError
from physgym.relative_errors import relative_to
from physgym.spaces import Array


@dataclass(frozen=True)
class Errors:
    """Errors of one field over n samples, in the field's unit where they have one.

    A *point* is an entry of a field of scalars; or, in a field with at least two axes of which the last has at most
    three entries, a vector along it (the displacement of a node), whose error is the Euclidean norm.

    Attributes:
        relative_l2: Norm of the error over the norm of the target, per sample, shape (n,).
        mean: Mean error of a point, per sample, shape (n,).
        largest: Largest error of a point, per sample, shape (n,).
        size: Mean norm of the target's points, per sample, shape (n,).
    """

    relative_l2: Array
    mean: Array
    largest: Array
    size: Array

    @property
    def summary(self) -> dict[str, float]:
        """Return averages over the samples.

        "relative_to_mean_size" is the mean error over the mean size of the target.
        """
        size = float(self.size.mean())
        return {
            "relative_l2": float(self.relative_l2.mean()),
            "mean_error": float(self.mean.mean()),
            "max_error": float(self.largest.max()),
            "mean_size": size,
            "relative_to_mean_size": float(self.mean.mean()) / size if size else float("nan"),
        }


def compare(prediction: Array, target: Array) -> Errors:
    """Return the errors of predictions of one field.

    Args:
        prediction: Shape (n, *field shape).
        target: Same shape.

    Returns:
        The errors per sample. Where a target is zero throughout, its relative error is 0 for an exact prediction and
        infinite otherwise.

    Raises:
        SampleError: The shapes differ.
    """
    if prediction.shape != target.shape:
        raise SampleError(f"prediction has shape {prediction.shape}, target {target.shape}")
    wide = target.astype(np.float64)
    difference = prediction.astype(np.float64) - wide
    flat = (len(target), -1)
    errors, sizes = (np.linalg.norm(x.reshape(flat), axis=1) for x in (difference, wide))
    relative = relative_to(errors, sizes)
    vectors = target.ndim >= 3 and target.shape[-1] <= 3
    points, magnitudes = (
        np.linalg.norm(x, axis=-1).reshape(flat) if vectors else np.abs(x).reshape(flat) for x in (difference, wide)
    )
    return Errors(relative, points.mean(1), points.max(1), magnitudes.mean(1))


def stored_error(errors: Array) -> Array:
    """Return errors in the dtype in which a run stores them: float32, infinite where that holds no such number."""
    with np.errstate(over="ignore"):
        return errors.astype(np.float32)
