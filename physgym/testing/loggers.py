"""The contract of a logger, as tests: subclass `LoggerContract`, and say how to make the logger and to read its curves.

Example::

    class TestMine(LoggerContract):
        def make(self, folder):
            return MyLogger(folder)

        def read(self, folder):
            return {name: [(step, value), ...], ...}  # of the run in the folder itself
"""

from __future__ import annotations

import math
import random
import resource
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from physgym.errors import ConfigError
from physgym.events import Callback
from physgym.training.checkpointing import Checkpoints
from physgym.training.loggers import WINDOW, Logger
from physgym.training.monitors import check_state
from physgym.training.trainer import Trainer

Curves = Mapping[str, list[tuple[int, float]]]

BATCHES, EPOCHS = 6, 4  # of the trainings here
LAST = BATCHES * EPOCHS


class LoggerContract(ABC):
    """Tests that every logger passes."""

    @abstractmethod
    def make(self, folder: Path) -> Logger:
        """Return a new logger that writes to a folder, as it is made by default."""

    @abstractmethod
    def read(self, folder: Path) -> Curves:
        """Return the steps and values of all curves of the run in a folder, by name; none of runs in subfolders."""

    @pytest.fixture
    def logger(self, tmp_path: Path) -> Iterator[Logger]:
        """Yield a logger, which is closed after the test."""
        made = self.make(tmp_path / "stats")
        try:
            yield made
        finally:
            made.close()

    def curves(self, logger: Logger) -> Curves:
        """Return the curves of the run in the folder of a logger."""
        return self.read(logger.folder)

    def test_it_is_a_logger(self, logger: Logger) -> None:
        """Check that its class is derived from the interface, so that a method that it lacks has a default."""
        assert isinstance(logger, Logger)
        assert isinstance(logger, Callback)
        assert not logger.every_rank

    def test_no_public_method_has_nearly_the_name_of_another(self, logger: Logger) -> None:
        """Check the names of methods: one with a wrong name would never be called."""
        known = {name for name in dir(Logger) if not name.startswith("_")}
        folded = {name.replace("_", "") for name in known}
        mine = {name for name in dir(type(logger)) if not name.startswith("_")}
        assert not [name for name in mine - known if name.replace("_", "").lower() in folded]

    # --- curves

    def test_values_of_batches_and_epochs_are_curves(self, logger: Logger) -> None:
        """Check that all values are there, over batches and over epochs, with the learning rate and moving moments."""
        run = LoggedTraining(logger)
        run.go(LAST)
        logger.close()
        found = self.curves(logger)
        assert_same(found, expected(LAST))

    def test_a_curve_may_begin_later_and_have_gaps(self, logger: Logger) -> None:
        """Check that no value is lost where some batches and epochs have more values than others."""
        run, more = LoggedTraining(logger), {2: "early", 5: "late", 9: "early", 11: "again"}
        run.go(LAST, lambda step: {more[step]: 0.5 * step} if step in more else {})
        logger.close()
        found = self.curves(logger)
        for name in ("early", "late", "again"):
            assert found[f"batch/{name}"] == [(step, 0.5 * step) for step in more if more[step] == name]
        assert_same({name: found[name] for name in expected(LAST)}, expected(LAST))

    def test_curves_of_users(self, logger: Logger) -> None:
        """Check that points have the step of the training, or their own; names are any text."""
        names = ["mine/root", "plain", "batch/mine", 'with "quotes", commas; and more', "Größe"]
        run = LoggedTraining(logger)
        for _ in range(3):
            run.go(1)
            for name in names:
                logger.add_scalar(name, 0.5 * run.trainer.step)
            logger.add_scalar("at", 1, step=1000 + run.trainer.step)
            logger.add_scalar("both", run.trainer.step, statistics=True)
        logger.close()
        found = self.curves(logger)
        for name in names:
            assert found[name] == [(1, 0.5), (2, 1.0), (3, 1.5)]
        assert found["at"] == [(1001, 1), (1002, 1), (1003, 1)]
        assert found["both_mean"] == [(1, 1.0), (2, 1.5), (3, 2.0)]
        assert found["both_variance"][1] == (2, 0.25)

    def test_values_that_are_not_finite_are_kept(self, logger: Logger) -> None:
        """Check that NaN and infinities are written as they are, and left out of mean and variance."""
        losses = {1: 1.0, 2: math.nan, 3: 3.0, 4: math.inf, 5: -math.inf}
        LoggedTraining(logger).go(5, lambda step: {"loss": losses[step]})
        logger.close()
        found = self.curves(logger)
        np.testing.assert_array_equal(found["batch/loss"], list(losses.items()))
        assert [mean for _, mean in found["batch/loss_mean"]] == [1, 1, 2, 2, 2]

    @pytest.mark.parametrize("value", ["warm", [1.0, 2.0]])
    def test_values_that_are_no_numbers_are_named(self, logger: Logger, value: Any) -> None:
        """Check that the error of a value that is no number names the curve."""
        LoggedTraining(logger).go(1)
        with pytest.raises(ConfigError, match="a curve takes numbers; mine/phase has the value"):
            logger.add_scalar("mine/phase", value)

    def test_numbers_of_any_kind(self, logger: Logger) -> None:
        """Check that integers, booleans, NumPy's numbers and tensors are numbers."""
        LoggedTraining(logger).go(1)
        for value in (3, True, np.float32(0.5), np.int64(7), torch.tensor(0.25)):
            logger.add_scalar(type(value).__name__, value)  # type: ignore[arg-type]
        logger.close()
        found = self.curves(logger)
        assert [found[name] for name in ("int", "bool", "float32", "int64", "Tensor")] == [
            [(1, value)] for value in (3, 1, 0.5, 7, 0.25)
        ]

    def test_what_a_logger_has_no_place_for_changes_nothing(self, logger: Logger) -> None:
        """Check that every logger may be given a configuration, histograms, images, texts, files and meshes."""
        from matplotlib.figure import Figure

        logger.add_config({"training": {"epochs": 4}})
        run = LoggedTraining(logger)
        run.go(BATCHES)
        logger.add_artifact("this", __file__)
        logger.add_histogram("weights", np.arange(10.0))
        logger.add_image("field", np.zeros((4, 4, 3), np.uint8), step=3)
        logger.add_figure("plot", Figure())
        logger.add_text("note", "text")
        logger.add_mesh("beam", np.eye(3), [[0, 1, 2]], np.eye(3))
        run.go(LAST - BATCHES)
        logger.close()
        found = self.curves(logger)
        assert_same({name: found[name] for name in expected(LAST)}, expected(LAST))

    # --- when

    def test_readers_see_what_was_flushed(self, logger: Logger) -> None:
        """Check that a flush shows all points, as the end of an epoch does; so that a kill costs nothing of that."""
        run = LoggedTraining(logger)
        run.go(BATCHES)
        assert_same(self.curves(logger), expected(BATCHES))
        run.go(2)
        logger.add_scalar("mine", 1.0)
        logger.flush()
        found = self.curves(logger)
        assert [step for step, _ in found["batch/loss"]] == list(range(1, BATCHES + 3))
        assert found["mine"] == [(BATCHES + 2, 1.0)]

    def test_it_is_open_only_while_a_training_runs(self, logger: Logger) -> None:
        """Check that a point before or after a training is an error, and that the logger may be closed again."""
        with pytest.raises(ConfigError, match="open only while a training runs"):
            logger.add_scalar("mine", 1.0)
        LoggedTraining(logger).go(1)
        logger.close()
        logger.close()
        with pytest.raises(ConfigError, match="open only while a training runs"):
            logger.add_scalar("mine", 1.0)

    def test_it_takes_no_random_numbers(self, logger: Logger) -> None:
        """Check that the generators of a training are as they were."""
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]  # noqa: NPY002
        LoggedTraining(logger).go(LAST)
        logger.close()
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]  # noqa: NPY002
        assert before == after

    # --- resume

    def test_its_state_is_data(self, logger: Logger) -> None:
        """Check that a checkpoint can hold it, before, while and after a training runs."""
        check_state(logger, logger.state_dict())
        LoggedTraining(logger).go(3)
        check_state(logger, logger.state_dict())
        logger.close()
        check_state(logger, logger.state_dict())

    @pytest.mark.parametrize("closed", [False, True])
    @pytest.mark.parametrize("saved", [1, 5, BATCHES, 2 * BATCHES + 1])
    def test_what_a_resumed_training_repeats_is_there_once(self, tmp_path: Path, saved: int, *, closed: bool) -> None:
        """Check that curves continue from the checkpoint, after a kill or an end; twice."""
        folder, state = tmp_path / "stats", None
        with ExitStack() as stack:
            for at, beyond in ((saved, 3), (saved + 2, BATCHES + 1)):
                logger = self.make(folder)
                stack.callback(logger.close)  # at the end, which one that was killed does not see
                run = LoggedTraining(logger, state)
                run.go(at - run.trainer.step, own_values)
                state = run.saved()
                logger.add_scalar("mine", -1.0)
                run.go(beyond, lambda step: {**own_values(step), "beyond": -1.0})
                logger.flush()
                if closed:
                    logger.close()
            logger = self.make(folder)
            run = LoggedTraining(logger, state)
            run.go(LAST - run.trainer.step, own_values)
            logger.close()
            found = dict(self.curves(logger))
        assert not found.pop("batch/beyond", [])
        assert not found.pop("mine", [])
        assert_same(found, expected(LAST, own_values))

    def test_a_training_goes_on_in_the_same_process(self, logger: Logger) -> None:
        """Check that a logger closed and begun again without a checkpoint continues its curves."""
        run = LoggedTraining(logger)
        run.go(BATCHES + 1)
        logger.close()
        logger.train_begin(run.trainer)
        run.go(LAST - BATCHES - 1)
        logger.close()
        assert_same(self.curves(logger), expected(LAST))

    def test_a_trainer_resumes_its_curves(self, tmp_path: Path) -> None:
        """Check that a `Trainer` that fails and is resumed has the curves of one that never failed."""
        found = {}
        for name, failures in (("whole", []), ("parts", [9, 14])):
            folder = tmp_path / name
            for number, fail_at in enumerate([*failures, None]):
                run = self._trainer(folder, fail_at, resume=number > 0)
                if fail_at is None:
                    run.fit()
                else:
                    with pytest.raises(_Fails):
                        run.fit()
            found[name] = {name: curve for name, curve in self.read(folder / "stats").items() if "seconds" not in name}
        assert found["whole"]["epoch/loss"]
        assert found["parts"] == found["whole"]

    def _trainer(self, folder: Path, fail_at: int | None, *, resume: bool) -> Trainer:
        torch.manual_seed(0)
        inputs = torch.linspace(-1, 1, 48)[:, None]
        callbacks = [_Fail(fail_at), self.make(folder / "stats"), Checkpoints(folder / "networks", steps=4)]
        return Trainer(
            nn.Linear(1, 1),
            TensorDataset(inputs, 2 * inputs),
            epochs=3,
            batch_size=8,
            validation=0,
            progress=False,
            callbacks=callbacks,
            resume=resume,
            session=folder,
            record=False,
        )

    # --- folders

    def test_a_new_training_is_a_run_of_its_own(self, tmp_path: Path) -> None:
        """Check that files in the folder stay as they are, also where a training of another folder is resumed."""
        logger = self.make(tmp_path / "a")
        run = LoggedTraining(logger)
        run.go(4)
        state = run.saved()
        logger.close()
        for resumed in (None, None, state):
            other = self.make(tmp_path / "b")
            again = LoggedTraining(other, resumed)
            again.go(BATCHES + again.trainer.step)
            other.close()
            assert_same(self.read(tmp_path / "b"), expected(BATCHES))
        assert [step for step, _ in self.read(tmp_path / "a")["batch/loss"]] == [1, 2, 3, 4]

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        """Check that the error of a folder comes when a training begins, and says what is to be done."""
        (tmp_path / "file").touch()
        for folder in (tmp_path / "file", tmp_path / "file" / "stats"):
            logger = self.make(folder)
            with pytest.raises(ConfigError, match=f"cannot be written to {folder}.*choose another folder"):
                LoggedTraining(logger)
            logger.close()

    def test_a_disk_that_is_full_for_a_while_ends_nothing_and_loses_nothing(self, logger: Logger) -> None:
        """Check that points are kept, with one warning, and written later, also of curves that begin meanwhile."""
        run = LoggedTraining(logger)
        run.go(BATCHES)
        largest = max(path.stat().st_size for path in logger.folder.rglob("*") if path.is_file())
        with _files_of_at_most(largest), pytest.warns(RuntimeWarning, match="They are kept in memory") as seen:
            run.go(BATCHES, own_values)
        assert len({str(warning.message) for warning in seen}) == len(seen)
        run.go(BATCHES, own_values)
        logger.close()
        found = self.curves(logger)
        assert [step for step, _ in found["batch/loss"]] == list(range(1, 3 * BATCHES + 1))
        assert [step for step, _ in found["epoch/loss"]] == [1, 2, 3]
        assert found["batch/third"] == [(step, step / 4) for step in (9, 12, 15, 18)]


class LoggedTraining:
    """A training for a logger, without a network: it counts batches and epochs, and has values for them.

    Args:
        logger: Sees the events.
        state: What `saved` returned, to continue from there.

    Attributes:
        trainer: What the logger sees of the training.
    """

    def __init__(self, logger: Logger, state: dict[str, Any] | None = None) -> None:
        self.logger = logger
        optimization, predictor = SimpleNamespace(lr=0.5), SimpleNamespace(network=nn.Identity())
        self.trainer: Any = SimpleNamespace(step=0, epoch=0, optimization=optimization, predictor=predictor)
        if state is not None:
            self.trainer.step, self.trainer.epoch = state["step"], state["epoch"]
            logger.load_state_dict(state["logger"])
        logger.train_begin(self.trainer)

    def go(self, batches: int, more: Any = lambda step: {}) -> None:
        """Continue for so many batches.

        Args:
            batches: How many.
            more: Gives more values of a batch, by its number.
        """
        for _ in range(batches):
            self.logger.batch_begin(self.trainer, {})
            self.trainer.step += 1
            step = self.trainer.step
            self.logger.batch_end(self.trainer, {"loss": loss_of(step), **more(step)})
            if step % BATCHES == 0:
                self.trainer.epoch += 1
                self.logger.epoch_end(self.trainer, epoch_of(self.trainer.epoch))

    def saved(self) -> dict[str, Any]:
        """Return the state of a checkpoint."""
        return {"step": self.trainer.step, "epoch": self.trainer.epoch, "logger": self.logger.state_dict()}


def loss_of(step: int) -> float:
    """Return the loss of a batch; numbers that have few digits in base 2."""
    return float(step % 7) + 2.0**-step


def epoch_of(epoch: int) -> dict[str, float]:
    """Return the record of an epoch."""
    return {"epoch": epoch, "loss": 1.0 / 2**epoch, "validation_loss": 2.0 / 2**epoch, "samples": 100.0}


def own_values(step: int) -> dict[str, float]:
    """Return a value more for every third batch."""
    return {"third": step / 4} if step % 3 == 0 else {}


def expected(batches: int, more: Any = lambda step: {}) -> Curves:
    """Return the curves of so many batches of a `LoggedTraining`, with the epochs that they complete."""
    found: dict[str, list[tuple[int, float]]] = {}

    def add(kind: str, number: int, values: Mapping[str, float], moments: tuple[str, ...]) -> None:
        for name, value in values.items():
            found.setdefault(f"{kind}/{name}", []).append((number, value))
        for name in moments:
            recent = [value for _, value in found[f"{kind}/{name}"][-WINDOW:]]
            found.setdefault(f"{kind}/{name}_mean", []).append((number, float(np.mean(recent))))
            found.setdefault(f"{kind}/{name}_variance", []).append((number, float(np.var(recent))))

    for step in range(1, batches + 1):
        add("batch", step, {"loss": loss_of(step), "lr": 0.5, **more(step)}, ("loss",))
        if step % BATCHES == 0:
            record = epoch_of(step // BATCHES)
            del record["epoch"]
            add("epoch", step // BATCHES, record, ("loss", "validation_loss"))
    return found


def assert_same(found: Curves, wanted: Curves) -> None:
    """Raise unless two sets of curves have the same points, up to rounding to 32 bits."""
    assert set(found) == set(wanted)
    for name, points in wanted.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        np.testing.assert_allclose([v for _, v in found[name]], [v for _, v in points], 1e-5, 1e-6, err_msg=name)


class _Fails(Exception):
    pass


class _Fail(Callback):
    adds = ()

    def __init__(self, at: int | None) -> None:
        self.at = at

    def batch_end(self, trainer: Any, values: dict[str, float]) -> None:
        if trainer.step % 3 == 0:
            values["third"] = trainer.step / 4
        if trainer.step == self.at:
            raise _Fails


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
