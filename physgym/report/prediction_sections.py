"""Sections of a report on what a network predicts: metrics, errors, predicted against true, samples, rollouts."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.next_rows import NextRows, with_next_rows
from physgym.data.windows import EpisodeWindows, without_windows
from physgym.errors import ConfigError, PhysGymError
from physgym.feedback import Declaration
from physgym.nn.metrics import FieldComparison, MetricTable
from physgym.nn.predictor import Predictor, evaluating
from physgym.report import charts
from physgym.report.charts import POINTS, Chart
from physgym.report.figures import SEED, drawn_rows, drawn_text, text_of
from physgym.report.page import Page
from physgym.report.pictures import PredictedScenes
from physgym.running.evaluation import EvaluationForm, EvaluationReport, evaluate_predictor
from physgym.running.rollout_episodes import DatasetEpisodes
from physgym.running.rollout_evaluation import RolloutEvaluation
from physgym.running.rollout_report import MOST_SHOWN, RolloutReport
from physgym.spaces import Array

SAMPLES = 1000  # that are predicted for a report
BYTES = 1 << 26
COMPARED = 400  # of these in the plots of predicted against true
ROLLED_OUT = 8  # episodes, which are predicted together
HORIZON = 100  # steps
STEPS = 200  # that are drawn one by one
FEW = 6  # numbers of an input that are written out

Predicted = SampleDataset | EpisodeWindows | NextRows


@dataclass(frozen=True)
class NetworkErrors:
    """Predictions of a network on stored samples.

    Attributes:
        predictor: The network.
        dataset: The samples that were predicted.
        samples: The same with their targets, where these are of the next sample.
        report: The figures; its errors are in the order of the samples.
        drawn: Of how many samples the figures are, in words.
    """

    predictor: Predictor
    dataset: SampleDataset
    samples: Predicted
    report: EvaluationReport
    drawn: str

    @classmethod
    def measure(cls, predictor: Predictor, dataset: SampleDataset, most: int = SAMPLES) -> NetworkErrors:
        """Measure a network on samples: all, or those of episodes that are drawn.

        Raises:
            PhysGymError: What `evaluate_predictor` raises.
        """
        chosen = drawn_episodes(dataset, most)
        report = evaluate_predictor(predictor, chosen, EvaluationForm(nonfinite="leave_out"), progress=False)
        samples = with_next_rows(chosen, predictor.outputs, predictor.feedback)
        drawn = drawn_text(len(chosen), len(dataset))
        text = drawn if len(chosen) == len(dataset) else f"{drawn}, by episode, with the seed {SEED}"
        return cls(predictor, chosen, samples, report, text)

    @classmethod
    def of(cls, predictor: Predictor, samples: Any, report: EvaluationReport) -> NetworkErrors:
        """Return what an evaluation of all the samples has found."""
        found = with_next_rows(samples, predictor.outputs, predictor.feedback)
        return cls(predictor, without_windows(samples), found, report, drawn_text(len(found), len(found)))

    @property
    def relative(self) -> dict[str, float]:
        """Return the relative error of each field, by name, where it was measured."""
        return {one.field: one.value for one in self.report.metrics if one.metric == "relative_l2"}


def drawn_episodes(dataset: SampleDataset, most: int) -> SampleDataset:
    """Return the samples of episodes that are drawn, at most so many: all where there are not more."""
    most = min(most, max(1, BYTES // max(1, dataset.row_nbytes)))
    if len(dataset) <= most:
        return dataset
    episodes = dataset.episodes
    names, sizes = np.unique(episodes, return_counts=True)
    order = np.random.default_rng(SEED).permutation(len(names))
    count = int(np.searchsorted(np.cumsum(sizes[order]), most)) + 1
    return dataset.subset(np.flatnonzero(np.isin(episodes, names[order[:count]]))[:most])


def add_predictions(page: Page, found: NetworkErrors) -> None:
    """Add how far predictions are from the targets."""
    report = found.report
    page.text(f"{report.samples:,} samples of {report.episodes:,} episodes, in physical units: {found.drawn}.")
    for text in report.remarks:
        page.remark(text)
    for name, count in report.left_out.items():
        page.remark(f"{count:,} samples are left out of {name}: predictions or targets are not finite.")
    rows = [[one.field, one.metric, text_of(one.value), one.unit, one.remark] for one in report.metrics]
    page.table(["field", "metric", "value", "unit", "remark"], rows)
    steps = found.samples.index("step")
    drawn = []
    for name, errors in report.errors.items():
        text = f"{report.worst_by} of {name}"
        drawn.append(charts.histogram(f"{text}, by sample", {name: errors}, across=report.worst_by))
        if len(np.unique(steps)) > 1:
            drawn.append(_by_step(f"{text}, by step of the episode", steps, errors, report.worst_by))
    page.charts([*drawn, *_against_true(found)])
    if report.worst:
        worst = [[one.field, text_of(one.value), one.episode, one.step] for one in report.worst]
        page.table(["field", f"worst by {report.worst_by}", "episode", "step"], worst)


def _by_step(title: str, steps: Array, errors: Array, metric: str) -> Chart:
    """Return the median error at each step of the episodes, within the band of most of them."""
    there = ~np.isnan(errors)
    steps, errors = steps[there], errors[there]
    width = max(1, -(-(int(steps.max(initial=0)) + 1) // STEPS))
    places = np.unique(steps // width)
    parts = [np.quantile(errors[steps // width == place], [0.1, 0.5, 0.9], method="inverted_cdf") for place in places]
    low, middle, high = np.array(parts).reshape(-1, 3).T
    note = f"steps are taken together by {width}" if width > 1 else ""
    names = "median", "10 to 90 %"
    return charts.band(title, places * width, middle, low, high, names=names, across="step", up=metric, note=note)


def _compare(
    found: NetworkErrors, rows: Array, *, every: bool = False
) -> tuple[dict[str, Array], dict[str, FieldComparison]]:
    """Return some samples, of every field or of those that are needed, and their predictions next to the targets."""
    predictor, samples = found.predictor, found.samples
    table = MetricTable(samples.spec, predictor.outputs, ["mae"])
    needed = dict.fromkeys((*predictor.inputs, *predictor.outputs, *table.masks))
    batch = samples.gather(rows, list(samples.spec if every else needed))
    with evaluating(predictor):
        prediction = predictor.predict({name: batch[name] for name in predictor.inputs}, batched=True, finite=False)
    return batch, {name: table.compare(name, prediction[name], batch) for name in predictor.outputs}


def _against_true(found: NetworkErrors) -> list[Chart]:
    rows = drawn_rows(len(found.samples), COMPARED)
    drawn = []
    for name, compared in _compare(found, rows)[1].items():
        unit = found.samples.spec[name].unit
        pair = [
            np.where(_there(compared), _real(one), np.nan).reshape(-1) for one in (compared.target, compared.prediction)
        ]
        chosen = drawn_rows(len(pair[0]), POINTS)
        texts = [f"{what} ({unit})" if unit else what for what in ("true", "predicted")]
        note = f"{len(chosen):,} values of {len(rows):,} samples"
        groups = {name: (pair[0][chosen], pair[1][chosen])}
        title = f"{name}: predicted against true"
        drawn.append(charts.cloud(title, groups, across=texts[0], up=texts[1], diagonal=True, note=note))
    return drawn


def _there(compared: FieldComparison) -> Array:
    flags = np.ones(compared.target.shape, bool) if compared.present is None else compared.present
    return np.asarray(flags)


def _real(values: Array) -> Array:
    return np.abs(values) if values.dtype.kind == "c" else values


def add_samples(page: Page, found: NetworkErrors) -> None:
    """Add the samples that are predicted best, in the middle and worst: true and predicted."""
    errors = found.report.errors
    mean = np.mean(list(errors.values()), axis=0) if errors else np.zeros(0)
    known = np.flatnonzero(np.isfinite(mean))
    if not len(known):
        return
    order = known[np.argsort(mean[known], kind="stable")]
    chosen = {"Best": order[0], "Median": order[len(order) // 2], "Worst": order[-1]}
    page.section("Best, median and worst sample")
    episodes, steps = (found.samples.index(name) for name in ("episode", "step"))
    samples = {what: _PredictedSample(found, int(row)) for what, row in chosen.items()}
    rows = []
    for what, row in chosen.items():
        figures = [text_of(float(one[row])) for one in errors.values()]
        rows.append([what, episodes[row], steps[row], *figures, samples[what].numbers])
    named = [f"{found.report.worst_by} of {name}" for name in errors]
    page.table(["sample", "episode", "step", *named, "inputs"], rows)
    each = [[replace(chart, title=f"{what}: {chart.title}") for chart in samples[what].charts()] for what in samples]
    page.charts(chart for together in zip(*each, strict=True) for chart in together)
    with contextlib.suppress(ConfigError):  # a scene that does not fit the samples, or no matplotlib
        scenes = PredictedScenes(found.dataset, found.samples.spec, found.predictor.outputs)
        for sample in samples.values():
            scenes.prepare(*sample.rows)
        for what, sample in samples.items():
            if (picture := scenes.picture(*sample.rows, plotted=sample.is_flat)) is not None:
                page.picture(picture, f"{what}: episode {episodes[chosen[what]]}, step {steps[chosen[what]]}")


class _PredictedSample:
    """One sample with what a network predicts of it.

    Args:
        found: The predictions.
        row: Which sample.
    """

    def __init__(self, found: NetworkErrors, row: int) -> None:
        self._spec, self._inputs = found.samples.spec, found.predictor.inputs
        self._fields, self._compared = _compare(found, np.array([row]), every=True)

    @property
    def numbers(self) -> str:
        """Return the inputs of a few numbers as a text."""
        said = []
        for name in self._inputs:
            values, unit = self._fields[name].reshape(-1), self._spec[name].unit
            if len(values) <= FEW and values.dtype.kind in "biuf":
                texts = ", ".join(text_of(one) for one in values.tolist())
                said.append(f"{name} = {texts if len(values) == 1 else f'({texts})'} {unit}".strip())
        return "; ".join(said)

    def charts(self) -> Iterator[Chart]:
        """Yield plots of the fields with one axis, and of numbers: what is true and what is predicted together."""
        for name, one in self._compared.items():
            if _is_flat(one.target):
                pair = {
                    text: np.where(_there(one), _real(values), np.nan).reshape(-1)
                    for text, values in (("true", one.target), ("predicted", one.prediction))
                }
                yield charts.values(name, pair, up=self._spec[name].unit)
        for name in self._inputs:
            values = self._fields[name]
            if values.size > FEW and _is_flat(values) and values.dtype.kind in "biufc":
                yield charts.values(name, {name: _real(values).reshape(-1)}, up=self._spec[name].unit)

    @property
    def rows(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return the fields of the sample, and the predicted ones."""
        predicted = {name: one.prediction[0].astype(self._spec[name].dtype) for name, one in self._compared.items()}
        return {name: values[0] for name, values in self._fields.items()}, predicted

    @property
    def is_flat(self) -> bool:
        """Return whether the plots show all that is predicted."""
        return all(_is_flat(one.target) for one in self._compared.values())


def _is_flat(values: Array) -> bool:
    """Return whether samples of a field, shape (n, *field shape), have one axis or none that is longer than 1."""
    return len([side for side in values.shape[1:] if side > 1]) <= 1


# --- rollouts


def add_rollouts(page: Page, predictor: Predictor, dataset: SampleDataset, feedback: Declaration | None) -> None:
    """Add how the error grows where the network continues from its own predictions; nothing where it cannot.

    Args:
        page: The page.
        predictor: The network.
        dataset: Episodes of the solver.
        feedback: Which output feeds which input, in place of what is declared.
    """
    try:
        form = DatasetEpisodes(dataset, feedback).form(predictor, dataset.spec)
    except PhysGymError:
        return  # nothing says what feeds what
    page.section(
        "Error by horizon", "The network continues from its own predictions, under the actions of stored episodes."
    )
    names, lengths = np.unique(dataset.index("episode"), return_counts=True)
    horizon = min(HORIZON, form.horizon(int(lengths.max())))
    if not horizon or len(dataset.paths) > 1:
        page.text(
            "No episode is long enough for it." if not horizon else "Episodes of several folders are not rolled out."
        )
        return
    long = names[[form.horizon(int(length)) > 0 for length in lengths]]
    chosen = long[drawn_rows(len(long), ROLLED_OUT)].tolist()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a network was trained on the page says it already
            report = RolloutEvaluation(dataset, feedback=feedback).measure(
                predictor, horizon, episodes=chosen, batch_size=ROLLED_OUT
            )
    except PhysGymError as error:
        page.text(f"It was not measured: {error}")
        return
    page.text(f"Episodes: {drawn_text(len(chosen), len(names), 'episodes')}.")
    add_rollout_report(page, report)


def add_rollout_report(page: Page, report: RolloutReport) -> None:
    """Add the errors of rollouts by horizon."""
    if count := int((report.diverged > 0).sum()):
        first = int(report.diverged[report.diverged > 0].min())
        page.remark(
            f"The network diverged in {count} of {len(report.episodes)} episodes, the first time at step {first}."
        )
    seconds, parts = report.seconds, sorted(report.quantiles)
    x, across = (np.arange(1, report.horizon + 1), "step") if seconds is None else (seconds, "time (s)")
    drawn = []
    for metric, fields in report.errors.items():
        for name in fields:
            unit = report.units.get(f"{metric}/{name}", "")
            low, high = (report.quantile(part, metric, name) for part in (parts[0], parts[-1]))
            names = "mean", f"{100 * parts[0]:g} to {100 * parts[-1]:g} %"
            up = f"{metric} ({unit})" if unit else metric
            mean = report.mean(metric, name)
            drawn.append(charts.band(f"{metric} of {name}", x, mean, low, high, names=names, across=across, up=up))
    for name, each in report.components.items():
        shown = {f"[{i}]{f' ({unit})' if unit else ''}": (x, each.nrmse[:, i]) for i, unit in enumerate(each.units)}
        if len(shown) <= MOST_SHOWN:
            up = "error / standard deviation"
            drawn.append(charts.curves(f"Components of {name}", shown, across=across, up=up))
    if len(set(report.counts.tolist())) > 1:
        drawn.append(charts.curves("Episodes at each horizon", {"episodes": (x, report.counts)}, across=across))
    page.charts(drawn)
    page.details("As a table", str(report))
