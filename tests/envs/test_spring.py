from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from physgym.envs.spring import Spring, propagator
from physgym.errors import ConfigError

REST = np.zeros(1, np.float32)


def spring(k: float, m: float, c: float, **kwargs) -> Spring:
    return Spring(stiffness=(k, k), mass=(m, m), friction=(c, c), **kwargs)


def trajectory(env: Spring, x0: float, v0: float, forces) -> np.ndarray:
    env.reset(seed=0, options={"parameters": {"position": x0, "velocity": v0}})
    states = [np.array([x0, v0])]
    for force in forces:
        env.step(np.array([force]))
        states.append(env.observation()[:2])
    return np.array(states)


def rk4(k: float, m: float, c: float, force: float, state: np.ndarray, time: float, steps: int) -> np.ndarray:
    def slope(s: np.ndarray) -> np.ndarray:
        return np.array([s[1], (force - k * s[0] - c * s[1]) / m])

    h = time / steps
    for _ in range(steps):
        a = slope(state)
        b = slope(state + h / 2 * a)
        d = slope(state + h / 2 * b)
        state = state + h / 6 * (a + 2 * b + 2 * d + slope(state + h * d))
    return state


def test_underdamped_motion_follows_the_closed_form():
    k, m, c, x0, v0 = 12.0, 1.5, 0.8, 0.7, -1.1
    t = np.arange(81) * 0.1
    rate = c / (2 * m)
    omega = np.sqrt(k / m - rate**2)
    exact = np.exp(-rate * t) * (x0 * np.cos(omega * t) + (v0 + rate * x0) / omega * np.sin(omega * t))
    found = trajectory(spring(k, m, c), x0, v0, [0.0] * 80)[:, 0]
    np.testing.assert_allclose(found, exact, atol=1e-7)


def test_critically_damped_step_response_follows_the_closed_form():
    k, m, force = 9.0, 1.0, 3.0
    c = 2 * np.sqrt(k * m)
    t = np.arange(61) * 0.1
    exact = force / k * (1 - np.exp(-3 * t) * (1 + 3 * t))
    found = trajectory(spring(k, m, c), 0.0, 0.0, [force] * 60)[:, 0]
    np.testing.assert_allclose(found, exact, atol=1e-7)


def test_overdamped_motion_follows_the_closed_form():
    k, m, c, x0 = 5.0, 0.5, 6.0, 1.0
    t = np.arange(51) * 0.1
    slow, fast = np.roots([m, c, k])[::-1]
    exact = x0 * (fast * np.exp(slow * t) - slow * np.exp(fast * t)) / (fast - slow)
    found = trajectory(spring(k, m, c), x0, 0.0, [0.0] * 50)[:, 0]
    np.testing.assert_allclose(found, exact, atol=1e-7)


@pytest.mark.slow
def test_without_friction_energy_is_conserved():
    k, m = 10.0, 2.0
    env = spring(k, m, 0.0)
    env.reset(seed=0, options={"parameters": {"position": 1.0, "velocity": 0.5}})
    before = k / 2 * 1.0**2 + m / 2 * 0.5**2
    for _ in range(5000):
        env.step(REST)
    x, v = env.observation()[:2].astype(float)
    assert k / 2 * x**2 + m / 2 * v**2 == pytest.approx(before, rel=1e-6)


def test_runge_kutta_converges_to_it_with_order_four():
    k, m, c, force, time = 15.0, 0.7, 1.2, 2.0, 0.8
    state = np.array([0.4, -1.0])
    exact = propagator(k, m, c, time) @ np.array([*state, force])
    errors = [np.abs(rk4(k, m, c, force, state, time, n) - exact).max() for n in (64, 128, 256)]
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 4, atol=0.1)


def test_substeps_equal_one_long_step():
    forces = np.random.default_rng(1).uniform(-5, 5, 20)
    fine = trajectory(spring(8.0, 1.0, 0.5, time_step=0.05, simulations_per_step=4), 1.0, 0.0, forces)
    coarse = trajectory(spring(8.0, 1.0, 0.5, time_step=0.2), 1.0, 0.0, forces)
    np.testing.assert_allclose(fine, coarse, atol=1e-6)


def test_sample_spans_the_whole_step_and_holds_all_that_the_target_depends_on():
    env = Spring(simulations_per_step=3)
    before, _ = env.reset(seed=5)
    force = env.sample_action(np.random.default_rng(0))
    after, reward, _, _, info = env.step(force)
    sample = info["sample"]
    np.testing.assert_array_equal(sample["state"], before[:2])
    np.testing.assert_array_equal(sample["parameters"], before[2:])
    np.testing.assert_array_equal(sample["force"], force)
    np.testing.assert_array_equal(sample["next_state"], after[:2])
    time = env.time_step * env.simulations_per_step
    matrix = propagator(*sample["parameters"].astype(float), time)
    np.testing.assert_allclose(sample["next_state"], matrix @ [*sample["state"], *sample["force"]], atol=1e-5)
    assert reward == pytest.approx(-(after[0] ** 2))


def test_parameters_come_from_their_ranges_and_the_seed_alone():
    env = Spring(stiffness=(1.0, 2.0), mass=(3.0, 4.0), friction=(0.0, 0.5), position=(5.0, 6.0), velocity=(-8.0, -7.0))
    observations = np.array([env.reset(seed=seed)[0] for seed in range(50)])
    assert (observations >= [5.0, -8.0, 1.0, 3.0, 0.0]).all()
    assert (observations <= [6.0, -7.0, 2.0, 4.0, 0.5]).all()
    np.testing.assert_array_equal(observations[7], env.reset(seed=7)[0])
    fixed, info = env.reset(seed=7, options={"parameters": {"mass": 3.5}})
    assert fixed[3] == info["parameters"]["mass"] == 3.5
    np.testing.assert_array_equal(np.delete(fixed, 3), np.delete(observations[7], 3))


def test_a_force_that_is_not_finite_is_rejected_and_changes_nothing():
    env = Spring()
    before, _ = env.reset(seed=0)
    after, _, _, _, info = env.step(np.array([np.nan], np.float32))
    assert "sample" not in info
    assert "not finite" in info["rejected"]
    np.testing.assert_array_equal(before, after)
    assert "sample" in env.step(REST)[4]


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"mass": (0.0, 1.0)}, "mass must be positive"),
        ({"friction": (-1.0, 1.0)}, "friction must be at least 0"),
        ({"stiffness": 3}, "stiffness must be two finite numbers"),
        ({"mass": ("a", 1)}, "mass must be two finite numbers"),
        ({"stiffness": (2.0, 1.0)}, "the lower first"),
        ({"position": (0.0, np.inf)}, "finite"),
        ({"time_step": 0.0}, "time_step must be positive"),
        ({"max_force": np.nan}, "max_force must be positive"),
    ],
)
def test_bad_arguments_are_named(kwargs, text):
    with pytest.raises(ConfigError, match=text):
        Spring(**kwargs)


def test_bad_options_are_named():
    env = Spring()
    with pytest.raises(ConfigError, match="'weight'"):
        env.reset(seed=0, options={"weight": 1.0})
    with pytest.raises(ConfigError, match=r"no parameter 'weight'; parameter_space has .*'mass'"):
        env.reset(seed=0, options={"parameters": {"weight": 1.0}})
    with pytest.raises(ConfigError, match=r"'mass' = 99.* is not in Box\(0.5, 2.0"):
        env.reset(seed=0, options={"parameters": {"mass": 99.0}})


@pytest.mark.slow
def test_picture_shows_state_and_prediction():
    env = Spring(render_mode="rgb_array")
    env.reset(seed=0)
    _, _, _, _, info = env.step(np.array([2.0], np.float32))
    plain = env.render()
    env.apply_prediction({"next_state": info["sample"]["next_state"] + 0.3})
    ghost = env.render()
    assert plain.shape == ghost.shape == (480, 640, 3)
    assert plain.dtype == np.uint8
    assert (plain != ghost).any()
    env.reset(seed=0)
    env.step(np.array([2.0], np.float32))
    np.testing.assert_array_equal(env.render(), plain)
    assert Spring().render() is None


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:.*A Box observation space (minimum|maximum) value is -?infinity:UserWarning",  # a position has no bound
    "ignore:.*recommend.* a symmetric and normalized:UserWarning",  # the action is a force in newtons
)
def test_checkers_of_gymnasium_and_stable_baselines_accept_it():
    env = gymnasium.make("physgym/Spring-v0", render_mode="rgb_array").unwrapped
    gymnasium_check_env(env)
    sb3_check_env(env)
