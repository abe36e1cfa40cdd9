"""Runs, rollouts and surrogates of padded fields, and of a state that is stored once next to the solver."""

from __future__ import annotations

import contextlib
from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from physgym import SampleDataset, Simulation, generate
from physgym.errors import ConfigError
from physgym.nn import Predictor
from physgym.runner import RolloutEvaluation, Runner, SurrogateEnv
from physgym.running.prediction_errors import compare
from physgym.sample import SampleSpec
from physgym.step_fields import step_fields

PAD = -3.0


def box(*shape):
    return spaces.Box(-np.inf, np.inf, shape, np.float64)


class Chain(Simulation):
    """Some numbers, one to three of them there, that grow by a tenth and by what acts on them."""

    sample_space = spaces.Dict(
        [("state", box(3)), ("push", box(1)), ("count", spaces.Discrete(4)), ("next_state", box(3))]
    )
    sample_roles: ClassVar = {"state": "input", "push": "input", "count": "additional", "next_state": "target"}
    sample_masks: ClassVar = {"state": "count", "next_state": "count"}
    sample_feedback: ClassVar = {"next_state": "state"}
    observation_space, action_space = box(3), spaces.Box(-1, 1, (1,), np.float64)

    def begin(self, options):
        self.count = int(self.np_random.integers(1, 4))
        self.now = np.where(np.arange(3) < self.count, self.np_random.uniform(1, 2, 3), PAD)
        self.before, self.push = self.now, np.zeros(1)

    def advance(self, action):
        self.before, self.push = self.now, np.array(action)
        self.now = np.where(np.arange(3) < self.count, 1.1 * self.now + self.push, PAD)

    def observation(self):
        return self.now.copy()

    def sample(self):
        return {"state": self.before, "push": self.push, "count": self.count, "next_state": self.now}

    def inputs(self, action):
        return {"state": self.now, "push": np.array(action), "count": self.count}


class Once(Chain):
    """The same, whose samples hold the state before each step alone."""

    sample_space = spaces.Dict([("state", box(3)), ("push", box(1)), ("count", spaces.Discrete(4))])
    sample_roles: ClassVar = {"state": "input", "push": "input", "count": "additional"}
    sample_masks: ClassVar = {"state": "count"}
    sample_feedback: ClassVar = ["state"]

    def sample(self):
        return {name: value for name, value in super().sample().items() if name != "next_state"}


class Forgetful(Chain):
    """The same, which does not say how many are there."""

    def inputs(self, action):
        return {"state": self.now, "push": np.array(action)}


class Network(nn.Module):
    """A state that grows a bit too fast, mixed with the sum of the others: also of what is padding."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.2, dtype=torch.float64))

    def forward(self, state, push):
        return state * self.factor + push + 0.01 * state.sum(-1, keepdim=True)


def predicted(state, push):
    return 1.2 * state + push + 0.01 * state.sum(-1, keepdims=True)


def predictor(env):
    return Predictor(Network(), step_fields(SampleSpec.from_env(env())))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("padded_runs")


@pytest.fixture(scope="module")
def stored(folder):
    return generate(Chain, folder / "chain", episodes=5, max_steps=6, seed=1, progress=False, num_workers=0)


@pytest.fixture(scope="module")
def once(folder):
    return generate(Once, folder / "once", episodes=5, max_steps=6, seed=1, progress=False, num_workers=0)


def there(samples):
    return np.arange(3) < np.asarray(samples["count"])[:, None]


def test_errors_count_points_that_are_there():
    prediction, target = np.array([[1.0, 9.0, 9.0], [3.0, 4.0, 9.0], [5.0, 5.0, 5.0]]), np.zeros((3, 3))
    present = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], bool)
    errors = compare(prediction, target, present)
    np.testing.assert_array_equal(errors.mean, [1, 3.5, 0])
    np.testing.assert_array_equal(errors.largest, [1, 4, 0])
    np.testing.assert_array_equal(errors.points, [1, 2, 0])
    summary = errors.summary
    assert (summary["mean_error"], summary["max_error"]) == (2.25, 4)
    vectors = compare(np.full((1, 2, 2), 3.0), np.zeros((1, 2, 2)), np.array([[[True], [False]]]))
    assert (vectors.points.tolist(), vectors.mean.tolist()) == ([1], [pytest.approx(np.sqrt(18))])
    assert np.isnan(compare(prediction[2:], target[2:], present[2:]).summary["relative_l2"])


def test_a_run_and_its_record_leave_padding_out(folder, stored):
    with Runner(Chain, predictor(Chain), seed=3, max_steps=6, record=folder / "record") as runner:
        report = runner.run(20, progress=False)
        live = runner.last.errors["next_state"]
    record = SampleDataset(folder / "record", mode="prediction")[:]
    gone = ~there(record)
    assert gone.any()
    error, target = record["prediction/next_state"] - record["next_state"], record["next_state"]
    error[gone], target[gone] = 0, 0
    relative = np.linalg.norm(error, axis=1) / np.linalg.norm(target, axis=1)
    np.testing.assert_allclose(report.errors["next_state"].relative_l2, relative)
    np.testing.assert_allclose(record["error/next_state"], relative, rtol=1e-6)
    assert live == record["error/next_state"][-1]
    with Runner(None, predictor(Chain)) as runner:
        again = runner.run(replay=stored, progress=False).errors["next_state"]
        bare = SampleDataset(stored.paths[0], fields=["state", "push", "next_state"])
        with pytest.raises(ConfigError, match=r"lack the masks of padded fields, \{'next_state': 'count'\}"):
            runner.run(replay=bare, progress=False)
    assert again.points.tolist() == np.asarray(stored.arrays["count"]).tolist()


def by_hand(episode, steps):
    """A rollout whose padding is that of the first state."""
    state, flags, found = episode["state"][0], there(episode), []
    for step in range(steps):
        made = predicted(state, episode["push"][step])
        found.append(made)
        state = np.where(flags[step], made, PAD)
    return np.array(found)


@pytest.mark.parametrize("form", ["next_state -> state", "state"])
def test_a_rollout_is_fed_the_padding_of_its_first_state(form, stored, once):
    dataset, env, steps = (once, Once, 5) if form == "state" else (stored, Chain, 6)
    report = RolloutEvaluation(dataset).measure(predictor(env), steps, examples=5)
    assert len(report.examples) == 5
    for rollout in report.examples:
        episode = dataset.episode(rollout.trajectory.episode)
        np.testing.assert_allclose(rollout.predicted["next_state"], by_hand(episode, steps), rtol=1e-12)
    assert any((episode["count"] < 3).any() for episode in (dataset.episode(number) for number in range(5)))


def test_padding_that_is_not_finite_is_no_divergence(stored):
    class Overflowing(Network):
        def forward(self, state, push):
            return torch.where(state == PAD, torch.inf, super().forward(state, push))

    network = Predictor(Overflowing(), step_fields(stored.spec))
    report = RolloutEvaluation(stored).measure(network, 6)
    assert not report.diverged.any()
    assert np.isfinite(report.mean()).all()


def test_a_surrogate_keeps_the_padding_of_its_reset(stored):
    with contextlib.closing(SurrogateEnv(Chain, predictor(Chain))) as env:
        for seed in range(4):
            state, _ = env.reset(seed=seed)
            flags = state != PAD
            for _ in range(3):
                state, *_, info = env.step(np.array([0.5]))
                assert (state[~flags] == PAD).all()
                assert info["sample"]["count"] == flags.sum()
    with contextlib.closing(SurrogateEnv(Forgetful, predictor(Chain))) as env:
        env.reset(seed=0)
        with pytest.raises(ConfigError, match=r"'state' is padded, and inputs\(action\) gives .* not its mask 'count'"):
            env.step(np.array([0.5]))


def test_a_state_that_is_stored_once_is_compared_next_to_the_solver(folder, once):
    """With the next step of its episode, in a run, by workers, and in a replay; not with the network's own states."""
    network, options = predictor(Once), {"seed": 3, "max_steps": 6, "part": "evaluation"}
    with Runner(Once, network, record=folder / "once_record", **options) as runner:
        report = runner.run(20, progress=False)
    record = SampleDataset(folder / "once_record", mode="prediction")
    rows = record[:]
    follows = np.flatnonzero(record.index("episode")[1:] == record.index("episode")[:-1])
    error, target = rows["prediction/next_state"][follows] - rows["state"][follows + 1], rows["state"][follows + 1]
    gone = ~there(rows)[follows]
    error[gone], target[gone] = 0, 0
    relative = np.linalg.norm(error, axis=1) / np.linalg.norm(target, axis=1)
    np.testing.assert_allclose(report.errors["next_state"].relative_l2, relative)
    assert "next_state: relative L2 error" in str(report)
    figures = RolloutEvaluation(Once, steps=20, seed=3, max_steps=6)(network)
    assert figures["relative_l2/next_state"] == pytest.approx(relative.mean())
    with Runner(Once, network, num_envs=2, num_workers=0, **options) as runner:
        by_workers = runner.run(20, progress=False).errors["next_state"]
    np.testing.assert_array_equal(by_workers.relative_l2, report.errors["next_state"].relative_l2)
    with Runner(None, network, batch_size=7) as runner:
        replayed = runner.run(replay=once, progress=False).errors["next_state"]
    assert len(replayed.mean) == 5 * 5
    for other in ({"surrogate": True}, {"compare": False}):
        with Runner(Once, network, **options, **other) as runner:
            assert not runner.run(20, progress=False).errors
