from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import scipy.sparse
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from scipy.sparse.linalg import splu
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from physgym.envs.heat import Heat
from physgym.errors import ConfigError


def grid(env: Heat) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the inner points as parts of the side."""
    axis = np.arange(1, env.size + 1) / (env.size + 1)
    return np.meshgrid(axis, axis)


def run(env: Heat, temperature: np.ndarray, source: np.ndarray, steps: int = 1) -> np.ndarray:
    """The temperature in double precision after some steps."""
    env.reset(seed=0)
    env._temperature = temperature
    for _ in range(steps):
        assert "sample" in env.step(source)[4]
    return env._temperature


def crank_nicolson(temperature: np.ndarray, source: np.ndarray, length: float, a: float, time: float) -> np.ndarray:
    """Five-point differences in space and as many time steps as points: second order in both."""
    n = len(temperature)
    line = scipy.sparse.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(n, n)) * a * ((n + 1) / length) ** 2
    eye = scipy.sparse.eye_array(n)
    operator = scipy.sparse.kron(line, eye) + scipy.sparse.kron(eye, line)
    half = time / (n + 1) / 2 * operator
    solver = splu((scipy.sparse.eye_array(n * n) - half).tocsc())
    state = temperature.ravel()
    for _ in range(n + 1):
        state = solver.solve(state + half @ state + time / (n + 1) * source.ravel())
    return state.reshape(n, n)


@pytest.mark.parametrize(("p", "q"), [(1, 1), (2, 3), (7, 4)])
def test_a_mode_decays_at_its_analytic_rate(p, q):
    env = Heat()
    x, y = grid(env)
    mode = np.sin(p * np.pi * x) * np.sin(q * np.pi * y)
    rate = 1e-4 * np.pi**2 * (p**2 + q**2) / 0.1**2
    found = run(env, mode, np.zeros_like(mode), steps=3)
    np.testing.assert_allclose(found, mode * np.exp(-rate * 1.5), atol=1e-13)


def test_a_heated_mode_approaches_its_steady_state_as_it_should():
    env = Heat()
    x, y = grid(env)
    mode = np.sin(np.pi * x) * np.sin(2 * np.pi * y)
    rate = 1e-4 * np.pi**2 * 5 / 0.1**2
    found = run(env, np.zeros_like(mode), 7 * mode, steps=4)
    np.testing.assert_allclose(found, 7 * mode * (1 - np.exp(-rate * 2)) / rate, atol=1e-12)


def test_uniform_heating_converges_to_the_exact_steady_state_with_order_two():
    # the sine series of a constant is that of a square wave: the slowest one, hence the lowest order that can occur
    odd = np.arange(1, 400, 2)
    p, q = np.meshgrid(odd, odd)
    signs = np.sin(p * np.pi / 2) * np.sin(q * np.pi / 2)
    exact = np.sum(16 / np.pi**2 / (p * q) * signs / (np.pi**2 * (p**2 + q**2)))  # 0.07367: middle of a unit plate
    assert exact == pytest.approx(0.0736713, abs=1e-6)
    errors = []
    for size in (15, 31, 63):
        env = Heat(size=size, length=1.0, diffusivity=1.0, time_step=10.0)
        middle = run(env, np.zeros((size, size)), np.ones((size, size)))[size // 2, size // 2]
        errors.append(abs(middle - exact))
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.1)
    assert errors[-1] < 1e-4


def test_finite_differences_converge_to_it_with_order_two():
    errors = []
    for size in (15, 31, 63):
        env = Heat(size=size)
        x, y = grid(env)
        temperature = 10 * np.exp(-((x - 0.4) ** 2 + (y - 0.6) ** 2) / 0.02)
        source = -8 * np.exp(-((x - 0.6) ** 2 + (y - 0.5) ** 2) / 0.03)
        reference = crank_nicolson(temperature, source, 0.1, 1e-4, 0.5)
        errors.append(np.abs(run(env, temperature, source) - reference).max())
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.3)
    assert errors[-1] < 0.01


@pytest.mark.parametrize("seed", range(4))
def test_random_spots_converge_with_order_two(seed):
    fields = []
    for size in (31, 63, 255):  # the inner points of each grid are among those of the next
        env = Heat(size=size)
        env.reset(seed=seed)
        env.step(env.sample_action(np.random.default_rng(seed)))
        fields.append(env._temperature)
    finest = fields[-1]
    errors = [np.abs(field - finest[n - 1 :: n, n - 1 :: n]).max() for field, n in zip(fields, (8, 4), strict=False)]
    assert 1.6 < np.log2(errors[0] / errors[1]) < 2.4
    assert errors[1] < 5e-3 * np.abs(finest).max()


def test_substeps_equal_one_long_step():
    rng = np.random.default_rng(0)
    long, short = Heat(size=16, time_step=2.0), Heat(size=16, time_step=0.5, simulations_per_step=4)
    start, source = rng.normal(size=(2, 16, 16))
    np.testing.assert_allclose(run(short, start, source), run(long, start, source), atol=1e-12)


def test_sample_spans_the_whole_step():
    env = Heat(size=16, simulations_per_step=2)
    before, _ = env.reset(seed=3)
    source = env.sample_action(np.random.default_rng(0))
    after, _, _, _, info = env.step(source)
    np.testing.assert_array_equal(info["sample"]["temperature"], before)
    np.testing.assert_array_equal(info["sample"]["source"], source)
    np.testing.assert_array_equal(info["sample"]["next_temperature"], after)
    assert after.dtype == np.float32


def test_random_fields_depend_on_the_seed_and_stay_in_bounds():
    env = Heat(size=32, max_source=3.0, max_initial=5.0, max_spots=8, spot_width=(0.2, 0.5))
    fields = [env.sample_action(np.random.default_rng(seed)) for seed in range(30)]
    assert all(env.action_space.contains(field) for field in fields)
    assert not np.array_equal(fields[0], fields[1])
    np.testing.assert_array_equal(env.sample_action(np.random.default_rng(4)), fields[4])
    starts = np.array([env.reset(seed=seed)[0] for seed in range(10)])
    assert 0 < np.abs(starts).max() <= 5.0


def test_a_source_that_is_not_finite_is_rejected_and_changes_nothing():
    env = Heat(size=16)
    before, _ = env.reset(seed=0)
    after, _, _, _, info = env.step(np.full((16, 16), np.inf, np.float32))
    assert "sample" not in info
    assert "not finite" in info["rejected"]
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"size": 0}, "size must be positive"),
        ({"diffusivity": -1.0}, "diffusivity must be positive"),
        ({"time_step": np.inf}, "time_step must be positive"),
        ({"spot_width": (0.2, 0.1)}, "the lower first"),
        ({"max_spots": 0}, "max_spots must be positive"),
    ],
)
def test_bad_arguments_are_named(kwargs, text):
    with pytest.raises(ConfigError, match=text):
        Heat(**kwargs)


@pytest.mark.slow
def test_picture_shows_fields_and_prediction():
    env = Heat(size=16, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(env.sample_action(np.random.default_rng(0)))
    plain = env.render()
    env.apply_prediction({"next_temperature": np.zeros((16, 16), np.float32)})
    ghost = env.render()
    assert plain.shape == ghost.shape == (480, 640, 3)
    assert (plain != ghost).any()
    assert Heat().render() is None


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:.*A Box observation space (minimum|maximum) value is -?infinity:UserWarning",  # a temperature has no bound
    "ignore:.*recommend.* a symmetric and normalized:UserWarning",  # the action is a source in kelvins per second
    "ignore:Your observation  has an unconventional shape:UserWarning",  # it is a field, for convolutions
)
def test_checkers_of_gymnasium_and_stable_baselines_accept_it():
    env = gymnasium.make("physgym/Heat-v0", size=16, render_mode="rgb_array").unwrapped
    gymnasium_check_env(env)
    sb3_check_env(env)


def test_the_initial_spots_are_parameters():
    env = Heat(size=16, max_spots=3)
    drawn, info = env.reset(seed=4)
    spots = info["parameters"]
    assert env.parameter_space.contains(spots)
    again, _ = Heat(size=16, max_spots=3).reset(seed=99, options={"parameters": spots})
    np.testing.assert_array_equal(again, drawn)
    middle = {"count": 1, "x": [0.5] * 3, "y": [0.5] * 3, "width": [0.1] * 3, "height": [10.0] * 3}
    warm, _ = env.reset(seed=4, options={"parameters": middle})
    assert warm.max() == pytest.approx(10, rel=0.1)
    np.testing.assert_allclose(warm, warm.T, rtol=1e-5)
    cold, _ = env.reset(seed=4, options={"parameters": {**middle, "height": [-10.0] * 3}})
    np.testing.assert_array_equal(cold, -warm)
