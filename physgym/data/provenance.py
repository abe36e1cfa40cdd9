"""The provenance of a part of a dataset: which code made its samples, run by run, and what two parts have in common."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from physgym._version import __version__
from physgym.code.record import SHOWN, Code, check_same, differences, warn_unknown
from physgym.data.dataset_parts import PARTS, EpisodeSplit
from physgym.data.description import UNKNOWN, Description
from physgym.data.recorded_numbers import read_numbers
from physgym.data.stream_origin import origin_of
from physgym.data.windows import without_windows
from physgym.errors import PhysGymError
from physgym.naming import class_name, same_name

if TYPE_CHECKING:
    from physgym.data.dataset import SampleDataset

NAMED = 8  # of a hash and a commit in what is said
COMPARED = 64  # episodes of two simulations with different names whose samples are compared
UNSEEN = "an error measured on them is no error on unseen samples"
Simulated: TypeAlias = tuple[str, Mapping[str, Any]]  # a simulation, and a record of its code
UNSEEN_PARTS = ("training", "validation", "test")
REPEATED_UNKNOWN = {"hash": "unknown", "unknown": ["the description of the dataset says nothing of it"]}


def begun(code: Code, defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the provenance of a part that is begun with a code.

    Args:
        code: That of the simulation.
        defaults: The arguments of its constructor where none are given, JSON data.
    """
    warn_unknown(code)
    return {"runs": [_run(code, 0, defaults)]}


def continued(
    provenance: Any,
    code: Code,
    samples: int,
    where: str,
    *,
    allow: bool = False,
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the provenance of a part that is continued.

    Args:
        provenance: What is recorded of it.
        code: The code of now.
        samples: How many samples there are.
        where: What is continued, for a message.
        allow: Continue with another code.
        defaults: See `begun`.

    Raises:
        ChangedCode: The code is another one, or unknown, and that is not allowed.
    """
    runs = runs_of(provenance)
    recorded = REPEATED_UNKNOWN if provenance == UNKNOWN else runs[-1].get("code") if runs else None
    check_same(recorded, code, where, allow=allow)
    run = _run(code, samples, defaults)
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


def code_lines(provenance: Any) -> Iterator[str]:
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
            from physgym.code.record import differences

            yield from (f"  {text}" for text in differences(Code.from_json(before), Code.from_json(code)))
        before = code


def _run(code: Code, samples: int, defaults: Mapping[str, Any] | None) -> dict[str, Any]:
    run = {"samples": samples, "code": code.to_json(), "physgym": __version__}
    return run | ({"defaults": dict(defaults)} if defaults else {})


def _without_place(run: Mapping[str, Any]) -> dict[str, Any]:
    # the defaults follow from the code, and runs of before do not have them
    return {name: value for name, value in json.loads(json.dumps(run)).items() if name not in ("samples", "defaults")}


# --- what two parts have in common


def overlaps(first: SampleDataset, second: SampleDataset, names: Sequence[str] = ("the first", "the second")) -> str:
    """Say which episodes two datasets have in common, by simulation, arguments and seeds; empty for none.

    A registered id names the simulation of its class. Where a simulation is named otherwise (by a lambda, a partial, a
    wrapper around it), nothing tells its arguments: episodes of the same seeds are the same if their samples are equal.

    Arguments that were not given count as those that the constructor has by default. An episode of samples that were
    made by loading stored ones is also the episode that was loaded. Episodes of one folder are the same whether or not
    something is known of their simulation.

    Args:
        first: Samples that must be unseen, such as validation samples.
        second: Samples to compare them with, such as training samples.
        names: What to call them.
    """
    if not (len(first) and len(second)):
        return ""
    defaults = _defaults(second) | _defaults(first)
    bare = _bare_names(first, second)
    own, others = _episodes(first, defaults, bare), _episodes(second, defaults, bare)
    alike = own.keys() & others.keys()
    total = len(np.unique(first.index("seed")))
    equal = [np.intersect1d(own[text][1], others[text][1]) for text in alike]
    count = len(np.unique(np.concatenate(equal))) if equal else 0
    folder, same = _same_samples(first, second)
    if same and same >= count:
        return (
            f"{same} of the {len(np.unique(first.episodes))} episodes of {names[0]} are among those of {names[1]}: "
            f"both are read from {folder}, so that {UNSEEN}. Read each folder once, and give each of its episodes to "
            "one of them"
        )
    if count:
        return _overlap(count, total, names)
    if text := _equal_samples(first, second, total, names):
        return text
    if alike and (count := _equal_parameters(first, second)) and first.source.get("parameters") is not None:
        return (
            f"{count} of the {total} episodes of {names[0]} have the parameters of episodes of {names[1]}, with other "
            "seeds: where the parameters alone say what happens, they are the same episodes"
        )
    return ""


def _overlap(count: int, total: int, names: Sequence[str]) -> str:
    """Return the warning of episodes that two parts have in common, by their simulation and seeds."""
    return (
        f"{count} of the {total} episodes of {names[0]} are among those of {names[1]}: they have the same simulation, "
        f"arguments and seeds, so that {UNSEEN}. Generate one of them with another seed, or as another part "
        "(mode='validation')"
    )


def overlaps_with_draws(
    dataset: SampleDataset,
    source: Mapping[str, Any],
    defaults: Mapping[str, Any],
    draws: Callable[[int], int],
    names: Sequence[str],
    *,
    drawn: bool = False,
) -> str:
    """Say which episodes of a dataset are drawn by a run as well; empty for none.

    Args:
        dataset: The samples.
        source: Where the samples of the run come from, as it would record it: environment and arguments.
        defaults: The arguments of the constructor where none are given.
        draws: The seed of an episode of the run, by its index.
        names: What to call the samples that are to be unseen, and the others.
        drawn: Whether the episodes of the run are to be unseen; else those of the dataset.
    """
    if not len(dataset):
        return ""
    bare = _bare_names(dataset)
    texts = _simulations(source, {str(source.get("env")): defaults}, bare)
    found = _episodes(dataset, _defaults(dataset) | {str(source.get("env")): defaults}, bare) if texts else {}
    count = total = 0
    for text, (episodes, seeds) in found.items():
        total += len(episodes)
        if text in texts:
            count += sum(
                texts[episode % len(texts)] == text and draws(episode) == seed
                for episode, seed in zip(episodes.tolist(), seeds.tolist(), strict=True)
            )
    if not count:
        return ""
    if drawn:
        return (
            f"{count} episodes of {names[1]} are drawn again by {names[0]}: they have the same simulation, arguments "
            f"and seeds, so that {UNSEEN}. Run with another seed, or as another part"
        )
    return _overlap(count, total, names)


def overlaps_with_stream(dataset: SampleDataset, stream: Any, names: Sequence[str] | None = None) -> str:
    """Say which episodes of a dataset a stream of fresh samples gives as well; empty for none, or if nothing tells.

    Args:
        dataset: Samples that are to be unseen.
        stream: What produces the samples.
        names: What to call the samples of the dataset, and those of the stream.
    """
    names = ("the validation samples", "those that are produced") if names is None else names
    if (origin := origin_of(stream)) is None:
        return ""
    if origin.loaded is not None:
        return overlaps(dataset, origin.loaded, (names[0], f"{names[1]} by loading them"))
    return overlaps_with_draws(dataset, origin.source, origin.defaults, origin.episode_seed, names)


def warn_of_overlap(validation: Any, training: Any, *, divided: bool = False) -> None:
    """Warn where samples to validate on are among those of a training, or of other code, if both say what they are of.

    The samples of a training are also compared with one another, where they lie in several folders.

    Args:
        validation: The samples to validate on.
        training: Those of the training, or a stream of them.
        divided: Whether both are parts of one dataset that was split by episode: within one folder they share none.
    """
    from physgym.data.dataset import SampleDataset

    validation, training = without_windows(validation), without_windows(training)
    codes = codes_of(training)
    texts = []
    if isinstance(training, SampleDataset):
        texts.append(_other_code(codes[1:], codes[:1], ("some of the training samples", "others")))
    if isinstance(validation, SampleDataset) and not (divided and len(validation.paths) == 1):
        names = ("the validation samples", "the training samples")
        texts += [] if divided else [_other_code(_codes(validation), codes, names)]
        if isinstance(training, SampleDataset):
            texts.append(overlaps(validation, training, names))
        else:
            texts.append(overlaps_with_stream(validation, training))
    for text in filter(None, texts):
        warnings.warn(text, UserWarning, stacklevel=3)


def codes_of(samples: Any) -> list[Simulated]:
    """Return what is recorded of the simulations that samples, or a stream of them, come from, and of their code."""
    from physgym.data.dataset import SampleDataset

    samples = without_windows(samples)
    return _codes(samples) if isinstance(samples, SampleDataset) else _code_of_stream(samples)


def _codes(dataset: SampleDataset) -> list[Simulated]:
    """Return the simulation of each folder of a dataset and the code of its last samples, where both are recorded."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for source, provenance in dataset.origins()[0]:
        if (code := code_of_part(provenance)) is not None:
            env = source.get("env") or source.get("recorded")
            found.setdefault((str(env), str(code.get("hash"))), code)
    return [(env, code) for (env, _), code in found.items()]


def _code_of_stream(stream: Any) -> list[Simulated]:
    origin = origin_of(stream)
    return [] if origin is None else [(str(origin.source.get("env")), origin.code.to_json())]


def _other_code(first: Sequence[Simulated], second: Sequence[Simulated], names: Sequence[str]) -> str:
    """Say how the code of one simulation differs in two places; empty where it does not, or is unknown in one."""
    for env, code in first:
        for other, before in second:
            pair = Code.from_json(before), Code.from_json(code)
            if not _same_class(env, other) or any(one.unknown for one in pair):
                continue
            if found := differences(*pair, compare_factories=False):
                return (
                    f"{names[0]} were made by other code of the simulation than {names[1]}: "
                    f"{'; '.join(found[:SHOWN])}. Generate one of them again, or take them for what they are: "
                    "samples of two simulations"
                )
    return ""


def other_code(code: Code, learned: Mapping[str, Any], names: Sequence[str]) -> str:
    """Say how the code of a simulation differs from that from which a network learns; empty where it does not.

    Args:
        code: That of the simulation.
        learned: Record of the other one.
        names: What to call the samples of both.
    """
    return _other_code([("", code.to_json())], [("", learned)], names)


def warn_of_parts(stream: Any, writer: Any) -> None:
    """Warn where a part that is written is of other code than another part, or gets episodes that another part has.

    Parts draw seeds of their own, unless they continue with those of an earlier version, or load samples.

    Args:
        stream: The `SampleStream` that makes the samples.
        writer: The `SampleWriter` of the part.
    """
    from physgym.data.dataset import SampleDataset

    mode, loaded = writer.mode, stream.loaded
    if mode not in UNSEEN_PARTS:
        return
    seeds_of_its_own = loaded is None and stream.source.get("seeds", {}).get("part") == mode
    description = Description.read(writer.path) if isinstance(writer.path, Path) else Description()
    texts = []
    for other in UNSEEN_PARTS:
        if other == mode or other not in description.modes:
            continue
        names = (f"the samples of the part {mode}", f"those of its part {other}")
        if (code := code_of_part(description.provenance(other))) is not None:
            env = str((description.modes[other].get("source") or {}).get("env"))
            texts.append(_other_code(_code_of_stream(stream), [(env, code)], names))
        if not seeds_of_its_own:
            dataset = SampleDataset(writer.path, mode=other)  # type: ignore[arg-type]  # it is one of these
            texts.append(overlaps_with_stream(dataset, stream, (f"its part {other}", f"the part {mode} gets")))
    if not any(texts) and loaded is not None and loaded.mode in UNSEEN_PARTS and loaded.mode != mode:
        texts = [
            (
                f"samples of the part {loaded.mode} are loaded and made again as part {mode}: where a network learns "
                f"from the ones, {UNSEEN}, unless those that are loaded are held out"
            )
        ]
    for text in filter(None, texts):
        warnings.warn(text, UserWarning, stacklevel=4)


def learned_samples(session: str | os.PathLike[str]) -> SampleDataset | None:
    """Return the samples that the network of a session has learned from, None where they are not found.

    Args:
        session: Its folder, or a checkpoint in it.
    """
    from physgym.data.dataset import SampleDataset

    folder = Path(session)
    for place in (folder, *list(folder.parents)[:2]):
        with contextlib.suppress(
            OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, PhysGymError
        ):
            run = json.loads((place / "record.json").read_bytes())["runs"][-1]
            used = run["dataset"]
            paths = [path for path in used["path"].split(", ") if "://" not in path]  # nothing is fetched for this
            dataset = SampleDataset(paths)
            if run.get("from_python"):  # which notes what is left after a split, and not which rows these are
                return dataset
            dataset = dataset.subset(np.arange(min(len(dataset), int(used["samples"]))))
            if (split := used.get("split")) is None:
                return dataset
            seen = EpisodeSplit.of(split).parts(dataset.original_episodes) != PARTS.index("test")
            return dataset.subset(np.flatnonzero(seen))
    return None


def _bare_names(*datasets: SampleDataset) -> set[str]:
    """Return names of simulations without the module of their class, as versions before recorded them."""
    sources = [source for dataset in datasets for source, _ in dataset.origins()[0]]
    sources += [load["source"] for one in sources if isinstance(load := one.get("load"), Mapping) and "source" in load]
    return {str(one["env"]) for one in sources if isinstance(one, Mapping) and ":" not in str(one.get("env", ":"))}


def _episodes(dataset: SampleDataset, defaults: Mapping[str, Any], bare: Collection[str]) -> dict[str, tuple[Any, Any]]:
    """Return indices and seeds of the episodes of a dataset, by simulation and arguments as a text."""
    origins, which = dataset.origins()
    episodes, seeds = dataset.original_episodes, dataset.index("seed")
    found: dict[str, list[Any]] = {}
    for number, (source, _) in enumerate(origins):
        rows = np.flatnonzero(which == number)
        _, first = np.unique(episodes[rows], return_index=True)
        names = np.stack([episodes[rows[first]].astype(np.uint64), seeds[rows[first]].astype(np.uint64)])
        texts = _simulations(source, defaults, bare)
        loaded = source.get("load")
        if isinstance(loaded, Mapping) and isinstance(loaded.get("source"), Mapping):
            # whose arguments an episode has depends on its index there, which is not recorded
            for text in {*texts, *_simulations(loaded["source"], defaults, bare)}:
                found.setdefault(text, []).append(names)
            continue
        for place, text in enumerate(texts):
            found.setdefault(text, []).append(names[:, names[0] % len(texts) == place])
    return {text: tuple(np.unique(np.concatenate(parts, 1), axis=1)) for text, parts in found.items()}


def _same_samples(first: SampleDataset, second: SampleDataset) -> tuple[Path | None, int]:
    """Return a folder that two datasets read episodes of in common, and how many of all such folders."""
    if first.mode != second.mode:
        return None, 0
    own, others = _folders(first), _folders(second)
    shared, count = None, 0
    for folder in own.keys() & others.keys():
        found = np.intersect1d(*(_episodes_in(dataset, of[folder]) for dataset, of in ((first, own), (second, others))))
        shared, count = folder if len(found) else shared, count + len(found)
    return shared, count


def _folders(dataset: SampleDataset) -> dict[Path, list[int]]:
    """Return the numbers of the partitions of a dataset, by their folder."""
    found: dict[Path, list[int]] = {}
    for number, part in enumerate(dataset.partitions):
        found.setdefault(part.path.parent.resolve(), []).append(number)
    return found


def _episodes_in(dataset: SampleDataset, partitions: Sequence[int]) -> Any:
    """Return the episodes of a dataset of which some partitions have samples."""
    return dataset.index("episode")[np.isin(dataset.partition_numbers, partitions)]


def _simulations(source: Mapping[str, Any], defaults: Mapping[str, Any], bare: Collection[str]) -> list[str]:
    """Return simulation and arguments as texts, one for each of the arguments; empty where the source does not say.

    Args:
        source: Of samples.
        defaults: The arguments of each simulation where none are given.
        bare: Names of classes without their module: others of these names may be the same.
    """
    if not source.get("env"):
        return []
    named = str(source["env"])
    given = source.get("env_kwargs")
    known = defaults.get(named) or next((one for name, one in defaults.items() if same_name(name, named)), None) or {}
    each = given if isinstance(given, list) else [given]
    whole = [{**known, **(one or {})} for one in each]
    for one in whole:
        one.pop("render_mode", None)  # which shows what happens, and changes nothing
    name = class_name(named)
    short = name.rpartition(":")[2]
    name = short if short in bare else name
    return [json.dumps([name, _number(one)], sort_keys=True) for one in whole]


def _number(value: Any) -> Any:
    """Return JSON data in which equal numbers are alike: 1.0 and 1, and NumPy's, which are recorded as texts."""
    if isinstance(value, dict):
        return {name: _number(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_number(part) for part in value]
    value = read_numbers(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _defaults(dataset: SampleDataset) -> dict[str, Any]:
    """Return arguments of the constructors where none were given, by simulation, as far as they are recorded."""
    found = {}
    for source, provenance in dataset.origins()[0]:
        if (runs := runs_of(provenance)) and isinstance(known := runs[-1].get("defaults"), Mapping):
            found[str(source.get("env"))] = dict(known)
    return found


def _same_class(one: str, other: str) -> bool:
    """Return whether two names mean one simulation, of which the one may be an id and the other its class."""
    return same_name(one, other) or same_name(class_name(one), class_name(other))


def _equal_samples(first: SampleDataset, second: SampleDataset, total: int, names: Sequence[str]) -> str:
    """Say which episodes have the same seeds and samples in simulations with different names; empty for none."""
    most, named = 0, ("", "")
    for (own, _), rows in _rows_by_source(first).items():
        for (other, _), others in _rows_by_source(second).items():
            if not _same_class(own, other) and (count := _equal_episodes(first, rows, second, others)):
                most, named = max((most, named), (count, (own, other)))
    if not most:
        return ""
    return (
        f"{most} of the {total} episodes of {names[0]} are among those of {names[1]}: they have the same seeds and "
        f"equal samples (of the simulations {named[0]} and {named[1]}), so that {UNSEEN}. Generate one of them with "
        "another seed, or as another part (mode='validation')"
    )


def _rows_by_source(dataset: SampleDataset) -> dict[tuple[str, str], Any]:
    """Return the rows of each simulation and arguments of a dataset, where its source says which they are."""
    origins, which = dataset.origins()
    found: dict[tuple[str, str], list[int]] = {}
    for number, (source, _) in enumerate(origins):
        if source.get("env"):
            key = str(source["env"]), json.dumps(source.get("env_kwargs"), sort_keys=True)
            found.setdefault(key, []).append(number)
    return {key: np.flatnonzero(np.isin(which, numbers)) for key, numbers in found.items()}


def _equal_episodes(first: SampleDataset, rows: Any, second: SampleDataset, others: Any) -> int:
    """Count episodes of the same seed with equal samples, by the first and the last step that both have."""
    sides = []
    common = np.intersect1d(first.index("seed")[rows], second.index("seed")[others])
    for dataset, chosen in ((first, rows), (second, others)):
        chosen = chosen[np.isin(dataset.index("seed")[chosen], common)]
        names = np.empty(len(chosen), [("seed", np.uint64), ("step", np.int64)])
        names["seed"], names["step"] = dataset.index("seed")[chosen], dataset.index("step")[chosen]
        sides.append((chosen, names))
    (own, own_names), (other, other_names) = sides
    shared, own_places, other_places = np.intersect1d(own_names, other_names, return_indices=True)  # sorted
    seeds, begins = np.unique(shared["seed"], return_index=True)
    ends = np.append(begins[1:], len(shared))[: len(seeds)] - 1
    looked = np.unique(np.linspace(0, len(seeds) - 1, min(len(seeds), COMPARED)).astype(np.int64))
    equal = np.ones(len(looked), bool)
    for places in (begins[looked], ends[looked]) if len(looked) else ():
        equal &= _alike(first.gather(own[own_places[places]]), second.gather(other[other_places[places]]))
    return len(seeds) if equal.all() else int(equal.sum())


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> Any:
    """Tell which rows of two batches are equal in all their fields."""
    if one.keys() != other.keys() or any(one[name].dtype != other[name].dtype for name in one):
        return False
    ordered = [[batch[name] for name in one] for batch in (one, other)]
    rows = ([_as_bytes(row) for row in zip(*fields, strict=True)] for fields in ordered)
    return np.array([mine == theirs for mine, theirs in zip(*rows, strict=True)], bool)


def _as_bytes(row: Sequence[Any]) -> list[Any]:
    """Return one sample as what can be compared: values that are not finite equal themselves."""
    arrays = [np.asarray(value) for value in row]
    return [(one.shape, one.tolist() if one.dtype.hasobject else one.tobytes()) for one in arrays]


def _equal_parameters(first: SampleDataset, second: SampleDataset) -> int:
    """Count the episodes of the first that have the very parameters of one of the second."""
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
