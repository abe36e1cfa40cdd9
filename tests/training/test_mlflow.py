"""The contract of trackers on a local store of MLflow, read with MLflow's own client; and what it lets people see."""

from __future__ import annotations

import importlib.util
import socket
import sqlite3
import time
from contextlib import closing

import pytest

from physgym.errors import ConfigError
from physgym.testing.loggers import BATCHES, LoggedTraining, expected
from physgym.testing.trackers import TrackerContract
from physgym.training import MLflow
from physgym.training.mlflow_logger import VARIABLES, metric_name, whole_uri

pytestmark = [  # importing it takes seconds
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed"),
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def client(logger):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=logger._head.arguments["uri"])


def runs(logger):
    found = client(logger)
    [experiment] = [one.experiment_id for one in found.search_experiments() if one.name == "physgym"]
    return sorted(found.search_runs([experiment]), key=lambda run: run.info.start_time)


class TestMLflow(TrackerContract):
    def make(self, folder):
        return MLflow(folder, uri=(folder.parent / "mlruns").as_uri(), run="mine", later=True)

    def runs(self, logger):
        return [
            {
                name: [(point.step, point.value) for point in client(logger).get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            }
            for run in runs(logger)
        ]

    def test_configuration_texts_and_files_are_there(self, tmp_path):
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
        self.test_everything_arrives_once(tmp_path / "a")
        self.test_what_is_no_curve_is_taken_or_left_out(tmp_path / "b")
        [first] = runs(self.make(tmp_path / "a" / "stats"))
        assert first.data.params == {"training.epochs": "2", "name": "mine", "nothing": "None"}
        assert (first.info.run_name, first.info.status) == ("mine", "FINISHED")
        [second] = runs(self.make(tmp_path / "b" / "stats"))
        folder = tmp_path / "b" / "mlruns" / second.info.experiment_id / second.info.run_id / "artifacts"
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert files == {"note/1.txt", "field/3/field.png", "plot/1/plot.png", "notes/notes.txt"}
        assert (folder / "note/1.txt").read_text() == "a < b"

    def test_a_run_that_was_repeated_says_so(self, tmp_path):
        self.test_a_resumed_training_has_all_values_in_one_run(tmp_path, 8)
        first, last = runs(self.make(tmp_path / "stats"))
        assert "physgym.superseded" in first.data.tags
        assert (first.info.status, last.info.status) == ("KILLED", "FINISHED")


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("sqlalchemy", "alembic")), reason="they are not installed"
)
def test_without_a_server_the_session_has_a_store_of_its_own(tmp_path):
    logger = MLflow(tmp_path, wait=100)
    LoggedTraining(logger).go(BATCHES)
    logger.add_text("note", "kept")
    logger.close()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        found = store.execute("SELECT step, value FROM metrics WHERE key = 'batch/loss' ORDER BY step").fetchall()
    assert found == expected(BATCHES)["batch/loss"]
    [note] = (tmp_path / "mlflow-artifacts").rglob("*.txt")
    assert note.read_text() == "kept"


def test_a_server_that_never_answers_ends_and_blocks_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        logger = MLflow(tmp_path, uri=f"http://127.0.0.1:{server.getsockname()[1]}", wait=2)
        begun = time.monotonic()
        LoggedTraining(logger).go(BATCHES)
        with pytest.warns(RuntimeWarning, match=r"not sent completely.*send them with: physgym sync"):
            logger.close()
        assert time.monotonic() - begun < 60
    assert [step for step, _ in MLflow.read(tmp_path)["epoch/loss"]] == [1]


def test_a_password_is_not_stored(tmp_path, monkeypatch):
    for uri in ("http://me:secret@localhost:5000", "postgresql://me:secret@localhost/mlflow"):
        with pytest.raises(ConfigError, match="has a password, which the session would keep") as error:
            MLflow(tmp_path, uri=uri)
        assert "secret" not in str(error.value)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(ConfigError, match="has a password"):
            MLflow(tmp_path)


def test_a_local_store_is_the_same_in_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert whole_uri("mlruns") == whole_uri("file:mlruns") == (tmp_path / "mlruns").as_uri()
    assert whole_uri("sqlite:///my.db") == f"sqlite:///{tmp_path}/my.db"
    for uri in ("sqlite:////data/my.db", "http://localhost:5000", "file:///data/mlruns", "databricks://profile", None):
        assert whole_uri(uri) == uri


def test_names_that_mlflow_does_not_take_get_a_sum():
    assert metric_name("batch/loss") == "batch/loss"
    assert len({metric_name(name) for name in ("a?b", "a!b", "a_b", "x/../y", "y", "../y", "/y")}) == 7
    assert len(metric_name("n" * 300)) <= 250
