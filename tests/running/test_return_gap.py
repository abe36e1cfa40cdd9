"""`return_gap`: both returns over the same beginnings, and where trajectories part."""

from __future__ import annotations

import runpy
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.errors import ConfigError
from physgym.runner import ReturnGap, SurrogateEnv, return_gap

EXAMPLES = Path(__file__).parents[2] / "examples"


class Walk(gym.Env):
    """A place on a line that an action moves; it ends beyond 1, and pays the distance from the middle."""

    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-0.1, 0.1, 1).astype(np.float32)
        return self.x.copy(), {}

    def step(self, action):
        self.x = self.x + action
        return self.x.copy(), float(abs(self.x[0])), bool(abs(self.x[0]) > 1), False, {}


def forward(observation):
    return np.full(1, 0.1, np.float32)


def surrogate_of(predict, steps=30):
    env = gym.wrappers.TimeLimit(physgym.RecordTransition(Walk()), steps)
    return SurrogateEnv(
        env, predict, reward=lambda before, action, after: abs(after[0]), terminated=lambda b, a, after: after[0] > 1
    )


def exact(fields):
    return {"next_observation": fields["observation"] + fields["action"]}


def slow(fields):  # wrong in favour of the policy: it never gets to the end
    right = exact(fields)["next_observation"]
    return {"next_observation": np.where(right > 0.5, fields["observation"], right)}


def solver(steps=30):
    return gym.wrappers.TimeLimit(Walk(), steps)


def test_an_exact_surrogate_has_no_gap():
    found = return_gap(forward, surrogate_of(exact), solver(), episodes=4, seed=3)
    assert found.seeds.tolist() == [3, 4, 5, 6]
    np.testing.assert_allclose(found.surrogate, found.simulation, rtol=1e-6)
    np.testing.assert_array_equal(found.surrogate_lengths, found.simulation_lengths)
    assert found.parted.tolist() == [0] * 4
    assert found.gap == pytest.approx(0, abs=1e-6)
    assert "never differ by more than 0.1" in str(found)


def test_a_surrogate_that_is_wrong_in_favour_of_the_policy_is_found_out():
    found = return_gap(forward, surrogate_of(slow), solver(), episodes=4)
    starts = [solver().reset(seed=seed)[0][0] for seed in range(4)]
    lengths = [int(np.floor((1 - start) / 0.1)) + 1 for start in starts]
    assert found.simulation_lengths.tolist() == lengths
    assert found.surrogate_lengths.tolist() == [30] * 4
    for start, length, total in zip(starts, lengths, found.simulation, strict=True):
        assert total == pytest.approx(sum(abs(start + 0.1 * (i + 1)) for i in range(length)), abs=1e-4)
    held = [int(np.floor((0.5 - start) / 0.1)) for start in starts]  # steps that the surrogate makes rightly
    assert found.parted.tolist() == [step + 1 for step in held]
    assert found.gap == pytest.approx(found.surrogate.mean() - found.simulation.mean())
    text = str(found)
    assert "the surrogate continues where the simulation has ended in 4, and ends before it in 0" in text
    assert f"after step {np.median(found.parted):g} (median), {found.parted.min()} at the earliest, in 4 of 4" in text
    assert f"{found.gap:.4g}" in text
    within = return_gap(forward, surrogate_of(slow), solver(), episodes=4, tolerance=100.0)
    assert not within.parted.any()


def test_rejected_steps_are_counted():
    found = return_gap(forward, surrogate_of(lambda fields: {"next_observation": np.full(1, np.nan)}, 5), solver(5))
    assert found.rejected == 5 * 20
    assert "100 steps of the surrogate were rejected" in str(found)


def test_what_cannot_be_compared_is_an_error():
    with pytest.raises(ConfigError, match="the action_space of the surrogate is"):
        return_gap(forward, surrogate_of(exact), gym.wrappers.RescaleAction(Walk(), np.float32(-3), np.float32(3)))

    class Elsewhere(Walk):
        def reset(self, **kwargs):
            observation, info = super().reset(**kwargs)
            self.x = observation + 1
            return self.x.copy(), info

    with pytest.raises(ConfigError, match="with seed 8 the surrogate begins otherwise"):
        return_gap(forward, surrogate_of(exact), Elsewhere(), seed=8)
    for wrong in ({"episodes": 0}, {"seed": -1}, {"max_steps": 0}, {"tolerance": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            return_gap(forward, surrogate_of(exact), Walk(), **wrong)


def test_episodes_that_nothing_ends_are_left():
    still = lambda observation: np.zeros(1, np.float32)  # noqa: E731
    env = physgym.RecordTransition(Walk())
    found = return_gap(still, SurrogateEnv(env, exact, reward=lambda b, a, n: 0.0), Walk(), episodes=2, max_steps=7)
    assert found.simulation_lengths.tolist() == found.surrogate_lengths.tolist() == [7, 7]
    assert isinstance(found, ReturnGap)


def test_of_pictures_some_numbers_are_compared():
    class Seen(Walk):
        observation_space = spaces.Box(0, 255, (40, 60, 3), np.uint8)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.picture(), {}

        def step(self, action):
            return (self.picture(), *super().step(action)[1:])

        def picture(self):
            return np.full((40, 60, 3), 100 + 50 * self.x[0], np.uint8)

    found = return_gap(forward, Seen(), Seen(), episodes=2)
    assert not found.parted.any()


@pytest.mark.slow
def test_the_example_trains_on_a_surrogate_and_says_the_gap(tmp_path, capsys):
    pytest.importorskip("stable_baselines3")
    main = runpy.run_path(str(EXAMPLES / "surrogate_policy.py"))["main"]
    found = main(str(tmp_path / "cartpole"), rounds=2, samples=200, epochs=1, steps=600)
    assert len(found.seeds) == 20
    said = capsys.readouterr().out
    assert str(found) in said
    stored = [physgym.SampleDataset(tmp_path / f"cartpole-{number}") for number in range(said.count("round "))]
    assert [len(dataset) for dataset in stored] == [200] * len(stored)
