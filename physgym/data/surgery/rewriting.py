"""Writing a dataset from rows of others: blocks are read, changed and appended, then the result is verified."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from physgym import files, limits
from physgym.data.dataset import SampleDataset
from physgym.data.description import Description
from physgym.data.layout import ENDINGS, EPISODES, INDEX, REJECTED
from physgym.data.surgery.plans import NewDataset, NewPart, Piece, blocks
from physgym.data.surgery.side_rows import SideRows
from physgym.data.surgery.unfinished import delete_unfinished, locked
from physgym.data.writer import SampleWriter
from physgym.errors import DatasetError
from physgym.progress import Progress
from physgym.sample import Sample
from physgym.spaces import Array
from physgym.storage.location import Location


def write_dataset(
    new: NewDataset, out: Path | Location, *, progress: bool = False, max_file_size: int = limits.MAX_FILE_SIZE
) -> None:
    """Write a dataset under a temporary name, verify it, and give it its name.

    Args:
        new: What is written.
        out: Where to; nothing is there.
        progress: Whether to show how far it is.
        max_file_size: Largest size of a partition in bytes.

    Raises:
        ConfigError: A name or unit cannot be stored.
        DatasetError: The disk refuses, or the result is not what it should be. Nothing is left.
    """
    if isinstance(out, Location):
        from physgym.data.surgery.publishing import published

        with published(out) as folder:
            _fill(new, folder, progress, max_file_size)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        delete_unfinished(out)
        with files.creating(out) as folder:
            folder.mkdir()
            with locked(folder):
                _fill(new, folder, progress, max_file_size)
                for file in sorted(folder.iterdir()):
                    files.flush(file)
    except OSError as error:
        raise DatasetError(f"cannot write {out}: {error.strerror or error}. Nothing of it is left") from error


def _fill(new: NewDataset, folder: Path, progress: bool, max_file_size: int) -> None:
    """Write the parts of a dataset and its description, then verify them."""
    for part in new.parts:
        _write_part(part, folder, new.constants, progress, max_file_size)
    if new.metadata:
        described = Description.read(folder)
        Description(described.modes, described.constants, metadata=dict(new.metadata)).write(folder, durable=False)
    for part in new.parts:
        _verify(part, folder, new, progress)


def _write_part(
    part: NewPart, folder: Path, constants: Mapping[str, Array], progress: bool, max_file_size: int
) -> None:
    columns = contextlib.nullcontext(None) if part.computed is None else part.computed()
    with (
        columns as computed,  # first: its processes are to know nothing of the writer
        SampleWriter(
            folder,
            part.spec,
            mode=part.mode,
            source=part.source,
            max_file_size=max_file_size,
            parameters=part.parameters,
            rejected=part.rejected,
            endings=part.endings,
            nonfinite="allow",
            commit_interval=3600.0,  # nobody reads it before it has its name
            attributes=part.attributes,
            provenance=part.provenance,
        ) as writer,
        Progress(part.count, f"write {part.mode} samples", "sample", enabled=progress) as bar,
    ):
        writer.check_room(part.count)
        if constants:
            writer.set_constants(constants)
        for piece in part.pieces:
            for rows in _blocks_of(piece, part, writer, computed):
                bar.update(rows)


def _blocks_of(
    piece: Piece, part: NewPart, writer: SampleWriter, computed: Iterator[Mapping[str, Array]] | None
) -> Iterator[int]:
    """Append the rows of a piece, and what its other tables say of them; yield how many a block had."""
    dataset, chosen = piece.dataset, piece.selection
    before, side = None, None
    for number, partition, start, stop in blocks(dataset):
        if before != number:
            if side is not None:
                side.finish()
            before, side = number, SideRows(partition, part, piece, writer)
        kept = slice(None) if chosen is None else chosen.rows(number, start, stop)
        index = {name: partition.read(f"index/{name}", start, stop)[kept] for name in INDEX}
        more = next(computed) if computed is not None else {}
        if not len(index["step"]):
            continue
        assert side is not None
        side.until(int(index["episode"][-1]), int(index["step"][-1]))
        samples: Sample = {}
        for name in part.spec:
            if name not in more:
                samples[name] = partition.read(f"data/{part.stored.get(name, name)}", start, stop)[kept]
        index["episode"] = index["episode"] + piece.shift
        writer.append({**samples, **more}, **index)
        yield len(index["step"])
    if side is not None:
        side.finish()


def _verify(part: NewPart, folder: Path, new: NewDataset, progress: bool) -> None:
    """Read a part of the result and compare it with what it should be.

    Raises:
        DatasetError: It is something else.
    """
    found = SampleDataset(folder, mode=part.mode)
    found.verify(progress=progress)
    if len(found) != part.count:
        raise DatasetError(f"the result has {len(found)} {part.mode} samples in place of {part.count}; nothing is kept")
    tables = ((EPISODES, part.parameters is not None), (REJECTED, part.rejected), (ENDINGS, part.endings))
    for table, wanted in tables:
        if wanted and all(piece.selection is None for piece in part.pieces):
            there = _count(table, [found])
            given = _count(table, [piece.dataset for piece in part.pieces])
            if there != given:
                raise DatasetError(f"the result has {there} rows of {table} in place of {given}; nothing is kept")
    if found.spec.to_json() != part.spec.to_json() or set(found.constants) != set(new.constants):
        raise DatasetError("the result has other fields or constants than it should; nothing is kept")


def _count(table: str, datasets: Sequence[SampleDataset]) -> int:
    """Return the number of rows of a table, where it is kept."""
    return sum(part.tables[table].count for one in datasets for part in one.partitions if table in part.tables)
