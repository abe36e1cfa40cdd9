"""Errors of rollouts by component, each relative to its own standard deviation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

import numpy as np

from physgym.data.statistics import Statistics
from physgym.nn.metrics import component_axis, units_of_components
from physgym.relative_errors import relative_to
from physgym.running.autoregression import PredictedTrajectory
from physgym.sample import Field
from physgym.spaces import Array


@dataclass(frozen=True)
class ComponentErrors:
    """Errors of the components of a field by horizon, such as those of a position in m and of an angle in rad.

    Attributes:
        units: Unit of each component, empty for none.
        rmse: Root mean squared error of each component over the episodes that reach a horizon, in its unit, shape
            (horizon, components), float64: infinite from the first divergence on.
        nrmse: The same over the standard deviation of the component in the solver's steps, shape (horizon, components).
    """

    units: tuple[str, ...]
    rmse: Array
    nrmse: Array

    @property
    def mixed(self) -> bool:
        """Return whether components have units of their own, so that no figure of all of them has a meaning."""
        return len(set(self.units)) > 1


class ComponentSums:
    """Sums of the squared errors of the components of a field, while rollouts are measured.

    Args:
        field: The field.
        horizon: Steps of a rollout.
    """

    def __init__(self, field: Field, horizon: int) -> None:
        axis = component_axis(field)
        assert axis is not None
        self._field, self._axis = field, axis
        self._squares = np.zeros((horizon, field.shape[axis]))
        self._counts = np.zeros((horizon, field.shape[axis]))
        self._true: list[Statistics] = []  # of real and imaginary parts

    @staticmethod
    def possible(field: Field) -> bool:
        """Return whether a field has components."""
        return component_axis(field) is not None

    def add(self, one: PredictedTrajectory) -> None:
        """Take in a rollout."""
        name = self._field.name
        true, present = one.true[name], one.present[name]
        with np.errstate(over="ignore", invalid="ignore"):
            wide = np.result_type(true, np.float64)
            errors = np.abs(one.predicted[name].astype(wide) - true.astype(wide)) ** 2
        errors[one.finite :] = np.inf
        there = np.ones(true.shape, bool) if present is None else np.broadcast_to(present, true.shape)
        self._squares[: one.horizon] += self._by_component(np.where(there, errors, 0.0))
        self._counts[: one.horizon] += self._by_component(there)
        parts = [true.real, true.imag] if true.dtype.kind == "c" else [true]
        found = [Statistics.of(part, None if present is None else there) for part in parts]
        known = self._true or [Statistics.empty(self._field.shape) for _ in found]
        self._true = [before.merge(more) for before, more in zip(known, found, strict=True)]

    def _by_component(self, values: Array) -> Array:
        """Return sums over the other axes of a step, shape (steps, components)."""
        moved = np.moveaxis(values, self._axis + 1, 1)
        return np.asarray(moved.reshape(*moved.shape[:2], math.prod(moved.shape[2:])).sum(2))

    def errors(self) -> ComponentErrors:
        """Return the errors of all that was taken in."""
        squares = reduce(np.add, [one.counts * one.std**2 for one in self._true])
        spread = self._by_component(squares[np.newaxis])[0]
        count = self._by_component(self._true[0].counts[np.newaxis])[0]
        with np.errstate(invalid="ignore", divide="ignore"):
            rmse = np.sqrt(self._squares / self._counts)
            deviation = np.sqrt(spread / count)
        return ComponentErrors(tuple(units_of_components(self._field)), rmse, relative_to(rmse, deviation))
