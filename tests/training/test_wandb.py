"""The contract of trackers on W&B in its offline mode, read from the files that ``wandb sync`` would send."""

from __future__ import annotations

import importlib.util
import json
import socket
import time

import pytest

from physgym.errors import ConfigError
from physgym.testing.loggers import LoggedTraining
from physgym.testing.trackers import TrackerContract
from physgym.training import WandB
from physgym.training.wandb_logger import AXES

pytestmark = [  # importing it takes seconds
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed"),
]
BLOCK, HEADER = 1 << 15, 7  # of a log of LevelDB, whose first block begins with the header of the file


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_SERVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-own"))
    yield
    import wandb

    wandb.teardown()  # ends the process that W&B keeps


def records(file):
    """The records of a file of W&B's."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def rows(file):
    """The rows of a run: values by name, those of a medium by its name and their own."""
    for record in records(file):
        if record.HasField("history"):
            yield {
                (item.key or item.nested_key[0], *item.nested_key[1:]): json.loads(item.value_json)
                for item in record.history.item
            }


def files_of(logger):
    return sorted(logger.folder.glob("wandb/offline-run-*/run-*.wandb"))


class TestWandB(TrackerContract):
    def make(self, folder):
        return WandB(folder, mode="offline", run="mine", later=True)

    def runs(self, logger):
        return [self.curves(file) for file in files_of(logger)]

    def curves(self, file):
        found = {}
        for row in rows(file):
            [step] = [row[axis,] for axis in AXES.values() if (axis,) in row]
            for (name, *more), value in row.items():
                if not more and not name.startswith(("_", "physgym/")):
                    found.setdefault(name, []).append((step, float(value)))
        return found

    def test_no_row_is_below_the_last_one(self, tmp_path):
        logger = self.make(tmp_path / "stats")
        run = LoggedTraining(logger)
        run.go(8)
        logger.add_scalar("early", 1.0, step=2)
        logger.close()
        self.send(logger)
        [file] = files_of(logger)
        numbers = [row["_step",] for row in rows(file)]
        assert numbers == sorted(set(numbers))
        axes = {record.metric.name: record.metric.step_metric for record in records(file) if record.HasField("metric")}
        assert (axes["batch/loss"], axes["epoch/loss"], axes["early"]) == tuple(AXES.values())

    def test_configuration_and_media_are_there(self, tmp_path):
        self.test_what_is_no_curve_is_taken_or_left_out(tmp_path)
        [file] = files_of(self.make(tmp_path / "stats"))
        kinds = {name: value for row in rows(file) for (name, *more), value in row.items() if more == ["_type"]}
        assert kinds == {"weights": "histogram", "field": "image-file", "plot": "image-file", "note": "html-file"}
        [text] = file.parent.rglob("note*.html")
        assert text.read_text() == "<pre>a &lt; b</pre>"

    def test_offline_files_of_a_run_that_is_repeated_are_removed(self, tmp_path):
        self.test_a_resumed_training_has_all_values_in_one_run(tmp_path, 4)
        assert len(files_of(self.make(tmp_path / "stats"))) == 1


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="mode must be one of"):
        WandB(tmp_path, mode="onlin")


def test_a_server_that_never_answers_ends_and_blocks_nothing(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        logger = WandB(tmp_path, wait=3.0)
        begun = time.monotonic()
        LoggedTraining(logger).go(12)
        assert time.monotonic() - begun < 20
        with pytest.warns(RuntimeWarning, match=r"not sent completely.*send them with: physgym sync"):
            logger.close()
        assert time.monotonic() - begun < 60
    assert len(WandB.read(tmp_path)["epoch/loss"]) == 2
