"""Where sockets lie: in a folder that one user may enter, with short paths, and found by a session's path."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from physgym.errors import ConfigError
from physgym.viewing import places
from physgym.viewing.places import entries, find, new_entry, own_folder, write_entry


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(places, "SHORT", tmp_path / "short")
    (tmp_path / "short").mkdir()


def test_the_folder_is_for_this_user_alone():
    folder = own_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert own_folder() == folder
    folder.chmod(0o750)
    for refused in (own_folder, lambda: list(entries()), lambda: find(folder)):
        with pytest.raises(ConfigError, match="chmod 700"):
            refused()


def test_a_link_or_a_file_in_its_place_is_refused(tmp_path):
    wanted = places.folders()[0]
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    wanted.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="no folder that this user alone may enter"):
        own_folder()
    wanted.unlink()
    wanted.write_text("")
    with pytest.raises(ConfigError, match="no folder that this user alone may enter"):
        own_folder()


def test_paths_of_sockets_are_short_whatever_the_paths_of_sessions_and_temporary_files(tmp_path, monkeypatch):
    deep = tmp_path / ("long" * 30)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    monkeypatch.setattr(places, "SHORT", Path("/tmp"))
    entry = new_entry("t", [deep / "session"])
    assert len(os.fsencode(entry.socket)) < 108
    write_entry(entry)
    try:
        assert find(deep / "session") == entry
    finally:
        entry.remove()


def test_what_runs_is_found_by_its_folders_and_the_one_above(tmp_path):
    data = tmp_path / "session" / "dataset"
    data.mkdir(parents=True)
    entry = new_entry("beam", [data])
    write_entry(entry)
    (tmp_path / "link").symlink_to(tmp_path / "session")
    for path in (data, tmp_path / "session", tmp_path / "link", os.path.relpath(data)):
        assert find(path) == entry
    with pytest.raises(ConfigError, match="nothing that can be watched runs in"):
        find(tmp_path)
    entry.remove()
    with pytest.raises(ConfigError, match="nothing that can be watched runs in"):
        find(data)
    with pytest.raises(ConfigError, match="there is no "):
        find(tmp_path / "unknown")


def test_of_several_the_last_one_is_found(tmp_path):
    first, second = new_entry("first", [tmp_path]), new_entry("second", [tmp_path])
    write_entry(second)
    write_entry(first)
    os.utime(first.file, ns=(0, 0))
    assert find(tmp_path) == second


def test_what_was_killed_or_is_no_entry_is_passed_over(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(20)
    killed = replace(new_entry("t", [tmp_path]), pid=child.pid)
    write_entry(killed)
    Path(killed.socket).touch()
    for text in ("", "{}", json.dumps([1]), '{"title": 1, "other": 2}'):
        (own_folder() / f"{len(text)}.json").write_text(text)
    assert list(entries()) == []
    assert not killed.file.exists()
    assert not Path(killed.socket).exists()


def test_entries_with_wrong_values_are_passed_over_and_remove_nothing(tmp_path):
    mine = new_entry("mine", [tmp_path])
    write_entry(mine)
    kept = tmp_path / "kept.sock"
    kept.touch()
    right = {"title": "t", "places": [str(tmp_path)], "pid": os.getpid(), "token": "00", "socket": mine.socket}
    wrong = [{"pid": "x"}, {"pid": 0}, {"pid": 1 << 70}, {"places": 5}, {"places": [5]}, {"token": "xy"}, {"token": 1}]
    for number, change in enumerate([*wrong, {"socket": 9}, {"socket": ""}, {"socket": str(kept), "pid": 1 << 30}]):
        name = own_folder() / f"{number}.json"
        name.write_text(json.dumps(right | {"socket": str(name.with_suffix(".sock"))} | change))
    assert find(tmp_path) == mine
    assert kept.exists()


def test_what_ends_while_it_is_looked_for_is_no_fault(tmp_path, monkeypatch):
    gone = new_entry("gone", [tmp_path])
    monkeypatch.setattr(places, "entries", lambda: iter([gone]))
    assert find(tmp_path) == gone  # its socket says the rest


def test_an_error_says_where_a_run_was_looked_for(tmp_path):
    with pytest.raises(ConfigError, match=f"Looked for in {tmp_path}/physgym-.* and .*TMPDIR"):
        find(tmp_path)
