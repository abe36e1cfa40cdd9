"""The processes of one worker command end together, when the run is over."""

from __future__ import annotations

import sys
import time

from physgym.machines.dialled_worker import DONE, DialIn
from physgym.machines.supervisor import GRACE, Supervisor
from physgym.system.children import Child

OVER, DIALS = "print()", "import time; time.sleep(60)"
CLOSES = """
import pathlib, signal, time
signal.signal(signal.SIGUSR1, lambda *_: None)
pathlib.Path("ready").touch()
time.sleep(0.3)
pathlib.Path("closed").touch()
"""


def test_those_that_dial_when_the_run_is_over_end_at_once_and_others_close_their_environments(tmp_path, monkeypatch):
    texts, begun = [CLOSES, DIALS, OVER], []

    def started(_):
        if len(texts) == 1:  # the others are there
            deadline = time.monotonic() + 60
            while not (tmp_path / "ready").exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            begun.append(time.monotonic())
        return Child([sys.executable, "-c", texts.pop(0)], cwd=tmp_path)

    monkeypatch.setattr(Supervisor, "_started", started)
    assert Supervisor(DialIn(("127.0.0.1", 1), ""), 3, stay=False).run() == DONE
    assert (tmp_path / "closed").exists()
    assert time.monotonic() < begun[0] + GRACE
