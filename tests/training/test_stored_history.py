"""The history in a checkpoint, read without the training."""

import json
import math

import numpy as np
import pytest

from physgym.errors import CheckpointError
from physgym.nn import MLP
from physgym.training import Trainer, find_checkpoint, save_checkpoint
from physgym.training.stored_history import read_history
from tests.report.test_dataset_report import numbers


@pytest.fixture
def trainer(tmp_path):
    dataset = numbers(tmp_path / "data", np.arange(40.0))
    network = MLP.from_spec(dataset.spec, hidden=(2,))
    found = Trainer(network, dataset, epochs=2, seed=3, session=tmp_path / "s", progress=False, record=False)
    found.fit()
    return found


def test_it_is_that_of_the_training(trainer):
    trainer.history.epochs[0]["odd"] = math.inf
    history, settings = read_history(trainer.session)
    assert history["loss"] == trainer.history["loss"]
    assert history["epoch"] == [1, 2]
    assert (settings["validation"], settings["seed"]) == (0.1, 3)


def test_what_is_damaged_or_missing_is_said(trainer, tmp_path):
    folder = find_checkpoint(trainer.session)
    file = folder / "training.json"
    file.write_text(json.dumps({"dict": {}}))
    with pytest.raises(CheckpointError, match="changed after it was written"):
        read_history(folder)
    save_checkpoint(tmp_path / "bare", trainer.predictor)
    with pytest.raises(CheckpointError, match="there are no curves"):
        read_history(tmp_path / "bare")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        read_history(tmp_path / "nowhere")
