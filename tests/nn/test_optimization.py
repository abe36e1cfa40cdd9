from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau

from physgym.errors import ConfigError
from physgym.nn import MLP, Optimization
from physgym.training import Trainer, load_checkpoint
from tests.support.memory_samples import MemorySamples, linear_samples, spec_of


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def fields(*shape, **values):
    return {name: torch.full(shape or (4, 2), float(value)) for name, value in values.items()}


@pytest.mark.parametrize("loss", [nn.MSELoss, nn.MSELoss(), nn.functional.mse_loss, lambda p, t: ((p - t) ** 2).mean()])
def test_loss_by_class_or_callable(network, loss):
    optimization = Optimization(network, loss=loss)
    assert optimization.compute_loss(fields(u=3), fields(u=1)).item() == pytest.approx(4)


def test_losses_of_several_fields_are_added(network):
    optimization = Optimization(network)
    prediction, target = fields(u=3, v=1), fields(u=1, v=0, beside=100)
    assert optimization.compute_loss(prediction, target).item() == pytest.approx(5)
    assert optimization.compute_loss(prediction, fields(v=0)).item() == pytest.approx(1)


def test_a_loss_that_would_broadcast_is_an_error(network):
    optimization = Optimization(network, loss=lambda p, t: (p - t).mean())
    with pytest.raises(ConfigError, match=r"field 'u' have shapes \(4, 2\) and \(4, 1\)"):
        optimization.compute_loss(fields(4, 2, u=1), fields(4, 1, u=1))


def test_a_loss_without_a_target_is_an_error(network):
    with pytest.raises(ConfigError, match=r"fields \['force'\], none of which is among the predicted ones \['u'\]"):
        Optimization(network).compute_loss(fields(u=1), fields(force=1))


def test_targets_take_the_dtype_of_the_prediction_and_labels_stay(network):
    target = {"u": torch.ones(4, 2, dtype=torch.float64)}
    assert Optimization(network).compute_loss(fields(u=1), target).dtype == torch.float32
    logits, labels = torch.randn(4, 10), torch.tensor([1, 2, 3, 4])
    loss = Optimization(network, loss=nn.CrossEntropyLoss).compute_loss({"k": logits}, {"k": labels})
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, labels))


def test_optimizer_by_class_callable_or_object(network):
    assert isinstance(Optimization(network).optimizer, torch.optim.Adam)
    assert Optimization(network).lr == 1e-3
    assert Optimization(network, optimizer=torch.optim.SGD, lr=0.5).lr == 0.5
    decayed = Optimization(network.parameters(), optimizer=partial(torch.optim.AdamW, weight_decay=0.3))
    assert decayed.optimizer.param_groups[0]["weight_decay"] == 0.3
    built = torch.optim.SGD([network.bias], lr=0.25)
    optimization = Optimization(network, optimizer=built)
    assert optimization.optimizer is built
    assert [id(p) for p in optimization.parameters] == [id(network.bias)]
    with pytest.raises(ConfigError, match="lr goes with an optimizer class"):
        Optimization(network, optimizer=built, lr=1.0)
    with pytest.raises(ConfigError, match="scheduler must be a function of the optimizer that makes one, not 'cosine'"):
        Optimization(network, scheduler="cosine")


def test_frozen_parameters_are_left_out(network):
    network.weight.requires_grad_(False)
    assert [id(p) for p in Optimization(network).parameters] == [id(network.bias)]
    network.bias.requires_grad_(False)
    with pytest.raises(ConfigError, match="no trainable parameter"):
        Optimization(network)


def descend(optimization, loss):
    """What a trainer does with the loss of a batch."""
    optimization.zero_grad()
    optimization.backward(loss)
    optimization.step(lambda: loss)
    optimization.end_batch()


def test_step_lowers_the_loss(network):
    optimization = Optimization(network, optimizer=torch.optim.SGD, lr=0.1)
    x, y = torch.rand(50, 3), torch.rand(50, 2)
    losses = []
    for _ in range(20):
        loss = optimization.losses({"u": network(x)}, {"u": y})["loss"]
        losses.append(loss.item())
        descend(optimization, loss)
    assert all(b < a for a, b in pairwise(losses))


def test_gradients_do_not_add_up(network):
    optimization = Optimization(network, optimizer=torch.optim.SGD, lr=0.0)
    for _ in range(2):
        descend(optimization, network.bias.sum())
        assert network.bias.grad.tolist() == [1, 1]


@pytest.mark.parametrize(("clip_norm", "moved"), [(None, 300.0), (2.0, 2.0), (1000.0, 300.0)])
def test_clipping_shortens_the_gradient(network, clip_norm, moved):
    optimization = Optimization(network, optimizer=torch.optim.SGD, lr=1.0, clip_norm=clip_norm)
    before = network.bias.detach().clone()
    descend(optimization, 300 * network.bias[0])
    assert (before - network.bias).norm().item() == pytest.approx(moved, rel=1e-4)


def test_scheduler_counts_epochs_or_batches(network):
    def make(every):
        halve = partial(ExponentialLR, gamma=0.5)
        return Optimization(network, optimizer=torch.optim.SGD, lr=1.0, scheduler=halve, scheduler_every=every)

    for every, rates in (("epoch", [1.0, 1.0, 0.5]), ("batch", [0.5, 0.25, 0.25])):
        optimization = make(every)
        optimization.backward(network.bias.sum())
        seen = []
        for end in (optimization.end_batch, optimization.end_batch, partial(optimization.end_epoch, 1.0)):
            optimization.step(lambda: network.bias.sum())
            end()
            seen.append(optimization.lr)
        assert seen == rates


def test_scheduler_that_looks_at_the_loss(network):
    plateau = partial(ReduceLROnPlateau, factor=0.1, patience=0)
    optimization = Optimization(network, lr=1.0, scheduler=plateau)
    rates = []
    for loss in (3.0, 2.0, 2.5):
        optimization.end_epoch(loss)
        rates.append(optimization.lr)
    assert rates == pytest.approx([1.0, 1.0, 0.1])
    with pytest.raises(ConfigError, match="ReduceLROnPlateau"):
        Optimization(network, scheduler=plateau, scheduler_every="batch")


def test_transform_loss_changes_what_is_minimized_and_adds_values(network):
    class Weighted(Optimization):
        def transform_loss(self, loss, prediction, target):
            energy = prediction["u"].square().sum() * target["stiffness"].mean()
            return {"loss": loss + 0.5 * energy, "energy": energy}

    losses = Weighted(network).losses(fields(u=1), fields(u=3, stiffness=10))
    assert {name: value.item() for name, value in losses.items()} == {"loss": 4 + 0.5 * 80, "energy": 80}


def test_step_can_be_overridden(network):
    class EverySecond(Optimization):
        """Adds up the gradients of two batches."""

        count = 0

        def zero_grad(self):
            if self.count % 2 == 0:
                super().zero_grad()

        def step(self, closure):
            self.count += 1
            if self.count % 2 == 0:
                super().step(closure)

    optimization = EverySecond(network, optimizer=torch.optim.SGD, lr=1.0)
    before = network.bias.detach().clone()
    descend(optimization, network.bias.sum() / 2)
    assert torch.equal(network.bias, before)
    descend(optimization, 3 * network.bias.sum() / 2)
    torch.testing.assert_close(network.bias.detach(), before - 2)


def test_an_optimizer_that_asks_for_the_gradient_again_gets_it(network):
    optimization = Optimization(network, optimizer=torch.optim.LBFGS, lr=1.0)
    x, y, asked = torch.rand(50, 3), torch.rand(50, 2), []

    def closure():
        optimization.zero_grad()
        loss = optimization.losses({"u": network(x)}, {"u": y})["loss"]
        optimization.backward(loss)
        asked.append(loss.item())
        return loss

    optimization.step(closure)
    assert len(asked) > 3
    assert asked[-1] < asked[0] / 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 0}, "clip_norm"),
        ({"scheduler_every": "step"}, "scheduler_every"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"precision": "float8"}, "precision must be one of"),
    ],
)
def test_nonsense_is_refused(network, options, message):
    with pytest.raises(ConfigError, match=message):
        Optimization(network, **options)


# --- what a method of one's own returns


def returning(network, **methods):
    made = type("Own", (Optimization,), {name: lambda *_, value=value: value for name, value in methods.items()})
    return made(network)


def test_a_tensor_from_transform_loss_is_the_loss(network):
    class Weighted(Optimization):
        def transform_loss(self, loss, prediction, target):
            return 2 * loss

    values = Weighted(network).losses(fields(u=3), fields(u=1))
    assert {name: value.item() for name, value in values.items()} == {"loss": pytest.approx(8)}


ONE = torch.ones((), requires_grad=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"Own\.transform_loss returned None; return the loss, or a dictionary"),
        ((ONE, ONE), r"Own\.transform_loss returned a tuple; return the loss, or a dictionary"),
        (1.0, r"Own\.transform_loss returned a float; return the loss"),
        ({"energy": ONE}, r"\['energy'\] of a batch need a 'loss' .* it is missing. Own\.transform_loss returned it"),
        ({"loss": None}, r"it is None. Own\.transform_loss returned it"),
        ({"loss": ONE, "energy": torch.ones(3)}, r"'energy' of the loss has shape \(3,\).* Own\.transform_loss"),
        (
            {"loss": ONE, "energy": "high"},
            r"Own\.transform_loss returned 'high' as 'energy'; values to log are numbers",
        ),
        ({"loss": ONE, "energy": None}, r"Own\.transform_loss returned None as 'energy'"),
        (torch.ones(4), r"'loss' of the loss has shape \(4,\).* Own\.transform_loss returned it"),
    ],
)
def test_what_transform_loss_must_return_is_named(network, value, message):
    with pytest.raises(ConfigError, match=message):
        returning(network, transform_loss=value).losses(fields(u=3), fields(u=1))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"it is None. Own\.compute_loss returned it"),
        (1.0, r"it is a float. Own\.compute_loss returned it"),
        ({"loss": ONE}, r"it is a dict. Own\.compute_loss returned it"),
        (torch.ones(4, 2), r"'loss' of the loss has shape \(4, 2\).* Own\.compute_loss returned it"),
    ],
)
def test_what_compute_loss_must_return_is_named(network, value, message):
    with pytest.raises(ConfigError, match=message):
        returning(network, compute_loss=value).losses(fields(u=3), fields(u=1))


# --- a network that only computes


class Mean(nn.Module):
    """A network without parameters."""

    def forward(self, x):
        return x.mean(1, keepdim=True).expand(x.shape[0], 2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": torch.optim.SGD, "lr": 0.1, "clip_norm": 1.0, "scheduler": partial(ExponentialLR, gamma=0.5)},
        {"optimizer": torch.optim.LBFGS},
        {"precision": "float16"},
    ],
)
def test_a_network_without_parameters_is_trained_saved_resumed_and_run(tmp_path, options):
    samples = linear_samples(40)
    arrays = {"x": samples.arrays["force"].reshape(40, 6), "y": samples.arrays["displacement"][:, :2]}
    samples = MemorySamples(arrays, spec_of(arrays, {"x": "input", "y": "target"}), samples.episodes)

    def trainer(**more):
        network = Mean()
        optimization = Optimization(network, **options)
        assert optimization.idle
        assert optimization.parameters == []
        return Trainer(network, samples, optimization=optimization, session=tmp_path, progress=False, **more)

    first = trainer(epochs=2)
    history = first.fit()
    assert history["loss"] == pytest.approx([history["loss"][0]] * 2)
    resumed = trainer(epochs=3, resume=True)
    assert resumed.fit()["loss"][-1] == pytest.approx(history["loss"][0])
    loaded = load_checkpoint(tmp_path, network=Mean())
    assert loaded.num_parameters == 0
    assert loaded.predict({"x": arrays["x"]}, batched=True)["y"].shape == (40, 2)


def test_gradients_that_are_off_are_said():
    samples = linear_samples(40)
    network = MLP.from_spec(samples.spec, hidden=(4,))
    for off in (torch.no_grad, torch.inference_mode):
        with off(), pytest.raises(ConfigError, match=r"gradients are off: fit is called under torch\.no_grad"):
            Trainer(network, samples, epochs=1, progress=False).fit()
