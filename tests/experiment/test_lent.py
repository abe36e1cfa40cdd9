"""Searches by several jobs: one drives, the others lend it processes; whoever ends, the search goes on."""

from __future__ import annotations

import csv
import json
import os
import signal
import time

import pytest
import yaml

from physgym.experiment.record import read_record
from physgym.experiment.search import lent as lending
from physgym.experiment.search.lent import FOLDER, LEFT, OVER, LentProcesses, Lines, SignOfLife, lend
from physgym.interrupt import InterruptCounter
from tests.support.commands import ROOT, Command
from tests.support.repositories import identity, ignoring

__all__ = ["identity"]  # a fixture


class Nobody:
    """A pool of no process."""

    def __init__(self):
        self.closed = False

    def poll(self, timeout):
        return []

    def close(self):
        self.closed = True


def test_lines_come_once_and_whole(tmp_path):
    lines = Lines(tmp_path / "said")
    assert lines.new() == []
    with (tmp_path / "said").open("w") as file:
        file.write('{"a": 1}\n{"b"')
        file.flush()
        assert lines.new() == [{"a": 1}]
        file.write(": 2}\n")
        file.flush()
        assert lines.new() == [{"b": 2}]
    assert lines.new() == []


def test_a_sign_of_life_is_missed_after_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(lending, "GONE", 0.1)
    (tmp_path / "alive").write_text("1")
    sign = SignOfLife(tmp_path / "alive")
    assert sign.read() == "1"
    time.sleep(0.15)
    (tmp_path / "alive").write_text("2")
    assert sign.read() == "2"
    time.sleep(0.15)
    assert sign.read() is None


def test_a_lender_that_is_not_heard_of_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(lending, "GONE", 0.1)
    pool = LentProcesses(Nobody(), tmp_path)
    folder = tmp_path / FOLDER / "one"
    folder.mkdir()
    (folder / "alive").write_text("1")
    (folder / "said").write_text('{"kind": "ready"}\n')
    [(number, message)] = pool.poll(0)
    assert message == {"kind": "ready"}
    pool.send(number, {"config": 1})
    assert json.loads((folder / "asked").read_text()) == {"send": {"config": 1}}
    time.sleep(0.15)
    [(gone, message)] = pool.poll(0)
    assert (gone, message["kind"], message["lent"]) == (number, "dead", True)
    assert not folder.exists()
    pool.send(number, {"config": 2})  # of which it hears no more
    pool.end_search()
    pool.close()
    assert (tmp_path / FOLDER / "driver").read_text() == OVER


def test_where_a_driver_ends_early_another_one_is_wanted(tmp_path, monkeypatch):
    pool = LentProcesses(Nobody(), tmp_path)
    pool.close()
    with InterruptCounter() as interrupts:
        assert lend(tmp_path, [{}], interrupts) == LEFT
        monkeypatch.setattr(lending, "GONE", 0.0)
        (tmp_path / FOLDER / "driver").unlink()
        assert lend(tmp_path, [{}], interrupts) == LEFT


# --- whole searches

CONFIG = {
    "session": "s",
    "environment": {"id": "physgym/Spring-v0"},
    "dataset": {"samples": 320, "max_steps": 20, "num_workers": 0},
    "network": {"arguments": {"hidden": [8]}},
    "training": {"epochs": 4, "batch_size": 8},
    "search": {"parameters": {"optimization.lr": {"low": 1e-4, "high": 1e-1, "log": True}}, "trials": 6},
}


class Jobs:
    """Several commands that join the same search."""

    def __init__(self, folder):
        self.folder, self._commands = folder, []

    def begin(self):
        files = [self.folder / f"{len(self._commands)}.{stream}" for stream in ("out", "err")]
        words = ("search", "c.yaml", "--join", "--no-report")
        command = Command(self.folder, *words, files=files, env={**os.environ, "OMP_NUM_THREADS": "1"})
        self._commands.append(command)
        return command

    def said(self):
        return "\n".join(file.read_text() for file in sorted(self.folder.glob("*.err")))

    def until(self, there):
        deadline = time.monotonic() + 100
        while not there():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def end(self):
        for command in self._commands:
            command.kill()

    def let_go(self):
        """Let trainings go on behind their first steps."""
        (self.folder / "gate" / "go").touch()


@pytest.fixture
def jobs(tmp_path, identity, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ignoring(tmp_path)
    gate = tmp_path / "gate"
    gate.mkdir()
    (gate / "armed").touch()
    held = {"type": "tests.cli.test_ctrl_c:Gate", "arguments": {"folder": str(gate)}}
    training = {**CONFIG["training"], "callbacks": [held]}  # no trial ends before the test wants it to
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "training": training}))
    made = Jobs(tmp_path)
    yield made
    made.end()


def rows_of(folder):
    if not (folder / "s" / "results.csv").exists():
        return []
    with (folder / "s" / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_search_of_two_jobs_of_which_the_driver_ends(jobs):
    """Told to end in the middle: the other one drives the rest."""
    folder = jobs.folder
    first = jobs.begin()
    jobs.until(lambda: (folder / "s" / FOLDER / "driver").exists())
    second = jobs.begin()
    jobs.until(lambda: len([*(folder / "s" / FOLDER).glob("*/said")]) == 1)
    jobs.until(lambda: any("send" in file.read_text() for file in (folder / "s" / FOLDER).glob("*/asked")))
    os.kill(first.pid, signal.SIGUSR2)
    jobs.let_go()
    assert first.wait(100) == 128 + signal.SIGUSR2, jobs.said()
    assert second.wait(100) == 0, jobs.said()
    rows = rows_of(folder)
    assert [row["state"] for row in rows] == ["complete"] * 6, rows
    assert [run["outcome"] for run in read_record(folder / "s")["runs"]] == ["interrupted", "completed"]
    assert jobs.begin().wait(100) == 0, jobs.said()  # one that comes late has nothing to do
    assert len(rows_of(folder)) == 6
    assert [path.name for path in folder.glob("s*")] == ["s"]


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_lender_that_ends_has_its_trial_saved_and_begun_elsewhere(jobs):
    folder = jobs.folder
    first = jobs.begin()
    jobs.until(lambda: (folder / "s" / FOLDER / "driver").exists())
    second = jobs.begin()
    jobs.until(lambda: any("send" in file.read_text() for file in (folder / "s" / FOLDER).glob("*/asked")))
    os.kill(second.pid, signal.SIGUSR2)
    jobs.let_go()
    assert second.wait(100) == 128 + signal.SIGUSR2, jobs.said()
    assert first.wait(100) == 0, jobs.said()
    assert [row["state"] for row in rows_of(folder)] == ["complete"] * 6, jobs.said()
