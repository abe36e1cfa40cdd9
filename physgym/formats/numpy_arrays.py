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
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.data.side_arrays import check_episodes, described, side_arrays
from physgym.data.snapshots import left_snapshots
from physgym.errors import ConfigError, DatasetError
from physgym.files import absolute, creating, short
from physgym.formats.columns import store_columns, whole_array
from physgym.formats.registry import ExportOptions, Format, ImportOptions
from physgym.progress import Progress
from physgym.sample import Field, FieldRole
from physgym.spaces import Array

CHUNK_BYTES = 1 << 24  # bytes that are read and written at a time
DESCRIPTION = "fields.json"


def export_numpy(dataset: SampleDataset, out: str | Path, *, progress: bool = False) -> None:
    """Write the samples as arrays of numpy, a portion at a time.

    Args:
        dataset: The samples.
        out: A new folder, with a ``.npy`` per field that `numpy.load` can memory-map; or a new file ``.npz``.
        progress: Whether to show how far it is.

    Raises:
        ConfigError: Episodes of several folders have one number.
        DatasetError: `out` exists, or the disk refuses.
    """
    out = absolute(out)
    if out.exists():
        raise DatasetError(f"{out} exists; choose another name")
    if any(name.split("/")[0] == "index" for name in dataset.spec):
        raise DatasetError("a field of the dataset lies in a group named index, as the export's index does; rename it")
    check_episodes(dataset)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            creating(out, durable=False) as written,
            Progress(len(dataset) * len(dataset.spec), f"export to {short(out)}", "row", enabled=progress) as bar,
        ):
            write = _write_zip if out.suffix == ".npz" else _write_folder
            write(dataset, written, json.dumps(described(dataset), indent=1), bar)
    except OSError as error:
        raise DatasetError(f"cannot write {out}: {error}") from error


def _write_folder(dataset: SampleDataset, folder: Path, description: str, bar: Progress) -> None:
    folder.mkdir()
    for name, field in dataset.spec.items():
        file = folder / f"{name}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(file, "w+", field.dtype, (len(dataset), *field.shape))
        for start, rows in _portions(dataset, field, bar):
            array[start : start + len(rows)] = rows
        array.flush()
    for name, values in side_arrays(dataset).items():
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
        for name, values in side_arrays(dataset).items():
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
        arrays, said = _opened(source, stack)
        store_columns(
            source if isinstance(source, (str, Path)) else "the dictionary",
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
    return SampleDataset(path, mode=mode)


def _opened(
    source: str | Path | Mapping[str, Array], stack: contextlib.ExitStack
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays by name, memory-mapped where they are files, and what is known of them."""
    if isinstance(source, Mapping):
        return {name: whole_array(name, value) for name, value in source.items()}, {}
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
        left_out = left_snapshots(dataset.paths, dataset.mode)
        return f"written: {options.out}" + (f"; left out: {', '.join(left_out)}" if left_out else "")

    def read(self, source: str, path: Path, options: ImportOptions) -> SampleDataset:
        """Store arrays as samples."""
        return import_numpy(source, path, **options.keywords)


FORMAT = NumpyArrays()
