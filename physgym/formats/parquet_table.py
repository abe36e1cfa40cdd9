"""Parquet: `export_parquet` writes a table with a row per sample, `import_parquet` reads one.

Columns are the fields under their names, with arrays as lists of fixed length; ``episode``, ``step``, ``env`` and
``seed``, ``time`` where it is known; and ``parameters/...``, those of the row's episode. The metadata of the table says
under ``physgym`` what the dataset says of itself.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from physgym.casting import CastError, as_dtype
from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.data.layout import INDEX, Form
from physgym.data.side_arrays import check_episodes, described
from physgym.data.snapshots import left_snapshots
from physgym.errors import ConfigError, DatasetError
from physgym.files import absolute, creating, short
from physgym.formats.columns import CHUNK_BYTES, asked_roles, checksum, refuse_index, refuse_texts, store_columns
from physgym.formats.registry import ExportOptions, Format, ImportOptions
from physgym.progress import Progress
from physgym.sample import Field, FieldRole
from physgym.simulation import TIME
from physgym.spaces import Array

OURS = "physgym"  # key in the metadata
PARAMETERS = "parameters/"
SUFFIXES = (".parquet", ".pq")


def export_parquet(dataset: SampleDataset, out: str | Path, *, progress: bool = False) -> list[str]:
    """Write the samples to a file of Parquet, a portion at a time, and compare what is there with the dataset.

    Args:
        dataset: The samples.
        out: The new file.
        progress: Whether to show how far it is.

    Returns:
        What of the dataset the file does not hold.

    Raises:
        ConfigError: Parquet has no dtype of a field, two columns have one name, or episodes of several folders have.
        DatasetError: `out` exists, the disk refuses, or the file does not hold what was written.
    """
    arrow, parquet = _library()
    out = absolute(out)
    if out.exists():
        raise DatasetError(f"{out} exists; choose another name")
    check_episodes(dataset)
    table = _SampleTable(dataset)
    schema = arrow.schema([(name, arrow_type(arrow, name, *form)) for name, form in table.forms.items()])
    said = {**described(dataset), "columns": table.places, "shapes": table.shapes}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            creating(out, durable=False) as written,
            Progress(2 * len(dataset), f"export to {short(out)}", "sample", enabled=progress) as bar,
        ):
            sums = dict.fromkeys(table.forms, 0)
            with parquet.ParquetWriter(written, schema.with_metadata({OURS: json.dumps(said)})) as file:
                for columns in table.portions():
                    for name, values in columns.items():
                        sums[name] = checksum(values, sums[name])
                    arrays = [as_arrow(arrow, name, columns[name]) for name in table.forms]
                    batch = arrow.RecordBatch.from_arrays(arrays, schema=schema)
                    file.write_batch(batch)
                    bar.update(batch.num_rows)
            _compare(parquet.ParquetFile(written), table, sums, out, bar)
    except (OSError, arrow.ArrowException) as error:
        raise DatasetError(f"cannot write {out}: {error}") from error
    return table.left_out


def _compare(file: Any, table: _SampleTable, sums: Mapping[str, int], out: Path, bar: Progress) -> None:
    """Raise where a file does not hold the values that were written."""
    found = dict.fromkeys(sums, 0)
    for batch in file.iter_batches(table.at_once):
        for name, (shape, dtype) in table.forms.items():
            found[name] = checksum(from_arrow(name, batch.column(name), shape, dtype), found[name])
        bar.update(batch.num_rows)
    for name in sums:
        if found[name] != sums[name]:
            raise DatasetError(f"{out} does not hold the values of {name!r} that were written")


def _library() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"physgym.formats.parquet_table needs pyarrow: pip install 'physgym[parquet]' ({error})", name=error.name
        ) from error
    return pyarrow, parquet


class _SampleTable:
    """The columns of a table for a dataset.

    Attributes:
        forms: Shape and dtype of a row of each column.
        places: Name of each column to its name in an export, such as "index/episode".
        shapes: Shapes of fields that have no value, and so no column.
        left_out: What the table does not hold.
        at_once: Rows of a portion.
    """

    def __init__(self, dataset: SampleDataset) -> None:
        self._dataset = dataset
        fields = {name: one for name, one in dataset.spec.items() if math.prod(one.shape)}
        self.shapes = {name: list(one.shape) for name, one in dataset.spec.items() if name not in fields}
        self._index_columns = {name: dataset.index(name) for name in INDEX}
        if TIME not in fields:
            with contextlib.suppress(ConfigError):  # nothing says it
                self._index_columns[TIME] = dataset.index(TIME)
        self.places = {name: name for name in fields}
        names = {name: f"index.{name}" if name in fields else name for name in self._index_columns}
        self._index_columns = {names[name]: values for name, values in self._index_columns.items()}
        self.places |= {column: f"index/{name}" for name, column in names.items()}
        self.left_out = [f"fields without a value: {', '.join(self.shapes)}"] if self.shapes else []
        self._add_parameters()
        for name, there in (
            ("rejected samples", dataset.rejected),
            ("how episodes ended", dataset.ended),
            ("constants", dataset.constants),
        ):
            if there:
                self.left_out.append(name)
        self.left_out += left_snapshots(dataset.paths, dataset.mode)
        self.forms: dict[str, Form] = {name: (one.shape, one.dtype) for name, one in fields.items()}
        self.forms |= {name: (values.shape[1:], values.dtype) for name, values in self._index_columns.items()}
        row = sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.forms.values())
        self.at_once = max(1, CHUNK_BYTES // max(1, row))
        self._fields = list(fields)

    def _add_parameters(self) -> None:
        """Add the parameters of each sample's episode."""
        parameters, spec = self._dataset.parameters, self._dataset.parameter_spec
        if parameters is None or spec is None:
            return
        whose = self._dataset.parameter_names["episode"]
        episodes, order = self._dataset.index("episode"), np.argsort(whose)
        at = np.minimum(np.searchsorted(whose, episodes, sorter=order), len(whose) - 1)
        rows = order[at] if len(whose) else at
        if not len(whose) or (whose[rows] != episodes).any():
            self.left_out.append("parameters, since some episodes have none")
            return
        if len(set(whose) - set(episodes)):
            self.left_out.append("parameters of episodes without a sample")
        for name, values in parameters.items():
            column = f"{PARAMETERS}{name}"
            if column in self.places:
                raise ConfigError(f"field {column!r} has the name of a parameter's column; rename it")
            if values[0].size:
                self._index_columns[column] = values[rows]
                self.places[column] = f"index/{PARAMETERS}{name}"

    def portions(self) -> Iterator[dict[str, Array]]:
        """Yield the columns of some rows at a time."""
        for start in range(0, len(self._dataset), self.at_once):
            stop = min(len(self._dataset), start + self.at_once)
            fields = self._dataset.read(start, stop, self._fields) if self._fields else {}
            yield fields | {name: values[start:stop] for name, values in self._index_columns.items()}


# --- arrays of numpy and of Arrow


def arrow_type(arrow: Any, name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
    """Return Arrow's type for a row of a column.

    Raises:
        ConfigError: There is none.
    """
    if dtype.kind not in "biufSU" or (dtype.kind == "f" and dtype.itemsize > 8):
        raise ConfigError(
            f"Parquet has no {dtype}, the dtype of {name!r}; leave it out with physgym data drop, or "
            "SampleDataset(..., fields=[...])"
        )
    found = {"S": arrow.binary(), "U": arrow.string()}.get(dtype.kind) or arrow.from_numpy_dtype(dtype)
    for length in reversed(shape):
        found = arrow.list_(found, length)
    return found


def as_arrow(arrow: Any, name: str, values: Array) -> Any:
    """Return an array with a row per sample as Arrow's, with lists of fixed length for its further axes.

    Raises:
        ConfigError: It has a text that is not Unicode.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    try:
        found = arrow.array(flat.tolist() if flat.dtype.kind in "SU" else flat, arrow_type(arrow, name, (), flat.dtype))
    except UnicodeEncodeError as error:
        raise ConfigError(f"Parquet cannot hold a text of {name!r}: {error}") from error
    for length in reversed(values.shape[1:]):
        found = arrow.FixedSizeListArray.from_arrays(found, length)
    return found


def from_arrow(name: str, column: Any, shape: Sequence[int] | None = None, dtype: np.dtype[Any] | None = None) -> Array:
    """Return Arrow's values as an array with a row per sample.

    Args:
        name: What an error calls them.
        column: An array of Arrow; lists in it have one length.
        shape: Shape of a row, if it is known.
        dtype: dtype, if it is known.

    Raises:
        DatasetError: A value is missing, lists differ in length, or they are no numbers, flags, texts and bytes.
    """
    import pyarrow
    from pyarrow import types

    rows, lengths = len(column), []
    while types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type):
        _refuse_missing(name, column)
        fixed = types.is_fixed_size_list(column.type)
        counts = {column.type.list_size} if fixed else set(column.value_lengths().unique().to_pylist())
        if len(counts) > 1:
            raise DatasetError(f"{name} has lists of {min(counts)} to {max(counts)} values; a field has one shape")
        lengths.append(counts.pop() if counts else 0)
        column = column.flatten()
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    _refuse_missing(name, column)
    kind = column.type
    texts = types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)
    texts = texts or types.is_fixed_size_binary(kind)
    if not (texts or types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind)):
        raise DatasetError(
            f"{name} holds {kind}; a field holds numbers, flags, texts or bytes. Convert or drop the column"
        )
    if texts:
        empty = "S1" if "binary" in str(kind) else "U1"
        values = np.array(column.to_pylist(), dtype) if len(column) else np.empty(0, dtype or empty)
    else:
        values = column.to_numpy(zero_copy_only=False)
        assert isinstance(column, pyarrow.Array)
    try:
        values = values if dtype is None else as_dtype(values, dtype)
    except CastError as error:
        raise DatasetError(f"{name} {error}") from error
    return values.reshape(rows, *(lengths if shape is None else shape))


def _refuse_missing(name: str, column: Any) -> None:
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise DatasetError(
            f"{name} lacks {column.null_count} values, the first in place {row}; fill them, or leave these rows out"
        )


# --- the other way


def import_parquet(
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
    """Store the rows of a file of Parquet as samples.

    A file of `export_parquet` gives its samples and parameters back. Of another one each column becomes a field, lists
    of one length an array; `roles` names inputs and targets.

    Args:
        source: The file.
        path: The new dataset's folder.
        roles: Column to "input", "target" or "additional", which all others are.
        units: Column to unit.
        episode: Column that says which episode a row is of; without it each row is an episode of its own.
        step: Column with the step of a row in its episode; by default rows are counted in their order.
        mode: Which part of the dataset to write.
        progress: Whether to show how far it is.

    Returns:
        The new dataset.

    Raises:
        ConfigError: An argument does not fit the columns.
        DatasetError: The file is damaged, a value is missing, or `path` holds samples already.
    """
    arrow, parquet = _library()
    source = absolute(source)
    try:
        with parquet.ParquetFile(source) as file:
            table = _StoredTable(file)
            text = (file.schema_arrow.metadata or {}).get(OURS.encode())
            if text is None:
                arrays: dict[str, Any] = {name: table.column(name) for name in table.names}
                refuse_index(source, arrays)
                asked_roles(source.name, arrays, roles)
                refuse_texts(arrays, roles or {})
                said: dict[str, Any] = {"source": {"parquet": {"file": source.name}}}
            else:
                said = json.loads(text)
                arrays = _columns_of_export(table, said)
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
    except (OSError, KeyError, ValueError, arrow.ArrowException) as error:
        raise DatasetError(f"cannot read {source}: {error}") from error
    return SampleDataset(path, mode=mode)


class _StoredTable:
    """A file of Parquet, of which some groups of rows are in memory.

    Attributes:
        names: The columns.
        count: Number of rows.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.names: list[str] = file.schema_arrow.names
        self.count: int = file.metadata.num_rows
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        self._bounds = np.cumsum([0, *groups])
        self._read: tuple[tuple[int, int], dict[str, Array]] = ((-1, -1), {})
        self._forms: dict[str, Form] = {}

    def column(self, name: str) -> _TableColumn:
        """Return a column, whose rows are read when they are needed."""
        if name not in self._forms:
            self._find_forms()
        return _TableColumn(self, name, *self._forms[name])

    def _find_forms(self) -> None:
        """Find shape and dtype of each column; a text's may grow from one group of rows to the next."""
        for group in range(len(self._bounds) - 1):
            rows = self._file.read_row_group(group)
            for name in self.names:
                values = from_arrow(name, _one_array(rows.column(name)))
                shape, dtype = self._forms.setdefault(name, (values.shape[1:], values.dtype))
                if shape != values.shape[1:]:
                    raise DatasetError(
                        f"{name} has rows of shape {shape} and {values.shape[1:]}; a field has one shape"
                    )
                self._forms[name] = (shape, np.promote_types(dtype, values.dtype))
        if not self._forms:
            raise DatasetError("the table has no rows, so there is nothing to store")

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Return rows of a column."""
        first = int(np.searchsorted(self._bounds, start, side="right")) - 1
        last = max(first + 1, int(np.searchsorted(self._bounds, stop, side="left")))
        if self._read[0] != (first, last):
            self._read = ((first, last), {})
        columns = self._read[1]
        if name not in columns:
            table = self._file.read_row_groups(range(first, last), columns=[name])
            columns[name] = from_arrow(name, _one_array(table.column(name)), *self._forms[name])
        return columns[name][start - self._bounds[first] : stop - self._bounds[first]]


def _one_array(column: Any) -> Any:
    found = column.combine_chunks()
    return found.chunk(0) if hasattr(found, "chunk") else found


class _TableColumn:
    """A column of a table, in slices of rows."""

    def __init__(self, table: _StoredTable, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._table, self._name = table, name
        self.shape, self.dtype, self.ndim = (table.count, *shape), dtype, 1 + len(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        start, stop, _ = rows.indices(len(self))
        return self._table.rows(self._name, start, stop)


def _columns_of_export(table: _StoredTable, said: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays of an exported dataset by their names there."""
    known = {data["name"]: Field.from_json(data) for data in said["fields"]}
    parameters = {data["name"]: Field.from_json(data) for data in said.get("parameters", [])}
    found: dict[str, Any] = {}
    for name, place in said["columns"].items():
        one = known.get(place) or parameters.get(place.removeprefix(f"index/{PARAMETERS}"))
        if one is not None:
            table._forms[name] = (one.shape, one.dtype)
        found[place] = table.column(name)
    found |= {name: np.empty((table.count, *shape), known[name].dtype) for name, shape in said["shapes"].items()}
    found = {name: values[:] if name.startswith("index/") else values for name, values in found.items()}
    found.pop(f"index/{TIME}", None)  # which follows from the time of a step
    columns = {name: found.pop(f"index/{PARAMETERS}{name}", None) for name in parameters}
    if any(values is None for values in columns.values()):
        said.pop("parameters", None)
    elif columns:
        episodes, first = np.unique(found["index/episode"], return_index=True)
        found |= {f"index/{PARAMETERS}{name}": values[first] for name, values in columns.items() if values is not None}
        found |= {"index/episodes/episode": episodes, "index/episodes/seed": found["index/seed"][first]}
    return found


class Parquet(Format):
    """Tables of Parquet."""

    package, extra = "pyarrow", "parquet"
    title = "a table of Parquet"
    source = f"a file {' or '.join(SUFFIXES)}"

    def reads(self, source: str) -> bool:
        """Return whether it is a file with such a suffix."""
        return Path(source).suffix.lower() in SUFFIXES and Path(source).is_file()

    def write(self, dataset: SampleDataset, options: ExportOptions) -> str:
        """Write a dataset to the file of the options."""
        if options.out is None:
            raise ConfigError("add --out, the file to write, such as --out samples.parquet")
        if options.out.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"{options.out} is to be a file of Parquet; let its name end in .parquet")
        left_out = export_parquet(dataset, options.out, progress=options.progress)
        return f"written: {options.out}" + (f"; left out: {'; '.join(left_out)}" if left_out else "")

    def read(self, source: str, path: Path, options: ImportOptions) -> SampleDataset:
        """Store the rows of a table as samples."""
        return import_parquet(source, path, **options.keywords)


FORMAT = Parquet()
