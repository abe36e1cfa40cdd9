"""The provenance of a part of a dataset: which code made its samples, run by run, and what two parts have in common."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym._version import __version__
from physgym.code import Code, check_same, warn_unknown
from physgym.data.description import UNKNOWN

if TYPE_CHECKING:
    from physgym.data.dataset import SampleDataset

NAMED = 8  # of a hash and a commit in what is said
OVERLAP = (
    "{count} of the {total} episodes of {first} are among those of {second}: they have the same simulation, arguments "
    "and seeds, so that {consequence}. Generate one of them with another seed, or as another part (mode={mode!r})"
)
SAME_PARAMETERS = (
    "{count} of the {total} episodes of {first} have the parameters of episodes of {second}, with other seeds: where "
    "the parameters alone say what happens, they are the same episodes"
)
REPEATED_UNKNOWN = {"hash": "unknown", "unknown": ["the description of the dataset says nothing of it"]}


def begun(code: Code) -> dict[str, Any]:
    """Return the provenance of a part that is begun with a code."""
    warn_unknown(code)
    return {"runs": [_run(code, 0)]}


def continued(provenance: Any, code: Code, samples: int, where: str, *, allow: bool = False) -> dict[str, Any]:
    """Return the provenance of a part that is continued.

    Args:
        provenance: What is recorded of it.
        code: The code of now.
        samples: How many samples there are.
        where: What is continued, for a message.
        allow: Go on with another code.

    Raises:
        ChangedCode: The code is another one, or unknown, and that is not allowed.
    """
    runs = runs_of(provenance)
    recorded = REPEATED_UNKNOWN if provenance == UNKNOWN else runs[-1].get("code") if runs else None
    check_same(recorded, code, where, allow=allow)
    run = _run(code, samples)
    if runs and _without_place(runs[-1]) == _without_place(run):
        return {**provenance, "runs": runs}
    return {"runs": [*runs, run]}


def runs_of(provenance: Any) -> list[dict[str, Any]]:
    """Return the runs that made a part, as far as they are recorded; each with another code or commit than before."""
    found = provenance.get("runs") if isinstance(provenance, Mapping) else None
    return [dict(run) for run in found if isinstance(run, Mapping)] if isinstance(found, list) else []


def code_of_part(provenance: Any) -> dict[str, Any] | None:
    """Return the record of the code that made the last samples of a part, None where nothing is recorded."""
    runs = runs_of(provenance)
    code = runs[-1].get("code") if runs else None
    return dict(code) if isinstance(code, Mapping) else None


def described(provenance: Any) -> Iterator[str]:
    """Say which code made a part, for a person: a line for each run that had another code or commit."""
    if provenance == UNKNOWN:
        yield "code: unknown"
    before: Mapping[str, Any] | None = None
    for run in runs_of(provenance):
        code = run.get("code") or {}
        commit = str(code.get("commit") or "")
        parts = [f"code {str(code.get('hash', 'unknown'))[: NAMED * 2]}"]
        parts += [f"commit {commit}{' with changes' if code.get('dirty') else ''}"] if commit else []
        parts += [f"physgym {run['physgym']}"] if "physgym" in run else []
        yield f"from sample {run.get('samples', 0)}: {', '.join(parts)}"
        if before is not None:
            from physgym.code import differences

            yield from (f"  {text}" for text in differences(Code.from_json(before), Code.from_json(code)))
        before = code


def _run(code: Code, samples: int) -> dict[str, Any]:
    return {"samples": samples, "code": code.to_json(), "physgym": __version__}


def _without_place(run: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in json.loads(json.dumps(run)).items() if name != "samples"}


# --- what two parts have in common


def overlaps(first: SampleDataset, second: SampleDataset, names: Sequence[str] = ("the first", "the second")) -> str:
    """Say which episodes two datasets have in common, by simulation, arguments and seeds; empty for none.

    Args:
        first: Samples that are to be unseen, such as those of a validation.
        second: Those that they are compared with, such as those of a training.
        names: What to call them.
    """
    if not (_same_simulation(first, second) and len(first) and len(second)):
        return ""
    own, others = _seeds(first), _seeds(second)
    common = np.intersect1d(own, others, assume_unique=True)
    figures = {"total": len(own), "first": names[0], "second": names[1]}
    if len(common):
        consequence = "an error measured on them is no error on unseen samples"
        return OVERLAP.format(count=len(common), **figures, consequence=consequence, mode="validation")
    if (count := _equal_parameters(first, second)) and first.source.get("parameters") is not None:
        return SAME_PARAMETERS.format(count=count, **figures)
    return ""


def overlaps_with_run(dataset: SampleDataset, source: Mapping[str, Any], seeds: Sequence[int]) -> int:
    """Return how many of the seeds of a run are those of episodes of a dataset, of the same simulation."""
    if dataset.source.get("env") != source.get("env") or not len(dataset):
        return 0
    return int(np.isin(np.asarray(seeds, np.uint64), _seeds(dataset)).sum())


def _same_simulation(first: SampleDataset, second: SampleDataset) -> bool:
    """Whether both come from one simulation, with arguments and actions that give equal episodes for equal seeds."""
    told = [
        [json.dumps([part.get(name) for name in ("env", "env_kwargs", "actions")]) for part in _sources(dataset)]
        for dataset in (first, second)
    ]
    known = all("env" in source for dataset in (first, second) for source in _sources(dataset))
    return known and bool(set(told[0]) & set(told[1]))


def _sources(dataset: SampleDataset) -> list[Mapping[str, Any]]:
    return [json.loads(text) for text in dict.fromkeys(part.attributes["source"] for part in dataset.partitions)]


def _seeds(dataset: SampleDataset) -> Any:
    return np.unique(dataset.index("seed"))


def _equal_parameters(first: SampleDataset, second: SampleDataset) -> int:
    """How many episodes of the first have the very parameters of one of the second."""
    rows = []
    for dataset in (first, second):
        stored = dataset.parameters
        if not stored:
            return 0
        columns = [np.ascontiguousarray(column).reshape(len(column), -1) for column in stored.values()]
        rows.append([b"".join(part.tobytes() for part in row) for row in zip(*columns, strict=True)])
    there = set(rows[1])
    return sum(row in there for row in itertools.chain(rows[0]))
