from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from physgym import SampleDataset, Simulation, generate
from physgym.data.generate import SampleStream
from physgym.errors import ConfigError, DatasetError, SampleError
from physgym.metrics import compare
from physgym.nn import MLP, Predictor
from physgym.runner import Runner, SaveFrames
from physgym.sample import SampleSpec
from physgym.training import Callback, Trainer
from tests import toys


class Exact(nn.Module):
    """y = factor * x + 1, what toys.Line computes for a factor of 2."""

    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x):
        return self.factor * x + 1


def predictor(factor=2.0) -> Predictor:
    return Predictor(Exact(factor), SampleSpec.from_env(toys.Line()))


def spring_predictor() -> Predictor:
    spec = SampleSpec.from_env(gym.make("physgym/Spring-v0"))
    return Predictor(MLP.from_spec(spec, hidden=(4,)), spec)


def test_the_network_is_compared_with_the_solver():
    with Runner(toys.Line, predictor(), seed=4) as runner:
        report = runner.run(10, progress=False)
    assert report.steps == 10
    assert report.errors["y"].relative_l2.shape == (10,)
    assert report.errors["y"].largest.max() < 1e-6
    with Runner(toys.Line, predictor(2.2), seed=4) as runner:
        report = runner.run(10, progress=False)
    x = np.stack(
        [s.transition.sample["x"] for s in itertools.islice(Runner(toys.Line, predictor(), seed=4).steps(), 10)]
    )
    np.testing.assert_allclose(report.errors["y"].largest, 0.2 * np.abs(x).max(1), rtol=1e-5)
    assert (report.solver_seconds > 0).all()
    assert (report.network_seconds > 0).all()


def test_a_run_shows_the_episodes_that_generation_with_its_seed_gives(tmp_path):
    dataset = generate(toys.Flaky, tmp_path / "d", samples=12, num_workers=1, seed=9, progress=False)
    network = Predictor(MLP.from_spec(dataset.spec, hidden=(4,)), dataset.spec)
    with Runner(toys.Flaky, network, seed=9) as runner:
        kept = (step for step in runner.steps() if step.prediction is not None)
        for sample, step in zip(dataset, kept, strict=False):
            np.testing.assert_array_equal(sample["x"], step.transition.sample["x"])


def test_rejected_steps_have_no_prediction_and_are_counted():
    network = Predictor(nn.Identity(), SampleSpec.from_env(toys.Flaky()))
    with Runner(toys.Flaky, network) as runner:
        report = runner.run(50, progress=False)
    assert 10 < report.rejected < 40
    assert len(report.errors["y"].mean) == 50 - report.rejected


def test_inputs_and_outputs_are_recorded(tmp_path):
    with Runner(toys.Line, predictor(), seed=1, record=tmp_path / "r") as runner:
        runner.run(6, progress=False)
    recorded = SampleDataset(tmp_path / "r", mode="prediction")
    assert recorded.spec["prediction/y"].shape == (3,)
    np.testing.assert_allclose(recorded[:]["prediction/y"], recorded[:]["y"], rtol=1e-6)
    assert recorded.index("step").tolist() == [0, 1, 2, 3, 0, 1]
    with pytest.raises(DatasetError, match="already holds prediction samples"):
        Runner(toys.Line, predictor(), record=tmp_path / "r")


def test_stored_samples_are_replayed_from_their_seeds(tmp_path):
    dataset = generate(toys.Flaky, tmp_path / "d", samples=30, num_workers=2, seed=9, progress=False)
    network = Predictor(nn.Identity(), dataset.spec)
    with Runner(toys.Flaky, network, seed=123) as runner:
        steps = list(runner.replay(dataset, solver=True))
        report = runner.run(replay=dataset, solver=True, progress=False)
    np.testing.assert_array_equal(np.stack([s.transition.sample["x"] for s in steps]), dataset[:]["x"])
    assert report.steps == 30
    np.testing.assert_allclose(report.errors["y"].largest, 2 * np.abs(dataset[:]["x"]).max(1))
    with (
        Runner(lambda: toys.Flaky(reject_above=-0.5), network) as runner,
        pytest.raises(DatasetError, match="the simulation gives another"),
    ):
        list(runner.replay(dataset, solver=True))


def away(observation, rng):
    return np.clip(rng.uniform(-1, 1, 2) - 0.1 * observation, -1, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("actions", "parameters"), [("gaussian", "sobol"), ("sobol", None), ("grid:3", "lhs:4"), (away, "breed")]
)
def test_a_replay_has_the_parameters_and_actions_of_the_dataset(tmp_path, actions, parameters):
    made = {"actions": actions, "parameters": parameters, "nonfinite": "allow"}
    options = {"samples": 40, "num_workers": 2, "seed": 9, "max_steps": 4, "progress": False}
    arguments = {"reject_above": 0.4, "nan_below": -0.6}
    dataset = generate(toys.Tuned, tmp_path / "d", env_kwargs=arguments, **options, **made)
    assert np.isnan(dataset[:]["y"]).any()
    given = {"actions": away} if actions is away else {}
    # limits of the runner that would end episodes too early
    runner = Runner(toys.Tuned, tuned_predictor(), env_kwargs=arguments, max_steps=1, max_rejects=1, **given)
    with runner:
        steps = list(runner.replay(dataset, solver=True))
    for name, column in dataset[:].items():
        assert np.stack([step.transition.sample[name] for step in steps]).tobytes() == column.tobytes()
    if actions is away:
        with (
            Runner(toys.Tuned, tuned_predictor()) as runner,
            pytest.raises(ConfigError, match=r"test_runner:away.*pass actions= with the same one"),
        ):
            next(runner.replay(dataset, solver=True))
    if parameters is not None:
        with (
            Runner(toys.Flaky, Predictor(nn.Identity(), SampleSpec.from_env(toys.Flaky())), **given) as runner,
            pytest.raises(DatasetError, match=r"given parameters of episodes.*declares None"),
        ):
            next(runner.replay(dataset, solver=True))


def tuned_predictor() -> Predictor:
    spec = SampleSpec.from_env(toys.Tuned())
    return Predictor(MLP.from_spec(spec, hidden=(4,)), spec)


def test_a_run_with_samplers_is_that_of_generation_and_its_record_can_be_replayed(tmp_path):
    samplers = {"actions": "sobol", "parameters": "lhs:8"}
    dataset = generate(toys.Tuned, tmp_path / "d", samples=20, num_workers=1, seed=3, progress=False, **samplers)
    with Runner(toys.Tuned, tuned_predictor(), seed=3, record=tmp_path / "r", **samplers) as runner:
        report = runner.run(40, progress=False)
    recorded = SampleDataset(tmp_path / "r", mode="prediction")
    assert len(recorded) == report.steps - report.rejected > 20
    for name, column in dataset[:].items():
        np.testing.assert_array_equal(recorded[:20][name], column)
    for name, column in dataset.parameters.items():
        np.testing.assert_array_equal(recorded.parameters[name][: len(column)], column)
    with Runner(toys.Tuned, tuned_predictor()) as runner:
        assert len(list(runner.replay(recorded, solver=True))) == len(recorded)


def test_a_replay_finds_an_episode_that_is_too_short(tmp_path):
    dataset = generate(toys.Line, tmp_path / "d", samples=8, num_workers=1, progress=False)
    with (
        Runner(lambda: gym.wrappers.TimeLimit(toys.Line(), 2), predictor()) as runner,
        pytest.raises(DatasetError, match="episode 0: the simulation gives another 'length'"),
    ):
        runner.run(replay=dataset, solver=True, progress=False)


class Corrected(Simulation):
    """Counts; asks the network in the middle of a step; adds what is applied to it."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    sample_space = spaces.Dict({"x": observation_space, "y": observation_space})
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012

    def begin(self, options):
        self.state, self.asked, self.applied = np.ones(1, np.float32), [], []

    def advance(self, action):
        self.asked.append(self.predict({"x": self.state})["y"].item())
        self.state = self.state + 1

    def observation(self):
        return self.state.copy()

    def sample(self):
        return {"x": self.state, "y": 2 * self.state}

    def apply_prediction(self, prediction):
        self.applied.append(prediction["y"].item())
        self.state = self.state + 100


def test_predictions_are_asked_for_within_a_step_and_applied_after_it():
    network = Predictor(Exact(2.0), SampleSpec.from_env(Corrected()))
    with Runner(Corrected, network) as runner:
        steps = list(itertools.islice(runner.steps(), 2))
        assert runner.env.asked == [3.0, 2 * 102 + 1]
    assert steps[1].transition.sample["x"] == 103
    env = Corrected()
    env.reset(seed=0)
    with pytest.raises(SampleError, match="this pipeline has no network"):
        env.step(np.zeros(1, np.float32))


class Recorder(Callback):
    def __init__(self):
        self.events = []

    def prediction_begin(self, pipeline):
        self.events.append("begin")

    def sample_begin(self, pipeline):
        self.events.append("sample")

    def sample_end(self, pipeline, sample):
        self.events.append(sorted(sample))
        if len(self.events) == 5:
            raise KeyboardInterrupt

    def prediction_end(self, pipeline):
        self.events.append("end")

    def close(self):
        self.events.append("close")


def test_events_come_in_order_also_when_interrupted():
    recorder = Recorder()
    with Runner(toys.Line, predictor()) as runner:
        report = runner.run(100, callbacks=[recorder], progress=False)
    fields = ["flag", "prediction/y", "x", "y"]
    assert recorder.events == ["begin", "sample", fields, "sample", fields, "end", "close"]
    assert report.interrupted
    assert report.steps == 2
    assert len(report.errors["y"].mean) == 2


def test_bad_arguments(tmp_path):
    with Runner(toys.Line, predictor()) as runner:
        with pytest.raises(ConfigError, match="steps must be at least 1"):
            runner.run(0)
        with pytest.raises(ConfigError, match="render_mode"):
            runner.run(1, callbacks=[SaveFrames(tmp_path)], progress=False)
    for wrong in ({"max_steps": 0}, {"max_rejects": 0}, {"seed": -1}):
        with pytest.raises(ConfigError, match="max_steps and max_rejects at least 1"):
            Runner(toys.Line, predictor(), **wrong)
    with pytest.raises(ConfigError, match="pass its id, or a callable"):
        Runner(toys.Line(), predictor())
    (tmp_path / "file").touch()
    with (
        Runner("physgym/Spring-v0", spring_predictor(), env_kwargs={"render_mode": "rgb_array"}) as runner,
        pytest.raises(ConfigError, match="cannot make the folder"),
    ):
        runner.run(1, callbacks=[SaveFrames(tmp_path / "file")], progress=False)
    with pytest.raises(ConfigError, match="the network was trained on field 'x'"):
        Runner("physgym/Spring-v0", predictor())
    with pytest.raises(ConfigError, match=r"'x' as float32 \(3,\), the simulation has float32 \(1,\)"):
        Runner(toys.Flaky, predictor())
    with pytest.raises(SampleError, match="declares no sample_space"):
        Runner(toys.NoSamples, predictor())
    with pytest.raises(ConfigError, match="no environment"):
        Runner("physgym/Nothing-v0", predictor())


@pytest.mark.parametrize("produce", ["first_epoch", "always"])
def test_a_trainer_learns_from_running_simulations(tmp_path, produce):
    torch.manual_seed(0)
    stream = SampleStream(toys.Line, path=tmp_path / "d", num_workers=2, seed=1)
    network = MLP.from_spec(stream.spec, hidden=())
    trainer = Trainer(
        network, source=stream, produce=produce, epochs=15, batches_per_epoch=12, batch_size=16, progress=False
    )
    trainer.optimization.optimizer.param_groups[0]["lr"] = 0.05
    history = trainer.fit()
    assert history["loss"][-1] < 1e-3 * history["loss"][0]
    stored = SampleDataset(tmp_path / "d")
    assert len(stored) == 16 * 12 * (1 if produce == "first_epoch" else 15)
    same = generate(toys.Line, tmp_path / "same", samples=50, num_workers=1, seed=1, progress=False)
    np.testing.assert_array_equal(stored[:50]["x"], same[:]["x"])


def test_errors_of_vectors_scalars_and_zeros():
    target = np.zeros((2, 3, 2))
    target[0] = [[3, 4], [0, 0], [6, 8]]
    prediction = target.copy()
    prediction[0, 1] = [0, 5]
    errors = compare(prediction, target)
    np.testing.assert_allclose(errors.relative_l2, [5 / np.sqrt(125), 0])
    np.testing.assert_allclose(errors.mean, [5 / 3, 0])
    np.testing.assert_allclose(errors.largest, [5, 0])
    np.testing.assert_allclose(errors.size, [5, 0])
    grid = compare(np.ones((2, 8, 8)), np.zeros((2, 8, 8)))  # a field of scalars: every cell is off by one
    np.testing.assert_allclose([grid.mean, grid.largest], 1)
    scalars = compare(np.array([2.0, 1.0]), np.array([1.0, 0.0]))
    np.testing.assert_allclose(scalars.relative_l2, [1, np.inf])
    assert scalars.summary["max_error"] == 1
    with pytest.raises(SampleError, match="prediction has shape"):
        compare(np.zeros((2, 3)), np.zeros((2, 4)))
