"""`RolloutMetrics`: what compares each step of a rollout with the solver's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from physgym.data.recordings import FLAGS
from physgym.errors import ConfigError, SampleError
from physgym.nn.metrics import FieldComparison, FieldMetrics, Metric, MetricName, RelativeError, metrics_of
from physgym.sample import Field
from physgym.spaces import Array


def is_flag(field: Field) -> bool:
    """Return whether a field has zeros and ones, of which a relative error says nothing: most are zero."""
    return field.kind == "flag" or field.dtype == np.bool_ or field.name in FLAGS


class RolloutMetrics:
    """Metrics of single steps, by name.

    The relative error of flags, such as ``terminated``, is the part of them that is wrong.

    Args:
        named: Names of `physgym.nn.metrics.METRICS` of which a single step has a figure, or functions of (prediction,
            target), both of shape (steps, *field shape), float64, that return a figure for each step, shape (steps,).

    Raises:
        ConfigError: A name is unknown or there twice, or a single step has no such figure.
    """

    def __init__(self, named: Sequence[MetricName]) -> None:
        self._made = metrics_of(named)
        if not self._made:
            raise ConfigError("a rollout needs a metric at least, such as relative_l2")
        for name, make in self._made.items():
            if type(make()).per_sample is Metric.per_sample:
                raise ConfigError(
                    f"a single step has no {name}, which is one of many samples; a rollout needs a metric by step, "
                    "such as relative_l2, rmse or mae"
                )

    @property
    def names(self) -> list[str]:
        """Return their names."""
        return list(self._made)

    def unit(self, name: str, field: Field) -> str:
        """Return the unit of a metric of a field; empty where it has none, or none that is known."""
        if self._counts_wrong(name, field):
            return "part of the flags that is wrong"
        unit = FieldMetrics(field, self._made).unit(name)
        return "" if unit == "1" else unit

    def measure(self, name: str, field: Field, predicted: Array, true: Array, present: Array | None) -> Array:
        """Return a metric of each step, shape (steps,), float64; what is no number counts as infinite.

        Args:
            name: The metric.
            field: The field.
            predicted: Finite predictions, shape (steps, *field shape).
            true: The same of the solver.
            present: Flags of the values that are there, which broadcast to that shape; None for all.

        Raises:
            ConfigError: A function returned something else than a figure for each step.
            SampleError: A step has no value in the field.
        """
        if not len(true):
            return np.zeros(0)
        comparison = FieldComparison.of(predicted, true, present)
        if not comparison.counts.all():
            raise SampleError(
                f"a step of a rollout has no value in {field.name!r}, by its mask, so that nothing is to be compared "
                "there. Roll out episodes that have a value in each step (episodes=...), or fewer steps"
            )
        if self._counts_wrong(name, field):
            wrong = comparison.errors != 0
            return np.asarray(wrong.sum(1) / comparison.counts)
        with np.errstate(over="ignore", invalid="ignore"):
            values = self._made[name]().per_sample(comparison)
        assert values is not None
        return np.where(np.isnan(values), np.inf, values)

    def _counts_wrong(self, name: str, field: Field) -> bool:
        return self._made[name] is RelativeError and is_flag(field)
