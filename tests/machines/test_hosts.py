"""Generation by workers of another host, whose link goes down and comes back."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time

import pytest

from tests.machines.test_dialled_worker import PAUSE, SLOW, held
from tests.support.commands import run_command
from tests.support.machines import ROOT, digests
from tests.support.network import ADDRESSES, hosts
from tests.support.watching import until

__all__ = ["held"]  # a fixture

pytestmark = pytest.mark.slow
DOWN = 20.0  # seconds
KILLED, PAUSED = 2, 3.0  # times, seconds
OPTIONS = (SLOW, "--samples", "600", "--allow-dirty-repo")


@contextlib.contextmanager
def run_over_a_link(folder, monkeypatch):
    """A run on one host; give both hosts, the run, a function that starts workers on the other host, and the log."""
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(PAUSE, "0.01")
    python, file = [sys.executable, "-m", "physgym"], folder / "log"
    with hosts() as two, contextlib.ExitStack() as stack:
        listen = ("--listen", f"{ADDRESSES[0]}:0", "--token-file", "token")
        log = stack.enter_context(file.open("w+"))

        def begin(host, *words):
            process = subprocess.Popen(two.within(host, [*python, *words]), cwd=folder, stdout=log, stderr=log)
            stack.callback(process.wait, 30)
            stack.callback(process.kill)
            return process

        run = begin(0, "generate", *OPTIONS, "--out", "there", *listen)
        deadline = time.monotonic() + 60
        while (found := re.search(r"^  physgym (worker .*)$", file.read_text(), re.M)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield two, run, lambda: begin(1, *shlex.split(found[1]), "--workers", "2"), file.read_text


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("here")
    variables = {**os.environ, PAUSE: "0", "PYTHONPATH": str(ROOT)}
    assert run_command(folder, "generate", *OPTIONS, "--out", "here", "--workers", "0", env=variables).returncode == 0
    return digests(folder / "here")


def test_a_link_that_is_down_for_20_seconds_changes_no_byte(tmp_path, monkeypatch, reference, held):
    with run_over_a_link(tmp_path, monkeypatch) as (two, run, begin, log):
        worker = begin()
        until(lambda: len([*held.iterdir()]) == 2)  # both workers have episodes that they do not end
        two.link("down")
        (held / "go").touch()
        time.sleep(DOWN)
        assert run.poll() is None, "it has ended before the link was up again"
        two.link("up")
        assert run.wait(120) == 0, log()
        assert worker.wait(60) == 0, log()
    assert digests(tmp_path / "there") == reference


def test_a_slow_link_and_a_host_that_is_killed_every_few_seconds_change_no_byte(tmp_path, monkeypatch, reference, held):
    with run_over_a_link(tmp_path, monkeypatch) as (two, run, begin, log):
        two.limit("256kbit")
        begin()
        until(lambda: len([*held.iterdir()]) == 2)
        for _ in range(KILLED):
            two.kill(1)
            (held / "go").touch()
            begin()
            time.sleep(PAUSED)
        assert run.wait(120) == 0, log()
        assert "Others run its episodes again" in log()
    assert digests(tmp_path / "there") == reference
