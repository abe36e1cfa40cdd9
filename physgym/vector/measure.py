"""How many workers are worth their messages: found out by stepping one environment for a moment."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from physgym.vector.host import EnvFactory

MEASURE_SECONDS = 0.1
MEASURE_STEPS = 200
# of one step of all environments with workers, beyond the steps themselves; measured by benchmarks/vector.py
MESSAGE_SECONDS = 60e-6
LOOP_SECONDS = 0.7e-6  # per environment
UNEVEN = 0.3  # standard deviation over mean of a step's time, from which finer groups balance the load
WORTH_A_SWITCH = 2e-4  # seconds per step, above which switching between processes on one core costs little


def best_num_workers(factories: Sequence[EnvFactory], cores: int) -> int:
    """The number of workers for the fastest step of all environments; 0 for none.

    Makes one environment in this process, steps it with random actions for a tenth of a second, and closes it.

    Args:
        factories: One per environment; all are taken to cost the same.
        cores: How many cores there are.
    """
    times = _step_times(factories[0])
    return choose(len(factories), float(times.mean()), float(times.std()), cores)


def choose(num_envs: int, mean: float, deviation: float, cores: int) -> int:
    """The number of workers for environments whose step takes so many seconds on average."""
    workers = min(cores, num_envs)
    cost = mean + LOOP_SECONDS
    if workers < 2 or num_envs * cost <= -(-num_envs // workers) * cost + MESSAGE_SECONDS:
        # one worker computes no faster than this process
        return 0
    if mean > WORTH_A_SWITCH and deviation > UNEVEN * mean:
        return min(num_envs, 4 * cores)
    return workers


def _step_times(factory: EnvFactory) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    env = factory()
    try:
        env.reset(seed=0)
        env.action_space.seed(0)
        times: list[float] = []
        end = time.perf_counter() + MEASURE_SECONDS
        while not times or (len(times) < MEASURE_STEPS and time.perf_counter() < end):
            action = env.action_space.sample()
            start = time.perf_counter()
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
            times.append(time.perf_counter() - start)
    finally:
        env.close()
    # the first steps fill caches
    return np.array(times[len(times) // 4 :])
