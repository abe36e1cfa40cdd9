from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from physgym import RejectSample, SampleDataset, Simulation, generate
from physgym.data import SampleWriter
from physgym.episode import episode_seed, part_seed
from physgym.errors import ConfigError, DatasetError, SampleError, WorkerError
from physgym.generation.stream import SampleStream
from physgym.nn import MLP, Predictor
from physgym.runner import Runner, SaveFrames, SurrogateEnv
from physgym.running.prediction_errors import compare
from physgym.sample import SampleSpec
from physgym.training import Callback, Trainer
from tests.support import toys
from tests.support.watching import until
from tests.support.workers import forked_workers, fresh_workers  # noqa: F401 - fixtures


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


def test_a_run_shows_the_episodes_that_generation_with_its_seed_gives_where_it_is_told_to(tmp_path):
    dataset = generate(toys.Flaky, tmp_path / "d", samples=12, num_workers=1, seed=9, progress=False)
    network = Predictor(MLP.from_spec(dataset.spec, hidden=(4,)), dataset.spec)
    with Runner(toys.Flaky, network, seed=9, part="training") as runner:
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
    np.testing.assert_array_equal(recorded[:]["error/y"], relative_l2(recorded[:]))
    assert recorded.spec["error/y"].dtype == np.float32
    assert recorded.index("step").tolist() == [0, 1, 2, 3, 0, 1]
    assert recorded.source["env"] == "tests.support.toys:Line"
    with pytest.raises(DatasetError, match="already holds prediction samples"):
        Runner(toys.Line, predictor(), record=tmp_path / "r")


def test_the_record_of_a_run_is_readable_when_the_run_returns(tmp_path):
    with Runner(toys.Line, predictor(), seed=1, record=tmp_path / "r") as runner:
        runner.run(3, progress=False)
        assert len(SampleDataset(tmp_path / "r", mode="prediction")) == 3
        runner.run(6, progress=False)
        assert len(SampleDataset(tmp_path / "r", mode="prediction")) == 9


def relative_l2(samples):
    return compare(samples["prediction/y"], samples["y"]).relative_l2.astype(np.float32)


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
    ("actions", "parameters"), [("gaussian", "sobol"), ("sobol", None), ("grid:3", "lhs:4"), (away, "uniform")]
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
    with Runner(toys.Tuned, tuned_predictor(), seed=3, part="training", record=tmp_path / "r", **samplers) as runner:
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
    def __init__(self, *, interrupt=False):
        self.events, self.interrupt = [], interrupt

    def prediction_begin(self, pipeline):
        self.events.append("begin")

    def sample_begin(self, pipeline):
        self.events.append("sample")

    def sample_end(self, pipeline, sample):
        self.events.append(sorted(sample))
        if self.interrupt and len(self.events) == 5:
            raise KeyboardInterrupt

    def prediction_end(self, pipeline):
        self.events.append("end")

    def close(self):
        self.events.append("close")


def test_events_come_in_order_also_when_interrupted():
    recorder = Recorder(interrupt=True)
    with Runner(toys.Line, predictor()) as runner:
        report = runner.run(100, callbacks=[recorder], progress=False)
    fields = ["error/y", "flag", "prediction/y", "x", "y"]
    assert recorder.events == ["begin", "sample", fields, "sample", fields, "end", "close"]
    assert report.interrupted
    assert report.steps == 2
    assert len(report.errors["y"].mean) == 2


def test_bad_arguments(tmp_path):
    with Runner(toys.Line, predictor()) as runner:
        with pytest.raises(ConfigError, match="steps must be at least 1"):
            runner.run(0)
        with pytest.raises(ConfigError, match="solver=True is for a replay"):
            runner.run(1, solver=True)
        with pytest.raises(ConfigError, match="render_mode"):
            runner.run(1, callbacks=[SaveFrames(tmp_path)], progress=False)
    for name, wrong in {"max_steps": 0, "max_rejects": 0, "seed": -1, "batch_size": 0}.items():
        with pytest.raises(ConfigError, match=f"{name} must (be at least 1, not 0|not be negative, got -1)"):
            Runner(toys.Line, predictor(), **{name: wrong})
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


# --- workers


class Adopting(Corrected):
    """A correction by every prediction, so that each depends on all before it."""

    def apply_prediction(self, prediction):
        super().apply_prediction(prediction)
        self.state = np.float32(0.9) * np.asarray(prediction["y"], np.float32)

    def outcome(self):
        return float(self.state[0]), len(self.asked) == 5


def mlp(env) -> Predictor:
    torch.manual_seed(0)
    spec = SampleSpec.from_env(env())
    return Predictor(MLP.from_spec(spec, inputs=["x"], outputs=["y"], hidden=(8,)), spec, inputs=["x"], outputs=["y"])


class Steps(Callback):
    """Keeps what is known of every step."""

    def __init__(self):
        self.seen = []

    def sample_begin(self, pipeline):
        self.seen.append("begin")

    def sample_end(self, pipeline, sample):
        step = pipeline.last
        told = step.transition
        fields = {name: np.asarray(value).tobytes() for name, value in sample.items()}
        rejected, reward = told.rejected, told.reward
        self.seen.append((step.episode, step.seed, told.step, told.ending, told.last, reward, rejected, fields))


def run_all(env, folder, steps=23, **options):
    """All that a run shows: of every step, its record, its figures."""
    callback = Steps()
    with Runner(env, mlp(env), seed=5, record=folder, **{"max_steps": 6, **options}) as runner:
        report = runner.run(steps, callbacks=[callback], progress=False)
        more = runner.run(7, callbacks=[callback], progress=False)
    stored = SampleDataset(folder, "prediction")
    names = [stored.index(name).tolist() for name in ("episode", "step", "seed")]
    record = {name: value.tobytes() for name, value in stored[:].items()}
    beside = {name: value.tobytes() for name, value in (stored.parameters or {}).items()}
    errors = report.errors["y"].relative_l2.tobytes()
    counts = (report.steps, report.rejected, more.steps, more.rejected)
    return callback.seen, names, record, beside, errors, counts, stored.source, stored.spec


class Wordy(toys.Tuned):
    """Rejects the last step of each episode and some episodes as a whole, and says at length why."""

    def advance(self, action):
        super().advance(action)
        if self.left == 0 or self.parameters["shape"]["kind"] == 2:
            raise RejectSample("much too far away " * 40)


SAMPLERS = {"actions": "sobol", "parameters": "lhs:4"}


@pytest.mark.parametrize(
    ("env", "workers", "options"),
    [
        (toys.Line, 0, {}),
        (toys.Flaky, 0, {}),
        (toys.Tuned, 0, SAMPLERS),
        (toys.Tuned, 2, SAMPLERS),
        (Wordy, 2, {}),
        (toys.Flaky, 0, {"env_kwargs": {"reject_above": -0.5}, "max_steps": 1, "max_rejects": 2}),
        (Adopting, 0, {}),
        (Adopting, 2, {}),
        (Adopting, 2, {"apply": False}),
    ],
)
def test_workers_change_nothing(tmp_path, env, workers, options):
    alone = run_all(env, tmp_path / "alone", **options)
    spread = run_all(env, tmp_path / "spread", num_workers=workers, num_envs=3, **options)
    for here, there in zip(alone, spread, strict=True):
        assert here == there


def test_predictions_in_batches_are_equal_to_rounding_and_whatever_the_workers(tmp_path):
    single = run_all(toys.Flaky, tmp_path / "single")
    batched = [run_all(toys.Flaky, tmp_path / str(n), num_workers=n, batch_size=4) for n in (0, 2)]
    assert batched[0] == batched[1]
    assert batched[0][1] == single[1]
    for name in ("x", "y"):
        assert batched[0][2][name] == single[2][name]
    a, b = (np.frombuffer(found[2]["prediction/y"], np.float32) for found in (single, batched[0]))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("fresh_workers")
def test_workers_do_not_import_torch():
    with Runner(toys.TorchSpy, predictor(), num_workers=1) as runner:
        steps = list(itertools.islice(runner.steps(), 5))
    assert [step.transition.sample["flag"].tolist() for step in steps] == [[0, 0]] * 5


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_that_came_before(tmp_path):
    switch = tmp_path / "switch"
    arguments = {"env_kwargs": {"kill_switch": str(switch)}, "num_workers": 2, "num_envs": 2}
    expected = run_all(toys.Flaky, tmp_path / "alone", env_kwargs=arguments["env_kwargs"])
    switch.touch()
    assert run_all(toys.Flaky, tmp_path / "restarted", on_error="restart", **arguments) == expected

    class DiesLater(toys.Line):
        """In its fourth episode, which nothing brings back."""

        def reset(self, *, seed=None, options=None):
            if seed == episode_seed(part_seed(5, "prediction"), 3):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().reset(seed=seed, options=options)

    with Runner(DiesLater, predictor(), seed=5, record=tmp_path / "dies", num_workers=2) as runner:
        with pytest.raises(WorkerError, match="SIGKILL"):
            runner.run(40, progress=False)
        assert runner.last.episode == 2
        with pytest.raises(WorkerError, match="SIGKILL"):  # it goes on from there, with new workers
            runner.run(40, progress=False)
    assert SampleDataset(tmp_path / "dies", "prediction").index("episode").tolist() == [i // 4 for i in range(12)]


class FailsLater(toys.Line):
    def step(self, action):
        if self.np_random_seed == episode_seed(part_seed(0, "prediction"), 2) and self.count == 2:
            raise OSError("no licence")
        return super().step(action)


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"num_workers": 0, "batch_size": 8}])
def test_what_came_before_an_error_is_kept(tmp_path, options):
    runner = Runner(FailsLater, predictor(), record=tmp_path / "r", **options)
    with runner, pytest.raises(Exception, match="no licence"):
        runner.run(40, progress=False)
    stored = SampleDataset(tmp_path / "r", "prediction")
    assert list(zip(stored.index("episode"), stored.index("step"), strict=True))[-1] == (2, 1)
    assert len(stored) == 10


def test_samples_that_do_not_fit_are_named_in_workers_too():
    for env, text in (
        (toys.NotANumber, "episode 0, step 0: .*'y'.* holds 3 non-finite values"),
        (toys.MissingField, "episode 0, step 0: .*field 'y' is missing"),
    ):
        for options in ({}, {"num_workers": 0}):
            with Runner(env, predictor(), **options) as runner, pytest.raises(SampleError, match=text):
                runner.run(3, progress=False)
    network = Predictor(nn.Identity(), SampleSpec.from_env(toys.Flaky()))
    for options in ({}, {"num_workers": 0}):
        runner = Runner(toys.Flaky, network, env_kwargs={"reject_above": -2.0}, max_rejects=3, **options)
        with runner, pytest.raises(SampleError, match=r"3 steps in a row gave no valid sample.*did not converge"):
            runner.run(9, progress=False)
        assert (runner.last.episode, runner.last.transition.step) == (0, 2)  # and the steps before it are not lost
    with pytest.raises(ConfigError, match="the network was trained on field 'x'"):
        Runner("physgym/Spring-v0", predictor(), num_workers=1)  # whose worker ends with it
    with pytest.raises(SampleError, match="declares no sample_space"):
        Runner(toys.NoSamples, predictor(), num_workers=0)


# --- the record


@pytest.mark.slow
def test_a_record_is_continued_after_its_last_sample(tmp_path):
    options = {"seed": 3, "parameters": "sobol"}
    with Runner(toys.Tuned, mlp(toys.Tuned), record=tmp_path / "whole", **options) as runner:
        runner.run(30, progress=False)
    whole = SampleDataset(tmp_path / "whole", "prediction")
    record = tmp_path / "parts"
    for steps, workers in ((7, None), (4, 0), (9, None), (30, 0)):
        with Runner(toys.Tuned, mlp(toys.Tuned), record=record, resume=True, num_workers=workers, **options) as runner:
            runner.run(steps, progress=False)
    parts, count = SampleDataset(record, "prediction"), len(whole)
    assert len(parts) >= count
    for name in ("episode", "step", "seed"):
        np.testing.assert_array_equal(parts.index(name)[:count], whole.index(name))
    for name, column in whole[:].items():
        np.testing.assert_array_equal(parts[:count][name], column)
    for name, column in whole.parameters.items():
        np.testing.assert_array_equal(parts.parameters[name][: len(column)], column)
    with (
        Runner(toys.Tuned, mlp(toys.Tuned), record=record, resume=True, seed=4) as runner,
        pytest.raises(DatasetError, match="resume with the same environment"),
    ):
        runner.run(1, progress=False)


ENDLESS = """
import sys
import torch
from tests.running.test_runner import predictor
from tests.support import toys
from physgym.runner import Runner

with Runner(toys.Line, predictor(2.2), record=sys.argv[1], resume=True) as runner:
    runner.run(int(sys.argv[2]) or None, progress=False)
"""


@pytest.mark.slow
def test_a_killed_run_leaves_a_record_that_can_be_continued(tmp_path):
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    endless = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path / "r"), "0"], env=environment)

    def stored():
        try:
            return len(SampleDataset(tmp_path / "r", "prediction"))
        except DatasetError:  # there is none yet
            return 0

    until(stored)
    time.sleep(0.5)
    endless.kill()
    endless.wait(timeout=60)
    before = len(SampleDataset(tmp_path / "r", "prediction"))
    assert before > 0
    with Runner(toys.Line, predictor(2.2), record=tmp_path / "r", resume=True) as runner:
        runner.run(10, progress=False)
    stored = SampleDataset(tmp_path / "r", "prediction")
    assert len(stored) == before + 10
    assert stored.index("episode").tolist() == [i // 4 for i in range(before + 10)]
    with Runner(toys.Line, predictor(2.2)) as runner:
        for sample, step in zip(stored, runner.steps(), strict=False):
            for name, value in step.fields.items():
                assert np.asarray(value).tobytes() == sample[name].tobytes()


class CtrlC(Callback):
    """As Ctrl-C would do at the n-th step."""

    def __init__(self, step):
        self.left = step

    def sample_begin(self, pipeline):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("options", [{}, {"num_workers": 1}])
def test_ctrl_c_keeps_what_was_done_and_a_run_goes_on_from_there(tmp_path, options):
    with Runner(toys.Line, predictor(), record=tmp_path / "r", **options) as runner:
        report = runner.run(100, callbacks=[CtrlC(7)], progress=False)
        assert report.interrupted
        assert (report.steps, len(report.errors["y"].mean)) == (6, 6)
        assert not runner.run(5, progress=False).interrupted
    stored = SampleDataset(tmp_path / "r", "prediction")
    assert stored.index("step").tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]


class InterruptedStep(toys.Line):
    at = 6

    def step(self, action):
        type(self).at -= 1
        if type(self).at == 0:
            signal.raise_signal(signal.SIGINT)
        return super().step(action)


def test_ctrl_c_within_a_step_loses_that_step_alone(tmp_path):
    with Runner(InterruptedStep, predictor(), record=tmp_path / "r") as runner:
        assert runner.run(progress=False).steps == 5
        assert runner.run(3, progress=False).steps == 3
    stored = SampleDataset(tmp_path / "r", "prediction")
    assert list(zip(stored.index("episode"), stored.index("step"), strict=True)) == [(i // 4, i % 4) for i in range(8)]


def test_a_run_goes_on_where_the_last_one_ended(tmp_path):
    with Runner(toys.Flaky, mlp(toys.Flaky), seed=9) as runner:
        whole = [(s.episode, s.transition.step) for s in itertools.islice(runner.steps(), 20)]
    dataset = generate(toys.Flaky, tmp_path / "d", samples=6, num_workers=0, seed=9, progress=False)
    with Runner(toys.Flaky, mlp(toys.Flaky), seed=9) as runner:
        parts = [(s.episode, s.transition.step) for s in itertools.islice(runner.steps(), 7)]
        assert runner.run(replay=dataset, solver=True, progress=False).steps == 6  # which leaves the episode
        assert runner.run(replay=dataset, progress=False).steps == 6
        parts += [(s.episode, s.transition.step) for s in itertools.islice(runner.steps(), 13)]
    assert parts == whole


class Strange(nn.Module):
    """NaN or infinity where x is large, another shape where it is very large."""

    def forward(self, x):
        if (x > 0.99).any():
            return x[:, :1]
        return torch.where(x.amax(-1, keepdim=True) > 0.5, float("nan"), 2 * x + 1)


@pytest.mark.parametrize("options", [{}, {"num_workers": 0}, {"num_workers": 0, "batch_size": 5}])
def test_predictions_that_are_not_finite_are_counted_and_recorded(tmp_path, options):
    network = Predictor(Strange(), SampleSpec.from_env(toys.Line()))
    with Runner(toys.Line, network, record=tmp_path / "r", actions=quiet, **options) as runner:
        report = runner.run(40, progress=False)
    stored = SampleDataset(tmp_path / "r", "prediction")[:]
    strange = stored["x"].max(1) > 0.5
    assert report.nonfinite == strange.sum() > 3
    np.testing.assert_array_equal(np.isnan(stored["prediction/y"]).all(1), strange)
    np.testing.assert_array_equal(np.isnan(stored["error/y"]), strange)
    np.testing.assert_array_equal(np.isnan(report.errors["y"].relative_l2), strange)
    assert f"{report.nonfinite} predictions not finite" in str(report)


def quiet(observation, rng):
    return rng.uniform(-0.9, 0.9, 3).astype(np.float32)


def loud(observation, rng):
    return np.full(3, 0.999 if observation[0] else 0.1, np.float32)


@pytest.mark.parametrize("options", [{}, {"num_workers": 0}])
def test_a_prediction_of_another_shape_is_an_error_that_names_the_field(tmp_path, options):
    network = Predictor(Strange(), SampleSpec.from_env(toys.Line()))
    with (
        Runner(toys.Line, network, record=tmp_path / "r", actions=loud, **options) as runner,
        pytest.raises(SampleError, match=r"Strange predicted field 'y' with shape \(1, 1\) instead of \(1, 3\)"),
    ):
        runner.run(10, progress=False)
    assert len(SampleDataset(tmp_path / "r", "prediction")) == 1


class Cut(Exact):
    """Takes no number above 1."""

    def forward(self, x):
        return super().forward(x.clamp(max=1.0))


class CutOnPurpose(Cut):
    takes_nonfinite = True


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_replay_of_a_sample_that_is_not_finite_names_it(tmp_path, batch_size):
    spec = SampleSpec.from_env(toys.Line())
    x = np.full((12, 3), 0.5, np.float32)
    x[9, 2] = np.inf
    with SampleWriter(tmp_path / "d", spec, nonfinite="allow") as writer:
        writer.append(
            {"x": x, "y": 2 * x + 1, "flag": np.zeros((12, *spec["flag"].shape), spec["flag"].dtype)},
            episode=np.arange(12) // 5,
            step=np.arange(12) % 5,
            seed=np.zeros(12, int),
        )
    stored = SampleDataset(tmp_path / "d")
    with (
        Runner(None, Predictor(Cut(), spec), batch_size=batch_size) as runner,
        pytest.raises(
            SampleError, match=r"the input 'x' is not finite in sample 9 \(episode 1, step 4\). Replay a dat"
        ),
    ):
        runner.run(replay=stored, progress=False)
    with Runner(None, Predictor(CutOnPurpose(), spec), batch_size=batch_size) as runner:
        assert runner.run(replay=stored, progress=False).steps == 12


class Nan(nn.Module):
    def forward(self, x):
        return x * float("nan")


def test_the_simulation_gets_no_prediction_that_is_not_finite():
    network = Predictor(Nan(), SampleSpec.from_env(Corrected()))
    with Runner(Corrected, network) as runner:
        assert runner.run(3, progress=False).nonfinite == 3
        assert runner.env.applied == []


# --- replays without the solver


def test_stored_samples_are_predicted_without_a_simulation(tmp_path):
    dataset = generate(toys.Flaky, tmp_path / "d", samples=30, num_workers=0, seed=9, progress=False)
    network = mlp(toys.Flaky)
    with Runner(toys.Flaky, network, seed=9, part="training") as runner:
        expected = runner.run(replay=dataset, solver=True, progress=False)
    events = Recorder()
    with Runner(None, network, record=tmp_path / "r") as runner:
        assert runner.spec == network.spec
        report = runner.run(2, replay=dataset, callbacks=[events], progress=False)
        fields = ["error/y", "prediction/y", "x", "y"]
        assert events.events == ["begin", "sample", fields, "sample", fields, "end", "close"]
    with Runner(None, network, record=tmp_path / "all") as runner:
        report = runner.run(replay=dataset, progress=False)
        with pytest.raises(ConfigError, match="holds what this runner recorded before; record a replay with"):
            runner.run(replay=dataset, progress=False)
    assert (report.steps, report.rejected) == (30, 0)
    assert len(report.solver_seconds) == 0
    assert "solver" not in str(report)
    np.testing.assert_array_equal(report.errors["y"].relative_l2, expected.errors["y"].relative_l2)
    stored = SampleDataset(tmp_path / "all", "prediction")
    assert list(stored.spec) == ["x", "y", "prediction/y", "error/y"]
    for name in ("episode", "step", "seed", "env"):
        np.testing.assert_array_equal(stored.index(name), dataset.index(name))
    for name, column in dataset[:].items():
        np.testing.assert_array_equal(stored[:][name], column)
    with Runner(None, network, batch_size=8) as runner:
        again = runner.run(replay=stored, progress=False)  # whose own predictions are left out
        np.testing.assert_allclose(again.errors["y"].relative_l2, stored[:]["error/y"], rtol=1e-4)
        parts = [dataset.subset(np.arange(20, 10, -1)), SampleDataset([tmp_path / "d"] * 2), stored]
        for part in parts:
            steps = list(runner.replay(part))
            np.testing.assert_array_equal([s.transition.sample["x"] for s in steps], part[:]["x"])
            assert [s.transition.step for s in steps] == part.index("step").tolist()


def test_a_replay_needs_what_the_network_is_fed_with_alone(tmp_path):
    generate(toys.Line, tmp_path / "d", samples=9, num_workers=0, progress=False)
    inputs = SampleDataset(tmp_path / "d", fields=["x"])
    with Runner(None, predictor(), record=tmp_path / "r") as runner:
        report = runner.run(replay=inputs, progress=False)
    assert report.errors == {}
    assert list(SampleDataset(tmp_path / "r", "prediction").spec) == ["x", "prediction/y"]
    with Runner(None, predictor()) as runner:
        with pytest.raises(ConfigError, match=r"fed with 'x' as float32 \(3,\), the dataset has none"):
            runner.run(replay=SampleDataset(tmp_path / "d", fields=["y"]))
        with pytest.raises(ConfigError, match="no environment"):
            runner.run(replay=inputs, solver=True)
        with pytest.raises(ConfigError, match="this runner has no environment"):
            runner.run(3)
    with Runner(toys.Line, predictor(), num_workers=0) as runner:
        with pytest.raises(ConfigError, match="make the Runner without num_envs and num_workers"):
            runner.run(replay=inputs, solver=True)
        assert runner.run(replay=inputs, progress=False).steps == 9
        with pytest.raises(ConfigError, match="there are none of workers and of a replay without the solver"):
            runner.run(1, callbacks=[SaveFrames(tmp_path)], progress=False)


def test_joined_datasets_are_replayed_where_their_episodes_can_be_made_again(tmp_path):
    for name, options in (("a", {"seed": 1}), ("b", {"seed": 2}), ("c", {"seed": 3, "parameters": "sobol"})):
        generate(toys.Tuned, tmp_path / name, samples=9, num_workers=0, progress=False, **options)
    with Runner(toys.Tuned, tuned_predictor()) as runner:
        both = SampleDataset([tmp_path / "a", tmp_path / "b"])
        steps = list(runner.replay(both, solver=True))
        np.testing.assert_array_equal([s.transition.sample["x"] for s in steps], both[:]["x"])
        with pytest.raises(DatasetError, match=r"2 datasets were joined.*Replay them one at a time"):
            runner.run(replay=SampleDataset([tmp_path / "a", tmp_path / "c"]), solver=True, progress=False)
        assert runner.run(replay=SampleDataset([tmp_path / "a", tmp_path / "c"]), progress=False).steps == 18


def test_a_dataset_that_stored_samples_drove_is_replayed_without_the_solver(tmp_path):
    class Driven(toys.Line):
        def load_sample(self, sample):
            return -sample["x"]

    options = {"num_workers": 0, "progress": False}
    first = generate(toys.Line, tmp_path / "first", samples=8, **options)
    driven = generate(Driven, tmp_path / "driven", load=first, **options)
    with Runner(Driven, predictor()) as runner:
        assert runner.run(replay=driven, progress=False).steps == 8
        with pytest.raises(DatasetError, match="stored samples that drove the simulation"):
            runner.run(replay=driven, solver=True, progress=False)


# --- without a solver, without a comparison


@pytest.mark.parametrize("options", [{}, {"num_workers": 0}, {"num_workers": 2}])
def test_the_network_in_place_of_the_solver_is_compared_with_nothing(tmp_path, options, monkeypatch):
    # on a busy machine its one long episode would be worth a hint, which is a warning
    monkeypatch.setattr("physgym.generation.arrivals.HINT_SECONDS", float("inf"))
    network = spring_predictor()
    runner = Runner("physgym/Spring-v0", network, seed=2, surrogate=True, record=tmp_path / "r", **options)
    with runner:
        report = runner.run(110, progress=False)
    assert report.errors == {}
    assert len(report.solver_seconds) == 0
    assert report.latency_ms.keys() == {"network_median", "network_p95"}
    stored = SampleDataset(tmp_path / "r", "prediction")
    assert set(stored.spec) == {"state", "parameters", "force", "prediction/next_state"}
    np.testing.assert_array_equal(stored[:99]["prediction/next_state"], stored[1:100]["state"])  # fed with its own
    assert stored.index("episode").tolist() == [0] * 100 + [1] * 10  # the time limit holds
    with Runner("physgym/Spring-v0", network) as other:
        with pytest.raises(ConfigError, match="recorded with a network in place of the solver"):
            other.run(replay=stored, solver=True)
        assert other.run(replay=stored, progress=False).errors == {}


@pytest.mark.parametrize("options", [{}, {"num_workers": 0}])
def test_a_surrogate_may_be_the_environment_itself(options):
    network, rejecting = spring_predictor(), Predictor(Nan(), SampleSpec.from_env(toys.Line()))
    found = []
    for env, more in ((lambda: SurrogateEnv("physgym/Spring-v0"), {}), ("physgym/Spring-v0", {"surrogate": True})):
        with Runner(env, network, seed=2, **more, **options) as runner:
            steps = itertools.islice(runner.steps(), 6)
            found.append(np.stack([step.prediction["next_state"] for step in steps]))
            assert runner.run(2, progress=False).errors == {}
    np.testing.assert_array_equal(*found)
    with pytest.raises(ConfigError, match="the network was trained on field 'x'"):
        Runner("physgym/Spring-v0", rejecting, surrogate=True, **options)


@pytest.mark.parametrize("options", [{}, {"num_workers": 0}])
def test_a_run_of_a_surrogate_gives_up_where_nothing_is_finite(options):
    class Broken(nn.Module):
        def forward(self, force, parameters, state):
            return state * float("inf")

    network = Predictor(Broken(), SampleSpec.from_env(gym.make("physgym/Spring-v0")))
    with (
        Runner("physgym/Spring-v0", network, surrogate=True, max_rejects=4, **options) as runner,
        pytest.raises(
            SampleError, match=r"4 steps in a row gave no valid sample.*\['next_state'\] that are not finite"
        ),
    ):
        runner.run(9, progress=False)


def test_a_surrogate_starts_the_episodes_of_the_solver():
    begins = []
    for surrogate in (False, True):
        with Runner("physgym/Spring-v0", spring_predictor(), seed=2, surrogate=surrogate, max_steps=1) as runner:
            steps = itertools.islice(runner.steps(), 4)
            begins.append([np.concatenate([s.transition.sample[n] for n in ("state", "force")]) for s in steps])
    np.testing.assert_array_equal(*begins)


def test_nothing_is_compared_where_it_is_not_wanted(tmp_path):
    with Runner(toys.Line, predictor(), record=tmp_path / "r", compare=False) as runner:
        report = runner.run(5, progress=False)
        assert runner.last.errors == {}
    assert report.errors == {}
    assert list(SampleDataset(tmp_path / "r", "prediction").spec) == ["flag", "x", "y", "prediction/y"]
    assert len(report.solver_seconds) == len(report.network_seconds) == 5


# --- figures


@pytest.mark.slow
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
