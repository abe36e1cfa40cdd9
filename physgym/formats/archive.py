"""Compressed copies of a dataset, for keeping and sending; `SampleDataset` reads them as it reads the original."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np

from physgym.checks import one_of
from physgym.data import constants
from physgym.data.description import Description, Mode, describe_partitions, partition_files
from physgym.data.file_image import ALIGNED, ALIGNMENT, LIBVER, create_contiguous, describe_columns, write_small
from physgym.data.layout import COUNTERS, MOMENTS
from physgym.data.partition import Partition
from physgym.data.partition_head import ColumnPlace
from physgym.data.summary import stored
from physgym.data.texts import encoded, on_disk
from physgym.errors import ConfigError, DatasetError
from physgym.files import replacing
from physgym.progress import Progress
from physgym.storage.location import local, place

Compression = Literal["zstd", "blosc", "lz4", "gzip", "none"]
LEVELS = {"zstd": 22, "blosc": 9, "gzip": 9}  # the highest
COMPRESSED_BYTES = 1 << 20  # of whole rows, compressed together: the least that a reader of one row decompresses
CHUNK_BYTES = 1 << 24  # bytes that are read and written at a time


def archive(
    path: str | Path,
    out: str | Path,
    *,
    compression: Compression = "zstd",
    level: int | None = None,
    resume: bool = False,
    progress: bool = False,
) -> None:
    """Copy a dataset, every mode of it, to another folder with its rows compressed, or uncompressed again.

    Each partition is written under a temporary name, read back and compared with its checksum, then renamed. Open
    partitions are copied as far as they are committed. Attributes, statistics and the tables of parameters and of
    rejected samples come along.

    Args:
        path: The dataset's folder.
        out: The copy's folder.
        compression: "zstd", "blosc" (blosc with zstd) and "lz4" need ``pip install 'physgym[archive]'``, here and where
            the copy is read; "gzip" is in every HDF5; "none" makes a dataset for training of an archive.
        level: Compression level, by default 3 of zstd, 5 of blosc, 4 of gzip; lz4 has none.
        resume: Continue with a copy that was interrupted: partitions that are complete stay.
        progress: Whether to show how far it is.

    Raises:
        ConfigError: The compression is unknown or not installed, or both folders are the same.
        DatasetError: There is no dataset, a partition is damaged, `out` holds partitions already, or the disk refuses.
    """
    out = local(out, "the copy's folder")
    filters = _filters(compression, level)
    if isinstance(at := place(path), Path) and out.resolve() == at.resolve():
        raise ConfigError(f"{path} cannot be its own copy; choose another folder")
    modes = stored(path)
    sources = [part for parts in modes.values() for part in parts]
    folder = sources[0].path.parent
    description = Description.read(folder)
    values = constants.read(folder, description.constants)
    if not resume and any(partition_files(out, mode) for mode in get_args(Mode)):
        raise DatasetError(
            f"{out} holds partitions already. Continue an interrupted copy with resume=True "
            "(physgym export --resume), or choose another folder"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        size = sum(part.row_bytes for part in sources)
        with Progress(size, f"copy to {out}", "B", enabled=progress) as bar:
            for source in sources:
                target = out / source.path.name
                if not target.exists():
                    _convert(source, target, filters, compression, bar)
                elif _same(source, Partition(target), compression):
                    bar.update(source.row_bytes)
                else:
                    raise DatasetError(f"{target} is no such copy of {source.path}; move it away, then continue")
        entry = constants.store(out, values) if values else None
        copies = {mode: [Partition(out / part.path.name) for part in parts] for mode, parts in modes.items()}
        Description(
            {mode: describe_partitions(parts, description.provenance(mode)) for mode, parts in copies.items()},
            entry,
            metadata=description.metadata,
        ).write(out)
    except (OSError, RuntimeError) as error:  # h5py reports a full disk as either
        raise DatasetError(
            f"cannot write to {out}: {error}. Free space or repair the folder, then continue with resume=True"
        ) from error


def _filters(compression: str, level: int | None) -> dict[str, Any]:
    """Return the arguments for `h5py.Group.create_dataset`; none for contiguous datasets."""
    one_of("compression", compression, get_args(Compression))
    if compression == "none":
        return {}
    most = LEVELS.get(compression, 0)
    if level is not None and not 1 <= level <= most:
        raise ConfigError(
            f"the level of {compression} lies between 1 and {most}, not {level}"
            if most
            else f"{compression} has no level"
        )
    if compression == "gzip":
        return {"compression": "gzip", "compression_opts": 4 if level is None else level, "shuffle": True}
    try:
        import hdf5plugin
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{compression} needs hdf5plugin: pip install 'physgym[archive]', or take gzip ({error})"
        ) from error
    if compression == "zstd":
        return {**hdf5plugin.Zstd(clevel=3 if level is None else level), "shuffle": True}
    if compression == "blosc":
        return dict(
            hdf5plugin.Blosc(cname="zstd", clevel=5 if level is None else level, shuffle=hdf5plugin.Blosc.SHUFFLE)
        )
    return {**hdf5plugin.LZ4(), "shuffle": True}


def _convert(source: Partition, target: Path, filters: Mapping[str, Any], compression: str, bar: Progress) -> None:
    checksum = source.checksum if source.sealed else source.digest()
    with replacing(target, durable=True) as temporary:
        with h5py.File(temporary, "w", libver=LIBVER, alignment_threshold=ALIGNED, alignment_interval=ALIGNMENT) as new:
            _copy_small(source, new, checksum, {"archive": True, "compression": compression} if filters else {})
            for table in source.tables.values():
                for column in table.columns.values():
                    _copy_rows(source, column, table.count, new, filters, bar)
            describe_columns(new, source.layout)
        if Partition(temporary).digest() != checksum:
            raise DatasetError(
                f"{source.path} is damaged: its rows do not match its checksum, so there is no copy of it"
            )


def _copy_small(source: Partition, new: h5py.File, checksum: str, more: Mapping[str, Any]) -> None:
    """Copy everything but the rows: attributes, counters, statistics; as a seal would write them."""
    kept = {name: value for name, value in source.attributes.items() if name not in ("archive", "compression")}
    write_small(new, source.layout, kept | dict(more))
    values: dict[str, Any] = {"sealed": 1, "checksum": np.frombuffer(bytes.fromhex(checksum), np.uint8)}
    values |= {COUNTERS[name]: table.count for name, table in source.tables.items()}
    for field, statistics in source.statistics.items():
        values[f"statistics/{field}/count"] = statistics.count
        values |= {f"statistics/{field}/{moment}": getattr(statistics, moment) for moment in MOMENTS}
    for name, value in values.items():
        new[name][...] = value


def _copy_rows(
    source: Partition, column: ColumnPlace, count: int, new: h5py.File, filters: Mapping[str, Any], bar: Progress
) -> None:
    shape, per_chunk = (count, *column.shape), max(1, min(count, COMPRESSED_BYTES // max(1, column.row)))
    if filters and count and column.row:
        new.create_dataset(column.name, shape, on_disk(column.dtype), chunks=(per_chunk, *column.shape), **filters)
    else:
        create_contiguous(new, column.name, shape, on_disk(column.dtype))
    at_once = per_chunk * max(1, CHUNK_BYTES // max(1, per_chunk * column.row))  # whole chunks: each is compressed once
    for start in range(0, count if column.row else 0, at_once):
        stop = min(count, start + at_once)
        rows = source.read(column.name, start, stop)
        if rows.dtype.kind == "U":
            new[column.name][start:stop] = encoded(rows).view(on_disk(rows.dtype))
        else:
            new[column.name].write_direct(rows, dest_sel=np.s_[start:stop])
        bar.update((stop - start) * column.row)


def _same(source: Partition, copy: Partition, compression: str) -> bool:
    checksum = source.checksum if source.sealed else source.digest()
    return copy.checksum == checksum and copy.attributes.get("compression", "none") == compression
