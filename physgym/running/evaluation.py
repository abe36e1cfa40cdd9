"""Evaluation of a network on stored samples: metrics by name, per field and component, and the worst samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from physgym.checks import integer, one_of
from physgym.code.record import Code
from physgym.data.dataset import SampleDataset
from physgym.data.next_rows import NextRows, with_next_rows
from physgym.data.provenance import codes_of, other_code, overlaps
from physgym.data.windows import EpisodeWindows
from physgym.errors import ChangedCode, ConfigError, DatasetError, SampleError, WrongKey
from physgym.files import short
from physgym.nn.metrics import METRICS, FieldComparison, MetricName, MetricTable, metrics_of, units_of_components
from physgym.nn.predictor import Predictor, evaluating
from physgym.progress import Progress
from physgym.running.stored_steps import fitting_fields
from physgym.sample import Sample, finite_rows
from physgym.spaces import Array
from physgym.step_fields import copied_inputs

UsualMetrics = tuple(METRICS)
Unfinished = Literal["raise", "leave_out"]
NAMES = "the evaluated samples", "the samples that the network was trained on"


@dataclass(frozen=True)
class MeasuredMetric:
    """A metric of one field over all samples.

    Attributes:
        metric: Its name.
        field: The field.
        value: The figure; NaN where it is not defined.
        unit: Its unit, "1" for a ratio; empty where nobody says it. A list where components have units of their own.
        components: The figure of each component; empty for a field without components.
        component_units: The unit of each of these.
        remark: What is to be said about the value; empty if nothing.
    """

    metric: str
    field: str
    value: float
    unit: str
    components: tuple[float, ...] = ()
    component_units: tuple[str, ...] = ()
    remark: str = ""


@dataclass(frozen=True)
class WorstSample:
    """A sample whose predictions are among the worst.

    Attributes:
        field: The field that is predicted badly.
        sample: Its index in the dataset.
        episode: Its episode.
        step: Its step within that.
        value: The metric of this sample alone.
    """

    field: str
    sample: int
    episode: int
    step: int
    value: float


@dataclass(frozen=True)
class EvaluationReport:
    """Figures of a network on stored samples.

    Attributes:
        data: What was evaluated, in words.
        samples: How many samples.
        episodes: How many episodes they are of.
        metrics: The metrics of each field.
        worst: The worst samples of each field, the worst first.
        worst_by: The metric that ranks the worst samples.
        left_out: Samples that were left out of a field because inputs, predictions or targets are not finite.
        remarks: What else is to be said, such as episodes that the network was trained on.
        errors: The metric `worst_by` of each sample alone, by field, shape (samples,): NaN for those left out; empty
            where nobody asked for the worst samples.
        mixed_units: The unit of each component, by field, of those whose components have different ones: figures of
            such a whole field add them up.
    """

    data: str
    samples: int
    episodes: int
    metrics: tuple[MeasuredMetric, ...]
    worst: tuple[WorstSample, ...] = ()
    worst_by: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    errors: Mapping[str, Array] = field(default_factory=dict, compare=False, repr=False)
    mixed_units: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        """Return a figure by "metric/field", such as "mae/next_state"."""
        values = self.values
        if name not in values:
            raise WrongKey(f"there is no figure {name!r}; there are {', '.join(values)}")
        return values[name]

    @property
    def values(self) -> dict[str, float]:
        """Return all figures of whole fields, by "metric/field"."""
        return {f"{one.metric}/{one.field}": one.value for one in self.metrics}

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON data; a number that is not finite is null, and its remark says why."""
        fields: dict[str, Any] = {}
        for one in self.metrics:
            found: dict[str, Any] = {"value": _finite(one.value), "unit": one.unit}
            if one.components:
                found["components"] = [_finite(value) for value in one.components]
                found["component_units"] = list(one.component_units)
            found |= {"remark": one.remark} if one.remark else {}
            fields.setdefault(one.field, {})[one.metric] = found
        worst = [{**vars(one), "value": _finite(one.value)} for one in self.worst]
        return {
            "data": self.data,
            "samples": self.samples,
            "episodes": self.episodes,
            "fields": fields,
            "worst_by": self.worst_by,
            "worst": worst,
            "left_out": dict(self.left_out),
            "remarks": list(self.remarks),
        }

    def __str__(self) -> str:
        lines = [f"{self.samples} samples of {self.episodes} episodes: {self.data}"]
        rows = [("field", "metric", "value", "unit", "components"), *map(_row, self.metrics)]
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        lines += [f"{one.metric} of {one.field}: {one.remark}" for one in self.metrics if one.remark]
        lines += [
            f"{name} has components with units of their own ({', '.join(dict.fromkeys(units))}): figures of the whole "
            "field add them up, those of its components do not"
            for name, units in self.mixed_units.items()
        ]
        for name in dict.fromkeys(one.field for one in self.worst):
            found = [one for one in self.worst if one.field == name]
            shown = "; ".join(f"episode {one.episode} step {one.step}: {one.value:.4g}" for one in found)
            lines.append(f"worst of {name} by {self.worst_by}: {shown}")
        lines += [
            f"{name}: {count} samples are left out, inputs, predictions or targets are not finite"
            for name, count in self.left_out.items()
        ]
        return "\n".join([*lines, *self.remarks])


def _row(one: MeasuredMetric) -> tuple[str, ...]:
    components = " ".join(f"{value:.4g}" for value in one.components) if len(one.components) <= 8 else "see JSON"
    return one.field, one.metric, f"{one.value:.4g}", one.unit, components


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class EvaluationForm:
    """Choices of an evaluation: metrics, worst samples, batches.

    Attributes:
        metrics: Names in `physgym.nn.metrics.METRICS`, subclasses of `Metric`, or functions of (prediction, target).
        worst: How many of the worst samples of each field are named.
        worst_by: The metric by which they are the worst; by default relative_l2 if it is measured, else the first one
            that a single sample has.
        batch_size: Samples that are predicted at once.
        nonfinite: What to do with a sample whose inputs, prediction or target are not finite: "raise", or "leave_out"
            of the metrics of that field, and count it.

    Raises:
        ConfigError: An argument is out of range, or there is no such metric.
    """

    metrics: Sequence[MetricName] = UsualMetrics
    worst: int = 5
    worst_by: str | None = None
    batch_size: int = 256
    nonfinite: Unfinished = "raise"

    def __post_init__(self) -> None:
        integer("worst", self.worst, 0)
        integer("batch_size", self.batch_size, 1)
        one_of("nonfinite", self.nonfinite, get_args(Unfinished))
        known = metrics_of(self.metrics)
        if not known:
            raise ConfigError(f"name at least one metric, such as {', '.join(METRICS)}")
        if self.worst_by is not None and self.worst_by not in known:
            raise ConfigError(f"worst_by: {self.worst_by!r} is not measured; there are {', '.join(known)}")


def evaluate_predictor(
    predictor: Predictor, samples: SampleDataset | EpisodeWindows, form: EvaluationForm, *, progress: bool = True
) -> EvaluationReport:
    """Compare a network's predictions of stored samples with what is stored, in physical units.

    Args:
        predictor: The network; its mode (training or evaluation) stays what it is.
        samples: The samples, all of which are evaluated.
        form: What is measured.
        progress: Whether to show how far it is.

    Raises:
        ConfigError: A field does not fit the network, or a metric does not fit.
        DatasetError: There are no samples, or they cannot be read.
        SampleError: An input, a prediction or a target is not finite.
    """
    if not len(samples):
        raise DatasetError("there are no samples to evaluate")
    said = _said(samples)
    samples = with_next_rows(samples, predictor.outputs, predictor.feedback)
    if missing := [name for name in predictor.outputs if name not in samples.spec]:
        raise ConfigError(
            f"the samples have no {missing}, with which the network's predictions are compared; they have "
            f"{list(samples.spec)}"
        )
    _check_rows(predictor, samples)
    fitting_fields(samples.spec, predictor)
    found = _Compared(predictor, samples, form, said)
    with evaluating(predictor), Progress(len(samples), "evaluate", "samples", enabled=progress) as bar:
        for start in range(0, len(samples), form.batch_size):
            stop = min(start + form.batch_size, len(samples))
            found.add(start, samples.read(start, stop, found.fields))
            bar.update(stop - start)
    return found.report()


def _said(samples: Any) -> str:
    """Say for people which samples these are."""
    if isinstance(samples, EpisodeWindows):
        form = samples.form
        return f"windows of {form.inputs} + {form.targets} steps, {_said(samples.dataset)}"
    if not isinstance(samples, SampleDataset):  # samples of somebody's own
        return repr(samples)
    return f"among those stored for {samples.mode} in {', '.join(short(str(place)) for place in samples.places)}"


def _check_rows(predictor: Predictor, samples: SampleDataset | EpisodeWindows | NextRows) -> None:
    """Raise ConfigError where a network of single steps is given windows, or one of windows single steps."""
    for name in predictor.inputs:
        if name not in samples.spec:
            continue
        fed, given = predictor.spec[name].shape, samples.spec[name].shape
        if isinstance(samples, EpisodeWindows) and fed == samples.step_spec[name].shape != given:
            raise ConfigError(
                f"the network is fed {name!r} of single steps, shape {fed}, and the samples are windows with {given}: "
                "evaluate it on the dataset itself; several of its own steps are a rollout (RolloutEvaluation, physgym "
                "run --rollout)"
            )
        if not isinstance(samples, EpisodeWindows) and len(fed) == len(given) + 1 and fed[1:] == given:
            raise ConfigError(
                f"the network is fed windows, {name!r} of shape {fed}, and the samples are single steps with {given}: "
                "evaluate it on such windows of them, dataset.windows(inputs=..., targets=...)"
            )


class _Compared:
    """Metrics of predictions, while the samples are read.

    Args:
        predictor: The network.
        samples: The samples.
        form: What is measured.
        said: What the samples are, in words.
    """

    def __init__(
        self, predictor: Predictor, samples: SampleDataset | EpisodeWindows | NextRows, form: EvaluationForm, said: str
    ) -> None:
        self._predictor, self._samples, self._form, self._said = predictor, samples, form, said
        self._table = MetricTable(samples.spec, predictor.outputs, form.metrics)
        self.fields = list(dict.fromkeys((*predictor.inputs, *predictor.outputs, *self._table.masks)))
        self._by = form.worst_by or ("relative_l2" if "relative_l2" in metrics_of(form.metrics) else "")
        self._figures: dict[str, Array] = {}  # of each sample
        self._left_out = dict.fromkeys(predictor.outputs, 0)

    def add(self, start: int, batch: Sample) -> None:
        """Take in samples from an index on."""
        fed = {name: batch[name] for name in self._predictor.inputs}
        prediction = self._predictor.predict(fed, batched=True, finite=False)
        fit = {} if self._predictor.takes_nonfinite else {n: finite_rows(self._samples.spec, n, batch) for n in fed}
        for name, metrics in self._table.fields.items():
            compared = self._table.compare(name, prediction[name], batch)
            rows = start + np.arange(len(compared))
            if not (finite := np.logical_and.reduce([compared.finite, *fit.values()])).all():
                if self._form.nonfinite == "raise":
                    place = int(np.argmin(finite))
                    raise self._not_finite(name, compared, place, start, [n for n in fit if not fit[n][place]])
                self._left_out[name] += int((~finite).sum())
                compared, rows = compared.samples(finite), rows[finite]
            metrics.add(compared)
            self._add_figures(name, compared, rows)

    def _add_figures(self, name: str, compared: FieldComparison, rows: Array) -> None:
        """Note the figure of each sample by which the worst ones are found."""
        if not self._form.worst:
            return
        each = self._table.fields[name].whole
        for metric in [self._by] if self._by else list(each):
            if (found := each[metric].per_sample(compared)) is not None:
                self._by = metric
                self._figures.setdefault(name, np.full(len(self._samples), np.nan))[rows] = found
                return
        if self._form.worst_by is not None:
            raise ConfigError(f"worst_by: {self._by} is a figure of all samples together, which a single one has not")

    def _not_finite(
        self, name: str, compared: FieldComparison, place: int, start: int, unfit: Sequence[str]
    ) -> SampleError:
        """Return the error of a sample that cannot be measured, perhaps for what the network is fed with."""
        what = f"target of {name!r}" if not np.isfinite(compared.target[place]).all() else f"prediction of {name!r}"
        what = f"input {unfit[0]!r}" if unfit else what
        episode, step = (self._samples.index(one)[start + place] for one in ("episode", "step"))
        return SampleError(
            f"the {what} is not finite in sample {start + place} (episode {episode}, step {step}). Leave "
            "such samples out of the metrics, and have them counted: --nonfinite leave_out (nonfinite='leave_out')"
        )

    def report(self) -> EvaluationReport:
        """Return the figures of the samples taken in.

        Raises:
            SampleError: All samples of a field were left out.
        """
        for name, count in self._left_out.items():
            if count == len(self._samples):
                raise SampleError(f"no sample has a finite prediction and a finite target of {name!r}")
        measured = tuple(
            MeasuredMetric(
                metric,
                name,
                one.value(),
                metrics.unit(metric),
                tuple(component[metric].value() for component in metrics.components),
                tuple(metrics.component_units(metric)),
                one.remark,
            )
            for name, metrics in self._table.fields.items()
            for metric, one in metrics.whole.items()
        )
        return EvaluationReport(
            self._said,
            len(self._samples),
            len(np.unique(self._samples.episodes)),
            measured,
            tuple(self._worst()),
            self._by if self._figures else "",
            {name: count for name, count in self._left_out.items() if count},
            errors=dict(self._figures),
            mixed_units={
                name: units
                for name, metrics in self._table.fields.items()
                if len(set(units := tuple(units_of_components(metrics.field)))) > 1
            },
        )

    def _worst(self) -> Iterable[WorstSample]:
        """Yield the worst samples of each field, the worst first."""
        episodes, steps = (self._samples.index(name) for name in ("episode", "step"))
        for name, figures in self._figures.items():
            sign = -1.0 if self._table.fields[name].whole[self._by].larger_is_better else 1.0
            known = np.flatnonzero(~np.isnan(figures))
            order = known[np.argsort(-sign * figures[known], kind="stable")][: self._form.worst]
            for row in order.tolist():
                yield WorstSample(name, row, int(episodes[row]), int(steps[row]), float(figures[row]))


def compare_origins(
    predictor: Predictor, samples: SampleDataset | EpisodeWindows, *, allow_changed_code: bool
) -> list[str]:
    """Return what is to be said about the origin of samples that a network is evaluated on.

    Args:
        predictor: The network, which may remember what it has learned from.
        samples: The samples.
        allow_changed_code: Whether they may be of other code of the simulation, which is said then.

    Raises:
        ChangedCode: They are of other code, and may not.
    """
    learned, remarks = predictor.learned, []
    if learned is None:
        return []
    if learned.code is not None:
        for _, code in codes_of(samples):
            if text := other_code(Code.from_json(code), learned.code, NAMES):
                if not allow_changed_code:
                    raise ChangedCode(f"{text}: --allow-changed-code (allow_changed_code=True)")
                remarks.append(text)
    dataset = samples.dataset if isinstance(samples, EpisodeWindows) else samples
    if isinstance(dataset, SampleDataset) and (trained_on := learned.samples) is not None:
        remarks.append(overlaps(dataset, trained_on, NAMES))
    return [text for text in remarks if text]


def memory_remark(predictor: Predictor) -> list[str]:
    """Return what is to be said of a recurrent network, which is evaluated without what it remembers."""
    if not predictor.recurrent:
        return []
    return [
        "the network is recurrent, and each sample was predicted as the first step of an episode, without what it "
        "remembers; a rollout carries that: physgym run SESSION --rollout"
    ]


def copy_remark(predictor: Predictor, samples: SampleDataset | EpisodeWindows) -> list[str]:
    """Return what is to be said of a network whose outputs are some of its inputs: it is compared with these."""
    copied = copied_inputs(samples.spec, predictor.inputs, predictor.outputs)
    return [
        f"{name} is an input of the network and an output: it is compared with its own input, and not with that of the "
        f"next sample, which is {output}"
        for name, output in copied.items()
    ]
