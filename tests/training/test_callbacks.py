from __future__ import annotations

import re

import pytest
import torch

from physgym.errors import ConfigError
from physgym.events import Callbacks
from physgym.nn import MLP, Optimization
from physgym.training import Callback, EarlyStopping, LearningRateMonitor, ProgressBar, Trainer
from physgym.training.pipeline import Training
from tests.support.memory_samples import MemorySource, linear_samples


def trainer(dataset=None, **options):
    torch.manual_seed(0)
    options = {"epochs": 6, "batch_size": 32, "progress": False, **options}
    if dataset is None and "source" not in options:
        dataset = linear_samples()
    return Trainer(options.pop("network", None) or MLP((3, 2), 4, hidden=(16,)), dataset, **options)


class Plays(Callback):
    """Puts values of its own in place of those of the epochs."""

    def __init__(self, values, name="validation_loss"):
        self.values, self.name = values, name

    def epoch_end(self, trainer, values):
        value = self.values[trainer.epoch - 1]
        if value is not None:
            values[self.name] = value


class Stops(Callback):
    def __init__(self, step, reason="enough"):
        self.step, self.reason = step, reason

    def batch_end(self, trainer, values):
        if trainer.step == self.step:
            trainer.stop(self.reason)


class Fails(Exception):
    pass


class FailsAt(Callback):
    def __init__(self, step):
        self.step = step

    def batch_end(self, trainer, values):
        if trainer.step == self.step:
            raise Fails


# --- early stopping

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "options", "epochs", "known"),
    [
        ([5, 4, 3, 2, 1, 0], {"patience": 1}, 6, None),
        ([5, 4, 4, 3, 2, 1], {"patience": 1}, 3, "not better than 4"),
        ([5, 4, 4, 3, 3, 3], {"patience": 2}, 6, "not better than 3"),
        ([5, 6, 6, 4, 5, 5], {"patience": 2}, 3, "not better than 5"),
        ([5, 4.5, 4.1, 3.9, 3, 3], {"patience": 3, "min_delta": 1}, 6, None),
        ([5, 4.5, 4.1, 4.0, 3, 3], {"patience": 3, "min_delta": 1}, 4, "not better than 5 by more than 1"),
        ([1, 2, 3, 3, 4, 4], {"patience": 1, "mode": "max"}, 4, "not better than 3"),
        ([NAN, NAN, NAN, 1, 1, 1], {"patience": 3}, 3, "never finite"),
        ([INF, 5, NAN, 4, INF, 3], {"patience": 2}, 6, None),
        ([-INF, 5, 6, 4, 3, 2], {"patience": 2}, 6, None),
    ],
)
def test_early_stopping_waits_for_a_better_value(values, options, epochs, known):
    history = trainer(callbacks=[Plays(values), EarlyStopping(**options)]).fit()
    assert len(history.epochs) == epochs
    waited = {1: "epoch", 2: "2 epochs", 3: "3 epochs"}[options["patience"]]
    assert history.stopped == (f"validation_loss was {known} in the last {waited}" if known else "")


def test_early_stopping_looks_at_any_value_of_the_record():
    values = [3, 1, 2, 0, 0, 0]
    history = trainer(callbacks=[Plays(values, "distance"), EarlyStopping("distance", patience=1)]).fit()
    assert history["distance"] == [3, 1, 2]


def test_early_stopping_of_a_value_that_is_not_there_names_those_that_are():
    with pytest.raises(ConfigError, match=r"watches 'validation_los', .* there are \[.*'loss', .*'validation_loss'\]"):
        trainer(callbacks=[EarlyStopping("validation_los")]).fit()
    with pytest.raises(ConfigError, match="watches 'validation_loss'"):
        trainer(validation=None, callbacks=[EarlyStopping()]).fit()
    # also a value that would come from the costly validation
    with pytest.raises(ConfigError, match="watches 'rollout_error'"):
        trainer(callbacks=[EarlyStopping("rollout_error")]).fit()
    with pytest.raises(ConfigError, match=r"watches 'rollout_eror', .* there are \[.*'rollout_error'"):
        trainer(rollout=lambda predictor: {"error": 1.0}, callbacks=[EarlyStopping("rollout_eror")]).fit()


def test_early_stopping_by_the_costly_validation_counts_the_epochs_that_have_it():
    errors = iter([3.0, 1.0, 2.0, 2.0, 2.0])
    run = trainer(
        epochs=10,
        rollout=lambda predictor: {"error": next(errors)},
        rollout_every=2,
        callbacks=[EarlyStopping("rollout_error", patience=2)],
    )
    assert run.fit()["rollout_error"] == [3, 1, 2, 2]
    assert run.epoch == 8


@pytest.mark.parametrize("fail_at", [20, 28])
def test_a_resumed_training_stops_early_where_it_would_have_stopped(tmp_path, fail_at):
    def run(patience=2, fail_at=None, resume=True):
        stopping = EarlyStopping(patience=patience)
        callbacks = [Plays([5, 4, 4.5, 4.2, 3, 3]), stopping, FailsAt(fail_at)]
        return trainer(session=tmp_path, callbacks=callbacks, resume=resume), stopping

    with pytest.raises(Fails):
        run(fail_at=fail_at, resume=False)[0].fit()
    resumed, stopping = run()
    assert len(resumed.fit().epochs) == 4
    assert (stopping.best, stopping.waited) == (4, 2)
    # what had been stopped is not trained further, unless there is more patience
    again, _ = run()
    history = again.fit()
    assert (again.step, history.stopped) == (32, "validation_loss was not better than 4 in the last 2 epochs")
    patient, _ = run(patience=3)
    assert len(patient.fit().epochs) == 6


def test_early_stopping_starts_anew_with_another_training():
    stopping = EarlyStopping(patience=2)
    for _ in range(2):
        assert len(trainer(callbacks=[Plays([1, 2, 2, 2, 2, 2]), stopping]).fit().epochs) == 3


@pytest.mark.parametrize(
    "arguments", [{"patience": 0}, {"min_delta": -1}, {"min_delta": NAN}, {"mode": "lowest"}], ids=str
)
def test_wrong_arguments_of_early_stopping(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        EarlyStopping(**arguments)


# --- learning rates


def two_groups(network, names=(None, None)):
    layers = list(network.children())
    half = len(list(layers[0].parameters()))
    groups = [list(network.parameters())[:half], list(network.parameters())[half:]]
    groups = [
        {"params": group, "lr": 0.1 / 10**n} | ({"name": name} if name else {})
        for n, (group, name) in enumerate(zip(groups, names, strict=True))
    ]
    return torch.optim.SGD(groups)


class Keeps(Callback):
    def __init__(self):
        self.batches = []

    def batch_end(self, trainer, values):
        self.batches.append(dict(values))


def halving(optimizer):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


def test_learning_rates_of_all_groups_over_batches():
    network, keeps = MLP((3, 2), 4, hidden=(16,)), Keeps()
    optimization = Optimization(
        network, optimizer=two_groups(network), scheduler=halving, scheduler_every="batch", clip_norm=1.0
    )
    trainer(
        network=network,
        optimization=optimization,
        epochs=1,
        batches_per_epoch=3,
        callbacks=[LearningRateMonitor("batch"), keeps],
    ).fit()
    assert [batch["lr_0"] for batch in keeps.batches] == pytest.approx([0.1, 0.05, 0.025])
    assert [batch["lr_1"] for batch in keeps.batches] == pytest.approx([0.01, 0.005, 0.0025])
    assert all("lr" not in batch for batch in keeps.batches)


def test_learning_rates_of_named_groups_over_epochs():
    network, keeps = MLP((3, 2), 4, hidden=(16,)), Keeps()
    optimization = Optimization(network, optimizer=two_groups(network, ("body", "head")), scheduler=halving)
    history = trainer(
        network=network, optimization=optimization, epochs=3, callbacks=[LearningRateMonitor(), keeps]
    ).fit()
    assert history["lr_body"] == pytest.approx([0.1, 0.05, 0.025])
    assert history["lr_head"] == pytest.approx([0.01, 0.005, 0.0025])
    assert not any(name.startswith("lr") for batch in keeps.batches for name in batch)


def test_the_learning_rate_of_one_group_is_lr():
    keeps = Keeps()
    history = trainer(epochs=1, callbacks=[LearningRateMonitor("batch"), keeps]).fit()
    assert {batch["lr"] for batch in keeps.batches} == {0.001}
    assert history["lr"] == [0.001]
    with pytest.raises(ConfigError, match="every must be one of"):
        LearningRateMonitor("step")


# --- progress


def test_progress_of_a_resumed_training_starts_where_it_was(tmp_path, capsys):
    with pytest.raises(Fails):
        trainer(session=tmp_path, epochs=3, callbacks=[FailsAt(21)]).fit()
    capsys.readouterr()
    run = trainer(session=tmp_path, epochs=3, callbacks=[FailsAt(None)], resume=True, progress=True)
    run.fit()
    assert run.step == 24
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("train: 24/24")
    assert "epoch 3/3, loss " in line


def test_progress_says_why_a_training_ended(capsys):
    trainer(callbacks=[Stops(11, "good enough")], progress=True).fit()
    assert re.search(r"train: 11/48 .*epoch 1/6, validation .*, stopped: good enough$", capsys.readouterr().err.strip())


class Interrupts(Callback):
    def batch_end(self, trainer, values):
        if trainer.step == 3:
            raise KeyboardInterrupt


def test_progress_says_that_a_training_was_interrupted(capsys):
    trainer(callbacks=[Interrupts()], progress=True).fit()
    assert re.search(r"train: \d+/48 .*epoch 0/6, interrupted$", capsys.readouterr().err.strip())


def test_progress_of_what_is_generated_counts_what_is_stored(capsys):
    class Partly(MemorySource):
        stored = 0

        def draw(self, batch_size):
            self.stored += batch_size
            return super().draw(batch_size)

    source = Partly(linear_samples())
    source.stored = source.count = 64
    bar = ProgressBar()
    run = trainer(source=source, batches_per_epoch=4, epochs=1, callbacks=[bar])
    run.fit()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("MLP: ")  # what was built
    assert lines[1].startswith("generate: 128/128")
    assert "train: " in lines[-1]


def test_a_trainer_has_all_that_callbacks_may_use():
    class Looks(Callback):
        def epoch_end(self, trainer, values):
            lacking = [name for name in vars(Training) if not name.startswith("_") and not hasattr(trainer, name)]
            assert not lacking

    trainer(epochs=1, callbacks=[Looks()]).fit()


def test_a_callback_without_a_method_for_an_event_is_not_called():
    asked, called = [], []

    class Watched(Callback):
        def __getattribute__(self, name):
            asked.append(name)
            return super().__getattribute__(name)

        def epoch_end(self, trainer, values):
            called.append("own method")

    class Listening(Callback):
        def batch_end(self, trainer, values):
            called.append("listening")

    watched, assigned = Watched(), Callback()
    assigned.batch_end = lambda trainer, values: called.append("assigned")
    callbacks = Callbacks([watched, Listening(), assigned])
    for _ in range(3):
        callbacks.emit("batch_end", None, {})
    assert called == ["listening", "assigned"] * 3
    assert "batch_end" not in asked
    callbacks.emit("epoch_end", None, {})
    assert called[-1] == "own method"
