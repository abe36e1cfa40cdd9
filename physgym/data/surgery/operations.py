"""Surgery on datasets: a new dataset is made of others, which stay as they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from physgym import limits
from physgym.checks import integer, one_of, positive
from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.data.snapshots import left_snapshots
from physgym.data.surgery.computing import TIMEOUT, Computing, function_of, with_field
from physgym.data.surgery.describing import describe_in_place
from physgym.data.surgery.difference import DatasetDifference, difference
from physgym.data.surgery.expression import Expression
from physgym.data.surgery.fields import with_name, with_words, without_fields
from physgym.data.surgery.filtering import filtered_dataset
from physgym.data.surgery.merging import merged_dataset
from physgym.data.surgery.plans import NewDataset
from physgym.data.surgery.rewriting import write_dataset
from physgym.data.surgery.sources import SourceDataset, target
from physgym.errors import ConfigError
from physgym.progress import Progress
from physgym.sample import FieldRole, SampleSpec
from physgym.storage.location import Location
from physgym.system.cores import usable_cores

AnyPath = str | os.PathLike[str] | Location


@dataclass(frozen=True)
class SurgeryReport:
    """Account of the dataset that surgery has made, or would make.

    Attributes:
        path: Where the new dataset is.
        written: Whether it was written; not so in a dry run.
        samples: Number of its samples by mode.
        before: Number of samples of each dataset that it was made of, by mode.
        fields: Its fields by mode.
        notes: What was left out, and the like.
    """

    path: str
    written: bool
    samples: dict[Mode, int]
    before: dict[Mode, list[int]]
    fields: dict[Mode, SampleSpec]
    notes: list[str] = field(default_factory=list)

    def open(self, mode: Mode = "training") -> SampleDataset:
        """Open the new dataset.

        Args:
            mode: Which part of it.
        """
        return SampleDataset(self.path, mode=mode)

    def __str__(self) -> str:
        lines = []
        for mode, count in self.samples.items():
            before = " + ".join(str(one) for one in self.before[mode])
            lines.append(f"{mode}: {count} samples of {before}; {', '.join(self.fields[mode])}")
        lines += self.notes
        lines.append(f"written: {self.path}" if self.written else f"nothing was written to {self.path} (dry run)")
        return "\n".join(lines)


def merge(
    paths: Sequence[AnyPath],
    out: AnyPath,
    *,
    mode: Mode | None = None,
    dry_run: bool = False,
    progress: bool = False,
    max_file_size: int = limits.MAX_FILE_SIZE,
) -> SurgeryReport:
    """Write a dataset of all samples of several ones, part by part.

    Episodes are renumbered: those of each dataset follow those of the one before, so that equal numbers never make
    one of two. `physgym.data.episode_origins.origin_of` says where an episode comes from. Fields, parameters and
    constants must be the same; statistics are computed from the samples.

    Args:
        paths: At least two datasets.
        out: Folder of the new one, or ``s3://bucket/prefix``; there is nothing.
        mode: Only this part; by default all that there are.
        dry_run: Check everything but checksums, and write nothing.
        progress: Whether to show how far it is.
        max_file_size: Largest size of a partition's file in bytes.

    Returns:
        What was made.

    Raises:
        ConfigError: An argument is wrong, or `out` lies in a source or a source in it.
        DatasetError: The datasets do not fit together, something is at `out`, or the disk refuses. Nothing is left.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike, Location)) else list(paths)
    return _operate(given, out, merged_dataset, mode, dry_run, progress, max_file_size)


def filter(
    path: AnyPath,
    where: str,
    out: AnyPath,
    *,
    mode: Mode | None = None,
    dry_run: bool = False,
    progress: bool = False,
    max_file_size: int = limits.MAX_FILE_SIZE,
) -> SurgeryReport:
    """Write a dataset of the samples that fulfil a condition, under the names that they have.

    Of other tables what concerns the episodes that are left stays; how an episode ended only where its last sample is.

    Args:
        path: The dataset.
        where: The condition, such as ``norm(forces) < 10 and step > 0``; see
            `physgym.data.surgery.expression.Expression`.
        out: As in `merge`.
        mode: As in `merge`.
        dry_run: As in `merge`; says how many samples fulfil it.
        progress: As in `merge`.
        max_file_size: As in `merge`.

    Returns:
        What was made.

    Raises:
        ConfigError: The condition is none, or has a name that there is not. Or as `merge`.
        DatasetError: No sample fulfils it. Or as `merge`.
    """
    condition = Expression(where)

    def plan(sources: Sequence[SourceDataset]) -> NewDataset:
        for dataset in sources[0].parts.values():
            condition.check(dataset.spec, dataset.parameter_spec)
        total = sum(map(len, sources[0].parts.values()))
        with Progress(total, "look at samples", "sample", enabled=progress) as bar:
            return filtered_dataset(sources[0], condition, bar.update)

    return _operate([path], out, plan, mode, dry_run, progress, max_file_size)


def drop(
    path: AnyPath,
    fields: str | Sequence[str],
    out: AnyPath,
    *,
    mode: Mode | None = None,
    dry_run: bool = False,
    progress: bool = False,
    max_file_size: int = limits.MAX_FILE_SIZE,
) -> SurgeryReport:
    """Write a dataset without some fields.

    Args:
        path: The dataset.
        fields: Their names.
        out: As in `merge`.
        mode: As in `merge`.
        dry_run: As in `merge`.
        progress: As in `merge`.
        max_file_size: As in `merge`.

    Returns:
        What was made.

    Raises:
        ConfigError: There is no such field, or one that stays needs it. Or as `merge`.
        DatasetError: As `merge`.
    """
    names = [fields] if isinstance(fields, str) else list(fields)
    plan = _of_one(lambda source: without_fields(source, names))
    return _operate([path], out, plan, mode, dry_run, progress, max_file_size)


def rename(
    path: AnyPath,
    old: str,
    new: str,
    out: AnyPath,
    *,
    mode: Mode | None = None,
    dry_run: bool = False,
    progress: bool = False,
    max_file_size: int = limits.MAX_FILE_SIZE,
) -> SurgeryReport:
    """Write a dataset in which a field has another name.

    Args:
        path: The dataset.
        old: The name that it has.
        new: The name that it gets.
        out: As in `merge`.
        mode: As in `merge`.
        dry_run: As in `merge`.
        progress: As in `merge`.
        max_file_size: As in `merge`.

    Returns:
        What was made.

    Raises:
        ConfigError: There is no such field, or the new name is taken. Or as `merge`.
        DatasetError: As `merge`.
    """
    return _operate([path], out, _of_one(lambda s: with_name(s, old, new)), mode, dry_run, progress, max_file_size)


def add(
    path: AnyPath,
    name: str,
    function: str | Computing,
    out: AnyPath,
    *,
    role: FieldRole = "additional",
    unit: str = "",
    dtype: str | None = None,
    nonfinite: Literal["error", "allow"] = "error",
    num_workers: int | None = None,
    timeout: float = TIMEOUT,
    mode: Mode | None = None,
    dry_run: bool = False,
    progress: bool = False,
    max_file_size: int = limits.MAX_FILE_SIZE,
) -> SurgeryReport:
    """Write a dataset with a field more, which a function computes from each sample.

    Args:
        path: The dataset.
        name: Name of the field.
        function: Called with a sample, a dictionary of arrays by field, it returns the value: a number or an array, of
            one shape. A function of two arguments also gets what is known of the sample: "episode", "step", "seed",
            "env" and "parameters", those of its episode by name. Or ``module:function``.
        out: As in `merge`.
        role: What it is to a network: "input", "target" or "additional".
        unit: Its unit.
        dtype: Its dtype; by default that of the first value.
        nonfinite: "error", or "allow" to store values that are not finite.
        num_workers: Processes that compute it, by default one per core; 0 computes it in this one. Their number does
            not change the result.
        timeout: Seconds to wait for the values of a portion of samples.
        mode: As in `merge`.
        dry_run: As in `merge`; computes the value of the first sample.
        progress: As in `merge`.
        max_file_size: As in `merge`.

    Returns:
        What was made.

    Raises:
        ConfigError: The name is taken, or the function does not exist. Or as `merge`.
        SampleError: The function fails for a sample, or its value does not fit; the text names the sample.
        WorkerError: A process died or takes too long.
        DatasetError: As `merge`.
    """
    one_of("role", role, get_args(FieldRole))
    one_of("nonfinite", nonfinite, ("error", "allow"))
    positive("timeout", timeout)
    workers = usable_cores() if num_workers is None else integer("num_workers", num_workers, 0)
    found = function_of(function)

    def plan(source: SourceDataset) -> NewDataset:
        return with_field(
            source,
            name,
            found,
            role=role,
            unit=unit,
            dtype=dtype,
            nonfinite=nonfinite,
            num_workers=workers,
            timeout=timeout,
        )

    return _operate([path], out, _of_one(plan), mode, dry_run, progress, max_file_size)


def describe(
    path: AnyPath,
    said: Mapping[str, str],
    out: AnyPath | None = None,
    *,
    dry_run: bool = False,
    progress: bool = False,
    max_file_size: int = limits.MAX_FILE_SIZE,
) -> SurgeryReport:
    """Say something about a dataset, such as its licence, or about its fields; values stay as they are.

    Without `out` it is put into ``dataset.json`` alone, which is replaced in one instant: no partition is touched, and
    the dataset can be continued as before. What is said of fields stands in the partitions, and needs `out`.

    Args:
        path: The dataset.
        said: Texts by key; an empty text takes the key away. ``FIELD.unit``, ``.role``, ``.dimensions``, ``.kind``,
            ``.mask`` and ``.feeds`` are about a field, all other keys about the dataset: `SampleDataset.metadata`.
        out: As in `merge`; None for the description of `path` itself.
        dry_run: As in `merge`.
        progress: As in `merge`.
        max_file_size: As in `merge`.

    Returns:
        What was made.

    Raises:
        ConfigError: There is no such field, it cannot be what is said, or `out` is needed. Or as `merge`.
        DatasetError: As `merge`; or a writer is at work.
    """
    if out is None:
        source = SourceDataset.open(_place(path))
        new = describe_in_place(path, source, said, dry_run=dry_run)
        return _report(path, not dry_run, [source], new, in_place=True)
    return _operate([path], out, _of_one(lambda one: with_words(one, said)), None, dry_run, progress, max_file_size)


def diff(first: AnyPath, second: AnyPath, *, mode: Mode | None = None, progress: bool = False) -> DatasetDifference:
    """Compare two datasets.

    Args:
        first: The one.
        second: The other.
        mode: As in `merge`.
        progress: As in `merge`.

    Returns:
        The differences, false where there are none.

    Raises:
        ConfigError: There is no such mode.
        DatasetError: One is missing or damaged.
    """
    return difference(
        SourceDataset.open(_place(first), mode), SourceDataset.open(_place(second), mode), progress=progress
    )


def _of_one(plan: Callable[[SourceDataset], NewDataset]) -> Callable[[Sequence[SourceDataset]], NewDataset]:
    return lambda sources: plan(sources[0])


def _operate(
    paths: Sequence[AnyPath],
    out: AnyPath,
    plan: Callable[[Sequence[SourceDataset]], NewDataset],
    mode: Mode | None,
    dry_run: bool,
    progress: bool,
    max_file_size: int,
) -> SurgeryReport:
    """Plan a new dataset of others, check it, and write it unless this is a dry run."""
    integer("max_file_size", max_file_size, 1)
    given = [_place(path) for path in paths]
    place = target(None if out is None else _place(out), given)
    sources = [SourceDataset.open(path, mode) for path in given]
    new = plan(sources)
    if not dry_run:
        for source in sources:
            source.verify(progress=progress)
        write_dataset(new, place, progress=progress, max_file_size=max_file_size)
    return _report(out, not dry_run, sources, new)


def _report(
    out: AnyPath, written: bool, sources: Sequence[SourceDataset], new: NewDataset, *, in_place: bool = False
) -> SurgeryReport:
    before = {part.mode: [len(one.parts[part.mode]) for one in sources if part.mode in one.parts] for part in new.parts}
    return SurgeryReport(
        str(out),
        written,
        {part.mode: part.count for part in new.parts},
        before,
        {part.mode: part.spec for part in new.parts},
        [*new.notes, *([] if in_place else _lost_snapshots(sources))],
    )


def _lost_snapshots(sources: Sequence[SourceDataset]) -> list[str]:
    """Return a note where a source has states of its simulation, which the new dataset has not."""
    parts = [(dataset.paths, mode) for source in sources for mode, dataset in source.parts.items()]
    if any(left_snapshots(paths, mode) for paths, mode in parts):
        return ["snapshots are left out: an episode is opened again from its seed"]
    return []


def _place(path: AnyPath) -> str | Path | Location:
    """Return a path as datasets take it."""
    if isinstance(path, (str, Path, Location)):
        return path
    if isinstance(path, os.PathLike):
        return Path(os.fspath(path))
    raise ConfigError(f"{path!r} is no path of a dataset")
