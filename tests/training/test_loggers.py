"""The contract of loggers: TensorBoard's and that of tables pass it, and wrong ones do not."""

from __future__ import annotations

import ast
import csv
import math
import os
import signal
import warnings
from contextlib import closing

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from physgym.testing.loggers import BATCHES, LAST, LoggedTraining, LoggerContract, assert_same, expected, own_values
from physgym.training import CSV, Checkpoints, Logger, TensorBoard
from physgym.training.csv_logger import FILES
from tests.training.test_tensorboard import Do, trainer


class TestTensorBoard(LoggerContract):
    def make(self, folder):
        return TensorBoard(folder)

    def read(self, folder):
        # TensorBoard's reader takes files of subfolders for other runs, as wanted here
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        return {
            name: [(point.step, point.value) for point in events.Scalars(name)] for name in events.Tags()["scalars"]
        }


def read_tables(folder):
    found = {}
    for axis, (file, fixed) in FILES.items():
        if not (folder / file).exists():
            continue
        with (folder / file).open(newline="", encoding="utf-8") as stream:
            columns, *rows = csv.reader(stream)
        assert columns[: len(fixed)] == list(fixed)
        assert {len(row) for row in rows} <= {len(columns)}
        for row in rows:
            if axis == "own":
                found.setdefault(row[2], []).append((int(row[0]), float(row[3])))
                continue
            for name, cell in zip(columns[2:], row[2:], strict=True):
                if cell:
                    found.setdefault(f"{axis}/{name}", []).append((int(row[0]), float(cell)))
    return found


class TestCSV(LoggerContract):
    def make(self, folder):
        return CSV(folder)

    def read(self, folder):
        return read_tables(folder)


# --- the suite


class Repeats(CSV):
    """A logger that keeps what a resumed training repeats."""

    def position(self):
        position = super().position()
        for file in position["files"].values():
            file["rows"] = 1 << 40
        return position


class Forgets(CSV):
    """A logger that has no place for a curve that begins later."""

    def write(self, values, step, moment, axis):
        if axis == "batch":
            values = {name: value for name, value in values.items() if name in {"batch/loss", "batch/lr"}}
        super().write(values, step, moment, axis)


class Late(CSV):
    """A logger that shows nothing before it is closed."""

    def flush(self):
        pass


@pytest.mark.parametrize(
    ("kind", "test", "arguments"),
    [
        (Repeats, "test_what_a_resumed_training_repeats_is_there_once", {"saved": 5}),
        (Forgets, "test_a_curve_may_begin_later_and_have_gaps", {}),
        (Late, "test_readers_see_what_was_flushed", {}),
    ],
)
def test_the_suite_finds_a_wrong_logger(tmp_path, kind, test, arguments):
    class Suite(TestCSV):
        __test__ = False

        def make(self, folder):
            return kind(folder)

    with closing(kind(tmp_path)) as logger:
        own = {"tmp_path": tmp_path, "closed": False, **arguments} if arguments else {"logger": logger}
        with pytest.raises((AssertionError, KeyError)):
            getattr(Suite(), test)(**own)


# --- tables


def test_a_table_has_a_row_for_each_batch_or_epoch(tmp_path):
    trainer(callbacks=[CSV(tmp_path)], epochs=3).fit()
    with (tmp_path / "epochs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert list(rows[0])[:5] == ["epoch", "time", "loss", "samples", "validation_loss"]
    with (tmp_path / "batches.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    times = [float(row["time"]) for row in rows]
    assert times == sorted(times)


def test_numbers_have_all_their_digits(tmp_path):
    value = 0.1 + 0.2
    logger = CSV(tmp_path)
    LoggedTraining(logger).go(1, lambda step: {"third": value})
    logger.close()
    assert read_tables(tmp_path)["batch/third"] == [(1, value)]


def test_pandas_reads_the_tables(tmp_path):
    pandas = pytest.importorskip("pandas")
    logger = CSV(tmp_path)
    late = {5: 1.25, 6: 1.5, 7: 1.75}
    run = LoggedTraining(logger)
    run.go(7, lambda step: {"late": late[step], "loss": math.inf} if step in late else {"loss": math.nan})
    logger.close()
    table = pandas.read_csv(tmp_path / "batches.csv")
    assert table["step"].tolist() == list(range(1, 8))
    np.testing.assert_array_equal(table["late"], [np.nan] * 4 + [1.25, 1.5, 1.75])
    np.testing.assert_array_equal(table["loss"], [np.nan] * 4 + [np.inf] * 3)
    assert len(pandas.read_csv(tmp_path / "epochs.csv")) == 1
    assert pandas.read_csv(tmp_path / "scalars.csv").columns.tolist() == ["step", "time", "name", "value"]


@pytest.mark.parametrize("torn", [b"25,17", b"25,1700000000.5,\n26"])
def test_half_a_row_is_removed_when_the_training_goes_on(tmp_path, torn):
    """A machine that stops may leave one, and fewer rows than the checkpoint knows of."""
    logger = CSV(tmp_path)
    run = LoggedTraining(logger)
    run.go(8, own_values)
    state = run.saved()
    logger.close()
    file = tmp_path / "batches.csv"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:7]) + torn.replace(b"\n26", b""))
    logger = CSV(tmp_path)
    LoggedTraining(logger, state).go(4, own_values)
    logger.close()
    assert [step for step, _ in read_tables(tmp_path)["batch/loss"]] == [1, 2, 3, 4, 5, 6, 9, 10, 11, 12]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a;b\n1;2\n", b"step,time\n3,17\n", b"step,time\n3\n", b"\n\n"])
def test_a_table_of_somebody_else_stays_as_it_is(tmp_path, content):
    logger = CSV(tmp_path)
    run = LoggedTraining(logger)
    run.go(8)
    state = run.saved()
    logger.close()
    (tmp_path / "batches.csv").write_bytes(content)
    logger = CSV(tmp_path)
    LoggedTraining(logger, state).go(1)
    logger.close()
    assert (tmp_path / "batches.csv").read_bytes() == content
    assert read_tables(tmp_path / "run-2")["batch/loss"] == [(9, pytest.approx(2 + 2**-9))]


def test_a_folder_that_is_deleted_is_made_again_with_its_columns(tmp_path):
    logger = CSV(tmp_path)
    run = LoggedTraining(logger)
    run.go(8, own_values)
    for file in tmp_path.iterdir():
        file.unlink()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run.go(4, own_values)
        state = run.saved()
        run.go(2, own_values)
        logger.close()
    assert any("was deleted; its curves continue in a new file" in str(warning.message) for warning in seen)
    assert read_tables(tmp_path)["batch/third"] == [(9, 2.25), (12, 3.0)]
    logger = CSV(tmp_path)
    LoggedTraining(logger, state).go(2, own_values)
    logger.close()
    assert [step for step, _ in read_tables(tmp_path)["batch/lr"]] == list(range(7, 15))


# --- read back


@pytest.mark.parametrize(("kind", "suite"), [(TensorBoard, TestTensorBoard), (CSV, TestCSV)])
def test_curves_over_epochs_are_read_back(tmp_path, kind, suite):
    logger = kind(tmp_path)
    LoggedTraining(logger).go(2 * BATCHES)
    logger.close()
    whole = suite().read(tmp_path)
    assert kind.read(tmp_path) == {name: points for name, points in whole.items() if name.startswith("epoch/")}
    assert kind.read(tmp_path / "elsewhere") == {}


# --- in a training


@pytest.mark.parametrize("kind", [TensorBoard, CSV])
def test_a_kill_costs_nothing_of_what_the_checkpoint_knows(tmp_path, kind):
    suite = TestCSV() if kind is CSV else TestTensorBoard()
    child = os.fork()
    if child == 0:
        try:
            logger = kind(tmp_path)
            run = LoggedTraining(logger)
            run.go(2 * BATCHES + 2, own_values)
            (tmp_path / "state").write_text(repr(run.saved()))
            run.go(3, own_values)
            logger.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    logger = kind(tmp_path)
    run = LoggedTraining(logger, ast.literal_eval((tmp_path / "state").read_text()))
    run.go(LAST - run.trainer.step, own_values)
    logger.close()
    assert_same(suite.read(tmp_path), expected(LAST, own_values))


def test_a_logger_of_the_user_takes_the_place_of_the_own(tmp_path):
    trainer(session=tmp_path, callbacks=[CSV(tmp_path / "mine")]).fit()
    assert not list(tmp_path.rglob("*tfevents*"))
    assert read_tables(tmp_path / "mine")["epoch/loss"]


def test_several_loggers_share_a_folder(tmp_path):
    folder = tmp_path / "stats"

    def fitted(**options):
        callbacks = [
            Do(lambda trainer, values: values.update(double=2 * values["loss"])),
            TensorBoard(folder),
            CSV(folder),
            Checkpoints(tmp_path / "networks"),
        ]
        trainer(session=tmp_path, callbacks=callbacks, **options).fit()

    fitted(epochs=2)
    fitted(epochs=3, resume=True)
    board, tables = TestTensorBoard().read(folder), read_tables(folder)
    assert_same(tables, board)
    assert [step for step, _ in tables["epoch/loss"]] == [1, 2, 3]
    assert not (folder / "run-2").exists()


def test_a_logger_without_the_interface_cannot_be_made(tmp_path):
    class Half(Logger):
        def open(self, saved):
            pass

    with pytest.raises(TypeError, match="abstract method"):
        Half(tmp_path)
