"""The commands of a service and its clients, as a user types them, and what is left when they are killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from physgym.system.ports import answers
from tests.support.commands import run_command
from tests.support.left_processes import nothing_left  # noqa: F401 - a fixture
from tests.support.simulators import program

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def serving(folder, *words, habits=()):
    """Serve within the block; give the process and what it writes."""
    log = folder / f"{time.monotonic()}.log"
    command = shlex.join(program(*habits))
    given = ["--command", command, "--listen", "127.0.0.1:0", "--token-file", "token", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "physgym", "simulators", "serve", *given],
            cwd=folder,
            stdout=file,
            stderr=file,
            env=environment,
        )
        try:
            deadline = time.monotonic() + 60
            while not re.search(r"^  --arg .*\n", log.read_text(), re.M) or (
                "--status" in words and "status:" not in log.read_text()
            ):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield process, log
        finally:
            process.kill()
            process.wait(30)


def described(log):
    """What an environment is given, as a dictionary."""
    argument = shlex.split(re.search(r"^  --arg (.*)$", log.read_text(), re.M)[1])[0]
    return yaml.safe_load(argument.removeprefix("simulators="))[0]


def options(log):
    found = described(log)
    words = ["--token-file", found["token_file"]]
    return found["address"], [*words, *(["--plain"] if found.get("plain") else ["--fingerprint", found["fingerprint"]])]


def asked(folder, log, action, *words):
    address, more = options(log)
    return run_command(folder, "simulators", action, address, *words, *more)


def test_a_service_and_its_clients(tmp_path, monkeypatch, nothing_left):  # noqa: F811
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with serving(tmp_path, "--max", "1", "--status", "0") as (process, log):
        found = asked(tmp_path, log, "request")
        assert found.returncode == 0, found.stderr
        place, lease = found.stdout.split()
        host, port = place.split(":")
        assert answers(host, int(port), 2)
        assert asked(tmp_path, log, "ping", lease).stdout == "60\n"
        listed = asked(tmp_path, log, "list").stdout
        assert re.search(rf"1 of 1\nnumber .*\n1 +lent +{port} .*{lease}", listed)
        full = asked(tmp_path, log, "request")
        assert full.returncode == 2
        assert "error: the simulator service at" in full.stderr
        assert "--wait SECONDS" in full.stderr
        url = re.search("http://.*", log.read_text())[0]
        with urllib.request.urlopen(f"{url}status.json", timeout=10) as page:
            assert json.load(page)["simulators"][0]["state"] == "lent"
        assert asked(tmp_path, log, "release", lease).returncode == 0
        over = asked(tmp_path, log, "release", lease)
        assert over.returncode == 2
        assert "it was given back" in over.stderr
        assert asked(tmp_path, log, "kill", "1").returncode == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        assert "Traceback" not in log.read_text()
    assert not answers(host, int(port), 1)
    gone = asked(tmp_path, log, "list")
    assert gone.returncode == 2
    assert "no simulator service answers" in gone.stderr
    assert "token" not in (tmp_path / "token").read_text()
    assert (tmp_path / "token").read_text().strip() not in log.read_text()


def test_a_service_that_is_killed_leaves_no_simulator(tmp_path, nothing_left):  # noqa: F811
    with serving(tmp_path, "--plain", habits=("stays", "forks")) as (process, log):
        place = asked(tmp_path, log, "request").stdout.split()[0]
        host, port = place.split(":")
        process.kill()
        process.wait(30)
        deadline = time.monotonic() + 5
        while answers(host, int(port), 1):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_simulator_that_is_held_is_given_back_at_ctrl_c(tmp_path):
    with serving(tmp_path, "--plain", "--lease", "1") as (_, log):
        address, more = options(log)
        holder = subprocess.Popen(
            [sys.executable, "-m", "physgym", "simulators", "request", address, "--hold", *more],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert holder.stdout.readline().startswith("127.0.0.1:")
        time.sleep(1.5)
        assert " lent " in asked(tmp_path, log, "list").stdout
        holder.send_signal(signal.SIGINT)
        assert holder.wait(30) == 130
        holder.stdout.close()
        assert " free " in asked(tmp_path, log, "list").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--listen", "127.0.0.1:0", "--command", "sim"), "needs {port}"),
        (("--listen", "127.0.0.1:0", "--command", "sim '{port}"), "cannot be read"),
        (("--listen", "nowhere", "--command", "sim {port}"), "write HOST:PORT"),
        (("--listen", "0.0.0.0:0", "--command", "sim {port}", "--plain"), "no loopback address"),
        (("--listen", "127.0.0.1:0", "--command", "sim {port}", "--ports", "9"), "FIRST-LAST"),
        (("--listen", "127.0.0.1:0", "--command", "sim {port}", "--plain", "--clients", "c"), "leave one of both out"),
    ],
)
def test_wrong_words_are_one_error(tmp_path, words, said):
    found = run_command(tmp_path, "simulators", "serve", "--token-file", "token", *words)
    assert found.returncode == 2
    assert said in found.stderr
    assert "Traceback" not in found.stderr
