"""The commands of both machines, as a user types them."""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import subprocess
import sys
import time

import pytest

from tests.machines.test_dialled_worker import PAUSE, SLOW, held
from tests.support.commands import run_command
from tests.support.machines import ROOT, digests
from tests.support.tls import of_days
from tests.support.watching import until

__all__ = ["held"]  # a fixture

pytestmark = pytest.mark.slow
GENERATE = ("generate", "physgym/Spring-v0", "--out", "d")


@contextlib.contextmanager
def begun(folder, *words):
    """A command that runs within the block; give it and what it writes to standard error."""
    file = folder / f"{len(list(folder.iterdir()))}.log"
    with file.open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "physgym", *words], cwd=folder, stdout=log, stderr=log)
        try:
            yield process, file
        finally:
            process.kill()
            process.wait(60)


def command_in(file):
    deadline = time.monotonic() + 60
    while (found := re.search(r"^  (physgym worker .*)$", file.read_text(), re.M)) is None:
        assert time.monotonic() < deadline, file.read_text()
        time.sleep(0.05)
    return shlex.split(found[1])[1:]


def test_a_run_and_its_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    options = ("--samples", "300", "--parameters", "sobol")
    assert run_command(tmp_path, "generate", "physgym/Spring-v0", "--out", "here", *options).returncode == 0
    listen = ("--listen", "127.0.0.1:0", "--token-file", "token")
    with begun(tmp_path, "generate", "physgym/Spring-v0", "--out", "there", *options, *listen) as (run, log):
        worker = run_command(tmp_path, *command_in(log), "--workers", "2", "--envs", "2")
        assert worker.returncode == 0, worker.stderr
        assert run.wait(60) == 0, log.read_text()
    assert digests(tmp_path / "here") == digests(tmp_path / "there")


def test_a_training_takes_its_samples_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "spring.yaml").write_text(
        "environment: {id: physgym/Spring-v0}\ndataset: {samples: 200}\ntraining: {epochs: 1}\nsession: s\n"
    )
    listen = ("--listen", "127.0.0.1:0", "--token-file", "token", "--plain", "--no-report")
    with begun(tmp_path, "train", "spring.yaml", "--no-logging", "--allow-dirty-repo", *listen) as (run, log):
        worker = run_command(tmp_path, *command_in(log), "--workers", "1")
        assert worker.returncode == 0, worker.stderr
        assert run.wait(100) == 0, log.read_text()


def test_an_agent_acts_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "pole.yaml").write_text(
        "environment: {id: CartPole-v1}\nsession: s\n"
        "agent: {type: dqn, steps: 200, num_envs: 2, learning_starts: 50, report_every: 100}\n"
    )
    listen = ("--listen", "127.0.0.1:0", "--token-file", "token", "--no-report")
    with begun(tmp_path, "train", "pole.yaml", "--allow-dirty-repo", "--y", *listen) as (run, log):
        worker = run_command(tmp_path, *command_in(log), "--workers", "2")
        assert worker.returncode == 0, worker.stderr
        assert run.wait(100) == 0, log.read_text()
        assert "epoch 2  step 200" in log.read_text()


def test_a_parent_that_is_killed_leaves_workers_that_end_or_wait_by_choice(tmp_path, monkeypatch, held):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(PAUSE, "0.002")
    generate = ("generate", SLOW)
    options = ("--samples", "400", "--allow-dirty-repo")
    listen = ("--listen", "127.0.0.1:0", "--token-file", "token", "--plain")
    with begun(tmp_path, *generate, "--out", "there", *options, *listen) as (run, log):
        command = [*command_in(log), "--workers", "1"]
        with (
            begun(tmp_path, *command, "--stay") as (staying, _),
            begun(tmp_path, *command, "--patience", "3") as (leaving, said),
        ):
            until(lambda: len([*held.iterdir()]) == 2)  # each has episodes that it does not end
            until(lambda: [*tmp_path.glob("there/*.h5")])
            run.kill()
            assert run.wait(30) < 0, "it was over before"
            (held / "go").touch()
            assert leaving.wait(30) == 2
            assert "no parent answers at 127.0.0.1" in said.read_text()
            again = ("--resume", "--listen", command[1], *listen[2:])
            found = run_command(tmp_path, *generate, "--out", "there", *options, *again)
            assert found.returncode == 0, found.stderr
            assert staying.poll() is None
    assert run_command(tmp_path, *generate, "--out", "here", *options, "--workers", "0").returncode == 0
    assert digests(tmp_path / "here") == digests(tmp_path / "there")


def test_what_cannot_work_is_one_error_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    of_days(tmp_path, -3, -1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for listen, said in (
            (("--listen", f"127.0.0.1:{port}"), f"cannot listen on 127.0.0.1:{port}: Address already in use"),
            (("--listen", "127.0.0.1:0", "--certificate", "chain", "--key", "key"), "certificate has expired"),
            (("--listen", "127.0.0.1:0", "--timeout", "0.5"), "no worker has connected within 0.5 s. Start one:"),
        ):
            found = run_command(tmp_path, *GENERATE, *listen, "--token-file", "token")
            assert found.returncode == 2, found.stderr
            assert said in found.stderr
            assert "Traceback" not in found.stderr
            assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("worker", "nowhere", "--token-file", "token"), "write HOST:PORT"),
        (("worker", "127.0.0.1:1", "--token-file", "none"), "cannot be read"),
        (("worker", "127.0.0.1:1", "--token-file", "token", "--env", "none/None-v0"), "no environment"),
        (("worker", "127.0.0.1:1", "--token-file", "token", "--plain", "--fingerprint", "00"), "leave one of both out"),
        (("worker", "127.0.0.1:1", "--token-file", "token", "--patience", "0.1"), "no parent answers"),
        ((*GENERATE, "--plain"), "goes with --listen"),
        ((*GENERATE, "--listen", "127.0.0.1:0"), "needs --token-file"),
        ((*GENERATE, "--listen", "0.0.0.0:0", "--plain", "--token-file", "token"), "no loopback address"),
        ((*GENERATE, "--listen", "127.0.0.1:0", "--token-file", "token", "--certificate", "c"), "go together"),
    ],
)
def test_wrong_words_are_one_error(tmp_path, words, said):
    (tmp_path / "token").write_text("00" * 32)
    (tmp_path / "token").chmod(0o600)
    found = run_command(tmp_path, *words)
    assert found.returncode == 2
    assert said in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "d").exists()
