"""The provenance of a part of a dataset: which code made its samples, run by run, and what two parts have in common."""

from __future__ import annotations

import json
import warnings
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
UNSEEN = "an error measured on them is no error on unseen samples"
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
        return OVERLAP.format(count=len(common), **figures, consequence=UNSEEN, mode="validation")
    if (count := _equal_parameters(first, second)) and first.source.get("parameters") is not None:
        return SAME_PARAMETERS.format(count=count, **figures)
    return ""


def overlaps_with_stream(dataset: SampleDataset, stream: Any) -> str:
    """Say which episodes of a dataset a stream of fresh samples gives as well; empty for none, or if nothing tells.

    Args:
        dataset: Samples that are to be unseen.
        stream: A `SampleStream`, or what has one as its ``stream``.
    """
    stream = getattr(stream, "stream", stream)
    source, draws = getattr(stream, "source", None), getattr(stream, "episode_seed", None)
    if not isinstance(source, Mapping) or draws is None or not len(dataset):
        return ""
    if _simulation(source) not in map(_simulation, _sources(dataset)):
        return ""
    episodes, first = np.unique(dataset.index("episode"), return_index=True)
    pairs = zip(episodes.tolist(), dataset.index("seed")[first].tolist(), strict=True)
    count = sum(draws(episode) == seed for episode, seed in pairs)
    if not count:
        return ""
    figures = {"total": len(episodes), "first": "the validation samples", "second": "those that are produced"}
    return OVERLAP.format(count=count, **figures, consequence=UNSEEN, mode="validation")


def warn_of_overlap(validation: Any, training: Any) -> None:
    """Warn where samples to validate on are among those of a training, if both say where they come from."""
    from physgym.data.dataset import SampleDataset

    if not isinstance(validation, SampleDataset):
        return
    if isinstance(training, SampleDataset):
        text = overlaps(validation, training, ("the validation samples", "the training samples"))
    else:
        text = overlaps_with_stream(validation, training)
    if text:
        warnings.warn(text, UserWarning, stacklevel=3)


def _same_simulation(first: SampleDataset, second: SampleDataset) -> bool:
    """Whether both come from one simulation with the same arguments, which gives equal episodes for equal seeds."""
    told = [set(filter(None, map(_simulation, _sources(dataset)))) for dataset in (first, second)]
    return bool(told[0] & told[1])


def _simulation(source: Mapping[str, Any]) -> str:
    """Simulation and arguments as a text; empty where the source does not say."""
    return json.dumps([source["env"], source.get("env_kwargs")], sort_keys=True) if source.get("env") else ""


def _sources(dataset: SampleDataset) -> list[Mapping[str, Any]]:
    return [json.loads(text) for text in dict.fromkeys(part.attributes["source"] for part in dataset.partitions)]


def _seeds(dataset: SampleDataset) -> Any:
    return np.unique(dataset.index("seed"))


def _equal_parameters(first: SampleDataset, second: SampleDataset) -> int:
    """How many episodes of the first have the very parameters of one of the second."""
    rows = []
    for dataset in (first, second):
        stored, whose = dataset.parameters, dataset.parameter_episodes
        if not stored or whose is None or len(dataset.paths) > 1:  # of joined ones nothing tells whose they are
            return 0
        there = np.isin(whose, dataset.index("episode"))  # a dataset that was split keeps the parameters of all
        columns = [np.ascontiguousarray(column[there]).reshape(there.sum(), -1) for column in stored.values()]
        rows.append([b"".join(part.tobytes() for part in row) for row in zip(*columns, strict=True)])
    known = set(rows[1])
    return sum(row in known for row in rows[0])
