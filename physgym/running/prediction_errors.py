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
    three entries, a vector along it (the displacement of a node), whose error is the Euclidean norm. Of a padded field
    what is there counts; where a sample has nothing, its errors are 0 and it is left out of averages.

    Attributes:
        relative_l2: Norm of the error over the norm of the target, per sample, shape (n,).
        mean: Mean error of a point, per sample, shape (n,).
        largest: Largest error of a point, per sample, shape (n,).
        size: Mean norm of the target's points, per sample, shape (n,).
        points: Number of points that are there, per sample, shape (n,).
    """

    relative_l2: Array
    mean: Array
    largest: Array
    size: Array
    points: Array

    @property
    def summary(self) -> dict[str, float]:
        """Return averages over the samples in which something is there; NaN where there is none.

        "relative_to_mean_size" is the mean error over the mean size of the target.
        """
        there = self.points > 0
        if not there.any():
            names = ("relative_l2", "mean_error", "max_error", "mean_size", "relative_to_mean_size")
            return dict.fromkeys(names, float("nan"))
        size, mean = float(self.size[there].mean()), float(self.mean[there].mean())
        return {
            "relative_l2": float(self.relative_l2[there].mean()),
            "mean_error": mean,
            "max_error": float(self.largest[there].max()),
            "mean_size": size,
            "relative_to_mean_size": mean / size if size else float("nan"),
        }


def compare(prediction: Array, target: Array, present: Array | None = None) -> Errors:
    """Return the errors of predictions of one field.

    Args:
        prediction: Shape (n, *field shape).
        target: Same shape.
        present: Flags of the values that are there, which broadcast to that shape; None for all.

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
    if present is not None:
        wide, difference = np.where(present, wide, 0), np.where(present, difference, 0)
    flat = (len(target), -1)
    errors, sizes = (np.linalg.norm(x.reshape(flat), axis=1) for x in (difference, wide))
    relative = relative_to(errors, sizes)
    vectors = target.ndim >= 3 and target.shape[-1] <= 3
    points, magnitudes = (
        np.linalg.norm(x, axis=-1).reshape(flat) if vectors else np.abs(x).reshape(flat) for x in (difference, wide)
    )
    if present is None:
        return Errors(
            relative, points.mean(1), points.max(1), magnitudes.mean(1), np.full(len(target), points.shape[1])
        )
    flags = np.broadcast_to(present, target.shape)
    counts = (flags.any(-1) if vectors else flags).reshape(flat).sum(1)
    over = np.maximum(counts, 1)
    return Errors(relative, points.sum(1) / over, points.max(1), magnitudes.sum(1) / over, counts)


def stored_error(errors: Array) -> Array:
    """Return errors in the dtype in which a run stores them: float32, infinite where that holds no such number."""
    with np.errstate(over="ignore"):
        return errors.astype(np.float32)
