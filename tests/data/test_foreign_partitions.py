"""Only what a writer of ours can have made is read as a partition."""

from __future__ import annotations

import os
import random
import re
import socket

import h5py
import numpy as np
import pytest

from physgym.data import capacity
from physgym.data import writer as writer_module
from physgym.data.dataset import SampleDataset
from physgym.data.layout import PartitionLayout
from physgym.data.partition import Partition
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.formats.archive import archive
from physgym.sample import Field, SampleSpec
from tests.support.datasets import PARAMETERS, SOURCE, SPEC, assert_rows, rows, where, write
from tests.support.older import PARTITION

SECRET = b"root:x:0:0:of the reader alone" * 100


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "d", 20)
    (tmp_path / "secret").write_bytes(SECRET)
    return tmp_path / "d"


def external(file, at):
    del file["data/energy"]
    file.create_dataset("data/energy", (20,), "f8", external=[(str(at / "secret"), 0, h5py.h5f.UNLIMITED)])


def external_link(file, at):
    with h5py.File(at / "other.h5", "w") as other:
        other["energy"] = np.zeros(20)
    del file["data/energy"]
    file["data/energy"] = h5py.ExternalLink(str(at / "other.h5"), "energy")


def external_group(file, at):
    with h5py.File(at / "other.h5", "w") as other:
        file.copy("data", other)
    del file["data"]
    file["data"] = h5py.ExternalLink(str(at / "other.h5"), "data")


def soft_link(file, at):
    file["elsewhere"] = file["data/energy"][:]
    del file["data/energy"]
    file["data/energy"] = h5py.SoftLink("/elsewhere")


def virtual(file, at):
    with h5py.File(at / "other.h5", "w") as other:
        other["energy"] = np.zeros(20)
    layout = h5py.VirtualLayout((20,), "f8")
    layout[:] = h5py.VirtualSource(str(at / "other.h5"), "energy", (20,))
    del file["data/energy"]
    file.create_virtual_dataset("data/energy", layout)


def foreign_filter(file, at):
    del file["data/energy"]
    file.create_dataset("data/energy", data=np.zeros(20), chunks=(5,), fletcher32=True)


def compact_counter(file, at):
    count = file["num_samples"][:]
    del file["num_samples"]
    file["num_samples"] = h5py.SoftLink("/index/seed")
    assert count[0] == 20


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize(
    "change", [external, external_link, external_group, soft_link, virtual, foreign_filter, compact_counter]
)
def test_values_from_elsewhere_are_not_read(folder, change, archived):
    if archived:
        archive(folder, folder.with_name("small"), compression="gzip")
        folder = folder.with_name("small")
    before = SampleDataset(folder)
    with h5py.File(folder / "training-00000.h5", "r+") as file:
        change(file, folder.parent)
        file.attrs["archive"] = True  # which a forger says as well
    with pytest.raises(DatasetError, match=r"which no partition has|which no archive has"):
        SampleDataset(folder)
    with pytest.raises(DatasetError):
        before.verify()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device"])
@pytest.mark.parametrize("name", ["training-00000.h5", "dataset.json", "constants.npz"])
def test_what_is_no_regular_file_is_not_waited_for(folder, kind, name, caplog):
    file = folder / name
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.fspath(file))
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("/dev/zero")
    if name == "dataset.json":  # the samples are readable without it
        assert_rows(SampleDataset(folder), 0, 20)
        assert "is no description of a dataset" in caplog.text
        return
    with pytest.raises(DatasetError, match=r"is not a readable partition|is no readable file of constants"):
        SampleDataset(folder).constants  # noqa: B018


def test_partitions_of_older_versions_are_read_and_continued(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "training-00000.h5").write_bytes(PARTITION)
    old = SampleDataset(tmp_path / "d")
    np.testing.assert_array_equal(old[:]["x"], [[i, -i] for i in range(7)])
    assert old.source == {"env": "toy", "seed": 3}
    assert old.attributes["git_commit"] == "f" * 40
    old.verify()
    with SampleWriter(tmp_path / "d", old.spec, source=old.source, resume=True) as writer:
        more = {"x": np.ones((1, 2), "f4"), "y": np.ones(1)}
        writer.append(more, episode=np.array([9]), step=np.array([0]), seed=np.zeros(1, "u8"))
    new = SampleDataset(tmp_path / "d")
    assert len(new) == 8
    assert new.attributes == old.attributes
    assert b"GCOL" not in (tmp_path / "d" / "training-00000.h5").read_bytes()


@pytest.mark.timeout(60)
def test_a_damaged_heap_of_texts_does_not_loop(tmp_path):
    """HDF5 itself waits for ever on a free object of size zero, which some of these are."""
    heap, choose, refused = PARTITION.index(b"GCOL"), random.Random(0), 0
    for _ in range(150):
        data = bytearray(PARTITION)
        for _ in range(choose.randint(1, 4)):
            data[heap + choose.randint(0, 4095)] = choose.choice([0, 255, choose.randint(0, 255)])
        (tmp_path / "training-00000.h5").write_bytes(data)
        try:
            Partition(tmp_path / "training-00000.h5")
        except DatasetError:
            refused += 1
    assert refused
    data = bytearray(PARTITION)  # the first object is free, and has no size
    data[heap + 16 : heap + 32] = bytes(16)
    (tmp_path / "training-00000.h5").write_bytes(data)
    with pytest.raises(DatasetError, match="heap of texts is damaged"):
        Partition(tmp_path / "training-00000.h5")


def test_new_partitions_have_no_data_of_variable_length(folder):
    assert b"GCOL" not in (folder / "training-00000.h5").read_bytes()
    with h5py.File(folder / "training-00000.h5") as file:
        assert file["data/forces"].attrs["unit"].decode() == "N"


def test_long_texts_survive(tmp_path):
    source = {"arguments": ["é" * 70_000]}
    with SampleWriter(tmp_path / "d", SPEC, source=source) as writer:
        writer.append(rows(0, 5), **where(0, 5))
    with SampleWriter(tmp_path / "d", SPEC, source=source, resume=True) as writer:
        writer.append(rows(5, 8), **where(5, 8))
    archive(tmp_path / "d", tmp_path / "small", compression="gzip")
    for name in ("d", "small"):
        assert SampleDataset(tmp_path / name).source == source
        assert_rows(SampleDataset(tmp_path / name), 0, 8)


@pytest.mark.slow
@pytest.mark.parametrize("most", [70_000, 300_000, 1 << 20])
def test_no_file_is_larger_than_was_said_and_few_are_much_smaller(tmp_path, most):
    count = most // 60
    with SampleWriter(tmp_path / "d", SPEC, max_file_size=most, rejected=True) as writer:
        for start in range(0, count, 1000):
            stop = min(count, start + 1000)
            writer.append(rows(start, stop), **where(start, stop))
            assert all(file.stat().st_size <= most for file in (tmp_path / "d").glob("*.h5"))
    sizes = [file.stat().st_size for file in (tmp_path / "d").glob("*.h5")]
    assert 1 < len(sizes) < 100
    assert all(size <= most for size in sizes)


def test_a_size_that_no_sample_fits_in_is_refused_with_the_smallest_that_does(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "capacity", capacity.capacity)  # as it is outside of tests
    with pytest.raises(ConfigError, match=r"max_file_size=65 is too small.*Set max_file_size to \d+ or more") as found:
        SampleWriter(tmp_path / "d", SPEC, source=SOURCE, max_file_size=65)
    assert not (tmp_path / "d").exists()
    least = int(re.search(r"to (\d+) or more", str(found.value)).group(1))
    with pytest.raises(ConfigError, match=f"max_file_size to {least}"):
        SampleWriter(tmp_path / "d", SPEC, source=SOURCE, max_file_size=least - 1)
    with SampleWriter(tmp_path / "d", SPEC, source=SOURCE, max_file_size=least) as writer:
        writer.append(rows(0, 2), **where(0, 2))
    assert [part.count for part in SampleDataset(tmp_path / "d").partitions] == [1, 1]
    assert all(file.stat().st_size <= least for file in (tmp_path / "d").glob("*.h5"))


@pytest.mark.parametrize(
    "spec",
    [
        SampleSpec([Field("x", (), np.dtype("f4"), "input")]),
        SampleSpec([Field(f"{'long ' * 50}/{i}/{'deep/' * 8}x", (3,), np.dtype("f8"), "input") for i in range(40)]),
        SampleSpec([Field("x", (50_000,), np.dtype("f8"), "input")]),
    ],
    ids=["small", "many", "wide"],
)
def test_the_size_of_large_files_is_calculated_and_nearly_what_was_said(spec, monkeypatch):
    layout, attributes = PartitionLayout(spec, PARAMETERS, True, True), {"source": "é" * 70_000}
    most = 1 << 30
    size = capacity.file_size
    monkeypatch.setattr(capacity, "file_size", None)  # it takes long
    count = capacity.capacity(layout, most, attributes)
    assert 0.95 * most < size(layout, count, attributes) <= most
