"""Samples of one's own that a configuration names: datasets and loaders of torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

import physgym
from physgym import cli
from physgym.errors import ConfigError
from physgym.experiment.runs import check, generate_samples, train
from physgym.training import load_checkpoint
from tests.support.configurations import changed_config
from tests.support.repositories import identity, ignoring  # noqa: F401 - a fixture

X = np.random.default_rng(0).normal(size=(40, 3)).astype("f4")


class Pairs(Dataset):
    def __init__(self, factor=2.0, count=40):
        self.factor, self.count = factor, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return X[index], self.factor * X[index]


class Named(Pairs):
    def __getitem__(self, index):
        return {"x": X[index], "y": self.factor * X[index]}


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield {"input": torch.ones(3), "target": torch.zeros(3)}


@physgym.factory
def loader(batch_size):
    return DataLoader(Pairs(), batch_size=batch_size, shuffle=True)


called = []


def unmarked():
    called.append(True)
    return Pairs()


class NoDataset:
    def __init__(self):
        called.append(True)


@physgym.factory
def nothing():
    return 5


def config(folder, kind, **changes):
    data = {
        "session": str(folder / "session"),
        "dataset": {"type": kind},
        "network": {"arguments": {"hidden": []}},
        "optimization": {"lr": 0.1},
        "training": {"epochs": 12, "batch_size": 8},
    }
    return changed_config(data, changes)


def own(name, **arguments):
    return {"type": f"tests.training.test_own_samples:{name}", "arguments": arguments}


@pytest.fixture
def place(tmp_path, monkeypatch, identity):  # noqa: F811
    ignoring(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "more", "validated"),
    [
        (own("Pairs", factor=3.0), {}, True),
        (own("Named", factor=3.0), {"inputs": ["x"], "outputs": ["y"]}, True),
        (own("loader", batch_size=10), {}, False),
        (own("Endless"), {"training": {"epochs": 2, "batches_per_epoch": 3}}, False),
    ],
)
def test_they_are_trained_on(place, kind, more, validated):
    outcome = train(config(place, kind, **more))
    losses = outcome.history["loss"]
    assert losses[-1] < 0.2 * losses[0] or kind["type"].endswith("Endless")
    assert ("validation_loss" in outcome.history.epochs[-1]) is validated
    assert len(outcome.trainer.predictor.inputs) == 1
    loaded = load_checkpoint(outcome.session)
    want = outcome.trainer.predictor.predict({loaded.inputs[0]: X[0]})
    assert all(np.array_equal(loaded.predict({loaded.inputs[0]: X[0]})[name], value) for name, value in want.items())


@pytest.mark.slow
def test_a_session_of_them_goes_on(place):
    whole = train(config(place, own("Pairs"), session=str(place / "whole"), training={"epochs": 3}))
    first = train(config(place, own("Pairs"), training={"epochs": 2}))
    cli.app(["resume", str(first.session), "training.epochs=3"], standalone_mode=False)
    ours, theirs = (load_checkpoint(session) for session in (first.session, whole.session))
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            own("unmarked"),
            "dataset.type: tests.training.test_own_samples:unmarked is a function, and nothing else is called",
        ),
        (
            own("NoDataset"),
            "dataset.type: .* is the class NoDataset, and nothing else is called than a subclass of tor",
        ),
        (own("nothing"), "dataset.type: .* gives 5, which is no dataset or loader of torch"),
        (own("Pairs", factr=1.0), "dataset.type: .*; did you mean 'factor'"),
        (own("Missing"), "has no 'Missing'"),
        (own("Endless"), "training.batches_per_epoch: missing"),
    ],
)
def test_what_is_none_is_not_called(place, kind, text):
    with pytest.raises(ConfigError, match=text):
        train(config(place, kind))
    assert not called
    assert not (place / "session").exists()


def test_what_does_not_go_together_is_said(place):
    for more in ({"path": "data"}, {"samples": 9}, {"produce": "always"}):
        with pytest.raises(ConfigError, match="samples of your own"):
            config(place, own("Pairs"), dataset={"type": own("Pairs"), **more})
    with pytest.raises(ConfigError, match="unknown name; give your own as module:attr"):
        config(place, "Pairs")
    with pytest.raises(ConfigError, match="there are none to generate"):
        generate_samples(config(place, own("Pairs"), environment={"id": "physgym/Spring-v0"}))
    check(config(place, own("Pairs")))


@pytest.mark.slow
def test_a_few_are_tried(place):
    outcome = train(config(place, own("Pairs"), dataset={"type": own("Pairs"), "mini": 10}, training={"epochs": 1}))
    assert len(outcome.trainer.training) + len(outcome.trainer.validation) == 10
    outcome = train(config(place, own("loader"), dataset={"type": own("loader", batch_size=8), "mini": 10}))
    assert outcome.trainer.step == 2 * 12
