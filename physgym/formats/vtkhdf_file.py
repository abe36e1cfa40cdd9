"""VTKHDF: `export_vtkhdf` writes files for ParaView that show the samples of a dataset where they are.

Each partition gets a file next to it, or in another folder, whose arrays are virtual datasets of HDF5: no sample is
copied, and the dataset does not change. See docs/howto/paraview.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from physgym.checks import is_integer
from physgym.data.dataset import SampleDataset
from physgym.data.indices import episode_rows
from physgym.data.partition import Partition
from physgym.errors import ConfigError, DatasetError
from physgym.files import absolute, creating, short
from physgym.formats.registry import ExportFormat, ExportOptions
from physgym.formats.vtk.rows import RowRun
from physgym.formats.vtk.side_file import SUFFIX, check_side_file, unreadable_filters, write_side_file
from physgym.formats.vtk.view import view_of
from physgym.progress import Progress
from physgym.simulation import TIME
from physgym.spaces import Array
from physgym.storage.location import Location

__all__ = ["check_side_file", "export_vtkhdf"]
Written = tuple[Path, Sequence[RowRun], Array]  # a file, its rows and their times


def export_vtkhdf(
    dataset: SampleDataset,
    out: str | Path | None = None,
    *,
    episode: int | None = None,
    nodes: str | None = None,
    cells: str | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    progress: bool = False,
) -> tuple[list[Path], list[str]]:
    """Write a file of VTK for each partition of a dataset, or one for an episode, that show the samples uncopied.

    Committed samples are shown, also those of a partition that is being written. The time of a step is the number of
    its row in the partition; with `episode` it is the simulation's time in s, or the step where nothing says it.

    Args:
        dataset: The samples, all of a mode.
        out: Folder of the new files, by default that of the partitions; or the file of an episode, with such a suffix.
        episode: Only this episode, in one file, from all its partitions.
        nodes: Name of the constant with the positions of the nodes, or of a field where they move; by default "nodes".
        cells: Name of the constant with the cells, perhaps with ``=KIND``; by default "cells". Without cells the nodes
            are a point cloud.
        dims: Names of the axes of fields on a grid, by field; "channel" is the axis of the components. Constants of
            such a name are the coordinates along an axis.
        progress: Whether to show how far it is.

    Returns:
        The files, and remarks: which fields are not there and why, what nothing says.

    Raises:
        ConfigError: Nothing fits, or an argument does not.
        DatasetError: A file exists, a partition is compressed in a way that VTK does not read, or the disk refuses.
    """
    view = view_of(dataset, nodes, cells, dims or {})
    if any(isinstance(one, Location) for one in dataset.places):
        raise ConfigError("files of VTK show a dataset on this machine; bring it here first")
    if not len(dataset):
        raise DatasetError(f"there are no samples in {', '.join(map(str, dataset.paths))} yet")
    if len(dataset) != sum(part.count for part in dataset.partitions):
        raise ConfigError("files of VTK show all samples of a dataset, and some were selected; open it as a whole")
    remarks = list(view.remarks)
    written = _of_partitions(dataset, out) if episode is None else [_of_episode(dataset, out, episode, remarks)]
    used = {run.part.path: run.part for _, runs, _ in written for run in runs}
    for path, part in used.items():
        if method := unreadable_filters(part):
            raise DatasetError(
                f"{path} is compressed with {method}, which VTK and ParaView do not read; export --compress none makes "
                "a dataset again, --compress gzip a copy that they read"
            )
    for file, _, _ in written:
        if file.exists() or file.is_symlink():
            raise DatasetError(f"{file} exists; delete it, or choose another place with --out")
    made = written[0][0]
    try:
        for folder in {file.parent for file, _, _ in written}:
            folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(Progress(len(written), "export", "files", enabled=progress))
            for made, runs, times in written:
                temporary = stack.enter_context(creating(made, durable=False))
                write_side_file(temporary, made.parent, view, runs, times)
                bar.update(1)
    except (OSError, RuntimeError) as error:  # h5py reports a full disk as any of them
        raise DatasetError(f"cannot write {made}: {error}") from error
    return [file for file, _, _ in written], remarks


def _of_partitions(dataset: SampleDataset, out: str | Path | None) -> list[Written]:
    """Return a file for each partition that has samples."""
    parts = [part for part in dataset.partitions if part.count]
    folder = None if out is None else absolute(out)
    if folder is not None and folder.suffix == SUFFIX:
        raise ConfigError(
            f"--out {folder} is to be a folder: each partition has a file of its own. One file is for --episode"
        )
    if folder is not None and len({part.path.name for part in parts}) < len(parts):
        raise ConfigError("several folders have partitions of one name; export them one by one, or without --out")
    return [
        (
            (folder or part.path.parent) / f"{part.path.stem}{SUFFIX}",
            [RowRun(part, 0, part.count)],
            np.arange(part.count),
        )
        for part in parts
    ]


def _of_episode(dataset: SampleDataset, out: str | Path | None, episode: int, remarks: list[str]) -> Written:
    """Return the file of an episode, its rows in the order of their steps, and their times."""
    if not is_integer(episode, 0):
        raise ConfigError(f"episode must be its number, from 0, not {episode!r}")
    steps = dataset.index("step")
    rows = episode_rows(episode, dataset.index("episode"), steps, dataset.episodes)
    times = steps[rows].astype(np.float64)
    try:
        known = dataset.index(TIME)[rows]
    except ConfigError:  # nothing says it
        remarks.append("the time is the step")
    else:
        if np.isfinite(known).all() and (np.diff(known) > 0).all():
            times = known
        else:
            remarks.append("the time is the step: the times of the samples do not ascend")
    runs = _runs(dataset.partitions, rows)
    name = f"{dataset.mode}-episode-{episode:05d}{SUFFIX}"
    place = runs[0].part.path.parent if out is None else absolute(out)
    return (place if out is not None and place.suffix == SUFFIX else place / name), runs, times


def _runs(parts: Sequence[Partition], rows: Array) -> list[RowRun]:
    """Return rows, counted over all partitions, as runs within partitions, in their order."""
    ends = np.cumsum([part.count for part in parts])
    of = np.searchsorted(ends, rows, side="right")
    starts = np.flatnonzero(np.concatenate([[True], (np.diff(rows) != 1) | (np.diff(of) != 0)]))
    found = []
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        part = parts[of[start]]
        first = int(rows[start] - (ends[of[start]] - part.count))
        found.append(RowRun(part, first, first + int(stop - start)))
    return found


class Vtkhdf(ExportFormat):
    """Files of VTK that show partitions."""

    title = "files for ParaView that show a dataset"
    uses = ("out", "dims", "nodes", "cells", "episode")

    def write(self, dataset: SampleDataset, options: ExportOptions) -> str:
        """Write the files of a dataset, or the one of an episode."""
        files, remarks = export_vtkhdf(
            dataset,
            options.out,
            episode=options.episode,
            nodes=options.nodes,
            cells=options.cells,
            dims=options.dims,
            progress=options.progress,
        )
        where = short(files[0]) if len(files) == 1 else f"{len(files)} files, {short(files[0])} to {files[-1].name}"
        return "; ".join([f"written: {where}", *remarks])


EXPORT_FORMAT = Vtkhdf()
