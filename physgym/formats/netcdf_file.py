"""netCDF: `export_netcdf` writes a file that xarray, netCDF4 and ParaView read, `import_netcdf` reads one.

The variables and their dimensions are those of `SampleDataset.to_xarray`; the attribute ``physgym`` of each is its name
in the dataset, that of the file what the dataset says of itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.data.labelled import ORIGINAL, LabelledVariable, labelled_variables
from physgym.data.side_arrays import described
from physgym.data.snapshots import left_snapshots
from physgym.errors import ConfigError, DatasetError
from physgym.files import absolute, creating, short
from physgym.formats.columns import CHUNK_BYTES, checksum, store_columns
from physgym.formats.named_axes import NamedAxes, rows_of
from physgym.formats.registry import ExportOptions, Format, ImportOptions
from physgym.progress import Progress
from physgym.sample import FieldRole
from physgym.simulation import TIME
from physgym.spaces import Array

log = logging.getLogger(__name__)
DTYPE = "numpy_dtype"  # attribute of a variable that is stored with another one
EMPTY = "physgym_empty"  # attribute of the file: arrays without a value, which netCDF cannot tell from unlimited ones
SUFFIXES = (".nc", ".nc4", ".cdf", ".netcdf")
CLASSIC = (b"CDF\x01", b"CDF\x02")
# values that netCDF libraries may take for missing where a file names no other, by dtype
FILLS = {"i2": -32767, "i4": -2147483647, "i8": -9223372036854775806, "u2": 65535, "u4": 4294967295}
FILLS |= {"u8": 18446744073709551614}
FLOAT_FILL = 9.969209968386869e36  # in both precisions


def export_netcdf(
    dataset: SampleDataset,
    out: str | Path,
    *,
    dims: Mapping[str, Sequence[str]] | None = None,
    progress: bool = False,
) -> list[str]:
    """Write a dataset to a netCDF-4 file, a portion at a time, and compare what is there with the dataset.

    Args:
        dataset: The samples.
        out: The new file.
        dims: Names of the axes of fields, parameters and constants, by name; see `SampleDataset.to_xarray`.
        progress: Whether to show how far it is.

    Returns:
        Remarks on what a reader of the file may take for something else.

    Raises:
        ConfigError: netCDF has no such dtype, or the names of axes do not fit.
        DatasetError: `out` exists, the disk refuses, or the file does not hold what was written.
    """
    h5netcdf = _library()
    out = absolute(out)
    if out.exists():
        raise DatasetError(f"{out} exists; choose another name")
    variables = labelled_variables(dataset, dims)
    empty = {one.original: [one.dtype.str, list(one.shape)] for one in variables if not one.nbytes}
    variables = [one for one in variables if one.nbytes]
    for one in variables:
        _stored(one)
    remarks: list[str] = []
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        size = sum(one.nbytes for one in variables)
        with (
            creating(out, durable=False) as written,
            Progress(2 * size, f"export to {short(out)}", "B", enabled=progress) as bar,
        ):
            with h5netcdf.File(written, "w") as file:
                file.attrs[ORIGINAL] = json.dumps(described(dataset))
                if empty:
                    file.attrs[EMPTY] = json.dumps(empty)
                sums = {one.name: _write(file, one, dataset, remarks, bar) for one in variables}
            with h5netcdf.File(written, "r") as file:
                for one in variables:
                    column, found = _own(_StoredVariable.of_hdf5(file.variables[one.name])), 0
                    for start, stop in _portions(one):
                        found = checksum(column.read((slice(start, stop),)) if one.dims else column.whole(), found)
                        bar.update(one.nbytes * (stop - start) // max(1, _length(one)))
                    if found != sums[one.name]:
                        raise DatasetError(f"{out} does not hold the values of {one.original!r} that were written")
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"cannot write {out}: {error}") from error
    if left_snapshots(dataset.paths, dataset.mode):
        remarks.append("left out: snapshots")
    return remarks


def _library() -> Any:
    try:
        import h5netcdf
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"physgym.formats.netcdf_file needs h5netcdf: pip install 'physgym[netcdf]' ({error})", name=error.name
        ) from error
    return h5netcdf


def _length(one: LabelledVariable) -> int:
    return one.shape[0] if one.shape else 1


def _portions(one: LabelledVariable) -> Iterator[tuple[int, int]]:
    length = _length(one)
    at_once = max(1, CHUNK_BYTES * length // one.nbytes)
    for start in range(0, length, at_once):
        yield start, min(length, start + at_once)


def _stored(one: LabelledVariable) -> tuple[Any, dict[str, str]]:
    """Return the dtype of a variable in a file, and the attributes that say so.

    Raises:
        ConfigError: netCDF has none.
    """
    kind, original = one.dtype.kind, {DTYPE: one.dtype.str}
    if kind == "b":
        return np.dtype("i1"), {"dtype": "bool", **original}  # as xarray marks it
    if kind == "f" and one.dtype.itemsize == 2:
        return np.dtype("f4"), original
    if kind in "iu" or (kind == "f" and one.dtype.itemsize <= 8):
        return one.dtype.newbyteorder("="), {}
    if kind == "S":
        return np.dtype("S1"), original
    if kind == "U":
        import h5py

        return h5py.string_dtype(), original
    raise ConfigError(
        f"netCDF has no {one.dtype}, the dtype of {one.original!r}; leave it out with physgym data drop, or "
        "SampleDataset(..., fields=[...])"
    )


def _write(file: Any, one: LabelledVariable, dataset: SampleDataset, remarks: list[str], bar: Progress) -> int:
    """Write a variable and return the sum of its values."""
    dtype, more = _stored(one)
    dims, sizes = one.dims, one.shape
    if one.dtype.kind == "S":
        dims, sizes = (*dims, f"string{one.dtype.itemsize}"), (*sizes, one.dtype.itemsize)
    for dim, size in zip(dims, sizes, strict=True):
        if dim not in file.dimensions:
            file.dimensions[dim] = size
    variable = file.create_variable(one.name, dims, dtype)
    for name, text in {**one.attributes, **more}.items():
        variable.attrs[name] = text
    found, missing = 0, FILLS.get(one.dtype.str[1:])
    for start, stop in _portions(one):
        if one.values is None:
            rows = dataset.read(start, stop, [one.original])[one.original]
        else:
            rows = one.values[start:stop] if one.shape else one.values
        found = checksum(rows, found)
        if missing is not None and (rows == missing).any():
            remarks.append(f"{one.original} holds {missing}, which some readers of netCDF take for a missing value")
            missing = None
        try:
            rows = _encoded(rows, dtype)
        except (UnicodeEncodeError, ValueError) as error:
            raise ConfigError(f"netCDF cannot hold a text of {one.original!r}: {error}") from error
        variable[(slice(start, stop), ...) if one.shape else ...] = rows
        bar.update(one.nbytes * (stop - start) // _length(one))
    if one.dtype.kind == "f" and one.dtype.itemsize == 2:
        remarks.append(f"{one.original} is float32 there, of the same values as its {one.dtype}")
    return found


def _encoded(rows: Array, dtype: Any) -> Array:
    if rows.dtype.kind == "S":
        return np.ascontiguousarray(rows).view("S1").reshape(*rows.shape, rows.dtype.itemsize)
    if rows.dtype.kind == "U":
        for text in rows.ravel().tolist():
            if "\0" in text:
                raise ValueError("it holds a zero character")
            text.encode()
        return rows.astype(object)
    return rows.astype(dtype, copy=False)


# --- the other way


def import_netcdf(
    source: str | Path,
    path: str | Path,
    *,
    roles: Mapping[str, FieldRole] | None = None,
    units: Mapping[str, str] | None = None,
    episode: str | None = None,
    step: str | None = None,
    mode: Mode = "training",
    progress: bool = False,
) -> SampleDataset:
    """Store the variables of a netCDF file as samples.

    A file of `export_netcdf` gives the dataset back. In another one, `roles` names inputs and targets. `episode` and
    `step` say what counts samples, each the name of a dimension or of a variable with a value per sample. Without them
    the first dimension of the variables in `roles` counts samples, each an episode of its own. A variable without one
    of two such dimensions is repeated along it, one without either is stored once, as a constant. Packed values are
    unpacked; values that the file marks as missing are refused.

    Args:
        source: The file; the classic formats are read too, without h5netcdf, into memory.
        path: The new dataset's folder.
        roles: Variable to "input", "target" or "additional", which all others are.
        units: Variable to unit, in place of what the file says.
        episode: Dimension that counts episodes, or variable that says which episode a sample is of.
        step: Dimension that counts the steps of an episode, or variable that says which step a sample is.
        mode: Which part of the dataset to write.
        progress: Whether to show how far it is.

    Returns:
        The new dataset.

    Raises:
        ConfigError: An argument does not fit the file.
        DatasetError: The file is damaged or has missing values, or `path` holds samples already.
    """
    source = absolute(source)
    with contextlib.ExitStack() as stack:
        try:
            file = _open(source, stack)
            arrays: dict[str, Any]
            said: dict[str, Any]
            if ORIGINAL in file.attributes:
                said = json.loads(str(file.attributes[ORIGINAL]))
                arrays = _columns_of_export(file)
            else:
                foreign = {name: _foreign(name, one) for name, one in file.variables.items()}
                arrays, constants = rows_of(source.name, foreign, roles=list(roles or {}), episode=episode, step=step)
                arrays |= {f"index/constants/{name}": value for name, value in constants.items()}
                episode = step = None  # they are in the index now
                units = {name: one.unit for name, one in foreign.items() if one.unit and name in arrays} | {
                    **(units or {})
                }
                said = {"source": {"netcdf": {"file": source.name}}}
            store_columns(
                source,
                arrays,
                said,
                path,
                roles=roles or {},
                units=units or {},
                episode=episode,
                step=step,
                mode=mode,
                progress=progress,
            )
        except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
            raise DatasetError(f"cannot read {source}: {error}") from error
    return SampleDataset(path, mode=mode)


@dataclass(frozen=True)
class _StoredVariable:
    """A variable as it is in a file."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: Any
    attributes: Mapping[str, Any]
    read: Callable[[tuple[Any, ...]], Any]

    @classmethod
    def of_hdf5(cls, variable: Any) -> _StoredVariable:
        """Return a variable of h5netcdf."""
        attributes = {name: variable.attrs[name] for name in variable.attrs}
        dims = tuple(name.rpartition("/")[2] for name in variable.dimensions)
        return cls(dims, tuple(variable.shape), variable.dtype, attributes, lambda index: variable[index])

    @classmethod
    def of_classic(cls, variable: Any) -> _StoredVariable:
        """Return a variable of `scipy.io.netcdf_file`."""
        attributes = dict(variable._attributes)
        texts = {name: value.decode() for name, value in attributes.items() if isinstance(value, bytes)}
        values = variable.data
        return cls(
            tuple(variable.dimensions),
            tuple(variable.shape),
            values.dtype.newbyteorder("="),
            attributes | texts,
            lambda index: np.array(values[index], values.dtype.newbyteorder("=")),
        )


@dataclass(frozen=True)
class _StoredFile:
    """The variables and attributes of a file of netCDF."""

    variables: Mapping[str, _StoredVariable]
    attributes: Mapping[str, Any]


def _open(source: Path, stack: contextlib.ExitStack) -> _StoredFile:
    with source.open("rb") as stream:
        classic = stream.read(4) in CLASSIC
    if classic:
        from scipy.io import netcdf_file

        with netcdf_file(source, "r", mmap=False) as file:
            return _StoredFile(
                {name: _StoredVariable.of_classic(one) for name, one in file.variables.items()}, dict(file._attributes)
            )
    file = stack.enter_context(_library().File(source, "r"))
    if not file.variables:
        raise ConfigError(f"{source} has no variables outside its groups {sorted(file.groups)}; copy them to its root")
    if file.groups:
        log.warning("%s: the variables in the groups %s are left out", source, sorted(file.groups))
    variables = {name: _StoredVariable.of_hdf5(one) for name, one in file.variables.items()}
    return _StoredFile(variables, {name: file.attrs[name] for name in file.attrs})


def _columns_of_export(file: _StoredFile) -> dict[str, Any]:
    """Return the arrays of an exported dataset by their names there."""
    found: dict[str, Any] = {}
    for one in file.variables.values():
        name, column = str(one.attributes[ORIGINAL]), _own(one)
        found[name] = column.whole() if name.startswith("index/") else _Column(column)
    for name, (dtype, shape) in json.loads(str(file.attributes.get(EMPTY, "{}"))).items():
        found[name] = np.empty(shape, dtype)
    found.pop(f"index/{TIME}", None)  # which follows from the time of a step
    return found


class _Column:
    """A variable as a column of fields."""

    def __init__(self, array: NamedAxes) -> None:
        self._array = array
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, len(array.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        return self._array.read((rows, *[slice(None)] * (self.ndim - 1)))


def _own(one: _StoredVariable) -> NamedAxes:
    """Return a variable that an export wrote, with the dtype that it had."""
    dtype = np.dtype(str(one.attributes[DTYPE])) if DTYPE in one.attributes else np.dtype(one.dtype)
    if dtype.kind == "S":

        def read(index: tuple[Any, ...]) -> Array:
            letters = np.ascontiguousarray(one.read((*index, slice(None))))
            return letters.view(dtype).reshape(letters.shape[:-1])

        return NamedAxes(one.dims[:-1], one.shape[:-1], dtype, read)
    if dtype.kind == "U":
        return NamedAxes(one.dims, one.shape, dtype, lambda index: _texts(one.read(index)).astype(dtype))
    return NamedAxes(one.dims, one.shape, dtype, lambda index: np.asarray(one.read(index)).astype(dtype, copy=False))


def _texts(found: Any) -> Array:
    """Return texts of HDF5, which are bytes in UTF-8 or str, as those of numpy."""
    values = np.asarray(found, object)
    texts = [text.decode() if isinstance(text, bytes) else str(text) for text in values.ravel()]
    return np.array(texts, np.str_).reshape(values.shape)


def _foreign(name: str, one: _StoredVariable) -> NamedAxes:
    """Return a variable with its values unpacked; reading raises where one is missing."""
    attributes, dims, shape, raw = one.attributes, one.dims, one.shape, np.dtype(one.dtype)
    read, unit = one.read, attributes.get("units", "")
    unit = unit if isinstance(unit, str) and unit != "1" else ""
    if raw.kind == "O":
        whole = _texts(one.read((slice(None),) * len(dims)))
        return NamedAxes(dims, shape, whole.dtype, lambda index: whole[index], unit)
    if raw == np.dtype("S1") and dims:

        def text(index: tuple[Any, ...]) -> Array:
            letters = np.ascontiguousarray(read((*index, slice(None))))
            return letters.view(f"S{shape[-1]}").reshape(letters.shape[:-1])

        return NamedAxes(dims[:-1], shape[:-1], np.dtype(f"S{shape[-1]}"), text, unit)
    if attributes.get("dtype") == "bool" and raw == np.dtype("i1"):  # as xarray marks flags
        return NamedAxes(dims, shape, np.dtype("?"), lambda index: np.asarray(read(index)) != 0, unit)
    unsigned = str(attributes.get("_Unsigned", "")).lower() == "true" and raw.kind == "i"
    packed = {
        key: np.asarray(attributes[key]).reshape(-1)[0] for key in ("scale_factor", "add_offset") if key in attributes
    }
    marks = [np.asarray(attributes[key]).reshape(-1) for key in ("_FillValue", "missing_value") if key in attributes]
    stored = np.dtype(f"u{raw.itemsize}") if unsigned else raw
    if "_FillValue" not in attributes:
        marks += _unwritten(raw)
    dtype = np.result_type(*packed.values()) if packed else stored
    if packed and (dtype.kind != "f" or (raw.kind in "iu" and raw.itemsize > 2)):  # not all are float32
        dtype = np.dtype("f8")

    limits = _valid_range(attributes)
    if unsigned:  # those that have the type of the variable have its bits, too
        limits = tuple(one if one is None or one.dtype != raw.newbyteorder("=") else one.view(stored) for one in limits)
    said = [np.asarray(one).dtype.kind for one in limits if one is not None]
    unpacked = bool(packed) and raw.kind in "iu" and "f" in said
    nan_marks = any(mark.dtype.kind == "f" and np.isnan(mark).any() for mark in marks)
    warned: list[str] = []

    def values(index: tuple[Any, ...]) -> Array:
        found = np.asarray(read(index))
        for mark in marks:
            for value in mark.tolist() if found.dtype.kind in "iuf" else []:
                gone = found == value
                if gone.any():
                    raise DatasetError(
                        f"{name} has {np.count_nonzero(gone)} missing values (they are {value}); fill them, or leave "
                        "these samples out. Where that is a value, give the variable another _FillValue"
                    )
        if nan_marks and not warned and found.dtype.kind == "f" and np.isnan(found).any():
            warned.append(name)
            log.warning("%s has NaN, by which the file marks missing values; it is kept", name)
        found = found.view(stored.newbyteorder(raw.byteorder)) if unsigned else found
        if not unpacked:
            _check_range(name, found, limits)
        if packed:
            found = found.astype(dtype) * dtype.type(packed.get("scale_factor", 1)) + dtype.type(
                packed.get("add_offset", 0)
            )
        if unpacked:
            _check_range(name, found, limits)
        return found

    return NamedAxes(dims, shape, dtype, values, unit)


def _unwritten(dtype: np.dtype[Any]) -> list[Array]:
    """Return what netCDF holds where nothing was written, if a file names nothing else; int16 has values there."""
    if dtype.kind == "f" and dtype.itemsize >= 4:
        return [np.array([FLOAT_FILL], dtype)]
    code = dtype.str[1:]
    return [np.array([FILLS[code]], dtype)] if code in FILLS and dtype.itemsize >= 4 else []


class Netcdf(Format):
    """Files of netCDF."""

    package, extra = "h5netcdf", "netcdf"
    uses = ("out", "dims")
    title = "a file of netCDF"
    source = f"a file {', '.join(SUFFIXES)}"

    def reads(self, source: str) -> bool:
        """Return whether it is a file with such a suffix."""
        return Path(source).suffix.lower() in SUFFIXES and Path(source).is_file()

    def write(self, dataset: SampleDataset, options: ExportOptions) -> str:
        """Write a dataset to the file of the options."""
        if options.out is None:
            raise ConfigError("add --out, the file to write, such as --out samples.nc")
        if options.out.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"{options.out} is to be a file of netCDF; let its name end in .nc")
        remarks = export_netcdf(dataset, options.out, dims=options.dims, progress=options.progress)
        return "; ".join([f"written: {options.out}", *remarks])

    def read(self, source: str, path: Path, options: ImportOptions) -> SampleDataset:
        """Store the variables of a file as samples."""
        return import_netcdf(source, path, **options.keywords)


FORMAT = Netcdf()


def _valid_range(attributes: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the lowest and the highest value that a variable may hold, None where its attributes do not say it.

    Where numbers are packed into integers they are those of the packed ones, unless they are floating-point numbers.
    """
    both = np.asarray(attributes.get("valid_range", ())).reshape(-1)
    if len(both) == 2:
        return both[0], both[1]
    low, high = (np.asarray(attributes.get(f"valid_{end}", ())).reshape(-1) for end in ("min", "max"))
    return (low[0] if len(low) else None), (high[0] if len(high) else None)


def _check_range(name: str, values: Array, limits: tuple[Any, ...]) -> None:
    """Raise DatasetError where values of a variable are outside of what it may hold."""
    low, high = limits
    if values.dtype.kind not in "iuf":
        return
    outside = np.zeros(values.shape, np.bool_)
    with np.errstate(over="ignore"):
        least, most = (np.asarray(end, values.dtype if values.dtype.kind == "f" else None) for end in limits)
    outside |= False if low is None else values < least
    outside |= False if high is None else values > most
    if outside.any():
        raise DatasetError(
            f"{name} has {np.count_nonzero(outside)} values, such as {values[outside].flat[0]}, outside of the valid "
            f"range {'' if low is None else low} to {'' if high is None else high} that the file gives, which readers "
            "of netCDF take for missing ones; fill them, leave these samples out, or take valid_range, valid_min or "
            "valid_max away"
        )
