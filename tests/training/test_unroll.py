"""Trainings over several steps of a network's own: losses and gradients against plain torch, resumed and refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import CheckpointError, ConfigError
from physgym.generation.stream import SampleStream
from physgym.nn import MLP, Optimization, Predictor, Transforms
from physgym.nn.export.inference import Inference
from physgym.nn.transforms import Compose, LossTransform, Normalize, Transform
from physgym.runner import RolloutEvaluation
from physgym.sample import Field, SampleSpec
from physgym.training import Callback, Checkpoints, Trainer, Unroll, load_checkpoint
from tests.support.memory_samples import linear_samples
from tests.support.weights import same_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*is declared to be:UserWarning")  # random rows do not follow

LENGTH, EPISODES = 7, 6
F8 = np.dtype("f8")
STATE = Field("state", (2,), F8, "input", "m")
FORCE, LOAD = Field("force", (1,), F8, "input", "N"), Field("load", (), F8, "additional")
NEXT = Field("next_state", (2,), F8, "target", "m")
SPECS = {
    "next_state -> state": SampleSpec([STATE, FORCE, NEXT, LOAD]),
    "state": SampleSpec([STATE, FORCE, LOAD]),
    "": SampleSpec([STATE, FORCE, NEXT, LOAD]),
}


def arrays():
    """Random rows: a value that comes from another row than it should shows."""
    rng = np.random.default_rng(0)
    rows = EPISODES * LENGTH
    values = {"state": 5 + 3 * rng.normal(size=(rows, 2)), "force": rng.normal(size=(rows, 1)) - 2}
    return values | {"next_state": 4 + 2 * rng.normal(size=(rows, 2)), "load": rng.normal(size=rows)}


def write(folder, feedback) -> SampleDataset:
    spec = SPECS[feedback].with_feedback(feedback or {})
    rows = {name: value for name, value in arrays().items() if name in spec}
    episode = np.repeat(np.arange(EPISODES), LENGTH)
    writer = SampleWriter(folder, spec, source={"env": "toy"})
    step = np.tile(np.arange(LENGTH), EPISODES)
    writer.append(rows, episode=episode, step=step, seed=episode.astype("u8"))
    writer.close()
    return SampleDataset(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("unroll")


@pytest.fixture(scope="module")
def both(folder):
    return write(folder / "both", "next_state -> state")


@pytest.fixture(scope="module")
def once(folder):
    return write(folder / "once", "state")


@pytest.fixture(scope="module")
def silent(folder):
    return write(folder / "silent", "")


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2).double()

    def forward(self, state, force):
        return self.layer(torch.cat([state, force], 1))


def trainer(dataset, unroll, network=None, **options):
    options = {"epochs": 1, "batch_size": 8, "progress": False, "validation": 0, "shuffle": False, **options}
    return Trainer(Linear() if network is None else network, dataset, unroll=unroll, **options)


def by_hand(dataset, rows, steps, *, first=0, cut=None, weights=None, noise=0.0):
    """The loss of windows at some rows and its gradient, in plain torch."""
    stored = {name: torch.from_numpy(dataset[:][name]) for name in dataset.spec}
    if "next_state" not in stored:
        stored["next_state"] = torch.cat([stored["state"][1:], torch.full((1, 2), torch.nan)])
    # the normalization of all rows; of a state that is stored once that of the state
    moments = {name: stored[name] for name in ("state", "force")}
    moments["next_state"] = stored["next_state"] if "next_state" in dataset.spec else stored["state"]
    mean, scale = ({n: f(v) for n, v in moments.items()} for f in (lambda v: v.mean(0), lambda v: v.std(0, False)))
    layer, rows = Linear().layer, torch.as_tensor(rows)
    weights = [1.0] * steps if weights is None else weights
    total, state = torch.zeros((), dtype=torch.float64), stored["state"][rows] + noise
    for step in range(steps):
        if step == first or (cut and step > first and (step - first) % cut == 0):
            state = state.detach()
        fed = {"state": state, "force": stored["force"][rows + step]}
        made = layer(torch.cat([(fed[name] - mean[name]) / scale[name] for name in fed], 1))
        if step >= first:
            target = (stored["next_state"][rows + step] - mean["next_state"]) / scale["next_state"]
            total = total + weights[step] / sum(weights[first:steps]) * ((made - target) ** 2).mean()
        state = made * scale["next_state"] + mean["next_state"]
    total.backward()
    return total.item(), [parameter.grad for parameter in layer.parameters()]


def begun(made):
    """The first batch of a trainer, and the rows at which its windows begin."""
    rows = made._supply.loader.indices(0, 0)
    batch = made.predictor.tensors(made.training.gather(rows, made.fields))
    steps, episodes = made.training.index("step")[rows], made.training.index("episode")[rows]
    return batch, episodes * LENGTH + steps


CASES = {
    "plain": (Unroll(3), {}),
    "one": (Unroll(1), {}),
    "push forward": (Unroll(4, push_forward=1), {"first": 3}),
    "push forward 2": (Unroll(4, push_forward=2), {"first": 2}),
    "truncated": (Unroll(4, truncate=1), {"cut": 1}),
    "truncated 2": (Unroll(5, truncate=2), {"cut": 2}),
    "weighted": (Unroll(3, weights=[1, 0, 4]), {"weights": [1, 0, 4]}),
    "all": (
        Unroll(5, push_forward=4, truncate=3, weights=[7, 1, 0, 2, 5]),
        {"first": 1, "cut": 3, "weights": [7, 1, 0, 2, 5]},
    ),
}


@pytest.mark.parametrize("form", ["both", "once"])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_those_of_plain_torch(case, form, both, once):
    unroll, how = CASES[case]
    dataset = both if form == "both" else once
    made = trainer(dataset, unroll)
    batch, rows = begun(made)
    want, gradients = by_hand(dataset, rows, unroll.steps, **how)
    got = made._batch_step.gradient(batch)
    assert got["loss"] == pytest.approx(want, rel=1e-6)  # the normalization is in single precision
    for parameter, gradient in zip(made.predictor.network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-7)
    if unroll.push_forward is None:  # the validation has all steps, and the same loss then
        assert made.losses(batch)["loss"].item() == pytest.approx(want, rel=1e-6)
    else:
        full, _ = by_hand(dataset, rows, unroll.steps, weights=how.get("weights"))
        assert made.losses(batch)["loss"].item() == pytest.approx(full, rel=1e-6)


def values(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def epochs_of(history):
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history.epochs]


def test_one_step_is_the_plain_training(both):
    plain = trainer(both, None, epochs=2, validation=0.3, shuffle=True)
    unrolled = trainer(both, 1, epochs=2, validation=0.3, shuffle=True)
    plain.fit()
    unrolled.fit()
    assert same_weights(values(plain.predictor), values(unrolled.predictor))
    assert [{**epoch, "unroll": 1} for epoch in epochs_of(plain.history)] == epochs_of(unrolled.history)


def test_a_gradient_in_parts_is_that_of_the_batch(both):
    grads = []
    for accumulate in (1, 3):
        network = Linear()
        optimization = Optimization(network, accumulate=accumulate)
        made = trainer(both, Unroll(4, truncate=2), network, optimization=optimization, batch_size=6)
        made._batch_step.gradient(begun(made)[0])
        grads.append([parameter.grad.clone() for parameter in network.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_memory_holds_the_steps_of_one_cut(both):
    made = trainer(both, Unroll(6, truncate=2))
    batch, _ = begun(made)
    parts = made._loss.summands(batch)
    first = next(parts)
    first["loss"].backward()
    with pytest.raises(RuntimeError, match="second time"):  # what it needed is gone before the next steps are made
        first["loss"].backward()
    assert len(list(parts)) == 2


def test_the_validation_has_all_steps(both):
    made = trainer(both, Unroll(curriculum={0: 1, 1: 3}, push_forward=1), epochs=2, validation=0.5)
    history = made.fit()
    assert history["unroll"] == [1, 3]
    assert history["validation_loss"][1] == pytest.approx(made.evaluate(made.validation)["loss"])
    whole = trainer(both, Unroll(curriculum={0: 1, 1: 3}, push_forward=1), epochs=2)
    windows = both.windows(1, 3)
    want, _ = by_hand(both, windows.index("episode") * LENGTH + windows.index("step"), 3)
    assert whole.evaluate(windows)["loss"] == pytest.approx(want, rel=1e-6)


class Batches(Callback):
    """Keeps the batches that are trained on."""

    def __init__(self):
        self.batches = []

    def batch_begin(self, trainer, batch):
        self.batches.append({name: value.clone() for name, value in batch.items()})


def test_a_curriculum_trains_on_the_first_steps_of_the_same_windows(both):
    made = trainer(both, Unroll(curriculum={2: 4, 0: 1}), epochs=3)
    batch, rows = begun(made)
    for epoch, steps in enumerate((1, 1, 4)):
        made._progress.epoch = epoch
        want, gradients = by_hand(both, rows, steps)
        assert made._batch_step.gradient(batch)["loss"] == pytest.approx(want, rel=1e-6)
        torch.testing.assert_close(made.predictor.network.layer.weight.grad, gradients[0], rtol=1e-5, atol=1e-7)
    assert len(made.training) == EPISODES * (LENGTH - 3)


def noisy(dataset, noise, *, seed=0, epochs=1, **options):
    """The noise on every batch: what is trained on, less what is stored."""
    watch = Batches()
    made = trainer(dataset, Unroll(2, noise=noise, **options), callbacks=[watch], seed=seed, epochs=epochs)
    validated = made.losses(begun(made)[0])["loss"].item()
    made.fit()
    stored = np.concatenate([made.training.gather(rows)["state"] for rows in made._supply.loader.batch_indices(0)])
    found = torch.cat([batch["state"] for batch in watch.batches]).numpy()
    rest = [name for batch in watch.batches for name in batch if name != "state"]
    assert set(rest) == {"force", "next_state"}
    return found - np.tile(stored, (epochs, 1, 1)), validated, made


def test_noise_is_a_function_of_seed_epoch_and_window(both):
    first, validated, made = noisy(both, 0.1, noise_units="physical", epochs=2)
    count = len(first) // 2
    assert first.shape == (2 * count, 1, 2)  # the stored state of a window is that of its first step
    assert np.abs(first).min() > 0
    assert len(np.unique(first)) == first.size  # of no two windows, components or epochs the same
    assert 0.08 < first.std() < 0.12
    again, same, _ = noisy(both, 0.1, noise_units="physical", epochs=2)
    np.testing.assert_array_equal(first, again)
    other, _, _ = noisy(both, 0.1, noise_units="physical", epochs=2, seed=1)
    assert np.abs(other - first).min() > 0
    large, _, _ = noisy(both, {"state": 0.3}, noise_units="physical", epochs=2)
    np.testing.assert_allclose(large, 3 * first, rtol=1e-9)
    scale = np.concatenate([both[:]["state"]]).std(0)
    normalized, _, _ = noisy(both, 0.1, epochs=2)
    np.testing.assert_allclose(normalized, scale * first, rtol=1e-6)
    assert validated == same  # there is none in the validation
    assert made.unroll.noise == 0.1


def test_noise_is_in_the_loss_as_it_is_on_the_batch(both):
    watch, seen = Batches(), []
    made = trainer(both, Unroll(3, noise=0.2), callbacks=[watch])
    step = made._batch_step
    gradient = step.gradient
    step.gradient = lambda *arguments: seen.append(gradient(*arguments)["loss"]) or {"loss": seen[-1]}
    batch, rows = begun(made)
    made.fit()
    noise = watch.batches[0]["state"][:, 0] - batch["state"][:, 0]
    assert seen[0] == pytest.approx(by_hand(both, rows, 3, noise=noise)[0], rel=1e-6)


class Crash(Callback):
    def __init__(self, step):
        self.step = step

    def batch_end(self, trainer, values):
        if trainer.step == self.step:
            raise RuntimeError("crash")


FULL = {"curriculum": {0: 1, 1: 3, 2: 4}, "noise": 0.1, "push_forward": 3, "truncate": 2}


def resumable(dataset, folder, *callbacks, unroll=None, **options):
    torch.manual_seed(0)
    network = MLP.from_spec(dataset.windows(1, 1).step_spec, hidden=(8,), dropout=0.2)
    options = {"epochs": 3, "shuffle": True, "batch_size": 5, **options}
    callbacks = [*callbacks, Checkpoints(folder, steps=1)]
    return trainer(dataset, unroll or Unroll(**FULL), network, callbacks=callbacks, **options)


@pytest.mark.parametrize("step", [1, 5, 8, 11])
def test_a_resumed_training_ends_in_the_same_bits(both, tmp_path, step):
    whole = resumable(both, tmp_path / "whole", validation=0.3)
    whole.fit()
    with pytest.raises(RuntimeError, match="crash"):
        resumable(both, tmp_path / "cut", Crash(step), validation=0.3).fit()
    torch.manual_seed(99)
    resumed = resumable(both, tmp_path / "cut", validation=0.3, resume=True)
    assert resumed.step == step - 1
    resumed.fit()
    assert same_weights(values(whole.predictor), values(resumed.predictor))
    assert epochs_of(whole.history) == epochs_of(resumed.history)
    assert whole.history["unroll"] == [1, 3, 4]


def test_another_unroll_does_not_continue_a_training(both, tmp_path):
    resumable(both, tmp_path).fit()
    with pytest.raises(CheckpointError, match=r"'push_forward': 3.*'push_forward': None"):
        resumable(both, tmp_path, unroll=Unroll(**FULL | {"push_forward": None}), resume=True)


class Recurrent(nn.Module):
    """Remembers a sum of what it was fed."""

    recurrent = True

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, state, force, memory=None):
        memory = {"sum": (0 if memory is None else memory["sum"]) + self.weight * state}
        return state + force + memory["sum"], memory


def recurrent_by_hand(windows, steps, cut=None):
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    state, total, remembered = torch.from_numpy(windows["state"][:, 0]), 0, 0
    for step in range(steps):
        if cut and step and step % cut == 0:
            state, remembered = state.detach(), remembered.detach()
        remembered = remembered + weight * state
        state = state + torch.from_numpy(windows["force"][:, step]) + remembered
        total = total + ((state - torch.from_numpy(windows["next_state"][:, step])) ** 2).mean() / steps
    total.backward()
    return total.item(), weight.grad


@pytest.mark.parametrize("cut", [None, 2])
def test_a_recurrent_network_carries_its_memory(both, cut):
    made = trainer(both, Unroll(4, truncate=cut), Recurrent(), normalize=False)
    batch, _ = begun(made)
    want, gradient = recurrent_by_hand({name: value.numpy() for name, value in batch.items()}, 4, cut)
    for _ in range(2):  # each window begins anew
        assert made._batch_step.gradient(batch)["loss"] == pytest.approx(want, rel=1e-9)
        torch.testing.assert_close(made.predictor.network.weight.grad, gradient)
    first = {"state": np.ones(2), "force": np.zeros(1)}
    np.testing.assert_allclose(made.predictor.predict(first)["next_state"], 1.5)
    np.testing.assert_allclose(made.predictor.predict(first)["next_state"], 1.5)


def test_a_recurrent_network_says_what_is_wrong(both):
    class Wrong(Recurrent):
        def forward(self, state, force, memory=None):
            return state + self.weight

    with pytest.raises(ConfigError, match="is recurrent, and returned a Tensor in place of a pair"):
        trainer(both, 2, Wrong())
    with pytest.raises(ConfigError, match="compile is not for a recurrent network"):
        trainer(both, 2, Recurrent(), compile=True)


def test_a_recurrent_network_is_refused_where_it_would_forget(both):
    predictor = Predictor(Recurrent(), both.spec, inputs=["state", "force"])
    with pytest.raises(ConfigError, match="would start without its memory at each of them"):
        Inference(predictor)


def test_windows_of_ones_own(both):
    windows = both.windows(inputs=1, targets=3, every=3)
    made = trainer(windows, 3)
    assert len(made.training) == 2 * EPISODES
    assert made.predictor.spec["state"].shape == (2,)
    made.fit()
    for wrong in (both.windows(1, 2), both.windows(2, 3), both.windows(1, 3, stride=2)):
        with pytest.raises(ConfigError, match=r"unroll=3 needs windows\(inputs=1, targets=3\)"):
            trainer(wrong, 3)
    with pytest.raises(ConfigError, match="without padding"):
        trainer(both.windows(1, 9, short="pad"), 9)


def test_a_further_training_keeps_its_normalization(both, tmp_path):
    trainer(both, 2, MLP.from_spec(both.spec, hidden=(4,)), callbacks=[Checkpoints(tmp_path)]).fit()
    known = load_checkpoint(tmp_path)
    before = values(known.transforms)
    trainer(both, 3, known).fit()
    assert same_weights(before, values(known.transforms))


def test_what_does_not_fit_is_refused(both, silent):
    refused = {
        "which output of a step is which input": lambda: trainer(silent, 2),
        r"which output of a step is which input.*\(validation\)": lambda: trainer(both, 2, validation=silent),
        "is longer than every episode": lambda: trainer(both, LENGTH + 1),
        r"longer than every episode.*\(validation\)": lambda: trainer(both, 4, validation=both.subset(np.arange(3))),
        "MemorySamples has none": lambda: trainer(linear_samples(), 2, MLP((3, 2), 4)),
        "TorchSamples has none": lambda: trainer(
            torch.utils.data.TensorDataset(torch.rand(8, 3), torch.rand(8, 3)), 2, nn.Linear(3, 3)
        ),
        "feeds none of these": lambda: trainer(both, 2, nn.Linear(1, 2).double(), inputs=["force"]),
        "is fed 'state', which is 'next_state'": lambda: trainer(
            both, 2, MLP.from_spec(both.spec, outputs=["load"], hidden=()), outputs=["load"]
        ),
        "of which a window has 1 stored row": lambda: trainer(both, 2, loss_fields=["next_state", "state"]),
        "noise names": lambda: trainer(both, Unroll(2, noise={"force": 1.0})),
        "scales of the normalization, and 'state' has none": lambda: trainer(
            both, Unroll(2, noise=0.1), normalize=False
        ),
        "unroll must be a number of steps": lambda: trainer(both, "2"),
        "unroll must be at least 1": lambda: trainer(both, 0),
    }
    for text, make in refused.items():
        with pytest.raises(ConfigError, match=text):
            make()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "say how many steps"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": 2, "curriculum": {0: 1, 5: 4}}, "leave steps out"),
        ({"curriculum": {1: 2}}, "begins at epoch 1"),
        ({"curriculum": {0: 1, -3: 2}}, "has -3: 2"),
        ({"curriculum": {0: 1, 2.5: 2}}, "has 2.5: 2"),
        ({"curriculum": {0: 0}}, "has 0: 0"),
        ({"curriculum": [1, 2]}, "write curriculum="),
        ({"steps": 2, "push_forward": 3}, "push_forward is 3, and a window has 2"),
        ({"steps": 2, "truncate": 0}, "truncate must be at least 1"),
        ({"steps": 2, "noise": -1}, "noise must be a standard deviation"),
        ({"steps": 2, "noise": {"state": float("nan")}}, "noise of 'state' must be"),
        ({"steps": 2, "noise_units": "metres"}, "noise_units must be one of"),
        ({"steps": 2, "weights": [1]}, "a list of 2 numbers"),
        ({"steps": 2, "weights": [1, -1]}, "a number from 0 on"),
        ({"steps": 2, "weights": [1e308, 1e308]}, "the sum of the weights"),
        ({"steps": 2, "weights": [0, 0]}, "none of those that count"),
        ({"steps": 2, "weights": [1, 0], "push_forward": 1}, "none of those that count"),
        ({"curriculum": {0: 1, 3: 2}, "weights": [0, 1]}, "of a window of 1 steps"),
    ],
    ids=str,
)
def test_an_unroll_that_makes_no_sense_is_refused(arguments, text):
    with pytest.raises(ConfigError, match=text):
        Unroll(**arguments)


def test_samples_that_are_produced_first_are_unrolled(tmp_path):
    stream = SampleStream("physgym/Spring-v0", path=tmp_path / "data", num_workers=0, max_steps=5, seed=1)
    network = MLP.from_spec(stream.spec, hidden=(4,))
    options = {"epochs": 1, "batch_size": 10, "batches_per_epoch": 4, "progress": False}
    made = Trainer(network, source=stream, produce="first_epoch", unroll=3, **options)
    made.fit()
    assert made.training.form.targets == 3
    assert made.validation.form.targets == 3
    stream = SampleStream("physgym/Spring-v0", num_workers=0, max_steps=5, seed=1)
    with pytest.raises(ConfigError, match="produced while the network trains come one by one"):
        Trainer(network, source=stream, produce="always", unroll=3, **options | {"validation": 0})
    stream.close()


def test_a_predictor_knows_its_fields_of_one_step(once):
    spec = once.windows(1, 2).step_spec
    assert {name: (field.shape, field.role) for name, field in spec.items()} == {
        "state": ((2,), "input"),
        "next_state": ((2,), "target"),
        "force": ((1,), "input"),
        "load": ((), "additional"),
    }
    assert spec.feedback == {"next_state": "state"}
    network = Predictor(Linear(), spec, transforms=Transforms.normalizing(spec))
    assert network.outputs == ("next_state",)


class Twice(Transform):
    def forward(self, fields):
        return {**fields, "state": 2 * fields["state"]}


def test_a_normalization_behind_another_transform_is_that_of_rows(both):
    def transforms():
        return Transforms(Compose([Twice(), Normalize({"state": (2,)})]))

    made = trainer(both, 3, transforms=transforms())
    normalize = made.predictor.transforms.before_prediction.transforms[1]
    states = 2 * torch.from_numpy(both[:]["state"])
    torch.testing.assert_close(normalize.get_buffer("mean_0").double(), states.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(normalize.get_buffer("scale_0").double(), states.std(0, False), rtol=1e-6, atol=0)
    with pytest.raises(ConfigError, match="'state' has none before the prediction that gets it as it is"):
        trainer(both, Unroll(3, noise=0.1), transforms=transforms())


def test_what_would_be_left_undone_is_said(both):
    with pytest.warns(UserWarning, match=r"from the epochs \[1, 7\] on.*1 steps of 4 at the end"):
        trainer(both, Unroll(curriculum={0: 1, 1: 2, 7: 4}), epochs=1)
    with pytest.warns(UserWarning, match="nothing is learned of what the network remembers"):
        trainer(both, None, Recurrent())


def test_the_target_of_a_state_that_is_stored_once_is_that_of_the_next_sample(once):
    made, wanted = trainer(once, None), trainer(once, 1)
    assert made.unroll == wanted.unroll
    assert made.predictor.outputs == wanted.predictor.outputs == ("next_state",)
    assert made.evaluate(made.training) == wanted.evaluate(wanted.training)


class Halving(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, state):
        return self.weight * state


def test_a_network_of_windows_with_a_stride_is_not_rolled_out_row_by_row(both, once, tmp_path):
    def made(windows):
        made = trainer(windows, None, Halving(), inputs=["state"], callbacks=[Checkpoints(tmp_path)])
        made.fit()
        return made.predictor

    assert made(both.windows(1, 1, stride=2)).learned.stride == 1  # one row alone
    predictor = made(once.windows(1, 1, stride=2))
    for network in (predictor, load_checkpoint(tmp_path, network=Halving())):
        with pytest.raises(ConfigError, match="learned from windows with a stride of 2"):
            RolloutEvaluation(once).measure(network, 2)


def test_a_normalization_of_a_field_without_moments_is_refused(both):
    with pytest.raises(ConfigError, match=r"no moments of \['speed'\]"):
        trainer(both, 2, transforms=Transforms(before_loss=LossTransform(None, Normalize({"speed": (2,)}))))
