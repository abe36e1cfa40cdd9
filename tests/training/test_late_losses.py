"""Losses that stay on the device: the same training, and the same error, without a wait in each step."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from physgym.errors import DivergedError
from physgym.nn import MLP, Optimization
from physgym.training import CSV, Callback, Checkpoints, Trainer, batch_step, late_losses
from tests.support.memory_samples import linear_samples
from tests.support.weights import flat_weights


@pytest.fixture
def late(monkeypatch):
    """Let the CPU be a device of which losses are fetched later."""
    monkeypatch.setattr(batch_step, "LATE", ("cpu",))


class Two(Optimization):
    """Has a second value."""

    def transform_loss(self, loss, prediction, target):
        return {"loss": loss, "largest": prediction["displacement"].abs().max()}


def trainer(dataset=None, optimization=None, optimizer=torch.optim.Adam, **options):
    torch.manual_seed(0)
    network = MLP((3, 2), 4, hidden=(16,))
    kind = Two if optimization is None else optimization
    made = kind(network, optimizer=lambda parameters: optimizer(parameters, lr=0.01, fused=True))
    options = {"epochs": 2, "batch_size": 8, "progress": False, "optimization": made, **options}
    return Trainer(network, linear_samples(200) if dataset is None else dataset, **options)


def told(run):
    """Return the weights after a training, and its record but for the times."""
    epochs = [{n: v for n, v in epoch.items() if n != "seconds"} for epoch in run.fit().epochs]
    return flat_weights(run.predictor), epochs


class Waits(TorchDispatchMode):
    """Counts what waits for a device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "_local_scalar_dense" in str(func) or "nonzero" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_training_is_the_same(monkeypatch, optimizer, accumulate):
    def run():
        made = trainer(optimizer=optimizer)
        made.optimization.accumulate, made.optimization.clip_norm = accumulate, 0.5
        return told(made)

    want = run()
    monkeypatch.setattr(batch_step, "LATE", ("cpu",))
    got = run()
    assert torch.equal(got[0], want[0])
    assert got[1] == want[1]


def test_steps_wait_for_nothing(late):
    mode = Waits()

    class Count(Callback):
        def __init__(self):
            self.counts = []

        def batch_end(self, trainer, values):
            assert sorted(values) == ["largest", "loss"]
            self.counts.append(mode.count)

    count = Count()
    run = trainer(epochs=1, validation=None, callbacks=[count], batch_size=4)
    with mode:
        run.fit()
    steps = np.diff(count.counts)
    assert len(steps) == 49
    assert not steps[1:48].any()  # the first step is looked at, and all are fetched with the last one


def test_a_callback_that_looks_at_values_gets_them(late):
    class Look(Callback):
        def __init__(self):
            self.seen, self.copies = [], []

        def batch_end(self, trainer, values):
            values["mine"] = float(trainer.step)
            self.copies.append(values.copy())
            if trainer.step % 3 == 0:
                self.seen.append((trainer.step, json.loads(json.dumps(values)), {**values}, values | {"more": 1}))

    look = Look()
    trainer(epochs=1, callbacks=[look]).fit()
    assert len(look.seen) > 3
    for step, text, merged, more in look.seen:
        assert text == merged == {n: v for n, v in more.items() if n != "more"}
        assert np.isfinite(list(merged.values())).all()
        assert merged["mine"] == step
        assert look.copies[step - 1] == merged


class Bad(nn.Module):
    """A network whose loss, or its gradient alone, is not finite at one batch."""

    def __init__(self, at, what):
        super().__init__()
        self.layer, self.at, self.what, self.calls = nn.Linear(6, 4), at, what, 0

    def forward(self, force):
        found = self.layer(force.flatten(1))
        if self.training:
            self.calls += 1
            if self.calls == self.at:
                zero = (0 * found.sum()).abs()
                return found + (zero.sqrt() if self.what == "gradient" else zero / zero)
        return found


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("at", [1, 7, 20])
def test_the_error_names_the_same_batch(monkeypatch, tmp_path, what, at):
    def run(folder):
        torch.manual_seed(0)
        network = Bad(at, what)
        optimizer = torch.optim.Adam(network.parameters(), fused=True)
        made = Trainer(
            network,
            linear_samples(200),
            epochs=1,
            batch_size=8,
            progress=False,
            validation=None,
            optimization=Optimization(network, optimizer=optimizer),
            callbacks=[CSV(folder)],
        )
        with pytest.raises(DivergedError, match="from before this batch") as error:
            made.fit()
        rows = [line.split(",")[0] for line in (folder / "batches.csv").read_text().splitlines()]
        return str(error.value), flat_weights(made.predictor), made.step, made.batch, rows

    want = run(tmp_path / "now")
    monkeypatch.setattr(batch_step, "LATE", ("cpu",))
    got = run(tmp_path / "late")
    assert got[0] == want[0]
    assert f"batch {at};" in got[0] or f"batch {at}," in got[0]
    assert torch.equal(got[1], want[1])
    assert got[2:] == want[2:]


def test_a_checkpoint_in_the_midst_has_all_losses(late, tmp_path):
    whole = told(trainer())
    saving = trainer(callbacks=[Checkpoints(tmp_path, steps=5, keep=None)], epochs=1)
    saving.fit()
    resumed = trainer(
        callbacks=[Checkpoints(tmp_path, steps=5, keep=None)], resume=tmp_path / "epoch-0000-step-00000010"
    )
    assert resumed.step == 10
    got = told(resumed)
    assert torch.equal(got[0], whole[0])
    assert got[1] == whole[1]


@pytest.mark.parametrize(
    "options", [{"on_nonfinite": "skip"}, {"optimizer": torch.optim.Adagrad}, {"optimization": "own"}]
)
def test_what_must_look_at_each_loss_does(late, monkeypatch, options):
    class Own(Two):
        def step(self, closure):
            super().step(closure)

    if options.get("optimization") == "own":
        options = {"optimization": Own}
    monkeypatch.setattr(late_losses.LateLosses, "add", None)  # whose call would be an error
    trainer(epochs=1, **options).fit()


def test_batches_are_not_held_without_bounds(late, monkeypatch):
    monkeypatch.setattr(late_losses, "HELD", 1000)
    held = []

    class Count(Callback):
        def batch_end(self, trainer, values):
            held.append(trainer._batch_step._late.held)

    trainer(epochs=1, callbacks=[Count()]).fit()
    assert 0 < max(held) < 1000


def test_values_are_a_dictionary_that_fetches_once():
    calls = []

    def fetch():
        calls.append(None)
        values.fill({"loss": 1.0, "other": 2.0})

    values = late_losses.LateValues(["loss", "other"], fetch)
    copy = values.copy()
    values["loss"] = 5.0
    assert list(values) == ["loss", "other"]
    assert len(values) == 2
    assert "other" in values
    assert not calls
    assert dict(values) == {"loss": 5.0, "other": 2.0}
    assert copy == {"loss": 1.0, "other": 2.0}
    assert values.get("loss") == values.setdefault("loss", 0.0) == values.pop("loss") == 5.0
    assert {"a": 0.0} | values == {"a": 0.0, "other": 2.0}
    assert repr(values) == "{'other': 2.0}"
    assert values.popitem() == ("other", 2.0)
    assert len(calls) == 1


def test_losses_that_an_error_has_left_on_the_device_count_when_the_training_goes_on(late):
    class Fail(Callback):
        def batch_begin(self, trainer, batch):
            if trainer.step == 3:
                batch["force"] = batch["force"] * float("nan")

        def batch_end(self, trainer, values):
            if trainer.step == 6:
                raise KeyError("mine")

    run = trainer(epochs=1, callbacks=[Fail()])
    with pytest.raises(KeyError, match="mine"):
        run.fit()
    assert run.step == 6
    weights = flat_weights(run.predictor)
    with pytest.raises(DivergedError, match=r"batch 4.*from before this batch"):
        run.fit()
    assert run.step == 3
    assert torch.equal(flat_weights(run.predictor), weights)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_not_waited_for():
    waits = []

    class Watch(Callback):
        def batch_end(self, trainer, values):
            torch.cuda.set_sync_debug_mode("error" if 2 <= trainer.step < 45 else "default")
            waits.append(trainer.step)

    try:
        run = trainer(epochs=1, validation=None, batch_size=4, callbacks=[Watch()], device="cuda", device_resident=True)
        run.fit()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 50
