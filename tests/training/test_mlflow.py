"""The contract of trackers on a local store of MLflow, read with MLflow's own client; and what it lets people see."""

from __future__ import annotations

import importlib.util

import pytest

from physgym.testing.trackers import TrackerContract
from physgym.training import MLflow
from physgym.training.mlflow_logger import VARIABLES, metric_name

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


def test_names_that_mlflow_does_not_take_get_a_sum():
    assert metric_name("batch/loss") == "batch/loss"
    assert len({metric_name(name) for name in ("a?b", "a!b", "a_b", "x/../y", "y", "../y", "/y")}) == 7
    assert len(metric_name("n" * 300)) <= 250
