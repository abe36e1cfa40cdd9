from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from physgym.envs.darcy import Darcy
from physgym.envs.darcy_solver import DarcySolver
from physgym.errors import ConfigError, RejectSample
from tests.envs.test_burgers import relative


def manufactured(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a smooth permeability, the source, and the pressure that belongs to them."""
    x, y = np.meshgrid(*[np.linspace(0, np.pi, size)] * 2, indexing="ij")
    a = 1.5 + np.sin(2 * x) * np.cos(y)
    p = np.sin(x) * np.sin(2 * y)
    change = 2 * np.cos(2 * x) * np.cos(y) * np.cos(x) * np.sin(2 * y)
    change += -np.sin(2 * x) * np.sin(y) * 2 * np.sin(x) * np.cos(2 * y)
    return a, -(np.pi**2) * (change - 5 * a * p), p


def test_converges_with_order_two_to_a_manufactured_solution():
    errors = []
    for size in (21, 41, 81):
        a, source, pressure = manufactured(size)
        errors.append(relative(DarcySolver(size).solve(a, source)[0], pressure))
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.05)
    assert errors[-1] < 1e-3


def test_solves_the_system_of_its_fluxes():
    """What flows out of each inner point is its source, by sums that do not share code with the solver."""
    rng, size = np.random.default_rng(0), 12
    a, source = rng.uniform(1, 100, (size, size)), rng.normal(size=(size, size))
    pressure, iterations = DarcySolver(size, tolerance=1e-12).solve(a, source)
    assert 0 < iterations < 200
    for i in range(1, size - 1):
        for j in range(1, size - 1):
            outflow = 0.0
            for k, m in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                outflow += 2 / (1 / a[i, j] + 1 / a[k, m]) * (pressure[i, j] - pressure[k, m])
            assert outflow * (size - 1) ** 2 == pytest.approx(source[i, j], abs=1e-8)
    assert not pressure[[0, -1]].any()
    assert not pressure[:, [0, -1]].any()


def test_one_material_scales_the_pressure_and_symmetry_is_kept():
    one, ten = (DarcySolver(33).solve(np.full((33, 33), value), np.ones((33, 33)))[0] for value in (1.0, 10.0))
    np.testing.assert_allclose(one, 10 * ten, rtol=1e-8)
    for turned in (one[::-1], one[:, ::-1], one.T):
        np.testing.assert_allclose(turned, one, atol=1e-12)
    # the series of the square: 16/pi^4 sum over odd k, m of sin sin / (k m (k² + m²)) in the middle
    odd = np.arange(1, 400, 2)
    signs = np.where(odd % 4 == 1, 1.0, -1.0)
    exact = 16 / np.pi**4 * (np.outer(signs, signs) / np.outer(odd, odd) / (odd[:, None] ** 2 + odd**2)).sum()
    assert one[16, 16] == pytest.approx(exact, rel=1e-3)


@pytest.mark.slow
def test_agrees_with_a_refined_solution_of_the_same_medium():
    coarse, fine = Darcy(), Darcy(size=421)
    for seed in range(3):
        solutions = []
        for env in (coarse, fine):
            env.reset(seed=seed)
            solutions.append(env.step(env.sample_action(np.random.default_rng(seed)))[0])
        assert relative(solutions[0], solutions[1][::5, ::5]) < 0.01


def test_a_medium_has_two_values_and_is_the_same_on_every_grid():
    coarse, fine = (Darcy(size=size).sample_action(np.random.default_rng(4)) for size in (33, 65))
    assert set(np.unique(coarse)) == {3.0, 12.0}
    assert (coarse != fine[::2, ::2]).mean() < 0.02
    means = [(Darcy(size=17).sample_action(np.random.default_rng(seed)) > 5).mean() for seed in range(200)]
    assert np.mean(means) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_permeabilities_that_are_not_positive_are_rejected(bad):
    env = Darcy(size=9)
    env.reset(seed=0)
    action = env.action_space.sample()
    action[3, 4] = bad
    observation, _, _, _, info = env.step(action)
    assert "permeabilities must be positive and finite" in info["rejected"]
    assert not observation.any()
    with pytest.raises(RejectSample, match="the source is not finite"):
        DarcySolver(9).solve(np.ones((9, 9)), np.full((9, 9), np.nan))


def test_too_few_iterations_are_a_rejection():
    a = np.where(np.random.default_rng(1).random((33, 33)) > 0.5, 1e9, 1.0)
    with pytest.raises(RejectSample, match="no solution within 3 iterations"):
        DarcySolver(33, max_iterations=3).solve(a, np.ones((33, 33)))


def test_no_source_is_no_flow():
    pressure, iterations = DarcySolver(9).solve(np.ones((9, 9)), np.zeros((9, 9)))
    assert (iterations, pressure.any()) == (0, False)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"values": (12.0, 3.0)}, "the lower first"),
        ({"values": (0.0, 3.0)}, "the lower permeability must be positive"),
        ({"source": np.nan}, "source must be finite"),
        ({"size": 2}, "size must be at least 3"),
        ({"field_tau": 0.0}, "field_tau must be positive"),
        ({"tolerance": -1.0}, "tolerance must be positive"),
    ],
)
def test_bad_arguments_are_named(kwargs, text):
    with pytest.raises(ConfigError, match=text):
        Darcy(**kwargs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*A Box observation space (minimum|maximum) value is -?infinity:UserWarning")
@pytest.mark.filterwarnings("ignore:.*(has an unconventional shape|recommend.* symmetric):UserWarning")
def test_checkers_of_gymnasium_and_stable_baselines_accept_it():
    env = gymnasium.make("physgym/Darcy-v0", size=17, render_mode="rgb_array").unwrapped
    gymnasium_check_env(env)
    sb3_check_env(env)
