"""Samples and loaders of one's own, as torch has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, random_split

import physgym
from physgym.errors import ConfigError, DatasetError
from physgym.nn import MLP
from physgym.training import Callback, Checkpoints, Trainer
from tests.support.memory_samples import linear_samples

rng = np.random.default_rng(0)
X = rng.normal(3.0, 2.0, size=(60, 3)).astype(np.float32)
Y = X @ rng.normal(size=(3, 2)).astype(np.float32)


class Pairs(Dataset):
    def __init__(self, length=60):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return X[index], torch.from_numpy(Y[index])


class Named(Pairs):
    def __getitem__(self, index):
        return {"x": X[index], "y": Y[index], "weight": 1.0}


class Stream(IterableDataset):
    def __iter__(self):
        for number in range(10**9):
            yield X[number % 60], Y[number % 60]


class Crash(Callback):
    def __init__(self, step):
        self.step = step

    def batch_end(self, trainer, values):
        if trainer.step == self.step:
            raise RuntimeError("crash")


def made(dataset, *, network=None, **options):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 2)) if network is None else network
    given = {"epochs": 3, "batch_size": 8, "progress": False, "seed": 1, **options}
    return Trainer(network, dataset, **given)


def same_values(one, other):
    return all(torch.equal(other[name], value) for name, value in one.items())


def test_pairs_are_input_and_target():
    trainer = made(Pairs())
    assert (trainer.predictor.inputs, trainer.predictor.outputs) == (("input",), ("target",))
    assert (len(trainer.training), len(trainer.validation)) == (54, 6)
    rows = trainer.training._indices
    np.testing.assert_allclose(trainer.training.statistics["input"].mean, X[rows].mean(0), rtol=1e-5)
    history = trainer.fit()
    assert history["loss"][-1] < history["loss"][0]
    assert history["samples"] == [54, 54, 54]
    shown = made(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)))
    shown.fit()
    assert same_values(shown.predictor.state_dict(), trainer.predictor.state_dict())


def test_dictionaries_are_fields_by_name():
    trainer = made(Named(), inputs=["x"], outputs=["y"], loss_fields=["y", "weight"])
    assert trainer.fields == ("x", "y", "weight")
    assert np.isfinite(trainer.fit()["validation_loss"]).all()
    with pytest.raises(ConfigError, match="no field has the role"):
        made(Named())


def test_episodes_of_a_dataset_stay_together():
    class Episodes(Pairs):
        episodes = np.arange(60) // 6

    trainer = made(Episodes(), validation=0.2)
    held = {row // 6 for row in trainer.validation._indices}
    assert len(held) == 2
    assert not held & {row // 6 for row in trainer.training._indices}


@pytest.mark.slow
def test_a_subset_of_stored_samples_keeps_its_episodes(tmp_path):
    whole = physgym.generate("physgym/Spring-v0", tmp_path, samples=60, num_workers=0, max_steps=6, progress=False)
    rows = np.arange(6, 48)
    part = Subset(Subset(whole, range(3, 57)), rows - 3)  # of a subset
    network = MLP.from_spec(whole.spec, hidden=(4,))
    trainer = made(part, network=network, validation=0.3)
    samples = np.concatenate([trainer.training.index("episode"), trainer.validation.index("episode")])
    assert sorted(set(samples)) == list(range(1, 8))
    assert not set(trainer.training.index("episode")) & set(trainer.validation.index("episode"))
    alone = made(part, network=network, validation=None)
    np.testing.assert_allclose(
        alone.training.statistics["state"].mean, whole[:]["state"][rows].mean(0), rtol=1e-5, atol=1e-6
    )
    trainer.fit()
    windows = whole.windows(1, 2)
    part, _ = random_split(windows, [0.9, 0.1], torch.Generator().manual_seed(0))
    trainer = made(part, network=MLP.from_spec(windows.spec, hidden=(4,)), validation=0.3)
    assert len(trainer.training) + len(trainer.validation) == len(part)
    assert not set(trainer.training.index("episode")) & set(trainer.validation.index("episode"))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_loader_gives_its_batches_as_they_are(workers):
    loader = DataLoader(Pairs(), batch_size=7, shuffle=True, num_workers=workers)
    sizes = []

    class Sizes(Callback):
        def batch_begin(self, trainer, batch):
            sizes.append(len(batch["input"]))

    trainer = made(loader, validation=DataLoader(Pairs(20), batch_size=6), callbacks=[Sizes()], epochs=2)
    assert trainer.num_batches == 9
    np.testing.assert_allclose(trainer._supply.feed.statistics["input"].mean, X.mean(0), rtol=1e-5)
    history = trainer.fit()
    assert sizes == [7, 7, 7, 7, 7, 7, 7, 7, 4] * 2
    assert np.isfinite(history["validation_loss"]).all()
    again = made(loader, validation=None, epochs=2)
    again.fit()
    assert same_values(again.predictor.state_dict(), trainer.predictor.state_dict())  # the order follows from the seed


def test_a_loader_is_resumed_to_the_bit(tmp_path):
    loader = DataLoader(Pairs(), batch_size=7, shuffle=True)
    whole = made(loader, validation=None)
    whole.fit()
    with pytest.raises(RuntimeError, match="crash"):
        made(loader, validation=None, callbacks=[Crash(14), Checkpoints(tmp_path, steps=4)]).fit()
    again = made(loader, validation=None, callbacks=[Checkpoints(tmp_path, steps=4)], resume=True)
    assert again.step == 12
    again.fit()
    assert same_values(again.predictor.state_dict(), whole.predictor.state_dict())


def test_an_iterable_dataset_needs_the_length_of_an_epoch():
    with pytest.raises(ConfigError, match="batches_per_epoch"):
        made(Stream(), validation=None)
    trainer = made(Stream(), validation=Pairs(20), batches_per_epoch=5)
    assert trainer.fit()["samples"] == [40] * 3


@pytest.mark.parametrize(
    ("dataset", "options", "kind", "text"),
    [
        (DataLoader(Pairs(), batch_size=7), {}, ConfigError, "cannot be divided by episode"),
        (DataLoader(Pairs(), batch_size=7), {"validation": None, "loader_workers": 1}, ConfigError, "num_workers"),
        (TensorDataset(torch.zeros(3, 1)), {}, ConfigError, r"a pair \(input, target\); it is a tuple of 1"),
        (Pairs(0), {}, DatasetError, "the Pairs has no samples"),
        (DataLoader(Pairs(0)), {"validation": None}, DatasetError, "the DataLoader has no samples"),
        ([1, 2], {}, ConfigError, "must be samples with a spec"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(dataset, options, kind, text):
    with pytest.raises(kind, match=text):
        made(dataset, **options)


def test_items_that_are_no_numbers_or_of_another_shape_are_named():
    class Texts(Pairs):
        def __getitem__(self, index):
            return X[index], "text"

    class Ragged(Pairs):
        def __getitem__(self, index):
            return X[index], Y[index][: 1 + (index != 4)]

    with pytest.raises(ConfigError, match="field 'target' of a sample of Texts is a str"):
        made(Texts())
    with pytest.raises(DatasetError, match=r"sample 4 of Ragged has field 'target' of shape \(1,\); the first one has"):
        made(Ragged(), validation=None)


def test_samples_of_physgym_stay_what_they_are():
    samples = linear_samples(20)
    trainer = made(samples, network=MLP((3, 2), 4, hidden=()), validation=None)
    assert trainer.training is samples
