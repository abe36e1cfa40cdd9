"""Metrics: figures of how far predictions are from their targets, exact over batches of any size."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, TypeAlias

import numpy as np

from physgym.data.statistics import Statistics
from physgym.errors import ConfigError, SampleError
from physgym.relative_errors import relative_to
from physgym.sample import Field, SampleSpec, present
from physgym.spaces import Array

COMPONENTS = 64  # components of a field that are measured one by one, at most


@dataclass(frozen=True)
class FieldComparison:
    """Predictions of one field, or of a component of it, next to their targets.

    Attributes:
        prediction: Shape (n, *shape), in physical units.
        target: Same shape.
        present: Flags of the values that are there, which broadcast to that shape; None for all.
    """

    prediction: Array
    target: Array
    present: Array | None = None

    @classmethod
    def of(cls, prediction: Array, target: Array, present: Array | None = None) -> FieldComparison:
        """Return a comparison in double precision.

        Raises:
            SampleError: The shapes differ.
        """
        if prediction.shape != target.shape:
            raise SampleError(f"prediction has shape {prediction.shape}, target {target.shape}")
        wide = np.complex128 if "c" in (prediction.dtype.kind, target.dtype.kind) else np.float64
        there = None if present is None else np.broadcast_to(present, target.shape)
        return cls(prediction.astype(wide), target.astype(wide), there)

    def __len__(self) -> int:
        return len(self.target)

    @cached_property
    def errors(self) -> Array:
        """Return the absolute errors of all values, zero where there is none; shape (n, values)."""
        return self._there(np.abs(self.prediction - self.target))

    @cached_property
    def sizes(self) -> Array:
        """Return the absolute values of the targets, zero where there is none; shape (n, values)."""
        return self._there(np.abs(self.target))

    @cached_property
    def counts(self) -> Array:
        """Return the number of values of each sample, shape (n,)."""
        if self.present is None:
            return np.full(len(self), math.prod(self.target.shape[1:]))
        return np.asarray(_flat(self.present).sum(1))

    @cached_property
    def finite(self) -> Array:
        """Return which samples have finite predictions and targets where there are values, shape (n,), bool."""
        both = np.isfinite(self.prediction) & np.isfinite(self.target)
        return np.asarray(_flat(both if self.present is None else both | ~self.present).all(1))

    def component(self, axis: int, index: int) -> FieldComparison:
        """Return one component, by its index on an axis of a sample's array, which stays as one of a single entry."""
        parts = (self.prediction, self.target, self.present)
        taken = (None if part is None else np.take(part, [index], axis + 1) for part in parts)
        return FieldComparison(*taken)  # type: ignore[arg-type]  # only `present` may be None

    def samples(self, chosen: Array) -> FieldComparison:
        """Return the samples at the given indices, or under a mask."""
        here = None if self.present is None else self.present[chosen]
        return FieldComparison(self.prediction[chosen], self.target[chosen], here)

    def _there(self, values: Array) -> Array:
        return _flat(values if self.present is None else np.where(self.present, values, 0.0))


def _flat(values: Array) -> Array:
    return values.reshape(len(values), math.prod(values.shape[1:]))


class Metric(ABC):
    """A figure of the predictions of one field, over samples that arrive in batches of any size.

    A subclass has `add` and `value`, and `per_sample` where a single sample has such a figure. An object measures one
    field, or one component of a field, and is used once.

    Attributes:
        name: The name by which reports and configurations know it.
        power: Power of the field's unit that it has: 1 for the unit itself, 0 for a ratio; None where nobody knows.
        larger_is_better: Whether larger values are better.
    """

    name: ClassVar[str] = ""
    power: ClassVar[int | None] = 0
    larger_is_better: ClassVar[bool] = False

    @abstractmethod
    def add(self, comparison: FieldComparison) -> None:
        """Take in further samples."""

    @abstractmethod
    def value(self) -> float:
        """Return the figure over all samples taken in; NaN where it is not defined."""

    def per_sample(self, comparison: FieldComparison) -> Array | None:
        """Return the figure of each sample alone, shape (n,), float64; None where a single sample has none."""
        return None

    @property
    def remark(self) -> str:
        """Return what is to be said about the value, such as why it is not finite; empty if nothing."""
        return ""


class MeanSquaredError(Metric):
    """Mean of the squared errors of all values."""

    name, power = "mse", 2

    def __init__(self) -> None:
        self._total, self._count = 0.0, 0

    def add(self, comparison: FieldComparison) -> None:
        """Take in further samples."""
        self._total += float(self._powers(comparison).sum())
        self._count += int(comparison.counts.sum())

    def value(self) -> float:
        """Return the mean over all values."""
        return self._total / self._count if self._count else math.nan

    def per_sample(self, comparison: FieldComparison) -> Array:
        """Return the mean over the values of each sample."""
        with np.errstate(invalid="ignore"):  # a sample that is padding alone has no figure
            return np.asarray(self._powers(comparison).sum(1) / comparison.counts)

    def _powers(self, comparison: FieldComparison) -> Array:
        return comparison.errors**2

    @property
    def remark(self) -> str:
        """Say where there is no value."""
        return "" if self._count else "there is no value in any sample"


class RootMeanSquaredError(MeanSquaredError):
    """Root of the mean of the squared errors of all values."""

    name, power = "rmse", 1

    def value(self) -> float:
        """Return the root of the mean over all values."""
        return math.sqrt(super().value())

    def per_sample(self, comparison: FieldComparison) -> Array:
        """Return the root of the mean over the values of each sample."""
        return np.sqrt(super().per_sample(comparison))


class MeanAbsoluteError(MeanSquaredError):
    """Mean of the absolute errors of all values."""

    name, power = "mae", 1

    def _powers(self, comparison: FieldComparison) -> Array:
        return comparison.errors


class LargestError(Metric):
    """Largest absolute error of a value."""

    name, power = "max_error", 1

    def __init__(self) -> None:
        self._largest = -math.inf

    def add(self, comparison: FieldComparison) -> None:
        """Take in further samples."""
        found = comparison.errors[comparison.counts > 0].max(initial=-math.inf)
        self._largest = float(np.maximum(self._largest, found))  # not max() of Python, which may lose a NaN

    def value(self) -> float:
        """Return the largest one."""
        return math.nan if self._largest == -math.inf else self._largest

    def per_sample(self, comparison: FieldComparison) -> Array:
        """Return the largest error of each sample."""
        return np.where(comparison.counts > 0, comparison.errors.max(1, initial=0.0), np.nan)


class RelativeError(Metric):
    """Mean over the samples of the Euclidean norm of the error over that of the target.

    For a target of zeros it is 0 where the prediction is exact, and infinite elsewhere, which is said.
    """

    name, power = "relative_l2", 0

    def __init__(self) -> None:
        self._total, self._count, self._infinite = 0.0, 0, 0

    def add(self, comparison: FieldComparison) -> None:
        """Take in further samples."""
        found = self.per_sample(comparison)[comparison.counts > 0]
        self._total += float(found.sum())
        self._count += len(found)
        self._infinite += int(np.isinf(found).sum())

    def value(self) -> float:
        """Return the mean over the samples."""
        return self._total / self._count if self._count else math.nan

    def per_sample(self, comparison: FieldComparison) -> Array:
        """Return the relative error of each sample."""
        errors, sizes = (np.linalg.norm(one, axis=1) for one in (comparison.errors, comparison.sizes))
        return np.where(comparison.counts > 0, relative_to(errors, sizes), np.nan)

    @property
    def remark(self) -> str:
        """Say how many samples make it infinite."""
        return f"infinite for {self._infinite} samples whose target is zero" if self._infinite else ""


class ExplainedVariance(Metric):
    """Coefficient of determination: 1 minus the squared errors over those of the mean of the targets.

    The mean is that of each entry of the field over the samples; the squares are summed over the entries. It is not
    defined where no entry varies.
    """

    name, power, larger_is_better = "r2", 0, True

    def __init__(self) -> None:
        self._squares = 0.0
        self._targets: list[Statistics] = []  # of real and imaginary parts

    def add(self, comparison: FieldComparison) -> None:
        """Take in further samples."""
        self._squares += float((comparison.errors**2).sum())
        target = comparison.target
        parts = [target.real, target.imag] if target.dtype.kind == "c" else [target]
        found = [Statistics.of(part, comparison.present) for part in parts]
        known = self._targets or [Statistics.empty(target.shape[1:]) for _ in found]
        self._targets = [one.merge(more) for one, more in zip(known, found, strict=True)]

    @property
    def _spread(self) -> float:
        """Return the squared deviations of the targets from their means, summed."""
        return sum(float((one.counts * one.std**2).sum()) for one in self._targets)

    @property
    def _unexplained(self) -> float:
        """Return the squared errors over the squared deviations."""
        return self._squares / spread if (spread := self._spread) else math.nan

    def value(self) -> float:
        """Return the coefficient."""
        return 1 - self._unexplained

    @property
    def remark(self) -> str:
        """Say why it is not defined."""
        return "" if self._spread else "not defined: the targets are the same in all samples"


class NormalizedError(ExplainedVariance):
    """Root mean squared error over the standard deviation of the targets; 1 for a prediction of their mean."""

    name, larger_is_better = "nrmse", False

    def value(self) -> float:
        """Return the ratio."""
        return math.sqrt(self._unexplained)


class OwnMetric(Metric):
    """Mean over the samples of what a function gives for each.

    Args:
        function: Gets predictions and targets of a field, float64, shape (n, *shape), and returns shape (n,); of a
            component the axis of the components is there with a single entry. Where values are missing by a mask,
            both are zero.
        name: Its name.

    Raises:
        ConfigError: The function returns something else.
    """

    power = None

    def __init__(self, function: Callable[[Array, Array], Any], name: str) -> None:
        self._function, self.name = function, name  # type: ignore[misc]  # each function has a name of its own
        self._total, self._count = 0.0, 0

    def add(self, comparison: FieldComparison) -> None:
        """Take in further samples."""
        found = self.per_sample(comparison)[comparison.counts > 0]
        self._total += float(found.sum())
        self._count += len(found)

    def value(self) -> float:
        """Return the mean over the samples."""
        return self._total / self._count if self._count else math.nan

    def per_sample(self, comparison: FieldComparison) -> Array:
        """Return what the function gives."""
        sides = (comparison.prediction, comparison.target)
        if comparison.present is not None:
            sides = (np.where(comparison.present, sides[0], 0.0), np.where(comparison.present, sides[1], 0.0))
        found = np.asarray(self._function(*sides))
        if found.shape != (len(comparison),) or found.dtype.kind not in "biuf":
            raise ConfigError(
                f"the metric {self.name} returned {found.dtype} of shape {found.shape} for {len(comparison)} samples; "
                f"return a number for each, shape ({len(comparison)},), which are averaged over all samples: a mean "
                "over each batch would weigh those of the last batch more"
            )
        return found.astype(np.float64)


MakeMetric: TypeAlias = Callable[[], Metric]
MetricName: TypeAlias = str | type[Metric] | Callable[[Array, Array], Any]

METRICS: dict[str, type[Metric]] = {
    kind.name: kind
    for kind in (
        MeanSquaredError,
        RootMeanSquaredError,
        MeanAbsoluteError,
        LargestError,
        RelativeError,
        ExplainedVariance,
        NormalizedError,
    )
}


def metrics_of(named: Iterable[MetricName]) -> dict[str, MakeMetric]:
    """Return what makes each metric, by its name.

    Args:
        named: Names in `METRICS`, subclasses of `Metric`, or functions of (prediction, target) as for `OwnMetric`.

    Raises:
        ConfigError: A name is unknown or there twice, or something else is no metric.
    """
    if isinstance(named, str) or not isinstance(named, Iterable):
        raise ConfigError(f"metrics must be a list, such as ['mae', 'relative_l2'], not {named!r}")
    found: dict[str, MakeMetric] = {}
    for one in named:
        name, make = _metric_of(one)
        if name in found:
            raise ConfigError(f"two metrics are called {name!r}; leave one out, or give it another name")
        found[name] = make
    return found


def _metric_of(one: MetricName) -> tuple[str, MakeMetric]:
    if isinstance(one, str):
        if one not in METRICS:
            raise ConfigError(f"there is no metric {one!r}; there are {', '.join(METRICS)}, and functions of your own")
        return one, METRICS[one]
    if isinstance(one, type) and issubclass(one, Metric):
        return one.name or one.__name__, one
    if callable(one) and not isinstance(one, type):
        name = str(getattr(one, "__name__", type(one).__name__))
        return name, partial(OwnMetric, one, name)
    raise ConfigError(
        f"{one!r} is no metric: give a name such as 'mae', a subclass of physgym.nn.metrics.Metric, or a function of "
        "(prediction, target)"
    )


def component_axis(field: Field) -> int | None:
    """Return the axis of a field's shape along which its components lie; None for a field without components.

    That is the only axis of a vector; the channels of a field on a declared grid; of other fields a last axis of at
    most three entries, as of the displacements of nodes. More than `COMPONENTS` of them are none.
    """
    shape, axis = field.shape, None
    if field.dimensions is not None:
        if field.dimensions < len(shape):
            axis = 0 if shape[0] <= shape[-1] else len(shape) - 1
    elif len(shape) == 1 or (len(shape) > 1 and shape[-1] <= 3):
        axis = len(shape) - 1
    return axis if axis is not None and 1 < shape[axis] <= COMPONENTS else None


def units_of_components(field: Field) -> list[str]:
    """Return the unit of each component of a field, which "m, m/s" lists for two; else that of the field for all."""
    axis = component_axis(field)
    count = 0 if axis is None else field.shape[axis]
    units = [unit.strip() for unit in field.unit.split(",")]
    return units if len(units) == count else [field.unit] * count


class FieldMetrics:
    """Metrics of one field and of each of its components.

    Args:
        field: The field.
        make: What makes each metric, by its name; as of `metrics_of`.

    Attributes:
        field: The field.
        whole: The metrics of the field, by name.
        components: The metrics of each component, by name; empty for a field without components.
    """

    def __init__(self, field: Field, make: Mapping[str, MakeMetric]) -> None:
        self.field, self._axis = field, component_axis(field)
        self.whole = {name: one() for name, one in make.items()}
        count = 0 if self._axis is None else field.shape[self._axis]
        self.components = [{name: one() for name, one in make.items()} for _ in range(count)]

    def add(self, comparison: FieldComparison) -> None:
        """Take in further samples of the field."""
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is in the value
            for metric in self.whole.values():
                metric.add(comparison)
            for index, metrics in enumerate(self.components):
                assert self._axis is not None
                part = comparison.component(self._axis, index)
                for metric in metrics.values():
                    metric.add(part)

    def unit(self, name: str) -> str:
        """Return the unit of a metric: that of the field, its power, or "1" of a ratio; empty where it is unknown.

        Of a field whose components have units of their own, such as "m, m/s", it lists them.
        """
        return ", ".join(dict.fromkeys(self.component_units(name) or [_power(self.field.unit, self.whole[name].power)]))

    def component_units(self, name: str) -> list[str]:
        """Return the unit of a metric for each component; empty for a field without components."""
        return [_power(unit, self.whole[name].power) for unit in units_of_components(self.field)]


def _power(unit: str, power: int | None) -> str:
    if power == 0:
        return "1"
    if power is None or not unit:
        return ""
    return unit if power == 1 else f"{unit}^{power}" if unit.isalpha() else f"({unit})^{power}"


class MetricTable:
    """Metrics of several fields, over samples that arrive in batches.

    Args:
        spec: All fields of the samples.
        names: The fields that are compared.
        metrics: What is measured, as for `metrics_of`.

    Attributes:
        fields: The metrics of each field, by its name.

    Raises:
        ConfigError: There is no such metric.
        SampleError: The mask of a field is not among the fields.
    """

    def __init__(self, spec: SampleSpec, names: Sequence[str], metrics: Iterable[MetricName]) -> None:
        self._spec, make = spec, metrics_of(metrics)
        self.fields = {name: FieldMetrics(spec[name], make) for name in names}
        for name in names:
            if (mask := spec[name].mask) and mask not in spec:
                raise SampleError(
                    f"field {name!r} is padded, and its mask {mask!r}, which says which of its values are there, is "
                    f"not among the fields {list(spec)}"
                )

    @property
    def masks(self) -> list[str]:
        """Return the fields that say which values of the compared ones are there."""
        return list(dict.fromkeys(mask for name in self.fields if (mask := self._spec[name].mask)))

    def compare(self, name: str, prediction: Array, target: Mapping[str, Array]) -> FieldComparison:
        """Return the predictions of a field next to their targets.

        Args:
            name: The field.
            prediction: Shape (n, *field shape).
            target: Fields of the samples, with the masks.
        """
        field = self._spec[name]
        there = present(field, self._spec[field.mask], target[field.mask]) if field.mask else None
        return FieldComparison.of(prediction, target[name], there)

    def add(self, prediction: Mapping[str, Array], target: Mapping[str, Array]) -> None:
        """Take in further samples: predictions and targets by field, shape (n, *field shape), with the masks."""
        for name, metrics in self.fields.items():
            metrics.add(self.compare(name, prediction[name], target))

    def values(self) -> dict[str, float]:
        """Return the metrics of whole fields, as "metric/field"."""
        return {
            f"{metric}/{name}": one.value()
            for name, metrics in self.fields.items()
            for metric, one in metrics.whole.items()
        }
