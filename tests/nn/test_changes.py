"""Networks that predict the change of an input: (output - input) / root mean square of the differences."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

import physgym
from physgym import SampleDataset
from physgym.data import SampleStream
from physgym.data.differences import difference_statistics
from physgym.data.statistics import Statistics
from physgym.data.writer import SampleWriter
from physgym.errors import CheckpointError, ConfigError
from physgym.nn import FNO, MLP, Changes, Hold, Predictor, Transforms, export_network
from physgym.nn.export import inference
from physgym.runner import Runner, SurrogateEnv
from physgym.sample import Field, SampleSpec
from physgym.training import Trainer, load_checkpoint
from physgym.training.checkpoint_files import save_checkpoint

F4, F8 = np.dtype("f4"), np.dtype("f8")
FIELDS = [
    Field("state", (2,), F4, "input"),
    Field("push", (1,), F4, "input"),
    Field("next_state", (2,), F4, "target", feeds="state"),
    Field("energy", (), F4, "target"),
]
SPEC = SampleSpec(FIELDS)
ONCE = SampleSpec([Field("state", (2,), F4, "input", feeds="state"), Field("push", (1,), F4, "input")])


class Zeros(nn.Module):
    """Nothing, whatever it is fed, for a state and an energy."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, state, push):
        return state * 0 * self.weight, state[:, 0] * 0 * self.weight


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, state, push):
        out = self.layer(torch.cat([state, push], 1))
        return out[:, :2], out[:, 2]


def predictor(network=None, spec=SPEC, scales=(0.5, 4.0), **options) -> Predictor:
    """A predictor whose differences have these root mean squares."""
    made = Changes.of(spec, ["state", "push"], ["next_state", "energy"], **options)
    made.fit({"next_state": Statistics.of(np.array([scales, np.negative(scales)]))})
    return Predictor(Zeros() if network is None else network, spec, changes=made)


def store(path, spec, batch, episode, step):
    with SampleWriter(path, spec, nonfinite="allow") as writer:
        writer.append(batch, episode=np.asarray(episode), step=np.asarray(step), seed=np.zeros(len(step), "u8"))
    return SampleDataset(path)


# --- the formulas


def test_a_network_of_zeros_predicts_its_input_to_the_bit():
    values = np.random.default_rng(0).standard_normal((50, 2)) * 10.0 ** np.arange(-4, 46, 2)[:25].repeat(2)[:, None]
    for dtype in (F4, F8):
        fields = [Field(f.name, f.shape, dtype, f.role, feeds=f.feeds) for f in FIELDS]
        with np.errstate(over="ignore"):
            state = values.astype(dtype)
        state[~np.isfinite(state)] = 1 / 3
        state[np.abs(state) > 1e30] = 1 / 3  # more than the weights, which are in single precision, could hold
        found = predictor(spec=SampleSpec(fields)).predict({"state": state, "push": np.ones((50, 1))}, batched=True)
        assert found["next_state"].dtype == dtype
        np.testing.assert_array_equal(found["next_state"], state)
        np.testing.assert_array_equal(found["energy"], 0)  # which is no input, and predicted as it is


def test_the_output_is_the_input_and_the_change_in_its_scale():
    class Ones(Zeros):
        def forward(self, state, push):
            return torch.tensor([[1.0, -2.0]]).expand(len(state), 2), push[:, 0]

    found = predictor(Ones()).predict({"state": [10.0, 20.0], "push": [7.0]})
    np.testing.assert_array_equal(found["next_state"], np.array([10 + 0.5 * 1, 20 + 4 * -2], "f4"))
    assert found["energy"] == 7


def test_the_target_of_the_loss_is_the_change_in_its_scale():
    fields = {"state": torch.tensor([[1.0, 2.0]]), "push": torch.zeros(1, 1)}
    target = {"next_state": torch.tensor([[2.0, -6.0]]), "energy": torch.tensor([3.0])}
    given = {"next_state": torch.tensor([[0.25, 0.5]]), "energy": torch.tensor([1.0])}
    prediction, wanted = predictor().for_loss(given, target, fields)
    assert prediction == given
    torch.testing.assert_close(wanted["next_state"], torch.tensor([[(2 - 1) / 0.5, (-6 - 2) / 4.0]]))
    torch.testing.assert_close(wanted["energy"], target["energy"])
    prediction, wanted = predictor(physical_loss=True).for_loss(given, target, fields)
    torch.testing.assert_close(prediction["next_state"], torch.tensor([[1 + 0.25 * 0.5, 2 + 0.5 * 4]]))
    assert wanted == target


def test_what_happens_before_it_leaves_gets_physical_units():
    held = Transforms(before_apply=Hold.where({"next_state": [True, False]}, {"next_state": 9.0}))
    changes = Changes({"next_state": "state"}, {"next_state": (2,)})
    made = Predictor(Zeros(), SPEC, transforms=held, changes=changes)
    found = made.predict({"state": [1.0, 2.0], "push": [0.0]})
    np.testing.assert_array_equal(found["next_state"], [9, 2])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("component", [3.0, 4.0]),
        ("field", np.sqrt((9 + 16) / 2)),
    ],
)
def test_the_scale_is_the_root_mean_square(kind, expected):
    changes = Changes({"y": "x"}, {"y": (2,)}, kind)
    changes.fit({"y": Statistics.of(np.array([[3.0, 4.0], [3.0, -4.0]]))})  # the first one always changes by 3
    np.testing.assert_allclose(changes.scale_0, expected, rtol=1e-6)


def test_a_component_that_never_changes_has_a_thousandth_of_the_scale_of_its_field():
    changes = Changes({"y": "x"}, {"y": (2,)})
    changes.fit({"y": Statistics.of(np.array([[0.0, 2.0], [0.0, -2.0]]))})
    np.testing.assert_allclose(changes.scale_0, [1e-3 * np.sqrt(2), 2], rtol=1e-6)
    channels = Changes({"y": "x"}, {"y": (2, 3)}, "channel")
    channels.fit({"y": Statistics.of(np.array([[[0.0, 0, 0], [1, 2, 2]]]))})
    whole = np.sqrt(9 / 6)
    np.testing.assert_allclose(channels.scale_0[:, 0], [1e-3 * whole, np.sqrt(3)], rtol=1e-6)


def test_what_has_no_scale_is_an_error():
    changes = Changes({"y": "x"}, {"y": (2,)})
    with pytest.raises(ConfigError, match="'y' never changes from one step to the next"):
        changes.fit({"y": Statistics.of(np.zeros((4, 2)))})
    with pytest.raises(ConfigError, match="no two finite samples of which one follows the other"):
        changes.fit({"y": Statistics.empty((2,))})
    assert not changes.fitted


# --- statistics of differences


def test_differences_within_each_sample(tmp_path):
    rng = np.random.default_rng(0)
    state, after = rng.standard_normal((2, 40, 2)).astype("f4")
    state += 1e4
    after += 1e4
    after[3, 0] = np.nan
    rest = {"push": np.zeros((40, 1), "f4"), "energy": np.zeros(40, "f4")}
    rows = np.arange(40)
    dataset = store(tmp_path / "a", SPEC, {"state": state, "next_state": after, **rest}, rows // 10, rows % 10)
    difference = after.astype("f8") - state.astype("f8")
    for samples, here in ((dataset, rows), (dataset.subset(rows[::3]), rows[::3]), (dataset.windows(2, 2), rows)):
        (found,) = difference_statistics(samples, {"next_state": "state"}).values()
        np.testing.assert_allclose(found.mean, np.nanmean(difference[here], 0), rtol=1e-9)
        np.testing.assert_allclose(found.std, np.nanstd(difference[here], 0), rtol=1e-9)
        assert found.counts.tolist() == [np.isfinite(difference[here, 0]).sum(), len(here)]


@pytest.mark.parametrize("block", [1, 40, 1 << 24])
def test_differences_between_steps_that_follow_one_another(tmp_path, monkeypatch, block):
    monkeypatch.setattr("physgym.data.differences.BLOCK_BYTES", block)
    # values by hand: episode 0 has a missing step between 1 and 3, 1 jumps away, 2 has one step alone
    episode = [0, 0, 0, 0, 1, 1, 1, 2]
    step = [0, 1, 3, 4, 0, 1, 2, 0]
    value = np.array([1, 3, 100, 107, -5000, -4990, -4977, 9], "f4")
    batch = {"state": np.stack([value, 2 * value], 1), "push": np.zeros((8, 1), "f4")}
    order = np.array([4, 0, 7, 1, 2, 5, 6, 3])  # as workers may give them
    batch, episode, step = ({n: v[order] for n, v in batch.items()}, np.array(episode)[order], np.array(step)[order])
    dataset = store(tmp_path / "a", ONCE, batch, episode, step)
    (found,) = difference_statistics(dataset, {"next_state": "state"}).values()
    differences = np.array([2, 7, 10, 13])
    np.testing.assert_allclose(found.mean, [differences.mean(), 2 * differences.mean()])
    np.testing.assert_allclose(found.std, [differences.std(), 2 * differences.std()])
    assert found.count == 4
    (windows,) = difference_statistics(dataset.windows(1, 2), {"next_state": "state"}).values()
    np.testing.assert_allclose(windows.mean, found.mean)


def test_padding_does_not_count(tmp_path):
    points = [
        Field("points", (2,), F4, "input", mask="number"),
        Field("next_points", (2,), F4, "target", mask="number", feeds="points"),
        Field("number", (), np.dtype("i4"), "additional"),
    ]
    batch = {
        "points": np.array([[1, 99], [2, 3]], "f4"),
        "next_points": np.array([[2, -99], [4, 6]], "f4"),
        "number": np.array([1, 2], "i4"),
    }
    dataset = store(tmp_path / "a", SampleSpec(points), batch, [0, 1], [0, 0])
    (found,) = difference_statistics(dataset, {"next_points": "points"}).values()
    np.testing.assert_allclose(found.mean, [(1 + 2) / 2, 3])
    assert found.counts.tolist() == [2, 1]


# --- what cannot be


def replaced(name, **changes):
    return SampleSpec([dataclasses.replace(f, **(changes if f.name == name else {})) for f in FIELDS])


def test_rules_for_fields_without_differences():
    integers = replaced("next_state", dtype=np.dtype("i4"), feeds="")
    mixed = SampleSpec(
        [
            *integers.values(),
            Field("mode", (), np.dtype("i4"), "input"),
            Field("next_mode", (), np.dtype("i4"), "target", feeds="mode"),
            Field("x", (), F4, "input"),
            Field("next_x", (), F4, "target", feeds="x"),
        ]
    )
    of = Changes.of(mixed, ["state", "push", "mode", "x"], ["next_state", "energy", "next_mode", "next_x"])
    assert of.pairs == {"next_x": "x"}
    with pytest.raises(ConfigError, match=r"\['next_mode'\] are integers or flags, which have no differences"):
        Changes.of(mixed, ["mode", "x"], ["next_mode"])
    with pytest.raises(ConfigError, match=r"none of \['next_state', 'energy'\] is one: declare it with the samples"):
        Changes.of(replaced("next_state", feeds=""), ["state", "push"], ["next_state", "energy"])
    with pytest.raises(ConfigError, match="added to the input 'state', which is none of those that feed the network"):
        Changes.of(SPEC, ["push"], ["next_state"])


def test_what_would_be_added_or_normalized_twice_is_refused():
    changes = Changes({"next_state": "state"}, {"next_state": (2,)})
    twice = Transforms.normalizing(SPEC)
    with pytest.raises(ConfigError, match=r"the transforms normalize \['next_state'\], of which the network predicts"):
        Predictor(Zeros(), SPEC, transforms=twice, changes=changes)
    once = Transforms.normalizing(SPEC, None, ["energy"])
    assert Predictor(Zeros(), SPEC, transforms=once, changes=changes).changes is changes
    grid = SampleSpec([Field("u", (8,), F4, "input"), Field("next_u", (8,), F4, "target", feeds="u")])
    network = FNO.from_spec(grid, modes=2, width=4, residual=True)
    with pytest.raises(ConfigError, match="adds an input to its output"):
        Predictor(network, grid, changes=Changes.of(grid, ["u"], ["next_u"]))
    hidden = MLP.from_spec(grid, hidden=(8, 8), residual=True)  # skips layers, and adds no input to the output
    assert Predictor(hidden, grid, changes=Changes.of(grid, ["u"], ["next_u"])).network is hidden
    with pytest.raises(ConfigError, match=r"the change of 'next_state' is added to 'state'; the network predicts"):
        Predictor(nn.Linear(1, 1), SPEC, inputs=["push"], outputs=["next_state"], changes=changes)


def test_a_change_of_another_shape_is_not_broadcast():
    class Narrow(Zeros):
        def forward(self, state, push):
            return push, push[:, 0]

    with pytest.raises(ConfigError, match=r"predicts field 'next_state' with shape \(1,\); the samples say \(2,\)"):
        predictor(Narrow())


# --- training, checkpoints, files


def spring_dataset(path, samples=400):
    return physgym.generate("physgym/Spring-v0", path, samples=samples, num_workers=0, progress=False)


@pytest.fixture(scope="module")
def springs(tmp_path_factory):
    return spring_dataset(tmp_path_factory.mktemp("springs") / "data")


def network(spec):
    torch.manual_seed(1)
    return physgym.nn.MLP.from_spec(spec, hidden=(8,))


def trainer(samples, session=None, **options) -> Trainer:
    options = {"epochs": 2, "batch_size": 64, "predict": "change", "progress": False, **options}
    return Trainer(network(samples.spec), samples, session=session, **options)


def test_training_fits_the_scales_on_its_part_and_minimizes_the_change(springs):
    made = trainer(springs, validation=0.3)
    rows = made.training[:]
    difference = rows["next_state"].astype("f8") - rows["state"].astype("f8")
    scale = np.sqrt((difference**2).mean(0))
    np.testing.assert_allclose(made.predictor.changes.scale_0, scale, rtol=1e-5)
    assert "next_state - state" in made.predictor.summary
    batch = {name: value[:16] for name, value in rows.items()}
    with torch.no_grad():
        raw = made.predictor(made.predictor.tensors(batch))["next_state"].double().numpy()
    expected = np.mean((raw - difference[:16] / scale) ** 2)
    np.testing.assert_allclose(float(made.losses(batch)["loss"].detach()), expected, rtol=1e-4)
    physical = made.predictor.predict(batch, batched=True)["next_state"]
    np.testing.assert_allclose(physical, rows["state"][:16] + scale * raw, rtol=1e-4, atol=1e-5)
    first = made.evaluate(made.validation)["loss"]
    made.fit()
    assert made.evaluate(made.validation)["loss"] < first


def test_a_source_gives_the_scales_too():
    source = SampleStream("physgym/Spring-v0", num_workers=0)
    made = Trainer(
        network(source.spec),
        source=source,
        produce="always",
        batches_per_epoch=4,
        epochs=1,
        predict="change",
        validation=None,
        progress=False,
    )
    assert not made.predictor.fitted
    made.fit()
    assert made.predictor.fitted
    assert (made.predictor.changes.scale_0 < 1).all()


def test_a_checkpoint_predicts_in_physical_units_without_being_told(springs, tmp_path):
    made = trainer(springs, tmp_path / "session")
    made.fit()
    loaded = load_checkpoint(tmp_path / "session")
    assert loaded.changes.pairs == {"next_state": "state"}
    assert loaded.feedback == {"next_state": "state"}
    rows = springs[:50]
    for name, value in made.predictor.predict(rows, batched=True).items():
        np.testing.assert_array_equal(loaded.predict(rows, batched=True)[name], value)
    with torch.no_grad():
        for weight in loaded.network.parameters():
            weight.zero_()
    np.testing.assert_array_equal(loaded.predict(rows, batched=True)["next_state"], rows["state"])
    manifest = json.loads(next((tmp_path / "session/networks").glob("*/manifest.json")).read_text())
    assert manifest["changes"]["config"]["pairs"] == {"next_state": "state"}


def test_a_resumed_training_is_the_same_to_the_bit(springs, tmp_path):
    whole = trainer(springs, epochs=4)
    whole.fit()
    trainer(springs, tmp_path / "session", epochs=2).fit()
    again = trainer(springs, tmp_path / "session", epochs=4, resume=True)
    assert again.epoch == 2
    again.fit()
    for name, value in whole.predictor.state_dict().items():
        assert torch.equal(again.predictor.state_dict()[name], value), name
    with pytest.raises(CheckpointError, match=r"predicts changes \(next_state - state\), here it predicts values"):
        trainer(springs, tmp_path / "session", epochs=4, resume=True, predict="value")
    other = Changes.of(springs.spec, ["state"], ["next_state"], scale="field")
    with pytest.raises(CheckpointError, match=r"scale_0 has shape \(2,\) in the file and \(\) in the network"):
        trainer(springs, tmp_path / "session", epochs=4, resume=True, predict=other)


def test_a_predictor_is_trained_further_as_it_is(springs, tmp_path):
    first = trainer(springs)
    first.fit()
    scale = first.predictor.changes.scale_0.clone()
    again = Trainer(first.predictor, springs.subset(np.arange(200)), epochs=1, progress=False)
    again.fit()
    assert torch.equal(again.predictor.changes.scale_0, scale)
    Trainer(first.predictor, springs, epochs=1, predict="change", progress=False)
    values = Trainer(network(springs.spec), springs, epochs=1, progress=False).predictor
    with pytest.raises(ConfigError, match="the Predictor predicts values already"):
        Trainer(values, springs, epochs=1, predict="change", progress=False)
    with pytest.raises(ConfigError, match="predict"):
        trainer(springs, predict="changes")


def test_samples_that_declare_nothing_are_refused(springs):
    silent = SampleDataset(springs.paths[0], feedback={})
    with pytest.raises(ConfigError, match="is one: declare it with the samples"):
        trainer(silent)


@pytest.mark.slow
def test_an_exported_file_gives_the_same(springs, tmp_path):
    made = trainer(springs)
    with pytest.raises(ConfigError, match="no moments yet"):
        inference.Inference(
            Predictor(
                network(springs.spec), springs.spec, changes=Changes({"next_state": "state"}, {"next_state": (2,)})
            )
        )
    made.fit()
    export_network(made.predictor, tmp_path / "spring.pt2")  # which compares them
    program = torch.export.load(tmp_path / "spring.pt2").module()
    rows = springs[:7]
    fields = {name: torch.from_numpy(rows[name]) for name in made.predictor.inputs}
    expected = made.predictor.predict(rows, batched=True)["next_state"]
    np.testing.assert_allclose(program(fields)["next_state"], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_an_onnx_file_gives_the_same(springs, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    made = trainer(springs)
    made.fit()
    export_network(made.predictor, tmp_path / "spring.onnx")
    session = runtime.InferenceSession(str(tmp_path / "spring.onnx"))
    rows = springs[:7]
    (found,) = session.run(["next_state"], {name: rows[name] for name in made.predictor.inputs})
    expected = made.predictor.predict(rows, batched=True)["next_state"]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_it_stands_in_for_the_solver_and_beside_it(springs):
    made = trainer(springs)
    made.fit()
    surrogate = SurrogateEnv("physgym/Spring-v0", made.predictor)
    first, _ = surrogate.reset(seed=0)
    with torch.no_grad():
        for weight in made.predictor.network.parameters():
            weight.zero_()
    for _ in range(3):
        np.testing.assert_array_equal(surrogate.step(surrogate.action_space.sample())[0], first)
    with Runner("physgym/Spring-v0", made.predictor) as runner:
        step = next(runner.steps())
        np.testing.assert_array_equal(step.prediction["next_state"], step.transition.sample["state"])


def test_a_network_that_is_given_gets_the_scales_of_the_checkpoint(tmp_path):
    made = predictor(Linear())
    save_checkpoint(tmp_path / "a", made)
    loaded = load_checkpoint(tmp_path / "a", network=Linear())
    assert loaded.fitted
    torch.testing.assert_close(loaded.changes.scale_0, made.changes.scale_0)


# --- several steps


def test_an_unrolled_loss_compares_the_changes_of_its_own_states(springs):
    made = trainer(springs, unroll=3, validation=None)
    windows = made.training
    scale = made.predictor.changes.scale_0.double().numpy()
    every = springs[:]
    np.testing.assert_allclose(
        scale, np.sqrt(((every["next_state"].astype("f8") - every["state"]) ** 2).mean(0)), rtol=1e-5
    )
    batch = windows[:5]
    own, losses = batch["state"][:, 0], []
    for step in range(3):
        fed = {name: own if name == "state" else batch[name][:, step] for name in made.predictor.inputs}
        with torch.no_grad():
            raw = made.predictor(made.predictor.tensors(fed))["next_state"].double().numpy()
        losses.append(np.mean((raw - (batch["next_state"][:, step] - own) / scale) ** 2))
        own = (own + scale * raw).astype("f4")
    found = float(made.losses({name: batch[name] for name in made.fields})["loss"].detach())
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-4)
    made.fit()


def test_a_field_that_is_stored_once(tmp_path):
    rng = np.random.default_rng(0)
    state = np.cumsum(rng.standard_normal((60, 2)), 0).astype("f4")
    state[30:] += 1e6  # another episode, far away
    rows = np.arange(60)
    push = np.zeros((60, 1), "f4")
    dataset = store(tmp_path / "a", ONCE, {"state": state, "push": push}, rows // 30, rows % 30)
    made = Trainer(
        Joined(),
        dataset,
        epochs=1,
        unroll=2,
        predict="change",
        validation=None,
        progress=False,
    )
    differences = np.diff(state.astype("f8"), axis=0)[rows[:-1] != 29]
    np.testing.assert_allclose(made.predictor.changes.scale_0, np.sqrt((differences**2).mean(0)), rtol=1e-5)
    made.fit()
    assert made.predictor.outputs == ("next_state",)
    assert made.predictor.feedback == {"next_state": "state"}


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, state, push):
        return self.layer(torch.cat([state, push], 1))
