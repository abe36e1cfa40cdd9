"""Trainings from configurations, in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import physgym
from physgym import cli
from physgym.data import surgery
from physgym.data.dataset import SampleDataset
from physgym.data.dataset_parts import PARTS, EpisodeSplit
from physgym.data.provenance import learned_samples
from physgym.errors import CheckpointError, ConfigError, DatasetError
from physgym.experiment import training_plan
from physgym.experiment.config import check_config, load_config
from physgym.experiment.record import read_record
from physgym.experiment.runs import generate_samples, train
from physgym.generation import episode_plan
from physgym.generation.online import Online
from physgym.nn import MLP
from physgym.training import Callback, list_checkpoints, load_checkpoint
from physgym.training.trainer import Trainer
from tests.support.configurations import changed_config
from tests.support.repositories import ignoring
from tests.support.weights import same_weights


def config(folder, **changes):
    data = {
        "session": str(folder / "session"),
        "environment": {"id": "physgym/Spring-v0"},
        "dataset": {"samples": 640, "num_workers": 1},
        "network": {"arguments": {"hidden": [8], "dropout": 0.1}},
        "training": {"epochs": 3, "batch_size": 64, "checkpoints": {"steps": 2}},
    }
    return changed_config(data, changes)


class Crash(Callback):
    def __init__(self, step):
        self.step = step

    def batch_end(self, trainer, values):
        if trainer.step == self.step:
            raise RuntimeError("crash")


def crashing(monkeypatch, step):
    """Every trainer that is made crashes once, at a step."""
    made = Trainer.__init__

    def init(self, *arguments, callbacks=(), **options):
        made(self, *arguments, callbacks=[*callbacks, Crash(step)], **options)

    monkeypatch.setattr(Trainer, "__init__", init)


def last(session):
    return load_file(list(list_checkpoints(Path(session) / "networks"))[-1] / "network.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("produce", ["before", "first_epoch", "always"])
def test_a_crashed_training_is_resumed_from_its_folder_alone(tmp_path, monkeypatch, produce):
    changes = {"dataset": {"produce": produce}, "sampler": {"parameters": "sobol"}}
    whole = train(config(tmp_path, session=str(tmp_path / "whole"), **changes))
    with monkeypatch.context() as patch:
        crashing(patch, step=11)
        with pytest.raises(RuntimeError, match="crash"):
            train(config(tmp_path, **changes))
    session = tmp_path / "session"
    assert "outcome: RuntimeError: crash" in (session / "info.txt").read_text()
    again = load_config(session / "config.yaml")
    outcome = train(again, resume=session)
    assert outcome.session == session
    assert "outcome: completed" in (session / "info.txt").read_text()
    assert same_weights(last(whole.session), last(session))


@pytest.mark.slow
@pytest.mark.parametrize("produce", ["before", "first_epoch"])
def test_killed_while_samples_are_made_it_goes_on_with_them(tmp_path, monkeypatch, produce):
    changes = {"dataset": {"produce": produce}, "sampler": {"actions": "lhs:8"}}
    whole = train(config(tmp_path, session=str(tmp_path / "whole"), **changes))
    session, stored = tmp_path / "session", physgym.SampleDataset
    with monkeypatch.context() as patch:
        real = episode_plan.episode_seed
        patch.setattr(episode_plan, "episode_seed", lambda run, e, *part: 1 / 0 if e else real(run, 0, *part))
        with pytest.raises(ZeroDivisionError):
            train(config(tmp_path, environment={"arguments": {}}, **changes))
    assert not list_checkpoints(session / "networks")
    train(load_config(session / "config.yaml"), resume=session)
    assert len(stored(session / "dataset")) == 640
    assert same_weights(last(whole.session), last(session))


@pytest.mark.slow
def test_a_dataset_gets_more_samples_by_the_samplers_it_was_made_with(tmp_path):
    options = {"parameters": "sobol", "actions": "gaussian", "seed": 5, "max_steps": 20, "num_workers": 1}
    whole = physgym.generate("physgym/Spring-v0", tmp_path / "whole", samples=640, progress=False, **options)
    physgym.generate("physgym/Spring-v0", tmp_path / "data", samples=250, progress=False, **options)
    train(config(tmp_path, dataset={"path": str(tmp_path / "data")}))
    longer = physgym.SampleDataset(tmp_path / "data")
    assert len(longer) == 640
    assert all(np.array_equal(longer[:][name], whole[:][name]) for name in whole.spec)
    with pytest.raises(ConfigError, match=r"sampler\.parameters: .*sobol"):
        train(config(tmp_path, dataset={"path": str(tmp_path / "data"), "samples": 700}, sampler={"parameters": "lhs"}))


@pytest.mark.slow
def test_a_training_goes_on_from_a_network(tmp_path):
    first = train(config(tmp_path))
    changes = {"path": str(first.session / "dataset")}
    network = {"start_from": str(first.session), "which": "best", "arguments": {}}
    second = train(config(tmp_path, dataset=changes, network=network, training={"epochs": 1}))
    assert second.session == tmp_path / "session-2"
    assert second.history["loss"][0] < first.history["loss"][0]
    with pytest.raises(ConfigError, match=r"network\.start_from: .* brings its arguments"):
        train(config(tmp_path, dataset=changes, network={"start_from": str(first.session)}))


@pytest.mark.slow
def test_stored_samples_drive_the_simulation(tmp_path):
    physgym.generate("physgym/Spring-v0", tmp_path / "data", samples=400, num_workers=1, progress=False)
    outcome = train(config(tmp_path, dataset={"load_samples": str(tmp_path / "data"), "samples": None}))
    made = physgym.SampleDataset(outcome.session / "dataset")
    assert made.source["actions"] == {"sampler": "load_sample"}
    assert len(made) == 400


def test_online_training_stores_on_the_way(tmp_path, monkeypatch):
    made = []

    def online(*arguments, **options):
        made.append(Online(*arguments, **options))
        return made[0]

    monkeypatch.setattr(training_plan, "Online", online)
    changes = {"produce": "online", "samples": None, "path": str(tmp_path / "data"), "timeout": 77.0}
    changes["online"] = {"capacity": 64, "minimum": 20, "samples": 100}
    outcome = train(config(tmp_path, dataset=changes, training={"batches_per_epoch": 6}))
    assert outcome.history["online_received"][-1] <= 100
    assert outcome.history.epochs[-1]["online_seen"] > 0
    assert 0 < len(physgym.SampleDataset(tmp_path / "data")) <= 100
    assert [one.timeout for one in made] == [77.0]


@pytest.mark.slow
def test_validation_by_rollout_and_early_stopping(tmp_path):
    options = {
        "epochs": 50,
        "early_stopping": {"patience": 1, "min_delta": 1000.0},
    }
    outcome = train(config(tmp_path, training=options, validation={"rollout": {"steps": 3, "every": 1}}))
    assert len(outcome.history.epochs) == 2
    assert outcome.history.stopped.startswith("validation_loss was not better")
    assert f"outcome: stopped: {outcome.history.stopped}" in (outcome.session / "info.txt").read_text()
    assert len(outcome.history["rollout_relative_l2/next_state"]) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"optimization": {"accumulate": 2, "precision": "bfloat16", "clip_norm": 1.0}},
        pytest.param(
            {"training": {"loader_workers": 1, "on_nonfinite": "skip", "checkpoints": {"keep": None, "best": False}}},
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_options_reach_the_trainer(tmp_path, options):
    outcome = train(config(tmp_path, **options))
    assert np.isfinite(outcome.history["validation_loss"]).all()
    if "training" in options:
        assert len(list_checkpoints(outcome.session / "networks")) == 3
    else:
        assert (outcome.trainer.optimization.accumulate, outcome.trainer.optimization.precision) == (2, "bfloat16")


def call(*arguments):
    return cli.app([str(argument) for argument in arguments], standalone_mode=False)


@pytest.mark.slow
def test_resume_on_the_command_line(tmp_path, capsys, monkeypatch, identity):
    ignoring(tmp_path)
    monkeypatch.chdir(tmp_path)
    train(config(tmp_path))
    session = tmp_path / "session"
    call("resume", session, "training.epochs=5")
    assert "epoch 5" in capsys.readouterr().out
    assert yaml.safe_load((session / "config.yaml").read_text())["training"]["epochs"] == 5
    call("resume", session)
    assert "session is completed: there is nothing left to train" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"there is no .*none; name a YAML file or the folder of a session"):
        call("resume", tmp_path / "none")
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        call("resume", session, "training.epoch=7")


@pytest.mark.slow
def test_a_schedule_over_all_epochs_is_not_prolonged(tmp_path, monkeypatch, identity):
    ignoring(tmp_path)
    monkeypatch.chdir(tmp_path)
    train(config(tmp_path, optimization={"schedule": "cosine"}))
    with pytest.raises(ConfigError, match=r"spans the 3 epochs .*physgym train .*start_from"):
        call("resume", tmp_path / "session", "training.epochs=5")


def test_several_datasets_are_read_as_one(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        options = {"samples": 40, "max_steps": 10, "num_workers": 0, "progress": False, "seed": seed}
        physgym.generate("physgym/Spring-v0", tmp_path / name, **options)
    data = {
        "session": str(tmp_path / "session"),
        "dataset": {"path": [str(tmp_path / "a"), str(tmp_path / "b")]},
        "network": {"arguments": {"hidden": [4]}},
        "training": {"epochs": 1},
        "validation": {"fraction": 0},
    }
    outcome = train(check_config(data, "test"))
    assert len(outcome.trainer.training) == 80
    assert len(np.unique(outcome.trainer.training.episodes)) == 8  # those of the same number are not one
    data["dataset"]["path"] = [str(tmp_path / "a"), str(tmp_path / "c")]
    with pytest.raises(DatasetError, match=r"there is no dataset at .*c"):
        train(check_config(data, "test"))
    data["environment"] = {"id": "physgym/Spring-v0"}
    with pytest.raises(ConfigError, match="writes one dataset"):
        generate_samples(check_config(data, "test"))


def test_a_network_of_double_precision(tmp_path):
    outcome = train(config(tmp_path, optimization={"precision": "float64"}, training={"epochs": 1}))
    weights = last(outcome.session)
    assert {value.dtype for name, value in weights.items() if name.startswith("network.")} == {torch.float64}
    assert load_checkpoint(outcome.session).dtype == torch.float64


def split_config(folder, **changes):
    """A training on eight of ten episodes; of the others one validates and one tests."""
    dataset = {
        "path": str(folder / "data"),
        "samples": None,
        "split": {"training": 0.8, "validation": 0.1, "test": 0.1},
    }
    return config(folder, **{"dataset": {**dataset, **changes.pop("dataset", {})}, **changes})


@pytest.fixture(scope="module")
def twenty(tmp_path_factory):
    """Twenty episodes of five steps."""
    path = tmp_path_factory.mktemp("twenty") / "data"
    return physgym.generate("physgym/Spring-v0", path, episodes=20, max_steps=5, num_workers=0, progress=False)


@pytest.mark.slow
def test_the_test_part_is_in_no_training_and_in_no_statistics(tmp_path, twenty):
    made = split_config(tmp_path, dataset={"path": str(twenty.paths[0])}, training={"epochs": 1})
    outcome = train(made)
    trainer, split = outcome.trainer, EpisodeSplit(0.8, 0.1, 0.1)
    wanted = {part: twenty.part(part, split) for part in PARTS}
    assert [len(wanted[part]) for part in PARTS] == [80, 10, 10]
    for found, part in ((trainer.training, "training"), (trainer.validation, "validation")):
        np.testing.assert_array_equal(found.index("episode"), wanted[part].index("episode"))
    normal = trainer.predictor.transforms.before_prediction
    mean = getattr(normal, f"mean_{list(normal.shapes).index('state')}")
    np.testing.assert_allclose(mean, wanted["training"].gather(np.arange(80))["state"].mean(0), rtol=1e-5)
    run = read_record(outcome.session)["runs"][-1]
    assert run["dataset"]["split"] == {"training": 0.8, "validation": 0.1, "test": 0.1, "seed": 0}
    seen = set(learned_samples(outcome.session).index("episode").tolist())
    assert seen == set(range(20)) - set(wanted["test"].index("episode").tolist())
    # the same where it goes on, and another split is refused
    again = made.model_copy(update={"training": made.training.model_copy(update={"epochs": 2})})
    resumed = train(again, outcome.session).trainer
    np.testing.assert_array_equal(resumed.training.index("episode"), trainer.training.index("episode"))
    other = again.dataset.model_copy(update={"split": again.dataset.split.model_copy(update={"seed": 1})})
    with pytest.raises(CheckpointError, match=r"split was 'training=0.8 validation=0.1 test=0.1 seed=0', now it is"):
        train(again.model_copy(update={"dataset": other}), outcome.session)


def test_a_recorded_split_holds_without_being_asked_for(tmp_path, twenty):
    path = tmp_path / "data"
    surgery.describe(twenty.paths[0], {"split": "training=0.9 test=0.1 seed=2"}, path)
    dataset = SampleDataset(path)
    tested = set(dataset.part("test").index("episode").tolist())
    assert len(tested) == 2
    trainer = train(
        config(tmp_path, dataset={"path": str(path), "samples": None}, training={"epochs": 1}), None
    ).trainer
    by_hand = Trainer(MLP.from_spec(dataset.spec, hidden=(4,)), dataset, epochs=1, progress=False)
    for one in (trainer, by_hand):
        episodes = [set(part.index("episode").tolist()) for part in (one.training, one.validation)]
        assert [len(part) for part in episodes] == [16, 2]  # a tenth of the training part validates
        assert episodes[0].isdisjoint(episodes[1])
        assert episodes[0] | episodes[1] == set(range(20)) - tested
    with pytest.raises(ConfigError, match="the training part has no samples"):
        Trainer(MLP.from_spec(dataset.spec, hidden=(4,)), dataset.part("test"), epochs=1, progress=False)
    with pytest.raises(ConfigError, match="the dataset records the split"):
        train(split_config(tmp_path), None)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"dataset": {"split": {"training": 0.8, "test": 0.1}}}, r"dataset\.split: the parts of a split add up to 1"),
        ({"dataset": {"produce": "online"}}, "split divides a dataset that is there before the training"),
        ({"dataset": {"split": {"training": 1.0, "tset": 0.1}}}, "did you mean 'test'"),
    ],
)
def test_a_split_that_cannot_be_is_an_error_of_the_configuration(tmp_path, changes, text):
    with pytest.raises(ConfigError, match=text):
        split_config(tmp_path, **changes)
