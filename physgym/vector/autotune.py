"""The number of workers that is worth its messages, found out by stepping one environment for a moment."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from physgym.batched.env import BATCHED
from physgym.checks import is_integer
from physgym.errors import ConfigError, SharedMachine
from physgym.launch.base import Launcher
from physgym.placement import EnvFactory, build, declared_metadata, makes_batch
from physgym.single import MACHINE, PROCESS, SINGLE, refuse_together, single_of, starts_slowly
from physgym.system.cores import usable_cores
from physgym.vector.remote_errors import remote_error
from physgym.worker.env_group import Ask, EnvGroup
from physgym.worker.failures import failure
from physgym.worker.folders import Folder
from physgym.worker.machine_claims import claimed, release_machine
from physgym.worker.variants import Variants

MEASURE_SECONDS = 0.1
MEASURE_STEPS = 200
# of one step of all environments with workers, beyond the steps themselves; measured by benchmarks/vector.py
MESSAGE_SECONDS = 60e-6
LOOP_SECONDS = 0.7e-6  # per environment
UNEVEN = 0.3  # standard deviation over mean of a step's time, from which finer groups balance the load
WORTH_A_SWITCH = 2e-4  # seconds per step, above which switching between processes on one core costs little


def count_workers(
    num_workers: int | str | None, factories: Sequence[EnvFactory], ask: Ask, launcher: Launcher[Any]
) -> int:
    """Return the number of worker processes for what a caller asks for.

    Args:
        num_workers: A number, "auto", or None for one per usable core; never more than there are environments.
        factories: One per environment.
        ask: Answers predictions that an environment asks for.
        launcher: What starts them.

    Raises:
        ConfigError: It is no such number, or the metadata of the environments do not allow so many here.
        WorkerError: An environment raised while it was measured.
    """
    if num_workers not in (None, "auto") and not is_integer(num_workers, 0):
        raise ConfigError(
            f'num_workers must be at least 1, or 0 for this process, or "auto", not {num_workers!r}; leave it out '
            "for one per core"
        )
    metadata = declared_metadata(factories[0])
    single = single_of(metadata)
    if metadata.get(BATCHED) and not makes_batch(factories):
        if len(factories) > 1:
            _say_one_by_one()
    elif metadata.get(BATCHED):
        count = 1 if num_workers in (None, "auto") else min(int(num_workers), len(factories))
        if count > 1 and single == MACHINE and launcher.inherits:
            raise SharedMachine(
                f"{count} batches are to share a machine, which may hold one ({SINGLE}). Leave num_workers out: one "
                "worker computes all rows"
            )
        return count
    if num_workers == 0:
        refuse_together(metadata, len(factories), local=True)
    elif single == PROCESS or (single == MACHINE and launcher.inherits):
        if single == MACHINE:
            refuse_together(metadata, len(factories), local=False)
        return len(factories)
    if num_workers == "auto" and not starts_slowly(metadata):
        return best_num_workers(factories, usable_cores(), ask)
    if num_workers is None or num_workers == "auto":
        return min(usable_cores(), len(factories))
    return min(int(num_workers), len(factories))


def _say_one_by_one() -> None:
    warnings.warn(
        "the simulator computes many environments at once, but here each is a batch of one row, which is right and "
        "slow: rows are computed together only where all have the same arguments and nothing is around each of them "
        "(no list of env_kwargs, load=, snapshots=, wrappers, or evaluation of an agent)",
        UserWarning,
        stacklevel=3,
    )


def best_num_workers(factories: Sequence[EnvFactory], cores: int, ask: Ask) -> int:
    """Return the number of workers for the fastest step of all environments; 0 for none.

    Makes one environment in this process, steps it with random actions for a tenth of a second (at least once, and no
    timeout ends that), and closes it.

    Args:
        factories: One per environment; all are taken to cost the same.
        cores: How many cores there are.
        ask: Answers predictions that the environment asks for.

    Raises:
        WorkerError: The environment raised.
    """
    try:
        with Folder():
            times = _step_times(factories[0], len(factories), ask)
    except Exception as error:
        raise remote_error(failure(0, error, "measuring its step"), 0, "environment 0") from error
    if times is None:
        return len(factories) if len(factories) > 1 else 0
    return choose(len(factories), float(times.mean()), float(times.std()), cores)


def choose(num_envs: int, mean: float, deviation: float, cores: int) -> int:
    """Return the number of workers for environments whose step takes so many seconds on average."""
    workers = min(cores, num_envs)
    cost = mean + LOOP_SECONDS
    if workers < 2 or num_envs * cost <= -(-num_envs // workers) * cost + MESSAGE_SECONDS:
        # one worker computes no faster than this process
        return 0
    if mean > WORTH_A_SWITCH and deviation > UNEVEN * mean:
        return min(num_envs, 4 * cores)
    return workers


def _step_times(factory: EnvFactory, num_envs: int, ask: Ask) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    """Return the seconds of some steps; None for an environment that has a process of its own anyway."""
    env = build(factory, 0, num_envs)
    if not isinstance(env, Variants):  # which claims the machine for those that it makes
        claimed(env)
    try:
        if single_of(env.metadata) is not None:
            return None
        EnvGroup([env], AutoresetMode.DISABLED, ask)  # tells it whom to ask
        space = copy.deepcopy(env.action_space)  # which may belong to all environments of the class
        space.seed(0)
        env.reset(seed=0)
        times: list[float] = []
        end = time.perf_counter() + MEASURE_SECONDS
        while not times or (len(times) < MEASURE_STEPS and time.perf_counter() < end):
            action = space.sample()
            start = time.perf_counter()
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
            times.append(time.perf_counter() - start)
    finally:
        env.close()
        release_machine(env)
    # the first steps fill caches
    return np.array(times[len(times) // 4 :])
