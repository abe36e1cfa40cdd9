"""`physgym tensorboard` and `physgym sync`: curves are shown on this machine, and sent to a server that was away."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from physgym import cli
from physgym.cli import curves
from physgym.errors import ConfigError
from physgym.testing.loggers import BATCHES, LoggedTraining, assert_same, expected
from physgym.training import CSV, TensorBoard
from tests.support.file_tracker import FileLogger, runs_of


def written(logger, batches=BATCHES):
    LoggedTraining(logger).go(batches)
    logger.close()


def run(*arguments):
    return cli.app([*map(str, arguments)], standalone_mode=False)


# --- tensorboard


@pytest.mark.slow
def test_tensorboard_shows_a_session_until_ctrl_c(tmp_path):
    written(TensorBoard(tmp_path / "session" / "stats"))
    command = [sys.executable, "-m", "physgym", "tensorboard", str(tmp_path / "session")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
            with urllib.request.urlopen(f"{address}data/plugin/scalars/tags", timeout=30) as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_a_port_that_is_taken_is_named(tmp_path):
    written(TensorBoard(tmp_path / "stats"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: TensorBoard cannot listen there.*Name another one"):
            run("tensorboard", tmp_path, "--port", port)


def test_sessions_without_curves_for_tensorboard(tmp_path):
    with pytest.raises(ConfigError, match="there is no folder"):
        run("tensorboard", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"has no curves for TensorBoard\. A training writes them"):
        run("tensorboard", tmp_path)
    (tmp_path / "events.out.tfevents.1").touch()  # of a training that was killed at once
    with pytest.raises(ConfigError, match="has no curves for TensorBoard"):
        run("tensorboard", tmp_path)
    written(CSV(tmp_path / "stats"))
    with pytest.raises(ConfigError, match=r"has no curves for TensorBoard; it has tables, .*epochs\.csv"):
        run("tensorboard", tmp_path)


def test_curves_are_looked_for_within_some_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "LOOK", -1.0)
    with pytest.raises(ConfigError, match="name the session itself"):
        run("tensorboard", tmp_path)


# --- sync


def test_curves_are_sent_when_the_server_is_back(tmp_path, capsys):
    server = tmp_path / "server"
    written(FileLogger(tmp_path / "session" / "stats", server, later=True))
    assert run("sync", tmp_path / "session") == 1
    captured = capsys.readouterr()
    assert re.search(r"folder\.journal: the server has 0 of 7 records", captured.out)
    assert "they cannot be sent now: ConnectionError: the server is away" in captured.err
    server.mkdir()
    for _ in range(2):
        assert not run("sync", tmp_path / "session")
        assert re.search(r"the server has 7 of 7 records", capsys.readouterr().out)
    assert_same(runs_of(server)[0], expected(BATCHES))


def test_what_is_refused_is_named(tmp_path, capsys):
    (tmp_path / "server").mkdir()
    logger = FileLogger(tmp_path / "stats", tmp_path / "server", later=True)
    LoggedTraining(logger).go(1)
    logger.add_scalar("poison", 1.0)
    logger.close()
    assert not run("sync", tmp_path)
    assert "1 of them were refused, and are left out: poison is not allowed" in capsys.readouterr().err


def test_folders_with_nothing_to_send(tmp_path):
    with pytest.raises(ConfigError, match="there is no folder"):
        run("sync", tmp_path / "nowhere")
    written(CSV(tmp_path / "stats"))
    with pytest.raises(ConfigError, match="has nothing that could be sent"):
        run("sync", tmp_path)
