from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from physgym.errors import ChangedCode, CheckpointError, ConfigError
from physgym.generation.stream import SampleStream
from physgym.nn import MLP, Optimization
from physgym.training import Callback, Checkpoints, Trainer, list_checkpoints, save_checkpoint
from tests.support.memory_samples import MemorySamples, MemorySource, linear_samples
from tests.support.weights import copied_weights, same_weights

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
        **{name: options.pop(name) for name in ("accumulate", "precision", "loss") if name in options},
    )
    return Trainer(
        network,
        linear_samples(200),
        optimization=optimization,
        callbacks=[*callbacks, Checkpoints(folder, steps=2, keep=None)],
        resume=resume,
        **{"epochs": 3, "batch_size": 32, "validation": 0, "progress": False, "seed": 7, **options},
    )


@pytest.mark.parametrize(
    ("step", "options"),
    [
        *((step, {}) for step in (1, 2, 3, 7, 8, 13, 14, 20)),
        *((3, option) for option in ({"accumulate": 3}, {"precision": "bfloat16"})),
        pytest.param(3, {"loader_workers": 2}, marks=pytest.mark.slow),
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
    assert same_weights(copied_weights(whole), copied_weights(resumed))
    assert [epoch["loss"] for epoch in resumed.history.epochs] == [epoch["loss"] for epoch in whole.history.epochs]
    assert resumed.step == whole.step == STEPS


class Counting(MemorySource):
    """A source that can go on where it was, and says what is stored."""

    def __init__(self, samples, stored=0):
        super().__init__(samples)
        self.count = stored

    @property
    def stored(self):
        return self.count

    def draw(self, batch_size):
        indices = np.arange(self.count, self.count + batch_size) % len(self.samples)
        self.count += batch_size
        return self.samples.gather(indices)

    def dataset(self):
        return MemorySamples(self.samples.gather(np.arange(self.count) % len(self.samples)), self.samples.spec)

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def produced(folder, produce, source, *, callbacks=(), resume=False):
    torch.manual_seed(0)
    return Trainer(
        MLP.from_spec(source.spec, hidden=(8,), dropout=0.1),
        source=source,
        produce=produce,
        epochs=3,
        batch_size=16,
        batches_per_epoch=5,
        validation=0,
        callbacks=[*callbacks, Checkpoints(folder, steps=1)],
        resume=resume,
        progress=False,
    )


@pytest.mark.parametrize("step", [2, 5, 6, 11])
def test_fresh_samples_go_on_where_they_were(tmp_path, step):
    """Also those that were drawn ahead of the training, for the normalization."""
    samples = linear_samples(500)
    whole = produced(tmp_path / "whole", "always", Counting(samples))
    whole.fit()
    with pytest.raises(RuntimeError, match="crash"):
        produced(tmp_path / "cut", "always", Counting(samples), callbacks=[Stop(step)]).fit()
    resumed = produced(tmp_path / "cut", "always", Counting(samples), resume=True)
    assert resumed.step == step - 1
    resumed.fit()
    assert same_weights(copied_weights(whole), copied_weights(resumed))


@pytest.mark.slow
def test_killed_before_the_first_checkpoint_fresh_samples_begin_again(tmp_path):
    def training(name, crash=()):
        stream = SampleStream("physgym/Spring-v0", path=tmp_path / name, num_workers=0, resume=True)
        return produced(tmp_path / f"{name}-networks", "always", stream, callbacks=crash, resume=True)

    whole = training("whole")
    whole.fit()
    with pytest.raises(RuntimeError, match="crash"):
        training("cut", [Stop(1)]).fit()
    resumed = training("cut")
    assert (resumed.step, resumed.source.stored > 0) == (0, True)
    resumed.fit()
    assert same_weights(copied_weights(whole), copied_weights(resumed))


def test_the_first_epoch_draws_only_what_is_not_stored_yet(tmp_path):
    samples = linear_samples(500)
    whole = produced(tmp_path / "whole", "first_epoch", Counting(samples))
    whole.fit()
    source = Counting(samples, stored=37)  # as a killed generation leaves them
    again = produced(tmp_path / "again", "first_epoch", source)
    again.fit()
    assert source.count == 80 == len(again.training)
    assert same_weights(copied_weights(whole), copied_weights(again))
    with pytest.raises(RuntimeError, match="crash"):
        produced(tmp_path / "cut", "first_epoch", Counting(samples), callbacks=[Stop(8)]).fit()
    source = Counting(samples, stored=80)
    resumed = produced(tmp_path / "cut", "first_epoch", source, resume=True)
    resumed.fit()
    assert source.count == 80
    assert same_weights(copied_weights(whole), copied_weights(resumed))


def test_a_completed_training_has_nothing_left_to_do_and_can_be_prolonged(tmp_path):
    whole = produced(tmp_path, "always", Counting(linear_samples(500)))
    whole.fit()
    again = produced(tmp_path, "always", Counting(linear_samples(500)), resume=True)
    assert again.fit().epochs == whole.history.epochs
    assert same_weights(copied_weights(whole), copied_weights(again))
    longer = made(tmp_path / "longer", epochs=2)
    longer.fit()
    assert made(tmp_path / "longer", resume=True).fit()["loss"] == made(tmp_path / "at once").fit()["loss"]


def test_a_single_checkpoint_can_be_named(tmp_path):
    whole = made(tmp_path)
    whole.fit()
    early = next(path for path in list_checkpoints(tmp_path) if path.name == "epoch-0001")
    resumed = made(tmp_path / "other", resume=early)
    assert (resumed.epoch, resumed.batch, resumed.step) == (1, 0, 7)
    resumed.fit()
    assert same_weights(copied_weights(whole), copied_weights(resumed))
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        made(tmp_path / "other", resume=tmp_path / "none")


def test_nothing_to_resume_starts_anew_and_no_place_to_look_is_an_error(tmp_path):
    assert made(tmp_path / "empty", resume=True).step == 0
    with pytest.raises(ConfigError, match="give a session"):
        Trainer(MLP((3, 2), 4), linear_samples(), epochs=1, progress=False, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 16}, "batch_size was 32, now it is 16"),
        ({"seed": 8}, "seed was 7, now it is 8"),
        ({"accumulate": 2}, "accumulate was 1, now it is 2"),
        ({"hidden": 8}, r"network\.head\.weight has shape \(4, 16\) in the file and \(4, 8\) in the network"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    made(tmp_path, epochs=1).fit()
    with pytest.raises(CheckpointError, match=rf"{tmp_path.name}.*{message}"):
        made(tmp_path, resume=True, **change)


def test_another_optimizer_schedule_or_dataset_is_refused(tmp_path):
    made(tmp_path, epochs=1).fit()
    network = MLP((3, 2), 4, hidden=(16, 16), dropout=0.2)
    options = {"epochs": 3, "batch_size": 32, "validation": 0, "progress": False, "seed": 7, "resume": tmp_path}
    with pytest.raises(CheckpointError, match=r"optimizer was 'AdamW', now it is 'Adam'; scheduler was 'OneCycleLR'"):
        Trainer(network, linear_samples(200), optimization=Optimization(network), **options)
    trainer = made(tmp_path / "more")
    with pytest.raises(CheckpointError, match="length was 200, now it is 201"):
        Trainer(trainer.predictor.network, linear_samples(201), optimization=trainer.optimization, **options)


def squared():
    def own(prediction, target):
        return ((prediction - target) ** 2).mean()

    return own


def absolute():
    def own(prediction, target):
        return (prediction - target).abs().mean()

    own.__qualname__ = squared().__qualname__
    return own


def unnamed():
    return lambda prediction, target: (prediction - target).abs().mean()


def test_another_text_of_a_loss_of_the_same_name_is_refused(tmp_path):
    made(tmp_path, epochs=1, loss=squared()).fit()
    with pytest.raises(ChangedCode, match=r"other code of squared\.<locals>\.own than"):
        made(tmp_path, resume=True, loss=absolute())
    assert made(tmp_path, resume=True, loss=squared()).epoch == 1
    assert made(tmp_path, resume=True, loss=absolute(), allow_changed_code=True).epoch == 1


def test_a_loss_whose_text_was_not_recorded_is_continued(tmp_path):
    unread = unnamed()
    unread.__qualname__ = squared().__qualname__
    made(tmp_path, epochs=1, loss=unread).fit()
    assert made(tmp_path, resume=True, loss=squared()).epoch == 1


def test_a_network_alone_cannot_be_continued(tmp_path):
    trainer = made(tmp_path / "first", epochs=1)
    path = save_checkpoint(tmp_path / "alone", trainer.predictor)
    with pytest.raises(CheckpointError, match="not the training that made it"):
        made(tmp_path / "second", resume=path)


def test_callbacks_go_on_and_checkpoints_see_them_last(tmp_path):
    class Counter(Callback):
        count = 0

        def batch_end(self, trainer, values):
            self.count += 1

        def state_dict(self):
            return {"count": self.count, "numbers": np.arange(3), ("a", 1): {2: torch.ones(2)}}

        def load_state_dict(self, state):
            self.loaded, self.count = state, state["count"]

    class Before(Checkpoints):
        pass

    first = Counter()
    with pytest.raises(RuntimeError, match="crash"):
        made(tmp_path, callbacks=[Before(tmp_path / "before", steps=1), first, Stop(5)]).fit()
    second = Counter()
    made(tmp_path, callbacks=[second], resume=tmp_path / "before").fit()
    assert second.loaded["numbers"].tolist() == [0, 1, 2]
    assert second.loaded[("a", 1)][2].tolist() == [1, 1]
    assert second.count == STEPS


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_is_restored(tmp_path, threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        made(tmp_path, epochs=1).fit()
        torch.set_num_threads(3 - threads)
        made(tmp_path, resume=True)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_checkpoints_by_time_and_by_number(tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 25))
    monkeypatch.setattr("physgym.training.checkpointing.time.monotonic", lambda: next(clock))
    trainer = made(tmp_path / "other")
    trainer._callbacks = type(trainer._callbacks)([Checkpoints(tmp_path / "timed", minutes=1, keep=None, every=2)])
    trainer.fit()
    names = [path.name for path in list_checkpoints(tmp_path / "timed")]
    assert [name for name in names if "step" not in name] == ["epoch-0002", "epoch-0003"]
    assert len(names) > 4
    made(tmp_path / "last")
    last = made(tmp_path / "keep")
    last._callbacks = type(last._callbacks)([Checkpoints(tmp_path / "kept", keep=2, best=False)])
    last.fit()
    assert [path.name for path in list_checkpoints(tmp_path / "kept")] == ["epoch-0002", "epoch-0003"]
