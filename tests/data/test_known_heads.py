"""A partition whose head has the bytes of one that was read before is read without HDF5, and as HDF5 would."""

from __future__ import annotations

import os
import random
from pathlib import Path

import h5py
import numpy as np
import pytest

from physgym.data import known_heads
from physgym.data import partition as partition_module
from physgym.data.dataset import SampleDataset
from physgym.data.known_heads import KnownHeads
from physgym.data.partition import Partition
from physgym.data.writer import SampleWriter
from physgym.errors import DatasetError
from physgym.formats.archive import archive
from physgym.sample import Field, SampleSpec
from tests.support.datasets import PARAMETERS, PER_EPISODE, SOURCE, SPEC, assert_rows, rows, where, write
from tests.support.older import PARTITION

DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture
def parsed(monkeypatch):
    """Files that HDF5 was asked about, by name; nothing is known in the beginning."""
    seen, real = [], known_heads.parse

    def parse(path, file, recorded):
        seen.append(path.name)
        return real(path, file, recorded)

    monkeypatch.setattr(known_heads, "parse", parse)
    monkeypatch.setattr(partition_module, "_known", KnownHeads())
    return seen


def many(path, count, *, per_partition=12, **options):
    """Write a dataset of partitions with numbers of endings and parameters that differ."""
    with SampleWriter(
        path, SPEC, source=SOURCE, max_rows=per_partition, parameters=PARAMETERS, rejected=True, endings=True, **options
    ) as writer:
        for start in range(0, count * per_partition, PER_EPISODE):
            stop = min(start + PER_EPISODE, count * per_partition)
            episode = np.array([start // PER_EPISODE])
            writer.add_parameters({"stiffness": episode * 1.5}, episode=episode, seed=episode.astype("u8"))
            if start % 3 == 0:
                bad = {name: column[:1] for name, column in rows(start, stop).items()}
                writer.add_rejected(bad, ["diverged"], **{name: one[:1] for name, one in where(start, stop).items()})
            writer.append(rows(start, stop), **where(start, stop))
            if stop - start == PER_EPISODE:
                writer.add_endings(episode=episode, steps=np.array([PER_EPISODE]), how=["truncated"])
    return SampleDataset(path)


def read(path, heads):
    """Head and state of a file, or the kind of error: HDF5 and numpy raise whatever they like."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return heads.read(path, handle, os.fstat(handle).st_size)
    except Exception as error:  # noqa: BLE001
        return type(error)
    finally:
        os.close(handle)


def by_hdf5(path):
    return read(path, KnownHeads())


def test_hdf5_is_asked_about_a_few_of_many_partitions(tmp_path, parsed):
    dataset = many(tmp_path / "d", 30)
    parsed.clear()
    assert_rows(SampleDataset(tmp_path / "d"), 0, 360)
    assert dataset.refresh() == 0
    assert parsed == []
    for part in dataset.partitions:
        head, state = by_hdf5(part.path)
        assert part.head == head
        assert (part.sealed, part.checksum) == (True, state.checksum)
        assert {name: table.count for name, table in part.tables.items()} == state.counts
    assert len({part.tables["endings"].capacity for part in dataset.partitions}) > 1
    assert len({id(part.head) for part in dataset.partitions}) < 16
    np.testing.assert_array_equal(dataset.parameters["stiffness"], np.arange(72) * 1.5)


def test_the_statistics_of_a_seal_are_those_that_hdf5_reads(tmp_path):
    for part in many(tmp_path / "d", 3).partitions:
        there = part.statistics
        for name, other in part._statistics_by_hdf5().items():
            assert there[name].count == other.count
            for moment in ("mean", "std", "min", "max"):
                np.testing.assert_array_equal(getattr(there[name], moment), getattr(other, moment))


def test_writing_asks_hdf5_about_as_many_files_however_many_there_are(tmp_path, parsed, monkeypatch):
    opened, real = [], h5py.File
    monkeypatch.setattr(h5py, "File", lambda *given, **options: opened.append(given[0]) or real(*given, **options))
    write(tmp_path / "few", 40, max_rows=8)
    few = len(opened)
    write(tmp_path / "many", 400, max_rows=8)
    assert len(opened) - few <= few


def test_open_partitions_are_recognized_with_what_is_committed(tmp_path, parsed):
    write(tmp_path / "d", 30, max_rows=20, close=False)
    parsed.clear()
    part = Partition(tmp_path / "d" / "training-00001.h5")
    assert not part.sealed
    assert (part.count, part.tables["samples"].capacity) == (10, 20)
    assert part.checksum == ""
    assert parsed == []


@pytest.mark.parametrize("kind", ["sealed", "open"])
@pytest.mark.parametrize("flips", [30, pytest.param(120, marks=pytest.mark.slow)])
def test_whatever_byte_is_changed_a_file_is_read_as_hdf5_reads_it(tmp_path, parsed, kind, flips):
    """Rows are left out, which the checksum covers."""
    folder = tmp_path / "d"
    if kind == "sealed":
        many(folder, 1)
    else:
        write(folder, 3, max_rows=12, close=False)
    file = folder / "training-00000.h5"
    data = file.read_bytes()
    tables, wrong = Partition(file).tables.values(), file.with_name("wrong.h5")
    taken = [range(c.offset, c.offset + table.capacity * c.row) for table in tables for c in table.columns.values()]
    places = [at for at, byte in enumerate(data) if byte and not any(at in rows for rows in taken)]
    choose, good, noticed = random.Random(0), by_hdf5(file), 0
    for at in choose.sample(places, flips):
        changed = bytearray(data)
        changed[at] ^= choose.choice([1, 4, 0xFF])
        wrong.write_bytes(changed)
        wanted = by_hdf5(wrong)
        assert read(wrong, partition_module._known) == wanted, at
        noticed += wanted != good
    assert noticed > flips // 4


def test_rows_that_a_damaged_file_has_in_the_place_of_metadata_hide_nothing(tmp_path, parsed):
    write(tmp_path / "d", 3, max_rows=12, close=False)
    file = tmp_path / "d" / "training-00000.h5"
    good, part = file.read_bytes(), Partition(file)
    column, metadata = part.tables["samples"].columns["data/group/count"], good.rindex(b"HEAP")
    address = good.index(column.offset.to_bytes(8, "little"))
    data = bytearray(good)
    data[address : address + 8] = (metadata - 8).to_bytes(8, "little")
    file.write_bytes(data)
    known = KnownHeads()
    assert read(file, known)[0].tables["samples"].columns[column.name].offset == metadata - 8
    data[metadata : metadata + 4] = b"HELP"
    file.write_bytes(data)
    assert read(file, known) == by_hdf5(file)
    assert isinstance(by_hdf5(file), type)


def test_files_that_are_cut_or_longer_are_not_taken_for_known_ones(tmp_path, parsed):
    many(tmp_path / "d", 2)
    file = tmp_path / "d" / "training-00001.h5"
    good = file.read_bytes()
    for wrong in (good[:-1], good[:5000], good[: len(good) // 2], b"", bytes(len(good))):
        file.write_bytes(wrong)
        with pytest.raises(DatasetError, match="training-00001"):
            SampleDataset(tmp_path / "d")
    file.write_bytes(good + b"more")  # which HDF5 leaves alone
    parsed.clear()
    assert_rows(SampleDataset(tmp_path / "d"), 0, 24)
    assert parsed == ["training-00001.h5"]


def test_a_partition_that_was_replaced_is_named(tmp_path, parsed):
    many(tmp_path / "d", 3)
    many(tmp_path / "other", 3)
    with SampleWriter(tmp_path / "same", SPEC, source=SOURCE, max_rows=12) as writer:
        writer.append(rows(100, 112), **where(100, 112))
    for other in (tmp_path / "d" / "training-00000.h5", tmp_path / "same" / "training-00000.h5"):
        (tmp_path / "d" / "training-00001.h5").write_bytes(other.read_bytes())
        with pytest.raises(DatasetError, match=r"training-00001\.h5 is not the partition that dataset\.json names"):
            SampleDataset(tmp_path / "d")


def test_texts_of_older_versions_are_compared_too(tmp_path, parsed):
    """They lie in a heap that is read without HDF5."""
    other = PARTITION.replace(b'"seed": 3', b'"seed": 4')
    assert other != PARTITION
    for number, data in enumerate((PARTITION, other, PARTITION)):
        file = tmp_path / f"training-0000{number}.h5"
        file.write_bytes(data)
        assert f'"seed": {3 + number % 2}' in Partition(file).attributes["source"]


def test_archives_are_read_by_hdf5(tmp_path, parsed):
    many(tmp_path / "d", 2)
    archive(tmp_path / "d", tmp_path / "small", compression="gzip")
    parsed.clear()
    assert_rows(SampleDataset(tmp_path / "small"), 0, 24)
    assert parsed == ["training-00000.h5", "training-00001.h5"]


def test_many_kinds_of_files_take_turns(tmp_path, parsed):
    specs = [SampleSpec([Field("x", (n + 1,), np.dtype("f4"), "input")]) for n in range(known_heads.MOST_PATTERNS + 3)]
    for number, spec in enumerate(specs):
        with SampleWriter(tmp_path / f"{number}", spec) as writer:
            writer.append({"x": np.full((2, number + 1), number, "f4")}, **where(0, 2))
    for number in [*range(len(specs)), *range(len(specs))]:
        assert SampleDataset(tmp_path / f"{number}")[1]["x"].tolist() == [number] * (number + 1)


def test_many_partitions_hold_no_descriptors_and_are_mapped_as_they_are_read(tmp_path):
    dataset = many(tmp_path / "d", 40)
    before = len(list(DESCRIPTORS.iterdir()))
    again = SampleDataset(tmp_path / "d")
    places = np.random.default_rng(0).integers(0, len(again), 300)
    batch, whole = again.gather(places), again.read(0, len(again))
    for name in again.spec:
        np.testing.assert_array_equal(batch[name], whole[name][places])
    assert_rows(dataset, 0, 480)
    assert len(list(DESCRIPTORS.iterdir())) <= before
