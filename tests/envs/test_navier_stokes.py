from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from physgym.envs.burgers_solver import on_grid
from physgym.envs.navier_stokes import NavierStokes2D
from physgym.envs.navier_stokes_solver import RandomVorticity
from physgym.errors import ConfigError
from tests.envs.test_burgers import relative


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.arange(size) / size
    return np.meshgrid(x, x, indexing="ij")


def start(size: int = 64, seed: int = 1) -> np.ndarray:
    """Return a drawn vorticity without waves that a grid of 64 cannot show."""
    env = NavierStokes2D()
    observation, _ = env.reset(seed=seed)
    spectrum = np.fft.fft2(observation.astype(np.float64))
    shown = np.abs(np.fft.fftfreq(64, 1 / 64)) < 32
    waves = np.fft.fftfreq(64, 1 / 64).astype(int)[shown]
    finer = np.zeros((size, size), np.complex128)
    finer[np.ix_(waves, waves)] = spectrum[np.ix_(shown, shown)] * (size / 64) ** 2
    return np.fft.ifft2(finer).real


def test_vortices_that_do_not_move_decay_at_their_rate():
    """A product of cosines is a steady solution without viscosity; with it, it decays as it is."""
    env = NavierStokes2D(size=32, force=0.0, viscosity=0.01)
    x, y = grid(32)
    vortices = 3 * np.cos(2 * np.pi * x) * np.cos(2 * np.pi * y)
    np.testing.assert_allclose(env.evolve(vortices), vortices * np.exp(-8 * np.pi**2 * 0.01), atol=1e-10)


def test_a_wave_under_the_force_reaches_the_steady_state_of_force_and_viscosity():
    env = NavierStokes2D(size=16, viscosity=0.1)
    phase = 2 * np.pi * sum(grid(16))
    steady = 0.1 * (np.sin(phase) + np.cos(phase)) / (8 * np.pi**2 * 0.1)
    found = np.zeros((16, 16))
    for _ in range(5):
        found = env.evolve(found)
    np.testing.assert_allclose(found, steady, atol=1e-9)


def test_a_field_on_a_wind_is_carried_along():
    """Vorticity is carried towards where the velocity points: of w = cos 2πx + small, the small is moved along y."""
    env = NavierStokes2D(size=64, force=0.0, viscosity=1e-6, time_step=0.05)
    x, y = grid(64)
    base, small = 10 * np.cos(2 * np.pi * x), 1e-6 * np.cos(2 * np.pi * 5 * y)
    after = env.evolve(base + small) - env.evolve(base)
    # -Δψ = w, u = (ψ_y, -ψ_x): at x = 1/4 the velocity along y is 10 / (2π), at x = 3/4 the opposite
    speed = 10 / (2 * np.pi)
    for row, sign in ((16, 1), (48, -1)):
        moved = 1e-6 * np.cos(2 * np.pi * 5 * (y[row] - sign * speed * 0.05))
        assert relative(after[row], moved) < 0.1


@pytest.mark.slow
def test_agrees_with_a_refined_solution():
    coarse, fine = NavierStokes2D(), NavierStokes2D(size=128, courant=0.5)
    a, b = start(64), start(128)
    for _ in range(3):
        a, b = coarse.evolve(a), fine.evolve(b)
        assert relative(a, b[::2, ::2]) < 1e-6


def test_converges_with_order_four_in_time():
    field = start()
    exact = NavierStokes2D(courant=0.05).evolve(field)
    steps = (8, 16, 32)
    errors = [relative(NavierStokes2D(courant=1e9, min_steps=n).evolve(field), exact) for n in steps]
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 4, atol=0.5)


def test_enstrophy_changes_as_the_equation_says():
    """The integral of w²/2 changes by that of -ν |grad w|² + w f: advection makes none."""
    step, field = 1e-3, NavierStokes2D().evolve(start())  # that has no waves which a step cuts off
    env = NavierStokes2D(time_step=step)
    after = env.evolve(field)
    phase = 2 * np.pi * sum(grid(64))
    force = 0.1 * (np.sin(phase) + np.cos(phase))
    waves = 2j * np.pi * np.fft.fftfreq(64, 1 / 64)
    rates = []
    for w in (field, after):
        slopes = [np.fft.ifft2(k * np.fft.fft2(w)).real for k in (waves[:, None], waves)]
        rates.append(np.mean(w * force) - 1e-3 * np.mean(slopes[0] ** 2 + slopes[1] ** 2))
    assert (np.mean(after**2) - np.mean(field**2)) / 2 / step == pytest.approx(np.mean(rates), rel=1e-4)
    assert after.mean() == pytest.approx(field.mean(), abs=1e-15)


def test_drawn_fields_have_the_declared_variance_and_are_the_same_on_every_grid():
    options = {"scale": 2**0.5 * 7**1.5, "tau": 7.0, "power": 2.5, "limit": 10.0}
    fields = [RandomVorticity(32, **options).draw(np.random.default_rng(seed)) for seed in range(400)]
    waves = np.fft.fftfreq(32, 1 / 32)
    squares = 4 * np.pi**2 * (waves[:, None] ** 2 + waves**2)
    shown = (np.abs(waves[:, None]) < 16) & (np.abs(waves) < 16) & (squares > 0)
    expected = (2 * 343 * (squares + 49) ** -2.5)[shown].sum()
    assert np.mean(np.square(fields)) == pytest.approx(expected, rel=0.05)
    assert np.abs(np.mean(fields, (1, 2))).max() < 1e-6
    fine = RandomVorticity(64, **options).draw(np.random.default_rng(3))
    assert relative(fields[3], fine[::2, ::2]) < 0.05
    large = RandomVorticity(32, **{**options, "limit": 0.1}).draw(np.random.default_rng(0))
    assert np.abs(large).max() == pytest.approx(0.1)


def test_a_stored_field_of_another_grid_is_carried_over():
    x, y = grid(16)
    wave = (np.cos(2 * np.pi * (x + 2 * y)) + 0.5).astype(np.float32)
    x, y = grid(24)
    np.testing.assert_allclose(on_grid(wave, 24), np.cos(2 * np.pi * (x + 2 * y)) + 0.5, atol=1e-6)


def test_a_flow_that_is_too_fast_is_rejected_and_stays():
    env = NavierStokes2D(size=16, max_steps=8)
    before, _ = env.reset(seed=0, options={"parameters": {"initial": 9 * np.cos(2 * np.pi * grid(16)[0]).astype("f4")}})
    observation, _, _, _, info = env.step(np.int64(0))
    assert "more than max_steps = 8" in info["rejected"]
    np.testing.assert_array_equal(observation, before)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"viscosity": 0.0}, "viscosity must be positive"),
        ({"force": np.nan}, "force must be finite"),
        ({"size": 9}, "even number"),
        ({"min_steps": 9, "max_steps": 8}, "min_steps <= max_steps"),
        ({"courant": -1.0}, "courant must be positive"),
        ({"field_power": 0.0}, "field_power must be positive"),
    ],
)
def test_bad_arguments_are_named(kwargs, text):
    with pytest.raises(ConfigError, match=text):
        NavierStokes2D(**kwargs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*A Box observation space (minimum|maximum) value is -?infinity:UserWarning")
@pytest.mark.filterwarnings("ignore:.*has an unconventional shape:UserWarning")
def test_checkers_of_gymnasium_and_stable_baselines_accept_it():
    env = gymnasium.make("physgym/NavierStokes2D-v0", size=16, render_mode="rgb_array").unwrapped
    gymnasium_check_env(env)
    sb3_check_env(env)
