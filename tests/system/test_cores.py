from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from physgym import SocketVectorEnv
from physgym.errors import ConfigError
from physgym.system import cores
from physgym.vector.autotune import count_workers
from tests.support.toys import Line

USABLE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
linux = pytest.mark.skipif(not USABLE, reason="needs sched_setaffinity")


class Placed(Line):
    """Says on which cores it may run."""

    def cores(self):
        return sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "found"), [("0-3,8\n", {0, 1, 2, 3, 8}), ("5", {5}), ("\n", set()), ("1,3-4", {1, 3, 4})]
)
def test_lists_of_cores_are_read(text, found):
    assert cores.cores_of(text) == found


@linux
def test_processes_take_turns_with_cores_and_with_memory_nodes(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2, 5, 9})
    assert [cores.pinned_cores("core", index) for index in range(5)] == [[1], [2], [5], [9], [1]]
    assert cores.pinned_cores(None, 0) is None
    monkeypatch.setattr(cores, "NODES", tmp_path)
    assert cores.pinned_cores("node", 3) == [1, 2, 5, 9]  # where nodes are not known
    for node, near in enumerate(("0-3", "4-7", "8-11", "12-15")):
        folder = tmp_path / f"node{node}"
        folder.mkdir()
        (folder / "cpulist").write_text(f"{near}\n")
    assert [cores.pinned_cores("node", index) for index in range(4)] == [[1, 2], [5], [9], [1, 2]]


@linux
def test_workers_are_pinned_and_the_caller_is_not():
    with SocketVectorEnv([Placed] * 3, num_workers=3, context="fork", pinning="core") as envs:
        assert list(envs.call("cores")) == [[USABLE[index % len(USABLE)]] for index in range(3)]
    assert sorted(os.sched_getaffinity(0)) == USABLE
    with pytest.raises(ConfigError, match="pinning must be one of"):
        SocketVectorEnv([Placed], num_workers=1, pinning="socket")


def test_pinning_without_workers_of_this_machine_is_an_error():
    with pytest.raises(ConfigError, match="num_workers=0 starts none; leave one of them out"):
        SocketVectorEnv([Line], num_workers=0, pinning="core")
    elsewhere = SimpleNamespace(inherits=False)
    with pytest.raises(ConfigError, match="launcher= starts them elsewhere"):
        count_workers(1, [Line], elsewhere, {"pinning": "core"})


def test_pinning_where_the_system_cannot_is_an_error(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(ConfigError, match="pinning= needs a system"):
        SocketVectorEnv([Line], num_workers=1, pinning="core")
