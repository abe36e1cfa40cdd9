from __future__ import annotations

import logging

import pytest

import physgym
from physgym import SocketVectorEnv
from physgym.errors import ConfigError
from physgym.launch.fork import ForkLauncher
from physgym.system.cores import usable_cores
from physgym.vector.autotune import choose, count_workers
from tests.support.toys import Line


@pytest.mark.parametrize(
    ("num_envs", "mean", "computing", "cores", "workers"),
    [
        (64, 1e-7, 1e-7, 2, 0),  # no process pays
        (2, 5e-6, 5e-6, 2, 0),
        (64, 5e-6, 5e-6, 2, 2),
        (2, 1e-3, 1e-3, 2, 2),
        (1, 1e-4, 1e-4, 16, 0),  # one environment computes no faster elsewhere
        (1, 1.0, 1.0, 16, 1),  # nor slower, where a message is nothing
        (64, 1e-6, 1e-6, 1, 0),
        (64, 1e-3, 1e-3, 1, 1),
        (64, 1e-3, 1e-4, 1, 4),  # one core is enough to wait on
        (2, 3e-4, 1e-5, 1, 2),
        (1, 1e-2, 1e-4, 1, 1),
        (64, 1e-3, 1e-4, 2, 8),  # steps that wait: several at once
        (5, 1e-3, 1e-4, 2, 5),
        (64, 1e-5, 1e-6, 2, 2),  # too short for that
    ],
)
def test_the_number_of_workers_follows_from_the_time_of_a_step(num_envs, mean, computing, cores, workers):
    assert choose(num_envs, mean, computing, cores) == workers


def test_a_number_is_what_is_asked_for():
    assert [count_workers(number, [Line] * 4, ForkLauncher(), {}) for number in (0, 1, 3, 9)] == [0, 1, 3, 4]
    assert count_workers("auto", [Line], ForkLauncher(), {}) is count_workers(None, [Line], ForkLauncher(), {}) is None
    for wrong in (-1, 1.5, "two"):
        with pytest.raises(ConfigError, match="num_workers must be at least 1, or 0"):
            count_workers(wrong, [Line], ForkLauncher(), {})


@pytest.mark.parametrize(
    "options", [{"on_error": "restart"}, {"recycle": 3}, {"transport": "tcp"}, {"pinning": "core"}]
)
def test_arguments_that_need_workers_get_them_without_a_trial(options, caplog):
    with (
        caplog.at_level(logging.INFO, "physgym.vector.autotune"),
        SocketVectorEnv([Line] * 2, context="fork", **options) as envs,
    ):
        assert envs.num_workers == min(2, usable_cores())
    assert f"{next(iter(options))} needs workers" in caplog.text


@pytest.mark.slow
def test_the_default_equals_auto_and_numbers_bit_for_bit():
    def run(**options):
        with physgym.make_vec("CartPole-v1", 4, **options) as envs:
            found = [envs.reset(seed=7)[0]]
            envs.action_space.seed(7)
            for _ in range(60):
                found += envs.step(envs.action_space.sample())[:4]
            return [array.tobytes() for array in found]

    assert run() == run(num_workers="auto") == run(num_workers=0) == run(num_workers=2)
