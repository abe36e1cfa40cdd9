"""What a worker takes over from its parent, and what it does not."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from physgym.errors import ConfigError
from physgym.machines.dialled_worker import started
from physgym.machines.reception import STARTED_WITH
from physgym.worker.main import WorkerStart

START = asdict(WorkerStart("", None, "", 3, 0, 2, "NEXT_STEP", 60.0, [], None, "of the parent"))
SENT = {name: START[name] for name in STARTED_WITH}


def test_the_mark_by_which_processes_are_ended_is_the_worker_s_own():
    assert started(SENT, "own").mark == "own"
    assert started({**SENT, "sys_path": ["/tmp"], "transport": "x:Y"}, "own").sys_path == []


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {**SENT, "further": 1},
        {name: value for name, value in SENT.items() if name != "worker"},
        {**SENT, "autoreset_mode": "x"},
        {**SENT, "autoreset_mode": []},
    ],
)
def test_a_start_that_cannot_be_read_is_one_error(wrong):
    with pytest.raises(ConfigError, match="cannot be read; it has another version"):
        started(wrong, "own")
