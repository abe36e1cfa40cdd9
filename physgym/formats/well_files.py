"""The Well: `export_well` writes a file of fields on uniform grids in its layout, `import_well` reads such files.

The layout is described in https://polymathic-ai.org/the_well/data_format: trajectories of equal length, fields in
``t0_fields`` (scalars), ``t1_fields`` (vectors) and ``t2_fields`` (tensors), other values in ``scalars``.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.data.snapshots import left_snapshots
from physgym.errors import ConfigError, DatasetError
from physgym.files import absolute, creating, short
from physgym.formats.columns import CHUNK_BYTES, store_columns
from physgym.formats.named_axes import ChainedColumn, NamedAxes, rows_of
from physgym.formats.registry import ExportOptions, Format, ImportOptions
from physgym.progress import Progress
from physgym.sample import Field, FieldRole
from physgym.simulation import TIME
from physgym.spaces import Array

log = logging.getLogger(__name__)
PARTS: dict[str, str] = {"training": "train", "validation": "valid", "test": "test"}  # its names for parts of a dataset
AXES = ("x", "y", "z")
ORDERS = ("t0_fields", "t1_fields", "t2_fields")
SUFFIXES = (".hdf5", ".h5")
STORED = np.dtype("f4")
TRAJECTORY = "trajectory"


def export_well(
    dataset: SampleDataset,
    out: str | Path,
    *,
    grid: Mapping[str, Sequence[str]] | None = None,
    progress: bool = False,
) -> list[str]:
    """Write the episodes of a dataset as trajectories of the Well: ``out/data/train/NAME.hdf5``.

    A field whose axes are those of a grid becomes a scalar field, or one for each of its channels; other values become
    scalars, one for each component. All numbers are float32 there. Grid coordinates are those of the constants "x", "y"
    and "z" where the dataset has them, else the numbers of the points. No boundary condition is written.

    Args:
        dataset: The samples: episodes of equal length without a gap.
        out: The folder of the dataset of the Well; another part of it may be there already.
        grid: Names of the axes of a field that are those of the grid, by field; by default what samples declare with
            `sample_dimensions`, called x, y and z.
        progress: Whether to show how far it is.

    Returns:
        Remarks on what was rounded or left out.

    Raises:
        ConfigError: No field has a grid, grids or episodes differ, or a value does not fit float32.
        DatasetError: This part of it is there already, or the disk refuses.
    """
    if dataset.mode not in PARTS:
        raise ConfigError(f"the Well has the parts {', '.join(PARTS)}, and none for {dataset.mode}")
    out = absolute(out)
    folder = out / "data" / PARTS[dataset.mode]
    if folder.exists():
        raise DatasetError(f"{folder} exists; choose another name")
    plan = _Plan.of(dataset, grid or {})
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            creating(folder, durable=False) as written,
            Progress(len(dataset), f"export to {short(out)}", "sample", enabled=progress) as bar,
        ):
            written.mkdir()
            with h5py.File(written / f"{out.name}.hdf5", "w") as file:
                rounded = plan.write(file, dataset, out.name, bar)
            with h5py.File(written / f"{out.name}.hdf5", "r") as file:
                plan.compare(file, dataset)
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"cannot write {folder}: {error}") from error
    remarks = [f"rounded to float32: {', '.join(rounded)}"] if rounded else []
    left_out = [*plan.left_out, "seeds and numbers of episodes"]
    left_out += ["units"] if any(one.unit for one in dataset.spec.values()) else []
    left_out += ["parameters"] if dataset.parameters else []
    left_out += ["rejected samples"] if dataset.rejected else []
    left_out += ["how episodes ended"] if dataset.ended else []
    left_out += [f"metadata ({', '.join(dataset.metadata)})"] if dataset.metadata else []
    left_out += left_snapshots(dataset.paths, dataset.mode)
    left_out += ["constants"] if set(dataset.constants) - set(plan.axes) else []
    return [*remarks, f"left out: {', '.join(left_out)}"]


@dataclass(frozen=True)
class _Plan:
    """The parts of a file of the Well for a dataset.

    Attributes:
        order: Rows of the dataset by trajectory and step, shape (trajectories, steps).
        axes: Names of the axes of the grid.
        shape: Its points along them.
        fields: Names of the fields on the grid.
        scalars: Names of the other ones.
        left_out: Names of those that are no numbers.
    """

    order: Array
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    fields: tuple[str, ...]
    scalars: tuple[str, ...]
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, dataset: SampleDataset, grid: Mapping[str, Sequence[str]]) -> _Plan:
        """Return the plan for a dataset."""
        spec = dataset.spec
        if unknown := sorted(set(grid) - set(spec)):
            raise ConfigError(f"grid names {unknown}; there are the fields {list(spec)}")
        numbers = {name: one for name, one in spec.items() if one.dtype.kind in "biuf"}
        found: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {}
        for name, one in numbers.items():
            axes = tuple(grid[name]) if name in grid else AXES[: one.dimensions or 0]
            if len(axes) > len(one.shape) or (one.dimensions or 0) > len(AXES):
                raise ConfigError(f"field {name!r} of shape {one.shape} has no grid with the axes {list(axes)}")
            if axes:
                found[name] = (axes, one.shape[: len(axes)])
        if len(set(found.values())) != 1:
            said = f"; their grids are {found}" if found else ""
            raise ConfigError(
                "the Well holds fields on one uniform grid. Say which axes of which fields are those of the grid: "
                f"--dim FIELD=x,y, or sample_dimensions of the simulation{said}"
            )
        axes, shape = next(iter(found.values()))
        left_out = tuple(f"{name} ({one.dtype})" for name, one in spec.items() if name not in numbers)
        fields, scalars = tuple(found), tuple(name for name in numbers if name not in found)
        plain = [
            name for names in (fields, scalars) for one in names for name in _names(one, spec[one], len(axes), found)
        ]
        if len(set(plain)) < len(plain):
            raise ConfigError(f"two fields would have one name in the Well: {sorted(plain)}; rename one")
        return cls(_trajectories(dataset), axes, shape, fields, scalars, left_out)

    def write(self, file: h5py.File, dataset: SampleDataset, name: str, bar: Progress) -> list[str]:
        """Write the file, and return the names of the fields that were rounded."""
        trajectories, steps = self.order.shape
        file.attrs["dataset_name"] = name
        file.attrs["grid_type"] = "cartesian"
        file.attrs["n_spatial_dims"] = len(self.axes)
        file.attrs["n_trajectories"] = trajectories
        file.attrs["simulation_parameters"] = np.array([], h5py.string_dtype())
        self._write_dimensions(file, dataset)
        file.create_group("boundary_conditions")
        rounded = set()
        made: dict[str, list[h5py.Dataset]] = {}
        for group, names, shape in (("t0_fields", self.fields, self.shape), ("scalars", self.scalars, ())):
            node, listed = file.create_group(group), []
            for field in names:
                parts = _names(field, dataset.spec[field], len(self.axes), self.fields)
                made[field] = [node.create_dataset(part, (trajectories, steps, *shape), STORED) for part in parts]
                listed += parts
                for one in made[field]:
                    one.attrs["sample_varying"] = one.attrs["time_varying"] = True
                    if shape:
                        one.attrs["dim_varying"] = np.ones(len(shape), np.bool_)
            node.attrs["field_names"] = np.array(listed, h5py.string_dtype())
        for group in ORDERS[1:]:
            file.create_group(group).attrs["field_names"] = np.array([], h5py.string_dtype())
        for at, columns in self._portions(dataset):
            for field, nodes in made.items():
                values = columns[field]
                stored = _single(field, values)
                with np.errstate(invalid="ignore"):  # an integer that is too large differs then
                    if (stored.astype(values.dtype) != values)[~_nan(values)].any():
                        rounded.add(field)
                split = stored.reshape(len(values), *(self.shape if field in self.fields else ()), len(nodes))
                for i, one in enumerate(nodes):
                    one[at[0], at[1]] = split[..., i]
            bar.update(len(next(iter(columns.values()))))
        return sorted(rounded)

    def _write_dimensions(self, file: h5py.File, dataset: SampleDataset) -> None:
        node = file.create_group("dimensions")
        node.attrs["spatial_dims"] = np.array(self.axes, h5py.string_dtype())
        try:
            times = dataset.index(TIME)[self.order]
        except ConfigError:  # nothing says it
            times = dataset.index("step")[self.order] + 1.0
        same = bool((times == times[0]).all())
        node.create_dataset("time", data=(times[0] if same else times).astype(STORED))
        node["time"].attrs["sample_varying"] = not same
        for axis, points in zip(self.axes, self.shape, strict=True):
            known = dataset.constants.get(axis)
            fits = known is not None and known.shape == (points,) and known.dtype.kind in "iuf"
            node.create_dataset(axis, data=np.asarray(known if fits else np.arange(points), STORED))
            node[axis].attrs["sample_varying"] = node[axis].attrs["time_varying"] = False

    def _portions(self, dataset: SampleDataset) -> Iterator[tuple[tuple[int, slice], dict[str, Array]]]:
        """Yield trajectory and steps, and the fields there."""
        names = [*self.fields, *self.scalars]
        at_once = max(1, CHUNK_BYTES // max(1, sum(dataset.spec[name].nbytes for name in names)))
        for i, rows in enumerate(self.order):
            for start in range(0, len(rows), at_once):
                some = rows[start : start + at_once]
                yield (i, slice(start, start + len(some))), dataset.gather(some, names)

    def compare(self, file: h5py.File, dataset: SampleDataset) -> None:
        """Raise where a file does not hold the values that were written."""
        for at, columns in self._portions(dataset):
            for field, values in columns.items():
                node = file["t0_fields" if field in self.fields else "scalars"]
                parts = _names(field, dataset.spec[field], len(self.axes), self.fields)
                found = np.stack([node[part][at[0], at[1]] for part in parts], -1)
                if found.tobytes() != _single(field, values).tobytes():
                    raise DatasetError(f"{file.filename} does not hold the values of {field!r} that were written")


def _names(field: str, one: Field, axes: int, fields: Any) -> list[str]:
    """Return the names in the Well of a field: one for each channel or component."""
    name, rest = field.replace("/", "_"), one.shape[axes:] if field in fields else one.shape
    return [name + "".join(f"_{i}" for i in index) for index in np.ndindex(*rest)]


def _nan(values: Array) -> Array:
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, np.bool_)


def _single(field: str, values: Array) -> Array:
    with np.errstate(over="ignore"):
        found = values.astype(STORED)
    if values.dtype.kind == "f" and (np.isfinite(values) & ~np.isfinite(found)).any():
        raise ConfigError(f"field {field!r} holds values that are too large for float32, which the Well stores")
    return found


def _trajectories(dataset: SampleDataset) -> Array:
    """Return the rows of the dataset by trajectory and step."""
    episode, step = dataset.episodes, dataset.index("step")
    order = np.lexsort((step, episode))
    names, counts = np.unique(episode, return_counts=True)
    if len(set(counts)) > 1:
        few, many = names[counts.argmin()], names[counts.argmax()]
        raise ConfigError(
            f"the Well holds trajectories of equal length; episode {dataset.index('episode')[episode == few][0]} has "
            f"{counts.min()} steps, {dataset.index('episode')[episode == many][0]} has {counts.max()}. Keep those of "
            "one length (physgym data filter)"
        )
    rows = order.reshape(len(names), counts[0])
    steps = step[rows]
    if (steps != steps[0, 0] + np.arange(counts[0])).any():
        wrong = int(np.argmax((steps != steps[0, 0] + np.arange(counts[0])).any(1)))
        raise ConfigError(
            f"the Well holds trajectories of equal steps; episode {dataset.index('episode')[rows[wrong, 0]]} has the "
            f"steps {steps[wrong].tolist()[:8]}, so that some are missing. Leave it out (physgym data filter)"
        )
    return rows


# --- the other way


def import_well(
    source: str | Path,
    path: str | Path,
    *,
    roles: Mapping[str, FieldRole] | None = None,
    units: Mapping[str, str] | None = None,
    mode: Mode = "training",
    progress: bool = False,
) -> SampleDataset:
    """Store the trajectories of files of the Well as samples: an episode is a trajectory, a step a time.

    Fields have the axes of the grid, then those of vectors and tensors. What does not vary over time is repeated in
    each step, what varies over neither is stored once, and so are the coordinates of the grid. The times are the field
    ``time``. Without `roles` all fields that vary over time are inputs that are stored once: the output of a step is
    that of the next sample, see `physgym.feedback`; but ``next_u`` is the target that feeds ``u``.

    Args:
        source: A file, a folder of files, or the folder of a dataset of the Well, of which the part `mode` is read.
        path: The new dataset's folder.
        roles: Field to "input", "target" or "additional", which all others are then.
        units: Field to unit.
        mode: Which part of the dataset to write.
        progress: Whether to show how far it is.

    Returns:
        The new dataset.

    Raises:
        ConfigError: `roles` or `units` name no field.
        DatasetError: A file is damaged or none of the Well, files differ, or `path` holds samples already.
    """
    source = absolute(source)
    files = _files(source, mode)
    with contextlib.ExitStack() as stack:
        try:
            every = [_read(stack.enter_context(h5py.File(file, "r")), file, roles) for file in files]
            first = every[0]
            for file, other in zip(files[1:], every[1:], strict=True):
                if other.forms != first.forms or other.constants.keys() != first.constants.keys():
                    raise DatasetError(f"{file} has other fields than {files[0]}: {other.forms}, not {first.forms}")
                for name, value in other.constants.items():
                    if not np.array_equal(value, first.constants[name]):
                        raise DatasetError(f"{name} differs in {file} and {files[0]}; import them one by one")
            arrays: dict[str, Any] = {name: ChainedColumn([one.columns[name] for one in every]) for name in first.forms}
            begins = np.cumsum([0, *(one.trajectories for one in every)])
            episodes = [one.episodes + begin for one, begin in zip(every, begins[:-1], strict=True)]
            arrays |= {"index/episode": np.concatenate(episodes)}
            arrays |= {"index/step": np.concatenate([one.steps for one in every])}
            arrays |= {f"index/constants/{name}": value for name, value in first.constants.items()}
            said = {"source": {"well": first.origin}, "fields": [one.to_json() for one in first.fields]}
            store_columns(
                source,
                arrays,
                said,
                path,
                roles=roles or {},
                units=units or {},
                episode=None,
                step=None,
                mode=mode,
                progress=progress,
            )
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise DatasetError(f"cannot read {source}: {error}") from error
    return SampleDataset(path, mode=mode)


def _files(source: Path, mode: Mode) -> list[Path]:
    """Return the files of a source."""
    if source.is_file():
        return [source]
    part = source / "data" / PARTS.get(mode, "")
    if (source / "data").is_dir() and not part.is_dir():
        raise DatasetError(f"{source} has no part {PARTS.get(mode, mode)!r}; choose another one (--mode)")
    folder = part if (source / "data").is_dir() else source
    files = sorted(file for suffix in SUFFIXES for file in folder.glob(f"*{suffix}"))
    if not files:
        raise DatasetError(f"{folder} holds no files {' or '.join(SUFFIXES)}")
    return files


@dataclass(frozen=True)
class _Trajectories:
    """The columns of one file of the Well.

    Attributes:
        trajectories: How many there are.
        columns: By name.
        episodes: The trajectory of each row.
        steps: The step of each row.
        constants: What is stored once.
        fields: Fields as they are declared.
        origin: What the file says of itself, as JSON data.
    """

    trajectories: int
    columns: Mapping[str, Any]
    episodes: Array
    steps: Array
    constants: Mapping[str, Array]
    fields: Sequence[Field]
    origin: Mapping[str, Any]

    @property
    def forms(self) -> dict[str, Any]:
        """Return shape of a row and dtype of each column."""
        return {name: (column.shape[1:], column.dtype) for name, column in self.columns.items()}


def _read(file: h5py.File, where: Path, roles: Mapping[str, FieldRole] | None) -> _Trajectories:
    """Return the columns of a file."""
    missing = sorted({"n_trajectories", "n_spatial_dims"} - set(file.attrs)) + sorted({"dimensions"} - set(file))
    if missing:
        raise DatasetError(f"{where} is no file of the Well: it lacks {', '.join(missing)}")
    axes = [_text(axis) for axis in file["dimensions"].attrs["spatial_dims"]]
    trajectories, steps = int(file.attrs["n_trajectories"]), file["dimensions"]["time"].shape[-1]
    arrays = {"time": _array(file["dimensions"]["time"], [], "time")}
    arrays |= {axis: _array(file["dimensions"][axis], [axis], axis, time_varying=False) for axis in axes}
    inputs, dimensions = [], {}
    for order, group in enumerate((*ORDERS, "scalars")):
        node = file.get(group)
        for name in [] if node is None else map(_text, node.attrs["field_names"]):
            one, grid = node[name], order < len(ORDERS)
            used = [axis for axis, varies in zip(axes, one.attrs.get("dim_varying", []), strict=False) if varies]
            if name in arrays:
                raise DatasetError(f"{where} has two arrays {name!r}")
            arrays[name] = _array(one, used if grid else [], name)
            if grid and used == axes and order < 2:
                dimensions[name] = len(axes)
            if one.attrs["time_varying"]:
                inputs.append(name)
    for name, one in arrays.items():
        sizes = dict(zip(one.dims, one.shape, strict=True))
        if (sizes.get(TRAJECTORY, trajectories), sizes.get(TIME, steps)) != (trajectories, steps):
            raise DatasetError(
                f"{name} of {where} has the shape {one.shape} for {trajectories} trajectories of {steps} steps"
            )
    chosen: Mapping[str, Any] = roles or dict.fromkeys(inputs, "input")
    columns, constants = rows_of(
        where.name, arrays, roles=list(chosen), episode=TRAJECTORY, step=TIME, lengths={TRAJECTORY: trajectories}
    )
    pairs = {} if roles else _feeding(inputs, columns)
    fields = [
        Field(
            name,
            column.shape[1:],
            column.dtype,
            "target" if pairs.get(name, name) != name else chosen.get(name, "additional"),
            dimensions=dimensions.get(name),
            feeds=pairs.get(name, ""),
        )
        for name, column in columns.items()
        if not name.startswith("index/")
    ]
    conditions = {
        name: {"type": _text(one.attrs["bc_type"]), "dims": [_text(d) for d in one.attrs["associated_dims"]]}
        for name, one in file.get("boundary_conditions", {}).items()
    }
    if conditions:
        log.warning("%s: of the boundary conditions %s kinds and axes are kept, in the source", where, list(conditions))
    kept = ("dataset_name", "grid_type", *map(_text, file.attrs.get("simulation_parameters", [])))
    origin = {name: _json(file.attrs[name]) for name in kept if name in file.attrs}
    episodes, step = columns.pop("index/episode"), columns.pop("index/step")
    return _Trajectories(
        trajectories, columns, episodes, step, constants, fields, {**origin, "boundary_conditions": conditions}
    )


def _feeding(inputs: Sequence[str], columns: Mapping[str, Any]) -> dict[str, str]:
    """Return which field is the input of the next step by the field that gives it: itself, or what ``next_`` names."""
    found = {}
    for name in inputs:
        of = name.removeprefix("next_")
        known = of != name and of in inputs and columns[of].shape == columns[name].shape
        found[name] = of if known else name
    for name in [name for name, of in found.items() if of != name]:
        found.pop(found[name], None)
    return found


def _array(one: h5py.Dataset, axes: Sequence[str], name: str, time_varying: bool | None = None) -> NamedAxes:
    """Return an array of the Well with the names of its axes."""
    varies = one.attrs.get("time_varying", True) if time_varying is None else time_varying
    dims = [*([TRAJECTORY] if one.attrs["sample_varying"] else []), *([TIME] if varies else []), *axes]
    if len(dims) > one.ndim:
        raise ValueError(f"{name} has the shape {one.shape} for the axes {dims}")
    rest = [f"{name}_{i}" for i in range(one.ndim - len(dims))]
    return NamedAxes((*dims, *rest), one.shape, one.dtype, lambda index: one[index])


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _json(value: Any) -> Any:
    found = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    return _text(found) if isinstance(found, bytes) else found


class Well(Format):
    """Datasets of the Well."""

    uses = ("out", "dims")
    title = "a dataset of the Well"
    source = "its folder with data/train, or a file .hdf5 of it"

    def reads(self, source: str) -> bool:
        """Return whether it is such a file, or a folder with some."""
        path = Path(source)
        if path.is_dir():
            return any(any((path / "data" / part).glob("*.hdf5")) for part in PARTS.values()) or any(
                path.glob("*.hdf5")
            )
        return path.suffix == ".hdf5" and path.is_file()

    def write(self, dataset: SampleDataset, options: ExportOptions) -> str:
        """Write a dataset to the folder of the options."""
        if options.out is None:
            raise ConfigError("add --out, the folder to write")
        remarks = export_well(dataset, options.out, grid=options.dims, progress=options.progress)
        return "; ".join([f"written: {options.out}", *remarks])

    def read(self, source: str, path: Path, options: ImportOptions) -> SampleDataset:
        """Store trajectories as samples."""
        if options.episode is not None or options.step is not None:
            raise ConfigError("no --episode or --step: in the Well trajectories are episodes, and times are steps")
        return import_well(
            source,
            path,
            roles=cast("Mapping[str, FieldRole]", options.roles),
            units=options.units,
            mode=options.mode,
            progress=options.progress,
        )


FORMAT = Well()
