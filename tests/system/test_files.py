"""File systems that lack something: go on with one warning that names it, or an error."""

import errno
import os
import warnings
from pathlib import Path

import pytest

from physgym import files


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(files, "_said", set())


@pytest.fixture
def no_flushed_folders(monkeypatch):
    fsync = os.fsync

    def refuse(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.fixture
def no_modes(monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)


def test_a_folder_that_cannot_be_flushed_is_said_once(tmp_path, no_flushed_folders):
    with pytest.warns(RuntimeWarning, match=rf"file system of {tmp_path} cannot write folders .*\(Invalid argument\)"):
        files.write_atomically(tmp_path / "a", "text")
    files.write_atomically(tmp_path / "b", "text")  # warnings are errors
    assert (tmp_path / "b").read_text() == "text"


def test_a_folder_that_cannot_be_opened_is_said_as_well(tmp_path, monkeypatch):
    def refuse(path, *args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.warns(RuntimeWarning, match=r"cannot write folders through to the disk \(Permission denied\)"):
        files.flush(tmp_path)


def test_a_disk_that_refuses_a_file_is_an_error(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        files.write_atomically(tmp_path / "a", "text")
    with pytest.raises(OSError, match="Input/output error"):
        files.flush(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_that_cannot_be_flushed_is_said_once(tmp_path, monkeypatch, number):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.warns(RuntimeWarning) as said:
        files.write_atomically(tmp_path / "a", "text")
    texts = [str(warning.message) for warning in said]
    assert len(texts) == 2
    assert f"file system of {tmp_path} cannot write files through to the disk ({os.strerror(number)})" in texts[0]
    assert "cannot write folders" in texts[1]
    files.write_atomically(tmp_path / "b", "text")  # warnings are errors
    with (tmp_path / "b").open() as stream:
        files.flush_open(stream.fileno(), tmp_path / "b")
    assert (tmp_path / "b").read_text() == "text"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EBADF, errno.EACCES])
def test_a_disk_that_does_not_take_a_file_is_never_passed_over(tmp_path, monkeypatch, number):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        files.write_atomically(tmp_path / "a", "text")
    assert not list(tmp_path.iterdir())


def test_permissions_that_cannot_be_changed_are_said_once(tmp_path, no_modes):
    (tmp_path / "a").touch()
    with pytest.warns(
        RuntimeWarning, match=rf"of {tmp_path}/a does not change permissions \(Operation not permitted\)"
    ):
        files.copy_mode(tmp_path / "a", tmp_path / "a")
    files.copy_mode(tmp_path / "a", tmp_path / "a")


def test_each_kind_is_said_of_its_own(tmp_path, no_modes, no_flushed_folders):
    (tmp_path / "a").touch()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            files.copy_mode(tmp_path / "a", tmp_path / "a")
            files.flush(tmp_path)
    assert len(said) == 2


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_made_appears_at_once_and_takes_no_name_of_others(tmp_path, kind):
    def make(made, text):
        if kind == "folder":
            made.mkdir()
        file = made / "a" if kind == "folder" else made
        file.touch()
        file.write_text(text)

    path = tmp_path / "new"
    with files.creating(path) as made:
        make(made, "first")
        assert not path.exists()
    with pytest.raises(OSError, match="new"), files.creating(path) as made:
        make(made, "second")
    with pytest.raises(TypeError), files.creating(tmp_path / "other") as made:
        make(made, None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]
    assert (path / "a" if kind == "folder" else path).read_text() == "first"
    if kind == "folder":
        with files.creating(path, remove=files.delete_folder) as made:
            make(made, "fourth")
        assert (path / "a").read_text() == "fourth"
        assert [entry.name for entry in tmp_path.iterdir()] == ["new"]


def test_a_link_takes_the_place_of_a_file(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    files.link_over(tmp_path / "b", "a")
    assert (tmp_path / "b").read_text() == "a"
    assert (tmp_path / "b").is_symlink()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "b"]
