"""Generation by workers of another host, whose link goes down and comes back."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
import time

import pytest

from tests.machines.test_dialled_worker import PAUSE, SLOW
from tests.support.commands import run_command
from tests.support.machines import ROOT, digests
from tests.support.network import ADDRESSES, hosts

pytestmark = pytest.mark.slow
DOWN = 20.0  # seconds
OPTIONS = (SLOW, "--samples", "1000", "--allow-dirty-repo")


def test_a_link_that_is_down_for_20_seconds_changes_no_byte(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(PAUSE, "0.01")
    python = [sys.executable, "-m", "physgym"]
    with hosts() as two, contextlib.ExitStack() as stack:
        listen = ("--listen", f"{ADDRESSES[0]}:0", "--token-file", "token")
        log = stack.enter_context((tmp_path / "log").open("w+"))

        def begin(host, *words):
            process = subprocess.Popen(two.within(host, [*python, *words]), cwd=tmp_path, stdout=log, stderr=log)
            stack.callback(process.wait, 30)
            stack.callback(process.kill)
            return process

        run = begin(0, "generate", *OPTIONS, "--out", "there", *listen)
        deadline = time.monotonic() + 60
        while (found := re.search(r"^  physgym (worker .*)$", (tmp_path / "log").read_text(), re.M)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        worker = begin(1, *shlex.split(found[1]), "--workers", "2")
        while not [*tmp_path.glob("there/*.h5")]:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        time.sleep(1.0)
        assert run.poll() is None
        two.link("down")
        time.sleep(DOWN)
        assert run.poll() is None, "it has ended before the link was up again"
        two.link("up")
        assert run.wait(120) == 0, (tmp_path / "log").read_text()
        assert worker.wait(60) == 0, (tmp_path / "log").read_text()
    monkeypatch.setenv(PAUSE, "0")
    assert run_command(tmp_path, "generate", *OPTIONS, "--out", "here", "--workers", "0").returncode == 0
    assert digests(tmp_path / "here") == digests(tmp_path / "there")
