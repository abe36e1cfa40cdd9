"""Checkpoints where the file system, the network or the state of a training is not as it should be."""

from __future__ import annotations

import errno
import fcntl
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from physgym import files
from physgym.errors import CheckpointError, ConfigError
from physgym.nn import Optimization
from physgym.training import (
    Callback,
    Checkpoints,
    EarlyStopping,
    LearningRateMonitor,
    TensorBoard,
    Trainer,
    list_checkpoints,
    load_checkpoint,
)
from physgym.training.checkpoint_files import save_checkpoint
from physgym.training.checkpoint_folders import find_checkpoint
from tests.conftest import label
from tests.support.memory_samples import MemorySource, linear_samples


class Flat(nn.Linear):
    def __init__(self):
        super().__init__(6, 4)

    def forward(self, force):
        return super().forward(force.flatten(1))


class Counts(Flat):
    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        pass


class Sparse(Flat):
    def __init__(self):
        super().__init__()
        self.register_buffer("adjacency", torch.eye(3).to_sparse())


class Own:
    """A schedule of one's own, without a state."""

    def __init__(self, optimizer):
        self.optimizer, self.steps = optimizer, 0

    def step(self):
        self.steps += 1


class Saves(Callback):
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state


class Later(Callback):
    """Has its state once the training begins."""

    def __init__(self, state):
        self._state = state

    def train_begin(self, trainer):
        self.state = self._state

    def state_dict(self):
        return {"state": self.state}


class Batches(Callback):
    last = None

    def batch_begin(self, trainer, batch):
        self.last = trainer.step


def made(network=None, folder=None, *, callbacks=(), scheduler=None, samples=None, optimization=None, **options):
    torch.manual_seed(0)
    network = Flat() if network is None else network
    optimization = Optimization(network, scheduler=scheduler) if optimization is None else optimization(network)
    given = {"epochs": 1, "progress": False, "session": folder, **options}
    samples = linear_samples(64) if samples is None else samples
    return Trainer(network, samples, optimization=optimization, callbacks=[*callbacks], **given)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"network": Counts()}, "'network._extra_state' of the network is a dict, which a checkpoint does not hold"),
        ({"network": Sparse()}, "'network.adjacency' of the network is a tensor of .*sparse_coo"),
        ({"scheduler": Own}, "the scheduler Own cannot be saved: it needs the methods state_dict and load_state_dict"),
        (
            {"callbacks": [Saves({"file": object()})]},
            "the callback Saves cannot be saved: .*state_dict/file is a object",
        ),
        ({"callbacks": [Saves([1])]}, "state_dict of Saves gave a list, not a dict"),
    ],
    ids=label,
)
def test_what_cannot_be_saved_is_said_when_the_trainer_is_built(tmp_path, options, text):
    with pytest.raises(CheckpointError, match=text):
        made(folder=tmp_path, **options)
    assert not list(tmp_path.iterdir())
    seen = Batches()
    made(**{**options, "callbacks": [*options.get("callbacks", ()), seen]}).fit()  # where nothing is saved it trains
    assert seen.last == 1


def test_a_callback_may_have_its_state_once_the_training_begins(tmp_path):
    seen = Batches()
    made(folder=tmp_path, callbacks=[Later(3), seen]).fit()
    assert seen.last == 1
    seen = Batches()
    with pytest.raises(CheckpointError, match="the callback Later cannot be saved"):
        made(folder=tmp_path, callbacks=[Later({1, 2}), seen]).fit()
    assert seen.last is None  # before the first batch


def test_a_schedule_of_ones_own_advances_with_batches_too():
    network = Flat()
    optimization = Optimization(network, scheduler=Own, scheduler_every="batch")
    made(network, optimization=lambda _: optimization, validation=None).fit()
    assert optimization.scheduler.steps == 2


class Terms(Optimization):
    def transform_loss(self, loss, prediction, target):
        return {"loss": loss, "energy": prediction["displacement"].square().mean()}


class Adds(Callback):
    adds = ("gap",)

    def epoch_end(self, trainer, values):
        values["gap"] = 1.0


class AddsUntold(Callback):
    def epoch_end(self, trainer, values):
        values["gap"] = 1.0


def rolled(predictor):
    return {"error": 1.0}


@pytest.mark.parametrize(
    ("monitor", "options"),
    [
        ("loss", {}),
        ("validation_loss", {}),
        ("samples", {}),
        ("energy", {"optimization": Terms}),
        ("validation_energy", {"optimization": Terms}),
        ("gap", {"callbacks": [Adds()]}),
        ("gap", {"callbacks": [AddsUntold()]}),
        ("lr_0", {"callbacks": [LearningRateMonitor()], "two": True}),
        ("rollout_error", {"rollout": rolled}),
    ],
    ids=label,
)
def test_what_an_epoch_gives_may_be_watched(monitor, options):
    callbacks = [*options.pop("callbacks", ()), EarlyStopping(monitor, patience=9)]
    if options.pop("two", False):
        options["optimization"] = lambda network: Optimization(
            network, optimizer=torch.optim.SGD([{"params": [p], "lr": 1e-3} for p in network.parameters()])
        )
    made(callbacks=callbacks, **options).fit()


@pytest.mark.parametrize(
    ("monitor", "options", "text"),
    [
        ("validation_los", {}, "'validation_loss'"),
        ("validation_loss", {"validation": None}, "There is no validation"),
        ("validation_loss", {"validation": None, "callbacks": [AddsUntold()]}, "There is no validation"),
        ("energi", {"optimization": Terms}, "'energy'.*'validation_energy'"),
        ("rollout_error", {}, "There is no rollout"),
        ("gap", {"callbacks": [TensorBoard("unused"), LearningRateMonitor("batch")][:1]}, "does not give"),
    ],
    ids=label,
)
@pytest.mark.parametrize("kind", [EarlyStopping, Checkpoints])
def test_what_no_epoch_gives_is_said_when_the_trainer_is_built(tmp_path, monitor, options, text, kind):
    watcher = EarlyStopping(monitor) if kind is EarlyStopping else Checkpoints(tmp_path, monitor=monitor)
    options = dict(options)
    callbacks = [*options.pop("callbacks", ()), watcher]
    with pytest.raises(ConfigError, match=f"{kind.__name__} watches '{monitor}'.*{text}"):
        made(callbacks=callbacks, **options)


@pytest.mark.parametrize("produce", ["always", "first_epoch"])
def test_validation_of_a_source(produce):
    source = MemorySource(linear_samples(64))
    options = {"source": source, "produce": produce, "batches_per_epoch": 2, "epochs": 1, "progress": False}
    callbacks = [EarlyStopping()]
    if produce == "always":
        with pytest.raises(ConfigError, match=r"watches 'validation_loss'.* There is no validation"):
            Trainer(Flat(), callbacks=callbacks, **options)
    else:
        assert Trainer(Flat(), callbacks=callbacks, **options).fit()["validation_loss"]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_by_a_rollout(tmp_path, mode):
    errors = iter([3.0, 1.0, math.nan, 2.0])
    saves = Checkpoints(tmp_path, monitor="rollout_error", mode=mode)
    rollout = {"rollout": lambda predictor: {"error": next(errors)}, "rollout_every": 1}
    made(callbacks=[saves], epochs=4, **rollout).fit()
    kept = [path.name for path in list_checkpoints(tmp_path)]
    assert kept == ["epoch-0002" if mode == "min" else "epoch-0001", "epoch-0004"]
    assert find_checkpoint(tmp_path, "best").name == kept[0]
    with pytest.raises(ConfigError, match="mode must be one of"):
        Checkpoints(tmp_path, mode="least")


# --- numbers that are not finite


def test_weights_that_are_not_finite_are_named(tmp_path):
    trainer = made(folder=tmp_path, validation=None)
    trainer.fit()
    load_checkpoint(tmp_path, network=Flat())
    with torch.no_grad():
        trainer.predictor.network.weight[0, 1] = math.nan
        trainer.predictor.network.bias[2] = math.inf
    save_checkpoint(tmp_path / "broken", trainer.predictor, trainer.state_dict())
    names = r"network.weight \(1 of 24\), network.bias \(1 of 4\)"
    with pytest.warns(RuntimeWarning, match=f"not finite in ({names}|.*)") as seen:
        load_checkpoint(tmp_path / "broken", network=Flat())
    assert "network.weight (1 of 24)" in str(seen[0].message)
    assert "network.bias (1 of 4)" in str(seen[0].message)
    with pytest.warns(RuntimeWarning, match="not finite"):
        made(resume=tmp_path / "broken", validation=None)


def test_a_mask_of_infinities_is_meant(tmp_path):
    network = Flat()
    network.register_buffer("mask", torch.full((3,), -math.inf))
    made(network, tmp_path).fit()
    again = Flat()
    again.register_buffer("mask", torch.zeros(3))
    assert load_checkpoint(tmp_path, network=again).network.mask.isinf().all()


# --- file systems


def test_a_file_system_without_modes_locks_and_flushing_of_folders_is_enough(tmp_path, monkeypatch):
    fsync = os.fsync

    def chmod(*args, **kwargs):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def flock(descriptor, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    def flush(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "chmod", chmod)
    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(files, "_said", set())
    with (
        pytest.warns(RuntimeWarning, match="has no locks"),
        pytest.warns(RuntimeWarning, match="does not change permissions"),
        pytest.warns(RuntimeWarning, match="cannot write folders through to the disk"),
    ):
        made(folder=tmp_path).fit()
    load_checkpoint(tmp_path, network=Flat())


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / ".tmp-mine").mkdir()
    (tmp_path / ".notes-0123456789abcdef.tmp").mkdir()
    (tmp_path / ".notes-0123456789abcdef.tmp" / "mine.txt").touch()
    for left in (".tmp-epoch-0001-123-456", ".epoch-0001-0123456789abcdef.tmp"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "network.safetensors").touch()
    made(callbacks=[Checkpoints(tmp_path)]).fit()
    hidden = {path.name for path in tmp_path.iterdir() if path.name.startswith(".")}
    assert hidden == {".tmp-mine", ".notes-0123456789abcdef.tmp"}


def test_a_simulation_that_goes_elsewhere_moves_nothing(tmp_path, monkeypatch):
    home, case = tmp_path / "home", tmp_path / "case"
    home.mkdir()
    case.mkdir()
    monkeypatch.chdir(home)

    class Elsewhere(Callback):
        def epoch_begin(self, trainer):
            os.chdir(case)

    made(folder="sessions/a", callbacks=[Elsewhere()]).fit()
    os.chdir(home)
    made(callbacks=[Elsewhere(), Checkpoints("b"), TensorBoard("c")]).fit()
    os.chdir(home)
    made(folder="sessions/a", callbacks=[Elsewhere()], resume=True, epochs=2).fit()
    assert not list(case.iterdir())
    assert {path.name for path in home.iterdir()} == {"sessions", "b", "c"}
    assert load_checkpoint(home / "sessions/a", network=Flat()).outputs == ("displacement",)
    assert np.isfinite(load_checkpoint(home / "b", network=Flat()).network.weight.detach().numpy()).all()
