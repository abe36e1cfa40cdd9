"""Samples on which a network is compared with what was made of it: a file, a program, another number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np

from physgym.errors import PhysGymError
from physgym.nn.predictor import Predictor
from physgym.nn.transforms import Normalize
from physgym.sample import Field, Sample
from physgym.spaces import Array


def samples_for(predictor: Predictor, count: int) -> tuple[Sample, str]:
    """Return input fields of so many samples, and where they are from.

    They are training samples where these are found; else random ones as the normalization has them.
    """
    if (stored := _stored(predictor, count)) is not None:
        return stored, "training samples"
    return drawn_samples(predictor, count), "random samples"


def drawn_samples(predictor: Predictor, count: int) -> Sample:
    """Return input fields of so many samples, random ones as the normalization has them; always the same."""
    rng = np.random.default_rng(0)
    drawn = {name: _drawn(predictor, predictor.spec[name], count, rng) for name in predictor.inputs}
    try:
        predictor.predict(drawn, batched=True)
    except (PhysGymError, IndexError, RuntimeError, ValueError):  # integers may be indices
        for name in predictor.inputs:
            if predictor.spec[name].dtype.kind in "iu":
                drawn[name] = np.zeros_like(drawn[name])
    return drawn


def _stored(predictor: Predictor, count: int) -> Sample | None:
    """Return training samples from all over the dataset; None where there are none, or they have not all fields."""
    samples = None if predictor.learned is None else predictor.learned.samples
    if samples is None or not len(samples):
        return None
    for name in predictor.inputs:
        if name not in samples.spec or samples.spec[name].shape != predictor.spec[name].shape:
            return None
    rows = np.linspace(0, len(samples) - 1, count).astype(int)
    try:
        read = samples[rows]
        return {name: read[name].astype(predictor.spec[name].dtype, copy=False) for name in predictor.inputs}
    except (PhysGymError, OSError):  # they may be gone since
        return None


def _drawn(predictor: Predictor, field: Field, count: int, rng: np.random.Generator) -> Array:
    shape = (count, *field.shape)
    if field.dtype.kind == "b" or field.kind == "flag":
        return np.asarray(rng.integers(0, 2, shape), field.dtype)
    if field.kind == "one-hot" and field.shape:
        chosen = rng.integers(0, field.shape[-1], shape[:-1])
        return np.asarray(chosen[..., np.newaxis] == np.arange(field.shape[-1]), field.dtype)
    if field.dtype.kind in "iu":
        return np.asarray(rng.integers(0, 2, shape), field.dtype)
    mean, scale = _moments(predictor, field.name)
    values: Any = mean + scale * rng.standard_normal(shape)
    if field.dtype.kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    drawn: Array = np.asarray(values).astype(field.dtype)
    return drawn


def _moments(predictor: Predictor, name: str) -> tuple[Any, Any]:
    """Return mean and scale of an input field, as the first normalization of it has them."""
    for module in predictor.transforms.before_prediction.modules():
        if isinstance(module, Normalize) and name in module.shapes:
            index = list(module.shapes).index(name)
            mean, scale = (module.get_buffer(f"{part}_{index}").cpu().double() for part in ("mean", "scale"))
            return mean.numpy(), scale.numpy()
    return 0.0, 1.0
