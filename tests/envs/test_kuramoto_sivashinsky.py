from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from physgym.envs.kuramoto_sivashinsky import KuramotoSivashinsky
from physgym.errors import ConfigError
from tests.envs.test_burgers import relative


@pytest.fixture(scope="module")
def field() -> np.ndarray:
    """A field of the attractor on the default grid."""
    env = KuramotoSivashinsky()
    env.reset(seed=1)
    return env._field


def run(env: KuramotoSivashinsky, field: np.ndarray, steps: int) -> np.ndarray:
    for _ in range(steps):
        field = env.evolve(field)
    return field


@pytest.mark.parametrize("mode", [1, 5, 7, 12, 20])
def test_a_small_wave_grows_and_decays_at_the_rate_of_the_linear_equation(mode):
    env = KuramotoSivashinsky(warm_up=0)
    k = 2 * np.pi * mode / 64.0
    wave = 1e-9 * np.cos(k * np.arange(128) / 2)
    np.testing.assert_allclose(run(env, wave, 4), wave * np.exp((k**2 - k**4) * 2.0), atol=1e-15)


def test_agrees_with_a_refined_solution(field):
    coarse, fine = KuramotoSivashinsky(warm_up=0), KuramotoSivashinsky(size=512, substeps=16, warm_up=0)
    refined = np.fft.irfft(np.fft.rfft(field) * 4, 512)
    assert relative(run(coarse, field, 1), run(fine, refined, 1)[::4]) < 5e-5
    assert relative(run(coarse, field, 10), run(fine, refined, 10)[::4]) < 1e-4


def test_converges_with_order_four_in_time(field):
    exact = run(KuramotoSivashinsky(substeps=256), field, 1)
    errors = [relative(run(KuramotoSivashinsky(substeps=n), field, 1), exact) for n in (16, 32, 64)]
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 4, atol=0.5)


def test_the_mean_is_kept_and_only_moves_the_field(field):
    """Galilean invariance: a field on a mean wind of c is the field without it, moved by c t."""
    env = KuramotoSivashinsky(substeps=16)
    plain, windy = run(env, field, 4), run(env, field + 0.5, 4)
    assert plain.mean() == pytest.approx(field.mean(), abs=1e-14)
    assert windy.mean() == pytest.approx(field.mean() + 0.5, abs=1e-12)
    wave_numbers = 2 * np.pi * np.arange(65) / 64.0
    moved = np.fft.irfft(np.fft.rfft(plain) * np.exp(-1j * wave_numbers * 0.5 * 2.0), 128) + 0.5
    assert relative(windy, moved) < 1e-4


def test_energy_changes_as_the_equation_says(field):
    """The integral of u²/2 changes by that of u_x² - u_xx²: advection moves energy, and makes none."""
    step = 1e-3
    env = KuramotoSivashinsky(time_step=step, warm_up=0)
    after = env.evolve(field)
    energies = np.array([np.mean(u**2) / 2 for u in (field, after)])
    rates = []
    for u in (field, after):
        spectrum, k = np.fft.rfft(u), 2 * np.pi * np.arange(65) / 64.0
        rates.append(np.mean(np.fft.irfft(1j * k * spectrum, 128) ** 2 - np.fft.irfft(k**2 * spectrum, 128) ** 2))
    assert (energies[1] - energies[0]) / step == pytest.approx(np.mean(rates), rel=1e-4)


def test_drawn_fields_are_chaotic_and_bounded(field):
    assert 0.8 < field.std() < 2.0
    assert np.abs(field).max() < 5
    env = KuramotoSivashinsky(warm_up=0)
    one, other = run(env, field, 80), run(env, field + 1e-6 * np.cos(np.arange(128) * np.pi / 16), 80)
    assert relative(other, one) > 1e-5  # a difference of about 5e-7 has grown


def test_a_field_that_blows_up_is_rejected_and_stays():
    env = KuramotoSivashinsky(warm_up=0, time_step=100.0, substeps=1, limit=1e9)
    peaks = np.where(np.arange(128) % 16, 0, 1e9).astype(np.float32)
    before, _ = env.reset(options={"parameters": {"initial": peaks}})
    for _ in range(3):
        observation, _, _, _, info = env.step(np.int64(0))
        if "rejected" in info:
            break
        before = observation
    assert "not finite" in info["rejected"]
    np.testing.assert_array_equal(observation, before)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"substeps": 0}, "substeps must be at least 1"),
        ({"warm_up": -1.0}, "warm_up must be a time"),
        ({"length": np.inf}, "length must be positive"),
        ({"size": 9}, "even number"),
    ],
)
def test_bad_arguments_are_named(kwargs, text):
    with pytest.raises(ConfigError, match=text):
        KuramotoSivashinsky(**kwargs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*A Box observation space (minimum|maximum) value is -?infinity:UserWarning")
def test_checkers_of_gymnasium_and_stable_baselines_accept_it():
    env = gymnasium.make("physgym/KuramotoSivashinsky-v0", size=64, render_mode="rgb_array").unwrapped
    gymnasium_check_env(env)
    sb3_check_env(env)
