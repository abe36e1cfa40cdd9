"""Missing values of masked arrays, wherever an array enters that a network is fed with."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import physgym
from physgym.errors import SampleError
from physgym.nn import Predictor
from physgym.sample import Field, SampleSpec
from physgym.training import Trainer
from tests.support.memory_samples import MemorySamples, MemorySource, spec_of
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here

F4 = np.dtype("f4")
SPEC = SampleSpec([Field("x", (3,), F4, "input"), Field("y", (3,), F4, "target")])
MISSING = np.ma.array([1.0, 2.0, 3.0], mask=[False, True, False], dtype="f4")
WHOLE = np.ma.array([1.0, 2.0, 3.0], mask=False, dtype="f4")
REFUSED = "field 'x' for .* is a masked array with 1 missing values, which .* fill them, and give the mask separately"


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize(
    ("value", "batched"),
    [
        (MISSING, False),
        (MISSING[None], True),
        ([MISSING, WHOLE], True),
        (list(MISSING), False),
        ([list(MISSING), list(WHOLE)], True),
    ],
)
def test_a_prediction_from_missing_values_is_refused(value, batched):
    with pytest.raises(SampleError, match=REFUSED):
        Predictor(Double(), SPEC).predict({"x": value}, batched=batched)


def test_a_mask_without_missing_values_is_none():
    predictor = Predictor(Double(), SPEC)
    assert predictor.predict({"x": WHOLE})["y"].tolist() == [2, 4, 6]
    assert predictor.predict({"x": [WHOLE, WHOLE]}, batched=True)["y"].tolist() == [[2, 4, 6]] * 2
    with pytest.raises(SampleError, match=REFUSED):
        predictor.tensors({"x": MISSING[None]})


class Asking(physgym.Simulation):
    """Asks the network for the next state, of which a value is missing in the second step."""

    action_space = observation_space = spaces.Box(-99, 99, (3,), np.float32)
    sample_space = spaces.Dict(x=action_space, y=action_space)
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012 - as users write it

    def begin(self, options):
        self.steps, self.y = 0, np.zeros(3, np.float32)

    def advance(self, action):
        self.steps += 1
        self.y = self.predict({"x": MISSING if self.steps == 2 else WHOLE})["y"]

    def observation(self):
        return self.y

    def sample(self):
        return {"x": np.float32([1, 2, 3]), "y": self.y}


class Plain(gym.Env):
    """The same without the base class: what the pipeline sets as `predictor` is called as it is."""

    observation_space = action_space = Asking.action_space
    predictor = None

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.steps += 1
        return self.predictor({"x": MISSING if self.steps == 2 else WHOLE})["y"], 0.0, False, False, {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Asking, Plain])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_simulation_that_asks_with_missing_values_is_told(kind, workers):
    with physgym.SocketVectorEnv([kind, kind], num_workers=workers, predictor=Predictor(Double(), SPEC)) as envs:
        envs.reset(seed=0)
        actions = np.zeros((2, 3), np.float32)
        assert envs.step(actions)[0].tolist() == [[2, 4, 6]] * 2
        with pytest.raises(SampleError, match=REFUSED):
            envs.step(actions)


class Rows(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"x": self.rows[index], "y": np.zeros(3, np.float32)}


def as_batches(rows):
    return torch.utils.data.DataLoader(
        Rows(rows), batch_size=2, collate_fn=lambda items: {k: np.ma.stack([i[k] for i in items]) for k in items[0]}
    )


@pytest.mark.parametrize("make", [Rows, as_batches])
def test_a_training_on_missing_values_is_refused(make):
    options = {"inputs": ["x"], "outputs": ["y"], "epochs": 1, "normalize": False, "validation": None}
    trainer = Trainer(nn.Linear(3, 3), make([WHOLE] * 4), progress=False, **options)
    assert len(trainer.fit()["loss"]) == 1
    with pytest.raises(SampleError, match=REFUSED):
        Trainer(nn.Linear(3, 3), make([WHOLE, WHOLE, MISSING, WHOLE]), progress=False, **options).fit()


def test_samples_that_are_produced_are_looked_at():
    arrays = {"x": np.ma.stack([WHOLE, MISSING]), "y": np.zeros((2, 3), "f4")}
    source = MemorySource(MemorySamples(arrays, spec_of(arrays, {"x": "input", "y": "target"})), store=False)
    options = {"epochs": 1, "batches_per_epoch": 1, "normalize": False, "validation": None, "progress": False}
    with pytest.raises(SampleError, match=REFUSED):
        Trainer(nn.Linear(3, 3), source=source, produce="always", batch_size=2, **options).fit()
