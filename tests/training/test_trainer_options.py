from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

import physgym
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DivergedError
from physgym.nn import MLP, Optimization
from physgym.sample import Field, SampleSpec
from physgym.training import Callback, Trainer
from tests.support.memory_samples import linear_samples
from tests.support.weights import flat_weights


def network(**options):
    torch.manual_seed(0)
    return MLP((3, 2), 4, **{"hidden": (16,), **options})


def trainer(dataset=None, net=None, **options):
    options = {"epochs": 2, "batch_size": 32, "validation": 0, "progress": False, **options}
    return Trainer(network() if net is None else net, linear_samples() if dataset is None else dataset, **options)


def optimized(**options):
    net = network()
    return net, Optimization(net, optimizer=torch.optim.SGD, lr=0.05, **options)


# --- the gradient


@pytest.mark.parametrize("parts", [2, 5, 1000])
def test_a_gradient_computed_in_parts_is_that_of_the_batch(parts):
    runs = []
    for accumulate in (1, parts):
        net, optimization = optimized(accumulate=accumulate)
        runs.append(trainer(linear_samples(100), net, optimization=optimization))  # batches of 32 and one of 4
        runs[-1].fit()
    torch.testing.assert_close(flat_weights(runs[0].predictor), flat_weights(runs[1].predictor), rtol=1e-5, atol=1e-6)
    assert runs[0].history["loss"] == pytest.approx(runs[1].history["loss"], rel=1e-5)
    assert runs[0].step == runs[1].step == 8


def test_mixed_precision_computes_in_it_and_keeps_the_weights():
    seen = set()

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            y = self.inner(x)
            seen.add(y.dtype)
            return y

    def run(precision):
        net = Watching()
        optimization = Optimization(net, optimizer=torch.optim.SGD, lr=0.05, precision=precision)
        made = trainer(net=net, optimization=optimization, epochs=8)
        seen.clear()
        made.fit()
        return made

    exact, mixed = run("float32"), run("bfloat16")
    assert seen == {torch.bfloat16}
    assert {value.dtype for value in mixed.predictor.parameters()} == {torch.float32}
    assert mixed.history["loss"][-1] == pytest.approx(exact.history["loss"][-1], rel=0.1)
    assert mixed.history["loss"] != exact.history["loss"]


def test_half_precision_scales_the_loss():
    net, optimization = optimized(precision="float16")
    run = trainer(net=net, optimization=optimization, epochs=5)
    history = run.fit()
    assert history["loss"][-1] < history["loss"][0]
    assert optimization.state_dict()["scaler"]["scale"] > 1


def test_a_second_order_optimizer_asks_for_the_gradient_again():
    net = network(hidden=())
    run = trainer(net=net, optimization=Optimization(net, optimizer=torch.optim.LBFGS, lr=1.0), batch_size=256)
    history = run.fit()
    assert history["loss"][1] < 1e-3 * history["loss"][0]  # ten inner steps on a quadratic


def test_the_network_is_called_through_torch_compile():
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    plain, compiled = trainer(), trainer(compile={"backend": backend})
    plain.fit()
    compiled.fit()
    assert calls
    torch.testing.assert_close(flat_weights(plain.predictor), flat_weights(compiled.predictor))
    assert not any(name.startswith("_orig_mod") for name in compiled.predictor.state_dict())


# --- losses that are not finite


def stored(folder, bad):
    """Ten episodes of ten steps; one sample is not a number."""
    spec = SampleSpec([Field("x", (3,), np.dtype("f4"), "input"), Field("y", (2,), np.dtype("f4"), "target")])
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 3)).astype("f4")
    y = np.array(x[:, :2])
    if bad is not None:
        x[bad] = np.nan
    with SampleWriter(folder, spec, nonfinite="allow") as writer:
        names = {"episode": np.arange(100) // 10, "step": np.arange(100) % 10, "seed": np.arange(100, dtype="u8")}
        writer.append({"x": x, "y": y}, **names)
    return physgym.SampleDataset(folder)


@pytest.mark.parametrize("options", [{"shuffle": "random"}, {"shuffle": "window"}, {"shuffle": False}], ids=str)
def test_a_bad_sample_is_named_by_episode_and_step(tmp_path, options):
    dataset = stored(tmp_path, bad=37)
    net = MLP(3, 2, hidden=(4,))
    run = Trainer(net, dataset, epochs=1, batch_size=8, validation=0, progress=False, normalize=False, **options)
    before = flat_weights(run.predictor).clone()
    message = r"not finite in \['x'\]; the batch holds episode 3 step 7\. The network has the weights from before"
    with pytest.raises(DivergedError, match=message) as raised:
        run.fit()
    assert "episode 3 step 6" not in str(raised.value)
    assert flat_weights(run.predictor).isfinite().all()
    assert (flat_weights(run.predictor) == before).all() == (run.step == 0)


def test_bad_batches_are_skipped_on_request(tmp_path, caplog):
    ends = []

    class Watch(Callback):
        def batch_end(self, trainer, values):
            ends.append(values["loss"])

    dataset, net = stored(tmp_path, bad=37), MLP(3, 2, hidden=(4,))
    run = Trainer(
        net,
        dataset,
        epochs=2,
        batch_size=8,
        validation=0,
        progress=False,
        normalize=False,
        on_nonfinite="skip",
        callbacks=[Watch()],
        session=tmp_path / "session",
    )
    with caplog.at_level(logging.WARNING, "physgym.training.trainer"):
        history = run.fit()
    assert history.skipped == 2 == sum(not np.isfinite(loss) for loss in ends)
    assert "episode 3 step 7" in caplog.text
    assert run.step == len(ends) == 26
    assert np.isfinite(history["loss"]).all()
    assert {epoch["samples"] for epoch in history.epochs} <= {92, 96}  # without the batch of the bad sample
    assert flat_weights(run.predictor).isfinite().all()


def test_an_epoch_of_nothing_but_bad_batches_is_an_error(tmp_path):
    dataset, net = stored(tmp_path, bad=np.arange(100)), MLP(3, 2, hidden=(4,))
    run = Trainer(net, dataset, epochs=2, validation=0, progress=False, normalize=False, on_nonfinite="skip")
    with pytest.raises(DivergedError, match="no batch of epoch 1 had a finite loss"):
        run.fit()


def test_a_gradient_that_is_not_finite_spares_the_weights():
    class Root(Optimization):  # of which the loss is finite, and the derivative is not
        def transform_loss(self, loss, prediction, target):
            return {"loss": loss + (0 * prediction["displacement"].sum()).abs().sqrt()}

    net = network()
    run = trainer(net=net, optimization=Root(net))
    before = flat_weights(run.predictor).clone()
    with pytest.raises(
        DivergedError, match=r"and the gradient of the loss .* is not finite; .* from before this batch"
    ):
        run.fit()
    assert torch.equal(flat_weights(run.predictor), before)
    with pytest.raises(DivergedError, match="no batch of epoch 1 had a finite loss"):
        trainer(net=net, optimization=Root(net), on_nonfinite="skip").fit()
    assert torch.equal(flat_weights(run.predictor), before)


def test_weights_that_are_not_finite_are_said_to_be():
    class Broken(Optimization):
        def step(self, closure):
            super().step(closure)
            self.parameters[0].data.fill_(torch.nan)

    net = network()
    run = trainer(net=net, optimization=Broken(net), on_nonfinite="skip")
    with pytest.raises(DivergedError, match="The weights are not finite themselves, after an earlier step"):
        run.fit()


# --- callbacks


def test_callbacks_change_batches_and_add_values():
    class Zero(Callback):
        def batch_begin(self, trainer, batch):
            batch["force"] = torch.zeros_like(batch["force"])

        def batch_end(self, trainer, values):
            values["mine"] = 5.0

        def epoch_end(self, trainer, values):
            values["extra"] = trainer.epoch

    seen = []

    class After(Callback):
        def batch_end(self, trainer, values):
            seen.append(values["mine"])

    run = trainer(callbacks=[Zero(), After()], normalize=False)
    before = run.predictor.network.layers[0][0].weight.detach().clone()
    history = run.fit()
    assert torch.equal(run.predictor.network.layers[0][0].weight, before)  # zeros have no gradient
    assert seen == [5.0] * run.step
    assert history["extra"] == [1, 2]


@pytest.mark.parametrize(("step", "epochs", "left"), [(3, 0, 3), (8, 1, 0), (9, 1, 1)])
def test_a_callback_stops_the_training(tmp_path, step, epochs, left):
    class Enough(Callback):
        def batch_end(self, trainer, values):
            if trainer.step == step:
                trainer.stop("enough")

    run = trainer(callbacks=[Enough()], session=tmp_path, epochs=5)
    history = run.fit()
    assert (history.stopped, run.epoch, run.batch, run.step) == ("enough", epochs, left, step)
    again = trainer(resume=tmp_path, epochs=5)
    assert (again.epoch, again.batch) == (epochs, left)


def test_stopped_at_the_end_of_an_epoch():
    class Enough(Callback):
        def epoch_end(self, trainer, values):
            trainer.stop("one is enough")

    history = trainer(callbacks=[Enough()]).fit()
    assert (len(history.epochs), history.stopped) == (1, "one is enough")


def test_the_costly_validation_runs_every_so_often_in_evaluation_mode():
    modes = []

    def rollout(predictor):
        modes.append(predictor.training)
        return {"error": len(modes)}

    history = trainer(rollout=rollout, rollout_every=2, epochs=5).fit()
    assert [epoch.get("rollout_error") for epoch in history.epochs] == [None, 1, None, 2, 3]
    assert modes == [False] * 3
    assert "rollout_error" not in trainer().fit().epochs[0]


# --- loading


@pytest.mark.slow
def test_worker_processes_load_the_same_batches(tmp_path):
    dataset = stored(tmp_path, bad=None)
    runs = []
    for workers in (0, 2):
        torch.manual_seed(0)
        net = MLP(3, 2, hidden=(8,), dropout=0.2)
        runs.append(Trainer(net, dataset, epochs=2, batch_size=16, progress=False, loader_workers=workers))
        runs[-1].fit()
    assert torch.equal(flat_weights(runs[0].predictor), flat_weights(runs[1].predictor))


class Noisy:
    """Samples whose gathering draws random numbers."""

    def __init__(self, samples):
        self._samples, self.spec = samples, samples.spec
        self.statistics, self.split = samples.statistics, samples.split

    def __len__(self):
        return len(self._samples)

    def gather(self, indices, fields=None):
        found = self._samples.gather(indices, fields)
        noise = np.random.default_rng().standard_normal() * 0 + np.random.standard_normal()  # noqa: NPY002
        return {name: value + np.float32(noise) for name, value in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_what_gathering_draws_does_not_depend_on_the_workers(workers):
    def run(count):
        made = trainer(Noisy(linear_samples(128)), normalize=False, loader_workers=count)
        made.fit()
        return flat_weights(made.predictor)

    assert torch.equal(run(2), run(workers))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_nonfinite": "ignore"}, "on_nonfinite must be one of"),
        ({"loader_workers": -1}, "loader_workers must not be negative"),
        ({"rollout_every": 0}, "rollout_every must be at least 1"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        trainer(**options)


def test_auto_is_a_device_of_this_machine_and_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert trainer(device="auto").ranks.device == torch.device("cpu")
    assert capsys.readouterr().err == "device: auto is cpu\n"
    trainer(device="cpu")
    assert capsys.readouterr().err == ""
