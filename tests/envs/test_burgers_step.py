from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from physgym.envs.burgers import Burgers
from physgym.envs.burgers_step import BurgersStep
from physgym.errors import ConfigError, RejectSample
from physgym.sample import SampleSpec
from tests.envs.test_burgers import cole_hopf, cole_hopf_wave, relative, solve


def run(env: BurgersStep, initial: np.ndarray, steps: int = 20) -> np.ndarray:
    """The field in double precision after some steps."""
    env.reset(seed=0)
    env._field = np.asarray(initial, np.float64)
    for _ in range(steps):
        assert "sample" in env.step(np.int64(0))[4]
    return env._field


def test_agrees_with_an_exact_wave_at_every_step():
    env = BurgersStep(size=128, viscosity=0.02)
    for steps in (1, 7, 20):
        found = run(env, cole_hopf_wave(128, 0.02, 0.0), steps)
        assert relative(found, cole_hopf_wave(128, 0.02, 0.05 * steps)) < 1e-7


@pytest.mark.parametrize("seed", range(2))
def test_random_fields_agree_with_cole_hopf_on_a_finer_grid(seed):
    coarse, fine = BurgersStep(), BurgersStep(size=2048)
    initial, refined = (env.reset(seed=seed)[1]["parameters"]["initial"].astype(float) for env in (coarse, fine))
    exact = cole_hopf(refined, 0.01, 1.0)
    assert relative(run(coarse, initial), exact[::8]) < 1e-5


def test_twenty_steps_are_one_of_the_simulation_in_one_shot():
    env, once = BurgersStep(size=128, viscosity=0.05), Burgers(size=128, viscosity=0.05)
    initial = once.sample_action(np.random.default_rng(2))
    assert relative(run(env, initial), solve(once, initial)) < 1e-5


def test_the_next_state_is_the_state_of_the_next_step():
    env = BurgersStep(size=64, viscosity=0.05)
    observation, info = env.reset(seed=3)
    np.testing.assert_array_equal(observation, info["parameters"]["initial"])
    for _ in range(3):
        before = observation
        observation, _, _, _, info = env.step(np.int64(0))
        np.testing.assert_array_equal(info["sample"]["state"], before)
        np.testing.assert_array_equal(info["sample"]["next_state"], observation)
        assert info["solver_steps"] >= env.solver.min_steps


def test_a_step_that_is_not_resolved_is_rejected_and_changes_nothing():
    env = BurgersStep(size=64, viscosity=1e-4)
    before, _ = env.reset(seed=0)
    observation, _, _, _, info = env.step(np.int64(0))
    assert "does not resolve" in info["rejected"]
    np.testing.assert_array_equal(observation, before)


def test_viscosity_may_be_a_parameter():
    env = BurgersStep(size=32, viscosity=(0.05, 0.2))
    initial = np.sin(2 * np.pi * np.arange(32) / 32).astype(np.float32)
    heights = []
    for viscosity in (0.05, 0.2):
        env.reset(seed=0, options={"parameters": {"initial": initial, "viscosity": viscosity}})
        sample = env.step(np.int64(0))[4]["sample"]
        assert sample["viscosity"] == np.float32(viscosity)
        heights.append(np.abs(sample["next_state"]).max())
    assert heights[0] > heights[1]
    assert SampleSpec.from_env(env)["viscosity"].role == "input"
    assert 0.05 <= env.reset(seed=4)[1]["parameters"]["viscosity"] <= 0.2


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"size": 7}, "even number"),
        ({"viscosity": 0.0}, "viscosity must be positive"),
        ({"viscosity": (0.2, 0.1)}, "the lower first"),
        ({"time_step": 0.0}, "time_step must be positive"),
        ({"time_step": "a"}, "time_step must be positive"),
        ({"limit": -1.0}, "limit must be positive"),
    ],
)
def test_bad_arguments_are_named(kwargs, text):
    with pytest.raises(ConfigError, match=text):
        BurgersStep(**kwargs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*A Box observation space (minimum|maximum) value is -?infinity:UserWarning")
def test_checkers_of_gymnasium_and_stable_baselines_accept_it():
    env = gymnasium.make("physgym/BurgersStep-v0", size=64, render_mode="rgb_array").unwrapped
    gymnasium_check_env(env)
    sb3_check_env(env)


@pytest.mark.slow
def test_picture_shows_field_and_prediction():
    env = BurgersStep(size=64, viscosity=0.05, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(np.int64(0))
    plain = env.render()
    assert plain.shape == (480, 640, 3)
    env.apply_prediction({"next_state": np.zeros(64, np.float32)})
    assert (env.render() != plain).any()


def test_a_step_that_is_rejected_half_way_leaves_the_field_as_it_is(monkeypatch):
    env = BurgersStep(size=16, simulations_per_step=2)
    before, _ = env.reset(seed=0)
    calls = []

    def refuse_second(field):
        calls.append(0)
        if len(calls) == 2:
            raise RejectSample("enough")
        return 2 * field

    monkeypatch.setattr(env, "evolve", refuse_second)
    state = env.state()
    observation, *_, info = env.step(0)
    assert info["rejected"] == "enough"
    np.testing.assert_array_equal(observation, before)
    assert env.state()["reach"] == state["reach"]
