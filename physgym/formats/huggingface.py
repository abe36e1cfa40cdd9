"""`to_huggingface`: a `SampleDataset` as a `datasets.Dataset` of Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.description import partition_files
from physgym.errors import ConfigError
from physgym.sample import Field, Sample, SampleSpec

try:
    import datasets
    from datasets.fingerprint import Hasher
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"physgym.formats.huggingface needs datasets: pip install 'physgym[huggingface]' ({error})", name=error.name
    ) from error

MOST = np.iinfo(np.int64).max
CHUNK_BYTES = 1 << 22  # bytes of samples that are read at a time
ARRAYS = {2: datasets.Array2D, 3: datasets.Array3D, 4: datasets.Array4D, 5: datasets.Array5D}


def features(spec: SampleSpec) -> datasets.Features:
    """Return the columns of a `datasets.Dataset` for the fields of samples.

    Fields of two to five dimensions become arrays of fixed shape, which are read 4 to 100 times as fast as the lists
    that `datasets` would take them for.

    Raises:
        ConfigError: Arrow has no such dtype, or no such shape.
    """
    return datasets.Features({name: _feature(field) for name, field in spec.items()})


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
    if len(field.shape) in ARRAYS and field.dtype.kind not in "SU":
        return ARRAYS[len(field.shape)](field.shape, name)
    feature = datasets.Value(name)
    for length in reversed(field.shape):
        feature = datasets.List(feature, length=length)
    return feature


def to_huggingface(dataset: SampleDataset, **arguments: Any) -> datasets.Dataset:
    """Return the samples as a `datasets.Dataset`, in an Arrow file in its cache; memory is bounded.

    `datasets` finds a result in its cache by the arguments of its generator. For a dataset these name only the folder,
    so that one that has grown would be taken for the old one; here the key has the state of the partitions in it.

    Args:
        dataset: The samples.
        **arguments: Of `datasets.Dataset.from_generator`, such as cache_dir, split or keep_in_memory.

    Raises:
        ConfigError: Arrow has no dtype for a field, or `datasets` would read its numbers as others.
    """
    _check_unsigned(dataset)
    files = [file for path in dataset.paths for file in partition_files(path, dataset.mode)]
    state = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return datasets.Dataset.from_generator(
        _samples,
        **{
            "features": features(dataset.spec),
            "gen_kwargs": {"dataset": dataset},
            "fingerprint": Hasher.hash([dataset, len(dataset), state]),
            **arguments,
        },
    )


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


def _samples(dataset: SampleDataset) -> Iterator[Sample]:
    at_once = max(1, CHUNK_BYTES // max(1, dataset.spec.nbytes))
    for start in range(0, len(dataset), at_once):
        portion = dataset[start : start + at_once]
        for i in range(len(next(iter(portion.values())))):
            # Arrow does not know the texts of NumPy
            yield {name: value[i].tolist() if value.dtype.kind == "U" else value[i] for name, value in portion.items()}
