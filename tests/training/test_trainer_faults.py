"""Trainers that are given nonsense, interrupted, or left by what they rely on; and what of it can be continued."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.optim import lr_scheduler

import physgym
from physgym import Simulation
from physgym.data.writer import SampleWriter
from physgym.errors import CheckpointError, ConfigError, DatasetError, DivergedError
from physgym.generation.stream import SampleStream
from physgym.nn import MLP, Optimization
from physgym.sample import Field, SampleSpec
from physgym.training import Callback, Checkpoints, Trainer, list_checkpoints
from tests.conftest import label
from tests.support.memory_samples import MemorySamples, MemorySource, linear_samples
from tests.support.processes import children, not_ended
from tests.support.weights import copied_weights, same_weights


def columns(x="f4", y="f4", n=64, x_shape=(3,), y_shape=(2,)):
    """Samples of any kind, in episodes of four."""
    rng = np.random.default_rng(0)

    def column(kind, shape):
        values = rng.normal(size=(n, *shape))
        return values.astype(kind) if np.dtype(kind).kind in "biufc" else np.full((n, *shape), 1).astype(kind)

    arrays = {"x": column(x, x_shape), "y": column(y, y_shape)}
    fields = [Field("x", x_shape, np.dtype(x), "input"), Field("y", y_shape, np.dtype(y), "target")]
    return MemorySamples(arrays, SampleSpec(fields), np.arange(n) // 4)


def trainer(dataset=None, network=None, **options):
    torch.manual_seed(0)
    network = MLP(3, 2, hidden=(4,)) if network is None else network
    dataset = columns() if dataset is None else dataset
    return Trainer(network, dataset, **{"epochs": 2, "batch_size": 8, "progress": False, **options})


def epochs_of(run):
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in run.history.epochs]


# --- arguments


class Changing(nn.Module):
    """Predicts another shape once it is trained."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x):
        return self.inner(x)[:, :1] if self.training else self.inner(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 2.5}, "epochs must be an integer, not 2.5"),
        ({"epochs": "2"}, "epochs must be an integer, not '2'"),
        ({"batch_size": 2.5}, "batch_size must be an integer"),
        ({"seed": 1.5}, "seed must be an integer"),
        ({"seed": 2**70}, "seed must be at most"),
        ({"loader_workers": -1}, "loader_workers must not be negative, got -1"),
        ({"rollout_every": 0}, "rollout_every must be at least 1, not 0"),
        *(
            ({"validation": value}, "validation must be a fraction from 0 to below 1")
            for value in (-0.1, 1.0, 1.5, True)
        ),
        ({"validation": float("nan")}, "validation must be a fraction from 0 to below 1, or samples, not nan"),
        ({"validation": [1]}, "validation must be samples with a spec, such as a SampleDataset, not a list"),
        (
            {"validation": columns(y_shape=(3,))},
            r"validation samples have \(3,\) as field 'y', those to train on \(2,\)",
        ),
        ({"validation": linear_samples(8)}, "validation samples have None as field 'x'"),
        ({"network": len}, r"the network must be a torch.nn.Module or a Predictor, not <built-in function len>"),
        ({"optimization": Optimization}, "optimization must be an Optimization of the network"),
        ({"callbacks": Callback()}, "callbacks must be a list of callbacks, not a Callback"),
        ({"callbacks": [Callback]}, "is no instance of physgym.training.Callback"),
        ({"dataset": {"x": np.zeros(3)}}, "dataset must be samples with a spec, such as a SampleDataset, not a dict"),
        ({"compile": "eager"}, "compile must be True, False, or the arguments of torch.compile, not 'eager'"),
        ({"compile": {"backend": "nonsense"}}, r"torch\.compile refuses .*Invalid backend: 'nonsense'"),
        ({"inputs": ["z"]}, "inputs names 'z', which the samples lack"),
        ({"loss_fields": ["z"]}, "loss_fields names 'z', which the samples lack"),
        ({"dataset": columns(x="U3")}, "field 'x' has dtype <U3, which a network is not trained on"),
        ({"dataset": columns(y="O"), "normalize": False}, "field 'y' has dtype object"),
        ({"dataset": columns(x="c8")}, "field 'x' is complex, which has no such normalization"),
    ],
    ids=label,
)
def test_arguments_that_make_no_sense_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        trainer(**options)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda p, t: (p - t) ** 2, r"'loss' of the loss has shape \(8, 2\); it must be one number"),
        (lambda p, t: 1.0, "need a 'loss' that is a tensor with a gradient; it is a float"),
        (lambda p, t: (p - t).detach().mean(), "no gradient follows from the loss"),
        (None, "loss must be a loss class or a function"),
    ],
)
def test_a_loss_that_makes_no_sense_is_named(loss, message):
    network = MLP(3, 2, hidden=(4,))
    with pytest.raises(ConfigError, match=message):
        trainer(network=network, optimization=Optimization(network, loss=loss)).fit()


def test_arguments_of_the_optimizer_that_make_no_sense_are_named():
    network = MLP(3, 2, hidden=(4,))
    for options, message in (
        ({"lr": -1.0}, "cannot be made with these arguments: Invalid learning rate: -1.0"),
        ({"optimizer": torch.optim.LBFGS, "clip_norm": 1.0}, "the norm to clip is not known; leave out clip_norm"),
        ({"optimizer": torch.optim.LBFGS, "precision": "float16"}, 'the scale of the loss .* precision="float16"'),
    ):
        with pytest.raises(ConfigError, match=message):
            Optimization(network, **options)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4", "i4", "u2", "?"])
@pytest.mark.parametrize("normalize", [True, False])
def test_numbers_of_any_kind_are_trained_on(kind, normalize):
    for dataset in (columns(x=kind), columns(y=kind)):
        assert np.isfinite(trainer(dataset, normalize=normalize).fit()["loss"]).all()


@pytest.mark.parametrize("kind", ["f4", "i8"])
def test_a_shape_that_would_be_broadcast_ends_before_the_first_step(kind):
    run = trainer(columns(y=kind), Changing(), normalize=False)
    with pytest.raises(ConfigError, match=r"of field 'y' have shapes \(8, 1\) and \(8, 2\) in the loss"):
        run.fit()
    assert run.step == 0


def test_classes_have_one_axis_less():
    dataset = columns(y_shape=())
    dataset.arrays["y"] = np.random.default_rng(0).integers(0, 2, 64)
    dataset.spec = SampleSpec([dataset.spec["x"], Field("y", (), np.dtype("i8"), "target")])

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x):
            scores = self.inner(x)
            return scores if self.training else scores.argmax(1).float()

    class Scores(Optimization):
        def compute_loss(self, prediction, target):
            return super().compute_loss(prediction, target) if prediction["y"].ndim == 2 else prediction["y"].mean()

    network = Classifier()
    optimization = Scores(network, loss=nn.CrossEntropyLoss)
    run = trainer(dataset, network, optimization=optimization, normalize=False)
    assert np.isfinite(run.fit()["loss"]).all()


@pytest.mark.slow
def test_a_network_that_cannot_be_compiled_is_an_error_of_the_configuration():
    def backend(graph, inputs):
        raise RuntimeError("no compiler\nhere")

    with pytest.raises(ConfigError, match=r"torch\.compile fails: .*no compiler here.*needs a C\+\+ compiler"):
        trainer(compile={"backend": backend}).fit()


# --- losses that are not finite


def test_a_bad_sample_without_axes_is_named(tmp_path):
    fields = [Field("x", (), np.dtype("f4"), "input"), Field("y", (), np.dtype("f4"), "target")]
    x = np.arange(40, dtype="f4")
    x[17] = np.inf
    with SampleWriter(tmp_path, SampleSpec(fields), nonfinite="allow") as writer:
        names = {"episode": np.arange(40) // 8, "step": np.arange(40) % 8, "seed": np.arange(40, dtype="u8")}
        writer.append({"x": x, "y": x}, **names)
    run = trainer(physgym.SampleDataset(tmp_path), MLP((), ()), normalize=False, validation=0)
    with pytest.raises(DivergedError, match="the batch holds episode 2 step 1"):
        run.fit()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shuffle", ["random", "window", False])
def test_a_bad_sample_is_named_in_a_part_of_a_dataset_and_after_a_resume(tmp_path, shuffle, workers):
    """The rows of the part that is trained on are not those of the dataset, nor is the first batch the epoch's."""
    rng, bad = np.random.default_rng(0), (5, 6)
    spec = SampleSpec([Field("x", (3,), np.dtype("f4"), "input"), Field("y", (2,), np.dtype("f4"), "target")])
    episode, step = np.arange(160) // 8, np.arange(160) % 8
    x = rng.standard_normal((160, 3)).astype("f4")
    with SampleWriter(tmp_path / "data", spec) as writer:
        writer.append({"x": x, "y": x[:, :2]}, episode=episode, step=step, seed=episode.astype("u8"))

    class Poison(Callback):
        """Spoils one sample, which it knows by its value."""

        def batch_begin(self, run, batch):
            place = (batch["x"] == torch.from_numpy(x[(episode == bad[0]) & (step == bad[1])])).all(1)
            batch["x"] = torch.where(place[:, None], torch.nan, batch["x"])

    class Stop(Callback):
        def batch_end(self, run, values):
            if run.step == 3:
                run.stop("to be continued")

    def run(*callbacks, resume=False):
        dataset = physgym.SampleDataset(tmp_path / "data")
        options = {"validation": 0.3, "shuffle": shuffle, "loader_workers": workers, "normalize": False, "seed": 2}
        made = trainer(dataset, session=tmp_path / "run", callbacks=callbacks, resume=resume, **options)
        assert bad[0] in made.training.index("episode")
        return made

    stopped = run(Stop())
    stopped.fit()
    if np.isin(np.arange(3), [number for number in range(3) if _holds(stopped, number, bad)]).any():
        pytest.fail("choose another bad sample: it is in the first batches")
    resumed = run(Poison(), resume=True)
    assert resumed.step == 3
    with pytest.raises(DivergedError, match=f"the batch holds episode {bad[0]} step {bad[1]}\\. The network has"):
        resumed.fit()


def _holds(run, batch, bad):
    rows = run._supply.loader.indices(0, batch)
    return ((run.training.index("episode")[rows] == bad[0]) & (run.training.index("step")[rows] == bad[1])).any()


class Spoiled(Simulation):
    """Episodes of three steps, in the third of which a sample is not a number."""

    action_space = spaces.Box(-1, 1, (3,), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    sample_space = spaces.Dict({name: spaces.Box(-np.inf, np.inf, (3,), np.float32) for name in ("x", "y")})
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012

    def begin(self, options):
        self.count, self.x = 0, np.zeros(3, np.float32)

    def advance(self, action):
        self.count += 1
        self.x = np.asarray(action, np.float32)

    def observation(self):
        return self.x

    def sample(self):
        bad = self.count == 3 and self.x[0] > 0.9
        return {"x": self.x * np.float32(np.nan if bad else 1), "y": self.x}

    def outcome(self):
        return 0.0, self.count >= 3


@pytest.mark.slow
def test_a_bad_sample_of_a_source_is_named():
    options = {"num_workers": 1, "seed": 4, "nonfinite": "allow"}
    with SampleStream(Spoiled, **options) as stream:
        drawn = [stream.take(1) for _ in range(300)]
    bad = next(rows.names for rows in drawn if not np.isfinite(rows.samples["x"]).all())
    stream = SampleStream(Spoiled, **options)
    source = {"dataset": None, "source": stream, "produce": "always", "batches_per_epoch": 100}
    torch.manual_seed(0)
    run = Trainer(
        MLP(3, 3, hidden=(4,)), **source, epochs=1, batch_size=8, progress=False, normalize=False, validation=None
    )
    with pytest.raises(DivergedError, match=f"the batch holds episode {bad.episodes[0]} step {bad.steps[0]}\\. The"):
        run.fit()


# --- resuming to the same bits

SCHEDULES = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5, 9]),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=6),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-4, 1e-2, step_size_up=3, mode="exp_range", gamma=0.9),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 1e-2, total_steps=30),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 12, 2.0),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.95),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.5, cooldown=1),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=3), lr_scheduler.MultiStepLR(o, [2, 4])], [8]
    ),
}
OPTIMIZERS = {
    "SGD": {"optimizer": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True)},
    "amsgrad": {"optimizer": lambda p, lr: torch.optim.Adam(p, lr=lr, amsgrad=True, fused=True)},
    "RMSprop": {"optimizer": torch.optim.RMSprop},
    "ASGD": {"optimizer": torch.optim.ASGD},
    "Rprop": {"optimizer": torch.optim.Rprop},
    "Adafactor": {"optimizer": torch.optim.Adafactor},
    "LBFGS": {"optimizer": torch.optim.LBFGS},
    "LBFGS with a search": {"optimizer": lambda p, lr: torch.optim.LBFGS(p, lr, line_search_fn="strong_wolfe")},
    "float16": {"precision": "float16", "clip_norm": 1.0},
    "bfloat16": {"precision": "bfloat16", "accumulate": 3},
}


class Rates(Callback):
    def __init__(self):
        self.rates = {}

    def batch_begin(self, run, batch):
        self.rates[run.step] = run.optimization.lr


class Crash(Callback):
    def __init__(self, step):
        self.step = step

    def batch_end(self, run, values):
        if run.step == self.step:
            raise RuntimeError("crash")


def assert_resumes(folder, chosen, *, network=lambda: MLP((3, 2), 4, hidden=(8,), dropout=0.1), samples=128, **options):
    """A training that crashed ends like one that did not, wherever it crashed."""

    def made(name, *callbacks, resume=False):
        torch.manual_seed(0)
        net = network()
        given = {"epochs": 4, "batch_size": 32, "validation": 0, **options}
        optimization = Optimization(net, **{"optimizer": torch.optim.SGD, "lr": 1e-2, **chosen})
        saving = [*callbacks, Checkpoints(folder / name, steps=1)]
        return trainer(
            linear_samples(samples), net, optimization=optimization, callbacks=saving, resume=resume, **given
        )

    rates = Rates()
    whole = made("whole", rates)
    whole.fit()
    for step in (3, 6, 11):
        with pytest.raises(RuntimeError, match="crash"):
            made(f"cut{step}", Crash(step)).fit()
        torch.manual_seed(5)
        again = Rates()
        resumed = made(f"cut{step}", again, resume=True)
        assert resumed.step == step - 1
        resumed.fit()
        assert same_weights(copied_weights(resumed), copied_weights(whole))
        assert again.rates == {at: rate for at, rate in rates.rates.items() if at >= step - 1}
        assert epochs_of(resumed) == epochs_of(whole)
    return set(rates.rates.values())


@pytest.mark.slow
@pytest.mark.parametrize("every", ["batch", "epoch"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_go_on_where_they_were(tmp_path, name, every):
    if (name, every) == ("ReduceLROnPlateau", "batch"):
        with pytest.raises(ConfigError, match="looks at the loss of an epoch"):
            assert_resumes(tmp_path, {"scheduler": SCHEDULES[name], "scheduler_every": every})
        return
    momentum = {"optimizer": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)}
    assert len(assert_resumes(tmp_path, {"scheduler": SCHEDULES[name], "scheduler_every": every, **momentum})) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_go_on_where_they_were(tmp_path, name):
    assert_resumes(tmp_path, OPTIMIZERS[name])


@pytest.mark.slow
def test_a_compiled_network_goes_on_where_it_was(tmp_path):
    assert_resumes(tmp_path, {"optimizer": torch.optim.Adam}, compile={"backend": "eager"})


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_small_batches_begin_where_they_may(tmp_path, workers):
    """Batches of three are parts of an array that begins with the first batch that was loaded.

    Products of small matrices differ in the last bit for most places in memory at which they may begin.
    """

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(6, 33), nn.Tanh(), nn.Linear(33, 4))

        def forward(self, force):
            return self.layers(force)

    options = {"network": Wide, "samples": 38, "batch_size": 3, "epochs": 1, "normalize": False}
    assert_resumes(tmp_path, {"optimizer": torch.optim.Adam}, loader_workers=workers, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 1e-3}, "lr was 0.01, now it is 0.001"),
        ({"optimizer": torch.optim.Adam}, "optimizer was 'AdamW', now it is 'Adam'"),
        ({"loss": nn.L1Loss}, "loss was 'MSELoss', now it is 'L1Loss'"),
        ({"clip_norm": 1.0}, "clip_norm was None, now it is 1.0"),
        ({"scheduler": SCHEDULES["StepLR"]}, "scheduler was None, now it is 'StepLR'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_another_optimization_is_refused(tmp_path, change, message):
    def run(**options):
        network = MLP(3, 2, hidden=(4,))
        optimization = Optimization(network, **{"optimizer": torch.optim.AdamW, "lr": 1e-2, **options})
        return trainer(network=network, optimization=optimization, session=tmp_path, resume=True)

    run().fit()
    with pytest.raises(CheckpointError, match=f"(?s)other settings.*{message}"):
        run(**change)


def test_another_number_of_samples_is_refused_also_where_they_are_produced(tmp_path):
    def run(samples, **options):
        class Stored(MemorySource):
            stored = samples

            def dataset(self):
                return columns(n=samples)

        torch.manual_seed(0)
        return Trainer(
            MLP(3, 2), source=Stored(columns()), batches_per_epoch=2, batch_size=8, validation=0, progress=False,
            session=tmp_path, **options,
        )  # fmt: skip

    run(64, epochs=1).fit()
    with pytest.raises(CheckpointError, match=r"epoch-0001 is of a training .*length was 64, now it is 72"):
        run(72, epochs=2, resume=True).fit()


# --- Ctrl-C, errors, deaths


class Placed(MemorySource):
    """Goes on where it was; what was being drawn when Ctrl-C came is lost to it."""

    def state_dict(self):
        return {"drawn": self.count}

    def load_state_dict(self, state):
        self.count = state.get("drawn", 0)


class Slow(MLP):
    def forward(self, *inputs):
        time.sleep(3e-4)
        return super().forward(*inputs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file between open() and its "with"
@pytest.mark.parametrize("kind", ["stored", "always"])
def test_ctrl_c_at_any_time_can_be_continued_to_the_same_bits(tmp_path, kind):
    """In the midst of a batch in parts, of the validation, of the writing of a checkpoint."""

    def made(folder):
        torch.manual_seed(0)
        network = Slow((3, 2), 4, hidden=(8,), dropout=0.2)
        options = {"epochs": 3, "batch_size": 16, "progress": False, "seed": 3, "session": folder, "resume": True}
        optimization = Optimization(network, lr=1e-2, accumulate=3)
        if kind == "stored":
            return Trainer(network, linear_samples(160), optimization=optimization, validation=0.2, **options)
        more = {"source": Placed(linear_samples(500)), "produce": "always", "batches_per_epoch": 8}
        held = linear_samples(40, seed=2)
        return Trainer(network, **more, optimization=optimization, validation=held, **options)

    made(tmp_path / "first").fit()
    whole = made(tmp_path / "whole")
    start = time.monotonic()
    whole.fit()
    duration, rng, interrupts, session = time.monotonic() - start, random.Random(0), 0, 0
    while interrupts < 20:
        run, interrupted = made(tmp_path / str(session)), False
        fresh, start = run.step == 0, time.monotonic()
        timer = threading.Timer(rng.uniform(0, duration), os.kill, (os.getpid(), signal.SIGINT))
        try:
            try:
                timer.start()
                interrupted = run.fit().interrupted
                if fresh and not interrupted:  # the machine's load changes, and with it what a training takes
                    duration = time.monotonic() - start
            finally:  # a Ctrl-C after the end would stop the process of the tests
                timer.cancel()
                timer.join()
        except KeyboardInterrupt:  # after the training, or before it
            interrupted = True
        interrupts += interrupted
        if not interrupted:
            assert same_weights(copied_weights(run), copied_weights(whole))
            assert epochs_of(run) == epochs_of(whole)
            session += 1


EVENTS = ["train_begin", "epoch_begin", "batch_begin", "batch_end", "epoch_end", "train_end", "close"]


@pytest.mark.parametrize(
    "event", [*EVENTS, "data_generation_begin", "data_generation_batch_end", "data_generation_end"]
)
def test_a_callback_that_raises_leaves_nothing_open(tmp_path, event):
    def fail(*args):
        raise ValueError(f"in {event}")

    closed = []

    class Last(Callback):
        def close(self):
            closed.append(True)

    callback = Callback()
    setattr(callback, event, fail)
    before, source = set(threading.enumerate()), MemorySource(linear_samples(64))
    torch.manual_seed(0)
    network = MLP((3, 2), 4, hidden=(8,))
    options = {"batches_per_epoch": 2, "epochs": 2, "batch_size": 8, "progress": False, "session": tmp_path}
    run = Trainer(network, source=source, callbacks=[callback, Last()], **options)
    with pytest.raises(ValueError, match=f"in {event}"):
        run.fit()
    assert closed
    assert source.closed
    assert not run.predictor.training
    assert set(threading.enumerate()) <= before
    again = Trainer(network, source=MemorySource(linear_samples(64)), **options)  # the folder is free
    again.fit()
    assert again.step == 4


def test_a_state_that_is_no_dictionary_is_refused_when_it_is_saved(tmp_path):
    class Odd(Callback):
        def state_dict(self):
            return 3

    with pytest.raises(CheckpointError, match="state_dict of Odd gave a int, not a dict"):
        trainer(session=tmp_path, callbacks=[Odd()]).fit()
    assert not list_checkpoints(tmp_path / "networks")


STUCK = """
import os, time
from tests.training.test_trainer_faults import columns, trainer
class Stuck:
    def __init__(self, samples):
        self.samples, self.spec, self.split, self.statistics = samples, samples.spec, samples.split, samples.statistics
    def __len__(self):
        return len(self.samples)
    def gather(self, indices, fields=None):
        os.write(1, b"%d\\n" % os.getpid())  # at once: two lines would mix otherwise
        time.sleep(600)
trainer(Stuck(columns(n=800)), validation=0, loader_workers=2, normalize=False).fit()
"""


@pytest.mark.slow
def test_loading_processes_end_with_a_killed_training():
    """Also where they are in the midst of a batch, and do not look whether anybody waits for it."""
    training = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True)
    try:
        assert training.stdout is not None
        loading = [psutil.Process(int(training.stdout.readline())) for _ in range(2)]
    finally:
        training.kill()
        training.wait()
    assert not not_ended(process.pid for process in loading)
    training.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("busy", [0.0, 1.0])
def test_a_loading_process_that_dies_is_an_error_of_the_dataset(busy, monkeypatch):
    """Also where torch reports it in the midst of something else, out of which no error gets: then after a while."""
    monkeypatch.setattr("physgym.loading.gather_processes.TIMEOUT", 20.0)

    class Kill(Callback):
        def batch_end(self, run, values):
            if run.step == 2:
                os.kill(next(iter(children())), signal.SIGKILL)
                end = time.monotonic() + busy
                while time.monotonic() < end:
                    time.sleep(0.01)

    with pytest.raises(DatasetError, match="a worker that loads samples is lost or stuck"):
        trainer(columns(n=800), loader_workers=2, callbacks=[Kill()]).fit()
