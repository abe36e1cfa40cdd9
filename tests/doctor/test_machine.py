"""The machine and file systems, as the doctor finds them."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from physgym import files
from physgym.doctor import machine
from physgym.doctor.machine import cores, descriptors, folder, memory, shared, system


def states(findings):
    return {one.subject: one.state for one in findings}


def test_what_systems_get(tmp_path):
    release = tmp_path / "osrelease"
    release.write_text("6.6.87.2-microsoft-standard-WSL2\n")
    assert (wsl := system("linux", release)).state == "note"
    assert wsl.values["wsl"]
    assert "WSLg" in wsl.remedy
    assert system("linux", tmp_path / "none").state == "ok"
    assert system("darwin").state == "note"
    assert "wsl --install" in system("win32").remedy


def test_a_folder_of_a_usual_disk(tmp_path):
    assert states(folder(tmp_path)) == {"folder": "ok", "locks": "ok", "hard links": "ok"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("state", ["unsupported", "held"])  # none, and locks that keep nobody out
def test_a_file_system_without_locks(tmp_path, monkeypatch, state):
    monkeypatch.setattr(files, "lock", lambda *_, **__: state)
    found = {one.subject: one for one in folder(tmp_path)}["locks"]
    assert (found.state, found.values) == ("problem", {"second": state})
    assert "nolock" in found.remedy


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(files, "add_name", refuse)
    assert states(folder(tmp_path)) == {"folder": "ok", "locks": "ok", "hard links": "note"}


def test_a_folder_that_is_not_there(tmp_path):
    (found,) = folder(tmp_path / "none")
    assert found.state == "problem"
    assert "--folder" in found.remedy


def test_little_room(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "LITTLE", 1 << 60)
    assert states(folder(tmp_path))["folder"] == "note"
    assert memory().state == shared().state == "note"


def test_shared_memory_that_the_system_does_not_give(monkeypatch):
    def refuse():
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(machine.shared_memory, "make_file", refuse)
    assert shared().state == "problem"
    assert "shared_memory=False" in shared().remedy


def test_few_open_files(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert descriptors().remedy.endswith("ulimit -n 4096")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert descriptors().state == "ok"


def test_variables_that_keep_to_some_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    found = cores()
    assert found.text.startswith("1 of 8")
    assert found.values["variables"]["OMP_NUM_THREADS"] == "3"
