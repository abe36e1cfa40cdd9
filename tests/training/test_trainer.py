from __future__ import annotations

import os
import random
import signal
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from physgym.errors import ConfigError, DatasetError, DivergedError
from physgym.loading import reading
from physgym.loading.batching import StackedSampler
from physgym.nn import MLP, Normalize, Optimization, Predictor, RelativeL2, Transforms
from physgym.training import (
    Callback,
    Checkpoints,
    Trainer,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
)
from tests.support.memory_samples import MemorySamples, MemorySource, linear_samples
from tests.support.weights import flat_weights


def network(seed=0, **options):
    torch.manual_seed(seed)
    return MLP((3, 2), 4, **{"hidden": (16,), **options})


def trainer(dataset=None, net=None, **options):
    options = {"epochs": 2, "batch_size": 32, "progress": False, **options}
    if dataset is None and "source" not in options:
        dataset = linear_samples()
    return Trainer(network() if net is None else net, dataset, **options)


class Recorder(Callback):
    """Writes down every event with the counters that it saw."""

    def __init__(self):
        self.events = []

    def train_begin(self, trainer):
        self.events.append("train_begin")

    def data_generation_begin(self, pipeline):
        self.events.append("data_generation_begin")

    def data_generation_batch_end(self, pipeline, samples):
        self.events.append(f"data_generation_batch_end {samples}")

    def data_generation_end(self, pipeline):
        self.events.append("data_generation_end")

    def epoch_begin(self, trainer):
        self.events.append(f"epoch_begin {trainer.epoch}")

    def batch_begin(self, trainer, batch):
        self.events.append(f"batch_begin {trainer.batch}")

    def batch_end(self, trainer, values):
        self.events.append(f"batch_end {trainer.batch} {trainer.step} {sorted(values)}")

    def epoch_end(self, trainer, values):
        self.events.append(f"epoch_end {trainer.epoch} {'validation_loss' in values}")

    def train_end(self, trainer, history):
        self.events.append(f"train_end {history.interrupted}")

    def close(self):
        self.events.append("close")


class At(Callback):
    """Does something once, at the end of the batch of a given step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def batch_end(self, trainer, values):
        if trainer.step == self.step:
            self.step = None
            self.action()


# --- learning


def test_a_linear_problem_is_learned():
    dataset = linear_samples(1024)
    run = trainer(dataset, network(hidden=()), epochs=30, optimization=None)
    run.optimization = Optimization(run.predictor.network, lr=0.03)
    history = run.fit()
    fresh = linear_samples(50, seed=5)
    predicted = run.predictor.predict(fresh.arrays, batched=True)["displacement"]
    wanted = fresh.arrays["displacement"]
    spread = wanted.std(0)
    assert (np.abs(predicted - wanted) < 0.02 * spread).all()
    assert history["validation_loss"][-1] < 1e-4 < 1e-2 < history["loss"][0]
    assert [epoch["epoch"] for epoch in history.epochs] == list(range(1, 31))
    assert not history.interrupted


def test_validation_is_by_episode_and_never_trained_on():
    dataset = linear_samples(400)
    run = trainer(dataset, validation=0.25)
    assert len(run.training) == 300
    assert not set(run.training.episodes) & set(run.validation.episodes)
    run.fit()
    assert sum(len(i) for i in run.validation.gathered) == 2 * 100  # all of them, in each of two epochs
    same = trainer(dataset, validation=0.25)
    assert (same.validation.episodes == run.validation.episodes).all()


def test_validation_loss_is_the_mean_over_samples_in_evaluation_mode():
    held = linear_samples(45, seed=3)  # batches of 32 and 13
    run = trainer(net=network(dropout=0.5), validation=held, optimization=None, epochs=1)
    history = run.fit()
    predicted = torch.from_numpy(run.predictor.predict(held.arrays, batched=True)["displacement"])
    target = torch.from_numpy(held.arrays["displacement"])
    _, pair = run.predictor.transforms.before_loss({}, {"displacement": target})
    _, guess = run.predictor.transforms.before_loss({}, {"displacement": predicted})
    expected = nn.functional.mse_loss(guess["displacement"], pair["displacement"]).item()
    assert history["validation_loss"] == [pytest.approx(expected, rel=1e-3)]
    assert run.evaluate(held) == {"loss": history["validation_loss"][0]}


def test_normalization_is_of_the_training_part_and_stays():
    dataset = linear_samples(64)
    dataset.arrays["force"][dataset.episodes >= 28] += 1000  # the last batch in order would shift it
    run = trainer(dataset, validation=0.2, epochs=3)
    fed = next(module for module in run.predictor.modules() if isinstance(module, Normalize))
    expected = run.training.arrays["force"].mean(0)
    assert not np.allclose(expected, dataset.arrays["force"].mean(0), rtol=1e-3)
    np.testing.assert_allclose(fed.mean_0.numpy(), expected, rtol=1e-5)
    before = {name: value.clone() for name, value in run.predictor.transforms.state_dict().items()}
    run.fit()
    assert all(torch.equal(before[name], value) for name, value in run.predictor.transforms.state_dict().items())


def test_transforms_of_the_caller_are_used_as_they_are():
    plain = trainer(normalize=False)
    assert not any(isinstance(module, Normalize) for module in plain.predictor.modules())
    given = Transforms()
    assert trainer(transforms=given).predictor.transforms is given


def test_custom_values_and_loss_fields_reach_the_history():
    class WithEnergy(Optimization):
        def transform_loss(self, loss, prediction, target):
            assert set(target) == {"displacement", "energy"}
            return {"loss": loss, "energy": target["energy"].mean()}

    net, dataset = network(), linear_samples(100)
    run = trainer(
        dataset,
        net,
        optimization=WithEnergy(net, loss=RelativeL2),
        loss_fields=["displacement", "energy"],
        validation=0,
    )
    history = run.fit()
    assert history["energy"] == pytest.approx([dataset.arrays["energy"].mean()] * 2)
    assert "validation_loss" not in history.epochs[0]


def test_the_scheduler_advances_once_an_epoch_and_sees_the_validation():
    net, seen = network(), []

    class Watch(torch.optim.lr_scheduler.ReduceLROnPlateau):
        def step(self, metrics, epoch=None):
            seen.append(metrics)
            super().step(metrics)

    history = trainer(net=net, optimization=Optimization(net, scheduler=Watch)).fit()
    assert seen == history["validation_loss"]


def test_batches_per_epoch_limits_an_epoch():
    run = trainer(batches_per_epoch=3, validation=0)
    run.fit()
    assert run.step == 6
    assert [record["samples"] for record in run.history.epochs] == [96, 96]
    assert run.num_batches == 3
    assert trainer(batches_per_epoch=99, validation=0).num_batches == 8


def test_a_trained_predictor_is_trained_further_with_its_normalization():
    first = trainer()
    first.fit()
    mean = next(first.predictor.transforms.buffers()).clone()
    shifted = linear_samples(256)
    shifted.arrays["force"] += 100
    second = trainer(shifted, first.predictor)
    assert second.predictor is first.predictor
    second.fit()
    assert torch.equal(next(second.predictor.transforms.buffers()), mean)


# --- events


def test_events_come_in_the_documented_order():
    recorder = Recorder()
    trainer(linear_samples(64), callbacks=[recorder], validation=0.5, batch_size=16).fit()
    values = "['loss']"
    assert recorder.events == [
        "train_begin",
        "epoch_begin 0",
        "batch_begin 0",
        f"batch_end 1 1 {values}",
        "batch_begin 1",
        f"batch_end 2 2 {values}",
        "epoch_end 1 True",
        "epoch_begin 1",
        "batch_begin 0",
        f"batch_end 1 3 {values}",
        "batch_begin 1",
        f"batch_end 2 4 {values}",
        "epoch_end 2 True",
        "train_end False",
        "close",
    ]


def test_every_callback_is_closed_after_an_error():
    class Broken(Callback):
        def close(self):
            raise OSError("first")

    recorder = Recorder()
    run = trainer(callbacks=[Broken(), recorder, At(2, lambda: 1 / 0)])
    with pytest.raises(OSError, match="first"):
        run.fit()
    assert recorder.events[-1] == "close"
    assert "train_end False" not in recorder.events


# --- sources


def test_samples_of_the_first_epoch_are_stored_and_reused():
    source, recorder = MemorySource(linear_samples(64)), Recorder()
    run = trainer(source=source, batches_per_epoch=2, batch_size=16, epochs=3, validation=0.25, callbacks=[recorder])
    assert run.training is None
    run.fit()
    assert source.count == 32
    assert source.closed
    assert len(run.training) + len(run.validation) == 32
    assert recorder.events[:6] == [
        "train_begin",
        "data_generation_begin",
        "data_generation_batch_end 16",
        "data_generation_batch_end 16",
        "data_generation_end",
        "epoch_begin 0",
    ]
    fed = next(module for module in run.predictor.modules() if isinstance(module, Normalize))
    np.testing.assert_allclose(fed.mean_0.numpy(), run.training.arrays["force"].mean(0), rtol=1e-5)
    stored = MemorySamples(run.training.arrays, run.training.spec, run.training.episodes)
    again = trainer(stored, batch_size=16, epochs=3, batches_per_epoch=2, validation=run.validation)
    again.fit()
    assert torch.equal(flat_weights(again.predictor), flat_weights(run.predictor))


def test_always_fresh_samples():
    source = MemorySource(linear_samples(512), store=False)
    seen = []

    class Watch(Callback):
        def batch_begin(self, trainer, batch):
            seen.append(source.count)

    run = trainer(source=source, produce="always", batches_per_epoch=4, epochs=3, callbacks=[Watch()])
    history = run.fit()
    # the first epoch is drawn ahead, for the statistics, and trained on
    assert seen == [128] * 4 + [128 + 32 * i for i in range(1, 9)]
    assert source.count == 3 * 4 * 32
    assert "validation_loss" not in history.epochs[0]
    fed = next(module for module in run.predictor.modules() if isinstance(module, Normalize))
    np.testing.assert_allclose(fed.mean_0.numpy(), source.samples.arrays["force"][:128].mean(0), rtol=1e-5)
    assert source.closed


def test_always_fresh_samples_with_validation_of_its_own():
    held = linear_samples(40, seed=8)
    net, source = network(), MemorySource(linear_samples(99))
    optimization = Optimization(net, lr=0.03)
    run = trainer(
        net=net,
        source=source,
        produce="always",
        batches_per_epoch=3,
        epochs=20,
        validation=held,
        optimization=optimization,
    )
    history = run.fit()
    assert history["validation_loss"][-1] < 0.5 * history["validation_loss"][0]


def test_what_a_source_needs():
    samples = linear_samples()
    with pytest.raises(ConfigError, match="batches_per_epoch"):
        trainer(source=MemorySource(samples))
    with pytest.raises(ConfigError, match="not both"):
        trainer(samples, source=MemorySource(samples), batches_per_epoch=2)
    with pytest.raises(ConfigError, match="not none"):
        Trainer(network(), epochs=1)
    with pytest.raises(ConfigError, match="stores none"):
        trainer(source=MemorySource(samples, store=False), batches_per_epoch=2).fit()
    with pytest.raises(ConfigError, match="produce"):
        trainer(samples, produce="never")


# --- wrong input


def test_a_network_that_does_not_fit_is_refused_before_training():
    with pytest.raises(ConfigError, match=r"field 'displacement' with shape \(5,\); the samples say \(4,\)"):
        trainer(net=MLP((3, 2), 5))
    with pytest.raises(ConfigError, match=r"field 'displacement' with shape \(1,\); the samples say \(4,\)"):
        trainer(net=MLP((3, 2), 1))  # would broadcast in the normalization
    with pytest.raises(ConfigError, match=r"field 'displacement' with shape \(5,\); the samples say \(4,\)"):
        trainer(net=MLP((3, 2), 5), normalize=False)


def test_an_empty_dataset_is_refused():
    empty = linear_samples(0)
    with pytest.raises(DatasetError, match="the dataset has no samples; generate some first"):
        trainer(empty)
    with pytest.raises(DatasetError, match="validation part has no samples"):
        trainer(validation=empty)
    one_episode = linear_samples(2)
    with pytest.raises(DatasetError, match="training part of the dataset has no samples"):
        trainer(one_episode)


@pytest.mark.parametrize("name", ["epochs", "batch_size", "batches_per_epoch"])
def test_counts_are_positive(name):
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, not 0"):
        trainer(**{name: 0})


def test_misfits_are_named():
    with pytest.raises(ConfigError, match="loss_fields names 'work'"):
        trainer(loss_fields=["work"])
    with pytest.raises(ConfigError, match="no parameter of the network"):
        trainer(optimization=Optimization(network()))
    predictor = trainer().predictor
    with pytest.raises(ConfigError, match="has its inputs already"):
        trainer(net=predictor, inputs=["force"])
    other = linear_samples()
    other.spec = type(other.spec)([other.spec["displacement"]])
    with pytest.raises(ConfigError, match=r"field 'force' of shape \(3, 2\); the samples have None"):
        trainer(other, predictor)


def test_a_loss_that_is_not_finite_names_its_batch_and_spares_the_weights(tmp_path):
    dataset = linear_samples(96)
    dataset.arrays["force"][7, 1, 1] = np.nan
    run = trainer(dataset, validation=0, normalize=False, session=tmp_path)
    order = dataset.gather(next(iter(StackedSampler(dataset, 96))))["force"]
    batch = 1 + int(np.argwhere(np.isnan(order))[0, 0]) // 32
    with pytest.raises(
        DivergedError, match=rf"loss is nan in epoch 1, batch {batch}, whose samples are not finite in \['force'\]"
    ):
        run.fit()
    assert torch.isfinite(flat_weights(run.predictor)).all()
    assert run.step == batch - 1
    assert not list_checkpoints(tmp_path / "networks")


def test_a_diverging_training_says_so():
    net = network()
    run = trainer(net=net, optimization=Optimization(net, optimizer=torch.optim.SGD, lr=1e9), epochs=50, validation=0)
    with pytest.raises(DivergedError, match=r"loss is (nan|inf) in epoch \d+, batch \d+; .* Lower the learning rate"):
        run.fit()


# --- reproducibility


def test_the_order_is_a_function_of_seed_and_epoch():
    def orders(seed):
        dataset = linear_samples(64)
        trainer(dataset, validation=0, seed=seed).fit()
        return np.concatenate(dataset.gathered).reshape(2, 64).tolist()

    first, second = orders(0)
    assert sorted(first) == sorted(second) == list(range(64))
    assert first != second
    assert orders(0) == [first, second]
    assert orders(1) != [first, second]


def test_same_seed_same_weights():
    def train(seed, **options):
        run = trainer(net=network(dropout=0.3), seed=seed, **options)
        torch.rand(3)  # what was drawn before does not matter
        history = run.fit()
        return flat_weights(run.predictor), history["loss"]

    first, loss = train(3)
    second, same_loss = train(3)
    assert torch.equal(first, second)
    assert loss == same_loss
    assert not torch.equal(first, train(4)[0])


@pytest.mark.parametrize("shuffle", ["random", "window"])
def test_how_samples_are_shuffled_can_be_fixed(shuffle, monkeypatch):
    class Blocks(MemorySamples):
        def read(self, start, stop, fields, out):
            read.append(stop - start)
            return self.gather(np.arange(start, stop), fields, out)

    def train(memory):
        monkeypatch.setattr(reading, "available_memory", lambda: memory)
        samples = linear_samples()
        run = trainer(Blocks(samples.arrays, samples.spec), validation=0, shuffle=shuffle)
        run.fit()
        return flat_weights(run.predictor)

    read = []
    first = train(memory=1)
    assert sum(read) == (2 * 256 if shuffle == "window" else 0)
    assert torch.equal(train(memory=1 << 40), first)


@pytest.mark.slow
def test_no_thread_outlives_a_training():
    def fail(trainer, values):
        raise ValueError("of a callback")

    before = set(threading.enumerate())  # libraries may have some of their own
    run = trainer(linear_samples(10_000))
    run.fit()
    assert set(threading.enumerate()) <= before
    callback = Callback()
    callback.batch_end = fail
    with pytest.raises(ValueError, match="of a callback"):
        trainer(linear_samples(50_000), callbacks=[callback]).fit()
    assert set(threading.enumerate()) <= before


def test_the_global_generators_are_seeded():
    drawn = []

    class Draw(Callback):
        def train_begin(self, trainer):
            drawn.append((random.random(), np.random.random(), torch.rand(1).item()))  # noqa: NPY002

    for seed in (1, 1, 2):
        trainer(seed=seed, callbacks=[Draw()]).fit()
    assert drawn[0] == drawn[1]
    assert all(a != b for a, b in zip(drawn[0], drawn[2], strict=True))


# --- Ctrl-C


def test_ctrl_c_ends_after_the_step_and_saves(tmp_path):
    recorder = Recorder()
    stop = At(11, lambda: os.kill(os.getpid(), signal.SIGINT))
    run = trainer(session=tmp_path, epochs=5, callbacks=[stop, recorder], validation=0)  # 8 batches per epoch
    before = signal.getsignal(signal.SIGINT)
    history = run.fit()
    assert signal.getsignal(signal.SIGINT) is before
    assert history.interrupted
    assert (run.epoch, run.batch, run.step) == (1, 3, 11)
    # the event in which it came reached the other callbacks too
    assert recorder.events[-3:] == ["batch_end 3 11 ['loss']", "train_end True", "close"]
    last = find_checkpoint(tmp_path, "last")
    assert last.name == "epoch-0001-step-00000011"
    assert torch.equal(flat_weights(load_checkpoint(last)), flat_weights(run.predictor))
    assert find_checkpoint(tmp_path, "best").name == "epoch-0001"


def test_an_interrupted_training_continues_to_the_same_weights():
    def run(*callbacks):
        return trainer(net=network(dropout=0.3), epochs=4, callbacks=callbacks)

    whole = run()
    whole.fit()
    parts = run(At(13, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert parts.fit().interrupted
    history = parts.fit()
    assert not history.interrupted
    assert parts.step == whole.step
    assert torch.equal(flat_weights(parts.predictor), flat_weights(whole.predictor))
    assert history["validation_loss"] == whole.history["validation_loss"]


def test_ctrl_c_during_the_validation_loses_nothing():
    class Once(Trainer):
        interrupted = False

        def evaluate(self, samples):
            if not self.interrupted:
                self.interrupted = True
                os.kill(os.getpid(), signal.SIGINT)
            return super().evaluate(samples)

    options = {"epochs": 2, "progress": False}
    whole = Trainer(network(), linear_samples(), **options)
    whole.fit()
    run = Once(network(), linear_samples(), **options)
    assert run.fit().interrupted
    assert run.step == run.batch == run.num_batches
    history = run.fit()
    for name in ("loss", "validation_loss", "samples", "epoch"):
        assert history[name] == whole.history[name]
    assert torch.equal(flat_weights(run.predictor), flat_weights(whole.predictor))


@pytest.mark.alone
def test_ctrl_c_while_waiting_for_samples_ends_within_two_seconds(tmp_path):
    sent = []

    def send():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    class Slow(MemorySource):
        def draw(self, batch_size):
            if self.count >= 64:
                threading.Timer(0.2, send).start()
                time.sleep(30)
            return super().draw(batch_size)

    source = Slow(linear_samples())
    run = trainer(source=source, produce="always", batches_per_epoch=2, epochs=9, session=tmp_path)
    assert run.fit().interrupted
    assert time.monotonic() - sent[0] < 2
    assert source.closed
    assert find_checkpoint(tmp_path).name == "epoch-0001"


def test_ctrl_c_never_cuts_a_step_in_half():
    net = network()

    class Slow(Optimization):
        completed = 0

        def step(self, closure):
            os.kill(os.getpid(), signal.SIGINT)
            super().step(closure)
            self.completed += 1

    optimization = Slow(net)
    run = trainer(net=net, optimization=optimization)
    assert run.fit().interrupted
    assert optimization.completed == run.step == 1


def test_a_second_ctrl_c_does_not_wait():
    net = network()

    class Stuck(Optimization):
        def step(self, closure):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("not reached")

    run = trainer(net=net, optimization=Stuck(net))
    assert run.fit().interrupted
    assert run.step == 0


# --- session and progress


def test_a_session_has_networks_and_stats_and_nothing_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer().fit()
    assert not list(tmp_path.iterdir())
    trainer(session="run/one", record=False).fit()
    assert sorted(path.name for path in (tmp_path / "run/one").iterdir()) == ["networks", "stats"]


def test_checkpoints_of_the_user_take_the_place_of_the_own(tmp_path):
    mine = Checkpoints(tmp_path / "mine", keep=None)
    trainer(session=tmp_path, callbacks=[mine], epochs=3).fit()
    assert [path.name for path in list_checkpoints(tmp_path / "mine")] == ["epoch-0001", "epoch-0002", "epoch-0003"]
    assert not (tmp_path / "networks").exists()


def test_progress_off_a_terminal_is_plain_lines(capsys):
    trainer(progress=True).fit()
    text = capsys.readouterr().err
    assert "epoch 2/2, loss" in text
    assert "validation" in text
    assert "train: 16/16" in text
    source = MemorySource(linear_samples())
    trainer(source=source, batches_per_epoch=4, progress=True).fit()
    assert "generate: 128/128" in capsys.readouterr().err


def test_the_network_is_left_in_evaluation_mode():
    run = trainer(net=network(dropout=0.5))
    run.fit()
    assert not run.predictor.training
    assert isinstance(run.predictor, Predictor)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_a_gpu(tmp_path):
    run = trainer(linear_samples(1024), network(hidden=(32,)), epochs=20, device="cuda", session=tmp_path)
    history = run.fit()
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    assert run.predictor.device.type == "cuda"
    fresh = linear_samples(8, seed=5).arrays
    on_gpu = run.predictor.predict(fresh, batched=True)["displacement"]
    on_cpu = load_checkpoint(tmp_path).predict(fresh, batched=True)["displacement"]
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-3, atol=1e-3)
