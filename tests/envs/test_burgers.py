from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from physgym.envs.burgers import Burgers
from physgym.errors import ConfigError
from physgym.sample import SampleSpec


def solve(env: Burgers, initial: np.ndarray) -> np.ndarray:
    """The final field in double precision."""
    env.reset(seed=0)
    info = env.step(initial)[4]
    assert "sample" in info, info["rejected"]
    return env._field


def cole_hopf_wave(size: int, viscosity: float, time: float, bias: float = 1.2) -> np.ndarray:
    """Exact periodic solution u = -2 nu (log phi)_x of phi = bias + exp(-4 pi² nu t) cos(2 pi x)."""
    x = np.arange(size) / size
    decay = np.exp(-4 * np.pi**2 * viscosity * time)
    return 4 * np.pi * viscosity * decay * np.sin(2 * np.pi * x) / (bias + decay * np.cos(2 * np.pi * x))


def cole_hopf(initial: np.ndarray, viscosity: float, time: float) -> np.ndarray:
    """Exact solution for any initial field: the heat equation for phi, moving with the mean of u."""
    n = len(initial)
    k = 2 * np.pi * np.arange(n // 2 + 1)
    mean = initial.mean()
    integral = np.fft.rfft(initial - mean)
    integral[1:] /= 1j * k[1:]
    phi = np.fft.rfft(np.exp(-np.fft.irfft(integral, n) / (2 * viscosity))) * np.exp(-viscosity * k**2 * time)
    u = -2 * viscosity * np.fft.irfft(1j * k * phi, n) / np.fft.irfft(phi, n)
    return np.fft.irfft(np.fft.rfft(u) * np.exp(-1j * k * mean * time), n) + mean


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize(
    ("viscosity", "kwargs", "bound"),
    [(0.1, {}, 2e-5), (0.02, {}, 1e-7), (0.1, {"min_steps": 512}, 1e-8)],  # at 0.1 the wave falls to 1/50
)
def test_agrees_with_an_exact_wave(viscosity, kwargs, bound):
    env = Burgers(viscosity=viscosity, **kwargs)
    found = solve(env, cole_hopf_wave(env.size, viscosity, 0.0))
    assert relative(found, cole_hopf_wave(env.size, viscosity, env.final_time)) < bound


def test_converges_with_order_four_in_time():
    initial = cole_hopf_wave(128, 0.05, 0.0)
    exact = cole_hopf_wave(128, 0.05, 1.0)
    errors = []
    for steps in (128, 256, 512):
        env = Burgers(size=128, viscosity=0.05, courant=1e9, min_steps=steps)
        errors.append(relative(solve(env, initial), exact))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(orders, 4, atol=0.2)


@pytest.mark.slow
def test_converges_exponentially_in_space():
    errors = []
    for size in (8, 16, 32):
        env = Burgers(size=size, viscosity=0.05, min_steps=1000, tail=1.0)
        errors.append(relative(solve(env, cole_hopf_wave(size, 0.05, 0.0)), cole_hopf_wave(size, 0.05, 1.0)))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert orders[1] > orders[0] + 2 > 8  # a power of the spacing would give equal orders


@pytest.mark.slow
@pytest.mark.parametrize(("viscosity", "bound"), [(0.1, 1e-5), (0.01, 2e-6)])
def test_random_fields_agree_with_cole_hopf_on_a_finer_grid(viscosity, bound):
    coarse, fine = Burgers(viscosity=viscosity), Burgers(size=2048, viscosity=viscosity)
    for seed in range(8):
        initial = coarse.sample_action(np.random.default_rng(seed))
        exact = cole_hopf(fine.sample_action(np.random.default_rng(seed)).astype(float), viscosity, 1.0)
        assert relative(solve(coarse, initial), exact[::8]) < bound


def test_random_fields_agree_with_a_refined_solution():
    coarse = Burgers(size=128, viscosity=0.02)
    fine = Burgers(size=512, viscosity=0.02, courant=0.25, min_steps=256)
    for seed in range(3):
        found = solve(coarse, coarse.sample_action(np.random.default_rng(seed)))
        assert relative(found, solve(fine, fine.sample_action(np.random.default_rng(seed)))[::4]) < 2e-6


def test_mean_is_kept_and_energy_falls():
    env = Burgers()
    initial = env.sample_action(np.random.default_rng(3))
    final = solve(env, initial)
    assert final.mean() == pytest.approx(initial.mean(), abs=1e-7)
    assert np.sum(final**2) < np.sum(initial.astype(float) ** 2)
    assert np.abs(final).max() <= np.abs(initial).max()


def test_initial_fields_have_the_stated_covariance():
    env = Burgers(size=64)
    rng = np.random.default_rng(0)
    spectra = np.fft.rfft([env.sample_action(rng) for _ in range(4000)], axis=1) / env.size
    wave_numbers = 2 * np.pi * np.arange(6)
    variance = 625 / (wave_numbers**2 + 25) ** 2  # of each coefficient of an orthonormal basis
    found = np.mean(np.abs(spectra[:, :6]) ** 2, axis=0)  # a cosine and a sine share a complex coefficient
    np.testing.assert_allclose(found, variance, rtol=0.1)


def test_a_seed_names_the_same_field_on_every_grid():
    coarse, fine = (Burgers(size=n, field_power=4.0).sample_action(np.random.default_rng(7)) for n in (64, 256))
    np.testing.assert_allclose(coarse, fine[::4], atol=1e-3)


def test_draws_beyond_the_limit_are_scaled_into_the_action_space():
    env = Burgers(limit=0.5)
    for seed in range(20):
        action = env.sample_action(np.random.default_rng(seed))
        assert env.action_space.contains(action)
    assert np.abs(action).max() == pytest.approx(0.5)


def test_substeps_continue_from_the_field_reached():
    initial = Burgers().sample_action(np.random.default_rng(1))
    once = solve(Burgers(final_time=0.5, min_steps=64), initial)
    twice = solve(Burgers(final_time=0.25, min_steps=64, simulations_per_step=2), initial)
    assert relative(twice, once) < 1e-6


def test_sample_holds_the_action_and_the_observation():
    env = Burgers()
    observation, _ = env.reset(seed=0)
    assert not observation.any()
    action = env.sample_action(np.random.default_rng(0))
    observation, _, _, _, info = env.step(action)
    np.testing.assert_array_equal(info["sample"]["initial"], action)
    np.testing.assert_array_equal(info["sample"]["final"], observation)
    assert info["sample"]["final"].dtype == np.float32
    assert info["solver_steps"] >= env.solver.min_steps


@pytest.mark.parametrize(
    ("kwargs", "scale", "text"),
    [
        ({"viscosity": 1e-4}, 1.0, "does not resolve"),
        ({"max_steps": 64}, 5.0, "more than max_steps"),
        ({"courant": 1e9, "viscosity": 1e-3, "min_steps": 4}, 10.0, "not finite"),
        ({}, np.nan, "more than max_steps"),
    ],
)
def test_a_bad_solution_is_rejected_and_the_next_one_is_not(kwargs, scale, text):
    env = Burgers(**kwargs)
    env.reset(seed=0)
    field = env.sample_action(np.random.default_rng(0))
    observation, _, _, _, info = env.step(field * np.float32(scale))
    assert "sample" not in info
    assert text in info["rejected"]
    assert not observation.any()
    assert "sample" in env.step(np.full(env.size, 0.1, np.float32))[4]


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"size": 7}, "even number"),
        ({"size": 4}, "at least 8"),
        ({"viscosity": 0.0}, "viscosity must be positive"),
        ({"field_tau": np.inf}, "field_tau must be positive"),
        ({"min_steps": 10, "max_steps": 5}, "min_steps <= max_steps"),
    ],
)
def test_bad_arguments_are_named(kwargs, text):
    with pytest.raises(ConfigError, match=text):
        Burgers(**kwargs)


@pytest.mark.slow
def test_picture_shows_field_and_prediction():
    env = Burgers(size=64, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (480, 640, 3)
    env.step(env.sample_action(np.random.default_rng(0)))
    plain = env.render()
    env.apply_prediction({"final": np.zeros(64, np.float32)})
    assert (env.render() != plain).any()
    assert Burgers().render() is None


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:.*A Box observation space (minimum|maximum) value is -?infinity:UserWarning",  # a field has no bound
    "ignore:.*recommend.* a symmetric and normalized:UserWarning",  # the action is a field in units of the equation
)
def test_checkers_of_gymnasium_and_stable_baselines_accept_it():
    env = gymnasium.make("physgym/Burgers-v0", size=64, render_mode="rgb_array").unwrapped
    gymnasium_check_env(env)
    sb3_check_env(env)


def test_viscosity_may_be_a_parameter():
    env = Burgers(size=32, viscosity=(0.05, 0.2))
    action = np.sin(2 * np.pi * np.arange(32) / 32).astype(np.float32)
    finals = []
    for viscosity in (0.05, 0.2):
        _, info = env.reset(seed=0, options={"parameters": {"viscosity": viscosity}})
        assert info["parameters"] == {"viscosity": viscosity}
        sample = env.step(action)[4]["sample"]
        assert sample["viscosity"] == np.float32(viscosity)
        fixed = Burgers(size=32, viscosity=viscosity)
        fixed.reset(seed=0)
        np.testing.assert_array_equal(fixed.step(action)[4]["sample"]["final"], sample["final"])
        finals.append(np.abs(sample["final"]).max())
    assert finals[0] > 2 * finals[1]
    assert SampleSpec.from_env(env)["viscosity"].role == "input"
    assert Burgers().parameter_space is None
    with pytest.raises(ConfigError, match="the lower first"):
        Burgers(viscosity=(0.2, 0.05))
