"""The loss of padded fields: of the values that are there, whatever stands in the others."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from physgym.errors import ConfigError
from physgym.nn import Optimization, RelativeL2
from physgym.nn.padding import Padding
from physgym.sample import Field, SampleSpec, present

F8 = np.dtype("f8")
POINTS, COUNT = Field("points", (4, 2), F8, "target", mask="count"), Field("count", (), np.dtype("i2"), "additional")
FLOW, WET = Field("flow", (2, 3, 3), F8, "target", mask="wet"), Field("wet", (3, 3), np.dtype("f4"), "additional")
SPEC = SampleSpec([POINTS, COUNT, FLOW, WET])


def batch(seed=0):
    rng = np.random.default_rng(seed)
    count, wet = np.array([4, 1, 0, 3], "i2"), (rng.random((4, 3, 3)) < 0.6).astype("f4")
    return {"points": rng.normal(size=(4, 4, 2)), "count": count, "flow": rng.normal(size=(4, 2, 3, 3)), "wet": wet}


def tensors(samples):
    return {name: torch.from_numpy(np.array(value)) for name, value in samples.items()}


def flags_of(samples):
    return Padding(SPEC, ["points", "flow"]).present(tensors(samples))


def test_flags_are_those_of_numpy():
    samples = batch()
    for name, flags in flags_of(samples).items():
        wanted = present(SPEC[name], SPEC[SPEC[name].mask], samples[SPEC[name].mask])
        assert tuple(flags.shape) == wanted.shape
        np.testing.assert_array_equal(flags.numpy(), wanted)
    assert Padding(SPEC, ["points", "flow"]).masks == ("count", "wet")
    with pytest.raises(ConfigError, match="its mask 'count', which says"):
        Padding(SampleSpec([POINTS]), ["points"])


def by_hand(each, prediction, target, flags):
    """The mean over the samples of the means over their values, one by one; 0 for a sample without any."""
    found = []
    for p, t, f in zip(prediction, target, torch.broadcast_to(flags, target.shape), strict=True):
        found.append(each(p[f], t[f]).mean() if f.any() else torch.zeros(()))
    return torch.stack(found).mean()


@pytest.mark.parametrize(
    ("loss", "each"),
    [
        (nn.MSELoss, lambda p, t: (p - t) ** 2),
        (nn.L1Loss(), lambda p, t: (p - t).abs()),
        (nn.HuberLoss(delta=0.3), lambda p, t: functional.huber_loss(p, t, reduction="none", delta=0.3)),
        (functional.smooth_l1_loss, lambda p, t: functional.smooth_l1_loss(p, t, reduction="none")),
        (partial(functional.mse_loss), lambda p, t: (p - t) ** 2),
        (functional.poisson_nll_loss, lambda p, t: functional.poisson_nll_loss(p, t, reduction="none")),
        (RelativeL2, lambda p, t: (p - t).norm() / t.norm()),
        (nn.BCEWithLogitsLoss, lambda p, t: functional.binary_cross_entropy_with_logits(p, t, reduction="none")),
    ],
)
@pytest.mark.parametrize("name", ["points", "flow"])
def test_what_is_not_there_changes_neither_loss_nor_gradient(loss, each, name):
    samples, optimization = batch(), Optimization(nn.Linear(1, 1), loss=loss)
    flags = flags_of(samples)[name]
    target = torch.from_numpy(samples[name])
    found = []
    for garbage in (0.0, 1e6):
        prediction = torch.from_numpy(batch(1)[name]).requires_grad_()
        shown = torch.where(flags, prediction, prediction + garbage)
        wanted = torch.where(flags, target, target - garbage)
        value = optimization.losses({name: shown}, {name: wanted}, {name: flags})["loss"]
        torch.testing.assert_close(value, by_hand(each, prediction, target, flags).double())
        value.backward()
        assert not prediction.grad[~flags.expand(prediction.shape)].any()
        found.append((value.item(), prediction.grad))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_a_loss_of_ones_own_gets_zeros_and_the_flags():
    seen = {}

    class Own(Optimization):
        def compute_loss(self, prediction, target):
            seen.update(prediction=prediction["points"], target=target["points"], flags=self.present["points"])
            return prediction["points"].sum()

    samples = batch()
    flags, target = flags_of(samples), torch.from_numpy(samples["points"])
    Own(nn.Linear(1, 1)).losses({"points": target + 1}, {"points": target}, flags)
    gone = ~flags["points"].expand(target.shape)
    assert gone.any()
    assert not seen["prediction"][gone].any()
    assert not seen["target"][gone].any()
    assert seen["flags"] is flags["points"]
    own = Optimization(nn.Linear(1, 1), loss=lambda p, t: (p - t).pow(2).sum())
    there = int((~gone).sum())
    assert own.losses({"points": target + 1}, {"points": target}, flags)["loss"].item() == pytest.approx(there)
    assert nn.MSELoss(reduction="sum")(target + 1, target).item() == pytest.approx(target.numel())
    for loss in (nn.MSELoss(reduction="sum"), partial(functional.mse_loss, reduction="sum")):
        total = Optimization(nn.Linear(1, 1), loss=loss)
        assert total.losses({"points": target + 1}, {"points": target}, flags)["loss"].item() == pytest.approx(there)
        with pytest.raises(ConfigError, match="the loss is the sum over the batch; leave accumulate out"):
            Optimization(nn.Linear(1, 1), loss=loss, accumulate=2)


def test_a_field_that_has_another_shape_in_the_loss_is_refused():
    flags = flags_of(batch())
    flat = torch.zeros(4, 8, dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"'points' is padded, and its prediction has shape \(4, 8\) in the loss"):
        Optimization(nn.Linear(1, 1)).losses({"points": flat}, {"points": flat}, flags)
