from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from physgym.data.dataset import SampleDataset
from physgym.data.partition import Partition
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.formats.archive import archive
from tests.support.datasets import PARAMETERS, SPEC, assert_rows, write

PLUGINS = ("zstd", "blosc", "lz4")
SMALL = 4000  # bytes of a partition: several are needed


def contents(path) -> dict[str, object]:
    """Everything in a file as h5py shows it, attributes included; without what says that it is compressed."""
    found: dict[str, object] = {}
    with h5py.File(path) as file:
        found["/"] = {k: v for k, v in file.attrs.items() if k not in ("archive", "compression")}

        def visit(name, item):
            value = (item[()].tobytes(), item.shape, item.dtype) if isinstance(item, h5py.Dataset) else None
            found[name] = (value, dict(item.attrs))

        file.visititems(visit)
    return found


@pytest.mark.parametrize("compression", [*(pytest.param(name, marks=pytest.mark.slow) for name in PLUGINS), "gzip"])
def test_a_copy_has_everything_and_comes_back_the_same(tmp_path, compression):
    if compression in PLUGINS:
        pytest.importorskip("hdf5plugin")
    original = write(tmp_path / "d", 57, max_file_size=SMALL, parameters=PARAMETERS, rejected=True)
    write(tmp_path / "d", 8, mode="validation")
    archive(tmp_path / "d", tmp_path / "small", compression=compression)
    files = sorted(file.name for file in (tmp_path / "d").glob("*.h5"))
    assert len(files) > 4
    assert sorted(file.name for file in (tmp_path / "small").glob("*")) == ["dataset.json", *files]

    packed = SampleDataset(tmp_path / "small")
    assert not packed.random_access
    assert_rows(packed, 0, 57)
    assert_rows(SampleDataset(tmp_path / "small", mode="validation"), 0, 8)
    np.testing.assert_array_equal(packed.parameters["stiffness"], original.parameters["stiffness"])
    assert packed.rejected.reasons == ["diverged", "too stiff"]
    assert packed.source == original.source
    packed.verify()
    with h5py.File(tmp_path / "small" / files[0]) as file:
        assert file.attrs["archive"]
        assert file["data/forces"].chunks == (len(file["data/forces"]), 4, 3)
        assert len(file["data/forces"].id.get_create_plist().get_filter(0)) == 4

    archive(tmp_path / "small", tmp_path / "back", compression="none")
    assert SampleDataset(tmp_path / "back").random_access
    for name in files:
        assert contents(tmp_path / "small" / name) == contents(tmp_path / "d" / name)
        assert contents(tmp_path / "back" / name) == contents(tmp_path / "d" / name)
    assert (tmp_path / "back" / "dataset.json").read_text() == (tmp_path / "d" / "dataset.json").read_text()


def test_compressible_data_become_smaller(tmp_path):
    write(tmp_path / "d", 5000)
    archive(tmp_path / "d", tmp_path / "small", compression="gzip")
    sizes = [(tmp_path / name / "training-00000.h5").stat().st_size for name in ("d", "small")]
    assert sizes[1] < sizes[0] / 2


def test_chunks_are_whole_rows_of_about_a_megabyte(tmp_path):
    dataset = write(tmp_path / "d", 60_000)
    archive(tmp_path / "d", tmp_path / "small", compression="gzip", level=1)
    with h5py.File(tmp_path / "small" / "training-00000.h5") as file:
        assert file["data/forces"].chunks == ((1 << 20) // 48, 4, 3)
    packed = SampleDataset(tmp_path / "small")
    for start, stop in ((0, 10), (21_840, 21_850), (59_000, 60_000)):
        for name, column in packed.read(start, stop).items():
            np.testing.assert_array_equal(column, dataset[start:stop][name])
    archive(tmp_path / "small", tmp_path / "back", compression="none")
    with h5py.File(tmp_path / "back" / "training-00000.h5") as file:
        assert file["data/forces"].id.get_offset() % 65536 == 0
    assert SampleDataset(tmp_path / "back").arrays["forces"].shape == (60_000, 4, 3)


def test_an_open_partition_is_copied_as_far_as_it_is_committed(tmp_path):
    write(tmp_path / "d", 12, close=False)
    assert not Partition(tmp_path / "d" / "training-00000.h5").sealed
    archive(tmp_path / "d", tmp_path / "small", compression="gzip")
    packed = SampleDataset(tmp_path / "small")
    assert_rows(packed, 0, 12)
    packed.verify()
    with SampleWriter(tmp_path / "d", SPEC, source=packed.source, resume=True):
        pass  # seals it
    assert contents(tmp_path / "small" / "training-00000.h5") == contents(tmp_path / "d" / "training-00000.h5")


def test_a_copy_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    write(tmp_path / "d", 57, max_file_size=SMALL // 2)
    renames, replace = [], Path.replace

    def rename(temporary, final):
        renames.append(final.name)
        if len(renames) == 3:
            raise OSError(28, "No space left on device")
        return replace(temporary, final)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", rename)
        with pytest.raises(DatasetError, match=r"No space left on device.*resume=True"):
            archive(tmp_path / "d", tmp_path / "small", compression="gzip")
    assert sorted(file.name for file in (tmp_path / "small").glob("*")) == renames[:2]
    (tmp_path / "small" / "training-00002.tmp").write_bytes(b"a copy that was killed")
    before = [(tmp_path / "small" / name).stat().st_ino for name in renames[:2]]
    with pytest.raises(DatasetError, match="holds partitions already"):
        archive(tmp_path / "d", tmp_path / "small", compression="gzip")
    archive(tmp_path / "d", tmp_path / "small", compression="gzip", resume=True)
    assert [(tmp_path / "small" / name).stat().st_ino for name in renames[:2]] == before
    assert_rows(SampleDataset(tmp_path / "small"), 0, 57)
    with pytest.raises(DatasetError, match="is no such copy"):
        archive(tmp_path / "d", tmp_path / "small", compression="none", resume=True)


def test_a_damaged_partition_is_not_copied(tmp_path):
    write(tmp_path / "d", 20)
    file = tmp_path / "d" / "training-00000.h5"
    with h5py.File(file, "r+") as damaged:
        damaged["data/forces"][3] = 0
    with pytest.raises(DatasetError, match=r"training-00000.h5 is damaged"):
        archive(tmp_path / "d", tmp_path / "small", compression="gzip")
    assert not list((tmp_path / "small").glob("*"))


def test_wrong_arguments_are_named(tmp_path, monkeypatch):
    write(tmp_path / "d", 5)
    with pytest.raises(ConfigError, match="compression must be one of"):
        archive(tmp_path / "d", tmp_path / "x", compression="rar")
    for compression, level, text in (
        ("gzip", 10, "the level of gzip lies between 1 and 9, not 10"),
        ("zstd", 0, "the level of zstd lies between 1 and 22, not 0"),
        ("lz4", 3, "lz4 has no level"),
    ):
        with pytest.raises(ConfigError, match=text):
            archive(tmp_path / "d", tmp_path / "x", compression=compression, level=level)
    with pytest.raises(ConfigError, match="cannot be its own copy"):
        archive(tmp_path / "d", tmp_path / "e" / ".." / "d", compression="gzip")
    with pytest.raises(DatasetError, match="there is no dataset at"):
        archive(tmp_path / "none", tmp_path / "x", compression="gzip")
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(ConfigError, match=r"pip install 'physgym\[archive\]'"):
        archive(tmp_path / "d", tmp_path / "x", compression="zstd")
    assert not (tmp_path / "x").exists()


WITHOUT_PLUGINS = """
import sys
sys.modules["hdf5plugin"] = None
from physgym import SampleDataset
dataset = SampleDataset(sys.argv[1])
print(len(dataset))
dataset[:]
"""


def test_a_reader_without_the_filter_is_told_what_to_install(tmp_path):
    pytest.importorskip("hdf5plugin")
    write(tmp_path / "d", 20)
    archive(tmp_path / "d", tmp_path / "small", compression="zstd")
    command = [sys.executable, "-c", WITHOUT_PLUGINS, tmp_path / "small"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "20\n"
    assert "which HDF5 cannot read here: pip install 'physgym[archive]'" in done.stderr


def test_an_archive_alone_is_enough(tmp_path):
    write(tmp_path / "d", 30, max_file_size=SMALL)
    archive(tmp_path / "d", tmp_path / "small", compression="gzip")
    shutil.rmtree(tmp_path / "d")
    (tmp_path / "small" / "dataset.json").unlink()
    archive(tmp_path / "small", tmp_path / "d", compression="none")
    assert_rows(SampleDataset(tmp_path / "d"), 0, 30)
