"""The commands of a service and its clients, as a user types them, and what is left when they are killed."""

from __future__ import annotations

import contextlib
import errno
import io
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

from physgym.cli import main, simulators
from physgym.system.ports import answers
from tests.simulators.test_proofs import signed
from tests.support.left_processes import nothing_left  # noqa: F401 - a fixture
from tests.support.simulators import program

TOKEN = "the $token's file"  # what a shell would take apart
ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def serving(folder, *words, habits=()):
    """Serve within the block; give the process and what it writes."""
    log = folder / f"{time.monotonic()}.log"
    command = shlex.join(program(*habits))
    given = ["--command", command, "--listen", "127.0.0.1:0", "--token-file", TOKEN, *words]
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
            process.wait(60)


def described(log):
    """What an environment is given, as a dictionary."""
    argument = shlex.split(re.search(r"^  --arg (.*)$", log.read_text(), re.M)[1])[0]
    return yaml.safe_load(argument.removeprefix("simulators="))[0]


def options(log):
    found = described(log)
    words, said = ["--token-file", found["token_file"]], log.read_text()
    if '"authorities": FILE' in said and '"certificate": FILE, "key": FILE' in said:
        words += ["--authorities", "service/authority", "--certificate", "client/chain", "--key", "client/key"]
        return found["address"].replace("127.0.0.1", "localhost"), words
    return found["address"], [*words, *(["--plain"] if found.get("plain") else ["--fingerprint", found["fingerprint"]])]


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs ``physgym simulators`` in this process; gives its exit status, and what it has printed."""

    def run(folder, *words):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["physgym", "simulators", *words])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture
def asked(command):
    """Asks the service that writes a log."""

    def ask(folder, log, action, *words):
        address, more = options(log)
        return command(folder, action, address, *words, *more)

    return ask


@pytest.mark.slow
def test_a_service_and_its_clients(tmp_path, monkeypatch, asked, nothing_left):  # noqa: F811
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with serving(tmp_path, "--max", "1", "--status", "0") as (process, log):
        status, found, error = asked(tmp_path, log, "request")
        assert status == 0, error
        place, lease = found.split()
        host, port = place.split(":")
        assert answers(host, int(port), 2)
        assert asked(tmp_path, log, "ping", lease) == (0, "60\n", "")
        _, listed, _ = asked(tmp_path, log, "list")
        assert re.search(rf"1 of 1\nnumber .*\n1 +lent +{port} .*{lease}", listed)
        status, _, full = asked(tmp_path, log, "request")
        assert status == 2
        assert "error: the simulator service at" in full
        assert "--wait SECONDS" in full
        url = re.search("http://.*", log.read_text())[0]
        with urllib.request.urlopen(f"{url}status.json", timeout=10) as page:
            assert json.load(page)["simulators"][0]["state"] == "lent"
        assert asked(tmp_path, log, "release", lease)[0] == 0
        status, _, over = asked(tmp_path, log, "release", lease)
        assert status == 2
        assert "it was given back" in over
        assert asked(tmp_path, log, "kill", "1")[0] == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        assert "Traceback" not in log.read_text()
    assert not answers(host, int(port), 1)
    status, _, gone = asked(tmp_path, log, "list")
    assert status == 2
    assert "no simulator service answers" in gone
    assert (tmp_path / TOKEN).read_text().strip() not in log.read_text()


@pytest.mark.slow
def test_what_is_held_is_given_back_at_ctrl_c_and_a_service_that_is_killed_leaves_nothing(
    tmp_path,
    asked,
    nothing_left,  # noqa: F811
):
    signed(tmp_path / "service")
    signed(tmp_path / "client")
    given = ["--certificate", "service/chain", "--key", "service/key", "--clients", "client/authority"]
    with serving(tmp_path, *given, "--lease", "3", habits=("stays", "forks")) as (process, log):
        address, more = options(log)
        holder = subprocess.Popen(
            [sys.executable, "-m", "physgym", "simulators", "request", address, "--hold", *more],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        host, port = holder.stdout.readline().split(":")
        time.sleep(3.2)
        assert " lent " in asked(tmp_path, log, "list")[1]
        holder.send_signal(signal.SIGINT)
        assert holder.wait(30) == 130
        holder.stdout.close()
        assert " free " in asked(tmp_path, log, "list")[1]
        assert answers(host, int(port), 1)
        process.kill()
        process.wait(60)
        deadline = time.monotonic() + 60
        while answers(host, int(port), 1):
            assert time.monotonic() < deadline
            time.sleep(0.05)


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
def test_wrong_words_are_one_error(tmp_path, command, words, said):
    status, _, error = command(tmp_path, "serve", "--token-file", TOKEN, *words)
    assert status == 2
    assert said in error
    assert "Traceback" not in error


def test_a_log_that_takes_no_more_ends_no_service(monkeypatch):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stderr", full := Full())
    simulators._said("simulator 1 is started")
    assert full.getvalue() == "simulator 1 is started\n"
