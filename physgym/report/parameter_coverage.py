"""Parameters of the episodes of a dataset: how they are spread, and whether one part goes beyond another."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.report import charts
from physgym.report.figures import text_of
from physgym.report.page import Page
from physgym.spaces import Array

COLUMNS = 12  # numbers of the parameters that are shown
PAIRED = 4  # of these in pairs
CELLS = 20  # into which the range of a parameter is divided


def add_parameters(page: Page, parts: Mapping[str, SampleDataset]) -> None:
    """Add how the parameters of episodes are spread."""
    page.section("Parameters of the episodes")
    tables = {name: found for name, dataset in parts.items() if (found := parameter_columns(dataset))}
    if not tables:
        page.text("No parameters are stored with the episodes.")
        return
    first, units = next(iter(tables.values())), _units(next(iter(parts.values())))
    names = list(first)[:COLUMNS]
    rows = []
    for part, columns in tables.items():
        for name in names:
            values = columns.get(name, np.zeros(0))
            good = values[np.isfinite(values)]
            if not len(good):
                continue
            beyond = "" if columns is first else f"{outside(good, first[name]):,}"
            span = (text_of(float(one)) for one in (good.min(), good.max()))
            rows.append([name, units.get(name, ""), part, f"{len(values):,}", *span, f"{covered(good):.0%}", beyond])
    page.table(
        ["parameter", "unit", "part", "episodes", "smallest", "largest", "covered", "beyond"],
        rows,
        f'"covered" is the share of {CELLS} equal intervals of its range that have an episode; "beyond" counts '
        f"episodes outside of the range of the {next(iter(tables))} part."
        + (f" The first {COLUMNS} of {len(first)} numbers." if len(first) > COLUMNS else ""),
    )
    spread = [
        charts.histogram(name, {part: columns[name] for part, columns in tables.items()}, across=units.get(name, ""))
        for name in names
    ]
    pairs = [
        charts.cloud(
            f"{one} and {other}",
            {part: (columns[one], columns[other]) for part, columns in tables.items()},
            across=one,
            up=other,
        )
        for one, other in combinations(names[:PAIRED], 2)
    ]
    page.charts([*spread, *pairs])


def parameter_columns(dataset: SampleDataset) -> dict[str, Array]:
    """Return the numbers of the parameters of a part's episodes by name, shape (episodes,); empty without any."""
    stored, whose = dataset.parameters, dataset.parameter_episodes
    if not stored or whose is None:
        return {}
    there = np.ones(len(whose), bool)
    if len(dataset.paths) == 1:  # a part of a dataset has the parameters of all its episodes
        there = np.isin(whose, dataset.index("episode"))
    found = {}
    for name, values in stored.items():
        if values.dtype.kind not in "biuf":
            continue
        flat = values[there].reshape(int(there.sum()), -1).astype(np.float64)
        for number in range(flat.shape[1]):
            found[name if flat.shape[1] == 1 else f"{name}[{number}]"] = flat[:, number]
    return found


def _units(dataset: SampleDataset) -> dict[str, str]:
    spec = dataset.parameter_spec
    if spec is None:
        return {}
    return {
        name if field.nbytes == field.dtype.itemsize else f"{name}[{number}]": field.unit
        for name, field in spec.items()
        for number in range(max(1, field.nbytes // max(1, field.dtype.itemsize)))
    }


def covered(values: Array) -> float:
    """Return the share of equal intervals between the smallest and the largest value that hold a value."""
    if values.min() == values.max():
        return 1.0
    return float((np.histogram(values, CELLS)[0] > 0).mean())


def outside(values: Array, others: Array) -> int:
    """Count the values outside of the range of others."""
    good = others[np.isfinite(others)]
    return int(((values < good.min()) | (values > good.max())).sum()) if len(good) else len(values)
