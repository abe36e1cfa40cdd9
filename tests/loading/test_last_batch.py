"""The last batch of an epoch: kept, joined to the one before, left out; and networks that need more than one sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from physgym.errors import ConfigError, DatasetError
from physgym.loading.batching import EpochDivision
from physgym.loading.loader import Loader
from physgym.nn import Optimization
from physgym.training import Callback, Checkpoints, Trainer
from tests.support.memory_samples import linear_samples


class Norm(nn.Module):
    """Batch normalization, as a layer or as a function; `remembers` is what it does without a training."""

    def __init__(self, remembers=True):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)
        self.norm = nn.BatchNorm1d(8, track_running_stats=remembers)

    def forward(self, force):
        return self.second(self.norm(self.first(force.flatten(1))))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, force):
        if self.training:
            return functional.batch_norm(self.layer(force.flatten(1)), None, None, training=True)
        return self.layer(force.flatten(1))


class Sizes(Callback):
    """Notes how large the batches are."""

    def __init__(self):
        self.sizes = []

    def batch_begin(self, trainer, batch):
        self.sizes.append(len(batch["force"]))


def made(network=None, samples=91, *, callbacks=(), accumulate=1, **options):
    torch.manual_seed(0)
    network = Norm() if network is None else network
    given = {"epochs": 1, "batch_size": 10, "validation": None, "progress": False, "normalize": False, **options}
    optimization = Optimization(network, lr=1e-2, accumulate=accumulate)
    return Trainer(network, linear_samples(samples), optimization=optimization, callbacks=[*callbacks], **given)


def sizes(*args, **options):
    seen = Sizes()
    made(*args, callbacks=[seen], **options).fit()
    return seen.sizes


@pytest.mark.parametrize("network", [Norm, Functional])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_single_sample_joins_the_batch_before_where_the_network_needs_more(network, shuffle):
    assert sizes(network(), shuffle=shuffle) == [*[10] * 8, 11]
    assert sizes(network(), 92, shuffle=shuffle) == [*[10] * 9, 2]
    assert sizes(network(), 90, shuffle=shuffle) == [10] * 9
    assert sizes(network(), 11, shuffle=shuffle) == [11]


def test_no_sample_is_lost_or_shown_twice():
    seen = []

    class Note(Callback):
        def batch_begin(self, trainer, batch):
            seen.extend(batch["force"].flatten(1)[:, 0].tolist())

    made(callbacks=[Note()]).fit()
    assert sorted(seen) == sorted(linear_samples(91).arrays["force"].reshape(91, 6)[:, 0].tolist())


def test_other_networks_keep_it():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
    assert sizes(plain) == [*[10] * 9, 1]
    grid = nn.Sequential(nn.Unflatten(1, (1, 3)), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(6, 4))
    assert sizes(grid) == [*[10] * 9, 1]  # a sample has several values in each channel


@pytest.mark.parametrize(
    ("last_batch", "samples", "want"),
    [
        ("keep", 95, [*[10] * 9, 5]),
        ("join", 95, [*[10] * 8, 15]),
        ("join", 91, [*[10] * 8, 11]),
        ("join", 5, [5]),
        ("drop", 95, [10] * 9),
        ("drop", 91, [10] * 9),
        ("auto", 95, [*[10] * 9, 5]),
    ],
)
def test_what_happens_to_it_can_be_chosen(last_batch, samples, want):
    assert sizes(samples=samples, last_batch=last_batch) == want
    trainer = made(samples=samples, last_batch=last_batch)
    assert trainer.num_batches == len(want)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"last_batch": "keep"}, "91 samples with batch_size=10 give a last batch of one sample"),
        ({"batch_size": 1}, "91 samples with batch_size=1 give batches of one sample"),
        ({"samples": 1}, "1 samples with batch_size=10 give batches of one sample"),
        ({"last_batch": "leave"}, "last_batch must be one of"),
        ({"samples": 5, "last_batch": "drop"}, "drop_last drops everything: a rank has 5 samples, a batch 10"),
    ],
)
def test_what_cannot_be_trained_is_said_when_the_trainer_is_built(options, text):
    with pytest.raises(ConfigError, match=text):
        made(**options)


def test_fewer_batches_than_there_are_leave_the_last_one_out():
    assert sizes(batches_per_epoch=9) == [10] * 9
    assert sizes(batches_per_epoch=10) == [*[10] * 8, 11]
    assert sizes(batches_per_epoch=9, last_batch="keep") == [10] * 9


def test_parts_of_a_batch_are_not_of_one_sample():
    assert sizes(samples=33, batch_size=11, accumulate=8) == [11] * 3  # 5 parts of at least 2
    assert sizes(samples=13, batch_size=10, accumulate=3) == [10, 3]


@pytest.mark.parametrize("remembers", [True, False])
def test_validation_takes_every_sample(remembers):
    validation = linear_samples(21, seed=5)
    trainer = made(Norm(remembers), validation=validation, batch_size=20)
    seen = []
    trainer.losses = lambda batch, losses=trainer.losses: seen.append(len(batch["force"])) or losses(batch)
    assert np.isfinite(trainer.fit()["validation_loss"]).all()
    assert seen[-2:] == [20, 1] if remembers else seen[-1] == 21
    if not remembers:
        with pytest.raises(ConfigError, match="more than one sample to be evaluated"):
            made(Norm(remembers), validation=linear_samples(1, seed=5))


def test_trying_a_network_changes_neither_it_nor_the_generators():
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(0)
    wanted = torch.rand(1)
    made(network)  # which seeds with 0
    assert torch.equal(torch.rand(1), wanted)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_joined_batch_is_resumed_to_the_bit(tmp_path):
    class Crash(Callback):
        def batch_end(self, trainer, values):
            if trainer.step == 15:
                raise RuntimeError("crash")

    whole = made(epochs=3)
    whole.fit()
    saving = {"session": tmp_path, "epochs": 3}
    with pytest.raises(RuntimeError, match="crash"):
        made(callbacks=[Crash(), Checkpoints(tmp_path / "networks", steps=5)], **saving).fit()
    again = made(callbacks=[Checkpoints(tmp_path / "networks", steps=5)], resume=True, **saving)
    assert again.step == 10
    again.fit()
    state = again.predictor.state_dict()
    assert all(torch.equal(state[name], value) for name, value in whole.predictor.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("shuffle", [False, "random"])
def test_a_loader_joins_a_small_last_batch(shuffle, workers):
    loader = Loader(linear_samples(23), 5, shuffle=shuffle, min_batch=4, pin_memory=False)
    assert [len(batch["force"]) for batch in loader] == [5, 5, 5, 8]
    assert [len(rows) for rows in loader.batch_indices(0)] == [5, 5, 5, 8]
    ranks = [Loader(linear_samples(23), 5, min_batch=2, rank=rank, world_size=2) for rank in range(2)]
    assert [[len(batch["force"]) for batch in loader] for loader in ranks] == [[5, 6]] * 2
    if workers:
        seen = Sizes()
        made(callbacks=[seen], loader_workers=workers).fit()
        assert seen.sizes == [*[10] * 8, 11]


def test_a_state_from_before_the_argument_is_one_that_joined_nothing():
    loader = Loader(linear_samples(23), 5)
    state = loader.state_dict()
    assert "min_batch" not in state
    loader.load_state_dict(state)
    with pytest.raises(ConfigError, match="min_batch was 1, now it is 4"):
        Loader(linear_samples(23), 5, min_batch=4).load_state_dict(state)
    joined = Loader(linear_samples(23), 5, min_batch=4).state_dict()
    Loader(linear_samples(23), 5, min_batch=4).load_state_dict(joined)
    with pytest.raises(ConfigError, match="min_batch was 4, now it is 1"):
        loader.load_state_dict(joined)


@pytest.mark.parametrize(
    ("length", "size", "ranks", "drop", "least", "want"),
    [
        (10, 5, 1, False, 1, 2),
        (11, 5, 1, False, 1, 3),
        (11, 5, 1, False, 2, 2),
        (11, 5, 1, True, 1, 2),
        (1, 5, 1, False, 2, 1),
        (11, 5, 2, False, 1, 1),
    ],
)
def test_numbers_of_batches(length, size, ranks, drop, least, want):
    assert EpochDivision(size, 0, ranks, drop, least).count(length) == want


def test_too_few_samples_for_the_ranks():
    with pytest.raises(DatasetError, match="1 samples cannot be shared among 2 ranks"):
        EpochDivision(5, 0, 2).count(1)
