"""Trainings on padded fields: what stands in the padding, of stored samples and of predictions, counts for nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, SampleError
from physgym.experiment.evaluate import evaluate
from physgym.nn import Optimization
from physgym.sample import Field, SampleSpec
from physgym.training import Metrics, Trainer, Unroll

pytestmark = pytest.mark.filterwarnings("ignore:.*is declared to be:UserWarning")  # random rows do not follow

F8 = np.dtype("f8")
STATE = Field("state", (3,), F8, "input", mask="count")
NEXT = Field("next_state", (3,), F8, "target", mask="count", feeds="state")
COUNT = Field("count", (), np.dtype("i8"), "additional")
LENGTH, COUNTS, PAD = 5, (3, 1, 2, 2), -7.0
WHOLE = (LENGTH,) * len(COUNTS)
CHECK = {"session": None, "progress": False, "validation": 0, "normalize": False, "shuffle": False}


def values(garbage=0.0):
    """States of some numbers; PAD in the padding of inputs, and garbage in that of targets."""
    rng, rows = np.random.default_rng(0), LENGTH * len(COUNTS)
    count = np.repeat(COUNTS, LENGTH)
    gone = np.arange(3) >= count[:, None]
    state, following = rng.normal(size=(rows, 3)), rng.normal(size=(rows, 3))
    state[gone], following[gone] = PAD, garbage
    return {"state": state, "next_state": following, "count": count}


def write(folder, fields=(STATE, NEXT, COUNT), garbage=0.0, lengths=WHOLE):
    spec = SampleSpec(list(fields))
    step = np.tile(np.arange(LENGTH), len(COUNTS))
    episode = np.repeat(np.arange(len(COUNTS)), LENGTH)
    kept = step < np.repeat(lengths, LENGTH)
    rows = {name: value[kept] for name, value in values(garbage).items() if name in spec}
    with SampleWriter(folder, spec, source={"env": "toy"}) as writer:
        writer.append(rows, episode=episode[kept], step=step[kept], seed=episode[kept].astype("u8"))
    return SampleDataset(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("padded_training")


@pytest.fixture(scope="module")
def both(folder):
    return write(folder / "both")


class Mixing(nn.Module):
    """Each number from all of them: what stands in the padding reaches what is there."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3).double()

    def forward(self, state):
        return self.layer(state)


def trainer(dataset, network=None, **options):
    return Trainer(network or Mixing(), dataset, **{"epochs": 1, "batch_size": 8, **CHECK, **options})


def batch_of(made):
    made._progress.begin(0)
    return next(made._supply.batches(made._progress))


def mean_square(prediction, target, count):
    """The mean over the samples of the mean over the numbers that are there."""
    there = torch.arange(3) < count[:, None]
    squares = torch.where(there, (prediction - target) ** 2, 0).sum(1)
    return (squares / count.clamp(min=1)).mean()


def test_a_loss_is_that_of_the_values_that_are_there(both, folder):
    made = trainer(both)
    batch = batch_of(made)
    assert set(batch) == {"state", "next_state", "count"}
    wanted = mean_square(made.predictor.network(batch["state"]), batch["next_state"], batch["count"])
    torch.testing.assert_close(made.losses(batch)["loss"], wanted)
    figures = [
        trainer(samples, epochs=2, validation=0.25).fit().epochs[-1] | {"seconds": 0}
        for samples in (both, write(folder / "garbage", garbage=1e9))
    ]
    assert figures[0] == figures[1]


def test_a_gradient_in_parts_is_that_of_the_batch(both):
    network = Mixing()
    whole, parts = (trainer(both, network, optimization=Optimization(network, accumulate=n)) for n in (1, 4))
    batch, found = batch_of(whole), []
    for made in (whole, parts):
        value = made._batch_step.gradient(batch)["loss"]
        found.append((value, [parameter.grad.clone() for parameter in network.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("form", ["next_state -> state", "state"])
def test_an_unrolled_network_is_fed_the_padding_that_was_stored(form, both, folder):
    once = SampleDataset(write(folder / "once", (STATE, COUNT)).paths[0], feedback="state") if form == "state" else both
    made = trainer(once, unroll=3)
    batch, network = batch_of(made), made.predictor.network
    assert set(batch) == {"state", "next_state", "present/state", "present/next_state"}
    state, count, total = batch["state"][:, 0], batch["present/state"][:, 0].sum(1), 0
    there = torch.arange(3) < count[:, None]
    for step in range(3):
        made_now = network(state)
        total = total + mean_square(made_now, batch["next_state"][:, step], count) / 3
        state = torch.where(there, made_now, PAD)  # not what the network makes of the padding
    torch.testing.assert_close(made.losses(batch)["loss"], total)


def test_noise_is_on_what_is_there_alone(both):
    made = trainer(both, unroll=Unroll(2, noise=0.5, noise_units="physical"))
    batch = batch_of(made)
    noisy = made._loss.begin(batch, made._supply)["state"][:, 0]
    there = batch["present/state"][:, 0]
    assert (noisy[~there] == PAD).all()
    assert (noisy[there] != batch["state"][:, 0][there]).all()


def test_windows_that_are_padded_are_learned_by_what_they_have(folder):
    short = write(folder / "short", lengths=(5, 2, 5, 3))
    windows = short.windows(1, 4, short="pad", every=4, fields=["state", "next_state"])

    class Four(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.layer = nn.Linear(3, 12).double()

        def forward(self, state):
            return self.layer(state[:, 0]).reshape(-1, 4, 3)

    made = trainer(windows, Four())
    assert windows.padded == 2
    batch = batch_of(made)
    prediction, wanted = made.predictor.network(batch["state"]), []
    for row in range(len(prediction)):
        rows = min(4, (5, 2, 5, 3)[row])
        numbers = COUNTS[row]
        error = prediction[row, :rows, :numbers] - batch["next_state"][row, :rows, :numbers]
        wanted.append((error**2).mean())
    torch.testing.assert_close(made.losses(batch)["loss"], torch.stack(wanted).mean())
    report = evaluate(made.predictor, windows, metrics=["mse"], progress=False)
    squares, values = 0.0, 0
    for row, wanted_mean in enumerate(wanted):
        count = min(4, (5, 2, 5, 3)[row]) * COUNTS[row]
        squares, values = squares + wanted_mean.item() * count, values + count
    assert report["mse/next_state"] == pytest.approx(squares / values)


def test_metrics_of_a_target_of_the_next_row_know_its_padding(folder):
    once = SampleDataset(write(folder / "next", (STATE, COUNT)).paths[0], feedback="state")
    metrics = Metrics(["mae"])
    with pytest.warns(UserWarning, match="episodes"):  # of the validation: the same ones
        made = trainer(once, unroll=1, callbacks=[metrics], validation=once)
    history = made.fit()
    errors, total = 0.0, 0
    stored = values()
    with torch.no_grad():
        for episode, count in enumerate(COUNTS):
            rows = slice(episode * LENGTH, (episode + 1) * LENGTH)
            state = torch.from_numpy(stored["state"][rows])
            error = (made.predictor.network(state[:-1]) - state[1:]).abs()[:, :count]
            errors, total = errors + error.sum().item(), total + error.numel()
    assert history["validation_mae/next_state"] == pytest.approx([errors / total])


def test_a_mask_that_was_not_loaded_is_said(both):
    bare = SampleDataset(both.paths[0], fields=["state", "next_state"])
    with pytest.raises(ConfigError, match="'next_state' is padded, and its mask 'count'"):
        trainer(bare)
    with pytest.raises(ConfigError, match="'next_state' is padded, and its mask 'count'"):
        trainer(bare, unroll=2)


def test_the_scale_of_changes_wants_the_masks_of_both_sides(folder):
    after = Field("after", (), COUNT.dtype, "additional")
    spec, rows = SampleSpec([STATE, COUNT, replace(NEXT, mask="after"), after]), values()
    with SampleWriter(folder / "sides", spec) as writer:
        step = np.tile(np.arange(LENGTH), len(COUNTS))
        episode = np.repeat(np.arange(len(COUNTS)), LENGTH)
        writer.append({**rows, "after": np.full(len(step), 3)}, episode=episode, step=step, seed=episode.astype("u8"))
    trainer(SampleDataset(folder / "sides"), predict="change")
    bare = SampleDataset(folder / "sides", fields=["state", "next_state", "after"])
    with pytest.raises(SampleError, match="'state' is padded, and which of its values are there is said by its mask"):
        trainer(bare, predict="change")
