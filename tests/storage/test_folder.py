"""A folder as a storage: the contract of a back-end, and a dataset that is written there and read."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError, StorageError
from physgym.storage.backend import ChangedObject
from physgym.storage.folder import FolderBackend, FolderLocation
from physgym.storage.location import place
from physgym.testing.storages import StorageConformance
from tests.support.datasets import SOURCE, SPEC, assert_rows, rows, where


class TestFolderBackend(StorageConformance):
    @pytest.fixture
    def backend(self, tmp_path):
        return FolderBackend(FolderLocation(tmp_path / "storage"))


@pytest.mark.parametrize(
    ("text", "path"), [("file:///a/b", "/a/b"), ("file:/a/b/", "/a/b"), ("file://a", "/a"), ("file:////a", None)]
)
def test_addresses(text, path):
    assert place(text) == (Path.cwd() / text if path is None else FolderLocation(Path(path)))
    with pytest.raises(ConfigError, match=r"without '\.\.'"):
        place("file:///a/../b")


def test_one_of_many_writers_at_once_wins(tmp_path):
    backends, won = [FolderBackend(FolderLocation(tmp_path)) for _ in range(8)], []

    def write(number):
        try:
            backends[number].replace("object", b"%d" % number, None)
        except ChangedObject:
            return
        won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(won) == 1
    assert backends[0].read("object")[0] == b"%d" % won[0]


def test_a_dataset_is_written_there_continued_and_read(tmp_path, monkeypatch):
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "cache"))
    address = f"file://{tmp_path}/storage"
    for start in (0, 10):
        with SampleWriter(address, SPEC, source=SOURCE, max_file_size=1000, resume=start > 0) as writer:
            writer.append(rows(start, start + 10), **where(start, start + 10))
    with pytest.raises(DatasetError, match="already holds training samples"):
        SampleWriter(address, SPEC, source=SOURCE)
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "another"))
    assert_rows(SampleDataset(address), 0, 20)
    for file in (tmp_path / "storage").glob("*.h5"):
        file.write_bytes(b"\0" * file.stat().st_size)
    monkeypatch.setenv("PHYSGYM_CACHE", str(tmp_path / "third"))
    with pytest.raises(StorageError, match="checksum is wrong"):
        SampleDataset(address)
