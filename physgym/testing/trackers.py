"""The contract of a tracker, as tests: subclass `TrackerContract`, say how to make its logger and to read its server.

Example::

    class TestMine(TrackerContract):
        def make(self, folder):
            return MyRemoteLogger(folder, later=True)

        def runs(self, logger):
            return [{name: [(step, value), ...], ...}, ...]  # of every run that the server has, the oldest first
"""

from __future__ import annotations

import math
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from physgym.testing.loggers import BATCHES, Curves, LoggedTraining, assert_same, expected, own_values
from physgym.training.journal import FILES, SentState, companion, journals_below
from physgym.training.remote_logger import RemoteLogger
from physgym.training.sending import send_journal


class TrackerContract(ABC):
    """Tests that every tracker passes, with a server or store that answers.

    Attributes:
        takes_files: Whether the server gets images and files.
    """

    takes_files: ClassVar[bool] = True

    @abstractmethod
    def make(self, folder: Path) -> RemoteLogger:
        """Return a new logger of the tracker that keeps its journal in a folder, and sends later."""

    @abstractmethod
    def runs(self, logger: RemoteLogger) -> list[Curves]:
        """Return the curves of the runs that the server has, the oldest first."""

    def send(self, logger: RemoteLogger) -> SentState:
        """Send all that a logger has kept, and return how much the server has got."""
        [journal] = journals_below(logger.folder)
        state = send_journal(journal)
        assert not state.problem
        assert state.whole
        return state

    def last(self, logger: RemoteLogger) -> Curves:
        """Return the curves of the run that was begun last."""
        return self.runs(logger)[-1]

    def test_everything_arrives_once(self, tmp_path: Path) -> None:
        """Check that a server has all values, and that nothing is sent a second time."""
        logger = self.make(tmp_path / "stats")
        logger.add_config({"training": {"epochs": 2}, "name": "mine", "nothing": None})
        LoggedTraining(logger).go(2 * BATCHES, own_values)
        logger.close()
        for _ in range(2):
            self.send(logger)
        assert len(self.runs(logger)) == 1
        assert_same(self.last(logger), expected(2 * BATCHES, own_values))

    def test_names_and_numbers_of_any_kind_stay_different(self, tmp_path: Path) -> None:
        """Check that names of any text give curves of their own, and that NaN is no other number."""
        logger = self.make(tmp_path / "stats")
        LoggedTraining(logger).go(1)
        names = ["a b", "a?b", "a!b", "Größe", "x/../y", "/root", "n" * 300]
        for number, name in enumerate(names):
            logger.add_scalar(name, number)
        logger.add_scalar("gap", math.nan)
        logger.close()
        assert not self.send(logger).left_out
        found = self.last(logger)
        own = {name: points for name, points in found.items() if not name.startswith(("batch/", "epoch/"))}
        assert sorted(points[0][1] for name, points in own.items() if name != "gap") == list(range(len(names)))
        assert math.isnan(own["gap"][0][1])

    def test_what_is_no_curve_is_taken_or_left_out(self, tmp_path: Path) -> None:
        """Check that figures, images, texts, histograms, files and meshes hinder nothing."""
        from matplotlib.figure import Figure

        file = tmp_path / "notes.txt"
        file.write_text("notes")
        logger = self.make(tmp_path / "stats")
        LoggedTraining(logger).go(1)
        logger.add_histogram("weights", np.arange(10.0))
        logger.add_histogram("weights", np.array([1.0, math.nan, math.inf]))
        logger.add_image("field", np.zeros((4, 4, 3), np.uint8), step=3)
        logger.add_figure("plot", Figure())
        logger.add_text("note", "a < b")
        logger.add_mesh("beam", np.eye(3), [[0, 1, 2]])
        logger.add_artifact("notes", file)
        file.unlink()  # a copy is kept
        logger.add_scalar("after", 1.0)
        logger.close()
        assert not self.send(logger).left_out
        assert self.last(logger)["after"] == [(1, 1.0)]

    def test_files_of_any_name_arrive(self, tmp_path: Path) -> None:
        """Check that the name of a file hinders nothing."""
        logger = self.make(tmp_path / "stats")
        run = LoggedTraining(logger)
        run.go(BATCHES)
        (file := tmp_path / "größe 1.txt").write_text("notes")
        for name in ("Größe", "a b", "a/b", "a_b", "n" * 200):
            logger.add_artifact(name, file)
            logger.add_image(name, np.zeros((4, 4, 3), np.uint8))
        run.go(BATCHES)
        logger.close()
        assert not self.send(logger).left_out
        assert_same(self.last(logger), expected(2 * BATCHES))

    def test_a_file_that_is_gone_is_left_out_and_named(self, tmp_path: Path) -> None:
        """Check that all else arrives, once."""
        logger = self.make(tmp_path / "stats")
        run = LoggedTraining(logger)
        run.go(BATCHES)
        (file := tmp_path / "notes.txt").write_text("notes")
        logger.add_artifact("notes", file)
        logger.add_image("field", np.zeros((4, 4, 3), np.uint8))
        run.go(BATCHES)
        logger.close()
        [journal] = journals_below(logger.folder)
        shutil.rmtree(companion(journal, FILES))
        state = self.send(logger)
        if self.takes_files:
            assert state.left_out == 2
            assert "field" in state.refused
        assert_same(self.last(logger), expected(2 * BATCHES))

    @pytest.mark.parametrize("sent", [4, BATCHES + 2])
    def test_a_resumed_training_has_all_values_in_one_run(self, tmp_path: Path, sent: int) -> None:
        """Check that the last run is whole and has no point twice, also where the server had more than was saved."""
        logger = self.make(tmp_path / "stats")
        run = LoggedTraining(logger)
        run.go(4)
        state = run.saved()
        run.go(sent - 4)
        logger.flush()
        self.send(logger)
        if sent == 4:
            run.go(5)  # of which the server has nothing, and the checkpoint neither
        logger.close()
        logger = self.make(tmp_path / "stats")
        run = LoggedTraining(logger, state)
        run.go(2 * BATCHES - 4, own_values)
        logger.close()
        self.send(logger)
        assert_same(self.last(logger), expected(2 * BATCHES, lambda step: own_values(step) if step > 4 else {}))
