"""Metrics and test sets during a training."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

import physgym
from physgym.data.dataset import SampleDataset
from physgym.errors import ConfigError, DatasetError
from physgym.experiment.config import check_config
from physgym.experiment.runs import train
from physgym.nn import MLP
from physgym.training import CSV, Checkpoints, EarlyStopping, Metrics, Trainer
from tests.support.rollouts import TURN, Turn, predictor, turning


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Datasets of other episodes."""
    folder = tmp_path_factory.mktemp("metrics")
    options = {"max_steps": 5, "num_workers": 0, "progress": False}
    physgym.generate("physgym/Spring-v0", folder / "train", episodes=10, seed=0, **options)
    physgym.generate("physgym/Spring-v0", folder / "other", episodes=3, seed=5, **options)
    return folder


@pytest.fixture
def dataset(data):
    return SampleDataset(data / "train")


def trainer(dataset, callbacks, **options):
    torch.manual_seed(3)
    network = MLP.from_spec(dataset.spec, hidden=(4,))
    return Trainer(network, dataset, epochs=2, callbacks=callbacks, progress=False, seed=1, **options)


def test_metrics_and_losses_of_test_sets_are_in_the_history_and_the_curves(tmp_path, data, dataset):
    other = SampleDataset(data / "other")
    metrics = Metrics(["mae", "max_error"], {"far": other}, batch_size=7)
    made = trainer(dataset, [metrics, CSV(tmp_path)], validation=0.2)
    history = made.fit()
    for samples, prefix in ((made.validation, "validation_"), (other, "test_far_")):
        rows = samples.gather(np.arange(len(samples)))
        errors = np.abs(made.predictor.predict(rows, batched=True)["next_state"].astype("f8") - rows["next_state"])
        assert history[f"{prefix}mae/next_state"][-1] == pytest.approx(errors.mean(), rel=1e-6)
        assert history[f"{prefix}max_error/next_state"][-1] == pytest.approx(errors.max(), rel=1e-6)
        assert history[f"{prefix}loss"][-1] == pytest.approx(made.evaluate(samples)["loss"])
    assert len(history["test_far_loss"]) == 2
    with (tmp_path / "epochs.csv").open() as file:
        written = list(csv.DictReader(file))
    assert float(written[-1]["test_far_mae/next_state"]) == history["test_far_mae/next_state"][-1]
    # they change nothing of the training
    alone = trainer(dataset, [], validation=0.2).fit()
    assert alone["validation_loss"] == history["validation_loss"]


def test_a_metric_may_choose_a_checkpoint_and_a_test_set_may_not(tmp_path, data, dataset):
    metrics = Metrics(["mae"], {"far": SampleDataset(data / "other")}, fields=["next_state"])
    stopping = EarlyStopping("validation_mae/next_state")
    trainer(dataset, [metrics, stopping], validation=0.2).fit()
    assert stopping.best is not None
    for name in ("test_far_loss", "validation_mae/state"):
        with pytest.raises(ConfigError, match=f"watches '{name}', which an epoch of this training does not give"):
            trainer(dataset, [metrics, EarlyStopping(name)], validation=0.2)
        with pytest.raises(ConfigError, match="watches"):
            trainer(dataset, [metrics, Checkpoints(tmp_path / "networks", monitor=name)], validation=0.2)


def test_what_cannot_be_measured_is_refused(data, dataset):
    other = SampleDataset(data / "other")
    for arguments, error, text in (
        ((["mape"],), ConfigError, "there is no metric 'mape'"),
        (([], {"a/b": other}), ConfigError, "a name of letters and digits"),
        (([], {"far": [1]}), ConfigError, "test set far must be samples with a spec"),
        (([], {"far": other.subset(np.zeros(0, int))}), DatasetError, "the test set far has no samples"),
    ):
        with pytest.raises(error, match=text):
            Metrics(*arguments)
    small = SampleDataset(data / "other", fields=["state", "next_state"])
    with pytest.raises(ConfigError, match="the test set far samples have None as field"):
        trainer(dataset, [Metrics([], {"far": small})]).fit()
    with pytest.warns(UserWarning, match="the samples of the test set same"):
        trainer(dataset, [Metrics([], {"same": dataset})]).fit()


def test_a_configuration_names_metrics_and_test_sets(tmp_path, data):
    config = {
        "session": str(tmp_path / "session"),
        "environment": {"id": "physgym/Spring-v0"},
        "dataset": {"path": str(data / "train"), "samples": None, "split": {"training": 0.8, "test": 0.2}},
        "network": {"arguments": {"hidden": [4]}},
        "training": {
            "epochs": 2,
            "metrics": ["relative_l2", "tests.training.test_metrics:furthest"],
            "test": {"far": str(data / "other"), "held": str(data / "other" / ".." / "train")},
            "early_stopping": {"monitor": "validation_relative_l2/next_state"},
        },
    }
    made = check_config(config, "test")
    outcome = train(made)
    wanted = {f"{prefix}{name}/next_state" for prefix in ("validation_", "test_far_", "test_held_") for name in NAMES}
    assert wanted | {"test_far_loss", "test_held_loss"} <= set(outcome.history.epochs[-1])
    report = physgym.evaluate(outcome.trainer.predictor, data / "other", progress=False)
    assert outcome.history["test_far_relative_l2/next_state"][-1] == pytest.approx(report["relative_l2/next_state"])
    held = physgym.evaluate(outcome.session, which="last", progress=False)  # its own test part
    assert held.episodes == 2
    assert outcome.history["test_held_relative_l2/next_state"][-1] == pytest.approx(held["relative_l2/next_state"])
    for key, value, text in (
        ("metrics", ["mape"], "training: there is no metric 'mape'"),
        ("test", {"far": str(data / "none")}, r"training\.test\.far: there is no dataset at"),
    ):
        with pytest.raises(ConfigError, match=text):
            train(check_config({**config, "training": {**config["training"], key: value}}, "test"))


NAMES = ("relative_l2", "furthest")


def furthest(prediction, target):
    return np.abs(prediction - target).reshape(len(target), -1).max(1)


@pytest.mark.filterwarnings("ignore:.*the samples of the test set held")
@pytest.mark.parametrize("once", [False, True])
def test_metrics_of_an_unrolled_training_are_those_of_single_steps(tmp_path, once):
    """Also where samples hold the state once, and the next row is the target."""
    data = turning(tmp_path / "d", [6, 6, 6, 6], push=0.5, once=once)
    held = turning(tmp_path / "held", [5, 5], push=0.5, once=once, env="tests:Other")
    network = predictor(Turn(1.5))
    metrics = Metrics(["mae"], {"held": held}, batch_size=3)
    made = Trainer(network, data, epochs=1, unroll=2, validation=0.5, callbacks=[metrics], progress=False)
    history = made.fit()
    (factor,) = network.network.parameters()
    rows = [held.episode(number) for number in (0, 1)]
    after = [one["state"][:-1] @ TURN.T + one["push"][:-1] for one in rows]
    if not once:
        after = [one["next_state"] for one in rows]
    expected = np.abs(factor.item() - 1) * np.abs(np.concatenate(after)).mean()
    assert history["test_held_mae/next_state"][-1] == pytest.approx(expected)
    assert np.isfinite(history["validation_mae/next_state"][-1])


class TurnWindows(Turn):
    """Two steps from the last one of two states."""

    def forward(self, state, push):
        after = super().forward(state[:, 1], push[:, 1])
        return torch.stack([after, super().forward(after, push[:, 2])], 1)


def test_metrics_of_a_network_of_windows(tmp_path):
    windows = turning(tmp_path / "d", [6, 6, 6, 6], push=0.5, once=True).windows(2, 2)
    network = predictor(TurnWindows(1.5), windows.spec)
    metrics = Metrics(["mae"], {"same": windows.subset(np.arange(4))}, batch_size=3)
    with pytest.warns(UserWarning, match="the samples of the test set same"):
        history = Trainer(network, windows, epochs=1, validation=0.5, callbacks=[metrics], progress=False).fit()
    first = windows.gather(np.arange(4))
    errors = network.predict(first, batched=True)["next_state"] - first["next_state"]
    assert history["test_same_mae/next_state"][-1] == pytest.approx(np.abs(errors).mean())


class Counting(Turn):
    """A turn whose factor grows with the steps that it remembers."""

    recurrent = True

    def forward(self, state, push, memory=None):
        memory = torch.zeros_like(push) if memory is None else memory
        return super().forward(state, push) * (1 + memory), memory + 1


@pytest.mark.filterwarnings("ignore:.*the samples of the test set held")
@pytest.mark.parametrize("once", [False, True])
def test_a_recurrent_network_remembers_the_steps_of_each_episode(tmp_path, once):
    data = turning(tmp_path / "d", [4, 2, 4, 3, 4], push=0.5, once=once)
    held = turning(tmp_path / "held", [4, 2, 4, 3, 1], push=0.5, once=once, env="tests:Other")
    network = predictor(Counting(1.0))
    metrics = Metrics(["mae"], {"held": held}, batch_size=2)
    made = Trainer(network, data, epochs=1, unroll=1, validation=0, callbacks=[metrics], progress=False)
    made.fit()
    (factor,) = network.network.parameters()
    errors = []
    for number in range(5):
        rows = held.episode(number)
        target = rows["state"][1:] if once else rows["next_state"]
        steps = np.arange(len(target))
        after = (rows["state"] @ TURN.T + rows["push"])[: len(target)] * factor.item() * (1 + steps)[:, None]
        errors.append(np.abs(after - target).ravel())
    assert made.history["test_held_mae/next_state"][-1] == pytest.approx(np.concatenate(errors).mean())


def test_a_field_that_cannot_be_measured_is_refused_before_the_first_batch(data, dataset):
    with pytest.raises(ConfigError, match=r"metrics of \['nope'\] cannot be measured: the network predicts"):
        trainer(dataset, [Metrics(["mae"], fields=["nope"])], validation=0.2).fit()
    made = trainer(dataset, [Metrics(["mae"], {"far": SampleDataset(data / "other")}, fields=["state"])])
    with pytest.raises(ConfigError, match=r"metrics of \['state'\] cannot be measured"):
        made.fit()
    assert not made.history.epochs
