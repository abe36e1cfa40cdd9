"""Series of meshes, VTK, VTU and XDMF, which `import_mesh` reads by meshio: a file per step or per case."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.errors import ConfigError, DatasetError
from physgym.files import absolute
from physgym.formats.columns import asked_roles, store_columns
from physgym.formats.registry import ImportFormat, ImportOptions
from physgym.sample import FieldRole
from physgym.simulation import TIME
from physgym.spaces import Array

log = logging.getLogger(__name__)
SUFFIXES = (".vtk", ".vtu", ".xdmf", ".xmf")
SERIES = (".xdmf", ".xmf")  # may hold several steps
MESH = "mesh/"  # names of the constants begin with it
POINTS = "points"


def import_mesh(
    source: str | Path,
    path: str | Path,
    *,
    roles: Mapping[str, FieldRole],
    units: Mapping[str, str] | None = None,
    episode: str | None = None,
    step: str | None = None,
    mode: Mode = "training",
    progress: bool = False,
) -> SampleDataset:
    """Store the data of meshes as samples, a mesh a sample.

    Data of points and of cells are fields of shape (points, ...) and (cells, ...), under their names; where both have a
    name, that of the cells is ``cell/NAME``. Cells of several kinds are in the order of the constants, by the names of
    their kinds. The mesh must be the same in all files, up to where its points are: it is
    stored once, as the constants ``mesh/points`` and ``mesh/cells/TYPE``. Points that move are the field ``points``.

    Args:
        source: A folder of files, or of folders with files; in the order of the numbers in their names. Or a file of
            XDMF with several steps, whose times become the field ``time``.
        path: The new dataset's folder.
        roles: Field to "input", "target" or "additional", which all others are.
        units: Field to unit.
        episode: What an episode is: "file", or "folder" where each case has one.
        step: What a step is: "file". Files of XDMF with several steps have them in themselves.
        mode: Which part of the dataset to write.
        progress: Whether to show how far it is.

    Returns:
        The new dataset.

    Raises:
        ConfigError: `episode` and `step` do not say what files are, or `roles` names no field.
        DatasetError: A file cannot be read, meshes or fields differ, or `path` holds samples already.
    """
    source = absolute(source)
    series = _MeshSeries(*_meshes(source, episode, step))
    arrays: dict[str, Any] = {name: _SeriesColumn(series, name) for name in series.first}
    asked_roles(source.name, arrays, roles)
    arrays |= {"index/episode": series.episodes, "index/step": series.steps}
    arrays |= {f"index/constants/{MESH}{name}": value for name, value in series.mesh.items()}
    store_columns(
        source,
        arrays,
        {"source": {"mesh": {"files": source.name}}},
        path,
        roles=roles,
        units=units or {},
        episode=None,
        step=None,
        mode=mode,
        progress=progress,
    )
    return SampleDataset(path, mode=mode)


MeshPlace = tuple[Path, int | None]  # a file, and which of its steps


def _meshes(source: Path, episode: str | None, step: str | None) -> tuple[list[MeshPlace], Array, Array]:
    """Return the places of all meshes, and their episodes and steps."""
    folders, listed = _files(source)
    many = {file: count for file in listed if (count := _steps_in(file)) is not None}
    if many and len(many) < len(listed):
        raise DatasetError(f"some files of {source} hold several steps, such as {next(iter(many))}, and some one")
    wanted: set[tuple[str | None, str | None]]
    if many:
        wanted = {("file", None)} if len(listed) > 1 else {("file", None), (None, None)}
        said = "these files hold several steps each: --episode file"
    elif folders:
        wanted = {("folder", "file")}
        said = "there are folders of files: --episode folder --step file"
    else:
        wanted = {("file", None), (None, "file")}
        said = "say what a file is: --step file, a step of one episode, or --episode file, a case of its own"
    if (episode, step) not in wanted:
        raise ConfigError(f"{source.name} does not say what its {len(listed)} files are; {said}")
    if step == "file":
        _warn_of_gaps(listed)
    places: list[MeshPlace] = []
    episodes: list[int] = []
    steps: list[int] = []
    parents = sorted({file.parent for file in listed}, key=_natural)
    within = dict.fromkeys(parents, 0)
    for number, file in enumerate(listed):
        count = many.get(file)
        for i in range(1 if count is None else count):
            places.append((file, None if count is None else i))
            episodes.append(parents.index(file.parent) if folders else 0 if step == "file" else number)
            steps.append(i if count is not None else within[file.parent] if step == "file" else 0)
        within[file.parent] += 1
    return places, np.array(episodes), np.array(steps)


def _files(source: Path) -> tuple[bool, list[Path]]:
    """Return whether files lie in folders of their own, and the files in order."""
    if source.is_file():
        return False, [source]
    here = [file for file in source.iterdir() if file.suffix.lower() in SUFFIXES]
    below = [file for file in source.glob("*/*") if file.suffix.lower() in SUFFIXES]
    if here and below:
        raise DatasetError(f"{source} holds files and folders of files; move one kind away")
    found = sorted(here or below, key=_natural)
    _check_order(found)
    if not found:
        raise DatasetError(f"{source} holds no files {', '.join(SUFFIXES)}")
    if len({file.suffix.lower() for file in found}) > 1:
        raise DatasetError(f"{source} holds files of several kinds: {sorted({file.suffix for file in found})}")
    return bool(below), found


def _natural(file: Path) -> list[Any]:
    """Return a key that sorts names by the numbers in them."""
    return [
        [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", one)] for one in file.parts
    ]


def _check_order(files: list[Path]) -> None:
    """Raise where numbers in names could be times, such as 0.05 and 0.1, whose order is another one.

    Raises:
        DatasetError: They could; the text names two files.
    """
    for place in range(len(files) - 1):
        one, other = files[place : place + 2]
        if one.parent == other.parent and _decimal(one) > _decimal(other):
            raise DatasetError(
                f"the order of {one.name} and {other.name} in {one.parent} is not clear: as decimal numbers they are "
                "in another one than as counts. Number the files, such as step_0001"
            )


def _warn_of_gaps(files: list[Path]) -> None:
    """Say where the files of an episode are not numbered evenly, so that one may be missing between two steps."""
    for folder in dict.fromkeys(file.parent for file in files):
        names = [re.split(r"\d+", file.stem) for file in files if file.parent == folder]
        numbers = [list(map(int, re.findall(r"\d+", file.stem))) for file in files if file.parent == folder]
        if any(name != names[0] for name in names):
            continue
        varying = [column for column in zip(*numbers, strict=True) if len(set(column)) > 1]
        if len(varying) == 1 and len(set(np.diff(varying[0]).tolist())) > 1:
            log.warning(
                "the numbers of the files in %s are not evenly spaced, %s: each file is the step after the one before",
                folder,
                ", ".join(map(str, varying[0][:8])),
            )


def _decimal(file: Path) -> list[Any]:
    """Return a key that sorts names by the decimal numbers in them."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)", file.stem)
    return [(float(part), "") if i % 2 else (-1.0, part) for i, part in enumerate(parts)]


def _library() -> Any:
    try:
        import meshio
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"physgym.formats.mesh_series needs meshio: pip install 'physgym[mesh]' ({error})", name=error.name
        ) from error
    return meshio


def _steps_in(file: Path) -> int | None:
    """Return the number of steps of a file of XDMF, None for one that is no series."""
    if file.suffix.lower() not in SERIES:
        return None
    meshio = _library()
    try:
        with meshio.xdmf.TimeSeriesReader(file) as reader:
            return int(reader.num_steps)
    except (meshio.ReadError, OSError, ValueError, KeyError, SyntaxError):
        return None  # read as one mesh, which says what is wrong


def _read(place: MeshPlace) -> tuple[Array, Sequence[Any], dict[str, Array]]:
    """Return points, blocks of cells and fields of a mesh."""
    meshio = _library()
    file, number = place
    more: dict[str, Array] = {}
    try:
        if number is None:
            mesh = meshio.read(file)
            points, cells, point_data, cell_data = mesh.points, mesh.cells, mesh.point_data, mesh.cell_data
        else:
            with meshio.xdmf.TimeSeriesReader(file) as reader:
                points, cells = reader.read_points_cells()
                time, point_data, cell_data = reader.read_data(number)
            more[TIME] = np.asarray(time, np.float64)
    except SystemExit as error:  # by which meshio says that no reader of a suffix takes a file
        raise DatasetError(f"cannot read the mesh {file}: it is damaged, or no file {file.suffix}") from error
    except Exception as error:
        raise DatasetError(f"cannot read the mesh {file}: {error}") from error
    found = {name: np.asarray(values) for name, values in point_data.items()}
    names = _names(cells)
    order = sorted(range(len(names)), key=names.__getitem__)  # the order of the constants
    for name, blocks in cell_data.items():
        values = np.concatenate([np.asarray(blocks[i]) for i in order])
        found[f"cell/{name}" if name in found else name] = values
    if taken := sorted({POINTS, *more} & set(found)):
        raise DatasetError(f"{file} has data named {taken}, as the points of a mesh are; rename them")
    return np.asarray(points), cells, found | more


class _MeshSeries:
    """Meshes that are read when they are needed, and compared with the first one.

    Attributes:
        places: Where they are.
        episodes: Episode of each.
        steps: Step of each in its episode.
        mesh: Points, unless they move, and cells of the first mesh.
        first: Its fields.
    """

    def __init__(self, places: list[MeshPlace], episodes: Array, steps: Array) -> None:
        self.places, self.episodes, self.steps = places, episodes, steps
        points, cells, self.first = _read(places[0])
        self.mesh = _cells(cells)
        last, _, _ = _read(places[-1])
        middle, _, _ = _read(places[len(places) // 2])
        if all(np.array_equal(points, other) for other in (middle, last)):
            self.mesh[POINTS] = points
        else:
            self.first[POINTS] = points
        self._kept: tuple[tuple[int, int], list[dict[str, Array]]] = ((0, 0), [])

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Return the values of a field in some meshes."""
        if self._kept[0] != (start, stop):
            self._kept = ((start, stop), [self._checked(place) for place in self.places[start:stop]])
        found = [fields[name] for fields in self._kept[1]]
        return np.stack(found) if found else np.empty((0, *self.first[name].shape), self.first[name].dtype)

    def _checked(self, place: MeshPlace) -> dict[str, Array]:
        """Return the fields of a mesh.

        Raises:
            DatasetError: Mesh or fields are others than those of the first one.
        """
        points, cells, fields = _read(place)
        blocks, where = _cells(cells), place[0]
        if POINTS in self.first:
            fields[POINTS] = points
        elif not np.array_equal(points, self.mesh[POINTS]):
            raise DatasetError(
                f"the points of {where} are others than those of {self.places[0][0]}, and of the last file"
            )
        if blocks.keys() != self.mesh.keys() - {POINTS} or any(
            not np.array_equal(block, self.mesh[name]) for name, block in blocks.items()
        ):
            raise DatasetError(
                f"the cells of {where} are others than those of {self.places[0][0]}; samples have one mesh"
            )
        if fields.keys() != self.first.keys():
            differing = sorted(fields.keys() ^ self.first.keys())
            raise DatasetError(f"{where} and {self.places[0][0]} have not the same fields: {differing} is only in one")
        for name, values in fields.items():
            wanted = self.first[name]
            if (values.shape, values.dtype) != (wanted.shape, wanted.dtype):
                raise DatasetError(
                    f"{name} of {where} has the form {values.shape} {values.dtype}, not {wanted.shape} {wanted.dtype} "
                    f"as in {self.places[0][0]}"
                )
        return fields


def _cells(cells: Sequence[Any]) -> dict[str, Array]:
    """Return the cells by kind, several blocks of a kind with their numbers."""
    return {name: np.asarray(block.data) for name, block in zip(_names(cells), cells, strict=True)}


def _names(cells: Sequence[Any]) -> list[str]:
    """Return a name for each block of cells: its kind, and its number where there are several of this kind."""
    kinds = [block.type for block in cells]
    several = {kind: len(str(len(kinds))) for kind in kinds if kinds.count(kind) > 1}
    return [
        f"cells/{kind}_{i:0{several[kind]}}" if kind in several else f"cells/{kind}" for i, kind in enumerate(kinds)
    ]


class _SeriesColumn:
    """A field of all meshes as a column."""

    def __init__(self, series: _MeshSeries, name: str) -> None:
        self._series, self._name = series, name
        first = series.first[name]
        self.shape: tuple[int, ...] = (len(series.places), *first.shape)
        self.dtype, self.ndim = first.dtype, 1 + first.ndim

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        start, stop, _ = rows.indices(len(self))
        return self._series.rows(self._name, start, stop)


class MeshSeries(ImportFormat):
    """Series of meshes."""

    package, extra = "meshio", "mesh"
    title = "meshes"
    source = f"a folder of files {', '.join(SUFFIXES)}"

    def reads(self, source: str) -> bool:
        """Return whether it is such a file, or a folder with some, or with folders that have some."""
        path = Path(source)
        if path.is_dir():
            return any(file.suffix.lower() in SUFFIXES for files in ("*", "*/*") for file in path.glob(files))
        return path.suffix.lower() in SUFFIXES and path.is_file()

    def read(self, source: str, path: Path, options: ImportOptions) -> SampleDataset:
        """Store meshes as samples."""
        return import_mesh(source, path, **options.keywords)


IMPORT_FORMAT = MeshSeries()
