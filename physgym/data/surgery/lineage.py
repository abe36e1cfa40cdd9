"""The source and the provenance of datasets that surgery makes: those of what it was made from, and what was done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from physgym._version import __version__
from physgym.data.dataset import SampleDataset
from physgym.data.origins import SURGERY, merged_of, merged_source, placed_entries, provenances_of
from physgym.data.provenance import REPEATED_UNKNOWN, runs_of
from physgym.data.surgery.sources import seen

SurgeryStep = Mapping[str, Any]  # what was done, such as {"filter": "norm(x) < 3"}


def changed_source(dataset: SampleDataset, step: SurgeryStep) -> dict[str, Any]:
    """Return the source of a part that is changed: its own, and what was done."""
    source = dataset.source
    return {**source, SURGERY: [*_steps(source), dict(step)]}


def changed_provenance(
    path: str, dataset: SampleDataset, step: SurgeryStep, kept_before: Callable[[int], int] = lambda row: row
) -> dict[str, Any]:
    """Return the provenance of a part that is changed.

    Args:
        path: Where it was.
        dataset: The part.
        step: What was done.
        kept_before: Returns how many of the first so many samples are still there.
    """
    before = dataset.provenance
    kept = [{**run, "samples": kept_before(int(run.get("samples", 0)))} for run in _runs(before)]
    done = {**step, "from": {"dataset": path, **seen(dataset)}, "physgym": __version__}
    found = {"runs": kept, SURGERY: [*_done(before), done]}
    count = len(merged_of(dataset.source))
    return {**found, "origins": provenances_of(before, count)} if count else found


def merged_lineage(
    parts: Sequence[tuple[str, SampleDataset, int, int, int]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return source and provenance of parts that are merged.

    Args:
        parts: For each its path, the part, its first and last episode in the new numbers, and the shift to these.
    """
    step = {"merge": len(parts)}
    source = merged_source([(path, dataset.source, first, last, shift) for path, dataset, first, last, shift in parts])
    runs, origins, count = list[dict[str, Any]](), list[Any](), 0
    for _, dataset, first, last, shift in parts:
        before = dataset.provenance
        runs += [{**run, "samples": count + int(run.get("samples", 0))} for run in _runs(before)]
        if entries := len(merged_of(dataset.source)):
            known = provenances_of(before, entries)
            origins += [known[number] for number, _ in placed_entries(dataset.source, first, last, shift)]
        else:
            origins.append(before)
        count += len(dataset)
    came = [{"dataset": path, **seen(dataset), SURGERY: _done(dataset.provenance)} for path, dataset, *_ in parts]
    came = [{key: value for key, value in one.items() if value != []} for one in came]
    done = {**step, "from": came, "physgym": __version__}
    return {**source, SURGERY: [step]}, {"runs": runs, SURGERY: [done], "origins": origins}


def _runs(provenance: Any) -> list[dict[str, Any]]:
    """Return the runs of a part, one of unknown code where nothing is recorded."""
    return runs_of(provenance) or [{"samples": 0, "code": dict(REPEATED_UNKNOWN)}]


def _steps(source: Mapping[str, Any]) -> list[Any]:
    found = source.get(SURGERY)
    return list(found) if isinstance(found, list) else []


def _done(provenance: Any) -> list[Any]:
    found = provenance.get(SURGERY) if isinstance(provenance, Mapping) else None
    return list(found) if isinstance(found, list) else []
