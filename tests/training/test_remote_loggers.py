"""Loggers whose curves go to a server: nothing is lost, and nothing ends or blocks a training."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from physgym.errors import ConfigError
from physgym.testing.loggers import BATCHES, LoggedTraining, LoggerContract, assert_same, expected, own_values
from physgym.testing.trackers import TrackerContract
from physgym.training import MLflow, WandB
from physgym.training.journal import STATE, JournalHead, SentState, companion, journals_below, read_records
from physgym.training.sending import Sending, send_journal
from tests.support.file_tracker import FileLogger, runs_of


def read_journal(folder):
    """The curves of the journal in a folder, without subfolders."""
    curves = {}
    for file in folder.glob("*.journal"):
        for record in read_records(file):
            for name, value in record.get("values", {}).items():
                curves.setdefault(name, []).append((record["step"], float(value)))
    return curves


class TestJournal(LoggerContract):
    """What is kept until it is sent keeps the contract of loggers."""

    def make(self, folder):
        return FileLogger(folder, later=True)

    def read(self, folder):
        return read_journal(folder)

    @pytest.mark.slow
    def test_a_trainer_resumes_its_curves(self, tmp_path):
        super().test_a_trainer_resumes_its_curves(tmp_path)


class TestFolder(TrackerContract):
    takes_files = False

    def make(self, folder):
        (folder.parent / "server").mkdir(exist_ok=True)
        return FileLogger(folder, folder.parent / "server", later=True)

    def runs(self, logger):
        return runs_of(logger.folder.parent / "server")


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    return folder


def journal_of(logger):
    [journal] = journals_below(logger.folder)
    return journal


def state_of(logger):
    journal = journal_of(logger)
    return SentState.read(companion(journal, STATE), JournalHead.read(journal).run)


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- a process of its own


@pytest.mark.slow
def test_a_training_sends_while_it_runs(tmp_path, server):
    logger = FileLogger(tmp_path / "stats", server)
    run = LoggedTraining(logger)
    run.go(BATCHES)
    wait_until(lambda: runs_of(server) and "epoch/loss" in runs_of(server)[0])
    run.go(BATCHES)
    other = os.fork()  # a worker, which holds what the training has open
    if other == 0:
        time.sleep(100)
        os._exit(0)
    begun = time.monotonic()
    logger.close()
    assert time.monotonic() - begun < 80
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)
    assert_same(runs_of(server)[0], expected(2 * BATCHES))
    assert state_of(logger).whole


@pytest.mark.slow
def test_a_server_that_comes_back_gets_everything(tmp_path, server):
    (server / "away").touch()
    logger = FileLogger(tmp_path / "stats", server)
    run = LoggedTraining(logger)
    run.go(BATCHES)
    wait_until(lambda: state_of(logger).problem)
    with pytest.warns(RuntimeWarning, match="cannot be sent now: ConnectionError: the server is away.*continues"):
        run.go(BATCHES)
    run.go(BATCHES)  # there is one warning
    (server / "away").unlink()
    logger.close()
    assert_same(runs_of(server)[0], expected(3 * BATCHES))


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["away", "silent"])
def test_a_server_that_stays_away_ends_and_blocks_nothing(tmp_path, server, fault):
    (server / fault).touch()
    logger = FileLogger(tmp_path / "stats", server, wait=4.0)
    begun = time.monotonic()
    run = LoggedTraining(logger)
    run.go(BATCHES - 1)
    logger.add_text("note", "kept")
    assert time.monotonic() - begun < 4  # that long would it be waited for
    with pytest.warns(RuntimeWarning, match=r"not sent completely.*: 0 of \d+ records.*physgym sync") as seen:
        logger.close()
    assert len(seen) == 1
    assert time.monotonic() - begun < 50
    (server / fault).unlink()
    assert send_journal(journal_of(logger)).whole
    assert_same(runs_of(server)[0], expected(BATCHES - 1))


@pytest.mark.slow
def test_a_training_that_is_killed_leaves_nothing_running(tmp_path, server):
    training = os.fork()
    if training == 0:
        try:
            logger = FileLogger(tmp_path / "stats", server)
            LoggedTraining(logger).go(BATCHES)
            (tmp_path / "pid").write_text(str(logger._sender._child.pid))
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitpid(training, 0)[1] == signal.SIGKILL
    pid = int((tmp_path / "pid").read_text())

    def gone():
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    wait_until(gone)
    assert send_journal(journal_of(FileLogger(tmp_path / "stats"))).whole
    assert_same(runs_of(server)[0], expected(BATCHES))


@pytest.mark.slow
def test_a_process_that_dies_is_a_warning(tmp_path, server):
    logger = FileLogger(tmp_path / "stats", server)
    run = LoggedTraining(logger)
    os.kill(logger._sender._child.pid, signal.SIGKILL)
    logger._sender._child.process.wait(60)
    with pytest.warns(RuntimeWarning, match=r"the process that sends them has ended, see .*folder\.log"):
        run.go(BATCHES)
    with pytest.warns(RuntimeWarning, match="not sent completely"):
        logger.close()


# --- what is sent


def test_a_record_that_is_refused_for_good_holds_nothing_up(tmp_path, server):
    logger = FileLogger(tmp_path / "stats", server, later=True)
    run = LoggedTraining(logger)
    run.go(2)
    logger.add_scalar("poison", 1.0)
    run.go(4)
    logger.close()
    state = send_journal(journal_of(logger))
    assert (state.whole, state.left_out, state.refused) == (True, 1, "poison is not allowed")
    assert_same(runs_of(server)[0], expected(6))


def test_another_server_gets_everything(tmp_path, server):
    logger = FileLogger(tmp_path / "stats", server, later=True)
    run = LoggedTraining(logger)
    run.go(4)
    state = run.saved()
    logger.close()
    send_journal(journal_of(logger))
    other = tmp_path / "other"
    other.mkdir()
    logger = FileLogger(tmp_path / "stats", other, later=True)
    LoggedTraining(logger, state).go(2)
    logger.close()
    assert send_journal(journal_of(logger)).whole
    assert_same(runs_of(other)[0], expected(6))
    assert_same(runs_of(server)[0], expected(4))


def test_a_journal_that_is_deleted_goes_on_in_a_new_one(tmp_path, server):
    logger = FileLogger(tmp_path / "stats", server, later=True)
    run = LoggedTraining(logger)
    run.go(4)
    logger.flush()
    sending = Sending(journal_of(logger))
    assert sending.send()
    journal_of(logger).unlink()
    with pytest.warns(RuntimeWarning, match="was deleted; its curves continue in a new file"):
        run.go(2)
    assert sending.send()
    sending.close()
    logger.close()
    assert_same(runs_of(server)[0], expected(6))


def test_many_records_are_sent_by_and_by(tmp_path, server, monkeypatch):
    monkeypatch.setattr("physgym.training.sending.TOGETHER", 5)
    logger = FileLogger(tmp_path / "stats", server, later=True)
    run = LoggedTraining(logger)
    run.go(BATCHES)
    logger.flush()
    sending = Sending(journal_of(logger))
    assert [sending.send(), sending.send(), sending.send()] == [False, True, True]
    run.go(BATCHES)
    logger.close()
    sending.end()
    sending.close()
    assert_same(runs_of(server)[0], expected(2 * BATCHES))


def test_two_processes_do_not_send_the_same(tmp_path, server):
    logger = FileLogger(tmp_path / "stats", server, later=True)
    LoggedTraining(logger).go(1)
    logger.close()
    first = Sending(journal_of(logger))
    with pytest.raises(BlockingIOError, match="another process sends"):
        send_journal(journal_of(logger))
    first.close()
    assert send_journal(journal_of(logger)).whole


def test_a_training_does_not_go_on_with_what_is_being_sent(tmp_path, server, monkeypatch):
    monkeypatch.setattr("physgym.training.remote_logger.PATIENCE", 0.2)
    logger = FileLogger(tmp_path / "stats", server, later=True)
    run = LoggedTraining(logger)
    run.go(2)
    state = run.saved()
    logger.close()
    sending = Sending(journal_of(logger))
    with pytest.raises(ConfigError, match=r"another process sends .*wait for it, then try again"):
        LoggedTraining(FileLogger(tmp_path / "stats", server, later=True), state)
    monkeypatch.setattr("physgym.training.remote_logger.PATIENCE", 60.0)
    threading.Timer(0.1, sending.close).start()
    logger = FileLogger(tmp_path / "stats", server, later=True)
    LoggedTraining(logger, state).go(1)
    logger.close()
    assert_same(read_journal(tmp_path / "stats"), expected(3))


def test_a_configuration_goes_with_the_journal(tmp_path, server):
    logger = FileLogger(tmp_path / "stats", server, later=True)
    logger.add_config({"training": {"epochs": 3}})
    run = LoggedTraining(logger)
    run.go(1)
    state = run.saved()
    logger.close()
    assert JournalHead.read(journal_of(logger)).config == {"training": {"epochs": 3}}
    logger = FileLogger(tmp_path / "stats", server, later=True)
    logger.add_config({"training": {"epochs": 4}})
    LoggedTraining(logger, state).go(1, own_values)
    logger.close()
    assert JournalHead.read(journal_of(logger)).config == {"training": {"epochs": 4}}
    assert_same(read_journal(tmp_path / "stats"), expected(2))


def test_curves_are_read_back(tmp_path):
    logger = FileLogger(tmp_path, later=True)
    LoggedTraining(logger).go(2 * BATCHES)
    logger.close()
    assert FileLogger.read(tmp_path) == {
        name: points for name, points in read_journal(tmp_path).items() if name.startswith("epoch/")
    }
    assert FileLogger.read(tmp_path / "elsewhere") == {}


def test_a_file_that_is_not_there_is_named(tmp_path):
    logger = FileLogger(tmp_path / "stats", later=True)
    LoggedTraining(logger).go(1)
    with pytest.raises(ConfigError, match=re.escape(f"there is no file {tmp_path / 'nowhere'}")):
        logger.add_artifact("notes", tmp_path / "nowhere")
    logger.close()


@pytest.mark.parametrize(("kind", "package"), [(MLflow, "mlflow"), (WandB, "wandb")])
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, kind, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=re.escape(f"needs {package}: pip install 'physgym[{package}]'")):
        kind(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no json\n", b"[]\n", b'{"format": 2}\n'])
def test_what_is_no_journal_is_refused(tmp_path, content):
    file = tmp_path / "x.journal"
    file.write_bytes(content)
    assert journals_below(tmp_path) == []
    with pytest.raises(ConfigError, match="is no journal"):
        send_journal(file)


@pytest.mark.slow
def test_neither_trackers_nor_torch_are_imported_by_the_process_that_sends():
    program = "import physgym.training.sending, sys; print({'torch', 'mlflow', 'wandb'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "set()"
