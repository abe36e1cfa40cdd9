"""Datasets as plain files of numpy: `export_numpy` and `import_numpy`.

A file per field, ``forces.npy``, in a folder, or all of them in one ``.npz``; with them ``index/episode`` and its
like, there too the parameters (``index/parameters/``) of the episodes that ``index/episodes/episode`` names, how
episodes ended (``index/endings/``), the rejected samples (``index/rejected/``) and what is stored once
(``index/constants/``); and ``fields.json``, which `import_numpy` takes roles and units from and other readers may
ignore.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from physgym.casting import CastError, as_array, as_dtype
from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.data.layout import INDEX, REASON
from physgym.data.times import time_attribute
from physgym.data.writer import SampleWriter, all_or_nothing
from physgym.errors import ConfigError, DatasetError
from physgym.files import absolute, creating
from physgym.formats.registry import ExportOptions, Format, ImportOptions
from physgym.progress import Progress
from physgym.sample import Field, FieldRole, SampleSpec
from physgym.spaces import Array

CHUNK_BYTES = 1 << 24  # bytes that are read and written at a time
DESCRIPTION = "fields.json"
CONSTANT = "index/constants/"
LOOKED_AT = 256  # rows
log = logging.getLogger(__name__)


def export_numpy(dataset: SampleDataset, out: str | Path, *, progress: bool = False) -> None:
    """Write the samples as arrays of numpy, a portion at a time.

    Args:
        dataset: The samples.
        out: A new folder, with a ``.npy`` per field that `numpy.load` can memory-map; or a new file ``.npz``.
        progress: Whether to show how far it is.

    Raises:
        DatasetError: `out` exists, or the disk refuses.
    """
    out = absolute(out)
    if out.exists():
        raise DatasetError(f"{out} exists; choose another name")
    if any(name.split("/")[0] == "index" for name in dataset.spec):
        raise DatasetError("a field of the dataset lies in a group named index, as the export's index does; rename it")
    described: dict[str, Any] = {"fields": dataset.spec.to_json(), "source": dataset.source}
    if (parameters := dataset.parameter_spec) is not None:
        described["parameters"] = parameters.to_json()
    if dataset.time_step is not None:
        described["time_step"] = dataset.time_step
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            creating(out, durable=False) as written,
            Progress(len(dataset) * len(dataset.spec), f"export to {out}", "row", enabled=progress) as bar,
        ):
            write = _write_zip if out.suffix == ".npz" else _write_folder
            write(dataset, written, json.dumps(described, indent=1), bar)
    except OSError as error:
        raise DatasetError(f"cannot write {out}: {error}") from error


def _side_arrays(dataset: SampleDataset) -> dict[str, Array]:
    """Return the arrays that are stored with the samples, by the names of their files."""
    found = {f"index/{name}": dataset.index(name) for name in INDEX}
    if (parameters := dataset.parameters) is not None:
        found |= {f"index/parameters/{name}": value for name, value in parameters.items()}
        found |= {f"index/episodes/{name}": value for name, value in dataset.parameter_names.items()}
    if (rejected := dataset.rejected) is not None:
        found |= {f"index/rejected/data/{name}": value for name, value in rejected.samples.items()}
        found |= {f"index/rejected/index/{name}": getattr(rejected, name) for name in INDEX}
        found["index/rejected/reason"] = np.array([reason.encode() for reason in rejected.reasons], REASON)
    found |= {f"index/endings/{name}": value for name, value in (dataset.ended or {}).items()}
    found |= {f"{CONSTANT}{name}": value for name, value in dataset.constants.items()}
    return found


def _write_folder(dataset: SampleDataset, folder: Path, description: str, bar: Progress) -> None:
    folder.mkdir()
    for name, field in dataset.spec.items():
        file = folder / f"{name}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(file, "w+", field.dtype, (len(dataset), *field.shape))
        for start, rows in _portions(dataset, field, bar):
            array[start : start + len(rows)] = rows
        array.flush()
    for name, values in _side_arrays(dataset).items():
        file = folder / f"{name}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, values)
    (folder / DESCRIPTION).write_text(description)


def _write_zip(dataset: SampleDataset, file: Path, description: str, bar: Progress) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, field in dataset.spec.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                header = {"descr": field.dtype.str, "fortran_order": False, "shape": (len(dataset), *field.shape)}
                np.lib.format.write_array_header_2_0(stream, header)
                for _, rows in _portions(dataset, field, bar):
                    stream.write(np.ascontiguousarray(rows).data)
        for name, values in _side_arrays(dataset).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, values)
        archive.writestr(DESCRIPTION, description)


def _portions(dataset: SampleDataset, field: Field, bar: Progress) -> Iterator[tuple[int, Array]]:
    at_once = max(1, CHUNK_BYTES // max(1, field.nbytes))
    for start in range(0, len(dataset), at_once):
        stop = min(len(dataset), start + at_once)
        yield start, dataset.read(start, stop, [field.name])[field.name]
        bar.update(stop - start)


def import_numpy(
    source: str | Path | Mapping[str, Array],
    path: str | Path,
    *,
    roles: Mapping[str, FieldRole] | None = None,
    units: Mapping[str, str] | None = None,
    episode: str | Array | None = None,
    step: str | Array | None = None,
    mode: Mode = "training",
    progress: bool = False,
) -> SampleDataset:
    """Store arrays of numpy as samples: the first axis counts them.

    Parts of a dataset are split by episode, so it matters which rows belong together: windows of one series that
    overlap, as episodes of their own, put the same values into training and validation. Where nothing says it, every
    row becomes an episode, which is logged as a warning, with the fields whose rows are seen to overlap.

    Args:
        source: A folder of ``.npy`` files, a file ``.npz``, or arrays by field name; those of an export have the names
            of their samples in ``index/episode`` and ``index/step``.
        path: The new dataset's folder.
        roles: Field name to "input", "target" or "additional", the default where there is no ``fields.json``.
        units: Field name to unit.
        episode: The episode of each row, integers of shape (n,), or the name of the array that holds them, which is no
            field then.
        step: The step of each row in its episode, in one of these forms; by default rows of an episode are counted in
            their order.
        mode: Which part of the dataset to write.
        progress: Whether to show how far it is.

    Returns:
        The new dataset.

    Raises:
        ConfigError: `roles` or `units` name no field, `episode` or `step` no array, or a role does not exist.
        DatasetError: There are no arrays or no rows, values of a masked array are missing, the lengths differ, an
            episode and step is there twice, or `path` holds samples already.
    """
    with contextlib.ExitStack() as stack:
        arrays, described = _opened(source, stack)
        index: dict[str, Array | None] = {name: arrays.pop(f"index/{name}", None) for name in INDEX}
        for name, given in (("episode", episode), ("step", step)):
            if given is not None:
                index[name] = _names(name, given, arrays)
        tables = _side_tables(arrays, described)
        if not arrays:
            raise DatasetError(f"{source} holds no arrays")
        shapes = {name: value.shape for name, value in (arrays | index).items() if value is not None}
        if len({shape[:1] for shape in shapes.values()}) != 1 or () in shapes.values():
            raise DatasetError(
                f"the arrays must have a row per sample, the same number of rows; their shapes: {shapes}"
            )
        if not next(iter(shapes.values()))[0]:
            raise DatasetError(f"the arrays have no rows, so there is nothing to store; their shapes: {shapes}")
        if wrong := {name: str(value.dtype) for name, value in arrays.items() if value.dtype.kind not in "biufcSU"}:
            raise DatasetError(f"a field holds numbers, flags, texts or bytes, not {wrong}; leave out these arrays")
        spec = _spec(arrays, described, roles or {}, units or {})
        count = next(iter(shapes.values()))[0]
        if index["episode"] is None:
            if step is not None:
                raise ConfigError(
                    "steps are given without the episodes in which they are, so that they would be those of an "
                    "episode each: name the column of episodes as well (episode=, --episode)"
                )
            index["episode"] = np.arange(count)
            log.warning("%s", assumption(count, _overlapping(arrays)))
        elif index["step"] is None:
            index["step"] = _counted(np.asarray(index["episode"]))
        filled = {name: np.zeros(count, INDEX[name]) if value is None else value for name, value in index.items()}
        at_once = max(1, CHUNK_BYTES // max(1, spec.nbytes))
        with (
            SampleWriter(
                path,
                spec,
                mode=mode,
                source=described.get("source"),
                nonfinite="allow",
                parameters=tables.spec,
                rejected=tables.rejected is not None,
                endings=bool(tables.endings),
                attributes=time_attribute(described.get("time_step")),
            ) as writer,
            all_or_nothing(writer),
            Progress(count, f"import to {path}", "sample", enabled=progress) as bar,
        ):
            tables.write(writer)
            for start in range(0, count, at_once):
                rows = slice(start, start + at_once)
                where = {name: value[rows] for name, value in filled.items()}
                writer.append({name: arrays[name][rows] for name in spec}, **where)
                bar.update(len(where["step"]))
    return SampleDataset(path, mode=mode)


@dataclass(frozen=True)
class _SideTables:
    """Tables of an export next to the samples.

    Attributes:
        spec: The parameters of episodes, None without any.
        episodes: These, and the names of their episodes.
        rejected: Rejected samples with their names and reasons, None where they were not kept.
        endings: How episodes ended, empty where nothing says it.
        constants: What is stored once.
    """

    spec: SampleSpec | None
    episodes: Mapping[str, Array]
    rejected: Mapping[str, Array] | None
    endings: Mapping[str, Array]
    constants: Mapping[str, Array]

    def write(self, writer: SampleWriter) -> None:
        """Give it to a writer, before the samples."""
        if self.spec is not None:
            names = {name: self.episodes[f"index/episodes/{name}"] for name in ("episode", "seed")}
            writer.add_parameters({name: self.episodes[f"index/parameters/{name}"] for name in self.spec}, **names)
        if self.rejected is not None:
            samples = {name: self.rejected[f"index/rejected/data/{name}"] for name in writer.spec}
            reasons = [reason.decode(errors="replace") for reason in self.rejected["index/rejected/reason"].tolist()]
            names = {name: self.rejected[f"index/rejected/index/{name}"] for name in INDEX}
            writer.add_rejected(samples, reasons, **names)
        if self.endings:
            names = {name: self.endings[f"index/endings/{name}"] for name in ("episode", "steps")}
            words = [word.decode(errors="replace") for word in self.endings["index/endings/how"].tolist()]
            writer.add_endings(**names, how=words)
        if self.constants:
            writer.set_constants(self.constants)


def _side_tables(arrays: dict[str, Array], described: Mapping[str, Any]) -> _SideTables:
    """Take the side tables out of the arrays of an export; other arrays have none."""
    rejected = _group(arrays, "index/rejected/") if "index/rejected/reason" in arrays else None
    endings = _group(arrays, "index/endings/") if "index/endings/how" in arrays else {}
    constants = {name.removeprefix(CONSTANT): value for name, value in _group(arrays, CONSTANT).items()}
    if "parameters" not in described:
        return _SideTables(None, {}, rejected, endings, constants)
    spec = SampleSpec.from_json(described["parameters"])
    episodes = _group(arrays, "index/parameters/") | _group(arrays, "index/episodes/")
    wanted = {f"index/parameters/{name}" for name in spec} | {"index/episodes/episode", "index/episodes/seed"}
    if missing := sorted(wanted - set(episodes)):
        raise DatasetError(f"the export lacks {missing}, which its {DESCRIPTION} names; restore a copy")
    return _SideTables(spec, episodes, rejected, endings, constants)


def _group(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    return {name: arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}


def assumption(count: int, overlapping: list[str]) -> str:
    """Return what an import without a column of episodes says."""
    text = (
        f"nothing says which rows belong together, so that each of the {count} rows is an episode of its own, and "
        "a split puts neighbours into different parts. Name the column of episodes: episode=... (physgym import "
        "--episode COLUMN)"
    )
    if overlapping:
        text += (
            f". The rows of {', '.join(overlapping)} overlap, as windows of one series do: split that way, training "
            "and validation share values"
        )
    return text


def _names(what: str, given: str | Array, arrays: dict[str, Array]) -> Array:
    """Return the column of episodes or steps that an argument gives.

    Raises:
        ConfigError: There is no such array, or it holds no integers.
    """
    if isinstance(given, str):
        if given not in arrays:
            raise ConfigError(f"{what}={given!r} names none of the arrays {sorted(arrays)}")
        given = arrays.pop(given)
    column = _array(what, given)
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    with np.errstate(invalid="ignore"):  # a number that is too large differs below
        whole = column.astype(np.int64) if column.dtype.kind in "iuf" and np.isfinite(column).all() else None
    if column.ndim != 1 or whole is None or (whole != column).any():
        raise ConfigError(f"{what} must be integers of shape (n,), not {column.dtype} {column.shape}")
    return whole


def _counted(episodes: Array) -> Array:
    """Return the steps of rows that are counted within each episode, in their order."""
    order = np.argsort(episodes, kind="stable")
    begins = np.flatnonzero(np.diff(episodes[order], prepend=episodes[order[0]] - 1))
    counts = np.diff(np.append(begins, len(episodes)))
    steps = np.empty(len(episodes), np.int64)
    steps[order] = np.arange(len(episodes)) - np.repeat(begins, counts)
    return steps


def _overlapping(arrays: Mapping[str, Array]) -> list[str]:
    """Return the fields whose rows are windows of one series, each a step after the one before, by the first rows."""
    found = []
    for name, array in arrays.items():
        if array.ndim < 2 or array.shape[1] < 2 or len(array) < 3:
            continue
        some = np.asarray(array[:LOOKED_AT])
        shifted = (some[1:, :-1] == some[:-1, 1:]).reshape(len(some) - 1, -1).all(1)
        varies = (some[1:] != some[:-1]).reshape(len(some) - 1, -1).any(1)
        if (shifted & varies).mean() > 0.5:
            found.append(name)
    return found


def _opened(
    source: str | Path | Mapping[str, Array], stack: contextlib.ExitStack
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays by name, memory-mapped where they are files, and what is known of them."""
    if isinstance(source, Mapping):
        return {name: _array(name, value) for name, value in source.items()}, {}
    folder = absolute(source)
    try:
        if folder.suffix == ".npz":
            # numpy reads a member of a zip file only as a whole
            unpacked = stack.enter_context(tempfile.TemporaryDirectory())
            with zipfile.ZipFile(folder) as archive:
                archive.extractall(unpacked)
            folder = Path(unpacked)
        files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.npy"))}
        arrays = {name: np.load(file, mmap_mode="r") for name, file in files.items()}
        description = folder / DESCRIPTION
        return arrays, json.loads(description.read_text()) if description.exists() else {}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"cannot read arrays from {source}: {error}") from error


def _array(name: str, value: Any) -> Array:
    """Return an array as it is, of which no value is missing.

    Raises:
        DatasetError: Values are missing, or it is no array.
    """
    try:
        return as_dtype(value, value.dtype if isinstance(value, np.ndarray) else as_array(value).dtype)
    except (CastError, ValueError, TypeError, RuntimeError) as error:
        raise DatasetError(f"{name} {error}") from error


def _spec(
    arrays: Mapping[str, Array], described: Mapping[str, Any], roles: Mapping[str, FieldRole], units: Mapping[str, str]
) -> SampleSpec:
    for label, table in (("roles", roles), ("units", units)):
        if unknown := sorted(set(table) - set(arrays)):
            raise ConfigError(f"{label} names {unknown}; there are the arrays {sorted(arrays)}")
    if wrong := {name: role for name, role in roles.items() if role not in get_args(FieldRole)}:
        raise ConfigError(f"roles: {wrong} is none of {get_args(FieldRole)}")
    known = {data["name"]: data for data in described.get("fields", [])}
    order = [*(name for name in known if name in arrays), *(name for name in arrays if name not in known)]
    return SampleSpec(
        [
            Field(
                name,
                arrays[name].shape[1:],
                arrays[name].dtype.newbyteorder("="),
                roles.get(name, known.get(name, {}).get("role", "additional")),
                units.get(name, known.get(name, {}).get("unit", "")),
            )
            for name in order
        ]
    )


class NumpyArrays(Format):
    """Arrays of numpy: a folder of ``.npy`` files, or a file ``.npz``."""

    title = "arrays of numpy"
    source = "a folder of .npy files, or a file .npz"

    def reads(self, source: str) -> bool:
        """Return whether it is a folder with such files, or such a file."""
        path = Path(source)
        return path.is_file() if path.suffix == ".npz" else any(path.rglob("*.npy"))

    def write(self, dataset: SampleDataset, options: ExportOptions) -> str:
        """Write a dataset to the folder or file of the options."""
        if options.out is None:
            raise ConfigError("add --out, where to write")
        export_numpy(dataset, options.out, progress=options.progress)
        return f"written: {options.out}"

    def read(self, source: str, path: Path, options: ImportOptions) -> SampleDataset:
        """Store arrays as samples."""
        return import_numpy(
            source,
            path,
            roles=cast("Mapping[str, FieldRole]", options.roles),
            episode=options.episode,
            step=options.step,
            mode=options.mode,
            progress=options.progress,
        )


FORMAT = NumpyArrays()
