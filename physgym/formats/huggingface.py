"""`to_huggingface`: a `SampleDataset` as a `datasets.Dataset` of Hugging Face; `export_huggingface` writes that."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.description import partition_files
from physgym.data.side_arrays import check_episodes
from physgym.data.snapshots import left_snapshots
from physgym.data.surgery.unfinished import delete_unfinished, locked
from physgym.errors import ConfigError, DatasetError
from physgym.files import absolute, creating, temporary_name
from physgym.formats.registry import ExportFormat, ExportOptions
from physgym.sample import Field, Sample, SampleSpec

if TYPE_CHECKING:
    import datasets

MOST = np.iinfo(np.int64).max
CHUNK_BYTES = 1 << 22  # bytes of samples that are read at a time
NAMES = ("episode", "step")  # columns of an export that say where a row comes from


def _library() -> Any:
    """Import the library, which a format is listed without."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"physgym.formats.huggingface needs datasets: pip install 'physgym[huggingface]' ({error})", name=error.name
        ) from error
    return datasets


def features(spec: SampleSpec) -> datasets.Features:
    """Return the columns of a `datasets.Dataset` for the fields of samples.

    Fields of two to five dimensions become arrays of fixed shape, which are read 4 to 100 times as fast as the lists
    that `datasets` would take them for.

    Raises:
        ConfigError: Arrow has no such dtype, or no such shape.
    """
    found: datasets.Features = _library().Features({name: _feature(field) for name, field in spec.items()})
    return found


def _feature(field: Field) -> Any:
    long = field.dtype.kind == "f" and field.dtype.itemsize > 8
    empty = field.shape == (0,)
    if field.dtype.kind not in "biufSU" or long or empty:
        what = f"{field.dtype} of shape {field.shape}" if empty else str(field.dtype)
        raise ConfigError(
            f"Arrow, in which datasets keeps its data, has no {what}; leave {field.name} out with "
            "SampleDataset(..., fields=[...])"
        )
    name = {"S": "binary", "U": "string"}.get(field.dtype.kind, field.dtype.name)
    datasets = _library()
    arrays = {2: datasets.Array2D, 3: datasets.Array3D, 4: datasets.Array4D, 5: datasets.Array5D}
    if len(field.shape) in arrays and field.dtype.kind not in "SU":
        return arrays[len(field.shape)](field.shape, name)
    feature = datasets.Value(name)
    for length in reversed(field.shape):
        feature = datasets.List(feature, length=length)
    return feature


def to_huggingface(dataset: SampleDataset, *, index: bool = False, **arguments: Any) -> datasets.Dataset:
    """Return the samples as a `datasets.Dataset`, in an Arrow file in its cache; memory is bounded.

    `datasets` finds a result in its cache by the arguments of its generator. For a dataset these name only the folder,
    so that one that has grown would be taken for the old one; here the key has the state of the partitions in it.

    Args:
        dataset: The samples.
        index: Whether there are the columns ``episode`` and ``step`` too, int64.
        **arguments: Of `datasets.Dataset.from_generator`, such as cache_dir, split or keep_in_memory.

    Raises:
        ConfigError: Arrow has no dtype for a field, `datasets` would read its numbers as others, or with `index` a
            field has the name of a column of it, or episodes of several folders have one number.
    """
    library = _library()
    from datasets.fingerprint import Hasher

    _check_unsigned(dataset)
    if index:
        check_episodes(dataset)
    if index and (taken := sorted({*NAMES} & set(dataset.spec))):
        raise ConfigError(f"the fields {taken} have the names of columns that say where samples come from; rename them")
    files = [file for path in dataset.paths for file in partition_files(path, dataset.mode)]
    state = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    columns = features(dataset.spec)
    if index:
        columns |= {name: library.Value("int64") for name in NAMES}
    found: datasets.Dataset = library.Dataset.from_generator(
        _samples,
        **{
            "features": library.Features(columns),
            "gen_kwargs": {"dataset": dataset, "index": index},
            "fingerprint": Hasher.hash([dataset, len(dataset), state, index]),
            **arguments,
        },
    )
    return found


def _check_unsigned(dataset: SampleDataset) -> None:
    """Raise ConfigError for numbers that `datasets` takes for negative ones, or not at all."""
    names = [name for name, field in dataset.spec.items() if field.dtype.kind == "u" and field.dtype.itemsize == 8]
    at_once = max(1, CHUNK_BYTES // max(1, dataset.spec.nbytes))
    for start in range(0, len(dataset) if names else 0, at_once):
        stop = min(start + at_once, len(dataset))
        for name, values in dataset.read(start, stop, names).items():
            if values.size and values.max() > MOST:
                raise ConfigError(
                    f"field {name!r} holds {values.max()}: the formats of datasets make int64 of every integer, and "
                    f"numbers above {MOST} negative. Leave the field out with SampleDataset(..., fields=[...]), or "
                    "store it in two parts"
                )


def _samples(dataset: SampleDataset, index: bool = False) -> Iterator[Sample]:
    at_once = max(1, CHUNK_BYTES // max(1, dataset.spec.nbytes))
    names = {name: dataset.index(name) for name in NAMES} if index else {}
    for start in range(0, len(dataset), at_once):
        portion = dataset[start : start + at_once]
        portion |= {name: values[start : start + at_once] for name, values in names.items()}
        for i in range(len(next(iter(portion.values())))):
            # Arrow does not know the texts of NumPy
            yield {name: value[i].tolist() if value.dtype.kind == "U" else value[i] for name, value in portion.items()}


def export_huggingface(dataset: SampleDataset, out: str | Path) -> list[str]:
    """Write the samples to a folder that `datasets.load_from_disk` opens, and compare what is there with them.

    Args:
        dataset: The samples.
        out: The new folder.

    Returns:
        What is left out.

    Raises:
        ConfigError: As `to_huggingface`.
        DatasetError: `out` exists, the disk refuses, or the folder does not hold what was written.
    """
    library = _library()
    out = absolute(out)
    if out.exists():
        raise DatasetError(f"{out} exists; choose another name")
    check_episodes(dataset)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        delete_unfinished(out)
        with creating(out, durable=False) as written, _cache(out) as cache:
            written.mkdir()
            with locked(written):
                to_huggingface(dataset, index=True, cache_dir=str(cache)).save_to_disk(written)
                _compare(library.load_from_disk(written), dataset, out)
    except OSError as error:
        raise DatasetError(f"cannot write {out}: {error}") from error
    side = {"parameters": dataset.parameters, "rejected samples": dataset.rejected}
    side |= {"how episodes ended": dataset.ended, "constants": dataset.constants}
    left_out = ["seeds, roles and units", *(name for name, there in side.items() if there)]
    left_out += [f"metadata ({', '.join(dataset.metadata)})"] if dataset.metadata else []
    return left_out + left_snapshots(dataset.paths, dataset.mode)


@contextlib.contextmanager
def _cache(out: Path) -> Iterator[Path]:
    """Give a folder next to an export, which the next one deletes where this one is killed."""
    cache = temporary_name(out)
    cache.mkdir()
    try:
        with locked(cache):
            yield cache
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _compare(found: Any, dataset: SampleDataset, out: Path) -> None:
    """Raise where a table does not hold the samples."""
    at_once = max(1, CHUNK_BYTES // max(1, dataset.spec.nbytes))
    rows = found.with_format("arrow")
    same = len(found) == len(dataset)
    for start in range(0, len(dataset) if same else 0, at_once):
        table = rows[start : start + at_once]
        for name, values in dataset[start : start + at_once].items():
            column = np.array(table[name].to_pylist(), values.dtype).reshape(values.shape)
            same = same and np.array_equal(column, values, equal_nan=values.dtype.kind == "f")
    if not same:
        raise DatasetError(f"{out} does not hold the samples that were written")


class HuggingFace(ExportFormat):
    """Datasets of Hugging Face."""

    package, extra = "datasets", "huggingface"
    title = "a dataset of Hugging Face"

    def write(self, dataset: SampleDataset, options: ExportOptions) -> str:
        """Write a dataset to the folder of the options."""
        if options.out is None:
            raise ConfigError("add --out, the folder to write")
        left_out = export_huggingface(dataset, options.out)
        return f"written: {options.out}, for datasets.load_from_disk; left out: {', '.join(left_out)}"


EXPORT_FORMAT = HuggingFace()
