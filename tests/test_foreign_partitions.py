"""Only what a writer of ours can have made is read as a partition."""

from __future__ import annotations

import os
import random
import socket

import h5py
import numpy as np
import pytest

from physgym.data.archive import archive
from physgym.data.dataset import SampleDataset
from physgym.data.partition import Partition
from physgym.data.writer import SampleWriter
from physgym.errors import DatasetError
from tests.datasets import SPEC, assert_rows, rows, where, write
from tests.older import PARTITION

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


@pytest.mark.parametrize("most", [70_000, 300_000, 1 << 20])
def test_no_file_is_larger_than_was_said(tmp_path, most):
    with SampleWriter(tmp_path / "d", SPEC, max_file_size=most, rejected=True) as writer:
        for start in range(0, most // 40, 1000):
            writer.append(rows(start, start + 1000), **where(start, start + 1000))
            assert all(file.stat().st_size <= most for file in (tmp_path / "d").glob("*.h5"))
    files = list((tmp_path / "d").glob("*.h5"))
    assert len(files) > 1
    assert all(file.stat().st_size <= most for file in files)
