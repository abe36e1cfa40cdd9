"""What predicts without a network: yardsticks that a trained one must beat to have learned anything."""

from __future__ import annotations

import numpy as np

from yardsticks.case import Fields, Predict, Shown

RIDGES = (1e-9, 1e-6, 1e-4, 1e-2, 1.0)  # relative to the mean diagonal


def training_mean(input_: str, target: str, train: Shown) -> Predict:
    """Return what predicts the mean target of the training samples."""
    mean = train[:][target].mean(0, dtype=np.float64)
    return lambda fields: {target: np.broadcast_to(mean, (len(fields[input_]), *mean.shape))}


def nothing(input_: str, target: str, train: Shown) -> Predict:
    """Return what predicts zero: a body at rest."""
    shape = train.spec[target].shape
    return lambda fields: {target: np.zeros((len(fields[input_]), *shape))}


def mean_of_input(input_: str, target: str, train: Shown) -> Predict:
    """Return what predicts the mean of the input at each point."""
    return lambda fields: {target: np.broadcast_to(fields[input_].mean(1, keepdims=True), fields[input_].shape)}


def no_change(input_: str, target: str, train: Shown) -> Predict:
    """Return what predicts that a state stays as it is."""
    return lambda fields: {target: fields[input_]}


def last_stays(input_: str, target: str, train: Shown) -> Predict:
    """Return what predicts that the last one of several states stays as it is."""
    return lambda fields: {target: fields[input_][:, -1:]}


def linear_map(input_: str, target: str, train: Shown) -> Predict:
    """Return a ridge regression, whose ridge is the one that does best on every fifth training sample."""
    samples = train[:]
    x, y = (samples[name].reshape(len(train), -1).astype(np.float64) for name in (input_, target))
    held_out = np.arange(len(x)) % 5 == 0

    def error(ridge: float) -> float:
        weights, constant = _regression(x[~held_out], y[~held_out], ridge)
        return float(((x[held_out] @ weights + constant - y[held_out]) ** 2).mean())

    weights, constant = _regression(x, y, min(RIDGES, key=error))
    shape = train.spec[target].shape

    def predict(fields: Fields) -> Fields:
        flat = fields[input_].reshape(len(fields[input_]), -1).astype(np.float64)
        return {target: (flat @ weights + constant).reshape(len(flat), *shape)}

    return predict


def _regression(x: np.ndarray, y: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights and the constant of a ridge regression."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    gram, cross = (x - mean_x).T @ (x - mean_x), (x - mean_x).T @ (y - mean_y)
    weights = np.linalg.solve(gram + ridge * np.trace(gram) / len(gram) * np.eye(len(gram)), cross)
    return weights, mean_y - mean_x @ weights
