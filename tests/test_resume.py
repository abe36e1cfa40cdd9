from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from physgym.nn import MLP, Optimization
from physgym.training import Callback, Checkpoints, Trainer
from tests.memory_samples import linear_samples

STEPS = 3 * 7  # of the training below: 200 samples in batches of 32


class Stop(Callback):
    """Ends a training after a step, as a crash does: nothing is saved any more."""

    def __init__(self, step):
        self.step = step

    def batch_end(self, trainer, values):
        if trainer.step == self.step:
            raise RuntimeError("crash")


def made(folder, *, callbacks=(), resume=False, hidden=16, **options):
    """A training with everything that has a state: momentum, schedule, dropout, the averages of an epoch."""
    torch.manual_seed(0)
    network = MLP((3, 2), 4, hidden=(hidden, hidden), dropout=0.2)
    optimization = Optimization(
        network,
        optimizer=torch.optim.AdamW,
        lr=1e-2,
        scheduler=lambda o: OneCycleLR(o, 1e-2, total_steps=STEPS + 1),
        scheduler_every="batch",
        **{name: options.pop(name) for name in ("accumulate", "precision") if name in options},
    )
    return Trainer(
        network,
        linear_samples(200),
        optimization=optimization,
        callbacks=[*callbacks, Checkpoints(folder, steps=2, keep=None)],
        resume=resume,
        **{"epochs": 3, "batch_size": 32, "validation": 0, "progress": False, "seed": 7, **options},
    )


def weights(trainer):
    return {name: value.clone() for name, value in trainer.predictor.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("step", "options"),
    [
        *((step, {}) for step in (1, 2, 3, 7, 8, 13, 14, 20)),
        *((3, option) for option in ({"accumulate": 3}, {"precision": "bfloat16"}, {"loader_workers": 2})),
    ],
    ids=str,
)
def test_a_resumed_training_ends_in_the_same_bits(tmp_path, step, options):
    whole = made(tmp_path / "whole", **options)
    whole.fit()
    with pytest.raises(RuntimeError, match="crash"):
        made(tmp_path / "cut", callbacks=[Stop(step)], **options).fit()
    torch.manual_seed(99)  # whatever happened in between
    resumed = made(tmp_path / "cut", resume=True, **options)
    # saved at every second batch of the training and at the end of every epoch
    assert resumed.step == max([0, *(saved for saved in range(1, step) if saved % 2 == 0 or saved % 7 == 0)])
    resumed.fit()
    assert same(weights(whole), weights(resumed))
    assert [epoch["loss"] for epoch in resumed.history.epochs] == [epoch["loss"] for epoch in whole.history.epochs]
    assert resumed.step == whole.step == STEPS
