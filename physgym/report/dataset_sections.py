"""Sections of a report on a dataset: parts, fields, outliers, parameters, repeated and rejected samples, provenance."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.provenance import code_lines
from physgym.data.sizes import size_text
from physgym.data.statistics import Statistics
from physgym.data.summary import overall_moments
from physgym.errors import ConfigError
from physgym.report import charts
from physgym.report.charts import Chart
from physgym.report.drawn_samples import DrawnSamples
from physgym.report.figures import drawn_text, text_of
from physgym.report.page import Page
from physgym.report.parameter_coverage import add_parameters
from physgym.report.pictures import scenes_picture
from physgym.report.repeated_samples import add_repeated
from physgym.sample import Field
from physgym.scene.declared import METADATA
from physgym.spaces import Array

COMPONENTS = 4  # a last axis up to this long holds components, which are drawn one by one
FAR = 5.0  # standard deviations from the mean, from which on a value is an outlier
OUTLIERS = 12  # in the table
REASONS = 10
LISTED = 20  # rejected samples
SCENES = 2

Parts = Mapping[str, SampleDataset]


def add_dataset(page: Page, parts: Parts, most: int) -> None:
    """Add all sections about a dataset.

    Args:
        page: The page.
        parts: Its parts by name, none of them empty; the first one is what most sections are about.
        most: How many samples plots are drawn from.
    """
    name, dataset = next(iter(parts.items()))
    drawn = DrawnSamples(dataset, most)
    add_parts(page, parts)
    add_fields(page, drawn, f"Fields of the {name} part")
    _add_outliers(page, drawn)
    _add_pictures(page, drawn)
    _add_episodes(page, parts)
    add_parameters(page, parts)
    add_repeated(page, parts)
    _add_rejected(page, parts)
    _add_provenance(page, parts)


def headline_of(parts: Parts) -> dict[str, str]:
    """Return the most important figures of a dataset."""
    first = next(iter(parts.values()))
    return {
        "samples": f"{sum(map(len, parts.values())):,}",
        "episodes": f"{sum(map(_episodes, parts.values())):,}",
        "parts": ", ".join(parts),
        "fields": f"{len(first.spec)}",
        "of samples": size_text(sum(one.nbytes for one in parts.values())),
    }


def add_parts(page: Page, parts: Parts) -> None:
    """Add a table of the parts of a dataset."""
    page.section("Parts")
    rows = []
    for name, dataset in parts.items():
        lengths = np.unique(dataset.episodes, return_counts=True)[1]
        span = f"{lengths.min()}" if lengths.min() == lengths.max() else f"{lengths.min()} to {lengths.max()}"
        files = len(dataset.partitions)
        rows.append([name, f"{len(dataset):,}", f"{len(lengths):,}", span, size_text(dataset.nbytes), files])
    page.table(["part", "samples", "episodes", "samples of an episode", "size", "files"], rows)
    split = next(iter(parts.values())).recorded_split
    if split is not None and len(parts) > 1:
        page.text(f"The parts are episodes of one set of samples, by the recorded split {split}.")


def _episodes(dataset: SampleDataset) -> int:
    return len(np.unique(dataset.episodes))


# --- fields


def add_fields(page: Page, drawn: DrawnSamples, title: str) -> None:
    """Add a table of the fields with their statistics, over all samples, and a histogram of each."""
    dataset = drawn.dataset
    statistics, count = drawn.statistics
    whole = drawn_text(count, len(dataset)) if count == len(dataset) else drawn.text
    page.section(title, f"Table: {whole}. Histograms: {drawn.text}.")
    rows = []
    for name, field in dataset.spec.items():
        found = statistics.get(name)
        known = found is not None and found.counts.any()
        moments = [text_of(one) for one in overall_moments(found)] if known and found is not None else [""] * 4
        far = text_of(_furthest(found)) if known and found is not None else ""
        lost = "" if found is None else f"{count * found.counts.size - int(found.counts.sum()):,}"
        shape = " x ".join(map(str, field.shape)) or "number"
        rows.append([name, field.role, shape, str(field.dtype), field.unit, *moments, far, lost])
    columns = ["field", "role", "shape", "dtype", "unit", "mean", "std", "smallest", "largest"]
    note = (
        '"furthest" is the largest distance of a value from the mean of its component, in standard deviations; '
        '"absent" counts values that are not finite, or not there by the mask of a padded field.'
    )
    page.table([*columns, "furthest", "absent"], rows, note)
    page.charts(
        chart
        for name, field in dataset.spec.items()
        if field.nbytes
        for chart in _histograms(field, drawn.values(name))
    )


def _furthest(found: Statistics) -> float:
    """Return the largest distance of a value from the mean, in standard deviations."""
    there = (found.counts > 0) & (found.std > 0)
    if not there.any():
        return 0.0
    above, below = (found.max - found.mean)[there], (found.mean - found.min)[there]
    return float((np.maximum(above, below) / found.std[there]).max())


def _histograms(field: Field, values: Array) -> Iterator[Chart]:
    """Yield how often the values of a field occur, by component where these are few."""
    if values.dtype.kind not in "biufc":
        texts = Counter(str(one) for one in values.reshape(-1).tolist())
        yield charts.counts(field.name, dict(texts.most_common(REASONS)), what="values")
        return
    title = field.name
    if values.dtype.kind == "c":
        values, title = np.abs(values), f"|{field.name}|"
    parts, units = {field.name: values}, _units(field)
    if values.ndim > 1 and (1 < values.shape[-1] <= COMPONENTS or len({*units}) > 1):
        parts = {f"[{number}]": values[..., number] for number in range(values.shape[-1])}
    if COMPONENTS < len(units) == len(parts):  # those of a unit together
        for unit in dict.fromkeys(units):
            same = {name: part for (name, part), one in zip(parts.items(), units, strict=True) if one == unit}
            yield charts.histogram(f"{title} {', '.join(same)}", same, across=unit)
        return
    if len(units) == len(parts) > 1:  # which have nothing in common
        for (name, part), unit in zip(parts.items(), units, strict=True):
            yield charts.histogram(f"{title}{name}", {name: part}, across=unit)
        return
    yield charts.histogram(title, parts, across=field.unit)


def _units(field: Field) -> list[str]:
    """Return the unit of each component of the last axis, where the field says so many, else the one of all."""
    units = [unit.strip() for unit in field.unit.split(",")]
    return units if field.shape and len(units) == field.shape[-1] else [field.unit]


# --- outliers


def _add_outliers(page: Page, drawn: DrawnSamples) -> None:
    dataset = drawn.dataset
    found: list[tuple[float, str, int, int]] = []  # distance, field, place in its array, drawn sample
    count = 0
    for name, statistics in drawn.statistics[0].items():
        far = _distances(drawn.values(name), statistics)
        if not far.size:
            continue
        count += int((far > FAR).any(1).sum())
        places = far.argmax(1)
        furthest = far[np.arange(len(far)), places]
        for row in np.argsort(-furthest, kind="stable")[:OUTLIERS].tolist():
            if furthest[row] > FAR:
                found.append((float(furthest[row]), name, int(places[row]), row))
    page.section("Outliers")
    page.text(
        f"Values that lie more than {FAR:g} standard deviations from the mean of their component: "
        f"{f'in {count:,} fields of samples' if count else 'none'}. Looked at: {drawn.text}."
    )
    if not found:
        return
    found.sort(key=lambda one: -one[0])
    episodes, steps = dataset.index("episode"), dataset.index("step")
    rows = []
    for distance, name, place, row in found[:OUTLIERS]:
        sample, field = int(drawn.rows[row]), dataset.spec[name]
        value = dataset.gather(np.array([sample]), [name])[name].reshape(-1)[place]
        where = ", ".join(map(str, np.unravel_index(place, field.shape))) if field.shape else ""
        units = _units(field)
        shown = f"{text_of(float(value))} {units[place % len(units)]}".strip()
        rows.append([f"{distance:.3g}", name, where, shown, sample, int(episodes[sample]), int(steps[sample])])
    page.table(["distance", "field", "entry", "value", "sample", "episode", "step"], rows)


def _distances(values: Array, statistics: Statistics) -> Array:
    """Return how far values are from the mean of their component in standard deviations, shape (n, values)."""
    std = np.where(statistics.std > 0, statistics.std, np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        far = np.abs(values.astype(np.float64) - statistics.mean) / std
    return np.asarray(np.nan_to_num(far, nan=0.0, posinf=0.0).reshape(len(values), -1))


# --- pictures and episodes


def _add_pictures(page: Page, drawn: DrawnSamples) -> None:
    """Add pictures of some samples as scenes, or of one as curves, and of an episode."""
    dataset = drawn.dataset
    page.section("Samples")
    sample = int(drawn.rows[len(drawn) // 2])
    episodes = dataset.index("episode")
    scenes = None
    with contextlib.suppress(ConfigError):  # a scene that does not fit the samples
        rows = drawn.rows[np.unique(np.linspace(0, len(drawn) - 1, SCENES).astype(np.int64))]
        scenes = scenes_picture(dataset, rows.tolist())
    if scenes is not None:
        page.picture(scenes, "Scenes of samples")
    with contextlib.suppress(ConfigError):  # samples of texts alone, or no matplotlib
        if scenes is None:
            page.picture(dataset.show(sample)._repr_png_(), f"Sample {sample} of {len(dataset):,}")
    if (episodes == episodes[sample]).sum() > 1 and len(dataset.paths) == 1:
        with contextlib.suppress(ConfigError):
            picture = dataset.show(episode=int(episodes[sample]))
            page.picture(picture._repr_png_(), f"Episode {episodes[sample]}, over its steps")


def _add_episodes(page: Page, parts: Parts) -> None:
    drawn = {name: np.unique(dataset.episodes, return_counts=True)[1] for name, dataset in parts.items()}
    found = [charts.histogram("Samples of an episode", drawn, across="samples")]
    for name, dataset in parts.items():
        with contextlib.suppress(ConfigError):  # several folders with one number
            if endings := dataset.endings:
                ended = Counter(endings.values())
                found.append(charts.counts(f"How episodes ended: {name}", dict(ended.most_common()), what="episodes"))
    page.section("Episodes")
    page.charts(found)


# --- rejected samples and provenance


def _add_rejected(page: Page, parts: Parts) -> None:
    page.section("Rejected samples")
    kept = {}
    for name, dataset in parts.items():
        if dataset.mode not in kept:
            kept[dataset.mode] = name, dataset.rejected
    for name, rejected in kept.values():
        if rejected is None:
            page.text(f"{name}: rejected samples were not kept.")
            continue
        count = len(rejected.reasons)
        page.text(f"{name}: {count:,} samples were rejected.")
        if count:
            reasons = Counter(rejected.reasons)
            page.charts([charts.counts(f"Reasons: {name}", dict(reasons.most_common(REASONS)), what="samples")])
            rows = zip(rejected.episode.tolist(), rejected.step.tolist(), rejected.reasons, strict=True)
            note = "" if count <= LISTED else f"The first {LISTED}, of {count:,}."
            page.table(["episode", "step", "reason"], list(rows)[:LISTED], note)


def _add_provenance(page: Page, parts: Parts) -> None:
    page.section("Where it comes from")
    first = next(iter(parts.values()))
    said = {key: text for key, text in first.metadata.items() if key != METADATA}
    page.facts({"folder": ", ".join(map(str, first.places)), **said})
    sources: dict[str, str] = {}
    for name, dataset in parts.items():
        code = "\n".join(code_lines(dataset.provenance))
        source = json.dumps(dataset.source, indent=1, ensure_ascii=False)
        text = f"{code}\n{source}".strip()
        if text not in sources.values():
            sources[name] = text
    for name, text in sources.items():
        page.details(f"Source and code of the {name} part", text)
    constants = {name: f"{value.dtype} {value.shape}" for name, value in first.constants.items()}
    if constants:
        page.text("Constants of the dataset:")
        page.facts(constants)
