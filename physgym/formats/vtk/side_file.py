"""Write a file of VTK whose arrays are views of partitions, and compare such a file with the partitions that are there.

The file has the group VTKHDF, as VTK's reader wants it, and ``physgym/sources``, a JSON text: which rows of which
partitions it shows, with the checksums of those that were sealed, and the names of the first and the last row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physgym._version import __version__
from physgym.data.layout import SAMPLES
from physgym.data.partition import Partition
from physgym.errors import DatasetError
from physgym.formats.vtk.grid import ImageGrid
from physgym.formats.vtk.mesh import Mesh
from physgym.formats.vtk.rows import MappedArray, RowRun, constant_dataset, relative_name, source_column, steps_of
from physgym.formats.vtk.view import INDICES, View
from physgym.spaces import Array

SUFFIX = ".vtkhdf"
ROOT, SOURCES = "VTKHDF", "physgym/sources"
VERSION_OF_VTKHDF = (2, 0)  # the first one with steps
PLUGINS = {32001: "blosc", 32004: "lz4", 32015: "zstd"}  # filters of archives that VTK's reader does not have


def write_side_file(path: Path, folder: Path, view: View, runs: Sequence[RowRun], times: Array) -> None:
    """Write a file of VTK that shows rows of partitions, a step per row.

    Args:
        path: The new file.
        folder: Folder in which it will lie: sources are named relative to that.
        view: The arrays.
        runs: The rows, in the order of the steps.
        times: Time of each step, shape (steps,), ascending.

    Raises:
        OSError: The disk refuses.
    """
    files = {run.part.path: relative_name(run.part.path, folder) for run in runs}
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        root = file.create_group(ROOT)
        root.attrs["Version"] = np.array(VERSION_OF_VTKHDF, np.int64)
        series = root.create_group("Steps")
        series.attrs["NSteps"] = np.int64(len(times))
        series["Values"] = times.astype(np.float64)
        if view.mesh is not None:
            _write_mesh(root, view.mesh, runs, files)
        if view.grid is not None:
            _write_grid(root, view.grid)
        for name, arrays in (("PointData", view.points), ("CellData", view.cells), ("FieldData", view.values)):
            constants = view.constants.get(name, {})
            if arrays or constants:
                _write_arrays(root, name, arrays, runs, files)
                for label, values in constants.items():
                    root[name][label] = values
                    constant_dataset(series[f"{name}Offsets"], label, (len(times),), 0)
        said = {"physgym": __version__, "sources": _sources(runs, files)}
        file[SOURCES] = np.bytes_(json.dumps(said).encode())


def _kind(root: h5py.Group, name: str) -> None:
    root.attrs.create("Type", name.encode(), dtype=h5py.string_dtype("ascii", len(name)))


def _write_mesh(root: h5py.Group, mesh: Mesh, runs: Sequence[RowRun], files: dict[Path, str]) -> None:
    """Write nodes and cells, which all steps have in common, or nodes for each step."""
    _kind(root, "UnstructuredGrid")
    steps, series = steps_of(runs), root["Steps"]
    for name, count in (("Points", mesh.nodes), ("Cells", mesh.cells), ("ConnectivityIds", len(mesh.connectivity))):
        root[f"NumberOf{name}"] = np.array([count], np.int64)
    root["Connectivity"], root["Offsets"], root["Types"] = mesh.connectivity, mesh.offsets, mesh.kinds
    constant_dataset(series, "NumberOfParts", (steps,), 1)
    constant_dataset(series, "PartOffsets", (steps,), 0)
    for name in ("CellOffsets", "ConnectivityIdOffsets"):
        constant_dataset(series, name, (steps, 1), 0)
    if mesh.points is not None:
        root["Points"] = mesh.points
        constant_dataset(series, "PointOffsets", (steps,), 0)
        return
    field = runs[0].part.spec[mesh.moving]
    dtype = np.dtype("<f8" if field.dtype.itemsize > 4 else "<f4")
    array = MappedArray("Points", f"data/{field.name}", field.shape, dtype, (mesh.nodes,), field.shape[1])
    array.write(root, runs, files)
    series["PointOffsets"] = np.arange(steps, dtype=np.int64) * mesh.nodes


def _write_grid(root: h5py.Group, grid: ImageGrid) -> None:
    _kind(root, "ImageData")
    last = [*[length - 1 for length in reversed(grid.shape)], 0, 0][:3]
    root.attrs["WholeExtent"] = np.array([[0, end] for end in last], np.int32).ravel()
    root.attrs["Origin"], root.attrs["Spacing"] = grid.origin, grid.spacing
    root.attrs["Direction"] = grid.direction.ravel()


def _write_arrays(
    root: h5py.Group, name: str, arrays: Sequence[MappedArray], runs: Sequence[RowRun], files: dict[Path, str]
) -> None:
    """Write arrays with their offsets, which those of as many points have in common."""
    group, offsets = root.create_group(name), root["Steps"].create_group(f"{name}Offsets")
    known: dict[int, h5py.Dataset] = {}
    for one in arrays:
        one.write(group, runs, files)
        each = one.points if one.flat else 1
        if each not in known:
            offsets[one.name] = np.arange(steps_of(runs), dtype=np.int64) * each
            known[each] = offsets[one.name]
        else:
            offsets[one.name] = known[each]  # a second name, no copy


# --- sources


def _sources(runs: Sequence[RowRun], files: dict[Path, str]) -> list[dict[str, Any]]:
    """Return what is remembered of each partition: its file, its checksum, and which rows are shown."""
    found = []
    for path, file in files.items():
        of_it = [run for run in runs if run.part.path == path]
        part, start, stop = of_it[0].part, min(run.start for run in of_it), max(run.stop for run in of_it)
        said = {"file": file, "start": start, "stop": stop, "samples": part.count, "checksum": part.checksum}
        found.append({**said, "names": _names(part, start, stop)})
    return found


def _names(part: Partition, start: int, stop: int) -> list[list[int]]:
    """Return episode, step and seed of the first and of the last row."""
    return [
        [int(part.read(f"index/{name}", row, row + 1)[0]) for name in (*INDICES, "seed")] for row in (start, stop - 1)
    ]


def check_side_file(file: Path) -> list[str]:
    """Compare a file with the partitions that it shows: they are there, and the same.

    Rows are not read: whether these are what their seals say is found by `SampleDataset.verify`.

    Returns:
        What is wrong, empty where all is well.

    Raises:
        DatasetError: It is no such file.
    """
    try:
        with h5py.File(file, "r") as opened:
            sources = json.loads(opened[SOURCES][()].decode())["sources"]
            columns = _columns(opened)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DatasetError(f"{file} is no file that physgym export --to vtkhdf has written ({error})") from error
    wrong = []
    for one in sources:
        problem = _problem(file.parent / one["file"], one, columns)
        if problem:
            wrong.append(f"{one['file']}: {problem}")
    return wrong


def _columns(file: h5py.File) -> dict[str, tuple[int, ...]]:
    """Return the columns of partitions that a file shows, with the shape of a row."""
    found: dict[str, tuple[int, ...]] = {}

    def visit(_: str, one: Any) -> None:
        if isinstance(one, h5py.Dataset) and one.is_virtual:
            for source in one.virtual_sources():
                if source.file_name != ".":
                    found[source_column(source.dset_name)] = source.src_space.shape[1:]

    file[ROOT].visititems(visit)
    return found


def _problem(path: Path, said: dict[str, Any], columns: dict[str, tuple[int, ...]]) -> str:
    """Return what is wrong with a partition, empty for nothing."""
    if not path.is_file():
        return (
            "it is not there, and the values of its steps read as NaN, -1 or the largest integer. Bring it back, or "
            "export again"
        )
    try:
        part = Partition(path)
        names = _names(part, said["start"], said["stop"]) if part.count >= said["stop"] else []
    except DatasetError as error:
        return str(error)
    if part.count < said["stop"]:
        return f"it has {part.count} samples, and {said['stop']} are shown"
    held = part.tables[SAMPLES].columns
    for column, shape in columns.items():
        if column not in held or held[column].shape != shape:
            return f"it has no {column} of shape {shape}"
    same = not (part.sealed and said["checksum"]) or part.count != said["samples"] or part.checksum == said["checksum"]
    if not same or names != said["names"]:
        return "it is another file than the one that was exported: its checksum or its samples differ. Export again"
    return ""


def unreadable_filters(part: Partition) -> str:
    """Return by what a compressed partition is compressed that VTK's reader does not have, empty for nothing."""
    if not part.archive:
        return ""
    with h5py.File(part.path, "r") as file:
        for column in part.tables[SAMPLES].columns:
            creation = file[column].id.get_create_plist()
            for number in range(creation.get_nfilters()):
                code = creation.get_filter(number)[0]
                if code in PLUGINS:
                    return PLUGINS[code]
    return ""
