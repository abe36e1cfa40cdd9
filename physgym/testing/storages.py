"""`StorageConformance`: the contract of a storage back-end, as a test suite to subclass."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from pathlib import Path

import pytest

from physgym.errors import StorageError
from physgym.storage.backend import Backend, ChangedObject, DamagedObject, MissingObject, Stopped
from physgym.storage.cache import Cache, Entry
from physgym.storage.location import Location


class StorageConformance:
    """Test a back-end; a subclass named ``Test...`` says how to make one.

    For example::

        class TestMyStorage(StorageConformance):
            @pytest.fixture
            def backend(self, tmp_path):
                return MyBackend(MyLocation(...))  # of a place that is empty
    """

    @pytest.fixture
    @abstractmethod
    def backend(self) -> Backend:
        """Return a back-end of a place that is empty."""
        raise NotImplementedError

    def again(self, backend: Backend) -> Backend:
        """Return another back-end of the same place, as another process has it."""
        return type(backend)(backend.location)

    def test_an_object_is_what_was_written(self, backend: Backend) -> None:
        """Read what was written, by this and another back-end."""
        assert backend.read("one") is None
        assert backend.size("one") is None
        tag = backend.replace("one", b"first", None)
        assert backend.read("one") == (b"first", tag)
        assert self.again(backend).read("one") == (b"first", tag)
        assert backend.size("one") == 5

    def test_of_two_writers_one_wins(self, backend: Backend) -> None:
        """Refuse to replace what somebody else has replaced; the object stays as it is."""
        other = self.again(backend)
        tag = backend.replace("one", b"first", None)
        with pytest.raises(ChangedObject):
            other.replace("one", b"second", None)
        newer = other.replace("one", b"second", tag)
        assert newer != tag
        with pytest.raises(ChangedObject):
            backend.replace("one", b"third", tag)
        backend.delete(["one"])
        with pytest.raises(ChangedObject):
            other.replace("one", b"third", newer)
        assert backend.read("one") is None

    def test_files_go_there_and_come_back(self, backend: Backend, tmp_path: Path) -> None:
        """Upload files, empty ones too, and download what was uploaded last."""
        for data in (b"", b"some bytes", bytes(range(256)) * 5000):
            (tmp_path / "file").write_bytes(data)
            backend.upload(tmp_path / "file", "object.h5")
            assert backend.size("object.h5") == len(data)
            (tmp_path / "back").write_bytes(b"what was there before")
            (tmp_path / "back").write_bytes(b"\0" * len(data))
            backend.download(_entry("object.h5", data), tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == data

    def test_what_is_missing_or_damaged_is_said(self, backend: Backend, tmp_path: Path) -> None:
        """Raise an error for an object that is not there, or has other bytes than it should."""
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(MissingObject):
            backend.download(_entry("object", b"data"), tmp_path / "file")
        backend.replace("object", b"data", None)
        for other in (b"datA", b"more data"):
            (tmp_path / "file").write_bytes(b"\0" * len(other))
            with pytest.raises(DamagedObject):
                backend.download(_entry("object", other), tmp_path / "file")

    def test_deleting_is_repeatable(self, backend: Backend) -> None:
        """Delete objects, those that are not there too."""
        backend.replace("one", b"1", None)
        backend.replace("two", b"2", None)
        for _ in range(2):
            backend.delete(["one", "three"])
        assert backend.read("one") is None
        assert backend.read("two") is not None

    def test_places_below_are_listed_while_they_hold_objects(self, backend: Backend) -> None:
        """List the places below, and none that is empty again."""
        assert backend.folders() == []
        backend.replace("object", b"here", None)
        below = {name: self._below(backend, name) for name in ("a", "b.c")}
        for place in below.values():
            place.replace("object", b"there", None)
        assert sorted(backend.folders()) == ["a", "b.c"]
        assert backend.read("object") != below["a"].read("object")
        below["a"].delete(["object"])
        assert backend.folders() == ["b.c"]

    def _below(self, backend: Backend, name: str) -> Backend:
        return type(backend)(backend.location / name)

    def test_a_place_has_an_address(self, backend: Backend) -> None:
        """Find the place again by its address, and tell it from others."""
        location = backend.location
        assert Location.parse(str(location)) == location
        assert Location.parse(str(Path(str(location)))) == location
        assert (location / "below").name == "below"
        assert self.again(backend).identity == backend.identity
        assert self._below(backend, "below").identity != backend.identity

    def test_stop_ends_a_transfer(self, backend: Backend, tmp_path: Path) -> None:
        """End a transfer soon once `stop` is set."""
        (tmp_path / "file").write_bytes(b"data")
        backend.stop.set()
        with pytest.raises(Stopped):
            backend.upload(tmp_path / "file", "object")

    def test_a_folder_of_the_cache_is_filled(self, backend: Backend, tmp_path: Path) -> None:
        """Complete a folder of the cache; say whose object is missing."""
        cache = Cache(tmp_path / "cache", 1 << 20)
        pin = cache.pin(cache.views / "view")
        backend.replace("object", b"data", None)
        backend.fill(cache, pin.folder, [_entry("object", b"data")])
        assert (pin.folder / "file").read_bytes() == b"data"
        with pytest.raises(StorageError):
            backend.fill(cache, pin.folder, [_entry("missing", b"other")])
        pin.release()


def _entry(name: str, data: bytes) -> Entry:
    return Entry(
        f"file-{len(data)}" if name == "missing" else "file", hashlib.sha256(data).hexdigest(), len(data), name
    )
